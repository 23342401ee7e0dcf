//! Paths of the configuration, the state and the control socket: the table `Files` of the README.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(unix)]
use unix as platform;
#[cfg(windows)]
use windows as platform;

/// Paths that a person names; each wins over its environment variable and its default.
#[derive(Clone, Debug, Default)]
pub struct PathOverrides {
    /// `--config`, else `POMD_CONFIG`.
    pub config: Option<PathBuf>,
    /// `--state-dir`, else `POMD_STATE_DIR`.
    pub state: Option<PathBuf>,
    /// `--socket`, else `POMD_SOCKET`.
    pub socket: Option<PathBuf>,
}

/// Every path that both programs must agree on. All are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// The configuration file; it need not exist.
    pub config: PathBuf,
    /// The folder for tokens, chosen ports and the log.
    pub state: PathBuf,
    /// The control socket; on Windows the named pipe.
    pub socket: PathBuf,
}

/// Why a path cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Neither the system nor the environment names a home folder.
    #[error("no home folder is known: set {home}, or give --config, --state-dir and --socket", home = platform::HOME)]
    NoHome,
    /// No control socket can be at this path; why, and what to do.
    #[error("{fault}: {path}\nGive another: {example}, or POMD_SOCKET", example = platform::SOCKET_EXAMPLE)]
    NoSocketThere {
        /// The path.
        path: String,
        /// What is wrong with it.
        fault: String,
    },
    /// Windows does not say whose this process is.
    #[cfg(windows)]
    #[error(
        "cannot tell which user this is, so the control pipe has no name; give one: --socket PATH, or POMD_SOCKET"
    )]
    NoUser,
    /// A relative path was given, and the current folder is gone.
    #[error("cannot tell the current folder, and {0} is relative")]
    NoCurrentFolder(String),
}

impl Paths {
    /// Returns the paths that the overrides, the environment and the platform's defaults name, in this order. Looks at
    /// folders, makes none.
    ///
    /// # Errors
    /// No home folder is known where one is needed, or no socket can be at its path.
    pub fn find(overrides: PathOverrides) -> Result<Self, PathsError> {
        Self::find_in(overrides, |name| {
            env::var_os(name).filter(|it| !it.is_empty())
        })
    }

    fn find_in(
        overrides: PathOverrides,
        var: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, PathsError> {
        let path = |given: Option<PathBuf>, name: &str| {
            given
                .or_else(|| var(name).map(PathBuf::from))
                .map(absolute)
                .transpose()
        };
        let config = path(overrides.config, "POMD_CONFIG")?;
        let state = path(overrides.state, "POMD_STATE_DIR")?;
        let socket = path(overrides.socket, "POMD_SOCKET")?;
        let config = config.map_or_else(|| platform::config(&var), Ok)?;
        let state = state.map_or_else(|| platform::state(&var), Ok)?;
        let socket = socket.map_or_else(|| platform::socket(&var, &state), Ok)?;
        if let Some(fault) = platform::socket_fault(&socket) {
            return Err(PathsError::NoSocketThere {
                path: socket.display().to_string(),
                fault,
            });
        }
        Ok(Self {
            config,
            state,
            socket,
        })
    }

    /// Tells whether a person named the socket, by `--socket` or `POMD_SOCKET`: then no other is meant.
    pub fn names_socket(overrides: &PathOverrides) -> bool {
        overrides.socket.is_some() || env::var_os("POMD_SOCKET").is_some_and(|it| !it.is_empty())
    }

    /// Returns the log file of a pomd that pomctl started.
    pub fn log_file(&self) -> PathBuf {
        self.state.join("pomd.log")
    }

    /// Returns the file that tells ssh of the hosts of the configuration: beside it, so that each has its own.
    pub fn ssh_config(&self) -> PathBuf {
        let name = match self.config.file_name() {
            Some(name) if name != "pomd.toml" => {
                let mut res = name.to_owned();
                res.push(".ssh_config");
                res
            }
            _ => OsString::from("ssh_config"),
        };
        self.config.with_file_name(name)
    }

    /// Returns the folder that holds the lock of the socket, and the socket itself where that is a file.
    pub fn runtime(&self) -> &Path {
        platform::runtime(&self.socket, &self.state)
    }
}

/// Returns the socket that belongs to `folder` alone: a file in it where sockets are files.
pub fn socket_of(folder: &Path) -> PathBuf {
    platform::socket_of(folder)
}

fn absolute(path: PathBuf) -> Result<PathBuf, PathsError> {
    std::path::absolute(&path).map_err(|_| PathsError::NoCurrentFolder(path.display().to_string()))
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_default() {
        let vars = vars(&[("HOME", "/home/a"), ("POMD_CONFIG", "/etc/e.toml")]);
        let overrides = PathOverrides {
            state: Some("/s".into()),
            ..PathOverrides::default()
        };
        let paths = Paths::find_in(overrides, vars).unwrap();
        assert_eq!(paths.config, Path::new("/etc/e.toml"));
        assert_eq!(paths.state, Path::new("/s"));
    }

    #[test]
    fn a_runtime_folder_that_is_not_ours_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().to_str().unwrap();
        let paths = |runtime| {
            let vars = vars(&[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", runtime)]);
            Paths::find_in(PathOverrides::default(), vars).unwrap()
        };
        assert_eq!(paths(ours).socket, dir.path().join("pomd/pomd.sock"));
        assert_ne!(
            paths("relative").socket,
            Path::new("relative/pomd/pomd.sock")
        );
    }

    #[test]
    fn a_relative_xdg_folder_is_ignored() {
        let vars = vars(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "x")]);
        let paths = Paths::find_in(PathOverrides::default(), vars).unwrap();
        assert_eq!(paths.config, Path::new("/home/a/.config/pomd/pomd.toml"));
    }

    #[test]
    fn a_socket_path_that_fits_nowhere_is_an_error_that_says_so() {
        let overrides = PathOverrides {
            socket: Some(format!("/{}", "x".repeat(120)).into()),
            ..PathOverrides::default()
        };
        let error = Paths::find_in(overrides, vars(&[("HOME", "/home/a")])).unwrap_err();
        assert!(error.to_string().contains("121 bytes"), "{error}");
    }

    fn vars(list: &[(&str, &str)]) -> impl Fn(&str) -> Option<OsString> + use<> {
        let map: BTreeMap<String, OsString> = list
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).into()))
            .collect();
        move |name| map.get(name).cloned()
    }
}
