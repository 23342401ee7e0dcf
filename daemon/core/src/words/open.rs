//! Why a route did not open, in words: the same in status, log and ssh. Pure.
//!
//! Hints name only commands and keys that exist.

use std::path::Path;

use control::{
    text::clean,
    wire::{self, Code},
};
use jiff::{Timestamp, tz::TimeZone};
use pomd_core::{
    config::{Authority, ClusterName, Route},
    route::refusal::{OpenError, Refusal, RefusalKind, Step, Unreachable},
};

/// What the words speak of besides the error.
#[derive(Clone, Debug)]
pub(super) struct Context<'a> {
    /// Whose login was used.
    pub(super) cluster: &'a ClusterName,
    /// The cluster stands in the configuration file.
    pub(super) named: bool,
    /// The client certificate that was offered.
    pub(super) certificate: Option<&'a Path>,
    /// What was asked for.
    pub(super) route: &'a Route,
    /// Who is logged in.
    pub(super) user: Option<&'a str>,
    /// Routes that are offered and look like the one asked for.
    pub(super) similar: &'a [Authority],
    /// How many connections of the tunnel are open.
    pub(super) open: u64,
    /// Now.
    pub(super) at: Timestamp,
}

/// What a person must learn of `error`. [`OpenError::Unauthenticated`] is only told of a token that was just given;
/// [`OpenError::LocalGone`] is nobody's trouble, `None`.
pub(super) fn reason(error: &OpenError, context: &Context<'_>) -> Option<wire::Reason> {
    let (code, message, hint) = match error {
        OpenError::LocalGone(_) => return None,
        OpenError::Unauthenticated { .. } => fresh_token_refused(context),
        OpenError::Refused(it) => refused(it, context),
        OpenError::Unreachable(it) => (
            unreachable_code(it),
            clean(&it.to_string(), 400),
            it.hint.as_ref().map(|it| clean(it, 400)),
        ),
    };
    Some(wire::Reason {
        hint,
        request_id: request_id(error),
        ..wire::Reason::new(code, message, context.at)
    })
}

/// More about `error`, as pairs for a terminal; times in `zone`.
pub(super) fn facts(
    error: &OpenError,
    context: &Context<'_>,
    zone: &TimeZone,
) -> Vec<(String, String)> {
    let time = context.at.to_zoned(zone.clone()).strftime("%H:%M");
    let cluster = context.cluster;
    let mut res = Vec::new();
    let mut fact = |key: &str, value: String| res.push((key.to_owned(), value));
    if let Some(id) = request_id(error) {
        fact(
            "request id",
            format!("{id}, {time} (finds it in Pomerium's log)"),
        );
    }
    if let OpenError::Refused(it) = error {
        match it.kind {
            RefusalKind::Forbidden => fact(
                "session",
                format!("good, kept; other tunnels of {cluster} are not affected"),
            ),
            RefusalKind::NoSuchRoute if !context.similar.is_empty() => {
                fact("similar", list(context.similar));
            }
            RefusalKind::UpstreamUnavailable => {
                fact("tried", format!("at {time}; session good, kept"));
            }
            _ => {}
        }
        // Elsewhere it says no more than the sentence does.
        if let Some(detail) = &it.detail
            && it.kind == RefusalKind::UpstreamUnavailable
            && !matches!(detail.as_str(), "Bad Gateway" | "Service Unavailable")
        {
            fact("answer", clean(detail, 200));
        }
    }
    res
}

/// What ssh is told: the reason, the request id, and what to do with it or near matches, for there is no other place to
/// look them up at that moment.
pub(super) fn for_ssh(reason: &wire::Reason, similar: &[Authority]) -> String {
    if reason.code == Code::NoSuchRoute && !similar.is_empty() {
        let message = reason.message.trim_end_matches(" (404)");
        return format!("{message}. Similar: {}", list(similar));
    }
    let message = with_request_id(reason);
    match &reason.hint {
        Some(hint) if reason.code == Code::Forbidden => format!("{message}. {}", sentence(hint)),
        _ => message,
    }
}

