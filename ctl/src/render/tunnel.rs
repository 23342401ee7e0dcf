//! Tunnels in words: state, address, trouble, and the command that uses one. Pure.

use std::time::Duration;

use control::{
    humanize,
    wire::{Cluster, Code, Protocol, Reason, Tunnel, TunnelState},
};

use super::{View, count, glyphs::Glyphs, paint::Role, session::with_hint, table::Cell};

/// Returns the word of a state.
pub(crate) fn word(state: TunnelState) -> &'static str {
    match state {
        TunnelState::Up => "up",
        TunnelState::Login => "login",
        TunnelState::Error => "error",
        TunnelState::Busy => "busy",
        TunnelState::Down => "down",
        TunnelState::Unknown => "unknown",
    }
}

/// Returns the colour of a state.
pub(crate) fn role(state: TunnelState) -> Role {
    match state {
        TunnelState::Up => Role::Good,
        TunnelState::Login | TunnelState::Unknown => Role::Warn,
        TunnelState::Error | TunnelState::Busy => Role::Bad,
        TunnelState::Down => Role::Muted,
    }
}

/// Returns the glyph of a state.
pub(crate) fn sign(state: TunnelState, glyphs: &Glyphs) -> Cell {
    let sign = match state {
        TunnelState::Up => glyphs.good,
        TunnelState::Login => glyphs.waits,
        TunnelState::Error | TunnelState::Busy => glyphs.bad,
        TunnelState::Down => glyphs.off,
        TunnelState::Unknown => glyphs.unknown,
    };
    Cell::new(role(state), sign)
}

/// Returns the local side, as a person would type it.
pub(crate) fn local(tunnel: &Tunnel, glyphs: &Glyphs) -> String {
    let listen = &tunnel.listen;
    let Some(first) = listen.first() else {
        return glyphs.none.to_owned();
    };
    if let Some(path) = socket(tunnel) {
        let name = path.rsplit('/').next().unwrap_or(path);
        return format!("unix:{name}");
    }
    match listen.iter().find_map(|it| it.strip_prefix("127.0.0.1:")) {
        Some(port) => format!("localhost:{port}"),
        None => first.clone(),
    }
}

/// Returns the path of its Unix socket, if that is where it listens.
fn socket(tunnel: &Tunnel) -> Option<&str> {
    tunnel.listen.iter().find_map(|it| it.strip_prefix("unix:"))
}

/// Returns the route, with its protocol where that is not TCP, and its server where that is another host.
pub(crate) fn route(tunnel: &Tunnel) -> String {
    let route = match tunnel.protocol {
        Protocol::Tcp => tunnel.route.clone(),
        Protocol::Udp => format!("udp {}", tunnel.route),
        Protocol::Unknown => format!("? {}", tunnel.route),
    };
    match &tunnel.server {
        Some(server) => format!("{route} via {server}"),
        None => route,
    }
}

/// Tells whether a tunnel listens and nothing more is known of it.
pub(crate) fn is_untried(tunnel: &Tunnel) -> bool {
    tunnel.state == TunnelState::Up && tunnel.tried == Some(false)
}

/// Returns the columns CONN, RECV and SENT. What cannot have happened is not counted.
pub(crate) fn counts(tunnel: &Tunnel, glyphs: &Glyphs) -> [String; 3] {
    let connections = tunnel.connections.open + tunnel.connections.waiting;
    let listens = !matches!(tunnel.state, TunnelState::Busy | TunnelState::Down);
    let carried = tunnel.bytes.received > 0 || tunnel.bytes.sent > 0;
    let none = || glyphs.none.to_owned();
    let bytes = |number| {
        if carried {
            humanize::bytes(number)
        } else {
            none()
        }
    };
    let connections = if listens || connections > 0 {
        connections.to_string()
    } else {
        none()
    };
    [
        connections,
        bytes(tunnel.bytes.received),
        bytes(tunnel.bytes.sent),
    ]
}

