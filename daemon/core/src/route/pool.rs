//! The pool of warm connections: how many are kept, which are to be made, and which no longer count. Pure: given the time,
//! it touches no socket.
//!
//! A key (what is dialled, and which name it proves) is wanted for a while after its last use. It gets as many connections
//! as its largest burst of the last ten minutes took, and never less than [`EACH`]; keys that were used last come first, and
//! all of them together get [`MOST`].
//!
//! The way to use an [`Inventory`]: [`ask`](Inventory::ask) before a route is opened and [`note_use`](Inventory::note_use)
//! once it was answered; [`orders`](Inventory::orders) after each change, and each order answered once.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::moment::Moment;

/// How many are kept for each key at least.
pub const EACH: usize = 2;
/// How many are kept for all keys together at most.
pub const MOST: usize = 16;
/// How long a key is wanted after its last use, and how long a burst is remembered.
const WANTED: Duration = Duration::from_secs(10 * 60);
/// How old one gets at most: servers close what said nothing for 5 minutes.
const LAST: Duration = Duration::from_secs(4 * 60);
/// How old one is when another is made in its stead.
const RENEW: Duration = Duration::from_secs(3 * 60 + 30);
/// How long a key rests after one could not be made or ended unused, doubled each time in a row.
const REST_MIN: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_secs(5 * 60);
/// How close together connections are asked for at once.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The warm connections `C` of one cluster by their keys `K`, with `H` to say how one is made.
#[derive(Debug)]
pub struct Inventory<K, H, C> {
    keys: BTreeMap<K, Kept<H, C>>,
    /// Grows when all orders are void.
    epoch: u64,
}

/// What is kept for one key.
#[derive(Debug)]
struct Kept<H, C> {
    how: H,
    asked: Moment,
    /// `None`: nobody was answered yet, so nothing is made.
    used: Option<Moment>,
    /// Oldest first.
    connections: Vec<Warm<C>>,
    ordered: usize,
    /// How many it may have, as [`Inventory::orders`] said last.
    target: usize,
    demand: Demand,
    failures: u32,
    rests_until: Duration,
}

#[derive(Debug)]
struct Warm<C> {
    begun: Moment,
    connection: C,
}

/// A connection that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<K, H> {
    /// What it is for.
    pub key: K,
    /// How it is made.
    pub how: H,
    begun: Moment,
    epoch: u64,
}

impl<K, H, C> Default for Inventory<K, H, C> {
    fn default() -> Self {
        Self {
            keys: BTreeMap::new(),
            epoch: 0,
        }
    }
}

impl<K: Ord + Clone, H: Clone, C> Inventory<K, H, C> {
    /// Notes that a connection for `key` is asked for: taken from here, or made afresh where [`Self::take`] has none.
    pub fn ask(&mut self, key: K, how: H, now: Moment) {
        let kept = self.keys.entry(key).or_insert_with(|| Kept {
            how,
            asked: now,
            used: None,
            connections: Vec::new(),
            ordered: 0,
            target: 0,
            demand: Demand::default(),
            failures: 0,
            rests_until: Duration::ZERO,
        });
        kept.demand.ask(now);
        kept.asked = now;
    }

    /// Notes that somebody was answered on a connection for `key`: from now on it is wanted.
    pub fn note_use(&mut self, key: &K, now: Moment) {
        if let Some(kept) = self.keys.get_mut(key) {
            kept.used = Some(now);
            kept.demand.note_burst(now);
        }
    }

    /// Takes out the newest connection for `key`, if there is one that may be used.
    pub fn take(&mut self, key: &K, now: Moment) -> Option<C> {
        let kept = self.keys.get_mut(key)?;
        kept.connections.retain(|it| is_fit(it.begun, now));
        kept.connections.pop().map(|it| it.connection)
    }

    /// Notes that a connection that was taken was alive: its key works.
    pub fn confirm(&mut self, key: &K) {
        if let Some(kept) = self.keys.get_mut(key) {
            kept.failures = 0;
            kept.rests_until = Duration::ZERO;
        }
    }

    /// Takes out what no longer counts, and returns what is to be made, at most `most`. Each order is answered by
    /// [`Self::made`], [`Self::failed`] or [`Self::left`], unless its epoch is over.
    pub fn orders(&mut self, now: Moment, most: usize) -> Vec<Order<K, H>> {
        self.keys.retain(|_, it| since(it.last(), now) < WANTED);
        let mut used: Vec<_> = self.keys.iter_mut().collect();
        used.retain(|(_, it)| it.used.is_some());
        used.sort_by_key(|(_, it)| since(it.last(), now));
        let mut room = MOST;
        // First some for each, then what is left for bursts.
        for (_, kept) in &mut used {
            kept.target = EACH.min(room);
            room -= kept.target;
        }
        let epoch = self.epoch;
        let mut res = Vec::new();
        for (key, kept) in used {
            let more = kept.demand.target(now).saturating_sub(EACH).min(room);
            kept.target += more;
            room -= more;
            kept.connections.retain(|it| is_fit(it.begun, now));
            kept.drop_surplus();
            if kept.connections.len() >= kept.target {
                kept.demand.satisfied();
            }
            if now.boot < kept.rests_until {
                continue;
            }
            let is_young = |it: &&Warm<C>| since(it.begun, now) < RENEW;
            let there = kept.connections.iter().filter(is_young).count() + kept.ordered;
            for _ in there..kept.target {
                if res.len() == most {
                    break;
                }
                kept.ordered += 1;
                res.push(Order {
                    key: key.clone(),
                    how: kept.how.clone(),
                    begun: now,
                    epoch,
                });
            }
        }
        res
    }

