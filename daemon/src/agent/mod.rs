//! The agent: the one task that owns every tunnel and every session.
//!
//! Nothing else starts, stops or replaces one. Callers send a [`Command`]; watchers look at snapshots. No handler waits
//! for the network, so no command waits for another; the one thing that may be awaited is the end of a listener that was
//! just stopped, because its address is bound until then. Knows who is up and who is in which cluster. Must not know
//! HTTP, TLS or the configuration's syntax.

mod apply;
mod command;
mod passing;
mod ports;
mod status;

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use control::wire;
use jiff::Timestamp;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    clock::Clock,
    config::{ClusterName, ClusterSpec, Config, Listen, TunnelName},
    session::{Open, Session},
    tunnel::{self, Tunnel, bind, peer::Owners, relay},
    upstream::Upstream,
};
pub use command::{AgentHandle, Broken, ClusterHandle, Command, Loaded, Refused, refusal};
use ports::Ports;

/// How soon after a change the snapshot follows: changes that come together are shown together.
const SETTLE: Duration = Duration::from_millis(20);
/// How often a snapshot may follow where only counters moved.
const COUNTERS: Duration = Duration::from_secs(1);
/// How often a busy address is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// The tick that re-reads wall-clock deadlines.
const HOUSEKEEPING: Duration = Duration::from_secs(30);
/// How long connections and sessions may take to end at stop.
const GRACE: Duration = Duration::from_secs(4);

/// The most that one connection reads ahead of a slow local reader; an ordinary reply fits (performance.md, policy 3).
const READ_AHEAD: usize = 8 << 20;
/// How long a connection whose local side has ended waits for more of the reply (policy 2).
const LINGER: Duration = Duration::from_secs(60);

/// What the agent needs from the house.
pub struct Setup {
    /// The configuration file, for the status.
    pub config: PathBuf,
    /// The folder for tokens and chosen ports; it exists.
    pub state: PathBuf,
    /// Where a person finds the log, for the status.
    pub log: Option<String>,
    /// What time it is.
    pub clock: Clock,
    /// Shows login links.
    pub opener: Arc<dyn Open>,
    /// Standing warnings that hold for the life of the process.
    pub warnings: Vec<String>,
}

/// The owner of all state. See the module.
pub struct Agent {
    setup: Setup,
    started_at: Timestamp,
    /// The settings in force.
    config: Config,
    loaded_at: Timestamp,
    config_error: Option<wire::ConfigError>,
    config_warnings: Vec<String>,
    tunnels: BTreeMap<TunnelName, Door>,
    clusters: BTreeMap<ClusterName, Cluster>,
    /// Tunnels that were removed or changed while they had connections.
    leaving: Vec<Arc<Tunnel>>,
    /// Tunnels without a port, while somebody uses them.
    passing: Vec<Arc<Tunnel>>,
    ports: Ports,
    owners: Arc<Owners>,
    relay: Arc<relay::Shared>,
    /// The number of the newest connection.
    numbers: Arc<AtomicU64>,
    changed: Arc<Notify>,
    listeners: JoinSet<Result<(), wire::Reason>>,
    listener_names: HashMap<Id, TunnelName>,
    sessions: JoinSet<()>,
    session_names: HashMap<Id, ClusterName>,
    inbox: mpsc::Receiver<Command>,
    snapshots: watch::Sender<Arc<wire::Status>>,
    shown_at: Instant,
    show_at: Option<Instant>,
    housekeeping_at: Instant,
}

/// One tunnel and whether it listens.
struct Door {
    tunnel: Arc<Tunnel>,
    /// It should listen.
    wanted: bool,
    /// A person said so, which holds until pomd restarts.
    overridden: bool,
    listening: Option<Listening>,
    /// Why it does not listen although it should.
    obstacle: Option<wire::Reason>,
    retry_at: Option<Instant>,
    /// Where it listens, or would.
    addresses: Vec<String>,
}

struct Listening {
    task: Id,
    stop: CancellationToken,
}

struct Cluster {
    spec: ClusterSpec,
    session: Session,
    upstream: Arc<Upstream>,
    task: Id,
    stop: CancellationToken,
}

enum Event {
    Command(Command),
    ListenerEnded(Result<(Id, Result<(), wire::Reason>), JoinError>),
    SessionEnded(Result<(Id, ()), JoinError>),
    Changed,
    Tick,
}

