//! A route that did not open, told: the same in status, log and ssh.

use std::fmt;

use control::{
    text::clean,
    wire::{self, Code},
};
use jiff::{Timestamp, tz::TimeZone};

use super::{section, step};
use crate::{
    config::{Authority, ClusterName, ClusterSpec, Route, TokenKind, TokenSource},
    route::refusal::{OpenError, Refusal, RefusalKind},
    session::token::Token,
    words::login::told,
};

/// What a sentence names besides the error.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// Whose login was used.
    pub cluster: &'a ClusterName,
    /// The settings of that cluster.
    pub spec: &'a ClusterSpec,
    /// The route that was asked for.
    pub route: &'a Route,
    /// Who is logged in.
    pub user: Option<&'a str>,
    /// The token that was sent, if one was.
    pub token: Option<&'a Token>,
    /// Routes that are offered and look like the one asked for.
    pub similar: &'a [Authority],
    /// How many connections of the tunnel are open.
    pub open: u64,
    /// Now.
    pub at: Timestamp,
}

/// Returns what a person must learn of `error`. [`OpenError::Unauthenticated`] is only told of a token that was just given;
/// [`OpenError::LocalGone`] is nobody's trouble, `None`.
pub fn reason(error: &OpenError, context: &Context<'_>) -> Option<wire::Reason> {
    let (code, message, hint) = match error {
        OpenError::LocalGone(_) => return None,
        OpenError::Unauthenticated { .. } => fresh_token_refused(context),
        OpenError::Refused(it) => refused(it, context),
        OpenError::Unreachable(it) => (
            step::code(it),
            it.to_string(),
            step::advice(it, &section(context.cluster, context.spec)),
        ),
    };
    Some(wire::Reason {
        hint,
        request_id: request_id(error),
        ..wire::Reason::new(code, message, context.at)
    })
}

/// Returns more about `error`, as pairs for a terminal; times in `zone`.
pub fn facts(error: &OpenError, context: &Context<'_>, zone: &TimeZone) -> Vec<(String, String)> {
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

/// Returns what ssh is told: the reason, the request id, and what to do with it or similar routes, for there is no other
/// place to look them up at that moment.
pub fn for_ssh(reason: &wire::Reason, similar: &[Authority]) -> String {
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

/// Returns the message and the id that finds the case in Pomerium's log.
pub fn with_request_id(reason: &wire::Reason) -> String {
    let id = reason.request_id.as_ref();
    let id = id.map_or_else(String::new, |it| format!(", request id {it}"));
    format!("{}{id}", reason.message)
}

fn sentence(clause: &str) -> String {
    let mut letters = clause.chars();
    let first = letters.next().map(|it| it.to_uppercase().to_string());
    first.unwrap_or_default() + letters.as_str()
}

/// Returns the sentence for a route without a login to open it with.
pub fn login_needed(cluster: &ClusterName) -> String {
    format!("{cluster} needs a login. Run: pomctl login {cluster}")
}

/// Returns the sentence for a probe of the tunnel `name` that came to no answer.
pub fn probe_failed(name: &str) -> String {
    format!("cannot tell whether {name} works")
}

/// Code, sentence and advice.
type Told = (Code, String, Option<String>);

fn fresh_token_refused(context: &Context<'_>) -> Told {
    let cluster = context.cluster;
    if context.spec.token.source != TokenSource::Browser {
        let token = context.token.map(|it| told(&it.claims()));
        let token = token.unwrap_or_default();
        return (
            Code::LoginFailed,
            format!("{cluster} refuses each token that it is given{token} (401)"),
            Some(
                "is it for this cluster? Its audience and issuer must be what Pomerium expects"
                    .to_owned(),
            ),
        );
    }
    (
        Code::LoginFailed,
        format!("{cluster} did not let us in: the server refuses the token it just gave"),
        Some(format!("fix the server, then run: pomctl login {cluster}")),
    )
}

fn refused(refusal: &Refusal, context: &Context<'_>) -> Told {
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
            // Pomerium says the same of a token of others that it does not take.
            let bearer = context.token.filter(|it| it.kind() == TokenKind::Bearer);
            let hint = match bearer {
                None => hint.to_owned(),
                Some(token) => format!(
                    "either the policy says no, or Pomerium does not take the token{}: {hint}",
                    told(&token.claims())
                ),
            };
            (Code::Forbidden, message, Some(hint))
        }
        RefusalKind::WrongProtocol => (
            Code::Forbidden,
            format!(
                "{authority} is no {} route of {cluster}{status}",
                route.protocol
            ),
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
            let detail = if detail.is_empty() {
                String::new()
            } else {
                format!(": {}", clean(detail, 200))
            };
            let message = format!("Pomerium did not open {authority}{status}{detail}");
            let underscored = refusal.status == 400 && authority.host.to_string().contains('_');
            let hint = "Pomerium's Envoy takes no host name with `_`: the route needs another name";
            (Code::Http, message, underscored.then(|| hint.to_owned()))
        }
    }
}

fn certificate(status: Status, context: &Context<'_>) -> Told {
    let cluster = context.cluster;
    let section = section(cluster, context.spec);
    let (message, hint) = match &context.spec.client_identity {
        None => (
            format!("{cluster} wants a client certificate, and none is set{status}"),
            format!("set client_cert and client_key in {section}"),
        ),
        Some(identity) => {
            let file = &identity.certificate;
            let name = file
                .file_name()
                .unwrap_or(file.as_os_str())
                .to_string_lossy();
            let name = clean(&name, 80);
            (
                format!("{cluster} did not accept {name}{status}"),
                format!("renew it, or set another client_cert and client_key in {section}"),
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

/// Tells whether `code` may be the network's fault, and not the server's.
pub fn is_of_network(code: Code) -> bool {
    matches!(
        code,
        Code::Dns | Code::ForwardProxy | Code::Tcp | Code::Tls | Code::Timeout
    )
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

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            100..=999 => write!(f, " ({})", self.0),
            _ => Ok(()),
        }
    }
}

/// What a server refused, in short.
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
        write!(f, "{}", Status(self.status))?;
        match &self.detail {
            Some(detail) => write!(f, ": {detail}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
