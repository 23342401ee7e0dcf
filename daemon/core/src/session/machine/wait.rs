//! How long one connection waits for a login.

use std::time::Duration;

use crate::session::token::Grant;

use super::{WaitPolicy, WaiterView};

/// How long a connection is ready to wait.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// While nobody was asked, because there is nowhere to ask: 0 for ssh, 30 s for others.
    pub unasked: Duration,
    /// While a login awaits a person: 5 minutes.
    pub asked: Duration,
    /// The client asks the person for a login: pomd opens no browser for its sake.
    pub client_asks: bool,
}

/// One connection that waits for a grant.
///
/// Made once the [`Core`](super::Core) has heard of the connection's demand; [`Wait::look`] is called at once, whenever
/// the [`WaiterView`] changed, and when the returned time has come.
#[derive(Debug)]
pub struct Wait {
    /// Only a newer generation counts.
    after: Option<u64>,
    patience: Patience,
    /// How often those who wait had been sent away when it came.
    dismissals: u64,
    /// When its patience with a person ends, once one was asked.
    asked_ends: Option<Duration>,
}

/// What a connection that waits does.
#[derive(Debug, PartialEq, Eq)]
pub enum Look {
    /// It uses this.
    Granted(Grant),
    /// It waits no longer.
    SentAway,
    /// It looks again when it has waited so long, or when something changed.
    Until(Duration),
}

impl Wait {
    /// A connection that wants a token newer than `after`. `dismissals` is what [`Core`](super::Core) said right after
    /// the connection's demand.
    pub fn new(after: Option<u64>, patience: Patience, dismissals: u64) -> Self {
        Self {
            after,
            patience,
            dismissals,
            asked_ends: None,
        }
    }

    /// Decides what the connection does that has `waited` so long since its demand was heard.
    pub fn look(&mut self, view: &WaiterView, waited: Duration) -> Look {
        if let Some(grant) = view.newer(self.after) {
            return Look::Granted(grant);
        }
        let ends = match view.policy {
            _ if view.dismissals != self.dismissals => return Look::SentAway,
            WaitPolicy::OnRequestOnly => return Look::SentAway,
            WaitPolicy::NobodyAsked => self.patience.unasked,
            WaitPolicy::Asked => *self.asked_ends.get_or_insert(waited + self.patience.asked),
        };
        if ends <= waited {
            Look::SentAway
        } else {
            Look::Until(ends)
        }
    }
}
