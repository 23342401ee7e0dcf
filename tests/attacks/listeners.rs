//! A1, A3, A4: other local users at, beside and in the place of the listeners.

use std::{
    io::{BufRead, BufReader},
    net::TcpListener,
    process::{Child, Stdio},
};

use control::wire::{Code, TunnelState};
use gateway::Upstream;
use integration::{
    deployment::{CLUSTER, Deployment, tunnel},
    other_user::{OtherUser, UID},
    pomd::{self, Pomd, free_port},
};
use tokio::io::AsyncWriteExt;

use super::other_user;

const ROUTE: &str = "greeter.corp.test:7000";

/// A service that says seven bytes and ends.
fn greeter() -> Upstream {
    Upstream::service(|mut stream, _| async move {
        let _ = stream.write_all(b"welcome").await;
    })
}

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ROUTE, greeter())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_another_uid_gets_a_reset_and_starts_no_login() {
    let Some(other_user) = other_user("a1_another_uid_gets_a_reset_and_starts_no_login") else {
        return;
    };
    let deployment = deployment().await;
    let pomd = deployment.pomd(&[("greeter", ROUTE)]).await;
    let port = pomd.address("greeter").await.port();
    let mut tries = 0;
    for (host, times) in [
        ("127.0.0.1", 500),
        ("[::1]", 400),
        ("[::ffff:127.0.0.1]", 100),
    ] {
        let address = format!("{host}:{port}");
        let said = other_user
            .does(&["connect", &address, &times.to_string()])
            .await;
        assert_eq!(said.lines().count(), times);
        for line in said.lines() {
            assert_eq!(line, "reset after 0 bytes", "at {address}");
        }
        tries += times;
    }
    let status = pomd.status().await;
    let shown = pomd::tunnel(&status, "greeter");
    assert_eq!(shown.connections.turned_away, tries as u64);
    assert_eq!(shown.connections.open + shown.connections.waiting, 0);
    assert_eq!(
        deployment.gateway.stats().connections,
        0,
        "no dial for a stranger"
    );
    assert!(deployment.links.all().is_empty(), "no login for a stranger");
    // One log line a minute, not one for each.
    let lines = pomd
        .words()
        .lines()
        .filter(|it| it.contains("turned away"))
        .count();
    assert!(lines <= 2, "{lines} log lines:\n{}", pomd.words());
}

#[tokio::test(flavor = "multi_thread")]
async fn a1_another_uid_gets_nothing_of_an_open_session_unless_it_is_allowed() {
    let test = "a1_another_uid_gets_nothing_of_an_open_session_unless_it_is_allowed";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("greeter", ROUTE)]).await;
    let address = pomd.address("greeter").await.to_string();
    let opened = deployment.gateway.stats().opened;
    let said = other_user.does(&["connect", &address, "20"]).await;
    assert!(said.lines().all(|it| it == "reset after 0 bytes"), "{said}");
    assert_eq!(deployment.gateway.stats().opened, opened);
    // That the stranger can be served at all shows that the refusals mean something.
    let allowed = format!(
        "[settings]\nallow_users = [\"{UID}\"]\n{}",
        deployment.config(&[("greeter", ROUTE)])
    );
    pomd.reload(&allowed).await;
    let said = other_user.does(&["connect", &address, "3"]).await;
    assert!(said.lines().all(|it| it == "ended after 7 bytes"), "{said}");
    // And no longer, once the line is gone.
    pomd.reload(&deployment.config(&[("greeter", ROUTE)])).await;
    let said = other_user.does(&["connect", &address, "3"]).await;
    assert!(said.lines().all(|it| it == "reset after 0 bytes"), "{said}");
}

/// A port that a stranger keeps until this is dropped.
struct Held(Child);

impl Held {
    fn new(other_user: &OtherUser, address: &str) -> Self {
        let mut command = other_user.command(&["hold", address]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut words = BufReader::new(child.stdout.take().unwrap());
        words.read_line(&mut line).unwrap();
        assert_eq!(line.trim(), "held", "{address}");
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

async fn busy(pomd: &Pomd) {
    let shown = pomd.wait_for_tunnel("greeter", TunnelState::Busy).await;
    let reason = shown.reason.unwrap();
    assert_eq!(reason.code, Code::AddressInUse);
    assert_eq!(reason.holder.unwrap().uid, Some(UID), "{}", reason.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn a3_a_port_that_a_stranger_holds_on_one_address_is_taken_on_neither() {
    let test = "a3_a_port_that_a_stranger_holds_on_one_address_is_taken_on_neither";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let deployment = deployment().await;
    for (theirs, other) in [("[::1]", "127.0.0.1"), ("127.0.0.1", "[::1]")] {
        let port = free_port();
        let held = Held::new(&other_user, &format!("{theirs}:{port}"));
        let config =
            deployment.cluster("") + &tunnel("greeter", ROUTE, &format!("listen = {port}"));
        let pomd = Pomd::start(&config).await;
        busy(&pomd).await;
        let beside = format!("{other}:{port}");
        let bound = TcpListener::bind(&beside);
        assert!(
            bound.is_ok(),
            "{beside} is taken although {theirs} is not ours: {bound:?}"
        );
        drop(bound);
        drop(held);
        pomd.address("greeter").await;
        // Now it is ours on both.
        for address in [theirs, other] {
            let said = other_user
                .does(&["hold", &format!("{address}:{port}")])
                .await;
            assert_eq!(said.trim(), "not held: AddrInUse");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_a_port_is_ours_while_logged_out_and_who_took_it_from_a_pomd_that_stopped_is_named() {
    let test =
        "a4_a_port_is_ours_while_logged_out_and_who_took_it_from_a_pomd_that_stopped_is_named";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let deployment = deployment().await;
    let port = free_port();
    let config = deployment.cluster("") + &tunnel("greeter", ROUTE, &format!("listen = {port}"));
    let mut pomd = Pomd::start(&config).await;
    deployment.log_in(&pomd).await;
    pomd.client().logout(CLUSTER).await.unwrap();
    pomd.wait_for_tunnel("greeter", TunnelState::Login).await;
    for host in ["127.0.0.1", "[::1]"] {
        let said = other_user.does(&["hold", &format!("{host}:{port}")]).await;
        assert_eq!(said.trim(), "not held: AddrInUse", "{host}");
    }
    for host in ["127.0.0.1", "[::1]"] {
        pomd.stop().await;
        let held = Held::new(&other_user, &format!("{host}:{port}"));
        pomd.start_again().await;
        busy(&pomd).await;
        let page = pomd.pomctl(&["status"]).await;
        let page = String::from_utf8_lossy(&page.stdout).into_owned();
        // Root is told the program too.
        let named = format!("other-user (pid {}) holds the port", held.0.id());
        assert!(page.contains(&named), "{page}");
        drop(held);
        pomd.address("greeter").await;
    }
}
