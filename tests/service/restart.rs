//! `restart`: the same process, the same ports, the same login; the connections end.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use control::{
    client::{Client, ClientError},
    wire::RestartAnswer,
};
use gateway::Upstream;
use integration::{
    binary::binary,
    client::{Ending, read_all},
    deployment::Deployment,
    eventually,
    notify::Notify,
    pomd::{self, Pomd, Setup},
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::ECHO;

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ECHO, Upstream::Echo)).await
}

async fn echoes(stream: &mut TcpStream) {
    stream.write_all(b"hello").await.unwrap();
    let mut heard = [0; 5];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_process_ports_and_login_and_ends_connections() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&[("echo", ECHO)]).await;
    let before = pomd.address("echo").await;
    // Twice: what a restart starts can be restarted too.
    for _ in 0..2 {
        let mut open = pomd.connect("echo").await;
        echoes(&mut open).await;
        let output = pomd.pomctl(&["restart"]).await;
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = env!("CARGO_PKG_VERSION");
        let expected = format!(
            "Restarted pomd {version} (pid {}). 1 connection ended with it.\n",
            pomd.pid()
        );
        assert_eq!(told, expected, "{}", pomd.words());
        assert_eq!(read_all(&mut open).await.1, Ending::Reset);
        pomd.process().assert_runs();
        assert_eq!(pomd.status().await.pomd.pid, pomd.pid());
        assert_eq!(pomd.address("echo").await, before);
    }
    echoes(&mut pomd.connect("echo").await).await;
    assert!(
        deployment.links.all().is_empty(),
        "nobody was asked to log in"
    );
    assert!(pomd.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_in_the_background_stays_there() {
    let deployment = deployment().await;
    let setup = Setup::new(&deployment.config(&[("echo", ECHO)])).arg("--daemonize");
    let first = pomd::run(setup.pomd_command(), integration::PATIENCE).await;
    assert!(first.status.success());
    let client = Client::new(setup.socket());
    let before = client.status().await.unwrap().pomd;
    let mut command = setup.command(&binary("pomctl"));
    command.args(["restart", "--json"]);
    let output = pomd::run(command, integration::PATIENCE).await;
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{words}");
    let after = client.status().await.unwrap().pomd;
    assert_eq!((after.pid, &after.log), (before.pid, &before.log));
    let log = fs::read_to_string(Path::new(&after.log.unwrap())).unwrap();
    assert_eq!(log.matches(" runs (pid ").count(), 2, "{log}");
    let pid = Pid::from_raw(before.pid.cast_signed()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    eventually("it ends", async || {
        test_kill_process(pid).is_err().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manager_hears_of_a_restart_as_a_reload() {
    let setup = Setup::new("");
    let manager = Notify::listen(setup.folder());
    let mut pomd = setup.env("NOTIFY_SOCKET", manager.path()).start().await;
    manager.wait_for("READY", 0, |it| it == "READY=1").await;
    pomd.client().restart(false).await.unwrap();
    // What it says last before its log says that it runs is that it is ready.
    eventually("the next life runs", async || {
        let log = pomd.process().words();
        (log.matches(" runs (pid ").count() == 2).then_some(())
    })
    .await;
    let heard = manager.heard();
    let last = |word: &str| heard.iter().rposition(|it| it == word);
    assert!(last("RELOADING=1") < last("READY=1"), "{heard:?}");
    assert!(last("RELOADING=1").is_some(), "{heard:?}");
    assert!(
        !manager.heard().iter().any(|it| it == "STOPPING=1"),
        "a manager ends what says that it stops"
    );
    pomd.process().assert_runs();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_becomes_what_is_installed_now_if_that_is_pomd() {
    let setup = Setup::new("");
    let installed = setup.folder().join("pomd");
    std::os::unix::fs::symlink(binary("pomd"), &installed).unwrap();
    let mut pomd = setup.program(installed.clone()).start().await;
    let replace = |new: &Path| fs::rename(new, &installed).unwrap();
    let new = pomd.setup().folder().join("new");
    let broken = [
        ("#!/bin/sh\nexit 0\n", "is not pomd"),
        ("\u{1}nonsense", "cannot run "),
    ];
    for (text, why) in broken {
        fs::write(&new, text).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        replace(&new);
        let error = restart(&pomd).await.unwrap_err().to_string();
        assert!(error.contains("goes on as it is"), "{error}");
        assert!(error.contains(why), "{error}");
        pomd.process().assert_runs();
        pomd.status().await;
    }
    // A newer release; its words show that it was asked.
    let newer = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo 'pomd 99.0.0' && exit\nexec '{}' \"$@\"\n",
        binary("pomd").display()
    );
    fs::write(&new, newer).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
    replace(&new);
    let answer = restart(&pomd).await.unwrap();
    assert_eq!(
        (answer.version.as_str(), answer.pid),
        ("99.0.0", pomd.pid())
    );
    eventually("it runs again", async || {
        let runs = pomd.words().matches(" runs (pid ").count();
        (runs == 2).then_some(())
    })
    .await;
    pomd.process().assert_runs();
}

/// A restart as a program that was written a moment ago: a child that another test starts meanwhile may hold it open.
async fn restart(pomd: &Pomd) -> Result<RestartAnswer, ClientError> {
    eventually("nobody writes the program", async || {
        let answer = pomd.client().restart(false).await;
        let busy = |it: &ClientError| it.to_string().contains("Text file busy");
        (!answer.as_ref().is_err_and(busy)).then_some(answer)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_to_stop_wins_over_a_restart() {
    // Whichever life it meets, or the moment between the two: it ends.
    for later in (0..60).step_by(2).map(Duration::from_millis) {
        let mut pomd = Pomd::start("").await;
        let client = pomd.client();
        let stopping = async {
            eventually("it restarts", async || {
                let log = pomd.process().words();
                log.contains("asked to restart").then_some(())
            })
            .await;
            tokio::time::sleep(later).await;
            pomd.process().signal(Signal::TERM);
            pomd.process().wait().await;
        };
        // Whether the next life answered before it ended is of no matter.
        let _ = tokio::join!(client.restart(false), stopping);
    }
}
