//! What the agent shows: its state as a snapshot for the wire.

use std::{path::Path, sync::atomic::Ordering::Relaxed};

use control::wire::{self, Code, TunnelState};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use pomd_core::{
    config::{ClusterName, Listen, Route, TokenSource},
    session::View,
};

use super::{Agent, Cluster, ManagedTunnel, Setup};
use crate::{
    system::socket_activation::Socket,
    tunnel::{Counters, Tunnel, bind},
};

/// How long a tunnel shows that its last connection failed.
const ERROR_SHOWN: SignedDuration = SignedDuration::from_hours(1);

impl Agent {
    pub(super) fn build_status(&self) -> wire::Status {
        let now = self.setup.env.clock.now();
        let tunnels: Vec<wire::Tunnel> = self.tunnels.values().map(|it| tunnel(it, now)).collect();
        let clusters = self
            .clusters
            .iter()
            .map(|(name, it)| cluster(name, it))
            .collect();
        let well = |it: &wire::Tunnel| matches!(it.state, TunnelState::Up | TunnelState::Down);
        wire::Status {
            healthy: self.config_error.is_none() && tunnels.iter().all(well),
            tunnels,
            clusters,
            leaving: self.leaving(),
            ..empty_with(
                &self.setup,
                self.started_at,
                self.config_state(),
                self.warnings(),
            )
        }
    }

    fn config_state(&self) -> wire::ConfigState {
        wire::ConfigState {
            path: self.setup.place.config.display().to_string(),
            loaded_at: self.loaded_at,
            error: self.config_error.clone(),
            pending: false,
        }
    }

    fn leaving(&self) -> Vec<wire::Leaving> {
        let mut res: Vec<wire::Leaving> = Vec::new();
        for tunnel in &self.leaving {
            let connections = tunnel.connections.len() as u64;
            match res.iter_mut().find(|it| it.name == tunnel.name.as_str()) {
                Some(same) => same.connections += connections,
                None => res.push(wire::Leaving {
                    name: tunnel.name.to_string(),
                    connections,
                }),
            }
        }
        res.retain(|it| it.connections > 0);
        res
    }

    /// Standing warnings: those of the process, of the file, and of what the file asks for.
    fn warnings(&self) -> Vec<String> {
        let mut res = self.setup.warnings.clone();
        res.extend(self.setup.env.proxies.warnings());
        res.extend(self.config_warnings.iter().cloned());
        res.extend(self.reader_warnings.iter().cloned());
        res.extend(self.settings_warnings.iter().cloned());
        res.extend(self.ports.warning().map(str::to_owned));
        for (name, cluster) in &self.clusters {
            if cluster.spec.insecure_skip_verify {
                res.push(insecure(name));
            }
        }
        for managed in self.tunnels.values() {
            if managed.tunnel.spec.listen.is_exposed() {
                res.push(format!(
                    "{} is open to your network: whoever reaches {} uses it as you",
                    managed.tunnel.name,
                    managed.addresses.join(", ")
                ));
            }
        }
        res.extend(self.nowhere());
        res.extend(self.handed_for_nobody());
        if !self.owners.can_tell() {
            res.push(
                "this system does not tell who connects: every local user can use the tunnels"
                    .to_owned(),
            );
        }
        res
    }

    /// Sockets that were handed over and are no tunnel's. They are kept: the next configuration may have one for them.
    fn handed_for_nobody(&self) -> impl Iterator<Item = String> {
        let inherited = self.setup.inherited.sockets().iter();
        let is_used = |socket: &Socket| {
            let mut tunnels = self.tunnels.values().map(|it| &it.tunnel);
            tunnels.any(|it| {
                let (name, listen) = (it.name.as_str(), &it.spec.listen);
                bind::is_for(socket, name, listen, &self.setup.place.socket)
            })
        };
        inherited.filter(move |it| !is_used(it)).map(|it| {
            format!(
                "{} was handed over to pomd by {}, and no tunnel listens exactly there",
                it.address, it.name
            )
        })
    }
}

/// One tunnel as it stands.
pub(super) fn tunnel(managed: &ManagedTunnel, now: Timestamp) -> wire::Tunnel {
    let tunnel = &*managed.tunnel;
    let spec = &tunnel.spec;
    let (state, reason) = state(managed, now);
    let last = tunnel.counters.last_connection_at.load(Relaxed);
    wire::Tunnel {
        name: tunnel.name.to_string(),
        state,
        start: spec.start,
        temporary: managed.temporary,
        protocol: wire::Protocol::Tcp,
        cluster: spec.cluster.to_string(),
        route: spec.route.authority.to_string(),
        server: server(&spec.route),
        tried: Some(tunnel.outcome.is_tried()),
        listen: managed.addresses.clone(),
        ssh: spec.ssh,
        exposed: spec.expose && spec.listen.is_exposed(),
        reason,
        connections: connections(&tunnel.counters),
        bytes: wire::Bytes {
            received: tunnel.counters.carried.received.load(Relaxed),
            sent: tunnel.counters.carried.sent.load(Relaxed),
        },
        last_connection_at: (last > 0)
            .then(|| Timestamp::from_second(last as i64).ok())
            .flatten(),
    }
}

