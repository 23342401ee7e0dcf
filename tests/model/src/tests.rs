use std::{env, panic::catch_unwind, time::Instant};

use fastrand::Rng;

use super::*;

/// How many histories are lived through on every change.
const HISTORIES: u64 = 10_000;
/// The same with everything that pomd is.
const REAL_HISTORIES: u64 = 500;
/// Another number of them: the night's.
const COUNT: &str = "POMD_MODEL_HISTORIES";
/// The one to begin with, to live through a failure again.
const SEED: &str = "POMD_MODEL_SEED";

/// The bytes of the history with this number.
fn bytes(seed: u64) -> Vec<u8> {
    let mut random = Rng::with_seed(seed);
    let length = random.usize(40..400);
    (0..length).map(|_| random.u8(..)).collect()
}

fn number(name: &str) -> Option<u64> {
    env::var(name).ok()?.parse().ok()
}

fn live_through(what: &str, histories: u64, live: fn(&History)) {
    let first = number(SEED).unwrap_or(0);
    let count = number(COUNT).unwrap_or(if number(SEED).is_some() { 1 } else { histories });
    let start = Instant::now();
    let mut actions = 0;
    for seed in first..first + count {
        let history = History::of(&bytes(seed));
        actions += history.actions.len();
        if catch_unwind(|| live(&history)).is_err() {
            panic!(
                "history {seed} breaks a promise; once more: {SEED}={seed} cargo test -p model {what}\n{history:?}"
            );
        }
    }
    println!(
        "{what}: {count} histories, {actions} actions in {:?}",
        start.elapsed()
    );
}

#[test]
fn f2_no_history_breaks_a_promise_of_what_decides() {
    live_through(
        "f2_no_history_breaks_a_promise_of_what_decides",
        HISTORIES,
        pure::live,
    );
}

#[test]
fn no_history_breaks_a_promise_of_agent_and_sessions() {
    live_through(
        "no_history_breaks_a_promise_of_agent_and_sessions",
        REAL_HISTORIES,
        real::live,
    );
}
