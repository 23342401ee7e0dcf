//! CONNECTs: early bytes, answers, refusals.

use std::sync::atomic::Ordering;

use tokio::io::{duplex, empty};

use super::*;

/// A server that answers every CONNECT of one connection with `answer`, then closes properly.
async fn answers(lab: &Lab, answer: &[u8]) -> Result<Opened, OpenError> {
    let (upstream, server) = (lab.upstream(), lab.server());
    let mut early = early(Says(b""));
    let (route, token) = (route(), token());
    let (res, _stream) = join!(upstream.open(&route, &token, &mut early), async {
        let mut stream = lab.accept(&server).await.unwrap();
        head(&mut stream).await;
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.unwrap();
        stream
    });
    res
}

#[tokio::test]
async fn head_and_early_bytes_come_in_one_flight() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let mut early = early(Says(b"SSH-2.0-OpenSSH_9.6\r\n"));
    early.kept = b"kept before: ".to_vec();
    let (route, token) = (route(), token());
    let (opened, ()) = join!(upstream.open(&route, &token, &mut early), async {
        let mut stream = lab.accept(&server).await.unwrap();
        let mut record = vec![0; 1 << 14];
        let length = stream.read(&mut record).await.unwrap();
        let want = format!(
            "CONNECT {HOST}:22 HTTP/1.1\r\nHost: {HOST}:22\r\nAuthorization: Pomerium secret.jwt\r\n\
             Accept: application/json\r\nUser-Agent: pomd/{}\r\n\r\nkept before: SSH-2.0-OpenSSH_9.6\r\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(String::from_utf8_lossy(&record[..length]), want);
        assert_eq!(stream.get_ref().1.server_name(), Some(HOST));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        stream.write_all(OK).await.unwrap();
    });
    assert_eq!(opened.unwrap().first, b"");
    assert_eq!(early.kept, b"kept before: SSH-2.0-OpenSSH_9.6\r\n");
    assert!(!early.ended);
}

#[tokio::test]
async fn later_bytes_follow_while_the_answer_is_awaited() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let (mut local, source) = duplex(1 << 10);
    let mut early = early(source);
    let (route, token) = (route(), token());
    let (opened, ()) = join!(upstream.open(&route, &token, &mut early), async {
        let mut stream = lab.accept(&server).await.unwrap();
        let (_, mut rest) = head(&mut stream).await;
        assert_eq!(rest, b"");
        for byte in b"later" {
            local.write_all(&[*byte]).await.unwrap();
            stream.read_buf(&mut rest).await.unwrap();
        }
        assert_eq!(rest, b"later");
        stream.write_all(OK).await.unwrap();
    });
    opened.unwrap();
    assert_eq!(early.kept, b"later");
}

#[tokio::test]
async fn no_more_than_64_kib_are_kept_and_all_of_them_arrive() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let said: &'static [u8] = vec![7; 100_000].leak();
    let mut early = early(Says(said));
    let (route, token) = (route(), token());
    let (opened, ()) = join!(upstream.open(&route, &token, &mut early), async {
        let mut stream = lab.accept(&server).await.unwrap();
        let (_, mut rest) = head(&mut stream).await;
        while rest.len() < 64 << 10 {
            stream.read_buf(&mut rest).await.unwrap();
        }
        assert_eq!(rest, said[..64 << 10]);
        stream.write_all(OK).await.unwrap();
    });
    opened.unwrap();
    assert_eq!(early.kept.len(), 64 << 10);
    assert_eq!(early.source.0.len(), 100_000 - (64 << 10));
}

#[tokio::test]
async fn the_end_of_the_local_side_is_noted_and_does_not_stop_the_asking() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let mut early = early(&b"bye"[..]);
    let (route, token) = (route(), token());
    let (opened, rest) = join!(upstream.open(&route, &token, &mut early), async {
        let mut stream = lab.accept(&server).await.unwrap();
        let (_, rest) = head(&mut stream).await;
        stream.write_all(OK).await.unwrap();
        rest
    });
    opened.unwrap();
    assert!(early.ended);
    assert_eq!((&early.kept[..], &rest[..]), (&b"bye"[..], &b"bye"[..]));
}

#[tokio::test]
async fn a_local_reset_ends_the_asking() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let mut early = early(Reset);
    let (route, token) = (route(), token());
    let (res, _stream) = join!(
        upstream.open(&route, &token, &mut early),
        lab.accept(&server)
    );
    assert!(matches!(res, Err(OpenError::LocalGone(_))), "{res:?}");
}

