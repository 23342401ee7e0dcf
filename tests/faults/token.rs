//! Only the server's 401 ends a token, and exactly the one it was for.

use std::os::unix::process::ExitStatusExt;

use control::wire::{ClusterState, Code, TunnelState};
use gateway::{ANY, Gate, Script, Upstream};
use integration::{
    client::{Ending, read_all},
    deployment::{CLUSTER, Deployment, Who},
    pomd::{Pomd, Setup, cluster},
    scenario::Scenario,
};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{ECHO, SSH, TUNNELS, carries, echoes, login_reason, ssh_is_told};

async fn deployment() -> Deployment {
    Deployment::gateway(|it| {
        let short = std::time::Duration::from_millis(50);
        it.route(SSH, Upstream::Echo)
            .route(ECHO, Upstream::Echo)
            .linger(short)
    })
    .await
}

/// Nobody was asked for a login since the first one, and both tunnels work.
async fn all_is_well(deployment: &Deployment, pomd: &Pomd) {
    carries(pomd, "ssh").await;
    carries(pomd, "echo").await;
    pomd.wait_for_tunnel("ssh", TunnelState::Up).await;
    assert!(deployment.links.all().is_empty());
    assert_eq!(deployment.gateway.stats().sign_ins, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn x4_token_and_ports_outlive_the_process_however_it_ends() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let listen = async |pomd: &Pomd| {
        let status = pomd.status().await;
        let tunnels = status.tunnels.iter();
        tunnels.map(|it| it.listen.clone()).collect::<Vec<_>>()
    };
    let before = listen(&pomd).await;
    for signal in [Signal::INT, Signal::KILL, Signal::TERM] {
        pomd.process().signal(signal);
        let status = pomd.process().wait().await;
        if signal == Signal::KILL {
            assert_eq!(status.signal(), Some(Signal::KILL.as_raw()));
        } else {
            assert_eq!(status.code(), Some(0), "{signal:?}: {}", pomd.words());
        }
        pomd.start_again().await;
        // At once: `start_again` returns when it answers.
        assert_eq!(listen(&pomd).await, before, "{signal:?}");
        all_is_well(&deployment, &pomd).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_during_a_login_loses_nothing_and_the_next_life_asks_once() {
    let deployment = deployment().await;
    let mut pomd = deployment.pomd(&TUNNELS).await;
    let mut waiting = pomd.connect("echo").await;
    waiting.write_all(b"hello").await.unwrap();
    deployment.links.nth(1).await;
    pomd.process().signal(Signal::INT);
    let status = pomd.process().wait().await;
    assert_eq!(status.code(), Some(0), "{}", pomd.words());
    assert_eq!(read_all(&mut waiting).await, (Vec::new(), Ending::Reset));
    pomd.start_again().await;
    let signing_in = deployment.links.sign_in(2, &deployment.browser);
    tokio::join!(carries(&pomd, "echo"), signing_in);
    assert_eq!(deployment.links.all().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn l9_a_token_is_as_good_as_the_server_says_whatever_it_says_of_its_own_end() {
    let deployment = deployment().await;
    for exp in [json!(0), json!(1_000_000_000), json!("soon"), json!(null)] {
        deployment.gateway.end_all_sessions();
        deployment.gateway.say_exp(Some(exp.clone()));
        let mut pomd = deployment.logged_in(&TUNNELS).await;
        let sign_ins = deployment.gateway.stats().sign_ins;
        for life in 0..2 {
            carries(&pomd, "ssh").await;
            let status = pomd.status().await;
            let seen = cluster(&status, CLUSTER);
            assert_eq!(seen.state, ClusterState::LoggedIn, "{exp}");
            assert_eq!(seen.reason, None, "{exp}");
            // What rests on the disk is no older for it.
            if life == 0 {
                pomd.kill_and_restart().await;
            }
        }
        assert!(
            deployment.links.all().is_empty(),
            "{exp}: somebody was asked"
        );
        assert_eq!(deployment.gateway.stats().sign_ins, sign_ins, "{exp}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_ends_the_token_and_one_login_makes_the_next() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let mut open = pomd.connect("echo").await;
    echoes(&mut open, b"before").await;
    deployment.gateway.end_all_sessions();
    let signing_in = deployment.links.sign_in(1, &deployment.browser);
    tokio::join!(carries(&pomd, "ssh"), carries(&pomd, "echo"), signing_in);
    echoes(&mut open, b"still here").await;
    assert_eq!(deployment.links.all().len(), 1);
    assert_eq!(deployment.gateway.stats().sign_ins, 2);
    // What is on disk is the new one.
    pomd.kill_and_restart().await;
    carries(&pomd, "ssh").await;
    assert_eq!(deployment.links.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn l8_a_late_401_for_the_old_token_does_not_harm_the_new_one() {
    let mut scenario = Scenario::new(Who::Gateway).await;
    let Scenario {
        pomd, deployment, ..
    } = &scenario;
    let gate = Gate::new();
    let late = Script::refuse(401).held_by(&gate).times(1);
    deployment.gateway.script(SSH, late);
    let before = deployment.gateway.stats().connects;
    let mut held = pomd.connect("ssh").await;
    held.write_all(b"late").await.unwrap();
    deployment
        .gateway
        .wait_for(|it| it.connects == before + 1)
        .await;
    // Meanwhile the other tunnel is refused, and a login makes the next token.
    deployment.gateway.end_all_sessions();
    let signing_in = deployment.links.sign_in(1, &deployment.browser);
    let login = async { tokio::join!(carries(pomd, "echo"), signing_in) };
    scenario.meanwhile(login).await;
    gate.open();
    // The held one goes on with the new token, with its first bytes said once.
    let mut heard = [0; 4];
    let read = tokio::io::AsyncReadExt::read_exact(&mut held, &mut heard);
    let read = tokio::time::timeout(integration::PATIENCE, read).await;
    read.unwrap().unwrap();
    assert_eq!(&heard, b"late");
    echoes(&mut held, b"and on").await;
    held.set_zero_linger().unwrap();
    drop(held);
    let status = pomd.status().await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    assert_eq!(deployment.links.all().len(), 1);
    assert_eq!(deployment.gateway.stats().sign_ins, 2);
    scenario.forget_logins();
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l7_a_server_that_refuses_what_it_just_gave_stops_at_the_second() {
    let deployment = deployment().await;
    let pomd = Setup::new(&deployment.config(&TUNNELS)).start().await;
    deployment.gateway.script(ANY, Script::refuse(401));
    let address = pomd.address("ssh").await;
    let signing_in = async {
        for n in [1, 2] {
            let link = deployment.links.nth(n).await;
            // The refusal may overtake the last page.
            let _ = deployment.browser.visit(&link).await;
        }
    };
    let (told, ()) = tokio::join!(ssh_is_told(address), signing_in);
    assert!(
        told.contains("refuses the token it just gave"),
        "ssh was told {told:?}"
    );
    let status = pomd.status().await;
    let (code, message) = login_reason(&status).unwrap();
    assert_eq!(code, Code::LoginFailed);
    assert!(
        message.contains("refuses the token it just gave"),
        "{message}"
    );
    // Everybody else is told the same, and no third tab opens.
    for _ in 0..3 {
        assert_eq!(ssh_is_told(address).await, message);
    }
    assert_eq!(deployment.links.all().len(), 2);
    // Mended, and a person asks.
    deployment.gateway.forgive();
    deployment.log_in(&pomd).await;
    carries(&pomd, "ssh").await;
    assert_eq!(deployment.links.all().len(), 2);
}
