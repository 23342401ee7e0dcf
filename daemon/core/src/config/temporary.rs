//! Tunnels that a command makes beside those of the file: what is read of the request, their names, and how they give way
//! to the file. Pure.

use std::fmt;

use super::{
    ClusterName, Config, Destination, Listen, NoDestination, Route, Start, TunnelName, TunnelSpec,
    Wrong, address::Authority, bare_name, clusters, host::Host,
};

/// A tunnel of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Temporary {
    /// Where it leads. The server that is dialled for it is said by the file, else it is the route's own host.
    pub route: Authority,
    /// Where it listens.
    pub listen: Listen,
}

/// Why a configuration has no place for a temporary tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// A tunnel of that name is there.
    Name(TunnelName),
    /// A tunnel listens there.
    Listener(TunnelName),
    /// Its route leads nowhere.
    Destination(NoDestination),
}

impl Temporary {
    /// Reads what a person typed: a bare `HOST:PORT`, and where it is to listen, if that was said. Other machines never reach
    /// it: that is said in the file alone.
    pub fn parse(route: &str, listen: Option<&str>) -> Result<Self, Wrong> {
        let route = bare_name(route)?;
        let listen = listen.map_or(Ok(Listen::Chosen), Listen::typed)?;
        if listen.is_exposed() {
            return Err(Wrong::new(
                "the listen address is reachable from other machines",
                "give a port alone; a tunnel for other machines belongs into the configuration file, with expose = true",
            ));
        }
        Ok(Self { route, listen })
    }
}

impl Config {
    /// Adds a temporary tunnel. A host that is in no cluster gets one of its own: a person typed it, and not a stranger.
    pub fn add_temporary(&mut self, name: TunnelName, wanted: &Temporary) -> Result<(), NoPlace> {
        if self.tunnels.contains_key(&name) {
            return Err(NoPlace::Name(name));
        }
        let mut tunnels = self.tunnels.iter();
        if let Some((other, _)) = tunnels.find(|it| wanted.listen.is_in_the_way_of(&it.1.listen)) {
            return Err(NoPlace::Listener(other.clone()));
        }
        let Destination { route, cluster } = match self.destination(&wanted.route) {
            Err(error @ NoDestination::Unknown(_)) => {
                let route = Route::direct(wanted.route.clone(), true);
                let cluster = ClusterName::for_address(&route.address);
                if self.clusters.contains_key(&cluster) {
                    return Err(NoPlace::Destination(error));
                }
                let spec = clusters::of_host(&route.address);
                self.clusters.insert(cluster.clone(), spec);
                Destination { route, cluster }
            }
            found => found.map_err(NoPlace::Destination)?,
        };
        let spec = TunnelSpec {
            ssh: wanted.route.port == 22,
            route,
            cluster,
            listen: wanted.listen.clone(),
            start: Start::Auto,
            expose: false,
            browser_guard: true,
            allow_hosts: Vec::new(),
        };
        self.tunnels.insert(name, spec);
        Ok(())
    }

    /// Takes a temporary tunnel away, with the cluster that it alone had.
    pub fn remove_temporary(&mut self, name: &TunnelName) {
        let Some(TunnelSpec { cluster, .. }) = self.tunnels.remove(name) else {
            return;
        };
        let is_used = self.tunnels.values().any(|it| it.cluster == cluster);
        if !is_used && self.clusters.get(&cluster).is_some_and(|it| !it.named) {
            self.clusters.remove(&cluster);
        }
    }

    /// Returns a name for a temporary tunnel that no tunnel has: the first label of its host, else with its port, else with
    /// a number behind.
    pub fn temporary_name(&self, route: &Authority) -> TunnelName {
        let host = match &route.host {
            Host::Name(name) => name.split('.').next().unwrap_or_default().to_owned(),
            Host::Ip(ip) => ip.to_string(),
        };
        // Room for what may come behind.
        let host: String = host.replace(':', "-").chars().take(48).collect();
        let base = host.trim_matches(['-', '_', '.']);
        let base = if base.is_empty() { "tunnel" } else { base };
        let with_port = format!("{base}-{}", route.port);
        let numbered = (2..).map(|it| format!("{with_port}-{it}"));
        [base.to_owned(), with_port.clone()]
            .into_iter()
            .chain(numbered)
            .filter_map(|it| TunnelName::parse(&it))
            .find(|it| !self.tunnels.contains_key(it))
            .unwrap_or_else(|| TunnelName("tunnel".to_owned()))
    }
}

