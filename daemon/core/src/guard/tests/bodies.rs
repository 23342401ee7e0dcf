//! Where a request ends, and what follows it.

use super::*;

#[test]
fn a6_every_request_of_a_connection_is_judged_behind_any_body() {
    let next = "POST /b HTTP/1.1\r\nHost: localhost\r\nOrigin: http://page.example\r\nContent-Length: 1\r\n\r\nx";
    for first in [
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 5\r\nContent-Length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 16\r\n\r\nGET / HTTP/1.1\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\ntransfer-encoding: Chunked\r\n\r\n0A;x=\"y\"\r\n0123456789\r\n00\r\nA: b\r\nC: d\r\n\r\n",
        "POST / HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked\n\n5\nhello\n0\n\n",
        "GET / HTTP/1.0\r\n\r\n",
    ] {
        let (twice, all) = (first.repeat(2), first.repeat(2) + next);
        let (passed, why) = judged(all.as_bytes());
        assert_eq!(String::from_utf8(passed).unwrap(), twice);
        assert_eq!(
            why,
            Some(Why::Origin("http://page.example".to_owned())),
            "{first}"
        );
        let mut guard = guard();
        pass(&mut guard, &[all.as_bytes()]);
        assert_eq!(
            guard.refusal().unwrap().answer,
            None,
            "the first one is answered"
        );
    }
}

#[test]
fn a6_a_body_that_servers_may_end_in_two_ways_is_refused() {
    for (head, body) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", ""),
        ("Content-Length: 5\r\nContent-Length: 6", ""),
        ("Content-Length: 5, 6", ""),
        ("Content-Length: +5", ""),
        ("Content-Length: -5", ""),
        ("Content-Length: 0x5", ""),
        ("Content-Length:", ""),
        ("Content-Length: 99999999999999999999", ""),
        ("Transfer-Encoding: chunked, gzip", ""),
        ("Transfer-Encoding: xchunked", ""),
        ("Transfer-Encoding:", ""),
        ("Transfer-Encoding: chunked", "x\r\n"),
        ("Transfer-Encoding: chunked", "\r\n"),
        ("Transfer-Encoding: chunked", ";x\r\n"),
        ("Transfer-Encoding: chunked", "-1\r\n"),
        ("Transfer-Encoding: chunked", "1\r\nxx"),
        ("Transfer-Encoding: chunked", "1\r\nx0\r\n"),
        ("Transfer-Encoding: chunked", "0000000000000001\r\n"),
    ] {
        let all = format!("POST / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n{body}");
        let (passed, why) = judged(all.as_bytes());
        assert!(matches!(why, Some(Why::Malformed(_))), "{all}: {why:?}");
        assert_eq!(passed.is_empty(), body.is_empty(), "{all}");
    }
}

#[test]
fn a6_what_follows_an_upgrade_is_not_looked_at() {
    for head in [
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n",
        "CONNECT localhost:22 HTTP/1.1\r\nHost: localhost:22\r\n\r\n",
    ] {
        let all = format!("{head}GET / HTTP/1.1\r\nHost: rebind.example\r\n\r\n");
        assert_eq!(judged(all.as_bytes()), (all.clone().into(), None));
    }
    // Not an upgrade, though it looks like one.
    let all = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade-Insecure-Requests: 1\r\nConnection: Upgrade\r\n\r\nGET / HTTP/1.1\r\nHost: rebind.example\r\n\r\n";
    assert!(judged(all.as_bytes()).1.is_some());
}
