//! `pomctl add`: writes a new tunnel into the file.

use control::wire::{AddTold, Start};
use pomd_core::config::{Config, Edit, Listen, NewTunnel, TunnelName};

use super::{one_login_for, status_if_running, which};
use crate::{
    args::{AddArgs, StartWhen},
    config_store::{ConfigStore, tunnel_name},
    context::Context,
    error::{CliError, Exit},
    render::{
        paint::{Role, paint},
        tunnel,
    },
    sanitise,
};

pub(crate) async fn run(cx: &Context, args: &AddArgs) -> Result<Exit, CliError> {
    let name = tunnel_name(&args.name)?;
    let new = NewTunnel {
        name: name.clone(),
        route: args.route.clone(),
        listen: args.listen.clone(),
        start: match args.start {
            StartWhen::Auto => Start::Auto,
            StartWhen::Manual => Start::Manual,
        },
    };
    let store = ConfigStore::open(cx)?;
    let edited = store.edited(Edit::Add(&new), &name)?;
    store.save(&edited.text)?;
    let reloaded = store.reload(cx).await?;
    let spec = &edited.config.tunnels[&name];
    let listens = match (&spec.listen, reloaded) {
        // Only pomd knows which port it chose.
        (Listen::Chosen, Some(_)) => {
            let status = status_if_running(cx).await?;
            let found = status
                .as_ref()
                .and_then(|it| which::tunnel(it, name.as_str()));
            found.map(|it| tunnel::local(&sanitise::tunnel(it.clone()), cx.screen.view().glyphs))
        }
        (listen, _) => local(listen),
    };
    let route = spec.route.to_string();
    if cx.screen.json() {
        cx.screen.answer_json(&AddTold {
            file: store.shown,
            listen: listens,
            name: name.to_string(),
            route,
        })?;
        return Ok(Exit::Done);
    }
    let listens = listens.unwrap_or_else(|| "a free port".to_owned());
    cx.screen
        .answer(&format!("Added {name}: {listens} → {route}"))?;
    let up = paint(Role::Command, &format!("pomctl up {name}"));
    cx.screen.answer(&format!("    {up}"))?;
    if let Some(hint) = hint(&edited.config, &name) {
        cx.screen.hint(&hint);
    }
    Ok(Exit::Done)
}

fn local(listen: &Listen) -> Option<String> {
    match listen {
        Listen::Chosen => None,
        Listen::Loopback(port) => Some(format!("localhost:{port}")),
        Listen::Address(address) => Some(address.to_string()),
        Listen::Unix(name) => Some(format!("unix:{}", name.as_str())),
    }
}

/// Returns advice where the new tunnel logs in apart from another one of its domain.
fn hint(config: &Config, name: &TunnelName) -> Option<String> {
    let new = &config.tunnels[name].cluster;
    let alone = config.clusters.iter().filter(|it| !it.1.named);
    let alone: Vec<&str> = alone.map(|it| it.0.as_str()).collect();
    if !alone.contains(&new.as_str()) {
        return None;
    }
    one_login_for(alone, new.as_str())
}
