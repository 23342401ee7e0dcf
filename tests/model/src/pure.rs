//! A history, lived through by what decides: machine, facts, waits, and what differs between two configurations.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use pomd_core::config::{Address, BrowserChoice, ClusterName, Config, Start, TunnelName, changes};

use super::{
    TICK, Told,
    history::{Action, File, HOSTS, History, Mood},
    oracle::{Cause, Oracle},
    session::{Now, Seen, Session},
};
use pomd::agent;
use pomd_core::session::{Handover, Patience, Write};

/// How long a server may take to mint.
const MINT: Duration = Duration::from_secs(45);
/// Not looked in for so long is slept.
const SLEPT: i64 = 120;
const IP: &str = "127.0.0.1";

/// Lives through `history`; panics where a promise is broken.
pub(crate) fn live(history: &History) {
    let mut world = World::new(history.first);
    for (number, action) in history.actions.iter().enumerate() {
        let _told = Told(number, action);
        world.meet(*action);
        world.check();
    }
}

struct World {
    config: Arc<Config>,
    now: Now,
    sessions: BTreeMap<ClusterName, Session>,
    /// Until when each login that is being made waits for its server.
    minting: BTreeMap<ClusterName, Duration>,
    disk: BTreeMap<Address, String>,
    disk_is_full: bool,
    revoked: Vec<String>,
    moods: [Mood; 4],
    browser: (bool, bool),
    connections: BTreeMap<u64, Connection>,
    /// Those that waited when the machine fell asleep.
    from_before: Vec<u64>,
    /// Which tunnel of that name it is (another after each change), and whether it listens.
    tunnels: BTreeMap<TunnelName, (u64, bool)>,
    numbers: u64,
    oracle: Oracle,
    cause: Cause,
}

/// A connection that waits, or is open.
struct Connection {
    tunnel: u64,
    cluster: ClusterName,
    host: String,
    ssh: bool,
    /// It was refused once, with this generation.
    after: Option<u64>,
    open: bool,
}

