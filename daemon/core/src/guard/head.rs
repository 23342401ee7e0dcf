//! The head of one request: whether a web page may be behind it, and what follows it.

use super::{
    HEAD_MOST,
    line::{Line, is_token},
    refusal::Why,
};
use crate::config::Host;

/// What one tunnel lets in.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The tunnel, for people.
    pub tunnel: String,
    /// The host of its route.
    pub route: Host,
    /// Other hosts under which it is asked, and whose pages may ask.
    pub allow: Vec<Host>,
    /// It leads to an ssh server, which understands no request at all.
    pub ssh: bool,
}

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Body {
    Length(u64),
    Chunked,
    /// The request asks for another protocol. No browser sends another request on such a connection.
    Upgraded,
}

/// A host, and a port where one is named.
type Authority = (Host, Option<u16>);

/// The head of one request, line by line.
#[derive(Debug, Default)]
pub(super) struct Head {
    method: Vec<u8>,
    /// The host and port of the request line.
    target: Option<Option<Authority>>,
    /// What is wrong with the request line.
    wrong: Option<Why>,
    is_connect: bool,
    size: usize,
    /// The beginning of a line whose end did not come yet.
    line: Vec<u8>,
    hosts: Vec<String>,
    origins: Vec<String>,
    sites: Vec<String>,
    modes: Vec<String>,
    dests: Vec<String>,
    lengths: Vec<String>,
    codings: Vec<String>,
    upgrades: bool,
}

impl Head {
    /// Behind this request line.
    pub(super) fn new(line: &Line) -> Self {
        let (target, wrong) = match line.authority() {
            None => (None, None),
            Some(Ok(it)) => (Some(authority(&String::from_utf8_lossy(it))), None),
            Some(Err(())) => (None, Some(Why::Malformed("its target has no end"))),
        };
        let bare_cr = line.has_bare_cr();
        Self {
            method: line.method().to_vec(),
            target,
            wrong: wrong.or(bare_cr.then_some(Why::Malformed("a line of its head has two ends"))),
            is_connect: line.is_connect(),
            size: line.length(),
            ..Self::default()
        }
    }

