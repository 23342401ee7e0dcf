//! Which tunnel belongs to which cluster, and where each cluster's login is made.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    BrowserChoice, ClusterName, ClusterSpec, ForwardProxy, HostPattern,
    address::Address,
    check::Draft,
    file::Field,
    host::Host,
    named::Named,
    owner::{Owner, owner},
    proxy::ProxyKind,
    report::{Found, Problem, Severity, Span, plain, quoted},
};

/// Who says that a host is his, and where.
struct Claim {
    cluster: usize,
    span: Span,
    /// It is the host of his `url`, for this address only if another cluster logs in on the same host.
    url: Option<Address>,
}

type Claims = BTreeMap<HostPattern, Vec<Claim>>;

/// All clusters, and for each draft in turn the name of its own. `partial`: nothing can be called missing.
pub(super) fn place(
    mut named: Vec<Named>,
    drafts: &[Draft],
    partial: bool,
    found: &mut Found,
) -> (BTreeMap<ClusterName, ClusterSpec>, Vec<ClusterName>) {
    let claims = claims(&named, found);
    for cluster in &mut named {
        cluster.spec.hosts = hosts(cluster);
    }
    let mut own: BTreeMap<ClusterName, ClusterSpec> = BTreeMap::new();
    let mut addresses: Vec<Vec<&Field<_>>> = named.iter().map(|_| Vec::new()).collect();
    let mut of_tunnel = Vec::new();
    for draft in drafts {
        let address = &draft.route.value.address;
        let of_pattern = |pattern: &HostPattern| {
            let claims = claims.get(pattern).into_iter().flatten();
            claims.map(|it| (it.cluster, it.url.as_ref())).collect()
        };
        let cluster = match owner(of_pattern, address) {
            Owner::None => {
                let name = ClusterName::for_address(address);
                add_own(&mut own, &name, address, draft, &named, found);
                name
            }
            Owner::One(it) => {
                addresses[it].push(&draft.route);
                named[it].name.clone()
            }
            Owner::Several(a, b) => {
                found.push(
                    Problem::at(
                        draft.route.span.clone(),
                        format!("{} is in two clusters", address.host),
                    )
                    .section(&draft.title)
                    .label(format!("in {} and in {}", named[a].name, named[b].name)),
                );
                named[a].name.clone()
            }
        };
        of_tunnel.push(cluster);
    }
    without_cluster(&own, drafts, &of_tunnel, &named, found);
    let mut res = own;
    for (mut cluster, routes) in named.into_iter().zip(addresses) {
        one_scheme(&cluster, &routes, found);
        not_in_the_open(&cluster, &routes, found);
        doubts(&cluster, &routes, drafts.is_empty() || partial, found);
        cluster.spec.login_at = login_at(&cluster, &routes);
        let servers = routes.iter().map(|it| &it.value.address);
        cluster.spec.ports = ports(cluster.spec.login_at.iter().chain(servers));
        let could_be = cluster.has_url || cluster.hosts.is_empty();
        if cluster.spec.login_at.is_empty() && !partial && !could_be {
            found.push(
                Problem::at(cluster.span.clone(), "no address for the login")
                    .section(&cluster.title)
                    .label("add one of its hosts: url = \"https://HOST\""),
            );
        }
        res.insert(cluster.name, cluster.spec);
    }
    (res, of_tunnel)
}

fn claims(named: &[Named], found: &mut Found) -> Claims {
    let mut res = Claims::new();
    for (index, cluster) in named.iter().enumerate() {
        for pattern in &cluster.hosts {
            let claim = Claim {
                cluster: index,
                span: pattern.span.clone(),
                url: None,
            };
            add_claim(&mut res, pattern.value.clone(), claim, named, found);
        }
        if let Some(url) = &cluster.url {
            let claim = Claim {
                cluster: index,
                span: url.span.clone(),
                url: Some(url.value.clone()),
            };
            let pattern = HostPattern::exactly(&url.value.host);
            add_claim(&mut res, pattern, claim, named, found);
        }
    }
    res
}

fn add_claim(
    claims: &mut Claims,
    pattern: HostPattern,
    claim: Claim,
    named: &[Named],
    found: &mut Found,
) {
    let others = claims.entry(pattern.clone()).or_default();
    if others.iter().any(|it| it.cluster == claim.cluster) {
        return;
    }
    let apart =
        |other: &&Claim| other.url.is_some() && claim.url.is_some() && other.url != claim.url;
    match others.iter().find(|it| !apart(it)) {
        None => others.push(claim),
        Some(first) => {
            let (earlier, later) = match first.span.start < claim.span.start {
                true => (first, &claim),
                false => (&claim, first),
            };
            let name = |it: &Claim| named[it.cluster].name.to_string();
            let what = format!("{} is in two clusters", quoted(pattern.as_str()));
            found.push(
                Problem::at(later.span.clone(), what)
                    .label(format!("in {} here", name(later)))
                    .other(earlier.span.clone(), format!("in {} here", name(earlier)))
                    .help("leave it to one of them: a host has one login"),
            );
        }
    }
}

fn hosts(cluster: &Named) -> Vec<HostPattern> {
    let own = cluster.hosts.iter().map(|it| it.value.clone());
    let url = cluster
        .url
        .iter()
        .map(|it| HostPattern::exactly(&it.value.host));
    without_repeats(own.chain(url))
}

