//! Which tunnel belongs to which cluster, and where each cluster's login is made.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    ClusterName, ClusterSpec, HostPattern,
    address::Address,
    check::Draft,
    file::Field,
    host::Host,
    named::Named,
    owner::{Owner, owner},
    report::{Found, Problem, Span, quoted},
    warnings,
};

/// Who says that a host is his, and where.
struct Claim {
    cluster: usize,
    span: Span,
    /// It is the host of his `url`, for this address only if another cluster logs in on the same host.
    url: Option<Address>,
}

type Claims = BTreeMap<HostPattern, Vec<Claim>>;

/// Returns all clusters, and for each draft in turn the name of its own. Where the file is `partial`, nothing is missing.
pub(super) fn assign(
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
    warnings::of_separate_logins(&own, drafts, &of_tunnel, &named, found);
    let mut res = own;
    for (mut cluster, routes) in named.into_iter().zip(addresses) {
        one_scheme(&cluster, &routes, found);
        not_in_the_open(&cluster, &routes, found);
        warnings::of_cluster(&cluster, &routes, drafts.is_empty() || partial, found);
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

/// Adds the cluster that stands for the host of one tunnel, shared by all tunnels that dial the same address.
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

/// Returns the cluster that stands for one host.
pub(super) fn of_host(address: &Address) -> ClusterSpec {
    ClusterSpec {
        hosts: vec![HostPattern::exactly(&address.host)],
        login_at: vec![address.clone()],
        ports: ports([address]),
        ..ClusterSpec::default()
    }
}

/// Adds the problem of a login that is made over TLS and would be sent without it.
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

/// Adds the problem of a token that would go through a forward proxy without TLS.
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
