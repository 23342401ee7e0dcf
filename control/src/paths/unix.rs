//! Paths on Linux and its kin, and on macOS.

use std::{
    ffi::OsString,
    fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use super::PathsError;

type Var<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// The longest socket path that every Unix takes, in bytes (`sun_path` of macOS, less its end).
const SOCKET_PATH_MOST: usize = 103;
pub(super) const SOCKET_EXAMPLE: &str = "--socket PATH";
pub(super) const HOME: &str = "HOME";

#[cfg(not(target_os = "macos"))]
pub(super) fn config(var: Var<'_>) -> Result<PathBuf, PathsError> {
    let base = folder(var, "XDG_CONFIG_HOME")
        .map_or_else(|| home(var).map(|it| it.join(".config")), Ok)?;
    Ok(base.join("pomd/pomd.toml"))
}

#[cfg(not(target_os = "macos"))]
pub(super) fn state(var: Var<'_>) -> Result<PathBuf, PathsError> {
    let base = folder(var, "XDG_STATE_HOME")
        .map_or_else(|| home(var).map(|it| it.join(".local/state")), Ok)?;
    Ok(base.join("pomd"))
}

/// Without a runtime folder of ours the state folder is used, never /tmp: others could stand in for us there (A10).
#[cfg(not(target_os = "macos"))]
pub(super) fn socket(var: Var<'_>, state: &Path) -> Result<PathBuf, PathsError> {
    let usual = PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw()));
    let runtime = folder(var, "XDG_RUNTIME_DIR")
        .filter(|it| is_ours(it))
        .or_else(|| is_ours(&usual).then_some(usual));
    let folder = runtime.map_or_else(|| state.to_owned(), |it| it.join("pomd"));
    Ok(socket_of(&folder))
}

#[cfg(target_os = "macos")]
fn support(var: Var<'_>) -> Result<PathBuf, PathsError> {
    Ok(home(var)?.join("Library/Application Support/pomd"))
}

#[cfg(target_os = "macos")]
pub(super) fn config(var: Var<'_>) -> Result<PathBuf, PathsError> {
    Ok(support(var)?.join("pomd.toml"))
}

#[cfg(target_os = "macos")]
pub(super) fn state(var: Var<'_>) -> Result<PathBuf, PathsError> {
    Ok(support(var)?.join("state"))
}

#[cfg(target_os = "macos")]
pub(super) fn socket(var: Var<'_>, state: &Path) -> Result<PathBuf, PathsError> {
    let runtime = folder(var, "TMPDIR").filter(|it| is_ours(it));
    let folder = runtime.map_or_else(|| state.to_owned(), |it| it.join("pomd"));
    Ok(socket_of(&folder))
}

pub(super) fn socket_fault(socket: &Path) -> Option<String> {
    let length = socket.as_os_str().len();
    (length > SOCKET_PATH_MOST).then(|| {
        format!("the socket path is {length} bytes long, the system takes {SOCKET_PATH_MOST}")
    })
}

pub(super) fn socket_of(folder: &Path) -> PathBuf {
    folder.join("pomd.sock")
}

pub(super) fn runtime<'a>(socket: &'a Path, _state: &'a Path) -> &'a Path {
    socket.parent().unwrap_or(Path::new("/"))
}

fn home(var: Var<'_>) -> Result<PathBuf, PathsError> {
    var("HOME")
        .map(PathBuf::from)
        .or_else(|| etcetera::home_dir().ok())
        .filter(|it| it.is_absolute())
        .ok_or(PathsError::NoHome)
}

/// A relative value in an XDG variable is to be ignored (XDG base directory specification).
fn folder(var: Var<'_>, name: &str) -> Option<PathBuf> {
    var(name).map(PathBuf::from).filter(|it| it.is_absolute())
}

fn is_ours(folder: &Path) -> bool {
    fs::metadata(folder)
        .is_ok_and(|it| it.is_dir() && it.uid() == rustix::process::getuid().as_raw())
}
