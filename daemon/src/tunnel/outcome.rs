//! What is wrong with the way of a tunnel, as its attempts found out.
//!
//! Attempts overlap: one that began while something was wrong may end after another one went well, or after the machine
//! came to another network. What it met is over by then.

use std::sync::{Mutex, MutexGuard, PoisonError};

use control::wire;
use pomd_core::words::open;
use tokio::time::Instant;

/// How the newest attempt ended. That a login is missing is no outcome: the session says so.
#[derive(Debug, Default)]
pub struct Outcome(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    trouble: Option<wire::Reason>,
    /// An attempt came to an answer: that nothing is wrong is known, and not only hoped for.
    tried: bool,
    /// When that was cleared last.
    cleared_at: Option<Instant>,
    /// When the network was another one last.
    elsewhere_at: Option<Instant>,
}

impl Outcome {
    /// What a tunnel knows that takes the place of this one's: whether its route was tried.
    pub(super) fn carried_over(&self, same_route: bool) -> Self {
        let tried = same_route && self.is_tried();
        Self(Mutex::new(Newest {
            tried,
            ..Newest::default()
        }))
    }

    /// What is wrong; `None`: nothing, or nothing was tried yet.
    pub fn trouble(&self) -> Option<wire::Reason> {
        self.newest().trouble.clone()
    }

    /// An attempt came to an answer since pomd started.
    pub fn is_tried(&self) -> bool {
        self.newest().tried
    }

    /// An attempt went well. True if that is news.
    pub fn worked(&self) -> bool {
        let news = !std::mem::replace(&mut self.newest().tried, true);
        self.clear() || news
    }

    /// An attempt went well just now, or what was found out before says nothing any more. True if something was wrong.
    pub fn clear(&self) -> bool {
        let mut newest = self.newest();
        newest.cleared_at = Some(Instant::now());
        newest.trouble.take().is_some()
    }

    /// The network is another one, or the machine slept: trouble with the one before says nothing any more, however late
    /// it is told. True if that was what was wrong.
    pub fn look_again(&self) -> bool {
        let mut newest = self.newest();
        newest.elsewhere_at = Some(Instant::now());
        let of_network = newest.trouble.take_if(|it| open::is_of_network(it.code));
        of_network.is_some()
    }

    /// An attempt that began at `begun` met `trouble`. True if that is news.
    pub fn failed(&self, begun: Instant, trouble: wire::Reason) -> bool {
        let mut newest = self.newest();
        let is_over = newest.cleared_at.is_some_and(|it| begun < it)
            || open::is_of_network(trouble.code)
                && newest.elsewhere_at.is_some_and(|it| begun < it);
        newest.tried = true;
        !is_over && newest.show(Some(trouble))
    }

    /// Shows what `other` makes of what is shown. True if that is something else.
    pub fn replace(
        &self,
        other: impl FnOnce(Option<wire::Reason>) -> Option<wire::Reason>,
    ) -> bool {
        let mut newest = self.newest();
        let other = other(newest.trouble.clone());
        newest.show(other)
    }

    fn newest(&self) -> MutexGuard<'_, Newest> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newest {
    fn show(&mut self, trouble: Option<wire::Reason>) -> bool {
        let is_new = self.trouble != trouble;
        self.trouble = trouble;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use control::wire::Code;
    use jiff::Timestamp;
    use tokio::time::advance;

    use super::*;

    fn trouble(code: Code) -> wire::Reason {
        wire::Reason::new(code, "as it was", Timestamp::UNIX_EPOCH)
    }

    #[tokio::test(start_paused = true)]
    async fn what_went_wrong_before_it_went_well_is_no_news_however_late_it_is_told() {
        let outcome = Outcome::default();
        let slow = Instant::now();
        assert!(outcome.failed(slow, trouble(Code::Tls)));
        assert!(!outcome.failed(slow, trouble(Code::Tls)), "told already");
        advance(Duration::from_secs(1)).await;
        let other = Instant::now();
        advance(Duration::from_secs(1)).await;
        assert!(outcome.clear());
        for begun in [slow, other] {
            assert!(!outcome.failed(begun, trouble(Code::Tcp)));
        }
        assert_eq!(outcome.trouble(), None);
        advance(Duration::from_secs(1)).await;
        assert!(outcome.failed(Instant::now(), trouble(Code::Tcp)));
        assert_eq!(outcome.trouble().map(|it| it.code), Some(Code::Tcp));
        assert!(outcome.replace(|_| None));
        assert!(outcome.failed(Instant::now(), trouble(Code::Tcp)));
    }
    #[tokio::test(start_paused = true)]
    async fn n6_trouble_with_a_network_that_was_left_is_no_news_and_other_trouble_is() {
        let outcome = Outcome::default();
        let before = Instant::now();
        assert!(outcome.failed(before, trouble(Code::Tcp)));
        advance(Duration::from_secs(1)).await;
        assert!(outcome.look_again());
        assert!(!outcome.look_again(), "nothing is left of it");
        assert!(!outcome.failed(before, trouble(Code::Tcp)));
        assert_eq!(outcome.trouble(), None);
        assert!(outcome.failed(before, trouble(Code::Http)));
        assert!(!outcome.look_again());
        assert_eq!(outcome.trouble().map(|it| it.code), Some(Code::Http));
        assert!(outcome.failed(Instant::now(), trouble(Code::Tcp)));
    }
}
