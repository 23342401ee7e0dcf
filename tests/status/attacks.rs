//! The control socket under attack (A9, A10, Q): web pages, other users, bad requests, slow and idle clients, stops.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use control::client::{Client, ClientError};
use gateway::{Gate, Script};
use integration::{
    binary::binary,
    deployment::CLUSTER,
    other_user::{OtherUser, UID},
    pomd::{Pomd, find_tunnel},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{A, SECOND, deployment, echo, get, socket};

/// How long pomd waits for a request.
const REQUEST: Duration = Duration::from_secs(10);

/// Everything that comes until the end; what came, if the end is a reset.
async fn read_all(stream: &mut UnixStream) -> String {
    let mut got = Vec::new();
    let limit = integration::PATIENCE;
    while let Ok(1..) = timeout(limit, stream.read_buf(&mut got)).await.unwrap() {}
    String::from_utf8_lossy(&got).into_owned()
}

/// Sends these bytes on a connection of their own; everything that comes back.
async fn send(pomd: &Pomd, request: impl AsRef<[u8]>) -> String {
    let mut stream = socket(pomd).await;
    // It may answer and close before it has read everything.
    let _ = stream.write_all(request.as_ref()).await;
    read_all(&mut stream).await
}

/// The status of an answer; 0 if it is none.
fn code(answer: &str) -> u16 {
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|it| it.get(..3));
    status.and_then(|it| it.parse().ok()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_requests_of_web_pages_get_no_answer() {
    let pomd = Pomd::start("").await;
    for (headers, expected) in [
        ("", 200),
        ("host: pomd\r\n", 200),
        ("host: localhost\r\n", 200),
        ("host:\r\n", 200),
        ("host: localhost:80\r\n", 403),
        ("host: 127.0.0.1\r\n", 403),
        ("host: evil.example\r\n", 403),
        ("host: pomd\r\nhost: evil.example\r\n", 403),
        ("host: pomd\r\norigin: http://localhost\r\n", 403),
        ("host: pomd\r\nOrigin: null\r\n", 403),
        ("host: pomd\r\nReferer: http://localhost/\r\n", 403),
        ("host: pomd\r\nsec-fetch-site: none\r\n", 403),
        ("host: pomd\r\nSec-Fetch-Mode: navigate\r\n", 403),
    ] {
        let answer = send(&pomd, get("/v1/status", headers)).await;
        assert_eq!(code(&answer), expected, "{headers:?}: {answer}");
        assert_eq!(answer.contains("\"tunnels\""), expected == 200, "{answer}");
    }
    // The target of a request may name a host too.
    let absolute = send(
        &pomd,
        get("http://evil.example/v1/status", "host: pomd\r\n"),
    )
    .await;
    assert_eq!(code(&absolute), 403, "{absolute}");
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_a9_a_request_is_a_small_well_formed_one_with_the_method_of_its_path() {
    let pomd = Pomd::start("").await;
    let post = |path: &str, body: usize| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: pomd\r\nconnection: close\r\ncontent-length: {body}\r\n\r\n"
        );
        head.into_bytes()
            .into_iter()
            .chain(std::iter::repeat_n(b'x', body))
            .collect::<Vec<u8>>()
    };
    let head = |n: usize| get("/v1/status", &format!("x: {}\r\n", "x".repeat(n)));
    let chunked = {
        let mut request =
            b"POST /v1/reload HTTP/1.1\r\nhost: pomd\r\ntransfer-encoding: chunked\r\n\r\n"
                .to_vec();
        for _ in 0..65 {
            request.extend(b"400\r\n");
            request.extend([b'x'; 1024]);
            request.extend(b"\r\n");
        }
        request
    };
    for (what, request, expected) in [
        ("as it should be", get("/v1/status", "").into_bytes(), 200),
        ("a POST", post("/v1/reload", 0), 200),
        ("64 KiB", post("/v1/reload", 64 << 10), 200),
        ("65 KiB", post("/v1/reload", 65 << 10), 413),
        ("65 KiB in chunks", chunked, 413),
        ("GET to do", get("/v1/reload", "").into_bytes(), 405),
        ("GET to stop", get("/v1/stop", "").into_bytes(), 405),
        ("GET to connect", get("/v1/connect", "").into_bytes(), 405),
        ("POST to look", post("/v1/status", 0), 405),
        (
            "HEAD",
            get("/v1/status", "").replace("GET", "HEAD").into_bytes(),
            405,
        ),
        ("no such path", get("/v2/status", "").into_bytes(), 404),
        ("up to no good", get("/v1/../etc", "").into_bytes(), 404),
        ("no percent", get("/v1/%zz", "").into_bytes(), 400),
        ("no such tunnel", post("/v1/tunnels/none/up", 0), 404),
        ("a strange name", post("/v1/tunnels/%00%2f%1b/down", 0), 404),
        ("no such cluster", post("/v1/clusters/none/logout", 0), 404),
        ("no upgrade", post("/v1/connect?route=a.b:1", 0), 400),
        ("a head of 10 KiB", head(10 << 10).into_bytes(), 200),
        ("a head of 17 KiB", head(17 << 10).into_bytes(), 431),
        ("garbage", b"\x16\x03\x01\x02\x00\x01\r\n\r\n".to_vec(), 400),
        ("HTTP/0.9", b"GET /v1/status\r\n\r\n".to_vec(), 400),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), 0),
    ] {
        let answer = send(&pomd, request).await;
        assert_eq!(code(&answer), expected, "{what}: {answer}");
    }
    let old = send(&pomd, "GET /v1/status HTTP/1.0\r\n\r\n").await;
    assert!(old.starts_with("HTTP/1.0 200"), "{old}");
    // Who waits for a word before he sends his body gets it.
    let mut stream = socket(&pomd).await;
    let head = "POST /v1/reload HTTP/1.1\r\nexpect: 100-continue\r\nconnection: close\r\ncontent-length: 2\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut word = [0; 25];
    stream.read_exact(&mut word).await.unwrap();
    assert_eq!(&word, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"{}").await.unwrap();
    assert_eq!(code(&read_all(&mut stream).await), 200);
    pomd.status().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_requests_in_a_row_are_answered_in_a_row() {
    let pomd = Pomd::start("").await;
    let one = "GET /v1/status HTTP/1.1\r\nhost: pomd\r\n\r\n";
    let bad = "GET /v1/nothing HTTP/1.1\r\nhost: pomd\r\n\r\n";
    let requests = format!("{one}{bad}{one}{}", get("/v1/status", ""));
    let answers = send(&pomd, requests).await;
    let found: Vec<u16> = answers
        .match_indices("HTTP/1.1 ")
        .map(|it| code(&answers[it.0..]))
        .collect();
    assert_eq!(found, [200, 404, 200, 200]);
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_who_is_slow_or_idle_loses_his_place_and_the_others_never_notice() {
    let pomd = Pomd::start("").await;
    // One sends his request byte by byte, one half of it, one a head and no body, one nothing; each for ever.
    let begun = Instant::now();
    let mut waiting = JoinSet::new();
    for (what, sent, expected) in [
        ("byte by byte", "", [0, 408]),
        ("half a head", "GET /v1/status HT", [0, 408]),
        (
            "no body",
            "POST /v1/reload HTTP/1.1\r\ncontent-length: 9\r\n\r\n{",
            [408, 408],
        ),
        ("nothing", "", [0, 408]),
        (
            "nothing more",
            "GET /v1/status HTTP/1.1\r\n\r\n",
            [200, 200],
        ),
    ] {
        let mut stream = socket(&pomd).await;
        waiting.spawn(async move {
            stream.write_all(sent.as_bytes()).await.unwrap();
            let (mut from, mut to) = stream.into_split();
            let done = AtomicBool::new(false);
            let drip = async {
                let mut beat = tokio::time::interval(Duration::from_millis(50));
                while what == "byte by byte" && !done.load(Ordering::Relaxed) {
                    beat.tick().await;
                    if to.write_all(b"G").await.is_err() {
                        break;
                    }
                }
            };
            let read = async {
                let mut got = Vec::new();
                while let Ok(1..) = from.read_buf(&mut got).await {}
                done.store(true, Ordering::Relaxed);
                String::from_utf8_lossy(&got).into_owned()
            };
            let (answer, ()) = tokio::join!(read, drip);
            let took = begun.elapsed();
            assert!(took < REQUEST * 2, "{what}: {took:?}");
            assert!(took > REQUEST / 2, "{what}: {took:?}");
            assert!(expected.contains(&code(&answer)), "{what}: {answer}");
        });
    }
    // The others are answered at once.
    while begun.elapsed() < SECOND {
        let asked = Instant::now();
        pomd.status().await;
        assert!(asked.elapsed() < SECOND / 2, "{:?}", asked.elapsed());
    }
    while let Some(ended) = timeout(REQUEST * 2, waiting.join_next()).await.unwrap() {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_when_all_places_are_taken_the_next_one_waits_until_the_idle_are_sent_away() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("crowded", A)]).await;
    let tunnel = pomd.address("crowded").await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        idle.push(socket(&pomd).await);
    }
    // Tunnels never notice.
    echo(&mut tokio::net::TcpStream::connect(tunnel).await.unwrap()).await;
    let answer = send(&pomd, get("/v1/status", "")).await;
    assert_eq!(code(&answer), 200, "{answer}");
    for stream in &mut idle {
        assert_eq!(code(&read_all(stream).await), 0);
    }
    pomd.status().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn q2_who_says_more_while_it_is_told_events_and_leaves_makes_room_at_once() {
    let pomd = Pomd::start("").await;
    let one = "GET /v1/status HTTP/1.1\r\nhost: pomd\r\n\r\n";
    let begun = Instant::now();
    for path in ["/v1/events", "/v1/logs?follow=true"] {
        let asked = format!("GET {path} HTTP/1.1\r\nhost: pomd\r\n\r\n");
        for (behind, closes) in [(one, true), (one, false), ("", true), ("", false)] {
            let mut clients = Vec::new();
            for _ in 0..64 {
                let mut stream = socket(&pomd).await;
                stream.write_all(asked.as_bytes()).await.unwrap();
                let mut head = [0; 8];
                stream.read_exact(&mut head).await.unwrap();
                stream.write_all(behind.as_bytes()).await.unwrap();
                clients.push(stream);
            }
            if closes {
                clients.clear();
            } else {
                for stream in &mut clients {
                    stream.shutdown().await.unwrap();
                    let told = read_all(stream).await;
                    assert!(!told.contains("HTTP/1.1 "), "{told}");
                }
            }
            let answer = send(&pomd, get("/v1/status", "")).await;
            assert_eq!(code(&answer), 200, "{path} {closes}: {answer}");
        }
    }
    // As soon as they leave, and not when an idle one would lose its place.
    assert!(begun.elapsed() < REQUEST, "{:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_a_program_of_another_user_gets_no_answer_and_none_of_our_bytes() {
    let name = "a9_a_program_of_another_user_gets_no_answer_and_none_of_our_bytes";
    let Some(other_user) = OtherUser::new(name, &binary("other-user")) else {
        return;
    };
    let pomd = Pomd::start("").await;
    // A9: the modes as wide as they go, so that only the second lock holds.
    let setup = pomd.setup();
    for path in [setup.folder().to_owned(), setup.runtime(), setup.socket()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let path = setup.socket();
    let request = "GET /v1/status HTTP/1.1\\r\\nhost: pomd\\r\\n\\r\\n";
    let said = other_user
        .does(&["unix", path.to_str().unwrap(), request])
        .await;
    assert!(said.trim_end().ends_with("after 0 bytes"), "{said}");
    assert!(!said.contains("not connected"), "{said}");
    pomd.status().await;
    // A10: somebody stands in for pomd.
    let place = integration::pomd::folder();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let fake = place.path().join("fake.sock");
    let mut command = other_user.command(&["pretend", fake.to_str().unwrap()]);
    command.stdout(Stdio::piped());
    let mut pretender = tokio::process::Command::from(command)
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut words = BufReader::new(pretender.stdout.take().unwrap()).lines();
    assert_eq!(words.next_line().await.unwrap().unwrap(), "listening");
    let error = Client::new(&fake).stop().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::NotOurs { user, .. } if *user == format!("uid {UID}")),
        "{error}"
    );
    assert_eq!(words.next_line().await.unwrap().unwrap(), "0 bytes");
    let output = pomd
        .pomctl(&["stop", "--socket", fake.to_str().unwrap()])
        .await;
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(words.next_line().await.unwrap().unwrap(), "0 bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_a_stop_overtakes_is_answered() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&[("overtaken", A)]).await;
    let gate = Gate::new();
    deployment.gateway.script(A, Script::new().held_by(&gate));
    let client = pomd.client();
    let connects = deployment.gateway.stats().connects;
    let mut asking = JoinSet::new();
    asking.spawn(async move { client.up("overtaken").await });
    deployment
        .gateway
        .wait_for(|it| it.connects > connects)
        .await;
    let mut events = pomd.client().events().await.unwrap();
    let answer = pomd.client().stop().await.unwrap();
    assert_eq!(answer.pid, pomd.pid());
    let overtaken = asking.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!(overtaken.to_string(), "pomd is stopping");
    // Who follows sees a clean end.
    while timeout(integration::PATIENCE, events.next())
        .await
        .unwrap()
        .unwrap()
        .is_some()
    {}
    assert!(pomd.process().wait().await.success());
    assert!(!pomd.setup().socket().exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn connect_upgrades_to_raw_bytes_until_the_tunnel_is_cut() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("rawly", A)]).await;
    let request = |headers: &str| {
        format!("POST /v1/connect?route={A} HTTP/1.1\r\nhost: pomd\r\n{headers}\r\n")
    };
    let upgrade = "connection: upgrade\r\nupgrade: pomd-connect\r\n";
    let open = async || {
        let mut stream = socket(&pomd).await;
        stream.write_all(request(upgrade).as_bytes()).await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert_eq!(code(&head), 101, "{head}");
        assert!(head.contains("pomd-protocol: 1"), "{head}");
        stream
    };
    let mut stream = open().await;
    stream.write_all(b"there").await.unwrap();
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.unwrap();
    assert_eq!(&back, b"there");
    let counted = find_tunnel(&pomd.status().await, "rawly")
        .unwrap()
        .connections
        .open;
    assert_eq!(counted, 1);
    // It takes no place from those who ask.
    let mut many = Vec::new();
    for _ in 0..70 {
        many.push(open().await);
    }
    pomd.status().await;
    pomd.client().down("rawly", true).await.unwrap();
    assert_eq!(read_all(&mut stream).await, "");
    for mut stream in many {
        assert_eq!(read_all(&mut stream).await, "");
    }
    // Words that ask for something else, or of an older HTTP.
    for (headers, expected) in [
        ("connection: close\r\n", 400),
        ("connection: upgrade, close\r\nupgrade: websocket\r\n", 400),
        (
            "connection: close\r\norigin: null\r\nupgrade: pomd-connect\r\n",
            403,
        ),
    ] {
        let answer = send(&pomd, request(headers)).await;
        assert_eq!(code(&answer), expected, "{answer}");
    }
    let old = request(upgrade).replace("HTTP/1.1", "HTTP/1.0");
    let answer = send(&pomd, old).await;
    assert!(!answer.contains(" 101 "), "{answer}");
    for route in ["", "a", "a.corp.test", "nobody.elsewhere.test:22", "%00:1"] {
        let request = request(upgrade).replace(A, route);
        let answer = send(
            &pomd,
            request.replace("upgrade:", "connection: close\r\nupgrade:"),
        )
        .await;
        assert!([400, 404].contains(&code(&answer)), "{route}: {answer}");
    }
    assert!(deployment.links.all().is_empty(), "{CLUSTER} is logged in");
    pomd.wait_for("all are gone", |it| {
        find_tunnel(it, "rawly").unwrap().connections.open == 0
    })
    .await;
}
