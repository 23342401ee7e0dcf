//! What the environment says of forward proxies: HTTPS_PROXY, ALL_PROXY, NO_PROXY, in the dialects of curl and of Go. The
//! reading is pure; who asks gives the variables, and gives them again when they may have changed.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use pomd_core::config::{Authority, Host, ProxyAddress, ProxyKind};
use tokio::sync::Notify;

use super::{
    credentials::{Credentials, percent_decoded},
    exceptions::Exceptions,
};

/// The variables that name a proxy: the first that is set counts.
const NAMES: [&str; 4] = ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
/// The variables that name hosts without one.
const EXCEPTIONS: [&str; 2] = ["NO_PROXY", "no_proxy"];
/// How often an environment that can change is looked at while it is used.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// The forward proxies of the environment, as it was when last looked at. Whoever uses it never waits for a look.
#[derive(Debug, Default)]
pub struct Environment {
    state: Mutex<State>,
    used: Notify,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    settings: Arc<Settings>,
    can_change: bool,
    looked_at: Option<Instant>,
}

/// What the variables say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Settings {
    proxy: Option<Set>,
    exceptions: Exceptions,
    warnings: Vec<String>,
}

/// A proxy that the environment names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Set {
    pub(super) address: ProxyAddress,
    pub(super) credentials: Option<Credentials>,
    pub(super) variable: &'static str,
}

impl Environment {
    /// As `variable` tells. An empty one is as good as none.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let state = State {
            settings: Arc::new(Settings::read(&variable)),
            looked_at: Some(Instant::now()),
            ..State::default()
        };
        Self {
            state: Mutex::new(state),
            ..Self::default()
        }
    }

    /// As `variable` tells now.
    pub fn set(&self, variable: &dyn Fn(&str) -> Option<String>) {
        let settings = Settings::read(variable);
        let mut state = self.state();
        state.looked_at = Some(Instant::now());
        if *state.settings != settings {
            state.settings = Arc::new(settings);
            self.changed.notify_one();
        }
    }

    /// From now on [`Environment::used`] says when to look again.
    pub fn expect_changes(&self) {
        self.state().can_change = true;
    }

    /// Waits until it is used and was not looked at for a while.
    pub async fn used(&self) {
        self.used.notified().await;
    }

    /// Waits until it is another one than before.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// What a person should know of it.
    pub fn warnings(&self) -> Vec<String> {
        self.state().settings.warnings.clone()
    }

    /// The proxy for connections to `target`, which were asked for as ones to `asked`. What is on this machine needs
    /// none.
    pub(super) fn proxy(&self, asked: &Authority, target: &Authority) -> Option<Set> {
        let settings = {
            let mut state = self.state();
            let is_old = state.looked_at.is_none_or(|it| it.elapsed() > LOOK_EVERY);
            if state.can_change && is_old {
                state.looked_at = Some(Instant::now());
                self.used.notify_one();
            }
            state.settings.clone()
        };
        if is_local(&target.host) {
            return None;
        }
        let is_exempt = [asked, target]
            .iter()
            .any(|it| settings.exceptions.name(&it.host, it.port));
        settings.proxy.clone().filter(|_| !is_exempt)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Settings {
    fn read(variable: &dyn Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            let mut set = names.iter().filter_map(|it| Some((*it, variable(it)?)));
            set.find(|it| !it.1.trim().is_empty())
        };
        let Some((name, value)) = first(&NAMES) else {
            return Self::default();
        };
        let mut warnings = Vec::new();
        let proxy = match parse(value.trim()) {
            Ok((address, credentials)) => Some(Set {
                address,
                credentials,
                variable: name,
            }),
            Err(why) => {
                warnings.push(format!(
                    "{name} names no forward proxy that pomd can use ({why}; it takes http://, https:// or socks5://HOST:PORT): connections go without one"
                ));
                None
            }
        };
        let exceptions = match first(&EXCEPTIONS) {
            Some((name, list)) => {
                let (exceptions, bad) = Exceptions::parse(&list);
                if proxy.is_some() {
                    warnings.extend(bad.map(|it| format!("{name}: {it}")));
                }
                exceptions
            }
            None => Exceptions::default(),
        };
        Self {
            proxy,
            exceptions,
            warnings,
        }
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

/// The address of a proxy, with or without scheme, user, password and path. `Err` says why not, without the value: it
/// may hold a password.
fn parse(value: &str) -> Result<(ProxyAddress, Option<Credentials>), &'static str> {
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    let kind = match scheme.to_ascii_lowercase().as_str() {
        // As desktops write it.
        "socks" => ProxyKind::Socks5,
        "socks4" | "socks4a" => return Err("SOCKS 4 is not supported"),
        other => ProxyKind::of(other).ok_or("its scheme is unknown")?,
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, more) = rest.split_at(end);
    // A password with such a character in it would be cut, and its start taken for a host.
    if more.contains('@') {
        return Err("a /, ? or # in a password is written %2F, %3F or %23");
    }
    let (user, place) = match authority.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, authority),
    };
    let credentials = match user {
        None | Some("" | ":") => None,
        Some(user) => Some(login(user).ok_or("its user or password cannot be sent")?),
    };
    let usual = match kind {
        ProxyKind::Http => 80,
        ProxyKind::Https => 443,
        ProxyKind::Socks5 => 1080,
    };
    // What stands behind the colon and is no port must not become the usual one.
    let (host, port) = match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let is_number = port.bytes().all(|it| it.is_ascii_digit());
            let port = port.parse().ok().filter(|it| is_number && *it != 0);
            (host, port.ok_or("its port is none")?)
        }
        _ => (place, usual),
    };
    let host = Host::parse(host).map_err(|_| "its host is none")?;
    let authority = Authority { host, port };
    Ok((ProxyAddress { kind, authority }, credentials))
}

