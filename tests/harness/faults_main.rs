//! Writes the table of faults and their tests: from the sources, and from the output of the last run.

use std::{fs, process::ExitCode};

use integration::{binary::root, matrix};

#[expect(clippy::print_stderr, reason = "its words are its answer")]
fn main() -> ExitCode {
    let log = fs::read_to_string(root().join("target/test.log")).unwrap_or_default();
    let file = matrix::file();
    match fs::write(&file, matrix::table(&log)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}
