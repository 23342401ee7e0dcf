//! The control channel as the platform has it: a Unix socket, or a named pipe. Which of them, and how its other end is
//! made out, is known here alone.

use std::{io, path::Path};

use interprocess::local_socket::tokio::Stream;

pub use imp::Socket;

/// The bytes of a connected channel, with an end of their own for each direction where the platform has that.
pub fn socket(stream: Stream) -> Socket {
    imp::socket(stream)
}

/// Connects to whoever listens at `path`.
pub async fn connect(path: &Path) -> io::Result<Stream> {
    imp::connect(path).await
}

/// Who listens at the other end, in words, if it is not a program of this user's. To be asked before a byte is sent.
pub fn stranger(stream: &Stream) -> io::Result<Option<String>> {
    imp::stranger(stream)
}

/// The process that listens at the other end, where the system tells.
pub fn process(stream: &Stream) -> Option<u32> {
    imp::process(stream)
}

#[cfg(unix)]
mod imp {
    use std::{io, path::Path};

    use interprocess::local_socket::{
        GenericFilePath, ToFsName,
        tokio::{Stream, prelude::*},
    };

    /// A connected control socket. Shutting its write side down is seen as an end by the other side.
    pub type Socket = tokio::net::UnixStream;

    /// The socket behind a stream of `interprocess`, whose own shutdown does nothing.
    pub(super) fn socket(stream: Stream) -> Socket {
        let Stream::UdSocket(stream) = stream;
        stream.into()
    }

    pub(super) async fn connect(path: &Path) -> io::Result<Stream> {
        Stream::connect(path.to_fs_name::<GenericFilePath>()?).await
    }

    pub(super) fn process(stream: &Stream) -> Option<u32> {
        let pid = stream.peer_creds().ok()?.pid()?;
        // 0: a process of another namespace.
        u32::try_from(pid).ok().filter(|it| *it > 0)
    }

    pub(super) fn stranger(stream: &Stream) -> io::Result<Option<String>> {
        let ours = rustix::process::geteuid().as_raw();
        let theirs = stream.peer_creds()?.euid().filter(|uid| *uid != ours);
        Ok(theirs.map(|uid| format!("uid {uid}")))
    }
}

#[cfg(windows)]
mod imp {
    use std::{
        fs::OpenOptions, io, os::windows::fs::OpenOptionsExt, os::windows::io::OwnedHandle,
        path::Path, time::Duration,
    };

    use interprocess::{
        local_socket::tokio::{Stream, prelude::*},
        os::windows::named_pipe::local_socket::tokio::Stream as Pipe,
    };

    use crate::user;

    /// A connected control pipe. Pipes end in both directions at once.
    pub type Socket = Stream;

    /// `FILE_FLAG_OVERLAPPED`: what waits for the pipe does not keep a thread.
    const OVERLAPPED: u32 = 0x4000_0000;
    /// `SECURITY_IDENTIFICATION`: whoever listens may learn who we are, and not act in our name.
    const IDENTIFICATION: u32 = 0x0001_0000;
    /// `ERROR_PIPE_BUSY`: the server has not made the pipe for the next client yet.
    const BUSY: i32 = 231;
    const AGAIN: Duration = Duration::from_millis(10);

    pub(super) fn socket(stream: Stream) -> Socket {
        stream
    }

    pub(super) async fn connect(path: &Path) -> io::Result<Stream> {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(OVERLAPPED)
            .security_qos_flags(IDENTIFICATION);
        loop {
            match options.open(path) {
                Ok(file) => return pipe(file.into()),
                Err(error) if error.raw_os_error() == Some(BUSY) => {
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn pipe(handle: OwnedHandle) -> io::Result<Stream> {
        let pipe = Pipe::try_from(handle).map_err(|it| io::Error::other(it.to_string()))?;
        Ok(Stream::NamedPipe(pipe))
    }

    pub(super) fn process(stream: &Stream) -> Option<u32> {
        stream.peer_creds().ok()?.pid()
    }

    /// The server's process names its user. One that may not be looked at is another user's.
    pub(super) fn stranger(stream: &Stream) -> io::Result<Option<String>> {
        let server = stream.peer_creds()?.pid();
        let theirs = server.and_then(user::sid_of);
        if theirs.is_some() && theirs == user::own_sid() {
            return Ok(None);
        }
        Ok(Some(theirs.unwrap_or_else(|| "unknown".to_owned())))
    }
}
