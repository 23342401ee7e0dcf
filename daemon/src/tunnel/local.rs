//! The local side of a connection: a TCP or a Unix socket, and who has its other end.
//!
//! What differs between the two is told here and nowhere else. A Unix socket knows no reset: where a TCP client would see
//! one, its client sees an end.

use std::{
    io,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, Interest, ReadBuf, Ready},
    net::TcpStream,
};

use crate::{
    system::unix_socket::{self, UnixStream},
    upstream::EarlySource,
};

/// How long a refused client is read from: closed at once, it would not show what it was told.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

/// One accepted connection.
#[derive(Debug)]
pub enum Local {
    /// On a port.
    Tcp(TcpStream),
    /// On a socket in the file system.
    Unix(UnixStream),
}

/// The two ends of an accepted connection, as the system names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    /// Two addresses.
    Tcp {
        /// The client's.
        theirs: SocketAddr,
        /// The listener's.
        ours: SocketAddr,
    },
    /// The process that connected, and its user.
    Unix {
        /// The user.
        uid: u32,
        /// The process, if it is one that we can name.
        pid: Option<u32>,
    },
}

impl Local {
    /// Small pieces leave at once.
    pub(super) fn hasten(&self) {
        match self {
            Self::Tcp(it) => {
                let _ = it.set_nodelay(true);
            }
            // It never waits.
            Self::Unix(_) => {}
        }
    }

    /// Waits until something is there to read, and takes nothing. `Ok(0)`: the other side ended.
    pub(super) async fn peek(&self) -> io::Result<usize> {
        let look = || {
            let mut byte = [MaybeUninit::uninit()];
            self.socket().peek(&mut byte)
        };
        match self {
            Self::Tcp(it) => it.async_io(Interest::READABLE, look).await,
            Self::Unix(it) => it.async_io(Interest::READABLE, look).await,
        }
    }

    /// Something is there to read at this moment.
    pub(super) fn has_unread(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        matches!(self.socket().peek(&mut byte), Ok(1))
    }

    /// Waits until the socket is ready for one of `interest`.
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(it) => it.ready(interest).await,
            Self::Unix(it) => it.ready(interest).await,
        }
    }

    /// Ready once a read would bring bytes, an end or an error.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(it) => it.poll_read_ready(cx),
            Self::Unix(it) => it.poll_read_ready(cx),
        }
    }

    /// An error if the connection broke, even if bytes of it can still be read. A Unix socket knows no such thing.
    pub(super) fn check(&self) -> io::Result<()> {
        match self {
            Self::Tcp(it) => it.peer_addr().map(drop),
            Self::Unix(_) => Ok(()),
        }
    }

    /// Says the last words, then reads until the client ends: ssh and browsers drop what they were told when they are
    /// closed upon.
    pub(super) async fn say_and_close(mut self, words: &[u8]) {
        let told = async {
            self.write_all(words).await?;
            self.shutdown().await?;
            let mut rest = [0; 1024];
            while self.read(&mut rest).await? > 0 {}
            io::Result::Ok(())
        };
        // Whatever it ends with, the client is gone or had its time.
        let _ = tokio::time::timeout(DRAIN, told).await;
    }

    /// Closes it so that the other side sees an error, if it can.
    pub(super) fn reset(self) {
        match &self {
            Self::Tcp(it) => {
                let _ = it.set_zero_linger();
            }
            // It knows no reset.
            Self::Unix(_) => {}
        }
    }

    fn socket(&self) -> socket2::SockRef<'_> {
        match self {
            Self::Tcp(it) => it.into(),
            Self::Unix(it) => unix_socket::as_socket(it),
        }
    }
}

impl From<TcpStream> for Local {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl From<UnixStream> for Local {
    fn from(socket: UnixStream) -> Self {
        Self::Unix(socket)
    }
}

/// Reads without owning the socket, so that somebody else can watch it meanwhile.
impl AsyncRead for &Local {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_readable(cx))?;
            let room = to.initialize_unfilled();
            let read = match *self {
                Local::Tcp(it) => it.try_read(room),
                Local::Unix(it) => it.try_read(room),
            };
            match read {
                Ok(length) => {
                    to.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncRead for Local {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(it) => Pin::new(it).poll_read(cx, to),
            Self::Unix(it) => Pin::new(it).poll_read(cx, to),
        }
    }
}

impl EarlySource for &Local {
    fn check(&self) -> io::Result<()> {
        (**self).check()
    }
}

impl AsyncWrite for Local {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(it) => Pin::new(it).poll_write(cx, from),
            Self::Unix(it) => Pin::new(it).poll_write(cx, from),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(it) => Pin::new(it).poll_write_vectored(cx, from),
            Self::Unix(it) => Pin::new(it).poll_write_vectored(cx, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(it) => it.is_write_vectored(),
            Self::Unix(it) => it.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(it) => Pin::new(it).poll_flush(cx),
            Self::Unix(it) => Pin::new(it).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(it) => Pin::new(it).poll_shutdown(cx),
            Self::Unix(it) => Pin::new(it).poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn the_other_end_of_a_unix_socket_is_held_until_it_is_closed() {
        let (mut theirs, ours) = UnixStream::pair().unwrap();
        assert!(unix_socket::is_held(&ours));
        theirs.write_all(b"x").await.unwrap();
        theirs.shutdown().await.unwrap();
        assert!(unix_socket::is_held(&ours), "it only ended its side");
        drop(theirs);
        let closed = async {
            while unix_socket::is_held(&ours) {
                tokio::task::yield_now().await
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(10), closed)
            .await
            .unwrap();
        let ours = Local::from(ours);
        assert_eq!(ours.peek().await.unwrap(), 1);
        assert!(ours.has_unread());
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn what_was_written_to_a_unix_socket_outlives_its_reset() {
        use tokio::io::AsyncReadExt;

        let (mut theirs, ours) = UnixStream::pair().unwrap();
        let mut ours = Local::from(ours);
        ours.write_all(b"the last words").await.unwrap();
        ours.reset();
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"the last words");
    }
}
