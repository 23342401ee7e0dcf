//! The gateway's own promises: the login, the portal, and who gets through.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{Certificate, DEMO_USER, End, Gateway, PortBehaviour, Script, Upstream};

const ROUTE: &str = "echo.corp.test:7";

async fn echo() -> Gateway {
    Gateway::builder()
        .route(ROUTE, Upstream::Echo)
        .start()
        .await
        .unwrap()
}

async fn dial(gateway: &Gateway) -> Result<TlsStream<TcpStream>, std::io::Error> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(gateway.ca_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("echo.corp.test").unwrap();
    let tcp = TcpStream::connect(gateway.address()).await.unwrap();
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, tcp).await
}

/// Sends a CONNECT with `early` behind it and reads what comes until the end.
async fn connect(gateway: &Gateway, token: &str, early: &str) -> (String, std::io::Result<()>) {
    let mut tls = dial(gateway).await.unwrap();
    let head = format!(
        "CONNECT {ROUTE} HTTP/1.1\r\nHost: {ROUTE}\r\nAccept: application/json\r\nAuthorization: Pomerium {token}\r\n\r\n{early}"
    );
    tls.write_all(head.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let end = tls.read_to_end(&mut got).await;
    (String::from_utf8(got).unwrap(), end.map(|_| ()))
}

/// Takes one request, answers it with a page and returns its head.
async fn answer_ok(back: &TcpListener) -> String {
    let (mut client, _) = back.accept().await.unwrap();
    let mut head = vec![0; 4096];
    let n = client.read(&mut head).await.unwrap();
    let page = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    client.write_all(page).await.unwrap();
    String::from_utf8(head[..n].to_vec()).unwrap()
}

#[tokio::test]
async fn a_login_comes_back_with_a_token_that_opens_routes() {
    let gateway = echo().await;
    let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let redirect = format!("http://{}/k3v9?x=1", back.local_addr().unwrap());
    let ask = format!(
        "https://echo.corp.test/.pomerium/api/v1/login?pomerium_redirect_uri={}",
        url::form_urlencoded::byte_serialize(redirect.as_bytes()).collect::<String>()
    );
    let browser = gateway.browser().unwrap();
    let link = browser.get(&ask).await.unwrap();
    assert_eq!(
        (link.status, link.header("content-type")),
        (200, Some("text/plain; charset=utf-8"))
    );
    let visiting = browser.visit(&link.body);
    let (page, head) = tokio::join!(visiting, answer_ok(&back));
    assert_eq!(page.unwrap().body, "ok");
    let target = head.split(' ').nth(1).unwrap();
    let token = target.strip_prefix("/k3v9?x=1&pomerium_jwt=").unwrap();
    assert!(gateway.is_good(token));

    // The same browser again gets the same session without a page.
    let link = browser.get(&ask).await.unwrap();
    let (_, head) = tokio::join!(browser.look(&link.body), answer_ok(&back));
    assert!(head.contains(token));
    let stats = gateway.stats();
    assert_eq!(
        (
            stats.logins_minted,
            stats.sign_in_pages,
            stats.sign_ins,
            stats.sessions_made
        ),
        (2, 1, 2, 1)
    );
}

#[tokio::test]
async fn who_may_not_is_refused_with_the_right_status_and_no_byte_reaches_the_service() {
    let gateway = echo().await;
    let token = gateway.token(DEMO_USER);
    let (answer, _) = connect(&gateway, "nonsense", "early").await;
    assert!(
        answer.starts_with("HTTP/1.1 401 Unauthorized\r\n"),
        "{answer}"
    );
    assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    gateway.forbid(DEMO_USER, ROUTE);
    let (answer, _) = connect(&gateway, &token, "early").await;
    assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
    assert!(
        answer.contains(r#"{"error":"Forbidden","request_id":""#),
        "{answer}"
    );
    gateway.withdraw(ROUTE);
    let (answer, _) = connect(&gateway, "nonsense", "early").await;
    assert!(answer.starts_with("HTTP/1.1 404 Not Found\r\n"), "{answer}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    gateway.publish(ROUTE, Upstream::Tcp(closed.local_addr().unwrap()));
    drop(closed);
    gateway.allow(DEMO_USER, ROUTE);
    let (answer, _) = connect(&gateway, &token, "early").await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("Connection_refused"), "{answer}");
    assert_eq!(gateway.stats().upstream_connections, 0);
    assert_eq!(gateway.stats().tokens_by_name["echo.corp.test"], 4);
}

#[tokio::test]
async fn a_script_cuts_a_tunnel_after_exactly_so_many_bytes() {
    for (end, clean) in [(End::Clean, true), (End::Cut, false), (End::Reset, false)] {
        let gateway = Gateway::builder()
            .route(ROUTE, Upstream::Echo)
            .linger(std::time::Duration::ZERO)
            .start()
            .await
            .unwrap();
        gateway.script(ROUTE, Script::new().end_after(7, end));
        let token = gateway.token(DEMO_USER);
        let (answer, ended) = connect(&gateway, &token, "0123456789").await;
        assert!(answer.ends_with("\r\n\r\n0123456"), "{answer}");
        assert_eq!(ended.is_ok(), clean, "{end:?}: {ended:?}");
        gateway.wait_for(|stats| stats.open_tunnels == 0).await;
    }
}

#[tokio::test]
async fn wrong_certificates_are_not_taken() {
    let gateway = echo().await;
    for wrong in [
        Certificate::Expired,
        Certificate::NotYetValid,
        Certificate::WrongName,
        Certificate::OtherAuthority,
    ] {
        gateway.show(wrong).unwrap();
        assert!(dial(&gateway).await.is_err(), "{wrong:?}");
    }
    gateway.show(Certificate::Good).unwrap();
    assert!(dial(&gateway).await.is_ok());
}

#[tokio::test]
async fn who_is_on_the_way_in_when_the_certificate_changes_never_sees_the_one_before() {
    let gateway = echo().await;
    let mut on_its_way = TcpStream::connect(gateway.address()).await.unwrap();
    // The beginning of a handshake.
    on_its_way.write_all(&[22, 3, 1]).await.unwrap();
    let mut waiting = dial(&gateway).await.unwrap();
    gateway
        .wait_for(|it| (it.entering, it.waiting) == (1, 1))
        .await;
    gateway.show(Certificate::Expired).unwrap();
    assert!(waiting.read_u8().await.is_err());
    drop(waiting);
    gateway.nobody_waits().await;
    assert!(on_its_way.read_u8().await.is_err());
    assert!(dial(&gateway).await.is_err());
    // To be what it is already is no change.
    gateway.show(Certificate::Good).unwrap();
    let mut waiting = dial(&gateway).await.unwrap();
    gateway.wait_for(|it| it.waiting == 1).await;
    gateway.port_behaviour(PortBehaviour::Open);
    waiting
        .write_all(b"GET / HTTP/1.1\r\nHost: corp.test\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(waiting.read_u8().await.unwrap(), b'H');
}

#[tokio::test]
async fn a_missing_client_certificate_is_told_late() {
    let gateway = echo().await;
    gateway.ask_for_client_certificates(true).unwrap();
    let mut tls = dial(&gateway).await.unwrap();
    let error = tls.read_u8().await.unwrap_err();
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
}
