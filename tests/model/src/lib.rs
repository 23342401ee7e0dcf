//! Histories of pomd in virtual time: what programs, persons, servers and the machine do to it, in any order.
//!
//! `history` makes one of bytes, so that the fuzzer, the tests and a saved failure have one format; `oracle` knows what
//! must never happen. `pure` lives through a history with the parts that need no runtime, in
//! microseconds; `real` with the agent and its sessions as they are.

mod history;
mod oracle;
mod pure;
mod real;
mod session;

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use history::{Action, History};

/// So many histories are told to what decides for one that pomd lives through as it is: that takes hundreds of times as
/// long.
const SELDOM: u32 = 1024;

/// pomd looks at the clock at least so often while time matters.
const TICK: Duration = Duration::from_secs(30);

/// Lives through the history that these bytes tell with what decides, and seldom with all that pomd is; panics where a
/// promise is broken.
pub fn live(bytes: &[u8]) {
    let history = History::of(bytes);
    pure::live(&history);
    // Chosen by all bytes: the fuzzer would go on with those of its inputs that went there once.
    let sum = bytes.iter().fold(1_u32, |sum, it| {
        sum.wrapping_mul(0x0100_0193) ^ u32::from(*it)
    });
    if sum.is_multiple_of(SELDOM) {
        real::live(&history);
    }
}

/// Lives through the history that these bytes tell with the agent and its sessions; panics where a promise is broken.
pub fn live_with_agent(bytes: &[u8]) {
    real::live(&History::of(bytes));
}

/// Runs `task` to its end on this thread, where time passes only while nothing else is to be done.
pub fn in_virtual_time<T>(task: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .expect("a runtime");
    }
    RUNTIME.with(|it| it.block_on(task))
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
