//! A connection that is handed from one process to another as an open descriptor: from pomd to pomctl over the control
//! socket, and from pomctl to ssh over the socket that `ProxyUseFdpass` made its standard output.
//!
//! What is handed over is one end of a loopback TCP pair, for a socket pair knows no reset. Knows bytes and descriptors;
//! must not know routes. Where the system passes no descriptors, each call says so.

use std::{
    io,
    net::{Ipv4Addr, TcpStream as StdTcpStream},
    process::Stdio,
    time::Duration,
};

use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::socket::Socket;

/// Tells whether this system passes descriptors from process to process.
pub const IS_SUPPORTED: bool = cfg!(unix);

/// How long the two ends of a pair may take to find each other: others may fill the queue meanwhile.
const PAIR: Duration = Duration::from_secs(10);

/// Returns two connected sockets on loopback, both ours: whoever else connects meanwhile is not taken.
pub async fn pair() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let near = TcpStream::connect(listener.local_addr()?).await?;
    let far = other_end(&near, &listener);
    let far = timeout(PAIR, far).await.map_err(io::Error::from)??;
    near.set_nodelay(true)?;
    Ok((near, far))
}

/// Returns the connection of `listener` that is `near`'s other end.
async fn other_end(near: &TcpStream, listener: &TcpListener) -> io::Result<TcpStream> {
    loop {
        let (far, _) = listener.accept().await?;
        // A connection that its client reset may have had the address that `near` has now: it has no ends any more.
        let Ok(ends) = far.peer_addr().and_then(|it| Ok((it, far.local_addr()?))) else {
            continue;
        };
        if ends == (near.local_addr()?, near.peer_addr()?) {
            return Ok(far);
        }
    }
}

/// Hands `stream` to the process at the other end of `socket`; this process keeps nothing of it.
pub async fn send(socket: &Socket, stream: TcpStream) -> io::Result<()> {
    imp::send(socket, &blocking(stream)?).await
}

/// Takes a connection that [`send`] handed over. An error, with nothing kept, if another message came or not exactly one
/// connection with it.
pub async fn receive(socket: &Socket) -> io::Result<StdTcpStream> {
    imp::receive(socket).await
}

/// Tells whether standard output is a socket by which ssh takes a descriptor.
pub fn is_taken_by_stdout() -> bool {
    imp::is_taken_by_stdout()
}

/// Hands `stream` to ssh at the other end of standard output.
pub fn send_to_stdout(stream: &StdTcpStream) -> io::Result<()> {
    imp::send_to_stdout(stream)
}

/// Returns what a child gets as a standard stream, so that it reads or writes `stream`.
pub fn stdio(stream: &StdTcpStream) -> io::Result<Stdio> {
    imp::stdio(stream)
}

/// Returns the stream as other programs expect one: that a descriptor does not block is seen by all who share it.
pub fn blocking(stream: TcpStream) -> io::Result<StdTcpStream> {
    let stream = stream.into_std()?;
    stream.set_nonblocking(false)?;
    Ok(stream)
}

#[cfg(unix)]
mod imp {
    use std::{
        io::{self, IoSlice, IoSliceMut},
        mem::MaybeUninit,
        net::TcpStream as StdTcpStream,
        os::fd::{AsFd, BorrowedFd, OwnedFd},
        process::Stdio,
    };

    use rustix::{
        io::{Errno, FdFlags, fcntl_setfd},
        net::{
            AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags,
            SendAncillaryBuffer, SendAncillaryMessage, SendFlags, getsockname, recvmsg, sendmsg,
        },
    };
    use tokio::io::Interest;

    use super::Socket;

    /// The byte that a descriptor travels with: ssh takes any, and a message without one is an end.
    const COMPANION: [u8; 1] = [0];
    /// Room for one descriptor more than is wanted, so that a second one is seen.
    const ROOM: usize = rustix::cmsg_space!(ScmRights(2));

    pub(super) async fn send(socket: &Socket, stream: &StdTcpStream) -> io::Result<()> {
        socket
            .async_io(Interest::WRITABLE, || send_once(socket.as_fd(), stream))
            .await
    }

    pub(super) fn is_taken_by_stdout() -> bool {
        getsockname(io::stdout()).is_ok_and(|it| it.address_family() == AddressFamily::UNIX)
    }

    pub(super) fn send_to_stdout(stream: &StdTcpStream) -> io::Result<()> {
        send_once(io::stdout().as_fd(), stream)
    }

    pub(super) fn stdio(stream: &StdTcpStream) -> io::Result<Stdio> {
        Ok(OwnedFd::from(stream.try_clone()?).into())
    }

    fn send_once(socket: BorrowedFd<'_>, stream: &StdTcpStream) -> io::Result<()> {
        let descriptors = [stream.as_fd()];
        let mut space = [MaybeUninit::uninit(); ROOM];
        let mut rights = SendAncillaryBuffer::new(&mut space);
        if !rights.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("no room for a descriptor"));
        }
        let bytes = [IoSlice::new(&COMPANION)];
        loop {
            match sendmsg(socket, &bytes, &mut rights, SendFlags::empty()) {
                Err(Errno::INTR) => {}
                sent => return Ok(sent.map(drop)?),
            }
        }
    }

    pub(super) async fn receive(socket: &Socket) -> io::Result<StdTcpStream> {
        let take = || receive_once(socket.as_fd());
        let mut taken = socket.async_io(Interest::READABLE, take).await?;
        let (Some(stream), true) = (taken.pop(), taken.is_empty()) else {
            return Err(wrong("not one descriptor came"));
        };
        // What is no connection over TCP has no such address.
        let stream = StdTcpStream::from(stream);
        stream
            .peer_addr()
            .map_err(|_| wrong("the descriptor is no connection"))?;
        Ok(stream)
    }

    fn receive_once(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); ROOM];
        let mut rights = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0; 1];
        let received = loop {
            let bytes = &mut [IoSliceMut::new(&mut byte)];
            match recvmsg(socket, bytes, &mut rights, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                received => break received?,
            }
        };
        let mut taken = Vec::new();
        for message in rights.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                taken.extend(descriptors);
            }
        }
        for descriptor in &taken {
            fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
        }
        if received.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if byte != COMPANION || received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(wrong("another message came instead of a descriptor"));
        }
        Ok(taken)
    }

    fn wrong(what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, what)
    }
}

#[cfg(not(unix))]
mod imp {
    use std::{io, net::TcpStream as StdTcpStream, process::Stdio};

    use super::Socket;

    #[expect(clippy::unused_async, reason = "as on other systems")]
    pub(super) async fn send(_: &Socket, _: &StdTcpStream) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[expect(clippy::unused_async, reason = "as on other systems")]
    pub(super) async fn receive(_: &Socket) -> io::Result<StdTcpStream> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn is_taken_by_stdout() -> bool {
        false
    }

    pub(super) fn send_to_stdout(_: &StdTcpStream) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    pub(super) fn stdio(_: &StdTcpStream) -> io::Result<Stdio> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
