//! The hosts that NO_PROXY names, in the forms that curl and Go's httpproxy take. Pure.
//!
//! Where the two differ the wider reading counts: entries are separated by commas or blanks (curl), a port may stand
//! behind a host (Go), `*.x` and `.x` name what is below `x`, and `.x` also `x` itself (curl), `*` names everything
//! wherever it stands (Go).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use control::text::clean;
use pomd_core::config::Host;

/// The most of an entry that is shown.
const SHOWN: usize = 60;

/// Hosts that are reached without a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Exceptions(Vec<Exception>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Exception {
    hosts: Hosts,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Hosts {
    All,
    /// A name, and all names below it.
    Domain(String),
    /// All names below it.
    Below(String),
    /// The addresses that have these first bits.
    Network(IpAddr, u8),
}

impl Exceptions {
    /// The entries of a list, and in words those that can name nothing.
    pub(super) fn parse(list: &str) -> (Self, Option<String>) {
        let entries = list.split([',', ' ', '\t', '\n', '\r']);
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for entry in entries.filter(|it| !it.is_empty()) {
            match Exception::parse(entry) {
                Some(it) => good.push(it),
                None => bad.push(entry),
            }
        }
        let warning = bad.first().map(|first| {
            // Where an address of a proxy stands by mistake, its password does too.
            let first = if first.contains('@') {
                "an entry with an @".to_owned()
            } else {
                format!("`{}`", clean(first, SHOWN))
            };
            let more = match bad.len() - 1 {
                0 => String::new(),
                more => format!(" and {more} more"),
            };
            format!(
                "{first}{more} can match no host; write HOST, .DOMAIN, HOST:PORT, an IP address or a network such as 10.0.0.0/8"
            )
        });
        (Self(good), warning)
    }

    /// Whether one of them names this host with this port.
    pub(super) fn name(&self, host: &Host, port: u16) -> bool {
        let mut all = self.0.iter();
        all.any(|it| it.hosts.name(host) && it.port.is_none_or(|it| it == port))
    }
}

impl Exception {
    fn parse(entry: &str) -> Option<Self> {
        let whole = |hosts| Self { hosts, port: None };
        if entry == "*" {
            return Some(whole(Hosts::All));
        }
        if let Some((network, bits)) = entry.split_once('/') {
            return network_of(network, bits).map(whole);
        }
        // An IPv6 address without brackets has no port.
        if let Ok(ip) = entry.parse::<IpAddr>() {
            return Some(whole(Hosts::address(ip)));
        }
        let (host, port) = match entry.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => {
                let is_number = port.bytes().all(|it| it.is_ascii_digit());
                (host, Some(port.parse().ok().filter(|_| is_number)?))
            }
            _ => (entry, None),
        };
        let domain = |name: &str| match Host::parse(name).ok()? {
            Host::Name(it) => Some(it),
            Host::Ip(_) => None,
        };
        let hosts = if host == "*" {
            Hosts::All
        } else if let Some(below) = host.strip_prefix("*.") {
            Hosts::Below(domain(below)?)
        } else if let Some(name) = host.strip_prefix('.') {
            Hosts::Domain(domain(name)?)
        } else {
            match Host::parse(host).ok()? {
                Host::Name(it) => Hosts::Domain(it),
                Host::Ip(ip) => Hosts::address(ip),
            }
        };
        Some(Self { hosts, port })
    }
}

impl Hosts {
    fn address(ip: IpAddr) -> Self {
        let ip = ip.to_canonical();
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        Self::Network(ip, bits)
    }

    fn name(&self, host: &Host) -> bool {
        let is_below = |name: &str, domain: &str| {
            let rest = name.strip_suffix(domain);
            rest.is_some_and(|it| it.ends_with('.'))
        };
        match (self, host) {
            (Self::All, _) => true,
            (Self::Domain(domain), Host::Name(name)) => name == domain || is_below(name, domain),
            (Self::Below(domain), Host::Name(name)) => is_below(name, domain),
            (Self::Network(network, bits), Host::Ip(ip)) => {
                first_bits(*network, *bits) == first_bits(ip.to_canonical(), *bits)
            }
            (Self::Domain(_) | Self::Below(_), Host::Ip(_))
            | (Self::Network(..), Host::Name(_)) => false,
        }
    }
}

fn network_of(network: &str, bits: &str) -> Option<Hosts> {
    let bare = network
        .strip_prefix('[')
        .and_then(|it| it.strip_suffix(']'));
    let ip: IpAddr = bare.unwrap_or(network).parse().ok()?;
    let is_number = bits.bytes().all(|it| it.is_ascii_digit());
    let bits: u8 = bits.parse().ok().filter(|_| is_number)?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    (bits <= most).then_some(Hosts::Network(ip, bits))
}

