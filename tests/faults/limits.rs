//! F14: nobody who calls is held for ever. Each step that meets silence ends with its limit and its name. Steps whose
//! limits are minutes are tried in virtual time beside them; DNS and dialling have machines of their own in `offline`.

use std::time::Duration;

use control::wire::Code;
use gateway::{ANY, Script};
use integration::{
    bystander::echoes,
    deployment::Who,
    pomd::cluster,
    relay::{Cut, Way, Ways},
    scenario::{ECHO, Scenario},
};
use rustix::process::Signal;
use tokio::time::Instant;

/// What a loaded machine may add to a limit.
const SLACK: Duration = Duration::from_secs(6);

/// A new connection is refused so, not before `limit` and not long after it.
async fn ends_after(scenario: &Scenario, limit: u64, words: &str) {
    let limit = Duration::from_secs(limit);
    let start = Instant::now();
    let reason = scenario.refuses(Code::Timeout, words).await;
    let took = start.elapsed();
    let in_time = took >= limit && took < limit + SLACK;
    assert!(in_time, "{reason:?} after {took:?}");
}

/// The handshake stops after so many bytes of the server's.
async fn handshake(stops_after: u64) {
    let scenario = Scenario::new(Who::Gateway).await;
    let mut open = scenario.open(ECHO).await;
    scenario.relay.set_new(Some(Ways {
        up: Way::PLAIN,
        down: Way::cut(stops_after, Cut::Stall),
    }));
    let words = "the TLS handshake with echo.corp.test took more than 10 s";
    ends_after(&scenario, 10, words).await;
    echoes(&mut open, b"still here").await;
    drop(open);
    scenario.relay.set_new(None);
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_t2_a_handshake_that_stops_anywhere_ends_after_its_limit() {
    // Behind the ClientHello, and in the middle of what follows the ServerHello.
    tokio::join!(handshake(0), handshake(500));
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_connect_without_an_answer_ends_after_its_limit() {
    let scenario = Scenario::new(Who::Gateway).await;
    scenario.deployment.gateway.script(ANY, Script::silence());
    ends_after(&scenario, 20, "20 s").await;
    scenario.deployment.gateway.forgive();
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_login_that_is_asked_for_and_gets_no_answer_ends_after_its_limit() {
    let mut scenario = Scenario::new(Who::Gateway).await;
    let gateway = &scenario.deployment.gateway;
    gateway.script("/.pomerium/api/v1/login", Script::silence());
    gateway.end_all_sessions();
    let start = Instant::now();
    let answer = scenario
        .meanwhile(scenario.pomd.client().login("corp", Default::default()))
        .await;
    let took = start.elapsed();
    assert!(
        took < Duration::from_secs(10) + SLACK,
        "{took:?}: {answer:?}"
    );
    let told = format!("{answer:?}");
    let named = told.contains("cannot start a login to corp") && told.contains("within 10 s");
    assert!(named, "{told}");
    gateway.forgive();
    scenario.deployment.log_in(&scenario.pomd).await;
    scenario.forget_logins();
    scenario.recovers().await;
}

/// A question to a pomd that stands still.
#[tokio::test(flavor = "multi_thread")]
async fn f14_pomctl_gives_a_pomd_up_that_does_not_answer() {
    let mut scenario = Scenario::new(Who::Gateway).await;
    let mut open = scenario.open(ECHO).await;
    scenario.pomd.process().stand_still().await;
    let start = Instant::now();
    let output = scenario.pomd.pomctl(&["status"]).await;
    let took = start.elapsed();
    scenario.pomd.process().signal(Signal::CONT);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_ne!(output.status.code(), Some(0), "{said}");
    assert!(took < Duration::from_secs(10) + SLACK, "{took:?}");
    assert!(
        said.contains("10 s") || said.contains("did not answer"),
        "{said}"
    );
    echoes(&mut open, b"still here").await;
    drop(open);
    scenario.recovers().await;
    let state = cluster(&scenario.pomd.status().await, "corp").state;
    assert_eq!(state, control::wire::ClusterState::LoggedIn);
}
