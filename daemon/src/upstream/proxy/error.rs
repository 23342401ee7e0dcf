//! Why a forward proxy did not connect us, in words. Pure.

use std::{io, time::Duration};

use control::text::clean;
use pomd_core::{
    config::{Authority, ProxyAddress, ProxyKind},
    route::refusal::{Step, Unreachable},
};

use super::{
    super::dial::{reason, shown},
    http::Answer,
};

/// Why a forward proxy did not connect us.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("it answered {}", .0.status)]
    Answered(Answer),
    #[error("not an HTTP answer")]
    NotHttp(Vec<u8>),
    #[error("the head of its answer is longer than 16 KiB")]
    TooLong,
    /// A code of RFC 1928.
    #[error("SOCKS code {0}")]
    Refused(u8),
    /// It wants to know who we are, and nothing says that.
    #[error("it wants a password")]
    WantsPassword,
    /// It takes neither a password nor nobody.
    #[error("it takes no password")]
    NoPassword,
    #[error("it does not take the password")]
    BadPassword,
    #[error("not a SOCKS answer")]
    NotSocks(Vec<u8>),
    #[error("it closed the connection")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What the words speak of besides the failure.
#[derive(Clone, Debug)]
pub(super) struct Context<'a> {
    pub(super) proxy: &'a ProxyAddress,
    /// The variable that names it; `None`: the key `forward_proxy`.
    pub(super) variable: Option<&'static str>,
    /// Where the password that was used stands.
    pub(super) password_in: Option<String>,
    pub(super) target: &'a Authority,
    /// Where a person would change the settings.
    pub(super) place: &'a str,
}

impl Context<'_> {
    /// What a person must learn of `failure`.
    pub(super) fn told(&self, failure: &Failure) -> Unreachable {
        let (proxy, target) = (self.proxy, self.target);
        let (message, hint) = match failure {
            Failure::Answered(answer) => self.answered(answer),
            Failure::WantsPassword => (format!("{proxy} wants a password"), self.give_it()),
            Failure::NoPassword => (
                format!("{proxy} takes neither a user and a password nor nobody"),
                self.ask_around(),
            ),
            Failure::BadPassword => (
                format!("{proxy} does not take the user and password{}", self.of()),
                self.correct_it(),
            ),
            Failure::Refused(code) => (
                format!("{proxy} does not connect to {target}: {}", socks(*code)),
                match code {
                    2 => "ask whoever runs it to allow that".to_owned(),
                    _ => self.ask_around(),
                },
            ),
            Failure::NotHttp(bytes) => (
                format!("{proxy} gives no HTTP answer: {}", quoted(bytes)),
                self.other_kind(bytes),
            ),
            Failure::NotSocks(bytes) => (
                format!("{proxy} gives no SOCKS answer: {}", quoted(bytes)),
                self.other_kind(bytes),
            ),
            Failure::TooLong => (format!("{proxy}: {failure}"), self.ask_around()),
            Failure::Closed => (self.closed(), self.ask_around()),
            Failure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                (self.closed(), self.ask_around())
            }
            Failure::Io(error) => (
                format!("the connection to {proxy} broke off: {}", reason(error)),
                self.ask_around(),
            ),
        };
        Unreachable::new(Step::ForwardProxy, &message).hint(&hint)
    }

    /// It did not answer in time.
    pub(super) fn silent(&self, limit: Duration) -> Unreachable {
        let (proxy, target) = (self.proxy, self.target);
        let limit = shown(limit);
        let message = format!("{proxy} did not answer within {limit} when asked for {target}");
        Unreachable::new(Step::ForwardProxy, &message)
            .timed_out()
            .hint(&self.ask_around())
    }

    /// A step on the way to the proxy failed: the step is another, and `connect` changes nothing about it.
    pub(super) fn unreached(&self, failure: Unreachable) -> Unreachable {
        Unreachable {
            step: Step::ForwardProxy,
            ..failure
        }
        .hint(&format!(
            "{}. To go without it set forward_proxy = \"none\" in {}",
            self.origin(),
            self.place
        ))
    }

    /// Its TLS failed; about certificates the step itself knows best what to do.
    pub(super) fn tls_failed(&self, failure: Unreachable) -> Unreachable {
        let hint = failure.hint.clone();
        let res = self.unreached(failure);
        match hint {
            Some(it) => res.hint(&it),
            None => res,
        }
    }

    fn answered(&self, answer: &Answer) -> (String, String) {
        let (proxy, status) = (self.proxy, answer.status);
        // 401 is an origin server's (RFC 9110, 15.5.2), but tinyproxy says it to a wrong password.
        if matches!(status, 401 | 407) {
            return self.wants_password(status, &answer.schemes);
        }
        let said = match answer.said.as_str() {
            "" => String::new(),
            said => format!(" ({said})"),
        };
        let message = format!(
            "{proxy} answered {status}{said} when asked for {}",
            self.target
        );
        let hint = match status {
            300..400 | 511 => {
                "a login page may be in the way: open any web page in a browser".to_owned()
            }
            400..500 => format!(
                "ask whoever runs it to allow CONNECT to {}; {}",
                self.target,
                self.origin()
            ),
            _ => self.ask_around(),
        };
        (message, hint)
    }

    fn wants_password(&self, status: u16, schemes: &[String]) -> (String, String) {
        let proxy = self.proxy;
        let basic = |it: &String| it.eq_ignore_ascii_case("basic");
        if !schemes.is_empty() && !schemes.iter().any(basic) {
            let list = schemes.join(" or ");
            return (
                format!("{proxy} answered {status}, it wants {list}, which pomd does not speak"),
                format!(
                    "a proxy on this machine that does can stand in between: forward_proxy in {}",
                    self.place
                ),
            );
        }
        match self.password_in {
            None => (
                format!("{proxy} answered {status}, it wants a password"),
                self.give_it(),
            ),
            Some(_) => (
                format!(
                    "{proxy} answered {status}, it does not take the user and password{}",
                    self.of()
                ),
                self.correct_it(),
            ),
        }
    }

    fn closed(&self) -> String {
        let (proxy, target) = (self.proxy, self.target);
        format!("{proxy} closed the connection when asked for {target}")
    }

    /// ` of FILE`
    fn of(&self) -> String {
        let place = self.password_in.as_ref();
        place.map_or(String::new(), |it| format!(" of {it}"))
    }

    fn give_it(&self) -> String {
        format!(
            "give it in {}: forward_proxy_auth = {{ file = \"proxy-password\" }}",
            self.place
        )
    }

    fn correct_it(&self) -> String {
        match &self.password_in {
            Some(it) => format!("correct it there, as user:password: {it}"),
            None => self.give_it(),
        }
    }

    fn other_kind(&self, bytes: &[u8]) -> String {
        let kind = match bytes {
            [0x15, ..] => ProxyKind::Https,
            [b'H', ..] => ProxyKind::Http,
            [5, ..] => ProxyKind::Socks5,
            _ => return self.ask_around(),
        };
        if kind == self.proxy.kind {
            return self.ask_around();
        }
        let other = ProxyAddress {
            kind,
            authority: self.proxy.authority.clone(),
        };
        format!("is it {other} instead? {}", self.origin())
    }

    fn ask_around(&self) -> String {
        format!("ask whoever runs it; {}", self.origin())
    }

    /// Why there is a proxy at all.
    fn origin(&self) -> String {
        match self.variable {
            Some(it) => format!("{it} names it in pomd's environment"),
            None => format!("forward_proxy names it in {}", self.place),
        }
    }
}

