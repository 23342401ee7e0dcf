//! A6: web pages at the listeners, from a real Chromium and from bare sockets.

mod chromium;

use std::{
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use control::wire::TunnelState;
use gateway::Upstream;
use integration::{
    deployment::{Deployment, tunnel},
    eventually,
    pomd::{self, Pomd},
    process::Process,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::{ANSWER_TIME, raw, status};

const WEB: &str = "web.corp.test:3000";
const OPEN: &str = "open.corp.test:3000";
const ECHO: &str = "echo.corp.test:7000";
const GREETER: &str = "greeter.corp.test:3306";
const SSH: &str = "ssh.corp.test:22";

/// What an HTTP service heard: the route's host, and the first line of each request.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn at(&self, host: &str) -> Vec<String> {
        let lines = self.lines();
        let at = lines.iter().filter_map(|it| it.strip_prefix(host));
        at.map(|it| it.trim().to_owned()).collect()
    }
}

/// Answers every request on a connection with a page, whoever asks, and tells browsers that any page may read it.
async fn serve(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    page: impl Fn(&str) -> Option<String>,
) {
    let mut got = Vec::new();
    loop {
        let end = loop {
            if let Some(at) = got.windows(4).position(|it| it == b"\r\n\r\n") {
                break at + 4;
            }
            match stream.read_buf(&mut got).await {
                Ok(1..) => {}
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&got[..end]).into_owned();
        let length = head.lines().find_map(|it| {
            it.to_ascii_lowercase()
                .strip_prefix("content-length:")
                .map(str::to_owned)
        });
        let length: usize = length.map_or(0, |it| it.trim().parse().unwrap());
        while got.len() < end + length {
            match stream.read_buf(&mut got).await {
                Ok(1..) => {}
                _ => return,
            }
        }
        got.drain(..end + length);
        let line = head.lines().next().unwrap_or_default();
        let body = page(line).unwrap_or_default();
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: {}\r\naccess-control-allow-origin: *\r\n\
             access-control-allow-methods: *\r\naccess-control-allow-headers: *\r\n\r\n{body}",
            body.len()
        );
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// A company with an HTTP service that notes what it hears and has `page` behind `WEB` and `OPEN`.
async fn deployment(
    page: impl Fn(&str) -> Option<String> + Clone + Send + Sync + 'static,
) -> (Deployment, Heard) {
    let heard = Heard::default();
    let note = heard.clone();
    let service = Upstream::service(move |stream, caller| {
        let (note, page) = (note.clone(), page.clone());
        async move {
            let noted = |line: &str| {
                let host = caller.authority.split(':').next().unwrap_or_default();
                note.0.lock().unwrap().push(format!("{host} {line}"));
                page(line)
            };
            serve(stream, noted).await;
        }
    });
    let greeter = Upstream::service(|mut stream, _| async move {
        if stream.write_all(b"hello").await.is_ok() {
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    });
    let deployment = Deployment::gateway(|it| {
        it.automatic()
            .route(WEB, service.clone())
            .route(OPEN, service)
            .route(ECHO, Upstream::Echo)
            .route(GREETER, greeter)
            .route(SSH, Upstream::Echo)
    })
    .await;
    (deployment, heard)
}

fn hello(_: &str) -> Option<String> {
    Some("the service".to_owned())
}

fn guarded(status: &control::wire::Status, name: &str) -> u64 {
    pomd::tunnel(status, name).connections.guarded
}

const REFUSED: [&str; 7] = [
    "GET / HTTP/1.1\r\nHost: rebind.test:3000\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://page.test\r\nContent-Length: 0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nContent-Length: 0\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: cross-site\r\nSec-Fetch-Mode: no-cors\r\nSec-Fetch-Dest: image\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: localhost\r\nOrigin: http://page.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: 0.0.0.0\r\n\r\n",
    "GET http://rebind.test/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
];
const ALLOWED: &str = "GET /page HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn a6_a_refused_request_asks_for_no_login_and_opens_nothing() {
    let (deployment, heard) = deployment(hello).await;
    let pomd = deployment.pomd(&[("web", WEB), ("ssh", SSH)]).await;
    let address = pomd.address("web").await;
    for logged_in in [false, true] {
        if logged_in {
            deployment.log_in(&pomd).await;
        }
        let connects = deployment.gateway.stats().connects;
        for request in REFUSED {
            let answer = raw(address, request).await;
            assert_eq!(status(&answer), 403, "{request}: {answer}");
            assert!(
                answer.contains("the tunnel web") && answer.contains("browser_guard = false"),
                "{answer}"
            );
        }
        assert_eq!(deployment.gateway.stats().connects, connects);
        assert!(
            deployment.links.all().is_empty(),
            "a page asked for a login"
        );
    }
    // An ssh server understands no request at all.
    let answer = raw(pomd.address("ssh").await, ALLOWED).await;
    assert_eq!(status(&answer), 403);
    assert!(answer.contains("ssh"), "{answer}");
    let shown = pomd.status().await;
    assert_eq!(guarded(&shown, "web"), 2 * REFUSED.len() as u64);
    assert_eq!(guarded(&shown, "ssh"), 1);
    let web = pomd::tunnel(&shown, "web");
    assert_eq!((web.state, &web.reason), (TunnelState::Up, &None));
    let words = pomd.words();
    let lines = words.lines().filter(|it| it.contains("browser guard"));
    assert!(lines.count() <= 3, "a line a minute and tunnel:\n{words}");
    assert_eq!(heard.lines(), [""; 0]);
}

/// Reads up to the end of the service's page.
async fn page(stream: &mut TcpStream) {
    let mut got = Vec::new();
    while !got.ends_with(b"the service") {
        let read = timeout(ANSWER_TIME, stream.read_buf(&mut got)).await;
        assert!(
            read.unwrap().unwrap() > 0,
            "{}",
            String::from_utf8_lossy(&got)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_a_connection_that_a_person_opened_lets_no_page_in_later() {
    let (deployment, heard) = deployment(hello).await;
    let pomd = deployment.logged_in(&[("web", WEB)]).await;
    for (times, request) in REFUSED.iter().enumerate() {
        let mut stream = pomd.connect("web").await;
        for _ in 0..2 {
            stream.write_all(ALLOWED.as_bytes()).await.unwrap();
            page(&mut stream).await;
        }
        stream.write_all(request.as_bytes()).await.unwrap();
        let end = timeout(ANSWER_TIME, stream.read(&mut [0])).await.unwrap();
        let error = end.map(|n| n.to_string()).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        assert_eq!(heard.lines().len(), 2 * (times + 1), "{request}");
    }
    assert!(
        heard
            .lines()
            .iter()
            .all(|it| it.ends_with("GET /page HTTP/1.1"))
    );
    let all = REFUSED.len() as u64;
    pomd.wait_for("all are counted", |it| guarded(it, "web") == all)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_a_browser_that_connects_ahead_of_its_request_reads_why_it_is_refused() {
    let (deployment, heard) = deployment(hello).await;
    let pomd = deployment.logged_in(&[("web", WEB)]).await;
    let opened = deployment.gateway.stats().opened;
    let mut stream = pomd.connect("web").await;
    // Silent clients get their route: the server may speak first.
    deployment.gateway.wait_for(|it| it.opened > opened).await;
    pomd.wait_for("it is open", |it| {
        pomd::tunnel(it, "web").connections.open == 1
    })
    .await;
    stream.write_all(REFUSED[0].as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(ANSWER_TIME, stream.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(status(&answer), 403, "{answer}");
    let shown = pomd.wait_for("counted", |it| guarded(it, "web") == 1).await;
    assert_eq!(pomd::tunnel(&shown, "web").state, TunnelState::Up);
    assert_eq!(heard.lines(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_the_switch_and_the_list_of_hosts_act_at_once() {
    let (deployment, _heard) = deployment(hello).await;
    let port = pomd::free_port();
    let config = |more: &str| {
        deployment.cluster("") + &tunnel("web", WEB, &format!("listen = {port}\n{more}"))
    };
    let pomd = Pomd::start(&config("")).await;
    deployment.log_in(&pomd).await;
    let request = "GET / HTTP/1.1\r\nHost: grafana.localhost\r\nOrigin: http://rebind.test\r\n\r\n";
    let ask = async |request: &str| {
        let mut stream = pomd.connect("web").await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut got = [0; 12];
        timeout(ANSWER_TIME, stream.read_exact(&mut got))
            .await
            .unwrap()
            .unwrap();
        status(&String::from_utf8_lossy(&got))
    };
    for (more, expected) in [
        ("", 403),
        ("allow_hosts = [\"grafana.localhost\"]", 403),
        (
            "allow_hosts = [\"grafana.localhost\", \"rebind.test\"]",
            200,
        ),
        ("", 403),
        ("browser_guard = false", 200),
        ("browser_guard = true", 403),
    ] {
        pomd.reload(&config(more)).await;
        assert_eq!(ask(request).await, expected, "{more}");
        assert_eq!(ask(ALLOWED).await, 200, "{more}");
    }
}

/// What clients of other protocols say first.
const OTHERS: [(&str, &[u8]); 10] = [
    ("redis", b"*1\r\n$4\r\nPING\r\n"),
    ("redis by hand", b"GET key\r\n"),
    ("redis with an odd value", b"SET key HTTP/1.1\r\n"),
    ("memcached", b"get key\r\n"),
    ("ssh", b"SSH-2.0-OpenSSH_9.2p1\r\n"),
    ("psql", b"\x00\x00\x00\x08\x04\xd2\x16\x2f"),
    ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    ("git", b"0032git-upload-pack /project.git\0host=x\0"),
    ("a lone line end", b"\r\n"),
];

#[tokio::test(flavor = "multi_thread")]
async fn a6_other_protocols_pass_unchanged_in_any_pieces_also_where_the_server_speaks_first() {
    let (deployment, _) = deployment(hello).await;
    let pomd = deployment
        .logged_in(&[("echo", ECHO), ("greeter", GREETER)])
        .await;
    for (name, said) in OTHERS {
        let mut said = said.to_vec();
        said.extend((0..300_000_u32).map(|it| (it % 251) as u8));
        for first in [said.len(), 1, 3] {
            for (tunnel, greeting) in [("echo", &b""[..]), ("greeter", b"hello")] {
                let mut stream = pomd.connect(tunnel).await;
                let mut heard = vec![0; greeting.len()];
                stream.read_exact(&mut heard).await.unwrap();
                assert_eq!(heard, greeting);
                stream.set_nodelay(true).unwrap();
                let (mut from, mut to) = stream.split();
                let mut heard = vec![0; said.len()];
                let write = async {
                    to.write_all(&said[..first]).await.unwrap();
                    to.write_all(&said[first..]).await.unwrap();
                };
                let both = async { tokio::join!(write, from.read_exact(&mut heard)).1.unwrap() };
                timeout(ANSWER_TIME, both).await.unwrap();
                assert!(heard == said, "{name} to {tunnel}, first {first}");
            }
        }
    }
    assert_eq!(guarded(&pomd.status().await, "echo"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_what_may_become_a_request_line_waits_half_a_second_at_most() {
    let (deployment, _) = deployment(hello).await;
    let pomd = deployment.logged_in(&[("echo", ECHO)]).await;
    let mut stream = pomd.connect("echo").await;
    let start = Instant::now();
    stream.write_all(b"GET /").await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    // It is a request all the same, once it is one.
    stream
        .write_all(b"x HTTP/1.1\r\nHost: rebind.test\r\n\r\n")
        .await
        .unwrap();
    let end = timeout(ANSWER_TIME, stream.read(&mut [0])).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_a_word_alone_waits_for_nothing() {
    let (deployment, _) = deployment(hello).await;
    let pomd = deployment.logged_in(&[("echo", ECHO)]).await;
    let start = Instant::now();
    // Held for as long as a line may be, they would take half a minute.
    for _ in 0..60 {
        let mut stream = pomd.connect("echo").await;
        stream.write_all(b"JDWP-Handshake").await.unwrap();
        let mut heard = [0; 14];
        timeout(ANSWER_TIME, stream.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
    }
    assert!(start.elapsed() < Duration::from_secs(20));
    // It is watched all the same.
    let mut stream = pomd.connect("echo").await;
    stream.write_all(b"GE").await.unwrap();
    stream.read_exact(&mut [0; 2]).await.unwrap();
    let rest = b"T / HTTP/1.1\r\nHost: rebind.test\r\n\r\n";
    stream.write_all(rest).await.unwrap();
    let end = timeout(ANSWER_TIME, stream.read(&mut [0])).await.unwrap();
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_sockets_and_programs_that_no_page_reaches_are_not_guarded() {
    let (deployment, _) = deployment(hello).await;
    let config = deployment.cluster("") + &tunnel("echo", ECHO, "listen = \"unix:echo.sock\"");
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    pomd.wait_for_tunnel("echo", TunnelState::Up).await;
    let path = pomd.setup().runtime().join("echo.sock");
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(REFUSED[0].as_bytes()).await.unwrap();
    let mut heard = vec![0; REFUSED[0].len()];
    timeout(ANSWER_TIME, stream.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard, REFUSED[0].as_bytes());

    let mut child = pomd.pomctl_connect(&[ECHO]);
    let (mut to, mut from) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    to.write_all(REFUSED[0].as_bytes()).await.unwrap();
    heard.fill(0);
    timeout(ANSWER_TIME, from.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(heard, REFUSED[0].as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_real_clients_of_redis_and_postgres_notice_nothing() {
    let test = "a6_real_clients_of_redis_and_postgres_notice_nothing";
    let has = |program: &str| Command::new(program).arg("--version").output().is_ok();
    for program in ["redis-server", "redis-cli", "psql"] {
        if !has(program) {
            integration::skipped(test, &format!("there is no {program}"));
            return;
        }
    }
    let folder = pomd::folder();
    let port = pomd::free_port();
    let mut command = Command::new("redis-server");
    command
        .args([
            "--port",
            &port.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
        ])
        .arg(folder.path());
    let _redis = Process::start("redis", &mut command, &folder.path().join("words"));
    let redis = std::net::SocketAddr::from(([127, 0, 0, 1], port));
    eventually("redis listens", async || {
        TcpStream::connect(redis).await.ok()
    })
    .await;
    // Refuses whoever comes, in the words of a PostgreSQL server.
    let postgres = Upstream::service(|mut stream, _| async move {
        let mut ask = [0; 8];
        let _ = stream.read_exact(&mut ask).await;
        let _ = stream.write_all(b"N").await;
        let mut length = [0; 4];
        let _ = stream.read_exact(&mut length).await;
        let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
        let _ = stream.read_exact(&mut rest).await;
        let fields = b"SFATAL\0VFATAL\0C28000\0Mwe are closed\0\0";
        let mut answer = b"E".to_vec();
        answer.extend((fields.len() as u32 + 4).to_be_bytes());
        answer.extend(fields);
        let _ = stream.write_all(&answer).await;
    });
    let deployment = Deployment::gateway(|it| {
        it.route("redis.corp.test:6379", Upstream::Tcp(redis))
            .route("db.corp.test:5432", postgres)
    })
    .await;
    let tunnels = [
        ("redis", "redis.corp.test:6379"),
        ("db", "db.corp.test:5432"),
    ];
    let pomd = deployment.logged_in(&tunnels).await;
    let address = pomd.address("redis").await;
    let cli = async |input: &str| {
        let mut command = Command::new("redis-cli");
        command.args(["-h", "127.0.0.1", "-p", &address.port().to_string()]);
        let output = pomd::run_with_input(command, input.as_bytes(), ANSWER_TIME).await;
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert_eq!(
        cli("SET a HTTP/1.1\nGET a\nDEL a\n").await,
        "OK\nHTTP/1.1\n1\n"
    );
    // The form that talks to Redis.
    let form = "POST / HTTP/1.1\r\nHost: localhost\r\nOrigin: null\r\nContent-Length: 9\r\n\r\nSET a b\r\n";
    assert_eq!(status(&raw(address, form).await), 403);
    assert_eq!(
        cli("EXISTS a\nINFO commandstats\n").await.lines().next(),
        Some("0")
    );

    let port = pomd.address("db").await.port().to_string();
    let mut command = Command::new("psql");
    command.args([
        "-h",
        "127.0.0.1",
        "-p",
        &port,
        "-U",
        "me",
        "-c",
        "select 1",
        "x",
    ]);
    let output = pomd::run(command, ANSWER_TIME).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("we are closed"), "{said}");
}

/// How long it takes from the connect to the first byte that comes back.
async fn first_byte(address: std::net::SocketAddr, said: &[u8]) -> Duration {
    let start = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut heard = vec![0; said.len()];
    timeout(ANSWER_TIME, stream.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    start.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a6_the_guard_adds_no_delay_to_other_protocols_nor_to_requests() {
    const TIMES: usize = 150;
    let (deployment, _) = deployment(hello).await;
    let config = deployment.cluster("")
        + &tunnel("echo", ECHO, "")
        + &tunnel("open", ECHO, "browser_guard = false");
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    let (on, off) = (pomd.address("echo").await, pomd.address("open").await);
    for (name, said) in [OTHERS[0], OTHERS[5], ("HTTP", ALLOWED.as_bytes())] {
        let mut took = [Vec::new(), Vec::new()];
        for time in 0..TIMES {
            // By turns, so that what else the machine does meets both.
            for side in [time % 2, 1 - time % 2] {
                took[side].push(first_byte([on, off][side], said).await);
            }
        }
        took.iter_mut().for_each(|it| it.sort());
        let [on, off] = took.map(|it| it[TIMES / 2]);
        integration::report(&format!(
            "{name}: {TIMES} first bytes by turns, median {on:?} with the browser guard, {off:?} without"
        ));
        // What is held is held for far longer.
        assert!(
            on < off + Duration::from_millis(20),
            "{name}: {on:?} and {off:?}"
        );
    }
}
