//! What a shell offers when Tab is pressed: the words of the command line, and the names that are there at the moment.
//!
//! Starts nothing, says nothing of what goes wrong, and never takes long: a pomd that does not answer at once is passed
//! over for the configuration file.

use std::{
    env,
    ffi::{OsStr, OsString},
    path::Path,
    process::ExitCode,
    time::Duration,
};

use clap::{Arg, Command, CommandFactory, FromArgMatches};
use clap_complete::{
    CompleteEnv,
    engine::{ArgValueCandidates, CompletionCandidate},
    env::Shells,
};
use control::{
    client::Client,
    paths::Paths,
    wire::{Cluster, Status, Tunnel, TunnelState},
};
use pomd_core::config::Config;

use crate::{
    args::{Cli, Globals, When},
    config_store::ConfigStore,
    context::Context,
    render, sanitise,
    screen::Screen,
};

/// The variable by which a shell asks.
const ASKED: &str = "COMPLETE";
/// How long pomd may take: who pressed Tab waits.
const LIMIT: Duration = Duration::from_millis(100);

/// Which names an argument takes.
#[derive(Clone, Copy, Debug)]
enum Names {
    /// Of tunnels and clusters.
    Any,
    Tunnels,
    /// Of tunnels that are not up.
    NotUp,
    /// Of tunnels that listen, or try to.
    Listening,
    /// Of tunnels that lead to ssh.
    Ssh,
    /// Routes of tunnels.
    Routes,
    Clusters,
}

/// The arguments that take names: of which command, and what stands there.
const NAMED: &[(&str, &str, Names)] = &[
    ("status", "names", Names::Any),
    ("doctor", "name", Names::Any),
    ("up", "names", Names::NotUp),
    ("down", "names", Names::Listening),
    ("enable", "names", Names::Tunnels),
    ("disable", "names", Names::Tunnels),
    ("remove", "name", Names::Tunnels),
    ("logs", "name", Names::Tunnels),
    ("wait", "names", Names::Tunnels),
    ("ssh", "destination", Names::Ssh),
    ("connect", "route", Names::Routes),
    ("login", "cluster", Names::Clusters),
    ("logout", "cluster", Names::Clusters),
    ("token", "cluster", Names::Clusters),
    ("kube-credential", "cluster", Names::Clusters),
];

/// Answers a shell that asks what could be typed; `None` where none asks.
pub(crate) fn answer() -> Option<ExitCode> {
    let shell = env::var_os(ASKED)?;
    // The variable may mean something else to somebody else.
    let shell = Path::new(&shell).file_stem()?.to_str()?;
    Shells::builtins().completer(shell)?;
    let folder = env::current_dir().ok();
    let answering = CompleteEnv::with_factory(command).var(ASKED);
    Some(
        match answering.try_complete(env::args_os(), folder.as_deref()) {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
    )
}

/// Returns the whole command line, with what its names may be.
fn command() -> Command {
    let mut res = Cli::command();
    for (name, argument, names) in NAMED.iter().copied() {
        // `mut_arg` would put it behind the others.
        let named = |it: Arg| match it.get_id() == argument {
            true => it.add(ArgValueCandidates::new(move || candidates(names))),
            false => it,
        };
        res = res.mut_subcommand(name, |it| it.mut_args(named));
    }
    res
}

fn candidates(names: Names) -> Vec<CompletionCandidate> {
    let typed = env::args_os().skip_while(|it| it != "--").skip(1);
    let Some(cx) = context(typed) else {
        return Vec::new();
    };
    match status(&cx) {
        Some(status) => of_status(names, &status, &cx),
        None => ConfigStore::open(&cx)
            .and_then(|it| it.config())
            .map_or_else(|_| Vec::new(), |it| of_file(names, &it)),
    }
}

/// Returns where the command that is being typed looks for pomd and its file.
fn context(typed: impl Iterator<Item = OsString>) -> Option<Context> {
    let read = Cli::command().ignore_errors(true);
    let matches = read.try_get_matches_from(typed).ok()?;
    let overrides = Globals::from_arg_matches(&matches).ok()?.overrides();
    let named = Paths::names_socket(&overrides);
    let paths = Paths::find(overrides.clone()).ok()?;
    Some(Context {
        client: Client::of(&paths, named),
        paths,
        overrides,
        may_start: false,
        screen: Screen::new(false, When::Never),
    })
}

fn status(cx: &Context) -> Option<Status> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .ok()?;
    let res = runtime.block_on(async { tokio::time::timeout(LIMIT, cx.client.status()).await });
    runtime.shutdown_background();
    res.ok()?.ok()
}

