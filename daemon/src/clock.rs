//! What time it is: a value, so that tests bring their own.

use std::{fmt, sync::Arc};

use jiff::{Timestamp, tz::TimeZone};
use pomd_core::moment::Moment;
use tokio::time::Instant;

use crate::system::boot_clock;

/// The wall clock, and one that counts on while the machine sleeps.
#[derive(Clone)]
pub struct Clock {
    wall: Arc<dyn Fn() -> Timestamp + Send + Sync>,
    moment: Arc<dyn Fn() -> Moment + Send + Sync>,
    origin: Instant,
}

/// A time as a person says it: of a day that is not today the date is told too.
pub fn time_of_day(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    let (at, now) = (at.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let format = if at.date() == now.date() {
        "%H:%M"
    } else {
        "%Y-%m-%d %H:%M"
    };
    at.strftime(format).to_string()
}

impl Clock {
    /// The machine's.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that asks the machine"
    )]
    pub fn real() -> Self {
        Self::from_fn(Timestamp::now)
    }

    /// One whose wall clock a test turns.
    pub fn from_fn(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let origin = Instant::now();
        Self {
            wall: Arc::new(now),
            moment: Arc::new(move || Moment {
                boot: boot_clock::since_boot().unwrap_or_else(|| origin.elapsed()),
                awake: origin.elapsed(),
            }),
            origin,
        }
    }

    /// The same, but for what must know of sleep it is `moment`.
    pub fn with_moment(mut self, moment: impl Fn() -> Moment + Send + Sync + 'static) -> Self {
        self.moment = Arc::new(moment);
        self
    }

    /// When this clock was made.
    pub fn origin(&self) -> Instant {
        self.origin
    }

    /// Now, in whole seconds: what people and files see.
    pub fn now(&self) -> Timestamp {
        let now = (self.wall)();
        Timestamp::from_second(now.as_second()).unwrap_or(now)
    }

    /// Now, for what must know of sleep.
    pub fn moment(&self) -> Moment {
        (self.moment)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn moment(boot: u64, awake: u64) -> Moment {
        Moment {
            boot: Duration::from_secs(boot),
            awake: Duration::from_secs(awake),
        }
    }

    #[test]
    fn k1_a_sleep_is_what_only_one_of_the_clocks_counted() {
        let before = moment(100, 40);
        assert!(!moment(100, 40).slept_since(before));
        assert!(!moment(4_000, 3_940).slept_since(before), "a long day");
        assert!(!moment(161, 100).slept_since(before), "read a little apart");
        assert!(moment(162, 100).slept_since(before));
        assert!(moment(100 + 8 * 3600, 41).slept_since(before));
        assert!(!before.slept_since(moment(4_000, 100)), "backwards");
    }

    #[test]
    fn the_machine_is_awake_while_this_runs() {
        let clock = Clock::real();
        let before = clock.moment();
        let after = clock.moment();
        assert!(after.boot >= before.boot && after.awake >= before.awake);
        assert!(!after.slept_since(before));
    }
}
