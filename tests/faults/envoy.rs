//! H9: the real Envoy killed, stopped, drained and restarted, in the middle of transfers.

use std::time::Duration;

use control::wire::Code;
use integration::{
    bystander::echoes,
    client::{Ending, pattern, read_all},
    deployment::Who,
    scenario::{ECHO, Scenario},
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

/// How long Envoy is stopped.
const STOPPED: Duration = Duration::from_secs(5);

fn signal(scenario: &mut Scenario, signal: Signal) {
    scenario.deployment.envoy.as_mut().unwrap().signal(signal);
}

#[tokio::test(flavor = "multi_thread")]
async fn h9_an_envoy_that_is_killed_in_a_transfer_is_a_cut_and_works_at_once_after_a_restart() {
    const N: usize = 8 << 20;
    let mut scenario = Scenario::new(Who::Envoy).await;
    let said = pattern(N);
    let (mut from, mut to) = scenario.open(ECHO).await.into_split();
    let mut got = vec![0; N / 8];
    let reading = async {
        from.read_exact(&mut got).await.unwrap();
        signal(&mut scenario, Signal::KILL);
        let (rest, ending) = read_all(&mut from).await;
        got.extend(rest);
        ending
    };
    // It fails in the middle.
    let (ending, _) = tokio::join!(reading, to.write_all(&said));
    assert!(
        said.starts_with(&got) && got.len() < N,
        "{} bytes",
        got.len()
    );
    assert_eq!(ending, Ending::Reset);
    scenario.relay.close().await;
    scenario.refuses(Code::Tcp, "connection refused").await;
    scenario.restart_envoy().await;
    scenario.relay.open().await;
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h9_an_envoy_that_stands_still_for_five_seconds_loses_nothing() {
    const N: usize = 8 << 20;
    let mut scenario = Scenario::new(Who::Envoy).await;
    let said = pattern(N);
    let mut open = scenario.open(ECHO).await;
    let (mut from, mut to) = open.split();
    let envoy = scenario.deployment.envoy.as_mut().unwrap();
    envoy.stand_still().await;
    let pid = envoy.pid().cast_signed();
    let mut got = vec![0; N];
    let new = async {
        let mut stream = scenario.connect(ECHO).await;
        echoes(&mut stream, b"came meanwhile").await;
    };
    let going_on = async {
        sleep(STOPPED).await;
        kill_process(Pid::from_raw(pid).unwrap(), Signal::CONT).unwrap();
    };
    let all = async {
        tokio::join!(
            going_on,
            from.read_exact(&mut got),
            to.write_all(&said),
            new
        )
    };
    let ((), heard, sent, ()) = scenario.meanwhile(all).await;
    heard.unwrap();
    sent.unwrap();
    assert!(got == said);
    drop(open);
    scenario.recovers().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h9_an_envoy_that_is_drained_and_restarted_keeps_what_is_open_until_it_ends() {
    let mut scenario = Scenario::new(Who::Envoy).await;
    let mut open = scenario.open(ECHO).await;
    scenario.deployment.envoy.as_ref().unwrap().drain().await;
    scenario.relay.close().await;
    scenario.refuses(Code::Tcp, "connection refused").await;
    echoes(&mut open, b"still here").await;
    scenario.restart_envoy().await;
    // An Envoy that is told to end says close_notify on all it carries: that cannot be told from an end.
    assert_eq!(read_all(&mut open).await.0, b"");
    drop(open);
    scenario.relay.open().await;
    scenario.recovers().await;
}
