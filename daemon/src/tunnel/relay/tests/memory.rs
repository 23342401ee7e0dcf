//! A route without a socket, a record layer or a system below it: what shows that the relay needs none of them.

use std::{
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use tokio::io::{DuplexStream, ReadBuf};

use super::*;
use crate::{
    buffer::Queue,
    upstream::stream::{BoxError, SendProgress, StreamEnd},
};

/// Bytes that are under way in each direction at most.
const ROOM: usize = 256 << 10;

/// The relay's end.
pub(super) struct MemoryStream {
    pipe: DuplexStream,
    ends: Arc<Mutex<Ends>>,
    /// What was read to find out whether something is there.
    ahead: Vec<u8>,
    unsent: Queue,
}

/// The other end: a server that ends in order when it is shut down, and else cuts.
pub(super) struct MemoryServer {
    pipe: DuplexStream,
    ends: Arc<Mutex<Ends>>,
}

/// How the ends of the pipe are meant.
#[derive(Default)]
struct Ends {
    server_finished: bool,
    relay_aborted: bool,
}

/// Both ends.
pub(super) fn pipe() -> (MemoryStream, MemoryServer) {
    let (near, far) = tokio::io::duplex(ROOM);
    let ends = Arc::<Mutex<Ends>>::default();
    let stream = MemoryStream {
        pipe: near,
        ends: ends.clone(),
        ahead: Vec::new(),
        unsent: Queue::default(),
    };
    (stream, MemoryServer { pipe: far, ends })
}

impl Stream for MemoryStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let mut room = [0; 4096];
            let mut room = ReadBuf::new(&mut room);
            std::task::ready!(Pin::new(&mut self.pipe).poll_read(cx, &mut room))?;
            self.ahead = room.filled().to_vec();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut Queue,
    ) -> Poll<Result<usize, StreamEnd>> {
        std::task::ready!(self.poll_ready(cx)).map_err(|error| StreamEnd::Cut(error.into()))?;
        if self.ahead.is_empty() {
            return Poll::Ready(Err(match self.ends.lock().unwrap().server_finished {
                true => StreamEnd::Closed,
                false => StreamEnd::Cut("the server is gone".into()),
            }));
        }
        let bytes = std::mem::take(&mut self.ahead);
        to.push(&bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn queue(&mut self, bytes: &[u8]) -> Result<(), BoxError> {
        self.unsent.push(bytes);
        Ok(())
    }

    fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            let written = std::task::ready!(self.unsent.poll_drain(&mut self.pipe, cx));
            if let Err(error) = written {
                self.unsent = Queue::default();
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        if self.poll_flush(cx).is_ready() {
            let _ = Pin::new(&mut self.pipe).poll_shutdown(cx);
        }
    }

    fn abort(self) {
        self.ends.lock().unwrap().relay_aborted = true;
    }

    fn progress(&self) -> Option<SendProgress> {
        None
    }

    fn receive_room(&self) -> usize {
        ROOM
    }

    fn end_is_certain(&self) -> bool {
        true
    }
}

impl AsyncRead for MemoryServer {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        std::task::ready!(Pin::new(&mut self.pipe).poll_read(cx, to))?;
        let has_ended = to.filled().len() == before && to.remaining() > 0;
        Poll::Ready(match self.ends.lock().unwrap().relay_aborted {
            true if has_ended => Err(io::ErrorKind::ConnectionReset.into()),
            _ => Ok(()),
        })
    }
}

impl AsyncWrite for MemoryServer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.pipe).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ends.lock().unwrap().server_finished = true;
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}
