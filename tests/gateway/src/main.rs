//! `pomd-demo`: what `pomctl demo` runs. A simulated Pomerium on this machine, a real pomd beside this program, and
//! bytes that really go through both. Nothing of the user's is touched, and nothing is left.

mod play;
mod stage;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::OnceLock,
};

use control::stdio;
use stage::Stage;

const HELP: &str = "\
See pomd work without Pomerium: a simulated one on this machine, with two services behind it.

Usage: pomctl demo [--fast]

  --fast   runs unattended: signs in by itself, shows everything once, and ends
  --help   this text
";

/// Interrupted by a person, as shells count it.
const INTERRUPTED: u8 = 130;

/// Why the person did not see all of it.
static UNSEEN: OnceLock<io::Error> = OnceLock::new();

fn main() -> ExitCode {
    let code = run();
    match UNSEEN.get() {
        Some(error) => {
            complain(&format!("cannot write to standard output: {error}"));
            ExitCode::from(code.max(1))
        }
        None => ExitCode::from(code),
    }
}

fn run() -> u8 {
    let mut fast = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--fast" => fast = true,
            "-h" | "--help" => {
                say(HELP.trim_end());
                return 0;
            }
            other => {
                complain(&format!("unknown argument {other}; there is only --fast"));
                return 2;
            }
        }
    }
    let runtime = tokio::runtime::Runtime::new();
    match runtime {
        Ok(runtime) => {
            let code = runtime.block_on(demo(fast));
            // A thread may still wait for a line from the terminal; nobody waits for it.
            runtime.shutdown_background();
            code
        }
        Err(error) => {
            complain(&format!("cannot start: {error}"));
            1
        }
    }
}

async fn demo(fast: bool) -> u8 {
    let by_hand = !fast && io::stdin().is_terminal();
    let mut stage = None;
    let shown = tokio::select! {
        shown = play::play(&mut stage, fast, by_hand) => shown.map(|()| true),
        () = interrupted() => Ok(false),
    };
    let words = stage.as_ref().map(Stage::words).unwrap_or_default();
    let removed = match stage {
        Some(stage) => stage.end().await,
        None => Ok(()),
    };
    match (shown, removed) {
        (Ok(true), Ok(())) => {
            say("\nEvery byte was right. pomd is stopped, and all of this is removed.");
            say("Next: pomctl status shows what to write for a Pomerium of your own.");
            0
        }
        (Ok(false), Ok(())) => {
            say("\nInterrupted. pomd is stopped, and all of this is removed.");
            INTERRUPTED
        }
        (Err(error), _) => {
            complain(&format!("{error:#}"));
            if !words.is_empty() && !error.is::<play::NobodyCame>() {
                complain(&format!("the last words of pomd:\n{words}"));
            }
            1
        }
        (Ok(_), Err(error)) => {
            complain(&format!("not all of it could be removed: {error:#}"));
            1
        }
    }
}

/// Ctrl-C, or being told to end.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut told) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = told.recv() => return,
                Ok(()) = tokio::signal::ctrl_c() => return,
            }
        }
    }
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}

/// One line or more for the person. A reader that left ends nothing.
fn say(text: &str) {
    match stdio::stdout().write_all(format!("{text}\n").as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let _ = UNSEEN.set(error);
        }
        _ => {}
    }
}

fn complain(text: &str) {
    let _ = stdio::stderr().write_all(format!("error: {text}\n").as_bytes());
}
