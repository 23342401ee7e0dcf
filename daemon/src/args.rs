//! What pomd can be told on its command line.

use std::{ffi::OsString, path::PathBuf};

use clap::{Parser, Subcommand};
use control::paths::{PathOverrides, Paths};

/// Makes services behind Pomerium look like plain local ports.
#[derive(Debug, Parser)]
#[command(
    version = control::VERSION,
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
    /// It is there already: how a restart in the background begins
    #[arg(long, hide = true, conflicts_with = "daemonize")]
    pub(crate) in_background: bool,
    /// Ends well: how a pomd asks another release whether it takes over locks and listeners at a restart
    #[arg(long, hide = true)]
    pub(crate) takes_handover: bool,
    /// Whoever started it waits there for word: how --daemonize goes on in a new process
    #[arg(long, hide = true, requires = "in_background")]
    pub(crate) report_to_stdout: bool,
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
    /// Look at the addresses of the tunnels, and who holds them: how pomctl's doctor does it while no pomd runs
    #[command(hide = true)]
    Listeners,
}

impl Args {
    /// A person named the configuration file; there should be one then.
    pub(crate) fn names_the_configuration(&self) -> bool {
        self.config.is_some()
    }

    /// Where things are; `config` wins over `--config`.
    pub(crate) fn wishes(&self, config: Option<PathBuf>) -> PathOverrides {
        PathOverrides {
            config: config.or_else(|| self.config.clone()),
            state: self.state_dir.clone(),
            socket: self.socket.clone(),
        }
    }
}

/// The arguments with which pomd starts again in the same place.
pub(crate) fn again(place: &Paths, log: &str, in_background: bool) -> Vec<OsString> {
    let mut res = vec![
        "--config".into(),
        place.config.clone().into_os_string(),
        "--state-dir".into(),
        place.state.clone().into_os_string(),
        "--socket".into(),
        place.socket.clone().into_os_string(),
        format!("--log={log}").into(),
    ];
    if in_background {
        res.push("--in-background".into());
    }
    res
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_is_understood_as_the_start_was() {
        let place = Paths {
            config: "/etc/a b.toml".into(),
            state: "/state".into(),
            socket: "/run/pomd.sock".into(),
        };
        for in_background in [false, true] {
            let mut words = vec![OsString::from("pomd")];
            words.extend(again(&place, "-x=debug", in_background));
            let args = Args::try_parse_from(words).unwrap();
            assert_eq!(args.in_background, in_background);
            assert!(!args.daemonize);
            assert_eq!(args.log, "-x=debug");
            assert_eq!(Paths::find(args.wishes(None)).unwrap(), place);
        }
    }
}
