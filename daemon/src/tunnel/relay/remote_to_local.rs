//! The direction from the remote to the local side: reads ahead while the local side is slow, and keeps the remote's end
//! until all that came before it was written.

use std::{
    pin::Pin,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll, ready},
    time::Duration,
};

use pomd_core::route::truncation::Truncation;
use tokio::time::{Instant, Sleep, sleep_until};

use super::{End, ROUNDS, Shared, budget::Share, local::Local};
use crate::{
    buffer::Queue,
    tunnel::Carried,
    upstream::stream::{Stream, StreamEnd},
};

/// How long something may wait at the remote before it is read ahead: far below the second that Envoy has patience for. A
/// local side that reads at all mostly does so within it, and the way through memory costs the processor more.
pub(super) const SOON: Duration = Duration::from_millis(100);

/// State of this direction.
pub(super) struct RemoteToLocal<'a> {
    /// Plaintext that the local side has not taken yet.
    queue: Queue,
    budget: Share<'a>,
    truncation: Truncation,
    /// Wakes the relay when it is time to read ahead; may stand on an earlier moment.
    timer: Option<Pin<Box<Sleep>>>,
    /// The remote ended so.
    ended: Option<End>,
}

impl<'a> RemoteToLocal<'a> {
    /// Makes the direction, with `first` waiting for the local side already.
    pub(super) fn new(first: Vec<u8>, shared: &'a Shared) -> Self {
        let mut queue = Queue::default();
        queue.push(&first);
        let mut budget = Share::new(shared);
        budget.catch_up(queue.buffers());
        Self {
            queue,
            budget,
            truncation: Truncation::default(),
            timer: None,
            ended: None,
        }
    }

    /// Whether nothing waits for the local side.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Whether nothing more comes from the remote.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Moves what can be moved; true if bytes moved.
    pub(super) fn poll(
        &mut self,
        local: &mut Local,
        remote: &mut impl Stream,
        counters: &Carried,
        cx: &mut Context<'_>,
    ) -> Result<bool, End> {
        let mut moved = false;
        for _ in 0..ROUNDS {
            // Writing first: what is read ahead is only what the local side did not take.
            let mut blocked = false;
            if !self.queue.is_empty() {
                match local.poll_drain(&mut self.queue, cx) {
                    Poll::Ready(Ok(n)) => {
                        counters.received.fetch_add(n as u64, Relaxed);
                        self.budget.settle(self.queue.buffers());
                        moved = true;
                        continue;
                    }
                    Poll::Ready(Err(e)) => return Err(End::LocalGone(e)),
                    Poll::Pending => blocked = true,
                }
            }
            match (self.ended.take(), blocked) {
                (Some(end), false) => return Err(end),
                (Some(end), true) => {
                    self.ended = Some(end);
                    return Ok(moved);
                }
                (None, _) => {}
            }
            match self.poll_take(remote, blocked, cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(()) => moved = true,
            }
        }
        cx.waker().wake_by_ref();
        Ok(moved)
    }

    /// Reads the remote once; pending if it has nothing or may not be read. `blocked`: the local side takes nothing now.
    fn poll_take(
        &mut self,
        remote: &mut impl Stream,
        blocked: bool,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if blocked && remote.poll_ready(cx).is_ready() {
            let since = self.truncation.left_unread(Instant::now().into_std());
            ready!(self.poll_timer((since + SOON).into(), cx));
            if !self.budget.one_more(self.queue.buffers()) {
                return Poll::Pending;
            }
        }
        let read = remote.poll_fill(cx, &mut self.queue);
        self.budget.settle(self.queue.buffers());
        match read {
            Poll::Pending => {
                self.timer.take_if(|it| it.is_elapsed());
                if self.truncation.is_counting() {
                    self.truncation
                        .caught_up(Instant::now().into_std(), || remote.receive_room());
                }
                return Poll::Pending;
            }
            Poll::Ready(Ok(bytes)) => {
                if self.truncation.is_counting() {
                    self.truncation
                        .took(bytes, Instant::now().into_std(), || remote.receive_room());
                }
            }
            Poll::Ready(Err(e)) => self.ended = Some(self.end(e)),
        }
        Poll::Ready(())
    }

    /// Pending until then. Mostly the local side is quicker: the timer is left where it is, and looked at when it is over.
    fn poll_timer(&mut self, then: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(then)));
        while timer.as_mut().poll(cx).is_ready() {
            if Instant::now() >= then {
                return Poll::Ready(());
            }
            timer.as_mut().reset(then);
        }
        Poll::Pending
    }

    /// What the remote's end means for the local side.
    fn end(&mut self, how: StreamEnd) -> End {
        match how {
            StreamEnd::Closed if self.truncation.is_possible(Instant::now().into_std()) => {
                End::Doubtful
            }
            StreamEnd::Closed => End::Clean,
            StreamEnd::Cut(why) => End::Cut(why.to_string()),
        }
    }
}
