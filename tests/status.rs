//! What pomd shows: events, pages, exit codes, logs.

mod attacks;

use std::{fs, process::Stdio, time::Duration};

use control::wire::{Status, TunnelState};
use gateway::Upstream;
use integration::{
    binary::binary,
    deployment::{Deployment, tunnel},
    eventually,
    pomd::{Pomd, find_tunnel, free_port},
    process::cpu_ticks,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    net::{TcpStream, UnixStream},
    process::{Child, ChildStdout},
    task::JoinSet,
    time::{Instant, timeout},
};

const A: &str = "a.corp.test:7001";
const B: &str = "b.corp.test:7002";
const SECOND: Duration = Duration::from_secs(1);

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(A, Upstream::Echo).route(B, Upstream::Echo)).await
}

async fn echo(stream: &mut TcpStream) {
    stream.write_all(b"x").await.unwrap();
    let mut back = [0];
    let read = timeout(integration::PATIENCE, stream.read_exact(&mut back));
    read.await.unwrap().unwrap();
}

async fn socket(pomd: &Pomd) -> UnixStream {
    UnixStream::connect(pomd.setup().socket()).await.unwrap()
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nconnection: close\r\n{headers}\r\n")
}

// Events.

#[tokio::test(flavor = "multi_thread")]
async fn the_first_line_comes_at_once_and_a_change_too_though_bytes_flow() {
    let deployment = deployment().await;
    let pomd = deployment
        .logged_in(&[("ev-busy", A), ("ev-other", B)])
        .await;
    let mut events = pomd.client().events().await.unwrap();
    let first = timeout(SECOND, events.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    let mut now = pomd.status().await;
    // What pomd itself needs is for who asks: it changes all the time.
    assert!(now.pomd.usage.take().is_some());
    assert_eq!(first, now);
    let mut stream = pomd.connect("ev-busy").await;
    let mut flow = JoinSet::new();
    flow.spawn(async move {
        loop {
            echo(&mut stream).await;
        }
    });
    let client = pomd.client();
    for _ in 0..10 {
        for down in [true, false] {
            let changed = Instant::now();
            if down {
                client.down("ev-other", false).await.unwrap();
            } else {
                client.up("ev-other").await.unwrap();
            }
            loop {
                let status = timeout(integration::PATIENCE, events.next()).await.unwrap();
                let status = status.unwrap().unwrap();
                let state = find_tunnel(&status, "ev-other").unwrap().state;
                if (state == TunnelState::Down) == down {
                    break;
                }
            }
            // A counter would have waited for its second.
            let took = changed.elapsed();
            assert!(took < SECOND / 2, "{took:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn counters_alone_are_told_at_most_once_a_second() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("counted", A)]).await;
    let mut stream = pomd.connect("counted").await;
    echo(&mut stream).await;
    let mut events = pomd.client().events().await.unwrap();
    events.next().await.unwrap();
    let start = Instant::now();
    let mut flow = JoinSet::new();
    flow.spawn(async move {
        loop {
            echo(&mut stream).await;
        }
    });
    // Others who ask meanwhile change nothing about that.
    let client = pomd.client();
    flow.spawn(async move {
        loop {
            client.status().await.unwrap();
            client.events().await.unwrap();
        }
    });
    let mut sent = 0;
    for n in 1..=3 {
        let status = timeout(integration::PATIENCE, events.next()).await.unwrap();
        let status = status.unwrap().unwrap();
        let now = find_tunnel(&status, "counted").unwrap().bytes.sent;
        assert!(now > sent, "the newest counts are told");
        sent = now;
        // The first may come at once, for nothing was told before it.
        let least = SECOND * (n - 1);
        assert!(start.elapsed() >= least, "{n}: {:?}", start.elapsed());
    }
}

/// Memory in KiB.
fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|it| it.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_an_idle_connection_costs_nothing() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("idle", A)]).await;
    let mut stream = pomd.connect("idle").await;
    echo(&mut stream).await;
    let mut events = pomd.client().events().await.unwrap();
    // Until everything is told that moved.
    while timeout(SECOND * 2, events.next()).await.is_ok() {}
    let before = cpu_ticks(pomd.pid());
    let quiet = timeout(SECOND * 3, events.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    let used = cpu_ticks(pomd.pid()) - before;
    assert!(used <= 10, "{used} ticks in 3 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn q1_a_reader_that_stops_costs_no_memory_and_reads_the_newest_state_later() {
    let deployment = deployment().await;
    let mut config = deployment.cluster("") + &tunnel("stalled", A, "");
    for n in 0..100 {
        config += &tunnel(&format!("filler-{n}"), B, "start = \"manual\"");
    }
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    let mut stalled = socket(&pomd).await;
    let request = get("/v1/events", "");
    stalled.write_all(request.as_bytes()).await.unwrap();
    let client = pomd.client();
    let one = serde_json::to_vec(&client.status().await.unwrap())
        .unwrap()
        .len();
    let mut following = client.events().await.unwrap();
    let mut before = 0;
    const CHANGES: u32 = 300;
    for n in 1..=CHANGES {
        client.down("stalled", false).await.unwrap();
        client.up("stalled").await.unwrap();
        if n == CHANGES / 3 {
            before = memory(pomd.pid());
        }
    }
    let grown = memory(pomd.pid()).saturating_sub(before);
    let told = one * 2 * CHANGES as usize;
    assert!(told > 15 << 20, "{told} bytes are too few to tell");
    assert!(grown < 4 << 10, "{grown} KiB more");
    // The others see everything meanwhile.
    client.down("stalled", false).await.unwrap();
    loop {
        let status = timeout(SECOND, following.next()).await.unwrap();
        let status = status.unwrap().unwrap();
        if find_tunnel(&status, "stalled").unwrap().state == TunnelState::Down {
            break;
        }
    }
    // What lay in the socket, then the newest.
    let mut got = 0;
    let mut lines = BufReader::new(stalled).lines();
    loop {
        let line = timeout(integration::PATIENCE, lines.next_line()).await;
        let line = line.unwrap().unwrap().unwrap();
        got += line.len();
        let Ok(status) = serde_json::from_str::<Status>(&line) else {
            continue;
        };
        let now = find_tunnel(&status, "stalled").unwrap();
        let newest = pomd.status().await;
        if now.state == TunnelState::Down && *now == newest.tunnels[newest.tunnels.len() - 1] {
            break;
        }
    }
    assert!(got < told / 4, "{got} of {told} bytes");
}

// pomctl.

/// A pomctl that goes on, and its lines.
struct Follower {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Follower {
    fn new(pomd: &Pomd, arguments: &[&str]) -> Self {
        let mut command = pomd.setup().command(&binary("pomctl"));
        command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut command = tokio::process::Command::from(command);
        let mut child = command.kill_on_drop(true).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// Reads on to a line that holds `words`.
    async fn says(&mut self, words: &str) -> String {
        let mut said = Vec::new();
        loop {
            let line = timeout(integration::PATIENCE, self.lines.next_line()).await;
            match line {
                Ok(Ok(Some(line))) if line.contains(words) => return line,
                Ok(Ok(Some(line))) => said.push(line),
                other => panic!("never said {words:?} ({other:?}): {said:#?}"),
            }
        }
    }

    /// How it ends, and its last words; with `--json` they are on stdout too.
    async fn ends(mut self) -> (Option<i32>, String) {
        let mut said = String::new();
        while let Ok(Some(line)) = timeout(integration::PATIENCE, self.lines.next_line())
            .await
            .unwrap()
        {
            said += &line;
        }
        let ended = timeout(integration::PATIENCE, self.child.wait()).await;
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut said).await.unwrap();
        (ended.unwrap().unwrap().code(), said)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_watch_shows_each_change_until_pomd_ends() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&[("watched", A)]).await;
    let mut page = Follower::new(&pomd, &["status", "--watch"]);
    let mut json = Follower::new(&pomd, &["status", "--watch", "--json"]);
    page.says("watched").await;
    json.says("\"state\":\"up\"").await;
    pomd.client().down("watched", false).await.unwrap();
    page.says("down").await;
    json.says("\"state\":\"down\"").await;
    pomd.client().up("watched").await.unwrap();
    page.says("up").await;
    json.says("\"state\":\"up\"").await;
    assert!(pomd.stop().await.success());
    for follower in [page, json] {
        let (code, said) = follower.ends().await;
        assert_eq!(code, Some(3), "{said}");
        assert!(said.contains("pomd ended meanwhile"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_the_contract() {
    let deployment = deployment().await;
    let port = free_port();
    let config = deployment.config(&[("exit-a", A), ("exit-b", B)]);
    let mut pomd = Pomd::start(&config).await;
    let expect = async |pomd: &Pomd, words: &str, code: i32| {
        let arguments: Vec<&str> = words.split(' ').collect();
        let output = pomd.pomctl(&arguments).await;
        assert_eq!(
            output.status.code(),
            Some(code),
            "pomctl {words}: {output:#?}"
        );
    };
    // Only a login is missing.
    expect(&pomd, "status", 4).await;
    expect(&pomd, "status --json", 0).await;
    expect(&pomd, "up exit-a --json --no-browser", 4).await;
    expect(&pomd, "connect a.corp.test:7001 --json", 4).await;
    expect(&pomd, "logout", 0).await;
    deployment.log_in(&pomd).await;
    expect(&pomd, "status", 0).await;
    expect(&pomd, "status exit-a", 0).await;
    expect(&pomd, "up exit-a", 0).await;
    expect(&pomd, "login", 0).await;
    expect(&pomd, "logs", 0).await;
    expect(&pomd, "reload", 0).await;
    expect(&pomd, "down exit-a", 0).await;
    // A tunnel that is down is not wrong.
    expect(&pomd, "status", 0).await;
    expect(&pomd, "up exit-a", 0).await;
    // The policy says no, though it has just said yes.
    deployment.gateway.forbid(gateway::DEMO_USER, A);
    expect(&pomd, "connect a.corp.test:7001", 1).await;
    deployment.gateway.allow(gateway::DEMO_USER, A);
    expect(&pomd, "connect a.corp.test:7001", 0).await;
    // It says no, and that is remembered.
    deployment.gateway.forbid(gateway::DEMO_USER, B);
    expect(&pomd, "connect b.corp.test:7002", 1).await;
    deployment.gateway.allow(gateway::DEMO_USER, B);
    expect(&pomd, "status", 1).await;
    expect(&pomd, "status --json", 0).await;
    expect(&pomd, "status exit-a", 0).await;
    expect(&pomd, "up --all", 1).await;
    // A busy port.
    let _holder = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
    let busy = tunnel("exit-busy", A, &format!("listen = {port}"));
    pomd.reload(&(config.clone() + &busy)).await;
    expect(&pomd, "up exit-busy", 1).await;
    expect(&pomd, "status exit-busy", 1).await;
    // Usage.
    expect(&pomd, "nonsense", 2).await;
    expect(&pomd, "up", 2).await;
    expect(&pomd, "status --nonsense", 2).await;
    expect(&pomd, "status no-such-tunnel", 2).await;
    expect(&pomd, "up no-such-tunnel", 2).await;
    expect(&pomd, "down no-such-tunnel", 2).await;
    expect(&pomd, "logs no-such-tunnel", 2).await;
    expect(&pomd, "login no-such-cluster", 2).await;
    // Configuration.
    pomd.replace_config("[tunnel.x]\n");
    expect(&pomd, "reload", 2).await;
    expect(&pomd, "status", 1).await;
    // Not running.
    expect(&pomd, "stop", 0).await;
    assert!(pomd.process().wait().await.success());
    for words in [
        "status",
        "status --json",
        "status --watch",
        "logs",
        "reload",
    ] {
        expect(&pomd, words, 3).await;
    }
    for words in ["up exit-a", "login", "logout", "connect a.corp.test:7001"] {
        expect(&pomd, words, 3).await;
    }
    for words in ["stop", "down exit-a"] {
        expect(&pomd, words, 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_are_of_pomd_or_of_one_tunnel_and_can_be_followed() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&[("log-a", A), ("log-b", B)]).await;
    for name in ["log-a", "log-b"] {
        echo(&mut pomd.connect(name).await).await;
    }
    let said = async |arguments: &[&str]| {
        let output = pomd.pomctl(arguments).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    eventually("both connections are logged", async || {
        let all = said(&["logs"]).await;
        (all.contains("log-a") && all.contains("log-b")).then_some(())
    })
    .await;
    assert!(said(&["logs"]).await.contains("pomd 0.1.0 runs"));
    let one = said(&["logs", "log-b"]).await;
    assert!(one.contains("open in"), "{one}");
    assert!(!one.contains("log-a") && !one.contains("runs"), "{one}");
    let mut all = Follower::new(&pomd, &["logs", "-f"]);
    let mut one = Follower::new(&pomd, &["logs", "log-b", "-f"]);
    all.says("pomd 0.1.0 runs").await;
    one.says("open in").await;
    pomd.client().down("log-a", false).await.unwrap();
    pomd.client().down("log-b", false).await.unwrap();
    all.says("log-b  down").await;
    let line = one.says("down").await;
    assert!(line.contains("log-b") && !line.contains("log-a"), "{line}");
    pomd.reload(&deployment.config(&[("log-new", A)])).await;
    all.says("configuration read").await;
    assert!(pomd.stop().await.success());
    for follower in [all, one] {
        let (code, said) = follower.ends().await;
        assert_eq!(code, Some(3), "{said}");
    }
}
