//! A forward proxy that did not connect us, told.

use std::{io, path::Path};

use super::{
    limit,
    step::{dial, dialled, quoted},
    tls,
};
use crate::{
    config::{ProxyAddress, ProxyKind},
    route::error::{ProxyError, ProxyInUse, Target},
};

pub(super) fn message(error: &ProxyError, proxy: &ProxyInUse, target: &Target) -> String {
    let of = proxy.password_in.as_ref();
    let of = of.map_or(String::new(), |it| format!(" of {it}"));
    let address = &proxy.address;
    let closed = || format!("{address} closed the connection when asked for {target}");
    match error {
        ProxyError::Plain => format!(
            "{} is without TLS: the forward proxy would see the login, nothing was sent",
            match target {
                Target::Server(address) => address.to_string(),
                Target::Dialled(authority) => authority.to_string(),
            }
        ),
        ProxyError::Dial(error) => dial(error, &dialled(&address.authority)),
        ProxyError::Tls(error) => tls::message(error, &dialled(&address.authority)),
        ProxyError::Credentials(error) => tls::file(error),
        ProxyError::TimedOut(after) => {
            let after = limit(*after);
            format!("{address} did not answer within {after} when asked for {target}")
        }
        // 401 is an origin server's (RFC 9110, 15.5.2), but tinyproxy says it to a wrong password.
        ProxyError::Answered {
            status: status @ (401 | 407),
            schemes,
            ..
        } => {
            let wants = match other_schemes(schemes) {
                Some(list) => format!("it wants {list}, which pomd does not speak"),
                None if proxy.password_in.is_none() => "it wants a password".to_owned(),
                None => format!("it does not take the user and password{of}"),
            };
            format!("{address} answered {status}, {wants}")
        }
        ProxyError::Answered { status, reason, .. } => {
            let reason = match reason.as_str() {
                "" => String::new(),
                reason => format!(" ({reason})"),
            };
            format!("{address} answered {status}{reason} when asked for {target}")
        }
        ProxyError::PasswordWanted => format!("{address} wants a password"),
        ProxyError::NoPassword => {
            format!("{address} takes neither a user and a password nor nobody")
        }
        ProxyError::BadPassword => format!("{address} does not take the user and password{of}"),
        ProxyError::Socks(code) => {
            format!("{address} does not connect to {target}: {}", socks(*code))
        }
        ProxyError::NotHttp(bytes) => {
            format!("{address} gives no HTTP answer: {}", quoted(bytes))
        }
        ProxyError::NotSocks(bytes) => {
            format!("{address} gives no SOCKS answer: {}", quoted(bytes))
        }
        ProxyError::HeadTooLong => format!("{address}: {error}"),
        ProxyError::Closed => closed(),
        ProxyError::Io(error) if error.kind == io::ErrorKind::UnexpectedEof => closed(),
        ProxyError::Io(error) => {
            let why = error;
            format!("the connection to {address} broke off: {why}")
        }
    }
}

pub(super) fn advice(
    error: &ProxyError,
    proxy: &ProxyInUse,
    target: &Target,
    section: &str,
) -> String {
    let origin = match proxy.variable {
        Some(it) => format!("{it} names it in pomd's environment"),
        None => format!("forward_proxy names it in {section}"),
    };
    let without = format!("To go without it set forward_proxy = \"none\" in {section}");
    let ask = || format!("ask whoever runs it; {origin}");
    let give =
        || format!("give it in {section}: forward_proxy_auth = {{ file = \"proxy-password\" }}");
    let correct = || match &proxy.password_in {
        Some(it) => format!("correct it there, as user:password: {it}"),
        None => give(),
    };
    match error {
        ProxyError::Plain => {
            format!("to go without it set forward_proxy = \"none\" in {section}")
        }
        // The step is another, and `connect` changes nothing about it.
        ProxyError::Dial(_) => format!("{origin}. {without}"),
        // About certificates the step itself knows best.
        ProxyError::Tls(error) => {
            tls::advice(error, section).unwrap_or_else(|| format!("{origin}. {without}"))
        }
        ProxyError::Credentials(_) => format!("see forward_proxy_auth in {section}"),
        ProxyError::Answered {
            status: 401 | 407,
            schemes,
            ..
        } => match other_schemes(schemes) {
            Some(_) => format!(
                "a proxy on this machine that does can stand in between: forward_proxy in {section}"
            ),
            None => correct(),
        },
        ProxyError::Answered {
            status: 300..400 | 511,
            ..
        } => "a login page may be in the way: open any web page in a browser".to_owned(),
        ProxyError::Answered {
            status: 400..500, ..
        } => format!("ask whoever runs it to allow CONNECT to {target}; {origin}"),
        ProxyError::PasswordWanted => give(),
        ProxyError::BadPassword => correct(),
        ProxyError::Socks(2) => "ask whoever runs it to allow that".to_owned(),
        ProxyError::NotHttp(bytes) | ProxyError::NotSocks(bytes) => {
            match other_kind(bytes, &proxy.address) {
                Some(other) => format!("is it {other} instead? {origin}"),
                None => ask(),
            }
        }
        ProxyError::TimedOut(_)
        | ProxyError::Answered { .. }
        | ProxyError::NoPassword
        | ProxyError::Socks(_)
        | ProxyError::HeadTooLong
        | ProxyError::Closed
        | ProxyError::Io(_) => ask(),
    }
}

