//! Why a route did not open, sorted by what the caller does about it. Pure.

use std::{fmt, io};

use control::text::clean;
use serde_json::Value;

/// The longest body that is looked into.
const BODY: usize = 64 << 10;

/// Why a route did not open. One variant per reaction.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not take the token: drop *that* token, log in, try again. (401, or a redirect to a login.)
    #[error("Pomerium wants a login")]
    Unauthenticated {
        /// Finds the case in Pomerium's log.
        request_id: Option<String>,
    },
    /// The server answered: keep the token, tell the local side why.
    #[error("{0}")]
    Refused(Refusal),
    /// No answer came about: keep the token, tell the local side which step failed.
    #[error("{0}")]
    Unreachable(Unreachable),
    /// The local side went away before the route was open.
    #[error("the local side went away")]
    LocalGone(#[source] io::Error),
}

/// A refusal by the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What it means.
    pub kind: RefusalKind,
    /// The HTTP status; 0 where TLS refused before there could be one.
    pub status: u16,
    /// Finds the case in Pomerium's log. Cleaned for display.
    pub request_id: Option<String>,
    /// What the server said in its body (`error`, `statusText`), cleaned for display, at most 200 characters.
    pub detail: Option<String>,
}

/// What a refusal means; the table of `What a refusal means`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// 403 with a body: the policy says no.
    Forbidden,
    /// 403 without a body: a TCP CONNECT on a UDP route.
    WrongProtocol,
    /// 404.
    NoSuchRoute,
    /// 450.
    DeviceNotEnrolled,
    /// 495, a TLS alert that asks for a certificate, or a close right after a handshake that seemed to succeed.
    ClientCertificate,
    /// 502, 503, 504.
    UpstreamUnavailable,
    /// Any other status.
    Other,
}

/// A step that failed before the server could answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreachable {
    /// Which step.
    pub step: Step,
    /// It ended because its time was over.
    pub timed_out: bool,
    /// What was tried, with what, and how it failed: one line, lower case, cleaned for display.
    pub message: String,
    /// What to do, where something can be done.
    pub hint: Option<String>,
}

/// The steps of opening a route, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// No step of the way: this machine lacks what every step needs.
    Local,
    /// Looking the name up.
    Dns,
    /// The way to the forward proxy, and what it answered.
    ForwardProxy,
    /// Connecting.
    Tcp,
    /// The TLS handshake.
    Tls,
    /// The CONNECT or GET and its answer.
    Http,
}

/// What an answer that opens nothing means. `request_id` is the header's, which counts more than the body's.
pub fn from(status: u16, request_id: Option<&str>, body: &[u8]) -> OpenError {
    let said = Said::read(body);
    let request_id = request_id
        .filter(|it| !it.trim().is_empty())
        .map(shown_id)
        .or(said.request_id);
    let kind = match status {
        401 | 301..=303 | 307 | 308 => return OpenError::Unauthenticated { request_id },
        403 if body.is_empty() => RefusalKind::WrongProtocol,
        403 => RefusalKind::Forbidden,
        404 => RefusalKind::NoSuchRoute,
        450 => RefusalKind::DeviceNotEnrolled,
        495 => RefusalKind::ClientCertificate,
        502..=504 => RefusalKind::UpstreamUnavailable,
        _ => RefusalKind::Other,
    };
    OpenError::Refused(Refusal {
        kind,
        status,
        request_id,
        detail: said.detail,
    })
}

/// TLS itself refused for want of a (good) client certificate.
pub fn certificate_wanted(detail: &str) -> OpenError {
    OpenError::Refused(Refusal {
        kind: RefusalKind::ClientCertificate,
        status: 0,
        request_id: None,
        detail: Some(clean(detail, 200)),
    })
}

/// A request id, fit to be shown.
pub fn shown_id(id: &str) -> String {
    clean(id, 100)
}

impl Unreachable {
    /// A step that failed; `message` may hold text from outside.
    pub fn new(step: Step, message: &str) -> Self {
        Self {
            step,
            timed_out: false,
            message: clean(message, 400),
            hint: None,
        }
    }

    /// The same, because its time was over.
    pub fn timed_out(mut self) -> Self {
        self.timed_out = true;
        self
    }

    /// The same, with what to do about it.
    pub fn hint(mut self, hint: &str) -> Self {
        self.hint = Some(clean(hint, 400));
        self
    }
}

impl From<Unreachable> for OpenError {
    fn from(it: Unreachable) -> Self {
        Self::Unreachable(it)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.kind {
            RefusalKind::Forbidden => "the policy does not allow it",
            RefusalKind::WrongProtocol => "the route is not for TCP",
            RefusalKind::NoSuchRoute => "Pomerium has no such route",
            RefusalKind::DeviceNotEnrolled => "Pomerium does not know this device yet",
            RefusalKind::ClientCertificate => "Pomerium wants a client certificate",
            RefusalKind::UpstreamUnavailable => "Pomerium cannot reach the service",
            RefusalKind::Other => "Pomerium refused",
        })?;
        if self.status != 0 {
            write!(f, " ({})", self.status)?;
        }
        match &self.detail {
            Some(it) => write!(f, ": {it}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Of the other steps the message itself says enough.
        if self.step == Step::ForwardProxy {
            write!(f, "{}: ", self.step)?;
        }
        f.write_str(&self.message)
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "this machine",
            Self::Dns => "DNS",
            Self::ForwardProxy => "forward proxy",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Http => "HTTP",
        })
    }
}

