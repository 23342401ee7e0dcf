//! What comes before the bytes: the flight they leave in, answers of all shapes, a login in between.

use control::wire::{Code, TunnelState};
use gateway::{Gate, Pace, Script};
use integration::{
    client::{Ending, pattern, read_all},
    pomd::tunnel,
};
use tokio::io::AsyncWriteExt;

use super::{Lab, ROUTE, Who, assert_same, hear, whole};

/// How many early bytes came with each CONNECT to the service.
fn early(lab: &Lab) -> Vec<usize> {
    let stats = lab.deployment.gateway.stats();
    let connects = stats.requests.iter().filter(|it| it.method == "CONNECT");
    connects.map(|it| it.early).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn first_bytes_leave_in_the_flight_of_the_head() {
    let lab = Lab::new(Who::Gateway).await;
    // What fits into the first record with the head.
    let sizes = [1, 100, 8_000];
    for n in sizes {
        let said = pattern(n);
        let mut local = lab.connect(&said).await;
        let mut service = lab.accept().await;
        assert_same(&hear(&mut service, n).await, &said);
        service.write_all(b"heard").await.unwrap();
        assert_eq!(hear(&mut local, 5).await, b"heard");
    }
    assert_eq!(early(&lab), sizes);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_reaches_a_service_before_the_server_agreed() {
    let lab = Lab::new(Who::Gateway).await;
    let gate = Gate::new();
    let held = Script::new().held_by(&gate).times(1);
    lab.deployment.gateway.script(ROUTE, held);
    let said = pattern(2_000_000);
    let before = lab.deployment.gateway.stats().connects;
    let speaking = lab.connect(&said);
    let opening = async {
        lab.deployment
            .gateway
            .wait_for(|it| it.connects == before + 1)
            .await;
        let other_user =
            tokio::time::timeout(std::time::Duration::ZERO, lab.service.accept()).await;
        assert!(other_user.is_err());
        gate.open();
        let mut service = lab.accept().await;
        hear(&mut service, said.len()).await
    };
    let (_local, heard) = tokio::join!(speaking, opening);
    assert_same(&heard, &said);
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_h3_h4_answers_of_any_shape_open_the_route() {
    let lab = Lab::new(Who::Gateway).await;
    let first = "5\r\nthese bytes are the service's\r\n0\r\n\r\n";
    for script in [
        Script::new().header("content-length", "5"),
        Script::new().header("transfer-encoding", "chunked"),
        Script::new().header("connection", "close"),
        Script::new().header("x-long", "y".repeat(60_000)),
        Script::new().interim([100, 103, 102, 199]),
        Script::new().interim([100; 100]),
        Script::new().pace(Pace::ByteByByte),
        Script::new().pace(Pace::ByteByByte).interim([103; 3]),
    ] {
        let shown: String = format!("{script:?}").chars().take(300).collect();
        let script = script.first(first).times(1);
        lab.deployment.gateway.script(ROUTE, script);
        let mut local = lab.connect(b"hello").await;
        let mut service = lab.accept().await;
        assert_eq!(hear(&mut service, 5).await, b"hello", "{shown}");
        service.write_all(b"bye").await.unwrap();
        drop(service);
        let got = whole(&mut local).await;
        let got = String::from_utf8_lossy(&got);
        assert_eq!(got, format!("{first}bye"), "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h2_h4_a_head_without_measure_is_refused_and_the_next_connection_works() {
    let lab = Lab::hasty().await;
    for script in [
        Script::endless_head(),
        Script::new().header("x-long", "y".repeat(129 << 10)),
        Script::new().interim([103; 200]),
    ] {
        let shown: String = format!("{script:?}").chars().take(200).collect();
        lab.deployment.gateway.script(ROUTE, script.times(1));
        let mut local = lab.connect(b"hello").await;
        let ended = read_all(&mut local).await;
        assert_eq!(ended, (Vec::new(), Ending::Reset), "{shown}");
        let shows = lab
            .pomd
            .wait_for_tunnel("service", TunnelState::Error)
            .await;
        assert_eq!(shows.reason.map(|it| it.code), Some(Code::Http), "{shown}");
        // Those that were opened before pomd lost its patience.
        let stray =
            tokio::time::timeout(std::time::Duration::from_millis(50), lab.service.accept());
        drop(stray.await);
        let (local, service) = lab.open().await;
        drop(service);
        let mut local = local;
        assert_eq!(whole(&mut local).await, b"");
        let status = lab.pomd.status().await;
        assert_eq!(tunnel(&status, "service").state, TunnelState::Up, "{shown}");
    }
}

async fn is_said_once_after_a_login(n: usize) {
    let lab = Lab::new(Who::Gateway).await;
    lab.deployment.gateway.end_all_sessions();
    let before = lab.deployment.gateway.stats();
    let said = pattern(n);
    let serving = async {
        lab.deployment
            .links
            .sign_in(1, &lab.deployment.browser)
            .await;
        lab.accept().await
    };
    let (mut local, mut service) = tokio::join!(lab.connect(&said), serving);
    assert_same(&hear(&mut service, n).await, &said);
    local.write_all(b"and then").await.unwrap();
    local.shutdown().await.unwrap();
    assert_eq!(hear(&mut service, 8).await, b"and then");
    drop(service);
    assert_eq!(whole(&mut local).await, b"");
    let after = lab.deployment.gateway.stats();
    let count = |it: &gateway::Stats| (it.refused, it.upstream_connections);
    let (refused, opened) = count(&before);
    assert_eq!(count(&after), (refused + 1, opened + 1));
    lab.is_quiet().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_before_a_login_is_said_once_after_it() {
    is_said_once_after_a_login(10_000).await;
}

/// More than is kept.
#[tokio::test(flavor = "multi_thread")]
async fn much_that_was_said_before_a_login_is_said_once_after_it() {
    is_said_once_after_a_login(300_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_resets_and_says_nothing_to_the_client() {
    let lab = Lab::hasty().await;
    for n in [1, 100_000, 2_000_000] {
        lab.deployment
            .gateway
            .script(ROUTE, Script::refuse(403).times(1));
        let mut local = tokio::net::TcpStream::connect(lab.address).await.unwrap();
        // The refusal may come in the middle of it, and a reset is told only once.
        let said = local.write_all(&pattern(n)).await;
        let (got, ending) = read_all(&mut local).await;
        let reset = said.is_err() || ending == Ending::Reset;
        assert!(got.is_empty() && reset, "{n} bytes: {said:?}, {ending:?}");
        let shows = lab
            .pomd
            .wait_for_tunnel("service", TunnelState::Error)
            .await;
        assert_eq!(shows.reason.map(|it| it.code), Some(Code::Forbidden));
    }
    lab.is_quiet().await;
}
