use std::{io, path::PathBuf, time::Duration};

use super::*;
use crate::{
    config::{Address, ClientIdentity, Config, ForwardProxy, Host, Protocol},
    route::error::{
        Cause, DialError, HttpError, ProxyError, ProxyInUse, StepError, Target, TlsError,
    },
};

fn authority(host: &str, port: u16) -> Authority {
    let host = Host::Name(host.to_owned());
    Authority { host, port }
}

fn route(host: &str) -> Route {
    Route {
        protocol: Protocol::Tcp,
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

const NAMED: &str =
    "[cluster.corp]\nhosts = [\"*.corp.example.com\"]\nurl = \"https://corp.example.com\"\n";
const OF_HOST: &str = "[tunnel.a]\nroute = \"ssh-prod.corp.example.com:22\"\n";

fn spec(config: &str) -> ClusterSpec {
    let config = Config::parse(config, std::path::Path::new("/")).unwrap();
    config.clusters.into_values().next().unwrap()
}

fn told(error: &OpenError, change: impl FnOnce(&mut Context<'_>)) -> wire::Reason {
    told_with(&spec(NAMED), error, change)
}

fn told_with(
    spec: &ClusterSpec,
    error: &OpenError,
    change: impl FnOnce(&mut Context<'_>),
) -> wire::Reason {
    let cluster = ClusterName::parse("corp").unwrap();
    let route = route("ssh-prod.corp.example.com");
    let token = Token::parse("secret").unwrap();
    let mut context = Context {
        cluster: &cluster,
        spec,
        route: &route,
        user: Some("alice@example.com"),
        token: Some(&token),
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
        let reason = told(&refusal(kind, status), |_| {});
        assert_eq!((reason.code, reason.message.as_str()), (code, message));
        assert_eq!(reason.request_id.as_deref(), Some("7f3a9c02-4b1e"));
    }
}

#[test]
fn hints_say_what_can_be_done_here() {
    let hint = |error: &OpenError| told(error, |_| {}).hint.unwrap();
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
    let certificate = refusal(RefusalKind::ClientCertificate, 495);
    let unnamed = told_with(&spec(OF_HOST), &certificate, |_| {});
    assert_eq!(
        unnamed.hint.unwrap(),
        "set client_cert and client_key in a [cluster.NAME] with hosts = [\"ssh-prod.corp.example.com\"]"
    );
    let mut with_certificate = spec(NAMED);
    with_certificate.client_identity = Some(ClientIdentity {
        certificate: PathBuf::from("/etc/me.pem"),
        key: PathBuf::from("/etc/me.key"),
    });
    let refused = told_with(&with_certificate, &certificate, |_| {});
    assert_eq!(refused.message, "corp did not accept me.pem (495)");
    assert!(unavailable_hint("delayed_connect_error:_Connection_refused", 0).contains("refuses"));
    assert!(unavailable_hint("no_healthy_upstream", 0).contains("does not find"));
    assert!(unavailable_hint("connection_timeout", 0).contains("does not answer"));
    for (detail, open) in [("reset_reason:_overflow", 3), ("connection_timeout", 1_000)] {
        let hint = unavailable_hint(detail, open);
        assert!(hint.starts_with(&format!("{open} connections")) && hint.contains("1,024"));
    }
}

#[test]
fn a_failed_step_is_told_with_its_code_and_its_advice() {
    let dialled = Target::Dialled(authority("a", 443));
    let server = Target::Server(route("a").address);
    let ForwardProxy::At(address) = ForwardProxy::parse("http://proxy.lan:3128").unwrap() else {
        unreachable!()
    };
    let proxy = |error| Cause::Proxy {
        proxy: Box::new(ProxyInUse {
            address: address.clone(),
            variable: None,
            password_in: None,
        }),
        error,
    };
    let refused = || {
        DialError::Failed(vec![(
            ([192, 0, 2, 7], 443).into(),
            io::Error::from(io::ErrorKind::ConnectionRefused).into(),
        )])
    };
    let late = Duration::from_secs(10);
    let silent = || DialError::TimedOut {
        silent: Vec::new(),
        limit: late,
    };
    for (target, cause, code, message, advice) in [
        (
            &dialled,
            DialError::NoSuchName.into(),
            Code::Dns,
            "no such name: a",
            "set connect in [cluster.corp]",
        ),
        (
            &dialled,
            refused().into(),
            Code::Tcp,
            "cannot reach a:443 (192.0.2.7): connection refused",
            "",
        ),
        (
            &dialled,
            silent().into(),
            Code::Timeout,
            "cannot reach a:443: no answer within 10 s",
            "is a VPN off",
        ),
        (
            &dialled,
            DialError::OutOfDescriptors { limit: Some(64) }.into(),
            Code::Local,
            "cannot dial a:443: at the limit of 64 descriptors",
            "a higher limit",
        ),
        (
            &server,
            TlsError::NoHttp1.into(),
            Code::Tls,
            "a refused TLS: it does not speak HTTP/1.1",
            "codec_type",
        ),
        (
            &server,
            HttpError::TimedOut(late).into(),
            Code::Timeout,
            "a did not answer within 10 s",
            "",
        ),
        (
            &server,
            HttpError::TooManyInterim.into(),
            Code::Http,
            "a: more than 100 interim answers",
            "",
        ),
        // Whether it is about the cluster or about a proxy is not to be guessed from the address.
        (
            &dialled,
            proxy(ProxyError::Dial(refused())),
            Code::ForwardProxy,
            "forward proxy: cannot reach proxy.lan:3128 (192.0.2.7): connection refused",
            "forward_proxy = \"none\"",
        ),
        (
            &dialled,
            proxy(ProxyError::TimedOut(late)),
            Code::ForwardProxy,
            "forward proxy: http://proxy.lan:3128 did not answer within 10 s when asked for a:443",
            "ask whoever runs it",
        ),
    ] {
        let reason = told(&StepError::new(target.clone(), cause).into(), |_| {});
        assert_eq!((reason.code, reason.message.as_str()), (code, message));
        let hint = reason.hint.unwrap_or_default();
        assert!(
            hint.contains(advice) && hint.is_empty() == advice.is_empty(),
            "{hint}"
        );
    }
}

#[test]
fn a_fresh_token_that_is_refused_is_a_failed_login() {
    let error = OpenError::Unauthenticated { request_id: None };
    let reason = told(&error, |_| {});
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
        spec: &spec(NAMED),
        route: &route("a.example"),
        user: None,
        token: Some(&Token::parse("x").unwrap()),
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
    let reason = told(&refusal(RefusalKind::NoSuchRoute, 404), |it| {
        it.similar = similar;
        let facts = facts(&refusal(RefusalKind::NoSuchRoute, 404), it, &TimeZone::UTC);
        let similar = ("similar".to_owned(), "web-1.corp.example.com:22".to_owned());
        assert!(facts.contains(&similar), "{facts:?}");
    });
    assert_eq!(
        for_ssh(&reason, similar),
        "corp has no route ssh-prod.corp.example.com:22. Similar: web-1.corp.example.com:22"
    );
    let message = format!("{}, request id 7f3a9c02-4b1e", reason.message);
    assert_eq!(for_ssh(&reason, &[]), message);
    let forbidden = told(&refusal(RefusalKind::Forbidden, 403), |_| {});
    assert_eq!(
        for_ssh(&forbidden, &[]),
        "alice@example.com may not use ssh-prod.corp.example.com:22 (403), request id 7f3a9c02-4b1e. \
         Send the request id to your Pomerium administrator and ask for access"
    );
}

#[test]
fn facts_of_a_refusal_name_the_request_and_say_that_the_session_is_kept() {
    told(&refusal(RefusalKind::Forbidden, 403), |it| {
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
    let reason = told(&error, |it| {
        for (_, value) in facts(&error, it, &TimeZone::UTC) {
            assert!(!value.contains(['\u{1b}', '\n', '\u{202e}']), "{value:?}");
        }
    });
    let told = reason.message + &reason.request_id.unwrap();
    assert!(!told.contains(['\u{1b}', '\n', '\u{202e}']), "{told:?}");
}
