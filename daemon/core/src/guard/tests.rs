//! Heads that browsers, programs and nobody send, in one piece and in all.

mod bodies;

use crate::config::Host;
use proptest::prelude::*;

use super::*;

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn rules() -> Rules {
    Rules {
        tunnel: "grafana".to_owned(),
        route: host("grafana.corp.test"),
        allow: vec![host("grafana.localhost"), host("198.51.100.7")],
        ssh: false,
    }
}

fn guard() -> Guard {
    Guard::new(Arc::new(rules()))
}

/// What goes on of these pieces.
fn pass(guard: &mut Guard, pieces: &[&[u8]]) -> Vec<u8> {
    let mut res = Vec::new();
    for piece in pieces {
        let passed = guard.push(piece);
        res.extend(passed.held);
        res.extend_from_slice(&piece[..passed.fresh]);
    }
    res
}

/// What goes on, and why something is refused, in whatever pieces it comes.
fn judged(bytes: &[u8]) -> (Vec<u8>, Option<Why>) {
    let judge = |pieces: &[&[u8]]| {
        let mut guard = guard();
        let passed = pass(&mut guard, pieces);
        (passed, guard.refusal().map(|it| it.why.clone()))
    };
    let whole = judge(&[bytes]);
    for at in 0..bytes.len() {
        let (one, two) = bytes.split_at(at);
        assert_eq!(judge(&[one, two]), whole, "cut at {at}");
    }
    assert_eq!(judge(&bytes.chunks(1).collect::<Vec<_>>()), whole);
    whole
}

/// A request with these lines in its head.
fn request(lines: &str) -> String {
    format!("{}\r\n\r\n", lines.trim().replace('\n', "\r\n"))
}

#[test]
fn a6_requests_of_persons_and_programs_go_on_as_they_are() {
    for lines in [
        "GET / HTTP/1.1\nHost: localhost:3000",
        "GET / HTTP/1.1\nHost: localhost",
        "GET / HTTP/1.1\nhost:LOCALHOST.:3000",
        "GET / HTTP/1.1\nHost:\t 127.0.0.1:3000 \t",
        "GET / HTTP/1.1\nHost: 127.8.8.8",
        "GET / HTTP/1.1\nHost: [::1]:3000",
        "GET / HTTP/1.1\nHost: [::1]",
        "GET / HTTP/1.1\nHost: 192.0.2.7:3000",
        "GET / HTTP/1.1\nHost: [2001:db8::7]:3000",
        "GET / HTTP/1.1\nHost: grafana.corp.test",
        "GET / HTTP/1.1\nHost: Grafana.Corp.Test.:9999",
        "GET / HTTP/1.1\nHost: grafana.localhost:3000",
        // No browser leaves the host out.
        "GET / HTTP/1.0",
        "GET / HTTP/1.1\nHost:",
        "POST / HTTP/1.0\nContent-Length: 0",
        "OPTIONS * HTTP/1.1\nHost: localhost",
        "GET http://localhost:3000/x HTTP/1.1\nHost: localhost:3000",
        "CONNECT localhost:22 HTTP/1.1\nHost: localhost:22",
        "X-ANY / HTTP/1.1\nHost: localhost",
        "get / http/1.1\nHost: localhost",
        // The address line, a bookmark; a page of the service itself; one of the same machine.
        "GET / HTTP/1.1\nHost: localhost:3000\nSec-Fetch-Site: none\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document",
        "GET /a.png HTTP/1.1\nHost: localhost:3000\nSec-Fetch-Site: same-origin\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: image",
        "GET /a.png HTTP/1.1\nHost: localhost:3000\nSec-Fetch-Site: same-site\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: image",
        "POST / HTTP/1.1\nHost: localhost:3000\nOrigin: http://localhost:3000",
        "POST / HTTP/1.1\nHost: localhost:3000\nOrigin: http://localhost:5173",
        "POST / HTTP/1.1\nHost: localhost:3000\nOrigin: http://127.0.0.1:5173\nSec-Fetch-Site: cross-site",
        "POST / HTTP/1.1\nHost: localhost:3000\nOrigin: http://[::1]",
        "POST / HTTP/1.1\nHost: localhost:3000\nOrigin: https://grafana.localhost",
        "POST / HTTP/1.1\nHost: 192.0.2.7:3000\nOrigin: http://192.0.2.7:3000",
        "POST / HTTP/1.1\nHost: 192.0.2.7\nOrigin: http://192.0.2.7:80",
        "POST / HTTP/1.1\nHost: grafana.corp.test\nOrigin: https://grafana.corp.test",
        // A form of the service's own page that sends no referrer.
        "POST / HTTP/1.1\nHost: localhost:3000\nOrigin: null\nSec-Fetch-Site: same-origin",
        // A link on another site, clicked.
        "GET /d/1 HTTP/1.1\nHost: localhost:3000\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-User: ?1\nSec-Fetch-Dest: document",
        "GET /s HTTP/1.1\nHost: localhost\nOrigin: http://localhost\nConnection: Upgrade\nUpgrade: websocket",
    ] {
        let bytes = request(lines).into_bytes();
        assert_eq!(judged(&bytes), (bytes.clone(), None), "{lines}");
        let bare = lines.replace("\r", "") + "\n\n";
        assert_eq!(
            judged(bare.as_bytes()),
            (bare.clone().into(), None),
            "{lines}"
        );
        let late = ["\r\n\r\n", std::str::from_utf8(&bytes).unwrap()].concat();
        assert_eq!(judged(late.as_bytes()), (late.clone().into(), None));
    }
}

