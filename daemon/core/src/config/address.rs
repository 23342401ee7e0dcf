//! Ports, addresses and routes: text → checked values, and back. Knows no file and no span.

use std::fmt;

use super::{
    Wrong,
    host::{HOST, Host},
    report::{not_yet, quoted},
};

const ROUTE: &str = "a route is HOST:PORT, for example \"db.example.com:5432\"";
const PORT: &str = "a port is a number from 1 to 65535";

/// What Pomerium publishes, and where Pomerium is dialled for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What the route carries.
    pub protocol: Protocol,
    /// The CONNECT target by which Pomerium picks the route.
    pub authority: Authority,
    /// Where TLS is dialled, unless the cluster's `connect` says otherwise. Its host is what a cluster's patterns match.
    pub address: Address,
}

/// What a route carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A stream of bytes.
    Tcp,
    /// Datagrams.
    Udp,
    /// Requests of a browser.
    Http,
}

impl Protocol {
    /// Returns what a route carries whose `from` has this scheme in lower case, and whether Pomerium is reached by TLS.
    pub fn of_scheme(scheme: &str) -> Option<(Self, bool)> {
        Some(match scheme {
            "tcp+https" => (Self::Tcp, true),
            "tcp+http" => (Self::Tcp, false),
            "udp+https" => (Self::Udp, true),
            "udp+http" => (Self::Udp, false),
            "https" => (Self::Http, true),
            "http" => (Self::Http, false),
            _ => return None,
        })
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Http => "HTTP",
        })
    }
}

/// `HOST:PORT`, as in a CONNECT line. An IPv6 host stands in brackets when printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Authority {
    /// The host in lower case, without brackets or trailing dot.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

/// A Pomerium address: scheme, host and port; `https://HOST` when the port is the scheme's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// `https`; a plain `http` address is for labs only.
    pub tls: bool,
    /// The host in lower case, without brackets or trailing dot.
    pub host: Host,
    /// The port, never 0.
    pub port: u16,
}

impl Route {
    /// Reads `HOST:PORT`, or what Pomerium's `from` looks like: `tcp+https://HOST:PORT`, and the bastion form
    /// `tcp+https://HOST[:PORT]/TARGET:PORT`.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        let Some((scheme, rest)) = text.split_once("://") else {
            let authority = Authority::parse(text).map_err(route_hint)?;
            return Ok(Self::direct(authority, true));
        };
        let scheme_of = scheme.to_ascii_lowercase();
        let tls = match (Protocol::of_scheme(&scheme_of), scheme_of.as_str()) {
            (Some((Protocol::Tcp, tls)), _) => tls,
            (Some((Protocol::Udp, _)), _) => {
                return Err(Wrong::new(
                    not_yet("a UDP route"),
                    "only TCP routes can be opened so far",
                ));
            }
            (None, "ssh") => {
                return Err(Wrong::new(
                    "an ssh:// route needs no tunnel",
                    "Pomerium is the SSH server there: ssh USER@ROUTE@HOST",
                ));
            }
            (_, known @ ("https" | "http" | "tcp")) => {
                let what = format!("unknown kind of route {}", quoted(scheme));
                let server = rest.split(['/', '?', '#']).next().unwrap_or_default();
                return Err(Wrong::new(what, instead_of_url(known, server)));
            }
            _ => {
                let what = format!("unknown kind of route {}", quoted(scheme));
                return Err(Wrong::new(
                    what,
                    "a route is HOST:PORT or tcp+https://HOST:PORT",
                ));
            }
        };
        no_extras(rest)?;
        let (server, path) = rest.split_once('/').unwrap_or((rest, ""));
        match path.strip_suffix('/').unwrap_or(path) {
            "" => {
                let authority = Authority::parse(server).map_err(route_hint)?;
                Ok(Self::direct(authority, tls))
            }
            target => Ok(Self {
                protocol: Protocol::Tcp,
                authority: Authority::parse(target).map_err(route_hint)?,
                address: Address::with_scheme(tls, server)?,
            }),
        }
    }

    /// Returns the route to `authority` by a Pomerium on the same host. The route's port says nothing about where Pomerium
    /// listens: that is the scheme's own port.
    pub fn direct(authority: Authority, tls: bool) -> Self {
        let address = Address {
            tls,
            host: authority.host.clone(),
            port: default_port(tls),
        };
        Self {
            protocol: Protocol::Tcp,
            authority,
            address,
        }
    }
}

