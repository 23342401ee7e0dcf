//! What people see: transcripts of the real pomctl against a scripted pomd. Words in capitals such as `HH:MM` stand
//! for what differs from run to run. To write them anew: `SNAPSHOTS=overwrite cargo test -p pomctl`.

#![cfg(unix)]
#![expect(
    clippy::unwrap_used,
    reason = "a test whose helper cannot go on has failed"
)]

mod basics;
mod doctor;
mod edits;
mod fake;
mod foreign;
mod hostile;
#[cfg(target_os = "linux")]
mod interrupt;
mod login;
mod pages;
mod routes;
mod runner;
mod samples;
mod service;
mod ssh_config;
mod starting;
mod terminal;
mod top;
mod tunnels;
