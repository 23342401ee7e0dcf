//! Functions from bytes to panics: the same for the fuzzer and for the tests on stable.
//!
//! A target is given bytes and panics where a promise is broken. `cargo +nightly fuzz run --fuzz-dir tests/fuzz NAME` looks
//! for such bytes. The tests replay what is kept in `tests/fuzz/corpus` and a batch of random changes of it, or as many as
//! `POMD_FUZZ_RUNS` says, without a nightly compiler.

mod api;
mod config;
pub mod corpus;
mod guard;
mod head;
mod login;
mod random;
mod sock_diag;

use std::fmt;

/// A function that is tried with bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Names the target's file of kept inputs and its program.
    pub name: &'static str,
    run: fn(&[u8]),
}

/// Every target, in the order of their names.
pub const TARGETS: [Target; 11] = [
    target("api", api::api),
    target("callback", login::callback),
    target("changes", config::changes),
    target("config", config::config),
    target("guard", guard::guard),
    target("h1_head", head::h1_head),
    target("host_match", config::host_match),
    target("model", model::live),
    target("route", config::route),
    target("sock_diag", sock_diag::sock_diag),
    target("token", login::token),
];

const fn target(name: &'static str, run: fn(&[u8])) -> Target {
    Target { name, run }
}

impl Target {
    /// Tries `bytes`; panics where a promise is broken.
    pub fn run(self, bytes: &[u8]) {
        (self.run)(bytes);
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Tries `bytes` on the target with this name; panics where a promise is broken, or where there is no such target.
pub fn run(name: &str, bytes: &[u8]) {
    named(name).expect("a target of this name").run(bytes);
}

/// Returns the target with this name.
#[must_use]
pub fn named(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|it| it.name == name)
}
