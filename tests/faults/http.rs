//! Answers of Pomerium that open no route: refusals, nonsense, heads without measure, ends before an answer.

use control::wire::{Code, TunnelState};
use gateway::{ANY, End, Gate, Script};
use integration::{
    bystander::echoes,
    client::{Ending, pattern, read_all},
    deployment::Who,
    scenario::{ECHO, ROUTE, Scenario},
};
use tokio::io::AsyncWriteExt;

/// What the user is told of each status; the token is kept whatever it is.
fn told(status: u16) -> (Code, String) {
    let (code, words) = match status {
        403 => (
            Code::Forbidden,
            "demo@example.com may not use echo.corp.test:7000",
        ),
        404 => (Code::NoSuchRoute, "corp has no route echo.corp.test:7000"),
        450 => (Code::DeviceNotAllowed, "corp doesn't know this device yet"),
        495 => (
            Code::ClientCertificateRequired,
            "corp wants a client certificate, and none is set",
        ),
        502..=504 => (
            Code::UpstreamUnavailable,
            "Pomerium can't reach the service behind echo.corp.test:7000",
        ),
        _ => (Code::Http, "Pomerium did not open echo.corp.test:7000"),
    };
    (code, format!("{words} ({status})"))
}

#[tokio::test(flavor = "multi_thread")]
async fn h1_each_refusal_is_told_in_its_words_and_keeps_the_token() {
    let scenario = Scenario::new(Who::Gateway).await;
    let gateway = &scenario.deployment.gateway;
    let mut open = scenario.open(ECHO).await;
    // Those that mean "log in" are tried with the token.
    let login = |it: &u16| matches!(it, 401 | 301..=303 | 307 | 308);
    let plain = [101, 201, 204, 206, 226, 300, 304, 305, 306];
    for status in plain.into_iter().chain(400..=599).filter(|it| !login(it)) {
        gateway.script(ANY, Script::refuse(status));
        let (code, words) = told(status);
        let reason = scenario.refuses_one(ECHO, code, &words).await;
        if matches!(status, 403 | 404 | 450 | 495 | 502 | 503 | 429 | 407) {
            scenario.tells_ssh(&reason).await;
        }
        gateway.forgive();
        scenario.meanwhile(scenario.carries(ECHO)).await;
    }
    echoes(&mut open, b"still here").await;
    drop(open);
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h4_a_head_without_measure_is_refused() {
    let scenario = Scenario::new(Who::Gateway).await;
    let lines = (0..10_000).fold(Script::new(), |it, n| it.header(&format!("x-{n}"), "y"));
    for script in [
        Script::endless_head(),
        Script::new().header("x-long", "y".repeat(129 << 10)),
        lines,
        Script::new().interim([103; 200]),
    ] {
        scenario.deployment.gateway.script(ANY, script.clone());
        let reason = scenario.refuses(Code::Http, "").await;
        scenario.tells_ssh(&reason).await;
        scenario.deployment.gateway.forgive();
        scenario.recovers().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h5_what_is_no_answer_is_shown_harmless_and_keeps_the_token() {
    let scenario = Scenario::new(Who::Gateway).await;
    for (script, words) in [
        (Script::bytes("ICY 200 OK\r\n\r\n"), "«ICY 200 OK"),
        (
            Script::bytes("220 mail.test ESMTP\r\n"),
            "«220 mail.test ESMTP",
        ),
        (Script::bytes("\x1b]0;x\x07\x00\n"), "«"),
        (Script::bytes(vec![0xff; 100]), "«"),
        (
            Script::bytes("HTTP/2.0 401 Unauthorized\r\n\r\n"),
            "«HTTP/2.0 401",
        ),
        (Script::bytes("HTTP/1.1 401"), ""),
        (Script::bytes(""), ""),
        (Script::hang_up(End::Cut), ""),
        (Script::hang_up(End::Reset), ""),
    ] {
        scenario.deployment.gateway.script(ANY, script);
        let reason = scenario.refuses(Code::Http, words).await;
        assert!(!reason.message.contains(char::is_control), "{reason:?}");
        // ssh escapes once more what is escaped already.
        if !reason.message.contains('\\') {
            scenario.tells_ssh(&reason).await;
        }
        scenario.deployment.gateway.forgive();
        scenario.meanwhile(scenario.carries(ECHO)).await;
    }
    scenario.recovers().await;
}

/// A refusal may be followed by a reset while we still write: it is told all the same.
async fn h6_a_refusal_is_told_although_more_was_said_than_was_read(who: Who) {
    let scenario = Scenario::new(who).await;
    let gateway = &scenario.deployment.gateway;
    for n in [1, 100_000, 2_000_000] {
        gateway.forbid(gateway::DEMO_USER, ROUTE);
        let refused = async {
            let mut stream = scenario.connect(ECHO).await;
            let said = stream.write_all(&pattern(n)).await;
            let (got, ending) = read_all(&mut stream).await;
            assert_eq!(got, b"");
            assert!(
                said.is_err() || ending == Ending::Reset,
                "{said:?}, {ending:?}"
            );
        };
        scenario.meanwhile(refused).await;
        let reason = scenario.refuses(Code::Forbidden, "(403)").await;
        assert!(reason.request_id.is_some(), "{reason:?}");
        gateway.allow(gateway::DEMO_USER, ROUTE);
        scenario.recovers().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h1_a_refusal_that_was_on_its_way_before_another_was_let_in_is_no_state() {
    let scenario = Scenario::new(Who::Gateway).await;
    let gateway = &scenario.deployment.gateway;
    let gate = Gate::new();
    gateway.script(ANY, Script::refuse(503).held_by(&gate).times(1));
    let before = gateway.stats().connects;
    let mut held = scenario.connect(ECHO).await;
    held.write_all(b"late").await.unwrap();
    gateway.wait_for(|it| it.connects > before).await;
    scenario.meanwhile(scenario.carries(ECHO)).await;
    gate.open();
    // Whoever was refused is told; that is after it was noted.
    assert_eq!(read_all(&mut held).await, (Vec::new(), Ending::Reset));
    let it = scenario.pomd.status().await;
    let it = integration::pomd::tunnel(&it, ECHO);
    assert_eq!((it.state, &it.reason), (TunnelState::Up, &None));
    scenario.recovers().await;
}

/// The connection ends while the answer is awaited.
async fn h9_an_end_before_the_answer_is_told(who: Who) {
    let scenario = Scenario::new(who).await;
    let gate = Gate::new();
    for (how, script) in [
        (integration::relay::Cut::Reset, Script::new().held_by(&gate)),
        (integration::relay::Cut::Fin, Script::new().held_by(&gate)),
    ] {
        let path = match who {
            Who::Gateway => ROUTE,
            Who::Envoy => "/.gateway/check",
        };
        scenario.deployment.gateway.script(path, script.times(1));
        let asked = scenario.deployment.gateway.stats().requests.len();
        let cutting = async {
            scenario
                .deployment
                .gateway
                .wait_for(|it| it.requests.len() > asked)
                .await;
            scenario.relay.end_all(how).await;
        };
        let refusing =
            async { tokio::join!(scenario.refuses_one(ECHO, Code::Http, ""), cutting).0 };
        let reason = scenario.meanwhile(refusing).await;
        assert!(reason.message.contains("corp.test"), "{reason:?}");
        scenario.recovers().await;
    }
    gate.open();
}

with_both! {
    h6_a_refusal_is_told_although_more_was_said_than_was_read
    h9_an_end_before_the_answer_is_told
}
