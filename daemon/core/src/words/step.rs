//! A step of opening a route that failed, told: the sentence, the advice and the code.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use control::{text::clean, wire::Code};

use super::{MOST, limit, proxy, tls};
use crate::{
    config::{Authority, Host},
    route::error::{
        Cause, DialError, HttpError, StepError, SystemError, Target, TokenError, TokenReason, lower,
    },
};

const OFFLINE: &str = "is this machine offline, or its name server gone?";
pub(super) const IN_THE_WAY: &str = "is a firewall or a TLS inspection in the way?";
/// What a server does that seems to speak HTTP/2 alone.
pub(super) const ONLY_HTTP2: &str = "a server that speaks only HTTP/2 does that: pomd needs HTTP/1.1, so Pomerium's codec_type must not be http2";
const NOT_POMERIUM: &str = "is it a Pomerium, or is a login page of the network in the way?";

/// The sentence: what was tried, with what, and how it failed.
impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            target,
            through,
            cause,
        } = self;
        let message = match &**cause {
            Cause::Token(error) => token(error, target),
            Cause::Dial(error) => dial(error, target),
            // Whether it is about the cluster or about a proxy is not to be guessed from the address.
            Cause::Proxy { proxy, error } => {
                format!("forward proxy: {}", proxy::message(error, proxy, target))
            }
            Cause::Tls(error) => tls::message(error, target),
            Cause::Http(error) => http(error, target),
        };
        // A forward proxy that says it connected us may have lied: whoever looks for the cause has to know of it.
        match through {
            Some(proxy) => f.write_str(&clean(&format!("{message} (through {proxy})"), MOST)),
            None => f.write_str(&clean(&message, MOST)),
        }
    }
}

/// Returns what to do about `error`, where something can be done. `section` is where the cluster's settings are, as
/// [`super::section`] says it.
pub fn advice(error: &StepError, section: &str) -> Option<String> {
    let advice = match &*error.cause {
        Cause::Token(it) => token_advice(it, &error.target, section),
        Cause::Dial(it) => dial_advice(it, section)?,
        Cause::Proxy { proxy, error: it } => proxy::advice(it, proxy, &error.target, section),
        Cause::Tls(it) => tls::advice(it, section)?,
        Cause::Http(it) => http_advice(it)?.to_owned(),
    };
    Some(clean(&advice, MOST))
}

/// Returns the code that stands for `error` in a status.
pub fn code(error: &StepError) -> Code {
    match &*error.cause {
        Cause::Dial(DialError::OutOfDescriptors { .. }) => Code::Local,
        Cause::Proxy { .. } => Code::ForwardProxy,
        _ if error.timed_out() => Code::Timeout,
        Cause::Dial(DialError::Failed(_) | DialError::TimedOut { .. }) => Code::Tcp,
        Cause::Dial(_) => Code::Dns,
        Cause::Tls(_) => Code::Tls,
        Cause::Token(_) | Cause::Http(_) => Code::Http,
    }
}

fn token(error: &TokenError, target: &Target) -> String {
    let TokenError { cluster, reason } = error;
    let host = target.host();
    match reason {
        TokenReason::Host => format!("the login of {cluster} is not for {host}: nothing was sent"),
        TokenReason::Plain => {
            format!("the login of {cluster} is not sent to {host} without TLS: nothing was sent")
        }
        TokenReason::Port => format!(
            "the login of {cluster} is not for port {} of {host}: nothing was sent",
            port(target)
        ),
    }
}

fn token_advice(error: &TokenError, target: &Target, section: &str) -> String {
    let TokenError { cluster, reason } = error;
    match reason {
        TokenReason::Host => format!("if it is, add it to hosts in {section}"),
        TokenReason::Plain => format!(
            "write the route with https; where nothing of {cluster} has TLS, say so with url = \"http://…\" in {section}"
        ),
        TokenReason::Port => format!(
            "if it is, say so in {section}: url with that port, or connect = \"HOST:{}\"; or write a tunnel whose route names it",
            port(target)
        ),
    }
}

