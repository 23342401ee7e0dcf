//! `pomctl down`: stops listening.

use control::wire::{DownAnswer, DownTold, Status};

use super::{status_if_running, which};
use crate::{
    args::DownArgs,
    context::Context,
    error::{CliError, Exit},
    render::count,
    sanitise,
};

pub(crate) async fn run(cx: &Context, args: &DownArgs) -> Result<Exit, CliError> {
    which::must_be_said(cx, &args.which)?;
    let Some(status) = status_if_running(cx).await? else {
        return nothing_to_do(cx);
    };
    let names: Vec<String> = if args.which.all {
        status.tunnels.iter().map(|it| it.name.clone()).collect()
    } else {
        named(&status, &args.which.names)?
    };
    let mut answers = Vec::new();
    for name in &names {
        let answer = cx.client.down(name, args.now).await?;
        if !cx.screen.json() {
            cx.screen.answer(&summary(name, &answer, args.now))?;
        }
        answers.push(answer);
    }
    if cx.screen.json() {
        cx.screen.answer_json(&DownTold { tunnels: answers })?;
    } else if names.is_empty() {
        cx.screen.answer("No tunnels yet; nothing to do")?;
    }
    Ok(Exit::Done)
}

/// Returns the tunnels of these names, each once; also such that are removed and have connections still.
fn named(status: &Status, names: &[String]) -> Result<Vec<String>, CliError> {
    let mut res = Vec::new();
    for name in names {
        let left = status.leaving.iter().any(|it| it.name == *name);
        let name = match which::tunnel(status, name) {
            Some(tunnel) => &tunnel.name,
            None if left => name,
            None => return Err(which::no_tunnel(status, name)),
        };
        if !res.contains(name) {
            res.push(name.clone());
        }
    }
    Ok(res)
}

fn nothing_to_do(cx: &Context) -> Result<Exit, CliError> {
    if cx.screen.json() {
        cx.screen.answer_json(&DownTold::default())?;
    } else {
        cx.screen.answer("pomd is not running; nothing to do")?;
    }
    Ok(Exit::Done)
}

fn summary(name: &str, answer: &DownAnswer, now: bool) -> String {
    let name = sanitise::name(name);
    match (answer.still_open, now) {
        (0, _) if answer.tunnel.temporary => format!("{name} is down, and gone: it was temporary."),
        (0, true) => format!("{name} is down, and its connections have ended."),
        (0, false) => format!("{name} is down."),
        (open, _) => {
            let (stay, they_end, them) = if open == 1 {
                ("stays", "it ends", "it")
            } else {
                ("stay", "they end", "them")
            };
            let connections = count(open, "open connection");
            format!(
                "{name} is down. {connections} {stay} until {they_end} (pomctl down --now {name} ends {them})."
            )
        }
    }
}
