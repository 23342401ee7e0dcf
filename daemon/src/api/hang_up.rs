//! A client's socket whose end is noticed while it is told events.
//!
//! hyper looks for the end of a socket only behind bytes that it has taken, and takes none of a next request while an
//! answer is under way. An answer without an end would so outlive a client that sent more and left: what it sends
//! meanwhile is read ahead here. Knows bytes and their end. Must not know requests.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::HEAD;

/// An answer that has no end of its own is under way.
#[derive(Clone, Debug, Default)]
pub(super) struct Endless(Arc<AtomicBool>);

impl Endless {
    pub(super) fn set(&self, is_endless: bool) {
        self.0.store(is_endless, Relaxed);
    }
}

/// A socket, and what was read of it that nobody has taken yet.
pub(super) struct HangUpWatch<S> {
    socket: S,
    endless: Endless,
    kept: BytesMut,
}

impl<S: AsyncRead + Unpin> HangUpWatch<S> {
    pub(super) fn new(socket: S, endless: Endless) -> Self {
        let kept = BytesMut::new();
        Self {
            socket,
            endless,
            kept,
        }
    }

    /// The socket, and what was read of it that nobody has taken.
    pub(super) fn into_parts(self) -> (S, BytesMut) {
        (self.socket, self.kept)
    }

    /// Takes what is there; an error once the other side ends, or has sent more than a request may hold.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.kept.len() < HEAD {
            let mut room = [0; 1024];
            let mut taken = ReadBuf::new(&mut room);
            match Pin::new(&mut self.socket).poll_read(cx, &mut taken) {
                Poll::Pending => return Ok(()),
                Poll::Ready(read) => read?,
            }
            if taken.filled().is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.kept.extend_from_slice(taken.filled());
            // Whoever waits for it is to look again.
            cx.waker().wake_by_ref();
        }
        Err(io::Error::other("too much came while events were told"))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HangUpWatch<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.kept.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, to);
        }
        let count = self.kept.len().min(to.remaining());
        to.put_slice(&self.kept[..count]);
        self.kept.advance(count);
        Poll::Ready(Ok(()))
    }
}

/// hyper flushes each time it is woken, with or without bytes to send: that is when is read ahead.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for HangUpWatch<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        if self.endless.0.load(Relaxed) {
            self.read_ahead(cx)?;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_is_not_lost_and_an_end_is_an_error_of_the_next_flush() {
        let (mut theirs, ours) = tokio::io::duplex(64);
        let endless = Endless::default();
        let mut ahead = HangUpWatch::new(ours, endless.clone());
        theirs.write_all(b"one two").await.unwrap();
        ahead.flush().await.unwrap();
        assert!(
            ahead.kept.is_empty(),
            "nothing is read of an answer that ends"
        );
        endless.set(true);
        ahead.flush().await.unwrap();
        theirs.write_all(b" three").await.unwrap();
        let mut heard = [0; 13];
        ahead.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"one two three");
        theirs.shutdown().await.unwrap();
        let error = ahead.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(ahead.read(&mut heard).await.unwrap(), 0, "and still an end");
    }

    #[tokio::test]
    async fn no_more_is_kept_than_a_request_may_hold() {
        let (mut theirs, ours) = tokio::io::duplex(4 * HEAD);
        let endless = Endless::default();
        endless.set(true);
        let mut ahead = HangUpWatch::new(ours, endless);
        theirs.write_all(&[b'x'; 3 * HEAD]).await.unwrap();
        assert!(ahead.flush().await.is_err());
        assert!(ahead.kept.len() < 2 * HEAD, "{}", ahead.kept.len());
    }
}
