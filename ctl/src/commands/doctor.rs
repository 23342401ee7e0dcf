//! `pomctl doctor`: why something does not work. Looks at this machine, and has pomd walk the steps of a connection; what
//! can be said without pomd is said without it.
//!
//! Long because what there is to say differs with what runs.

mod machine;

use std::path::Path;

use control::{
    client::ClientError,
    holder::{self, Holder},
    wire::{
        Check, CheckName, CheckOutcome, Code, Diagnosis, Examination, SCHEMA, Status, Tunnel,
        TunnelState,
    },
};
use pomd_core::{
    config::{Config, Machine},
    words::doctor,
};
use tokio::task::JoinSet;

use super::which;
use crate::{
    args::DoctorArgs,
    config_store::ConfigStore,
    context::Context,
    error::{CliError, Exit, last_words},
    render::{self, count, session},
    sanitise, start, waiting,
};

pub(crate) async fn run(cx: &Context, args: &DoctorArgs) -> Result<Exit, CliError> {
    let name = args.name.as_deref();
    let looked = match cx.client.status().await {
        Ok(status) => of_running(cx, &status, name).await?,
        Err(error) => of_absent(cx, error, name).await?,
    };
    let exit = exit_of(&looked);
    let Looked {
        checks, tunnels, ..
    } = looked;
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

/// What was looked at.
struct Looked {
    /// pomd does not run.
    absent: bool,
    checks: Vec<Check>,
    tunnels: Vec<Diagnosis>,
}

async fn of_running(cx: &Context, status: &Status, name: Option<&str>) -> Result<Looked, CliError> {
    let walking = async {
        match name.filter(|it| which::tunnel(status, it).is_none() && it.contains(':')) {
            Some(route) => {
                let walked = cx.client.doctor_of_route(route, route.ends_with(":22"));
                Ok(vec![walked.await?])
            }
            None => walk_all(cx, &chosen(status, name)?).await,
        }
    };
    let walked = waiting::shown(&cx.screen, "walking the steps", walking).await;
    let mut tunnels = match walked {
        // What was meant may stand in the file that is not in force.
        Err(CliError::Told(_)) if status.pomd.config.error.is_some() => Vec::new(),
        walked => walked?,
    };
    for diagnosis in &mut tunnels {
        if let Some(tunnel) = which::tunnel(status, &diagnosis.tunnel) {
            diagnosis.checks.insert(0, listener(tunnel));
        }
        tell_the_end(cx, status, diagnosis);
        tell_of_proxy(diagnosis);
    }
    let mut checks = vec![daemon(cx, status), config_in_force(cx, status)];
    if name.is_none() {
        checks.extend(without_tunnels(status));
    }
    if Path::new(&status.pomd.config.path) == cx.paths.config
        && let Ok(config) = ConfigStore::open(cx).and_then(|it| it.config())
    {
        checks.extend(of_machine(cx, &config, name).await);
    }
    Ok(Looked {
        absent: false,
        checks,
        tunnels,
    })
}

/// Returns what can be said without a pomd, which does not answer for this reason.
async fn of_absent(
    cx: &Context,
    error: ClientError,
    name: Option<&str>,
) -> Result<Looked, CliError> {
    let absent = matches!(error, ClientError::NotRunning);
    let daemon = match absent {
        true => not_running(cx),
        false => does_not_answer(cx, &CliError::from(error)),
    };
    let store = ConfigStore::open(cx)?;
    let config = store.config();
    let mut checks = vec![daemon, config_file(cx, &store, config.as_ref())];
    let mut tunnels = Vec::new();
    if let Ok(config) = &config {
        if let Some(name) = name {
            is_named(config, name)?;
        }
        checks.extend(of_machine(cx, config, name).await);
        // A pomd that hangs holds them itself.
        if absent && !holder::is_held(&cx.paths.state) {
            tunnels = start::listeners(cx).await.unwrap_or_default();
        }
        tunnels.retain(|it| name.is_none_or(|name| it.tunnel == name || it.cluster == name));
    }
    Ok(Looked {
        absent,
        checks,
        tunnels,
    })
}

/// A tunnel or a cluster of the file is called so.
fn is_named(config: &Config, name: &str) -> Result<(), CliError> {
    let tunnels: Vec<String> = config.tunnels.keys().map(ToString::to_string).collect();
    let is_cluster = config.clusters.keys().any(|it| it.as_str() == name);
    match is_cluster || tunnels.iter().any(|it| it == name) {
        true => Ok(()),
        false => Err(which::unknown("tunnel", "no_such_tunnel", name, &tunnels)),
    }
}

/// Returns what there is to say of the machine; of one tunnel only what is wrong.
async fn of_machine(cx: &Context, config: &Config, name: Option<&str>) -> Vec<Check> {
    let mut checks = machine::checks(cx, config).await;
    checks.retain(|it| name.is_none() || it.outcome == CheckOutcome::Bad);
    checks
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
async fn walk_all(cx: &Context, chosen: &[&Tunnel]) -> Result<Vec<Diagnosis>, CliError> {
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
    Ok(walked)
}

/// Returns the clusters that no tunnel leads to: there is no route of theirs to walk to.
fn without_tunnels(status: &Status) -> impl Iterator<Item = Check> {
    let is_led_to = |name: &str| status.tunnels.iter().any(|it| it.cluster == name);
    let clusters = status
        .clusters
        .iter()
        .filter(move |it| !is_led_to(&it.name));
    clusters.map(|it| Check {
        hint: Some("to walk to one of its hosts: pomctl doctor HOST:PORT".to_owned()),
        ..Check::new(
            CheckName::Session,
            CheckOutcome::NotDone,
            format!("no tunnel leads to {}", it.name),
        )
    })
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

/// Says that this shell knows of a forward proxy where the way without one leads nowhere.
fn tell_of_proxy(diagnosis: &mut Diagnosis) {
    let leads_nowhere = diagnosis.checks.iter().any(|it| {
        matches!(it.name, CheckName::Dns | CheckName::Tcp | CheckName::Tls)
            && it.outcome == CheckOutcome::Bad
    });
    let mut checks = diagnosis.checks.iter_mut();
    let proxy = checks.find(|it| it.name == CheckName::ForwardProxy);
    if let Some(proxy) = proxy
        && leads_nowhere
        && proxy.outcome == CheckOutcome::NotDone
    {
        proxy.hint = machine::unknown_proxy();
    }
}

fn listener(tunnel: &Tunnel) -> Check {
    let name = CheckName::Listener;
    let addresses = tunnel.listen.join(", ");
    match tunnel.state {
        TunnelState::Busy => match &tunnel.reason {
            Some(reason) => doctor::cannot_listen(&addresses, reason),
            None => Check::new(name, CheckOutcome::Bad, addresses),
        },
        TunnelState::Down => {
            let message = format!("down; to listen: pomctl up {}", tunnel.name);
            Check::new(name, CheckOutcome::NotDone, message)
        }
        _ => Check::new(name, CheckOutcome::Good, addresses),
    }
}

/// Returns what there is to say of a pomd that runs.
fn daemon(cx: &Context, status: &Status) -> Check {
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
    Check {
        hint,
        facts: warnings
            .map(|it| ("warning".to_owned(), it.clone()))
            .collect(),
        ..Check::new(
            CheckName::Pomd,
            CheckOutcome::Good,
            format!("{}, pid {}, log: {log}", pomd.version, pomd.pid),
        )
    }
}

/// Returns what there is to say of the file that pomd obeys.
fn config_in_force(cx: &Context, status: &Status) -> Check {
    let view = cx.screen.view();
    let pomd = &status.pomd;
    let path = Path::new(&pomd.config.path);
    let shown = view.path(path);
    match &pomd.config.error {
        None => Check::new(
            CheckName::Config,
            CheckOutcome::Good,
            format!("{shown}, {}", count(status.tunnels.len() as u64, "tunnel")),
        ),
        Some(error) => Check {
            code: Some(Code::ConfigBroken),
            hint: Some(format!("see all of it: {}", view.check_command(path))),
            ..Check::new(CheckName::Config, CheckOutcome::Bad, error.message.clone())
        },
    }
}

/// Returns what there is to say of a pomd that is there and does not answer as it should.
fn does_not_answer(cx: &Context, error: &CliError) -> Check {
    let own = match error {
        CliError::Told(report) => report.hint.clone(),
        CliError::ReaderGone | CliError::Interrupted => None,
    };
    let holder = Holder::read(&cx.paths.state).filter(|_| holder::is_held(&cx.paths.state));
    let held = holder.map(|it| format!("if it hangs, end it: kill {}", it.pid));
    Check {
        hint: own.or(held),
        ..Check::new(CheckName::Pomd, CheckOutcome::Bad, error.message())
    }
}

fn not_running(cx: &Context) -> Check {
    let view = cx.screen.view();
    let socket = view.path(&cx.paths.socket);
    let holder = Holder::read(&cx.paths.state).filter(|_| holder::is_held(&cx.paths.state));
    match holder {
        None => Check {
            hint: Some("start it: pomctl up --all".to_owned()),
            ..Check::new(
                CheckName::Pomd,
                CheckOutcome::Bad,
                format!("not running: nothing answers on {socket}"),
            )
        },
        Some(holder) => {
            let log = holder.facts.as_ref().map(|it| it.log.as_deref());
            Check {
                hint: log.map(last_words),
                ..Check::new(
                    CheckName::Pomd,
                    CheckOutcome::Bad,
                    format!(
                        "pid {} holds {}, and does not answer on {socket}: it starts, ends or hangs",
                        holder.pid,
                        view.path(&cx.paths.state)
                    ),
                )
            }
        }
    }
}

/// Returns what a pomd with this file would warn of.
fn warnings(store: &ConfigStore) -> Vec<(String, String)> {
    let read = Config::read_for(&Machine::default(), store.bytes(), store.base());
    let warnings = read.map(|it| it.1.standing()).unwrap_or_default();
    let fact = |it| ("warning".to_owned(), it);
    warnings.into_iter().map(fact).collect()
}

fn config_file(cx: &Context, store: &ConfigStore, read: Result<&Config, &CliError>) -> Check {
    let path = &cx.paths.config;
    let shown = cx.screen.view().path(path);
    match read {
        Ok(_) if !path.exists() => Check::new(
            CheckName::Config,
            CheckOutcome::NotDone,
            format!("there is no {shown} yet"),
        ),
        Ok(config) => Check {
            facts: warnings(store),
            ..Check::new(
                CheckName::Config,
                CheckOutcome::Good,
                format!("{shown}, {}", count(config.tunnels.len() as u64, "tunnel")),
            )
        },
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

fn exit_of(looked: &Looked) -> Exit {
    let Looked {
        absent,
        checks,
        tunnels,
    } = looked;
    let of_tunnels = tunnels.iter().flat_map(|it| &it.checks);
    let all = checks.iter().chain(of_tunnels);
    let bad: Vec<&Check> = all.filter(|it| it.outcome == CheckOutcome::Bad).collect();
    let broken = |it: &&Check| it.code == Some(Code::ConfigBroken);
    match bad.as_slice() {
        _ if *absent => Exit::NotRunning,
        [] => Exit::Done,
        bad if bad.iter().any(broken) => Exit::Usage,
        bad if bad.iter().all(|it| it.code == Some(Code::LoginNeeded)) => Exit::LoginNeeded,
        _ => Exit::Failed,
    }
}
