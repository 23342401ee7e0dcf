//! The control channel as the platform has it: a Unix socket, or a named pipe. Which of them, and how its other end is
//! made out, is known here alone.

use std::{io, path::Path};

use interprocess::local_socket::tokio::Stream;

pub use imp::{Reader, Socket, Writer};

/// Returns the bytes of a connected channel, with an end of their own for each direction where the platform has that.
pub fn socket(stream: Stream) -> Socket {
    imp::socket(stream)
}

/// Returns the two directions of a channel, each for a task of its own.
pub fn split(socket: Socket) -> (Reader, Writer) {
    imp::split(socket)
}

/// Waits until the other end is closed altogether, so that nobody reads what is written: it may have ended its own
/// direction long before. Takes a descriptor while it waits.
pub async fn closed(reader: &Reader) -> io::Result<()> {
    imp::closed(reader).await
}

/// Connects to whoever listens at `path`.
pub async fn connect(path: &Path) -> io::Result<Stream> {
    imp::connect(path).await
}

/// Returns whose program listens at the other end, in words, if it is not one of this user's. Call it before a byte is
/// sent.
pub fn other_user(stream: &Stream) -> io::Result<Option<String>> {
    imp::other_user(stream)
}

/// Returns the process that listens at the other end, where the system tells.
pub fn process(stream: &Stream) -> Option<u32> {
    imp::process(stream)
}

#[cfg(unix)]
mod imp {
    use std::{io, os::fd::AsFd, path::Path};

    use interprocess::local_socket::{
        GenericFilePath, ToFsName,
        tokio::{Stream, prelude::*},
    };
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use tokio::{
        io::Interest,
        net::unix::{OwnedReadHalf, OwnedWriteHalf},
    };

    /// A connected control socket. Shutting its write side down is seen as an end by the other side.
    pub type Socket = tokio::net::UnixStream;
    /// What is read of it.
    pub type Reader = OwnedReadHalf;
    /// What is written to it; ends this direction when it is dropped.
    pub type Writer = OwnedWriteHalf;

    /// The socket behind a stream of `interprocess`, whose own shutdown does nothing.
    pub(super) fn socket(stream: Stream) -> Socket {
        let Stream::UdSocket(stream) = stream;
        stream.into()
    }

    pub(super) fn split(socket: Socket) -> (Reader, Writer) {
        socket.into_split()
    }

    pub(super) async fn closed(reader: &Reader) -> io::Result<()> {
        let socket: &Socket = reader.as_ref();
        // A second registration: to wait for an end on the first would hide from its writer that it can write.
        let again = std::os::unix::net::UnixStream::from(socket.as_fd().try_clone_to_owned()?);
        let again = Socket::from_std(again)?;
        // An end changes whether it can be written, or that it could.
        let look = || match is_closed(&again)? {
            true => Ok(()),
            false => Err(io::ErrorKind::WouldBlock.into()),
        };
        again.async_io(Interest::WRITABLE, look).await
    }

    fn is_closed(socket: &Socket) -> io::Result<bool> {
        let mut looked_at = [PollFd::new(socket, PollFlags::empty())];
        poll(&mut looked_at, Some(&Timespec::default()))?;
        let ends = PollFlags::HUP | PollFlags::ERR;
        Ok(looked_at[0].revents().intersects(ends))
    }

    pub(super) async fn connect(path: &Path) -> io::Result<Stream> {
        Stream::connect(path.to_fs_name::<GenericFilePath>()?).await
    }

    pub(super) fn process(stream: &Stream) -> Option<u32> {
        let pid = stream.peer_creds().ok()?.pid()?;
        // 0: a process of another namespace.
        u32::try_from(pid).ok().filter(|it| *it > 0)
    }

    pub(super) fn other_user(stream: &Stream) -> io::Result<Option<String>> {
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
    /// What is read of it.
    pub type Reader = tokio::io::ReadHalf<Stream>;
    /// What is written to it.
    pub type Writer = tokio::io::WriteHalf<Stream>;

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

    pub(super) fn split(socket: Socket) -> (Reader, Writer) {
        tokio::io::split(socket)
    }

    /// That the one direction ended was the end of both.
    #[expect(clippy::unused_async, reason = "as on other systems")]
    pub(super) async fn closed(_: &Reader) -> io::Result<()> {
        Ok(())
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
    pub(super) fn other_user(stream: &Stream) -> io::Result<Option<String>> {
        let server = stream.peer_creds()?.pid();
        let theirs = server.and_then(user::sid_of);
        if theirs.is_some() && theirs == user::own_sid() {
            return Ok(None);
        }
        Ok(Some(theirs.unwrap_or_else(|| "unknown".to_owned())))
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn q7_an_end_of_one_direction_is_not_yet_the_end_of_both() {
        let (mut theirs, ours) = Socket::pair().unwrap();
        let (mut reader, mut writer) = split(ours);
        theirs.shutdown().await.unwrap();
        assert_eq!(reader.read(&mut [0]).await.unwrap(), 0);
        let end = closed(&reader);
        let mut end = std::pin::pin!(end);
        // It is still there to read, more than a buffer holds.
        let said = vec![7; 4 << 20];
        let mut heard = vec![0; said.len()];
        let talk = async {
            tokio::try_join!(writer.write_all(&said), theirs.read_exact(&mut heard)).unwrap();
        };
        tokio::select! {
            ended = &mut end => unreachable!("{ended:?}"),
            () = talk => {}
        }
        assert!(said == heard);
        drop(theirs);
        end.await.unwrap();
    }
}
