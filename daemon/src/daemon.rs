//! Going into the background: `--daemonize`. Must run before any thread is started.
//!
//! The parent waits for the child's verdict, so that its exit code means "it listens" and its stderr says why not. The
//! child is this process forked, or, where there is no such thing, this program run anew without a console.

use std::{
    ffi::OsString,
    io::{self, PipeReader, PipeWriter, Read, Write},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use pomd::Locks;

use crate::{args::Args, terminal};

/// The byte that says: it listens.
const LISTENING: u8 = b'+';
/// The most that the parent takes as an explanation.
const EXPLANATION: u64 = 16 << 10;

/// Which process this is after [`detach`].
pub(crate) enum Side {
    /// The one that was called: ends with this code.
    Parent(ExitCode),
    /// The one that goes on, and owes a verdict.
    #[cfg_attr(
        windows,
        expect(
            dead_code,
            reason = "there the child begins at the start of the program"
        )
    )]
    Child(Locks, Verdict),
}

/// A verdict that is owed from the start.
pub(crate) fn verdict_owed(args: &Args) -> io::Result<Option<Verdict>> {
    imp::verdict_owed(args)
}

/// Leaves terminal and session behind. `again` are the arguments with which a new process would go on.
pub(crate) fn detach(locks: Locks, again: &[OsString]) -> io::Result<Side> {
    imp::detach(locks, again)
}

/// Tells the parent, once, how the start ended.
pub(crate) struct Verdict(Mutex<Option<PipeWriter>>);

impl Verdict {
    fn to(pipe: PipeWriter) -> Self {
        Self(Mutex::new(Some(pipe)))
    }

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

#[cfg(unix)]
mod imp {
    use daemonize::{Daemonize, Outcome};

    use super::*;

    /// Forks twice. The locks pass on by themselves.
    pub(super) fn detach(locks: Locks, _: &[OsString]) -> io::Result<Side> {
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
            Outcome::Parent(Err(error)) | Outcome::Child(Err(error)) => {
                Err(io::Error::other(error))
            }
            Outcome::Child(Ok(_)) => {
                drop(reader);
                Ok(Side::Child(locks, Verdict::to(writer)))
            }
        }
    }

    /// Only a fork owes one.
    pub(super) fn verdict_owed(_: &Args) -> io::Result<Option<Verdict>> {
        Ok(None)
    }
}

#[cfg(windows)]
mod imp {
    use std::{
        env,
        os::windows::{io::AsHandle, process::CommandExt},
        process::{Command, Stdio},
    };

    use super::*;

    /// `DETACHED_PROCESS` and `CREATE_NEW_PROCESS_GROUP`: no console, and no Ctrl-C of somebody else's.
    const APART: u32 = 0x0000_0008 | 0x0000_0200;

    /// Runs this program anew; it takes the locks itself.
    pub(super) fn detach(locks: Locks, again: &[OsString]) -> io::Result<Side> {
        drop(locks);
        let (reader, writer) = io::pipe()?;
        Command::new(env::current_exe()?)
            .args(again)
            .arg("--verdict-to-stdout")
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::null())
            .creation_flags(APART)
            .spawn()?;
        Ok(Side::Parent(await_verdict(reader)))
    }

    /// This may be the new process, whose stdout leads to the one that was called.
    pub(super) fn verdict_owed(args: &Args) -> io::Result<Option<Verdict>> {
        if !args.verdict_to_stdout {
            return Ok(None);
        }
        let stdout = io::stdout().as_handle().try_clone_to_owned()?;
        Ok(Some(Verdict::to(stdout.into())))
    }
}

/// Tells the person who called, who waits for these words.
fn await_verdict(mut reader: PipeReader) -> ExitCode {
    let mut verdict = Vec::new();
    // The good one is a byte, and the pipe may stay open behind it.
    let mut first = reader.by_ref().take(1);
    let result = match first.read_to_end(&mut verdict) {
        Ok(_) if verdict == [LISTENING] => return ExitCode::SUCCESS,
        Ok(_) => reader.take(EXPLANATION).read_to_end(&mut verdict),
        Err(error) => Err(error),
    };
    match (result, verdict.as_slice()) {
        (Ok(_), []) => {
            terminal::say("error: pomd ended right after its start and did not say why\n");
        }
        (Ok(_), why) => {
            let why = control::text::clean(&String::from_utf8_lossy(why), 2_000);
            terminal::say(&format!("error: {why}\n"));
        }
        (Err(error), _) => {
            terminal::say(&format!(
                "error: cannot tell whether pomd started: {error}\n"
            ));
        }
    }
    ExitCode::FAILURE
}
