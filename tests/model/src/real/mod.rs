//! A history, lived through by pomd as it is: the agent, its sessions with their logins on loopback, its files. Time is
//! virtual; programs, persons, servers, clocks and the disk are played.
//!
//! `outside` is what pomd lives on, `life` one pomd, `programs` and `persons` who comes to it; `reload` is another
//! configuration, a death and an end; `check` looks at what came of it.

mod check;
mod life;
mod outside;
mod persons;
mod programs;
mod reload;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use control::wire::TunnelState;
use pomd_core::config::{Address, ClusterName, Config, TunnelName, TunnelSpec};
use tempfile::TempDir;

use super::{
    TICK, Told,
    history::{Action, File, History},
    in_virtual_time,
    oracle::{Cause, Oracle},
};
use pomd::{
    agent::{Broken, Loaded},
    session::Session,
    tunnel::Tunnel,
};

use life::Life;
use outside::Outside;
use persons::Persons;
use programs::Programs;

/// Not looked in for so long is slept.
const SLEPT: i64 = 120;
/// So much time passes only when nothing is left to be done without.
const MOMENT: Duration = Duration::from_millis(1);

/// Lives through `history`; panics where a promise is broken.
pub(crate) fn live(history: &History) {
    in_virtual_time(async {
        let mut world = World::new(history.first).await;
        for (number, action) in history.actions.iter().enumerate() {
            let _told = Told(number, action);
            world.meet(*action).await;
            world.check().await;
        }
        world.end().await;
    });
}

struct World {
    outside: Arc<Outside>,
    home: TempDir,
    ip: String,
    life: Life,
    config: Arc<Config>,
    /// The file is broken since it was read last.
    is_broken: bool,
    sessions: BTreeMap<ClusterName, Known>,
    /// Whether each tunnel listens, and whether that is because a person said so.
    doors: BTreeMap<TunnelName, (bool, bool)>,
    programs: Programs,
    persons: Persons,
    /// What rests on the disk.
    saved: BTreeMap<Address, String>,
    /// Tokens that a server refused.
    refused: BTreeSet<String>,
    /// Those that waited when the machine fell asleep.
    from_before: Vec<u64>,
    /// Connections may be ended by pomd now.
    cuts: bool,
    /// Sessions are being replaced now.
    replaces: bool,
    numbers: u64,
    oracle: Oracle,
    cause: Cause,
}

/// The session of a cluster.
struct Known {
    number: u64,
    session: Session,
    /// A token that the disk did not take yet: where, and whether others of the cluster go when it does.
    unsaved: Option<(Address, String, bool)>,
    /// The browser that pomd wanted to start by itself did not.
    is_unseen: bool,
}

