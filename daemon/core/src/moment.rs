//! A moment of the machine's own clocks, as a value.

use std::time::Duration;

/// A moment, told by two clocks that part while the machine sleeps. Only differences mean something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Time since the machine was started.
    pub boot: Duration,
    /// The same without the time it slept.
    pub awake: Duration,
}

/// The two clocks are not read at once: what they part less is no sleep.
const APART: Duration = Duration::from_secs(1);

impl Moment {
    /// Whether the machine slept between `earlier` and this moment. Never so where the system has one clock only.
    pub fn slept_since(self, earlier: Self) -> bool {
        let passed = self.boot.saturating_sub(earlier.boot);
        let awake = self.awake.saturating_sub(earlier.awake);
        passed.saturating_sub(awake) > APART
    }
}
