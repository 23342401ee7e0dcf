//! Amounts as people read them in the log. Pure.

use std::time::Duration;

/// Decimal, at most three digits: `0 B`, `40 kB`, `1.2 MB`.
#[expect(clippy::cast_precision_loss, reason = "at most three digits are shown")]
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["kB", "MB", "GB", "TB", "PB", "EB"];
    if count < 1000 {
        return format!("{count} B");
    }
    let mut amount = count as f64 / 1000.0;
    let mut unit = 0;
    while amount >= 999.5 && unit + 1 < UNITS.len() {
        amount /= 1000.0;
        unit += 1;
    }
    let decimals = usize::from(amount < 9.95);
    format!("{amount:.decimals$} {}", UNITS[unit])
}

/// The two largest units: `84 ms`, `12 s`, `3m 50s`, `9h 12m`, `2d 3h`.
pub(super) fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..60 => format!("{seconds} s"),
        60..3_600 => format!("{}m {}s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{}h {}m", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{}d {}h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_at_most_three_digits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_999, "10 kB"),
            (40_000, "40 kB"),
            (88_400, "88 kB"),
            (999_499, "999 kB"),
            (999_500, "1.0 MB"),
            (1_000_000, "1.0 MB"),
            (1_234_567, "1.2 MB"),
            (12_000_000, "12 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
    }

    #[test]
    fn times_show_their_two_largest_units() {
        for (ms, text) in [
            (0, "0 ms"),
            (84, "84 ms"),
            (12_999, "12 s"),
            (230_000, "3m 50s"),
            (33_120_000, "9h 12m"),
            (183_600_000, "2d 3h"),
        ] {
            assert_eq!(duration(Duration::from_millis(ms)), text);
        }
    }
}
