//! pomd: argv, locks, detaching, logging, runtime, signals, exit code; in this order, each judged in the user's terminal
//! as long as there is one.

mod args;
mod daemonize;
mod signals;
mod takeover;
mod terminal;

use std::{ffi::OsString, process::ExitCode, sync::Arc, time::Duration};

use args::{Action, Args};
use clap::Parser;
use control::{paths::Paths, wire::LogLine};
use pomd::{
    Locks, Options, RunError,
    clock::Clock,
    env::Env,
    load::{self, Checked},
    logging::{self, Sink},
    opener,
    restart::Restart,
    surroundings::{EnvironmentChanges, Surroundings},
    system::disk::Disk,
    system::{
        self,
        handover::Handover,
        service::Service,
        socket_activation::{self, InheritedSockets, Socket},
    },
    upstream::proxy::Environment,
};
use pomd_core::config::Machine;
use tokio::{
    runtime::{Builder, Runtime},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

/// It failed.
const FAILED: u8 = 1;
/// Usage or configuration.
const USAGE: u8 = 2;
/// As exactly as timers are told apart.
const SAME_MOMENT: Duration = Duration::from_millis(1);
/// On a machine so busy a few more wakes are no matter.
const TRIES: u32 = 4;
/// How long a signal may take from the system to us.
const LATE_SIGNAL: Duration = Duration::from_millis(20);

/// What to write into a file that has no tunnel yet.
const FIRST_TUNNEL: &str = "hint: a tunnel is three lines:
  [tunnel.ssh-prod]
  route  = \"ssh-prod.corp.example.com:22\"
  listen = 2202";

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    if args.takes_handover {
        return ExitCode::SUCCESS;
    }
    match args.action {
        Some(Action::Check { ref file }) => check(&args, file.clone()),
        None => start(&args),
    }
}

/// Help, the version, or what is wrong with the command line.
fn usage(error: &clap::Error) -> ExitCode {
    let text = |stream: &dyn std::io::IsTerminal| {
        let text = error.render();
        if stream.is_terminal() {
            text.ansi().to_string()
        } else {
            text.to_string()
        }
    };
    if error.use_stderr() {
        terminal::say(&text(&std::io::stderr()));
        return ExitCode::from(USAGE);
    }
    terminal::answer(&text(&std::io::stdout()))
}

