//! What is in stock, what is to be made, and what no longer counts. Pure: given the time, it touches no socket.
//!
//! A way is wanted for a while after its last use. Ways that were used last come first; the others get nothing.

use std::{collections::BTreeMap, time::Duration};

use crate::moment::Moment;

/// How many are kept for each way.
pub const EACH: usize = 2;
/// For how many ways: those that were used last.
const WAYS: usize = 8;
/// How long a way is wanted after its last use.
const WANTED: Duration = Duration::from_secs(10 * 60);
/// How old one gets at most: servers close what said nothing for 5 minutes.
const LAST: Duration = Duration::from_secs(4 * 60);
/// How old one is when another is made in its stead.
const RENEW: Duration = Duration::from_secs(3 * 60 + 30);
/// How long a way rests after one could not be made or ended unused, doubled each time in a row.
const REST_MIN: Duration = Duration::from_secs(5);
const REST_MAX: Duration = Duration::from_secs(5 * 60);

/// The stock of one cluster: spares `S` for ways `W`, with `H` to say how one is made.
#[derive(Debug)]
pub struct Stock<W, H, S> {
    shelves: BTreeMap<W, Shelf<H, S>>,
    /// Grows when all orders are void.
    turn: u64,
}

#[derive(Debug)]
struct Shelf<H, S> {
    how: H,
    used: Moment,
    /// Oldest first.
    spares: Vec<Waiting<S>>,
    ordered: usize,
    failures: u32,
    rests_until: Duration,
}

#[derive(Debug)]
struct Waiting<S> {
    begun: Moment,
    spare: S,
}

/// One that is to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order<W, H> {
    /// The way it is for.
    pub way: W,
    /// How it is made.
    pub how: H,
    begun: Moment,
    turn: u64,
}

impl<W, H, S> Default for Stock<W, H, S> {
    fn default() -> Self {
        Self {
            shelves: BTreeMap::new(),
            turn: 0,
        }
    }
}

impl<W: Ord + Clone, H: Clone, S> Stock<W, H, S> {
    /// Somebody was answered on this way.
    pub fn used(&mut self, way: W, how: H, now: Moment) {
        let shelf = self.shelves.entry(way).or_insert_with(|| Shelf {
            how,
            used: now,
            spares: Vec::new(),
            ordered: 0,
            failures: 0,
            rests_until: Duration::ZERO,
        });
        shelf.used = now;
    }

    /// The newest for this way, if there is one that may be used.
    pub fn take(&mut self, way: &W, now: Moment) -> Option<S> {
        let shelf = self.shelves.get_mut(way)?;
        shelf.spares.retain(|it| is_fit(it.begun, now));
        Some(shelf.spares.pop()?.spare)
    }

    /// One that was taken was alive: this way works.
    pub fn worked(&mut self, way: &W) {
        if let Some(shelf) = self.shelves.get_mut(way) {
            shelf.failures = 0;
            shelf.rests_until = Duration::ZERO;
        }
    }

    /// Takes out what no longer counts, and says what is to be made, at most `most`. Each order is answered by [`Stock::made`],
    /// [`Stock::failed`] or [`Stock::left`], unless its turn is over.
    pub fn orders(&mut self, now: Moment, most: usize) -> Vec<Order<W, H>> {
        let wanted = self.wanted(now);
        self.shelves.retain(|way, _| wanted.contains(way));
        let turn = self.turn;
        let mut res = Vec::new();
        for (way, shelf) in &mut self.shelves {
            shelf.spares.retain(|it| is_fit(it.begun, now));
            let young = |it: &&Waiting<S>| now.boot.saturating_sub(it.begun.boot) < RENEW;
            let there = shelf.spares.iter().filter(young).count() + shelf.ordered;
            if now.boot < shelf.rests_until {
                continue;
            }
            for _ in there..EACH {
                if res.len() == most {
                    break;
                }
                shelf.ordered += 1;
                res.push(Order {
                    way: way.clone(),
                    how: shelf.how.clone(),
                    begun: now,
                    turn,
                });
            }
        }
        res
    }

    /// Puts in what was ordered; takes an older one out where there would be too many.
    pub fn made(&mut self, order: &Order<W, H>, spare: S) {
        let begun = order.begun;
        if let Some(shelf) = self.answered(order) {
            shelf.spares.push(Waiting { begun, spare });
            shelf.spares.sort_by_key(|it| it.begun.boot);
            let surplus = shelf.spares.len().saturating_sub(EACH);
            shelf.spares.drain(..surplus);
        }
    }

