//! `pomctl status`: the home page.

use std::time::Duration;

use control::{
    client::News,
    wire::{ClusterState, Connections, Status, TunnelState},
};
use tokio::time::{MissedTickBehavior, interval};

use super::{status_if_running, which};
use crate::{
    args::StatusArgs,
    context::Context,
    error::{CliError, Exit},
    render::page,
    sanitise,
};

pub(crate) async fn run(cx: &Context, args: &StatusArgs) -> Result<Exit, CliError> {
    if args.watch {
        return watch(cx, args).await;
    }
    let Some(status) = status_if_running(cx).await? else {
        return not_running(cx);
    };
    let status = only(status, &args.names)?;
    if cx.screen.json() {
        cx.screen.answer_json(&status)?;
        return Ok(Exit::Done);
    }
    cx.screen.answer(&drawn(cx, &status))?;
    Ok(exit_of(&status))
}

fn drawn(cx: &Context, status: &Status) -> String {
    page::status(&sanitise::status(status.clone()), &cx.screen.view())
}

/// Shows that no pomd runs, and to who has no tunnels yet how to begin.
fn not_running(cx: &Context) -> Result<Exit, CliError> {
    // Only pomd can read the file; that it names no tunnel at all can be told without.
    let written = std::fs::read_to_string(&cx.paths.config);
    let begins = written.map_or_else(
        |it| it.kind() == std::io::ErrorKind::NotFound,
        |it| !it.contains("tunnel"),
    );
    if cx.screen.json() || !begins {
        return Err(CliError::not_running());
    }
    let page = page::first_run(&cx.paths.config, false, &cx.screen.view());
    cx.screen.answer(&page)?;
    Ok(Exit::NotRunning)
}

/// Shows it again after each change, until pomd or the person ends it.
async fn watch(cx: &Context, args: &StatusArgs) -> Result<Exit, CliError> {
    let mut events = cx.client.follow_events().await?;
    // Times that are left grow old by themselves.
    let mut aging = interval(Duration::from_secs(30));
    aging.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let redraws = cx.screen.answers_a_person() && !cx.screen.json();
    let mut now: Option<Status> = None;
    let mut shown: Option<Status> = None;
    loop {
        let next = tokio::select! {
            next = events.next() => next?.ok_or_else(|| {
                let log = now.as_ref().map(|it| it.pomd.log.as_deref());
                CliError::pomd_ended(log)
            })?,
            _ = aging.tick(), if redraws => match &now {
                Some(now) => News::Next(now.clone()),
                None => continue,
            },
        };
        let status = match next {
            News::Next(status) => only(status, &args.names)?,
            News::Restarted => {
                cx.screen.say("pomd restarted");
                continue;
            }
        };
        if cx.screen.json() {
            cx.screen.answer_json_line(&status)?;
        } else if redraws {
            cx.screen.redraw(&drawn(cx, &status))?;
        } else if shown.as_ref().map(without_counters) != Some(without_counters(&status)) {
            let gap = if shown.is_some() { "\n" } else { "" };
            cx.screen.answer(&format!("{gap}{}", drawn(cx, &status)))?;
            shown = Some(status.clone());
        }
        now = Some(status);
    }
}

/// Returns the tunnels of these names and their clusters; all, if none is named.
fn only(mut status: Status, names: &[String]) -> Result<Status, CliError> {
    if names.is_empty() {
        return Ok(status);
    }
    // A cluster stands for itself and its tunnels, where no tunnel is called so.
    let is_cluster = |name: &str| {
        which::tunnel(&status, name).is_none() && status.clusters.iter().any(|it| it.name == name)
    };
    let (clusters, tunnels): (Vec<String>, Vec<String>) =
        names.iter().cloned().partition(|it| is_cluster(it));
    let mut chosen: Vec<_> = which::tunnels(&status, &tunnels)?
        .into_iter()
        .cloned()
        .collect();
    let theirs = status
        .tunnels
        .iter()
        .filter(|it| clusters.contains(&it.cluster));
    let theirs = theirs.filter(|it| !tunnels.contains(&it.name));
    chosen.extend(theirs.cloned());
    status.clusters.retain(|it| {
        clusters.contains(&it.name) || chosen.iter().any(|tunnel| tunnel.cluster == it.name)
    });
    status.leaving.retain(|it| names.contains(&it.name));
    status.tunnels = chosen;
    status.healthy = exit_of(&status) == Exit::Done;
    Ok(status)
}

/// Returns whether something is wrong, or only a login missing. A tunnel that is down is neither.
fn exit_of(status: &Status) -> Exit {
    let wrong = status.pomd.config.error.is_some()
        || status.tunnels.iter().any(|it| {
            matches!(
                it.state,
                TunnelState::Error | TunnelState::Busy | TunnelState::Unknown
            )
        });
    let logged_in = |cluster: &str| {
        let cluster = status.clusters.iter().find(|it| it.name == cluster);
        cluster.is_none_or(|it| it.state == ClusterState::LoggedIn)
    };
    let login = status.tunnels.iter().any(|it| {
        it.state == TunnelState::Login || (it.state != TunnelState::Down && !logged_in(&it.cluster))
    });
    match (wrong, login) {
        (true, _) => Exit::Failed,
        (false, true) => Exit::LoginNeeded,
        (false, false) => Exit::Done,
    }
}

/// Returns the status without everything that moves by itself.
fn without_counters(status: &Status) -> Status {
    let mut status = status.clone();
    for tunnel in &mut status.tunnels {
        tunnel.connections = Connections::default();
        tunnel.bytes = control::wire::Bytes::default();
        tunnel.last_connection_at = None;
    }
    for cluster in &mut status.clusters {
        cluster.waiting = 0;
    }
    for leaving in &mut status.leaving {
        leaving.connections = leaving.connections.min(1);
    }
    status
}
