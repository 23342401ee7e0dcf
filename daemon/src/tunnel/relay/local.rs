//! The local side's socket: all that a relay asks of it.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncWrite, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    buffer::{Buffer, Queue, SIZE},
    system::{sockets, unix_socket},
    tunnel::{guarded::Guarded, local},
};

/// One accepted connection.
pub(super) struct Local(Guarded);

impl Local {
    pub(super) fn new(socket: impl Into<Guarded>) -> Self {
        Self(socket.into())
    }

    /// Ready once a read would bring bytes, an end or an error.
    pub(super) fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_readable(cx)
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
        from.poll_drain(&mut *self.0, cx)
    }

    /// Ends the way to the local side, then reads it to its end: closing a socket with unread bytes resets it.
    pub(super) async fn finish(&mut self) -> io::Result<()> {
        let local = &mut *self.0;
        poll_fn(|cx| Pin::new(&mut *local).poll_shutdown(cx)).await?;
        loop {
            poll_fn(|cx| local.poll_readable(cx)).await?;
            let mut unwanted = Buffer::default();
            if poll_fn(|cx| unwanted.poll_fill(&mut *local, SIZE, cx)).await? == 0 {
                return Ok(());
            }
        }
    }

    /// Writes these last words, then as [`Local::finish`].
    pub(super) async fn tell(&mut self, words: &[u8]) -> io::Result<()> {
        let local = &mut *self.0;
        local.write_all(words).await?;
        self.finish().await
    }

    /// Waits until what was written is in the other end's hands as far as this system can tell: a reset throws away
    /// what still waits in our kernel.
    pub(super) async fn deliver(&mut self) -> io::Result<()> {
        match &*self.0 {
            local::Local::Tcp(it) => sockets::all_sent(it).await,
            // It is there as soon as it is written.
            local::Local::Unix(_) => Ok(()),
        }
    }

    /// Some process still has the other end open. `None`: the system cannot tell, or it is on another machine.
    pub(super) fn is_held(&self) -> Option<bool> {
        match &*self.0 {
            local::Local::Tcp(it) => is_held(it),
            local::Local::Unix(it) => Some(unix_socket::is_held(it)),
        }
    }

    /// Closes it so that the other end sees an error.
    pub(super) fn reset(self) {
        self.0.into_local().reset();
    }
}

fn is_held(socket: &TcpStream) -> Option<bool> {
    let theirs = match socket.peer_addr() {
        Ok(theirs) => theirs,
        // It was reset: there is no other end any more.
        Err(error) if error.kind() == io::ErrorKind::NotConnected => return Some(false),
        Err(_) => return None,
    };
    let ours = socket.local_addr().ok()?;
    if !theirs.ip().to_canonical().is_loopback() {
        return None;
    }
    let row = sockets::connected(theirs, ours).ok()?;
    Some(row.is_some_and(|it| it.inode != 0))
}
