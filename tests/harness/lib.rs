//! The real programs for the promises of pomd: pomd, pomctl, Envoy, sshd, ssh, a person with a browser.
//!
//! Everything started here has a folder of its own, is ended by its process id, and ends with its owner. Waiting is
//! always for a state, with a limit; [`eventually`] is the one place that looks again and again.

pub mod binary;
pub mod bystander;
pub mod chromium;
pub mod client;
pub mod deployment;
pub mod descriptors;
pub mod envoy;
pub mod fault_injection;
pub mod matrix;
pub mod names;
pub mod namespace;
pub mod notify;
pub mod other_user;
pub mod person;
pub mod pomd;
pub mod ports;
pub mod process;
pub mod relay;
pub mod scenario;
pub mod setup;
pub mod ssh;
pub mod systemd;

use std::{
    io::{self, Write},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// How long anything may take that the tests wait for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Looks again and again until `look` finds something; panics with `what` after [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        // Files and processes tell nobody when they change: looking is all there is.
        sleep(Duration::from_millis(10)).await;
    }
}

/// Says aloud what a test measured, past libtest as [`skipped`] does.
pub fn report(words: &str) {
    let _ = writeln!(io::stderr().lock(), "\nmeasured: {words}");
}

/// Says aloud that a test did not run, and why; `test.sh` counts these lines. Past libtest, which hides what a passing
/// test prints.
pub fn skipped(test: &str, why: &str) {
    let _ = writeln!(io::stderr().lock(), "\nskipped: {test}: {why}");
}
