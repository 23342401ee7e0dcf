//! The routes that a portal offers, as far as they can be understood: a stranger's text, bounded and cleaned.
//!
//! What it says of how to connect (`connect_command`) is not even read.

use std::fmt;

use control::{
    text::clean,
    wire::{OfferedRoute, RouteKind},
};
use pomd_core::config::{Authority, Protocol, Route};
use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::lenient;

/// The most routes that are taken.
const ROUTES: usize = 10_000;

/// One route of a portal.
#[derive(Debug)]
pub struct Offered {
    /// What a tunnel would ask for, where it is a route of TCP or UDP.
    pub target: Option<Authority>,
    /// The whole, ready to be shown.
    pub shown: OfferedRoute,
}

/// Reads the answer of a portal; `None` if it is none.
pub(super) fn read(body: &[u8]) -> Option<Vec<Offered>> {
    #[derive(Deserialize)]
    struct Page {
        routes: Option<Routes>,
    }
    let page: Page = serde_json::from_slice(body).ok()?;
    Some(page.routes.unwrap_or_default().0)
}

/// What can be understood of a list of routes; an element that is something else is passed over.
#[derive(Default)]
struct Routes(Vec<Offered>);

impl<'de> Deserialize<'de> for Routes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;

        impl<'de> Visitor<'de> for Collect {
            type Value = Routes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of routes")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Routes, A::Error> {
                let mut res = Vec::new();
                while res.len() < ROUTES {
                    match list.next_element::<&RawValue>()? {
                        Some(it) => res.extend(read_route(it)),
                        None => return Ok(Routes(res)),
                    }
                }
                while list.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Routes(res))
            }
        }

        deserializer.deserialize_seq(Collect)
    }
}

fn read_route(raw: &RawValue) -> Option<Offered> {
    #[derive(Deserialize)]
    struct Shape<'a> {
        from: String,
        #[serde(borrow)]
        name: Option<&'a RawValue>,
        #[serde(borrow, rename = "type")]
        said: Option<&'a RawValue>,
        #[serde(borrow)]
        description: Option<&'a RawValue>,
    }
    let it: Shape<'_> = serde_json::from_str(raw.get()).ok()?;
    let text = |raw: Option<&RawValue>, most| {
        let text = raw.and_then(lenient::<String>).unwrap_or_default();
        clean(&text, most)
    };
    let said = text(it.said, 40);
    let kind = kind(&it.from, &said);
    let from = it.from.strip_suffix('/').unwrap_or(&it.from);
    let target = target(from).filter(|_| matches!(kind, RouteKind::Tcp | RouteKind::Udp));
    let route = Route::parse(from).ok();
    let route = route.filter(|_| kind == RouteKind::Tcp && target.is_some());
    Some(Offered {
        shown: OfferedRoute {
            name: text(it.name, 100),
            kind,
            said,
            target: target.as_ref().map(ToString::to_string),
            route: route.map(|it| it.to_string()),
            from: clean(&it.from, 300),
            description: text(it.description, 300),
        },
        target,
    })
}

/// Returns what is behind an address: its scheme tells; where that says nothing, what the portal calls it.
fn kind(from: &str, said: &str) -> RouteKind {
    let scheme = from.split_once("://").map(|it| it.0.to_ascii_lowercase());
    let scheme = scheme.as_deref().unwrap_or_default();
    match (Protocol::of_scheme(scheme), scheme) {
        (Some((Protocol::Tcp, _)), _) => RouteKind::Tcp,
        (Some((Protocol::Udp, _)), _) => RouteKind::Udp,
        (Some((Protocol::Http, _)), _) if matches!(said, "" | "http" | "https") => RouteKind::Web,
        (None, "ssh") => RouteKind::Ssh,
        _ => RouteKind::Unknown,
    }
}