impl World {
    fn new(first: File) -> Self {
        let mut res = Self {
            config: Arc::default(),
            now: Now {
                wall: Timestamp::from_second(1_800_000_000).expect("a time"),
                lived: Duration::ZERO,
            },
            sessions: BTreeMap::new(),
            minting: BTreeMap::new(),
            disk: BTreeMap::new(),
            disk_is_full: false,
            revoked: Vec::new(),
            moods: [Mood::Well; 4],
            browser: (true, true),
            connections: BTreeMap::new(),
            from_before: Vec::new(),
            tunnels: BTreeMap::new(),
            numbers: 0,
            oracle: Oracle::default(),
            cause: Cause::Other,
        };
        res.go_over_to(first.read(IP));
        res
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    fn meet(&mut self, action: Action) {
        self.cause = Cause::Other;
        match action {
            Action::Save(file) => self.go_over_to(file.read(IP)),
            Action::Connect(pick) => self.connect(pick),
            Action::Leave(pick) => self.leave(pick),
            Action::Ask {
                cluster,
                shown_by_pomd,
            } => self.on(cluster, Cause::Asked, |it, name| {
                it.oracle.asked(name.as_str(), shown_by_pomd);
                let now = it.now;
                it.session(name).ask(shown_by_pomd, now);
            }),
            Action::SignIn { cluster, back } => self.sign_in(cluster, back),
            Action::Break(cluster) => self.on(cluster, Cause::Other, |it, name| {
                let now = it.now;
                it.session(name).lost(now);
            }),
            Action::Logout(cluster) => self.on(cluster, Cause::LoggedOut, |it, name| {
                let now = it.now;
                it.session(name).logout(now);
            }),
            Action::Revoke(cluster) => self.on(cluster, Cause::Other, |it, name| {
                let grant = it.session(name).grant();
                it.revoked
                    .extend(grant.map(|it| it.token.reveal().to_owned()));
            }),
            Action::LateRefusal { cluster, back } => self.on(cluster, Cause::Other, |it, name| {
                let now = it.now;
                let held = it.session(name).grant().map_or(0, |it| it.generation);
                it.session(name)
                    .refused(held.wrapping_sub(u64::from(back) + 1), now);
            }),
            Action::Server { host, mood } => self.moods[usize::from(host) % HOSTS.len()] = mood,
            Action::Browser { is_there, starts } => self.browser = (is_there, starts),
            Action::Wait(seconds) => self.pass(Duration::from_secs(seconds.into())),
            Action::WaitLong(minutes) => {
                self.pass(Duration::from_secs(60 * u64::from(minutes % 100)))
            }
            Action::Sleep(minutes) => self.jump(60 * i64::from(minutes)),
            Action::Clock { by, back } => {
                self.jump(if back { -by.seconds() } else { by.seconds() });
            }
            Action::Login(pick) => {
                self.connect(pick);
                self.settle();
                self.sign_in(pick, 0);
            }
            Action::Kill => self.start_again(),
            Action::Disk { is_full } => self.disk_is_full = is_full,
            Action::Up(pick) => self.want(pick, true),
            Action::Down { tunnel, now } => {
                self.want(tunnel, false);
                if now {
                    self.cut(tunnel);
                }
            }
            // The agent is not even told of what differs.
            Action::SaveBroken => {}
        }
        self.settle();
    }

    fn session(&mut self, name: &ClusterName) -> &mut Session {
        self.sessions
            .get_mut(name)
            .expect("a session of this cluster")
    }

    /// Does something to the cluster that `pick` picks, for this cause.
    fn on(&mut self, pick: u8, cause: Cause, act: impl FnOnce(&mut Self, &ClusterName)) {
        let count = self.sessions.len().max(1);
        let Some(name) = self.sessions.keys().nth(usize::from(pick) % count).cloned() else {
            return;
        };
        self.cause = cause;
        act(self, &name);
        self.see(&name);
        self.cause = Cause::Other;
    }

    fn tunnel(&self, pick: u8) -> Option<TunnelName> {
        let count = self.tunnels.len().max(1);
        self.tunnels.keys().nth(usize::from(pick) % count).cloned()
    }

    fn want(&mut self, pick: u8, up: bool) {
        if let Some(name) = self.tunnel(pick) {
            self.tunnels.entry(name).and_modify(|it| it.1 = up);
        }
    }

    fn connect(&mut self, pick: u8) {
        let Some(name) = self.tunnel(pick).filter(|it| self.tunnels[it].1) else {
            return;
        };
        let spec = &self.config.tunnels[&name];
        let connection = Connection {
            tunnel: self.tunnels[&name].0,
            cluster: spec.cluster.clone(),
            host: spec.route.address.host.to_string(),
            ssh: spec.ssh,
            after: None,
            open: false,
        };
        let number = self.number();
        self.connections.insert(number, connection);
        self.demand(number);
    }

    /// All connections of a tunnel end.
    fn cut(&mut self, pick: u8) {
        let Some(name) = self.tunnel(pick) else {
            return;
        };
        let tunnel = self.tunnels[&name].0;
        let of_tunnel = self.connections.iter().filter(|it| it.1.tunnel == tunnel);
        for number in of_tunnel.map(|it| *it.0).collect::<Vec<_>>() {
            self.end(number);
        }
    }

    fn demand(&mut self, number: u64) {
        let (now, available) = (self.now, self.browser.0);
        let Some(it) = self.connections.get(&number) else {
            return;
        };
        let (name, after, ssh) = (it.cluster.clone(), it.after, it.ssh);
        let browser = available && self.config.clusters[&name].browser != BrowserChoice::None;
        let patience = Patience {
            unasked: Duration::from_secs(if ssh { 0 } else { 30 }),
            asked: Duration::from_secs(300),
            client_asks: false,
        };
        self.oracle.demanded(name.as_str());
        self.session(&name)
            .demand(number, after, patience, browser, now);
        self.see(&name);
    }

    fn leave(&mut self, pick: u8) {
        let count = self.connections.len().max(1);
        let number = self.connections.keys().nth(usize::from(pick) % count);
        if let Some(number) = number.copied() {
            self.end(number);
        }
    }

    fn end(&mut self, number: u64) {
        let Some(it) = self.connections.remove(&number) else {
            return;
        };
        let now = self.now;
        if let Some(session) = self.sessions.get_mut(&it.cluster).filter(|_| !it.open) {
            session.leave(number, now);
            self.see(&it.cluster);
        }
    }

    fn sign_in(&mut self, cluster: u8, back: u8) {
        let number = self.number();
        let back = u64::from(back % 2);
        // Nobody wants the token of a login that is over.
        let cause = if back == 0 {
            Cause::SignedIn
        } else {
            Cause::Other
        };
        self.on(cluster, cause, |it, name| {
            let login_at = &it.config.clusters[name].login_at;
            let at = login_at[number as usize % login_at.len()].clone();
            // Each token counts, as the persons who bring one do.
            let token = format!("{number}@{}", at.host);
            let now = it.now;
            it.session(name).answered(back, &at, &token, now);
        });
    }

    /// What came of what was done to a session, until nothing more comes of it.
    fn see(&mut self, name: &ClusterName) {
        loop {
            let seen = self.session(name).seen();
            if seen.is_empty() {
                return;
            }
            for it in seen {
                self.see_one(name, it);
            }
        }
    }

    fn see_one(&mut self, name: &ClusterName, seen: Seen) {
        let (now, cause, cluster) = (self.now, self.cause, name.as_str());
        match seen {
            Seen::Started => {
                self.oracle.started(cluster, cause);
                self.minting.insert(name.clone(), now.lived + MINT);
            }
            Seen::Shown => {
                let _ = self.oracle.shown(cluster);
                if !self.browser.1 {
                    self.session(name).not_shown(now);
                }
            }
            Seen::Ended => {
                self.oracle.ended(cluster, cause);
                self.minting.remove(name);
            }
            Seen::Kept { token } => {
                self.oracle.kept(cluster, &token, cause);
                assert_eq!(self.session(name).waiting().count(), 0, "somebody waits on");
            }
            Seen::Forgotten => self.oracle.forgotten(cluster, cause),
            Seen::Write(write) => {
                let result = self.write(write);
                self.session(name).written(result, now);
            }
            Seen::SentAway { connection, waited } => {
                self.oracle.waited(cluster, waited);
                self.connections.remove(&connection);
            }
            Seen::Granted {
                connection,
                generation,
                token,
            } => self.open(name, connection, generation, &token),
        }
    }

    fn write(&mut self, write: Write) -> Result<(), String> {
        self.disk.retain(|at, _| !write.purge.contains(at));
        if let Some(login) = write.save {
            if self.disk_is_full {
                return Err("no space left".to_owned());
            }
            let token = login.token.reveal().to_owned();
            self.disk.insert(login.address, token);
        }
        self.disk.retain(|at, _| !write.remove.contains(at));
        Ok(())
    }

    /// The route is asked for with the token, and once more with a newer one.
    fn open(&mut self, name: &ClusterName, number: u64, generation: u64, token: &str) {
        self.oracle
            .used(name.as_str(), &self.config.clusters[name].login_at, token);
        let Some(it) = self.connections.get_mut(&number) else {
            return;
        };
        let host = HOSTS.iter().position(|host| *host == it.host).unwrap_or(0);
        let now = self.now;
        if self.moods[host] != Mood::Well {
            self.connections.remove(&number);
        } else if !self.revoked.iter().any(|it| it == token) {
            it.open = true;
            self.session(name).accepted(generation, now);
        } else if it.after.replace(generation).is_some() {
            self.connections.remove(&number);
            self.refuse(name, generation);
        } else {
            self.refuse(name, generation);
            self.demand(number);
        }
    }

    fn refuse(&mut self, name: &ClusterName, generation: u64) {
        let now = self.now;
        let cause = std::mem::replace(&mut self.cause, Cause::Refused);
        self.session(name).refused(generation, now);
        self.see(name);
        self.cause = cause;
    }

    /// Servers that answer do so at once.
    fn settle(&mut self) {
        for (name, ends) in self.minting.clone() {
            if !self.session(&name).is_starting() {
                self.minting.remove(&name);
                continue;
            }
            let host = self.config.clusters[&name].login_at[0].host.to_string();
            let host = HOSTS.iter().position(|it| *it == host).unwrap_or(0);
            let is_there = match self.moods[host] {
                Mood::Well => true,
                Mood::Silent if self.now.lived < ends => continue,
                _ => false,
            };
            self.minting.remove(&name);
            let now = self.now;
            self.session(&name).minted(is_there, now);
            self.see(&name);
            if !is_there {
                self.oracle.failed(name.as_str());
            }
        }
    }

    fn jump(&mut self, seconds: i64) {
        // One is told from the next only by a look in between.
        let now = self.now;
        for name in self.sessions.keys().cloned().collect::<Vec<_>>() {
            self.session(&name).wake(now);
            self.see(&name);
        }
        self.nobody_waited_through_a_sleep();
        if seconds >= SLEPT {
            self.oracle.slept();
            let waiting = self.sessions.values().flat_map(Session::waiting);
            self.from_before = waiting.collect();
        }
        let wall = self
            .now
            .wall
            .checked_add(SignedDuration::from_secs(seconds));
        self.now.wall = wall.unwrap_or(self.now.wall);
    }

    /// P5: the driver has looked in since.
    fn nobody_waited_through_a_sleep(&mut self) {
        let from_before = std::mem::take(&mut self.from_before);
        let mut waiting = self.sessions.values().flat_map(Session::waiting);
        let asleep = waiting.find(|it| from_before.contains(it));
        assert_eq!(asleep, None, "a connection waits on after a sleep");
    }

    /// Time passes, and whoever has something to do meanwhile does it when it is due.
    fn pass(&mut self, most: Duration) {
        let end = self.now.lived + most;
        while self.now.lived < end {
            let now = self.now;
            let due = self.sessions.values().filter_map(Session::due);
            let due = due
                .chain(self.minting.values().copied())
                .min()
                .unwrap_or(end);
            let due = due.clamp(now.lived + Duration::from_millis(1), end);
            let passed = SignedDuration::try_from(due - now.lived).unwrap_or_default();
            self.now.lived = due;
            self.now.wall = now.wall.checked_add(passed).unwrap_or(now.wall);
            for name in self.sessions.keys().cloned().collect::<Vec<_>>() {
                let now = self.now;
                self.session(&name).look(now);
                self.see(&name);
            }
            self.settle();
        }
        if most >= TICK {
            self.nobody_waited_through_a_sleep();
        }
    }

    /// As the agent does it: sessions that are the same stay, successors take over what was made where they log in.
    fn go_over_to(&mut self, new: Arc<Config>) {
        let old = std::mem::replace(&mut self.config, new.clone());
        let changes = changes(&old, &new);
        let mut ended = Vec::new();
        for (name, session) in std::mem::take(&mut self.sessions) {
            let same = new.clusters.get(&name);
            if same.is_some_and(|it| agent::is_same(&old.clusters[&name], it)) {
                self.sessions.insert(name, session);
            } else {
                self.minting.remove(&name);
                let waiting: Vec<u64> = session.waiting().collect();
                self.connections.retain(|it, _| !waiting.contains(it));
                let awaits = session.awaits_an_answer();
                ended.push((name, session.handover(), awaits));
            }
        }
        let mut successors = Vec::new();
        for (name, spec) in &new.clusters {
            if self.sessions.contains_key(name) {
                continue;
            }
            let left = ended.iter().map(|it| &it.1);
            let handover = Handover::choose(left, &spec.login_at);
            let before = ended
                .iter()
                .find(|it| handover.is_some_and(|handover| std::ptr::eq(handover, &it.1)));
            let saved = spec.login_at.iter();
            let mut saved = saved.filter_map(|it| Some((it, self.disk.get(it)?.as_str())));
            let session = Session::new(
                name.as_str(),
                &spec.login_at,
                handover.cloned().unwrap_or_default(),
                saved.next(),
                self.now,
            );
            let token = session.grant().map(|it| it.token.reveal().to_owned());
            let before = before.filter(|it| !it.2).map(|it| &it.0);
            successors.push((name, token, before));
            self.sessions.insert(name.clone(), session);
        }
        self.oracle
            .begun(successors.iter().map(|(name, token, before)| {
                let before = before.map(|it| it.as_str());
                (name.as_str(), token.as_deref(), before)
            }));
        for name in new.clusters.keys() {
            self.see(name);
        }
        // P6: what did not change is the same tunnel as before.
        let before = self.tunnels.clone();
        for (name, _) in changes.tunnels {
            self.tunnels.remove(&name);
            if new.tunnels.contains_key(&name) {
                let number = self.number();
                let is_up = new.tunnels[&name].start == Start::Auto;
                self.tunnels.insert(name, (number, is_up));
            }
        }
        for (name, spec) in &new.tunnels {
            let is_same = old.tunnels.get(name) == Some(spec);
            assert_eq!(
                is_same,
                before.get(name) == self.tunnels.get(name),
                "{name}"
            );
        }
        assert!(self.tunnels.keys().eq(new.tunnels.keys()));
    }

    /// What rests on the disk is all that is left.
    fn start_again(&mut self) {
        let config = std::mem::take(&mut self.config);
        self.sessions.clear();
        self.minting.clear();
        self.connections.clear();
        self.tunnels.clear();
        self.oracle.forget();
        self.go_over_to(config);
    }

    /// What must be so after everything that happens.
    fn check(&mut self) {
        let World {
            sessions,
            oracle,
            config,
            connections,
            ..
        } = self;
        for (name, session) in sessions {
            let grant = session.grant();
            let token = grant.as_ref().map(|it| it.token.reveal());
            oracle.holds(name.as_str(), token);
            oracle.shows(name.as_str(), session.state());
            if let Some(token) = token {
                oracle.used(name.as_str(), &config.clusters[name].login_at, token);
            }
            let asked = session.is_open() || session.is_starting();
            for number in session.waiting() {
                let it = &connections[&number];
                assert!(asked || !it.ssh, "{name}: ssh waits for nobody");
            }
        }
    }
}
