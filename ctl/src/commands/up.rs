//! `pomctl up`: listens, logs in if needed, and ends when the tunnel works.

mod temporary;

use std::collections::VecDeque;

use control::{
    client::{Client, ClientError, Lines},
    wire::{Code, Status, Tunnel, TunnelState, UpAnswer},
};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{one_login_for_both, reload, subscribe, which};
use crate::{
    args::UpArgs,
    context::Context,
    error::{CliError, Exit, word},
    render::{
        count, page,
        paint::{Role, paint},
        report, session, tunnel,
    },
    sanitise,
    sign_in::{LoginOptions, sign_in},
    start, waiting,
};

/// How many tunnels are proved at once.
const AT_ONCE: usize = 8;

type Proof = Result<UpAnswer, ClientError>;

pub(crate) async fn run(cx: &Context, args: &UpArgs) -> Result<Exit, CliError> {
    which::must_be_said(cx, &args.which)?;
    temporary::check(args)?;
    start::ensure(cx).await?;
    let (names, made) = temporary::make(cx, args).await?;
    let ended = up(cx, args, &names).await;
    if let Err(CliError::Told(_)) = &ended {
        temporary::take_away(cx, &made).await;
    }
    ended
}

async fn up(cx: &Context, args: &UpArgs, said: &[String]) -> Result<Exit, CliError> {
    let (mut events, status) = subscribe(cx).await?;
    let names = chosen(cx, args.which.all, said, &status).await?;
    warn_of_a_broken_file(cx, &status);
    let options = LoginOptions {
        no_browser: args.no_browser,
        anew: false,
        in_passing: false,
    };
    match names.as_slice() {
        [] => none(cx, &status),
        [name] => one(cx, name, &status, &mut events, options).await,
        names => several(cx, names, &status, &mut events, options).await,
    }
}

/// Returns the names, all of them known. A file that was saved a moment ago may not have been read yet, so an unknown name is
/// looked for once more after a reload; a broken file is told then, as that is why the name is unknown.
async fn chosen(
    cx: &Context,
    all: bool,
    said: &[String],
    status: &Status,
) -> Result<Vec<String>, CliError> {
    let named = |tunnels: Vec<&Tunnel>| tunnels.iter().map(|it| it.name.clone()).collect();
    if all && status.tunnels.is_empty() && status.pomd.config.error.is_some() {
        // That there are none is no answer to who wrote some.
        if let Err(error) = cx.client.reload().await {
            return Err(reload::refused(cx, error).await);
        }
        let status = cx.client.status().await?;
        return Ok(named(status.tunnels.iter().collect()));
    }
    if all {
        return Ok(named(status.tunnels.iter().collect()));
    }
    if let Ok(found) = which::tunnels(status, said) {
        return Ok(named(found));
    }
    if let Err(error) = cx.client.reload().await {
        return Err(reload::refused(cx, error).await);
    }
    let status = cx.client.status().await?;
    which::tunnels(&status, said).map(named)
}

fn warn_of_a_broken_file(cx: &Context, status: &Status) {
    let config = &status.pomd.config;
    if let Some(error) = &config.error {
        let status = sanitise::status(status.clone());
        let line = page::not_in_force(&status, error, &cx.screen.view());
        cx.screen.warn(&line);
    }
}

fn none(cx: &Context, status: &Status) -> Result<Exit, CliError> {
    if cx.screen.json() {
        cx.screen.answer_json(&json!({ "tunnels": [] }))?;
    } else {
        let status = sanitise::status(status.clone());
        cx.screen
            .answer(&page::status(&status, &cx.screen.view()))?;
    }
    Ok(Exit::Done)
}

