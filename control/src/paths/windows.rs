//! Paths on Windows, where the control socket is a named pipe.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::PathsError;
use crate::user;

type Var<'a> = &'a dyn Fn(&str) -> Option<OsString>;

const PIPES: &str = r"\\.\pipe\";
pub(super) const HOME: &str = "APPDATA and LOCALAPPDATA";
pub(super) const SOCKET_EXAMPLE: &str = r"--socket \\.\pipe\NAME";

pub(super) fn config(var: Var<'_>) -> Result<PathBuf, PathsError> {
    let base = var("APPDATA")
        .map(PathBuf::from)
        .ok_or(PathsError::NoHome)?;
    Ok(base.join("pomd").join("pomd.toml"))
}

pub(super) fn state(var: Var<'_>) -> Result<PathBuf, PathsError> {
    let base = var("LOCALAPPDATA")
        .map(PathBuf::from)
        .ok_or(PathsError::NoHome)?;
    Ok(base.join("pomd"))
}

/// Named after the user, so that two of one machine do not meet.
pub(super) fn socket(_: Var<'_>, _: &Path) -> Result<PathBuf, PathsError> {
    let sid = user::own_sid().ok_or(PathsError::NoUser)?;
    Ok(pipe(&sid))
}

pub(super) fn socket_of(folder: &Path) -> PathBuf {
    let name = folder.file_name().unwrap_or_default();
    pipe(&name.to_string_lossy())
}

/// A pipe is no file: its lock is that of the state.
pub(super) fn runtime<'a>(_socket: &'a Path, state: &'a Path) -> &'a Path {
    state
}

pub(super) fn socket_fault(socket: &Path) -> Option<String> {
    let text = socket.as_os_str().as_encoded_bytes();
    let is_pipe = text.starts_with(PIPES.as_bytes()) && text.len() > PIPES.len();
    (!is_pipe).then(|| "on Windows the control socket is a named pipe of this machine".to_owned())
}

fn pipe(name: &str) -> PathBuf {
    PathBuf::from(format!("{PIPES}pomd-{name}"))
}
