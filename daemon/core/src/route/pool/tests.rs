//! Tables and histories of the pool's policy.

use proptest::prelude::*;

use super::*;

type Tried = Inventory<&'static str, u8, u32>;

fn at(seconds: u64) -> Moment {
    let now = Duration::from_secs(seconds);
    Moment {
        boot: now,
        awake: now,
    }
}

fn use_key(stock: &mut Tried, key: &'static str, now: Moment) {
    stock.ask(key, 7, now);
    stock.note_use(&key, now);
}

/// One that was made for `key` itself.
fn take(stock: &mut Tried, key: &&'static str, now: Moment) -> Option<u32> {
    stock.take(key, now)
}

/// A stock that is full for `key`, whose connections are 1 and 2.
fn full(key: &'static str, now: u64) -> Tried {
    let mut stock = Tried::default();
    use_key(&mut stock, key, at(now));
    let orders = stock.orders(at(now), 99);
    for (order, connection) in orders.iter().zip(1..) {
        stock.made(order, connection);
    }
    stock
}

#[test]
fn a_key_that_was_used_gets_two_and_others_get_none() {
    let mut stock = Tried::default();
    assert_eq!(stock.orders(at(0), 99), []);
    assert_eq!(take(&mut stock, &"a", at(0)), None);
    use_key(&mut stock, "a", at(0));
    let orders = stock.orders(at(0), 99);
    let what: Vec<_> = orders.iter().map(|it| (it.key, it.how)).collect();
    assert_eq!(what, [("a", 7), ("a", 7)]);
    assert_eq!(stock.orders(at(1), 99), [], "they are on their way");
    stock.made(&orders[0], 1);
    stock.made(&orders[1], 2);
    assert_eq!(stock.orders(at(1), 99), []);
    assert_eq!(take(&mut stock, &"b", at(1)), None);
    assert_eq!(take(&mut stock, &"a", at(1)), Some(2));
    use_key(&mut stock, "a", at(1));
    assert_eq!(stock.orders(at(1), 99).len(), 1);
}

#[test]
fn no_more_is_ordered_than_can_be_had() {
    let mut stock = Tried::default();
    use_key(&mut stock, "a", at(0));
    use_key(&mut stock, "b", at(0));
    assert_eq!(stock.orders(at(0), 0), []);
    assert_eq!(stock.orders(at(0), 3).len(), 3);
    let last = stock.orders(at(0), 3);
    assert_eq!(last.len(), 1);
    stock.left(&last[0]);
    assert_eq!(stock.orders(at(0), 3).len(), 1);
}

#[test]
fn none_is_used_that_is_older_than_four_minutes_or_has_slept() {
    assert_eq!(take(&mut full("a", 0), &"a", at(240)), Some(2));
    assert_eq!(take(&mut full("a", 0), &"a", at(241)), None);
    let slept = |seconds: u64| Moment {
        boot: Duration::from_secs(10 + seconds),
        awake: Duration::from_secs(10),
    };
    assert_eq!(take(&mut full("a", 0), &"a", slept(1)), Some(2));
    for seconds in [2, 30, 8 * 3600] {
        let mut stock = full("a", 0);
        assert_eq!(take(&mut stock, &"a", slept(seconds)), None, "{seconds} s");
        assert_eq!(stock.len(), 0);
    }
}

#[test]
fn they_are_renewed_in_time_and_only_while_somebody_uses_the_key() {
    let mut stock = full("a", 0);
    assert_eq!(stock.orders(at(209), 99), []);
    let orders = stock.orders(at(210), 99);
    assert_eq!(orders.len(), 2);
    assert_eq!(stock.len(), 2, "the old ones serve meanwhile");
    stock.made(&orders[0], 3);
    assert_eq!(stock.len(), 2);
    stock.made(&orders[1], 4);
    let rest = [
        take(&mut stock, &"a", at(211)),
        take(&mut stock, &"a", at(211)),
    ];
    assert_eq!(rest, [Some(4), Some(3)]);
    let mut stock = full("a", 0);
    stock.orders(at(599), 99);
    assert_eq!(stock.orders(at(600), 99), []);
    assert_eq!(stock.len(), 0);
    assert!(stock.keys.is_empty());
}

