//! A9, A10: the control socket.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use gateway::Upstream;
use integration::{
    binary::binary,
    deployment::Deployment,
    pomd::{self, Pomd, Setup, run},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{ANSWER_TIME, other_user, status};

/// Sends these bytes to the control socket and reads until it closes.
async fn ask(socket: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    // It may close before it took everything.
    let _ = stream.write_all(request.as_bytes()).await;
    let mut got = Vec::new();
    let read = timeout(ANSWER_TIME, stream.read_to_end(&mut got)).await;
    let text = String::from_utf8_lossy(&got).into_owned();
    assert!(read.is_ok(), "no end of the answer: {text:?}");
    text
}

async fn pomd() -> (Deployment, Pomd) {
    let deployment = Deployment::gateway(|it| it.route("echo.corp.test:7", Upstream::Echo)).await;
    let pomd = deployment.pomd(&[("echo", "echo.corp.test:7")]).await;
    (deployment, pomd)
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_what_a_web_page_could_send_is_refused() {
    let (_corp, pomd) = pomd().await;
    let socket = pomd.setup().socket();
    for (lines, expected) in [
        ("Host: pomd\r\n", 200),
        ("Host: localhost\r\n", 200),
        ("Host:\r\n", 200),
        ("Host: pomd\r\nPomd-Protocol: 1\r\n", 200),
        ("Host: evil.example\r\n", 403),
        ("Host: localhost:80\r\n", 403),
        ("Host: 127.0.0.1\r\n", 403),
        ("Host: pomd\r\nHost: pomd\r\n", 403),
        ("Host: pomd\r\nOrigin: null\r\n", 403),
        ("Host: pomd\r\nOrigin: http://localhost\r\n", 403),
        ("Host: pomd\r\nReferer: http://localhost/\r\n", 403),
        ("Host: pomd\r\nSec-Fetch-Site: same-origin\r\n", 403),
        ("Host: pomd\r\nSec-Fetch-Mode: navigate\r\n", 403),
    ] {
        for target in ["GET /v1/status", "POST /v1/tunnels/echo/down"] {
            let request = format!(
                "{target} HTTP/1.1\r\n{lines}Connection: close\r\nContent-Length: 0\r\n\r\n"
            );
            let answer = ask(&socket, &request).await;
            assert_eq!(status(&answer), expected, "{target}, {lines:?}: {answer}");
        }
        let down =
            pomd::tunnel(&pomd.status().await, "echo").state == control::wire::TunnelState::Down;
        assert_eq!(down, expected == 200, "{lines:?}");
        // Listening again; that there is no login to prove it with is another matter.
        let _ = pomd.client().up("echo").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_commands_are_posts_and_questions_are_bounded() {
    let (_corp, pomd) = pomd().await;
    let socket = pomd.setup().socket();
    let head = |target: &str, lines: &str| {
        format!("{target} HTTP/1.1\r\nHost: pomd\r\nConnection: close\r\n{lines}\r\n")
    };
    for target in [
        "/v1/stop",
        "/v1/reload",
        "/v1/tunnels/echo/down",
        "/v1/clusters/corp/logout",
        "/v1/clusters/corp/login",
    ] {
        let answer = ask(&socket, &head(&format!("GET {target}"), "")).await;
        assert_eq!(status(&answer), 405, "{target}: {answer}");
    }
    let answer = ask(&socket, &head("POST /v1/status", "Content-Length: 0\r\n")).await;
    assert_eq!(status(&answer), 405, "{answer}");
    let answer = ask(&socket, &head("GET /v1/nothing", "")).await;
    assert_eq!(status(&answer), 404, "{answer}");
    let long = format!("X: {}\r\n", "y".repeat(17 << 10));
    let answer = ask(&socket, &head("GET /v1/status", &long)).await;
    assert!(matches!(status(&answer), 431 | 0), "{answer}");
    let body = "x".repeat(65 << 10);
    let large = head(
        "POST /v1/clusters/corp/login",
        &format!("Content-Length: {}\r\n", body.len()),
    ) + &body;
    let answer = ask(&socket, &large).await;
    assert!(matches!(status(&answer), 413 | 0), "{answer}");
    assert!(
        !pomd.status().await.pomd.version.is_empty(),
        "it still answers"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_a_client_that_never_asks_is_let_go_and_delays_nobody() {
    let (_corp, pomd) = pomd().await;
    let socket = pomd.setup().socket();
    let mut slow = Vec::new();
    for _ in 0..63 {
        let mut stream = UnixStream::connect(&socket).await.unwrap();
        stream.write_all(b"GET /v1/sta").await.unwrap();
        slow.push(stream);
    }
    let asked = Instant::now();
    pomd.status().await;
    // Those that never ask are let go after 10 s: nobody waits for that.
    assert!(
        asked.elapsed() < Duration::from_secs(10),
        "{:?}",
        asked.elapsed()
    );
    let mut got = Vec::new();
    let let_go = timeout(ANSWER_TIME, slow[0].read_to_end(&mut got)).await;
    assert!(let_go.is_ok(), "still held after {ANSWER_TIME:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a9_the_socket_is_closed_to_others_by_mode_and_by_uid() {
    let (_corp, pomd) = pomd().await;
    let socket = pomd.setup().socket();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&socket), 0o600);
    assert_eq!(mode(&pomd.setup().runtime()), 0o700);
    let test = "a9_the_socket_is_closed_to_others_by_mode_and_by_uid";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let path = socket.to_str().unwrap();
    let request = r"POST /v1/stop HTTP/1.1\r\nHost: pomd\r\nContent-Length: 0\r\n\r\n";
    let said = other_user.does(&["unix", path, request]).await;
    assert_eq!(said.trim(), "not connected: no permission");
    // Even if somebody opens every door on the way.
    for (path, mode) in [
        (pomd.setup().folder(), 0o755),
        (&pomd.setup().runtime(), 0o755),
        (&socket, 0o666),
    ] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let said = other_user.does(&["unix", path, request]).await;
    assert!(said.trim().ends_with("after 0 bytes"), "{said}");
    assert!(
        !said.starts_with("not connected"),
        "the stranger was to get this far: {said}"
    );
    assert_eq!(pomd.status().await.pomd.pid, pomd.pid(), "it lives on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_pomctl_says_nothing_to_a_socket_of_another_user() {
    let test = "a10_pomctl_says_nothing_to_a_socket_of_another_user";
    let Some(other_user) = other_user(test) else {
        return;
    };
    let folder = pomd::folder();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    let socket = folder.path().join("pomd.sock");
    let socket = socket.to_str().unwrap();
    let mut pretender = tokio::process::Command::from(other_user.command(&["pretend", socket]));
    let mut pretender = pretender
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(pretender.stdout.take().unwrap()).lines();
    assert_eq!(lines.next_line().await.unwrap().unwrap(), "listening");
    let setup = Setup::new("")
        .env("POMD_SOCKET", socket)
        .env("POMD_NO_START", "1");
    for arguments in [
        &["status"][..],
        &["login", "corp"],
        &["up", "--all"],
        &["stop"],
        &["logs"],
    ] {
        let mut command = setup.command(&binary("pomctl"));
        command.args(arguments);
        let output = run(command, Duration::from_secs(30)).await;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {said}");
        assert!(
            said.contains("another user (uid 65534)"),
            "{arguments:?}: {said}"
        );
        assert_eq!(
            lines.next_line().await.unwrap().unwrap(),
            "0 bytes",
            "{arguments:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a10_pomd_takes_no_folder_that_others_could_have_made() {
    let setup = Setup::new("");
    let runtime = setup.runtime();
    fs::set_permissions(&runtime, fs::Permissions::from_mode(0o777)).unwrap();
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&runtime, Some(integration::other_user::UID), None).unwrap();
    } else {
        integration::skipped(
            "a10_pomd_takes_no_folder_that_others_could_have_made",
            "needs root",
        );
        return;
    }
    let output = run(setup.pomd_command(), Duration::from_secs(30)).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("run"), "the folder is named: {said}");
    assert!(!setup.socket().exists());
}
