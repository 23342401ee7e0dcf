//! Only the server's 401 ends a token, and exactly the one it was for.

use std::os::unix::process::ExitStatusExt;

use control::wire::{ClusterState, Code, TunnelState};
use gateway::{ANY, Door, End, Gate, Script, Upstream};
use integration::{
    client::{Ending, read_all},
    corp::{CLUSTER, Corp},
    pomd::{Pomd, Setup, cluster, tunnel},
};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;

use super::{Cable, ECHO, SSH, TUNNELS, carries, echoes, login_reason, ssh_is_told};

async fn corp() -> Corp {
    Corp::gateway(|it| {
        let short = std::time::Duration::from_millis(50);
        it.route(SSH, Upstream::Echo)
            .route(ECHO, Upstream::Echo)
            .linger(short)
    })
    .await
}

/// ssh is refused with these words, the status says the same, the token is kept.
async fn ssh_is_refused(pomd: &Pomd, code: Code, words: &str) {
    let address = pomd.address("ssh").await;
    let told = ssh_is_told(address).await;
    assert!(told.starts_with(words), "ssh was told {told:?}");
    let status = pomd.status().await;
    let ssh = tunnel(&status, "ssh");
    let reason = ssh.reason.as_ref().unwrap();
    assert_eq!((ssh.state, reason.code), (TunnelState::Error, code));
    // What ssh is told may go on with near matches instead of the status code.
    let message = reason.message.trim_end_matches(" (404)");
    assert!(told.starts_with(message), "{told:?}, status {message:?}");
    let state = cluster(&status, CLUSTER).state;
    assert_eq!(state, ClusterState::LoggedIn, "after {told:?}");
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
async fn h1_refusals_keep_the_token_and_ssh_prints_each_in_words() {
    let corp = corp().await;
    let pomd = corp.logged_in(&TUNNELS).await;
    for (status, code, words) in [
        (
            403,
            Code::Forbidden,
            "demo@example.com may not use ssh.corp.test:22 (403)",
        ),
        (404, Code::NoSuchRoute, "corp has no route ssh.corp.test:22"),
        (
            450,
            Code::DeviceNotAllowed,
            "corp doesn't know this device yet (450)",
        ),
        (
            495,
            Code::ClientCertificateRequired,
            "corp wants a client certificate, and none is set (495)",
        ),
        (
            502,
            Code::UpstreamUnavailable,
            "Pomerium can't reach the service behind ssh.corp.test:22 (502)",
        ),
        (
            503,
            Code::UpstreamUnavailable,
            "Pomerium can't reach the service behind ssh.corp.test:22 (503)",
        ),
        (
            429,
            Code::Http,
            "Pomerium did not open ssh.corp.test:22 (429)",
        ),
    ] {
        corp.gateway.script(SSH, Script::refuse(status));
        ssh_is_refused(&pomd, code, words).await;
        // The other tunnel never notices.
        carries(&pomd, "echo").await;
        corp.gateway.forgive();
        all_is_well(&corp, &pomd).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h5_garbage_and_early_ends_keep_the_token() {
    let corp = corp().await;
    let pomd = corp.logged_in(&TUNNELS).await;
    for script in [
        Script::bytes("ICY 200 OK\r\n\r\n"),
        Script::bytes(vec![0xff; 100]),
        Script::bytes("HTTP/2.0 401 Unauthorized\r\n\r\n"),
        Script::bytes("HTTP/1.1 401"),
        Script::bytes(""),
        Script::hang_up(End::Cut),
        Script::hang_up(End::Reset),
    ] {
        let shown = format!("{script:?}");
        corp.gateway.script(SSH, script);
        let told = ssh_is_told(pomd.address("ssh").await).await;
        let status = pomd.status().await;
        let reason = tunnel(&status, "ssh").reason.clone().unwrap();
        // ssh prints every sign beyond ASCII as numbers, so it is told others.
        let message = reason.message.replace(['«', '»'], "\"");
        let message = message.replace('…', "...").replace('\u{fffd}', "?");
        assert_eq!(told, message, "{shown}");
        let state = cluster(&status, CLUSTER).state;
        assert_eq!(state, ClusterState::LoggedIn, "{shown}");
        carries(&pomd, "echo").await;
        corp.gateway.forgive();
        all_is_well(&corp, &pomd).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n1_t3_h9_a_network_that_is_gone_or_talks_nonsense_keeps_the_token() {
    let corp = corp().await;
    let mut cable = Cable::new(corp.address()).await;
    let pomd = Pomd::start(&cable.config(&corp.config(&TUNNELS))).await;
    corp.log_in(&pomd).await;
    let mut open = pomd.connect("echo").await;
    echoes(&mut open, b"before").await;
    cable.cut().await;
    let (_, ending) = read_all(&mut open).await;
    assert_eq!(ending, Ending::Reset, "a cut is no clean end");
    ssh_is_refused(&pomd, Code::Tcp, "cannot reach").await;
    let mut refused = pomd.connect("echo").await;
    refused.write_all(b"anybody?").await.unwrap();
    assert_eq!(read_all(&mut refused).await, (Vec::new(), Ending::Reset));
    cable.mend().await;
    all_is_well(&corp, &pomd).await;
    for door in [
        Door::PlainHttp,
        Door::Says(b"\x15\x03\x01 garbage".to_vec()),
        Door::Hangs,
    ] {
        corp.gateway.door(door);
        corp.gateway.nobody_waits().await;
        ssh_is_refused(&pomd, Code::Tls, "").await;
        corp.gateway.forgive();
        all_is_well(&corp, &pomd).await;
    }
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
    let corp = corp().await;
    let pomd = corp.logged_in(&TUNNELS).await;
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
    tokio::join!(carries(&pomd, "echo"), signing_in);
    gate.open();
    // The held one goes on with the new token, with its first bytes said once.
    let mut heard = [0; 4];
    let read = tokio::io::AsyncReadExt::read_exact(&mut held, &mut heard);
    let read = tokio::time::timeout(integration::PATIENCE, read).await;
    read.unwrap().unwrap();
    assert_eq!(&heard, b"late");
    echoes(&mut held, b"and on").await;
    carries(&pomd, "ssh").await;
    let status = pomd.status().await;
    assert_eq!(cluster(&status, CLUSTER).state, ClusterState::LoggedIn);
    assert_eq!(corp.links.all().len(), 1);
    assert_eq!(corp.gateway.stats().sign_ins, 2);
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