#[test]
fn what_fails_is_tried_again_later_and_later() {
    let mut stock = Tried::default();
    let mut now = 0;
    let mut rests = Vec::new();
    for _ in 0..9 {
        use_key(&mut stock, "a", at(now));
        let orders = stock.orders(at(now), 99);
        assert_eq!(orders.len(), 2, "at {now} s");
        stock.failed(&orders[0], at(now));
        stock.left(&orders[1]);
        let begun = now;
        while stock.orders(at(now), 99).is_empty() {
            now += 1;
            use_key(&mut stock, "a", at(now));
        }
        stock.keys.get_mut("a").unwrap().ordered = 0;
        rests.push(now - begun);
    }
    assert_eq!(rests, [5, 10, 20, 40, 80, 160, 300, 300, 300]);
    stock.confirm(&"a");
    stock.remove_ended(at(now), |_| true);
    assert_eq!(stock.orders(at(now), 99).len(), 2, "nothing had ended");
}

#[test]
fn a_server_that_ends_them_at_once_is_not_asked_for_more_at_once() {
    let mut stock = full("a", 0);
    assert_eq!(stock.remove_ended(at(1), |it| *it == 1), 1);
    assert_eq!(stock.orders(at(5), 99), []);
    assert_eq!(stock.len(), 1, "the other one serves on");
    assert_eq!(stock.orders(at(6), 99).len(), 1);
    let mut stock = full("a", 0);
    stock.remove_ended(at(1), |_| true);
    stock.confirm(&"a");
    assert_eq!(
        stock.orders(at(1), 99).len(),
        2,
        "one that was taken was alive"
    );
}

#[test]
fn k1_n6_what_is_thrown_away_is_gone_and_so_is_what_was_on_its_way() {
    let mut stock = full("a", 0);
    take(&mut stock, &"a", at(0));
    let old = stock.orders(at(0), 99);
    let epoch = stock.epoch();
    stock.invalidate_all();
    assert_ne!(stock.epoch(), epoch);
    assert_eq!(stock.len(), 0);
    stock.made(&old[0], 9);
    assert_eq!(stock.len(), 0, "it was begun before");
    assert_eq!(stock.orders(at(0), 99).len(), 2, "the key is wanted still");
    stock.clear();
    assert_eq!(stock.orders(at(0), 99), []);
}

#[test]
fn the_keys_used_last_are_the_ones_that_count() {
    const NAMES: [&str; 20] = [
        "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n", "o", "p", "q", "r",
        "s", "t",
    ];
    let mut stock = Tried::default();
    for (name, now) in NAMES.iter().zip(0..) {
        use_key(&mut stock, name, at(now));
        for order in stock.orders(at(now), 99) {
            stock.made(&order, 1);
        }
        assert!(stock.len() <= MOST);
    }
    assert_eq!(stock.len(), MOST);
    assert_eq!(take(&mut stock, &"l", at(20)), None);
    assert_eq!(take(&mut stock, &"m", at(20)), Some(1));
}

fn at_ms(ms: u64) -> Moment {
    let now = Duration::from_millis(ms);
    Moment {
        boot: now,
        awake: now,
    }
}

/// How many are kept for a key after connections were asked for at these times, all answered at the end.
fn kept_after(asked: impl IntoIterator<Item = u64>) -> usize {
    let mut stock = Tried::default();
    let mut now = at_ms(0);
    for time in asked {
        now = at_ms(time);
        stock.ask("a", 7, now);
    }
    stock.note_use(&"a", now);
    stock.orders(now, 99).len()
}

#[test]
fn as_many_are_kept_as_the_largest_burst_took() {
    for (burst, kept) in [(1, 2), (2, 2), (3, 3), (10, 10), (16, 16), (40, 16)] {
        assert_eq!(kept_after((0..burst).map(|_| 0)), kept, "{burst} at once");
    }
    assert_eq!(kept_after((0..10).map(|it| it * 50)), 10, "within a second");
    assert_eq!(kept_after((0..10).map(|it| it * 500)), 2, "two a second");
    assert_eq!(kept_after((0..10).map(|it| it * 2000)), 2, "one by one");
}

#[test]
fn what_is_made_meanwhile_is_no_part_of_a_burst() {
    let mut stock = Tried::default();
    let mut under_way = VecDeque::from([Vec::new(), Vec::new()]);
    // A program that connects twenty times a second, one after the other; each is replaced 0.1 s later.
    for turn in 0..200 {
        let now = at_ms(turn * 50);
        for order in under_way.pop_front().unwrap() {
            stock.made(&order, 1);
        }
        use_key(&mut stock, "a", now);
        take(&mut stock, &"a", now);
        under_way.push_back(stock.orders(now, 99));
    }
    let most = stock.keys["a"].target;
    assert!(most <= 2 * EACH, "{most}");
}