/// Returns what is wrong with the tunnel, if something is: one line.
pub(crate) fn trouble(
    tunnel: &Tunnel,
    cluster: Option<&Cluster>,
    view: &View<'_>,
) -> Option<String> {
    match (tunnel.state, &tunnel.reason) {
        (TunnelState::Login, reason) => {
            Some(waits_for_login(tunnel, cluster, reason.as_ref(), view))
        }
        (TunnelState::Busy, Some(reason)) if reason.code == Code::AddressInUse => {
            let then = "pomd takes it when it is free";
            let sentence = format!("{}; {then}", reason.message);
            Some(with_hint(&sentence, reason.hint.as_deref()))
        }
        (TunnelState::Error, Some(reason)) => {
            let mut sentence = format!("{}, {}", reason.message, view.time(reason.at));
            if let Some(id) = &reason.request_id {
                sentence += &format!(", request id {id}");
            }
            Some(with_hint(&sentence, reason.hint.as_deref()))
        }
        (_, Some(reason)) => Some(with_hint(&reason.message, reason.hint.as_deref())),
        (_, None) => None,
    }
}

fn waits_for_login(
    tunnel: &Tunnel,
    cluster: Option<&Cluster>,
    reason: Option<&Reason>,
    view: &View<'_>,
) -> String {
    let name = &tunnel.cluster;
    let run = format!("Run: pomctl login {name}");
    let since = cluster
        .and_then(|it| it.since)
        .map_or(String::new(), |it| format!(" since {}", view.time(it)));
    match (tunnel.connections.waiting, reason) {
        (0, Some(reason)) => {
            // pomd's own sentence names the command already.
            let run = Some(run.as_str()).filter(|it| !reason.message.contains(it));
            with_hint(&reason.message, reason.hint.as_deref().or(run))
        }
        (0, None) => format!("{name} needs a login{since}. {run}"),
        (waiting, _) => {
            let waits = if waiting == 1 { "waits" } else { "wait" };
            let connections = count(waiting, "connection");
            format!("{connections} {waits} for a login to {name}{since}. {run}")
        }
    }
}

/// Returns the lines of a tunnel that works: what leads where, and the command that uses it.
pub(crate) fn ready(tunnel: &Tunnel, answers_in_ms: u64, glyphs: &Glyphs) -> String {
    format!(
        "{} is up: {} {} {} (answers in {})\n\n    {}",
        tunnel.name,
        local(tunnel, glyphs),
        glyphs.to,
        route(tunnel),
        humanize::duration(Duration::from_millis(answers_in_ms)),
        super::paint::paint(Role::Command, &usage(tunnel, glyphs)),
    )
}

/// Returns the command that writes a temporary tunnel into the file, where it listens now.
pub(crate) fn to_keep(tunnel: &Tunnel) -> String {
    let listen = match (tunnel.listen.first(), socket(tunnel)) {
        (_, Some(path)) => format!("unix:{}", path.rsplit('/').next().unwrap_or(path)),
        (Some(_), None) if tunnel.listen.len() > 1 => port_of(&tunnel.listen[0]).to_owned(),
        (Some(one), None) if one.starts_with("127.0.0.1:") => port_of(one).to_owned(),
        (Some(one), None) => one.clone(),
        (None, None) => return format!("pomctl add {} {}", tunnel.name, tunnel.route),
    };
    format!(
        "pomctl add {} {} --listen {listen}",
        tunnel.name, tunnel.route
    )
}

fn port_of(address: &str) -> &str {
    address.rsplit_once(':').map_or("", |it| it.1)
}

/// Returns what a person types to use the tunnel, where the route's port tells.
fn usage(tunnel: &Tunnel, glyphs: &Glyphs) -> String {
    if let Some(path) = socket(tunnel) {
        return usage_of_socket(tunnel, path);
    }
    let local = local(tunnel, glyphs);
    let Some((host, port)) = local.rsplit_once(':') else {
        return local;
    };
    let host = match host.trim_matches(['[', ']']) {
        "0.0.0.0" | "::" => "localhost",
        host => host,
    };
    if port.parse::<u16>().is_err() {
        return local;
    }
    match port_of_route(tunnel) {
        "22" => format!("ssh -p {port} {host}"),
        _ if tunnel.ssh => format!("ssh -p {port} {host}"),
        "5432" => format!("psql -h {host} -p {port}"),
        "3306" => format!("mysql --protocol=tcp -h {host} -P {port}"),
        "6379" if host == "localhost" => format!("redis-cli -p {port}"),
        "6379" => format!("redis-cli -h {host} -p {port}"),
        "80" => format!("http://{}/", web(host, port)),
        "443" => format!("https://{}/", web(host, port)),
        _ => web(host, port),
    }
}

