//! F12, A21: secrets, searched for wherever pomd and its children say something, and what is left of a pomd that dies.

use std::{
    fs,
    os::unix::{
        fs::chown,
        process::{CommandExt, ExitStatusExt},
    },
    path::Path,
    process::Command,
};

use gateway::{PortBehaviour, Script, Upstream};
use integration::{
    PATIENCE,
    binary::binary,
    deployment::{CLUSTER, Deployment},
    eventually,
    fault_injection::FaultPlan,
    other_user::{OtherUser, UID},
    person::write_script,
    pomd::{Setup, folder, run},
    process::Process,
    skipped,
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UnixStream},
};

use super::{ECHO, SSH, TUNNELS, carries, ssh_is_told};

/// The token of a login, as it rests on the disk.
fn token(setup: &Setup) -> String {
    let text = fs::read_to_string(setup.state_dir().join("tokens/corp.test.json")).unwrap();
    let record: serde_json::Value = serde_json::from_str(&text).unwrap();
    record["token"].as_str().unwrap().to_owned()
}

/// Everything that a request of the control socket is answered with.
async fn answer(setup: &Setup, request: &str) -> String {
    let mut stream = UnixStream::connect(setup.socket()).await.unwrap();
    let request = format!(
        "{request} HTTP/1.1\r\nhost: pomd\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut got = Vec::new();
    let _ = stream.read_to_end(&mut got).await;
    String::from_utf8_lossy(&got).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a20_a21_no_secret_is_in_logs_arguments_environments_panics_status_or_errors() {
    let deployment =
        Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await;
    let setup = Setup::new("");
    // A browser that shows what it was given, and then notes the link as the person's does.
    let (script, noted) = (setup.folder().join("shows"), setup.folder().join("shown"));
    write_script(
        &script,
        "{ env; tr '\\0' ' ' < /proc/$PPID/cmdline; ls -l /proc/$$/fd; } > \"$1.new\" 2>&1; printf '%s' \"$2\" > \"$1.link\"; mv \"$1.new\" \"$1\"",
    );
    let key = format!("browser = {}", deployment.links.key());
    let config = deployment.config(&TUNNELS);
    assert!(config.contains(&key), "{config}");
    let config = config.replace(&key, &format!("browser = [{script:?}, {noted:?}]"));
    fs::write(setup.config_file(), config).unwrap();
    let setup = setup.env("POMD_LOG", "trace").env("RUST_BACKTRACE", "1");
    let (faults, setup) = FaultPlan::new(setup);
    let pomd = setup.start().await;
    let mut heard = String::new();
    let mut stream = pomd.connect("echo").await;
    stream.write_all(b"a word").await.unwrap();
    let shown = eventually("the browser shows what it was given", async || {
        fs::read_to_string(&noted).ok()
    })
    .await;
    heard += &shown;
    let link = fs::read_to_string(noted.with_extension("link")).unwrap();
    let page = deployment.browser.visit(&link).await.unwrap();
    assert_eq!(page.status, 200);
    let mut echoed = [0; 6];
    stream.read_exact(&mut echoed).await.unwrap();
    let token = token(pomd.setup());
    // Every kind of refusal and of broken answer, told on both kinds of tunnels.
    let scripts = (400..=404).chain([407, 421, 429, 450, 495, 500, 502, 503, 504]);
    let scripts = scripts.filter(|it| *it != 401).map(Script::refuse);
    let said = format!("HTTP/1.1 403 Forbidden\r\nx-echo: {token}\r\n\r\n{token}");
    let broken = [Script::bytes("ICY\r\n\r\n"), Script::bytes(said)];
    for script in scripts.chain(broken) {
        deployment.gateway.script(SSH, script);
        heard += &ssh_is_told(pomd.address("ssh").await).await;
        heard += &answer(pomd.setup(), "POST /v1/tunnels/ssh/up").await;
        deployment.gateway.forgive();
    }
    for port_behaviour in [PortBehaviour::PlainHttp, PortBehaviour::Hangs] {
        deployment.gateway.port_behaviour(port_behaviour);
        heard += &ssh_is_told(pomd.address("ssh").await).await;
        deployment.gateway.forgive();
    }
    let address = pomd.address("ssh").await;
    for point in ["connection", "session", "request"] {
        faults.plan(&[&format!("{point} 1 panic")]);
        let mut struck = TcpStream::connect(address).await.unwrap();
        let _ = struck.write_all(b"x").await;
        let _ = pomd.client().login(CLUSTER, Default::default()).await;
        let _ = pomd.client().reload().await;
    }
    faults.plan(&[]);
    eventually("it answers again", async || {
        pomd.client().login(CLUSTER, Default::default()).await.ok()
    })
    .await;
    carries(&pomd, "ssh").await;
    for request in [
        "GET /v1/status",
        "GET /v1/logs",
        "GET /v1/nothing",
        "POST /v1/clusters/corp/login",
        "POST /v1/clusters/none/login",
        "POST /v1/connect?route=none.corp.test:1",
        "POST /v1/reload",
    ] {
        heard += &answer(pomd.setup(), request).await;
    }
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["logs"],
        &["up", "--all"],
    ] {
        let output = pomd.pomctl(arguments).await;
        heard += &String::from_utf8_lossy(&output.stdout);
        heard += &String::from_utf8_lossy(&output.stderr);
    }
    heard += &fs::read_to_string(format!("/proc/{}/cmdline", pomd.pid())).unwrap();
    heard += &fs::read_to_string(format!("/proc/{}/environ", pomd.pid())).unwrap_or_default();
    let words = pomd.words();
    assert!(words.contains("TRACE") && words.contains("planned at"));
    heard += &words;
    // The whole of it, and the parts that would be enough.
    let signature = token.rsplit('.').next().unwrap();
    let payload = token.split('.').nth(1).unwrap();
    for secret in [token.as_str(), signature, payload] {
        assert!(secret.len() >= 16, "{secret} is too short to look for");
        let lines: Vec<_> = heard.lines().filter(|it| it.contains(secret)).collect();
        assert!(lines.is_empty(), "a part of the token is in {lines:#?}");
    }
    // Its own listener, its sockets and its files are no child's.
    let open = shown
        .lines()
        .filter(|it| it.contains("socket:") || it.contains("state/"));
    assert_eq!(open.collect::<Vec<_>>(), Vec::<&str>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn f12_a21_a_pomd_that_dies_of_a_signal_leaves_no_core() {
    // Whoever started it would like one.
    let wishes = "ulimit -Sc $(ulimit -Hc)";
    let other = Setup::new("").before(wishes);
    let mut dies = other.command(Path::new("/bin/sh"));
    dies.args(["-c", "kill -ABRT $$"]);
    let others_leave_one = run(dies, PATIENCE).await.status.core_dumped();
    let deployment = Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await;
    for signal in [Signal::ABORT, Signal::SEGV] {
        let setup = Setup::new(&deployment.config(&[("echo", ECHO)])).before(wishes);
        let mut pomd = setup.start().await;
        deployment.log_in(&pomd).await;
        carries(&pomd, "echo").await;
        let limits = fs::read_to_string(format!("/proc/{}/limits", pomd.pid())).unwrap();
        let core = limits
            .lines()
            .find(|it| it.starts_with("Max core file size"));
        let numbers = core.unwrap().split_whitespace().skip(4).take(2);
        assert_eq!(numbers.collect::<Vec<_>>(), ["0", "0"], "{limits}");
        // The first SIGSEGV that is no fault of its own only takes Rust's handler away.
        let ended = eventually("it ends", async || {
            pomd.process().signal(signal);
            pomd.process().ended()
        })
        .await;
        assert_eq!(ended.signal(), Some(signal.as_raw()));
        assert!(!ended.core_dumped(), "{signal:?}");
        let files = fs::read_dir(pomd.setup().folder()).unwrap();
        let names = files.map(|it| it.unwrap().file_name().to_string_lossy().into_owned());
        let cores: Vec<String> = names.filter(|it| it.starts_with("core")).collect();
        assert!(cores.is_empty(), "{cores:?}");
    }
    if !others_leave_one {
        let test = "f12_a21_a_pomd_that_dies_of_a_signal_leaves_no_core";
        skipped(
            test,
            "nobody leaves a core here; only the limit was looked at",
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a21_no_program_of_the_same_user_can_look_into_a_pomd() {
    let test = "a21_no_program_of_the_same_user_can_look_into_a_pomd";
    // Root can look into everything.
    let Some(user) = OtherUser::new(test, &binary("pomd")) else {
        return;
    };
    let home = folder();
    chown(home.path(), Some(UID), Some(UID)).unwrap();
    let place = |name: &str| home.path().join(name).display().to_string();
    let (config, state, socket) = (place("pomd.toml"), place("state"), place("run/pomd.sock"));
    let arguments = [
        "--config",
        &config,
        "--state-dir",
        &state,
        "--socket",
        &socket,
    ];
    let start = |command: &mut Command, name: &str| {
        Process::start(name, command, &home.path().join(format!("{name}.words")))
    };
    let mut pomd = start(&mut user.command(&arguments), "pomd");
    eventually("it runs", async || {
        pomd.assert_runs();
        pomd.words().contains(" runs (pid ").then_some(())
    })
    .await;
    let other = start(
        Command::new("sleep").arg("infinity").uid(UID).gid(UID),
        "other",
    );
    // The system asks the same of whoever opens these as of a debugger.
    let opens = |file: String| {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", "exec < \"$1\"", "sh", &file]);
        shell.uid(UID).gid(UID).output().unwrap().status.success()
    };
    for file in ["environ", "maps", "mem", "fd/0"] {
        let opened = opens(format!("/proc/{}/{file}", pomd.pid()));
        assert!(!opened, "{file}");
    }
    assert!(opens(format!("/proc/{}/environ", other.pid())));
}
