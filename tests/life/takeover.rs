//! X11: a pomd that pomctl started gives way to one in the foreground, and never the other way round.

use control::client::Client;
use integration::{binary::binary, eventually, pomd, process::Process, skipped, systemd::Systemd};

use super::{Ended, LIMIT, answers, deployment, echoes, logged_in, status, words};

#[tokio::test(flavor = "multi_thread")]
async fn x11_a_pomd_in_the_background_gives_way_to_one_in_the_foreground() {
    let deployment = deployment().await;
    let (setup, port) = logged_in(&deployment).await;
    let _ended = Ended(&setup);
    answers(&setup, &["up", "echo"]).await;
    let first = status(&setup).await.pomd;
    let open = tokio::net::TcpStream::connect(("127.0.0.1", port)).await;
    let said = setup.folder().join("service.words");
    let mut service = Process::start("pomd", &mut setup.pomd_command(), &said);
    let client = Client::new(setup.socket());
    let pid = service.pid();
    eventually("it has taken over", async || {
        service.assert_runs();
        let status = client.status().await.ok()?;
        (status.pomd.pid == pid).then_some(())
    })
    .await;
    drop(open);
    // The same port, and nobody has to log in.
    echoes(port).await;
    assert!(deployment.links.all().is_empty());
    let log = std::fs::read_to_string(first.log.unwrap()).unwrap();
    assert!(
        log.contains(&format!(
            "gives way to the pomd in the foreground or of a service (pid {pid})"
        )),
        "{log}"
    );
    let took = format!(
        "took over from the pomd in the background (pid {})",
        first.pid
    );
    assert!(service.words().contains(&took), "{}", service.words());

    // Never the other way round, and none in the foreground gives way.
    for argument in [Some("--daemonize"), None] {
        let mut command = setup.pomd_command();
        command.args(argument);
        let second = pomd::run(command, LIMIT).await;
        assert_eq!(second.status.code(), Some(1), "{argument:?}");
        let expected = format!("error: pomd runs already (pid {pid}); to end it: pomctl stop\n");
        assert_eq!(words(&second), expected);
    }
    let refused = client.give_way(1).await.unwrap_err().to_string();
    assert_eq!(refused, format!("pomd runs already (pid {pid})"));
    service.assert_runs();
}

#[tokio::test(flavor = "multi_thread")]
async fn x11_one_in_the_background_pushes_none_in_the_background_out() {
    let deployment = deployment().await;
    let (setup, _) = logged_in(&deployment).await;
    let _ended = Ended(&setup);
    answers(&setup, &["up", "echo"]).await;
    let pid = status(&setup).await.pomd.pid;
    let mut command = setup.command(&binary("pomd"));
    command.arg("--daemonize");
    let second = pomd::run(command, LIMIT).await;
    assert_eq!(second.status.code(), Some(1));
    assert_eq!(status(&setup).await.pomd.pid, pid);
}

/// Its socket is somewhere else, and its state is ours.
#[tokio::test(flavor = "multi_thread")]
async fn x11_x12_one_whose_socket_is_elsewhere_gives_way_too() {
    let deployment = deployment().await;
    let (setup, port) = logged_in(&deployment).await;
    let elsewhere = pomd::folder();
    let mut command = setup.command(&binary("pomd"));
    command
        .arg("--daemonize")
        .env("POMD_SOCKET", elsewhere.path().join("pomd.sock"));
    let first = pomd::run(command, LIMIT).await;
    assert!(first.status.success(), "{}", words(&first));
    let mut pomd = setup.start().await;
    assert_eq!(pomd.status().await.pomd.pid, pomd.pid());
    echoes(port).await;
    assert!(pomd.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn x11_a_service_takes_over_from_a_pomd_that_pomctl_started() {
    let test = "x11_a_service_takes_over_from_a_pomd_that_pomctl_started";
    let config = "[tunnel.ssh]\nroute = \"ssh.corp.test:22\"\nlisten = 2202\n";
    let systemd = match Systemd::start(config).await {
        Ok(systemd) => systemd,
        Err(why) => return skipped(test, &why),
    };
    let alone = ["env", "-u", "POMD_NO_START"];
    let up = [&alone[..], &["pomctl", "up", "ssh", "--json"]].concat();
    // It needs a login: pomd runs all the same.
    systemd.user(&up).await;
    let pid = async || {
        let output = systemd.user(&["pomctl", "status", "--json"]).await;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        status["pomd"]["pid"].to_string()
    };
    let first = pid().await;
    systemd.systemctl(&["start", "pomd"]).await;
    let main = systemd.property("MainPID").await;
    assert_eq!(pid().await, main);
    assert_ne!(first, main);
    // And it stays: commands find it, and a restart is its own.
    systemd.user(&up).await;
    let restart = systemd.user(&["pomctl", "restart", "--yes"]).await;
    assert!(restart.status.success(), "{restart:?}");
    systemd.user(&up).await;
    assert_eq!(pid().await, main);
    assert_eq!(systemd.property("MainPID").await, main);
    assert_eq!(systemd.property("NRestarts").await, "0");
    // Where its last words are is said by whoever is asked for them.
    systemd.systemctl(&["stop", "pomd"]).await;
    let logs = systemd.user(&["pomctl", "logs"]).await;
    assert_eq!(logs.status.code(), Some(3));
    assert!(
        words(&logs).contains("journalctl --user"),
        "{}",
        words(&logs)
    );
}
