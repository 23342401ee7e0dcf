//! The files of definitions.

use std::path::Path;

use crate::{error::CliError, sanitise};

/// Returns the file at `path`; `None`: there is none.
pub(super) fn text_of(path: &Path) -> Result<Option<String>, CliError> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(cannot("read", path, &error)),
    }
}

pub(super) fn cannot(what: &str, path: &Path, error: &std::io::Error) -> CliError {
    let shown = sanitise::line(&path.display().to_string());
    CliError::failed(format!("cannot {what} {shown}: {error}"))
}