/// The message, and the id that finds the case in Pomerium's log.
pub(super) fn with_request_id(reason: &wire::Reason) -> String {
    let id = reason.request_id.as_ref();
    let id = id.map_or_else(String::new, |it| format!(", request id {it}"));
    format!("{}{id}", reason.message)
}

fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

/// There is no login to open the route with.
pub(super) fn login_needed(cluster: &ClusterName) -> String {
    format!("{cluster} needs a login. Run: pomctl login {cluster}")
}

type Words = (Code, String, Option<String>);

fn fresh_token_refused(context: &Context<'_>) -> Words {
    let cluster = context.cluster;
    (
        Code::LoginFailed,
        format!("{cluster} did not let us in: the server refuses the token it just gave"),
        Some(format!("once the server is mended: pomctl login {cluster}")),
    )
}

fn refused(refusal: &Refusal, context: &Context<'_>) -> Words {
    let Context { cluster, route, .. } = context;
    let authority = &route.authority;
    let status = Status(refusal.status);
    match refusal.kind {
        RefusalKind::Forbidden => {
            let who = context
                .user
                .map_or_else(|| format!("this login of {cluster}"), |it| clean(it, 200));
            let hint = match refusal.request_id {
                Some(_) => "send the request id to your Pomerium administrator and ask for access",
                None => "ask your Pomerium administrator for access",
            };
            let message = format!("{who} may not use {authority}{status}");
            (Code::Forbidden, message, Some(hint.to_owned()))
        }
        RefusalKind::WrongProtocol => (
            Code::Forbidden,
            format!("{authority} is no TCP route of {cluster}{status}"),
            Some("it is a UDP route, which this tunnel does not carry".to_owned()),
        ),
        RefusalKind::NoSuchRoute => (
            Code::NoSuchRoute,
            format!("{cluster} has no route {authority}{status}"),
            Some("the port is part of a route's name".to_owned()),
        ),
        RefusalKind::DeviceNotEnrolled => (
            Code::DeviceNotAllowed,
            format!("{cluster} doesn't know this device yet{status}"),
            Some(format!(
                "enrol it, then try again: {}/.pomerium/",
                route.address
            )),
        ),
        RefusalKind::ClientCertificate => certificate(status, context),
        RefusalKind::UpstreamUnavailable => (
            Code::UpstreamUnavailable,
            format!("Pomerium can't reach the service behind {authority}{status}"),
            Some(unavailable_hint(
                refusal.detail.as_deref().unwrap_or_default(),
                context.open,
            )),
        ),
        RefusalKind::Other => {
            let detail = refusal.detail.as_deref().unwrap_or_default();
            let said = if detail.is_empty() {
                String::new()
            } else {
                format!(": {}", clean(detail, 200))
            };
            let message = format!("Pomerium did not open {authority}{status}{said}");
            let underscored = refusal.status == 400 && authority.host.to_string().contains('_');
            let hint = "Pomerium's Envoy takes no host name with `_`: the route needs another name";
            (Code::Http, message, underscored.then(|| hint.to_owned()))
        }
    }
}

fn certificate(status: Status, context: &Context<'_>) -> Words {
    let cluster = context.cluster;
    let table = if context.named {
        format!("[cluster.{cluster}]")
    } else {
        format!(
            "a [cluster.NAME] with hosts = [\"{}\"]",
            context.route.address.host
        )
    };
    let (message, hint) = match context.certificate {
        None => (
            format!("{cluster} wants a client certificate, and none is set{status}"),
            format!("set client_cert and client_key in {table}"),
        ),
        Some(file) => {
            let name = file
                .file_name()
                .unwrap_or(file.as_os_str())
                .to_string_lossy();
            let name = clean(&name, 80);
            (
                format!("{cluster} did not accept {name}{status}"),
                format!("renew it, or set another client_cert and client_key in {table}"),
            )
        }
    };
    (Code::ClientCertificateRequired, message, Some(hint))
}

