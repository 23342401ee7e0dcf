//! pomctl: argv → one call to pomd → text or JSON → exit code.
//!
//! It knows `control` and nothing of how pomd works inside. The ways through the house:
//!
//! - [`args`] what may be typed, [`commands`] one file for each of them;
//! - [`context`] what every command is given: where pomd is asked, and the [`screen`] it answers on;
//! - [`start`] starts pomd, [`process_end`] tells when it has ended, [`sign_in`] leads a person through a login, [`browser`] decides who shows it to them;
//! - [`waiting`] shows that something takes time; [`near`] guesses what was meant;
//! - [`render`] pure: answers → pages of text; [`outside`] makes text of others safe to show;
//! - [`failure`] every way in which a command can end badly, and its exit code.

mod args;
mod browser;
mod commands;
mod context;
mod failure;
mod log_file;
mod near;
mod outside;
mod process_end;
mod render;
mod screen;
mod sign_in;
mod start;
mod waiting;

use std::process::ExitCode;

use control::{client::Client, place::Place};

use crate::{
    args::Cli,
    context::Context,
    failure::{Exit, Failure},
    screen::Screen,
};

fn main() -> ExitCode {
    let (screen, cli) = match args::read() {
        Ok(read) => read,
        Err(exit) => return exit.into(),
    };
    let connect = match &cli.command {
        Some(args::Command::Connect(args)) => Some(args.clone()),
        _ => None,
    };
    let exit = match (run(cli, screen.clone()), connect) {
        (Ok(exit), _) => exit,
        (Err(failure), Some(args)) => commands::connect::report(&screen, &args, &failure),
        (Err(failure), None) => screen.report(&failure),
    };
    exit.into()
}

fn run(cli: Cli, screen: Screen) -> Result<Exit, Failure> {
    let Some(command) = cli.command else {
        return commands::overview::run(&screen);
    };
    let wishes = cli.globals.wishes();
    let named = Place::names_socket(&wishes);
    let place = Place::find(wishes)?;
    let context = Context {
        client: Client::of(&place, named),
        place,
        may_start: cli.globals.may_start(),
        screen,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|it| Failure::failed(format!("the runtime does not start: {it}")))?;
    let result = runtime.block_on(async {
        tokio::select! {
            result = commands::run(&context, command) => result,
            Ok(()) = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        }
    });
    // An opener of links that hangs must not keep us.
    runtime.shutdown_background();
    result
}