/// Returns what a person types to use the Unix socket of a tunnel.
fn usage_of_socket(tunnel: &Tunnel, path: &str) -> String {
    let is_plain = |it: char| it.is_ascii_alphanumeric() || "/._-".contains(it);
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let quoted = |text: &str| match text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    };
    let at = quoted(path);
    match port_of_route(tunnel) {
        // psql takes the folder, and looks for this name in it.
        "5432" if name == ".s.PGSQL.5432" => format!("psql -h {}", quoted(folder)),
        "3306" => format!("mysql --socket={at}"),
        "6379" => format!("redis-cli -s {at}"),
        "80" => format!("curl --unix-socket {at} http://localhost/"),
        "443" => format!("curl --unix-socket {at} https://localhost/"),
        _ => at,
    }
}

fn port_of_route(tunnel: &Tunnel) -> &str {
    port_of(&tunnel.route)
}

fn web(host: &str, port: &str) -> String {
    if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    }
}

#[cfg(test)]
mod tests {
    use super::{super::glyphs::unicode, *};

    fn tunnel(route: &str, listen: &[&str]) -> Tunnel {
        Tunnel {
            name: "t".to_owned(),
            state: TunnelState::Up,
            start: control::wire::Start::Auto,
            temporary: false,
            protocol: Protocol::Tcp,
            cluster: "c".to_owned(),
            route: route.to_owned(),
            server: None,
            tried: None,
            listen: listen.iter().map(|it| (*it).to_owned()).collect(),
            ssh: false,
            exposed: false,
            reason: None,
            connections: control::wire::Connections::default(),
            bytes: control::wire::Bytes::default(),
            last_connection_at: None,
        }
    }

    #[test]
    fn the_route_s_port_tells_the_command() {
        let both = ["127.0.0.1:4000", "[::1]:4000"];
        let table = [
            ("a:22", &both[..], "ssh -p 4000 localhost"),
            ("a:5432", &both[..], "psql -h localhost -p 4000"),
            (
                "a:3306",
                &both[..],
                "mysql --protocol=tcp -h localhost -P 4000",
            ),
            ("a:6379", &both[..], "redis-cli -p 4000"),
            ("a:80", &both[..], "http://localhost:4000/"),
            ("a:443", &both[..], "https://localhost:4000/"),
            ("a:9", &both[..], "localhost:4000"),
            ("a:22", &["[::1]:4000"][..], "ssh -p 4000 ::1"),
            ("a:80", &["[::1]:4000"][..], "http://[::1]:4000/"),
            ("a:22", &["0.0.0.0:4000"][..], "ssh -p 4000 localhost"),
            ("a:22", &["127.0.0.2:4000"][..], "ssh -p 4000 127.0.0.2"),
            ("a:5432", &["unix:/run/x.sock"][..], "/run/x.sock"),
            ("a:5432", &["unix:/run/.s.PGSQL.5432"][..], "psql -h /run"),
            ("a:3306", &["unix:/run/x"][..], "mysql --socket=/run/x"),
            (
                "a:6379",
                &["unix:/a b/it's"][..],
                r"redis-cli -s '/a b/it'\''s'",
            ),
            (
                "a:80",
                &["unix:/run/x"][..],
                "curl --unix-socket /run/x http://localhost/",
            ),
            ("a:22", &[][..], "–"),
        ];
        for (route, listen, command) in table {
            assert_eq!(usage(&tunnel(route, listen), unicode()), command);
        }
        let on_socket = tunnel("a:22", &["unix:/run/user/1/pomd/x.sock"]);
        assert_eq!(local(&on_socket, unicode()), "unix:x.sock");
        let ssh = Tunnel {
            ssh: true,
            ..tunnel("a:2222", &both)
        };
        assert_eq!(usage(&ssh, unicode()), "ssh -p 4000 localhost");
    }

    #[test]
    fn what_cannot_have_happened_is_not_counted() {
        let mut tunnel = tunnel("a:22", &[]);
        assert_eq!(counts(&tunnel, unicode()), ["0", "–", "–"]);
        tunnel.bytes.sent = 1;
        assert_eq!(counts(&tunnel, unicode()), ["0", "0 B", "1 B"]);
        tunnel.state = TunnelState::Down;
        assert_eq!(counts(&tunnel, unicode())[0], "–");
        tunnel.connections.open = 2;
        assert_eq!(counts(&tunnel, unicode())[0], "2");
    }
}