#[test]
fn a6_requests_that_a_web_page_may_have_caused_are_refused_whole() {
    let host = |it: &str| Why::Host(it.to_owned());
    let origin = |it: &str| Why::Origin(it.to_owned());
    let broken = |it| Why::Malformed(it);
    let (no_header, two_ends) = (
        broken("a line of its head is no header"),
        broken("a line of its head has two ends"),
    );
    for (lines, why) in [
        // A page that got its name to lead here.
        (
            "GET / HTTP/1.1\nHost: rebind.example:3000",
            host("rebind.example"),
        ),
        (
            "GET / HTTP/1.1\nHost: localhost.rebind.example",
            host("localhost.rebind.example"),
        ),
        ("GET / HTTP/1.1\nHost: xlocalhost", host("xlocalhost")),
        (
            "GET / HTTP/1.1\nHost: other.localhost",
            host("other.localhost"),
        ),
        (
            "GET / HTTP/1.1\nHost: a.grafana.localhost",
            host("a.grafana.localhost"),
        ),
        ("GET / HTTP/1.1\nHost: 0.0.0.0:3000", host("0.0.0.0")),
        ("GET / HTTP/1.1\nHost: [::]", host("::")),
        (
            "GET / HTTP/1.1\nHost: [::ffff:127.0.0.1]",
            host("::ffff:127.0.0.1"),
        ),
        ("GET / HTTP/1.1\nHost: ::1", host("::1")),
        ("GET / HTTP/1.1\nHost: 127.1", host("127.1")),
        ("GET / HTTP/1.1\nHost: localhost:x", host("localhost:x")),
        ("GET / HTTP/1.1\nHost: me@localhost", host("me@localhost")),
        (
            "GET / HTTP/1.1\nHost: localhost, rebind.example",
            host("localhost, rebind.example"),
        ),
        ("GET / HTTP/1.1\nHost: ｌocalhost", host("ｌocalhost")),
        (
            "get / http/1.1\nhOST: rebind.example",
            host("rebind.example"),
        ),
        (
            "FLUSHALL / HTTP/1.1\nHost: rebind.example",
            host("rebind.example"),
        ),
        (
            "GET  /a b  HTTP/1.1 \nHost: rebind.example",
            host("rebind.example"),
        ),
        (
            "GET / HTTP/1.0\nHost: rebind.example",
            host("rebind.example"),
        ),
        (
            "GET http://rebind.example/ HTTP/1.1\nHost: localhost",
            host("rebind.example"),
        ),
        (
            "GET http://localhost/ HTTP/1.1\nHost: rebind.example",
            host("rebind.example"),
        ),
        (
            "GET http://me@rebind.example/ HTTP/1.1\nHost: localhost",
            host(""),
        ),
        (
            "CONNECT rebind.example:443 HTTP/1.1\nHost: localhost",
            host("rebind.example"),
        ),
        (
            "GET / HTTP/1.1\nHost: localhost\nHost: localhost",
            broken("it has two Host headers"),
        ),
        (
            "GET / HTTP/1.1\nHost: localhost\nhost: rebind.example",
            broken("it has two Host headers"),
        ),
        ("GET / HTTP/1.1\nHost : rebind.example", no_header.clone()),
        ("GET / HTTP/1.1\nHost", no_header.clone()),
        ("GET / HTTP/1.1\n: x", no_header),
        (
            "GET / HTTP/1.1\nHost: localhost\n .rebind.example",
            broken("a header goes on in a second line"),
        ),
        (
            "GET / HTTP/1.1\n Host: localhost",
            broken("a header goes on in a second line"),
        ),
        (
            "GET / HTTP/1.1\nA: b\rHost: rebind.example",
            two_ends.clone(),
        ),
        ("GET /\rHost:x HTTP/1.1\nHost: localhost", two_ends),
        // A page of another origin: fetch, form, preflight, WebSocket, sandboxed frame, file.
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: https://page.example",
            origin("https://page.example"),
        ),
        (
            "GET / HTTP/1.1\nHost: 127.0.0.1:3000\nOrigin: http://203.0.113.5:3000",
            origin("http://203.0.113.5:3000"),
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: http://localhost.page.example",
            origin("http://localhost.page.example"),
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: http://other.localhost",
            origin("http://other.localhost"),
        ),
        (
            "POST / HTTP/1.1\nHost: 192.0.2.7:3000\nOrigin: http://192.0.2.7:4000",
            origin("http://192.0.2.7:4000"),
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: null",
            origin("null"),
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: null\nSec-Fetch-Site: cross-site",
            origin("null"),
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: null\nSec-Fetch-Site: same-site",
            origin("null"),
        ),
        ("POST / HTTP/1.1\nHost: localhost\nOrigin:", origin("")),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: localhost",
            origin("localhost"),
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: file://",
            origin("file://"),
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: http://localhost http://page.example",
            origin("http://localhost http://page.example"),
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nOrigin: http://localhost\nOrigin: http://page.example",
            origin("http://page.example"),
        ),
        (
            "POST / HTTP/1.1\nOrigin: http://page.example",
            origin("http://page.example"),
        ),
        (
            "OPTIONS / HTTP/1.1\nHost: localhost\nOrigin: http://page.example\nAccess-Control-Request-Method: PUT",
            origin("http://page.example"),
        ),
        (
            "GET /s HTTP/1.1\nHost: localhost\nOrigin: http://page.example\nConnection: Upgrade\nUpgrade: websocket",
            origin("http://page.example"),
        ),
        // An image, a script, a frame, a form without an origin of a page of another site.
        (
            "GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: no-cors\nSec-Fetch-Dest: image",
            Why::CrossSite,
        ),
        (
            "GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: iframe",
            Why::CrossSite,
        ),
        (
            "POST / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document",
            Why::CrossSite,
        ),
        (
            "HEAD / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site\nSec-Fetch-Mode: navigate\nSec-Fetch-Dest: document",
            Why::CrossSite,
        ),
        (
            "GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: cross-site",
            Why::CrossSite,
        ),
        (
            "GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: anything-new",
            Why::CrossSite,
        ),
        (
            "GET / HTTP/1.1\nHost: localhost\nSec-Fetch-Site: same-origin\nSec-Fetch-Site: cross-site",
            Why::CrossSite,
        ),
    ] {
        assert_eq!(
            judged(request(lines).as_bytes()),
            (Vec::new(), Some(why)),
            "{lines}"
        );
    }
}

