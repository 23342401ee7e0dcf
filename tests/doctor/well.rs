//! What the doctor says where all is well, by the gateway and by a real Envoy, with a tunnel and without one.

use control::wire::CheckName;
use gateway::{DEMO_USER, Script};
use integration::deployment::Deployment;
use tokio::net::TcpListener;

use super::{ROUTE, SSH_ROUTE, Scene, http_date, now};

#[tokio::test(flavor = "multi_thread")]
async fn where_all_is_well_each_step_says_what_it_met() {
    let scene = Scene::new().await;
    scene.deployment.gateway.script(
        "/.pomerium/user",
        Script::new().header("date", http_date(now())),
    );
    let diagnosis = scene.is_well("ssh").await;
    let message = |name| {
        let mut checks = diagnosis.checks.iter();
        checks.find(|it| it.name == name).unwrap().message.clone()
    };
    assert_eq!(message(CheckName::Dns), "127.0.0.1");
    assert_eq!(message(CheckName::Tcp), scene.relay.address().to_string());
    let tls = message(CheckName::Tls);
    assert!(
        tls.starts_with("1.3, X25519MLKEM768, issued by Make-believe Pomerium CA"),
        "{tls}"
    );
    assert!(tls.contains("certificate until "), "{tls}");
    assert_eq!(message(CheckName::Http), "Pomerium answers; clocks agree");
    assert!(message(CheckName::Session).starts_with(DEMO_USER));
    assert_eq!(message(CheckName::Policy), "allowed");
    assert_eq!(message(CheckName::Upstream), "SSH-2.0-OpenSSH_9.6");
    assert!(diagnosis.opens_in_ms.is_some());
    scene.is_well("echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_without_a_tunnel_is_walked_to_by_its_name() {
    let scene = Scene::new().await;
    let scene_says = async |route: &str| {
        let output = scene.pomd.pomctl(&["doctor", route]).await;
        let page = String::from_utf8(output.stdout).unwrap();
        let words = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), page + &words)
    };
    scene.reload_without_tunnels().await;
    let (code, page) = scene_says(SSH_ROUTE).await;
    assert_eq!(code, Some(0), "{page}");
    assert!(page.contains("SSH-2.0-OpenSSH_9.6"), "{page}");
    let (code, page) = scene_says("gone.corp.test:22").await;
    assert_eq!(code, Some(1), "{page}");
    assert!(
        page.contains("corp has no route gone.corp.test:22 (404)"),
        "{page}"
    );
    // What is no bare name of a cluster's host is none of ours, and nothing is dialled for it.
    for foreign in [
        "elsewhere.test:22",
        "tcp+http://ssh.corp.test:22",
        ":",
        "a:b",
    ] {
        let (code, page) = scene_says(foreign).await;
        assert_eq!(code, Some(2), "{foreign}: {page}");
    }
    let (_, page) = scene_says("").await;
    assert!(page.contains("no tunnel"), "{page}");
}

/// A real Envoy, which tells the time.
#[tokio::test(flavor = "multi_thread")]
async fn a_real_envoy_is_well() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = listener.local_addr().unwrap();
    let deployment = Deployment::envoy(&[(ROUTE, service)]).await;
    let pomd = deployment.logged_in(&[("echo", ROUTE)]).await;
    let output = pomd.pomctl(&["doctor", "echo"]).await;
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{page}");
    assert!(page.contains("Pomerium answers; clocks agree"), "{page}");
    assert!(
        page.contains("All good: a new connection takes about "),
        "{page}"
    );
    drop(listener);
    let output = pomd.pomctl(&["doctor", "echo"]).await;
    let page = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{page}");
    assert!(
        page.contains("Pomerium can't reach the service behind echo.corp.test:7000 (503)"),
        "{page}"
    );
    assert!(page.contains("1 step failed: upstream."), "{page}");
}
