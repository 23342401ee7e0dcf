//! Going into the background: `--daemonize`. Must run before any thread is started.
//!
//! The parent waits for the child's verdict, so that its exit code means "it listens" and its stderr says why not.

use std::{
    io::{self, PipeReader, PipeWriter, Read, Write},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

/// The byte that says: it listens.
const LISTENING: u8 = b'+';
/// The most that the parent takes as an explanation.
const EXPLANATION: u64 = 16 << 10;

/// Which process this is after the fork.
pub(crate) enum Side {
    /// The one that was called: ends with this code.
    Parent(ExitCode),
    /// The one that goes on, and owes a verdict.
    Child(Verdict),
}

/// Tells the parent, once, how the start ended.
pub(crate) struct Verdict(Mutex<Option<PipeWriter>>);

impl Verdict {
    /// The control socket answers.
    pub(crate) fn listening(&self) {
        self.tell(&[LISTENING]);
    }

    /// It did not come to that.
    pub(crate) fn failed(&self, why: &str) {
        self.tell(why.as_bytes());
    }

    fn tell(&self, bytes: &[u8]) {
        let pipe = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut pipe) = pipe {
            // A parent that was killed meanwhile needs no verdict.
            let _ = pipe.write_all(bytes);
        }
    }
}

/// Forks twice and leaves terminal and session behind.
#[cfg(unix)]
pub(crate) fn detach() -> io::Result<Side> {
    use daemonize::{Daemonize, Outcome};

    let (reader, writer) = io::pipe()?;
    match Daemonize::new()
        .working_directory("/")
        .umask(0o077)
        .execute()
    {
        Outcome::Parent(Ok(_)) => {
            drop(writer);
            Ok(Side::Parent(await_verdict(reader)))
        }
        Outcome::Parent(Err(error)) | Outcome::Child(Err(error)) => Err(io::Error::other(error)),
        Outcome::Child(Ok(_)) => {
            drop(reader);
            Ok(Side::Child(Verdict(Mutex::new(Some(writer)))))
        }
    }
}

/// A process without a console is what the task scheduler starts; there is nothing to detach from.
#[cfg(not(unix))]
pub(crate) fn detach() -> io::Result<Side> {
    Err(io::Error::other(
        "--daemonize is for Unix; here, start pomd without a console instead",
    ))
}

#[expect(
    clippy::print_stderr,
    reason = "the person who called waits for these words"
)]
fn await_verdict(reader: PipeReader) -> ExitCode {
    let mut verdict = Vec::new();
    let result = reader.take(EXPLANATION).read_to_end(&mut verdict);
    match (result, verdict.as_slice()) {
        (Ok(_), [LISTENING]) => return ExitCode::SUCCESS,
        (Ok(_), []) => eprintln!("error: pomd ended right after its start and did not say why"),
        (Ok(_), why) => eprintln!(
            "error: {}",
            control::text::clean(&String::from_utf8_lossy(why), 2_000)
        ),
        (Err(error), _) => eprintln!("error: cannot tell whether pomd started: {error}"),
    }
    ExitCode::FAILURE
}
