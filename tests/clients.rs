//! Other people's programs and older servers: what a real client or Pomerium does that ours would not.

use std::{fs, time::Duration};

use gateway::{Script, Upstream};
use integration::{
    deployment::{CLUSTER, Deployment},
    pomd::{Pomd, Setup, cluster, tunnel},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const ECHO: &str = "echo.corp.test:7000";
const GREETER: &str = "greeter.corp.test:3306";
const SECOND: Duration = Duration::from_secs(1);

/// A service that speaks first and then echoes, as MySQL does.
fn greeter() -> Upstream {
    Upstream::service(|mut stream, _| async move {
        if stream.write_all(b"hello").await.is_ok() {
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    })
}

async fn logged_in() -> (Deployment, Pomd) {
    let deployment =
        Deployment::gateway(|it| it.route(ECHO, Upstream::Echo).route(GREETER, greeter())).await;
    let pomd = deployment
        .logged_in(&[("echo", ECHO), ("greeter", GREETER)])
        .await;
    (deployment, pomd)
}

async fn say(stream: &mut TcpStream, word: &[u8]) {
    stream.write_all(word).await.unwrap();
    let mut heard = vec![0; word.len()];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(heard, word);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bytes_are_counted_also_those_that_went_ahead_of_the_answer() {
    let (_corp, pomd) = logged_in().await;
    let mut stream = pomd.connect("echo").await;
    say(&mut stream, &[7; 5000]).await;
    say(&mut stream, b"more").await;
    let counted = |it: &control::wire::Tunnel| (it.bytes.sent, it.bytes.received);
    pomd.wait_for("all bytes are counted", |it| {
        counted(tunnel(it, "echo")) == (5004, 5004)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let (_corp, pomd) = logged_in().await;
    let mut stream = pomd.connect("greeter").await;
    let mut word = [0; 5];
    let heard = timeout(5 * SECOND, stream.read_exact(&mut word)).await;
    heard.unwrap().unwrap();
    assert_eq!(&word, b"hello");
    say(&mut stream, b"and back").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn e5_health_checkers_that_connect_and_close_leave_no_connection_behind() {
    let (deployment, pomd) = logged_in().await;
    // At once, and after a moment in which the route was opened.
    for _ in 0..20 {
        drop(pomd.connect("echo").await);
    }
    let opened = deployment.gateway.stats().opened;
    let mut checkers = Vec::new();
    for _ in 0..20 {
        checkers.push(pomd.connect("echo").await);
    }
    deployment
        .gateway
        .wait_for(|it| it.opened >= opened + 20)
        .await;
    drop(checkers);
    let gone = pomd.wait_for("nothing is open", |it| {
        let echo = tunnel(it, "echo");
        echo.connections.open == 0 && echo.connections.waiting == 0
    });
    timeout(20 * SECOND, gone).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_at_a_server_that_does_not_say_who_works_and_a_wrong_token_does_not() {
    for (status, kind, body) in [
        (404, "text/plain", ""),
        (403, "text/html", "<html>no"),
        (200, "text/html", "<html>an older dashboard</html>"),
        (500, "text/plain", ""),
    ] {
        let deployment = Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await;
        let script = Script::answer(status, kind, body);
        deployment.gateway.script("/.pomerium/user", script);
        let pomd = deployment.logged_in(&[("echo", ECHO)]).await;
        let shown = pomd.status().await;
        assert_eq!(cluster(&shown, CLUSTER).user, None, "{status}");
        say(&mut pomd.connect("echo").await, b"works").await;
        deployment.gateway.end_all_sessions();
        let asked = pomd.client().login(CLUSTER, Default::default()).await;
        assert!(
            asked.unwrap().login.is_some(),
            "{status}: the page tells that the session is over"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a_log_at_trace_holds_neither_token_nor_callback() {
    let deployment = Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await;
    let config = deployment.config(&[("echo", ECHO)]);
    let pomd = Setup::new(&config).env("POMD_LOG", "trace").start().await;
    let mut stream = pomd.connect("echo").await;
    stream.write_all(b"a word").await.unwrap();
    let link = deployment.links.nth(1).await;
    let sign_in = deployment.browser.get(&link).await.unwrap();
    let sign_in = sign_in.header("location").unwrap().to_owned();
    let redirect = url::Url::parse(&sign_in).unwrap();
    let mut pairs = redirect.query_pairs();
    let redirect = pairs.find(|it| it.0 == "pomerium_redirect_uri").unwrap().1;
    let callback = redirect.rsplit('/').next().unwrap();
    deployment.links.sign_in(1, &deployment.browser).await;
    let mut heard = [0; 6];
    stream.read_exact(&mut heard).await.unwrap();
    // Also a refusal, a portal call, and a status.
    pomd.client()
        .login(CLUSTER, Default::default())
        .await
        .unwrap();
    pomd.pomctl(&["status"]).await;
    let token = pomd.setup().saved_token();
    let words = pomd.words();
    assert!(words.contains("TRACE"), "{words:.400}");
    for (what, secret) in [
        ("the token", &*token),
        ("the callback", callback),
        ("the sign-in address", &*sign_in),
        ("the link", link.rsplit('/').next().unwrap()),
    ] {
        let lines: Vec<_> = words.lines().filter(|it| it.contains(secret)).collect();
        assert!(lines.is_empty(), "{what} is in {lines:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f5_an_idle_connection_is_small() {
    const MANY: usize = 300;
    let (_corp, pomd) = logged_in().await;
    let mut kept = Vec::new();
    // The first ones make what is made once.
    for _ in 0..30 {
        let mut stream = pomd.connect("echo").await;
        say(&mut stream, &[1; 30_000]).await;
        kept.push(stream);
    }
    let before = memory(&pomd);
    for _ in 0..MANY {
        let mut stream = pomd.connect("echo").await;
        say(&mut stream, &[1; 30_000]).await;
        kept.push(stream);
    }
    let each = (memory(&pomd) - before) / MANY;
    // The promise is 10; a debug build on a busy machine has some more.
    assert!(each <= 13, "{each} KiB for each idle connection");
}

/// Resident, in KiB.
fn memory(pomd: &Pomd) -> usize {
    let status = fs::read_to_string(format!("/proc/{}/status", pomd.pid())).unwrap();
    let line = status.lines().find(|it| it.starts_with("VmRSS")).unwrap();
    let number = line.split_whitespace().nth(1).unwrap();
    number.parse().unwrap()
}
