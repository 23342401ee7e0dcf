//! What pomd says on its standard streams before it has a log, and to whoever called it for an answer.

use std::{
    io::{ErrorKind, Write},
    process::ExitCode,
};

use control::stdio;

/// Writes the answer to standard output. The code is 1 if it cannot be written; a reader that left has all it wanted.
pub(crate) fn answer(text: &str) -> ExitCode {
    match stdio::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("error: cannot write the answer: {error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard error. That nobody can read it changes nothing: the exit code tells too.
pub(crate) fn say(text: &str) {
    let _ = stdio::stderr().write_all(text.as_bytes());
}
