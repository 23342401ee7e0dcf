//! `pomctl enable` and `pomctl disable`: up and down, lastingly.

use control::{
    client::ClientError,
    wire::{Code, Start, StartTold, TunnelStartTold, TunnelState},
};
use pomd_core::config::{Edit, TunnelName};

use super::{status_if_running, which};
use crate::{
    config_store::{ConfigStore, tunnel_name},
    context::Context,
    error::{CliError, Exit},
    render::count,
    sanitise,
};

pub(crate) async fn run(cx: &Context, names: &[String], start: Start) -> Result<Exit, CliError> {
    let names: Vec<TunnelName> = names
        .iter()
        .map(|it| tunnel_name(it))
        .collect::<Result<_, _>>()?;
    let store = ConfigStore::open(cx)?;
    let mut text = String::from_utf8_lossy(store.bytes()).into_owned();
    for name in &names {
        // From the file for the first, so that a broken one is told once; all of them or none.
        let edit = Edit::Start(name, start);
        text = match edit.apply(&text, store.base()) {
            Ok(edited) => edited.text,
            Err(_) => store.edited(edit, name)?.text,
        };
    }
    if text.as_bytes() != store.bytes() {
        store.save(&text)?;
    }
    let runs = store.reload(cx).await?.is_some();
    let mut answers = Vec::new();
    for name in &names {
        let open = if runs { act(cx, name, start).await? } else { 0 };
        answers.push(TunnelStartTold {
            name: name.to_string(),
            start,
            still_open: open,
        });
        if !cx.screen.json() {
            cx.screen.answer(&summary(name, start, runs, open))?;
        }
    }
    if cx.screen.json() {
        cx.screen.answer_json(&StartTold {
            file: store.shown,
            tunnels: answers,
        })?;
    }
    Ok(Exit::Done)
}

/// Lets the tunnel listen or not now, whatever up and down said before. Returns how many connections stay open.
async fn act(cx: &Context, name: &TunnelName, start: Start) -> Result<u64, CliError> {
    let status = status_if_running(cx).await?;
    let Some(tunnel) = status
        .as_ref()
        .and_then(|it| which::tunnel(it, name.as_str()))
    else {
        return Ok(0);
    };
    let is_down = tunnel.state == TunnelState::Down;
    match start {
        Start::Auto if is_down => match cx.client.up(name.as_str()).await {
            Ok(_) => Ok(0),
            // It listens; the first connection asks for the login.
            Err(ClientError::Api(error)) if error.code == Code::LoginNeeded => Ok(0),
            Err(ClientError::Api(error)) => {
                cx.screen.warn(&sanitise::line(&error.message));
                Ok(0)
            }
            Err(error) => Err(error.into()),
        },
        Start::Manual if !is_down => Ok(cx.client.down(name.as_str(), false).await?.still_open),
        Start::Auto => Ok(0),
        Start::Manual => Ok(tunnel.connections.open),
    }
}

fn summary(name: &TunnelName, start: Start, runs: bool, open: u64) -> String {
    let stay = match open {
        0 => String::new(),
        1 => " 1 connection stays open until it ends.".to_owned(),
        many => format!(" {} stay open until they end.", count(many, "connection")),
    };
    match (start, runs) {
        (Start::Auto, true) => format!("Enabled {name}: it listens, now and whenever pomd runs."),
        (Start::Auto, false) => format!("Enabled {name}: it listens whenever pomd runs."),
        (Start::Manual, _) => {
            format!("Disabled {name}: it listens only after pomctl up {name}.{stay}")
        }
    }
}
