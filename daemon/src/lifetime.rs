//! The life of one pomd from its first thread to its end, and the restart after it.

use std::{ffi::OsString, sync::Arc, time::Duration};

use control::{paths::Paths, wire::LogLine};
use pomd::{
    Locks, Options, RunError,
    clock::Clock,
    env::Env,
    logging::{self, Sink},
    opener,
    restart::Restart,
    surroundings::{EnvironmentChanges, Surroundings},
    system::{
        handover::Handover,
        limits,
        service::Service,
        socket_activation::{InheritedSockets, ListenAddress, Socket},
    },
    upstream::proxy::Environment,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use crate::{daemonize, signals};

/// As exactly as timers are told apart.
const SAME_MOMENT: Duration = Duration::from_millis(1);
/// On a machine so busy a few more wakes are no matter.
const TRIES: u32 = 4;
/// How long a signal may take from the system to us.
const LATE_SIGNAL: Duration = Duration::from_millis(20);

/// What is known before the first thread.
pub(crate) struct Start {
    pub(crate) place: Paths,
    pub(crate) filter: tracing_subscriber::EnvFilter,
    pub(crate) locks: Locks,
    /// There is no terminal and no service manager: the log goes to a file.
    pub(crate) in_background: bool,
    pub(crate) restart: Restart,
    pub(crate) inherited: Arc<InheritedSockets>,
    /// The control socket and the log lines of the life before this one, and what went wrong between the two.
    pub(crate) control: Option<Socket>,
    pub(crate) log: Vec<LogLine>,
    pub(crate) warning: Option<String>,
    /// How the locks were come by, for the log.
    pub(crate) words: Vec<String>,
    /// The arguments of a restart.
    pub(crate) again: Vec<OsString>,
}

/// Returns when pomd has ended; does not return if it restarts.
pub(crate) fn run(start: Start, report: Option<&daemonize::StartReport>) -> anyhow::Result<()> {
    let log_file = start.place.log_file();
    let control_socket = start.place.socket.clone();
    let journal = logging::journal_command();
    let (sink, log) = match (start.in_background, journal) {
        (true, _) => (Sink::File(&log_file), Some(log_file.display().to_string())),
        (false, Some(command)) => (Sink::Journal, Some(command)),
        (false, None) => (Sink::Stderr, None),
    };
    let recent = logging::start(start.filter, sink)?;
    recent.remember(start.log);
    for words in &start.words {
        tracing::info!("{words}");
    }
    if let Some(warning) = &start.warning {
        tracing::warn!("{warning}");
    }
    limits::raise_descriptors();
    limits::keep_memory_private();
    let (runtime, clock) = runtime()?;
    let surroundings = if start.in_background {
        Surroundings::of_process()
    } else {
        Surroundings::detect()
    };
    let proxies = Environment::read(|name| surroundings.at_start().get(name).cloned());
    for warning in proxies.warnings() {
        tracing::warn!("{warning}");
    }
    for problem in start.inherited.problems() {
        tracing::warn!("{problem}");
    }
    let problems = start.inherited.problems().iter().cloned();
    let options = Options {
        log,
        place: start.place,
        recent: recent.clone(),
        env: Env {
            clock,
            surroundings: surroundings.clone(),
            proxies: Arc::new(proxies),
            ..Env::real(Arc::new(opener::SystemBrowser::new(surroundings.clone())))
        },
        look: Arc::new(Notify::new()),
        warnings: problems.chain(start.warning).collect(),
        inherited: start.inherited.clone(),
        service: if start.in_background {
            Service::none()
        } else {
            Service::detect()
        },
        restart: start.restart.clone(),
        in_background: start.in_background,
        control: start.control,
    };
    let restarts = runtime.block_on(live(options, &start.locks, report));
    let environment = match restarts {
        Ok(true) => runtime.block_on(surroundings.changes()),
        _ => EnvironmentChanges::new(),
    };
    // Blocking work may hang on a network disk: it does not keep the process.
    runtime.shutdown_background();
    let mut kept = start.inherited.kept();
    if !restarts? {
        kept.iter().for_each(Socket::remove_file);
        return Ok(());
    }
    let is_control = |it: &mut Socket| it.address == ListenAddress::Unix(control_socket.clone());
    let control = kept.extract_if(.., is_control).next();
    let handover = Handover {
        locks: start.locks.hand_on()?,
        control,
        tunnels: kept,
        log: recent.all(),
        warning: None,
    };
    let error = start
        .restart
        .re_exec(&start.again, &environment, &start.inherited, handover);
    tracing::error!("cannot restart: {error}");
    anyhow::bail!("cannot restart: {error}");
}

/// A runtime whose timers begin with the clock, as seldom wakes need it (`pomd::agent::tick`); another one where this
/// thread was interrupted between the two.
fn runtime() -> std::io::Result<(Runtime, Clock)> {
    let mut tries = 0;
    loop {
        let clock = Clock::real();
        let runtime = Builder::new_multi_thread().enable_all().build()?;
        tries += 1;
        if clock.origin().elapsed() < SAME_MOMENT || tries == TRIES {
            return Ok((runtime, clock));
        }
    }
}

/// One life, from the first listener to the last connection; whether another one is to follow.
async fn live(
    options: Options,
    locks: &Locks,
    report: Option<&daemonize::StartReport>,
) -> Result<bool, RunError> {
    let ready = || {
        if let Some(report) = report {
            report.listening();
        }
    };
    let stop = CancellationToken::new();
    let restart = options.restart.clone();
    let last = Arc::new(Notify::new());
    let signals = signals::obey(stop.clone(), options.look.clone(), last.clone());
    let run = pomd::run(options, locks, stop, ready);
    tokio::pin!(run, signals);
    let ended = tokio::select! {
        result = &mut run => {
            result?;
            if !restart.is_requested() {
                return Ok(false);
            }
            // A signal that came meanwhile would be lost with this life: one that comes from now on ends it by itself, and
            // of those before we are told.
            last.notify_one();
            let late = tokio::time::timeout(LATE_SIGNAL, &mut signals).await;
            late.unwrap_or(signals::Ended::OutOfTime)
        }
        ended = &mut signals => ended,
    };
    Ok(match ended {
        signals::Ended::AtOnce => false,
        signals::Ended::OutOfTime => restart.is_requested(),
    })
}
