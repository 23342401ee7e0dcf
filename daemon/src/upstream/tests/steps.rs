//! The steps of opening a route, as a doctor prints them.

use gateway::{Certificate, Gateway, Upstream as Service};
use pomd_core::route::error::{Cause, CertificateProblem, DialError};

use super::*;

const USER: &str = "alice@example.com";

/// Opens the route with `token` and prints each step that was taken, the failed one with its cause.
async fn printed(upstream: &Upstream, token: &Token) -> (String, Option<OpenError>) {
    let mut steps = Steps::begin();
    let mut early = early(Says(b""));
    let route = route();
    let opened = upstream.open_in_steps(&route, token, &mut early, &mut steps);
    let error = opened.await.err();
    let failed = error.as_ref().and_then(OpenError::step);
    let mut page = String::new();
    for (step, took) in steps.iter() {
        assert!(took < Duration::from_secs(10), "{step}: {took:?}");
        let outcome = match &error {
            Some(error) if failed == Some(step) => error.to_string(),
            _ => "ok".to_owned(),
        };
        page.push_str(&format!("{step}: {outcome}\n"));
    }
    (page, error)
}

/// A gateway that publishes the route, and a cluster that is dialled there.
async fn lab_with_gateway(service: Service) -> (Lab, Gateway, ClusterSpec) {
    let lab = Lab::new().await;
    let authority = route().authority.to_string();
    let builder = Gateway::builder().domain(HOST).route(&authority, service);
    let gateway = builder.start().await.unwrap();
    let ca = lab.path("gateway.pem");
    std::fs::write(&ca, gateway.ca_pem()).unwrap();
    let at = gateway.address();
    let spec = ClusterSpec {
        ca_file: Some(ca),
        connect: Some(Authority {
            host: Host::Ip(at.ip()),
            port: at.port(),
        }),
        ..lab.spec()
    };
    (lab, gateway, spec)
}

const UP_TO_TLS: &str = "resolve: ok\nconnect: ok\ntls: ok\n";

#[tokio::test]
async fn each_step_is_printed_with_the_cause_of_the_one_that_failed() {
    let (lab, gateway, spec) = lab_with_gateway(Service::Echo).await;
    let token = Token::parse(&gateway.token(USER)).unwrap();
    let upstream = lab.upstream_of(spec.clone());

    let (page, error) = printed(&upstream, &token).await;
    assert!(error.is_none(), "{error:?}");
    let all = "http: ok\nsession: ok\npolicy: ok\nupstream: ok\n";
    assert_eq!(page, format!("{UP_TO_TLS}{all}"));

    let (page, _) = printed(&upstream, &Token::parse("stale").unwrap()).await;
    let no_session = "http: ok\nsession: Pomerium wants a login\n";
    assert_eq!(page, format!("{UP_TO_TLS}{no_session}"));

    gateway.forbid(USER, &route().authority.to_string());
    let (page, error) = printed(&upstream, &token).await;
    assert!(matches!(error, Some(OpenError::Refused(it)) if it.status == 403));
    let forbidden = "http: ok\nsession: ok\npolicy: the policy does not allow it (403)";
    assert!(
        page.starts_with(&format!("{UP_TO_TLS}{forbidden}")),
        "{page}"
    );

    gateway.show(Certificate::Expired).unwrap();
    let (page, error) = printed(&lab.upstream_of(spec), &token).await;
    let expired = "resolve: ok\nconnect: ok\ntls: the certificate of corp.example.com expired on ";
    assert!(page.starts_with(expired), "{page}");
    assert!(matches!(
        error,
        Some(OpenError::Unreachable(it)) if matches!(
            &*it.cause,
            Cause::Tls(TlsError::Certificate { problem: CertificateProblem::Expired(_), .. })
        )
    ));
}

#[tokio::test]
async fn a_refused_port_is_the_last_step_and_keeps_the_error_of_the_system() {
    let (lab, gateway, spec) = lab_with_gateway(Service::Echo).await;
    let token = Token::parse(&gateway.token(USER)).unwrap();
    let at = gateway.address();
    gateway.stop().await;
    let (page, error) = printed(&lab.upstream_of(spec), &token).await;
    assert_eq!(
        page,
        format!("resolve: ok\nconnect: cannot reach {at}: connection refused\n")
    );
    let Some(OpenError::Unreachable(error)) = error else {
        panic!("{error:?}")
    };
    assert!(matches!(
        &*error.cause,
        Cause::Dial(DialError::Failed(all)) if all[0].1.kind == io::ErrorKind::ConnectionRefused
    ));
}
