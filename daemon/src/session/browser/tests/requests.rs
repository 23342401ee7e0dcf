//! The bytes of a browser, through the real parser, to what the callback decides of them.

use std::sync::Mutex;

use http::StatusCode;
use pomd_core::session::{
    callback::{LoginEndpoints, Visit, classify, reply},
    token::Token,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::session::browser;

const HOST: &str = "127.0.0.1:41235";
const CALLBACK: &str = "/q3J8mR5zC0d1Zt7yWc2bVx9kLs4nPf6h";

/// Request line without version; headers besides `Host`; what must come of it.
type Row = (&'static str, &'static [&'static str], Visit);

#[tokio::test]
async fn l5_a7_only_the_one_right_request_is_an_answer() {
    let navigation: &[&str] = &[
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Mode: navigate",
        "Sec-Fetch-Dest: document",
        "Sec-Fetch-User: ?1",
    ];
    let rows: Vec<Row> = vec![
        ("GET {C}?pomerium_jwt=abc.def", &[], answer("abc.def")),
        (
            "GET {C}?pomerium_jwt=abc.def",
            navigation,
            answer("abc.def"),
        ),
        (
            "GET {C}?pomerium_jwt=abc.def",
            &["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document"],
            answer("abc.def"),
        ),
        (
            "GET {C}?a=b&pomerium_jwt=abc&pomerium_idp=x",
            &["Cookie: a=b", "Accept: */*"],
            answer("abc"),
        ),
        ("GET {C}?pomerium_jwt=a%2Bb", &[], answer("a+b")),
        (
            "GET {C}?pomerium_jwt=abc",
            &["Content-Length: 3"],
            answer("abc"),
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &["Referer: https://idp.example.com/"],
            answer("abc"),
        ),
        // No token, several, or none that could be one.
        ("GET {C}", &[], Visit::Unusable),
        ("GET {C}?", &[], Visit::Unusable),
        ("GET {C}?pomerium_jwt=", &[], Visit::Unusable),
        ("GET {C}?pomerium_jwt", &[], Visit::Unusable),
        ("GET {C}?Pomerium_JWT=abc", &[], Visit::Unusable),
        (
            "GET {C}?pomerium_jwt=abc&pomerium_jwt=abc",
            &[],
            Visit::Unusable,
        ),
        ("GET {C}?pomerium_jwt=abc&error=x", &[], Visit::Unusable),
        (
            "GET {C}?pomerium_jwt=a%0d%0aSet-Cookie:%20x",
            &[],
            Visit::Unusable,
        ),
        ("GET {C}?pomerium_jwt=a%20b", &[], Visit::Unusable),
        ("GET {C}?pomerium_jwt=a+b", &[], Visit::Unusable),
        ("GET {C}?pomerium_jwt=%c3%a4", &[], Visit::Unusable),
        ("GET {C}?pomerium_jwt=%ff", &[], Visit::Unusable),
        // The other side says no.
        (
            "GET {C}?error=access_denied",
            &[],
            Visit::Denied("access_denied".to_owned()),
        ),
        (
            "GET {C}?error=x&error_description=not%20today%0a%1b[31m",
            &[],
            Visit::Denied("x: not today\\u{a}\\u{1b}[31m".to_owned()),
        ),
        // Other methods never use it up.
        (
            "POST {C}?pomerium_jwt=abc",
            &["Content-Length: 0"],
            Visit::Nothing,
        ),
        ("HEAD {C}?pomerium_jwt=abc", &[], Visit::Nothing),
        (
            "PUT {C}?pomerium_jwt=abc",
            &["Content-Length: 0"],
            Visit::Nothing,
        ),
        ("DELETE {C}?pomerium_jwt=abc", &[], Visit::Nothing),
        ("OPTIONS {C}?pomerium_jwt=abc", &[], Visit::Nothing),
        ("TRACE {C}?pomerium_jwt=abc", &[], Visit::Nothing),
        (
            "PATCH {C}?pomerium_jwt=abc",
            &["Content-Length: 0"],
            Visit::Nothing,
        ),
        ("get {C}?pomerium_jwt=abc", &[], Visit::Nothing),
        // Neither does what is no person's visit.
        (
            "GET {C}?pomerium_jwt=abc",
            &[
                "Sec-Fetch-Site: cross-site",
                "Sec-Fetch-Mode: no-cors",
                "Sec-Fetch-Dest: image",
            ],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &[
                "Sec-Fetch-Site: cross-site",
                "Sec-Fetch-Mode: navigate",
                "Sec-Fetch-Dest: iframe",
            ],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &[
                "Sec-Fetch-Site: same-origin",
                "Sec-Fetch-Mode: cors",
                "Sec-Fetch-Dest: empty",
            ],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &[
                "Sec-Fetch-Site: cross-site",
                "Sec-Fetch-Mode: no-cors",
                "Sec-Fetch-Dest: script",
            ],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: object"],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &["Sec-Fetch-Mode: navigate"],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &["Sec-Fetch-Dest: document"],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &["Sec-Fetch-Site: none"],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &[
                "Sec-Fetch-Mode: navigate",
                "Sec-Fetch-Mode: cors",
                "Sec-Fetch-Dest: document",
            ],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &[
                "Sec-Fetch-Mode: navigate",
                "Sec-Fetch-Dest: document",
                "Sec-Purpose: prefetch",
            ],
            Visit::Nothing,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &["Purpose: prefetch"],
            Visit::Nothing,
        ),
        // Paths are taken as they are.
        ("GET {C}/?pomerium_jwt=abc", &[], Visit::Nothing),
        ("GET /{C}?pomerium_jwt=abc", &[], Visit::Nothing),
        ("GET {C}x?pomerium_jwt=abc", &[], Visit::Nothing),
        (
            "GET /q3J8mR5zC0d1Zt7yWc2bVx9kLs4nPf6?pomerium_jwt=abc",
            &[],
            Visit::Nothing,
        ),
        (
            "GET /q3J8mR5zC0d1Zt7yWc2bVx9kLs4nPf6H?pomerium_jwt=abc",
            &[],
            Visit::Nothing,
        ),
        (
            "GET /%713J8mR5zC0d1Zt7yWc2bVx9kLs4nPf6h?pomerium_jwt=abc",
            &[],
            Visit::Nothing,
        ),
        ("GET /x/..{C}?pomerium_jwt=abc", &[], Visit::Nothing),
        ("GET /?pomerium_jwt=abc", &[], Visit::Nothing),
        ("GET /favicon.ico", &[], Visit::Nothing),
        (
            "GET /.pomerium/callback/?pomerium_jwt=abc",
            &[],
            Visit::Nothing,
        ),
        // The link and the last page.
        ("GET /k3v9qzab", &[], Visit::SignIn),
        ("GET /k3v9qzab", navigation, Visit::SignIn),
        (
            "GET /k3v9qzab",
            &["Sec-Fetch-Mode: no-cors", "Sec-Fetch-Dest: image"],
            Visit::Nothing,
        ),
        ("GET /K3v9qzab", &[], Visit::Nothing),
        ("POST /k3v9qzab", &["Content-Length: 0"], Visit::Nothing),
        ("GET /done", &[], Visit::Done),
        ("GET /done/", &[], Visit::Nothing),
        // Another place is meant.
        (
            "GET http://127.0.0.1:41235{C}?pomerium_jwt=abc",
            &[],
            Visit::Misdirected,
        ),
        (
            "GET http://evil.example.com{C}?pomerium_jwt=abc",
            &[],
            Visit::Misdirected,
        ),
        (
            "GET {C}?pomerium_jwt=abc",
            &["Host: evil.example.com"],
            Visit::Misdirected,
        ),
    ];
    for (line, headers, verdict) in rows {
        let line = line.replace("{C}", CALLBACK);
        let request = format!("{line} HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n", lines(headers));
        assert_eq!(judged(request.as_bytes()).await, Some(verdict), "{request}");
    }
}

#[tokio::test]
async fn a7_only_the_exact_host_is_served() {
    for host in [
        "localhost:41235",
        "127.0.0.1",
        "127.0.0.1:41236",
        "127.0.0.1:041235",
        "127.0.0.2:41235",
        "[::1]:41235",
        "evil.example.com:41235",
        "evil.example.com",
        "",
        "127.0.0.1:41235.",
        "2130706433:41235",
        "a@127.0.0.1:41235",
        "127.0.0.1:41235, x",
    ] {
        let request = format!("GET {CALLBACK}?pomerium_jwt=abc HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(
            judged(request.as_bytes()).await,
            Some(Visit::Misdirected),
            "{host}"
        );
    }
    let nameless = format!("GET {CALLBACK}?pomerium_jwt=abc HTTP/1.0\r\n\r\n");
    assert_eq!(judged(nameless.as_bytes()).await, Some(Visit::Misdirected));
    let old = format!("GET {CALLBACK}?pomerium_jwt=abc HTTP/1.0\r\nHost: {HOST}\r\n\r\n");
    assert_eq!(judged(old.as_bytes()).await, Some(answer("abc")));
}

#[tokio::test]
async fn a7_what_is_no_request_is_never_judged() {
    let long = format!(
        "GET {CALLBACK}?pomerium_jwt={} HTTP/1.1\r\nHost: {HOST}\r\n\r\n",
        "a".repeat(65 << 10)
    );
    let many = format!(
        "GET {CALLBACK}?pomerium_jwt=abc HTTP/1.1\r\nHost: {HOST}\r\n{}\r\n",
        "A: b\r\n".repeat(4000)
    );
    let old = format!("GET {CALLBACK}?pomerium_jwt=abc\r\n");
    let new = format!("GET {CALLBACK}?pomerium_jwt=abc HTTP/2.0\r\nHost: {HOST}\r\n\r\n");
    let bare = format!("GET {CALLBACK}?pomerium_jwt=abc HTTP/1.1\r\nHost : {HOST}\r\n\r\n");
    let half = format!("GET {CALLBACK}?pomerium_jwt=abc HTTP/1.1\r\nHost: {HOST}\r\n");
    for request in [
        &*long,
        &many,
        &old,
        &new,
        &bare,
        &half,
        "",
        "\0\0\0\0",
        "SSH-2.0-x\r\n",
        "\x16\x03\x01\x02\0\x01",
    ] {
        assert_eq!(judged(request.as_bytes()).await, None, "{request:.60}");
    }
}

#[tokio::test]
async fn a7_a_request_means_the_same_in_pieces() {
    let request = format!("GET {CALLBACK}?pomerium_jwt=abc HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    for at in 1..request.len() {
        let pieces = request.as_bytes().split_at(at);
        assert_eq!(
            judged_pieces(&[pieces.0, pieces.1]).await,
            Some(answer("abc")),
            "{at}"
        );
    }
}

fn answer(token: &str) -> Visit {
    Visit::Answer(Token::parse(token).unwrap())
}

fn lines(headers: &[&str]) -> String {
    headers.iter().map(|it| format!("{it}\r\n")).collect()
}

async fn judged(bytes: &[u8]) -> Option<Visit> {
    judged_pieces(&[bytes]).await
}

/// What the real parser and `judge` make of these bytes; `None` if it never comes to a verdict.
async fn judged_pieces(pieces: &[&[u8]]) -> Option<Visit> {
    let endpoints = LoginEndpoints {
        host: HOST.to_owned(),
        port: 41_235,
        link: "/k3v9qzab".to_owned(),
        callback: CALLBACK.to_owned(),
    };
    let verdict = Mutex::new(None);
    let (mut client, server) = tokio::io::duplex(64 << 10);
    let speaking = browser::speak(server, async |request| {
        *verdict.lock().unwrap() = Some(classify(&request, &endpoints));
        reply(StatusCode::NOT_FOUND, None, None)
    });
    let asking = async {
        for piece in pieces {
            let _ = client.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        let _ = client.shutdown().await;
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
    };
    tokio::join!(speaking, asking);
    verdict.into_inner().unwrap()
}
