//! Through forward proxies that record every byte.

use std::{fs, future::poll_fn, net::SocketAddr, sync::Arc};

use gateway::forward_proxy::{ForwardProxy as Lan, Heard, Play};
use pomd_core::config::ForwardProxy;

use super::super::proxy::check;
use super::*;
use crate::{buffer::borrowed, upstream::record::RecvError};

const LOGIN: &str = "alice:proxy-canary";
/// `LOGIN`, as HTTP says it.
const BASIC: &str = "YWxpY2U6cHJveHktY2FuYXJ5";

fn http(password: Option<&str>) -> Play {
    Play::Http(password.map(str::to_owned))
}

fn socks(password: Option<&str>) -> Play {
    Play::Socks(password.map(str::to_owned))
}

fn key(scheme: &str, address: SocketAddr) -> ForwardProxy {
    ForwardProxy::parse(&format!("{scheme}://{address}")).unwrap()
}

/// The lab's cluster behind this proxy; the name of its host is known to nobody.
fn spec_behind(lab: &Lab, proxy: ForwardProxy) -> ClusterSpec {
    ClusterSpec {
        connect: None,
        forward_proxy: proxy,
        ..lab.spec()
    }
}

fn with_login(lab: &Lab, mut spec: ClusterSpec) -> ClusterSpec {
    let path = lab.path("proxy-password");
    write_login(&path, LOGIN, 0o600);
    spec.forward_proxy_auth = Some(path);
    spec
}

