//! Bytes both ways between one local socket and one open route.
//!
//! What is decided here and nowhere else: which end of the remote is an end and which a cut, and how each is told to
//! the local side. Must not know HTTP, sessions, or why the route was opened.
//!
//! An idle relay owns no buffer and no timer; it wakes only when a socket does, and once more after its last write or
//! after the local side was slow.

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
    Counters,
    guarded::{self, Guarded},
};
use crate::{
    buffer::Buffer,
    upstream::record::{Records, Remote},
};
use liveness::{Shown, Silence};
use local::Local;
use remote_to_local::Down;

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
pub(super) fn relay<'a>(
    local: Guarded,
    remote: Remote,
    first: Vec<u8>,
    local_ended: bool,
    shared: &'a Shared,
    counters: &'a Counters,
    cancel: &'a CancellationToken,
) -> impl Future<Output = End> + Send + use<'a> {
    let mut relay = Relay {
        local: Local::new(local),
        remote,
        counters,
        linger: shared.linger,
        down: Down::new(first, shared),
        up: Up::Open,
        quiet: None,
        silence: Some(Silence::new()),
    };
    if local_ended {
        relay.stop_reading(Up::Ended);
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

/// How far the way up came.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Up {
    Open,
    /// The local side ended. The end is held back: Pomerium would drop the reply with the tunnel.
    Ended,
    /// The remote takes no more. What it said before may still be read.
    Failed,
}

struct Relay<'a> {
    local: Local,
    remote: Remote,
    counters: &'a Counters,
    linger: Duration,
    down: Down<'a>,
    up: Up,
    /// Runs once the local side is not read any more.
    quiet: Option<Quiet>,
    /// Since the newest write, until it was answered.
    silence: Option<Silence>,
}

/// How long no byte moved.
struct Quiet {
    since: Instant,
    timer: Pin<Box<Sleep>>,
    /// How long that may last; not known before the local side was looked at.
    limit: Option<Duration>,
}

/// What moves bytes ends by [`End`] or not at all.
enum Never {}

impl Relay<'_> {
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
            .down
            .poll(&mut self.local, &mut self.remote, self.counters, cx)
            .map_err(|end| self.judge(end))?;
        if !self.down.has_ended() {
            moved |= self.poll_up(cx)?;
            self.poll_silence(cx)?;
        }
        self.poll_quiet(moved, cx)
    }

    /// Without TLS the end of a connection that had failed before is not one that the remote meant.
    fn judge(&self, end: End) -> End {
        match (end, &self.remote.records, self.up) {
            (End::Clean | End::Doubtful, Records::Plain, Up::Failed) => {
                End::Cut("the connection failed while bytes were written to it".into())
            }
            (end, ..) => end,
        }
    }

    /// Reads, seals and writes; true if bytes moved.
    fn poll_up(&mut self, cx: &mut Context<'_>) -> Result<bool, End> {
        let mut moved = false;
        for _ in 0..ROUNDS {
            match self.remote.poll_flush(cx) {
                Poll::Pending => return Ok(moved),
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => self.stop_reading(Up::Failed),
            }
            if self.up != Up::Open {
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
                Poll::Ready(Ok(0)) => self.stop_reading(Up::Ended),
                Poll::Ready(Ok(n)) => {
                    self.remote
                        .queue(plain.bytes())
                        .map_err(|e| End::Cut(e.to_string()))?;
                    self.counters.sent.fetch_add(n as u64, Relaxed);
                    self.silence.get_or_insert_with(Silence::new);
                    moved = true;
                }
            }
        }
        cx.waker().wake_by_ref();
        Ok(moved)
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(silence) = &mut self.silence else {
            return Ok(());
        };
        match silence.poll(self.remote.socket.socket(), cx) {
            Poll::Pending | Poll::Ready(Shown::Waits) => Ok(()),
            Poll::Ready(Shown::Answered) => {
                self.silence = None;
                Ok(())
            }
            Poll::Ready(Shown::Silent) => Err(End::Cut("the other end fell silent".into())),
        }
    }

    fn stop_reading(&mut self, up: Up) {
        self.up = up;
        let look = LOOK.min(self.linger);
        self.quiet.get_or_insert_with(|| Quiet {
            since: Instant::now(),
            timer: Box::pin(sleep(look)),
            limit: None,
        });
    }

    /// A silence of the linger time, after the local side ended, ends the relay. While the local side has not taken what
    /// it was given, or the remote what was sent, it is not the remote that is silent.
    fn poll_quiet(&mut self, moved: bool, cx: &mut Context<'_>) -> Result<(), End> {
        let Some(quiet) = &mut self.quiet else {
            return Ok(());
        };
        if moved || !self.down.is_empty() || self.remote.has_unsent() {
            quiet.since = Instant::now();
        }
        while quiet.timer.as_mut().poll(cx).is_ready() {
            let nobody = || self.local.is_held() == Some(false);
            let limit = match (quiet.limit, self.counters.sent.load(Relaxed)) {
                (Some(limit), _) => limit,
                (None, 0) if nobody() => {
                    return Err(End::LocalGone(io::ErrorKind::BrokenPipe.into()));
                }
                (None, ..=LITTLE) if nobody() => FAREWELL.min(self.linger),
                (None, _) => self.linger,
            };
            quiet.limit = Some(limit);
            if quiet.since.elapsed() >= limit {
                if !liveness::is_sending(self.remote.socket.socket()) {
                    return Err(End::Lingered);
                }
                quiet.since = Instant::now();
            }
            quiet.timer.as_mut().reset(quiet.since + limit);
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
                say_goodbye(&mut remote).await;
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
                say_goodbye(&mut remote).await;
                local.reset();
            }
            // What the local side sent is not whole: it must not look so at the other end either.
            End::LocalGone(_) | End::Cancelled => {
                let _ = remote.socket.set_zero_linger();
                local.reset();
            }
            End::Refused(refusal) => {
                let _ = remote.socket.set_zero_linger();
                drop(remote);
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

/// A close_notify for the remote, if nothing is in its way: nobody waits for it.
async fn say_goodbye(remote: &mut Remote) {
    poll_fn(|cx| {
        if let Poll::Ready(Ok(())) = remote.poll_flush(cx)
            && remote.queue_close().is_ok()
        {
            let _ = remote.poll_flush(cx);
        }
        Poll::Ready(())
    })
    .await;
}
