//! Clusters in words: who is logged in, until when, or what is missing. Pure.

use std::time::Duration;

use control::{
    humanize,
    wire::{Cluster, ClusterState, Code, TokenSource},
};

use super::{View, paint::Role, sentence, table::Cell, times};

/// Returns the end of a session: `, until 23:41 (9h 12m)`, or since when it lasts where nobody told its end.
pub(crate) fn until(cluster: &Cluster, view: &View<'_>) -> String {
    const JUST_NOW: Duration = Duration::from_secs(60);
    if let Some(until) = cluster.until {
        let left = humanize::duration(times::between(view.now, until));
        return format!(", until {} ({left})", view.time(until));
    }
    match cluster.since {
        Some(since) if times::between(since, view.now) > JUST_NOW => {
            format!(", since {}", view.time(since))
        }
        _ => String::new(),
    }
}

/// Returns `Logged in to corp as alice@example.com, until 23:41 (9h 12m)`.
pub(crate) fn logged_in_to(cluster: &Cluster, view: &View<'_>) -> String {
    let user = cluster.user.as_deref();
    let user = user.map_or(String::new(), |it| format!(" as {it}"));
    format!(
        "Logged in to {}{user}{}",
        cluster.name,
        until(cluster, view)
    )
}

/// Returns `Logged in as alice@example.com, until 23:41 (9h 12m)`.
pub(crate) fn logged_in(cluster: &Cluster, view: &View<'_>) -> String {
    match &cluster.user {
        Some(user) => format!("Logged in as {user}{}", until(cluster, view)),
        None => logged_in_to(cluster, view),
    }
}

/// Returns the glyph of a cluster's state.
pub(crate) fn sign(state: ClusterState, view: &View<'_>) -> Cell {
    let glyphs = view.glyphs;
    match state {
        ClusterState::LoggedIn => Cell::new(Role::Good, glyphs.good),
        ClusterState::LoginNeeded | ClusterState::LoginRunning => {
            Cell::new(Role::Warn, glyphs.waits)
        }
        ClusterState::LoggedOut => Cell::new(Role::Muted, glyphs.off),
        ClusterState::Unknown => Cell::new(Role::Warn, glyphs.unknown),
    }
}

/// Returns where a token comes from that nobody logged in for.
fn by(source: TokenSource) -> &'static str {
    match source {
        TokenSource::Browser | TokenSource::Unknown => "",
        TokenSource::File => " (token of a file)",
        TokenSource::Env => " (token of a variable)",
        TokenSource::Credential => " (token of a systemd credential)",
        TokenSource::Command => " (token of a command)",
        TokenSource::GithubActions => " (token of GitHub Actions)",
    }
}

/// Returns the column SESSION.
pub(crate) fn session(cluster: &Cluster, view: &View<'_>) -> Cell {
    let since = cluster
        .since
        .map_or(String::new(), |it| format!(" since {}", view.time(it)));
    match cluster.state {
        ClusterState::LoggedIn => {
            let user = cluster.user.as_deref().unwrap_or("logged in");
            let by = by(cluster.token_source);
            Cell::new(Role::Plain, format!("{user}{by}{}", until(cluster, view)))
        }
        ClusterState::LoginNeeded => Cell::new(Role::Warn, format!("login needed{since}")),
        ClusterState::LoginRunning => Cell::new(Role::Warn, format!("login running{since}")),
        ClusterState::LoggedOut => Cell::new(Role::Muted, format!("logged out{since}")),
        ClusterState::Unknown => Cell::new(Role::Warn, "unknown: this pomd is newer"),
    }
}

/// Returns the forward proxy on the way to it.
pub(crate) fn through(cluster: &Cluster) -> Option<String> {
    let proxy = cluster.forward_proxy.as_ref()?;
    let variable = proxy.variable.as_ref();
    let variable = variable.map_or(String::new(), |it| format!(" ({it})"));
    Some(format!("through {}{variable}", proxy.url))
}

/// Returns what is wrong with the cluster, if something is that its state does not say.
pub(crate) fn trouble(cluster: &Cluster) -> Option<String> {
    let reason = cluster.reason.as_ref()?;
    if reason.code == Code::LoginNeeded {
        return None;
    }
    Some(with_hint(&reason.message, reason.hint.as_deref()))
}

/// Returns a sentence and what to do.
pub(crate) fn with_hint(message: &str, hint: Option<&str>) -> String {
    match hint {
        Some(hint) => format!("{message}. {}", sentence(hint)),
        None => message.to_owned(),
    }
}
