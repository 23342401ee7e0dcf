//! Configurations, routes and host patterns that nobody would write.

use std::{fmt::Write, path::Path};

use pomd_core::config::{
    Address, Authority, BrowserChoice, Change, ClusterSpec, Config, ForwardProxy, Host,
    HostPattern, Listen, Route, Start, TokenKind, TokenSource, TunnelSpec, changes as differences,
};

const BASE: &str = "/etc/pomd";

/// A file: either a configuration that means the same when it is written anew, or problems whose places are in the text.
pub(super) fn config(bytes: &[u8]) {
    match Config::read(bytes, Path::new(BASE)) {
        Ok(config) => {
            for tunnel in config.tunnels.values() {
                let cluster = &config.clusters[&tunnel.cluster];
                assert!(cluster.allows(&tunnel.route.address.host));
            }
            for cluster in config.clusters.values() {
                assert!(!cluster.login_at.is_empty(), "nowhere to log in");
                assert!(cluster.login_at.iter().all(|it| cluster.allows(&it.host)));
            }
            let text = written(&config);
            let again = Config::parse(&text, Path::new(BASE));
            assert_eq!(again, Ok(config), "{text}");
        }
        Err(problems) => {
            let text = String::from_utf8_lossy(bytes);
            let shown = text.strip_prefix('\u{feff}').unwrap_or(&text);
            assert!(problems.count() > 0);
            for problem in problems.iter() {
                let others = problem.others.iter().map(|it| &it.0);
                for place in problem.span.iter().chain(others) {
                    assert!(shown.get(place.clone()).is_some(), "{problem:?}");
                }
            }
            problems.render(&text, "pomd.toml", true);
        }
    }
}

/// Two files with a zero byte between them: what differs leads from the one to the other, and is nothing else.
pub(super) fn changes(bytes: &[u8]) {
    let Some(middle) = bytes.iter().position(|it| *it == 0) else {
        return;
    };
    let read = |bytes| Config::read(bytes, Path::new(BASE));
    let (Ok(old), Ok(new)) = (read(&bytes[..middle]), read(&bytes[middle + 1..])) else {
        return;
    };
    let found = differences(&old, &new);
    assert_eq!(found.is_empty(), old == new);
    for (name, change) in &found.tunnels {
        assert!(is_told_right(
            change,
            old.tunnels.get(name),
            new.tunnels.get(name)
        ));
    }
    for (name, change) in &found.clusters {
        assert!(is_told_right(
            change,
            old.clusters.get(name),
            new.clusters.get(name)
        ));
    }
    for name in old.tunnels.keys().chain(new.tunnels.keys()) {
        assert!(found.tunnels.contains_key(name) || old.tunnels.get(name) == new.tunnels.get(name));
    }
    for name in old.clusters.keys().chain(new.clusters.keys()) {
        assert!(
            found.clusters.contains_key(name) || old.clusters.get(name) == new.clusters.get(name)
        );
    }
    assert_eq!(
        found.settings.as_ref().unwrap_or(&old.settings),
        &new.settings
    );
    assert!(differences(&new, &new).is_empty());
}

fn is_told_right<Spec: PartialEq>(
    change: &Change<Spec>,
    old: Option<&Spec>,
    new: Option<&Spec>,
) -> bool {
    match change {
        Change::Added(to) => old.is_none() && new == Some(to),
        Change::Removed => old.is_some() && new.is_none(),
        Change::Changed { to, keys } => {
            old.is_some_and(|it| it != to) && new == Some(to) && !keys.is_empty()
        }
    }
}

/// What is a route, an address or a host reads the same again once it is printed.
pub(super) fn route(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(route) = Route::parse(text) {
        assert_eq!(Route::parse(&route.to_string()), Ok(route));
    }
    if let Ok(authority) = Authority::parse(text) {
        assert_eq!(Authority::parse(&authority.to_string()), Ok(authority));
    }
    if let Ok(address) = Address::parse(text) {
        assert_eq!(Address::parse(&address.to_string()), Ok(address.clone()));
        // What stands in a Host header, with its scheme before it, is the same place.
        let scheme = if address.tls { "https" } else { "http" };
        let again = Address::parse(&format!("{scheme}://{}", address.host_and_port()));
        assert_eq!(again, Ok(address));
    }
    if let Ok(host) = Host::parse(text) {
        assert_eq!(Host::parse(&host.to_string()), Ok(host.clone()));
        assert_eq!(Host::parse(&host.bracketed()), Ok(host));
    }
}

/// A pattern and a host on two lines: they match as a slow matcher says, which shares nothing with the real one (A15).
pub(super) fn host_match(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let (pattern, host) = text.split_once('\n').unwrap_or((text, text));
    let (Ok(parsed), Ok(host)) = (HostPattern::parse(pattern), Host::parse(host)) else {
        return;
    };
    assert_eq!(HostPattern::parse(parsed.as_str()).as_ref(), Ok(&parsed));
    let matches = slowly(parsed.as_str(), &host);
    assert_eq!(parsed.matches(&host), matches, "{parsed} {host}");
    assert_eq!(
        HostPattern::all_for(&host).contains(&parsed),
        matches,
        "{parsed} {host}"
    );
    if let Some(only) = parsed.host() {
        assert_eq!(only == host, matches, "{parsed} {host}");
    }
    if pattern.is_ascii() && host.to_string().is_ascii() {
        // Nor does the spelling that was read count for anything but its case and a last dot.
        let spelt = pattern.to_ascii_lowercase();
        let spelt = spelt.strip_suffix('.').unwrap_or(&spelt);
        let is_name = matches!(host, Host::Name(_));
        assert!(
            !is_name || slowly(spelt, &host) == matches,
            "{pattern} {host}"
        );
    }
}