fn of_status(names: Names, status: &Status, cx: &Context) -> Vec<CompletionCandidate> {
    let is_meant = |it: &&Tunnel| match names {
        Names::NotUp => it.state != TunnelState::Up,
        Names::Listening => it.state != TunnelState::Down,
        Names::Ssh => it.ssh || it.route.ends_with(":22"),
        Names::Any | Names::Tunnels | Names::Routes => true,
        Names::Clusters => false,
    };
    let view = cx.screen.view();
    let tunnel = |it: &Tunnel| {
        let local = render::tunnel::local(it, view.glyphs);
        let word = render::tunnel::word(it.state);
        match names {
            Names::Routes => candidate(&it.route, &format!("{}, {local}", it.name)),
            _ => candidate(&it.name, &format!("{word}, {local}")),
        }
    };
    let cluster = |it: &Cluster| {
        let session = render::session::session(it, &view).text;
        candidate(&it.name, &session)
    };
    let tunnels = status.tunnels.iter().filter(is_meant).map(tunnel);
    let clusters = status.clusters.iter().map(cluster);
    let has_clusters = matches!(names, Names::Any | Names::Clusters);
    tunnels
        .chain(clusters.filter(|_| has_clusters))
        .flatten()
        .collect()
}

/// Returns the names of a file that no pomd reads: nothing is up then.
fn of_file(names: Names, config: &Config) -> Vec<CompletionCandidate> {
    let has_tunnels = !matches!(names, Names::Listening | Names::Clusters);
    let tunnels = config.tunnels.iter().filter_map(|(name, spec)| {
        let (name, route) = (name.to_string(), spec.route.to_string());
        match names {
            Names::Routes => candidate(&route, &name),
            Names::Ssh if !route.ends_with(":22") => None,
            _ => candidate(&name, &route),
        }
    });
    let has_clusters = matches!(names, Names::Any | Names::Clusters);
    let clusters = config
        .clusters
        .keys()
        .filter_map(|it| candidate(&it.to_string(), "cluster"));
    tunnels
        .filter(|_| has_tunnels)
        .chain(clusters.filter(|_| has_clusters))
        .collect()
}

/// Returns what is offered; nothing for what a shell would take apart.
fn candidate(name: &str, about: &str) -> Option<CompletionCandidate> {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "._-:[]".contains(it);
    if name.is_empty() || name.starts_with('-') || !name.chars().all(is_plain) {
        return None;
    }
    let about = sanitise::line(about);
    Some(CompletionCandidate::new(OsStr::new(name)).help(Some(about.into())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_argument_that_takes_names_is_there() {
        command().debug_assert();
        let whole = Cli::command();
        for (name, argument, _) in NAMED {
            let command = whole.find_subcommand(name).unwrap();
            let mut arguments = command.get_arguments();
            assert!(
                arguments.any(|it| it.get_id() == argument),
                "{name} {argument}"
            );
        }
    }

    #[test]
    fn what_a_shell_would_take_apart_is_not_offered() {
        for bad in [
            "", "-rf", "a b", "$(id)", "`id`", "a;b", "a\nb", "a\tb", "*", "ü",
        ] {
            assert!(candidate(bad, "").is_none(), "{bad:?}");
        }
        for good in ["ssh-prod", "a.b_c", "db.corp.test:5432", "[::1]:22"] {
            assert!(candidate(good, "").is_some(), "{good:?}");
        }
    }
}
