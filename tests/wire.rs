//! The gateway is held to the real thing: the same wire tests run against it and against a real Envoy.
//!
//! A plain client of rustls and bytes asks; nothing of pomd is in it.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use gateway::{DEMO_USER, Gateway, Upstream};
use integration::{
    client::{Ending, Front, Tunnel, pattern},
    envoy::Envoy,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};

const ROUTE: &str = "service.corp.test:7000";
const SECOND: Duration = Duration::from_secs(1);

/// Pomerium, played or real, before one service that the test itself plays.
struct Deployment {
    gateway: Gateway,
    _envoy: Option<Envoy>,
    front: Front,
    token: String,
    service: TcpListener,
}

/// Who plays Pomerium.
#[derive(Clone, Copy, Debug)]
enum Who {
    Gateway,
    Envoy,
}

impl Deployment {
    async fn new(who: Who) -> Self {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = service.local_addr().unwrap();
        let builder = Gateway::builder().route(ROUTE, Upstream::Tcp(address));
        let gateway = builder.start().await.unwrap();
        let envoy = match who {
            Who::Gateway => None,
            Who::Envoy => Some(Envoy::start(&gateway, &[(ROUTE, address)]).await),
        };
        let address: SocketAddr = envoy
            .as_ref()
            .map_or(gateway.address(), |envoy| envoy.address());
        Self {
            front: Front::new(address, &gateway.ca_pem()),
            token: gateway.token(DEMO_USER),
            _envoy: envoy,
            gateway,
            service,
        }
    }

    /// An open tunnel and the service's end of it.
    async fn open(&self, early: &[u8]) -> (Tunnel, TcpStream) {
        let opening = self.front.open(ROUTE, &self.token, early);
        let (tunnel, accepted) = tokio::join!(opening, self.service.accept());
        assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
        (tunnel, accepted.unwrap().0)
    }