impl Agent {
    /// An agent with no tunnels; it does nothing until it runs.
    pub fn new(setup: Setup) -> (Self, AgentHandle) {
        let (sender, inbox) = mpsc::channel(16);
        let now = setup.clock.now();
        let config = Config::default();
        let (owners, _) = Owners::new(&config.settings.allow_users);
        let mut agent = Self {
            started_at: now,
            loaded_at: now,
            config_error: None,
            config_warnings: Vec::new(),
            tunnels: BTreeMap::new(),
            clusters: BTreeMap::new(),
            leaving: Vec::new(),
            passing: Vec::new(),
            ports: Ports::load(&setup.state),
            owners: Arc::new(owners),
            relay: Arc::new(shared_by_relays(config.settings.read_ahead)),
            numbers: Arc::default(),
            changed: Arc::new(Notify::new()),
            listeners: JoinSet::new(),
            listener_names: HashMap::new(),
            sessions: JoinSet::new(),
            session_names: HashMap::new(),
            inbox,
            snapshots: watch::Sender::new(Arc::new(status::empty(&setup, now))),
            shown_at: Instant::now(),
            show_at: None,
            housekeeping_at: Instant::now() + HOUSEKEEPING,
            config,
            setup,
        };
        agent.show();
        (agent, AgentHandle(sender))
    }