/// What Envoy says of the other side, in words.
fn unavailable_hint(detail: &str, open: u64) -> String {
    /// As many connections Envoy makes to one service, unless it is told otherwise.
    const MOST: u64 = 1_024;
    let detail = detail.to_ascii_lowercase().replace('_', " ");
    if detail.contains("overflow") || open >= MOST * 9 / 10 {
        return format!(
            "{open} connections of this tunnel are open, and Pomerium's Envoy makes 1,024 to one service by default; \
             the next one works when others have ended"
        );
    }
    let cause = if detail.contains("refused") {
        "the service refuses connections"
    } else if detail.contains("timeout") || detail.contains("timed out") {
        "the service does not answer Pomerium"
    } else if detail.contains("no healthy upstream") {
        "Pomerium does not find the service's address"
    } else {
        return "the tunnel stays up; the next connection tries again".to_owned();
    };
    format!("{cause}; the next connection tries again")
}

/// It may be the network's fault, and not the server's.
pub(super) fn is_of_network(code: Code) -> bool {
    matches!(
        code,
        Code::Dns | Code::ForwardProxy | Code::Tcp | Code::Tls | Code::Timeout
    )
}

fn unreachable_code(failure: &Unreachable) -> Code {
    match failure.step {
        Step::Local => Code::Local,
        Step::ForwardProxy => Code::ForwardProxy,
        _ if failure.timed_out => Code::Timeout,
        Step::Dns => Code::Dns,
        Step::Tcp => Code::Tcp,
        Step::Tls => Code::Tls,
        Step::Http => Code::Http,
    }
}

fn request_id(error: &OpenError) -> Option<String> {
    let id = match error {
        OpenError::Refused(it) => it.request_id.as_ref(),
        OpenError::Unauthenticated { request_id } => request_id.as_ref(),
        OpenError::Unreachable(_) | OpenError::LocalGone(_) => None,
    };
    id.map(|it| clean(it, 100))
}

fn list(routes: &[Authority]) -> String {
    let routes: Vec<_> = routes.iter().map(ToString::to_string).collect();
    routes.join(", ")
}