    /// Nobody connects to the service within the next 300 ms.
    async fn no_byte_reaches_the_service(&self) {
        let visit = timeout(SECOND * 3 / 10, self.service.accept()).await;
        assert!(visit.is_err(), "{visit:?}");
    }
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

async fn the_service_ends_and_everything_it_said_arrives_before_a_clean_end(who: Who) {
    let deployment = Deployment::new(who).await;
    for n in [0, 1, 16_384, 1_000_000] {
        let (mut tunnel, mut service) = deployment.open(b"hello").await;
        let said = pattern(n);
        service.write_all(&said).await.unwrap();
        service.shutdown().await.unwrap();
        let (got, ending) = tunnel.read_to_end().await;
        assert!(got == said, "{} of {n} bytes", got.len());
        assert_eq!(ending, Ending::Clean);
    }
}

async fn the_clean_end_comes_a_second_after_the_last_byte(who: Who) {
    let deployment = Deployment::new(who).await;
    let (mut tunnel, mut service) = deployment.open(b"").await;
    service.write_all(b"last").await.unwrap();
    drop(service);
    assert_eq!(tunnel.read(4).await, b"last");
    let last = Instant::now();
    assert_eq!(tunnel.read_to_end().await, (Vec::new(), Ending::Clean));
    let waited = last.elapsed();
    assert!(
        (SECOND * 8 / 10..SECOND * 3).contains(&waited),
        "{waited:?}"
    );
}

async fn a_reset_of_the_service_looks_like_a_clean_end(who: Who) {
    let deployment = Deployment::new(who).await;
    let (mut tunnel, mut service) = deployment.open(b"").await;
    service.write_all(b"last").await.unwrap();
    assert_eq!(tunnel.read(4).await, b"last");
    service.set_zero_linger().unwrap();
    drop(service);
    assert_eq!(tunnel.read_to_end().await, (Vec::new(), Ending::Clean));
}

async fn the_client_ends_and_the_service_sees_it_after_all_bytes(who: Who) {
    let deployment = Deployment::new(who).await;
    let said = pattern(300_000);
    let (mut tunnel, mut service) = deployment.open(b"").await;
    tunnel.tls.write_all(&said).await.unwrap();
    tunnel.tls.shutdown().await.unwrap();
    let mut got = Vec::new();
    // Envoy ends it with FIN or with RST; the bytes before it count.
    let _ = timeout(SECOND * 20, service.read_to_end(&mut got))
        .await
        .unwrap();
    assert!(said.starts_with(&got), "{} bytes differ", got.len());
}

async fn the_client_ends_first_and_the_reply_is_lost(who: Who) {
    let deployment = Deployment::new(who).await;
    let (mut tunnel, mut service) = deployment.open(b"").await;
    tunnel.tls.write_all(b"request").await.unwrap();
    let mut request = [0; 7];
    service.read_exact(&mut request).await.unwrap();
    tunnel.tls.shutdown().await.unwrap();
    let gone = timeout(SECOND * 20, service.read(&mut request))
        .await
        .unwrap();
    assert!(matches!(gone, Ok(0) | Err(_)), "{gone:?}");
    // Some of it may be taken by kernels on the way; the client gets none.
    let _ = service.write_all(&pattern(10_000_000)).await;
    let (got, _) = tunnel.read_to_end().await;
    assert!(got.is_empty(), "{} bytes", got.len());
}

async fn the_client_resets_and_the_service_sees_an_end(who: Who) {
    let deployment = Deployment::new(who).await;
    let (tunnel, mut service) = deployment.open(b"x").await;
    let mut byte = [0; 1];
    service.read_exact(&mut byte).await.unwrap();
    tunnel.reset();
    let gone = timeout(SECOND * 20, service.read(&mut byte)).await.unwrap();
    assert!(matches!(gone, Ok(0) | Err(_)), "{gone:?}");
}

async fn sixty_four_mebibytes_each_way_are_equal(who: Who) {
    const N: usize = 64 << 20;
    let deployment = Deployment::new(who).await;
    let (tunnel, service) = deployment.open(b"").await;
    let (mut from_far, mut to_far) = tokio::io::split(tunnel.tls);
    let (mut from_near, mut to_near) = service.into_split();
    let (up, down) = (pattern(N), pattern(N + 1));
    let (mut got_up, mut got_down) = (vec![0; N], vec![0; N + 1]);
    // The halves live on until all has arrived: dropping one ends its direction, and the service's end cuts the other.
    let say_up = async {
        to_far.write_all(&up).await?;
        to_far.flush().await
    };
    let (a, b, c, d) = tokio::join!(
        say_up,
        to_near.write_all(&down),
        from_near.read_exact(&mut got_up),
        from_far.read_exact(&mut got_down)
    );
    assert_eq!((a.unwrap(), b.unwrap()), ((), ()));
    assert_eq!((c.unwrap(), d.unwrap()), (N, N + 1));
    assert!(got_up == up && got_down == down, "bytes differ");
}

/// The trap that pomd's read-ahead is for: the service is done, the reader pauses, and the tail is lost behind a clean
/// end. How much must be outstanding for it depends on the kernels' buffers, so many amounts are tried.
async fn a_reader_that_pauses_too_long_loses_the_tail_behind_a_clean_end(who: Who) {
    const N: usize = 12 << 20;
    let deployment = Deployment::new(who).await;
    let said = Arc::new(pattern(N));
    for round in 0..8 {
        let mut tasks = JoinSet::new();
        for outstanding in 1..=8 {
            let (tunnel, mut service) = deployment.open(b"").await;
            let said = said.clone();
            tasks.spawn(async move {
                let _ = service.write_all(&said).await;
                // Its end is this drop.
                None
            });
            let pause = N - (outstanding << 20) + (round << 17);
            tasks.spawn(async move { Some(read_with_a_pause(tunnel, pause).await) });
        }
        let read = tasks.join_all().await;
        let read: Vec<_> = read.into_iter().flatten().collect();
        assert!(read.iter().all(|it| it.1 == Ending::Clean), "{read:?}");
        if read.iter().any(|it| it.0 < N) {
            return;
        }
    }
    panic!("nothing was lost");
}

/// Reads to the end, with a pause of 2 s at `pause`.
async fn read_with_a_pause(mut tunnel: Tunnel, pause: usize) -> (usize, Ending) {
    let before = tunnel.read(pause).await.len();
    // The pause is the behaviour itself.
    tokio::time::sleep(SECOND * 2).await;
    let (after, ending) = tunnel.read_to_end().await;
    (before + after.len(), ending)
}

async fn gets_and_then_a_connect_share_one_connection(who: Who) {
    let deployment = Deployment::new(who).await;
    let mut tls = deployment.front.dial("service.corp.test").await.unwrap();
    for token in [&deployment.token, "nonsense"] {
        let ask = format!(
            "GET /.pomerium/user HTTP/1.1\r\nHost: service.corp.test\r\nAccept: application/json\r\nAuthorization: Pomerium {token}\r\n\r\n"
        );
        tls.write_all(ask.as_bytes()).await.unwrap();
        let mut answer = integration::client::read_answer(tls).await;
        let good = token == deployment.token;
        assert_eq!(answer.status(), if good { 200 } else { 401 });
        let length = answer.header("content-length").unwrap().parse().unwrap();
        let body = String::from_utf8(answer.read(length).await).unwrap();
        assert_eq!(body.contains(DEMO_USER), good, "{body}");
        tls = answer.tls;
    }
    let head = integration::client::connect_head(ROUTE, &deployment.token);
    tls.write_all(head.as_bytes()).await.unwrap();
    let answer = integration::client::read_answer(tls).await;
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
    let answer = integration::client::read_answer(tls).await;
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
        let answer = integration::client::read_answer(tls).await;
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

macro_rules! against_both {
    ($($test:ident)*) => {
        mod gateway_ {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test(super::Who::Gateway).await })*
        }
        mod envoy_ {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test(super::Who::Envoy).await })*
        }
    };
}

against_both! {
    early_bytes_arrive_whole_and_first
    a_refusal_can_be_read_although_early_bytes_were_sent
    each_refusal_has_its_status_and_keeps_the_service_out
    a_closed_service_is_a_503_that_says_so
    the_service_ends_and_everything_it_said_arrives_before_a_clean_end
    the_clean_end_comes_a_second_after_the_last_byte
    a_reset_of_the_service_looks_like_a_clean_end
    the_client_ends_and_the_service_sees_it_after_all_bytes
    the_client_ends_first_and_the_reply_is_lost
    the_client_resets_and_the_service_sees_an_end
    sixty_four_mebibytes_each_way_are_equal
    a_reader_that_pauses_too_long_loses_the_tail_behind_a_clean_end
    gets_and_then_a_connect_share_one_connection
    a_head_that_is_too_long_is_refused
    the_scheme_word_is_case_sensitive_and_no_json_means_a_redirect
    a_whole_login_works
}