/// Label by label from the right.
fn slowly(pattern: &str, host: &Host) -> bool {
    let host = match host {
        Host::Name(it) => it,
        Host::Ip(it) => return pattern == it.to_string(),
    };
    let pattern: Vec<&str> = pattern.rsplit('.').collect();
    let host: Vec<&str> = host.rsplit('.').collect();
    for (at, wanted) in pattern.iter().enumerate() {
        if *wanted == "*" {
            return at + 1 == pattern.len() && host.len() > at;
        }
        if host.get(at) != Some(wanted) {
            return false;
        }
    }
    pattern.len() == host.len()
}

/// A file that holds this configuration.
fn written(config: &Config) -> String {
    let mut res = String::from("[settings]\n");
    line(&mut res, "read_ahead", config.settings.read_ahead);
    line(&mut res, "allow_users", list(&config.settings.allow_users));
    for (name, cluster) in config.clusters.iter().filter(|it| it.1.named) {
        let _ = writeln!(res, "[cluster.{}]", text(name.as_str()));
        write_cluster(&mut res, cluster);
    }
    for (name, tunnel) in &config.tunnels {
        let _ = writeln!(res, "[tunnel.{}]", text(name.as_str()));
        write_tunnel(&mut res, tunnel);
    }
    res
}

fn write_tunnel(res: &mut String, tunnel: &TunnelSpec) {
    line(res, "route", text(&tunnel.route.to_string()));
    match &tunnel.listen {
        Listen::Chosen => {}
        Listen::Loopback(port) => line(res, "listen", port),
        Listen::Unix(name) => line(res, "listen", text(&format!("unix:{name}"))),
        Listen::Address(address) => line(res, "listen", text(&address.to_string())),
    }
    let start = match tunnel.start {
        Start::Auto => "auto",
        Start::Manual => "manual",
    };
    line(res, "start", text(start));
    line(res, "ssh", tunnel.ssh);
    line(res, "expose", tunnel.expose);
    line(res, "browser_guard", tunnel.browser_guard);
    let hosts: Vec<String> = tunnel.allow_hosts.iter().map(ToString::to_string).collect();
    line(res, "allow_hosts", list(&hosts));
}

fn write_cluster(res: &mut String, cluster: &ClusterSpec) {
    let mut hosts: Vec<String> = cluster.hosts.iter().map(ToString::to_string).collect();
    // Where there is one address it may have been said; the host of one that was said is the cluster's.
    if let [url] = &cluster.login_at[..] {
        let host = HostPattern::exactly(&url.host);
        if cluster.hosts.contains(&host) {
            line(res, "url", text(&url.to_string()));
            if cluster.hosts.last() == Some(&host) {
                hosts.pop();
            }
        }
    }
    if !hosts.is_empty() {
        line(res, "hosts", list(&hosts));
    }
    let mut option = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            line(res, key, text(&value));
        }
    };
    let identity = cluster.client_identity.as_ref();
    option("connect", cluster.connect.as_ref().map(ToString::to_string));
    option(
        "server_name",
        cluster.server_name.as_ref().map(ToString::to_string),
    );
    option("ca_file", cluster.ca_file.as_deref().map(path));
    option("client_cert", identity.map(|it| path(&it.certificate)));
    option("client_key", identity.map(|it| path(&it.key)));
    option(
        "forward_proxy",
        match &cluster.forward_proxy {
            ForwardProxy::Environment => None,
            ForwardProxy::None => Some("none".to_owned()),
            ForwardProxy::At(it) => Some(it.to_string()),
        },
    );
    option(
        "browser",
        match &cluster.browser {
            BrowserChoice::None => Some("none".to_owned()),
            _ => None,
        },
    );
    if let BrowserChoice::Command(command) = &cluster.browser {
        line(res, "browser", list(command));
    }
    if let Some(file) = &cluster.forward_proxy_auth {
        line(
            res,
            "forward_proxy_auth",
            format!("{{ file = {} }}", text(&path(file))),
        );
    }
    if let Some(source) = match &cluster.token.source {
        TokenSource::Browser => None,
        TokenSource::File(it) => Some(format!("file = {}", text(&path(it)))),
        TokenSource::Env(it) => Some(format!("env = {}", text(it))),
        TokenSource::Credential(it) => Some(format!("credential = {}", text(it))),
        TokenSource::Command(it) => Some(format!("command = {}", list(it))),
        TokenSource::GithubActions { audience } => Some(format!(
            "github_actions = {{ audience = {} }}",
            text(audience)
        )),
    } {
        let kind = match cluster.token.kind {
            TokenKind::Pomerium => "pomerium",
            TokenKind::Bearer => "bearer",
        };
        line(res, "token", format!("{{ {source}, kind = \"{kind}\" }}"));
    }
    line(res, "insecure_skip_verify", cluster.insecure_skip_verify);
}

fn line(res: &mut String, key: &str, value: impl std::fmt::Display) {
    let _ = writeln!(res, "{key} = {value}");
}

fn list(items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|it| text(it)).collect();
    format!("[{}]", items.join(", "))
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

/// JSON's strings are TOML's, but for one character.
fn text(text: &str) -> String {
    let quoted = serde_json::to_string(text).unwrap_or_default();
    quoted.replace('\u{7f}', "\\u007f")
}
