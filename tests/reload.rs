//! Editing is live: only what changed is touched, and connections live on whatever happens to their tunnel.

mod broken;
mod listeners;
mod ways;

use std::{fs, path::Path};

use control::wire::{ClusterState, Code, ReloadAnswer, Status, TunnelState};
use gateway::{Gateway, Upstream};
use integration::{
    client::{Ending, read_all},
    deployment::{CLUSTER, Deployment, tunnel},
    eventually,
    pomd::{Pomd, Setup, cluster, find_tunnel, free_port},
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const A: &str = "a.corp.test:7001";
const B: &str = "b.corp.test:7002";

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(A, Upstream::Echo).route(B, Upstream::Echo)).await
}

/// A connection to an echo.
struct Line {
    stream: TcpStream,
    n: u8,
}

impl Line {
    async fn open(pomd: &Pomd, name: &str) -> Self {
        let stream = pomd.connect(name).await;
        let mut res = Self { stream, n: 0 };
        res.carries().await;
        res
    }

    /// A byte there and back.
    async fn carries(&mut self) {
        self.n = self.n.wrapping_add(1);
        self.stream.write_all(&[self.n]).await.unwrap();
        let mut back = [0];
        let read = timeout(integration::PATIENCE, self.stream.read_exact(&mut back));
        read.await.unwrap().unwrap();
        assert_eq!(back, [self.n]);
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        // A plain end would leave the tunnel open for the rest of a reply.
        let _ = self.stream.set_zero_linger();
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn leaving(status: &Status, name: &str) -> u64 {
    let found = status.leaving.iter().find(|it| it.name == name);
    found.map_or(0, |it| it.connections)
}

fn changed<'a>(answer: &'a ReloadAnswer, name: &str) -> Vec<&'a str> {
    let found = answer.changed.iter().find(|it| it.name == name);
    let keys = found.into_iter().flat_map(|it| &it.keys);
    keys.map(String::as_str).collect()
}

