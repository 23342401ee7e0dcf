//! Where the configuration, the state and the socket are: the table `Files` of the contract.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The longest socket path that every Unix takes, in bytes (`sun_path` of macOS, less its end).
const SOCKET_PATH_MOST: usize = 103;

/// What a person may say about the places; each wins over its environment variable and its default.
#[derive(Clone, Debug, Default)]
pub struct Wishes {
    /// `--config`, else `POMD_CONFIG`.
    pub config: Option<PathBuf>,
    /// `--state-dir`, else `POMD_STATE_DIR`.
    pub state: Option<PathBuf>,
    /// `--socket`, else `POMD_SOCKET`.
    pub socket: Option<PathBuf>,
}

/// Where everything is. All paths are absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The configuration file; it need not exist.
    pub config: PathBuf,
    /// The folder for tokens, chosen ports and the log.
    pub state: PathBuf,
    /// The control socket. Its folder also holds the lock.
    pub socket: PathBuf,
}

/// Why a place cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// Neither the system nor the environment names a home folder.
    #[error("no home folder is known: set HOME, or give --config, --state-dir and --socket")]
    NoHome,
    /// The socket's path does not fit into a socket address.
    #[error(
        "the socket path is {length} bytes long, the system takes {SOCKET_PATH_MOST}: {path}\nGive a shorter one: --socket PATH, or POMD_SOCKET"
    )]
    SocketPathTooLong {
        /// The path.
        path: String,
        /// Its length in bytes.
        length: usize,
    },
    /// A relative path was given, and the current folder is gone.
    #[error("cannot tell the current folder, and {0} is relative")]
    NoCurrentFolder(String),
}

impl Place {
    /// From what the person says, the environment and the platform's defaults. Looks at folders, makes none.
    pub fn find(wishes: Wishes) -> Result<Self, PlaceError> {
        Self::find_in(wishes, |name| env::var_os(name).filter(|it| !it.is_empty()))
    }

    fn find_in(wishes: Wishes, var: impl Fn(&str) -> Option<OsString>) -> Result<Self, PlaceError> {
        let wish = |given: Option<PathBuf>, name: &str| {
            given
                .or_else(|| var(name).map(PathBuf::from))
                .map(absolute)
                .transpose()
        };
        let config = wish(wishes.config, "POMD_CONFIG")?;
        let state = wish(wishes.state, "POMD_STATE_DIR")?;
        let socket = wish(wishes.socket, "POMD_SOCKET")?;
        let config = config.map_or_else(|| platform::config(&var), Ok)?;
        let state = state.map_or_else(|| platform::state(&var), Ok)?;
        let socket = socket.unwrap_or_else(|| platform::socket(&var, &state));
        let length = socket.as_os_str().len();
        if length > SOCKET_PATH_MOST {
            return Err(PlaceError::SocketPathTooLong {
                path: socket.display().to_string(),
                length,
            });
        }
        Ok(Self {
            config,
            state,
            socket,
        })
    }

    /// The log of a pomd that pomctl started.
    pub fn log_file(&self) -> PathBuf {
        self.state.join("pomd.log")
    }

    /// The folder that holds socket and lock.
    pub fn runtime(&self) -> &Path {
        self.socket.parent().unwrap_or(Path::new("/"))
    }
}

fn absolute(path: PathBuf) -> Result<PathBuf, PlaceError> {
    std::path::absolute(&path).map_err(|_| PlaceError::NoCurrentFolder(path.display().to_string()))
}

#[cfg(unix)]
mod platform {
    use std::{
        ffi::OsString,
        fs,
        os::unix::fs::MetadataExt,
        path::{Path, PathBuf},
    };

    use super::PlaceError;

    type Var<'a> = &'a dyn Fn(&str) -> Option<OsString>;

    fn home(var: Var<'_>) -> Result<PathBuf, PlaceError> {
        var("HOME")
            .map(PathBuf::from)
            .or_else(|| etcetera::home_dir().ok())
            .filter(|it| it.is_absolute())
            .ok_or(PlaceError::NoHome)
    }

    /// A relative value in an XDG variable is to be ignored (XDG base directory specification).
    fn folder(var: Var<'_>, name: &str) -> Option<PathBuf> {
        var(name).map(PathBuf::from).filter(|it| it.is_absolute())
    }

    #[cfg(not(target_os = "macos"))]
    pub(super) fn config(var: Var<'_>) -> Result<PathBuf, PlaceError> {
        let base = folder(var, "XDG_CONFIG_HOME")
            .map_or_else(|| home(var).map(|it| it.join(".config")), Ok)?;
        Ok(base.join("pomd/pomd.toml"))
    }