/// Which server leads to a route of another host.
fn server(route: &Route) -> Option<String> {
    let direct = Route::direct(route.authority.clone(), route.address.tls);
    (*route != direct).then(|| route.address.host_and_port())
}

/// What an agent shows before it runs.
pub(super) fn empty(setup: &Setup, now: Timestamp) -> wire::Status {
    let config = wire::ConfigState {
        path: setup.place.config.display().to_string(),
        loaded_at: now,
        error: None,
        pending: false,
    };
    empty_with(setup, now, config, Vec::new())
}

fn empty_with(
    setup: &Setup,
    started_at: Timestamp,
    config: wire::ConfigState,
    warnings: Vec<String>,
) -> wire::Status {
    wire::Status {
        schema: wire::SCHEMA,
        healthy: true,
        pomd: wire::Pomd {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: wire::PROTOCOL,
            pid: std::process::id(),
            started_at,
            config,
            log: setup.log.clone(),
            warnings,
            usage: None,
        },
        tunnels: Vec::new(),
        clusters: Vec::new(),
        leaving: Vec::new(),
    }
}

/// What a tunnel does now, and what is wrong with that. Listening comes before the login, the login before the last
/// connection.
fn state(managed: &ManagedTunnel, now: Timestamp) -> (TunnelState, Option<wire::Reason>) {
    if !managed.wanted {
        return (TunnelState::Down, None);
    }
    if let Some(obstacle) = &managed.obstacle {
        return (TunnelState::Busy, Some(obstacle.clone()));
    }
    let view = managed.tunnel.session.view();
    if view.state != wire::ClusterState::LoggedIn {
        let waiting = managed.tunnel.counters.waiting.load(Relaxed);
        return (
            TunnelState::Login,
            login_reason(&managed.tunnel, &view, waiting, now),
        );
    }
    let outcome = managed.tunnel.outcome.trouble();
    match outcome
        .filter(|it| it.code != Code::LoginNeeded && now.duration_since(it.at) < ERROR_SHOWN)
    {
        Some(reason) => (TunnelState::Error, Some(reason)),
        None => (TunnelState::Up, None),
    }
}

/// `1 connection waits for a login to lab since 14:02. Run: pomctl login lab`, else the cluster's own words.
fn login_reason(
    tunnel: &Tunnel,
    view: &View,
    waiting: u64,
    now: Timestamp,
) -> Option<wire::Reason> {
    if waiting == 0 {
        return view.reason.clone();
    }
    let cluster = &tunnel.spec.cluster;
    let who = match waiting {
        1 => "1 connection waits".to_owned(),
        n => format!("{n} connections wait"),
    };
    let since = view.since.map(|it| {
        let time = it.to_zoned(TimeZone::system()).strftime("%H:%M");
        format!(" since {time}")
    });
    let message = format!(
        "{who} for a login to {cluster}{}. Run: pomctl login {cluster}",
        since.unwrap_or_default()
    );
    Some(wire::Reason::new(
        Code::LoginNeeded,
        message,
        view.since.unwrap_or(now),
    ))
}

fn cluster(name: &ClusterName, cluster: &Cluster) -> wire::Cluster {
    let view = cluster.session.view();
    wire::Cluster {
        name: name.to_string(),
        hosts: cluster.spec.hosts.iter().map(ToString::to_string).collect(),
        state: view.state,
        user: view
            .grant
            .filter(|_| view.state == wire::ClusterState::LoggedIn)
            .and_then(|it| it.user),
        token_source: token_source(&cluster.spec.token.source),
        since: view.since,
        until: view.until,
        until_known_by: view
            .until
            .map(|_| match cluster.spec.token.source.asks_a_person() {
                true => wire::UntilKnownBy::Server,
                false => wire::UntilKnownBy::Token,
            }),
        waiting: view.waiting,
        forward_proxy: cluster.forward_proxy().map(|it| wire::ForwardProxy {
            url: it.url,
            variable: it.variable.map(str::to_owned),
        }),
        reason: view.reason,
    }
}

fn token_source(source: &TokenSource) -> wire::TokenSource {
    match source {
        TokenSource::Browser => wire::TokenSource::Browser,
        TokenSource::File(_) => wire::TokenSource::File,
        TokenSource::Env(_) => wire::TokenSource::Env,
        TokenSource::Credential(_) => wire::TokenSource::Credential,
        TokenSource::Command(_) => wire::TokenSource::Command,
        TokenSource::GithubActions { .. } => wire::TokenSource::GithubActions,
    }
}

