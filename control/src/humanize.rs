//! Sizes and durations as people read them, alike in both programs. Pure.

use std::time::Duration;

/// Returns a size in decimal units and at most three digits: `0 B`, `3.1 MB`, `12 MB`.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    // Tenths of a unit, so that rounding happens once and in integers.
    let mut unit = 0;
    let mut size: u128 = 1000;
    loop {
        let tenths = (u128::from(bytes) * 10 + size / 2) / size;
        let whole = (u128::from(bytes) + size / 2) / size;
        let name = UNITS[unit];
        if tenths < 100 {
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
        if whole < 1000 || unit + 1 == UNITS.len() {
            return format!("{whole} {name}");
        }
        unit += 1;
        size *= 1000;
    }
}

/// Returns a duration in at most two parts, with seconds only where they matter: `84 ms`, `1.2 s`, `12 s`, `3m 50s`,
/// `22m`, `9h 12m`, `3d 5h`.
pub fn duration(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let (seconds, ms) = (duration.as_secs(), duration.as_millis());
    let (large, large_name, small, small_name) = match seconds {
        DAY.. => (seconds / DAY, "d", seconds % DAY / HOUR, "h"),
        HOUR.. => (seconds / HOUR, "h", seconds % HOUR / MINUTE, "m"),
        600.. => (seconds / MINUTE, "m", 0, ""),
        MINUTE.. => (seconds / MINUTE, "m", seconds % MINUTE, "s"),
        _ if ms < 1000 => return format!("{ms} ms"),
        _ if ms < 9950 => return format!("{}.{} s", (ms + 50) / 1000, (ms + 50) / 100 % 10),
        _ => return format!("{} s", ((ms + 500) / 1000).min(59)),
    };
    match small {
        0 => format!("{large}{large_name}"),
        _ => format!("{large}{large_name} {small}{small_name}"),
    }
}

/// Returns minutes and seconds as a stopwatch shows them: `0:12`, `61:05`.
pub fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_three_digits() {
        let table = [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (1049, "1.0 kB"),
            (1050, "1.1 kB"),
            (3_100_000, "3.1 MB"),
            (9_949_999, "9.9 MB"),
            (9_950_000, "10 MB"),
            (12_000_000, "12 MB"),
            (88_400, "88 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (999_949_999_999, "1.0 TB"),
            (u64::MAX, "18 EB"),
        ];
        for (number, text) in table {
            assert_eq!(bytes(number), text);
        }
    }

    #[test]
    fn sizes_never_get_wider_than_their_column() {
        let mut number: u64 = 1;
        for step in 0..20_000_u64 {
            assert!(bytes(number).len() <= 6, "{number}");
            number = number.saturating_add(number / 400 + step % 3);
        }
    }

    #[test]
    fn durations_have_two_parts_at_most() {
        let table = [
            (60, "1m"),
            (230, "3m 50s"),
            (599, "9m 59s"),
            (600, "10m"),
            (1359, "22m"),
            (3600, "1h"),
            (33_120, "9h 12m"),
            (86_399, "23h 59m"),
            (86_400, "1d"),
            (277_200, "3d 5h"),
        ];
        for (seconds, text) in table {
            assert_eq!(duration(Duration::from_secs(seconds)), text);
        }
    }

    #[test]
    fn short_times_have_at_most_one_decimal() {
        let table = [
            (0, "0 ms"),
            (84, "84 ms"),
            (999, "999 ms"),
            (1234, "1.2 s"),
            (9949, "9.9 s"),
            (9950, "10 s"),
            (12_400, "12 s"),
            (59_999, "59 s"),
        ];
        for (ms, text) in table {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
        assert_eq!(clock(Duration::from_secs(12)), "0:12");
        assert_eq!(clock(Duration::from_secs(3665)), "61:05");
    }
}
