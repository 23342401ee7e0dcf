//! Host names and IP addresses: text → the one spelling by which they are compared.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use super::{Wrong, characters::invisible, report::quoted};

/// What to write for a host.
pub(super) const HOST: &str = "a host is a name such as db.example.com, or an IP address";

/// A DNS name or an IP address, checked: labels of ASCII letters, digits, `-` and `_` in lower case, or an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name, without trailing dot.
    Name(String),
    /// An address.
    Ip(IpAddr),
}

impl Host {
    /// Reads a name in any case, with or without its trailing dot, also one that is not ASCII; or an IP address, IPv6
    /// with or without brackets.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(inner) = text.strip_prefix('[') {
            return match inner.strip_suffix(']').map(str::parse::<Ipv6Addr>) {
                Some(Ok(ip)) => Ok(Self::Ip(ip.into())),
                _ => Err(Wrong::new(
                    format!("bad IPv6 address {}", quoted(text)),
                    HOST,
                )),
            };
        }
        match text.parse::<IpAddr>() {
            Ok(ip) => Ok(Self::Ip(ip)),
            Err(_) => name(text).map(Self::Name),
        }
    }

    /// Whether the host is this machine, whatever a resolver says.
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Ip(it) => it.to_canonical().is_loopback(),
            Self::Name(it) => it == "localhost" || it.ends_with(".localhost"),
        }
    }

    /// Returns the domain that a name is in, if that is one of several labels.
    pub(super) fn parent(&self) -> Option<&str> {
        match self {
            Self::Name(it) => it
                .split_once('.')
                .map(|it| it.1)
                .filter(|it| it.contains('.')),
            Self::Ip(_) => None,
        }
    }

    /// Returns the host as in a URL: an IPv6 address in brackets.
    pub fn bracketed(&self) -> String {
        match self {
            Self::Ip(IpAddr::V6(it)) => format!("[{it}]"),
            other => other.to_string(),
        }
    }
}

/// Returns a DNS name in its one spelling: ASCII, lower case, no trailing dot.
pub(super) fn name(text: &str) -> Result<String, Wrong> {
    if text.is_empty() {
        return Err(Wrong::new("no host name", HOST));
    }
    let bad = || Wrong::new(format!("bad host name {}", quoted(text)), HOST);
    // A name's one spelling leaves some of them out, so that nobody would ever see them.
    if invisible(text).is_some() {
        return Err(bad());
    }
    let name = if text.is_ascii() {
        text.to_ascii_lowercase()
    } else {
        punycode(text).ok_or_else(bad)?
    };
    let name = name.strip_suffix('.').unwrap_or(&name);
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(bad());
    }
    if name.rsplit('.').next().is_some_and(is_number) {
        // Resolvers take `127.1` and `0x7f.1` for addresses: a name that is one in disguise gets past every pattern.
        return Err(Wrong::new(
            format!("neither a name nor an IP address: {}", quoted(text)),
            "write an IPv4 address as four numbers: 127.0.0.1",
        ));
    }
    Ok(name.to_owned())
}

fn punycode(text: &str) -> Option<String> {
    // A percent sign would be decoded as in a URL, and this is none.
    if text.contains('%') {
        return None;
    }
    match url::Host::parse(text).ok()? {
        url::Host::Domain(it) => Some(it),
        _ => None,
    }
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label
            .bytes()
            .all(|it| it.is_ascii_alphanumeric() || it == b'-' || it == b'_')
}

fn is_number(label: &str) -> bool {
    label.bytes().all(|it| it.is_ascii_digit())
        || label
            .strip_prefix("0x")
            .is_some_and(|it| it.bytes().all(|it| it.is_ascii_hexdigit()))
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(it) => f.write_str(it),
            Self::Ip(it) => it.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling() {
        for (text, same) in [
            ("DB.Example.COM.", "db.example.com"),
            ("localhost", "localhost"),
            ("my_db", "my_db"),
            ("BÜCHER.example", "xn--bcher-kva.example"),
            ("192.0.2.7", "192.0.2.7"),
            ("[2001:DB8:0::7]", "2001:db8::7"),
            ("2001:db8::7", "2001:db8::7"),
        ] {
            assert_eq!(Host::parse(text).unwrap().to_string(), same);
        }
    }

    #[test]
    fn an_address_in_disguise_is_no_name() {
        for text in [
            "127.1",
            "1",
            "0x7f000001",
            "0x7f.1",
            "192.168.1.256",
            "1.2.3.4.",
            "１２７.0.0.1",
            "a.1",
            "a.0x",
            "[127.0.0.1]",
            "127.0.0.1%1",
            "db\u{200b}.example.com",
            "db\u{ad}.example.com",
        ] {
            assert!(Host::parse(text).is_err(), "{text}");
        }
    }
}
