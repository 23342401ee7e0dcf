//! What is tried with bytes that nobody thought of: the same functions for the fuzzer and for the tests on stable.
//!
//! A target is given bytes and panics where a promise is broken. `cargo +nightly fuzz run` looks for such bytes; the tests
//! here only replay what is kept in `tests/fuzz/corpus`, and a batch of random changes of it. Each room has its own targets, in its `fuzz`; this is their list.

mod config;

use tokio::runtime::{Builder, Runtime};

use crate::{api, model, session, system, tunnel, upstream};

/// One thing to try.
struct Target {
    name: &'static str,
    run: fn(&[u8]),
}

const TARGETS: [Target; 11] = [
    target("api", api::fuzz::api),
    target("callback", session::fuzz::callback),
    target("changes", config::changes),
    target("config", config::config),
    target("guard", tunnel::fuzz::guard),
    target("h1_head", upstream::fuzz::h1_head),
    target("host_match", config::host_match),
    target("model", model::model),
    target("route", config::route),
    target("sock_diag", system::fuzz::sock_diag),
    target("token", session::fuzz::token),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

/// Tries `bytes` on the target `name`; panics where a promise is broken.
#[cfg_attr(
    not(feature = "fuzzing"),
    allow(unreachable_pub, reason = "for the fuzzer")
)]
pub fn feed(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|it| it.name == name);
    (target.expect("a target of this name").run)(bytes);
}

/// Small changes and cuts by a number: the same number, the same ones.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `most`, or 0.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut res = self.0;
        res = (res ^ (res >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        res = (res ^ (res >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        let res = (res ^ (res >> 31)) >> 1;
        usize::try_from(res).unwrap_or(0) % most.max(1)
    }

    /// `bytes` cut into up to eight pieces, some of them empty.
    pub(crate) fn cut<'a>(&mut self, bytes: &'a [u8]) -> Vec<&'a [u8]> {
        let mut cuts: Vec<usize> = (0..self.below(8))
            .map(|_| self.below(bytes.len() + 1))
            .collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        cuts.windows(2).map(|it| &bytes[it[0]..it[1]]).collect()
    }
}

/// The first byte, and what comes behind it.
pub(crate) fn split_first(bytes: &[u8]) -> (u8, &[u8]) {
    bytes.split_first().map_or((0, bytes), |it| (*it.0, it.1))
}

/// 0xff, A, B: what stands before, once more: its last A + 1 bytes, 2 to the power of B % 16 times, as often as `most`
/// bytes have room for. So short inputs reach the limits.
pub(crate) fn unpacked(packed: &[u8], most: usize) -> Vec<u8> {
    let mut res = Vec::with_capacity(packed.len());
    let mut rest = packed;
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        match (first, tail) {
            (0xff, [length, times, tail @ ..]) => {
                rest = tail;
                let piece = &res[res.len().saturating_sub(usize::from(*length) + 1)..];
                let room = most.saturating_sub(res.len()) / piece.len().max(1);
                // One copy, not a loop: the fuzzer counts every turn of ours.
                let pieces = piece.repeat(room.min(1 << (times % 16)));
                res.extend_from_slice(&pieces);
            }
            _ => res.push(first),
        }
    }
    res
}

/// Runs `task` to its end on this thread, where time passes only while nothing else is to be done.
pub(crate) fn in_virtual_time<T>(task: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|it| it.block_on(task))
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::kept;
