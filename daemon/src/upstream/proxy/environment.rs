//! What the environment says of forward proxies: HTTPS_PROXY, ALL_PROXY, NO_PROXY. Pure; who asks gives the variables.

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::credentials::Credentials;
use crate::config::{Authority, Host, ProxyAddress, ProxyKind};

/// The variables that name a proxy: the first that is set counts.
const NAMES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The variables that name hosts without one.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// Any host that no exception was asked about.
const ANYWHERE: &str = "https://anywhere.invalid/";

/// What was set when pomd started: a changed environment needs a restart.
#[derive(Debug, Default)]
pub struct Environment {
    found: Option<Found>,
    unusable: Option<&'static str>,
}

#[derive(Debug)]
struct Found {
    variable: &'static str,
    matcher: Matcher,
}

/// A proxy that the environment names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) address: ProxyAddress,
    pub(super) credentials: Option<Credentials>,
    pub(super) variable: &'static str,
}

impl Environment {
    /// As `variable` tells. An empty one is as good as none.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            let mut set = names.iter().filter_map(|it| Some((*it, variable(it)?)));
            set.find(|it| !it.1.trim().is_empty())
        };
        let Some((name, value)) = first(&NAMES) else {
            return Self::default();
        };
        let value = value.trim();
        let exceptions = first(&EXCEPTIONS).map_or(String::new(), |it| it.1);
        let matcher = |exceptions: String| Matcher::builder().all(value).no(exceptions).build();
        let anywhere = Uri::from_static(ANYWHERE);
        let named = matcher(String::new()).intercept(&anywhere);
        if named.and_then(|it| address(it.uri())).is_none() {
            return Self {
                found: None,
                unusable: Some(name),
            };
        }
        Self {
            found: Some(Found {
                variable: name,
                matcher: matcher(exceptions),
            }),
            unusable: None,
        }
    }

    /// What a person should know of it.
    pub fn warning(&self) -> Option<String> {
        self.unusable.map(|name| {
            format!(
                "{name} names no forward proxy that pomd can use (http://, https:// or socks5://HOST:PORT): connections go without one"
            )
        })
    }

    /// The proxy for connections to `target`, which were asked for as ones to `host`. What is on this machine needs
    /// none.
    pub(super) fn proxy(&self, host: &Host, target: &Host) -> Option<Set> {
        if is_local(target) {
            return None;
        }
        let found = self.found.as_ref()?;
        let asked = |host: &Host| {
            let uri: Uri = format!("https://{}/", host.bracketed()).parse().ok()?;
            found.matcher.intercept(&uri)
        };
        let proxy = asked(host).and(asked(target))?;
        Some(Set {
            address: address(proxy.uri())?,
            credentials: credentials(&proxy),
            variable: found.variable,
        })
    }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Ip(ip) => {
            let ip = ip.to_canonical();
            ip.is_loopback() || ip.is_unspecified()
        }
        Host::Name(name) => name == "localhost" || name.ends_with(".localhost"),
    }
}

fn address(uri: &Uri) -> Option<ProxyAddress> {
    let kind = ProxyKind::of(uri.scheme_str()?)?;
    let usual = match kind {
        ProxyKind::Http => 80,
        ProxyKind::Https => 443,
        ProxyKind::Socks5 => 1080,
    };
    let authority = uri.authority()?;
    // What stands behind the colon and is no port must not become the usual one.
    let port = match authority.port() {
        Some(it) => it.as_u16(),
        None if authority.as_str() == authority.host() => usual,
        None => return None,
    };
    let host = Host::parse(authority.host()).ok()?;
    (port != 0).then_some(ProxyAddress {
        kind,
        authority: Authority { host, port },
    })
}

