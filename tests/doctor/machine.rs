//! What the doctor says of pomd itself and of the tunnels' addresses, whether pomd runs, hangs or is not there.

use std::fs;

use control::wire::{CheckOutcome, TunnelState};
use integration::deployment::tunnel;

use super::{ROUTE, Scene};

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_port_is_found_at_the_listener_with_its_holder() {
    let scene = Scene::new().await;
    let held = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let config = Scene::config(&scene.deployment, &scene.relay, "");
    let busy = tunnel("busy", ROUTE, &format!("listen = {port}"));
    scene.pomd.reload(&(config + &busy)).await;
    let (exit, diagnosis) = scene.examined("busy").await;
    assert_eq!(exit, Some(1));
    let [listener, others @ ..] = &diagnosis.checks[..] else {
        panic!("{diagnosis:#?}")
    };
    assert_eq!(listener.outcome, CheckOutcome::Bad);
    let pid = format!("(pid {})", std::process::id());
    assert!(listener.message.contains(&pid), "{listener:#?}");
    assert!(
        listener
            .hint
            .as_ref()
            .unwrap()
            .contains("choose another port"),
        "{listener:#?}"
    );
    // The way to the service works all the same.
    assert!(
        others.iter().all(|it| it.outcome != CheckOutcome::Bad),
        "{others:#?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a4_who_takes_the_port_of_a_stopped_pomd_is_named() {
    let mut scene = Scene::new().await;
    let address = scene.pomd.address("echo").await;
    scene.pomd.stop().await;
    let output = scene.pomd.pomctl(&["doctor", "echo"]).await;
    assert_eq!(output.status.code(), Some(3));
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("not running: nothing answers on "), "{page}");
    assert!(
        page.contains(&format!("{address}, ")) && page.contains(" is free"),
        "{page}"
    );
    let _squatter = std::net::TcpListener::bind(address).unwrap();
    for arguments in [&["doctor", "echo"][..], &["doctor"]] {
        let output = scene.pomd.pomctl(arguments).await;
        assert_eq!(output.status.code(), Some(3));
        let page = String::from_utf8(output.stdout).unwrap();
        let pid = format!("(pid {}) holds the port", std::process::id());
        assert!(page.contains(&pid), "{page}");
        assert!(page.contains(&address.port().to_string()), "{page}");
    }
    // Looking held nothing: pomd takes the other ports again.
    scene.pomd.start_again().await;
    scene.pomd.wait_for_tunnel("ssh", TunnelState::Up).await;
    scene.pomd.wait_for_tunnel("echo", TunnelState::Busy).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pomd_that_hangs_is_told_from_one_that_is_not_there() {
    let mut scene = Scene::new().await;
    let socket = scene.pomd.setup().socket();
    let pid = scene.pomd.pid();
    let away = socket.with_extension("away");
    scene.pomd.process().signal(rustix::process::Signal::STOP);
    fs::rename(&socket, &away).unwrap();
    let output = scene.pomd.pomctl(&["doctor", "echo"]).await;
    let page = String::from_utf8(output.stdout).unwrap();
    fs::rename(&away, &socket).unwrap();
    scene.pomd.process().signal(rustix::process::Signal::CONT);
    assert!(page.contains(&format!("pid {pid} holds ")), "{page}");
    assert!(page.contains("does not answer on "), "{page}");
    scene.is_well("echo").await;
}
