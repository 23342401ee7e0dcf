//! What pomd costs, beside what it is measured against, in one run: rounds interleaved, medians, ratios.
//!
//! The programs are the real ones, each a process of its own; Pomerium is the tests' gateway in this process, or a real
//! Envoy before it. Everything is on loopback, and ends with this. Figures are printed, never asserted: a machine that
//! others use too may miss a target for their sake, so read ratios, and repeat.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a tool for this workspace: it prints figures, and what fails ends it"
)]

mod connect;
mod crypto;
mod first_byte;
mod idle;
mod lab;
mod measure;
mod memory;
mod play;
mod relay;
mod service;
mod status;
mod table;
mod wire;

use clap::{Parser, ValueEnum};
use table::Table;

/// Measures pomd side by side with what it is measured against.
#[derive(Debug, Parser)]
struct Args {
    /// What to measure; all of it unless named
    names: Vec<Name>,
    /// More rounds, more bytes, longer waits
    #[arg(long, conflicts_with = "smoke")]
    night: bool,
    /// As little as shows that it works; its figures say nothing
    #[arg(long)]
    smoke: bool,
    /// A real Envoy before the gateway, where bytes are carried
    #[arg(long)]
    envoy: bool,
    /// Be one of the processes that pomd is measured against
    #[arg(long, hide = true, num_args = 1.., value_name = "ROLE")]
    play: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Name {
    /// From connecting to the first echoed byte, in round trips
    FirstByte,
    /// CPU of relaying, per GiB
    Relay,
    /// Memory per idle connection, and what is given back
    Memory,
    /// Memory and wake-ups of an idle daemon
    Idle,
    /// CPU per connection
    Connect,
    /// The time that pomctl takes
    Status,
}

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Smoke,
    Day,
    Night,
}

impl Size {
    /// One of these.
    fn pick<T>(self, smoke: T, day: T, night: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Day => day,
            Self::Night => night,
        }
    }
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    if let Some((role, rest)) = args.play.split_first() {
        return play::play(role, rest).await;
    }
    let size = match (args.smoke, args.night) {
        (true, _) => Size::Smoke,
        (_, true) => Size::Night,
        _ => Size::Day,
    };
    lab::raise_descriptors();
    if cfg!(debug_assertions) {
        println!("Not a release build: these figures say nothing.");
    }
    for name in Name::value_variants() {
        if args.names.is_empty() || args.names.contains(name) {
            for table in measure(*name, size, args.envoy).await {
                println!("\n{table}");
            }
        }
    }
}

async fn measure(name: Name, size: Size, envoy: bool) -> Vec<Table> {
    match name {
        Name::FirstByte => first_byte::run(size).await,
        Name::Relay => relay::run(size, envoy).await,
        Name::Memory => memory::run(size).await,
        Name::Idle => idle::run(size).await,
        Name::Connect => connect::run(size).await,
        Name::Status => status::run(size).await,
    }
}
