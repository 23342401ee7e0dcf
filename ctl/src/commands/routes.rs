//! `pomctl routes`: what the portal of a cluster offers, and tunnels made of it.
//!
//! All that the portal says is a stranger's text. It is shown, escaped; a tunnel is made of the kind and the address of a
//! route, and its name of that address.

use control::{
    client::ClientError,
    suggest,
    wire::{Code, OfferedRoute, RoutesAnswer, Start, Status},
};
use pomd_core::config::{Authority, Edit, NewTunnel, TunnelName};
use serde_json::{Value, json};

use super::{status_if_running, subscribe, which};
use crate::{
    args::{RoutesAddArgs, RoutesArgs, RoutesChange},
    config_store::ConfigStore,
    context::Context,
    error::{CliError, Exit},
    render::{
        paint::{Role, paint},
        routes, tunnel,
    },
    sanitise,
    sign_in::{LoginOptions, sign_in},
    start,
};

pub(crate) async fn run(cx: &Context, args: &RoutesArgs) -> Result<Exit, CliError> {
    match &args.change {
        None => list(cx, args.cluster.as_deref()).await,
        Some(RoutesChange::Add(args)) => add(cx, args).await,
    }
}

async fn list(cx: &Context, cluster: Option<&str>) -> Result<Exit, CliError> {
    let (status, offered) = offered(cx, cluster).await?;
    if cx.screen.json() {
        let routes: Vec<Value> = offered
            .routes
            .iter()
            .map(|it| as_json(it, &status))
            .collect();
        let answer = json!({ "cluster": offered.cluster, "routes": routes });
        cx.screen.answer_json(&answer)?;
        return Ok(Exit::Done);
    }
    let status = sanitise::status(status);
    let cluster = sanitise::name(&offered.cluster);
    let shown: Vec<OfferedRoute> = offered.routes.into_iter().map(sanitise::route).collect();
    let page = routes::page(&cluster, &shown, &status, &cx.screen.view());
    cx.screen.answer(&page)?;
    let mut new = shown
        .iter()
        .filter(|it| it.route.is_some() && routes::tunnel_of(it, &status).is_none());
    if let Some(target) = new.next().and_then(|it| it.target.as_ref()) {
        let add = paint(Role::Command, &format!("pomctl routes add {target}"));
        cx.screen.hint(&format!("to make a tunnel of one: {add}"));
    }
    Ok(Exit::Done)
}

fn as_json(route: &OfferedRoute, status: &Status) -> Value {
    let tunnel = routes::tunnel_of(route, status);
    let mut res = json!(route);
    res["tunnel"] = json!(tunnel.map(|it| &it.name));
    res
}

/// Returns how things stand, and what is offered. Without a login a person at a terminal is led through one.
async fn offered(cx: &Context, said: Option<&str>) -> Result<(Status, RoutesAnswer), CliError> {
    start::ensure(cx).await?;
    let (mut events, status) = subscribe(cx).await?;
    let name = which::one_cluster(&status, said, "pomctl routes")?;
    match cx.client.routes(&name).await {
        Err(ClientError::Api(error))
            if error.code == Code::LoginNeeded && cx.screen.progress_is_watched() =>
        {
            let options = LoginOptions {
                no_browser: false,
                anew: false,
                in_passing: true,
            };
            sign_in(cx, &name, &mut events, options).await?;
            Ok((status, cx.client.routes(&name).await?))
        }
        answer => Ok((status, answer?)),
    }
}

/// A tunnel that was added, or the one that leads there already.
struct Added {
    name: TunnelName,
    route: String,
    is_new: bool,
}

async fn add(cx: &Context, args: &RoutesAddArgs) -> Result<Exit, CliError> {
    let (_, offered) = offered(cx, args.cluster.as_deref()).await?;
    let store = ConfigStore::open(cx)?;
    let mut text = store.text()?.to_owned();
    let mut config = store.config()?;
    let mut all: Vec<Added> = Vec::new();
    for said in &args.names {
        let (target, route) = chosen(&offered, said)?;
        let mut tunnels = config.tunnels.iter();
        if let Some((name, _)) = tunnels.find(|it| it.1.route.authority == target) {
            let name = name.clone();
            if !all.iter().any(|it| it.name == name) {
                all.push(Added {
                    name,
                    route,
                    is_new: false,
                });
            }
            continue;
        }
        let name = config.temporary_name(&target);
        let new = NewTunnel {
            name: name.clone(),
            route: route.clone(),
            listen: None,
            start: Start::Auto,
        };
        let edited = store.edited_again(&text, Edit::Add(&new), &name)?;
        if edited.config.tunnels[&name].cluster.as_str() != offered.cluster {
            return Err(not_of_the_cluster(&offered.cluster, &target));
        }
        (text, config) = (edited.text, edited.config);
        all.push(Added {
            name,
            route,
            is_new: true,
        });
    }
    let mut status = None;
    if all.iter().any(|it| it.is_new) {
        store.save(&text)?;
        if store.reload(cx).await?.is_some() {
            status = status_if_running(cx).await?.map(sanitise::status);
        }
    }
    tell(cx, &store, &all, status.as_ref())
}

