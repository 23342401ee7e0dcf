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

use tokio::{
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

use crate::system::sockets::{Progress, progress_of};

/// How long after a write the system is asked, and how often as long as something is unanswered.
const LOOK: Duration = Duration::from_secs(10);
/// Something unanswered and nothing acknowledged for so long after it was first seen, which is up to one look later.
const LIMIT: Duration = Duration::from_secs(20);

/// Watches one connection from a write on.
pub(super) struct Silence {
    timer: Pin<Box<Sleep>>,
    waits: Waits,
}

/// What was seen so far.
#[derive(Default)]
struct Waits(Option<(Instant, u64)>);

/// What the newest look showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing waits for an answer: no need to look before the next write.
    Answered,
    /// Something waits, not for too long.
    Waits,
    /// Nobody is there any more.
    Silent,
}

impl Silence {
    pub(super) fn new() -> Self {
        Self {
            timer: Box::pin(sleep(LOOK)),
            waits: Waits::default(),
        }
    }

    /// Pending while something may be on its way.
    pub(super) fn poll(&mut self, socket: &TcpStream, cx: &mut Context<'_>) -> Poll<Shown> {
        while self.timer.as_mut().poll(cx).is_ready() {
            match self.waits.look(progress_of(socket), Instant::now()) {
                Shown::Waits => self.timer.as_mut().reset(Instant::now() + LOOK),
                shown => return Poll::Ready(shown),
            }
        }
        Poll::Pending
    }
}

impl Waits {
    /// `progress`: `None` where the system cannot tell, and whatever happened is left to it.
    fn look(&mut self, progress: Option<Progress>, now: Instant) -> Shown {
        let Some(seen) = progress.filter(|it| it.waiting > 0) else {
            return Shown::Answered;
        };
        match self.0 {
            // The other end has no room, and says so.
            _ if seen.unanswered == 0 => self.0 = None,
            Some((since, acknowledged)) if acknowledged == seen.acknowledged => {
                if now - since >= LIMIT {
                    return Shown::Silent;
                }
            }
            _ => self.0 = Some((now, seen.acknowledged)),
        }
        Shown::Waits
    }
}

/// Something that was written is still here or on its way, as far as the system can tell.
pub(super) fn is_sending(socket: &TcpStream) -> bool {
    progress_of(socket).is_some_and(|it| it.waiting > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is seen each ten seconds: bytes that wait here, segments on their way, bytes acknowledged.
    fn looks<const N: usize>(seen: [(u32, u32, u64); N]) -> [Shown; N] {
        let mut now = Instant::now();
        let mut waits = Waits::default();
        seen.map(|(waiting, unanswered, acknowledged)| {
            now += LOOK;
            let progress = Progress {
                waiting,
                unanswered,
                acknowledged,
                heard: Duration::ZERO,
                round_trip: Duration::ZERO,
            };
            waits.look(Some(progress), now)
        })
    }

    #[test]
    fn what_stays_unanswered_over_three_looks_is_silence() {
        use Shown::{Answered, Silent, Waits};
        let (still, moved, answered, full) = ((9, 1, 5), (9, 1, 6), (0, 0, 14), (9, 0, 5));
        assert_eq!(looks([answered]), [Answered]);
        assert_eq!(looks([still; 3]), [Waits, Waits, Silent]);
        assert_eq!(
            looks([still, still, moved, moved, answered]),
            [Waits, Waits, Waits, Waits, Answered],
            "slow, but it moves"
        );
        assert_eq!(
            looks([full; 9]),
            [Waits; 9],
            "it takes nothing, and is there"
        );
        assert_eq!(
            looks([full, still, still, still]),
            [Waits, Waits, Waits, Silent]
        );
    }

    #[test]
    fn where_the_system_cannot_tell_nothing_is_cut() {
        let mut waits = self::Waits(Some((Instant::now(), 5)));
        assert_eq!(waits.look(None, Instant::now() + LIMIT), Shown::Answered);
    }
}
