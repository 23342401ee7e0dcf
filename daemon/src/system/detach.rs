//! Going into the background: without a terminal, a session and a caller that waits.

use std::{ffi::OsString, io, io::PipeWriter};

/// Whether this process goes on in a fork of itself; else a new process does, from the start of the program.
pub const FORKS: bool = cfg!(unix);

/// Which process this is after [`detach`].
#[derive(Debug)]
pub enum Side {
    /// The one that was called. It waits for what the other one writes into the pipe.
    Parent,
    /// The one that goes on, with its end of the pipe.
    Child(PipeWriter),
}

/// Detaches from terminal and session. Where the system can't fork, a new process is run with `arguments`, whose standard
/// output is `pipe`. Call it before the first thread.
pub fn detach(pipe: PipeWriter, arguments: &[OsString]) -> io::Result<Side> {
    imp::detach(pipe, arguments)
}

/// Returns the standard output of this process as the pipe that it is.
pub fn stdout_pipe() -> io::Result<PipeWriter> {
    imp::stdout_pipe()
}

#[cfg(unix)]
mod imp {
    use std::os::fd::AsFd;

    use daemonize::{Daemonize, Outcome};

    use super::*;

    /// Forks twice.
    pub(super) fn detach(pipe: PipeWriter, _: &[OsString]) -> io::Result<Side> {
        let daemonize = Daemonize::new().working_directory("/").umask(0o077);
        match daemonize.execute() {
            Outcome::Parent(Ok(_)) => Ok(Side::Parent),
            Outcome::Parent(Err(error)) | Outcome::Child(Err(error)) => {
                Err(io::Error::other(error))
            }
            Outcome::Child(Ok(_)) => Ok(Side::Child(pipe)),
        }
    }

    pub(super) fn stdout_pipe() -> io::Result<PipeWriter> {
        Ok(io::stdout().as_fd().try_clone_to_owned()?.into())
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

    pub(super) fn detach(pipe: PipeWriter, arguments: &[OsString]) -> io::Result<Side> {
        Command::new(env::current_exe()?)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(pipe)
            .stderr(Stdio::null())
            .creation_flags(APART)
            .spawn()?;
        Ok(Side::Parent)
    }

    pub(super) fn stdout_pipe() -> io::Result<PipeWriter> {
        Ok(io::stdout().as_handle().try_clone_to_owned()?.into())
    }
}