impl World {
    async fn new(first: File) -> Self {
        let outside = Outside::new();
        let home = tempfile::tempdir().expect("a folder");
        let ip = own_ip();
        let config = first.read(&ip);
        let life = Life::begin(&outside, home.path(), &config).await;
        let mut res = Self {
            outside,
            home,
            ip,
            life,
            config,
            is_broken: false,
            sessions: BTreeMap::new(),
            doors: BTreeMap::new(),
            programs: Programs::default(),
            persons: Persons::default(),
            saved: BTreeMap::new(),
            refused: BTreeSet::new(),
            from_before: Vec::new(),
            cuts: false,
            replaces: false,
            numbers: 0,
            oracle: Oracle::default(),
            cause: Cause::Other,
        };
        res.begin().await;
        res
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    async fn meet(&mut self, action: Action) {
        self.cause = Cause::Other;
        match action {
            Action::Save(file) => self.go_over_to(file.read(&self.ip)).await,
            Action::SaveBroken => self.break_file().await,
            Action::Connect(pick) => self.connect(pick).await,
            Action::Leave(pick) => {
                let picked = self.programs.pick(pick);
                picked.into_iter().for_each(|it| self.programs.leave(it));
            }
            Action::Ask {
                cluster,
                shown_by_pomd,
            } => self.ask(cluster, shown_by_pomd),
            Action::Login(pick) => {
                self.connect(pick).await;
                self.settle().await;
                self.sign_in(pick, 0).await;
            }
            Action::SignIn { cluster, back } => self.sign_in(cluster, usize::from(back % 2)).await,
            // A listener on loopback does not break by itself.
            Action::Break(_) => {}
            Action::Logout(cluster) => self.log_out(cluster).await,
            Action::Revoke(cluster) => {
                let name = self.cluster(cluster);
                let token = name.and_then(|it| self.oracle.token(it.as_str()));
                self.outside.state().revoked.extend(token);
            }
            Action::LateRefusal { cluster, back } => {
                if let Some(name) = self.cluster(cluster) {
                    let session = self.sessions[&name].session.clone();
                    let held = session.view().grant.map_or(0, |it| it.generation);
                    let old = held.wrapping_sub(u64::from(back) + 1);
                    session.refused(old).await;
                }
            }
            Action::Server { host, mood } => self.outside.set_mood(host, mood),
            Action::Browser { is_there, starts } => {
                self.outside.state().browser = (is_there, starts);
            }
            Action::Wait(seconds) => self.pass(Duration::from_secs(seconds.into())).await,
            Action::WaitLong(minutes) => {
                let minutes = u64::from(minutes % 100);
                self.pass(Duration::from_secs(60 * minutes)).await;
            }
            Action::Sleep(minutes) => self.sleep(minutes).await,
            Action::Clock { by, back } => {
                let seconds = if back { -by.seconds() } else { by.seconds() };
                self.jump(seconds).await;
                self.outside.set_clock(seconds);
            }
            Action::Disk { is_full } => self.outside.state().disk_is_full = is_full,
            Action::Up(pick) => self.up(pick).await,
            Action::Down { tunnel, now } => self.down(tunnel, now).await,
            Action::Kill => self.start_again().await,
        }
        self.settle().await;
        self.cause = Cause::Other;
        self.cuts = false;
    }

    /// Everything that can happen without time has happened.
    async fn settle(&mut self) {
        tokio::time::sleep(MOMENT).await;
        self.see().await;
    }

    fn cluster(&self, pick: u8) -> Option<ClusterName> {
        let count = self.sessions.len().max(1);
        self.sessions.keys().nth(usize::from(pick) % count).cloned()
    }

    fn tunnel(&self, pick: u8) -> Option<TunnelName> {
        let count = self.doors.len().max(1);
        self.doors.keys().nth(usize::from(pick) % count).cloned()
    }

    async fn break_file(&mut self) {
        let broken = Loaded::Broken(Broken {
            message: "line 1 is broken".to_owned(),
            report: "line 1 is broken".to_owned(),
            count: 1,
        });
        let applied = self.life.agent.apply(broken).await;
        assert!(applied.is_err(), "a broken file is in force");
        self.is_broken = true;
    }

    async fn connect(&mut self, pick: u8) {
        let Some(name) = self.tunnel(pick).filter(|it| self.doors[it].0) else {
            return;
        };
        let tunnel = self.handed_out(&self.config.tunnels[&name]).await;
        let Some(known) = self.sessions.get(&tunnel.spec.cluster) else {
            panic!("{name} leads to no cluster");
        };
        let session = known.number;
        let number = self.number();
        self.programs
            .enter(number, tunnel, session, self.outside.clone());
    }

    /// The tunnel that leads there, as a connection without a port gets it.
    async fn handed_out(&self, spec: &TunnelSpec) -> Arc<Tunnel> {
        let route = spec.route.authority.to_string();
        let tunnel = self.life.agent.connect(route, spec.ssh).await;
        tunnel.expect("a tunnel to a route of the configuration")
    }

    fn ask(&mut self, pick: u8, shown_by_pomd: bool) {
        let Some(name) = self.cluster(pick) else {
            return;
        };
        self.cause = Cause::Asked;
        let token = self.oracle.token(name.as_str());
        let login_at = &self.config.clusters[&name].login_at;
        // Who is logged in asks the server first whether that is still so.
        if let Some(token) = token
            && self.outside.answers(login_at)
            && self.outside.state().revoked.contains(&token)
        {
            self.forgotten(&name, Cause::Refused);
        }
        self.oracle.asked(name.as_str(), shown_by_pomd);
        if let Some(known) = self.sessions.get_mut(&name) {
            known.is_unseen = false;
            self.persons.ask(known.session.clone(), shown_by_pomd);
        }
    }

    async fn sign_in(&mut self, pick: u8, back: usize) {
        let Some(name) = self.cluster(pick) else {
            return;
        };
        let number = self.number();
        let login_at = &self.config.clusters[&name].login_at;
        let at = &login_at[number as usize % login_at.len()];
        // Each token counts, as the persons who bring one do.
        let token = format!("{number}@{}", at.host);
        // Nobody wants the token of a login that is over.
        if back == 0 {
            self.cause = Cause::SignedIn;
        }
        let (outside, home) = (self.outside.clone(), self.home.path());
        self.persons
            .sign_in(name.as_str(), back, &token, &outside, home)
            .await;
    }

    async fn log_out(&mut self, pick: u8) {
        let Some(name) = self.cluster(pick) else {
            return;
        };
        self.cause = Cause::LoggedOut;
        let session = self.sessions[&name].session.clone();
        session.logout().await;
        self.forgotten(&name, Cause::LoggedOut);
        self.settle().await;
        let is_live = self.oracle.is_live(name.as_str());
        assert!(!is_live, "{name}: a login is open after a logout");
    }

    async fn up(&mut self, pick: u8) {
        let Some(name) = self.tunnel(pick) else {
            return;
        };
        // A port may be somebody else's.
        let _ = self.life.agent.up(name.to_string()).await;
        self.doors.insert(name, (true, true));
    }

    async fn down(&mut self, pick: u8, now: bool) {
        let Some(name) = self.tunnel(pick) else {
            return;
        };
        self.cuts = now;
        let down = self.life.agent.down(name.to_string(), now).await;
        let shown = down.expect("a tunnel that is there").tunnel.state;
        assert_eq!(shown, TunnelState::Down, "{name}");
        if now {
            self.settle().await;
            let mut there = self.programs.there.values();
            let left = there.any(|it| it.tunnel.name == name);
            assert!(!left, "{name}: a connection outlives the tunnel's end");
        }
        self.doors.insert(name, (false, true));
    }

    async fn sleep(&mut self, minutes: u8) {
        let seconds = 60 * u64::from(minutes);
        self.jump(60 * i64::from(minutes)).await;
        self.outside.sleep(seconds);
    }

    /// The clocks are about to jump: one jump is told from the next only by a look in between.
    async fn jump(&mut self, seconds: i64) {
        let sessions = self.sessions.values().map(|it| it.session.clone());
        for session in sessions.collect::<Vec<_>>() {
            session.refused(0).await;
        }
        self.settle().await;
        self.nobody_waited_through_a_sleep();
        if seconds >= SLEPT {
            self.oracle.slept();
            let waiting = self.programs.there.iter().filter(|it| it.1.waits);
            self.from_before = waiting.map(|it| *it.0).collect();
        }
    }

    async fn pass(&mut self, most: Duration) {
        tokio::time::sleep(most).await;
        self.see().await;
        if most >= TICK {
            self.nobody_waited_through_a_sleep();
        }
    }

    /// P5: the driver has looked in since.
    fn nobody_waited_through_a_sleep(&mut self) {
        for number in std::mem::take(&mut self.from_before) {
            let waits = self.programs.there.get(&number).is_some_and(|it| it.waits);
            assert!(!waits, "a connection waits on after a sleep");
        }
    }
}

/// Where tunnels of this thread listen: no other program does.
fn own_ip() -> String {
    static THREADS: AtomicU16 = AtomicU16::new(1);
    thread_local! {
        static NUMBER: u16 = THREADS.fetch_add(1, Relaxed);
    }
    if !cfg!(target_os = "linux") {
        return "127.0.0.1".to_owned();
    }
    let process = std::process::id();
    let [.., high, low] = process.to_be_bytes();
    let thread = NUMBER.with(|it| it % 200);
    format!("127.{}.{high}.{low}", 20 + thread)
}
