//! Why a route did not open, sorted by what the caller does about it.

use std::io;

use control::text::clean;
use serde_json::Value;

use super::error::{Step, StepError};

/// The longest body that is looked into.
const BODY: usize = 64 << 10;

/// Why a route did not open. One variant per reaction of the caller.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The server does not take the token: drop *that* token, log in, retry. (401, or a redirect to a login.)
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
    Unreachable(Box<StepError>),
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

/// What a refusal means.
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

/// Returns what an answer that opens nothing means. `request_id` is the header's, which counts more than the body's.
pub fn from(status: u16, request_id: Option<&str>, body: &[u8]) -> OpenError {
    let details = BodyDetails::read(body);
    let request_id = request_id
        .filter(|it| !it.trim().is_empty())
        .map(shown_id)
        .or(details.request_id);
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
        detail: details.detail,
    })
}

/// Returns the refusal of a server that wants a client certificate, or a better one, and says so by TLS alone; `detail` is
/// how it said so.
pub fn certificate_wanted(detail: &str) -> OpenError {
    OpenError::Refused(Refusal {
        kind: RefusalKind::ClientCertificate,
        status: 0,
        request_id: None,
        detail: Some(clean(detail, 200)),
    })
}

/// Returns a request id that is fit to be shown.
pub fn shown_id(id: &str) -> String {
    clean(id, 100)
}

impl OpenError {
    /// Returns the step that failed; `None` where no step did, because the local side went away.
    pub fn step(&self) -> Option<Step> {
        match self {
            Self::Unauthenticated { .. } => Some(Step::Session),
            Self::Refused(refusal) => Some(refusal.step()),
            Self::Unreachable(error) => Some(error.step()),
            Self::LocalGone(_) => None,
        }
    }
}

impl Refusal {
    fn step(&self) -> Step {
        match self.kind {
            // TLS said it, and there is no status.
            RefusalKind::ClientCertificate if self.status == 0 => Step::Tls,
            RefusalKind::Forbidden
            | RefusalKind::WrongProtocol
            | RefusalKind::NoSuchRoute
            | RefusalKind::DeviceNotEnrolled
            | RefusalKind::ClientCertificate => Step::Policy,
            RefusalKind::UpstreamUnavailable => Step::Upstream,
            RefusalKind::Other => Step::Http,
        }
    }
}

impl From<StepError> for OpenError {
    fn from(error: StepError) -> Self {
        Box::new(error).into()
    }
}

impl From<Box<StepError>> for OpenError {
    fn from(error: Box<StepError>) -> Self {
        Self::Unreachable(error)
    }
}

/// What a body says, in either of its two shapes: `error`, `request_id` (Pomerium) or `statusText`, `requestId` (Envoy).
#[derive(Default)]
struct BodyDetails {
    request_id: Option<String>,
    detail: Option<String>,
}

impl BodyDetails {
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