#[test]
fn a6_other_protocols_go_on_at_once_whatever_they_begin_with() {
    for bytes in [
        &b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n"[..],
        b"SSH-2.0-libssh\n",
        b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"GET key\r\n",
        b"SET key HTTP/1.1\r\n",
        b"SET /key value\r\n",
        b"GET /page\r\n",
        b"DELETE http\r\n",
        b"PING\r\n",
        b"get key\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"OPTIONS rtsp://example.test/ RTSP/1.0\r\n",
        b"OPTIONS http://example.test/ RTSP/1.0\r\n",
        b"CONNECT {\"verbose\":false}\r\n",
        b"EHLO client.example\r\n",
        b"0032git-upload-pack /project.git\0host=x\0",
        b"AMQP\0\0\x09\x01",
        b"\r\n\r\n",
        b"\xff\xfd\x18",
        b" GET / HTTP/1.1\r\nHost: rebind.example\r\n\r\n",
        b"CONNECT HTTP/1.1\r\n",
        b"GET /HTTP/1.1\r\n",
        b"GET / HTTP/1.\r\n",
        b"GET / HTTP/1.x\r\n",
        b"GET / HTTP/2.0\r\n",
    ] {
        let said = String::from_utf8_lossy(bytes);
        assert_eq!(judged(bytes), (bytes.to_vec(), None), "{said}");
        // Nothing is looked at again.
        let later = [bytes, b"GET / HTTP/1.1\r\nHost: rebind.example\r\n\r\n"].concat();
        if !bytes.ends_with(b"\r\n\r\n") || bytes.starts_with(b"PRI") {
            assert_eq!(judged(&later), (later.clone(), None), "{said}");
        }
    }
}