/// An address without the bits behind the first ones.
fn first_bits(ip: IpAddr, bits: u8) -> IpAddr {
    let bits = u32::from(bits);
    match ip {
        IpAddr::V4(it) => {
            let mask = u32::MAX.checked_shl(32_u32.saturating_sub(bits));
            Ipv4Addr::from_bits(it.to_bits() & mask.unwrap_or(0)).into()
        }
        IpAddr::V6(it) => {
            let mask = u128::MAX.checked_shl(128_u32.saturating_sub(bits));
            Ipv6Addr::from_bits(it.to_bits() & mask.unwrap_or(0)).into()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn n11_exceptions_are_taken_in_the_forms_of_curl_and_go() {
        for (list, host, named) in [
            ("", "corp.example.com", false),
            (",, ,", "corp.example.com", false),
            ("example.com", "corp.example.com", true),
            ("example.com", "example.com", true),
            ("example.com", "notexample.com", false),
            ("example.com", "example.com.evil.org", false),
            (".example.com", "corp.example.com", true),
            (".example.com", "example.com", true),
            ("*.example.com", "corp.example.com", true),
            ("*.example.com", "a.corp.example.com", true),
            ("*.example.com", "example.com", false),
            ("*.example.com", "notexample.com", false),
            ("*", "corp.example.com", true),
            ("a.org,*", "corp.example.com", true),
            ("*", "198.51.100.7", true),
            ("*:443", "198.51.100.7", true),
            ("*:80", "198.51.100.7", false),
            // Commas, blanks, both, tabs.
            ("other.org, corp.example.com", "corp.example.com", true),
            ("other.org corp.example.com", "corp.example.com", true),
            ("other.org ,\tcorp.example.com ", "corp.example.com", true),
            // Case, trailing dots, names that are not ASCII.
            ("CORP.Example.COM", "corp.example.com", true),
            ("example.com.", "corp.example.com", true),
            (".example.com.", "corp.example.com.", true),
            ("prüfung.example", "a.xn--prfung-4ya.example", true),
            ("xn--prfung-4ya.example", "prüfung.example", true),
            // Ports.
            ("example.com:443", "corp.example.com", true),
            ("example.com:8443", "corp.example.com", false),
            (".example.com:443", "corp.example.com", true),
            ("*.example.com:8443", "corp.example.com", false),
            ("198.51.100.7:443", "198.51.100.7", true),
            ("198.51.100.7:80", "198.51.100.7", false),
            ("[2001:db8::7]:443", "2001:db8::7", true),
            ("[2001:db8::7]:80", "2001:db8::7", false),
            // Addresses and networks.
            ("198.51.100.7", "198.51.100.7", true),
            ("198.51.100.0/24", "198.51.100.7", true),
            ("198.51.100.0/24", "198.51.101.7", false),
            ("198.51.100.9/24", "198.51.100.7", true),
            ("0.0.0.0/0", "198.51.100.7", true),
            ("0.0.0.0/0", "2001:db8::7", false),
            ("198.51.100.7/32", "198.51.100.7", true),
            ("2001:db8::7", "2001:db8::7", true),
            ("[2001:db8::7]", "2001:db8::7", true),
            ("2001:DB8:0::7", "2001:db8::7", true),
            ("2001:db8::/32", "2001:db8::7", true),
            ("[2001:db8::]/32", "2001:db8::7", true),
            ("2001:db8::/32", "2001:db9::7", false),
            ("::/0", "2001:db8::7", true),
            ("198.51.100.7", "::ffff:198.51.100.7", true),
            ("::ffff:198.51.100.7", "198.51.100.7", true),
            // A name is never an address.
            ("198.51.100.0/24", "corp.example.com", false),
            (".7", "198.51.100.7", false),
        ] {
            let host = Host::parse(host).unwrap();
            let exceptions = Exceptions::parse(list).0;
            assert_eq!(exceptions.name(&host, 443), named, "{list} {host}");
        }
    }

    #[test]
    fn n11_an_entry_that_can_match_nothing_is_warned_of_without_secrets() {
        for list in [
            "https://corp.example.com",
            "corp*.example.com",
            "*corp.example.com",
            "10.0.0.0/33",
            "10.0.0.0/",
            "10.0.0/8",
            "10.*",
            "2001:db8::/129",
            "corp.example.com:https",
            "corp.example.com:99999",
            "corp.example.com:",
            "[2001:db8::7",
            ".",
            "*.",
            "a..b",
        ] {
            let (exceptions, warning) = Exceptions::parse(&format!("good.org,{list}"));
            let warning = warning.unwrap_or_default();
            assert!(
                warning.starts_with(&format!("`{list}` can match no host")),
                "{list}: {warning}"
            );
            assert_eq!(exceptions.0.len(), 1, "{list}");
        }
        let warning = Exceptions::parse("u:canary@x, a/b c/d").1.unwrap();
        assert!(
            warning.starts_with("an entry with an @ and 2 more "),
            "{warning}"
        );
        assert!(!warning.contains("canary"), "{warning}");
        let long = Exceptions::parse(&"x/".repeat(10_000)).1.unwrap();
        assert!(long.len() < 400, "{}", long.len());
        assert_eq!(
            Exceptions::parse("localhost,127.0.0.0/8,::1,*.local,169.254/16")
                .1
                .map(|it| it.contains("169.254/16")),
            Some(true)
        );
    }
}
