//! pomctl: argv → one call to pomd → text or JSON → exit code.
//!
//! It knows `control`, and of `pomd-core` what the configuration means; nothing of how pomd works inside. The ways through
//! the house:
//!
//! - [`args`] what may be typed, [`guesses`] what is typed instead, [`commands`] one file for each of them;
//! - [`context`] what every command is given: where pomd is asked, and the [`screen`] it answers on;
//! - [`completions`] tells a shell what could be typed;
//! - [`config_store`] reads and replaces the configuration file, for commands that work without pomd;
//! - [`start`] starts pomd, [`process_end`] tells when it has ended, [`sign_in`] leads a person through a login, [`paste`] reads its address where it ended elsewhere, from a [`silent`] terminal, [`browser`] decides who shows it to them;
//! - [`interrupt`] ends a command on Ctrl-C, whatever it is stuck in; [`waiting`] shows that something takes time;
//! - [`render`] pure: answers → pages of text; [`sanitise`] makes text of others safe to show;
//! - [`error`] every way in which a command can end badly, and its exit code.

mod args;
mod browser;
mod commands;
mod completions;
mod config_store;
mod context;
mod error;
mod guesses;
mod interrupt;
mod paste;
mod process_end;
mod render;
mod sanitise;
mod screen;
mod sign_in;
#[cfg_attr(not(unix), path = "silent/no_terminal.rs")]
mod silent;
mod start;
mod waiting;

use std::{io, process::ExitCode};

use control::{client::Client, paths::Paths};

use crate::{
    args::Cli,
    context::Context,
    error::{CliError, Exit},
    screen::Screen,
};

fn main() -> ExitCode {
    if let Some(exit) = completions::answer() {
        return exit;
    }
    let (screen, cli) = match args::read() {
        Ok(read) => read,
        Err(exit) => return exit.into(),
    };
    let connect = match &cli.command {
        Some(args::Command::Connect(args)) => Some(args.clone()),
        _ => None,
    };
    let in_passing = matches!(cli.command, Some(args::Command::KubeCredential(_)));
    let exit = match (run(cli, screen.clone()), connect) {
        (Ok(exit), _) => exit,
        (Err(failure), Some(args)) => commands::connect::report(&screen, &args, &failure),
        (Err(failure), None) if in_passing => {
            commands::connect::report_in_passing(&screen, &failure)
        }
        (Err(failure), None) => screen.report(&failure),
    };
    exit.into()
}

fn run(cli: Cli, screen: Screen) -> Result<Exit, CliError> {
    let Some(command) = cli.command else {
        return commands::overview::run(&screen);
    };
    let overrides = cli.globals.overrides();
    let named = Paths::names_socket(&overrides);
    let paths = Paths::find(overrides.clone())?;
    let context = Context {
        client: Client::of(&paths, named),
        paths,
        overrides,
        may_start: cli.globals.may_start(),
        screen,
    };
    let no_runtime = |it: io::Error| CliError::failed(format!("the runtime does not start: {it}"));
    let runtime = runtime().map_err(no_runtime)?;
    let interrupted = match command {
        args::Command::Edit => interrupt::leave_to_child(),
        _ => interrupt::watch(),
    };
    let interrupted = interrupted.map_err(no_runtime)?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = commands::run(&context, command) => result,
            Ok(()) = interrupted => Err(CliError::Interrupted),
        }
    });
    // An opener of links that hangs must not keep us.
    runtime.shutdown_background();
    result
}

fn runtime() -> io::Result<tokio::runtime::Runtime> {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build()
}
