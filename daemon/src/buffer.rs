//! Buffers that are borrowed only while bytes flow: an idle connection owns none.
//!
//! Each thread keeps a few free ones; the rest goes back to the allocator. Must not know what the bytes mean.

use std::{
    cell::RefCell,
    collections::VecDeque,
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What fits into one buffer: 64 KiB of plaintext once it is sealed, and a little that TLS itself has to say.
pub const SIZE: usize = 64 * 1024 + 512;
/// Most free buffers that a thread keeps while many are in use.
const KEEP: usize = 16;
/// Free buffers that a thread keeps while none are in use.
const KEEP_IDLE: usize = 2;

thread_local!(static THREAD: RefCell<Shelf> = const { RefCell::new(Shelf::new()) });

/// A borrowed 64 KiB buffer: what was put in and not yet consumed. Goes back to its thread's shelf when dropped.
pub struct Buffer {
    data: Box<[u8]>,
    start: usize,
    end: usize,
}

impl Buffer {
    /// What is in it.
    pub fn bytes(&self) -> &[u8] {
        &self.data[self.start..self.end]
    }

    /// What is in it, to be changed in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.data[self.start..self.end]
    }

    /// How much is in it.
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The free space behind what is in it; say [`filled`](Self::filled) afterwards.
    pub fn room(&mut self) -> &mut [u8] {
        &mut self.data[self.end..]
    }

    /// The first `n` bytes of the room now count as put in.
    pub fn filled(&mut self, n: usize) {
        self.end = SIZE.min(self.end + n);
    }

    /// Takes the first `n` bytes out.
    pub fn consume(&mut self, n: usize) {
        self.start = self.end.min(self.start + n);
        if self.is_empty() {
            (self.start, self.end) = (0, 0);
        }
    }

    fn spare(&self) -> usize {
        SIZE - self.end
    }

    /// Puts in what fits of `bytes` and returns how much that was.
    pub fn push(&mut self, bytes: &[u8]) -> usize {
        let n = bytes.len().min(self.room().len());
        self.room()[..n].copy_from_slice(&bytes[..n]);
        self.filled(n);
        n
    }

    /// Reads once, at most `most` bytes, into the room. `Ok(0)` is the end, if there was room.
    pub fn poll_fill<R>(
        &mut self,
        from: &mut R,
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>>
    where
        R: AsyncRead + Unpin,
    {
        let most = most.min(self.spare());
        let mut room = ReadBuf::new(&mut self.room()[..most]);
        ready!(Pin::new(from).poll_read(cx, &mut room))?;
        let n = room.filled().len();
        self.filled(n);
        Poll::Ready(Ok(n))
    }
}

impl Default for Buffer {
    fn default() -> Self {
        let data = THREAD
            .try_with(|shelf| shelf.borrow_mut().take())
            .ok()
            .flatten();
        Self {
            data: data.unwrap_or_else(|| vec![0; SIZE].into_boxed_slice()),
            start: 0,
            end: 0,
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let data = std::mem::take(&mut self.data);
        // A thread that is ending has no shelf any more.
        let _ = THREAD.try_with(|shelf| shelf.borrow_mut().put(data));
    }
}

/// The contents may be secret.
impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.len())
    }
}

/// Bytes on their way out, in order, in as few buffers as they need.
#[derive(Debug, Default)]
pub struct Queue(VecDeque<Buffer>);

impl Queue {
    /// Nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many buffers it holds.
    pub fn buffers(&self) -> usize {
        self.0.len()
    }

