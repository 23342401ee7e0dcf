//! The budget that all relays share for reading ahead, and one relay's [`Share`] of it.

use std::sync::atomic::Ordering::Relaxed;

use super::Shared;
use crate::buffer::SIZE;

/// What one relay took from the budget; given back when dropped. The first buffer is free of charge: a relay can always
/// go on.
pub(super) struct Share<'a> {
    shared: &'a Shared,
    charged: usize,
}

impl<'a> Share<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, charged: 0 }
    }

    /// Charges a relay that holds `buffers` for one more; false if it may not have it.
    pub(super) fn one_more(&mut self, buffers: usize) -> bool {
        let most = self.shared.read_ahead.div_ceil(SIZE);
        buffers <= most && self.pay(buffers * SIZE)
    }

    /// Gives back what is charged beyond `buffers`.
    pub(super) fn settle(&mut self, buffers: usize) {
        let owed = owed(buffers);
        if self.charged > owed {
            self.shared.budget.fetch_add(self.charged - owed, Relaxed);
            self.charged = owed;
        }
    }

    /// Charges `buffers` that came unasked, if the budget has so much.
    pub(super) fn catch_up(&mut self, buffers: usize) {
        self.pay(owed(buffers));
    }

    fn pay(&mut self, owed: usize) -> bool {
        let more = owed.saturating_sub(self.charged);
        let paid = self
            .shared
            .budget
            .fetch_update(Relaxed, Relaxed, |left| left.checked_sub(more))
            .is_ok();
        if paid {
            self.charged += more;
        }
        paid
    }
}

fn owed(buffers: usize) -> usize {
    buffers.saturating_sub(1) * SIZE
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        self.settle(0);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn shared(budget: usize, read_ahead: usize) -> Shared {
        Shared {
            budget: budget.into(),
            read_ahead,
            linger: Duration::ZERO,
        }
    }

    #[test]
    fn one_buffer_is_free_and_the_rest_is_paid_for_and_given_back() {
        let shared = shared(3 * SIZE, 8 * SIZE);
        let left = || shared.budget.load(Relaxed) / SIZE;
        let mut one = Share::new(&shared);
        assert!(one.one_more(0));
        assert_eq!(left(), 3, "the first is free");
        assert!(one.one_more(1) && one.one_more(1) && one.one_more(2));
        assert_eq!(left(), 1, "asked twice, paid once");
        let mut other = Share::new(&shared);
        assert!(other.one_more(1));
        assert!(!other.one_more(2) && !one.one_more(3), "nothing is left");
        one.settle(2);
        assert_eq!(left(), 1);
        drop((one, other));
        assert_eq!(left(), 3);
    }

    #[test]
    fn one_relay_does_not_read_ahead_more_than_its_own_limit() {
        let shared = shared(100 * SIZE, 2 * SIZE - 1);
        let mut one = Share::new(&shared);
        assert!(one.one_more(2));
        assert!(!one.one_more(3));
    }
}
