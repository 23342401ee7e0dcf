//! `GET /v1/metrics`: what Prometheus reads, against what was done.

mod exposition;

use exposition::Exposition;
use gateway::Upstream;
use integration::{
    PATIENCE,
    deployment::{CLUSTER, Deployment, tunnel},
    eventually,
    pomd::{self, Pomd},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    time::timeout,
};

const A: &str = "a.corp.test:7001";
const B: &str = "b.corp.test:7002";
const FREE: &str = "free.corp.test:7003";

async fn deployment() -> Deployment {
    Deployment::gateway(|it| {
        it.route(A, Upstream::Echo)
            .route(B, Upstream::Echo)
            .route(FREE, Upstream::Echo)
    })
    .await
}

/// The page as a scraper gets it: its type, and its text.
async fn page(pomd: &Pomd) -> (String, String) {
    let mut stream = UnixStream::connect(pomd.setup().socket()).await.unwrap();
    let request = b"GET /v1/metrics HTTP/1.1\r\nhost: pomd\r\nconnection: close\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut answer = String::new();
    let read = timeout(PATIENCE, stream.read_to_string(&mut answer));
    read.await.unwrap().unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut headers = head.lines();
    let kind = headers.find_map(|it| it.strip_prefix("content-type: "));
    (kind.unwrap().to_owned(), body.to_owned())
}

