//! Why a request was refused: for the log, and for who sent it.

use std::{error::Error, fmt};

use control::text::clean;

/// The most that is shown of what a stranger wrote, in characters.
const SHOWN: usize = 100;

/// A refused request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Why.
    pub why: Why,
    /// What its client is to read before the connection ends. `None`: it would not know which request that is about.
    pub answer: Option<Vec<u8>>,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It asks for a host that is not the tunnel's.
    Host(String),
    /// A page of another origin asks.
    Origin(String),
    /// A page of another site asks.
    CrossSite,
    /// Nobody understands it.
    Ssh,
    /// Servers may understand it in more than one way.
    Malformed(&'static str),
    /// Its head is too long.
    TooLong,
    /// Its head did not come.
    Slow,
}

impl Refusal {
    /// `first`: the client said nothing before.
    pub(super) fn new(why: Why, tunnel: &str, first: bool) -> Self {
        let answer = first.then(|| why.answer(tunnel));
        Self { why, answer }
    }
}

impl Why {
    fn status(&self) -> &'static str {
        match self {
            Self::Host(_) | Self::Origin(_) | Self::CrossSite | Self::Ssh => "403 Forbidden",
            Self::Malformed(_) => "400 Bad Request",
            Self::TooLong => "431 Request Header Fields Too Large",
            Self::Slow => "408 Request Timeout",
        }
    }

    /// What may be done about it, if it was meant.
    fn remedy(&self, tunnel: &str) -> String {
        let off = format!("browser_guard = false in [tunnel.{tunnel}] of pomd.toml");
        let named = match self {
            Self::Host(name) => Some(name.as_str()),
            Self::Origin(origin) => origin.split_once("://").map(|it| it.1),
            _ => None,
        };
        let host = named.map(|it| match it.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|it| it.is_ascii_digit()) => host,
            _ => it,
        });
        match host.filter(|it| !it.is_empty()) {
            Some(host) => format!(
                "If you know {host} and it is yours, write allow_hosts = [\"{host}\"] in [tunnel.{tunnel}] of pomd.toml; \
                 {off} instead lets in every web page.",
                host = clean(host, SHOWN)
            ),
            None => {
                format!("If your own program does this, write {off}, which lets in every web page.")
            }
        }
    }

    fn answer(&self, tunnel: &str) -> Vec<u8> {
        let body = format!(
            "pomd keeps web pages out of the tunnel {tunnel}, and refused this request: {self}.\n\n{}\n",
            self.remedy(tunnel)
        );
        let status = self.status();
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Cache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n{body}"
        )
        .into_bytes()
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |it: &str| clean(it, SHOWN);
        match self {
            Self::Host(name) => write!(
                f,
                "it asks for the host «{}», which is neither this machine nor in allow_hosts",
                shown(name)
            ),
            Self::Origin(origin) => write!(f, "a page of «{}» asks", shown(origin)),
            Self::CrossSite => f.write_str("a page of another site asks"),
            Self::Ssh => f.write_str("this tunnel leads to an ssh server, which speaks no HTTP"),
            Self::Malformed(what) => write!(f, "{what}"),
            Self::TooLong => f.write_str("its head has more than 64 KiB"),
            Self::Slow => f.write_str("its head did not come within 60 s"),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.why.fmt(f)
    }
}

impl Error for Refusal {}