async fn one(
    cx: &Context,
    name: &str,
    status: &Status,
    events: &mut Lines<Status>,
    options: LoginOptions,
) -> Result<Exit, CliError> {
    let shown = sanitise::name(name);
    cx.screen.goes_on(&format!("{shown} stays up"));
    let opening = format!("opening {shown}");
    let mut proof = waiting::shown(&cx.screen, &opening, cx.client.up(name)).await;
    if let Some(cluster) = cluster_to_log_in_to(&proof) {
        let cluster = sign_in(cx, &cluster, events, options).await?;
        let line = session::logged_in(&cluster, &cx.screen.view());
        cx.screen.say(&format!("{line}."));
        if let Some(hint) = one_login_for_both(status, &cluster.name) {
            cx.screen.hint(&hint);
        }
        cx.screen.goes_on(&format!("{shown} stays up"));
        proof = waiting::shown(&cx.screen, &opening, cx.client.up(name)).await;
    }
    let answer = proof?;
    if cx.screen.json() {
        cx.screen
            .answer_json(&json!({ "tunnels": [as_json(name, &Ok(answer))] }))?;
        return Ok(Exit::Done);
    }
    let tunnel = sanitise::tunnel(answer.tunnel);
    let view = cx.screen.view();
    cx.screen
        .answer(&tunnel::ready(&tunnel, answer.answers_in_ms, view.glyphs))?;
    if tunnel.temporary {
        let keep = paint(Role::Command, &tunnel::to_keep(&tunnel));
        cx.screen.hint(&format!("to keep it: {keep}"));
    }
    Ok(Exit::Done)
}

async fn several(
    cx: &Context,
    names: &[String],
    status: &Status,
    events: &mut Lines<Status>,
    options: LoginOptions,
) -> Result<Exit, CliError> {
    cx.screen.goes_on("the tunnels stay up");
    let mut hinted = false;
    let mut proofs = prove(cx, names).await;
    let mut clusters: Vec<String> = proofs
        .iter()
        .filter_map(|it| cluster_to_log_in_to(&it.1))
        .collect();
    clusters.sort();
    clusters.dedup();
    for cluster in clusters {
        match sign_in(cx, &cluster, events, options).await {
            Ok(now) => {
                let line = session::logged_in_to(&now, &cx.screen.view());
                cx.screen.say(&format!("{line}."));
                if let Some(hint) = one_login_for_both(status, &now.name).filter(|_| !hinted) {
                    cx.screen.hint(&hint);
                    hinted = true;
                }
            }
            // The others may still come up.
            Err(CliError::Told(report)) if !cx.screen.json() => {
                cx.screen.say(&report::text(&report, &cx.screen.view()));
                continue;
            }
            Err(failure) => return Err(failure),
        }
        cx.screen.goes_on("the tunnels stay up");
        let waited = |it: &(String, Proof)| cluster_to_log_in_to(&it.1).as_ref() == Some(&cluster);
        let again: Vec<String> = proofs
            .iter()
            .filter(|it| waited(it))
            .map(|it| it.0.clone())
            .collect();
        let proved = prove(cx, &again).await;
        proofs.retain(|it| !again.contains(&it.0));
        proofs.extend(proved);
    }
    let place = |name: &str| names.iter().position(|it| it == name);
    proofs.sort_by_key(|it| place(&it.0));
    tell(cx, &proofs).await
}

async fn prove(cx: &Context, names: &[String]) -> Vec<(String, Proof)> {
    let opening = format!("opening {}", count(names.len() as u64, "tunnel"));
    waiting::shown(&cx.screen, &opening, prove_all(&cx.client, names)).await
}

/// Asks for all of them, some at once.
async fn prove_all(client: &Client, names: &[String]) -> Vec<(String, Proof)> {
    let mut left: VecDeque<String> = names.iter().cloned().collect();
    let mut running = JoinSet::new();
    let mut proofs = Vec::new();
    loop {
        while running.len() < AT_ONCE && !left.is_empty() {
            let (client, name) = (client.clone(), left.pop_front().unwrap_or_default());
            running.spawn(async move {
                let proof = client.up(&name).await;
                (name, proof)
            });
        }
        match running.join_next().await {
            None => return proofs,
            Some(Ok(proof)) => proofs.push(proof),
            Some(Err(_)) => {}
        }
    }
}

fn cluster_to_log_in_to(proof: &Proof) -> Option<String> {
    match proof {
        Err(ClientError::Api(error)) if error.code == Code::LoginNeeded => error.cluster.clone(),
        _ => None,
    }
}

