//! `pomctl doctor`: why something does not work. Looks at this machine, and has pomd walk the steps of a connection.

use control::{
    client::ClientError,
    wire::{
        Check, CheckName, CheckOutcome, Code, Diagnosis, Examination, SCHEMA, Status, Tunnel,
        TunnelState,
    },
};
use tokio::task::JoinSet;

use super::which;
use crate::{
    args::DoctorArgs,
    config_store::ConfigStore,
    context::Context,
    error::{CliError, Exit},
    render::{self, count, session},
    sanitise, waiting,
};

pub(crate) async fn run(cx: &Context, args: &DoctorArgs) -> Result<Exit, CliError> {
    let status = match cx.client.status().await {
        Err(ClientError::NotRunning) => None,
        answer => Some(answer?),
    };
    let (checks, tunnels) = match &status {
        Some(status) => {
            let chosen = chosen(status, args.name.as_deref())?;
            let walking = walk_all(cx, status, &chosen);
            let walked = waiting::shown(&cx.screen, "walking the steps", walking).await?;
            (of_running(cx, status), walked)
        }
        None => (of_absent(cx), Vec::new()),
    };
    let exit = exit_of(status.is_some(), &checks, &tunnels);
    let found = Examination {
        schema: SCHEMA,
        healthy: exit == Exit::Done,
        checks: checks.into_iter().map(sanitise::check).collect(),
        tunnels: tunnels.into_iter().map(sanitise::diagnosis).collect(),
    };
    if cx.screen.json() {
        cx.screen.answer_json(&found)?;
    } else {
        let page = render::doctor::page(&found, &cx.screen.view());
        cx.screen.answer(&page)?;
    }
    Ok(exit)
}

/// Returns the tunnels that a person means by the name of one or of a cluster; all, where none is named.
fn chosen<'a>(status: &'a Status, name: Option<&str>) -> Result<Vec<&'a Tunnel>, CliError> {
    let Some(name) = name else {
        return Ok(status.tunnels.iter().collect());
    };
    if let Some(tunnel) = which::tunnel(status, name) {
        return Ok(vec![tunnel]);
    }
    let of_cluster = status.tunnels.iter().filter(|it| it.cluster == name);
    let of_cluster: Vec<_> = of_cluster.collect();
    match of_cluster.is_empty() {
        true => Err(which::no_tunnel(status, name)),
        false => Ok(of_cluster),
    }
}

/// How many tunnels are walked at once: each waits for the network, and pomd has places for so many and others.
const AT_ONCE: usize = 16;

/// Has pomd walk the steps of each tunnel.
async fn walk_all(
    cx: &Context,
    status: &Status,
    chosen: &[&Tunnel],
) -> Result<Vec<Diagnosis>, CliError> {
    let mut walking = JoinSet::new();
    let mut waiting = chosen.iter();
    let mut walked = Vec::new();
    loop {
        for tunnel in waiting.by_ref().take(AT_ONCE - walking.len()) {
            let (client, name) = (cx.client.clone(), tunnel.name.clone());
            walking.spawn(async move { client.doctor(&name).await });
        }
        let Some(ended) = walking.join_next().await else {
            break;
        };
        let ended = ended.map_err(|it| CliError::failed(format!("the walk broke: {it}")))?;
        walked.push(ended?);
    }
    walked.sort_by(|a, b| a.tunnel.cmp(&b.tunnel));
    for diagnosis in &mut walked {
        if let Some(tunnel) = which::tunnel(status, &diagnosis.tunnel) {
            diagnosis.checks.insert(0, listener(tunnel));
        }
        tell_the_end(cx, status, diagnosis);
    }
    Ok(walked)
}

/// Says in the session's line until when it lasts.
fn tell_the_end(cx: &Context, status: &Status, diagnosis: &mut Diagnosis) {
    let mut clusters = status.clusters.iter();
    let cluster = clusters.find(|it| it.name == diagnosis.cluster);
    let mut checks = diagnosis.checks.iter_mut();
    let session = checks.find(|it| it.name == CheckName::Session);
    if let (Some(cluster), Some(session)) = (cluster, session)
        && session.outcome == CheckOutcome::Good
    {
        session.message += &session::until(cluster, &cx.screen.view());
    }
}

