//! Pure: whether the remote's word that it ended can be trusted.
//!
//! Envoy gives a closing connection up when it could write nothing for a second, and what it still held is lost behind
//! a clean close_notify. Reading a little does not help it: kernels open a closed window in large steps only. So the
//! measure is not the time between two reads but the time in which we took less than [`ENOUGH`] although more was
//! there.

use std::time::Duration;

use tokio::time::Instant;

/// A remote that waits for longer than this may give up; a tenth of a second less than it does.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long after such a wait its word is not trusted: what the kernels held has been read by then.
const MEMORY: Duration = Duration::from_secs(3);
/// More than two kernels' buffers of default size need to move before the sender can write again.
const ENOUGH: usize = 4 << 20;

/// What is remembered of one remote.
#[derive(Default)]
pub(super) struct Doubt {
    /// More was there than we took, since then; and what we took since.
    behind: Option<(Instant, usize)>,
    /// The newest wait that was too long.
    waited: Option<Instant>,
}

impl Doubt {
    /// The remote has something and we do not take it. Since when that is so.
    pub(super) fn left_unread(&mut self, now: Instant) -> Instant {
        self.behind.get_or_insert((now, 0)).0
    }

    /// Something was left unread and there may be more of it.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// We took `bytes`.
    pub(super) fn took(&mut self, bytes: usize, now: Instant) {
        if let Some((_, taken)) = &mut self.behind {
            *taken += bytes;
            if *taken >= ENOUGH {
                self.look(now);
                self.behind = Some((now, 0));
            }
        }
    }

    /// We took all there was.
    pub(super) fn caught_up(&mut self, now: Instant) {
        self.look(now);
        self.behind = None;
    }

    /// Whether an end that is read now may hide a loss.
    pub(super) fn remains(&mut self, now: Instant) -> bool {
        self.look(now);
        self.waited.is_some_and(|at| now - at < MEMORY)
    }

    fn look(&mut self, now: Instant) {
        if self.behind.is_some_and(|(since, _)| now - since > PATIENCE) {
            self.waited = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_millis(ms)
    }

    #[test]
    fn a_remote_that_never_waited_is_trusted() {
        let mut doubt = Doubt::default();
        doubt.took(1, at(5000));
        doubt.caught_up(at(5000));
        assert!(!doubt.remains(at(5000)));
    }

    #[test]
    fn a_short_wait_is_no_doubt_and_a_long_one_is_for_three_seconds() {
        let mut doubt = Doubt::default();
        doubt.left_unread(at(0));
        doubt.left_unread(at(800));
        doubt.caught_up(at(900));
        assert!(!doubt.remains(at(900)));
        doubt.left_unread(at(1000));
        doubt.caught_up(at(1901));
        assert!(doubt.remains(at(1901)) && doubt.remains(at(4900)));
        assert!(!doubt.remains(at(4901)));
    }

    #[test]
    fn reading_a_little_in_between_does_not_help() {
        let mut doubt = Doubt::default();
        for tick in 0..10 {
            doubt.left_unread(at(tick * 600));
            doubt.took(128 * 1024, at(tick * 600));
        }
        assert!(doubt.remains(at(5400)));
    }

    #[test]
    fn a_reader_that_is_steadily_slower_than_the_network_is_no_doubt() {
        let mut doubt = Doubt::default();
        for tick in 0..1000 {
            doubt.left_unread(at(tick * 100));
            doubt.took(1 << 20, at(tick * 100));
        }
        assert!(!doubt.remains(at(100_000)));
    }
}
