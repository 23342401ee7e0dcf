//! `pomctl wait`: for scripts, until tunnels work. Starts nothing and never logs in.

use std::{collections::BTreeSet, time::Duration};

use control::{
    client::{ClientError, Lines},
    humanize,
    wire::{ApiError, Code, Status, Tunnel, TunnelState},
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use super::which;
use crate::{
    args::WaitArgs,
    context::Context,
    error::{CliError, Exit, Report},
    sanitise,
};

/// How often a pomd is looked for that does not run: nobody tells when one starts.
const LOOK: Duration = Duration::from_millis(100);
/// How soon a route that failed is tried again, if nothing changed meanwhile. pomd opens none more often.
const AGAIN: Duration = Duration::from_secs(5);

/// Why it is not over yet.
struct Why {
    /// What is waited for.
    what: String,
    reason: String,
    exit: Exit,
    code: &'static str,
}

pub(crate) async fn run(cx: &Context, args: &WaitArgs) -> Result<Exit, CliError> {
    let mut why = silent();
    match timeout(args.timeout, until_ready(cx, &args.names, &mut why)).await {
        Ok(ended) => ended?,
        Err(_) => return Err(late(args.timeout, why)),
    }
    if cx.screen.json() {
        cx.screen.answer_json(&json!({ "ready": args.names }))?;
    }
    Ok(Exit::Done)
}

fn late(limit: Duration, why: Why) -> CliError {
    let limit = humanize::duration(limit);
    let Why {
        what,
        reason,
        exit,
        code,
    } = why;
    let message = format!("{what} was not ready within {limit}: {reason}");
    CliError::told(Report::new(exit, code, message))
}

fn not_running() -> Why {
    Why {
        what: "pomd".to_owned(),
        reason: "it is not running".to_owned(),
        exit: Exit::NotRunning,
        code: "not_running",
    }
}

fn silent() -> Why {
    Why {
        what: "pomd".to_owned(),
        reason: "it did not say how things stand".to_owned(),
        exit: Exit::Failed,
        code: "not_ready",
    }
}

/// Ends when all of them work, or with an error that no waiting mends.
async fn until_ready(cx: &Context, names: &[String], why: &mut Why) -> Result<(), CliError> {
    loop {
        match cx.client.events().await {
            Ok(events) => {
                if in_one_life(cx, events, names, why).await? {
                    return Ok(());
                }
            }
            Err(ClientError::NotRunning) => {}
            Err(error) => return Err(error.into()),
        }
        *why = not_running();
        sleep(LOOK).await;
    }
}

/// Tells whether all of them work before this pomd ends.
async fn in_one_life(
    cx: &Context,
    mut events: Lines<Status>,
    names: &[String],
    why: &mut Why,
) -> Result<bool, CliError> {
    let mut known = BTreeSet::new();
    let Ok(Some(mut status)) = events.next().await else {
        return Ok(false);
    };
    let mut tried = false;
    loop {
        match first_not_ready(&status, names, &known)? {
            Some(found) => {
                *why = found;
                tried = false;
            }
            None => {
                if prove(cx, &status, names, why, tried).await? {
                    return Ok(true);
                }
                tried = true;
            }
        }
        known.extend(status.tunnels.iter().map(|it| it.name.clone()));
        let news = match tried {
            true => timeout(AGAIN, events.next()).await,
            false => Ok(events.next().await),
        };
        match news {
            Ok(Ok(Some(newer))) => status = newer,
            Ok(Ok(None) | Err(_)) => return Ok(false),
            // Nothing changed: the same once more.
            Err(_) => {}
        }
    }
}

/// Returns the first of them of which is plain without trying it that it does not work. A name that no tunnel has is an
/// error, unless it was one before: an editor may replace the file in two steps.
fn first_not_ready(
    status: &Status,
    names: &[String],
    known: &BTreeSet<String>,
) -> Result<Option<Why>, CliError> {
    for name in names {
        let Some(tunnel) = which::tunnel(status, name) else {
            if known.contains(name) {
                return Ok(Some(not_ready(
                    name,
                    "it is no longer in the configuration",
                )));
            }
            return Err(which::no_tunnel(status, name));
        };
        if let Some(found) = trouble(tunnel) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// Returns why a tunnel can't work as it stands. One whose last connection failed may work by now.
fn trouble(tunnel: &Tunnel) -> Option<Why> {
    let name = &tunnel.name;
    let said = tunnel.reason.as_ref().map(|it| it.message.as_str());
    match tunnel.state {
        TunnelState::Up | TunnelState::Error => None,
        TunnelState::Login => Some(login_needed(name, &tunnel.cluster)),
        TunnelState::Down => {
            let reason = format!("it is down; to start it: pomctl up {name}");
            Some(not_ready(name, &reason))
        }
        TunnelState::Busy => Some(not_ready(name, said.unwrap_or("its address is taken"))),
        TunnelState::Unknown => Some(not_ready(name, said.unwrap_or("its state is not known"))),
    }
}

fn not_ready(name: &str, reason: &str) -> Why {
    Why {
        what: sanitise::name(name),
        reason: sanitise::line(reason),
        exit: Exit::Failed,
        code: "not_ready",
    }
}

fn login_needed(name: &str, cluster: &str) -> Why {
    Why {
        what: sanitise::name(name),
        reason: format!("{} needs a login", sanitise::name(cluster)),
        exit: Exit::LoginNeeded,
        code: "login_needed",
    }
}

/// Opens the route of each, and tells whether all of them opened. `again`: why one did not open last time is still the best
/// that is known until it answers.
async fn prove(
    cx: &Context,
    status: &Status,
    names: &[String],
    why: &mut Why,
    again: bool,
) -> Result<bool, CliError> {
    for name in names {
        if !again {
            *why = not_ready(name, "its route has not opened yet");
        }
        *why = match cx.client.probe(name).await {
            Ok(_) => continue,
            // It goes away; what follows tells.
            Err(ClientError::NotRunning) => not_running(),
            Err(ClientError::Api(error)) => refused(name, status, &error),
            Err(error) => return Err(error.into()),
        };
        return Ok(false);
    }
    Ok(true)
}

/// Returns what a route met that did not open.
fn refused(name: &str, status: &Status, error: &ApiError) -> Why {
    match (error.code, which::tunnel(status, name)) {
        (Code::LoginNeeded, Some(tunnel)) => login_needed(name, &tunnel.cluster),
        _ => not_ready(name, &error.message),
    }
}
