//! Standard input and output for asynchronous code: each read and write waits on a thread for blocking work, since not
//! every kind of file can be awaited, and one that blocks must not be made non-blocking for those who share it.

use std::{
    io::{self, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::{JoinHandle, spawn_blocking},
};

use super::{StdioError, Stream, stdin, stdout};

/// The most that one read or write takes.
const SIZE: usize = 64 << 10;

/// Standard input. A read that waits outlives this value, as its thread does, until the process ends.
#[derive(Debug, Default)]
pub struct AsyncInput {
    reading: Option<JoinHandle<io::Result<Vec<u8>>>>,
    /// What was read, from `taken` on not handed out yet.
    read: Vec<u8>,
    taken: usize,
}

/// Standard output. What was taken is written once a flush has ended.
#[derive(Debug, Default)]
pub struct AsyncOutput {
    writing: Option<JoinHandle<io::Result<()>>>,
}

impl AsyncRead for AsyncInput {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.taken == self.read.len() {
            let reading = self.reading.get_or_insert_with(|| spawn_blocking(read));
            let read = ready!(Pin::new(reading).poll(cx));
            self.reading = None;
            self.read = read.map_err(io::Error::other)??;
            self.taken = 0;
            if self.read.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        let n = to.remaining().min(self.read.len() - self.taken);
        to.put_slice(&self.read[self.taken..self.taken + n]);
        self.taken += n;
        Poll::Ready(Ok(()))
    }
}

fn read() -> io::Result<Vec<u8>> {
    let mut room = vec![0; SIZE];
    let n = stdin()
        .read(&mut room)
        .map_err(|it| StdioError::wrap(Stream::Input, it))?;
    room.truncate(n);
    Ok(room)
}

impl AsyncWrite for AsyncOutput {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let bytes = bytes[..bytes.len().min(SIZE)].to_vec();
        let n = bytes.len();
        self.writing = Some(spawn_blocking(move || {
            let written = stdout().write_all(&bytes);
            written.map_err(|it| StdioError::wrap(Stream::Output, it))
        }));
        Poll::Ready(Ok(n))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(writing) = &mut self.writing else {
            return Poll::Ready(Ok(()));
        };
        let written = ready!(Pin::new(writing).poll(cx));
        self.writing = None;
        Poll::Ready(written.map_err(io::Error::other)?)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_flush(cx)
    }
}
