//! What every command is given.

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
