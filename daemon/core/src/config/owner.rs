//! Which cluster's login an address takes, and where a bare name leads (A15, A24, A28).
//!
//! The one decision for the file and for the control API: [`owner`] is asked for a tunnel's route and for a name that
//! came from outside. Pure.

use std::fmt;

use super::{
    ClusterName, ClusterSpec, Config, HostPattern, Route, TunnelName, Wrong,
    address::{Address, Authority, default_port},
    host::Host,
};

/// Whose login an address takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner<C> {
    /// No cluster claims the host.
    None,
    /// This cluster's.
    One(C),
    /// Clusters that log in on one host claim it, and none of them at this address.
    Several(C, C),
}

/// The cluster with the most specific pattern for the address. `claims` are the clusters that claim a pattern, each with
/// the address of its login: several can claim one only by their logins on the same host, and addresses tell them apart.
pub(super) fn owner<'a, C: Copy>(
    claims: impl Fn(&HostPattern) -> Vec<(C, Option<&'a Address>)>,
    address: &Address,
) -> Owner<C> {
    let patterns = HostPattern::all_for(&address.host);
    let best = patterns.iter().map(claims).find(|it| !it.is_empty());
    match best.as_deref() {
        None | Some([]) => Owner::None,
        Some([(one, _)]) => Owner::One(*one),
        Some(several @ [(first, _), (second, _), ..]) => {
            match several.iter().find(|it| it.1 == Some(address)) {
                Some((it, _)) => Owner::One(*it),
                None => Owner::Several(*first, *second),
            }
        }
    }
}

/// Where a bare name leads, and whose login it takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// The name with the server that is dialled for it.
    pub route: Route,
    /// Whose login it takes.
    pub cluster: ClusterName,
}

/// Why a bare name leads nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoDestination {
    /// Neither a tunnel nor a cluster knows it.
    Unknown(Authority),
    /// Several Pomeriums on its host could be meant.
    SeveralClusters(Authority, [ClusterName; 2]),
    /// Tunnels lead there by several servers.
    SeveralTunnels(Authority, [TunnelName; 2]),
}

impl Config {
    /// Where a name from outside leads: the way of the tunnel that has this route, else the server of the cluster that
    /// has this host. Never a cluster for a host that the file does not know: a login would be asked for whatever
    /// somebody types (A14).
    pub fn destination(&self, name: &Authority) -> Result<Destination, NoDestination> {
        let mut tunnels = self
            .tunnels
            .iter()
            .filter(|it| it.1.route.authority == *name);
        if let Some((first, spec)) = tunnels.next() {
            let same = |other: &super::TunnelSpec| {
                (&other.route, &other.cluster) == (&spec.route, &spec.cluster)
            };
            return match tunnels.find(|it| !same(it.1)) {
                None => Ok(Destination {
                    route: spec.route.clone(),
                    cluster: spec.cluster.clone(),
                }),
                Some((second, _)) => {
                    let names = [first.clone(), second.clone()];
                    Err(NoDestination::SeveralTunnels(name.clone(), names))
                }
            };
        }
        let route = Route::direct(name.clone(), true);
        match self.owner(&route.address) {
            Owner::One((cluster, spec)) => Ok(Destination {
                route: Route {
                    address: spec.server(&name.host),
                    ..route
                },
                cluster: cluster.clone(),
            }),
            Owner::None => Err(NoDestination::Unknown(name.clone())),
            Owner::Several((a, _), (b, _)) => {
                let names = [a.clone(), b.clone()];
                Err(NoDestination::SeveralClusters(name.clone(), names))
            }
        }
    }

    fn owner(&self, address: &Address) -> Owner<(&ClusterName, &ClusterSpec)> {
        let claims = |pattern: &HostPattern| {
            let clusters = self.clusters.iter();
            let claiming = clusters.filter(|it| it.1.hosts.contains(pattern));
            claiming.map(|it| (it, it.1.login_at.first())).collect()
        };
        owner(claims, address)
    }
}

impl ClusterSpec {
    /// Where its Pomerium is dialled for a host of which the file says nothing: as its login is reached, at the scheme's
    /// own port if anything of the cluster is there, or if `connect` says where to dial in any case.
    fn server(&self, host: &Host) -> Address {
        let tls = !self.is_plain();
        let own = default_port(tls);
        let is_usual = self.connect.is_some() || self.login_at.iter().any(|it| it.port == own);
        let other = self.login_at.first().filter(|_| !is_usual);
        Address {
            tls,
            host: host.clone(),
            port: other.map_or(own, |it| it.port),
        }
    }

    /// Its logins are made without TLS, as in a lab: its token may be seen on the way.
    pub fn is_plain(&self) -> bool {
        !self.login_at.is_empty() && self.login_at.iter().all(|it| !it.tls)
    }
}

