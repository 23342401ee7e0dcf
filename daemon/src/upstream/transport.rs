//! What carries a connection to the cluster: a socket, or TLS to a forward proxy over a socket.
//!
//! Must not know what it carries.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use super::record::{RecvError, Remote};
use crate::buffer::Buffer;

/// The most that is sealed at once.
const FLIGHT: usize = 64 << 10;

/// A byte stream whose other end is the cluster.
#[derive(Debug)]
pub enum Transport {
    /// A socket: to the cluster, or to a forward proxy that passes everything on.
    Tcp(TcpStream),
    /// TLS to a forward proxy that passes on what is inside.
    Tls(Box<Outer>),
}

/// TLS that carries another connection.
#[derive(Debug)]
pub struct Outer {
    remote: Remote,
    /// Plaintext that was received and not taken yet; idle, there is no buffer.
    unread: Option<Buffer>,
    ended: bool,
}

impl Transport {
    /// Ready when a read may bring something, without a buffer to read into. With TLS it may bring nothing after all.
    pub fn poll_read_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(socket) => socket.poll_read_ready(cx),
            Self::Tls(outer) if outer.unread.is_none() => outer.remote.poll_ready(cx),
            Self::Tls(_) => Poll::Ready(Ok(())),
        }
    }

    /// Makes closing it look like a fault at the other end.
    pub fn set_zero_linger(&self) -> io::Result<()> {
        self.socket().set_zero_linger()
    }

    /// Returns the socket below, whose other end is the cluster or the forward proxy.
    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(socket) => socket,
            Self::Tls(outer) => outer.remote.socket.socket(),
        }
    }
}

impl From<TcpStream> for Transport {
    fn from(socket: TcpStream) -> Self {
        Self::Tcp(socket)
    }
}

impl From<Remote> for Transport {
    fn from(remote: Remote) -> Self {
        Self::Tls(Box::new(Outer {
            remote,
            unread: None,
            ended: false,
        }))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_read(cx, to),
            Self::Tls(outer) => outer.poll_read(cx, to),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_write(cx, from),
            Self::Tls(outer) => outer.poll_write(cx, from),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_flush(cx),
            Self::Tls(outer) => outer.remote.poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Tls(outer) => outer.poll_shutdown(cx),
        }
    }
}

impl Outer {
    fn poll_read(&mut self, cx: &mut Context<'_>, to: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut received = match self.unread.take() {
            Some(unread) => unread,
            None => match ready!(self.remote.poll_recv(cx)) {
                Ok(received) => received,
                // Whether an end was meant is for what is inside to tell.
                Err(RecvError::Closed | RecvError::Cut) => return Poll::Ready(Ok(())),
                Err(RecvError::Tls(error)) => return Poll::Ready(Err(io::Error::other(error))),
                Err(RecvError::Io(error)) => return Poll::Ready(Err(error)),
            },
        };
        let count = received.len().min(to.remaining());
        to.put_slice(&received.bytes()[..count]);
        received.consume(count);
        self.unread = Some(received).filter(|it| !it.is_empty());
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        // One flight at a time: what is taken is queued whole.
        ready!(self.remote.poll_flush(cx))?;
        let count = from.len().min(FLIGHT);
        self.remote
            .queue(&from[..count])
            .map_err(io::Error::other)?;
        match self.remote.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.ended {
            self.ended = true;
            self.remote.queue_close().map_err(io::Error::other)?;
        }
        ready!(self.remote.poll_flush(cx))?;
        Pin::new(&mut self.remote.socket).poll_shutdown(cx)
    }
}