#[tokio::test]
async fn h3_what_stands_behind_the_head_is_the_services() {
    let lab = Lab::new().await;
    for framing in [
        "",
        "content-length: 3\r\n",
        "transfer-encoding: chunked\r\n",
        "connection: close\r\n",
    ] {
        for version in ["1.0", "1.1"] {
            let answer = format!("HTTP/{version} 200 OK\r\n{framing}\r\nSSH-2.0-service\r\n");
            let opened = answers(&lab, answer.as_bytes()).await.unwrap();
            assert_eq!(opened.first, b"SSH-2.0-service\r\n");
        }
    }
}

#[tokio::test]
async fn h2_h4_interim_answers_and_single_bytes_make_no_difference() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let mut early = early(empty());
    let (route, token) = (route(), token());
    let (opened, ()) = join!(upstream.open(&route, &token, &mut early), async {
        let mut stream = lab.accept(&server).await.unwrap();
        head(&mut stream).await;
        for byte in b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nx: y\r\n\r\n" {
            stream.write_all(&[*byte]).await.unwrap();
            stream.flush().await.unwrap();
        }
    });
    assert_eq!(opened.unwrap().first, b"");
}

#[tokio::test]
async fn a_refusal_is_read_to_the_end_of_its_body() {
    let lab = Lab::new().await;
    let it = refusal(
        answers(
            &lab,
            b"HTTP/1.1 403 Forbidden\r\nx-request-id: 7f3a\r\ncontent-length: 46\r\nconnection: close\r\n\r\n\
              {\"error\":\"Forbidden\",\"request_id\":\"elsewhere\"}",
        )
        .await,
    );
    assert_eq!(
        it,
        Refusal {
            kind: RefusalKind::Forbidden,
            status: 403,
            request_id: Some("7f3a".to_owned()),
            detail: Some("Forbidden".to_owned())
        }
    );
    let it = refusal(answers(&lab, b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await);
    assert_eq!(it.kind, RefusalKind::WrongProtocol);
    let it = refusal(answers(&lab, b"HTTP/1.1 403 Forbidden\r\ncontent-length: 9\r\n\r\n").await);
    assert_eq!(it.kind, RefusalKind::Forbidden, "a body was promised");
    let it = refusal(answers(&lab, b"HTTP/1.1 204 No Content\r\n\r\n").await);
    assert_eq!((it.kind, it.status), (RefusalKind::Other, 204));
    let chunked = b"HTTP/1.1 503 No\r\ntransfer-encoding: chunked\r\n\r\n\
                    20\r\n{\"statusText\":\"no_healthy_upstre\r\n4\r\nam\"}\r\n0\r\n\r\n";
    let it = refusal(answers(&lab, chunked).await);
    assert_eq!(it.detail.as_deref(), Some("no_healthy_upstream"));
}

#[tokio::test]
async fn a_401_and_a_redirect_want_a_login() {
    let lab = Lab::new().await;
    for answer in [
        &b"HTTP/1.1 401 Unauthorized\r\nx-request-id: r1\r\ncontent-length: 0\r\n\r\n"[..],
        b"HTTP/1.1 302 Found\r\nx-request-id: r1\r\nlocation: https://evil.example/\r\ncontent-length: 0\r\n\r\n",
    ] {
        let res = answers(&lab, answer).await;
        assert!(
            matches!(&res, Err(OpenError::Unauthenticated { request_id: Some(it) }) if it == "r1"),
            "{res:?}"
        );
    }
}

#[tokio::test]
async fn h6_a_403_is_heard_although_the_reset_came_while_we_wrote() {
    let lab = Lab::new().await;
    for _ in 0..20 {
        let (upstream, server) = (lab.upstream(), lab.server());
        let (mut local, source) = duplex(1 << 16);
        local.write_all(&[7; 60_000]).await.unwrap();
        let mut early = early(source);
        let (route, token) = (route(), token());
        let (res, _local) = join!(upstream.open(&route, &token, &mut early), async {
            let mut stream = lab.accept(&server).await.unwrap();
            head(&mut stream).await;
            let answer =
                b"HTTP/1.1 403 Forbidden\r\ncontent-length: 21\r\n\r\n{\"error\":\"Forbidden\"}";
            stream.write_all(answer).await.unwrap();
            stream.flush().await.unwrap();
            // Closing with bytes unread is a reset; what we write next fails, before we read.
            drop(stream);
            local.write_all(b"more").await.unwrap();
            local
        });
        assert_eq!(refusal(res).kind, RefusalKind::Forbidden);
    }
}

#[tokio::test]
async fn h5_what_is_no_answer_is_shown_harmless() {
    let lab = Lab::new().await;
    for (answer, message) in [
        (
            &b"SSH-2.0-\x1b[2J\r\n"[..],
            r"corp.example.com: not an HTTP answer: «SSH-2.0-\u{1b}[2J»",
        ),
        (b"<html>", "corp.example.com: not an HTTP answer: «<html>»"),
        (
            b"",
            "corp.example.com closed the connection without an answer",
        ),
        (
            b"HTTP/1.1 20",
            "corp.example.com closed the connection in the middle of its answer",
        ),
        (
            b"HTTP/1.1 200 OK\r\na b\r\n\r\n",
            "corp.example.com: the head of the answer is broken (invalid header name)",
        ),
    ] {
        let it = unreachable(answers(&lab, answer).await);
        assert_eq!((it.step, it.timed_out), (Step::Http, false));
        assert_eq!(it.message, message);
    }
    let long = format!("HTTP/1.1 200 OK\r\na: {}\r\n\r\n", "x".repeat(129 << 10));
    let it = unreachable(answers(&lab, long.as_bytes()).await);
    assert!(it.message.ends_with("longer than 128 KiB"), "{it:?}");
}

#[tokio::test]
async fn f14_a_server_that_does_not_answer_is_given_up() {
    let mut lab = Lab::new().await;
    lab.limits.answer = Duration::from_millis(100);
    let (upstream, server) = (lab.upstream(), lab.server());
    let mut early = early(Says(b"x"));
    let (route, token) = (route(), token());
    let (res, _stream) = join!(
        upstream.open(&route, &token, &mut early),
        lab.accept(&server)
    );
    let it = unreachable(res);
    assert_eq!((it.step, it.timed_out), (Step::Http, true));
    assert_eq!(it.message, "corp.example.com did not answer within 100 ms");
}

/// With a clock that stands still while files are read: the same limit is for them, and they may be slow.
#[tokio::test(start_paused = true)]
async fn t2_a_stalled_handshake_is_told_as_tls() {
    let lab = Lab::new().await;
    let upstream = lab.upstream();
    let mut early = early(Says(b"x"));
    let (route, token) = (route(), token());
    let (res, _socket) = join!(
        upstream.open(&route, &token, &mut early),
        lab.accept_plain()
    );
    let it = unreachable(res);
    assert_eq!((it.step, it.timed_out), (Step::Tls, true));
    let at = corp();
    let (res, _socket) = join!(upstream.get(&at, "/", None), lab.accept_plain());
    assert_eq!(unreachable(res), it);
}

#[tokio::test]
async fn a_guard_against_early_bytes_is_found_once_and_remembered() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let (route, token) = (route(), token());
    let mut first = early(Says(b"early"));
    let (opened, ()) = join!(upstream.open(&route, &token, &mut first), async {
        let mut stream = lab.accept(&server).await.unwrap();
        assert_eq!(head(&mut stream).await.1, b"early");
        let refusing = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        stream.write_all(refusing).await.unwrap();
        stream.shutdown().await.unwrap();
        expect_patience(&lab, &server, b"early").await;
    });
    opened.unwrap();
    let mut second = early(Says(b"again"));
    second.kept = b"kept".to_vec();
    let (opened, ()) = join!(
        upstream.open(&route, &token, &mut second),
        expect_patience(&lab, &server, b"kept")
    );
    opened.unwrap();
}