/// Returns the warning for a password that begins or ends with a space.
pub fn spaces_around_password(path: &Path) -> String {
    format!(
        "the password in {} begins or ends with a space: is that meant?",
        path.display()
    )
}

/// The ways to log in that a proxy offers, if Basic is none of them.
fn other_schemes(schemes: &[String]) -> Option<String> {
    let basic = |it: &String| it.eq_ignore_ascii_case("basic");
    (!schemes.is_empty() && !schemes.iter().any(basic)).then(|| schemes.join(" or "))
}

/// The proxy as it should be written, if `bytes` are how another kind of proxy answers.
fn other_kind(bytes: &[u8], address: &ProxyAddress) -> Option<ProxyAddress> {
    let kind = match bytes {
        [0x15, ..] => ProxyKind::Https,
        [b'H', ..] => ProxyKind::Http,
        [5, ..] => ProxyKind::Socks5,
        _ => return None,
    };
    (kind != address.kind).then(|| ProxyAddress {
        kind,
        authority: address.authority.clone(),
    })
}

fn socks(code: u8) -> String {
    let meaning = match code {
        1 => "it failed and does not say why",
        2 => "its rules do not allow it",
        3 => "network unreachable",
        4 => "host unreachable",
        5 => "connection refused",
        6 => "it took too long",
        7 => "it makes no connections",
        8 => "it does not know that kind of address",
        other => return format!("it says {other}, which has no meaning"),
    };
    meaning.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::{Authority, ForwardProxy},
        route::error::{Cause, StepError},
        words::step,
    };

    fn told(
        error: ProxyError,
        variable: Option<&'static str>,
        password_in: Option<&str>,
    ) -> (String, String) {
        let ForwardProxy::At(address) = ForwardProxy::parse("http://proxy.lan:3128").unwrap()
        else {
            unreachable!()
        };
        let proxy = Box::new(ProxyInUse {
            address,
            variable,
            password_in: password_in.map(str::to_owned),
        });
        let target = Target::Dialled(Authority::parse("corp.example.com:443").unwrap());
        let error = StepError::new(target, Cause::Proxy { proxy, error });
        let advice = step::advice(&error, "[cluster.corp]").unwrap();
        let message = error.to_string();
        let message = message.strip_prefix("forward proxy: ").unwrap();
        (message.to_owned(), advice)
    }

    fn answered(status: u16, reason: &str, schemes: &[&str]) -> ProxyError {
        ProxyError::Answered {
            status,
            reason: reason.to_owned(),
            schemes: schemes.iter().map(|it| (*it).to_owned()).collect(),
        }
    }

    #[test]
    fn n9_a_407_says_what_is_missing() {
        let (message, hint) = told(answered(407, "Auth", &["Basic"]), None, None);
        assert_eq!(
            message,
            "http://proxy.lan:3128 answered 407, it wants a password"
        );
        assert_eq!(
            hint,
            "give it in [cluster.corp]: forward_proxy_auth = { file = \"proxy-password\" }"
        );
        let given = told(answered(407, "", &[]), None, Some("/etc/proxy-password"));
        assert_eq!(
            given.0,
            "http://proxy.lan:3128 answered 407, it does not take the user and password of /etc/proxy-password"
        );
        let (message, hint) = told(answered(401, "Unauthorized", &[]), None, Some("/etc/p"));
        assert_eq!(
            message,
            "http://proxy.lan:3128 answered 401, it does not take the user and password of /etc/p"
        );
        assert_eq!(hint, "correct it there, as user:password: /etc/p");
        let other = told(answered(407, "", &["Negotiate", "NTLM"]), None, None);
        assert_eq!(
            other.0,
            "http://proxy.lan:3128 answered 407, it wants Negotiate or NTLM, which pomd does not speak"
        );
    }

    #[test]
    fn n9_other_answers_are_told_with_their_status() {
        let (message, hint) = told(answered(502, "Bad Gateway", &[]), Some("HTTPS_PROXY"), None);
        assert_eq!(
            message,
            "http://proxy.lan:3128 answered 502 (Bad Gateway) when asked for corp.example.com:443"
        );
        assert!(hint.contains("HTTPS_PROXY names it"), "{hint}");
        let (_, hint) = told(answered(302, "", &[]), None, None);
        assert!(hint.contains("login page"), "{hint}");
        let (_, hint) = told(answered(403, "", &[]), None, None);
        assert!(
            hint.contains("allow CONNECT to corp.example.com:443"),
            "{hint}"
        );
    }

    #[test]
    fn what_speaks_another_language_is_shown_harmless() {
        let (message, hint) = told(
            ProxyError::NotHttp(b"\x15\x03\x01\x1b[2J".to_vec()),
            None,
            None,
        );
        assert!(!message.contains('\u{1b}'), "{message}");
        assert!(hint.contains("https://proxy.lan:3128"), "{hint}");
        let (message, _) = told(ProxyError::Socks(5), None, None);
        assert_eq!(
            message,
            "http://proxy.lan:3128 does not connect to corp.example.com:443: connection refused"
        );
    }
}
