//! Where a tunnel listens: text or number → [`Listen`], and which listeners are in each other's way.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use super::{Wrong, address::port, report::quoted};

const EXAMPLES: &str = "a port on loopback: 2202, or an address: \"127.0.0.1:2202\"";
const SOCKET: &str = "a name in pomd's runtime folder: \"unix:reports.sock\"";
/// What pomd itself keeps in the folder begins with this: its control socket, its lock, its log.
const OURS: &str = "pomd.";

/// Where a tunnel listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// A free port from 20000–29999 on both loopback addresses, chosen once and kept.
    Chosen,
    /// This port on 127.0.0.1 and ::1, on both or on neither; a family that the machine lacks is left out.
    Loopback(u16),
    /// Exactly this address.
    Address(SocketAddr),
    /// A Unix socket in the runtime folder.
    Unix(SocketName),
}

/// The name of a Unix socket in the runtime folder: one part of a path, made of ASCII letters, digits, `.`, `_` and `-`,
/// at most 64, and none that pomd uses itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SocketName(String);

impl Listen {
    /// Reads `127.0.0.1:PORT`, `[::1]:PORT`, another address of this machine; `localhost:PORT` and `:PORT` are the bare port;
    /// `unix:NAME`.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(name) = text.strip_prefix("unix:") {
            return SocketName::parse(name).map(Self::Unix);
        }
        if !text.is_empty() && text.bytes().all(|it| it.is_ascii_digit()) {
            return Err(match text.trim_start_matches('0') {
                "" => port_zero(),
                port => Wrong::new("a port in quotes", format!("write it without: {port}")),
            });
        }
        if text.is_empty() {
            return Err(Wrong::new("no listener", EXAMPLES));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err(port_zero());
            }
            let ip = address.ip().to_canonical();
            return Ok(Self::Address(match ip {
                // Keeps the scope of a link-local address.
                IpAddr::V6(_) => address,
                IpAddr::V4(_) => SocketAddr::new(ip, address.port()),
            }));
        }
        let Some((host, after)) = text.rsplit_once(':') else {
            return Err(match text.parse::<IpAddr>() {
                Ok(_) => Wrong::new("a listener without a port", format!("\"{text}:PORT\"")),
                Err(_) => Wrong::new(format!("bad listener {}", quoted(text)), EXAMPLES),
            });
        };
        if text.parse::<Ipv6Addr>().is_ok() || host.parse::<Ipv6Addr>().is_ok() {
            return Err(Wrong::new(
                "an IPv6 address without brackets",
                "write it as \"[::1]:PORT\"",
            ));
        }
        if after.bytes().all(|it| it == b'0') && !after.is_empty() {
            return Err(port_zero());
        }
        Self::named(host, port(after)?)
    }

    /// Reads what a person types behind `--listen`: a bare port too.
    pub fn typed(text: &str) -> Result<Self, Wrong> {
        match text.parse() {
            Ok(port) => Self::port(port),
            Err(_) => Self::parse(text),
        }
    }

    /// Reads a bare port.
    pub fn port(number: i64) -> Result<Self, Wrong> {
        match u16::try_from(number) {
            Ok(0) => Err(port_zero()),
            Ok(port) => Ok(Self::Loopback(port)),
            Err(_) => Err(Wrong::new(
                format!("bad port {number}"),
                "a port is a number from 1 to 65535",
            )),
        }
    }

    /// Whether the listener is a port on each loopback address that the machine has.
    pub fn is_on_both_families(&self) -> bool {
        matches!(self, Self::Chosen | Self::Loopback(_))
    }

    /// Whether other machines could reach the listener.
    pub fn is_exposed(&self) -> bool {
        match self {
            Self::Chosen | Self::Loopback(_) | Self::Unix(_) => false,
            Self::Address(it) => !it.ip().to_canonical().is_loopback(),
        }
    }

    /// Returns the network addresses that the listener takes; none that are known yet if its port is chosen later.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        match *self {
            Self::Chosen | Self::Unix(_) => Vec::new(),
            Self::Loopback(port) => vec![
                (Ipv4Addr::LOCALHOST, port).into(),
                (Ipv6Addr::LOCALHOST, port).into(),
            ],
            Self::Address(it) => vec![it],
        }
    }

    /// Tells whether both listeners take one address.
    pub(super) fn is_in_the_way_of(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(one), Self::Unix(other)) => one == other,
            _ => {
                let theirs = other.addresses();
                let takes = |one: &SocketAddr, other: &SocketAddr| {
                    let any = one.ip().is_unspecified() || other.ip().is_unspecified();
                    one.port() == other.port() && (any || one.ip() == other.ip())
                };
                let mut ours = self.addresses().into_iter();
                ours.any(|one| theirs.iter().any(|other| takes(&one, other)))
            }
        }
    }

    fn named(host: &str, port: u16) -> Result<Self, Wrong> {
        match host.to_ascii_lowercase().as_str() {
            "" | "localhost" | "localhost." => Ok(Self::Loopback(port)),
            "*" => Err(Wrong::new(
                "`*` is no address",
                format!("for every network: \"0.0.0.0:{port}\" and expose = true"),
            )),
            _ => Err(Wrong::new(
                format!("not an address of this machine: {}", quoted(host)),
                EXAMPLES,
            )),
        }
    }
}

