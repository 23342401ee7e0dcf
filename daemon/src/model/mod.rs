//! Histories of pomd in virtual time: what programs, persons, servers and the machine do to it, in any order.
//!
//! `history` makes one of bytes, so that the fuzzer, the tests and a saved failure have one format; `oracle` knows what
//! must never happen (spec.md, promises 1 to 6). `pure` lives through a history with the parts that need no runtime, in
//! microseconds; `real` with the agent and its sessions as they are.

mod history;
mod oracle;
mod pure;
mod real;
mod session;

use history::{Action, History};

/// So many histories are told to what decides for one that pomd lives through as it is: that takes hundreds of times as
/// long.
const SELDOM: u32 = 1024;

/// Lives through the history that these bytes tell, and seldom with all that pomd is.
pub(crate) fn model(bytes: &[u8]) {
    let history = History::of(bytes);
    pure::live(&history);
    // By all bytes: the fuzzer would go on with those of its inputs that went there once.
    let sum = bytes.iter().fold(1_u32, |sum, it| {
        sum.wrapping_mul(0x0100_0193) ^ u32::from(*it)
    });
    if sum.is_multiple_of(SELDOM) {
        real::live(&history);
    }
}

/// Says where a history broke.
struct Told<'a>(usize, &'a Action);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            #[allow(clippy::print_stderr, reason = "a test or the fuzzer shows it")]
            let () = eprintln!("at action {}: {:?}", self.0, self.1);
        }
    }
}

#[cfg(test)]
mod tests;