impl fmt::Display for NoPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => write!(f, "there is a tunnel {name} already"),
            Self::Listener(name) => write!(f, "the tunnel {name} listens there already"),
            Self::Destination(error) => error.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    const FILE: &str = "[cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test:8443\"\n\
        [tunnel.redis]\nroute = \"redis.corp.test:6379\"\nlisten = 6379\n";

    fn file(text: &str) -> Config {
        Config::parse(text, Path::new("/")).unwrap()
    }

    fn temporary(route: &str, listen: &str) -> Temporary {
        Temporary::parse(route, Some(listen).filter(|it| !it.is_empty())).unwrap()
    }

    fn added(config: &mut Config, route: &str, listen: &str) -> Result<TunnelName, NoPlace> {
        let wanted = temporary(route, listen);
        let name = config.temporary_name(&wanted.route);
        config.add_temporary(name.clone(), &wanted)?;
        Ok(name)
    }

    #[test]
    fn a_host_of_a_cluster_takes_its_login_and_its_server() {
        let mut config = file(FILE);
        let name = added(&mut config, "web.corp.test:80", "8080").unwrap();
        let spec = &config.tunnels[&name];
        assert_eq!((name.as_str(), spec.cluster.as_str()), ("web", "corp"));
        assert_eq!(spec.route.address.to_string(), "https://web.corp.test:8443");
        config.remove_temporary(&name);
        assert_eq!(config, file(FILE));
    }

    #[test]
    fn a_host_of_no_cluster_has_one_as_long_as_it_is_used() {
        let mut config = file(FILE);
        let one = added(&mut config, "db.else.test:5432", "").unwrap();
        let two = added(&mut config, "db.else.test:5433", "").unwrap();
        assert_eq!(two.as_str(), "db-5433");
        assert_eq!(config.tunnels[&one].cluster.as_str(), "db.else.test");
        config.remove_temporary(&one);
        assert!(
            config
                .clusters
                .keys()
                .any(|it| it.as_str() == "db.else.test")
        );
        config.remove_temporary(&two);
        assert_eq!(config, file(FILE));
    }

    #[test]
    fn what_the_file_has_is_not_taken_from_it() {
        let mut config = file(FILE);
        let taken = added(&mut config, "x.corp.test:1", "6379").unwrap_err();
        assert_eq!(taken.to_string(), "the tunnel redis listens there already");
        let taken = added(&mut config, "x.corp.test:1", "127.0.0.1:6379").unwrap_err();
        assert_eq!(taken.to_string(), "the tunnel redis listens there already");
        let name = TunnelName::parse("redis").unwrap();
        let wanted = temporary("x.corp.test:1", "1");
        let taken = config.add_temporary(name, &wanted).unwrap_err();
        assert_eq!(taken.to_string(), "there is a tunnel redis already");
        assert_eq!(config, file(FILE));
        // A cluster of the host's name that the host is not in.
        let odd = "[cluster.\"a.test\"]\nhosts = [\"b.test\"]\n";
        let error = added(&mut file(odd), "a.test:1", "").unwrap_err();
        assert!(matches!(error, NoPlace::Destination(_)), "{error}");
    }

    #[test]
    fn only_a_bare_name_and_a_listener_of_this_machine_are_taken() {
        for (route, listen) in [
            ("https://a.test:1", None),
            ("tcp+https://p.test/a.test:1", None),
            ("a.test", None),
            ("a.test:0", None),
            ("", None),
            (":22", None),
            ("a b.test:1", None),
            ("a\u{1b}[2J.test:1", None),
            ("a.test:1", Some("0.0.0.0:1")),
            ("a.test:1", Some("0")),
            ("a.test:1", Some("70000")),
            ("a.test:1", Some("unix:../x")),
            ("a.test:1", Some("")),
        ] {
            assert!(
                Temporary::parse(route, listen).is_err(),
                "{route} {listen:?}"
            );
        }
        assert_eq!(temporary("a.test:1", "2202").listen, Listen::Loopback(2202));
        assert_eq!(
            temporary("a.test:1", ":2202").listen,
            Listen::Loopback(2202)
        );
    }

    proptest! {
        #[test]
        fn names_are_names_that_nobody_has(hosts in prop::collection::vec("[a-b-]{1,3}(\\.test)?|::1|127\\.0\\.0\\.[12]|[a-z]{63}", 1..30)) {
            let mut config = Config::default();
            for host in hosts {
                let host = if host.contains("::") { format!("[{host}]") } else { host };
                let Ok(wanted) = Temporary::parse(&format!("{host}:22"), None) else { continue };
                let name = config.temporary_name(&wanted.route);
                prop_assert!(config.add_temporary(name, &wanted).is_ok());
            }
            for spec in config.tunnels.values() {
                prop_assert!(config.clusters[&spec.cluster].allows(&spec.route.address.host));
            }
        }
    }
}
