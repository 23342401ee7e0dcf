//! X9: who says "done" when it is done.

use integration::{
    binary::binary,
    pomd::{self, Setup},
    process::Process,
};
use rustix::process::Signal;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ECHO, Ended, LIMIT, answers, deployment, echoes, logged_in, pomctl, status, words};

async fn stop_and_up(times: usize) {
    let deployment = deployment().await;
    let (setup, port) = logged_in(&deployment).await;
    let _ended = Ended(&setup);
    answers(&setup, &["up", "echo"]).await;
    for n in 0..times {
        let before = status(&setup).await.pomd.pid;
        answers(&setup, &["stop"]).await;
        assert!(!control::holder::is_held(&setup.state_dir()), "{n}");
        let up = pomctl(&setup, &["up", "echo"]).await;
        assert!(up.status.success(), "{n}: {}", words(&up));
        assert_ne!(status(&setup).await.pomd.pid, before);
    }
    echoes(port).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x9_after_a_stop_nothing_of_the_old_one_is_in_the_way() {
    stop_and_up(10).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "for the night: a hundred times"]
async fn x9_after_each_of_a_hundred_stops_nothing_of_the_old_one_is_in_the_way() {
    stop_and_up(100).await;
}

fn start(setup: &Setup) -> Process {
    let words = setup.folder().join("pomd.words");
    Process::start("pomd", &mut setup.pomd_command(), &words)
}

async fn runs(setup: &Setup, process: &mut Process) {
    let client = control::client::Client::new(setup.socket());
    let pid = process.pid();
    integration::eventually("pomd answers", async || {
        process.assert_runs();
        let status = client.status().await.ok()?;
        (status.pomd.pid == pid).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn x9_a_pomd_that_is_started_while_another_one_ends_waits_for_it() {
    let deployment = deployment().await;
    let (setup, port) = logged_in(&deployment).await;
    let mut old = start(&setup);
    runs(&setup, &mut old).await;
    for _ in 0..5 {
        // Open while it ends: that takes a moment.
        let _open = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
        old.signal(Signal::TERM);
        let mut new = start(&setup);
        runs(&setup, &mut new).await;
        assert!(old.wait().await.success());
        old = new;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x9_of_two_who_stop_it_both_are_answered_when_the_place_is_free() {
    let setup = Setup::new("");
    let _ended = Ended(&setup);
    for _ in 0..5 {
        let mut command = setup.command(&binary("pomd"));
        command.arg("--daemonize");
        let started = pomd::run(command, LIMIT).await;
        assert!(started.status.success(), "{}", words(&started));
        let stop = async || {
            answers(&setup, &["stop"]).await;
            assert!(!control::holder::is_held(&setup.state_dir()));
        };
        tokio::join!(stop(), stop(), stop());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn x9_a_stop_waits_for_the_process_and_not_for_its_socket() {
    let mut pomd = pomd::Pomd::start("").await;
    // A reader that takes its time keeps pomd for a second after the socket is gone.
    let mut events = pomd.client().events().await.unwrap();
    events.next().await.unwrap();
    let output = pomd.pomctl(&["stop"]).await;
    assert!(output.status.success(), "{output:?}");
    assert!(!control::holder::is_held(&pomd.setup().state_dir()));
    assert!(pomd.process().wait().await.success());
    let again = pomd.pomctl(&["stop"]).await;
    let told = String::from_utf8_lossy(&again.stdout).into_owned();
    assert_eq!(told, "pomd is not running; nothing to do\n");
}

/// "Its connections have ended" is another word that must hold when it is said.
#[tokio::test(flavor = "multi_thread")]
async fn x9_connections_have_ended_when_a_down_says_so() {
    let deployment = deployment().await;
    let pomd = deployment.logged_in(&[("echo", ECHO)]).await;
    for _ in 0..5 {
        let mut open = pomd.connect("echo").await;
        open.write_all(b"there").await.unwrap();
        open.read_exact(&mut [0; 5]).await.unwrap();
        pomd.client().down("echo", true).await.unwrap();
        // What the kernel knows already, without waiting for more.
        let open = open.into_std().unwrap();
        let ended = std::io::Read::read(&mut &open, &mut [0; 5]).unwrap_err();
        assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
        let status = pomd.status().await;
        assert_eq!(status.tunnels[0].connections.open, 0);
        pomd.client().up("echo").await.unwrap();
    }
}