    /// Runs until `stop`; returns when every listener, connection and session has ended, or has had its time.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let wake = self.next_wake();
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.listeners.join_next_with_id() => Event::ListenerEnded(ended),
                Some(ended) = self.sessions.join_next_with_id() => Event::SessionEnded(ended),
                Some(command) = self.inbox.recv() => Event::Command(command),
                () = self.changed.notified(), if self.show_at.is_none() => Event::Changed,
                () = tokio::time::sleep_until(wake) => Event::Tick,
            };
            match event {
                Event::Command(command) => self.on_command(command).await,
                Event::ListenerEnded(ended) => self.on_listener_ended(ended),
                Event::SessionEnded(ended) => self.on_session_ended(ended).await,
                Event::Changed => self.show_soon(),
                Event::Tick => self.on_tick(),
            }
        }
        self.shut_down().await;
    }

    async fn on_command(&mut self, command: Command) {
        // Whoever asked may have gone meanwhile: an answer that nobody takes is no fault.
        match command {
            Command::Status { reply } => {
                self.show();
                let _ = reply.send(self.snapshots.borrow().clone());
            }
            Command::Watch { reply } => {
                self.show();
                let _ = reply.send(self.snapshots.subscribe());
            }
            Command::Up { tunnel, reply } => {
                let _ = reply.send(self.up(&tunnel));
            }
            Command::Down { tunnel, now, reply } => {
                let _ = reply.send(self.down(&tunnel, now).await);
            }
            Command::Connect { route, ssh, reply } => {
                let _ = reply.send(self.connect(&route, ssh));
            }
            Command::Session { cluster, reply } => {
                let _ = reply.send(self.session(&cluster));
            }
            Command::Apply { loaded, reply } => {
                let _ = reply.send(self.apply(loaded).await);
            }
        }
    }

    fn up(&mut self, name: &str) -> Result<Arc<Tunnel>, Refused> {
        let name = self.tunnel_name(name)?;
        let Some(door) = self.tunnels.get_mut(&name) else {
            return Err(no_such_tunnel(name.as_str()));
        };
        door.wanted = true;
        door.overridden = true;
        door.tunnel.outcome.send_replace(None);
        let tunnel = door.tunnel.clone();
        if door.listening.is_none() {
            self.listen(&name);
        }
        self.show();
        match self.tunnels.get(&name).and_then(|it| it.obstacle.clone()) {
            None => Ok(tunnel),
            Some(reason) => Err(Box::new(status::obstacle_error(&tunnel, reason))),
        }
    }

    async fn down(&mut self, name: &str, now: bool) -> Result<wire::DownAnswer, Refused> {
        let name = self.tunnel_name(name)?;
        self.close(&name).await;
        let Some(door) = self.tunnels.get_mut(&name) else {
            return Err(no_such_tunnel(name.as_str()));
        };
        door.wanted = false;
        door.overridden = true;
        door.obstacle = None;
        door.retry_at = None;
        if now {
            let renewed = Arc::new(door.tunnel.renewed());
            let ending = std::mem::replace(&mut door.tunnel, renewed);
            ending.cut.cancel();
            for it in self.leaving.iter().filter(|it| it.name == name) {
                it.cut.cancel();
            }
        }
        let still_open =
            door.tunnel.counters.open.load(Relaxed) + door.tunnel.counters.waiting.load(Relaxed);
        info!(tunnel = %name, "down; {still_open} connections stay open");
        self.show();
        let snapshot = self.snapshots.borrow();
        let tunnel = snapshot.tunnels.iter().find(|it| it.name == name.as_str());
        match tunnel {
            Some(tunnel) => Ok(wire::DownAnswer {
                tunnel: tunnel.clone(),
                still_open,
            }),
            None => Err(no_such_tunnel(name.as_str())),
        }
    }

    fn session(&self, name: &str) -> Result<ClusterHandle, Refused> {
        let known = ClusterName::parse(name).and_then(|it| self.clusters.get(&it));
        let by_host = || {
            let same = |it: &&ClusterName| it.as_str() == name;
            self.clusters
                .keys()
                .find(same)
                .and_then(|it| self.clusters.get(it))
        };
        match known.or_else(by_host) {
            Some(cluster) => Ok(ClusterHandle {
                session: cluster.session.clone(),
                browser: cluster.spec.browser.clone(),
            }),
            None => Err(Box::new(refusal(
                wire::Code::NoSuchCluster,
                format!("no cluster {}", control::text::clean(name, 80)),
            ))),
        }
    }

    fn tunnel_name(&self, name: &str) -> Result<TunnelName, Refused> {
        TunnelName::parse(name)
            .filter(|it| self.tunnels.contains_key(it))
            .ok_or_else(|| no_such_tunnel(name))
    }

    /// Binds the tunnel's addresses and starts to accept; if that fails, the door says why and it is tried again.
    fn listen(&mut self, name: &TunnelName) {
        let Some(door) = self.tunnels.get_mut(name) else {
            return;
        };
        let listen = door.tunnel.spec.listen;
        let chosen = match listen {
            Listen::Chosen => self.ports.get(name).or_else(|| {
                let port = bind::choose(name.as_str(), &self.ports.taken())?;
                self.ports.keep(name, port);
                Some(port)
            }),
            _ => None,
        };
        door.addresses = status::addresses(listen, chosen);
        let before = door.obstacle.as_ref().and_then(|it| it.holder.clone());
        match bind::bind(listen, chosen, before.as_ref(), &self.setup.clock) {
            Ok(bound) => {
                if door.obstacle.take().is_some() {
                    info!(tunnel = %name, "listens at last");
                }
                door.retry_at = None;
                door.addresses = bound.addresses.iter().map(ToString::to_string).collect();
                let stop = CancellationToken::new();
                let accept = tunnel::serve(door.tunnel.clone(), bound.listeners, stop.clone());
                let task = self.listeners.spawn(accept).id();
                self.listener_names.insert(task, name.clone());
                door.listening = Some(Listening { task, stop });
            }
            Err(reason) => {
                let known = door.obstacle.as_ref();
                if known.is_none_or(|it| it.message != reason.message) {
                    warn!(tunnel = %name, "cannot listen: {}", reason.message);
                    door.obstacle = Some(reason);
                }
                door.retry_at = Some(Instant::now() + RETRY);
            }
        }
    }

    /// Returns once the address is free: a cancelled listener is bound until its task has been joined.
    async fn close(&mut self, name: &TunnelName) {
        let listening = self
            .tunnels
            .get_mut(name)
            .and_then(|it| it.listening.take());
        let Some(listening) = listening else {
            return;
        };
        listening.stop.cancel();
        while self.listener_names.contains_key(&listening.task) {
            let Some(ended) = self.listeners.join_next_with_id().await else {
                return;
            };
            self.on_listener_ended(ended);
        }
    }

    fn on_listener_ended(&mut self, ended: Result<(Id, Result<(), wire::Reason>), JoinError>) {
        let (id, reason) = match ended {
            Ok((id, Ok(()))) => (id, None),
            Ok((id, Err(reason))) => (id, Some(reason)),
            Err(panic) => {
                let at = self.setup.clock.now();
                (
                    panic.id(),
                    Some(status::reason(wire::Code::Internal, panic.to_string(), at)),
                )
            }
        };
        let Some(name) = self.listener_names.remove(&id) else {
            return;
        };
        let Some(door) = self.tunnels.get_mut(&name) else {
            return;
        };
        if door.listening.as_ref().is_none_or(|it| it.task != id) {
            return;
        }
        // It was not told to end: its socket broke, or it panicked. Try again soon.
        door.listening = None;
        if let Some(reason) = reason {
            error!(tunnel = %name, "listener ended: {}", reason.message);
            door.obstacle = Some(reason);
        }
        door.retry_at = Some(Instant::now() + RETRY);
        self.show_soon();
    }

    async fn on_session_ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, panic) = split(ended);
        let Some(name) = self.session_names.remove(&id) else {
            return;
        };
        if self.clusters.get(&name).is_none_or(|it| it.task != id) {
            return;
        }
        let message = panic.unwrap_or_else(|| "it ended by itself".to_owned());
        error!(cluster = %name, "session ended, started again: {message}");
        self.replace_cluster(&name).await;
        self.show_soon();
    }

    fn on_tick(&mut self) {
        let now = Instant::now();
        let due: Vec<TunnelName> = self
            .tunnels
            .iter()
            .filter(|(_, it)| it.retry_at.is_some_and(|at| at <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &due {
            self.listen(name);
        }
        let housekeeping = self.housekeeping_at <= now;
        if housekeeping {
            self.housekeeping_at = now + HOUSEKEEPING;
        }
        let counting = self.counting() && self.shown_at + COUNTERS <= now;
        if housekeeping || counting || !due.is_empty() || self.show_at.is_some_and(|it| it <= now) {
            self.show_if_due();
        }
    }

    /// Somebody watches while bytes move.
    fn counting(&self) -> bool {
        self.snapshots.receiver_count() > 0
            && self
                .tunnels
                .values()
                .any(|it| it.tunnel.counters.open.load(Relaxed) > 0)
    }

    fn next_wake(&self) -> Instant {
        let retries = self.tunnels.values().filter_map(|it| it.retry_at);
        let counting = self.counting().then_some(self.shown_at + COUNTERS);
        retries
            .chain(self.show_at)
            .chain(counting)
            .fold(self.housekeeping_at, Instant::min)
    }

    fn show_soon(&mut self) {
        self.show_at.get_or_insert(Instant::now() + SETTLE);
    }

    /// Shows a change now, and moved counters at most once a second.
    fn show_if_due(&mut self) {
        let next = self.build_status();
        let shown = self.snapshots.borrow().clone();
        if next == *shown {
            self.show_at = None;
        } else if status::differs_in_more_than_counters(&shown, &next)
            || self.shown_at + COUNTERS <= Instant::now()
        {
            self.show();
        } else {
            self.show_at = Some(self.shown_at + COUNTERS);
        }
    }

    fn show(&mut self) {
        self.leaving.retain(|it| !it.connections.is_empty());
        let next = Arc::new(self.build_status());
        self.shown_at = Instant::now();
        self.show_at = None;
        self.snapshots.send_if_modified(|shown| {
            let changed = *shown != next;
            *shown = next;
            changed
        });
    }

    async fn shut_down(mut self) {
        for door in self.tunnels.values() {
            if let Some(listening) = &door.listening {
                listening.stop.cancel();
            }
            door.tunnel.cut.cancel();
        }
        for tunnel in self.leaving.iter().chain(&self.passing) {
            tunnel.cut.cancel();
        }
        for cluster in self.clusters.values() {
            cluster.stop.cancel();
        }
        let doors = self.tunnels.into_values().map(|it| it.tunnel);
        let trackers: Vec<TaskTracker> = doors
            .chain(self.leaving)
            .chain(self.passing)
            .map(|it| {
                it.connections.close();
                it.connections.clone()
            })
            .collect();
        let all_ended = async {
            while self.listeners.join_next().await.is_some() {}
            for tracker in &trackers {
                tracker.wait().await;
            }
            while self.sessions.join_next().await.is_some() {}
        };
        if tokio::time::timeout(GRACE, all_ended).await.is_err() {
            let connections: usize = trackers.iter().map(TaskTracker::len).sum();
            error!(
                "{connections} connections and {} sessions did not end within {} s; ended without them",
                self.sessions.len(),
                GRACE.as_secs()
            );
        }
    }
}

fn shared_by_relays(read_ahead: u64) -> relay::Shared {
    relay::Shared {
        budget: AtomicUsize::new(usize::try_from(read_ahead).unwrap_or(usize::MAX)),
        read_ahead: READ_AHEAD,
        linger: LINGER,
    }
}

/// The id of a task that ended, and what it said if it panicked.
fn split(ended: Result<(Id, ()), JoinError>) -> (Id, Option<String>) {
    match ended {
        Ok((id, ())) => (id, None),
        Err(error) => (error.id(), Some(error.to_string())),
    }
}

fn no_such_tunnel(name: &str) -> Refused {
    let name = control::text::clean(name, 80);
    Box::new(refusal(
        wire::Code::NoSuchTunnel,
        format!("no tunnel {name}"),
    ))
}