#[test]
fn a6_what_may_become_a_request_line_is_held_until_it_is_none() {
    let mut guard = guard();
    for (piece, expected, patience) in [
        (&b"\r\n"[..], &b"\r\n"[..], None),
        (b"GE", b"", Some(Duration::ZERO)),
        (b"T", b"", Some(Duration::ZERO)),
        (b" ", b"", Some(LINE_TIME)),
        (b"k", b"GET k", None),
        (b" / HTTP/1.1\r\n", b" / HTTP/1.1\r\n", None),
    ] {
        assert_eq!(pass(&mut guard, &[piece]), expected);
        assert_eq!(guard.patience(), patience);
    }
    assert!(guard.is_over());
}

#[test]
fn a6_a_line_that_takes_its_time_goes_on_and_is_a_request_all_the_same() {
    for tail in ["HTTP/1.1\r\nHost: rebind.example\r\n\r\n", "end\r\n"] {
        let mut guard = guard();
        assert_eq!(pass(&mut guard, &[b"SET /"]), b"");
        assert_eq!(guard.patience(), Some(LINE_TIME));
        assert_eq!(guard.time_is_up(), b"SET /");
        assert_eq!(guard.patience(), None);
        assert_eq!(pass(&mut guard, &[b"x", b" "]), b"x ");
        let rest = pass(&mut guard, &[tail.as_bytes()]);
        if tail.starts_with("end") {
            assert_eq!(rest, tail.as_bytes());
            assert!(guard.is_over());
        } else {
            assert_eq!(rest, b"");
            let refusal = guard.refusal().unwrap();
            assert_eq!(refusal.why, Why::Host("rebind.example".to_owned()));
            assert_eq!(refusal.answer, None, "the service may have answered");
        }
    }
}

#[test]
fn a6_a_line_longer_than_is_held_goes_on_and_is_a_request_all_the_same() {
    for (line, rest) in [
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(LINE_MOST * 5)),
            Some(Why::TooLong),
        ),
        (
            format!("GET /{} HTTP/1.1\r\n", "a".repeat(LINE_MOST * 2)),
            Some(Why::Host("x.example".to_owned())),
        ),
        (
            format!("{} / HTTP/1.1\r\n", "A".repeat(LINE_MOST * 2)),
            Some(Why::Host("x.example".to_owned())),
        ),
        (format!("{}\r\n", "deadbeef".repeat(LINE_MOST)), None),
        (
            format!("GET http://{}/ HTTP/1.1\r\n", "a".repeat(2000)),
            Some(Why::Malformed("its target has no end")),
        ),
    ] {
        let head = line + "Host: x.example\r\n\r\n";
        for size in [1000, 7777, usize::MAX] {
            let mut guard = guard();
            let pieces: Vec<&[u8]> = head.as_bytes().chunks(size).collect();
            let passed = pass(&mut guard, &pieces);
            let why = guard.refusal().map(|it| it.why.clone());
            assert_eq!(why, rest, "{}", &head[..20]);
            match why {
                None => assert_eq!(passed, head.as_bytes()),
                Some(_) => {
                    assert!(!passed.contains(&b'\n') && head.as_bytes().starts_with(&passed))
                }
            }
        }
    }
}

