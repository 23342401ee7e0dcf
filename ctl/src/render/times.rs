//! Times as people say them: local, and only as much date as is needed. Pure.

use std::time::Duration;

use jiff::{Timestamp, tz::TimeZone};

/// Returns `14:05` today, `Mon 14:05` within a week, else `2026-11-22 14:05`.
pub(crate) fn time(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    format(at, now, zone, "%H:%M")
}

/// Returns the same with seconds, for logs.
pub(crate) fn time_to_the_second(at: Timestamp, now: Timestamp, zone: &TimeZone) -> String {
    format(at, now, zone, "%H:%M:%S")
}

/// Returns how long from `from` until `to`; nothing if that is over.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or_default()
}

fn format(at: Timestamp, now: Timestamp, zone: &TimeZone, clock: &str) -> String {
    let (at, now) = (at.to_zoned(zone.clone()), now.to_zoned(zone.clone()));
    let days = at
        .date()
        .since(now.date())
        .map_or(i32::MAX, |it| it.get_days().abs());
    let day = match days {
        0 => "",
        1..7 => "%a ",
        _ => "%Y-%m-%d ",
    };
    at.strftime(&format!("{day}{clock}")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_as_much_date_as_is_needed() {
        let zone = TimeZone::posix("XXX-1").unwrap();
        let now: Timestamp = "2026-11-22T13:05:00Z".parse().unwrap();
        let table = [
            ("2026-11-22T13:05:00Z", "14:05"),
            ("2026-11-21T23:00:00Z", "00:00"),
            ("2026-11-21T22:59:59Z", "Sat 23:59"),
            ("2026-11-23T07:30:00Z", "Mon 08:30"),
            ("2026-11-16T09:00:00Z", "Mon 10:00"),
            ("2026-11-15T09:00:00Z", "2026-11-15 10:00"),
            ("2026-12-24T17:00:00Z", "2026-12-24 18:00"),
            ("2025-11-22T13:05:00Z", "2025-11-22 14:05"),
        ];
        for (at, text) in table {
            assert_eq!(time(at.parse().unwrap(), now, &zone), text);
        }
        let at = "2026-11-22T13:05:12Z".parse().unwrap();
        assert_eq!(time_to_the_second(at, now, &zone), "14:05:12");
    }

    #[test]
    fn what_is_over_takes_no_time() {
        let early: Timestamp = "2026-11-22T13:05:00Z".parse().unwrap();
        let late: Timestamp = "2026-11-22T13:06:00Z".parse().unwrap();
        assert_eq!(between(early, late), Duration::from_secs(60));
        assert_eq!(between(late, early), Duration::ZERO);
    }
}