#[tokio::test]
async fn h9_a_close_without_an_answer_is_told_and_what_was_said_is_not_said_again() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let (route, token) = (route(), token());
    let mut first = early(Says(b"early"));
    let (failed, ()) = join!(upstream.open(&route, &token, &mut first), async {
        let mut stream = lab.accept(&server).await.unwrap();
        assert_eq!(head(&mut stream).await.1, b"early");
        drop(stream);
    });
    assert_eq!(unreachable(failed).step, Step::Http);
    let mut second = early(Says(b"early"));
    let (opened, ()) = join!(upstream.open(&route, &token, &mut second), async {
        let mut stream = lab.accept(&server).await.unwrap();
        assert_eq!(head(&mut stream).await.1, b"early");
        stream.write_all(OK).await.unwrap();
    });
    opened.unwrap();
}

/// The next connection says nothing before its answer, and `rest` after it.
async fn expect_patience(lab: &Lab, server: &TlsAcceptor, rest: &[u8]) {
    let mut stream = lab.accept(server).await.unwrap();
    assert_eq!(head(&mut stream).await.1, b"");
    stream.write_all(OK).await.unwrap();
    let mut said = vec![0; rest.len()];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(said, rest);
}

#[tokio::test]
async fn a_server_that_refuses_either_way_is_believed_the_second_time() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let (route, token) = (route(), token());
    let mut early = early(Says(b"early"));
    let (res, ()) = join!(upstream.open(&route, &token, &mut early), async {
        for status in [400, 404] {
            let mut stream = lab.accept(&server).await.unwrap();
            head(&mut stream).await;
            let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    assert_eq!(refusal(res).kind, RefusalKind::NoSuchRoute);
    assert!(!upstream.guarded.load(Ordering::Relaxed));
}

#[tokio::test]
async fn a15_a_token_goes_to_no_host_of_another_cluster() {
    let lab = Lab::new().await;
    let upstream = lab.upstream();
    for host in [
        "evilcorp.example.com",
        "corp.example.com.evil",
        "example.com",
        "10.0.0.1",
    ] {
        let host = host
            .parse()
            .map_or_else(|_| Host::Name(host.to_owned()), Host::Ip);
        let mut route = route();
        route.address.host = host;
        let mut early = early(Says(b"x"));
        let it = unreachable(upstream.open(&route, &token(), &mut early).await);
        assert!(it.message.contains("nothing was sent"), "{it:?}");
        let got = upstream.get(&route.address, "/", Some(&token())).await;
        assert_eq!(unreachable(got), it);
    }
    let none = tokio::time::timeout(Duration::from_millis(1), lab.listener.accept()).await;
    assert!(none.is_err(), "nobody was dialled");
    let mut spec = lab.spec();
    spec.hosts.clear();
    opens(&lab, &lab.upstream_of(spec), &lab.server()).await;
}

#[tokio::test]
async fn a24_no_token_goes_without_tls_or_to_a_port_that_nothing_names() {
    let lab = Lab::new().await;
    let spec = ClusterSpec {
        connect: None,
        ..lab.spec()
    };
    let at = lab.address();
    for (address, why) in [
        // Everything of a cluster with `connect` leads to the listener here, whatever the address says.
        (format!("http://{HOST}"), "without TLS"),
        (format!("http://{HOST}:{}", at.port()), "without TLS"),
        (format!("https://{HOST}:{}", at.port()), "port"),
    ] {
        let upstream = match why {
            "port" => lab.upstream_of(spec.clone()),
            _ => lab.upstream(),
        };
        let mut route = route();
        route.address = Address::parse(&address).unwrap();
        let mut early = early(Says(b"x"));
        let it = unreachable(upstream.open(&route, &token(), &mut early).await);
        assert!(
            it.message.contains(why) && it.message.contains("nothing was sent"),
            "{it:?}"
        );
        let got = upstream.get(&route.address, "/", Some(&token())).await;
        assert_eq!(unreachable(got), it);
    }
    let none = tokio::time::timeout(Duration::from_millis(1), lab.listener.accept()).await;
    assert!(none.is_err(), "nobody was dialled");
}

/// A client that left more than is kept, and is gone.
struct Left;

impl EarlySource for Left {
    fn check(&self) -> io::Result<()> {
        Err(io::ErrorKind::NotConnected.into())
    }
}

impl AsyncRead for Left {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        to.put_slice(&vec![7; to.remaining()]);
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a1_what_a_client_left_that_is_gone_is_not_said_for_it() {
    let lab = Lab::new().await;
    let (upstream, server) = (lab.upstream(), lab.server());
    let (route, token) = (route(), token());
    for patient in [false, true] {
        upstream.guarded.store(patient, Ordering::Relaxed);
        let mut early = Early {
            source: Left,
            kept: Vec::new(),
            ended: false,
        };
        let (res, said) = join!(upstream.open(&route, &token, &mut early), async {
            let mut stream = lab.accept(&server).await.unwrap();
            let mut said = Vec::new();
            let mut room = [0; 1024];
            while !said.ends_with(b"\r\n\r\n") {
                match stream.read(&mut room).await {
                    Ok(n @ 1..) => said.extend_from_slice(&room[..n]),
                    _ => return said,
                }
            }
            let _ = stream.write_all(OK).await;
            let _ = stream.read_to_end(&mut said).await;
            said
        });
        assert!(matches!(res, Err(OpenError::LocalGone(_))), "{res:?}");
        assert!(!said.contains(&7), "{patient}");
    }
}

#[tokio::test]
async fn a_lab_address_goes_without_tls() {
    let lab = Lab::new().await;
    let upstream = lab.upstream_of(lab.plain_spec());
    let (mut route, token) = (route(), token());
    route.address.tls = false;
    let mut early = early(Says(b"early"));
    let (opened, ()) = join!(upstream.open(&route, &token, &mut early), async {
        let mut socket = lab.accept_plain().await;
        assert_eq!(head(&mut socket).await.1, b"early");
        socket
            .write_all(b"HTTP/1.1 200 OK\r\n\r\nhello")
            .await
            .unwrap();
    });
    assert_eq!(opened.unwrap().first, b"hello");
}

#[tokio::test]
async fn n1_the_dialled_address_is_named() {
    let lab = Lab::new().await;
    let (upstream, at) = (lab.upstream(), lab.address());
    drop(lab.listener);
    let mut early = early(Says(b"x"));
    let it = unreachable(upstream.open(&route(), &token(), &mut early).await);
    assert_eq!(it.step, Step::Connect);
    assert_eq!(it.message, format!("cannot reach {at}: connection refused"));
}