fn port(target: &Target) -> u16 {
    match target {
        Target::Dialled(it) => it.port,
        Target::Server(it) => it.port,
    }
}

/// The sentence for a target that could not be dialled.
pub(super) fn dial(error: &DialError, target: &Target) -> String {
    let host = target.host();
    match error {
        DialError::NoSuchName => format!("no such name: {host}"),
        DialError::Lookup(error) => {
            let reason = error.text.as_str();
            let prefix = "failed to lookup address information: ";
            let reason = reason.strip_prefix(prefix).unwrap_or(reason);
            format!("cannot look up {host}: {}", lower(reason))
        }
        DialError::LookupTimedOut(after) => {
            format!("looking up {host} took more than {}", limit(*after))
        }
        DialError::OutOfDescriptors { limit } => {
            let limit = limit.map_or(String::new(), |it| format!("{it} "));
            format!("cannot dial {target}: at the limit of {limit}descriptors")
        }
        DialError::Failed(failed) => failures(target, failed),
        DialError::TimedOut {
            silent,
            limit: after,
        } => {
            let tried = attempt(target, silent);
            format!("{tried}: no answer within {}", limit(*after))
        }
    }
}

fn dial_advice(error: &DialError, section: &str) -> Option<String> {
    let elsewhere = format!(" To dial elsewhere set connect in {section}");
    Some(match error {
        DialError::NoSuchName => format!("VPN off, or a typo?{elsewhere}"),
        DialError::Lookup(_) | DialError::LookupTimedOut(_) => OFFLINE.to_owned(),
        DialError::OutOfDescriptors { .. } => {
            "close connections that are not needed, or start pomd with a higher limit".to_owned()
        }
        DialError::Failed(_) => return None,
        DialError::TimedOut { .. } => {
            format!("is a VPN off, or a firewall in the way?{elsewhere}")
        }
    })
}

/// `cannot reach HOST:PORT (ADDRESS): REASON`, for one address or for several.
fn failures(target: &Target, failed: &[(SocketAddr, SystemError)]) -> String {
    match failed {
        [] => format!("cannot reach {target}: it has no address"),
        [(_, first), rest @ ..] if rest.iter().all(|(_, error)| error == first) => {
            let tried: Vec<_> = failed.iter().map(|(address, _)| address.ip()).collect();
            format!("{}: {}", attempt(target, &tried), first.text)
        }
        _ => {
            let each: Vec<_> = failed
                .iter()
                .take(3)
                .map(|(address, error)| format!("{} {}", address.ip(), error.text))
                .collect();
            format!("cannot reach {target}: {}", each.join(", "))
        }
    }
}

/// `cannot reach HOST:PORT (ADDRESS, …)`, without what would only repeat the host.
fn attempt(target: &Target, tried: &[IpAddr]) -> String {
    if matches!(target.host(), Host::Ip(_)) || tried.is_empty() {
        return format!("cannot reach {target}");
    }
    let mut list: Vec<_> = tried.iter().take(3).map(IpAddr::to_string).collect();
    if tried.len() > 3 {
        list.push("…".to_owned());
    }
    format!("cannot reach {target} ({})", list.join(", "))
}

fn http(error: &HttpError, target: &Target) -> String {
    match error {
        HttpError::TimedOut(after) => format!("{target} did not answer within {}", limit(*after)),
        HttpError::NotHttp(bytes) => format!("{target}: not an HTTP answer: {}", quoted(bytes)),
        HttpError::Closed {
            begun,
            why,
            only_http2: _,
        } => {
            let how = match begun {
                false => "without an answer",
                true => "in the middle of its answer",
            };
            let why = why.as_ref().map_or(String::new(), |it| format!(": {it}"));
            format!("{target} closed the connection {how}{why}")
        }
        HttpError::NotPomerium {
            length,
            content_type,
        } => {
            let kind = content_type.as_deref().unwrap_or("nothing known");
            let kind = clean(kind, 80);
            format!("{target} does not answer as Pomerium does: {length} bytes of {kind}")
        }
        HttpError::SignIn(why) => format!("{target} gave no sign-in address: {why}"),
        HttpError::HeadTooLong(_)
        | HttpError::TooManyInterim
        | HttpError::BrokenHead(_)
        | HttpError::BodyTooLong(_)
        | HttpError::BrokenBody
        | HttpError::Request(_) => format!("{target}: {error}"),
    }
}

