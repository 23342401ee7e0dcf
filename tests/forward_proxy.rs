//! Forward proxies between pomd and Pomerium: for tunnels, logins and the portal alike. They record every byte (A17).

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf, sync::Arc, time::Duration};

use control::wire::{ClusterState, Code, TunnelState};
use gateway::{
    Upstream,
    forward_proxy::{ForwardProxy, Play},
};
use integration::{
    PATIENCE,
    client::pattern,
    deployment::{CLUSTER, Deployment, tunnel},
    pomd::{self, Pomd, Setup, cluster},
    ssh::Sshd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;

const ROUTE: &str = "ssh.corp.test:22";
const ECHO: &str = "echo.corp.test:7";
const LOGIN: &str = "alice:proxy-canary";
/// `LOGIN`, as HTTP says it.
const BASIC: &str = "YWxpY2U6cHJveHktY2FuYXJ5";

/// The cluster without `connect`: its names are known to nobody on this machine.
fn cluster_behind(deployment: &Deployment, more: &str) -> String {
    let cluster = deployment.cluster(more);
    let lines = cluster.lines().filter(|it| !it.starts_with("connect"));
    lines.map(|it| format!("{it}\n")).collect()
}

fn password_file(setup: &Setup) -> PathBuf {
    let file = setup.folder().join("proxy-password");
    fs::write(&file, format!("{LOGIN}\n")).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    file
}

/// The proxy heard where to go and TLS: no token, no head of a request, and no password behind the asking.
fn told_nothing_more(proxy: &ForwardProxy, token: &str) {
    for word in [token, "Pomerium ", "GET /", "Host: ssh.corp.test:22"] {
        assert!(!proxy.heard_of(word), "{word}");
    }
    let heard = proxy.heard();
    assert!(!heard.is_empty());
    for it in heard {
        let target = it.target.unwrap_or_default();
        assert!(target.ends_with("corp.test:443"), "{target}");
        assert_eq!(it.carried.first(), Some(&0x16), "a ClientHello");
        let carried = String::from_utf8_lossy(&it.carried).into_owned();
        assert!(!carried.contains("canary") && !carried.contains(BASIC));
    }
}

/// Neither status nor pages nor logs hold the proxy's password.
async fn keeps_the_password(pomd: &Pomd) {
    let mut shown = serde_json::to_string(&pomd.status().await).unwrap();
    for arguments in [&["status"][..], &["status", "--json"], &["logs"]] {
        let output = pomd.pomctl(arguments).await;
        shown += &String::from_utf8_lossy(&output.stdout);
        shown += &String::from_utf8_lossy(&output.stderr);
    }
    shown += &pomd.words();
    for word in ["canary", BASIC, "alice:"] {
        assert!(!shown.contains(word), "{word}: {shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_ssh_goes_through_a_proxy_with_a_password_through_envoy() {
    let sshd = Sshd::start().await;
    let deployment = Deployment::envoy(&[(ROUTE, sshd.address())]).await;
    let proxy = ForwardProxy::start(Play::Http(Some(LOGIN.to_owned())), deployment.address());
    let proxy = proxy.await.unwrap();
    let more = format!(
        "forward_proxy = \"http://{}\"\nforward_proxy_auth = {{ file = \"proxy-password\" }}",
        proxy.address()
    );
    let config = cluster_behind(&deployment, &more) + &tunnel("ssh", ROUTE, "");
    let setup = Setup::new(&config).arg("--log=debug");
    password_file(&setup);
    let pomd = setup.start().await;

    // The login goes there, the tunnel does, and the portal.
    deployment.log_in(&pomd).await;
    let ssh = sshd.through(pomd.address("ssh").await);
    assert_eq!(ssh.output("echo $((6 * 7))").await, "42\n");
    let many = ssh.run("head -c 20000000 /dev/zero").await;
    assert_eq!(many.stdout.len(), 20_000_000);
    let output = pomd.pomctl(&["connect", "other.corp.test:22"]).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("corp has no route other.corp.test:22"),
        "{said}"
    );

    told_nothing_more(&proxy, &pomd.setup().saved_token());
    let asked = proxy.heard()[0].asked.clone();
    assert!(String::from_utf8_lossy(&asked).contains(&format!("Basic {BASIC}")));

    let status = pomd.status().await;
    let shown = cluster(&status, CLUSTER).forward_proxy.clone().unwrap();
    assert_eq!(shown.url, format!("http://{}", proxy.address()));
    assert_eq!(shown.variable, None);
    let page = String::from_utf8(pomd.pomctl(&["status"]).await.stdout).unwrap();
    assert!(
        page.contains(&format!("    through {}\n", shown.url)),
        "{page}"
    );
    let said = format!("goes through the forward proxy {}", shown.url);
    assert!(pomd.words().contains(&said), "{}", pomd.words());
    keeps_the_password(&pomd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a17_a_socks_proxy_of_the_environment_carries_ssh_and_is_named_in_the_status() {
    let sshd = Sshd::start().await;
    let deployment = Deployment::envoy(&[(ROUTE, sshd.address())]).await;
    let proxy = ForwardProxy::start(Play::Socks(Some(LOGIN.to_owned())), deployment.address());
    let proxy = proxy.await.unwrap();
    let config = cluster_behind(&deployment, "") + &tunnel("ssh", ROUTE, "");
    let value = format!("socks5://{LOGIN}@{}", proxy.address());
    let pomd = Setup::new(&config)
        .env("all_proxy", &value)
        .env("NO_PROXY", "other.test")
        .start()
        .await;
    deployment.log_in(&pomd).await;
    let ssh = sshd.through(pomd.address("ssh").await);
    assert_eq!(ssh.output("echo $((6 * 7))").await, "42\n");
    told_nothing_more(&proxy, &pomd.setup().saved_token());
    let page = String::from_utf8(pomd.pomctl(&["status"]).await.stdout).unwrap();
    let line = format!("    through socks5://{} (all_proxy)\n", proxy.address());
    assert!(page.contains(&line), "{page}");
    keeps_the_password(&pomd).await;

    // `connect` leads to this machine: what the environment names is not asked.
    let before = proxy.heard().len();
    let direct = deployment.cluster("") + &tunnel("ssh", ROUTE, "");
    pomd.reload(&direct).await;
    let status = pomd.status().await;
    assert_eq!(cluster(&status, CLUSTER).forward_proxy, None);
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    let ssh = sshd.through(pomd.address("ssh").await);
    assert_eq!(ssh.output("echo direct").await, "direct\n");
    assert_eq!(proxy.heard().len(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn b1_a_proxy_inside_tls_carries_every_byte_both_ways() {
    const SIZE: usize = 16 << 20;
    let deployment =
        Deployment::gateway(|it| it.domain("corp.test").route(ECHO, Upstream::Echo)).await;
    let identity = deployment.gateway.server_identity().unwrap();
    let chain = CertificateDer::from_pem_slice(identity.certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).unwrap();
    let tls = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(tls));
    let proxy = ForwardProxy::start_tls(Play::Http(None), deployment.address(), tls);
    let proxy = proxy.await.unwrap();
    let more = format!("forward_proxy = \"https://{}\"", proxy.address());
    let config = cluster_behind(&deployment, &more) + &tunnel("echo", ECHO, "");
    let pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    let (mut from, mut to) = pomd.connect("echo").await.into_split();
    let sent = pattern(SIZE);
    let writing = async {
        to.write_all(&sent).await.unwrap();
        to.shutdown().await.unwrap();
    };
    let mut heard = vec![0; SIZE];
    let reading = async { from.read_exact(&mut heard).await };
    let both = async { tokio::join!(writing, reading) };
    let both = tokio::time::timeout(PATIENCE, both).await;
    both.expect("16 MiB both ways").1.unwrap();
    assert!(heard == sent);
    told_nothing_more(&proxy, &pomd.setup().saved_token());
}

#[tokio::test(flavor = "multi_thread")]
async fn n9_a_proxy_that_refuses_is_told_and_nothing_is_lost() {
    let sshd = Sshd::start().await;
    let address = sshd.address();
    let deployment =
        Deployment::envoy(&[(ROUTE, address), ("direct.other.test:22", address)]).await;
    let proxy = ForwardProxy::start(Play::Http(None), deployment.address()).await;
    let proxy = proxy.unwrap();
    let url = format!("http://{}", proxy.address());
    let behind = |more: &str| {
        let more = format!("forward_proxy = \"{url}\"\n{more}");
        cluster_behind(&deployment, &more) + &tunnel("ssh", ROUTE, "")
    };
    let pomd = Setup::new(&behind("")).start().await;
    deployment.log_in(&pomd).await;
    let through = async || sshd.through(pomd.address("ssh").await);
    let mut session = through().await.session().await;

    for (play, message) in [
        (
            Play::Http(Some(LOGIN.to_owned())),
            format!("{url} answered 407, it wants a password"),
        ),
        (
            Play::Says(b"HTTP/1.1 502 Bad Gateway\r\n\r\n".to_vec()),
            format!("{url} answered 502 (Bad Gateway) when asked for ssh.corp.test:443"),
        ),
        (Play::Closes, String::from("the connection")),
    ] {
        proxy.play(play);
        let mut output = through().await.run("true").await;
        // Connections that were ready before go first.
        while output.status.success() {
            output = through().await.run("true").await;
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("forward proxy: ") && said.contains(&message),
            "{said}"
        );
        let shown = pomd.wait_for_tunnel("ssh", TunnelState::Error).await;
        let reason = shown.reason.unwrap();
        assert_eq!(reason.code, Code::ForwardProxy, "{reason:?}");
        assert!(reason.message.contains(&message), "{reason:?}");
        session.answers().await;
    }
    let status = pomd.status().await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    assert_eq!(
        deployment.links.all().len(),
        0,
        "nobody was asked to log in"
    );

    // The password comes: the cluster's way changes, the session and its login stay.
    proxy.play(Play::Http(Some(LOGIN.to_owned())));
    password_file(pomd.setup());
    pomd.reload(&behind(
        "forward_proxy_auth = { file = \"proxy-password\" }",
    ))
    .await;
    assert_eq!(through().await.output("echo again").await, "again\n");
    session.answers().await;
    session.leave().await;
    pomd.wait_for_tunnel("ssh", TunnelState::Up).await;
    keeps_the_password(&pomd).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_of_no_use_is_a_warning_and_check_judges_the_password_file() {
    let deployment = Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await;
    let more = "forward_proxy_auth = { file = \"proxy-password\" }";
    let setup = Setup::new(&deployment.cluster(more))
        .env("HTTPS_PROXY", &format!("socks4://{LOGIN}@proxy.lan:1080"));
    let file = password_file(&setup);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let pomd = setup.start().await;
    let warnings = pomd.status().await.pomd.warnings;
    assert!(
        warnings
            .iter()
            .any(|it| it.contains("HTTPS_PROXY names no forward proxy")),
        "{warnings:?}"
    );
    keeps_the_password(&pomd).await;
    let mut check = pomd.setup().pomd_command();
    check.arg("check");
    let output = pomd::run(check, Duration::from_secs(30)).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        said.contains("cannot use forward_proxy_auth") && said.contains("others can read it"),
        "{said}"
    );
    assert!(!said.contains("canary"), "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
}
