//! When what is shown: a change at once, counters at most once a second, and nothing is built while nobody watches.
//!
//! Knows snapshots and times. Must not know what they are made of.

use std::{sync::Arc, time::Duration};

use control::wire::Status;
use tokio::{sync::watch, time::Instant};

use super::status::differs_in_more_than_counters;

/// How soon after a change the snapshot follows: changes that come together are shown together.
const SETTLE: Duration = Duration::from_millis(20);
/// How often is looked at most: while bytes flow, something changes all the time.
const LOOK: Duration = Duration::from_millis(100);
/// How often a snapshot may follow where only counters moved.
const COUNTERS: Duration = Duration::from_secs(1);

/// The newest snapshot, and when the next one is due.
pub(super) struct Publisher {
    snapshots: watch::Sender<Arc<Status>>,
    shown_at: Instant,
    looked_at: Instant,
    /// Something may have changed.
    look_at: Option<Instant>,
    /// Counters moved, and were shown a moment ago.
    count_at: Option<Instant>,
}

impl Publisher {
    pub(super) fn new(first: Status, now: Instant) -> Self {
        Self {
            snapshots: watch::Sender::new(Arc::new(first)),
            shown_at: now,
            looked_at: now,
            look_at: None,
            count_at: None,
        }
    }

    /// The snapshots, from `present` on.
    pub(super) fn watch(&mut self, present: Status, now: Instant) -> watch::Receiver<Arc<Status>> {
        if self.is_watched() {
            self.look(present, now);
        } else {
            // Nothing was shown while nobody watched.
            self.show(present, now);
        }
        self.snapshots.subscribe()
    }

    /// Somebody watches.
    pub(super) fn is_watched(&self) -> bool {
        self.snapshots.receiver_count() > 0
    }

    /// The newest snapshot, if somebody watches.
    pub(super) fn shown(&self) -> Option<Arc<Status>> {
        self.is_watched().then(|| self.snapshots.borrow().clone())
    }

    /// It makes a difference to be told of a change now.
    pub(super) fn wants_news(&self) -> bool {
        self.look_at.is_none() && self.is_watched()
    }

    /// Something may have changed.
    pub(super) fn changed(&mut self, now: Instant) {
        let soon = (now + SETTLE).max(self.looked_at + LOOK);
        self.look_at.get_or_insert(soon);
    }

    /// When to look; never, while nobody watches.
    pub(super) fn due(&self) -> Option<Instant> {
        let due = self.look_at.into_iter().chain(self.count_at).min();
        due.filter(|_| self.is_watched())
    }

    /// Shows `present` if it is time for that.
    pub(super) fn look(&mut self, present: Status, now: Instant) {
        self.looked_at = now;
        self.look_at = None;
        let shown = self.snapshots.borrow().clone();
        if present == *shown {
            self.count_at = None;
        } else if differs_in_more_than_counters(&shown, &present) || self.shown_at + COUNTERS <= now
        {
            self.show(present, now);
        } else {
            self.count_at = Some(self.shown_at + COUNTERS);
        }
    }

    fn show(&mut self, present: Status, now: Instant) {
        self.shown_at = now;
        self.looked_at = now;
        self.look_at = None;
        self.count_at = None;
        self.snapshots.send_replace(Arc::new(present));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::status::tests::sample;

    const MS: Duration = Duration::from_millis(1);

    fn counted(received: u64) -> Status {
        let mut res = sample();
        res.tunnels[0].bytes.received = received;
        res
    }

    fn broken() -> Status {
        Status {
            healthy: false,
            ..sample()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn counters_wait_for_their_second_and_the_newest_is_shown() {
        let start = Instant::now();
        let mut publisher = Publisher::new(sample(), start);
        let mut seen = publisher.watch(sample(), start);
        for n in 1..=9 {
            let now = start + n * LOOK;
            publisher.changed(now);
            assert!(!publisher.wants_news());
            publisher.look(counted(n.into()), now);
            assert!(!seen.has_changed().unwrap(), "{n}");
            assert_eq!(publisher.due(), Some(start + COUNTERS));
        }
        publisher.look(counted(10), start + COUNTERS);
        assert_eq!(seen.borrow_and_update().tunnels[0].bytes.received, 10);
        assert_eq!(publisher.due(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_does_not_wait_for_the_second_of_the_counters() {
        let start = Instant::now();
        let mut publisher = Publisher::new(sample(), start);
        let mut seen = publisher.watch(sample(), start);
        publisher.changed(start + 200 * MS);
        assert_eq!(publisher.due(), Some(start + 220 * MS));
        publisher.look(counted(1), start + 220 * MS);
        assert!(publisher.wants_news(), "counters wait, news are welcome");
        publisher.changed(start + 230 * MS);
        assert_eq!(publisher.due(), Some(start + 320 * MS));
        publisher.look(broken(), start + 320 * MS);
        assert!(!seen.borrow_and_update().healthy);
    }

    #[tokio::test(start_paused = true)]
    async fn what_moved_back_is_not_shown_and_not_looked_at_again() {
        let start = Instant::now();
        let mut publisher = Publisher::new(sample(), start);
        let seen = publisher.watch(sample(), start);
        publisher.look(counted(1), start + 10 * MS);
        publisher.look(sample(), start + 20 * MS);
        assert_eq!(publisher.due(), None);
        assert!(!seen.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_due_while_nobody_watches_and_the_first_sight_is_fresh() {
        let start = Instant::now();
        let mut publisher = Publisher::new(sample(), start);
        assert!(!publisher.wants_news());
        publisher.changed(start);
        assert_eq!(publisher.due(), None);
        let seen = publisher.watch(counted(7), start);
        assert_eq!(seen.borrow().tunnels[0].bytes.received, 7);
        drop(seen);
        publisher.changed(start);
        assert_eq!(publisher.due(), None);
    }
}
