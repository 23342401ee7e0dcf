//! pomd: argv, locks, detaching, logging, runtime, signals, exit code; in this order, each judged in the user's terminal
//! as long as there is one.

mod args;
mod check;
mod daemonize;
mod lifetime;
mod listeners;
mod signals;
mod takeover;
mod terminal;

use std::{process::ExitCode, sync::Arc};

use args::{Action, Args};
use clap::Parser;
use control::paths::Paths;
use pomd::{
    logging,
    restart::Restart,
    system::{handover::Handover, socket_activation::InheritedSockets},
};

/// It failed.
const FAILED: u8 = 1;
/// Usage or configuration.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return usage(&error),
    };
    if args.takes_handover {
        return ExitCode::SUCCESS;
    }
    match args.action {
        Some(Action::Check { ref file }) => check::check(&args, file.clone()),
        Some(Action::Listeners) => listeners::listeners(&args),
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
    let start = lifetime::Start {
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
    let ended = lifetime::run(start, report.as_ref());
    ended.map(|()| ExitCode::SUCCESS).map_err(|it| (FAILED, it))
}

/// There is no log yet, and a person or a script started this.
fn fail(code: u8, error: &dyn std::fmt::Display) -> ExitCode {
    terminal::say(&format!("error: {error}\n"));
    ExitCode::from(code)
}