/// ` (403)`; nothing where TLS said it and there is no status.
struct Status(u16);

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            100..=999 => write!(f, " ({})", self.0),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use pomd_core::config::{Address, Host};

    fn authority(host: &str, port: u16) -> Authority {
        let host = Host::Name(host.to_owned());
        Authority { host, port }
    }

    fn route(host: &str) -> Route {
        Route {
            authority: authority(host, 22),
            address: Address {
                tls: true,
                host: Host::Name(host.to_owned()),
                port: 443,
            },
        }
    }

    fn refusal(kind: RefusalKind, status: u16) -> OpenError {
        OpenError::Refused(Refusal {
            kind,
            status,
            request_id: Some("7f3a9c02-4b1e".to_owned()),
            detail: None,
        })
    }

    fn said(error: &OpenError, change: impl FnOnce(&mut Context<'_>)) -> wire::Reason {
        let cluster = ClusterName::parse("corp").unwrap();
        let route = route("ssh-prod.corp.example.com");
        let mut context = Context {
            cluster: &cluster,
            named: true,
            certificate: None,
            route: &route,
            user: Some("alice@example.com"),
            similar: &[],
            open: 0,
            at: Timestamp::UNIX_EPOCH,
        };
        change(&mut context);
        reason(error, &context).unwrap()
    }

    #[test]
    fn refusals_are_told_in_the_promised_words() {
        use RefusalKind as Kind;
        for (kind, status, code, message) in [
            (
                Kind::Forbidden,
                403,
                Code::Forbidden,
                "alice@example.com may not use ssh-prod.corp.example.com:22 (403)",
            ),
            (
                Kind::WrongProtocol,
                403,
                Code::Forbidden,
                "ssh-prod.corp.example.com:22 is no TCP route of corp (403)",
            ),
            (
                Kind::NoSuchRoute,
                404,
                Code::NoSuchRoute,
                "corp has no route ssh-prod.corp.example.com:22 (404)",
            ),
            (
                Kind::UpstreamUnavailable,
                503,
                Code::UpstreamUnavailable,
                "Pomerium can't reach the service behind ssh-prod.corp.example.com:22 (503)",
            ),
            (
                Kind::ClientCertificate,
                495,
                Code::ClientCertificateRequired,
                "corp wants a client certificate, and none is set (495)",
            ),
            (
                Kind::ClientCertificate,
                0,
                Code::ClientCertificateRequired,
                "corp wants a client certificate, and none is set",
            ),
            (
                Kind::DeviceNotEnrolled,
                450,
                Code::DeviceNotAllowed,
                "corp doesn't know this device yet (450)",
            ),
            (
                Kind::Other,
                429,
                Code::Http,
                "Pomerium did not open ssh-prod.corp.example.com:22 (429)",
            ),
        ] {
            let reason = said(&refusal(kind, status), |_| {});
            assert_eq!((reason.code, reason.message.as_str()), (code, message));
            assert_eq!(reason.request_id.as_deref(), Some("7f3a9c02-4b1e"));
        }
    }

    #[test]
    fn hints_say_what_can_be_done_here() {
        let hint = |error: &OpenError| said(error, |_| {}).hint.unwrap();
        assert_eq!(
            hint(&refusal(RefusalKind::Forbidden, 403)),
            "send the request id to your Pomerium administrator and ask for access"
        );
        assert_eq!(
            hint(&refusal(RefusalKind::DeviceNotEnrolled, 450)),
            "enrol it, then try again: https://ssh-prod.corp.example.com/.pomerium/"
        );
        assert_eq!(
            hint(&refusal(RefusalKind::ClientCertificate, 495)),
            "set client_cert and client_key in [cluster.corp]"
        );
        let unnamed = said(&refusal(RefusalKind::ClientCertificate, 495), |it| {
            it.named = false
        });
        assert_eq!(
            unnamed.hint.unwrap(),
            "set client_cert and client_key in a [cluster.NAME] with hosts = [\"ssh-prod.corp.example.com\"]"
        );
        let file = Path::new("/etc/me.pem");
        let refused = said(&refusal(RefusalKind::ClientCertificate, 495), |it| {
            it.certificate = Some(file);
        });
        assert_eq!(refused.message, "corp did not accept me.pem (495)");
        assert!(
            unavailable_hint("delayed_connect_error:_Connection_refused", 0).contains("refuses")
        );
        assert!(unavailable_hint("no_healthy_upstream", 0).contains("does not find"));
        assert!(unavailable_hint("connection_timeout", 0).contains("does not answer"));
        for (detail, open) in [("reset_reason:_overflow", 3), ("connection_timeout", 1_000)] {
            let hint = unavailable_hint(detail, open);
            assert!(hint.starts_with(&format!("{open} connections")) && hint.contains("1,024"));
        }
    }

    #[test]
    fn a_failed_step_keeps_its_words_and_gets_its_code() {
        for (step, timed_out, code) in [
            (Step::Dns, false, Code::Dns),
            (Step::Tcp, false, Code::Tcp),
            (Step::Tls, false, Code::Tls),
            (Step::Http, false, Code::Http),
            (Step::Tcp, true, Code::Timeout),
            (Step::ForwardProxy, false, Code::ForwardProxy),
            (Step::ForwardProxy, true, Code::ForwardProxy),
        ] {
            let error = OpenError::Unreachable(Unreachable {
                step,
                timed_out,
                message: "cannot reach a:443: refused".to_owned(),
                hint: Some("look".to_owned()),
            });
            let reason = said(&error, |_| {});
            assert_eq!(reason.code, code);
            // Whether it is about the cluster or about a proxy is not to be guessed from the address.
            let prefix = match step {
                Step::ForwardProxy => "forward proxy: ",
                _ => "",
            };
            assert_eq!(
                reason.message,
                format!("{prefix}cannot reach a:443: refused")
            );
            assert_eq!(reason.hint.as_deref(), Some("look"));
        }
    }

    #[test]
    fn a_fresh_token_that_is_refused_is_a_failed_login() {
        let error = OpenError::Unauthenticated { request_id: None };
        let reason = said(&error, |_| {});
        assert_eq!(reason.code, Code::LoginFailed);
        assert!(
            reason
                .message
                .contains("the server refuses the token it just gave")
        );
    }

    #[test]
    fn nobody_is_told_of_a_client_that_left() {
        let cluster = ClusterName::parse("corp").unwrap();
        let context = Context {
            cluster: &cluster,
            named: true,
            certificate: None,
            route: &route("a.example"),
            user: None,
            similar: &[],
            open: 0,
            at: Timestamp::UNIX_EPOCH,
        };
        let error = OpenError::LocalGone(io::ErrorKind::ConnectionReset.into());
        assert_eq!(reason(&error, &context), None);
    }

    #[test]
    fn near_matches_are_told_to_ssh_and_as_a_fact() {
        let similar: &'static [Authority] =
            Box::leak(Box::new([authority("web-1.corp.example.com", 22)]));
        let reason = said(&refusal(RefusalKind::NoSuchRoute, 404), |it| {
            it.similar = similar;
            let facts = facts(&refusal(RefusalKind::NoSuchRoute, 404), it, &TimeZone::UTC);
            let similar = ("similar".to_owned(), "web-1.corp.example.com:22".to_owned());
            assert!(facts.contains(&similar), "{facts:?}");
        });
        assert_eq!(
            for_ssh(&reason, similar),
            "corp has no route ssh-prod.corp.example.com:22. Similar: web-1.corp.example.com:22"
        );
        let told = format!("{}, request id 7f3a9c02-4b1e", reason.message);
        assert_eq!(for_ssh(&reason, &[]), told);
        let forbidden = said(&refusal(RefusalKind::Forbidden, 403), |_| {});
        assert_eq!(
            for_ssh(&forbidden, &[]),
            "alice@example.com may not use ssh-prod.corp.example.com:22 (403), request id 7f3a9c02-4b1e. \
             Send the request id to your Pomerium administrator and ask for access"
        );
    }

    #[test]
    fn facts_of_a_refusal_name_the_request_and_say_that_the_session_is_kept() {
        said(&refusal(RefusalKind::Forbidden, 403), |it| {
            let facts = facts(&refusal(RefusalKind::Forbidden, 403), it, &TimeZone::UTC);
            let expected = [
                (
                    "request id",
                    "7f3a9c02-4b1e, 00:00 (finds it in Pomerium's log)",
                ),
                (
                    "session",
                    "good, kept; other tunnels of corp are not affected",
                ),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(facts, expected);
        });
    }

    #[test]
    fn text_of_the_server_cannot_steer_a_terminal() {
        let evil = "a\u{1b}]0;x\u{7}\nb\u{202e}";
        let error = OpenError::Refused(Refusal {
            kind: RefusalKind::Other,
            status: 500,
            request_id: Some(evil.to_owned()),
            detail: Some(evil.to_owned()),
        });
        let reason = said(&error, |it| {
            for (_, value) in facts(&error, it, &TimeZone::UTC) {
                assert!(!value.contains(['\u{1b}', '\n', '\u{202e}']), "{value:?}");
            }
        });
        let told = reason.message + &reason.request_id.unwrap();
        assert!(!told.contains(['\u{1b}', '\n', '\u{202e}']), "{told:?}");
    }
}
