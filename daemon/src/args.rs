//! What pomd can be told on its command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand};
use control::place::Wishes;

/// Makes services behind Pomerium look like plain local ports.
#[derive(Debug, Parser)]
#[command(
    version,
    about,
    after_help = "Examples:\n  pomd                 run in the foreground, as a service manager wants it\n  pomd --daemonize     run in the background; the log is in the state folder\n  pomd check           judge the configuration file, exit 2 if it has problems\n\npomctl talks to a running pomd: pomctl status"
)]
pub(crate) struct Args {
    /// The configuration file
    #[arg(long, global = true, value_name = "FILE", env = "POMD_CONFIG")]
    config: Option<PathBuf>,
    /// The folder for tokens, chosen ports and the log
    #[arg(long, global = true, value_name = "DIR", env = "POMD_STATE_DIR")]
    state_dir: Option<PathBuf>,
    /// The control socket
    #[arg(long, global = true, value_name = "PATH", env = "POMD_SOCKET")]
    socket: Option<PathBuf>,
    /// What is logged, in the filter syntax of tracing: info, debug, info,pomd::session=debug
    #[arg(
        long,
        global = true,
        value_name = "FILTER",
        env = "POMD_LOG",
        default_value = "info"
    )]
    pub(crate) log: String,
    /// Go into the background once the control socket answers
    #[arg(long)]
    pub(crate) daemonize: bool,
    #[command(subcommand)]
    pub(crate) action: Option<Action>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Judge the configuration file and exit: 0 if it is good, 2 if it has problems
    Check {
        /// The file, instead of the configured one
        file: Option<PathBuf>,
    },
}

impl Args {
    /// Where things are; `config` wins over `--config`.
    pub(crate) fn wishes(&self, config: Option<PathBuf>) -> Wishes {
        Wishes {
            config: config.or_else(|| self.config.clone()),
            state: self.state_dir.clone(),
            socket: self.socket.clone(),
        }
    }
}