/// Shows the table of several tunnels, and returns the exit code.
async fn tell(cx: &Context, proofs: &[(String, Proof)]) -> Result<Exit, CliError> {
    let exit = exit_of(proofs);
    if cx.screen.json() {
        let tunnels: Vec<Value> = proofs.iter().map(|(name, it)| as_json(name, it)).collect();
        cx.screen.answer_json(&json!({ "tunnels": tunnels }))?;
        return Ok(exit);
    }
    let status = sanitise::status(cx.client.status().await?);
    let named = |name: &str| status.tunnels.iter().find(|it| it.name == name);
    let widest = proofs
        .iter()
        .map(|it| sanitise::name(&it.0).chars().count())
        .max();
    let widest = widest.unwrap_or_default();
    let view = cx.screen.view();
    for (name, proof) in proofs {
        let name = sanitise::name(name);
        let (state, detail) = match proof {
            Ok(answer) => {
                let tunnel = sanitise::tunnel(answer.tunnel.clone());
                (tunnel.state, tunnel::local(&tunnel, view.glyphs))
            }
            Err(error) => {
                let now = named(&name);
                let state = now.map_or(TunnelState::Unknown, |it| it.state);
                (state, why_not(error, now, view.glyphs))
            }
        };
        let pad = " ".repeat(widest - name.chars().count());
        let state_pad = " ".repeat(5_usize.saturating_sub(tunnel::word(state).len()));
        let name = paint(Role::Name, &name);
        let state = paint(tunnel::role(state), tunnel::word(state));
        cx.screen
            .answer(&format!("{name}{pad}  {state}{state_pad}  {detail}"))?;
    }
    let up = proofs.iter().filter(|it| it.1.is_ok()).count();
    let are = if up == 1 { "is" } else { "are" };
    cx.screen
        .answer(&format!("{up} of {} tunnels {are} up.", proofs.len()))?;
    Ok(exit)
}

/// Returns 1 if one of them failed, 4 if only a login is missing.
fn exit_of(proofs: &[(String, Proof)]) -> Exit {
    let failed = |proof: &Proof| match proof {
        Ok(_) => Exit::Done,
        Err(ClientError::Api(error)) if error.code == Code::LoginNeeded => Exit::LoginNeeded,
        Err(_) => Exit::Failed,
    };
    let exits: Vec<Exit> = proofs.iter().map(|it| failed(&it.1)).collect();
    let has = |exit| exits.contains(&exit);
    match (has(Exit::Failed), has(Exit::LoginNeeded)) {
        (true, _) => Exit::Failed,
        (false, true) => Exit::LoginNeeded,
        (false, false) => Exit::Done,
    }
}

fn why_not(
    error: &ClientError,
    now: Option<&Tunnel>,
    glyphs: &crate::render::glyphs::Glyphs,
) -> String {
    match (error, now) {
        (ClientError::Api(error), Some(now)) if error.code == Code::AddressInUse => {
            let held = error.holder.as_ref().map(sanitise::holder);
            let by = held.unwrap_or_else(|| "another program".to_owned());
            format!("{} is held by {by}", tunnel::local(now, glyphs))
        }
        (ClientError::Api(error), _) if error.code == Code::LoginNeeded => {
            let message = sanitise::line(&error.message);
            let run = error.cluster.as_deref().map(sanitise::name);
            let run = run.map(|it| format!("Run: pomctl login {it}"));
            match run.filter(|it| !message.contains(it)) {
                Some(run) => format!("{message}. {run}"),
                None => message,
            }
        }
        (error, _) => sanitise::line(&error.to_string()),
    }
}

fn as_json(name: &str, proof: &Proof) -> Value {
    match proof {
        Ok(answer) => json!({
            "name": name, "tunnel": answer.tunnel, "answers_in_ms": answer.answers_in_ms, "error": null,
        }),
        Err(error) => {
            let code = match error {
                ClientError::Api(error) => word(error.code),
                _ => "failed".to_owned(),
            };
            let hint = match error {
                ClientError::Api(error) => error.hint.clone(),
                _ => None,
            };
            json!({
                "name": name, "tunnel": null, "answers_in_ms": null,
                "error": { "code": code, "message": error.to_string(), "hint": hint },
            })
        }
    }
}
