//! What each command may be given, beside what all of them may.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use jiff::SignedDuration;

/// What `Command::Status` is given.
#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    /// Only these tunnels and their clusters
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Show it again after each change
    #[arg(long, short = 'w')]
    pub(crate) watch: bool,
}

/// What `Command::Doctor` is given.
#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// Only this tunnel, the tunnels of this cluster, or this HOST:PORT
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
}

/// What `Command::Up` is given.
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// Print the address to sign in at instead of opening a browser
    #[arg(long)]
    pub(crate) no_browser: bool,
}

/// What `Command::Down` is given.
#[derive(Debug, Args)]
pub(crate) struct DownArgs {
    #[command(flatten)]
    pub(crate) which: Which,
    /// End their open connections too
    #[arg(long)]
    pub(crate) now: bool,
}

/// Names of tunnels, or all of them.
#[derive(Debug, Args)]
pub(crate) struct Which {
    /// The tunnels
    #[arg(value_name = "NAME", conflicts_with = "all")]
    pub(crate) names: Vec<String>,
    /// Every tunnel
    #[arg(long)]
    pub(crate) all: bool,
}

/// What `Command::Restart` is given.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Do not ask
    #[arg(long, short = 'y')]
    pub(crate) yes: bool,
    /// Also where the configuration file is broken
    #[arg(long)]
    pub(crate) force: bool,
}

/// What `Command::Login` is given.
#[derive(Debug, Args)]
pub(crate) struct LoginArgs {
    /// A cluster, a tunnel, a URL or a host; default: every cluster that needs a login
    #[arg(value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// Print the address to sign in at instead of opening a browser
    #[arg(long)]
    pub(crate) no_browser: bool,
}

/// What `Command::Logout` is given.
#[derive(Debug, Args)]
pub(crate) struct LogoutArgs {
    /// A cluster, a tunnel, a URL or a host; default: the one that is logged in
    #[arg(value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
}

/// What `Command::Add` is given.
#[derive(Debug, Args)]
pub(crate) struct AddArgs {
    /// What to call it: letters, digits, `.`, `_` and `-`
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
    /// Where it leads: HOST:PORT, as Pomerium publishes it
    #[arg(value_name = "ROUTE")]
    pub(crate) route: String,
    /// A port on loopback, ADDRESS:PORT or unix:NAME; default: a free port, chosen once and kept
    #[arg(long, short = 'l', value_name = "WHERE")]
    pub(crate) listen: Option<String>,
    /// When it listens: auto, or manual to wait for up
    #[arg(
        long,
        value_enum,
        value_name = "WHEN",
        default_value_t,
        hide_possible_values = true
    )]
    pub(crate) start: StartWhen,
}

/// When a tunnel listens by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum StartWhen {
    #[default]
    Auto,
    Manual,
}

/// One tunnel.
#[derive(Debug, Args)]
pub(crate) struct NameArgs {
    /// The tunnel
    #[arg(value_name = "NAME")]
    pub(crate) name: String,
}

/// Tunnels, one at least.
#[derive(Debug, Args)]
pub(crate) struct NamesArgs {
    /// The tunnels
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
}

/// What `Command::Connect` is given.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConnectArgs {
    /// The route, as Pomerium publishes it; or a tunnel's name
    #[arg(value_name = "HOST:PORT")]
    pub(crate) route: String,
    /// Tell refusals in ssh's own words, so that ssh shows them
    #[arg(long)]
    pub(crate) ssh: bool,
    /// Hand ssh a connection and end, for ProxyUseFdpass
    #[arg(long)]
    pub(crate) fdpass: bool,
}

/// What `Command::Ssh` is given.
#[derive(Debug, Args)]
pub(crate) struct SshArgs {
    /// A tunnel or a host, with or without the user there
    #[arg(value_name = "[USER@]NAME|HOST")]
    pub(crate) destination: String,
    /// Options of ssh, and the command to run there
    #[arg(
        value_name = "SSH",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) rest: Vec<OsString>,
}

/// What `Command::SshConfig` is given.
#[derive(Debug, Args)]
pub(crate) struct SshConfigArgs {
    /// Write it, and let ssh include it
    #[arg(long, conflicts_with = "uninstall")]
    pub(crate) install: bool,
    /// Undo that
    #[arg(long)]
    pub(crate) uninstall: bool,
    /// Let pomctl carry the bytes, for programs that don't know ProxyUseFdpass
    #[arg(long)]
    pub(crate) no_fdpass: bool,
}

/// What `Command::Token` is given.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    /// A cluster, a tunnel, a URL or a host; default: the only cluster
    #[arg(value_name = "CLUSTER")]
    pub(crate) cluster: Option<String>,
    /// A whole header line, for curl -H @-
    #[arg(long, conflicts_with = "json")]
    pub(crate) header: bool,
}

/// What `Command::KubeCredential` is given.
#[derive(Debug, Args)]
pub(crate) struct KubeCredentialArgs {
    /// A cluster, a tunnel, a URL or a host
    #[arg(value_name = "CLUSTER")]
    pub(crate) cluster: String,
}

/// What `Command::Logs` is given.
#[derive(Debug, Args)]
pub(crate) struct LogsArgs {
    /// Only this tunnel
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// Go on with what comes
    #[arg(long, short = 'f')]
    pub(crate) follow: bool,
    /// Only so many of the newest lines
    #[arg(long = "lines", short = 'n', visible_alias = "tail", value_name = "N")]
    pub(crate) most: Option<usize>,
}

/// What `Command::Service` is given.
#[derive(Debug, Args)]
pub(crate) struct ServiceArgs {
    /// What to do
    #[arg(value_enum, value_name = "ACTION")]
    pub(crate) action: ServiceAction,
    /// Don't ask, although connections end
    #[arg(long)]
    pub(crate) yes: bool,
}

/// What to do with the service.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum ServiceAction {
    /// Write it, start it now and at each login
    Install,
    /// Stop it, and take away what install wrote
    Uninstall,
    /// Start it
    Start,
    /// Stop it until the next login
    Stop,
    /// Restart it
    Restart,
    /// Show it
    Status,
}

/// What `Command::Demo` is given.
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Sign in by itself and end: runs unattended
    #[arg(long)]
    pub(crate) fast: bool,
}

/// What `Command::Completions` is given.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For which shell
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: Shell,
}

/// A shell that completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
    Powershell,
    Elvish,
}

/// What `Command::Man` is given.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// A command, pomd, or pomd.toml; default: pomctl itself
    #[arg(value_name = "NAME", conflicts_with = "to")]
    pub(crate) name: Option<String>,
    /// Write all of them below this folder, into man1 and man5
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
}

/// What `Command::Wait` is given.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// The tunnels
    #[arg(value_name = "NAME", required = true)]
    pub(crate) names: Vec<String>,
    /// For how long at most, such as 10s or 2m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(crate) timeout: Duration,
}

/// Reads `10s`, `1m 30s`, `500ms`; a bare number is seconds.
fn time(said: &str) -> Result<Duration, String> {
    if let Ok(seconds) = said.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let read = said.parse::<SignedDuration>();
    let time = read.map_err(|_| "not a time such as 10s or 2m".to_owned())?;
    time.try_into()
        .map_err(|_| "a time can't be negative".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (said, milliseconds) in [
            ("10s", 10_000),
            ("10", 10_000),
            ("2m", 120_000),
            ("1m 30s", 90_000),
            ("500ms", 500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                time(said),
                Ok(Duration::from_millis(milliseconds)),
                "{said}"
            );
        }
        for bad in ["", "soon", "-3s", "-3", "10 apples", "1e9"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
