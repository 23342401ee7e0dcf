//! Pure: whether the remote's word that it ended can be trusted.
//!
//! Envoy gives a closing connection up when it could write nothing for a second, and what it still held is lost behind
//! a clean close_notify. Reading a little does not help it: kernels open a closed window in large steps only. So the
//! measure is not the time between two reads but the time in which we took less than [`ENOUGH`] although more was
//! there.
//!
//! After such a wait the doubt is over once more came than the kernels of both ends can have held meanwhile: whatever
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

/// What is remembered of one remote.
#[derive(Default)]
pub struct Doubt {
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

impl Doubt {
    /// The remote has something and we do not take it. Since when that is so.
    pub fn left_unread(&mut self, now: Instant) -> Instant {
        self.behind.get_or_insert((now, 0)).0
    }

    /// Something was left unread, lately or for too long before: [`Self::took`] wants to know of each read.
    pub fn counts(&self) -> bool {
        self.behind.is_some() || self.waited.is_some()
    }

    /// We took `bytes`. `ours` tells what our kernel may hold; it is asked after a wait only.
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

    /// We took all there was.
    pub fn caught_up(&mut self, now: Instant, ours: impl FnOnce() -> usize) {
        self.look(now, ours);
        self.behind = None;
    }

    /// Whether an end that is read now may hide a loss.
    pub fn remains(&mut self, now: Instant) -> bool {
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
        let mut doubt = Doubt::default();
        doubt.took(1, at(5000), || OURS);
        doubt.caught_up(at(5000), || OURS);
        assert!(!doubt.remains(at(5000)));
    }

    #[test]
    fn a_short_wait_is_no_doubt_and_a_long_one_is_for_three_seconds() {
        let mut doubt = Doubt::default();
        doubt.left_unread(at(0));
        doubt.left_unread(at(800));
        doubt.caught_up(at(900), || OURS);
        assert!(!doubt.remains(at(900)));
        doubt.left_unread(at(1000));
        doubt.caught_up(at(1901), || OURS);
        assert!(doubt.remains(at(1901)) && doubt.remains(at(4900)));
        assert!(!doubt.remains(at(4901)));
    }

    #[test]
    fn reading_a_little_in_between_does_not_help() {
        let mut doubt = Doubt::default();
        for tick in 0..10 {
            doubt.left_unread(at(tick * 600));
            doubt.took(128 * 1024, at(tick * 600), || OURS);
        }
        assert!(doubt.remains(at(5400)));
    }

    #[test]
    fn a_reader_that_is_steadily_slower_than_the_network_is_no_doubt() {
        let mut doubt = Doubt::default();
        for tick in 0..1000 {
            doubt.left_unread(at(tick * 100));
            doubt.took(1 << 20, at(tick * 100), || OURS);
        }
        assert!(!doubt.remains(at(100_000)));
    }

    /// A remote that waited for 1.5 s, and was then read at full speed.
    fn after_a_wait() -> Doubt {
        let mut doubt = Doubt::default();
        doubt.left_unread(at(0));
        doubt.took(ENOUGH, at(1500), || OURS);
        doubt
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
            let mut doubt = after_a_wait();
            for _ in 0..came / MIB {
                doubt.took(MIB, at(1600), || OURS);
            }
            doubt.caught_up(at(1600), || OURS);
            assert_eq!(doubt.remains(at(1600)), doubtful, "{came}");
            // The other way out.
            assert!(!doubt.remains(at(4500)), "{came}");
        }
    }

    #[test]
    fn b4_reads_that_catch_up_are_counted_too() {
        let mut doubt = after_a_wait();
        doubt.caught_up(at(1600), || OURS);
        assert!(doubt.counts() && doubt.remains(at(1600)));
        doubt.took(OURS + THEIRS + 1, at(1700), || OURS);
        assert!(!doubt.counts() && !doubt.remains(at(1700)));
    }

    #[test]
    fn b4_each_wait_is_a_doubt_of_its_own() {
        let mut doubt = after_a_wait();
        doubt.took(OURS + THEIRS, at(1600), || OURS);
        doubt.left_unread(at(1600));
        doubt.took(ENOUGH, at(3000), || OURS);
        assert!(doubt.remains(at(3000)), "the second wait is not over");
        doubt.took(OURS + THEIRS, at(3100), || OURS);
        assert!(doubt.remains(at(3100)));
        doubt.took(1, at(3100), || OURS);
        assert!(!doubt.remains(at(3100)));
    }

    #[test]
    fn b4_where_the_kernel_does_not_tell_only_time_ends_a_doubt() {
        let mut doubt = Doubt::default();
        doubt.left_unread(at(0));
        doubt.took(ENOUGH, at(1000), || usize::MAX);
        doubt.took(1 << 40, at(1100), || usize::MAX);
        doubt.caught_up(at(1100), || usize::MAX);
        assert!(doubt.remains(at(3999)));
        assert!(!doubt.remains(at(4000)));
    }
}
