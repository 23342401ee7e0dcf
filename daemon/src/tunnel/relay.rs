//! Bytes both ways between one local connection and one open route.
//!
//! What is decided here and nowhere else: which end of the remote is an end and which a cut, and how each is told to
//! the local side. The route is any [`Stream`]: the relay knows no socket and no record layer behind it. Must not know
//! HTTP, sessions, or why the route was opened.
//!
//! An idle relay owns no buffer and no timer; it wakes only when one of its two sides does, and once more after its last
//! write or after the local side was slow.

mod budget;
mod liveness;
mod local;
mod remote_to_local;
#[cfg(test)]
mod tests;

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll},
    time::Duration,
};

use pomd_core::guard::Refusal;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{
    Carried,
    guarded::{self, Guarded},
};
use crate::{buffer::Buffer, upstream::stream::Stream};
use liveness::{Liveness, Seen};
use local::Local;
use remote_to_local::RemoteToLocal;

/// What one read of the local side takes at most: all of it is sealed at once.
const READ: usize = 64 * 1024;
/// Reads and writes of one direction before the other one, and other relays, get their turn.
const ROUNDS: usize = 16;

/// How long after the end of the local side it is looked whether anybody is still there to read.
const LOOK: Duration = Duration::from_millis(250);
/// The linger time where nobody is and little was sent: what comes goes to nobody, and the last bytes sent must get
/// through Pomerium, which drops what a service has no room for.
const FAREWELL: Duration = Duration::from_secs(5);
/// As much as any service has room for, even if it does not read.
const LITTLE: u64 = 64 << 10;
/// How long a refused client may take to read why.
const TOLD: Duration = Duration::from_secs(2);

/// What all relays share.
#[derive(Debug)]
pub struct Shared {
    /// Bytes that all relays together may still read ahead; each has one buffer besides.
    pub budget: AtomicUsize,
    /// The most that one relay reads ahead.
    pub read_ahead: usize,
    /// How long a relay goes on, without a byte moving, after the local side ended.
    pub linger: Duration,
}

/// How a relay ended. Only `Clean` shows the local side an orderly end; all others reset it.
#[derive(Debug)]
pub enum End {
    /// The remote meant to end, and everything it sent was written.
    Clean,
    /// It said so, but may have lost bytes before: it stood unread for too long shortly before (performance.md, policy 3).
    Doubtful,
    /// The remote was cut: an end without close_notify, a reset, a broken record.
    Cut(String),
    /// The local side was reset, or closed without having said a word.
    LocalGone(io::Error),
    /// The local side had ended, and no byte moved for the whole linger time.
    Lingered,
    /// `cancel` was called.
    Cancelled,
    /// The browser guard refused what the local side sent.
    Refused(Box<Refusal>),
}

/// Relays until it ends; the local socket is closed or reset when this returns. `first` is plaintext that came with the
/// CONNECT answer, `local_ended` that the local side had ended before.
///
/// Not an `async fn`: what it is given would be kept a second time, for as long as the relay lives.
pub(super) fn relay<'a, S: Stream + 'a>(
    local: Guarded,
    remote: S,
    first: Vec<u8>,
    local_ended: bool,
    shared: &'a Shared,
    counters: &'a Carried,
    cancel: &'a CancellationToken,
) -> impl Future<Output = End> + Send + use<'a, S> {
    let mut relay = Relay {
        local: Local::new(local),
        remote,
        counters,
        linger: shared.linger,
        remote_to_local: RemoteToLocal::new(first, shared),
        local_to_remote: LocalToRemote::Open,
        linger_timer: None,
        liveness: Some(Liveness::new()),
    };
    if local_ended {
        relay.stop_reading(LocalToRemote::Ended);
    }
    relay.run(cancel)
}

impl End {
    fn of_local(error: io::Error) -> Self {
        match guarded::refusal(&error) {
            Some(refusal) => Self::Refused(Box::new(refusal.clone())),
            None => Self::LocalGone(error),
        }
    }
}

/// State of the direction from the local side to the remote.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LocalToRemote {
    Open,
    /// The local side ended. The end is held back: Pomerium would drop the reply with the tunnel.
    Ended,
    /// The remote takes no more. What it said before may still be read.
    Failed,
}

struct Relay<'a, S> {
    local: Local,
    remote: S,
    counters: &'a Carried,
    linger: Duration,
    remote_to_local: RemoteToLocal<'a>,
    local_to_remote: LocalToRemote,
    /// Runs once the local side is not read any more.
    linger_timer: Option<LingerTimer>,
    /// Runs from the newest write until it was answered.
    liveness: Option<Liveness>,
}

/// Measures how long no byte moved.
struct LingerTimer {
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// The longest that this may last; not known before the local side was looked at.
    limit: Option<Duration>,
}

/// Moving bytes ends by [`End`] or not at all.
enum Never {}