/// `user:password` in the encoding of URLs.
fn login(encoded: &str) -> Option<Credentials> {
    let (user, password) = encoded.split_once(':').unwrap_or((encoded, ""));
    Credentials::new(&percent_decoded(user)?, &percent_decoded(password)?)
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
        let at = at(host, 443);
        let it = environment(set).proxy(&at, &at)?;
        Some((it.address.to_string(), it.variable))
    }

    fn at(host: &str, port: u16) -> Authority {
        let host = Host::parse(host).unwrap();
        Authority { host, port }
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
    fn n11_exceptions_count_whichever_variable_names_them() {
        for name in EXCEPTIONS {
            for (no, through) in [("example.com", false), ("other.org", true), ("", true)] {
                let set = [("ALL_PROXY", "http://p.lan:1"), (name, no)];
                let found = proxy(&set, "corp.example.com").is_some();
                assert_eq!(found, through, "{name}={no}");
            }
        }
        // Without a proxy nobody needs to know of an exception that names nothing.
        assert_eq!(environment(&[("NO_PROXY", "a b://c")]).warnings(), [""; 0]);
        let set = [
            ("ALL_PROXY", "http://p.lan:1"),
            ("no_proxy", "https://x.lan"),
        ];
        let warnings = environment(&set).warnings();
        assert_eq!(warnings.len(), 1);
        assert!(warnings[0].starts_with("no_proxy: "), "{warnings:?}");
    }

    #[test]
    fn an_exception_may_name_the_host_or_where_it_is_dialled() {
        let set = [
            ("ALL_PROXY", "http://p.lan:1"),
            ("NO_PROXY", "corp.test,10.0.0.0/8"),
        ];
        let environment = environment(&set);
        let through = |host: &str, target: &str| {
            environment
                .proxy(&at(host, 443), &at(target, 443))
                .is_some()
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
    fn n11_a_value_is_read_as_curl_and_desktops_do_or_told_to_be_of_no_use() {
        for (value, want) in [
            ("proxy.lan:3128", Some("http://proxy.lan:3128")),
            ("http://proxy.lan", Some("http://proxy.lan:80")),
            ("https://proxy.lan/", Some("https://proxy.lan:443")),
            ("socks5h://Proxy.lan", Some("socks5://proxy.lan:1080")),
            (" http://[::1]:3128 ", Some("http://[::1]:3128")),
            ("http://u:p@proxy.lan:3128", Some("http://proxy.lan:3128")),
            ("HTTP://Proxy.LAN.:3128", Some("http://proxy.lan:3128")),
            ("SOCKS5://proxy.lan", Some("socks5://proxy.lan:1080")),
            // GNOME's and KDE's.
            ("socks://127.0.0.1:9050/", Some("socks5://127.0.0.1:9050")),
            ("Socks://proxy.lan", Some("socks5://proxy.lan:1080")),
            ("http://u@proxy.lan:3128", Some("http://proxy.lan:3128")),
            ("http://@proxy.lan:3128", Some("http://proxy.lan:3128")),
            (
                "http://u:p%23@proxy.lan:3128/x?y",
                Some("http://proxy.lan:3128"),
            ),
            (
                "http://u:p@ss@proxy.lan:3128",
                Some("http://proxy.lan:3128"),
            ),
            ("u:p@proxy.lan:3128", Some("http://proxy.lan:3128")),
            ("[2001:db8::1]:3128", Some("http://[2001:db8::1]:3128")),
            ("http://[2001:db8::1]", Some("http://[2001:db8::1]:80")),
            ("http://prüfung.lan:1", Some("http://xn--prfung-4ya.lan:1")),
            ("socks4://proxy.lan:1080", None),
            ("socks4a://proxy.lan:1080", None),
            ("http://proxy.lan:+80", None),
            ("http://proxy.lan:", None),
            ("http://pro xy.lan:80", None),
            ("http://u:canary%zz@proxy.lan:3128", None),
            ("http://u:canary%00@proxy.lan:3128", None),
            ("http://u:1#canary@proxy.lan:3128", None),
            ("http://u:1/canary@proxy.lan:3128", None),
            ("direct://", None),
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
            let warnings = environment(&set).warnings();
            assert_eq!(warnings.len() == 1, want.is_none(), "{value}: {warnings:?}");
            for it in warnings {
                assert!(it.contains("HTTPS_PROXY") && !it.contains("canary"), "{it}");
            }
        }
    }

    #[test]
    fn a_password_of_the_environment_is_decoded_and_not_printed() {
        for scheme in ["http", "https", "socks5"] {
            let value = format!("{scheme}://al%3Aice:can%40ary@proxy.lan:3128");
            let set = environment(&[("HTTPS_PROXY", &value)]);
            let host = at("corp.test", 443);
            let proxy = set.proxy(&host, &host).unwrap();
            let credentials = proxy.credentials.as_ref().unwrap();
            let got = format!("{}:{}", *credentials.user, *credentials.password);
            assert_eq!(got, "al:ice:can@ary");
            let shown = format!("{set:?} {proxy:?}");
            assert!(
                !shown.contains("can@") && !shown.contains("can%"),
                "{shown}"
            );
        }
    }

    #[test]
    fn l12_an_environment_that_changes_is_told_of_and_looked_at_when_it_is_used() {
        use std::task::Poll;

        let told = |it: &Environment| {
            let mut changed = Box::pin(it.changed());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            matches!(changed.as_mut().poll(&mut cx), Poll::Ready(()))
        };
        let asked = |it: &Environment| {
            let mut used = Box::pin(it.used());
            let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
            matches!(used.as_mut().poll(&mut cx), Poll::Ready(()))
        };
        let corp = at("corp.test", 443);
        let environment = environment(&[("HTTPS_PROXY", "http://one.lan:1")]);
        assert!(!told(&environment), "it is the first");
        let shown = |it: &Environment| it.proxy(&corp, &corp).map(|it| it.address.to_string());
        assert_eq!(shown(&environment).as_deref(), Some("http://one.lan:1"));
        assert!(!asked(&environment), "it cannot change");

        environment.expect_changes();
        shown(&environment);
        assert!(!asked(&environment), "it was looked at just now");
        environment.state().looked_at = None;
        shown(&environment);
        shown(&environment);
        assert!(asked(&environment));
        assert!(!asked(&environment), "once is enough");

        environment.set(&|it| (it == "HTTPS_PROXY").then(|| "http://one.lan:1".to_owned()));
        assert!(!told(&environment), "nothing has changed");
        environment.set(&|it| (it == "ALL_PROXY").then(|| "ftp://two.lan".to_owned()));
        assert!(told(&environment));
        assert_eq!(shown(&environment), None);
        assert_eq!(environment.warnings().len(), 1);
        environment.set(&|_| None);
        assert!(told(&environment) && environment.warnings().is_empty());
    }
}
