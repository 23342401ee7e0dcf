//! What every command is given.

use std::{
    env,
    path::{Path, PathBuf},
};

use control::{
    client::Client,
    paths::{PathOverrides, Paths},
};

use crate::screen::Screen;

/// Where pomd is, whether it may be started, and where answers go.
pub(crate) struct Context {
    pub(crate) paths: Paths,
    /// Of them, those that options named.
    pub(crate) overrides: PathOverrides,
    pub(crate) client: Client,
    /// A command that needs pomd may start it.
    pub(crate) may_start: bool,
    pub(crate) screen: Screen,
}

impl Context {
    /// Returns the options that lead to this pomd's places, and whether a person named each.
    pub(crate) fn places(&self) -> [(&'static str, &Path, bool); 3] {
        let is_named = |option: &Option<PathBuf>, variable: &str| {
            option.is_some() || env::var_os(variable).is_some_and(|it| !it.is_empty())
        };
        let (named, paths) = (&self.overrides, &self.paths);
        [
            (
                "--config",
                &paths.config,
                is_named(&named.config, "POMD_CONFIG"),
            ),
            (
                "--state-dir",
                &paths.state,
                is_named(&named.state, "POMD_STATE_DIR"),
            ),
            (
                "--socket",
                &paths.socket,
                is_named(&named.socket, "POMD_SOCKET"),
            ),
        ]
    }
}
