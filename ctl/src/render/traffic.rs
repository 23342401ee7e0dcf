//! What flows through each tunnel, told from counts that only grow. Pure.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use control::wire::{Bytes, Status};

/// How many seconds are remembered.
const SECONDS: usize = 60;

/// Bytes in a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rate {
    pub(crate) received: u64,
    pub(crate) sent: u64,
}

/// The rates of all tunnels, by name.
#[derive(Debug, Default)]
pub(crate) struct Traffic(BTreeMap<String, Series>);

#[derive(Debug)]
struct Series {
    counted: Bytes,
    /// The newest is the last.
    rates: VecDeque<Rate>,
}

impl Traffic {
    /// Takes the counts of `status`, which were looked at `elapsed` after the ones before.
    pub(crate) fn look(&mut self, status: &Status, elapsed: Duration) {
        let is_there = |name: &String| status.tunnels.iter().any(|it| it.name == *name);
        self.0.retain(|name, _| is_there(name));
        for tunnel in &status.tunnels {
            let counted = tunnel.bytes;
            let Some(series) = self.0.get_mut(&tunnel.name) else {
                let rates = VecDeque::with_capacity(SECONDS);
                let series = Series { counted, rates };
                self.0.insert(tunnel.name.clone(), series);
                continue;
            };
            let before = std::mem::replace(&mut series.counted, counted);
            if series.rates.len() == SECONDS {
                series.rates.pop_front();
            }
            series.rates.push_back(Rate {
                received: per_second(before.received, counted.received, elapsed),
                sent: per_second(before.sent, counted.sent, elapsed),
            });
        }
    }

    /// Returns the newest rate; `None` before the second look.
    pub(crate) fn now(&self, tunnel: &str) -> Option<Rate> {
        self.0.get(tunnel)?.rates.back().copied()
    }

    /// Returns the last minute in `width` bars, each the mean of its seconds: 0 for nothing, up to `heights` - 1 for the
    /// most of this minute; `None` where nothing is known.
    pub(crate) fn bars(&self, tunnel: &str, width: usize, heights: usize) -> Vec<Option<usize>> {
        let series = self.0.get(tunnel).map(|it| &it.rates);
        let known = series.map_or(0, VecDeque::len);
        let all = |rate: &Rate| u128::from(rate.received) + u128::from(rate.sent);
        let second = |at: usize| {
            let at = (at + known).checked_sub(SECONDS)?;
            series?.get(at).map(all)
        };
        let means: Vec<Option<u128>> = (0..width)
            .map(|bar| {
                let seconds = bar * SECONDS / width..(bar + 1) * SECONDS / width;
                let seconds: Vec<u128> = seconds.filter_map(second).collect();
                let sum: u128 = seconds.iter().sum();
                sum.checked_div(seconds.len() as u128)
            })
            .collect();
        let most = means.iter().flatten().max().copied().unwrap_or_default();
        let top = heights.saturating_sub(1) as u128;
        // Rounded up: what flows at all is seen.
        let height = |mean: u128| (mean * top).div_ceil(most.max(1)) as usize;
        means.into_iter().map(|it| it.map(height)).collect()
    }
}

/// A pomd that was restarted counts anew: that is no negative flow.
fn per_second(before: u64, now: u64, elapsed: Duration) -> u64 {
    let flown = u128::from(now.saturating_sub(before));
    let rate = flown * 1000 / elapsed.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn status(counts: &[(&str, u64)]) -> Status {
        let tunnels: Vec<serde_json::Value> = counts
            .iter()
            .map(|(name, received)| {
                serde_json::json!({
                    "name": name, "state": "up", "start": "auto", "temporary": false, "protocol": "tcp",
                    "cluster": "corp", "route": "a.test:22", "listen": [], "reason": null,
                    "connections": { "open": 0, "waiting": 0, "total": 0 },
                    "bytes": { "received": received, "sent": 0 }, "last_connection_at": null,
                })
            })
            .collect();
        let at = "2026-11-22T08:14:03Z";
        serde_json::from_value(serde_json::json!({
            "schema": 1, "healthy": true, "tunnels": tunnels, "clusters": [],
            "pomd": {
                "version": "0.4.0", "protocol": 1, "pid": 1, "started_at": at,
                "config": { "path": "/x", "loaded_at": at, "error": null },
            },
        }))
        .unwrap()
    }

    #[test]
    fn rates_are_of_the_time_that_went_by_and_never_negative() {
        let mut traffic = Traffic::default();
        traffic.look(&status(&[("a", 100)]), SECOND);
        assert_eq!(traffic.now("a"), None, "one look is no rate");
        traffic.look(&status(&[("a", 1100)]), SECOND / 2);
        assert_eq!(traffic.now("a").unwrap().received, 2000);
        traffic.look(&status(&[("a", 5)]), SECOND);
        assert_eq!(traffic.now("a"), Some(Rate::default()));
        traffic.look(&status(&[("a", u64::MAX)]), Duration::ZERO);
        assert_eq!(traffic.now("a").unwrap().received, u64::MAX);
        traffic.look(&status(&[("b", 1)]), SECOND);
        assert_eq!(traffic.now("a"), None, "it is gone");
    }

    #[test]
    fn a_minute_in_bars_begins_empty_and_its_most_is_the_highest() {
        let mut traffic = Traffic::default();
        let mut counted = 0;
        traffic.look(&status(&[("a", counted)]), SECOND);
        assert_eq!(traffic.bars("a", 12, 8), vec![None; 12]);
        assert_eq!(traffic.bars("none", 3, 8), vec![None; 3]);
        for second in 0..10 {
            counted += if second < 5 { 1 } else { 1000 };
            traffic.look(&status(&[("a", counted)]), SECOND);
        }
        let bars = traffic.bars("a", 12, 8);
        assert_eq!(bars[..10], vec![None; 10]);
        assert_eq!(bars[10..], [Some(1), Some(7)], "a little is not nothing");
        for _ in 0..55 {
            traffic.look(&status(&[("a", counted)]), SECOND);
        }
        let bars = traffic.bars("a", 12, 8);
        assert_eq!(bars[0], Some(7), "the first seconds are forgotten");
        assert_eq!(bars[1..], vec![Some(0); 11]);
        assert_eq!(traffic.bars("a", 60, 8).len(), 60);
        assert_eq!(traffic.bars("a", 0, 8), []);
    }
}