/// Judges the file and says so; for scripts, editors and CI.
fn check(args: &Args, file: Option<std::path::PathBuf>) -> ExitCode {
    let named = file.is_some() || args.names_the_configuration();
    let place = match Paths::find(args.wishes(file)) {
        Ok(place) => place,
        Err(error) => return fail(USAGE, &error),
    };
    let shown = system::home::shown(&place.config);
    let missing =
        std::fs::metadata(&place.config).is_err_and(|it| it.kind() == std::io::ErrorKind::NotFound);
    if missing && named {
        return fail(USAGE, &format!("there is no file {shown}"));
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    let loaded = match runtime {
        Ok(runtime) => {
            let machine = Machine {
                first_port: system::limits::first_port(),
            };
            let now = Clock::real().now();
            runtime.block_on(load::check(&place, Arc::new(Disk), &machine, now))
        }
        Err(error) => return fail(FAILED, &error),
    };
    match loaded {
        Checked::Good {
            tunnels,
            warnings,
            report,
        } => {
            terminal::say(&report);
            if missing {
                return terminal::answer(&format!(
                    "there is no {shown} yet, so pomd starts with no tunnels\n"
                ));
            }
            let s = |count: usize| if count == 1 { "" } else { "s" };
            let rating = match warnings {
                0 => "good".to_owned(),
                _ => format!("usable, {warnings} warning{}", s(warnings)),
            };
            if tunnels == 0 {
                terminal::say(&format!("{FIRST_TUNNEL}\n"));
            }
            let s = s(tunnels);
            terminal::answer(&format!("{shown} is {rating}: {tunnels} tunnel{s}\n"))
        }
        Checked::Broken(broken) => {
            let count = broken.count;
            terminal::say(&format!(
                "{}{count} error{} in {shown}\n",
                broken.report,
                if count == 1 { "" } else { "s" }
            ));
            ExitCode::from(USAGE)
        }
    }
}

fn start(args: &Args) -> ExitCode {
    // First of all: what is opened before could be taken for a descriptor that is missing.
    let inherited = InheritedSockets::take();
    let handover = Handover::take();
    let mut report = match daemonize::report_owed(args) {
        Ok(report) => report,
        Err(error) => return fail(FAILED, &error),
    };
    match begin(args, inherited, handover.unwrap_or_default(), &mut report) {
        Ok(code) => code,
        Err((code, error)) => match report {
            Some(report) => {
                report.failed(&format!("{error:#}"));
                ExitCode::from(code)
            }
            None => fail(code, &format!("{error:#}")),
        },
    }
}

/// Everything from the first look at the place to the end; a fork makes a `report` owed.
fn begin(
    args: &Args,
    inherited: InheritedSockets,
    handover: Handover,
    report: &mut Option<daemonize::StartReport>,
) -> Result<ExitCode, (u8, anyhow::Error)> {
    let place = Paths::find(args.wishes(None)).map_err(|it| (USAGE, it.into()))?;
    let filter = logging::filter(&args.log).map_err(|it| (USAGE, it.into()))?;
    let restart = Restart::as_started().map_err(|it| (FAILED, it.into()))?;
    let in_background = args.daemonize || args.in_background;
    let held = handover.locks.into_iter().map(|it| it.1);
    let taken = takeover::take(&place, !in_background, &mut held.collect());
    let takeover::Taken { mut locks, words } = taken.map_err(|it| (FAILED, it.into()))?;
    let again = args::again(&place, &args.log, in_background);
    if args.daemonize {
        match daemonize::detach(locks, &again).map_err(|it| (FAILED, it.into()))? {
            daemonize::Side::Parent(code) => return Ok(code),
            daemonize::Side::Child(passed_on, owed) => {
                locks = passed_on;
                *report = Some(owed);
            }
        }
    }
    let start = Start {
        again,
        place,
        filter,
        locks,
        in_background,
        restart,
        inherited: Arc::new(inherited.with_inherited(handover.tunnels)),
        control: handover.control,
        log: handover.log,
        warning: handover.warning,
        words,
    };
    let ended = run(start, report.as_ref());
    ended.map(|()| ExitCode::SUCCESS).map_err(|it| (FAILED, it))
}

/// What is known before the first thread.
struct Start {
    place: Paths,
    filter: tracing_subscriber::EnvFilter,
    locks: Locks,
    /// There is no terminal and no service manager: the log goes to a file.
    in_background: bool,
    restart: Restart,
    inherited: Arc<InheritedSockets>,
    /// The control socket and the log lines of the life before this one, and what went wrong between the two.
    control: Option<Socket>,
    log: Vec<LogLine>,
    warning: Option<String>,
    /// How the locks were come by, for the log.
    words: Vec<String>,
    /// The arguments of a restart.
    again: Vec<OsString>,
}

/// Returns when pomd has ended; does not return if it restarts.
fn run(start: Start, report: Option<&daemonize::StartReport>) -> anyhow::Result<()> {
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
    system::limits::raise_descriptors();
    system::limits::keep_memory_private();
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
    let is_control = |it: &mut Socket| {
        it.address == socket_activation::ListenAddress::Unix(control_socket.clone())
    };
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
    let signals = signals::obey(stop.clone(), options.look.clone());
    let run = pomd::run(options, locks, stop, ready);
    tokio::pin!(run, signals);
    let ended = tokio::select! {
        result = &mut run => {
            result?;
            if !restart.is_requested() {
                return Ok(false);
            }
            // A signal that came meanwhile would be lost with this life.
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

/// There is no log yet, and a person or a script started this.
fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    terminal::say(&format!("error: {error}\n"));
    ExitCode::from(code)
}