impl Authority {
    /// Reads `HOST:PORT`; an IPv6 address stands in brackets.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        no_extras(text)?;
        if text.contains('/') {
            let what = format!("more than HOST:PORT in {}", quoted(text));
            return Err(Wrong::new(what, "leave the rest out"));
        }
        match split(text)? {
            (host, Some(port)) => Ok(Self { host, port }),
            (_, None) => Err(Wrong::new(
                format!("no port in {}", quoted(text)),
                "write HOST:PORT",
            )),
        }
    }
}

impl Address {
    /// Reads `https://HOST[:PORT]`, or `http://` for labs. A single slash may follow, nothing else.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        const URL: &str = "write it as https://HOST, or https://HOST:PORT";
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Wrong::new("an address without https://", URL));
        };
        let tls = match scheme.to_ascii_lowercase().as_str() {
            "https" => true,
            "http" => false,
            _ => {
                return Err(Wrong::new(
                    format!("unknown scheme {}", quoted(scheme)),
                    URL,
                ));
            }
        };
        no_extras(rest)?;
        let server = rest.strip_suffix('/').unwrap_or(rest);
        if server.contains('/') {
            return Err(Wrong::new("an address with a path", URL));
        }
        Self::with_scheme(tls, server)
    }

    /// Returns `HOST`, or `HOST:PORT` where the port is not the scheme's own: what goes into `Host:` of a GET.
    pub fn host_and_port(&self) -> String {
        if self.port == default_port(self.tls) {
            self.host.bracketed()
        } else {
            format!("{}:{}", self.host.bracketed(), self.port)
        }
    }

    fn with_scheme(tls: bool, server: &str) -> Result<Self, Wrong> {
        let (host, port) = split(server)?;
        let port = port.unwrap_or(default_port(tls));
        Ok(Self { tls, host, port })
    }
}

fn split(text: &str) -> Result<(Host, Option<u16>), Wrong> {
    let (host, port) = if text.starts_with('[') {
        match text.split_once(']') {
            Some((host, "")) => (format!("{host}]"), None),
            Some((host, rest)) if rest.starts_with(':') => (format!("{host}]"), Some(&rest[1..])),
            _ => {
                let what = format!("bad IPv6 address {}", quoted(text));
                return Err(Wrong::new(what, "write it as [2001:db8::1]:PORT"));
            }
        }
    } else {
        match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') => {
                return Err(Wrong::new(
                    "an IPv6 address without brackets",
                    "write it as [2001:db8::1]:PORT",
                ));
            }
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (text.to_owned(), None),
        }
    };
    if host.is_empty() {
        return Err(Wrong::new("no host", HOST));
    }
    Ok((Host::parse(&host)?, port.map(self::port).transpose()?))
}

/// Reads a port: digits only, 1 to 65535.
pub(super) fn port(text: &str) -> Result<u16, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("no port after the colon", PORT));
    }
    let digits = text.bytes().all(|it| it.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(Wrong::new(format!("bad port {}", quoted(text)), PORT)),
    }
}

fn no_extras(rest: &str) -> Result<(), Wrong> {
    let extra = |what, instead| Err(Wrong::new(what, instead));
    if rest.contains('@') {
        return extra(
            "a user name in an address",
            "leave it out: logging in tells who you are",
        );
    }
    if rest.contains(['?', '#']) {
        return extra("an address with `?` or `#`", "leave that part out");
    }
    Ok(())
}

/// Returns what to write where somebody wrote the address of a web page, or a scheme of another program.
fn instead_of_url(scheme: &str, server: &str) -> String {
    let write = match (Authority::parse(server), Host::parse(server)) {
        (Ok(it), _) => format!("\"{it}\""),
        (_, Ok(host)) => format!("\"{}:PORT\"", host.bracketed()),
        _ => "HOST:PORT".to_owned(),
    };
    match scheme {
        "tcp" => format!("write {write}"),
        _ => format!("a web page needs no tunnel: open it in a browser. A TCP route: {write}"),
    }
}

fn route_hint(wrong: Wrong) -> Wrong {
    if wrong.what.starts_with("no port") {
        return Wrong::new("a route without a port", ROUTE);
    }
    wrong
}

