//! Writes the table of faults and their tests: from the sources.

use std::{fs, process::ExitCode};

use integration::matrix;

#[expect(clippy::print_stderr, reason = "its words are its answer")]
fn main() -> ExitCode {
    let file = matrix::file();
    match fs::write(&file, matrix::table()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cannot write {}: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}
