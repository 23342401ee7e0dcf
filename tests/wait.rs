//! `pomctl wait` and `pomctl events`, as scripts use them.

use std::process::{Output, Stdio};

use control::wire::{ClusterState, Status, TunnelState};
use gateway::{Script, Upstream};
use integration::{
    PATIENCE,
    binary::binary,
    deployment::{CLUSTER, Deployment, tunnel},
    pomd::{self, Pomd, Setup, run},
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout},
    time::timeout,
};

const ECHO: &str = "echo.corp.test:7000";
const OTHER: &str = "other.corp.test:7000";
const TUNNELS: [(&str, &str); 2] = [("echo", ECHO), ("other", OTHER)];

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ECHO, Upstream::Echo).route(OTHER, Upstream::Echo)).await
}

/// A pomctl that runs, its output piped.
fn starts(setup: &Setup, arguments: &[&str]) -> Child {
    let mut command = setup.command(&binary("pomctl"));
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut command = tokio::process::Command::from(command);
    command.kill_on_drop(true).spawn().unwrap()
}

async fn ends(child: Child) -> Output {
    timeout(PATIENCE, child.wait_with_output())
        .await
        .unwrap()
        .unwrap()
}

/// Exit code and first line of what `wait` says when its time is over.
async fn is_late(pomd: &Pomd, arguments: &[&str]) -> (Option<i32>, String) {
    let output = pomd
        .pomctl(&[&["wait", "--timeout", "300ms"], arguments].concat())
        .await;
    assert!(output.stdout.is_empty(), "{output:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    (
        output.status.code(),
        words.lines().next().unwrap_or_default().to_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn g28_wait_says_why_it_is_not_ready_and_changes_nothing() {
    let deployment = deployment().await;
    let more = tunnel("manual", ECHO, "start = \"manual\"");
    let config = deployment.config(&TUNNELS) + &more;
    let pomd = Setup::new(&config).start().await;
    let late = "was not ready within 300 ms";
    assert_eq!(
        is_late(&pomd, &["echo"]).await,
        (Some(4), format!("error: echo {late}: corp needs a login"))
    );
    let status = pomd.status().await;
    assert_eq!(
        pomd::cluster(&status, CLUSTER).state,
        ClusterState::LoginNeeded
    );
    assert!(deployment.links.all().is_empty(), "it opened a login");
    assert_eq!(
        is_late(&pomd, &["manual"]).await,
        (
            Some(1),
            format!("error: manual {late}: it is down; to start it: pomctl up manual")
        )
    );
    let client = pomd.client();
    assert!(client.probe("manual").await.is_err());
    let state = pomd::tunnel(&pomd.status().await, "manual").state;
    assert_eq!(state, TunnelState::Down, "a proof started it");
    let (code, words) = is_late(&pomd, &["ehco"]).await;
    assert_eq!(
        (code, words.as_str()),
        (Some(2), "error: no tunnel ehco; did you mean echo?")
    );
    deployment.log_in(&pomd).await;
    deployment.gateway.script(OTHER, Script::refuse(403));
    let (code, words) = is_late(&pomd, &["echo", "other"]).await;
    assert_eq!(code, Some(1));
    assert!(
        words.starts_with(&format!("error: other {late}: ")) && words.contains("403"),
        "{words}"
    );
    deployment.gateway.forgive();
    deployment.gateway.script(OTHER, Script::silence());
    let fresh = Setup::new(&deployment.config(&TUNNELS)).start().await;
    deployment.log_in(&fresh).await;
    let silent = format!("error: other {late}: its route has not opened yet");
    assert_eq!(is_late(&fresh, &["other"]).await, (Some(1), silent));
    let output = pomd.pomctl(&["wait", "echo", "--json"]).await;
    assert!(output.status.success(), "{output:?}");
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["ready"][0], "echo");
}

#[tokio::test(flavor = "multi_thread")]
async fn g28_wait_ends_when_the_tunnels_work_whatever_was_missing() {
    let deployment = deployment().await;
    let setup = Setup::new(&deployment.config(&TUNNELS));
    let waiting = starts(&setup, &["wait", "echo", "other", "--timeout", "60s"]);
    let pomd = setup.start().await;
    deployment.gateway.script(OTHER, Script::refuse(503));
    deployment.log_in(&pomd).await;
    deployment.gateway.forgive();
    let output = ends(waiting).await;
    assert!(output.status.success(), "{output:?}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}"
    );
    assert!(deployment.links.all().is_empty(), "it opened a login");
}

#[tokio::test(flavor = "multi_thread")]
async fn g28_wait_without_pomd_says_that_it_is_not_running_and_starts_none() {
    let setup = Setup::new("");
    let mut command = setup.command(&binary("pomctl"));
    command.args(["wait", "echo", "--timeout", "0.2s"]);
    let output = run(command, PATIENCE).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let words = String::from_utf8(output.stderr).unwrap();
    let expected = "error: pomd was not ready within 200 ms: it is not running\n";
    assert_eq!(words, expected);
    assert!(!setup.socket().exists());
}

async fn next(lines: &mut tokio::io::Lines<BufReader<ChildStdout>>) -> Status {
    let line = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    serde_json::from_str(&line.unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn g21_events_are_the_status_at_once_and_after_each_change() {
    let deployment = deployment().await;
    let pomd = deployment.pomd(&TUNNELS).await;
    let mut following = starts(pomd.setup(), &["events"]);
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let first = next(&mut lines).await;
    assert_eq!(
        pomd::cluster(&first, CLUSTER).state,
        ClusterState::LoginNeeded
    );
    deployment.log_in(&pomd).await;
    let logged_in = async {
        while pomd::cluster(&next(&mut lines).await, CLUSTER).state != ClusterState::LoggedIn {}
    };
    timeout(PATIENCE, logged_in).await.unwrap();
    pomd.client().stop().await.unwrap();
    let output = ends(following).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
    let output = pomd.pomctl(&["events"]).await;
    assert_eq!(output.status.code(), Some(3), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn g21_only_the_newest_lines_of_the_log_where_so_many_are_asked_for() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let all = pomd.pomctl(&["logs"]).await;
    let all: Vec<String> = lines_of(&all);
    assert!(all.len() > 2, "{all:?}");
    assert_eq!(
        lines_of(&pomd.pomctl(&["logs", "-n", "2"]).await),
        all[all.len() - 2..]
    );
    assert_eq!(
        lines_of(&pomd.pomctl(&["logs", "--tail", "1000"]).await),
        all
    );
    let mut following = starts(pomd.setup(), &["logs", "-f", "-n", "1"]);
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    let first = timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(first.as_ref(), all.last());
    following.kill().await.unwrap();
}

fn lines_of(output: &Output) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn g28_wait_for_what_works_already_waits_for_nothing() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let connects = deployment.gateway.stats().connects;
    for _ in 0..3 {
        let output = pomd.pomctl(&["wait", "echo", "other"]).await;
        assert!(output.status.success(), "{output:?}");
    }
    let opened = deployment.gateway.stats().connects - connects;
    // At most one in 5 s for a tunnel.
    assert!((2..=4).contains(&opened), "{opened} routes were opened");
}
