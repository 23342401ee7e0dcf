//! The agent: the one task that owns every tunnel and every session.
//!
//! Nothing else starts, stops or replaces one. Callers send a [`Command`]; watchers look at snapshots. No handler waits
//! for the network, so no command waits for another; what may be awaited is the end of a listener that was just stopped,
//! because its address is bound until then, and of a session that is replaced, because it may be writing a token. Knows
//! who is up and who is in which cluster. Must not know HTTP, TLS or the configuration's syntax.
//!
//! `listeners` opens and closes tunnels, `clusters` the sessions, `apply` goes over to another configuration, `ad_hoc` is for
//! connections without a port, `temporary` for tunnels of a command, `environment` for another network and for sleep, `loopback` for addresses that the machine
//! lacks; `status` says what there is, `measured` in figures, `publish` when it is shown, `tick` when housekeeping is due.
//!
//! Long because its state, its loop and its end are read together.

mod ad_hoc;
mod apply;
mod clusters;
mod command;
mod environment;
mod error;
mod listeners;
mod loopback;
mod measured;
mod ports;
mod publish;
mod status;
mod temporary;
pub(crate) mod tick;

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use status::tests::sample;

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use control::{paths::Paths, wire};
use jiff::Timestamp;
use pomd_core::{
    config::{ClusterName, ClusterSpec, Config, Temporary, TunnelName},
    moment::Moment,
};
use tokio::{
    sync::{Notify, mpsc},
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::error;

use crate::{
    env::Env,
    session::Session,
    system::{network::Network, service::Heartbeat, socket_activation::InheritedSockets},
    tunnel::{Totals, Tunnel, bind::Listener, peer::Owners, relay},
    upstream::{Upstream, pool::Budget, proxy::Shown},
};
pub use clusters::is_same;
pub use command::{AgentHandle, Broken, ClusterHandle, Command, Loaded};
pub use error::AgentError;
pub use measured::{Measured, MeasuredTunnel, Restarts};
use ports::Ports;
pub use ports::kept_ports;
use publish::Publisher;
use tick::TickSchedule;

/// How often a busy address is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// A session that ends by itself is started again at once, but not more often than this.
const RESTART: Duration = Duration::from_secs(1);
/// How long connections and sessions may take to end at stop.
const GRACE: Duration = Duration::from_secs(4);

/// The most that one connection reads ahead of a slow local reader; an ordinary reply fits (performance.md, policy 3).
const READ_AHEAD: usize = 8 << 20;
/// How long a connection whose local side has ended waits for more of the reply (policy 2).
const LINGER: Duration = Duration::from_secs(60);

/// What the agent needs from the house.
pub struct Setup {
    /// The configuration file, the state folder, which exists, and the control socket, beside which those of tunnels lie.
    pub place: Paths,
    /// The seams to the machine and the people around it.
    pub env: Env,
    /// Told when the control socket's file is gone.
    pub lost: Arc<Notify>,
    /// Where a person finds the log, for the status.
    pub log: Option<String>,
    /// Standing warnings that hold for the life of the process.
    pub warnings: Vec<String>,
    /// Sockets that a service manager bound for us.
    pub inherited: Arc<InheritedSockets>,
    /// Beats while the agent does not hang.
    pub heartbeat: Heartbeat,
}

/// The owner of all state. See the module.
pub struct Agent {
    setup: Setup,
    started_at: Timestamp,
    /// The settings in force, with the temporary tunnels.
    config: Config,
    /// The tunnels of `config` that no file says.
    temporary: BTreeMap<TunnelName, Temporary>,
    loaded_at: Timestamp,
    config_error: Option<wire::ConfigError>,
    config_warnings: Vec<String>,
    /// What is wrong with watching the file and keeping a copy of it.
    reader_warnings: Vec<String>,
    /// What the settings ask for and cannot be had.
    settings_warnings: Vec<String>,
    tunnels: BTreeMap<TunnelName, ManagedTunnel>,
    clusters: BTreeMap<ClusterName, Cluster>,
    /// Tunnels that were removed or changed while they had connections.
    leaving: Vec<Arc<Tunnel>>,
    /// Tunnels without a port, while somebody uses them.
    ad_hoc: Vec<Arc<Tunnel>>,
    /// What is counted of them, since they come and go.
    ad_hoc_totals: Arc<Totals>,
    /// How often something ended by a fault and was started again.
    restarts: Restarts,
    ports: Ports,
    owners: Arc<Owners>,
    relay: Arc<relay::Shared>,
    /// For the connections that all clusters keep ready.
    pool: Budget,
    /// The number of the newest connection.
    numbers: Arc<AtomicU64>,
    changed: Arc<Notify>,
    listeners: JoinSet<Result<Vec<Listener>, wire::Reason>>,
    listener_names: HashMap<Id, TunnelName>,
    sessions: JoinSet<()>,
    session_names: HashMap<Id, ClusterName>,
    inbox: mpsc::Receiver<Command>,
    publisher: Publisher,
    network: Network,
    /// The loopback addresses that lead nowhere, as of the last look.
    missing: Vec<IpAddr>,
    /// The last look at the clocks that part in sleep.
    awake_at: Moment,
    /// When wall-clock deadlines are read anew and a watchdog hears that the agent lives.
    schedule: TickSchedule,
    housekeeping_at: Instant,
}

/// One tunnel and whether it listens.
struct ManagedTunnel {
    tunnel: Arc<Tunnel>,
    /// It should listen.
    wanted: bool,
    /// A person said so, which holds until pomd restarts.
    overridden: bool,
    /// It is of a command, and of no file.
    temporary: bool,
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
    /// The loopback address that the machine lacked.
    left_out: Option<IpAddr>,
}

struct Cluster {
    spec: ClusterSpec,
    session: Session,
    upstream: Arc<Upstream>,
    task: Id,
    stop: CancellationToken,
    started_at: Instant,
    /// Its session ended by itself, which is a fault.
    restart_at: Option<Instant>,
}

impl Cluster {
    /// The forward proxy on the way to where its login is made.
    fn forward_proxy(&self) -> Option<Shown> {
        self.upstream.forward_proxy(&self.session.address())
    }
}

enum Event {
    Command(Command),
    ListenerEnded(Result<(Id, Result<Vec<Listener>, wire::Reason>), JoinError>),
    SessionEnded(Result<(Id, ()), JoinError>),
    Changed,
    Network,
    Proxies,
    Tick,
}

impl Agent {
    /// An agent with no tunnels; it does nothing until it runs.
    pub fn new(setup: Setup) -> (Self, AgentHandle) {
        let (sender, inbox) = mpsc::channel(16);
        let now = setup.env.clock.now();
        let config = Config::default();
        let (owners, _) = Owners::new(&config.settings.allow_users);
        let schedule = TickSchedule::new(setup.env.clock.origin(), setup.heartbeat.every());
        let agent = Self {
            started_at: now,
            loaded_at: now,
            config_error: None,
            config_warnings: Vec::new(),
            reader_warnings: Vec::new(),
            settings_warnings: Vec::new(),
            temporary: BTreeMap::new(),
            tunnels: BTreeMap::new(),
            clusters: BTreeMap::new(),
            leaving: Vec::new(),
            ad_hoc: Vec::new(),
            ad_hoc_totals: Arc::default(),
            restarts: Restarts::default(),
            ports: Ports::load(&setup.place.state, setup.env.fs.clone()),
            owners: Arc::new(owners),
            relay: Arc::new(shared_by_relays(config.settings.read_ahead)),
            pool: Budget::of_process(),
            numbers: Arc::default(),
            changed: Arc::new(Notify::new()),
            listeners: JoinSet::new(),
            listener_names: HashMap::new(),
            sessions: JoinSet::new(),
            session_names: HashMap::new(),
            inbox,
            publisher: Publisher::new(status::empty(&setup, now), Instant::now()),
            network: Network::new(),
            missing: loopback::missing(&[]),
            awake_at: setup.env.clock.moment(),
            schedule,
            housekeeping_at: schedule.after(Instant::now()),
            config,
            setup,
        };
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
                () = self.changed.notified(), if self.publisher.wants_news() => Event::Changed,
                () = self.network.news() => Event::Network,
                () = self.setup.env.proxies.changed() => Event::Proxies,
                () = tokio::time::sleep_until(wake) => Event::Tick,
            };
            match event {
                Event::Command(command) => self.on_command(command).await,
                Event::ListenerEnded(ended) => self.on_listener_ended(ended),
                Event::SessionEnded(ended) => self.on_session_ended(ended),
                Event::Changed => self.publisher.changed(Instant::now()),
                Event::Network => self.on_network().await,
                Event::Proxies => self.on_proxies(),
                Event::Tick => self.on_tick().await,
            }
        }
        self.shut_down().await;
    }

    async fn on_command(&mut self, command: Command) {
        // Whoever asked may have gone meanwhile: an answer that nobody takes is no fault.
        match command {
            Command::Status { reply } => {
                let _ = reply.send(Arc::new(self.build_status()));
            }
            Command::Measure { reply } => {
                let _ = reply.send(Box::new(self.measure()));
            }
            Command::Watch { reply } => {
                let present = self.build_status();
                let _ = reply.send(self.publisher.watch(present, Instant::now()));
            }
            Command::Up { tunnel, reply } => {
                let _ = reply.send(self.up(&tunnel));
            }
            Command::MakeTemporary { request, reply } => {
                let _ = reply.send(self.make_temporary(&request).await);
            }
            Command::Down { tunnel, now, reply } => {
                let ending = if now {
                    self.connections_of(&tunnel)
                } else {
                    Vec::new()
                };
                let answer = self.down(&tunnel, now).await;
                let _ = reply.send(answer.map(|it| (it, ending)));
            }
            Command::Connect { route, ssh, reply } => {
                let _ = reply.send(self.connect(&route, ssh));
            }
            Command::Tunnel { tunnel, reply } => {
                let _ = reply.send(self.tunnel(&tunnel));
            }
            Command::Session { cluster, reply } => {
                let _ = reply.send(self.session(&cluster));
            }
            Command::Apply { loaded, reply } => {
                let _ = reply.send(self.apply(loaded).await);
            }
            Command::FallBack {
                config,
                read_at,
                reply,
            } => {
                self.fall_back(*config, read_at).await;
                let _ = reply.send(());
            }
            Command::ReaderWarns { warnings, reply } => {
                self.reader_warnings = warnings;
                self.look();
                let _ = reply.send(());
            }
        }
    }

    fn session(&self, name: &str) -> Result<ClusterHandle, AgentError> {
        let mut clusters = self.clusters.iter();
        match clusters.find(|(it, _)| it.as_str() == name) {
            Some((_, cluster)) => Ok(ClusterHandle {
                session: cluster.session.clone(),
                browser: cluster.spec.browser.clone(),
                client_identity: cluster.spec.client_identity.clone().map(|it| {
                    wire::ClientIdentityFiles {
                        certificate: it.certificate,
                        key: it.key,
                    }
                }),
            }),
            None => Err(AgentError::NoSuchCluster(name.to_owned())),
        }
    }

    async fn on_tick(&mut self) {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let tunnels = self.tunnels.iter().filter(|it| is_due(it.1.retry_at));
        let retries: Vec<TunnelName> = tunnels.map(|it| it.0.clone()).collect();
        for name in &retries {
            self.listen(name);
        }
        let ended = self.clusters.iter().filter(|it| is_due(it.1.restart_at));
        let restarts: Vec<ClusterName> = ended.map(|it| it.0.clone()).collect();
        for name in &restarts {
            self.restart_cluster(name).await;
        }
        if self.housekeeping_at <= now {
            self.housekeeping_at = self.schedule.after(now);
            self.setup.heartbeat.beat();
            self.ports.retry();
            self.leaving.retain(|it| !it.connections.is_empty());
            self.ad_hoc.retain(ad_hoc::is_used);
            self.check_environment().await;
            self.look_after_files().await;
        }
        self.look();
    }

    fn next_wake(&self) -> Instant {
        let retries = self.tunnels.values().filter_map(|it| it.retry_at);
        let restarts = self.clusters.values().filter_map(|it| it.restart_at);
        retries
            .chain(restarts)
            .chain(self.publisher.due())
            .fold(self.housekeeping_at, Instant::min)
    }

    /// Shows what changed to those who watch.
    fn look(&mut self) {
        if self.publisher.is_watched() {
            let present = self.build_status();
            self.publisher.look(present, Instant::now());
        }
    }

    async fn shut_down(mut self) {
        // Whoever asks from now on, or has asked already, hears that pomd is stopping.
        self.inbox.close();
        while self.inbox.try_recv().is_ok() {}
        for managed in self.tunnels.values() {
            if let Some(listening) = &managed.listening {
                listening.stop.cancel();
            }
            managed.tunnel.cut.cancel();
        }
        for tunnel in self.leaving.iter().chain(&self.ad_hoc) {
            tunnel.cut.cancel();
        }
        for cluster in self.clusters.values() {
            cluster.stop.cancel();
        }
        let tunnels = self.tunnels.into_values().map(|it| it.tunnel);
        let trackers: Vec<TaskTracker> = tunnels
            .chain(self.leaving)
            .chain(self.ad_hoc)
            .map(|it| {
                it.connections.close();
                it.connections.clone()
            })
            .collect();
        let all_ended = async {
            while let Some(ended) = self.listeners.join_next().await {
                if let Ok(Ok(listeners)) = ended
                    && self.setup.inherited.keeps()
                {
                    let kept = listeners.into_iter().map(Listener::hand_on);
                    kept.flatten().for_each(|it| self.setup.inherited.keep(it));
                }
            }
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
