//! What a service manager is to run, told in words that a definition can hold.

use std::{env, path::Path};

use super::platform::Manager;
use crate::{
    context::Context,
    error::{CliError, Exit, Report},
    sanitise, start,
};

/// The variables that a manager may have otherwise, and that say where files are.
const PLACES: [&str; 3] = ["HOME", "XDG_CONFIG_HOME", "XDG_STATE_HOME"];

/// What a manager is to run.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: String,
    pub(super) arguments: Vec<String>,
    /// The folders where a token's program or a browser is looked for: those of the shell that installs.
    pub(super) search_path: String,
}

/// Returns what the manager is to run: the pomd of this pomctl, with the places that a person named, or that the manager's
/// environment would not lead to.
pub(super) fn launch(cx: &Context, manager: &Manager) -> Result<Launch, CliError> {
    let word = |path: &Path| {
        let text = path.to_str().filter(|it| !it.contains(char::is_control));
        text.map(str::to_owned).ok_or_else(|| {
            let shown = sanitise::line(&path.display().to_string());
            CliError::failed(format!("a service can't be told of a path such as {shown}"))
        })
    };
    let leads_elsewhere = PLACES
        .iter()
        .any(|it| env::var(it).ok().filter(|it| !it.is_empty()) != manager.var(it));
    let mut arguments = Vec::new();
    for (option, path, is_named) in cx.places() {
        if is_named || leads_elsewhere && option != "--socket" {
            arguments.extend([option.to_owned(), word(path)?]);
        }
    }
    let program = start::installed().ok_or_else(|| {
        let report = Report::new(Exit::Failed, "failed", "there is no pomd to install");
        let hint = "put pomd beside pomctl, or into a folder of PATH".to_owned();
        CliError::told(report.hint(Some(hint)))
    })?;
    let folders = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&folders).filter(|it| it.is_absolute());
    let folders = folders.filter(|it| word(it).is_ok());
    let search_path = env::join_paths(folders).unwrap_or_default();
    Ok(Launch {
        program: word(&program)?,
        arguments,
        search_path: search_path.to_string_lossy().into_owned(),
    })
}