    /// Puts in what was ordered; takes an older one out where there would be too many.
    pub fn made(&mut self, order: &Order<K, H>, connection: C) {
        let begun = order.begun;
        if let Some(kept) = self.answered(order) {
            kept.connections.push(Warm { begun, connection });
            kept.connections.sort_by_key(|it| it.begun.boot);
            kept.drop_surplus();
            kept.demand.supplied();
        }
    }

    /// Notes that an order could not be filled.
    pub fn failed(&mut self, order: &Order<K, H>, now: Moment) {
        if let Some(kept) = self.answered(order) {
            kept.rest(now);
        }
    }

    /// Notes that an order is not to be filled now, through no fault of the server.
    pub fn left(&mut self, order: &Order<K, H>) {
        self.answered(order);
    }

    /// Takes out the connections that ended while they waited; returns how many.
    pub fn remove_ended(&mut self, now: Moment, mut ended: impl FnMut(&mut C) -> bool) -> usize {
        let mut res = 0;
        for kept in self.keys.values_mut() {
            let before = kept.connections.len();
            kept.connections.retain_mut(|it| !ended(&mut it.connection));
            let gone = before - kept.connections.len();
            if gone > 0 {
                kept.rest(now);
            }
            res += gone;
        }
        res
    }

    /// Takes out all connections; the keys stay wanted, and nothing that failed before counts any more.
    pub fn invalidate_all(&mut self) {
        self.epoch += 1;
        for kept in self.keys.values_mut() {
            kept.connections.clear();
            kept.ordered = 0;
            kept.failures = 0;
            kept.rests_until = Duration::ZERO;
        }
    }

    /// Takes out the connections of one key: what happened to one of them may have happened to all.
    pub fn invalidate(&mut self, key: &K) {
        if let Some(kept) = self.keys.get_mut(key) {
            kept.connections.clear();
        }
    }

    /// Forgets all connections and keys.
    pub fn clear(&mut self) {
        self.epoch += 1;
        self.keys.clear();
    }

    /// The epoch: orders of another one are void.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Whether nothing is wanted and nothing is there.
    pub fn is_idle(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many connections are there.
    pub fn len(&self) -> usize {
        self.keys.values().map(|it| it.connections.len()).sum()
    }

    /// Whether no connection is there.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn answered(&mut self, order: &Order<K, H>) -> Option<&mut Kept<H, C>> {
        if order.epoch != self.epoch {
            return None;
        }
        let kept = self.keys.get_mut(&order.key)?;
        // A key that was dropped and came back has orders of its own.
        kept.ordered = kept.ordered.checked_sub(1)?;
        Some(kept)
    }
}

impl<H, C> Kept<H, C> {
    /// When it was wanted last.
    fn last(&self) -> Moment {
        self.used.unwrap_or(self.asked)
    }

    fn drop_surplus(&mut self) {
        let surplus = self.connections.len().saturating_sub(self.target);
        self.connections.drain(..surplus);
    }

    fn rest(&mut self, now: Moment) {
        let rest = REST_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.rests_until = now.boot + rest.min(REST_MAX);
    }
}

/// How many connections of one key are wanted at once.
#[derive(Debug, Default)]
struct Demand {
    /// When those of the last second were asked for that nothing took the place of yet.
    missing: VecDeque<Moment>,
    /// Bursts that were answered, with falling sizes: a later one of the same size or more takes the place of those before.
    bursts: Vec<(usize, Moment)>,
}

impl Demand {
    fn ask(&mut self, now: Moment) {
        self.missing.retain(|it| since(*it, now) < AT_ONCE);
        if self.missing.len() < MOST {
            self.missing.push_back(now);
        }
    }

    /// Notes that another one is there in the place of one that was asked for.
    fn supplied(&mut self) {
        self.missing.pop_front();
    }

    /// Notes that nothing is missing.
    fn satisfied(&mut self) {
        self.missing = VecDeque::new();
    }

    /// Notes that one of those that are missing was answered: their burst is worth being ready for.
    fn note_burst(&mut self, now: Moment) {
        let burst = self.missing.len();
        if burst > EACH {
            self.bursts.retain(|it| it.0 > burst);
            self.bursts.push((burst, now));
        }
    }

    /// How many are to be kept.
    fn target(&mut self, now: Moment) -> usize {
        self.bursts.retain(|it| since(it.1, now) < WANTED);
        self.bursts.first().map_or(EACH, |it| it.0)
    }
}

fn since(then: Moment, now: Moment) -> Duration {
    now.boot.saturating_sub(then.boot)
}

fn is_fit(begun: Moment, now: Moment) -> bool {
    since(begun, now) <= LAST && !now.slept_since(begun)
}

#[cfg(test)]
mod tests;
