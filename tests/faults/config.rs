//! The configuration file: odd saves, no word of changes, reloads in the middle of everything.

use std::{process::Command, time::Duration};

use control::wire::{ClusterState, TunnelState};
use gateway::Upstream;
use integration::{
    bystander::{Bystander, echoes},
    deployment::{CLUSTER, Deployment, tunnel},
    pomd::{Pomd, Setup, cluster, find_tunnel, free_port},
};
use tokio::{net::TcpStream, task::JoinSet, time::Instant};

use super::{ECHO, SSH, TUNNELS, carries};

/// How often pomd looks at the file where the system does not tell.
const LOOK: Duration = Duration::from_secs(5);

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

/// The usual tunnels and one more.
fn with(deployment: &Deployment, name: &str) -> String {
    deployment.config(&TUNNELS) + &tunnel(name, ECHO, "")
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_byte_order_mark_and_line_ends_of_windows_do_no_harm() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let bystander = Bystander::new(&pomd, "echo").await;
    let good = with(&deployment, "windows");
    for text in [
        good.replace('\n', "\r\n"),
        format!("\u{feff}{good}"),
        format!("\u{feff}{}", good.replace('\n', "\r\n")),
    ] {
        let answer = pomd.reload(&text).await;
        assert!(answer.changed.is_empty() && answer.removed.is_empty());
        assert_eq!(pomd.status().await.pomd.config.error, None);
        carries(&pomd, "windows").await;
        pomd.reload(&deployment.config(&TUNNELS)).await;
    }
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_where_the_system_does_not_tell_of_changes_it_looks_every_five_seconds_and_says_so() {
    let test =
        "c3_where_the_system_does_not_tell_of_changes_it_looks_every_five_seconds_and_says_so";
    // The limit of a user namespace holds for those who made it.
    let words = "echo 0 > /proc/sys/user/max_inotify_instances || exit 1";
    let possible = Command::new("unshare")
        .args(["-U", "-r", "/bin/sh", "-c", words])
        .output();
    if !possible.is_ok_and(|it| it.status.success()) {
        return integration::skipped(test, "there are no user namespaces");
    }
    let deployment = deployment().await;
    let setup = Setup::new(&deployment.config(&TUNNELS)).inside(&["-U", "-r"], words);
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    let bystander = Bystander::new(&pomd, "echo").await;
    let words = pomd.words();
    let told = words.contains("so it is read every 5 s")
        && words.contains("fs.inotify.max_user_instances or on open files is reached");
    assert!(told, "{words}");
    for name in ["first", "second"] {
        let saved = Instant::now();
        pomd.replace_config(&with(&deployment, name));
        pomd.wait_for(name, |it| find_tunnel(it, name).is_some())
            .await;
        assert!(saved.elapsed() < LOOK * 3, "{:?}", saved.elapsed());
        carries(&pomd, name).await;
    }
    pomd.reload(&deployment.config(&TUNNELS)).await;
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
    assert_eq!(pomd.words().matches("read every 5 s").count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn c4_reloads_ups_and_logins_at_once_are_all_answered_and_three_hundred_connections_stay() {
    const CONNECTIONS: usize = 300;
    const ROUNDS: u32 = 10;
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let bystander = Bystander::new(&pomd, "echo").await;
    let mut open = Vec::new();
    for n in 0..CONNECTIONS {
        let mut stream = pomd.connect(TUNNELS[n % 2].0).await;
        echoes(&mut stream, b"open").await;
        open.push(stream);
    }
    let address = pomd.address("ssh").await;
    for round in 0..ROUNDS {
        let name = format!("round-{round}");
        pomd.replace_config(&with(&deployment, &name));
        let mut asked = JoinSet::new();
        for n in 0..12 {
            let client = pomd.client();
            asked.spawn(async move {
                match n % 4 {
                    0 | 1 => client.reload().await.map(|_| ()),
                    2 => client.up("ssh").await.map(|_| ()),
                    _ => client.login(CLUSTER, Default::default()).await.map(|_| ()),
                }
            });
        }
        while let Some(answered) = asked.join_next().await {
            answered.unwrap().unwrap();
        }
        // Whoever was answered sees what the file said when he asked.
        let status = pomd.status().await;
        assert_eq!(status.tunnels.len(), TUNNELS.len() + 1, "{status:#?}");
        assert!(find_tunnel(&status, &name).is_some(), "{status:#?}");
        assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    }
    for stream in &mut open {
        echoes(stream, b"still open").await;
    }
    assert_eq!(pomd.address("ssh").await, address);
    assert_eq!(deployment.gateway.stats().sign_ins, 1);
    for stream in open.drain(..) {
        stream.set_zero_linger().unwrap();
    }
    pomd.reload(&deployment.config(&TUNNELS)).await;
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c5_a_tunnel_under_a_new_name_has_its_port_at_once_and_its_connections_live_on() {
    let deployment = deployment().await;
    let port = free_port();
    let named =
        |name: &str| deployment.config(&TUNNELS) + &tunnel(name, ECHO, &format!("listen = {port}"));
    let pomd = Pomd::start(&named("before")).await;
    deployment.log_in(&pomd).await;
    let bystander = Bystander::new(&pomd, "echo").await;
    let mut open = pomd.connect("before").await;
    echoes(&mut open, b"before").await;
    for name in ["after", "before", "after"] {
        pomd.reload(&named(name)).await;
        let status = pomd.status().await;
        let it = find_tunnel(&status, name).unwrap();
        assert_eq!(it.state, TunnelState::Up, "{it:#?}");
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        echoes(&mut stream, name.as_bytes()).await;
        echoes(&mut open, b"still here").await;
    }
    open.set_zero_linger().unwrap();
    drop(open);
    bystander
        .all_is_well(&pomd, &["ssh", "echo", "after"])
        .await;
}
