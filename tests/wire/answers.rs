//! What a CONNECT or GET is told, and where the bytes go that came with it.

use gateway::DEMO_USER;
use integration::{
    client::{Ending, connect_head, pattern, read_answer},
    envoy::Envoy,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};

use super::{Deployment, ROUTE, SECOND, Who};

against_both! {
    early_bytes_arrive_whole_and_first
    a_refusal_can_be_read_although_early_bytes_were_sent
    each_refusal_has_its_status_and_keeps_the_service_out
    a_closed_service_is_a_503_that_says_so
    gets_and_then_a_connect_share_one_connection
    a_head_that_is_too_long_is_refused
    the_scheme_word_is_case_sensitive_and_no_json_means_a_redirect
    a_whole_login_works
}

async fn early_bytes_arrive_whole_and_first(who: Who) {
    let deployment = Deployment::new(who).await;
    for n in [1, 100, 70_000, 2_000_000] {
        let early = pattern(n);
        let opening = deployment.front.open(ROUTE, &deployment.token, &early);
        let serving = async {
            let (mut service, _) = deployment.service.accept().await.unwrap();
            let mut got = vec![0; n];
            service.read_exact(&mut got).await.unwrap();
            service.write_all(b"seen").await.unwrap();
            (service, got)
        };
        let (mut tunnel, (_service, got)) = tokio::join!(opening, serving);
        assert!(got == early, "{n} bytes differ");
        assert_eq!(tunnel.read(4).await, b"seen");
    }
}

async fn a_refusal_can_be_read_although_early_bytes_were_sent(who: Who) {
    let deployment = Deployment::new(who).await;
    for n in [0, 100, 2_000_000] {
        let asked = Instant::now();
        let mut refused = deployment.front.open(ROUTE, "nonsense", &pattern(n)).await;
        assert_eq!(refused.status(), 401);
        assert_eq!(refused.header("connection").as_deref(), Some("close"));
        assert!(refused.header("x-request-id").is_some(), "{}", refused.head);
        let length = refused.header("content-length").unwrap();
        let body = refused.read(length.parse().unwrap()).await;
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert!(body["request_id"].is_string(), "{body}");
        // Whoever sent more than was wanted may see the close as a reset.
        let (rest, ending) = refused.read_to_end().await;
        assert!(
            rest.is_empty() && (ending == Ending::Clean || n > 0),
            "{ending:?}"
        );
        assert!(asked.elapsed() >= SECOND * 9 / 10, "closed too early");
    }
    deployment.no_byte_reaches_the_service().await;
}

async fn each_refusal_has_its_status_and_keeps_the_service_out(who: Who) {
    let deployment = Deployment::new(who).await;
    let Deployment {
        gateway,
        front,
        token,
        ..
    } = &deployment;
    let unknown = front.open("nobody.corp.test:7000", token, b"early").await;
    assert_eq!(unknown.status(), 404);
    let unknown = front.open("nobody.corp.test:7000", "nonsense", b"").await;
    assert_eq!(unknown.status(), 404);
    gateway.forbid(DEMO_USER, ROUTE);
    let forbidden = front.open(ROUTE, token, b"early").await;
    assert_eq!(forbidden.status(), 403);
    gateway.allow(DEMO_USER, ROUTE);
    gateway.end_session(token);
    let ended = front.open(ROUTE, token, b"early").await;
    assert_eq!(ended.status(), 401);
    deployment.no_byte_reaches_the_service().await;
    for answer in [unknown, forbidden, ended] {
        assert_eq!(answer.header("connection").as_deref(), Some("close"));
        assert!(answer.header("x-request-id").is_some(), "{}", answer.head);
    }
}

async fn a_closed_service_is_a_503_that_says_so(who: Who) {
    let deployment = Deployment::new(who).await;
    let Deployment {
        front,
        token,
        service,
        ..
    } = deployment;
    drop(service);
    let mut refused = front.open(ROUTE, &token, b"early").await;
    assert_eq!(refused.status(), 503);
    let (body, _) = refused.read_to_end().await;
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let why = body["statusText"].as_str().unwrap();
    assert!(why.contains("Connection_refused"), "{body}");
}

