//! Whether the remote still answers at the other end of the wire.
//!
//! A network that went away says nothing: what was written would be sent again and again for a quarter of an hour. The
//! system's own limit for that (`TCP_USER_TIMEOUT`) is not used, for it also ends connections whose other end is well
//! but takes nothing for a while: a service that is busy, or stopped in a debugger. So while something was written, the
//! system is asked now and then how far it came. A relay that wrote nothing lately has no timer.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

use crate::upstream::stream::SendProgress;

/// How long after a write the system is asked, and how often as long as something is unanswered.
const LOOK: Duration = Duration::from_secs(10);
/// Something unanswered and nothing acknowledged for so long after it was first seen, which is up to one look later.
const LIMIT: Duration = Duration::from_secs(20);

/// Watches one remote from a write on.
pub(super) struct Liveness {
    timer: Pin<Box<Sleep>>,
    waits: Waits,
}

/// When the newest unanswered bytes were first seen, and how much was acknowledged then.
#[derive(Default)]
struct Waits(Option<(Instant, u64)>);

/// What the newest look showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// Nothing waits for an answer: no need to look before the next write.
    Answered,
    /// Something waits, not for too long.
    Waiting,
    /// Nobody is there any more.
    Silent,
}

impl Liveness {
    /// Starts with the first look ahead.
    pub(super) fn new() -> Self {
        Self {
            timer: Box::pin(sleep(LOOK)),
            waits: Waits::default(),
        }
    }

    /// Pending while something may be on its way. `progress` is asked at each look: `None` where nobody can tell, and
    /// whatever happened is left to the system.
    pub(super) fn poll(
        &mut self,
        progress: impl Fn() -> Option<SendProgress>,
        cx: &mut Context<'_>,
    ) -> Poll<Seen> {
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.waits.look(progress(), Instant::now()) {
                Seen::Waiting => self.timer.as_mut().reset(Instant::now() + LOOK),
                seen => return Poll::Ready(seen),
            }
        }
        Poll::Pending
    }
}

impl Waits {
    fn look(&mut self, progress: Option<SendProgress>, now: Instant) -> Seen {
        let Some(seen) = progress.filter(|it| it.waiting > 0) else {
            return Seen::Answered;
        };
        match self.0 {
            // The other end has no room, and says so.
            _ if seen.in_flight == 0 => self.0 = None,
            Some((since, acknowledged)) if acknowledged == seen.acknowledged => {
                if now - since >= LIMIT {
                    return Seen::Silent;
                }
            }
            _ => self.0 = Some((now, seen.acknowledged)),
        }
        Seen::Waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is seen each ten seconds: bytes that wait here, segments on their way, bytes acknowledged.
    fn looks<const N: usize>(seen: [(u32, u32, u64); N]) -> [Seen; N] {
        let mut now = Instant::now();
        let mut waits = Waits::default();
        seen.map(|(waiting, in_flight, acknowledged)| {
            now += LOOK;
            let progress = SendProgress {
                waiting,
                in_flight,
                acknowledged,
            };
            waits.look(Some(progress), now)
        })
    }

    #[test]
    fn what_stays_unanswered_over_three_looks_is_silence() {
        use Seen::{Answered, Silent, Waiting};
        let (still, moved, answered, full) = ((9, 1, 5), (9, 1, 6), (0, 0, 14), (9, 0, 5));
        assert_eq!(looks([answered]), [Answered]);
        assert_eq!(looks([still; 3]), [Waiting, Waiting, Silent]);
        assert_eq!(
            looks([still, still, moved, moved, answered]),
            [Waiting, Waiting, Waiting, Waiting, Answered],
            "slow, but it moves"
        );
        assert_eq!(
            looks([full; 9]),
            [Waiting; 9],
            "it takes nothing, and is there"
        );
        assert_eq!(
            looks([full, still, still, still]),
            [Waiting, Waiting, Waiting, Silent]
        );
    }

    #[test]
    fn where_the_system_cannot_tell_nothing_is_cut() {
        let mut waits = self::Waits(Some((Instant::now(), 5)));
        assert_eq!(waits.look(None, Instant::now() + LIMIT), Seen::Answered);
    }
}