fn http_advice(error: &HttpError) -> Option<&'static str> {
    match error {
        HttpError::Closed {
            only_http2: true, ..
        } => Some(ONLY_HTTP2),
        HttpError::NotPomerium { .. } | HttpError::SignIn(_) => Some(NOT_POMERIUM),
        _ => None,
    }
}

/// `«…»`, at most 80 characters.
pub(super) fn quoted(bytes: &[u8]) -> String {
    format!("«{}»", clean(String::from_utf8_lossy(bytes).trim_end(), 80))
}

/// The target of a connection to a proxy.
pub(super) fn dialled(authority: &Authority) -> Target {
    Target::Dialled(authority.clone())
}

#[cfg(test)]
mod tests {
    use std::{io, time::Duration};

    use super::*;

    fn target(host: &str) -> Target {
        let host = host
            .parse()
            .map_or_else(|_| Host::Name(host.to_owned()), Host::Ip);
        Target::Dialled(Authority { host, port: 443 })
    }

    fn failed(all: &[(&str, io::ErrorKind)]) -> DialError {
        let error = |(address, kind): &(&str, io::ErrorKind)| {
            (address.parse().unwrap(), io::Error::from(*kind).into())
        };
        DialError::Failed(all.iter().map(error).collect())
    }

    #[test]
    fn a_failure_names_the_addresses_and_the_reason_once() {
        let corp = target("corp.example.com");
        let (refused, unreachable) = (
            io::ErrorKind::ConnectionRefused,
            io::ErrorKind::NetworkUnreachable,
        );
        let one = failed(&[("198.51.100.7:443", refused)]);
        assert_eq!(
            dial(&one, &corp),
            "cannot reach corp.example.com:443 (198.51.100.7): connection refused"
        );
        let alike = failed(&[("198.51.100.7:443", refused), ("198.51.100.8:443", refused)]);
        assert_eq!(
            dial(&alike, &corp),
            "cannot reach corp.example.com:443 (198.51.100.7, 198.51.100.8): connection refused"
        );
        let two = failed(&[
            ("[2001:db8::7]:443", unreachable),
            ("198.51.100.7:443", refused),
        ]);
        assert_eq!(
            dial(&two, &corp),
            "cannot reach corp.example.com:443: 2001:db8::7 network unreachable, 198.51.100.7 connection refused"
        );
        assert_eq!(
            dial(&one, &target("198.51.100.7")),
            "cannot reach 198.51.100.7:443: connection refused"
        );
        let silent = DialError::TimedOut {
            silent: vec![[198, 51, 100, 7].into()],
            limit: Duration::from_secs(10),
        };
        assert_eq!(
            dial(&silent, &corp),
            "cannot reach corp.example.com:443 (198.51.100.7): no answer within 10 s"
        );
    }

    #[test]
    fn n3_an_unknown_name_is_told_apart_from_a_name_server_that_fails() {
        let corp = target("corp.example.com");
        let unknown = StepError::new(corp.clone(), DialError::NoSuchName);
        assert_eq!(unknown.to_string(), "no such name: corp.example.com");
        let advice = advice(&unknown, "[cluster.corp]").unwrap();
        assert!(advice.contains("connect in [cluster.corp]"), "{advice}");
        let broken = io::Error::other(
            "failed to lookup address information: Temporary failure in name resolution",
        );
        assert_eq!(
            dial(&DialError::Lookup(broken.into()), &corp),
            "cannot look up corp.example.com: temporary failure in name resolution"
        );
    }
}
