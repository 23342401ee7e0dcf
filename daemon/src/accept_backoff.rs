//! What every accept loop does after a failed accept: of tunnels, of the control socket and of the page of a login.
//!
//! Pure but for the error that it is given. Must not know who accepts.

use std::{io, time::Duration};

use crate::system::errors::{self, AcceptTrouble};

/// After a failure: short, for descriptors come back at any moment; longer each time, so that waiting costs nothing.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
];
/// Failures that are about one connection: so many in a row are more than that.
const PATIENCE: u32 = 16;

/// What to do after a failed accept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterFailure {
    /// Accept again at once: it was about one connection.
    Retry,
    /// Accept again after this time.
    Pause(Duration),
    /// Accept again after this time; there is no descriptor or memory left.
    Exhausted(Duration),
    /// Give the listener up: it is broken.
    GiveUp,
}

/// The failures in a row of one listener.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
    is_exhausted: bool,
}

impl Backoff {
    /// A connection was accepted.
    pub fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// An accept failed.
    pub fn failed(&mut self, error: &io::Error) -> AfterFailure {
        let trouble = errors::accept_trouble(error);
        let is_exhausted = trouble == AcceptTrouble::Exhausted;
        if is_exhausted && !self.is_exhausted {
            self.failures = 0;
        }
        self.is_exhausted |= is_exhausted;
        self.failures = self.failures.saturating_add(1);
        let pause = PAUSES[PAUSES.len().min(self.failures as usize) - 1];
        match trouble {
            AcceptTrouble::Broken => AfterFailure::GiveUp,
            AcceptTrouble::Passing if self.failures <= PATIENCE => AfterFailure::Retry,
            AcceptTrouble::Passing => AfterFailure::Pause(pause),
            AcceptTrouble::Exhausted => AfterFailure::Exhausted(pause),
        }
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use rustix::io::Errno;

    use super::*;

    #[test]
    fn e1_pauses_grow_while_descriptors_lack_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::default();
        let lack = io::Error::from(Errno::MFILE);
        let pauses = [10, 25, 50, 100, 100];
        for pause in pauses {
            let pause = Duration::from_millis(pause);
            assert_eq!(backoff.failed(&lack), AfterFailure::Exhausted(pause));
        }
        backoff.succeeded();
        let first = AfterFailure::Exhausted(PAUSES[0]);
        assert_eq!(backoff.failed(&lack), first);
    }

    #[test]
    fn failures_of_single_connections_are_passed_over_until_they_are_too_many() {
        let mut backoff = Backoff::default();
        let passing = io::Error::from(Errno::CONNABORTED);
        for _ in 0..PATIENCE {
            assert_eq!(backoff.failed(&passing), AfterFailure::Retry);
        }
        let pause = AfterFailure::Pause(PAUSES[3]);
        assert_eq!(backoff.failed(&passing), pause);
        let broken = io::Error::from(Errno::BADF);
        assert_eq!(backoff.failed(&broken), AfterFailure::GiveUp);
    }
}
