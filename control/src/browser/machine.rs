//! What the choice of a browser asks of this machine.

use std::{env, ffi::OsStr, fs, path::Path};

/// Whether a program can be run: a path, or a name in one of the folders of `path`, the value of `PATH`.
pub fn on_path(program: &str, path: Option<&OsStr>) -> bool {
    if program.contains(std::path::MAIN_SEPARATOR) || program.contains('/') {
        return is_program(Path::new(program));
    }
    env::split_paths(path.unwrap_or_default()).any(|it| is_program(&it.join(program)))
}

/// Whether this is a container; `var` looks up environment variables.
pub fn is_container(var: impl Fn(&str) -> Option<String>) -> bool {
    var("container").is_some()
        || ["/.dockerenv", "/run/.containerenv"]
            .iter()
            .any(|it| Path::new(it).exists())
}

/// Whether this is Linux on Windows.
pub fn is_wsl() -> bool {
    fs::read_to_string("/proc/sys/kernel/osrelease")
        .is_ok_and(|it| it.to_ascii_lowercase().contains("microsoft"))
}

#[cfg(unix)]
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata()
        .is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
}

#[cfg(not(unix))]
fn is_program(path: &Path) -> bool {
    path.is_file() || path.with_extension("exe").is_file()
}
