//! Sessions that are over: found by the connection itself, or by the clock; and clients that leave while one is made anew.

use std::{
    io::Read,
    process::{Output, Stdio},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use control::wire::{ClusterState, TunnelState};
use gateway::{Script, Upstream};
use integration::{
    PATIENCE,
    binary::binary,
    deployment::{CLUSTER, Deployment, tunnel},
    eventually,
    pomd::{self, Pomd, Setup, cluster},
};
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
    sync::mpsc,
    task::JoinSet,
    time::Instant,
};

use super::super::stdio::{Ends, terminal};
use super::{ECHO, LOGIN_NEEDED, SSH, TUNNELS, carries, echoes, ssh_is_told};

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

/// The same, without any way to show a login.
fn without_browser(deployment: &Deployment) -> String {
    let key = format!("browser = {}", deployment.links.key());
    deployment
        .config(&TUNNELS)
        .replace(&key, "browser = \"none\"")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What ssh would print of `stdout`, where that is nothing but a refusal.
fn told_to_ssh(output: &Output) -> String {
    let packet = output.stdout.strip_prefix(b"SSH-2.0-pomd\r\n");
    let packet = packet.unwrap_or_else(|| panic!("no refusal: {output:?}"));
    let length = u32::from_be_bytes(packet[10..14].try_into().unwrap());
    text(&packet[14..14 + length as usize])
}

async fn connect(pomd: &Pomd, arguments: &[&str], input: &[u8]) -> Output {
    let mut command = pomd.setup().command(&binary("pomctl"));
    command.arg("connect").args(arguments);
    pomd::run_with_input(command, input, PATIENCE * 2).await
}

#[tokio::test(flavor = "multi_thread")]
async fn l13_a_connection_that_finds_its_session_over_says_so_and_goes_on_after_the_login() {
    for arguments in [&["--ssh", SSH][..], &[ECHO]] {
        let deployment = deployment().await;
        let pomd = deployment.logged_in(&TUNNELS).await;
        deployment.gateway.end_all_sessions();
        let mut child = pomd.pomctl_connect(arguments);
        let early = b"SSH-2.0-said before the login\r\n";
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(early).await.unwrap();
        deployment.links.sign_in(1, &deployment.browser).await;
        let mut heard = vec![0; early.len()];
        let reading = child.stdout.as_mut().unwrap().read_exact(&mut heard);
        tokio::time::timeout(PATIENCE, reading)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(heard, early, "said once, and not again");
        child.start_kill().unwrap();
        let said = text(&child.wait_with_output().await.unwrap().stderr);
        let words = "pomctl: corp needs a login; your browser was opened at http://127.0.0.1:";
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert_eq!(deployment.links.all().len(), 1, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l13_where_nobody_is_at_a_terminal_a_session_that_is_over_is_told_within_the_caller_s_limit()
 {
    for config in [|it: &Deployment| it.config(&TUNNELS), without_browser] {
        let deployment = deployment().await;
        let pomd = Pomd::start(&config(&deployment)).await;
        deployment.log_in(&pomd).await;
        deployment.gateway.end_all_sessions();
        let begun = Instant::now();
        let output = connect(&pomd, &["--ssh", SSH], b"SSH-2.0-x\r\n").await;
        assert!(begun.elapsed() < Duration::from_secs(15), "{output:?}");
        let expected = format!("pomd: {LOGIN_NEEDED}");
        assert_eq!(told_to_ssh(&output), expected, "{output:?}");
        assert_eq!(output.status.code(), Some(4));
        let said = text(&output.stderr);
        assert!(said.starts_with("pomctl: corp needs a login"), "{said}");
        assert!(said.contains("http"), "where to log in: {said}");
        // The login is there for whoever comes back.
        let status = pomd.status().await;
        let state = cluster(&status, CLUSTER).state;
        assert_eq!(state, ClusterState::LoginRunning);
        assert_eq!(pomd.pomctl(&["status"]).await.status.code(), Some(4));
    }
}

/// What is shown on a terminal, whether somebody waits for it or not: a terminal that nobody reads would hold its
/// program up.
fn shown(mut screen: std::fs::File) -> mpsc::Receiver<Vec<u8>> {
    let (shown, reader) = mpsc::channel(1000);
    std::thread::spawn(move || {
        let mut piece = [0; 4096];
        // The end of the last program on it is an error.
        while let Ok(n) = screen.read(&mut piece) {
            if shown.blocking_send(piece[..n].to_vec()).is_err() {
                return;
            }
        }
    });
    reader
}

/// Waits for a whole address on a terminal that begins like this.
async fn address_on(screen: &mut mpsc::Receiver<Vec<u8>>, beginning: &str) -> String {
    let mut shown = String::new();
    let reading = async {
        loop {
            shown.push_str(&text(&screen.recv().await.unwrap()));
            let address = shown.find(beginning).map(|it| &shown[it..]);
            let end = address.and_then(|it| it.find(|it: char| it.is_whitespace()));
            if let (Some(address), Some(end)) = (address, end) {
                return address[..end].to_owned();
            }
        }
    };
    let found = tokio::time::timeout(PATIENCE, reading).await;
    found.unwrap_or_else(|_| panic!("no {beginning} on the terminal"))
}

#[tokio::test(flavor = "multi_thread")]
async fn l13_who_sits_at_a_terminal_sees_the_address_at_once_and_the_connection_waits_for_the_login()
 {
    for (command, arguments) in [
        ("connect", &["--ssh", SSH][..]),
        ("connect", &[ECHO]),
        ("up", &["echo"]),
    ] {
        for has_browser in [true, false] {
            let deployment = deployment().await;
            let config = match has_browser {
                true => deployment.config(&TUNNELS),
                false => without_browser(&deployment),
            };
            let pomd = Pomd::start(&config).await;
            deployment.log_in(&pomd).await;
            let opened = deployment.links.all().len();
            deployment.gateway.end_all_sessions();
            let terminal = terminal();
            // The streams of `connect` are ssh's.
            let stream = |terminal: &Ends| match command {
                "connect" => Stdio::piped(),
                _ => terminal.stdio(),
            };
            let mut program = Command::from(pomd.setup().command(&binary("pomctl")));
            let program = program.arg(command).args(arguments);
            let mut child = program
                .stdin(stream(&terminal))
                .stdout(stream(&terminal))
                .stderr(terminal.stdio())
                .kill_on_drop(true)
                .spawn()
                .unwrap();
            let (screen, theirs) = terminal.split();
            drop(theirs);
            let mut screen = shown(screen);
            let mut stdin = child.stdin.take();
            let early = b"SSH-2.0-said before the login\r\n";
            if let Some(stdin) = &mut stdin {
                stdin.write_all(early).await.unwrap();
            }
            let page = if has_browser {
                address_on(&mut screen, "http://127.0.0.1:").await;
                deployment
                    .links
                    .sign_in(opened + 1, &deployment.browser)
                    .await
            } else {
                let address = address_on(&mut screen, "https://").await;
                deployment.browser.visit(&address).await.unwrap()
            };
            assert_eq!(page.status, 200, "{command} {arguments:?}: {page:?}");
            if command == "connect" {
                let mut heard = vec![0; early.len()];
                let reading = child.stdout.as_mut().unwrap().read_exact(&mut heard);
                let heard_all = tokio::time::timeout(PATIENCE, reading).await;
                let what = format!("{arguments:?}, a browser: {has_browser}");
                assert!(matches!(heard_all, Ok(Ok(_))), "{what}: {heard_all:?}");
                assert_eq!(heard, early, "said once, and not again");
                child.start_kill().unwrap();
            } else {
                let ended = tokio::time::timeout(PATIENCE, child.wait()).await;
                assert_eq!(ended.unwrap().unwrap().code(), Some(0));
            }
            assert!(deployment.links.all().len() <= opened + 1, "{command}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn l13_ssh_on_a_port_and_up_lead_to_the_login_when_the_session_is_over() {
    let deployment = deployment().await;
    let pomd = Pomd::start(&without_browser(&deployment)).await;
    deployment.log_in(&pomd).await;
    carries(&pomd, "ssh").await;
    deployment.gateway.end_all_sessions();
    // Nobody can be asked: ssh is told at once.
    let begun = Instant::now();
    let told = ssh_is_told(pomd.address("ssh").await).await;
    assert_eq!(told, LOGIN_NEEDED);
    assert!(begun.elapsed() < Duration::from_secs(10));
    deployment.log_in(&pomd).await;

    // Found by `up` itself, which shows the address and leaves the login open.
    deployment.gateway.end_all_sessions();
    let output = pomd.pomctl(&["up", "echo"]).await;
    assert_eq!(output.status.code(), Some(4), "{output:?}");
    assert!(text(&output.stdout).contains("https://"), "{output:?}");
    assert_eq!(pomd.pomctl(&["status"]).await.status.code(), Some(4));
    deployment.log_in(&pomd).await;
    assert_eq!(pomd.pomctl(&["up", "echo"]).await.status.code(), Some(0));
}

/// The page says that the session ends in `seconds`.
#[expect(
    clippy::disallowed_methods,
    reason = "the programs that are tried go by this machine's clock"
)]
fn ends_in(deployment: &Deployment, seconds: u64) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let ends = Timestamp::from_second((now + seconds) as i64).unwrap();
    let page = format!(
        "<script>window.POMERIUM_DATA = {{\"session\":{{\"expiresAt\":\"{ends}\"}}}};</script>"
    );
    deployment
        .gateway
        .script("/.pomerium/", Script::answer(200, "text/html", page));
}

#[tokio::test(flavor = "multi_thread")]
async fn l14_past_its_upper_bound_a_session_is_over_and_the_next_connection_asks() {
    let deployment = deployment().await;
    ends_in(&deployment, 6);
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let mut open = pomd.connect("echo").await;
    echoes(&mut open, b"before").await;
    let status = pomd.status().await;
    assert!(cluster(&status, CLUSTER).until.is_some(), "{status:?}");
    // Whoever watches is told without asking.
    let (mut events, mut last) = (pomd.client().events().await.unwrap(), None);
    let over = async {
        while last != Some(ClusterState::LoginNeeded) {
            let status = events.next().await.unwrap().unwrap();
            last = Some(cluster(&status, CLUSTER).state);
        }
    };
    tokio::time::timeout(PATIENCE, over).await.unwrap();
    let status = pomd.status().await;
    let seen = cluster(&status, CLUSTER);
    assert_eq!((seen.state, seen.until), (ClusterState::LoginNeeded, None));
    assert!(!status.healthy);
    assert!(
        status
            .tunnels
            .iter()
            .all(|it| it.state == TunnelState::Login)
    );
    let page = pomd.pomctl(&["status"]).await;
    assert_eq!(page.status.code(), Some(4), "{page:?}");
    assert!(text(&page.stdout).contains(LOGIN_NEEDED), "{page:?}");
    echoes(&mut open, b"an open connection stays").await;
    // The same after a restart, from the file.
    pomd.kill_and_restart().await;
    assert_eq!(pomd.pomctl(&["status"]).await.status.code(), Some(4));
    // A server that still accepts it makes nobody log in.
    carries(&pomd, "echo").await;
    assert!(deployment.links.all().is_empty());
    // One that does not is asked for a new one, by the next connection.
    deployment.gateway.end_all_sessions();
    ends_in(&deployment, 3600);
    let signing_in = deployment.links.sign_in(1, &deployment.browser);
    tokio::join!(carries(&pomd, "echo"), signing_in);
    assert_eq!(pomd.pomctl(&["status"]).await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_what_a_client_said_that_is_gone_before_the_login_goes_nowhere() {
    let deployment = deployment().await;
    let config = deployment.cluster("")
        + &tunnel("port", ECHO, "")
        + &tunnel("file", ECHO, "listen = \"unix:file.sock\"");
    let pomd = Setup::new(&config).start().await;
    let waiting = async |n: u64| {
        let what = format!("{n} connections wait for a login");
        pomd.wait_for(&what, |it| cluster(it, CLUSTER).waiting == n)
            .await
    };
    let request = b"POST /deploy HTTP/1.1\r\n\r\n";
    // Closed in order, reset, on a Unix socket, and a pomctl that was killed.
    let mut closes = pomd.connect("port").await;
    closes.write_all(request).await.unwrap();
    let mut resets = pomd.connect("port").await;
    resets.write_all(request).await.unwrap();
    resets.set_zero_linger().unwrap();
    let path = pomd.setup().socket().with_file_name("file.sock");
    let mut file = tokio::net::UnixStream::connect(path).await.unwrap();
    file.write_all(request).await.unwrap();
    // And one that only ended its side, and stays.
    let mut stays = pomd.connect("port").await;
    stays.write_all(b"I am still here").await.unwrap();
    stays.shutdown().await.unwrap();
    waiting(4).await;
    drop((closes, resets, file));
    waiting(1).await;
    deployment.log_in(&pomd).await;
    let mut heard = [0; 15];
    stays.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"I am still here");
    assert_eq!(deployment.gateway.stats().upstream_connections, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_a_pomctl_that_is_killed_while_it_waits_takes_its_bytes_along() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    deployment.gateway.end_all_sessions();
    let before = deployment.gateway.stats().upstream_connections;
    let mut command = Command::from(pomd.setup().command(&binary("pomctl")));
    let mut child = command
        .args(["connect", "--ssh", SSH])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"POST /deploy\r\n\r\n").await.unwrap();
    pomd.wait_for("it waits", |it| cluster(it, CLUSTER).waiting == 1)
        .await;
    deployment.links.nth(1).await;
    child.kill().await.unwrap();
    pomd.wait_for("it waits no longer", |it| cluster(it, CLUSTER).waiting == 0)
        .await;
    deployment.links.sign_in(1, &deployment.browser).await;
    carries(&pomd, "echo").await;
    assert_eq!(deployment.gateway.stats().upstream_connections, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn b9_a_client_that_resets_while_the_server_is_silent_is_not_waited_for() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    deployment.gateway.script(ECHO, Script::silence().times(1));
    let before = deployment.gateway.stats().connects;
    let mut client = pomd.connect("echo").await;
    client.write_all(b"POST /deploy").await.unwrap();
    deployment
        .gateway
        .wait_for(|it| it.connects == before + 1)
        .await;
    client.set_zero_linger().unwrap();
    drop(client);
    let begun = Instant::now();
    pomd.wait_for("it is gone", |it| {
        pomd::tunnel(it, "echo").connections.waiting == 0
    })
    .await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn g9_connect_tells_ssh_every_failure_in_its_own_words() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    deployment.gateway.forbid("demo@example.com", SSH);
    for (route, words, code) in [
        (
            "web.elsewhere.test:22",
            "pomd: no tunnel leads to web.elsewhere.test:22",
            2,
        ),
        ("no-port.corp.test", "HOST:PORT", 2),
        ("x$(id).corp.test:22", "pomd: ", 2),
        ("", "pomd: ", 2),
    ] {
        let output = connect(&pomd, &["--ssh", route], b"SSH-2.0-x\r\n").await;
        let told = told_to_ssh(&output);
        assert!(told.contains(words), "{route}: {told}");
        assert_eq!(output.status.code(), Some(code), "{route}: {told}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
    // pomd's own refusal, with the id that finds the case.
    let output = connect(&pomd, &["--ssh", SSH], b"SSH-2.0-x\r\n").await;
    let told = told_to_ssh(&output);
    assert!(
        told.contains("may not use ssh.corp.test:22 (403), request id "),
        "{told}"
    );
    assert!(
        told.contains("Send the request id to your Pomerium administrator"),
        "{told}"
    );
    let output = connect(&pomd, &[SSH], b"").await;
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert!(said.contains("(403), request id "), "{said}");
    assert_eq!(output.status.code(), Some(1));
    // What pomctl itself finds: a pomd that does not run, and words that it does not know.
    pomd.stop().await;
    let output = connect(&pomd, &["--no-start", "--ssh", SSH], b"SSH-2.0-x\r\n").await;
    let told = told_to_ssh(&output);
    assert!(told.starts_with("pomctl: pomd is not running"), "{told}");
    assert_eq!(output.status.code(), Some(3), "{told}");
    let output = connect(&pomd, &["--ssh", "--nonsense", SSH], b"SSH-2.0-x\r\n").await;
    assert!(told_to_ssh(&output).contains("--nonsense"), "{output:?}");
    assert_eq!(output.status.code(), Some(2));
    let output = connect(&pomd, &["--no-start", SSH], b"").await;
    let said = text(&output.stderr);
    assert!(said.starts_with("pomctl: pomd is not running"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_eq!(output.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn l3_f11_thirty_commands_that_wait_make_one_visit_one_link_and_one_login() {
    const MANY: u64 = 30;
    for (config, links) in [
        (without_browser as fn(&Deployment) -> String, 0),
        (|it: &Deployment| it.config(&TUNNELS), 1),
    ] {
        let deployment = deployment().await;
        let pomd = Pomd::start(&config(&deployment)).await;
        let mut commands = JoinSet::new();
        for n in 0..MANY {
            let mut command = pomd.setup().command(&binary("pomctl"));
            command.args(["connect", if n % 2 == 0 { ECHO } else { SSH }]);
            if n % 2 == 1 {
                command.arg("--ssh");
            }
            commands.spawn(async move {
                pomd::run_with_input(command, b"SSH-2.0-x\r\n", PATIENCE * 2).await
            });
        }
        eventually("a login is open", async || {
            let status = pomd.status().await;
            (cluster(&status, CLUSTER).state == ClusterState::LoginRunning).then_some(())
        })
        .await;
        // Nobody answers; each ends by its own limit, and all have seen one and the same login.
        let mut printed = std::collections::BTreeSet::new();
        for output in commands.join_all().await {
            let said = text(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{said}");
            let urls: Vec<_> = said.lines().filter(|it| it.contains("sign_in")).collect();
            assert!(urls.len() <= 1, "{said}");
            printed.extend(urls.into_iter().map(str::to_owned));
        }
        assert!(printed.len() <= 1, "{printed:#?}");
        assert_eq!(deployment.gateway.stats().logins_minted, 1);
        assert_eq!(deployment.links.all().len(), links);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e4_a_port_that_another_pomd_of_ours_holds_is_not_said_to_be_another_user_s() {
    let deployment = deployment().await;
    let port = pomd::free_port();
    let config = deployment.cluster("") + &tunnel("echo", ECHO, &format!("listen = {port}"));
    let first = Pomd::start(&config).await;
    first.address("echo").await;
    let second = Pomd::start(&config).await;
    let output = second.pomctl(&["up", "echo"]).await;
    let said = text(&output.stderr);
    assert!(!said.contains("another user"), "{said}");
    let page = text(&second.pomctl(&["status"]).await.stdout);
    assert!(!page.contains("another user"), "{page}");
    for words in [said, page] {
        // Root may read its name.
        let named = words.contains("pomd (pid") || words.contains("a program of yours");
        assert!(named, "{words}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn g5_a_route_that_was_not_tried_yet_is_shown_to_be_so() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let page = async || text(&pomd.pomctl(&["status"]).await.stdout);
    let before = page().await;
    assert!(before.contains("Not tried yet: echo, ssh"), "{before}");
    carries(&pomd, "echo").await;
    let after = page().await;
    assert!(after.contains("Not tried yet: ssh\n"), "{after}");
    let mut stream = pomd.connect("ssh").await;
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    let tried = page().await;
    assert!(!tried.contains("Not tried"), "{tried}");
}
