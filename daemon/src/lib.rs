//! pomd makes services behind Pomerium look like plain local ports: always listening, always logged in.
//!
//! A **tunnel** accepts a local connection, asks its cluster's **session** for a token, asks **upstream** to open the
//! route with it, and **relays** bytes. One **agent** owns every tunnel and session and is the only one who starts or ends
//! them. Decisions are pure functions and small state machines that are given the time; what touches a socket, a file or a
//! clock is a thin driver around them. What others want to know is a snapshot, what others want done is a message with a
//! reply; **api** turns the local socket into such messages.
//!
//! The map of the house:
//!
//! | room | what it does | must not know |
//! |---|---|---|
//! | [`pomd_core`] | every decision that needs no task, socket, file or clock: configuration, refusals, where a token may go, the pool, the guard, the login's request and pages | `tokio`, `rustls`, `hyper`, `socket2`, `notify` |
//! | [`config_file`], [`load`], [`watch`] | reads the file, and again when it may have changed; keeps a copy of the last good one | `api`, `portal`, `session`, `tunnel` |
//! | [`agent`] | owns tunnels, sessions, the last good configuration; shows one status | `api`, `load`, `hyper`, `http`, `rustls`, `toml` |
//! | [`session`] | being logged in to one cluster: drives the core, asks the person, keeps the token's file | `agent`, `api`, `load`, `tunnel` |
//! | [`upstream`] | one route through Pomerium: dial, forward proxy, TLS, connections kept ready, CONNECT, refusals | `agent`, `api`, `load`, `portal`, `session`, `tunnel` |
//! | [`portal`] | what a cluster says of the user | `agent`, `api`, `load`, `session`, `tunnel` |
//! | [`tunnel`] | one listener's connections: who connects, keep web pages out, open, relay, refuse | `agent`, `api`, `config_file`, `load`, `hyper`, `toml` |
//! | [`api`] | the control socket: requests into commands | `portal`, `upstream`, `rustls`, `toml` |
//! | [`env`](mod@env) | the seams to the machine and the people around it, one value cloned into every room | `agent`, `api`, `load`, `portal`, `tunnel` |
//! | [`admission`], [`accept_backoff`] | who keeps a place where places are few, and what follows a failed accept | `agent`, `api`, `load`, `session`, `tunnel`, `upstream` |
//! | [`service_notify`] | tells a service manager how things stand, and that the agent lives | `api`, `load`, `session`, `tunnel`, `upstream` |
//! | [`restart`] | runs the program that is installed now in this one's place, and hands locks and listeners over | `agent`, `api`, `load`, `session`, `tunnel`, `upstream` |
//! | [`named_file`] | reads the files that the configuration names, tolerant of their form and strict about who may change them | `agent`, `api`, `load`, `session`, `tunnel`, `upstream`, `rustls` |
//! | [`surroundings`] | the environment of this moment | `agent`, `api`, `load`, `session`, `tunnel` |
//! | [`opener`] | shows a link to the person | `agent`, `api`, `load`, `portal`, `tunnel`, `upstream` |
//! | [`system`], [`lock`], [`logging`], [`clock`], [`failpoints`], [`buffer`] | one fact of the machine each | `agent`, `api`, `load`, `session`, `tunnel`, `upstream`, `portal` |
//!
//! A test reads the last column: rooms and crates whose names no `use` of the room may hold.

pub mod accept_backoff;
pub mod admission;
pub mod agent;
pub mod api;
pub mod buffer;
pub mod clock;
pub mod config_file;
pub mod env;
pub mod failpoints;
pub mod load;
pub mod lock;
pub mod logging;
pub mod named_file;
pub mod opener;
pub mod portal;
pub mod restart;
pub mod service_notify;
pub mod session;
pub mod surroundings;
pub mod system;
pub mod tunnel;
pub mod upstream;
pub mod watch;

use std::{fs::File, io, path::PathBuf, sync::Arc, time::Duration};

use control::{
    holder::{Facts, Phase},
    paths::Paths,
};
use tokio::{sync::Notify, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    agent::Agent,
    api::Api,
    env::Env,
    failpoints::Failpoints,
    load::Loader,
    lock::{Lock, LockError, Marker},
    logging::Recent,
    restart::Restart,
    service_notify::ServiceNotifier,
    system::{
        control_listener::ControlListener,
        service::{Heartbeat, Service},
        socket_activation::{InheritedSockets, Socket},
    },
};

/// What one pomd is made of.
pub struct Options {
    /// Where its files and its socket are.
    pub place: Paths,
    /// Where a person finds the log; `None`: the terminal that started it.
    pub log: Option<String>,
    /// The newest log lines.
    pub recent: Recent,
    /// The seams to the machine and the people around it.
    pub env: Env,
    /// Told when the configuration file should be looked at, as by SIGHUP.
    pub look: Arc<Notify>,
    /// Standing warnings.
    pub warnings: Vec<String>,
    /// Sockets that a service manager bound for us.
    pub inherited: Arc<InheritedSockets>,
    /// Who started us and wants to hear how we do.
    pub service: Service,
    /// How to become pomd anew.
    pub restart: Restart,
    /// It went into the background by itself, and gives way to a pomd in the foreground.
    pub in_background: bool,
    /// The control socket of the life before this one.
    pub control: Option<Socket>,
}