pub(super) fn default_port(tls: bool) -> u16 {
    if tls { 443 } else { 80 }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.address.tls { "https" } else { "http" };
        if *self != Self::direct(self.authority.clone(), self.address.tls) {
            let server = self.address.host_and_port();
            return write!(f, "tcp+{scheme}://{server}/{}", self.authority);
        }
        match self.address.tls {
            true => self.authority.fmt(f),
            false => write!(f, "tcp+http://{}", self.authority),
        }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host.bracketed(), self.port)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.host_and_port())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_route_names_its_authority_and_where_to_dial() {
        for (text, authority, address) in [
            (
                "redis.example.com:6379",
                "redis.example.com:6379",
                "https://redis.example.com",
            ),
            (
                "tcp+https://redis.example.com:6379",
                "redis.example.com:6379",
                "https://redis.example.com",
            ),
            (
                "tcp+https://redis.example.com:6379/",
                "redis.example.com:6379",
                "https://redis.example.com",
            ),
            (
                "tcp+https://h.example.com:443",
                "h.example.com:443",
                "https://h.example.com",
            ),
            (
                "tcp+http://redis.example.com:6379",
                "redis.example.com:6379",
                "http://redis.example.com",
            ),
            (
                "tcp+https://proxy.example.com/db.internal:5432",
                "db.internal:5432",
                "https://proxy.example.com",
            ),
            (
                "tcp+https://proxy.example.com:8443/db.internal:5432",
                "db.internal:5432",
                "https://proxy.example.com:8443",
            ),
            (
                "TCP+HTTPS://Proxy.Example.com.:8443/[FD00::1]:22",
                "[fd00::1]:22",
                "https://proxy.example.com:8443",
            ),
            (
                "[2001:db8::1]:22",
                "[2001:db8::1]:22",
                "https://[2001:db8::1]",
            ),
            ("127.0.0.1:22", "127.0.0.1:22", "https://127.0.0.1"),
            (
                "bücher.example:22",
                "xn--bcher-kva.example:22",
                "https://xn--bcher-kva.example",
            ),
            (
                "BÜCHER。example:22",
                "xn--bcher-kva.example:22",
                "https://xn--bcher-kva.example",
            ),
        ] {
            let route = Route::parse(text).unwrap();
            assert_eq!(route.authority.to_string(), authority, "{text}");
            assert_eq!(route.address.to_string(), address, "{text}");
            assert_eq!(Route::parse(&route.to_string()).unwrap(), route, "{text}");
        }
    }

    #[test]
    fn what_is_no_route_is_refused() {
        for text in [
            "",
            ":",
            ":22",
            "h",
            "h:",
            "h:0",
            "h:65536",
            "h:+22",
            "h: 22",
            "h:22 ",
            " h:22",
            "h:22:22",
            "h..x:22",
            "-h:22",
            "h-:22",
            "a b:22",
            "::1:22",
            "[::1]",
            "[::1]22",
            "[::1:22",
            "[h]:22",
            "127.1:22",
            "0x7f.1:22",
            "1.2.3.4.5:22",
            "*.x:22",
            "h\0:22",
            "h\n:22",
            "１２７.0.0.1:22",
            "%68:22",
            "%68ü:22",
            "https://h:22",
            "udp+https://h:53",
            "ssh://h:22",
            "tcp+https://h",
            "tcp+https://u@h:22",
            "tcp+https://h:22?x",
            "tcp+https://h/t",
            "tcp+https://h/t:1/u:2",
            "tcp+https://h//t:1",
            "tcp+https://h/t%3A22",
            "tcp+https://",
            "xn--:22\u{202e}",
            &format!("{}:22", "a".repeat(64)),
            &format!("{}:22", "a.".repeat(128)),
        ] {
            assert!(Route::parse(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_address_is_a_scheme_a_host_and_at_most_a_port() {
        for (text, same) in [
            ("https://corp.example.com/", "https://corp.example.com"),
            ("https://CORP.example.com:443", "https://corp.example.com"),
            (
                "https://corp.example.com:8443",
                "https://corp.example.com:8443",
            ),
            ("http://[::1]:80", "http://[::1]"),
        ] {
            assert_eq!(Address::parse(text).unwrap().to_string(), same);
        }
        for text in [
            "corp.example.com",
            "https://",
            "https:///",
            "https://h/x",
            "https://h//",
            "https://u:p@h",
            "https://h?x",
            "https://h#x",
            "ftp://h",
            "https://h:",
            "https://h:0",
            "//h",
            "https://h/%2e",
        ] {
            assert!(Address::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same_again(text in "(tcp\\+https?://)?[a-zA-Z0-9._\\[\\]:-]{1,12}(:[0-9]{1,5})?(/[a-z.]{1,6}:[0-9]{1,3})?") {
            if let Ok(route) = Route::parse(&text) {
                prop_assert_eq!(Route::parse(&route.to_string()), Ok(route));
            }
        }

        #[test]
        fn no_text_is_a_panic(text in any::<String>()) {
            let _ = (Route::parse(&text), Address::parse(&text), Host::parse(&text));
        }
    }
}
