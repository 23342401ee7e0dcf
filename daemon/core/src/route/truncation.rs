//! Whether an orderly end of the remote may hide a truncation. Pure: given the time, it touches no socket.
//!
//! Envoy gives a closing connection up when it could write nothing for a second, and what it still held is lost behind
//! a clean close_notify. Reading a little does not help it: kernels open a closed window in large steps only. So the
//! measure is not the time between two reads but the time in which we took less than `ENOUGH` although more was
//! there.
//!
//! After such a wait a truncation is ruled out once more came than the kernels of both ends can have held meanwhile: whatever
//! came beyond that, the remote wrote after the wait, so it had not given up.

use std::time::{Duration, Instant};

/// A remote that waits for longer than this may give up; a tenth of a second less than it does.
const PATIENCE: Duration = Duration::from_millis(900);
/// How long after such a wait its word is not trusted, however little came: what the kernels held has been read by then.
const MEMORY: Duration = Duration::from_secs(3);
/// More than two kernels' buffers of default size need to move before the sender can write again.
const ENOUGH: usize = 4 << 20;
/// What the other end's kernel, and that of a proxy between, may hold: nobody tells us.
const THEIRS: usize = 16 << 20;

/// What is remembered of one remote's waits. Told of each read while [`Self::is_counting`].
#[derive(Default)]
pub struct Truncation {
    /// More was there than we took, since then; and what we took since.
    behind: Option<(Instant, usize)>,
    /// The newest wait that was too long.
    waited: Option<Waited>,
}

/// A wait that was too long.
struct Waited {
    /// When it was over at the latest.
    over: Instant,
    /// What may still come of what was on its way then.
    held: usize,
}

impl Truncation {
    /// Notes that the remote has something that is left unread; returns since when that is so.
    pub fn left_unread(&mut self, now: Instant) -> Instant {
        self.behind.get_or_insert((now, 0)).0
    }

    /// Whether something was left unread, lately or for too long before: [`Self::took`] wants to know of each read.
    pub fn is_counting(&self) -> bool {
        self.behind.is_some() || self.waited.is_some()
    }

    /// Notes that `bytes` were taken. `ours` tells what our kernel may hold; it is asked after a wait only.
    pub fn took(&mut self, bytes: usize, now: Instant, ours: impl FnOnce() -> usize) {
        self.waited
            .take_if(|it| it.held < bytes || now - it.over >= MEMORY);
        if let Some(waited) = &mut self.waited {
            waited.held -= bytes;
        }
        if let Some((_, taken)) = &mut self.behind {
            *taken += bytes;
            if *taken >= ENOUGH {
                self.look(now, ours);
                self.behind = Some((now, 0));
            }
        }
    }

    /// Notes that all there was has been taken.
    pub fn caught_up(&mut self, now: Instant, ours: impl FnOnce() -> usize) {
        self.look(now, ours);
        self.behind = None;
    }

    /// Whether an end that is read now may hide a loss.
    pub fn is_possible(&mut self, now: Instant) -> bool {
        self.look(now, || usize::MAX);
        self.waited
            .as_ref()
            .is_some_and(|it| now - it.over < MEMORY)
    }

