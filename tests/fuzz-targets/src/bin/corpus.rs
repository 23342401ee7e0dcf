//! `corpus unpack TARGET…` makes the folders that `cargo fuzz` wants; `corpus pack TARGET…` keeps what is in them.

use std::{
    env,
    io::{self, Write},
    process::ExitCode,
};

use fuzz_targets::corpus;

const USAGE: &str = "corpus pack|unpack TARGET…";

fn main() -> io::Result<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let run = match arguments.first().map(String::as_str) {
        Some("pack") => corpus::pack,
        Some("unpack") => corpus::unpack,
        _ => {
            writeln!(io::stderr(), "usage: {USAGE}")?;
            return Ok(ExitCode::from(2));
        }
    };
    for target in &arguments[1..] {
        let count = run(target)?;
        writeln!(io::stdout(), "{target}: {count} inputs")?;
    }
    Ok(ExitCode::SUCCESS)
}