impl<S: Stream> Relay<'_, S> {
    async fn run(mut self, cancel: &CancellationToken) -> End {
        let end = {
            let mut cancelled = pin!(cancel.cancelled());
            poll_fn(|cx| {
                if cancelled.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(End::Cancelled);
                }
                self.poll(cx).map(|Err(end)| end)
            })
            .await
        };
        // Apart: what it needs at the end is not kept all the while.
        Box::pin(self.close(&end, cancel)).await;
        end
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Never, End>> {
        match self.poll_both(cx) {
            Ok(()) => Poll::Pending,
            Err(end) => Poll::Ready(Err(end)),
        }
    }

    fn poll_both(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let mut moved = self
            .remote_to_local
            .poll(&mut self.local, &mut self.remote, self.counters, cx)
            .map_err(|end| self.end_after_failed_write(end))?;
        if !self.remote_to_local.has_ended() {
            moved |= self.poll_local_to_remote(cx)?;
            self.poll_liveness(cx)?;
        }
        self.poll_linger(moved, cx)
    }

    /// Turns an orderly end into a cut where writing had failed and the transport cannot tell one from the other.
    fn end_after_failed_write(&self, end: End) -> End {
        let has_failed = self.local_to_remote == LocalToRemote::Failed;
        match end {
            End::Clean | End::Doubtful if has_failed && !self.remote.end_is_certain() => {
                End::Cut("the connection failed while bytes were written to it".into())
            }
            end => end,
        }
    }

    /// Reads the local side and writes to the remote; true if bytes moved.
    fn poll_local_to_remote(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        for _ in 0..ROUNDS {
            match self.remote.poll_flush(cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.stop_reading(LocalToRemote::Failed),
            }
            if self.local_to_remote != LocalToRemote::Open {
                return Ok(moved);
            }
            // Only a socket that has something gets a buffer.
            match self.local.poll_readable(cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(ready) => ready.map_err(End::LocalGone)?,
            }
            let mut plain = Buffer::default();
            match self.local.poll_fill(&mut plain, READ, cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Err(e)) => return Err(End::of_local(e)),
                Poll::Ready(Ok(0)) => self.stop_reading(LocalToRemote::Ended),
                Poll::Ready(Ok(n)) => {
                    self.remote
                        .queue(plain.bytes())
                        .map_err(|e| End::Cut(e.to_string()))?;
                    self.counters.sent.fetch_add(n as u64, Relaxed);
                    self.liveness.get_or_insert_with(Liveness::new);
                    moved = true;
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(moved)
    }

    fn poll_liveness(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(liveness) = &mut self.liveness else {
            return Ok(());
        };
        match liveness.poll(|| self.remote.progress(), cx) {
            Poll::Pending | Poll::Ready(Seen::Waiting) => Ok(()),
            Poll::Ready(Seen::Answered) => {
                self.liveness = None;
                Ok(())
            }
            Poll::Ready(Seen::Silent) => Err(End::Cut("the other end fell silent".into())),
        }
    }

    fn stop_reading(&mut self, state: LocalToRemote) {
        self.local_to_remote = state;
        let look = LOOK.min(self.linger);
        self.linger_timer.get_or_insert_with(|| LingerTimer {
            since: Instant::now(),
            timer: Box::pin(sleep(look)),
            limit: None,
        });
    }

    /// A silence of the linger time, after the local side ended, ends the relay. While the local side has not taken what
    /// it was given, or the remote what was sent, it is not the remote that is silent.
    fn poll_linger(&mut self, moved: bool, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(linger) = &mut self.linger_timer else {
            return Ok(());
        };
        if moved || !self.remote_to_local.is_empty() || self.remote.has_unsent() {
            linger.since = Instant::now();
        }
        while linger.timer.as_mut().poll(cx).is_ready() {
            let nobody = || self.local.is_held() == Some(false);
            let limit = match (linger.limit, self.counters.sent.load(Relaxed)) {
                (Some(limit), _) => limit,
                (None, 0) if nobody() => {
                    return Err(End::LocalGone(io::ErrorKind::BrokenPipe.into()));
                }
                (None, ..=LITTLE) if nobody() => FAREWELL.min(self.linger),
                (None, _) => self.linger,
            };
            linger.limit = Some(limit);
            if linger.since.elapsed() >= limit {
                let is_sending = self.remote.progress().is_some_and(|it| it.waiting > 0);
                if !is_sending {
                    return Err(End::Lingered);
                }
                linger.since = Instant::now();
            }
            linger.timer.as_mut().reset(linger.since + limit);
        }
        Ok(())
    }

    /// Tells both sides how it ended. Takes the linger time at most.
    async fn close(self, end: &End, cancel: &CancellationToken) {
        let Self {
            mut local,
            mut remote,
            linger,
            counters,
            ..
        } = self;
        match end {
            End::Clean => {
                finish(&mut remote).await;
                drop(remote);
                let finish = timeout(linger, local.finish());
                // If time is over, or nobody wants to wait: all was written, the kernel delivers it.
                let _ = cancel.run_until_cancelled(finish).await;
            }
            End::Doubtful | End::Cut(_) => {
                drop(remote);
                let deliver = timeout(linger, local.deliver());
                let _ = cancel.run_until_cancelled(deliver).await;
                local.reset();
            }
            End::Lingered => {
                finish(&mut remote).await;
                local.reset();
            }
            // What the local side sent is not whole: it must not look so at the other end either.
            End::LocalGone(_) | End::Cancelled => {
                remote.abort();
                local.reset();
            }
            End::Refused(refusal) => {
                remote.abort();
                // Behind other bytes it would be taken for a part of them.
                let is_first = counters.received.load(Relaxed) == 0;
                match refusal.answer.as_deref().filter(|_| is_first) {
                    Some(answer) => {
                        let told = timeout(TOLD, local.tell(answer));
                        let _ = cancel.run_until_cancelled(told).await;
                    }
                    None => local.reset(),
                }
            }
        }
    }
}

async fn finish(remote: &mut impl Stream) {
    poll_fn(|cx| {
        remote.finish(cx);
        Poll::Ready(())
    })
    .await;
}
