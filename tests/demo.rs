//! The newcomer's first command: it runs unattended, every byte is right, and it leaves nothing.

use std::{fs, process::Command, time::Duration};

use integration::{
    PATIENCE,
    binary::binary,
    pomd::{self, run},
};
use tokio::{sync::Mutex, time::timeout};

/// Both would have the usual ports, and one of them says who has them.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());
const DEMO_TIME: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn the_fast_demo_shows_every_step_and_leaves_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = pomd::folder();
    // A program of the user holds the usual port: ours, or, if it never becomes free, another.
    let holding = async {
        loop {
            match std::net::TcpListener::bind("127.0.0.1:8088") {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let _taken = timeout(PATIENCE, holding).await;
    for program in ["pomd-demo", "pomctl"] {
        let mut command = Command::new(binary(program));
        if program == "pomctl" {
            command.arg("demo");
        }
        command
            .arg("--fast")
            .env("TMPDIR", folder.path())
            .env("HOME", folder.path());
        let output = run(command, DEMO_TIME).await;
        let said = String::from_utf8(output.stdout).unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {said}\n{words}");
        for line in [
            "1. Two tunnels",
            "port 8088 is taken on this machine, so it is ",
            "2. One login",
            "logged in as demo@example.com",
            "[cluster.demo]",
            "pomctl status",
            "Next: pomctl status",
            "3. Bytes flow",
            "Hello, demo@example.com.",
            "4. It heals",
            "Every byte was right. pomd is stopped, and all of this is removed.",
        ] {
            assert!(
                said.contains(line),
                "{program}: {line:?} is missing in\n{said}"
            );
        }
        // The folder's name is not the demo's own.
        let is_fixed = |it: &&str| !it.contains("all of it is in ") && !it.contains("POMD_SOCKET=");
        let lines = said.lines().filter(is_fixed);
        let too_long: Vec<_> = lines.filter(|it| it.chars().count() > 80).collect();
        assert!(too_long.is_empty(), "{program}: {too_long:#?}");
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().flatten().collect();
        assert!(left.is_empty(), "{program} left {left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_demo_ends_its_pomd_and_leaves_nothing() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let folder = pomd::folder();
    let words = folder.path().join("words");
    let inside = folder.path().join("tmp");
    fs::create_dir(&inside).unwrap();
    let mut command = Command::new(binary("pomd-demo"));
    command
        .env("TMPDIR", &inside)
        .env("HOME", folder.path())
        .env_remove("DISPLAY");
    let mut demo = integration::process::Process::start("pomd-demo", &mut command, &words);
    let pid: i32 = integration::eventually("the demo's pomd listens", async || {
        demo.assert_runs();
        let said = demo.words();
        let rest = said.split_once("pomd (pid ")?.1;
        rest.split_once(')')?.0.parse().ok()
    })
    .await;
    // It waits for a person to sign in; the person gives up.
    integration::eventually("it waits for a login", async || {
        demo.words().contains("2. One login").then_some(())
    })
    .await;
    demo.signal(rustix::process::Signal::INT);
    let status = demo.wait().await;
    assert_eq!(status.code(), Some(130), "{}", demo.words());
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    assert!(
        rustix::process::test_kill_process(pid).is_err(),
        "its pomd lives on"
    );
    let left: Vec<_> = fs::read_dir(&inside).unwrap().flatten().collect();
    assert!(left.is_empty(), "left {left:?}");
}
