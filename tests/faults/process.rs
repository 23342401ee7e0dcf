//! Two at once, signals, leftovers of a crash, going into the background.

mod parts;

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::Path,
    process::{Command, Output, Stdio},
    time::Duration,
};

use control::{
    client::Client,
    wire::{ClusterState, Code, Status, TunnelState},
};
use gateway::Upstream;
use integration::{
    client::{Ending, read_all},
    deployment::{CLUSTER, Deployment},
    eventually,
    pomd::{self, Pomd, Setup, cluster, find_tunnel},
    process::Process,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::{io::AsyncWriteExt, task::JoinSet, time::Instant};

use super::{ECHO, SSH, TUNNELS, carries, echoes};

/// How long pomd may take to end.
const STOP: Duration = Duration::from_secs(5);

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

/// A pomd that went into the background: nobody's child, so it is ended by its id.
struct Detached(u32);

impl Detached {
    fn pid(&self) -> Pid {
        Pid::from_raw(self.0.cast_signed()).unwrap()
    }

    fn runs(&self) -> bool {
        test_kill_process(self.pid()).is_ok()
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        let _ = kill_process(self.pid(), Signal::TERM);
        let mut left = 1000;
        while self.runs() && left > 0 {
            std::thread::sleep(Duration::from_millis(10));
            left -= 1;
        }
        let _ = kill_process(self.pid(), Signal::KILL);
    }
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn status(setup: &Setup) -> Status {
    let status = Client::new(setup.socket()).status().await;
    status.unwrap_or_else(|error| panic!("status: {error}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_of_twenty_started_together_one_lives_and_the_others_name_it() {
    let setup = Setup::new("");
    let start = |n: usize| {
        let words = setup.folder().join(format!("words-{n}"));
        Process::start("pomd", &mut setup.pomd_command(), &words)
    };
    let mut all: Vec<_> = (0..20).map(start).collect();
    eventually("one is left", async || {
        let living = all
            .iter_mut()
            .filter_map(|it| it.ended().is_none().then_some(()));
        (living.count() == 1).then_some(())
    })
    .await;
    let living = all.iter_mut().position(|it| it.ended().is_none()).unwrap();
    let pid = all[living].pid();
    let client = Client::new(setup.socket());
    eventually("it answers", async || client.status().await.ok()).await;
    assert_eq!(status(&setup).await.pomd.pid, pid);
    for (n, process) in all.iter_mut().enumerate() {
        if n == living {
            process.assert_runs();
            continue;
        }
        let code = process.ended().and_then(|it| it.code());
        let words = process.words();
        assert_eq!(code, Some(1), "{words}");
        assert_eq!(
            words,
            format!("error: pomd runs already (pid {pid}); to end it: pomctl stop\n")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x1_the_same_state_folder_with_another_socket_is_refused_too() {
    let pomd = Pomd::start("").await;
    let setup = pomd.setup();
    let elsewhere = setup.folder().join("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    fs::set_permissions(&elsewhere, fs::Permissions::from_mode(0o700)).unwrap();
    // What is said last counts.
    let mut command = setup.command(&integration::binary::binary("pomd"));
    command
        .arg("--socket")
        .arg(elsewhere.join("pomd.sock"))
        .env_remove("POMD_SOCKET");
    let second = pomd::run(command, integration::PATIENCE).await;
    assert_eq!(second.status.code(), Some(1));
    let expected = format!(
        "error: pomd runs already (pid {}); to end it: pomctl stop\n",
        pomd.pid()
    );
    assert_eq!(words(&second), expected);
}

/// As when two of them are tried side by side: the same names lead to the same first choice of a port.
#[tokio::test(flavor = "multi_thread")]
async fn pomds_that_choose_the_same_port_at_the_same_time_all_listen() {
    let config = "[tunnel.same-name-everywhere]\nroute = \"a.corp.test:22\"\n";
    let start = || Pomd::start(config);
    let all = tokio::join!(start(), start(), start(), start(), start(), start());
    let all: [Pomd; 6] = all.into();
    let mut seen = std::collections::BTreeSet::new();
    for pomd in &all {
        let status = pomd.status().await;
        let tunnel = find_tunnel(&status, "same-name-everywhere").unwrap();
        assert_eq!(tunnel.state, TunnelState::Login, "{tunnel:#?}");
        assert!(seen.insert(tunnel.listen.clone()), "{seen:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x2_a_stale_socket_and_stale_lock_texts_do_not_stop_a_start() {
    let deployment = deployment().await;
    let setup = Setup::new(&deployment.config(&TUNNELS));
    // Left behind by a crash: a socket that nobody listens on.
    drop(UnixListener::bind(setup.socket()).unwrap());
    assert!(setup.socket().exists());
    // The id of a process that lives and is no pomd, and nonsense.
    fs::create_dir(setup.state_dir()).unwrap();
    let ours = std::process::id().to_string();
    fs::write(setup.state_dir().join("pomd.lock"), ours).unwrap();
    fs::write(setup.runtime().join("pomd.lock"), "\0nonsense").unwrap();
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    carries(&pomd, "echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x2_nothing_that_a_kill_leaves_behind_stops_the_next_start() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    for _ in 0..5 {
        let mut open = pomd.connect("echo").await;
        echoes(&mut open, b"open while it is killed").await;
        pomd.kill_and_restart().await;
        // How that looks is the kernel's business.
        let (got, _) = read_all(&mut open).await;
        assert!(got.is_empty());
    }
    carries(&pomd, "echo").await;
    let left = fs::read_dir(pomd.setup().state_dir()).unwrap();
    let left: Vec<_> = left.map(|it| it.unwrap().file_name()).collect();
    let temporary = left.iter().any(|it| it.to_string_lossy().contains("tmp"));
    assert!(!temporary, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_sigterm_ends_open_and_waiting_connections_within_five_seconds() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let mut open = Vec::new();
    for _ in 0..50 {
        let mut stream = pomd.connect("echo").await;
        echoes(&mut stream, b"open").await;
        open.push(stream);
    }
    // Some of them are full: nobody reads what they are told to say back.
    for stream in &mut open[..5] {
        let flood = vec![b'x'; 1 << 20];
        while tokio::time::timeout(Duration::from_millis(200), stream.write_all(&flood))
            .await
            .is_ok_and(|it| it.is_ok())
        {}
    }
    // Others wait for an answer that never comes.
    deployment.gateway.script(SSH, gateway::Script::silence());
    let mut waiting = pomd.connect("ssh").await;
    waiting.write_all(b"SSH-2.0-test\r\n").await.unwrap();
    pomd.wait_for("one waits", |it| {
        find_tunnel(it, "ssh").is_some_and(|it| it.connections.waiting == 1)
    })
    .await;
    let asked = Instant::now();
    let status = pomd.stop().await;
    assert!(asked.elapsed() < STOP, "took {:?}", asked.elapsed());
    assert_eq!(status.code(), Some(0), "{}", pomd.words());
    let mut endings = JoinSet::new();
    for mut stream in open.drain(5..).chain([waiting]) {
        endings.spawn(async move { read_all(&mut stream).await });
    }
    for (got, ending) in endings.join_all().await {
        assert_eq!((got.len(), ending), (0, Ending::Reset));
    }
    assert!(!pomd.setup().socket().exists(), "the socket is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_a_second_signal_ends_it_at_once() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let mut stream = pomd.connect("echo").await;
    echoes(&mut stream, b"open").await;
    let asked = Instant::now();
    pomd.process().signal(Signal::TERM);
    pomd.process().signal(Signal::INT);
    let status = pomd.process().wait().await;
    assert_eq!(status.code(), Some(0), "{}", pomd.words());
    assert!(asked.elapsed() < STOP / 2, "took {:?}", asked.elapsed());
    pomd.start_again().await;
    carries(&pomd, "echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_sighup_reloads_and_ends_nothing() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&[("echo", ECHO)]).await;
    let mut open = pomd.connect("echo").await;
    echoes(&mut open, b"before").await;
    pomd.replace_config(&deployment.config(&TUNNELS));
    pomd.process().signal(Signal::HUP);
    pomd.wait_for_tunnel("ssh", TunnelState::Up).await;
    pomd.replace_config("[tunnel.ssh\n");
    pomd.process().signal(Signal::HUP);
    pomd.wait_for("the broken file is told", |it| {
        it.pomd.config.error.is_some()
    })
    .await;
    echoes(&mut open, b"after").await;
    carries(&pomd, "ssh").await;
    assert!(
        pomd.words()
            .contains("asked to read the configuration again")
    );
    assert!(deployment.links.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn x3_words_that_nobody_takes_are_no_reason_to_end() {
    let deployment = deployment().await;
    for before in ["exec >&- 2>&-", "exec >/dev/full 2>&1"] {
        let setup = Setup::new(&deployment.config(&TUNNELS))
            .before(before)
            .arg("--log=debug");
        let mut pomd = setup.start().await;
        deployment.log_in(&pomd).await;
        carries(&pomd, "echo").await;
        assert_eq!(pomd.stop().await.code(), Some(0), "{before}");
    }
    // A pipe whose reader is gone: SIGPIPE, were it not ignored.
    let setup = Setup::new(&deployment.config(&TUNNELS)).arg("--log=debug");
    let mut command = setup.pomd_command();
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stderr.take());
    let pomd = Detached(child.id());
    let client = Client::new(setup.socket());
    eventually("it answers", async || client.status().await.ok()).await;
    client.reload().await.unwrap();
    kill_process(pomd.pid(), Signal::PIPE).unwrap();
    let answer = client.stop().await.unwrap();
    assert_eq!(answer.pid, child.id());
    let code = eventually("it ends", async || child.try_wait().unwrap()).await;
    assert_eq!(code.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn daemonize_is_done_once_it_answers_and_a_second_one_names_the_first() {
    let deployment = deployment().await;
    let setup = Setup::new(&deployment.config(&TUNNELS)).arg("--daemonize");
    // Also: whoever reads its output is not kept waiting by the daemon.
    let first = pomd::run(setup.pomd_command(), integration::PATIENCE).await;
    assert_eq!(first.status.code(), Some(0), "{}", words(&first));
    let status_now = status(&setup).await;
    let daemon = Detached(status_now.pomd.pid);
    assert!(daemon.runs());
    assert_eq!(words(&first), "");
    let listening = |it: &control::wire::Tunnel| it.state == TunnelState::Login;
    assert!(status_now.tunnels.iter().all(listening), "{status_now:#?}");
    let log = status_now.pomd.log.unwrap();
    assert!(Path::new(&log).starts_with(setup.state_dir()), "{log}");
    let expected = format!(
        "error: pomd runs already (pid {}); to end it: pomctl stop\n",
        daemon.0
    );
    let mut command = setup.command(&integration::binary::binary("pomd"));
    command.arg("--daemonize");
    let second = pomd::run(command, integration::PATIENCE).await;
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(words(&second), expected);
    Client::new(setup.socket()).stop().await.unwrap();
    eventually("it has ended", async || (!daemon.runs()).then_some(())).await;
    let again = pomd::run(setup.pomd_command(), integration::PATIENCE).await;
    assert_eq!(again.status.code(), Some(0), "{}", words(&again));
    let _daemon = Detached(status(&setup).await.pomd.pid);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_a_pomd_that_has_ended_reads_as_while_it_lived() {
    let deployment = deployment().await;
    let setup = Setup::new(&deployment.config(&TUNNELS)).arg("--daemonize");
    let started = pomd::run(setup.pomd_command(), integration::PATIENCE).await;
    assert!(started.status.success(), "{}", words(&started));
    let daemon = Detached(status(&setup).await.pomd.pid);
    let client = Client::new(setup.socket());
    client.down("echo", false).await.unwrap();
    let said = async |arguments: &[&str]| {
        let mut command = setup.command(&integration::binary::binary("pomctl"));
        command.args(arguments);
        let output = pomd::run(command, integration::PATIENCE).await;
        assert!(output.status.success(), "{}", words(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let lines = text.lines().map(|it| {
            let mut line: serde_json::Value = serde_json::from_str(it).unwrap();
            // Each of the two ways looks at the clock by itself.
            assert!(line["at"].take().is_string(), "{it}");
            line
        });
        lines.collect::<Vec<_>>()
    };
    let alive = said(&["logs", "--json"]).await;
    let about_echo = said(&["logs", "--json", "echo"]).await;
    assert!(alive.iter().any(|it| it["message"] == "down"), "{alive:#?}");
    client.stop().await.unwrap();
    eventually("it has ended", async || (!daemon.runs()).then_some(())).await;
    let dead = said(&["logs", "--json"]).await;
    assert_eq!(dead[..alive.len()], alive);
    let dead = said(&["logs", "--json", "echo"]).await;
    assert_eq!(dead[..about_echo.len()], about_echo);
}

#[tokio::test(flavor = "multi_thread")]
async fn daemonize_says_why_it_did_not_come_to_it() {
    let setup = Setup::new("").arg("--daemonize");
    // The socket's place is taken by something that is no socket.
    fs::create_dir(setup.socket()).unwrap();
    let failed = pomd::run(setup.pomd_command(), integration::PATIENCE).await;
    assert_eq!(failed.status.code(), Some(1));
    let words = words(&failed);
    let socket = setup.socket().display().to_string();
    assert!(
        words.starts_with("error: ") && words.contains(&socket),
        "{words}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn c1_a_broken_file_at_start_is_told_and_the_mended_one_is_obeyed() {
    let deployment = deployment().await;
    let pomd = Pomd::start("[tunnel.echo]\nroute = \"no port\"\nlisten = [").await;
    let status = pomd.status().await;
    assert!(status.tunnels.is_empty() && !status.healthy);
    let error = status.pomd.config.error.unwrap();
    assert!(error.message.contains("line 3:"), "{}", error.message);
    pomd.replace_config(&deployment.config(&TUNNELS));
    pomd.wait_for_tunnel("echo", TunnelState::Login).await;
    deployment.log_in(&pomd).await;
    carries(&pomd, "echo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_can_drive_it() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&TUNNELS).await;
    let socket = pomd.setup().socket();
    let curl = async |arguments: &[&str]| {
        let mut command = Command::new("curl");
        command
            .args([
                "-sS",
                "--max-time",
                "20",
                "-w",
                "\n%{http_code}",
                "--unix-socket",
            ])
            .arg(&socket)
            .args(arguments);
        let output = pomd::run(command, integration::PATIENCE).await;
        assert!(output.status.success(), "{}", words(&output));
        let text = String::from_utf8(output.stdout).unwrap();
        let (body, code) = text.rsplit_once('\n').unwrap();
        (code.parse::<u16>().unwrap(), body.to_owned())
    };
    if Command::new("curl").arg("--version").output().is_err() {
        return integration::skipped("curl_can_drive_it", "there is no curl");
    }
    let (code, body) = curl(&["http://pomd/v1/status"]).await;
    assert_eq!(code, 200);
    let shown: Status = serde_json::from_str(&body).unwrap();
    assert_eq!(cluster(&shown, CLUSTER).state, ClusterState::LoggedIn);
    let (code, body) = curl(&["-X", "POST", "http://localhost/v1/tunnels/ssh/down"]).await;
    assert_eq!(code, 200, "{body}");
    pomd.wait_for_tunnel("ssh", TunnelState::Down).await;
    let (code, body) = curl(&["-X", "POST", "http://localhost/v1/tunnels/nobody/up"]).await;
    assert_eq!(code, 404, "{body}");
    let error: control::wire::ErrorAnswer = serde_json::from_str(&body).unwrap();
    assert_eq!(error.error.code, Code::NoSuchTunnel);
}