fn write_login(path: &std::path::Path, text: &str, mode: u32) {
    fs::write(path, text).unwrap();
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// What failed on the way to the proxy or at it.
async fn fails(upstream: &Upstream) -> Told {
    let mut early = early(Says(b"early"));
    let it = unreachable(upstream.open(&route(), &token(), &mut early).await);
    assert_eq!(it.step, Step::Proxy, "{it:?}");
    let got = unreachable(upstream.get(&corp(), "/", Some(&token())).await);
    assert_eq!(got, it, "a GET says the same");
    let message = it.message.strip_prefix("forward proxy: ").unwrap();
    Told {
        message: message.to_owned(),
        ..it
    }
}

/// The proxy was told where to go, and carried TLS: no token, no head of a request, and no password behind the asking.
fn told_nothing_more(proxy: &Lan, target: &str, times: usize) -> Vec<Heard> {
    let heard = proxy.heard();
    assert_eq!(heard.len(), times);
    for word in [
        "secret.jwt",
        "Pomerium",
        "Host: corp.example.com:22",
        "early",
    ] {
        assert!(!proxy.heard_of(word), "{word}");
    }
    for it in &heard {
        assert_eq!(it.target.as_deref(), Some(target));
        assert_eq!(it.carried.first(), Some(&0x16), "a ClientHello");
        let carried = String::from_utf8_lossy(&it.carried);
        assert!(!carried.contains("canary") && !carried.contains(BASIC));
    }
    heard
}

/// Opens a route and GETs something, and carries a word each way.
async fn works(lab: &Lab, upstream: &Upstream) {
    let server = lab.server();
    let mut opened = opens(lab, upstream, &server).await;
    let got = async {
        let answer = upstream
            .get(&corp(), "/.pomerium/user", Some(&token()))
            .await;
        assert_eq!(answer.unwrap().body, b"me");
    };
    let answered = async {
        let mut stream = lab.accept(&server).await.unwrap();
        head(&mut stream).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nme";
        stream.write_all(answer).await.unwrap();
        stream
    };
    join!(got, answered);
    // The server hung up: TLS to the proxy, or none, makes no difference to how that is told.
    let end = poll_fn(|cx| opened.remote.poll_recv(cx)).await.unwrap_err();
    assert!(matches!(end, RecvError::Cut), "{end:?}");
}

#[tokio::test]
async fn a17_a_proxy_hears_where_to_go_and_tls_and_nothing_else() {
    let lab = Lab::new().await;
    for (scheme, play, login) in [
        ("http", http(None), false),
        ("http", http(Some(LOGIN)), true),
        // It does not ask for the password that we have.
        ("http", http(None), true),
        ("socks5", socks(None), false),
        ("socks5", socks(Some(LOGIN)), true),
        ("socks5h", socks(None), true),
    ] {
        let proxy = Lan::start(play, lab.address()).await.unwrap();
        let mut spec = spec_behind(&lab, key(scheme, proxy.address()));
        if login {
            spec = with_login(&lab, spec);
        }
        works(&lab, &lab.upstream_of(spec)).await;
        let heard = told_nothing_more(&proxy, "corp.example.com:443", 2);
        let asked = String::from_utf8_lossy(&heard[0].asked).into_owned();
        if scheme == "http" {
            let auth = format!("Proxy-Authorization: Basic {BASIC}\r\n");
            let want = format!(
                "CONNECT corp.example.com:443 HTTP/1.1\r\nHost: corp.example.com:443\r\nUser-Agent: pomd/{}\r\n{}\r\n",
                env!("CARGO_PKG_VERSION"),
                if login { &auth } else { "" }
            );
            assert_eq!(asked, want);
        }
    }
}

#[tokio::test]
async fn a_proxy_inside_tls_is_verified_by_the_clusters_roots_and_hears_no_more() {
    let lab = Lab::new().await;
    let tls = lab.asking_proxy();
    let proxy = Lan::start_tls(http(Some(LOGIN)), lab.address(), tls);
    let proxy = proxy.await.unwrap();
    let mut spec = with_login(&lab, spec_behind(&lab, key("https", proxy.address())));
    // Our certificate is for the cluster: the proxy asks for one and gets none.
    spec.client_identity = Some(lab.client_identity("alice"));
    works(&lab, &lab.upstream_of(spec)).await;
    told_nothing_more(&proxy, "corp.example.com:443", 2);
}

#[tokio::test]
async fn b1_tls_inside_tls_carries_all_bytes_and_an_idle_one_holds_no_buffer() {
    const SIZE: usize = 8 << 20;
    let lab = Lab::new().await;
    let server = lab.server();
    let tls = lab.server_for(&["127.0.0.1"], |_| {});
    let proxy = Lan::start_tls(http(None), lab.address(), tls)
        .await
        .unwrap();
    let upstream = lab.upstream_of(spec_behind(&lab, key("https", proxy.address())));
    let mut early = early(Says(b""));
    let (route, token) = (route(), token());
    let far = async {
        let mut stream = lab.accept(&server).await.unwrap();
        head(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        let mut heard = vec![0; SIZE];
        stream.read_exact(&mut heard).await.unwrap();
        assert!(heard.iter().enumerate().all(|(at, it)| *it == at as u8));
        stream.write_all(&heard).await.unwrap();
        stream.shutdown().await.unwrap();
        stream
    };
    let near = async {
        let opened = upstream.open(&route, &token, &mut early).await;
        let mut remote = opened.unwrap().remote;
        let bytes: Vec<u8> = (0..SIZE).map(|it| it as u8).collect();
        for part in bytes.chunks(64 << 10) {
            remote.queue(part).unwrap();
            poll_fn(|cx| remote.poll_flush(cx)).await.unwrap();
        }
        let mut heard = Vec::new();
        let end = loop {
            match poll_fn(|cx| remote.poll_recv(cx)).await {
                Ok(it) => heard.extend_from_slice(it.bytes()),
                Err(end) => break end,
            }
        };
        assert!(heard == bytes);
        assert!(matches!(end, RecvError::Closed), "{end:?}");
        assert_eq!(borrowed(), 0);
    };
    join!(near, far);
}

#[tokio::test]
async fn connect_says_what_a_proxy_is_asked_for() {
    let lab = Lab::new().await;
    let proxy = Lan::start(socks(None), lab.address()).await.unwrap();
    let spec = ClusterSpec {
        forward_proxy: key("socks5", proxy.address()),
        ..lab.spec()
    };
    works(&lab, &lab.upstream_of(spec)).await;
    told_nothing_more(&proxy, &lab.address().to_string(), 2);
}

#[tokio::test]
async fn n4_a_proxy_of_several_addresses_is_reached_at_the_one_that_answers() {
    let lab = Lab::new().await;
    let proxy = Lan::start(http(None), lab.address()).await.unwrap();
    // It listens on one family of this name only.
    let name = format!("http://localhost:{}", proxy.address().port());
    let spec = spec_behind(&lab, ForwardProxy::parse(&name).unwrap());
    works(&lab, &lab.upstream_of(spec)).await;
}

#[tokio::test]
async fn the_environment_counts_where_the_file_says_nothing_and_never_for_this_machine() {
    let lab = Lab::new().await;
    let proxy = Lan::start(http(Some(LOGIN)), lab.address()).await.unwrap();
    let value = format!("http://{LOGIN}@{}", proxy.address());
    let environment = |no: &'static str| {
        Arc::new(Environment::read(|name| match name {
            "HTTPS_PROXY" => Some(value.clone()),
            "NO_PROXY" => Some(no.to_owned()),
            _ => None,
        }))
    };
    let shown = |it: &Upstream| it.forward_proxy(&corp()).map(|it| it.to_string());

    let upstream = lab.upstream_of(spec_behind(&lab, ForwardProxy::Environment));
    let upstream = upstream.with_environment(environment(""));
    let url = format!("http://{} (HTTPS_PROXY)", proxy.address());
    assert_eq!(shown(&upstream), Some(url));
    works(&lab, &upstream).await;
    told_nothing_more(&proxy, "corp.example.com:443", 2);

    // `connect` leads to this machine: directly. So do an exception and `none`.
    for (spec, no) in [
        (lab.spec(), ""),
        (lab.spec(), "corp.example.com"),
        (
            ClusterSpec {
                forward_proxy: ForwardProxy::None,
                ..lab.spec()
            },
            "",
        ),
    ] {
        let upstream = lab.upstream_of(spec).with_environment(environment(no));
        assert_eq!(shown(&upstream), None);
        works(&lab, &upstream).await;
    }
    assert_eq!(proxy.heard().len(), 2);

    // What the file says is obeyed also for this machine, and without the environment's password.
    let spec = ClusterSpec {
        forward_proxy: key("http", proxy.address()),
        ..lab.spec()
    };
    let upstream = lab.upstream_of(spec).with_environment(environment("*"));
    let url = format!("http://{}", proxy.address());
    assert_eq!(shown(&upstream), Some(url));
    assert!(fails(&upstream).await.message.contains("407"));
}

#[tokio::test]
async fn a17_without_tls_to_the_cluster_nothing_goes_through_a_proxy() {
    let lab = Lab::new().await;
    let proxy = Lan::start(http(None), lab.address()).await.unwrap();
    let mut plain = (route(), corp());
    plain.0.address.tls = false;
    plain.1.tls = false;
    let spec = ClusterSpec {
        forward_proxy: key("http", proxy.address()),
        ..lab.plain_spec()
    };
    let upstream = lab.upstream_of(spec);
    let mut local = early(Says(b"early"));
    let it = unreachable(upstream.open(&plain.0, &token(), &mut local).await);
    assert!(it.message.contains("nothing was sent"), "{it:?}");
    let got = unreachable(upstream.get(&plain.1, "/", Some(&token())).await);
    assert_eq!(got, it);
    assert_eq!(proxy.heard(), []);

    let value = format!("http://{}", proxy.address());
    let environment = Environment::read(|it| (it == "ALL_PROXY").then(|| value.clone()));
    let upstream = lab
        .upstream_of(lab.plain_spec())
        .with_environment(Arc::new(environment));
    let mut local = early(Says(b""));
    let token = token();
    let (res, ()) = join!(upstream.open(&plain.0, &token, &mut local), async {
        let mut stream = lab.accept_plain().await;
        head(&mut stream).await;
        stream.write_all(OK).await.unwrap();
    });
    res.unwrap();
    assert_eq!(proxy.heard(), []);
}

#[tokio::test]
async fn n9_each_way_of_a_proxy_to_fail_is_told_as_its_step() {
    let mut lab = Lab::new().await;
    lab.limits.proxy = Duration::from_millis(300);
    let proxy = Lan::start(Play::Closes, lab.address()).await.unwrap();
    let url = format!("http://{}", proxy.address());
    let upstream = lab.upstream_of(spec_behind(&lab, key("http", proxy.address())));
    let asked = "when asked for corp.example.com:443";
    for (play, message, hint) in [
        (
            http(Some(LOGIN)),
            format!("{url} answered 407, it wants a password"),
            "forward_proxy_auth = { file = \"proxy-password\" }",
        ),
        (
            Play::Says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>".to_vec()),
            format!("{url} answered 502 (Bad Gateway) {asked}"),
            "forward_proxy names it in [cluster.corp]",
        ),
        (
            Play::Says(b"HTTP/1.1 302 Found\r\nLocation: http://evil.test/\r\n\r\n".to_vec()),
            format!("{url} answered 302 (Found) {asked}"),
            "login page",
        ),
        (
            Play::Says(b"<html><body>Log in</body></html>\n".to_vec()),
            format!("{url} gives no HTTP answer: «<html><body>Log in</body></html>»"),
            "ask whoever runs it",
        ),
        (
            Play::Says(b"HTTP/1.1 403 \xe2\x80\xae\x1b[2J\r\n\r\n".to_vec()),
            format!("{url} gives no HTTP answer: «HTTP/1.1 403 \\u{{202e}}\\u{{1b}}[2J»"),
            "ask whoever runs it",
        ),
        (
            Play::Says([b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 20 << 10]].concat()),
            format!("{url}: the head of its answer is longer than 16 KiB"),
            "ask whoever runs it",
        ),
        (
            Play::Silent,
            format!("{url} did not answer within 300 ms {asked}"),
            "ask whoever runs it",
        ),
        (
            Play::Says(Vec::new()),
            format!("{url} closed the connection {asked}"),
            "ask whoever runs it",
        ),
    ] {
        proxy.play(play.clone());
        let it = fails(&upstream).await;
        assert_eq!(it.message, message);
        assert_eq!(it.timed_out, matches!(play, Play::Silent));
        assert!(it.hint.as_ref().unwrap().contains(hint), "{it:?}");
    }
    for word in ["secret.jwt", "Pomerium", "early"] {
        assert!(!proxy.heard_of(word), "{word}");
    }
    // And then it works again.
    proxy.play(http(None));
    works(&lab, &upstream).await;
}

