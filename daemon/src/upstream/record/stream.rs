//! [`Remote`] as a [`Stream`], which is how relays know it.

use std::{
    io,
    task::{Context, Poll},
};

use super::{Records, RecvError, Remote};
use crate::{
    buffer::Queue,
    system::sockets,
    upstream::stream::{BoxError, SendProgress, Stream, StreamEnd},
};

impl Stream for Remote {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.opened.is_empty() && !self.closed {
            true => self.socket.poll_read_ready(cx),
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Queue,
    ) -> Poll<Result<usize, StreamEnd>> {
        self.poll_fill(cx, to).map_err(StreamEnd::from)
    }

    fn queue(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        Ok(self.queue(bytes)?)
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        if let Poll::Ready(Ok(())) = self.poll_flush(cx)
            && self.queue_close().is_ok()
        {
            let _ = self.poll_flush(cx);
        }
    }

    fn abort(self) {
        let _ = self.socket.set_zero_linger();
    }

    fn progress(&self) -> Option<SendProgress> {
        let seen = sockets::progress_of(self.socket.socket())?;
        Some(SendProgress {
            waiting: seen.waiting,
            in_flight: seen.unanswered,
            acknowledged: seen.acknowledged,
        })
    }

    fn receive_room(&self) -> usize {
        let socket = socket2::SockRef::from(self.socket.socket());
        socket.recv_buffer_size().unwrap_or(usize::MAX)
    }

    fn end_is_certain(&self) -> bool {
        matches!(self.records, Records::Tls(_))
    }
}

impl From<RecvError> for StreamEnd {
    fn from(error: RecvError) -> Self {
        match error {
            RecvError::Closed => Self::Closed,
            RecvError::Cut | RecvError::Tls(_) | RecvError::Io(_) => Self::Cut(error.into()),
        }
    }
}