/// Reads a name that comes from outside, by the control API or from ssh: `HOST:PORT` and nothing else, for it may be a
/// stranger's. Scheme, bastion and server are said by the file alone.
pub fn bare_name(text: &str) -> Result<Authority, Wrong> {
    let more = text.contains(['/', '@', '?', '#', '\\'])
        || text.contains(|it: char| it.is_control() || it.is_whitespace());
    if more {
        let what = format!("{} is not HOST:PORT", super::report::quoted(text));
        return Err(Wrong::new(
            what,
            "write only the host and the port of the route, such as db.example.com:5432; a scheme or a server on the way belongs to a tunnel in the configuration file",
        ));
    }
    Authority::parse(text)
}

impl NoDestination {
    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Unknown(_) => {
                "add the host to the hosts of a [cluster] in the configuration".to_owned()
            }
            Self::SeveralClusters(name, _) => format!(
                "make a tunnel that says which: route = \"tcp+https://HOST:PORT/{name}\" with the server's HOST:PORT"
            ),
            Self::SeveralTunnels(_, [first, _]) => {
                format!("use the port of the one you mean, as pomctl status {first} shows it")
            }
        }
    }
}

impl fmt::Display for NoDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(
                f,
                "no tunnel leads to {name}, and no cluster has the host {}",
                name.host
            ),
            Self::SeveralClusters(name, [a, b]) => write!(
                f,
                "two Pomeriums on {} could be meant by {name}, that of {a} and that of {b}",
                name.host
            ),
            Self::SeveralTunnels(name, [a, b]) => {
                write!(
                    f,
                    "the tunnels {a} and {b} lead to {name} by different servers"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {

    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    fn config(text: &str) -> Config {
        Config::parse(text, Path::new("/")).unwrap_or_else(|it| panic!("{text}{}", it.first_line()))
    }

    /// `ROUTE in CLUSTER`, or why not.
    fn leads(config: &Config, name: &str) -> String {
        match config.destination(&bare_name(name).unwrap()) {
            Ok(it) => format!(
                "{} by {} in {}",
                it.route.authority, it.route.address, it.cluster
            ),
            Err(error) => error.to_string(),
        }
    }

    const ONE: &str = "[cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test\"\n";
    /// Two on one host.
    const TWO: &str =
        "[cluster.a]\nurl = \"https://p.test:8443\"\n[cluster.b]\nurl = \"https://p.test:9443\"\n";
    const USUAL_AND_OTHER: &str =
        "[cluster.a]\nurl = \"https://p.test:8443\"\n[cluster.b]\nurl = \"https://p.test\"\n";

    #[test]
    fn a24_a28_a_name_leads_where_the_file_says_and_takes_the_login_of_that_place() {
        let bastion = |name: &str, place: &str| {
            format!("[tunnel.{name}]\nroute = \"tcp+https://{place}/db.internal:5432\"\n")
        };
        let of_hosts = |ports: &[u16]| {
            let tunnel = |port: &u16| {
                format!(
                    "[tunnel.t{port}]\nroute = \"tcp+https://h.test:{port}/db.internal:{port}\"\n"
                )
            };
            ports.iter().map(tunnel).collect::<String>()
        };
        for (text, name, expected) in [
        (ONE.to_owned(), "web.corp.test:22", "web.corp.test:22 by https://web.corp.test in corp"),
        (ONE.to_owned(), "CORP.test.:443", "corp.test:443 by https://corp.test in corp"),
        (
            ONE.to_owned(),
            "evilcorp.test:22",
            "no tunnel leads to evilcorp.test:22, and no cluster has the host evilcorp.test",
        ),
        (
            ONE.to_owned(),
            "[2001:db8::1]:22",
            "no tunnel leads to [2001:db8::1]:22, and no cluster has the host 2001:db8::1",
        ),
        // The tunnel says by which server, also for a name that would be a host of the cluster.
        (
            ONE.to_owned() + &bastion("db", "b.corp.test:8443"),
            "db.internal:5432",
            "db.internal:5432 by https://b.corp.test:8443 in corp",
        ),
        (
            ONE.to_owned() + "[tunnel.w]\nroute = \"tcp+https://b.corp.test/web.corp.test:22\"\n",
            "web.corp.test:22",
            "web.corp.test:22 by https://b.corp.test in corp",
        ),
        (
            ONE.to_owned() + &bastion("db", "b.corp.test:8443"),
            "db.internal:5433",
            "no tunnel leads to db.internal:5433, and no cluster has the host db.internal",
        ),
        // A server that only a tunnel names is no server for other names.
        (
            ONE.to_owned() + &bastion("db", "b.corp.test:8443"),
            "b.corp.test:22",
            "b.corp.test:22 by https://b.corp.test in corp",
        ),
        // Which of two could be meant is not guessed.
        (
            TWO.to_owned(),
            "p.test:22",
            "two Pomeriums on p.test could be meant by p.test:22, that of a and that of b",
        ),
        (USUAL_AND_OTHER.to_owned(), "p.test:22", "p.test:22 by https://p.test in b"),
        (
            TWO.to_owned() + &bastion("db", "p.test:9443"),
            "db.internal:5432",
            "db.internal:5432 by https://p.test:9443 in b",
        ),
        (
            TWO.to_owned() + &bastion("x", "p.test:8443") + &bastion("y", "p.test:9443"),
            "db.internal:5432",
            "the tunnels x and y lead to db.internal:5432 by different servers",
        ),
        (
            ONE.to_owned() + &bastion("x", "b.corp.test") + &bastion("y", "b.corp.test"),
            "db.internal:5432",
            "db.internal:5432 by https://b.corp.test in corp",
        ),
        // Without a [cluster]: the same for the clusters that stand for hosts.
        (
            of_hosts(&[8443, 9443]),
            "h.test:22",
            "two Pomeriums on h.test could be meant by h.test:22, that of h.test:8443 and that of h.test:9443",
        ),
        (of_hosts(&[443, 9443]), "h.test:22", "h.test:22 by https://h.test in h.test"),
        (of_hosts(&[9443]), "h.test:22", "h.test:22 by https://h.test:9443 in h.test:9443"),
        (
            of_hosts(&[8443, 9443]),
            "db.internal:9443",
            "db.internal:9443 by https://h.test:9443 in h.test:9443",
        ),
        // The scheme and the port are those of the cluster.
        (
            "[cluster.lab]\nhosts = [\"*.lab.test\"]\nurl = \"http://lab.test:8080\"\n".to_owned(),
            "web.lab.test:22",
            "web.lab.test:22 by http://web.lab.test:8080 in lab",
        ),
        (
            "[cluster.c]\nhosts = [\"*.c.test\"]\nurl = \"https://c.test:8443\"\n".to_owned(),
            "web.c.test:22",
            "web.c.test:22 by https://web.c.test:8443 in c",
        ),
        (
            "[cluster.c]\nhosts = [\"*.c.test\"]\nurl = \"https://c.test:8443\"\nconnect = \"192.0.2.1:7\"\n".to_owned(),
            "web.c.test:22",
            "web.c.test:22 by https://web.c.test in c",
        ),
    ] {
        assert_eq!(leads(&config(&text), name), expected, "{text}");
    }
    }

    #[test]
    fn a24_from_outside_comes_host_and_port_and_nothing_else() {
        for (text, same) in [
            ("web.corp.test:22", "web.corp.test:22"),
            ("WEB.Corp.Test.:22", "web.corp.test:22"),
            ("[2001:DB8::1]:22", "[2001:db8::1]:22"),
            ("192.0.2.7:22", "192.0.2.7:22"),
            ("bücher.test:22", "xn--bcher-kva.test:22"),
        ] {
            assert_eq!(bare_name(text).unwrap().to_string(), same);
        }
        for text in [
            "tcp+https://web.corp.test:22",
            "tcp+http://web.corp.test:22",
            "tcp+http://attacker.corp.test:44063/x",
            "tcp+http://attacker.corp.test:44063/x:22",
            "[tcp+http://attacker.corp.test:44063/x]:22",
            "TCP+HTTP://attacker.corp.test:44063/x:22",
            "tcp+http:/attacker.corp.test:22",
            "tcp+http:attacker.corp.test:22",
            "//web.corp.test:22",
            "web.corp.test:22/",
            "web.corp.test/x:22",
            "web.corp.test\\x:22",
            "user@web.corp.test:22",
            "user:password@web.corp.test:22",
            "web.corp.test:22?x",
            "web.corp.test:22#x",
            "web.corp.test:22\n",
            "web.corp.test\n:22",
            "web.corp.test\0:22",
            " web.corp.test:22",
            "web.corp.test :22",
            "web.corp.test:22\u{a0}",
            "web.corp.test:0",
            "web.corp.test:65536",
            "web.corp.test:+22",
            "web.corp.test:22:44063",
            "web.corp.test",
            "web.corp.test:",
            ":22",
            "",
            "[::1]",
            "::1:22",
            "[::1%lo]:22",
            "[web.corp.test]:22",
            "-oProxyCommand=x:22",
            "x$(id).corp.test:22",
            "`id`.corp.test:22",
            "*.corp.test:22",
            "127.1:22",
            "0x7f000001:22",
            "%77eb.corp.test:22",
            "web%2ecorp.test:22",
            "web.corp.test%2f:22",
        ] {
            let wrong = bare_name(text).expect_err(text);
            assert!(!wrong.instead.is_empty(), "{text:?}");
            let shown = format!("{}{}", wrong.what, wrong.instead);
            assert!(!shown.contains(char::is_control), "{shown:?}");
        }
        let wrong = bare_name("tcp+http://attacker.corp.test:44063/x:22").unwrap_err();
        assert!(wrong.instead.contains("host and the port"), "{wrong:?}");
        assert!(wrong.instead.contains("configuration file"), "{wrong:?}");
    }

    /// A server of some cluster or of none, as it stands in a file.
    fn server() -> impl Strategy<Value = String> {
        "https?://([ab]\\.)?[pq]\\.test(:(8443|9443))?"
    }

    fn some_file() -> impl Strategy<Value = String> {
        let clusters =
            prop::collection::vec((server(), prop::option::of("(\\*\\.)?[pq]\\.test")), 0..3);
        let tunnels = prop::collection::vec(("[ab]\\.[pqr]\\.test", server(), any::<bool>()), 0..4);
        (clusters, tunnels).prop_map(|(clusters, tunnels)| {
            let mut res = String::new();
            for (n, (url, hosts)) in clusters.iter().enumerate() {
                let hosts: Vec<_> = hosts.iter().collect();
                res += &format!("[cluster.c{n}]\nurl = \"{url}\"\nhosts = {hosts:?}\n");
            }
            for (n, (host, server, is_bastion)) in tunnels.iter().enumerate() {
                let route = match is_bastion {
                    true => format!("tcp+{server}/{host}:22"),
                    false => format!("{host}:22"),
                };
                res += &format!("[tunnel.t{n}]\nroute = \"{route}\"\n");
            }
            res
        })
    }

    /// Whose login an address takes, by the text alone: of the clusters' hosts and urls those that fit best; among several the
    /// one at that very address.
    fn slow_owner(config: &Config, address: &Address) -> Option<ClusterName> {
        let host = address.host.to_string();
        let fit = |pattern: &str| match pattern.strip_prefix("*.") {
            Some(rest) => host
                .ends_with(&format!(".{rest}"))
                .then(|| rest.split('.').count()),
            None => (pattern == host).then_some(usize::MAX),
        };
        let fits = |spec: &ClusterSpec| spec.hosts.iter().filter_map(|it| fit(it.as_str())).max();
        let best = config.clusters.values().filter_map(fits).max()?;
        let all: Vec<_> = config
            .clusters
            .iter()
            .filter(|it| fits(it.1) == Some(best))
            .collect();
        match all.as_slice() {
            [one] => Some(one.0.clone()),
            several => {
                let exact = several.iter().find(|it| it.1.login_at == [address.clone()]);
                exact.map(|it| it.0.clone())
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { max_global_rejects: 100_000, ..ProptestConfig::default() })]

        #[test]
        fn a15_a28_file_and_outside_agree_whose_login_an_address_takes(text in some_file()) {
            let Ok(config) = Config::parse(&text, Path::new("/")) else {
                return Err(TestCaseError::reject("no configuration"));
            };
            for tunnel in config.tunnels.values() {
                let address = &tunnel.route.address;
                match config.owner(address) {
                    Owner::One((name, _)) => prop_assert_eq!(name, &tunnel.cluster),
                    other => prop_assert!(false, "{}{:?}: {:?}", text, address, other),
                }
            }
            for host in ["p.test", "q.test", "r.test", "a.p.test", "b.p.test", "a.q.test", "a.a.p.test", "xp.test"] {
                let name = bare_name(&format!("{host}:22")).unwrap();
                let direct = Route::direct(name.clone(), true).address;
                let mut ways = config.tunnels.values().filter(|it| it.route.authority == name);
                let way = ways.next();
                match config.destination(&name) {
                    Ok(it) => {
                        prop_assert_eq!(&it.route.authority, &name);
                        let cluster = &config.clusters[&it.cluster];
                        let address = &it.route.address;
                        prop_assert!(cluster.allows(&address.host));
                        prop_assert!(cluster.ports.contains(&address.port), "{}{}", text, address);
                        prop_assert_eq!(address.tls, !cluster.is_plain());
                        match way {
                            Some(way) => prop_assert_eq!((&it.route, &it.cluster), (&way.route, &way.cluster)),
                            None => {
                                prop_assert_eq!(Some(it.cluster.clone()), slow_owner(&config, &direct), "{}", text);
                                prop_assert_eq!(Some(it.cluster), slow_owner(&config, address), "{}", text);
                            }
                        }
                    }
                    Err(NoDestination::SeveralTunnels(..)) => {
                        prop_assert!(ways.any(|it| (&it.route, &it.cluster) != way.map(|it| (&it.route, &it.cluster)).unwrap()));
                    }
                    Err(_) => {
                        prop_assert!(way.is_none());
                        prop_assert_eq!(slow_owner(&config, &direct), None, "{}{}", text, host);
                    }
                }
            }
        }
    }
}
