//! The configuration as its file has it, for commands that work without pomd.

use std::{fs, io, path::Path};

use pomd_core::config::Config;

use crate::{
    context::Context,
    error::{CliError, Exit, Report},
    sanitise,
};

/// Reads the file; an absent one is an empty configuration.
pub(crate) fn read(cx: &Context) -> Result<Config, CliError> {
    let path = &cx.paths.config;
    let shown = sanitise::line(&cx.screen.view().path(path));
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => return Err(CliError::failed(format!("cannot read {shown}: {error}"))),
    };
    let base = path.parent().unwrap_or(Path::new("/"));
    Config::read(&text, base).map_err(|problems| {
        let report = problems.render(&String::from_utf8_lossy(&text), &shown, false);
        let message = format!("{shown} is broken: {}", problems.first_line());
        let lines = sanitise::lines(&report);
        CliError::told(
            Report::new(Exit::Usage, "config_broken", sanitise::line(&message)).block(lines),
        )
    })
}
