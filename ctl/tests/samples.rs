//! What the scripted pomd shows.

use control::wire::{
    Bytes, Cluster, ClusterState, Code, ConfigState, Connections, Holder, OpenLogin, Pomd,
    Protocol, Reason, Start, Status, TokenSource, Tunnel, TunnelState, UntilKnownBy,
};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// Now, shifted: `ago(2 * 60)` is two hours ago.
pub(crate) fn ago(minutes: i64) -> Timestamp {
    now() - SignedDuration::from_mins(minutes)
}

pub(crate) fn now() -> Timestamp {
    #[expect(
        clippy::disallowed_methods,
        reason = "pomctl has a real clock, so its tests do too"
    )]
    Timestamp::now()
}

/// A time zone in which it is between 12 and 13 o'clock, so that what is hours away is still today.
pub(crate) fn noon() -> String {
    let hour = now().as_second().rem_euclid(24 * 3600) / 3600;
    format!("XXX{}", hour - 12)
}

/// A status with these tunnels and clusters.
pub(crate) fn status(tunnels: Vec<Tunnel>, clusters: Vec<Cluster>) -> Status {
    Status {
        schema: 1,
        healthy: false,
        pomd: Pomd {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: 1,
            pid: 2811,
            started_at: ago(300),
            config: ConfigState {
                path: "/home/alice/.config/pomd/pomd.toml".to_owned(),
                loaded_at: ago(300),
                error: None,
                pending: false,
            },
            log: None,
            warnings: Vec::new(),
            usage: None,
        },
        tunnels,
        clusters,
        leaving: Vec::new(),
    }
}

pub(crate) fn tunnel(name: &str, state: TunnelState, port: u16, route: &str) -> Tunnel {
    Tunnel {
        name: name.to_owned(),
        state,
        start: Start::Auto,
        temporary: false,
        protocol: Protocol::Tcp,
        cluster: "corp".to_owned(),
        route: route.to_owned(),
        listen: vec![format!("127.0.0.1:{port}"), format!("[::1]:{port}")],
        ssh: route.ends_with(":22"),
        exposed: false,
        server: None,
        tried: None,
        reason: None,
        connections: Connections::default(),
        bytes: Bytes::default(),
        last_connection_at: None,
    }
}

pub(crate) fn ssh_prod(state: TunnelState) -> Tunnel {
    tunnel("ssh-prod", state, 2202, "ssh-prod.corp.example.com:22")
}

pub(crate) fn grafana(state: TunnelState) -> Tunnel {
    tunnel("grafana", state, 3000, "grafana.corp.example.com:443")
}

pub(crate) fn cluster(name: &str, state: ClusterState) -> Cluster {
    let logged_in = state == ClusterState::LoggedIn;
    // Half a minute more, so that a slow test still sees the same minutes.
    let until = now() + SignedDuration::from_secs((9 * 60 + 12) * 60 + 30);
    Cluster {
        name: name.to_owned(),
        hosts: vec![format!("*.{name}.example.com")],
        state,
        user: logged_in.then(|| "alice@example.com".to_owned()),
        token_source: TokenSource::Browser,
        since: Some(ago(3)),
        until: logged_in.then_some(until),
        until_known_by: logged_in.then_some(UntilKnownBy::Server),
        waiting: 0,
        forward_proxy: None,
        reason: None,
    }
}

pub(crate) fn corp() -> Cluster {
    cluster("corp", ClusterState::LoggedIn)
}

pub(crate) fn reason(code: Code, message: &str) -> Reason {
    Reason::new(code, message, ago(1))
}

/// In pomd's own words.
pub(crate) fn no_login(cluster: &str) -> Reason {
    let message = format!("{cluster} needs a login. Run: pomctl login {cluster}");
    reason(Code::LoginNeeded, &message)
}

/// What a newcomer has who wrote two tunnels and no cluster: each host is a cluster of its own.
pub(crate) fn newcomer() -> Status {
    let mut tunnels = vec![ssh_prod(TunnelState::Login), grafana(TunnelState::Login)];
    let mut clusters = Vec::new();
    for tunnel in &mut tunnels {
        let host = tunnel
            .route
            .split(':')
            .next()
            .unwrap_or_default()
            .to_owned();
        let mut cluster = cluster(&host, ClusterState::LoginNeeded);
        cluster.reason = Some(no_login(&host));
        tunnel.reason = Some(no_login(&host));
        tunnel.cluster = host;
        clusters.push(cluster);
    }
    status(tunnels, clusters)
}

pub(crate) fn node() -> Holder {
    Holder {
        pid: Some(4242),
        program: Some("node".to_owned()),
        uid: None,
        ours: false,
    }
}

/// The status of transcript G5.
pub(crate) fn mixed() -> Status {
    let mut ssh = ssh_prod(TunnelState::Up);
    ssh.connections.open = 2;
    ssh.bytes = Bytes {
        received: 12_345_678,
        sent: 3_100_000,
    };
    ssh.last_connection_at = Some(ago(1));
    let mut dns = tunnel("dns", TunnelState::Up, 5353, "dns.corp.example.com:53");
    dns.protocol = Protocol::Udp;
    dns.bytes = Bytes {
        received: 88_000,
        sent: 41_400,
    };
    let mut reports = tunnel(
        "reports",
        TunnelState::Login,
        15432,
        "reports-db.lab.example.net:5432",
    );
    reports.cluster = "lab".to_owned();
    reports.connections.waiting = 1;
    reports.reason = Some(no_login("lab"));
    let mut grafana = grafana(TunnelState::Busy);
    grafana.reason = Some(reason(Code::AddressInUse, "node (pid 4242) holds the port"));
    let old = tunnel(
        "ssh-old",
        TunnelState::Down,
        2210,
        "ssh-old.corp.example.com:22",
    );
    let mut lab = cluster("lab", ClusterState::LoginNeeded);
    lab.reason = Some(no_login("lab"));
    status(vec![ssh, dns, reports, grafana, old], vec![corp(), lab])
}

/// A tunnel that works and somebody who is logged in.
pub(crate) fn fine() -> Status {
    let mut status = status(vec![ssh_prod(TunnelState::Up)], vec![corp()]);
    status.healthy = true;
    status
}

/// A tunnel that lacks a login.
pub(crate) fn logged_out() -> Status {
    let corp = cluster("corp", ClusterState::LoginNeeded);
    status(vec![ssh_prod(TunnelState::Up)], vec![corp])
}

pub(crate) fn up_answer(tunnel: Tunnel) -> Value {
    json!({ "tunnel": tunnel, "answers_in_ms": 84 })
}

pub(crate) fn login_needed() -> Value {
    json!({ "code": "login_needed", "message": no_login("corp").message, "cluster": "corp" })
}

pub(crate) fn open_login(minted: bool) -> OpenLogin {
    let url = "https://authenticate.corp.example.com/.pomerium/sign_in?pomerium_redirect_uri=http%3A%2F%2F127.0.0.1%3A41235%2Fcb";
    OpenLogin {
        link: "http://127.0.0.1:41235/k3v9qz".to_owned(),
        port: 41235,
        sign_in_host: Some("authenticate.corp.example.com".to_owned()),
        sign_in_url: minted.then(|| url.to_owned()),
        expires_at: now() + SignedDuration::from_hours(1),
        fresh: true,
        started_at: Some(now()),
    }
}

pub(crate) fn login_answer(state: ClusterState, login: Option<OpenLogin>) -> Value {
    json!({ "cluster": cluster("corp", state), "login": login, "browser": "default" })
}
