//! How long one connection waits for a login. Pure: how things stand and the time in, what to do out.

use std::time::Duration;

use super::{Grant, Patience, facts::Standing, machine::Stance};

/// One connection that waits for a grant.
#[derive(Debug)]
pub(super) struct Wait {
    /// Only a newer generation counts.
    after: Option<u64>,
    patience: Patience,
    /// How often those who wait had been sent away when it came.
    dismissals: u64,
    /// When its patience with a login ends, once there is one.
    asked_ends: Option<Duration>,
}

/// What a connection that waits does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// It goes on with this.
    Granted(Grant),
    /// It waits no longer.
    SentAway,
    /// It looks again when it has waited so long, or when something changed.
    Until(Duration),
}

impl Wait {
    pub(super) fn new(after: Option<u64>, patience: Patience, dismissals: u64) -> Self {
        Self {
            after,
            patience,
            dismissals,
            asked_ends: None,
        }
    }

    /// To be called whenever the standing changed, and when it is due; `waited` since its demand was heard.
    pub(super) fn look(&mut self, standing: &Standing, waited: Duration) -> Look {
        if let Some(grant) = newer(standing, self.after) {
            return Look::Granted(grant);
        }
        let ends = match standing.stance {
            _ if standing.dismissals != self.dismissals => return Look::SentAway,
            Stance::Quiet => return Look::SentAway,
            Stance::Unasked => self.patience.unasked,
            Stance::Asked => *self.asked_ends.get_or_insert(waited + self.patience.asked),
        };
        if ends <= waited {
            Look::SentAway
        } else {
            Look::Until(ends)
        }
    }
}

/// The grant, if it is newer than `after` (any, if `None`).
pub(super) fn newer(standing: &Standing, after: Option<u64>) -> Option<Grant> {
    let grant = standing.grant.as_ref();
    grant
        .filter(|it| after.is_none_or(|after| it.generation > after))
        .cloned()
}
