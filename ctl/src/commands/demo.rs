//! `pomctl demo`: becomes `pomd-demo`, which lies beside pomctl.

use std::process::Command;

use crate::{
    args::DemoArgs,
    error::{CliError, Exit, Report},
    start,
};

const PROGRAM: &str = "pomd-demo";

pub(crate) fn run(args: &DemoArgs) -> Result<Exit, CliError> {
    let Some(program) = start::sibling(PROGRAM) else {
        return Err(missing());
    };
    let mut command = Command::new(&program);
    if args.fast {
        command.arg("--fast");
    }
    let error = become_it(command)?;
    let program = program.display();
    Err(CliError::failed(format!("cannot run {program}: {error}")))
}

#[cfg(unix)]
fn become_it(mut command: Command) -> Result<std::io::Error, CliError> {
    use std::os::unix::process::CommandExt;
    Ok(command.exec())
}

/// Runs the command and waits for it, where a program cannot become another.
#[cfg(not(unix))]
fn become_it(mut command: Command) -> Result<std::io::Error, CliError> {
    match command.status() {
        Ok(ended) => std::process::exit(ended.code().unwrap_or(1)),
        Err(error) => Ok(error),
    }
}

fn missing() -> CliError {
    let folder = start::folder().map_or("its folder".to_owned(), |it| it.display().to_string());
    let message = format!("{PROGRAM} is not beside pomctl (looked in {folder})");
    let hint = "in the source tree, cargo install --locked --path tests/gateway brings it";
    let report = Report::new(Exit::Failed, "failed", message);
    CliError::told(report.hint(Some(hint.to_owned())))
}