/// The cluster that stands for the host of one tunnel, shared by all tunnels that dial the same address.
fn add_own(
    own: &mut BTreeMap<ClusterName, ClusterSpec>,
    name: &ClusterName,
    address: &Address,
    draft: &Draft,
    named: &[Named],
    found: &mut Found,
) {
    let mut problem = |what: String, label: String| {
        found.push(
            Problem::at(draft.route.span.clone(), what)
                .section(&draft.title)
                .label(label),
        );
    };
    if named.iter().any(|it| it.name == *name) {
        problem(
            format!("{} is not in the cluster of that name", address.host),
            format!("add it there: hosts = [\"{}\"]", address.host),
        );
    }
    match own.get(name) {
        // Only the default port of the other scheme makes the same name.
        Some(spec) if !spec.login_at.contains(address) => problem(
            format!("{} is reached with TLS and without", address.host),
            "reach it in one way: the login would be sent in the open".to_owned(),
        ),
        Some(_) => {}
        None => {
            own.insert(name.clone(), of_host(address));
        }
    }
}

fn of_host(address: &Address) -> ClusterSpec {
    ClusterSpec {
        hosts: vec![HostPattern::exactly(&address.host)],
        login_at: vec![address.clone()],
        ports: ports([address]),
        connect: None,
        server_name: None,
        ca_file: None,
        client_identity: None,
        forward_proxy: ForwardProxy::Environment,
        forward_proxy_auth: None,
        browser: BrowserChoice::Default,
        insecure_skip_verify: false,
        named: false,
    }
}

/// A login made over TLS is not to be sent without it.
fn one_scheme(cluster: &Named, routes: &[&Field<super::Route>], found: &mut Found) {
    let url = cluster.url.iter().map(|it| (&it.span, it.value.tls));
    let all: Vec<(&Span, bool)> = url
        .chain(routes.iter().map(|it| (&it.span, it.value.address.tls)))
        .collect();
    let with = all.iter().find(|it| it.1);
    let without = all.iter().find(|it| !it.1);
    if let (Some(with), Some(without)) = (with, without) {
        found.push(
            Problem::at(
                without.0.clone(),
                format!(
                    "the cluster {} is reached with TLS and without",
                    cluster.name
                ),
            )
            .label("without TLS here: the login would be sent in the open")
            .other(with.0.clone(), "with TLS here"),
        );
    }
}

/// A token goes through a forward proxy inside TLS or not at all.
fn not_in_the_open(cluster: &Named, routes: &[&Field<super::Route>], found: &mut Found) {
    let Some(proxy) = &cluster.proxy else { return };
    let url = cluster.url.iter().map(|it| (&it.span, it.value.tls));
    let routes = routes.iter().map(|it| (&it.span, it.value.address.tls));
    if let Some((open, _)) = url.chain(routes).find(|it| !it.1) {
        found.push(
            Problem::at(proxy.clone(), "a forward proxy without TLS behind it")
                .section(&cluster.title)
                .label("the proxy would see the login")
                .other(open.clone(), "without TLS here"),
        );
    }
}

/// Warns of a cluster that can be used, and perhaps does not do what it should.
fn doubts(cluster: &Named, routes: &[&Field<super::Route>], no_tunnels: bool, found: &mut Found) {
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
fn without_cluster(
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

fn without_repeats<T: Ord + Clone>(all: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = BTreeSet::new();
    all.filter(|it| seen.insert(it.clone())).collect()
}

fn ports<'a>(addresses: impl IntoIterator<Item = &'a Address>) -> BTreeSet<u16> {
    addresses.into_iter().map(|it| it.port).collect()
}

fn login_at(cluster: &Named, routes: &[&Field<super::Route>]) -> Vec<Address> {
    if let Some(url) = &cluster.url {
        return vec![url.value.clone()];
    }
    let mut res = without_repeats(routes.iter().map(|it| it.value.address.clone()));
    if res.is_empty() {
        let hosts = cluster.spec.hosts.iter().filter_map(HostPattern::host);
        res.extend(hosts.map(|host: Host| Address {
            tls: true,
            host,
            port: 443,
        }));
    }
    res
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use crate::config::{Config, TunnelName};

    /// How well a pattern fits, in labels: an exact one beats every other.
    fn fit(pattern: &str, host: &str) -> Option<usize> {
        let rest: Vec<&str> = pattern.split('.').rev().collect();
        let host: Vec<&str> = host.split('.').rev().collect();
        match rest.split_last() {
            Some((&"*", rest)) => {
                (host.len() > rest.len() && host.starts_with(rest)).then_some(rest.len())
            }
            _ => (rest == host).then_some(usize::MAX),
        }
    }

    proptest! {
        #[test]
        fn the_most_specific_pattern_wins(
            patterns in prop::collection::btree_set("(\\*\\.)?[ab](\\.[ab]){0,2}", 1..5),
            host in "[ab](\\.[ab]){0,3}",
        ) {
            let mut text = format!("[tunnel.t]\nroute = \"{host}:1\"\n");
            for (n, pattern) in patterns.iter().enumerate() {
                text += &format!("[cluster.c{n}]\nurl = \"https://c{n}.x\"\nhosts = [\"{pattern}\"]\n");
            }
            let config = Config::parse(&text, Path::new("/")).unwrap();
            let best = patterns
                .iter()
                .enumerate()
                .filter_map(|(n, pattern)| Some((fit(pattern, &host)?, format!("c{n}"))))
                .max()
                .map_or(host, |it| it.1);
            let tunnel = TunnelName::parse("t").unwrap();
            prop_assert_eq!(config.tunnels[&tunnel].cluster.as_str(), best);
        }
    }
}