fn listener(tunnel: &Tunnel) -> Check {
    let name = CheckName::Listener;
    let addresses = tunnel.listen.join(", ");
    match tunnel.state {
        TunnelState::Busy => {
            let reason = tunnel.reason.as_ref();
            let message = reason.map_or("it cannot listen", |it| it.message.as_str());
            Check {
                code: reason.map(|it| it.code),
                hint: reason.and_then(|it| it.hint.clone()).or_else(|| {
                    let taken = "the address is taken as soon as it is free";
                    Some(taken.to_owned())
                }),
                ..Check::new(name, CheckOutcome::Bad, format!("{addresses}: {message}"))
            }
        }
        TunnelState::Down => {
            let message = format!("down; to listen: pomctl up {}", tunnel.name);
            Check::new(name, CheckOutcome::NotDone, message)
        }
        _ => Check::new(name, CheckOutcome::Good, addresses),
    }
}

/// Returns what there is to say of a pomd that runs.
fn of_running(cx: &Context, status: &Status) -> Vec<Check> {
    let view = cx.screen.view();
    let pomd = &status.pomd;
    let log = pomd.log.as_deref().map(|it| match it.starts_with('/') {
        true => view.path(it.as_ref()),
        false => it.to_owned(),
    });
    let log = log.unwrap_or_else(|| "in the terminal that started it".to_owned());
    let ours = env!("CARGO_PKG_VERSION");
    let hint = (pomd.version != ours)
        .then(|| format!("this pomctl is {ours}; to run the installed pomd: pomctl restart"));
    let warnings = pomd.warnings.iter();
    let daemon = Check {
        hint,
        facts: warnings
            .map(|it| ("warning".to_owned(), it.clone()))
            .collect(),
        ..Check::new(
            CheckName::Pomd,
            CheckOutcome::Good,
            format!("{}, pid {}, log: {log}", pomd.version, pomd.pid),
        )
    };
    let path = std::path::Path::new(&pomd.config.path);
    let shown = view.path(path);
    let config = match &pomd.config.error {
        None => Check::new(
            CheckName::Config,
            CheckOutcome::Good,
            format!("{shown}, {}", count(status.tunnels.len() as u64, "tunnel")),
        ),
        Some(error) => Check {
            code: Some(Code::ConfigBroken),
            hint: Some(format!("see all of it: {}", view.check_command(path))),
            ..Check::new(
                CheckName::Config,
                CheckOutcome::Bad,
                format!("{shown}: {}", error.message),
            )
        },
    };
    vec![daemon, config]
}

/// Returns what can be said without a pomd.
fn of_absent(cx: &Context) -> Vec<Check> {
    let view = cx.screen.view();
    let socket = view.path(&cx.paths.socket);
    let daemon = Check {
        hint: Some("start it: pomctl up --all".to_owned()),
        ..Check::new(
            CheckName::Pomd,
            CheckOutcome::Bad,
            format!("not running: nothing answers on {socket}"),
        )
    };
    vec![daemon, config_file(cx)]
}

fn config_file(cx: &Context) -> Check {
    let path = &cx.paths.config;
    let shown = cx.screen.view().path(path);
    let read = ConfigStore::open(cx).and_then(|it| it.config());
    match read {
        Ok(_) if !path.exists() => Check::new(
            CheckName::Config,
            CheckOutcome::NotDone,
            format!("there is no {shown} yet"),
        ),
        Ok(config) => Check::new(
            CheckName::Config,
            CheckOutcome::Good,
            format!("{shown}, {}", count(config.tunnels.len() as u64, "tunnel")),
        ),
        Err(error) => Check {
            code: Some(Code::ConfigBroken),
            hint: Some(format!(
                "see all of it: {}",
                cx.screen.view().check_command(path)
            )),
            ..Check::new(
                CheckName::Config,
                CheckOutcome::Bad,
                error.message().to_owned(),
            )
        },
    }
}

fn exit_of(runs: bool, checks: &[Check], tunnels: &[Diagnosis]) -> Exit {
    let all = checks
        .iter()
        .chain(tunnels.iter().flat_map(|it| &it.checks));
    let bad: Vec<&Check> = all.filter(|it| it.outcome == CheckOutcome::Bad).collect();
    let broken = |it: &&Check| it.code == Some(Code::ConfigBroken);
    match bad.as_slice() {
        _ if !runs => Exit::NotRunning,
        [] => Exit::Done,
        bad if bad.iter().any(broken) => Exit::Usage,
        bad if bad.iter().all(|it| it.code == Some(Code::LoginNeeded)) => Exit::LoginNeeded,
        _ => Exit::Failed,
    }
}
