//! What the choice of a browser asks of this machine.

use std::{env, ffi::OsStr, fs, path::Path};

use super::{Surroundings, System};

/// Calls `ask` with the surroundings of this process.
pub fn here<T>(ask: impl FnOnce(&Surroundings<'_>) -> T) -> T {
    let var = |name: &str| env::var(name).ok().filter(|it| !it.is_empty());
    let path = env::var_os("PATH");
    ask(&Surroundings {
        var: &var,
        on_path: &|it| on_path(it, path.as_deref()),
        container: is_container(var),
        wsl: is_wsl(),
        system: System::HERE,
    })
}

/// Returns the name of this machine for those who come by ssh.
pub fn host_name() -> String {
    #[cfg(unix)]
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    #[cfg(not(unix))]
    let name = env::var("COMPUTERNAME").unwrap_or_default();
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(is_plain) {
        "THIS-MACHINE".to_owned()
    } else {
        name
    }
}

/// Tells whether a program can be run: a path, or a name in one of the folders of `path`, the value of `PATH`.
pub fn on_path(program: &str, path: Option<&OsStr>) -> bool {
    if program.contains(std::path::MAIN_SEPARATOR) || program.contains('/') {
        return is_program(Path::new(program));
    }
    env::split_paths(path.unwrap_or_default()).any(|it| is_program(&it.join(program)))
}

/// Tells whether this is a container; `var` looks up environment variables.
pub fn is_container(var: impl Fn(&str) -> Option<String>) -> bool {
    var("container").is_some()
        || ["/.dockerenv", "/run/.containerenv"]
            .iter()
            .any(|it| Path::new(it).exists())
}

/// Tells whether this is Linux on Windows.
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
