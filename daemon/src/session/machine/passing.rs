//! What the mere passing of time does: deadlines, sleep, a clock that was set.
//!
//! Pure, as the rest of the machine.

use jiff::{SignedDuration, Timestamp};

use super::{Action, COOL_DOWN_MIN, Held, Login, Machine, after};

/// Four times the driver's longest pause: time was not lived through, but slept (or the clock was set).
const SLEPT: SignedDuration = SignedDuration::from_secs(2 * 60);

impl Machine {
    /// What the mere passing of time does.
    pub(super) fn pass(&mut self, now: Timestamp) -> Option<Action> {
        let passed = now.duration_since(self.seen);
        self.seen = now;
        if passed.is_negative() {
            self.set_back(passed);
        } else if passed >= SLEPT {
            // Nobody looked in while nothing mattered: that was no sleep.
            let woke = self.restless();
            self.failures = 0;
            if woke && let Some(action) = self.woke() {
                return Some(action);
            }
        }
        let Login::Open {
            job,
            prompt_ends,
            link_ends,
            ..
        } = self.login
        else {
            return None;
        };
        if link_ends <= now {
            self.login = Login::None;
            self.hush();
            return Some(Action::End { job });
        }
        if prompt_ends <= now && !self.quiet {
            self.hush();
        }
        None
    }

    /// What failed before counts no longer. Nothing is started: who waits tries again as soon as after a first failure.
    pub(super) fn forgive(&mut self, now: Timestamp) {
        self.failures = 0;
        if let Login::Cooling { until } = &mut self.login {
            *until = (*until).min(after(now, SignedDuration::from_secs(COOL_DOWN_MIN)));
            if !self.waiting {
                self.login = Login::None;
            }
        }
    }

    /// The clock was set back: what was to come in 3 minutes still comes in 3 minutes.
    fn set_back(&mut self, by: SignedDuration) {
        match &mut self.login {
            Login::Open {
                prompt_ends,
                link_ends,
                ..
            } => {
                *prompt_ends = after(*prompt_ends, by);
                *link_ends = after(*link_ends, by);
            }
            Login::Cooling { until } => *until = after(*until, by),
            Login::None | Login::Starting { .. } => {}
        }
        if let Some(Held {
            made_at: Some(it), ..
        }) = &mut self.grant
        {
            *it = after(*it, by);
        }
    }

    /// After a sleep no window opens for a connection from before it, and no pause goes on.
    fn woke(&mut self) -> Option<Action> {
        if self.waiting {
            self.dismiss();
        }
        match self.login {
            Login::Starting {
                job,
                by_person: false,
                ..
            } => {
                self.login = Login::None;
                Some(Action::End { job })
            }
            Login::Cooling { .. } => {
                self.login = Login::None;
                None
            }
            _ => None,
        }
    }
}
