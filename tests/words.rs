//! What a person reads, with nothing made up: pomctl and pomd talk to each other here.

use control::wire::TunnelState;
use gateway::Upstream;
use integration::{
    deployment::Deployment,
    pomd::{self, Pomd},
};

async fn deployment() -> Deployment {
    Deployment::gateway(|it| {
        it.domain("corp.test")
            .route("hello.corp.test:80", Upstream::Hello)
    })
    .await
}

/// What pomctl says on both streams, and its exit code.
async fn said(pomd: &Pomd, arguments: &[&str]) -> (Option<i32>, String) {
    let output = pomd.pomctl(arguments).await;
    let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
    let both = text(&output.stdout) + &text(&output.stderr);
    (output.status.code(), both)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_login_names_its_remedy_once_for_each_tunnel() {
    let deployment = deployment().await;
    let tunnels = [("hello", "hello.corp.test:80"), ("bye", "bye.corp.test:80")];
    let pomd = deployment.pomd(&tunnels).await;
    let (code, page) = said(&pomd, &["status"]).await;
    assert_eq!(code, Some(4), "{page}");
    let told = page.matches("Run: pomctl login corp").count();
    assert_eq!(told, tunnels.len(), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_is_told_again_is_seen_again_in_the_status() {
    let deployment = deployment().await;
    let pomd = deployment
        .logged_in(&[("wrong", "wrong.corp.test:80")])
        .await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        let (code, words) = said(&pomd, &["up", "wrong"]).await;
        assert_eq!(code, Some(1), "{words}");
        assert!(
            words.starts_with("error: corp has no route wrong.corp.test:80 (404)\n"),
            "{words}"
        );
        let status = pomd.status().await;
        let tunnel = pomd::tunnel(&status, "wrong");
        assert_eq!(tunnel.state, TunnelState::Error, "{tunnel:?}");
        let reason = tunnel.reason.clone().unwrap();
        seen.push((reason.code, reason.message, reason.request_id));
    }
    assert_eq!(seen[0], seen[1], "the second answer is the first one again");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_what_changed_and_nothing_where_nothing_did() {
    let deployment = deployment().await;
    let pomd = deployment.pomd(&[("hello", "hello.corp.test:80")]).await;
    for _ in 0..2 {
        said(&pomd, &["reload"]).await;
        said(&pomd, &["down", "hello"]).await;
    }
    let (code, log) = said(&pomd, &["logs"]).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(
        log.contains("configuration read: 1 added: hello\n"),
        "{log}"
    );
    assert_eq!(log.matches("configuration read").count(), 1, "{log}");
    assert!(!log.contains("0 connections"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_broken_from_the_start_is_told_as_such() {
    let pomd = Pomd::start("[tunnel.a]\nrout = \"a.corp.test:22\"\n").await;
    let (code, page) = said(&pomd, &["status"]).await;
    assert_eq!(code, Some(1), "{page}");
    assert!(
        page.contains("; pomd has no tunnels until you fix it. Run: pomd check\n"),
        "{page}"
    );
    assert!(!page.contains("No tunnels yet"), "{page}");
    for arguments in [["up", "--all"].as_slice(), &["up", "a"], &["reload"]] {
        let (code, words) = said(&pomd, arguments).await;
        assert_eq!(code, Some(2), "{arguments:?}: {words}");
        assert!(words.contains("did you mean `route`?"), "{words}");
        assert!(
            words.ends_with("2 errors; pomd has no tunnels until you fix it\n"),
            "{words}"
        );
    }
}
