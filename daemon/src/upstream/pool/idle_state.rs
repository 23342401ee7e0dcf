//! [`IdleState`]: what was known of a warm connection when it was taken, and what its end then means: whether the server
//! can have heard what was said on it.
//!
//! A service must never hear the same bytes twice. They are said again on another connection only if none of them were
//! said, or the system knows that none arrived; a doubt counts as heard. A connection that merely stays silent is given up
//! only while nothing but the head of the CONNECT was said: bytes that are on their way may still arrive after we closed.
//!
//! Must not know HTTP.

use std::{io, mem::MaybeUninit, time::Duration};

use socket2::SockRef;
use tokio::{net::TcpStream, time::Instant};

use crate::system::sockets::{Progress, progress_of};

/// An idle connection is probed each 30 s. Silent for longer than that and an answer takes: nobody may be there.
const HEARD: Duration = Duration::from_secs(35);
/// How long what was said may stay unacknowledged before a warm connection is given up, and the same in round trips.
const PATIENCE: Duration = Duration::from_secs(1);
const ROUND_TRIPS: u32 = 4;

/// What was known of a warm connection when it was taken.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct IdleState {
    taken: Instant,
    /// How much the socket had taken of us.
    written: u64,
    /// Bytes that were acknowledged; `None` where the system cannot tell.
    acknowledged: Option<u64>,
    round_trip: Duration,
}

/// What was sent on it since.
#[derive(Clone, Copy, Debug)]
pub(in crate::upstream) struct Sent {
    /// How much the socket has taken of us now.
    pub(in crate::upstream) written: u64,
    /// Some of it was more than the head.
    pub(in crate::upstream) early: bool,
}

impl IdleState {
    /// Looks at a connection; `None`: something may be wrong with it. `written` is how much the socket took so far.
    pub(in crate::upstream) fn look(socket: &TcpStream, written: u64) -> Option<Self> {
        if !is_quiet(socket) {
            return None;
        }
        Self::of(progress_of(socket), written, Instant::now())
    }

    fn of(progress: Option<Progress>, written: u64, now: Instant) -> Option<Self> {
        let silent = |it: &Progress| {
            it.heard > HEARD || (it.waiting > 0 && it.heard > patience(it.round_trip))
        };
        if progress.as_ref().is_some_and(silent) {
            return None;
        }
        Some(Self {
            taken: now,
            written,
            acknowledged: progress.map(|it| it.acknowledged),
            round_trip: progress.map_or(Duration::ZERO, |it| it.round_trip),
        })
    }

    /// How long to wait before [`Self::is_silent`] is worth asking.
    pub(in crate::upstream) fn patience(&self) -> Duration {
        patience(self.round_trip)
    }

    /// Whether the connection ended without an answer and the server cannot have passed on anything: all of it may be said
    /// again.
    pub(in crate::upstream) fn is_unheard(&self, socket: &TcpStream, said: Sent) -> bool {
        self.is_unheard_after(progress_of(socket), said, Instant::now())
    }

    /// Whether nothing but the head was said, and none of it arrived.
    pub(in crate::upstream) fn is_silent(&self, socket: &TcpStream, said: Sent) -> bool {
        !said.early && self.is_lost(socket)
    }

    /// Whether nothing of what was said arrived so far.
    pub(in crate::upstream) fn is_lost(&self, socket: &TcpStream) -> bool {
        self.none_arrived(progress_of(socket)) == Some(true)
    }

    fn is_unheard_after(&self, progress: Option<Progress>, said: Sent, now: Instant) -> bool {
        let none_left = said.written == self.written;
        // A reset takes what the system knew with it. But an answer to what was said takes a round trip.
        let none_arrived = self
            .none_arrived(progress)
            .unwrap_or(now - self.taken < self.round_trip);
        none_left || !said.early || none_arrived
    }

    fn none_arrived(&self, progress: Option<Progress>) -> Option<bool> {
        Some(progress?.acknowledged == self.acknowledged?)
    }
}

/// Whether no end, no reset and no bytes came that were not taken yet; asked of the system itself, which knows it first.
pub(in crate::upstream) fn is_quiet(socket: &TcpStream) -> bool {
    let mut byte = [MaybeUninit::uninit()];
    let unread = SockRef::from(socket).peek(&mut byte);
    unread.is_err_and(|it| it.kind() == io::ErrorKind::WouldBlock)
}

fn patience(round_trip: Duration) -> Duration {
    PATIENCE.max(round_trip * ROUND_TRIPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Progress = Progress {
        waiting: 0,
        unanswered: 0,
        acknowledged: 700,
        heard: Duration::from_secs(20),
        round_trip: Duration::from_millis(50),
    };

    fn said(written: u64, early: bool) -> Sent {
        Sent { written, early }
    }

    #[test]
    fn one_that_was_not_heard_of_lately_is_not_used() {
        let now = Instant::now();
        assert!(IdleState::of(None, 0, now).is_some(), "it cannot be told");
        assert!(IdleState::of(Some(FRESH), 0, now).is_some());
        let silent = Progress {
            heard: Duration::from_secs(36),
            ..FRESH
        };
        assert!(IdleState::of(Some(silent), 0, now).is_none());
        let stuck = Progress {
            waiting: 1,
            ..FRESH
        };
        assert!(IdleState::of(Some(stuck), 0, now).is_none());
        let new = Progress {
            heard: Duration::from_millis(3),
            ..stuck
        };
        assert!(IdleState::of(Some(new), 0, now).is_some(), "just made");
    }

    #[test]
    fn n7_what_may_have_been_heard_is_not_said_again() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(49);
        let late = now + Duration::from_millis(50);
        let arrived = Progress {
            acknowledged: 701,
            ..FRESH
        };
        let waited = IdleState::of(Some(FRESH), 800, now).unwrap();
        for (case, progress, said, at, unheard) in [
            ("dead before", None, said(800, false), late, true),
            ("dead before, with bytes", None, said(800, true), late, true),
            ("only the head", Some(arrived), said(900, false), late, true),
            ("nothing arrived", Some(FRESH), said(900, true), late, true),
            ("it arrived", Some(arrived), said(900, true), soon, false),
            ("reset on its way", None, said(900, true), soon, true),
            ("reset, who knows", None, said(900, true), late, false),
        ] {
            assert_eq!(
                waited.is_unheard_after(progress, said, at),
                unheard,
                "{case}"
            );
        }
        let blind = IdleState::of(None, 800, now).unwrap();
        assert!(!blind.is_unheard_after(None, said(900, true), now));
        assert!(!blind.is_unheard_after(Some(FRESH), said(900, true), now));
        assert!(blind.is_unheard_after(None, said(900, false), now));
    }

    #[test]
    fn a_far_server_has_more_time_to_acknowledge() {
        let patience = |round_trip| {
            let progress = Progress {
                round_trip,
                ..FRESH
            };
            let waited = IdleState::of(Some(progress), 0, Instant::now());
            waited.unwrap().patience()
        };
        assert_eq!(patience(Duration::ZERO), Duration::from_secs(1));
        assert_eq!(patience(Duration::from_millis(50)), Duration::from_secs(1));
        assert_eq!(
            patience(Duration::from_millis(600)),
            Duration::from_millis(2400)
        );
    }
}
