//! The forward proxy of a cluster: text → checked values, and back. Knows no environment, no file and no span.

use std::fmt;

use super::{Wrong, address::Authority, report::quoted};

pub(super) const PROXY: &str =
    "write \"http://HOST:PORT\", \"https://HOST:PORT\", \"socks5://HOST:PORT\" or \"none\"";

/// The key `forward_proxy`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ForwardProxy {
    /// Left out: what the environment of pomd says.
    #[default]
    Environment,
    /// `"none"`: none, whatever the environment says.
    None,
    /// This one.
    At(ProxyAddress),
}

/// Where a forward proxy is, and what it speaks. Never holds a user or a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyAddress {
    /// What it speaks.
    pub kind: ProxyKind,
    /// Where it is.
    pub authority: Authority,
}

/// What a forward proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// HTTP CONNECT.
    Http,
    /// HTTP CONNECT inside TLS.
    Https,
    /// SOCKS version 5; names are looked up by the proxy.
    Socks5,
}

impl ForwardProxy {
    /// `none`, or a proxy's address with its port.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        if text.eq_ignore_ascii_case("none") {
            return Ok(Self::None);
        }
        if text.contains('@') {
            return Err(Wrong::new(
                "a user or a password in the address of a proxy",
                "keep it out of this file: forward_proxy_auth = { file = \"proxy-password\" }",
            ));
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(Wrong::new("a forward proxy without its scheme", PROXY));
        };
        let Some(kind) = ProxyKind::of(scheme) else {
            let what = format!("unknown kind of forward proxy {}", quoted(scheme));
            return Err(Wrong::new(what, PROXY));
        };
        let server = rest.strip_suffix('/').unwrap_or(rest);
        let authority = Authority::parse(server).map_err(|it| Wrong::new(it.what, PROXY))?;
        Ok(Self::At(ProxyAddress { kind, authority }))
    }
}

impl ProxyKind {
    /// By the scheme of its address. `socks5h` is `socks5` to us: names go to the proxy with both.
    pub fn of(scheme: &str) -> Option<Self> {
        Some(match scheme.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "https" => Self::Https,
            "socks5" | "socks5h" => Self::Socks5,
            _ => return None,
        })
    }
}

impl fmt::Display for ProxyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.kind {
            ProxyKind::Http => "http",
            ProxyKind::Https => "https",
            ProxyKind::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.authority)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_proxy_is_none_or_a_scheme_a_host_and_a_port() {
        for (text, same) in [
            ("http://proxy.lan:3128", "http://proxy.lan:3128"),
            ("HTTP://Proxy.LAN:3128/", "http://proxy.lan:3128"),
            ("https://proxy.lan:443", "https://proxy.lan:443"),
            ("socks5://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
            ("socks5h://[::1]:1080", "socks5://[::1]:1080"),
        ] {
            match ForwardProxy::parse(text) {
                Ok(ForwardProxy::At(it)) => assert_eq!(it.to_string(), same),
                other => panic!("{text}: {other:?}"),
            }
        }
        assert_eq!(ForwardProxy::parse("none"), Ok(ForwardProxy::None));
        for text in [
            "",
            "proxy.lan:3128",
            "http://",
            "http://proxy.lan",
            "http://proxy.lan:0",
            "http://proxy.lan:3128/x",
            "http://proxy.lan:3128?x",
            "http://u:p@proxy.lan:3128",
            "http://u@proxy.lan:3128",
            "u:p@proxy.lan:3128",
            "socks4://proxy.lan:1080",
            "ftp://proxy.lan:21",
            "direct",
        ] {
            assert!(ForwardProxy::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_the_same_again(text in "(http|https|socks5h?)://[a-zA-Z0-9._\\[\\]:-]{1,12}:[0-9]{1,5}/?") {
            if let Ok(ForwardProxy::At(it)) = ForwardProxy::parse(&text) {
                prop_assert_eq!(ForwardProxy::parse(&it.to_string()), Ok(ForwardProxy::At(it)));
            }
        }

        #[test]
        fn no_text_is_a_panic(text in any::<String>()) {
            let _ = ForwardProxy::parse(&text);
        }
    }
}