#[test]
fn a_burst_is_remembered_for_ten_minutes_and_a_smaller_one_beside_it() {
    let mut stock = Tried::default();
    let burst = |stock: &mut Tried, size: usize, now: u64| {
        for _ in 0..size {
            stock.ask("a", 7, at(now));
        }
        stock.note_use(&"a", at(now));
    };
    let fill = |stock: &mut Tried, now: u64| {
        for order in stock.orders(at(now), 99) {
            stock.made(&order, 1);
        }
        stock.len()
    };
    burst(&mut stock, 10, 0);
    assert_eq!(fill(&mut stock, 0), 10);
    burst(&mut stock, 6, 300);
    assert_eq!(fill(&mut stock, 300), 10);
    assert_eq!(fill(&mut stock, 599), 10);
    assert_eq!(fill(&mut stock, 600), 6);
    use_key(&mut stock, "a", at(890));
    assert_eq!(fill(&mut stock, 899), 6);
    assert_eq!(fill(&mut stock, 900), 2);
}

#[test]
fn a_burst_that_nobody_answered_is_none() {
    let mut stock = Tried::default();
    for _ in 0..10 {
        stock.ask("a", 7, at(0));
    }
    assert_eq!(stock.orders(at(0), 99), [], "nobody was answered yet");
    use_key(&mut stock, "a", at(60));
    assert_eq!(stock.orders(at(60), 99).len(), 2);
}

#[test]
fn a_burst_leaves_others_what_they_need() {
    let mut stock = Tried::default();
    for key in ["b", "c", "d"] {
        use_key(&mut stock, key, at(0));
    }
    for _ in 0..16 {
        stock.ask("a", 7, at(1));
    }
    stock.note_use(&"a", at(1));
    let orders = stock.orders(at(1), 99);
    assert_eq!(orders.len(), MOST);
    let of = |key| orders.iter().filter(|it| it.key == key).count();
    assert_eq!([of("a"), of("b"), of("c"), of("d")], [10, 2, 2, 2]);
}

#[test]
fn one_of_another_key_is_never_taken() {
    let mut stock = full("a", 0);
    assert_eq!(stock.take(&"b", at(0)), None);
    assert_eq!(stock.take(&"a", at(0)), Some(2));
    assert_eq!(stock.take(&"a", at(0)), Some(1));
    assert_eq!(stock.take(&"a", at(0)), None);
}

#[derive(Clone, Debug)]
enum Step {
    Ask(usize),
    Use(usize),
    Take(usize),
    Orders,
    /// Of the orders that are open, this one: made, failed or left.
    Answer(usize, u8),
    Ends,
    InvalidateAll,
    Clear,
    Wait(u64),
    Sleep(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (0_usize..12).prop_map(Step::Ask),
        4 => (0_usize..12).prop_map(Step::Use),
        4 => (0_usize..12).prop_map(Step::Take),
        6 => Just(Step::Orders),
        8 => (any::<usize>(), 0_u8..6).prop_map(|(which, how)| Step::Answer(which, how)),
        1 => Just(Step::Ends),
        1 => Just(Step::InvalidateAll),
        1 => Just(Step::Clear),
        3 => (1_u64..400).prop_map(Step::Wait),
        1 => (2_u64..9_000).prop_map(Step::Sleep),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// Whatever happens: no more than the bounds, and nothing taken that is old, has slept or was thrown away.
    #[test]
    fn nothing_stale_is_handed_out_and_the_bounds_hold(steps in steps()) {
        let mut stock = Inventory::<usize, (), (Moment, u64)>::default();
        let mut open = Vec::new();
        let (mut now, mut thrown) = (at(1_000), 0);
        for step in steps {
            match step {
                Step::Ask(key) => stock.ask(key, (), now),
                Step::Use(key) => stock.note_use(&key, now),
                Step::Take(key) => if let Some((begun, life)) = stock.take(&key, now) {
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
                Step::InvalidateAll => { stock.invalidate_all(); thrown += 1; }
                Step::Clear => { stock.clear(); thrown += 1; }
                Step::Wait(seconds) => {
                    now.boot += Duration::from_secs(seconds);
                    now.awake += Duration::from_secs(seconds);
                }
                Step::Sleep(seconds) => now.boot += Duration::from_secs(seconds),
            }
            // An order takes seconds; one that is as old as a key that nobody wants any more is none.
            let is_real = |it: &Order<usize, ()>| now.boot.saturating_sub(it.begun.boot) < WANTED;
            let of_this_epoch = open.iter().filter(|it| it.0.epoch == stock.epoch() && is_real(&it.0)).count();
            prop_assert!(stock.len() <= MOST);
            prop_assert!(of_this_epoch <= MOST * 12);
            for kept in stock.keys.values() {
                prop_assert!(kept.connections.len() <= MOST && kept.ordered <= MOST);
            }
        }
        stock.orders(now, 99);
        prop_assert!(stock.len() <= MOST);
    }
}