fn tell(
    cx: &Context,
    store: &ConfigStore,
    all: &[Added],
    status: Option<&Status>,
) -> Result<Exit, CliError> {
    let glyphs = cx.screen.view().glyphs;
    let local = |name: &TunnelName| {
        let found = which::tunnel(status?, name.as_str())?;
        Some(tunnel::local(found, glyphs))
    };
    if cx.screen.json() {
        let tunnels: Vec<Value> = all
            .iter()
            .map(|it| {
                json!({
                    "name": it.name.as_str(), "route": it.route, "listen": local(&it.name),
                    "added": it.is_new,
                })
            })
            .collect();
        let answer = json!({ "tunnels": tunnels, "file": store.shown });
        cx.screen.answer_json(&answer)?;
        return Ok(Exit::Done);
    }
    for Added {
        name,
        route,
        is_new,
    } in all
    {
        let line = match is_new {
            true => {
                let listens = local(name).unwrap_or_else(|| "a free port".to_owned());
                format!("Added {name}: {listens} {} {route}", glyphs.to)
            }
            false => format!("{name} leads to {route} already"),
        };
        cx.screen.answer(&line)?;
    }
    Ok(Exit::Done)
}

/// Returns the one route that is offered under this address or name: what a tunnel asks for, and what its key `route` is.
fn chosen(offered: &RoutesAnswer, said: &str) -> Result<(Authority, String), CliError> {
    let is_target = |it: &&OfferedRoute| {
        let target = it.target.as_deref();
        target.is_some_and(|it| it.eq_ignore_ascii_case(said))
    };
    let mut found: Vec<&OfferedRoute> = offered.routes.iter().filter(is_target).collect();
    if found.is_empty() {
        found = offered.routes.iter().filter(|it| it.name == said).collect();
    }
    let shown = sanitise::name(said);
    let [route] = found.as_slice() else {
        return Err(none_or_several(offered, &shown, &found));
    };
    let target = route
        .target
        .as_deref()
        .and_then(|it| Authority::parse(it).ok());
    match (target, &route.route) {
        (Some(target), Some(route)) => Ok((target, route.clone())),
        _ => {
            let message = format!("{shown} is no TCP route, and pomd can open no other");
            Err(CliError::usage("bad_request", message, None))
        }
    }
}

/// A portal may offer what it likes: a login somewhere else is nothing that it may lead to.
fn not_of_the_cluster(cluster: &str, target: &Authority) -> CliError {
    let cluster = sanitise::name(cluster);
    let message =
        format!("{target} is offered by {cluster}, and has another login: nothing was changed");
    let hint = format!(
        "if it is the same Pomerium, put its host into the hosts of a [cluster] that has {cluster}; else: pomctl add NAME {target}"
    );
    CliError::usage("bad_request", message, Some(hint))
}

fn none_or_several(offered: &RoutesAnswer, said: &str, found: &[&OfferedRoute]) -> CliError {
    const SHOWN: usize = 8;
    let cluster = sanitise::name(&offered.cluster);
    let targets = |routes: &mut dyn Iterator<Item = &OfferedRoute>| -> Vec<String> {
        routes
            .filter_map(|it| it.target.as_deref().map(sanitise::line))
            .collect()
    };
    if found.is_empty() {
        let known = targets(&mut offered.routes.iter());
        let question = suggest::question(said, known.iter().map(String::as_str));
        let message = format!("{cluster} offers no route {said}{question}");
        let hint = format!("to see them all: pomctl routes {cluster}");
        return CliError::usage("no_such_route", message, Some(hint));
    }
    let mut several = targets(&mut found.iter().copied());
    several.truncate(SHOWN);
    let message = format!("{cluster} offers several routes of the name {said}");
    let hint = format!("say which by its address: {}", several.join(", "));
    CliError::usage("bad_request", message, Some(hint))
}
