//! When nothing asks until a person does: after a logout, or a login that nobody answered.
//!
//! Pure, as the rest of the machine.

use super::{Action, Login, Machine};

impl Machine {
    /// Nothing asks until a person does, as it was with the session whose place this one takes.
    pub(in crate::session) fn stay_quiet(&mut self, logged_out: bool) {
        self.quiet = true;
        self.logged_out = logged_out;
    }

    pub(super) fn logout(&mut self) -> Vec<Action> {
        let job = self.starting().or(self.open());
        let mut res: Vec<_> = job.map(|job| Action::End { job }).into_iter().collect();
        res.push(Action::Forget);
        self.grant = None;
        self.login = Login::None;
        self.logged_out = true;
        self.hush();
        res
    }

    pub(super) fn hush(&mut self) {
        self.quiet = true;
        self.dismiss();
    }
}