    /// Takes bytes from `rest`, up to the head's end at most. What follows it, if it ended and may go on.
    pub(super) fn push(&mut self, rest: &mut &[u8], rules: &Rules) -> Result<Option<Body>, Why> {
        let end = rest.iter().position(|it| *it == b'\n');
        let piece = &rest[..end.unwrap_or(rest.len())];
        self.size += piece.len() + usize::from(end.is_some());
        if self.size > HEAD_MOST {
            return Err(Why::TooLong);
        }
        let Some(end) = end else {
            self.line.extend_from_slice(piece);
            *rest = &[];
            return Ok(None);
        };
        let whole;
        let line = if self.line.is_empty() {
            piece
        } else {
            self.line.extend_from_slice(piece);
            whole = std::mem::take(&mut self.line);
            &whole
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let is_last = line.is_empty();
        if !is_last {
            self.header(line)?;
        }
        let res = match is_last {
            true => self.check(rules).map(Some)?,
            false => None,
        };
        *rest = &rest[end + 1..];
        Ok(res)
    }

    fn header(&mut self, line: &[u8]) -> Result<(), Why> {
        if line.iter().any(|it| matches!(it, b'\r' | b'\0')) {
            return Err(Why::Malformed("a line of its head has two ends"));
        }
        if line.first().is_some_and(u8::is_ascii_whitespace) {
            return Err(Why::Malformed("a header goes on in a second line"));
        }
        let colon = line.iter().position(|it| *it == b':');
        let Some((name, value)) = colon.map(|it| (&line[..it], &line[it + 1..])) else {
            return Err(Why::Malformed("a line of its head is no header"));
        };
        if name.is_empty() || !name.iter().all(|it| is_token(*it)) {
            return Err(Why::Malformed("a line of its head is no header"));
        }
        let to = match name.to_ascii_lowercase().as_slice() {
            b"host" => &mut self.hosts,
            b"origin" => &mut self.origins,
            b"sec-fetch-site" => &mut self.sites,
            b"sec-fetch-mode" => &mut self.modes,
            b"sec-fetch-dest" => &mut self.dests,
            b"content-length" => &mut self.lengths,
            b"transfer-encoding" => &mut self.codings,
            b"upgrade" => {
                self.upgrades = true;
                return Ok(());
            }
            _ => return Ok(()),
        };
        to.push(String::from_utf8_lossy(value.trim_ascii()).into_owned());
        Ok(())
    }

    /// The whole head.
    fn check(&self, rules: &Rules) -> Result<Body, Why> {
        if let Some(wrong) = &self.wrong {
            return Err(wrong.clone());
        }
        if rules.ssh {
            return Err(Why::Ssh);
        }
        let host = self.host(rules)?;
        let mut is_vouched_for = false;
        for origin in &self.origins {
            if !self.may_ask(origin, host.as_ref(), rules) {
                return Err(Why::Origin(origin.clone()));
            }
            is_vouched_for = true;
        }
        if self.is_cross_site() && !is_vouched_for && !self.is_visit() {
            return Err(Why::CrossSite);
        }
        self.body()
    }

    /// The host that is asked for. No browser leaves it out.
    fn host(&self, rules: &Rules) -> Result<Option<Authority>, Why> {
        if let Some(target) = &self.target {
            let known = target.as_ref().is_some_and(|it| rules.answers_to(&it.0));
            if !known {
                let name = target.as_ref().map(|it| it.0.to_string());
                return Err(Why::Host(name.unwrap_or_default()));
            }
        }
        let text = match self.hosts.as_slice() {
            [] => return Ok(None),
            [one] if one.is_empty() => return Ok(None),
            [one] => one,
            [..] => return Err(Why::Malformed("it has two Host headers")),
        };
        match authority(text) {
            Some(it) if rules.answers_to(&it.0) => Ok(Some(it)),
            Some(it) => Err(Why::Host(it.0.to_string())),
            None => Err(Why::Host(text.clone())),
        }
    }

    /// Whether a page of `origin` may ask.
    fn may_ask(&self, origin: &str, host: Option<&Authority>, rules: &Rules) -> bool {
        if origin == "null" {
            // A page that wants no referrer told hides itself from its own service, too.
            let own = |it: &String| it == "same-origin" || it == "none";
            return !self.sites.is_empty() && self.sites.iter().all(own);
        }
        let Some((scheme, rest)) = origin.split_once("://") else {
            return false;
        };
        let Some((name, port)) = authority(rest) else {
            return false;
        };
        let usual = match scheme {
            "http" => Some(80),
            "https" => Some(443),
            _ => None,
        };
        let is_asked = host.is_some_and(|it| it.0 == name && it.1.or(usual) == port.or(usual));
        is_asked || is_loopback(&name) || rules.allow.contains(&name)
    }

    fn is_cross_site(&self) -> bool {
        let near = ["none", "same-origin", "same-site"];
        !self.sites.iter().all(|it| near.contains(&it.as_str()))
    }

    /// A whole page is asked for, to be shown: a person clicked a link, or a page leads there.
    fn is_visit(&self) -> bool {
        let only =
            |all: &[String], wanted: &str| !all.is_empty() && all.iter().all(|it| it == wanted);
        self.method == b"GET" && only(&self.modes, "navigate") && only(&self.dests, "document")
    }

    /// What follows, where every server agrees about it.
    fn body(&self) -> Result<Body, Why> {
        if self.upgrades || self.is_connect {
            return Ok(Body::Upgraded);
        }
        let coding = self.codings.join(",");
        let coding = coding.rsplit(',').next().map(str::trim);
        match (self.codings.as_slice(), self.lengths.as_slice()) {
            ([], []) => Ok(Body::Length(0)),
            ([], lengths) => length(lengths).map(Body::Length),
            (_, []) if coding.is_some_and(|it| it.eq_ignore_ascii_case("chunked")) => {
                Ok(Body::Chunked)
            }
            _ => Err(Why::Malformed("it does not say where its body ends")),
        }
    }
}

impl Rules {
    /// Whether this host may be asked for. A page can get its own name to lead here, but no address.
    fn answers_to(&self, host: &Host) -> bool {
        let is_address = match host {
            // Nobody has this address: it leads to this machine, and browsers do not know that it does.
            Host::Ip(ip) => {
                let is_mapped = ip.to_canonical() != *ip;
                !ip.is_unspecified() && !is_mapped
            }
            Host::Name(_) => false,
        };
        is_address || is_loopback(host) || *host == self.route || self.allow.contains(host)
    }
}

/// This machine. Names below `localhost` are not: not every resolver keeps them at home.
fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Name(name) => name == "localhost",
        Host::Ip(ip) => ip.is_loopback(),
    }
}

/// `HOST` or `HOST:PORT`.
fn authority(text: &str) -> Option<Authority> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    // Without brackets it would be no authority, and what is not ASCII no browser sends.
    if host.contains(':') && !host.starts_with('[') || !host.is_ascii() {
        return None;
    }
    let port = match port {
        None | Some("") => None,
        Some(it) if it.bytes().all(|it| it.is_ascii_digit()) => Some(it.parse().ok()?),
        Some(_) => return None,
    };
    Host::parse(host).ok().map(|it| (it, port))
}

/// The one length that all of them name.
fn length(all: &[String]) -> Result<u64, Why> {
    let mut parts = all.iter().flat_map(|it| it.split(',')).map(str::trim);
    let number = |it: &str| {
        let is_number = !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit());
        is_number.then(|| it.parse::<u64>().ok()).flatten()
    };
    let first = parts.next().and_then(number);
    match first {
        Some(first) if parts.all(|it| number(it) == Some(first)) => Ok(first),
        _ => Err(Why::Malformed("it does not say where its body ends")),
    }
}