fn credentials(proxy: &Intercept) -> Option<Credentials> {
    if let Some((user, password)) = proxy.raw_auth() {
        return Credentials::new(user, password);
    }
    let basic = proxy.basic_auth()?.as_bytes().strip_prefix(b"Basic ")?;
    Credentials::from_basic(basic)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(set: &[(&str, &str)]) -> Environment {
        Environment::read(|name| {
            let found = set.iter().find(|it| it.0 == name);
            found.map(|it| it.1.to_owned())
        })
    }

    fn proxy(set: &[(&str, &str)], host: &str) -> Option<(String, &'static str)> {
        let host = Host::parse(host).unwrap();
        let it = environment(set).proxy(&host, &host)?;
        Some((it.address.to_string(), it.variable))
    }

    #[test]
    fn the_variables_count_in_their_order() {
        let http = "http://one.lan:3128";
        let socks = "socks5://two.lan:1080";
        let lower = "http://three.lan:8080";
        let host = "corp.example.com";
        for (set, want) in [
            (&[][..], None),
            (&[("HTTPS_PROXY", http)], Some((http, "HTTPS_PROXY"))),
            (&[("https_proxy", http)], Some((http, "https_proxy"))),
            (&[("ALL_PROXY", socks)], Some((socks, "ALL_PROXY"))),
            (&[("all_proxy", socks)], Some((socks, "all_proxy"))),
            (
                &[
                    ("HTTPS_PROXY", http),
                    ("https_proxy", lower),
                    ("ALL_PROXY", socks),
                ],
                Some((http, "HTTPS_PROXY")),
            ),
            (
                &[("https_proxy", lower), ("ALL_PROXY", socks)],
                Some((lower, "https_proxy")),
            ),
            (
                &[("HTTPS_PROXY", ""), ("ALL_PROXY", socks)],
                Some((socks, "ALL_PROXY")),
            ),
            // Only for addresses without TLS, and for nobody here.
            (&[("HTTP_PROXY", http), ("http_proxy", http)], None),
        ] {
            let want = want.map(|it| (it.0.to_owned(), it.1));
            assert_eq!(proxy(set, host), want, "{set:?}");
        }
    }

    #[test]
    fn no_proxy_names_hosts_domains_addresses_and_networks() {
        for (no, host, through) in [
            ("", "corp.example.com", true),
            ("example.com", "corp.example.com", false),
            (".example.com", "corp.example.com", false),
            (".example.com", "example.com", false),
            ("example.com", "notexample.com", true),
            ("other.org, corp.example.com", "corp.example.com", false),
            ("CORP.example.com", "corp.example.com", false),
            ("*", "corp.example.com", false),
            ("198.51.100.0/24", "198.51.100.7", false),
            ("198.51.100.7", "198.51.100.7", false),
            ("198.51.100.0/24", "198.51.101.7", true),
            ("2001:db8::/32", "2001:db8::7", false),
        ] {
            for name in EXCEPTIONS {
                let set = [("ALL_PROXY", "http://p.lan:1"), (name, no)];
                assert_eq!(proxy(&set, host).is_some(), through, "{name}={no} {host}");
            }
        }
    }

    #[test]
    fn an_exception_may_name_the_host_or_where_it_is_dialled() {
        let set = [
            ("ALL_PROXY", "http://p.lan:1"),
            ("NO_PROXY", "corp.test,10.0.0.0/8"),
        ];
        let environment = environment(&set);
        let through = |host: &str, target: &str| {
            let (host, target) = (Host::parse(host).unwrap(), Host::parse(target).unwrap());
            environment.proxy(&host, &target).is_some()
        };
        assert!(!through("corp.test", "198.51.100.7"));
        assert!(!through("other.test", "10.1.2.3"));
        assert!(through("other.test", "198.51.100.7"));
    }

    #[test]
    fn this_machine_is_never_reached_through_a_proxy_of_the_environment() {
        let set = [("HTTPS_PROXY", "http://p.lan:1")];
        for host in [
            "localhost",
            "LOCALHOST.",
            "corp.localhost",
            "127.0.0.1",
            "127.8.9.10",
            "::1",
            "::ffff:127.0.0.1",
            "0.0.0.0",
        ] {
            assert_eq!(proxy(&set, host), None, "{host}");
        }
        assert!(proxy(&set, "localhost.example.com").is_some());
        assert!(proxy(&set, "128.0.0.1").is_some());
    }

    #[test]
    fn a_value_is_read_as_curl_does_or_told_to_be_of_no_use() {
        for (value, want) in [
            ("proxy.lan:3128", Some("http://proxy.lan:3128")),
            ("http://proxy.lan", Some("http://proxy.lan:80")),
            ("https://proxy.lan/", Some("https://proxy.lan:443")),
            ("socks5h://Proxy.lan", Some("socks5://proxy.lan:1080")),
            (" http://[::1]:3128 ", Some("http://[::1]:3128")),
            ("http://u:p@proxy.lan:3128", Some("http://proxy.lan:3128")),
            ("socks4://proxy.lan:1080", None),
            ("ftp://proxy.lan:21", None),
            ("http://", None),
            ("http://proxy.lan:x", None),
            ("http://proxy.lan:0", None),
            ("http://proxy.lan:99999", None),
            ("http://u:canary#@proxy.lan:3128", None),
        ] {
            let set = [("HTTPS_PROXY", value)];
            let got = proxy(&set, "corp.test").map(|it| it.0);
            assert_eq!(got.as_deref(), want, "{value}");
            let warning = environment(&set).warning();
            assert_eq!(warning.is_some(), want.is_none(), "{value}: {warning:?}");
            if let Some(it) = warning {
                assert!(it.contains("HTTPS_PROXY") && !it.contains("canary"), "{it}");
            }
        }
    }

    #[test]
    fn a_password_of_the_environment_is_decoded_and_not_printed() {
        for scheme in ["http", "https", "socks5"] {
            let value = format!("{scheme}://al%3Aice:can%40ary@proxy.lan:3128");
            let set = environment(&[("HTTPS_PROXY", &value)]);
            let host = Host::parse("corp.test").unwrap();
            let proxy = set.proxy(&host, &host).unwrap();
            // A user with a colon cannot be told to an HTTP proxy: it is cut at the first one.
            let credentials = proxy.credentials.as_ref().unwrap();
            let got = format!("{}:{}", *credentials.user, *credentials.password);
            assert_eq!(got, "al:ice:can@ary");
            let shown = format!("{set:?} {proxy:?}");
            assert!(!shown.contains("can"), "{shown}");
        }
    }
}