/// A pomd whose file can be changed by another name of the same file, in a folder that nobody watches.
async fn unwatched(deployment: &Deployment) -> (Pomd, impl Fn(&str)) {
    let setup = Setup::new("").config_at("pomd.toml");
    let elsewhere = setup.folder().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    let twin = elsewhere.join("twin");
    write(&twin, &deployment.config(&[("kept", A)]));
    fs::hard_link(&twin, setup.config_file()).unwrap();
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    (pomd, move |text| write(&twin, text))
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_a_file_again_that_changed_unseen() {
    let deployment = deployment().await;
    let (mut pomd, change) = unwatched(&deployment).await;
    let mut line = Line::open(&pomd, "kept").await;
    for n in 1..=2 {
        let name = format!("new-{n}");
        change(&deployment.config(&[("kept", A), (&name, B)]));
        pomd.process().signal(Signal::HUP);
        pomd.wait_for(&name, |it| find_tunnel(it, &name).is_some())
            .await;
        line.carries().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pomctl_reload_reads_it_again_and_says_what_changed() {
    let deployment = deployment().await;
    let (pomd, change) = unwatched(&deployment).await;
    let mut line = Line::open(&pomd, "kept").await;
    let mut said = Vec::new();
    let tables: [&[(&str, &str)]; 4] = [
        &[("kept", A)],
        &[("kept", A), ("db", B)],
        &[("kept", A), ("db", A)],
        &[("db", A)],
    ];
    for tunnels in tables {
        change(&deployment.config(tunnels));
        let output = pomd.pomctl(&["reload"]).await;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        said.push(text(&output.stdout));
        line.carries().await;
    }
    let expected = [
        "No tunnel changed (1 tunnel)\n",
        "1 added: db; 1 unchanged\n",
        "1 changed: db (route); 1 unchanged\n",
        "1 removed: kept; 1 unchanged\n1 connection of kept stays open until it ends\n",
    ];
    assert_eq!(said, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_changed_and_removed_tunnels_live_on_as_leaving() {
    let deployment = deployment().await;
    let pomd = deployment
        .logged_in(&[("leav-kept", A), ("leav-changed", A), ("leav-gone", A)])
        .await;
    let mut kept = Line::open(&pomd, "leav-kept").await;
    let mut changing = Line::open(&pomd, "leav-changed").await;
    let mut going = Line::open(&pomd, "leav-gone").await;
    let gone_address = pomd.address("leav-gone").await;
    let answer = pomd
        .reload(&deployment.config(&[("leav-kept", A), ("leav-changed", B)]))
        .await;
    assert_eq!(changed(&answer, "leav-changed"), ["route"]);
    assert_eq!(answer.removed, ["leav-gone"]);
    assert_eq!(answer.unchanged, 1);
    assert_eq!(answer.leaving.len(), 2, "{answer:?}");
    // Its listener is closed at once.
    assert!(TcpStream::connect(gone_address).await.is_err());
    for line in [&mut kept, &mut changing, &mut going] {
        line.carries().await;
    }
    let status = pomd.status().await;
    assert_eq!(leaving(&status, "leav-changed"), 1);
    assert_eq!(leaving(&status, "leav-gone"), 1);
    assert_eq!(leaving(&status, "leav-kept"), 0);
    let now_elsewhere = Line::open(&pomd, "leav-changed").await;
    assert_eq!(
        deployment.gateway.stats().requests.last().unwrap().target,
        B
    );
    drop((changing, now_elsewhere));
    pomd.wait_for("the changed one's old connection is gone", |it| {
        leaving(it, "leav-changed") == 0 && leaving(it, "leav-gone") == 1
    })
    .await;
    going.carries().await;
    // What is left of a tunnel that is no more can be ended.
    let output = pomd.pomctl(&["down", "--now", "leav-gone"]).await;
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let (_, ending) = read_all(&mut going.stream).await;
    assert_eq!(ending, Ending::Reset);
    pomd.wait_for("nothing is leaving", |it| it.leaving.is_empty())
        .await;
    kept.carries().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_two_tunnels_swap_their_ports_in_one_reload() {
    let deployment = deployment().await;
    let ports = [free_port(), free_port()];
    let config = |a: u16, b: u16| {
        deployment.cluster("")
            + &tunnel("first", A, &format!("listen = {a}"))
            + &tunnel("second", B, &format!("listen = {b}"))
    };
    let pomd = Pomd::start(&config(ports[0], ports[1])).await;
    deployment.log_in(&pomd).await;
    let mut lines = [
        Line::open(&pomd, "first").await,
        Line::open(&pomd, "second").await,
    ];
    for (a, b) in [(ports[1], ports[0]), (ports[0], ports[1])] {
        let answer = pomd.reload(&config(a, b)).await;
        assert_eq!(changed(&answer, "first"), ["listen"]);
        assert_eq!(changed(&answer, "second"), ["listen"]);
        let status = pomd.status().await;
        for it in &status.tunnels {
            assert_eq!(it.state, TunnelState::Up, "{it:#?}");
        }
        for (name, port, route) in [("first", a, A), ("second", b, B)] {
            assert_eq!(pomd.address(name).await.port(), port);
            Line::open(&pomd, name).await;
            assert_eq!(
                deployment.gateway.stats().requests.last().unwrap().target,
                route
            );
        }
        for line in &mut lines {
            line.carries().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a15_a_tunnel_that_moves_to_another_cluster_takes_no_token_along() {
    let deployment = deployment().await;
    let lab = Gateway::builder()
        .domain("a.corp.test")
        .route(A, Upstream::Echo);
    let lab = lab.start().await.unwrap();
    let pomd = deployment.logged_in(&[("moving", A), ("staying", B)]).await;
    let mut before = Line::open(&pomd, "moving").await;
    let lab_ca = pomd.setup().folder().join("lab-ca.pem");
    write(&lab_ca, &lab.ca_pem());
    let moved = format!(
        "{}[cluster.lab]\nhosts = [\"a.corp.test\"]\nurl = \"https://a.corp.test\"\nconnect = \"{}\"\n\
         ca_file = {lab_ca:?}\nbrowser = {}\n",
        deployment.config(&[("moving", A), ("staying", B)]),
        lab.address(),
        deployment.links.key(),
    );
    let answer = pomd.reload(&moved).await;
    assert_eq!(changed(&answer, "moving"), ["cluster"]);
    let status = pomd.status().await;
    assert_eq!(cluster(&status, "lab").state, ClusterState::LoginNeeded);
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    // Somebody connects, and waits for a login there.
    let mut stream = pomd.connect("moving").await;
    stream.write_all(b"x").await.unwrap();
    let link = deployment.links.nth(1).await;
    assert_eq!(lab.stats().tokens_by_host.len(), 0, "{:?}", lab.stats());
    assert_eq!(lab.stats().connects, 0);
    let signed_in = lab.browser().unwrap().visit(&link).await.unwrap();
    assert_eq!(signed_in.status, 200, "{signed_in:?}");
    let mut back = [0];
    timeout(integration::PATIENCE, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"x");
    // Nor does the lab's token go to corp.
    let tokens = deployment.gateway.stats().tokens_by_host;
    Line::open(&pomd, "staying").await;
    let mut expected = tokens.clone();
    *expected.entry("b.corp.test".to_owned()).or_default() += 1;
    assert_eq!(deployment.gateway.stats().tokens_by_host, expected);
    assert_eq!(deployment.gateway.stats().refused, 0);
    assert_eq!(lab.stats().refused, 0);
    before.carries().await;
    // And back again: its first cluster is logged in still.
    pomd.reload(&deployment.config(&[("moving", A), ("staying", B)]))
        .await;
    Line::open(&pomd, "moving").await;
    assert_eq!(deployment.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_cluster_is_dialled_and_trusted_as_it_says_now() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("db", A)]).await;
    let mut before = Line::open(&pomd, "db").await;
    let good = deployment.config(&[("db", A)]);
    let dead = format!("connect = \"127.0.0.1:{}\"", free_port());
    let elsewhere = good.replace(&format!("connect = \"{}\"", deployment.address()), &dead);
    let distrusted = good.replace("ca_file", "# ca_file");
    for (config, key, code) in [
        (&elsewhere, "connect", Code::Tcp),
        (&distrusted, "ca_file", Code::Tls),
    ] {
        let answer = pomd.reload(config).await;
        assert_eq!(changed(&answer, "db"), [key]);
        let error = pomd.client().up("db").await.unwrap_err();
        let control::client::ClientError::Api(error) = error else {
            panic!("{error}")
        };
        assert_eq!(error.code, code, "{error:?}");
        before.carries().await;
        let answer = pomd.reload(&good).await;
        assert_eq!(changed(&answer, "db"), [key]);
        pomd.client().up("db").await.unwrap();
        Line::open(&pomd, "db").await;
        before.carries().await;
    }
    let status = pomd
        .wait_for("only the first one is leaving", |it| leaving(it, "db") == 1)
        .await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    assert_eq!(deployment.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_more_in_a_cluster_without_url_leaves_its_session_alone() {
    let deployment = deployment().await;
    let without_url = |tunnels| deployment.config(tunnels).replace("url = ", "# url = ");
    let pomd = Pomd::start(&without_url(&[("m", A)])).await;
    deployment.log_in(&pomd).await;
    let mut line = Line::open(&pomd, "m").await;
    let before = pomd.status().await;
    // Its name comes first, and with it the address where a login would be made.
    let answer = pomd.reload(&without_url(&[("m", A), ("a-first", B)])).await;
    assert_eq!(answer.added, ["a-first"]);
    assert_eq!(answer.unchanged, 1);
    assert!(answer.leaving.is_empty(), "{answer:?}");
    let after = pomd.status().await;
    let login = |it: &Status| {
        let it = cluster(it, CLUSTER);
        (it.state, it.since, it.user.clone())
    };
    assert_eq!(login(&after), login(&before));
    line.carries().await;
    Line::open(&pomd, "a-first").await;
    assert_eq!(deployment.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_persons_said_outlives_unrelated_reloads_and_no_restart() {
    let deployment = deployment().await;
    let config = |more: &str| {
        deployment.cluster("")
            + &tunnel("said-auto", A, "")
            + &tunnel("said-manual", B, "start = \"manual\"")
            + more
    };
    let mut pomd = Pomd::start(&config("")).await;
    deployment.log_in(&pomd).await;
    let state = |it: &Status, name| find_tunnel(it, name).unwrap().state;
    assert_eq!(
        state(&pomd.status().await, "said-manual"),
        TunnelState::Down
    );
    pomd.client().down("said-auto", false).await.unwrap();
    pomd.client().up("said-manual").await.unwrap();
    pomd.reload(&config(&tunnel("said-more", A, ""))).await;
    let status = pomd.status().await;
    assert_eq!(state(&status, "said-auto"), TunnelState::Down);
    assert_eq!(state(&status, "said-manual"), TunnelState::Up);
    Line::open(&pomd, "said-manual").await;
    pomd.restart().await;
    let status = pomd.status().await;
    assert_eq!(state(&status, "said-auto"), TunnelState::Up);
    assert_eq!(state(&status, "said-manual"), TunnelState::Down);
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_a_reload_during_a_login_leaves_link_and_waiting_connections_alone() {
    let deployment = deployment().await;
    let pomd = deployment.pomd(&[("db", A)]).await;
    let mut stream = pomd.connect("db").await;
    stream.write_all(b"x").await.unwrap();
    let link = deployment.links.nth(1).await;
    let answer = pomd
        .reload(&deployment.config(&[("db", A), ("more", B)]))
        .await;
    assert_eq!(answer.added, ["more"]);
    // And a tunnel whose connection waits is taken away.
    let answer = pomd.reload(&deployment.config(&[("more", B)])).await;
    assert_eq!(answer.leaving.len(), 1, "{answer:?}");
    let status = pomd.status().await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoginRunning);
    let page = deployment.browser.visit(&link).await.unwrap();
    assert_eq!(page.status, 200, "{page:?}");
    let mut back = [0];
    timeout(integration::PATIENCE, stream.read_exact(&mut back))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&back, b"x");
    Line::open(&pomd, "more").await;
    assert_eq!(deployment.links.all().len(), 1);
    assert_eq!(deployment.gateway.stats().sessions_made, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_settings_are_taken_and_connections_live_on() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("db", A)]).await;
    let address = pomd.address("db").await;
    let mut line = Line::open(&pomd, "db").await;
    let settings = "[settings]\nread_ahead = \"1 MiB\"\nallow_users = [\"nobody-of-that-name\"]\n";
    let config = deployment.config(&[("db", A)]);
    for (config, told) in [
        (format!("{config}{settings}"), true),
        // Unrelated, after that: the warning stands.
        (format!("{config}{settings}{}", tunnel("more", B, "")), true),
        (config, false),
    ] {
        let answer = pomd.reload(&config).await;
        assert_eq!(answer.changed, [], "{answer:?}");
        line.carries().await;
        assert_eq!(pomd.address("db").await, address);
        Line::open(&pomd, "db").await;
        let warnings = pomd.status().await.pomd.warnings;
        let is_told = warnings.iter().any(|it| it.contains("nobody-of-that-name"));
        assert_eq!(is_told, told, "{warnings:?}");
    }
    eventually("only one connection is left", async || {
        let status = pomd.status().await;
        (leaving(&status, "db") == 1).then_some(())
    })
    .await;
}
