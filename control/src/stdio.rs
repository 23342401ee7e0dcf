//! Standard input, output and error in whatever state they were inherited.
//!
//! A descriptor that a parent made non-blocking (`O_NONBLOCK` belongs to the open file, which the parent and its other
//! children share) answers `EAGAIN` where another one would wait. It is waited for here, and the flag is left as it is:
//! setting it back would change the parent's own descriptor. A descriptor that cannot be written at all is an error,
//! where [`std::io::stdout`] takes the bytes and drops them.
//!
//! Descriptors that were closed when the program began lead to `/dev/null`: the runtime of Rust opens it before `main`,
//! so that no file takes their numbers.

mod tasks;
#[cfg(unix)]
#[cfg(test)]
mod tests;

use std::{
    fmt,
    io::{self, Read, Write},
};

pub use tasks::{AsyncInput, AsyncOutput};

/// One of the three standard streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stream {
    Input,
    Output,
    Error,
}

/// Standard output or standard error, written without a buffer.
#[derive(Debug)]
pub struct Output(Stream);

/// Standard input, read without a buffer.
#[derive(Debug)]
pub struct Input(());

/// Returns standard output.
pub fn stdout() -> Output {
    Output(Stream::Output)
}

/// Returns standard error.
pub fn stderr() -> Output {
    Output(Stream::Error)
}

/// Returns standard input.
pub fn stdin() -> Input {
    Input(())
}

impl Write for Output {
    /// Waits until something of `bytes` can be written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        imp::write(self.0, bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Input {
    /// Waits until something can be read.
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        imp::read(to)
    }
}

/// Waits until the reader of standard output is gone, which a pipe, a socket or a terminal tells without being written
/// to. For ever where the platform or the kind of file does not tell, and without a runtime's help afterwards: the thread
/// that waits ends with the process.
pub async fn reader_gone() {
    match tokio::task::spawn_blocking(imp::await_reader_gone).await {
        Ok(true) => {}
        _ => std::future::pending().await,
    }
}

/// Why a standard stream failed, inside the [`io::Error`] of [`AsyncInput`] and [`AsyncOutput`]: tells their failures
/// from those of what they are connected with.
#[derive(Debug, thiserror::Error)]
#[error("cannot {} standard {stream}: {source}", .stream.verb())]
pub struct StdioError {
    stream: Stream,
    source: io::Error,
}

impl StdioError {
    /// Returns `source` under the name of the stream, with its kind.
    fn wrap(stream: Stream, source: io::Error) -> io::Error {
        io::Error::new(source.kind(), Self { stream, source })
    }

    /// Returns the failure of a standard stream that `error` is, if it is one.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

impl Stream {
    fn verb(self) -> &'static str {
        match self {
            Self::Input => "read",
            Self::Output | Self::Error => "write",
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Input => "input",
            Self::Output => "output",
            Self::Error => "error",
        })
    }
}

#[cfg(unix)]
mod imp {
    use std::{
        io,
        os::fd::{AsFd, BorrowedFd},
    };

    use rustix::{
        event::{PollFd, PollFlags, Timespec, poll},
        io::Errno,
    };

    use super::Stream;

    pub(super) fn write(stream: Stream, bytes: &[u8]) -> io::Result<usize> {
        match stream {
            Stream::Error => write_to(io::stderr().as_fd(), bytes),
            Stream::Input | Stream::Output => write_to(io::stdout().as_fd(), bytes),
        }
    }

    pub(super) fn read(to: &mut [u8]) -> io::Result<usize> {
        read_from(io::stdin().as_fd(), to)
    }

    /// True once the reader is gone; false where that cannot be told.
    pub(super) fn await_reader_gone() -> bool {
        await_end(io::stdout().as_fd())
    }

    pub(super) fn write_to(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<usize> {
        let written = waiting(file, PollFlags::OUT, || rustix::io::write(file, bytes));
        // A terminal that is gone says EIO where a pipe without a reader says EPIPE.
        written.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::IO) if has_ended(file) => Errno::PIPE.into(),
            _ => error,
        })
    }

    pub(super) fn read_from(file: BorrowedFd<'_>, to: &mut [u8]) -> io::Result<usize> {
        waiting(file, PollFlags::IN, || rustix::io::read(file, &mut *to))
    }

    /// Errors and hang-ups are told whatever is asked for; nothing else is.
    pub(super) fn await_end(file: BorrowedFd<'_>) -> bool {
        let mut watched = [PollFd::from_borrowed_fd(file, PollFlags::empty())];
        loop {
            match poll(&mut watched, None) {
                Ok(1..) => {
                    let ends = PollFlags::ERR | PollFlags::HUP;
                    return watched[0].revents().intersects(ends);
                }
                Ok(0) | Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }

    fn has_ended(file: BorrowedFd<'_>) -> bool {
        let mut looked_at = [PollFd::from_borrowed_fd(file, PollFlags::empty())];
        let ends = PollFlags::ERR | PollFlags::HUP;
        poll(&mut looked_at, Some(&Timespec::default())).is_ok()
            && looked_at[0].revents().intersects(ends)
    }

    fn waiting(
        file: BorrowedFd<'_>,
        event: PollFlags,
        mut work: impl FnMut() -> rustix::io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match work() {
                Err(Errno::INTR) => {}
                // What else may be the matter, the next try tells.
                Err(Errno::AGAIN) => {
                    match poll(&mut [PollFd::from_borrowed_fd(file, event)], None) {
                        Ok(_) | Err(Errno::INTR) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
                ended => return Ok(ended?),
            }
        }
    }
}

#[cfg(not(unix))]
mod imp {
    use std::io::{self, Read, Write};

    use super::Stream;

    pub(super) fn write(stream: Stream, bytes: &[u8]) -> io::Result<usize> {
        match stream {
            Stream::Error => flushed(io::stderr().lock(), bytes),
            Stream::Input | Stream::Output => flushed(io::stdout().lock(), bytes),
        }
    }

    fn flushed(mut to: impl Write, bytes: &[u8]) -> io::Result<usize> {
        to.write_all(bytes)?;
        to.flush()?;
        Ok(bytes.len())
    }

    pub(super) fn read(to: &mut [u8]) -> io::Result<usize> {
        io::stdin().lock().read(to)
    }

    /// A reader that left is seen by the next write.
    pub(super) fn await_reader_gone() -> bool {
        false
    }
}