impl SocketName {
    /// Reads the name, as it stands behind `unix:`.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        const MOST: usize = 64;
        let is_part = |it: char| it.is_ascii_alphanumeric() || "._-".contains(it);
        if text.is_empty() {
            return Err(Wrong::new("a `unix:` listener without a name", SOCKET));
        }
        if text.contains(['/', '\\']) || matches!(text, "." | "..") {
            return Err(Wrong::new(
                "a `unix:` listener outside of pomd's runtime folder",
                format!("the socket is made there: {}", Self::instead_of(text)),
            ));
        }
        if text.to_ascii_lowercase().starts_with(OURS) {
            return Err(Wrong::new(
                format!("{} is a name that pomd keeps for itself", quoted(text)),
                format!("one that does not begin with `{OURS}`: \"unix:reports.sock\""),
            ));
        }
        if text.len() > MOST {
            return Err(Wrong::new(
                format!("a socket name of {} bytes", text.len()),
                format!("the system takes short paths only: at most {MOST}"),
            ));
        }
        if !text.chars().all(is_part) {
            return Err(Wrong::new(
                format!("bad socket name {}", quoted(text)),
                "a name is made of letters, digits, `.`, `_` and `-`: \"unix:reports.sock\"",
            ));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the name as it stands behind `unix:`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns what to write where a path was given.
    fn instead_of(path: &str) -> String {
        let last = path.rsplit(['/', '\\']).next().unwrap_or_default();
        // A part of a path holds no `/` to ask for another.
        let name = Some(last).filter(|it| !matches!(*it, "." | ".."));
        match name.and_then(|it| Self::parse(it).ok()) {
            Some(name) => format!("\"unix:{name}\""),
            None => "\"unix:reports.sock\"".to_owned(),
        }
    }
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn port_zero() -> Wrong {
    Wrong::new("port 0", "leave listen out to get a free port")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_on_loopback_unless_an_address_says_otherwise() {
        for text in [":2202", "localhost:2202", "LocalHost:2202"] {
            assert_eq!(Listen::parse(text), Ok(Listen::Loopback(2202)), "{text}");
        }
        for (text, exposed) in [
            ("127.0.0.1:2202", false),
            ("127.9.9.9:2202", false),
            ("[::1]:2202", false),
            ("[::ffff:127.0.0.1]:2202", false),
            ("0.0.0.0:2202", true),
            ("[::]:2202", true),
            ("192.168.1.5:2202", true),
            ("[fe80::1%3]:2202", true),
            ("[::ffff:10.0.0.1]:2202", true),
        ] {
            assert_eq!(Listen::parse(text).unwrap().is_exposed(), exposed, "{text}");
        }
    }

    #[test]
    fn a_unix_socket_is_one_name_in_the_runtime_folder() {
        let long = "x".repeat(64);
        for name in ["reports.sock", ".s.PGSQL.5432", "a", "...", "pomd", &long] {
            let Ok(Listen::Unix(it)) = Listen::parse(&format!("unix:{name}")) else {
                panic!("{name}");
            };
            assert_eq!(it.as_str(), name);
        }
        let too_long = "x".repeat(65);
        for name in [
            "",
            ".",
            "..",
            "/",
            "/run/x.sock",
            "a/b.sock",
            "../x.sock",
            "a\\b",
            "./a",
            "a b",
            "a\0b",
            "a\u{1b}b",
            "ä.sock",
            "pomd.sock",
            "pomd.lock",
            "POMD.Sock",
            "pomd.",
            "a:b",
            "@a",
            &too_long,
        ] {
            assert!(Listen::parse(&format!("unix:{name}")).is_err(), "{name:?}");
        }
        let wrong = Listen::parse("unix:/run/user/1000/db.sock").unwrap_err();
        assert!(wrong.instead.ends_with("\"unix:db.sock\""), "{wrong}");
        let wrong = Listen::parse("unix:/run/..").unwrap_err();
        assert!(wrong.instead.ends_with("\"unix:reports.sock\""), "{wrong}");
    }

    #[test]
    fn what_is_no_listener_is_refused() {
        for text in [
            "",
            ":",
            "2202",
            "0",
            "00",
            "127.0.0.1",
            "127.0.0.1:",
            "127.0.0.1:0",
            ":0",
            "localhost:0",
            "::1:2202",
            "::1",
            "*:2202",
            "example.com:2202",
            "127.0.0.1:70000",
            "127.0.0.1:2202 ",
            "[::1]",
            "127.1:22",
        ] {
            assert!(Listen::parse(text).is_err(), "{text:?}");
        }
        for number in [-1, 0, 65_536, i64::MAX, i64::MIN] {
            assert!(Listen::port(number).is_err(), "{number}");
        }
    }
}
