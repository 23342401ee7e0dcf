//! The tools of service managers: run as lists of words, within a limit, their words made safe to show.

use std::{io, process::Stdio, time::Duration};

use tokio::process::Command;

use crate::{error::CliError, sanitise};

/// Why a tool did not do what it was told.
#[derive(Debug)]
pub(super) enum ToolError {
    /// There is no such program.
    Missing,
    /// What it said, in one line.
    Failed(String),
}

impl From<ToolError> for CliError {
    fn from(error: ToolError) -> Self {
        Self::failed(match error {
            ToolError::Missing => "the service manager's tool is not installed".to_owned(),
            ToolError::Failed(why) => why,
        })
    }
}

/// Runs the command, and returns what it printed.
pub(super) async fn output(mut command: Command, limit: Duration) -> Result<String, ToolError> {
    let name = command
        .as_std()
        .get_program()
        .to_string_lossy()
        .into_owned();
    command.stdin(Stdio::null()).kill_on_drop(true);
    let failed = |why: &str| ToolError::Failed(format!("{name}: {}", sanitise::line(why)));
    let output = match tokio::time::timeout(limit, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ToolError::Missing);
        }
        Ok(Err(error)) => return Err(failed(&error.to_string())),
        Err(_) => return Err(failed(&format!("no answer within {} s", limit.as_secs()))),
    };
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    let first = complaint.lines().map(str::trim).find(|it| !it.is_empty());
    Err(failed(first.unwrap_or(&output.status.to_string())))
}

/// Returns a text as XML has it.
pub(super) fn escaped(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('>', "&gt;").replace('"', "&quot;")
}
