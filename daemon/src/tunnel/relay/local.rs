//! The local side's socket: all that a relay asks of it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{io::AsyncWrite, net::TcpStream};

use crate::{
    buffer::{Buffer, Queue, SIZE},
    system::sockets,
};

/// One accepted connection.
pub(super) struct Local(TcpStream);

impl Local {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self(socket)
    }

    /// Ready once a read would bring bytes, an end or an error.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_read_ready(cx)
    }

    /// Reads once.
    pub(super) fn poll_fill(
        &mut self,
        to: &mut Buffer,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        to.poll_fill(&mut self.0, most, cx)
    }

    /// Writes once.
    pub(super) fn poll_drain(
        &mut self,
        from: &mut Queue,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        from.poll_drain(&mut self.0, cx)
    }

    /// Ends the way to the local side, then reads it to its end: closing a socket with unread bytes resets it.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut self.0).poll_shutdown(cx)).await?;
        loop {
            self.0.readable().await?;
            let mut unwanted = Buffer::default();
            if poll_fn(|cx| unwanted.poll_fill(&mut self.0, SIZE, cx)).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Waits until what was written is in the other end's hands as far as this system can tell: a reset throws away
    /// what still waits in our kernel.
    pub(super) async fn deliver(&mut self) -> io::Result<()> {
        sent::all(&self.0).await
    }

    /// Some process still has the other end open. `None`: the system cannot tell, or it is on another machine.
    pub(super) fn is_held(&self) -> Option<bool> {
        let (ours, theirs) = (self.0.local_addr().ok()?, self.0.peer_addr().ok()?);
        if !theirs.ip().to_canonical().is_loopback() {
            return None;
        }
        let row = sockets::connected(theirs, ours).ok()?;
        Some(row.is_some_and(|it| it.inode != 0))
    }

    /// Closes it so that the other end sees an error.
    pub(super) fn reset(self) {
        let _ = self.0.set_zero_linger();
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
mod sent {
    use std::{io, os::fd::AsFd};

    use socket2::SockRef;
    use tokio::net::TcpStream;

    /// Ready once nothing unsent is left.
    pub(super) async fn all(socket: &TcpStream) -> io::Result<()> {
        // With this limit a socket counts as writable only when nothing waits to be sent; over loopback, what was sent
        // has been received.
        SockRef::from(socket).set_tcp_notsent_lowat(1)?;
        // A second registration, as the first remembers an older answer.
        let again = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?);
        TcpStream::from_std(again)?.writable().await
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod sent {
    use std::io;

    use tokio::net::TcpStream;

    /// Nothing to ask here: what was written may be lost by the reset, and the reset tells that it was.
    pub(super) async fn all(socket: &TcpStream) -> io::Result<()> {
        socket.writable().await
    }
}