/// Returns `HOST:PORT` of an address; in the bastion form the target stands behind the host that is dialled.
fn target(from: &str) -> Option<Authority> {
    let rest = from.split_once("://")?.1;
    let (place, target) = rest.split_once('/').unwrap_or((rest, ""));
    Authority::parse(if target.is_empty() { place } else { target }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn targets(body: &str) -> Option<Vec<String>> {
        let routes = read(body.as_bytes())?.into_iter();
        let tcp = routes.filter(|it| it.shown.kind == RouteKind::Tcp);
        Some(tcp.filter_map(|it| it.shown.target).collect())
    }

    #[test]
    fn tcp_routes_are_taken_and_what_is_odd_is_passed_over() {
        let body = r#"{"routes":[
            {"id":"1","type":"tcp","from":"tcp+https://ssh.corp.example.com:22","description":"x"},
            {"type":"http","from":"https://grafana.corp.example.com"},
            {"type":"tcp","from":"tcp+https://proxy.corp.example.com:8443/redis.internal:6379"},
            {"type":"udp","from":"udp+https://dns.corp.example.com:53/"},
            {"type":"tcp","from":"tcp+https://no-port.corp.example.com"},
            {"type":"tcp","from":7},
            {"type":"tcp"},
            7, null, [{}], "tcp+https://a:1",
            {"type":"tcp","from":"tcp+https://a\u001b]0;x:1"},
            {"type":"tcp","from":"tcp+https://a:0"}
        ]}"#;
        assert_eq!(
            targets(body).unwrap(),
            ["ssh.corp.example.com:22", "redis.internal:6379"]
        );
        for empty in [r#"{"routes":[]}"#, r#"{"routes":null}"#, "{}"] {
            assert_eq!(targets(empty), Some(vec![]));
        }
        for broken in ["", "<html>", "[1]", r#"{"routes":7}"#, r#"{"routes":["#] {
            assert_eq!(targets(broken), None);
        }
    }

    #[test]
    fn a_route_is_what_its_address_says_and_its_text_is_cleaned() {
        let body = r#"{"routes":[
            {"name":"n\u001b[2J","type":"tcp","from":"tcp+https://a.test:1","description":7,"connect_command":"rm -rf /"},
            {"type":"tcp","from":"tcp+https://p.test:8443/b.test:2/"},
            {"type":"mcp","from":"https://c.test"},
            {"type":"http","from":"https://d.test"},
            {"type":"ssh","from":"ssh://e"},
            {"type":"tcp","from":"quic://f.test:1"},
            {"type":"tcp","from":"udp+https://g.test:53"}
        ]}"#;
        let read = read(body.as_bytes()).unwrap();
        let shown: Vec<_> = read.iter().map(|it| &it.shown).collect();
        let kinds: Vec<_> = shown.iter().map(|it| it.kind).collect();
        use RouteKind::{Ssh, Tcp, Udp, Unknown, Web};
        assert_eq!(kinds, [Tcp, Tcp, Unknown, Web, Ssh, Unknown, Udp]);
        assert_eq!(shown[0].name, r"n\u{1b}[2J");
        assert_eq!(shown[0].description, "");
        assert_eq!(shown[0].route.as_deref(), Some("a.test:1"));
        let bastion = shown[1].route.as_deref();
        assert_eq!(bastion, Some("tcp+https://p.test:8443/b.test:2"));
        assert_eq!(shown[1].target.as_deref(), Some("b.test:2"));
        assert_eq!(
            (&shown[6].route, shown[6].target.as_deref()),
            (&None, Some("g.test:53"))
        );
        let json = serde_json::to_string(&shown).unwrap();
        assert!(!json.contains("rm -rf"), "{json}");
    }

    #[test]
    fn a18_no_more_than_ten_thousand_routes_are_kept() {
        let one = r#"{"from":"tcp+https://a:1"}"#;
        let body = format!("{{\"routes\":[{}]}}", vec![one; 12_000].join(","));
        assert_eq!(targets(&body).unwrap().len(), ROUTES);
    }
}