/// What a body says, in either of its two shapes: `error`, `request_id` (Pomerium) or `statusText`, `requestId` (Envoy).
#[derive(Default)]
struct Said {
    request_id: Option<String>,
    detail: Option<String>,
}

impl Said {
    fn read(body: &[u8]) -> Self {
        if body.len() > BODY {
            return Self::default();
        }
        if let Ok(Value::Object(map)) = serde_json::from_slice(body) {
            let text = |keys: [&str; 2]| {
                let found = keys.iter().find_map(|it| map.get(*it)?.as_str());
                found.filter(|it| !it.trim().is_empty())
            };
            return Self {
                request_id: text(["request_id", "requestId"]).map(shown_id),
                detail: text(["error", "statusText"]).map(|it| clean(it, 200)),
            };
        }
        // A line of plain text is worth showing; a page, or JSON that is broken or strange, is not.
        let plain = std::str::from_utf8(body).ok().map(str::trim);
        Self {
            request_id: None,
            detail: plain
                .filter(|it| !it.is_empty() && !it.starts_with(['<', '{', '[']))
                .map(|it| clean(it, 200)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POMERIUM: &[u8] = br#"{"error":"Forbidden","request_id":"id-1"}"#;
    const ENVOY: &[u8] = br#"{"requestId":"id-2","status":503,"statusText":"no_healthy_upstream"}"#;

    fn refusal(error: OpenError) -> Refusal {
        match error {
            OpenError::Refused(it) => it,
            other => panic!("not a refusal: {other:?}"),
        }
    }

    /// Written down from the protocol page, one line for each of its rows.
    fn expected(status: u16, body: bool) -> Option<RefusalKind> {
        Some(match (status, body) {
            (401 | 301 | 302 | 303 | 307 | 308, _) => return None,
            (403, true) => RefusalKind::Forbidden,
            (403, false) => RefusalKind::WrongProtocol,
            (404, _) => RefusalKind::NoSuchRoute,
            (450, _) => RefusalKind::DeviceNotEnrolled,
            (495, _) => RefusalKind::ClientCertificate,
            (502..=504, _) => RefusalKind::UpstreamUnavailable,
            _ => RefusalKind::Other,
        })
    }

    #[test]
    fn h1_every_status_means_what_the_table_says() {
        for status in [101].into_iter().chain(200..600) {
            for body in [&b""[..], POMERIUM, ENVOY, b"<html>", b"\xff\xfe"] {
                let error = from(status, Some("id"), body);
                match expected(status, !body.is_empty()) {
                    Some(kind) => {
                        let it = refusal(error);
                        assert_eq!((it.kind, it.status), (kind, status));
                        assert_eq!(it.request_id.as_deref(), Some("id"));
                    }
                    None => assert!(
                        matches!(&error, OpenError::Unauthenticated { request_id: Some(it) } if it == "id"),
                        "{status}: {error:?}"
                    ),
                }
            }
        }
    }

    #[test]
    fn both_shapes_of_a_body_are_read() {
        let it = refusal(from(403, None, POMERIUM));
        assert_eq!(it.request_id.as_deref(), Some("id-1"));
        assert_eq!(it.detail.as_deref(), Some("Forbidden"));
        let it = refusal(from(503, None, ENVOY));
        assert_eq!(it.request_id.as_deref(), Some("id-2"));
        assert_eq!(it.detail.as_deref(), Some("no_healthy_upstream"));
        assert_eq!(
            refusal(from(503, None, b"upstream gone\n"))
                .detail
                .as_deref(),
            Some("upstream gone")
        );
        assert_eq!(refusal(from(503, None, b"<html>x</html>")).detail, None);
    }

    #[test]
    fn a_hostile_body_is_shown_harmless_or_not_at_all() {
        let it = refusal(from(
            403,
            Some("a\u{1b}]0;x\u{7}"),
            "{\"error\":\"\\u001b[2J\\u202e\\n\"}".as_bytes(),
        ));
        assert_eq!(it.request_id.as_deref(), Some(r"a\u{1b}]0;x\u{7}"));
        assert_eq!(it.detail.as_deref(), Some(r"\u{1b}[2J\u{202e}"));
        let long = format!("{{\"error\":\"{}\",\"request_id\":[1]}}", "ä".repeat(5000));
        let it = refusal(from(403, None, long.as_bytes()));
        assert_eq!(it.detail.map(|it| it.chars().count()), Some(200));
        assert_eq!(it.request_id, None);
        assert_eq!(refusal(from(500, None, &vec![b'['; 1 << 20])).detail, None);
    }
}