    /// It could not be made.
    pub fn failed(&mut self, order: &Order<W, H>, now: Moment) {
        if let Some(shelf) = self.answered(order) {
            shelf.rest(now);
        }
    }

    /// It is not to be made now; that is nobody's fault.
    pub fn left(&mut self, order: &Order<W, H>) {
        self.answered(order);
    }

    /// Takes out those that ended while they waited; says how many.
    pub fn remove_ended(&mut self, now: Moment, mut ended: impl FnMut(&mut S) -> bool) -> usize {
        let mut res = 0;
        for shelf in self.shelves.values_mut() {
            let before = shelf.spares.len();
            shelf.spares.retain_mut(|it| !ended(&mut it.spare));
            let gone = before - shelf.spares.len();
            if gone > 0 {
                shelf.rest(now);
            }
            res += gone;
        }
        res
    }

    /// Takes out all spares; the ways stay wanted, and nothing that failed before counts any more.
    pub fn discard(&mut self) {
        self.turn += 1;
        for shelf in self.shelves.values_mut() {
            shelf.spares.clear();
            shelf.ordered = 0;
            shelf.failures = 0;
            shelf.rests_until = Duration::ZERO;
        }
    }

    /// Takes out the spares of one way: what happened to one of them may have happened to all.
    pub fn discard_way(&mut self, way: &W) {
        if let Some(shelf) = self.shelves.get_mut(way) {
            shelf.spares.clear();
        }
    }

    /// Forgets everything.
    pub fn forget(&mut self) {
        self.turn += 1;
        self.shelves.clear();
    }

    /// Orders of another turn are void.
    pub fn turn(&self) -> u64 {
        self.turn
    }

    /// Nothing is wanted, and nothing is there.
    pub fn is_idle(&self) -> bool {
        self.shelves.is_empty()
    }

    /// How many are in stock.
    pub fn count(&self) -> usize {
        self.shelves.values().map(|it| it.spares.len()).sum()
    }

    /// The ways that get something.
    fn wanted(&self, now: Moment) -> Vec<W> {
        let unused = |it: &Shelf<H, S>| now.boot.saturating_sub(it.used.boot);
        let mut res: Vec<_> = self.shelves.iter().collect();
        res.retain(|it| unused(it.1) < WANTED);
        res.sort_by_key(|it| unused(it.1));
        let first = res.into_iter().take(WAYS);
        first.map(|it| it.0.clone()).collect()
    }

    fn answered(&mut self, order: &Order<W, H>) -> Option<&mut Shelf<H, S>> {
        if order.turn != self.turn {
            return None;
        }
        let shelf = self.shelves.get_mut(&order.way)?;
        // A way that was dropped and came back has orders of its own.
        shelf.ordered = shelf.ordered.checked_sub(1)?;
        Some(shelf)
    }
}

impl<H, S> Shelf<H, S> {
    fn rest(&mut self, now: Moment) {
        let rest = REST_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures = self.failures.saturating_add(1);
        self.rests_until = now.boot + rest.min(REST_MAX);
    }
}