    fn look(&mut self, now: Instant, ours: impl FnOnce() -> usize) {
        if self.behind.is_some_and(|(since, _)| now - since > PATIENCE) {
            let held = ours().saturating_add(THEIRS);
            self.waited = Some(Waited { over: now, held });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: usize = 6 << 20;

    fn at(ms: u64) -> Instant {
        static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
        *START.get_or_init(Instant::now) + Duration::from_millis(ms)
    }

    #[test]
    fn a_remote_that_never_waited_is_trusted() {
        let mut truncation = Truncation::default();
        truncation.took(1, at(5000), || OURS);
        truncation.caught_up(at(5000), || OURS);
        assert!(!truncation.is_possible(at(5000)));
    }

    #[test]
    fn a_short_wait_is_no_doubt_and_a_long_one_is_for_three_seconds() {
        let mut truncation = Truncation::default();
        truncation.left_unread(at(0));
        truncation.left_unread(at(800));
        truncation.caught_up(at(900), || OURS);
        assert!(!truncation.is_possible(at(900)));
        truncation.left_unread(at(1000));
        truncation.caught_up(at(1901), || OURS);
        assert!(truncation.is_possible(at(1901)) && truncation.is_possible(at(4900)));
        assert!(!truncation.is_possible(at(4901)));
    }

    #[test]
    fn reading_a_little_in_between_does_not_help() {
        let mut truncation = Truncation::default();
        for tick in 0..10 {
            truncation.left_unread(at(tick * 600));
            truncation.took(128 * 1024, at(tick * 600), || OURS);
        }
        assert!(truncation.is_possible(at(5400)));
    }

    #[test]
    fn a_reader_that_is_steadily_slower_than_the_network_is_no_doubt() {
        let mut truncation = Truncation::default();
        for tick in 0..1000 {
            truncation.left_unread(at(tick * 100));
            truncation.took(1 << 20, at(tick * 100), || OURS);
        }
        assert!(!truncation.is_possible(at(100_000)));
    }

    /// A remote that waited for 1.5 s, and was then read at full speed.
    fn after_a_wait() -> Truncation {
        let mut truncation = Truncation::default();
        truncation.left_unread(at(0));
        truncation.took(ENOUGH, at(1500), || OURS);
        truncation
    }

    #[test]
    fn b4_a_doubt_is_over_once_more_came_than_kernels_hold_and_no_sooner() {
        const MIB: usize = 1 << 20;
        for (came, doubtful) in [
            (0, true),
            (OURS, true),
            (THEIRS, true),
            (OURS + THEIRS, true),
            (OURS + THEIRS + MIB, false),
            (64 * MIB, false),
        ] {
            let mut truncation = after_a_wait();
            for _ in 0..came / MIB {
                truncation.took(MIB, at(1600), || OURS);
            }
            truncation.caught_up(at(1600), || OURS);
            assert_eq!(truncation.is_possible(at(1600)), doubtful, "{came}");
            // The other way out.
            assert!(!truncation.is_possible(at(4500)), "{came}");
        }
    }

    #[test]
    fn b4_reads_that_catch_up_are_counted_too() {
        let mut truncation = after_a_wait();
        truncation.caught_up(at(1600), || OURS);
        assert!(truncation.is_counting() && truncation.is_possible(at(1600)));
        truncation.took(OURS + THEIRS + 1, at(1700), || OURS);
        assert!(!truncation.is_counting() && !truncation.is_possible(at(1700)));
    }

    #[test]
    fn b4_each_wait_is_a_doubt_of_its_own() {
        let mut truncation = after_a_wait();
        truncation.took(OURS + THEIRS, at(1600), || OURS);
        truncation.left_unread(at(1600));
        truncation.took(ENOUGH, at(3000), || OURS);
        assert!(
            truncation.is_possible(at(3000)),
            "the second wait is not over"
        );
        truncation.took(OURS + THEIRS, at(3100), || OURS);
        assert!(truncation.is_possible(at(3100)));
        truncation.took(1, at(3100), || OURS);
        assert!(!truncation.is_possible(at(3100)));
    }

    #[test]
    fn b4_where_the_kernel_does_not_tell_only_time_ends_a_doubt() {
        let mut truncation = Truncation::default();
        truncation.left_unread(at(0));
        truncation.took(ENOUGH, at(1000), || usize::MAX);
        truncation.took(1 << 40, at(1100), || usize::MAX);
        truncation.caught_up(at(1100), || usize::MAX);
        assert!(truncation.is_possible(at(3999)));
        assert!(!truncation.is_possible(at(4000)));
    }
}
