//! `pomctl ssh`: makes a login visible that ssh would wait for in silence, then becomes ssh.

use std::{ffi::OsStr, process::Command};

use control::{
    descriptor,
    wire::{ClusterState, Status, TokenSource, Tunnel},
};
use pomd_core::config::bare_name;

use super::{one_login_for_both, ssh_config, subscribe, which};
use crate::{
    args::SshArgs,
    context::Context,
    error::{CliError, Exit},
    sanitise,
    sign_in::{LoginOptions, sign_in},
    start,
};

const SSH_PORT: u16 = 22;

/// Where ssh is to go.
struct Target {
    host: String,
    port: u16,
    cluster: String,
}

pub(crate) async fn run(cx: &Context, args: &SshArgs) -> Result<Exit, CliError> {
    let (user, name) = match args.destination.rsplit_once('@') {
        Some((user, name)) => (Some(user), name),
        None => (None, args.destination.as_str()),
    };
    // Before pomd is started for what cannot be.
    if !name.contains(':') {
        checked(&format!("{name}:{SSH_PORT}"))?;
    } else {
        checked(name)?;
    }
    start::ensure(cx).await?;
    let (mut events, status) = subscribe(cx).await?;
    let target = target(&status, name)?;
    let cluster = status.clusters.iter().find(|it| it.name == target.cluster);
    let needs_login = cluster.is_some_and(|it| {
        it.state != ClusterState::LoggedIn && it.token_source == TokenSource::Browser
    });
    if needs_login {
        let options = LoginOptions {
            no_browser: false,
            anew: false,
            in_passing: false,
        };
        let cluster = sign_in(cx, &target.cluster, &mut events, options).await?;
        if let Some(hint) = one_login_for_both(&status, &cluster.name) {
            cx.screen.hint(&hint);
        }
    }
    let proxy = ssh_config::proxy(cx, descriptor::IS_SUPPORTED)?;
    let mut command = Command::new("ssh");
    for option in proxy.options() {
        command.arg("-o").arg(option);
    }
    command.arg("-o").arg(format!("Port={}", target.port));
    if let Some(user) = user {
        command.arg("-o").arg(format!("User={user}"));
    }
    // A host never begins with a hyphen, and what was typed behind it may be options of ssh.
    command.arg(&target.host);
    command.args(args.rest.iter().map(|it| it as &OsStr));
    become_it(command)
}

/// Returns host and port, if the text is a name of them.
fn checked(name: &str) -> Result<(String, u16), CliError> {
    let wrong = |it: pomd_core::config::Wrong| {
        CliError::usage(
            "bad_request",
            sanitise::line(&it.what),
            Some(sanitise::line(&it.instead)),
        )
    };
    let name = bare_name(name).map_err(wrong)?;
    Ok((name.host.to_string(), name.port))
}

/// Returns where a tunnel, a tunnel's host or a host of a cluster leads.
fn target(status: &Status, name: &str) -> Result<Target, CliError> {
    let of = |tunnel: &Tunnel| {
        let (host, port) = checked(&tunnel.route)?;
        let cluster = tunnel.cluster.clone();
        if tunnel.ssh {
            return Ok(Target {
                host,
                port,
                cluster,
            });
        }
        let shown = sanitise::name(&tunnel.name);
        let message = format!("{shown} leads to port {port}; if that is ssh, set ssh = true");
        Err(CliError::usage("bad_request", message, None))
    };
    if let Some(tunnel) = which::tunnel(status, name) {
        return of(tunnel);
    }
    let has_port = name.contains(':');
    let (host, port) = if has_port {
        checked(name)?
    } else {
        checked(&format!("{name}:{SSH_PORT}"))?
    };
    let leads_there = |it: &&Tunnel| {
        checked(&it.route).is_ok_and(|(its, at)| its == host && (at == port || !has_port && it.ssh))
    };
    let mut tunnels: Vec<&Tunnel> = status.tunnels.iter().filter(leads_there).collect();
    // The usual port before another.
    tunnels.sort_by_key(|it| !it.route.ends_with(":22"));
    if let Some(tunnel) = tunnels.first() {
        return of(tunnel);
    }
    match which::cluster_of_host(status, &host) {
        Some(cluster) => Ok(Target {
            host,
            port,
            cluster: cluster.name.clone(),
        }),
        None if name.contains(['.', ':']) => {
            let shown = sanitise::name(&host);
            let domain = host.split_once('.').map_or(host.as_str(), |it| it.1);
            let hint = format!(
                "say whose it is: put \"*.{}\" into the hosts of a [cluster]",
                sanitise::name(domain)
            );
            let message = format!("no tunnel leads to {shown}, and no cluster has it");
            Err(CliError::usage("bad_request", message, Some(hint)))
        }
        None => Err(which::no_tunnel(status, name)),
    }
}

/// Replaces this process by `command`.
#[cfg(unix)]
fn become_it(mut command: Command) -> Result<Exit, CliError> {
    let error = std::os::unix::process::CommandExt::exec(&mut command);
    Err(CliError::failed(format!("ssh cannot be started: {error}")))
}

/// Runs `command` and ends as it does: no process becomes another one here.
#[cfg(not(unix))]
fn become_it(mut command: Command) -> Result<Exit, CliError> {
    match command.status() {
        Ok(ended) => std::process::exit(ended.code().unwrap_or(1)),
        Err(error) => Err(CliError::failed(format!("ssh cannot be started: {error}"))),
    }
}