#[test]
fn a6_a_head_is_held_until_it_is_judged_or_until_it_is_too_late_or_too_long() {
    let mut slow = guard();
    assert_eq!(
        pass(&mut slow, &[b"GET / HTTP/1.1\r\n", b"Host: localhost\r\n"]),
        b""
    );
    assert_eq!(slow.patience(), Some(HEAD_TIME));
    assert_eq!(
        pass(&mut slow, &[b"\r\n"]),
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    );
    assert_eq!(slow.patience(), None);
    assert_eq!(pass(&mut slow, &[b"GET / HTTP/1.1\r\n"]), b"");
    assert_eq!(slow.time_is_up(), b"");
    assert_eq!(slow.refusal().unwrap().why, Why::Slow);

    let largest = format!(
        "GET / HTTP/1.1\r\nA: {}\r\n\r\n",
        "a".repeat(HEAD_MOST - 23)
    );
    assert_eq!(largest.len(), HEAD_MOST);
    assert_eq!(
        pass(&mut guard(), &[largest.as_bytes()]),
        largest.as_bytes()
    );
    let mut long = guard();
    assert_eq!(
        pass(&mut long, &[largest.replace("A:", "AA:").as_bytes()]),
        b""
    );
    assert_eq!(long.refusal().unwrap().why, Why::TooLong);

    // A request line alone is refused before a byte more comes.
    let mut line = guard();
    let word = format!("GET /{} HTTP/1.1\r\n", "a".repeat(HEAD_MOST));
    assert_eq!(pass(&mut line, &[word.as_bytes()]), b"");
    assert_eq!(line.refusal().unwrap().why, Why::TooLong);

    let mut ended = guard();
    assert_eq!(pass(&mut ended, &[b"GET / HTTP/1.1\r\nHost: lo"]), b"");
    assert_eq!(ended.end(), b"");
    assert!(ended.refusal().is_some());
    let mut ended = guard();
    assert_eq!(pass(&mut ended, &[b"GET / HTTP/1"]), b"");
    assert_eq!(ended.end(), b"GET / HTTP/1");
    assert!(ended.refusal().is_none());
}

#[test]
fn a6_an_ssh_tunnel_takes_no_request_at_all() {
    let rules = Rules {
        ssh: true,
        ..rules()
    };
    let mut guard = Guard::new(Arc::new(rules));
    let request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(pass(&mut guard, &[request]), b"");
    assert_eq!(guard.refusal().unwrap().why, Why::Ssh);
}

#[test]
fn a6_the_answer_names_the_tunnel_and_the_switch() {
    for (request, words) in [
        (
            "GET / HTTP/1.1\r\nHost: my.test:3000\r\n\r\n",
            "the host «my.test», which is neither this machine nor in allow_hosts.\n\nIf you know my.test and it is yours, write \
             allow_hosts = [\"my.test\"] in [tunnel.grafana] of pomd.toml; browser_guard = false in [tunnel.grafana] of \
             pomd.toml instead lets in every web page.",
        ),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://my.test:80\r\n\r\n",
            "allow_hosts = [\"my.test\"]",
        ),
        (
            "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\n\r\n",
            "write browser_guard = false in [tunnel.grafana] of pomd.toml",
        ),
    ] {
        let mut guard = guard();
        pass(&mut guard, &[request.as_bytes()]);
        let answer = guard.refusal().unwrap().answer.clone().unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{head}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(body.starts_with("pomd keeps web pages out of the tunnel grafana"));
        assert!(body.contains(words), "{body}");
    }
    // What a stranger writes is shown cut and in one line.
    let mut guard = guard();
    let host = format!("a\u{1b}[2J{}", "b".repeat(5000));
    pass(
        &mut guard,
        &[format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()],
    );
    let answer = guard.refusal().unwrap().answer.clone().unwrap();
    assert!(answer.len() < 1200 && !answer.contains(&0x1b));
}

proptest! {
    #[test]
    fn a6_pieces_make_no_difference(
        parts in prop::collection::vec(
            prop::sample::select(vec![
                "GET", " ", "/", " HTTP/1.1", "\r\n", "\n", "Host: localhost", "Host: x.example", "Origin: null", "\r\n\r\n",
                "Content-Length: 3", "abc", "Transfer-Encoding: chunked", "3\r\nabc\r\n", "0\r\n\r\n", "Upgrade: x", ":", "\r",
                "GET / HTTP/1.1\r\nHost: localhost\r\n",
            ]),
            0..12,
        ),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let bytes = parts.concat().into_bytes();
        let mut at: Vec<usize> = cuts.iter().map(|it| it.index(bytes.len() + 1)).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|it| &bytes[it[0]..it[1]]).collect();
        let (mut one, mut many) = (guard(), guard());
        let whole = pass(&mut one, &[&bytes]);
        prop_assert_eq!(pass(&mut many, &pieces), whole);
        prop_assert_eq!(one.refusal(), many.refusal());
        prop_assert_eq!(one.patience(), many.patience());
    }
}