fn is_fit(begun: Moment, now: Moment) -> bool {
    now.boot.saturating_sub(begun.boot) <= LAST && !now.slept_since(begun)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Tried = Stock<&'static str, u8, u32>;

    fn at(seconds: u64) -> Moment {
        let now = Duration::from_secs(seconds);
        Moment {
            boot: now,
            awake: now,
        }
    }

    /// A stock that is full for `way`, whose spares are 1 and 2.
    fn full(way: &'static str, now: u64) -> Tried {
        let mut stock = Tried::default();
        stock.used(way, 7, at(now));
        let orders = stock.orders(at(now), 99);
        for (order, spare) in orders.iter().zip(1..) {
            stock.made(order, spare);
        }
        stock
    }

    #[test]
    fn a_way_that_was_used_gets_two_and_others_get_none() {
        let mut stock = Tried::default();
        assert_eq!(stock.orders(at(0), 99), []);
        assert_eq!(stock.take(&"a", at(0)), None);
        stock.used("a", 7, at(0));
        let orders = stock.orders(at(0), 99);
        let what: Vec<_> = orders.iter().map(|it| (it.way, it.how)).collect();
        assert_eq!(what, [("a", 7), ("a", 7)]);
        assert_eq!(stock.orders(at(1), 99), [], "they are on their way");
        stock.made(&orders[0], 1);
        stock.made(&orders[1], 2);
        assert_eq!(stock.orders(at(1), 99), []);
        assert_eq!(stock.take(&"b", at(1)), None);
        assert_eq!(stock.take(&"a", at(1)), Some(2));
        stock.used("a", 7, at(1));
        assert_eq!(stock.orders(at(1), 99).len(), 1);
    }

    #[test]
    fn no_more_is_ordered_than_can_be_had() {
        let mut stock = Tried::default();
        stock.used("a", 7, at(0));
        stock.used("b", 7, at(0));
        assert_eq!(stock.orders(at(0), 0), []);
        assert_eq!(stock.orders(at(0), 3).len(), 3);
        let last = stock.orders(at(0), 3);
        assert_eq!(last.len(), 1);
        stock.left(&last[0]);
        assert_eq!(stock.orders(at(0), 3).len(), 1);
    }

    #[test]
    fn none_is_used_that_is_older_than_four_minutes_or_has_slept() {
        assert_eq!(full("a", 0).take(&"a", at(240)), Some(2));
        assert_eq!(full("a", 0).take(&"a", at(241)), None);
        let slept = |seconds: u64| Moment {
            boot: Duration::from_secs(10 + seconds),
            awake: Duration::from_secs(10),
        };
        assert_eq!(full("a", 0).take(&"a", slept(1)), Some(2));
        for seconds in [2, 30, 8 * 3600] {
            let mut stock = full("a", 0);
            assert_eq!(stock.take(&"a", slept(seconds)), None, "{seconds} s");
            assert_eq!(stock.count(), 0);
        }
    }

    #[test]
    fn they_are_renewed_in_time_and_only_while_somebody_uses_the_way() {
        let mut stock = full("a", 0);
        assert_eq!(stock.orders(at(209), 99), []);
        let orders = stock.orders(at(210), 99);
        assert_eq!(orders.len(), 2);
        assert_eq!(stock.count(), 2, "the old ones serve meanwhile");
        stock.made(&orders[0], 3);
        assert_eq!(stock.count(), 2);
        stock.made(&orders[1], 4);
        let rest = [stock.take(&"a", at(211)), stock.take(&"a", at(211))];
        assert_eq!(rest, [Some(4), Some(3)]);
        let mut stock = full("a", 0);
        stock.orders(at(599), 99);
        assert_eq!(stock.orders(at(600), 99), []);
        assert_eq!(stock.count(), 0);
        assert!(stock.shelves.is_empty());
    }

    #[test]
    fn what_fails_is_tried_again_later_and_later() {
        let mut stock = Tried::default();
        let mut now = 0;
        let mut rests = Vec::new();
        for _ in 0..9 {
            stock.used("a", 7, at(now));
            let orders = stock.orders(at(now), 99);
            assert_eq!(orders.len(), 2, "at {now} s");
            stock.failed(&orders[0], at(now));
            stock.left(&orders[1]);
            let begun = now;
            while stock.orders(at(now), 99).is_empty() {
                now += 1;
                stock.used("a", 7, at(now));
            }
            stock.shelves.get_mut("a").unwrap().ordered = 0;
            rests.push(now - begun);
        }
        assert_eq!(rests, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
        stock.worked(&"a");
        stock.remove_ended(at(now), |_| true);
        assert_eq!(stock.orders(at(now), 99).len(), 2, "nothing had ended");
    }

    #[test]
    fn a_server_that_ends_them_at_once_is_not_asked_for_more_at_once() {
        let mut stock = full("a", 0);
        assert_eq!(stock.remove_ended(at(1), |it| *it == 1), 1);
        assert_eq!(stock.orders(at(5), 99), []);
        assert_eq!(stock.count(), 1, "the other one serves on");
        assert_eq!(stock.orders(at(6), 99).len(), 1);
        let mut stock = full("a", 0);
        stock.remove_ended(at(1), |_| true);
        stock.worked(&"a");
        assert_eq!(
            stock.orders(at(1), 99).len(),
            2,
            "one that was taken was alive"
        );
    }

    #[test]
    fn k1_n6_what_is_thrown_away_is_gone_and_so_is_what_was_on_its_way() {
        let mut stock = full("a", 0);
        stock.take(&"a", at(0));
        let old = stock.orders(at(0), 99);
        let turn = stock.turn();
        stock.discard();
        assert_ne!(stock.turn(), turn);
        assert_eq!(stock.count(), 0);
        stock.made(&old[0], 9);
        assert_eq!(stock.count(), 0, "it was begun before");
        assert_eq!(stock.orders(at(0), 99).len(), 2, "the way is wanted still");
        stock.forget();
        assert_eq!(stock.orders(at(0), 99), []);
    }

    #[test]
    fn the_ways_used_last_are_the_ones_that_count() {
        const NAMES: [&str; 20] = [
            "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q",
            "r", "s", "t",
        ];
        let mut stock = Tried::default();
        for (name, now) in NAMES.iter().zip(0..) {
            stock.used(name, 7, at(now));
            for order in stock.orders(at(now), 99) {
                stock.made(&order, 1);
            }
            assert!(stock.count() <= EACH * WAYS);
        }
        assert_eq!(stock.count(), EACH * WAYS);
        assert_eq!(stock.take(&"l", at(20)), None);
        assert_eq!(stock.take(&"m", at(20)), Some(1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Used(usize),
        Take(usize),
        Orders,
        /// Of the orders that are open, this one: made, failed or left.
        Answer(usize, u8),
        Ends,
        Discard,
        Forget,
        Wait(u64),
        Sleep(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => (0_usize..12).prop_map(Step::Used),
            4 => (0_usize..12).prop_map(Step::Take),
            6 => Just(Step::Orders),
            8 => (any::<usize>(), 0_u8..6).prop_map(|(which, how)| Step::Answer(which, how)),
            1 => Just(Step::Ends),
            1 => Just(Step::Discard),
            1 => Just(Step::Forget),
            3 => (1_u64..400).prop_map(Step::Wait),
            1 => (2_u64..9_000).prop_map(Step::Sleep),
        ];
        proptest::collection::vec(step, 1..120)
    }

    proptest! {
        /// Whatever happens: no more than the bounds, and nothing taken that is old, has slept or was thrown away.
        #[test]
        fn nothing_stale_is_handed_out_and_the_bounds_hold(steps in steps()) {
            let mut stock = Stock::<usize, (), (Moment, u64)>::default();
            let mut open = Vec::new();
            let (mut now, mut thrown) = (at(1_000), 0);
            for step in steps {
                match step {
                    Step::Used(way) => stock.used(way, (), now),
                    Step::Take(way) => if let Some((begun, life)) = stock.take(&way, now) {
                        prop_assert!(now.boot - begun.boot <= LAST);
                        prop_assert!(!now.slept_since(begun));
                        prop_assert_eq!(life, thrown);
                    },
                    Step::Orders => open.extend(stock.orders(now, 99).into_iter().map(|it| (it, thrown))),
                    Step::Answer(which, how) if !open.is_empty() => {
                        let (order, life) = open.swap_remove(which % open.len());
                        match how {
                            0 => stock.failed(&order, now),
                            1 => stock.left(&order),
                            _ => stock.made(&order, (order.begun, life)),
                        }
                    }
                    Step::Answer(..) => {}
                    Step::Ends => { stock.remove_ended(now, |it| it.0.boot.as_secs() % 3 == 0); }
                    Step::Discard => { stock.discard(); thrown += 1; }
                    Step::Forget => { stock.forget(); thrown += 1; }
                    Step::Wait(seconds) => {
                        now.boot += Duration::from_secs(seconds);
                        now.awake += Duration::from_secs(seconds);
                    }
                    Step::Sleep(seconds) => now.boot += Duration::from_secs(seconds),
                }
                // An order takes seconds; one that is as old as a way that nobody wants any more is none.
                let is_real = |it: &Order<usize, ()>| now.boot.saturating_sub(it.begun.boot) < WANTED;
                let of_this_turn = open.iter().filter(|it| it.0.turn == stock.turn() && is_real(&it.0)).count();
                prop_assert!(stock.count() <= EACH * WAYS);
                prop_assert!(of_this_turn <= EACH * 12);
                for shelf in stock.shelves.values() {
                    prop_assert!(shelf.spares.len() <= EACH && shelf.ordered <= EACH);
                }
            }
            stock.orders(now, 99);
            prop_assert!(stock.count() <= EACH * WAYS);
        }
    }
}
