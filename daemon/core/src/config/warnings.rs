//! Warnings: what can be used as it is written, and perhaps does not do what it should.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Address, ClusterName, ClusterSpec, ForwardProxy, Host, Listen, Machine, ProxyKind, Route,
    check::Draft,
    file::Field,
    named::Named,
    report::{Found, Problem, Severity, Span, plain},
};

/// Warns of what can be used, and will not work as it is.
pub(super) fn of_tunnel(draft: &Draft, machine: &Machine, found: &mut Found) {
    let Route {
        protocol: _,
        authority,
        address,
    } = &draft.route.value;
    let odd = [&authority.host, &address.host]
        .into_iter()
        .find(|it| matches!(it, Host::Name(name) if name.contains('_')));
    if let Some(host) = odd {
        let what = format!("the host name {host} has a `_`, and Pomerium answers 400 to it");
        found.warn(
            Severity::Warning,
            Problem::at(draft.route.span.clone(), what)
                .section(&draft.title)
                .label("write it with `-`, here and in the route that Pomerium publishes"),
        );
    }
    let Some(listen) = &draft.listen else { return };
    let port = match listen.value {
        Listen::Loopback(port) => Some(port),
        Listen::Address(it) => Some(it.port()),
        Listen::Chosen | Listen::Unix(_) => None,
    };
    let first = machine.first_port;
    if let Some(port) = port.filter(|it| *it < first) {
        found.warn(
            Severity::Warning,
            Problem::at(
                listen.span.clone(),
                format!("ports below {first} need root"),
            )
            .section(&draft.title)
            .label(format!("try {}", port + 8000)),
        );
    }
}

/// Warns of a cluster that can be used, and perhaps does not do what it should.
pub(super) fn of_cluster(
    cluster: &Named,
    routes: &[&Field<Route>],
    no_tunnels: bool,
    found: &mut Found,
) {
    let at = |span: &Span, what: String| Problem::at(span.clone(), what).section(&cluster.title);
    let spec = &cluster.spec;
    let url = cluster.url.iter().map(|it| (&it.span, &it.value));
    let all = url.chain(routes.iter().map(|it| (&it.span, &it.value.address)));
    let is_near = |it: &Address| {
        spec.connect
            .as_ref()
            .map_or(&it.host, |it| &it.host)
            .is_loopback()
    };
    if let Some((span, address)) = all.into_iter().find(|it| !it.1.tls && !is_near(it.1)) {
        found.warn(
            Severity::Standing,
            clear_text(span, address).section(&cluster.title),
        );
    }
    if let (Some(span), ForwardProxy::At(proxy), Some(_)) = (
        &cluster.proxy,
        &spec.forward_proxy,
        &spec.forward_proxy_auth,
    ) && proxy.kind != ProxyKind::Https
        && !proxy.authority.host.is_loopback()
    {
        let what = format!("the password for {proxy} is sent in clear text");
        let problem =
            at(span, what).help("whoever is in between reads it; use https:// if the proxy can");
        found.warn(Severity::Standing, problem);
    }
    if routes.is_empty() && (!no_tunnels || !cluster.has_hosts) {
        let label = match cluster.has_hosts {
            true => "none of its `hosts` is the host of a tunnel",
            false => "say which hosts share this login: hosts = [\"*.corp.example.com\"]",
        };
        let what = format!("no tunnel uses the cluster {}", cluster.name);
        found.warn(Severity::Warning, at(&cluster.span, what).label(label));
    }
    let (Some(url), None) = (&cluster.url, &spec.connect) else {
        return;
    };
    let other = routes
        .iter()
        .find(|it| it.value.address.port != url.value.port);
    if let Some(other) = other {
        let (here, there) = (url.value.port, other.value.address.port);
        let what =
            format!("the login is made at port {here}, and a tunnel is opened at port {there}");
        let connect = format!("{}:{here}", url.value.host.bracketed());
        found.warn(
            Severity::Warning,
            at(&url.span, what)
                .label(format!("port {here} here"))
                .other(other.span.clone(), format!("port {there} here"))
                .help(format!(
                    "if all of it is at port {here}, add: connect = \"{connect}\""
                )),
        );
    }
}

fn clear_text(span: &Span, address: &Address) -> Problem {
    Problem::at(span.clone(), format!("{address} is reached in clear text"))
        .label("whoever is in between reads the login and all data")
        .help("use https, as Pomerium does")
}

/// Warns of what tunnels without a cluster in the file may not be meant to do.
pub(super) fn of_separate_logins(
    own: &BTreeMap<ClusterName, ClusterSpec>,
    drafts: &[Draft],
    of_tunnel: &[ClusterName],
    named: &[Named],
    found: &mut Found,
) {
    let mut told: BTreeSet<&ClusterName> = BTreeSet::new();
    let mut families: BTreeMap<(&str, u16), Vec<&Draft>> = BTreeMap::new();
    for (draft, cluster) in drafts.iter().zip(of_tunnel) {
        let address = &draft.route.value.address;
        if !own.contains_key(cluster) {
            continue;
        }
        if !address.tls && !address.host.is_loopback() && told.insert(cluster) {
            let problem = clear_text(&draft.route.span, address);
            found.warn(Severity::Standing, problem.section(&draft.title));
        }
        if let Some(parent) = address.host.parent().filter(|_| address.tls) {
            families
                .entry((parent, address.port))
                .or_default()
                .push(draft);
        }
    }
    for ((parent, _), drafts) in families {
        let hosts: BTreeSet<&Host> = drafts
            .iter()
            .map(|it| &it.route.value.address.host)
            .collect();
        if hosts.len() < 2 {
            continue;
        }
        let first = drafts
            .iter()
            .map(|it| &it.route.span)
            .min_by_key(|it| it.start);
        let Some(first) = first else { continue };
        // A short domain may be a registry's: its other hosts are somebody else's.
        let list = match parent.matches('.').count() {
            0 | 1 => hosts
                .iter()
                .map(|it| format!("\"{it}\""))
                .collect::<Vec<_>>()
                .join(", "),
            _ => format!("\"*.{parent}\""),
        };
        let name = plain(parent.split('.').next().unwrap_or(parent));
        let add = match named.iter().any(|it| it.name.as_str() == name) {
            true => format!("to share one login add to [cluster.{name}]: hosts = [{list}]"),
            false => format!("to share one login add: [cluster.{name}] hosts = [{list}]"),
        };
        let what = format!("{} tunnels under {parent} log in separately", drafts.len());
        found.warn(
            Severity::Standing,
            Problem::at(first.clone(), what).help(add),
        );
    }
}
