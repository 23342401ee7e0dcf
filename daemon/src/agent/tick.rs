//! When housekeeping is due: seldom, at moments that cost one wake each.
//!
//! A timer of tokio's far away lies in a coarse level of a wheel (64 slots of 1 ms, of 64 ms, of 4,096 ms, …), and each
//! finer level on its way costs a turn of the thread. One that is due where a coarse slot begins needs none: 30 s after
//! anything are three wakes, 2¹⁵ ms after the start of the wheel are one. Nothing depends on it but the number of wakes.

use std::time::Duration;

use tokio::time::Instant;

/// Half a minute, as the wheel counts: no slot of a coarser level ever begins between two beats.
pub(crate) const LONGEST: Duration = Duration::from_millis(1 << 15);

/// Moments that come regularly since `origin`.
#[derive(Clone, Copy, Debug)]
pub(super) struct TickSchedule {
    origin: Instant,
    period: Duration,
}

impl TickSchedule {
    /// Often enough for whoever must hear a schedule `within` some time. `origin`: just before the runtime was made.
    pub(super) fn new(origin: Instant, within: Option<Duration>) -> Self {
        let within = within.unwrap_or(LONGEST).min(LONGEST).as_millis().max(1);
        let period = 1 << within.ilog2();
        Self {
            origin,
            period: Duration::from_millis(period),
        }
    }

    /// The next moment after `now`. What was missed, as in sleep, is not made up for.
    pub(super) fn after(self, now: Instant) -> Instant {
        let passed = now.saturating_duration_since(self.origin).as_nanos();
        let since = passed % self.period.as_nanos();
        // Less than the period, which fits.
        let since = Duration::from_nanos(u64::try_from(since).unwrap_or(0));
        now - since + self.period
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn beats_lie_where_a_coarse_slot_begins_and_none_is_made_up_for() {
        let origin = Instant::now();
        let schedule = TickSchedule::new(origin, None);
        for (now, due) in [
            (0, 32_768),
            (1, 32_768),
            (32_767, 32_768),
            (32_768, 65_536),
            // Late by hours.
            (100_000_001, 100_007_936),
        ] {
            assert_eq!(
                schedule.after(origin + now * MS),
                origin + due * MS,
                "{now}"
            );
        }
    }

    #[test]
    fn a_watchdog_hears_in_time() {
        let origin = Instant::now();
        for (within, period) in [(33_000, 32_768), (30_000, 16_384), (500, 256), (1, 1)] {
            let schedule = TickSchedule::new(origin, Some(within * MS));
            assert_eq!(schedule.after(origin), origin + period * MS, "{within}");
        }
    }
}
