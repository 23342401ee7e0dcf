//! Only the server's 401 ends a token, and exactly the one it was for.

use std::os::unix::process::ExitStatusExt;

use control::wire::{ClusterState, Code, TunnelState};
use gateway::{ANY, Gate, Script, Upstream};
use integration::{
    client::{Ending, read_all},
    corp::{CLUSTER, Corp, Who},
    pomd::{Pomd, Setup, cluster},
    scene::Scene,
};
use rustix::process::Signal;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::{ECHO, SSH, TUNNELS, carries, echoes, login_reason, ssh_is_told};

async fn corp() -> Corp {
    Corp::gateway(|it| {
        let short = std::time::Duration::from_millis(50);
        it.route(SSH, Upstream::Echo)
            .route(ECHO, Upstream::Echo)
            .linger(short)
    })
    .await
}

/// Nobody was asked for a login since the first one, and both tunnels work.
async fn all_is_well(corp: &Corp, pomd: &Pomd) {
    carries(pomd, "ssh").await;
    carries(pomd, "echo").await;
    pomd.wait_for_tunnel("ssh", TunnelState::Up).await;
    assert!(corp.links.all().is_empty());
    assert_eq!(corp.gateway.stats().sign_ins, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn x4_token_and_ports_outlive_the_process_however_it_ends() {
    let corp = corp().await;
    let mut pomd = corp.logged_in(&TUNNELS).await;
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
        all_is_well(&corp, &pomd).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_during_a_login_loses_nothing_and_the_next_life_asks_once() {
    let corp = corp().await;
    let mut pomd = corp.pomd(&TUNNELS).await;
    let mut waiting = pomd.connect("echo").await;
    waiting.write_all(b"hello").await.unwrap();
    corp.links.nth(1).await;
    pomd.process().signal(Signal::INT);
    let status = pomd.process().wait().await;
    assert_eq!(status.code(), Some(0), "{}", pomd.words());
    assert_eq!(read_all(&mut waiting).await, (Vec::new(), Ending::Reset));
    pomd.start_again().await;
    let signing_in = corp.links.sign_in(2, &corp.browser);
    tokio::join!(carries(&pomd, "echo"), signing_in);
    assert_eq!(corp.links.all().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn l9_a_token_is_as_good_as_the_server_says_whatever_it_says_of_its_own_end() {
    let corp = corp().await;
    for exp in [json!(0), json!(1_000_000_000), json!("soon"), json!(null)] {
        corp.gateway.end_all_sessions();
        corp.gateway.say_exp(Some(exp.clone()));
        let mut pomd = corp.logged_in(&TUNNELS).await;
        let sign_ins = corp.gateway.stats().sign_ins;
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
        assert!(corp.links.all().is_empty(), "{exp}: somebody was asked");
        assert_eq!(corp.gateway.stats().sign_ins, sign_ins, "{exp}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_401_ends_the_token_and_one_login_makes_the_next() {
    let corp = corp().await;
    let mut pomd = corp.logged_in(&TUNNELS).await;
    let mut open = pomd.connect("echo").await;
    echoes(&mut open, b"before").await;
    corp.gateway.end_all_sessions();
    let signing_in = corp.links.sign_in(1, &corp.browser);
    tokio::join!(carries(&pomd, "ssh"), carries(&pomd, "echo"), signing_in);
    echoes(&mut open, b"still here").await;
    assert_eq!(corp.links.all().len(), 1);
    assert_eq!(corp.gateway.stats().sign_ins, 2);
    // What is on disk is the new one.
    pomd.kill_and_restart().await;
    carries(&pomd, "ssh").await;
    assert_eq!(corp.links.all().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn l8_a_late_401_for_the_old_token_does_not_harm_the_new_one() {
    let mut scene = Scene::new(Who::Gateway).await;
    let Scene { pomd, corp, .. } = &scene;
    let gate = Gate::new();
    let late = Script::refuse(401).held_by(&gate).times(1);
    corp.gateway.script(SSH, late);
    let before = corp.gateway.stats().connects;
    let mut held = pomd.connect("ssh").await;
    held.write_all(b"late").await.unwrap();
    corp.gateway.wait_for(|it| it.connects == before + 1).await;
    // Meanwhile the other tunnel is refused, and a login makes the next token.
    corp.gateway.end_all_sessions();
    let signing_in = corp.links.sign_in(1, &corp.browser);
    let login = async { tokio::join!(carries(pomd, "echo"), signing_in) };
    scene.meanwhile(login).await;
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
    assert_eq!(corp.links.all().len(), 1);
    assert_eq!(corp.gateway.stats().sign_ins, 2);
    scene.forget_logins();
    scene.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn l7_a_server_that_refuses_what_it_just_gave_stops_at_the_second() {
    let corp = corp().await;
    let pomd = Setup::new(&corp.config(&TUNNELS)).start().await;
    corp.gateway.script(ANY, Script::refuse(401));
    let address = pomd.address("ssh").await;
    let signing_in = async {
        for n in [1, 2] {
            let link = corp.links.nth(n).await;
            // The refusal may overtake the last page.
            let _ = corp.browser.visit(&link).await;
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
    assert_eq!(corp.links.all().len(), 2);
    // Mended, and a person asks.
    corp.gateway.forgive();
    corp.log_in(&pomd).await;
    carries(&pomd, "ssh").await;
    assert_eq!(corp.links.all().len(), 2);
}