    /// Appends `bytes`.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let n = self.back(1).push(bytes);
            bytes = &bytes[n..];
        }
    }

    /// The last buffer, or a new one if that has less than `room` left. Whoever leaves it empty says
    /// [`tidy`](Self::tidy).
    pub fn back(&mut self, room: usize) -> &mut Buffer {
        if self.0.back().is_none_or(|last| last.spare() < room) {
            self.0.push_back(Buffer::default());
        }
        let last = self.0.len() - 1;
        &mut self.0[last]
    }

    /// Gives an empty last buffer back.
    pub fn tidy(&mut self) {
        if self.0.back().is_some_and(Buffer::is_empty) {
            self.0.pop_back();
        }
        if self.0.is_empty() {
            self.0.shrink_to(0);
        }
    }

    /// Takes the first buffer out.
    pub fn pop(&mut self) -> Option<Buffer> {
        let first = self.0.pop_front();
        self.tidy();
        first
    }

    /// Writes once; `Ok(0)` if nothing is left to write.
    pub fn poll_drain<W>(&mut self, to: &mut W, cx: &mut Context<'_>) -> Poll<io::Result<usize>>
    where
        W: AsyncWrite + Unpin,
    {
        let Some(first) = self.0.front_mut() else {
            return Poll::Ready(Ok(0));
        };
        let n = ready!(Pin::new(to).poll_write(cx, first.bytes()))?;
        if n == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        first.consume(n);
        if first.is_empty() {
            self.pop();
        }
        Poll::Ready(Ok(n))
    }
}

/// How many buffers are borrowed that were borrowed and not yet given back on this thread. For tests whose relays
/// all run on the thread of the test.
#[cfg(test)]
pub(crate) fn borrowed() -> isize {
    THREAD.with(|shelf| shelf.borrow().borrowed)
}

/// The free buffers of a thread.
struct Shelf {
    free: Vec<Box<[u8]>>,
    /// Borrowed here less given back here: a buffer may be given back on another thread.
    borrowed: isize,
}

impl Shelf {
    const fn new() -> Self {
        Self {
            free: Vec::new(),
            borrowed: 0,
        }
    }

    fn take(&mut self) -> Option<Box<[u8]>> {
        self.borrowed += 1;
        self.free.pop()
    }

    /// Keeps no more than are in use, so that a burst does not leave its memory behind.
    fn put(&mut self, data: Box<[u8]>) {
        self.borrowed -= 1;
        self.free.push(data);
        let used = usize::try_from(self.borrowed).unwrap_or(0);
        self.free.truncate((KEEP_IDLE + used).min(KEEP));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_leaves_two_free_buffers_behind() {
        let burst: Vec<Buffer> = (0..100).map(|_| Buffer::default()).collect();
        assert_eq!(borrowed(), 100);
        drop(burst);
        assert_eq!(borrowed(), 0);
        assert_eq!(
            THREAD.with(|shelf| shelf.borrow().free.len()),
            KEEP_IDLE,
            "the rest went back to the allocator"
        );
    }

    #[test]
    fn a_buffer_gives_back_what_was_put_in() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.push(b"hello"), 5);
        buffer.consume(2);
        assert_eq!((buffer.bytes(), buffer.len()), (&b"llo"[..], 3));
        assert_eq!(buffer.room().len(), SIZE - 5);
        buffer.consume(3);
        assert_eq!(
            buffer.room().len(),
            SIZE,
            "an empty buffer starts at its front"
        );
        assert_eq!(buffer.push(&vec![1; SIZE + 1]), SIZE);
    }

    #[test]
    fn a_queue_keeps_order_over_many_buffers_and_owns_none_when_empty() {
        let bytes: Vec<u8> = (0..3 * SIZE).map(|i| (i % 251) as u8).collect();
        let mut queue = Queue::default();
        for part in bytes.chunks(1000) {
            queue.push(part);
        }
        assert_eq!(queue.buffers(), 3, "packed without gaps");
        let mut out = Vec::new();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while !queue.is_empty() {
            assert!(queue.poll_drain(&mut out, &mut cx).is_ready());
        }
        assert_eq!((out, borrowed()), (bytes, 0));
    }

    #[test]
    fn a_back_that_stayed_empty_is_given_back() {
        let mut queue = Queue::default();
        queue.back(100);
        queue.tidy();
        assert!(queue.is_empty());
        assert_eq!(borrowed(), 0);
    }
}