    #[cfg(not(target_os = "macos"))]
    pub(super) fn state(var: Var<'_>) -> Result<PathBuf, PlaceError> {
        let base = folder(var, "XDG_STATE_HOME")
            .map_or_else(|| home(var).map(|it| it.join(".local/state")), Ok)?;
        Ok(base.join("pomd"))
    }

    /// Without a runtime folder of ours the state folder is used, never /tmp: others could stand in for us there (A10).
    #[cfg(not(target_os = "macos"))]
    pub(super) fn socket(var: Var<'_>, state: &Path) -> PathBuf {
        let usual = PathBuf::from(format!("/run/user/{}", rustix::process::getuid().as_raw()));
        let runtime = folder(var, "XDG_RUNTIME_DIR")
            .filter(|it| is_ours(it))
            .or_else(|| is_ours(&usual).then_some(usual));
        runtime.map_or_else(|| state.join("pomd.sock"), |it| it.join("pomd/pomd.sock"))
    }

    #[cfg(target_os = "macos")]
    fn support(var: Var<'_>) -> Result<PathBuf, PlaceError> {
        Ok(home(var)?.join("Library/Application Support/pomd"))
    }

    #[cfg(target_os = "macos")]
    pub(super) fn config(var: Var<'_>) -> Result<PathBuf, PlaceError> {
        Ok(support(var)?.join("pomd.toml"))
    }

    #[cfg(target_os = "macos")]
    pub(super) fn state(var: Var<'_>) -> Result<PathBuf, PlaceError> {
        Ok(support(var)?.join("state"))
    }

    #[cfg(target_os = "macos")]
    pub(super) fn socket(var: Var<'_>, state: &Path) -> PathBuf {
        folder(var, "TMPDIR")
            .filter(|it| is_ours(it))
            .map_or_else(|| state.join("pomd.sock"), |it| it.join("pomd/pomd.sock"))
    }

    fn is_ours(folder: &Path) -> bool {
        fs::metadata(folder)
            .is_ok_and(|it| it.is_dir() && it.uid() == rustix::process::getuid().as_raw())
    }
}

#[cfg(windows)]
mod platform {
    use std::{
        ffi::OsString,
        path::{Path, PathBuf},
    };

    use super::PlaceError;

    type Var<'a> = &'a dyn Fn(&str) -> Option<OsString>;

    pub(super) fn config(var: Var<'_>) -> Result<PathBuf, PlaceError> {
        let base = var("APPDATA")
            .map(PathBuf::from)
            .ok_or(PlaceError::NoHome)?;
        Ok(base.join("pomd").join("pomd.toml"))
    }

    pub(super) fn state(var: Var<'_>) -> Result<PathBuf, PlaceError> {
        let base = var("LOCALAPPDATA")
            .map(PathBuf::from)
            .ok_or(PlaceError::NoHome)?;
        Ok(base.join("pomd"))
    }

    pub(super) fn socket(var: Var<'_>, _state: &Path) -> PathBuf {
        let user = var("USERNAME").unwrap_or_default();
        PathBuf::from(format!(r"\\.\pipe\pomd-{}", user.to_string_lossy()))
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_default() {
        let vars = vars(&[("HOME", "/home/a"), ("POMD_CONFIG", "/etc/e.toml")]);
        let wishes = Wishes {
            state: Some("/s".into()),
            ..Wishes::default()
        };
        let place = Place::find_in(wishes, vars).unwrap();
        assert_eq!(place.config, Path::new("/etc/e.toml"));
        assert_eq!(place.state, Path::new("/s"));
    }

    #[test]
    fn a_runtime_folder_that_is_not_ours_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let ours = dir.path().to_str().unwrap();
        let place = |runtime| {
            let vars = vars(&[("HOME", "/home/a"), ("XDG_RUNTIME_DIR", runtime)]);
            Place::find_in(Wishes::default(), vars).unwrap()
        };
        assert_eq!(place(ours).socket, dir.path().join("pomd/pomd.sock"));
        assert_ne!(
            place("relative").socket,
            Path::new("relative/pomd/pomd.sock")
        );
    }

    #[test]
    fn a_relative_xdg_folder_is_ignored() {
        let vars = vars(&[("HOME", "/home/a"), ("XDG_CONFIG_HOME", "x")]);
        let place = Place::find_in(Wishes::default(), vars).unwrap();
        assert_eq!(place.config, Path::new("/home/a/.config/pomd/pomd.toml"));
    }

    #[test]
    fn a_socket_path_that_fits_nowhere_is_an_error_that_says_so() {
        let wishes = Wishes {
            socket: Some(format!("/{}", "x".repeat(120)).into()),
            ..Wishes::default()
        };
        let error = Place::find_in(wishes, vars(&[("HOME", "/home/a")])).unwrap_err();
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