#[tokio::test]
async fn n9_a_socks_proxy_that_refuses_is_told_as_its_step() {
    let lab = Lab::new().await;
    let proxy = Lan::start(Play::Closes, lab.address()).await.unwrap();
    let url = format!("socks5://{}", proxy.address());
    let spec = spec_behind(&lab, key("socks5", proxy.address()));
    let upstream = lab.upstream_of(spec.clone());
    for (play, message) in [
        (socks(Some(LOGIN)), format!("{url} wants a password")),
        (
            Play::Says(b"\x05\0\x05\x04".to_vec()),
            format!("{url} does not connect to corp.example.com:443: host unreachable"),
        ),
        (
            Play::Says(b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
            format!("{url} gives no SOCKS answer: «H»"),
        ),
    ] {
        proxy.play(play);
        assert_eq!(fails(&upstream).await.message, message);
    }
    proxy.play(socks(Some("alice:another")));
    let it = fails(&lab.upstream_of(with_login(&lab, spec))).await;
    let file = lab.path("proxy-password");
    assert_eq!(
        it.message,
        format!(
            "{url} does not take the user and password of {}",
            file.display()
        )
    );
    assert!(!proxy.heard_of("secret.jwt"));
}

#[tokio::test]
async fn n9_a_proxy_that_is_not_there_is_told_as_its_step() {
    let lab = Lab::new().await;
    let gone = {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    for scheme in ["http", "https", "socks5"] {
        let it = fails(&lab.upstream_of(spec_behind(&lab, key(scheme, gone)))).await;
        assert_eq!(
            it.message,
            format!("cannot reach {gone}: connection refused")
        );
        let hint = it.hint.unwrap();
        assert!(
            hint.contains("forward_proxy = \"none\" in [cluster.corp]"),
            "{hint}"
        );
    }
}

#[tokio::test]
async fn t1_a_proxy_whose_certificate_is_not_trusted_hears_no_password() {
    let lab = Lab::new().await;
    let foreign = Lab::signed_by("Other CA").await;
    let tls = foreign.server_for(&["127.0.0.1"], |_| {});
    let proxy = Lan::start_tls(http(Some(LOGIN)), lab.address(), tls);
    let proxy = proxy.await.unwrap();
    let mut spec = with_login(&lab, spec_behind(&lab, key("https", proxy.address())));
    // That is about the cluster's certificate, not about the proxy's.
    spec.insecure_skip_verify = true;
    let it = fails(&lab.upstream_of(spec)).await;
    assert!(it.message.contains("issued by \"Other CA\""), "{it:?}");
    assert!(it.hint.unwrap().contains("ca_file in [cluster.corp]"));
    assert_eq!(proxy.all(), b"");

    let plain = Lan::start(
        Play::Says(b"HTTP/1.1 400 Bad\r\n\r\n".to_vec()),
        lab.address(),
    );
    let plain = plain.await.unwrap();
    let it = fails(&lab.upstream_of(spec_behind(&lab, key("https", plain.address())))).await;
    assert_eq!(
        it.message,
        format!("{} does not speak TLS", plain.address())
    );
}

#[tokio::test]
async fn n8_a_proxy_that_lies_about_its_200_is_named_beside_what_came_instead() {
    let lab = Lab::new().await;
    let proxy = Lan::start(http(None), lab.address()).await.unwrap();
    let upstream = lab.upstream_of(spec_behind(&lab, key("http", proxy.address())));
    let page = b"HTTP/1.1 200 OK\r\n\r\n<html>log in</html>".to_vec();
    proxy.play(Play::Says([&page[..], &page].concat()));
    let mut local = early(Says(b"early"));
    let it = unreachable(upstream.open(&route(), &token(), &mut local).await);
    assert_eq!(it.step, Step::Tls);
    assert_eq!(
        it.message,
        format!(
            "corp.example.com does not speak TLS (through http://{})",
            proxy.address()
        )
    );
    assert!(!proxy.heard_of("secret.jwt"));
}

#[tokio::test]
async fn the_file_of_the_password_is_judged_and_read_anew_each_time() {
    let lab = Lab::new().await;
    let proxy = Lan::start(http(Some(LOGIN)), lab.address()).await.unwrap();
    let spec = with_login(&lab, spec_behind(&lab, key("http", proxy.address())));
    let upstream = lab.upstream_of(spec);
    let path = lab.path("proxy-password");
    for (text, mode, problem) in [
        ("no password", 0o600, "does not hold user:password"),
        (LOGIN, 0o644, "others can read"),
    ] {
        write_login(&path, text, mode);
        let it = fails(&upstream).await;
        assert!(it.message.contains(problem), "{it:?}");
        assert!(!it.message.contains("canary"), "{it:?}");
        assert!(!check(&path).is_empty());
    }
    fs::remove_file(&path).unwrap();
    assert!(fails(&upstream).await.message.contains("no such file"));
    assert_eq!(proxy.heard(), [], "nobody was asked");

    write_login(&path, "alice:old\n", 0o600);
    let it = fails(&upstream).await;
    assert_eq!(
        it.message,
        format!(
            "http://{} answered 407, it does not take the user and password of {}",
            proxy.address(),
            path.display()
        )
    );
    write_login(&path, &format!("{LOGIN}\n"), 0o600);
    assert_eq!(check(&path), Vec::<String>::new());
    works(&lab, &upstream).await;
    let shown = format!("{upstream:?}");
    assert!(!shown.contains("canary"), "{shown}");
}
