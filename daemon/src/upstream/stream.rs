//! [`Stream`]: what a relay may ask of an open route, whatever carries it.
//!
//! Must not know what the bytes are for, or what carries them.

use std::{
    error::Error,
    io,
    task::{Context, Poll},
};

use crate::buffer::Queue;

/// An open route: bytes both ways, and how they end.
///
/// A reader calls [`poll_ready`](Self::poll_ready) where it may have to leave what is there, and
/// [`poll_fill`](Self::poll_fill) to take it. A writer calls [`queue`](Self::queue) only once
/// [`poll_flush`](Self::poll_flush) was ready, so that one flight is in memory at most. Both directions are used by one
/// task; all calls are safe to be cancelled and repeated. Exactly one of [`finish`](Self::finish) and
/// [`abort`](Self::abort) comes last, or neither, where the other end is gone.
pub trait Stream: Send {
    /// Ready when [`Self::poll_fill`] may bring something, an end and an error included. Takes nothing and needs no buffer.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Appends what one read brings to `to`, perhaps nothing; the number is how many bytes the read took off the transport.
    /// An end comes behind all that came before it, and again when asked again.
    fn poll_fill(&mut self, cx: &mut Context<'_>, to: &mut Queue)
    -> Poll<Result<usize, StreamEnd>>;

    /// Takes `bytes` on, behind what was not written yet: some 64 KiB at once, at most. An error is fatal for this
    /// direction.
    fn queue(&mut self, bytes: &[u8]) -> Result<(), BoxError>;

    /// Some of what was queued is not written yet.
    fn has_unsent(&self) -> bool;

    /// Writes what was queued; ready when nothing is left. After an error nothing more can be written.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Tells the other end that this one ended in order, as far as that goes without waiting. Nothing is queued behind it.
    fn finish(&mut self, cx: &mut Context<'_>);

    /// Ends the route so that the other end sees an error, if the transport knows such a thing.
    fn abort(self);

    /// How far what was written came; `None` where the transport cannot tell.
    fn progress(&self) -> Option<SendProgress>;

    /// The most that this end's transport can hold of what the other end sent, in bytes; `usize::MAX` where it cannot tell.
    fn receive_room(&self) -> usize;

    /// Whether an orderly end is the other end's own word, and not perhaps what is left of a connection that failed.
    fn end_is_certain(&self) -> bool;
}

/// How reading from a [`Stream`] ended.
#[derive(Debug)]
pub enum StreamEnd {
    /// The other end meant to end.
    Closed,
    /// The connection was cut or broke, for this reason.
    Cut(BoxError),
}

/// An error whose type no caller looks at.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// How far what was written to a [`Stream`] came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendProgress {
    /// Bytes that the other end did not acknowledge yet, sent or not.
    pub waiting: u32,
    /// What is on its way, in segments or whatever the transport counts by: sent and not acknowledged. Zero while bytes wait: the other end has no room for them.
    pub in_flight: u32,
    /// Bytes that were acknowledged since the connection was made.
    pub acknowledged: u64,
}