/// Why pomd did not start, or ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Another one runs, or a folder is not fit.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The control socket cannot be bound.
    #[error("cannot listen on {}: {error}; give another: --socket PATH, or POMD_SOCKET", path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why. Not a source: the sentence has it.
        error: io::Error,
    },
    /// The agent ended, which is a fault of pomd's: a service manager starts it again.
    #[error("the agent ended by itself; pomd ends too, so that it can be started again")]
    AgentEnded,
}

/// The locks of a pomd that may run. Taken before anything else, and before the forks of `--daemonize`.
#[derive(Debug)]
pub struct Locks {
    state: Lock,
    runtime: Option<Lock>,
}

impl Locks {
    /// Locks the state folder and the socket's folder. `inherited` are lock files that the life before this one handed on.
    pub fn take(
        place: &Paths,
        failpoints: &Failpoints,
        inherited: &mut Vec<File>,
    ) -> Result<Self, LockError> {
        let state = Lock::take(&place.state, failpoints, inherited)
            .map_err(|it| it.or_give("--state-dir DIR, or POMD_STATE_DIR"))?;
        let runtime = place.runtime();
        let runtime = (runtime != place.state).then(|| Lock::take(runtime, failpoints, inherited));
        let runtime = runtime.transpose();
        Ok(Self {
            state,
            runtime: runtime.map_err(|it| it.or_give("--socket PATH, or POMD_SOCKET"))?,
        })
    }

    /// All of them for the next life of this process.
    pub fn hand_on(&self) -> io::Result<Vec<(PathBuf, File)>> {
        self.all().map(Lock::hand_on).collect()
    }

    fn all(&self) -> impl Iterator<Item = &Lock> {
        std::iter::once(&self.state).chain(&self.runtime)
    }
}

/// Runs until `stop`. `ready` is called once the control socket answers and every listener that can be bound is.
pub async fn run(
    options: Options,
    locks: &Locks,
    stop: CancellationToken,
    ready: impl FnOnce(),
) -> Result<(), RunError> {
    for word in locks.all().filter_map(Lock::put_right) {
        warn!("{word}");
    }
    let refused: Vec<String> = locks
        .all()
        .filter_map(Lock::refused)
        .map(str::to_owned)
        .collect();
    for word in &refused {
        warn!("{word}");
    }
    let facts = Facts {
        phase: Phase::Running,
        in_background: options.in_background,
        socket: Some(options.place.socket.clone()),
        log: options.log.clone(),
    };
    let marker = Marker::new(locks.all(), facts);
    marker.mark(Phase::Running);
    let socket_path = options.place.socket.clone();
    let socket = ControlListener::bind_or_inherit(socket_path.clone(), options.control);
    let socket = socket.map_err(|error| RunError::Socket {
        path: socket_path,
        error,
    })?;
    let lost = Arc::new(Notify::new());
    let heartbeat = Heartbeat::for_watchdog(options.service.watchdog());
    let (agent, handle) = Agent::new(agent::Setup {
        place: options.place.clone(),
        env: options.env.clone(),
        lost: lost.clone(),
        log: options.log,
        warnings: options.warnings.into_iter().chain(refused).collect(),
        inherited: options.inherited.clone(),
        heartbeat: heartbeat.clone(),
    });
    let (mut loader, reloads, watch) = Loader::new(
        &options.place,
        &options.env,
        handle.clone(),
        options.look,
        options.service.clone(),
    );
    let notifier = ServiceNotifier {
        service: options.service,
        agent: handle.clone(),
        heartbeat,
        clock: options.env.clock.clone(),
        restart: options.restart.clone(),
    };
    let api = Arc::new(Api {
        agent: handle,
        reloads,
        recent: options.recent,
        env: options.env.clone(),
        socket: options.place.socket.clone(),
        lost,
        stop: stop.clone(),
        closing: CancellationToken::new(),
        restart: options.restart.clone(),
        inherited: options.inherited.clone(),
        marker: marker.clone(),
        in_background: options.in_background,
    });

    let mut core = JoinSet::new();
    let agent = core.spawn(agent.run(stop.clone())).id();
    loader.start().await;
    for place in options.inherited.close_inherited() {
        info!("no tunnel listens on {place} any more");
    }
    core.spawn(api::serve(api, socket));
    notifier.ready().await;
    core.spawn(notifier.run(stop.clone()));
    core.spawn(loader.run(stop.clone()));
    let Env {
        surroundings,
        proxies,
        ..
    } = options.env;
    core.spawn(surroundings.keep_proxies(proxies, stop.clone()));
    core.spawn(watch::watch(options.place.config, watch, stop.clone()));
    info!(
        "pomd {} runs (pid {})",
        control::VERSION,
        std::process::id()
    );
    ready();

    let mut result = Ok(());
    while let Some(ended) = core.join_next_with_id().await {
        let (id, panic) = match ended {
            Ok((id, ())) => (id, None),
            Err(error) => (error.id(), Some(error.to_string())),
        };
        if stop.is_cancelled() {
            continue;
        }
        let what = if id == agent {
            "the agent"
        } else {
            "a core task"
        };
        let how = panic.unwrap_or_else(|| "it ended by itself".to_owned());
        error!("{what} ended: {how}");
        // A part of the house is gone: end in order, and let a service manager start all of it again.
        result = Err(RunError::AgentEnded);
        stop.cancel();
    }
    info!("pomd has ended");
    if !options.restart.is_requested() {
        marker.mark(Phase::Ended);
    }
    result
}

/// How long pomd may take to end in order before it ends anyway.
pub const STOP: Duration = Duration::from_secs(5);