async fn scrape(pomd: &Pomd) -> Exposition {
    let (kind, text) = page(pomd).await;
    assert!(
        kind.starts_with("application/openmetrics-text; version=1.0.0"),
        "{kind}"
    );
    Exposition::parse(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

async fn until(pomd: &Pomd, what: &str, is_so: impl Fn(&Exposition) -> bool) -> Exposition {
    eventually(what, async || Some(scrape(pomd).await).filter(&is_so)).await
}

async fn echo(stream: &mut TcpStream, bytes: usize) {
    stream.write_all(&vec![b'x'; bytes]).await.unwrap();
    let mut back = vec![0; bytes];
    let read = timeout(PATIENCE, stream.read_exact(&mut back));
    read.await.unwrap().unwrap();
}

/// Says something, and waits for the end.
async fn is_refused(pomd: &Pomd, tunnel: &str, words: &[u8]) {
    let mut stream = pomd.connect(tunnel).await;
    stream.write_all(words).await.unwrap();
    let mut said = Vec::new();
    let ended = timeout(PATIENCE, stream.read_to_end(&mut said));
    let _ = ended.await.unwrap();
}

fn opens(page: &Exposition, tunnel: &str, outcome: &str) -> f64 {
    page.get(
        "pomd_tunnel_opens_total",
        &[("tunnel", tunnel), ("outcome", outcome)],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_are_what_was_done() {
    let deployment = deployment().await;
    let config = [
        deployment.cluster(""),
        tunnel("good", A, ""),
        tunnel("forbidden", B, ""),
        tunnel("unknown", "none.corp.test:7009", ""),
        tunnel("shell", A, "ssh = true"),
    ];
    let pomd = Pomd::start(&config.concat()).await;
    deployment.log_in(&pomd).await;
    let user = pomd::cluster(&pomd.status().await, CLUSTER).user.clone();
    deployment.gateway.forbid(&user.unwrap(), B);

    let mut kept = Vec::new();
    for bytes in [10, 200, 3000] {
        let mut stream = pomd.connect("good").await;
        echo(&mut stream, bytes).await;
        kept.push(stream);
    }
    drop(kept.pop());
    for _ in 0..2 {
        is_refused(&pomd, "forbidden", b"hello").await;
    }
    is_refused(&pomd, "unknown", b"hello").await;
    let of_a_page = b"GET / HTTP/1.1\r\nHost: evil.test\r\nOrigin: http://evil.test\r\n\r\n";
    is_refused(&pomd, "good", of_a_page).await;
    drop(pomd.connect("good").await);
    let mut by_name = pomd.pomctl_connect(&[FREE]);
    let mut stdin = by_name.stdin.take().unwrap();
    stdin.write_all(b"12345").await.unwrap();
    let mut back = [0; 5];
    let mut stdout = by_name.stdout.take().unwrap();
    timeout(PATIENCE, stdout.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();

    let page = until(&pomd, "all that was done", |page| {
        opens(page, "good", "client_gone") == 1.0
            && page.get("pomd_tunnel_open_connections", &[("tunnel", "good")]) == 2.0
    })
    .await;
    let tunnels = [
        (
            "good",
            vec![("open", 3.0), ("guarded", 1.0), ("client_gone", 1.0)],
        ),
        ("forbidden", vec![("forbidden", 2.0)]),
        ("unknown", vec![("no_such_route", 1.0)]),
        ("shell", vec![]),
        ("*", vec![("open", 1.0)]),
    ];
    for (name, outcomes) in tunnels {
        let all: f64 = outcomes.iter().map(|it| it.1).sum();
        for (outcome, count) in outcomes {
            assert_eq!(opens(&page, name, outcome), count, "{name} {outcome}");
        }
        let of = [("tunnel", name)];
        assert_eq!(page.sum("pomd_tunnel_opens_total", &of), all, "{name}");
        assert_eq!(
            page.get("pomd_tunnel_connections_total", &of),
            all,
            "{name}"
        );
        assert_eq!(page.get("pomd_tunnel_waiting_connections", &of), 0.0);
    }
    for (name, bytes) in [("good", 3210.0), ("*", 5.0)] {
        let of = [("tunnel", name)];
        assert_eq!(page.get("pomd_tunnel_received_bytes_total", &of), bytes);
        assert_eq!(page.get("pomd_tunnel_sent_bytes_total", &of), bytes);
    }
    assert_eq!(
        page.get("pomd_tunnel_guarded_requests_total", &[("tunnel", "good")]),
        1.0
    );
    assert_eq!(
        page.get("pomd_tunnel_open_connections", &[("tunnel", "*")]),
        1.0
    );

    for (name, state) in [("good", "up"), ("forbidden", "error"), ("unknown", "error")] {
        let of = [("tunnel", name), ("state", state)];
        assert_eq!(page.get("pomd_tunnel_state", &of), 1.0, "{name}");
        assert_eq!(page.sum("pomd_tunnel_state", &of[..1]), 1.0, "{name}");
    }
    let logged_in = [("cluster", CLUSTER), ("state", "logged_in")];
    assert_eq!(page.get("pomd_cluster_state", &logged_in), 1.0);
    assert_eq!(page.sum("pomd_cluster_state", &logged_in[..1]), 1.0);
    assert_eq!(page.sum("pomd_restarts_total", &[]), 0.0);

    pomd.client().logout(CLUSTER).await.unwrap();
    is_refused(&pomd, "shell", b"SSH-2.0-test\r\n").await;
    let page = scrape(&pomd).await;
    assert_eq!(opens(&page, "shell", "login_needed"), 1.0);
    assert_eq!(page.get("pomd_cluster_state", &logged_in), 0.0);
    let logged_out = [("cluster", CLUSTER), ("state", "logged_out")];
    assert_eq!(page.get("pomd_cluster_state", &logged_out), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_a_tunnel_that_was_changed_count_on() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("changed", A)]).await;
    let mut before = pomd.connect("changed").await;
    echo(&mut before, 100).await;
    let config = deployment.cluster("") + &tunnel("changed", A, "browser_guard = false");
    pomd.reload(&config).await;
    echo(&mut before, 23).await;
    let mut after = pomd.connect("changed").await;
    echo(&mut after, 4000).await;
    let of = [("tunnel", "changed")];
    let page = until(&pomd, "both are open", |page| {
        page.get("pomd_tunnel_open_connections", &of) == 2.0
    })
    .await;
    assert_eq!(page.get("pomd_tunnel_sent_bytes_total", &of), 4123.0);
    assert_eq!(page.get("pomd_tunnel_connections_total", &of), 2.0);
    let shown = pomd.status().await;
    assert_eq!(pomd::tunnel(&shown, "changed").bytes.sent, 4123);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_prometheus_own_and_labels_hold_no_stranger_and_no_secret() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("good", A)]).await;
    for n in 0..20 {
        let host = format!("stranger-{n}.corp.test:22");
        pomd.pomctl(&["connect", "--ssh", &host]).await;
    }
    until(&pomd, "all of them are counted together", |page| {
        page.sum("pomd_tunnel_opens_total", &[("tunnel", "*")]) == 20.0
    })
    .await;
    let (_, text) = page(&pomd).await;
    assert!(!text.contains("stranger"), "{text}");
    let token = pomd.setup().saved_token();
    assert!(!text.contains(&token) && !text.contains('@'), "{text}");
    let page = Exposition::parse(&text).unwrap();
    assert_eq!(page.odd_names(), Vec::<&String>::new());
    assert_eq!(
        page.values("tunnel").into_iter().collect::<Vec<_>>(),
        ["*", "good"]
    );
    let pomd_says = pomd.status().await.pomd;
    let started = page.get("process_start_time_seconds", &[]);
    assert_eq!(started, pomd_says.started_at.as_second() as f64);
    let build = [("version", pomd_says.version.as_str())];
    assert_eq!(page.get("pomd_build_info", &build), 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_file_and_a_restart_show() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&[("good", A)]).await;
    let of = [("tunnel", "good")];
    let mut stream = pomd.connect("good").await;
    echo(&mut stream, 10).await;
    let before = scrape(&pomd).await;
    assert_eq!(before.get("pomd_config_last_reload_successful", &[]), 1.0);
    pomd.replace_config("[tunnel.good]\nrote = 1\n");
    let broken = until(&pomd, "the file is broken", |page| {
        page.get("pomd_config_last_reload_successful", &[]) == 0.0
    })
    .await;
    let read_at =
        |page: &Exposition| page.get("pomd_config_last_reload_success_timestamp_seconds", &[]);
    assert_eq!(read_at(&broken), read_at(&before));
    pomd.replace_config(&deployment.config(&[("good", A)]));
    pomd.restart().await;
    let after = scrape(&pomd).await;
    assert_eq!(after.get("pomd_tunnel_sent_bytes_total", &of), 0.0);
    let started = |page: &Exposition| page.get("process_start_time_seconds", &[]);
    assert!(started(&after) >= started(&before));
}
