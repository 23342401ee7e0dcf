//! Logins that many wait for, that nobody answers, and that nobody can be asked for.

use std::net::SocketAddr;

use control::wire::{ClusterState, Code, TunnelState};
use gateway::Upstream;
use integration::{
    PATIENCE,
    deployment::{CLUSTER, Deployment, Who},
    eventually,
    pomd::{Pomd, Setup, cluster, tunnel},
    scenario::Scenario,
};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::timeout};

use super::{ECHO, LOGIN_NEEDED, SSH, TUNNELS, carries, echoes, login_reason, ssh_is_told};

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

/// The same, without any way to show a login.
fn without_browser(deployment: &Deployment) -> String {
    let key = format!("browser = {}", deployment.links.key());
    let config = deployment.config(&TUNNELS);
    assert!(config.contains(&key), "{config}");
    config.replace(&key, "browser = \"none\"")
}

/// Waits until this many connections wait for a login.
async fn waiting(pomd: &Pomd, n: u64) {
    let what = format!("{n} connections wait for a login");
    pomd.wait_for(&what, |it| cluster(it, CLUSTER).waiting == n)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f11_l1_e2_one_login_serves_a_thousand_connections_of_fifty_tunnels_under_a_limit_of_1024()
{
    const CONNECTIONS: u32 = 1_000;
    const ROUTES: u32 = 50;
    // Here are both ends of each.
    integration::descriptors::raise();
    let routes: Vec<_> = (0..ROUTES)
        .map(|n| (format!("t{n}"), format!("service-{n}.corp.test:7000")))
        .collect();
    let deployment = Deployment::gateway(|builder| {
        let add =
            |it: gateway::Builder, (_, route): &(String, String)| it.route(route, Upstream::Echo);
        routes.iter().fold(builder, add)
    })
    .await;
    let tunnels: Vec<_> = routes
        .iter()
        .map(|(name, route)| (name.as_str(), route.as_str()))
        .collect();
    // Each connection takes two descriptors, each tunnel two more: 2,100 in all.
    let setup = Setup::new(&deployment.config(&tunnels)).before("ulimit -Sn 1024");
    let pomd = setup.start().await;
    let status = pomd
        .wait_for("all listen", |it| {
            it.tunnels.iter().all(|it| it.state == TunnelState::Login)
        })
        .await;
    let addresses: Vec<SocketAddr> = status
        .tunnels
        .iter()
        .map(|it| it.listen[0].parse().unwrap())
        .collect();
    assert_eq!(addresses.len(), ROUTES as usize);

    let mut talks = JoinSet::new();
    for n in 0..CONNECTIONS {
        let address = addresses[(n % ROUTES) as usize];
        talks.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // Half of them come with their first words, half wait for the server's.
            let words = format!("connection {n} says this and nothing else");
            let (first, rest) = words.split_at(if n % 2 == 0 { 12 } else { 0 });
            stream.write_all(first.as_bytes()).await.unwrap();
            let mut heard = vec![0; first.len()];
            timeout(
                PATIENCE * 2,
                tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard),
            )
            .await
            .unwrap_or_else(|_| panic!("connection {n}: not carried"))
            .unwrap_or_else(|error| panic!("connection {n}: {error}"));
            assert_eq!(heard, first.as_bytes(), "connection {n}");
            echoes(&mut stream, rest.as_bytes()).await;
            stream
        });
    }
    waiting(&pomd, CONNECTIONS.into()).await;
    deployment.links.sign_in(1, &deployment.browser).await;
    let open = talks.join_all().await;
    assert_eq!(open.len(), CONNECTIONS as usize);

    assert_eq!(deployment.links.all().len(), 1, "one browser");
    let stats = deployment.gateway.stats();
    assert_eq!((stats.sign_ins, stats.sign_in_pages), (1, 1));
    assert_eq!((stats.opened, stats.refused), (CONNECTIONS.into(), 0));
    let status = pomd
        .wait_for("all are open", |it| {
            let open = it.tunnels.iter().map(|it| it.connections.open);
            open.sum::<u64>() == u64::from(CONNECTIONS)
        })
        .await;
    assert!(status.healthy, "{status:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_browser_ssh_is_told_at_once_and_what_waits_goes_on_after_a_login() {
    let deployment = deployment().await;
    let pomd = Pomd::start(&without_browser(&deployment)).await;
    let mut stream = pomd.connect("echo").await;
    stream.write_all(b"first").await.unwrap();
    waiting(&pomd, 1).await;
    let address = pomd.address("ssh").await;
    for _ in 0..3 {
        assert_eq!(ssh_is_told(address).await, LOGIN_NEEDED);
    }
    let status = pomd.status().await;
    assert_eq!(
        login_reason(&status),
        Some((Code::LoginNeeded, LOGIN_NEEDED))
    );
    let ssh = tunnel(&status, "ssh");
    let reason = ssh.reason.as_ref().unwrap();
    assert_eq!(
        (ssh.state, reason.message.as_str()),
        (TunnelState::Login, LOGIN_NEEDED)
    );
    deployment.log_in(&pomd).await;
    let mut heard = [0; 5];
    let read = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(&heard, b"first");
    carries(&pomd, "ssh").await;
    assert!(deployment.links.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn l4_a_browser_that_does_not_start_is_told_in_the_status_and_ssh_at_once() {
    let deployment = deployment().await;
    let config = deployment
        .config(&TUNNELS)
        .replace(&deployment.links.key(), "[\"/nonexistent/browser\"]");
    let pomd = Pomd::start(&config).await;
    let address = pomd.address("ssh").await;
    assert_eq!(ssh_is_told(address).await, LOGIN_NEEDED);
    let status = pomd.status().await;
    let reason = cluster(&status, CLUSTER).reason.clone().unwrap();
    assert_eq!(reason.message, LOGIN_NEEDED);
    let hint = reason.hint.unwrap_or_default();
    assert!(hint.contains("/nonexistent/browser"), "{hint}");
    deployment.log_in(&pomd).await;
    carries(&pomd, "ssh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l3_waiting_clients_that_leave_are_forgotten_and_those_who_come_join_the_same_login() {
    let mut scenario = Scenario::new(Who::Gateway).await;
    let Scenario {
        pomd, deployment, ..
    } = &scenario;
    deployment.gateway.end_all_sessions();
    let mut leaving = Vec::new();
    for name in ["ssh", "echo", "echo"] {
        let mut stream = pomd.connect(name).await;
        stream.write_all(b"SSH-2.0-test\r\n").await.unwrap();
        leaving.push(stream);
    }
    let link = deployment.links.nth(1).await;
    waiting(pomd, 3).await;
    for stream in leaving {
        stream.set_zero_linger().unwrap();
    }
    scenario.meanwhile(waiting(pomd, 0)).await;
    let mut stream = pomd.connect("echo").await;
    stream.write_all(b"again").await.unwrap();
    waiting(pomd, 1).await;
    assert_eq!(deployment.links.all(), [link], "no second browser");
    deployment.links.sign_in(1, &deployment.browser).await;
    let mut heard = [0; 5];
    let read = tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard);
    timeout(PATIENCE, read).await.unwrap().unwrap();
    assert_eq!(&heard, b"again");
    assert_eq!(deployment.links.all().len(), 1);
    stream.set_zero_linger().unwrap();
    drop(stream);
    scenario.forget_logins();
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_logout_nothing_asks_until_a_person_does() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    carries(&pomd, "echo").await;
    pomd.client().logout(CLUSTER).await.unwrap();
    let address = pomd.address("ssh").await;
    for _ in 0..3 {
        assert_eq!(ssh_is_told(address).await, LOGIN_NEEDED);
        let mut stream = pomd.connect("echo").await;
        stream.write_all(b"anybody?").await.unwrap();
        let (got, ending) = integration::client::read_all(&mut stream).await;
        assert_eq!((got.len(), ending), (0, integration::client::Ending::Reset));
    }
    let status = pomd.status().await;
    let state = cluster(&status, CLUSTER).state;
    assert_eq!(state, ClusterState::LoggedOut);
    assert_eq!(
        login_reason(&status),
        Some((Code::LoginNeeded, LOGIN_NEEDED))
    );
    assert!(deployment.links.all().is_empty());
    deployment.log_in(&pomd).await;
    carries(&pomd, "echo").await;
    carries(&pomd, "ssh").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_logout_sends_those_away_who_wait_and_closes_the_login() {
    let deployment = deployment().await;
    let pomd = deployment.pomd(&TUNNELS).await;
    let address = pomd.address("ssh").await;
    let logging_out = async {
        let link = deployment.links.nth(1).await;
        waiting(&pomd, 1).await;
        pomd.client().logout(CLUSTER).await.unwrap();
        link
    };
    let (told, link) = tokio::join!(ssh_is_told(address), logging_out);
    assert_eq!(told, LOGIN_NEEDED);
    eventually("the link leads nowhere", async || {
        let page = deployment.browser.look(&link).await;
        page.map_or(true, |it| it.status >= 400).then_some(())
    })
    .await;
    assert_eq!(deployment.gateway.stats().sign_ins, 0);
    assert_eq!(ssh_is_told(address).await, LOGIN_NEEDED);
    assert_eq!(deployment.links.all().len(), 1, "no second browser");
}