async fn gets_and_then_a_connect_share_one_connection(who: Who) {
    let deployment = Deployment::new(who).await;
    let mut tls = deployment.front.dial("service.corp.test").await.unwrap();
    for token in [&deployment.token, "nonsense"] {
        let ask = format!(
            "GET /.pomerium/user HTTP/1.1\r\nHost: service.corp.test\r\nAccept: application/json\r\nAuthorization: Pomerium {token}\r\n\r\n"
        );
        tls.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = read_answer(tls).await;
        let good = token == deployment.token;
        assert_eq!(answer.status(), if good { 200 } else { 401 });
        let length = answer.header("content-length").unwrap().parse().unwrap();
        let body = String::from_utf8(answer.read(length).await).unwrap();
        assert_eq!(body.contains(DEMO_USER), good, "{body}");
        tls = answer.tls;
    }
    let head = connect_head(ROUTE, &deployment.token);
    tls.write_all(head.as_bytes()).await.unwrap();
    let answer = read_answer(tls).await;
    assert_eq!(answer.status(), 200);
}

async fn a_head_that_is_too_long_is_refused(who: Who) {
    let deployment = Deployment::new(who).await;
    let mut tls = deployment.front.dial("service.corp.test").await.unwrap();
    let head = format!(
        "CONNECT {ROUTE} HTTP/1.1\r\nHost: {ROUTE}\r\nx: {}\r\n\r\n",
        "y".repeat(70_000)
    );
    // The server may close before it took all.
    let _ = tls.write_all(head.as_bytes()).await;
    let answer = read_answer(tls).await;
    assert_eq!(answer.status(), 431);
}

async fn the_scheme_word_is_case_sensitive_and_no_json_means_a_redirect(who: Who) {
    let deployment = Deployment::new(who).await;
    for (scheme, accept, status) in [
        ("pomerium", "application/json", 401),
        ("Pomerium", "text/html", 200),
        ("pomerium", "text/html", 302),
    ] {
        let mut tls = deployment.front.dial("service.corp.test").await.unwrap();
        let head = format!(
            "CONNECT {ROUTE} HTTP/1.1\r\nHost: {ROUTE}\r\nAccept: {accept}\r\nAuthorization: {scheme} {}\r\n\r\n",
            deployment.token
        );
        tls.write_all(head.as_bytes()).await.unwrap();
        let answer = read_answer(tls).await;
        assert_eq!(answer.status(), status, "{scheme}, {accept}");
    }
}

async fn a_whole_login_works(who: Who) {
    let deployment = Deployment::new(who).await;
    let back = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let redirect = format!(
        "http%3A%2F%2F{}%2Fsecret%3Fx%3D1",
        back.local_addr().unwrap()
    );
    let ask = format!(
        "https://service.corp.test/.pomerium/api/v1/login?pomerium_redirect_uri={redirect}"
    );
    let address = deployment
        ._envoy
        .as_ref()
        .map_or(deployment.gateway.address(), Envoy::address);
    let ca = deployment.gateway.ca_pem();
    let browser = gateway::browser::Browser::new(&ca, address).unwrap();
    let link = browser.get(&ask).await.unwrap();
    assert_eq!(link.status, 200);
    let answering = async {
        let (mut client, _) = back.accept().await.unwrap();
        let mut head = vec![0; 4096];
        let n = client.read(&mut head).await.unwrap();
        let page = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        client.write_all(page).await.unwrap();
        String::from_utf8(head[..n].to_vec()).unwrap()
    };
    let (page, head) = tokio::join!(browser.visit(&link.body), answering);
    assert_eq!(page.unwrap().body, "ok");
    let target = head.split(' ').nth(1).unwrap();
    let token = target.strip_prefix("/secret?x=1&pomerium_jwt=").unwrap();
    let answer = deployment.front.open(ROUTE, token, b"").await;
    assert_eq!(answer.status(), 200);
}