fn connections(counters: &Counters) -> wire::Connections {
    wire::Connections {
        open: counters.open.load(Relaxed),
        waiting: counters.waiting.load(Relaxed),
        total: counters.total.load(Relaxed),
        turned_away: counters.turned_away.load(Relaxed),
        guarded: counters.guarded.load(Relaxed),
    }
}

/// Where a tunnel listens, or would if it could.
pub(super) fn addresses(listen: &Listen, chosen: Option<u16>, control: &Path) -> Vec<String> {
    let both = |port: u16| vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")];
    match listen {
        Listen::Loopback(port) => both(*port),
        Listen::Chosen => chosen.map(both).unwrap_or_default(),
        Listen::Address(address) => vec![address.to_string()],
        Listen::Unix(name) => vec![bind::file_address(name, control)],
    }
}

/// A reason without further facts.
pub(super) fn insecure(cluster: &ClusterName) -> String {
    format!(
        "{cluster} takes any certificate (insecure_skip_verify): whoever is in between reads and changes everything"
    )
}

/// Whether `new` must be shown at once.
pub(super) fn differs_in_more_than_counters(old: &wire::Status, new: &wire::Status) -> bool {
    without_counters(old) != without_counters(new)
}

fn without_counters(status: &wire::Status) -> wire::Status {
    let mut res = status.clone();
    for tunnel in &mut res.tunnels {
        tunnel.connections = wire::Connections::default();
        tunnel.bytes = wire::Bytes::default();
        tunnel.last_connection_at = None;
    }
    for cluster in &mut res.clusters {
        cluster.waiting = 0;
    }
    for leaving in &mut res.leaving {
        leaving.connections = 0;
    }
    res
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A pomd with one tunnel that is up.
    pub(crate) fn sample() -> wire::Status {
        let at = Timestamp::UNIX_EPOCH;
        let config = wire::ConfigState {
            path: "/home/alice/.config/pomd/pomd.toml".to_owned(),
            loaded_at: at,
            error: None,
            pending: false,
        };
        wire::Status {
            schema: wire::SCHEMA,
            healthy: true,
            pomd: wire::Pomd {
                version: "0.1.0".to_owned(),
                protocol: wire::PROTOCOL,
                pid: 1,
                started_at: at,
                config,
                log: None,
                warnings: Vec::new(),
                usage: None,
            },
            tunnels: vec![wire::Tunnel {
                name: "db".to_owned(),
                state: TunnelState::Up,
                start: wire::Start::Auto,
                temporary: false,
                protocol: wire::Protocol::Tcp,
                cluster: "corp".to_owned(),
                route: "db.corp.test:5432".to_owned(),
                listen: vec!["127.0.0.1:5432".to_owned()],
                ssh: false,
                exposed: false,
                server: None,
                tried: Some(true),
                reason: None,
                connections: wire::Connections::default(),
                bytes: wire::Bytes::default(),
                last_connection_at: None,
            }],
            clusters: Vec::new(),
            leaving: vec![wire::Leaving {
                name: "old".to_owned(),
                connections: 3,
            }],
        }
    }

    #[test]
    fn counters_alone_make_no_difference_and_everything_else_does() {
        let old = sample();
        let differs = |change: fn(&mut wire::Status)| {
            let mut new = sample();
            change(&mut new);
            assert_ne!(old, new);
            differs_in_more_than_counters(&old, &new)
        };
        assert!(!differs(|it| it.tunnels[0].bytes.sent = 1));
        assert!(!differs(|it| it.tunnels[0].connections.open = 1));
        assert!(!differs(|it| {
            it.tunnels[0].last_connection_at = Some(Timestamp::UNIX_EPOCH);
        }));
        assert!(!differs(|it| it.leaving[0].connections = 2));
        assert!(differs(|it| it.leaving.clear()));
        assert!(differs(|it| it.tunnels[0].state = TunnelState::Error));
        assert!(differs(|it| it.tunnels[0].listen.clear()));
        assert!(differs(|it| it.tunnels.clear()));
        assert!(differs(|it| it.pomd.warnings.push("w".to_owned())));
    }

    #[test]
    fn a_tunnel_without_a_chosen_port_has_no_address_yet() {
        let addresses =
            |listen, chosen| addresses(&listen, chosen, Path::new("/run/user/1000/pomd/pomd.sock"));
        assert_eq!(addresses(Listen::Chosen, None), Vec::<String>::new());
        assert_eq!(
            addresses(Listen::Chosen, Some(20_000)),
            ["127.0.0.1:20000", "[::1]:20000"]
        );
        assert_eq!(
            addresses(Listen::Loopback(1), Some(2)),
            ["127.0.0.1:1", "[::1]:1"]
        );
        let socket = Listen::parse("unix:db.sock").unwrap();
        assert_eq!(
            addresses(socket, None),
            ["unix:/run/user/1000/pomd/db.sock"]
        );
    }
}
