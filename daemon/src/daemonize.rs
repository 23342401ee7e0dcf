//! Going into the background: `--daemonize`. Must run before any thread is started.
//!
//! The parent waits for the child's report, so that its exit code means "it listens" and its stderr says why not. The
//! child is this process forked, or, where there is no such thing, this program run anew without a console.

use std::{
    ffi::OsString,
    io::{self, PipeReader, PipeWriter, Read, Write},
    process::ExitCode,
    sync::{Mutex, PoisonError},
};

use pomd::{Locks, system::detach};

use crate::{args::Args, terminal};

/// The byte that says: it listens.
const LISTENING: u8 = b'+';
/// The most that the parent takes as an explanation.
const EXPLANATION: u64 = 16 << 10;

/// Which process this is after [`detach`].
pub(crate) enum Side {
    /// The one that was called: ends with this code.
    Parent(ExitCode),
    /// The one that goes on, and owes a report.
    Child(Locks, StartReport),
}

/// Returns the report that is owed from the start: that of a process which a caller started to go on in the background.
pub(crate) fn report_owed(args: &Args) -> io::Result<Option<StartReport>> {
    if !args.report_to_stdout {
        return Ok(None);
    }
    Ok(Some(StartReport::to(detach::stdout_pipe()?)))
}

/// Leaves terminal and session behind. `again` are the arguments with which a new process would go on.
pub(crate) fn detach(locks: Locks, again: &[OsString]) -> io::Result<Side> {
    let (reader, writer) = io::pipe()?;
    let mut arguments = again.to_vec();
    arguments.push("--report-to-stdout".into());
    // The locks pass on to a fork by themselves; a new process takes them itself.
    let locks = detach::FORKS.then_some(locks);
    match detach::detach(writer, &arguments)? {
        detach::Side::Parent => Ok(Side::Parent(await_report(reader))),
        detach::Side::Child(writer) => {
            drop(reader);
            let locks = locks.ok_or_else(|| io::Error::other("a fork without locks"))?;
            Ok(Side::Child(locks, StartReport::to(writer)))
        }
    }
}

/// Tells the parent, once, how the start ended.
pub(crate) struct StartReport(Mutex<Option<PipeWriter>>);

impl StartReport {
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
            // A parent that was killed meanwhile needs no report.
            let _ = pipe.write_all(bytes);
        }
    }
}

/// Tells the person who called, who waits for these words.
fn await_report(mut reader: PipeReader) -> ExitCode {
    let mut report = Vec::new();
    // The good one is a byte, and the pipe may stay open behind it.
    let mut first = reader.by_ref().take(1);
    let result = match first.read_to_end(&mut report) {
        Ok(_) if report == [LISTENING] => return ExitCode::SUCCESS,
        Ok(_) => reader.take(EXPLANATION).read_to_end(&mut report),
        Err(error) => Err(error),
    };
    match (result, report.as_slice()) {
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