fn socks(code: u8) -> String {
    let words = match code {
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
    words.to_owned()
}

/// `«…»`, at most 80 characters.
fn quoted(bytes: &[u8]) -> String {
    format!("«{}»", clean(String::from_utf8_lossy(bytes).trim_end(), 80))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pomd_core::config::{ForwardProxy, Host};

    fn told(
        failure: &Failure,
        variable: Option<&'static str>,
        password_in: Option<&str>,
    ) -> (String, String) {
        let ForwardProxy::At(proxy) = ForwardProxy::parse("http://proxy.lan:3128").unwrap() else {
            unreachable!()
        };
        let target = Authority {
            host: Host::Name("corp.example.com".to_owned()),
            port: 443,
        };
        let it = Context {
            proxy: &proxy,
            variable,
            password_in: password_in.map(str::to_owned),
            target: &target,
            place: "[cluster.corp]",
        }
        .told(failure);
        assert_eq!(it.step, Step::ForwardProxy);
        (it.message, it.hint.unwrap())
    }

    fn answered(status: u16, said: &str, schemes: &[&str]) -> Failure {
        Failure::Answered(Answer {
            status,
            said: said.to_owned(),
            schemes: schemes.iter().map(|it| (*it).to_owned()).collect(),
        })
    }

    #[test]
    fn n9_a_407_says_what_is_missing() {
        let (message, hint) = told(&answered(407, "Auth", &["Basic"]), None, None);
        assert_eq!(
            message,
            "http://proxy.lan:3128 answered 407, it wants a password"
        );
        assert_eq!(
            hint,
            "give it in [cluster.corp]: forward_proxy_auth = { file = \"proxy-password\" }"
        );
        let given = told(&answered(407, "", &[]), None, Some("/etc/proxy-password"));
        assert_eq!(
            given.0,
            "http://proxy.lan:3128 answered 407, it does not take the user and password of /etc/proxy-password"
        );
        let (message, hint) = told(&answered(401, "Unauthorized", &[]), None, Some("/etc/p"));
        assert_eq!(
            message,
            "http://proxy.lan:3128 answered 401, it does not take the user and password of /etc/p"
        );
        assert_eq!(hint, "correct it there, as user:password: /etc/p");
        let other = told(&answered(407, "", &["Negotiate", "NTLM"]), None, None);
        assert_eq!(
            other.0,
            "http://proxy.lan:3128 answered 407, it wants Negotiate or NTLM, which pomd does not speak"
        );
    }

    #[test]
    fn n9_other_answers_are_told_with_their_status() {
        let (message, hint) = told(
            &answered(502, "Bad Gateway", &[]),
            Some("HTTPS_PROXY"),
            None,
        );
        assert_eq!(
            message,
            "http://proxy.lan:3128 answered 502 (Bad Gateway) when asked for corp.example.com:443"
        );
        assert!(hint.contains("HTTPS_PROXY names it"), "{hint}");
        let (_, hint) = told(&answered(302, "", &[]), None, None);
        assert!(hint.contains("login page"), "{hint}");
        let (_, hint) = told(&answered(403, "", &[]), None, None);
        assert!(
            hint.contains("allow CONNECT to corp.example.com:443"),
            "{hint}"
        );
    }

    #[test]
    fn what_speaks_another_language_is_shown_harmless() {
        let (message, hint) = told(
            &Failure::NotHttp(b"\x15\x03\x01\x1b[2J".to_vec()),
            None,
            None,
        );
        assert!(!message.contains('\u{1b}'), "{message}");
        assert!(hint.contains("https://proxy.lan:3128"), "{hint}");
        let (message, _) = told(&Failure::Refused(5), None, None);
        assert_eq!(
            message,
            "http://proxy.lan:3128 does not connect to corp.example.com:443: connection refused"
        );
    }
}
