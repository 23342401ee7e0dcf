//! The unit as it is shipped, under a real systemd.

use std::fs;

use integration::{eventually, skipped, systemd::Systemd};

const SSH: &str = "[tunnel.ssh]\nroute = \"ssh.corp.test:22\"\n\
    [cluster.corp]\nhosts = [\"*.corp.test\"]\nurl = \"https://corp.test\"\nbrowser = \"none\"\n";

/// A manager with pomd started, if one can be had.
async fn started(test: &str, config: &str, settings: &str) -> Option<Systemd> {
    let systemd = match Systemd::start(config).await {
        Ok(systemd) => systemd,
        Err(why) => {
            skipped(test, &why);
            return None;
        }
    };
    systemd.amend(settings).await;
    // Returns once pomd said that it is ready.
    systemd.systemctl(&["start", "pomd"]).await;
    Some(systemd)
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_starts_reloads_restarts_and_stops_the_unit_as_it_is_shipped() {
    let test = "systemd_starts_reloads_restarts_and_stops_the_unit_as_it_is_shipped";
    let Some(systemd) = started(test, "", "").await else {
        return;
    };
    assert_eq!(systemd.property("SubState").await, "running");
    assert_eq!(systemd.property("StatusText").await, "no tunnels");
    let pid = systemd.property("MainPID").await;

    // READY and RELOADING: a reload is over when what it read is in force.
    fs::write(systemd.config_file(), SSH).unwrap();
    systemd.systemctl(&["reload", "pomd"]).await;
    let status = "0 of 1 tunnel up, corp needs a login";
    systemd.wait_for("StatusText", status).await;
    systemd.wait_for("SubState", "running").await;
    fs::write(systemd.config_file(), "nonsense = 1\n").unwrap();
    systemd.systemctl(&["reload", "pomd"]).await;
    eventually("the problem is shown", async || {
        let status = systemd.property("StatusText").await;
        status
            .starts_with("the configuration is broken since ")
            .then_some(())
    })
    .await;

    let output = systemd.user(&["pomctl", "restart", "--force"]).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.starts_with("Restarted pomd "), "{output:?}");
    systemd.wait_for("SubState", "running").await;
    assert_eq!(systemd.property("MainPID").await, pid);
    assert_eq!(systemd.property("NRestarts").await, "0");

    systemd.systemctl(&["stop", "pomd"]).await;
    assert_eq!(systemd.property("ActiveState").await, "inactive");
    assert_eq!(systemd.property("Result").await, "success");
}

#[tokio::test(flavor = "multi_thread")]
async fn x5_systemd_starts_a_pomd_that_hangs_again() {
    let test = "x5_systemd_starts_a_pomd_that_hangs_again";
    // The patience of the shipped unit is 90 s.
    let Some(systemd) = started(test, SSH, "[Service]\nWatchdogSec=2\n").await else {
        return;
    };
    let pid = systemd.property("MainPID").await;
    let fed = systemd.property("WatchdogTimestampMonotonic").await;
    eventually("pomd says that it lives", async || {
        let now = systemd.property("WatchdogTimestampMonotonic").await;
        (now != fed).then_some(())
    })
    .await;
    assert_eq!(systemd.property("MainPID").await, pid);
    systemd.systemctl(&["kill", "-s", "STOP", "pomd"]).await;
    systemd.wait_for("NRestarts", "1").await;
    systemd.wait_for("SubState", "running").await;
    assert_ne!(systemd.property("MainPID").await, pid);
    let output = systemd.user(&["pomctl", "status", "--json"]).await;
    assert!(output.status.success(), "{output:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_has_the_fields_of_a_refused_connection() {
    let test = "the_journal_has_the_fields_of_a_refused_connection";
    let Some(systemd) = started(test, SSH, "").await else {
        return;
    };
    let output = systemd.user(&["pomctl", "status", "--json"]).await;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let listen = status["tunnels"][0]["listen"][0].as_str().unwrap();
    let port = listen.rsplit(':').next().unwrap();
    let script = format!("exec 3<>/dev/tcp/127.0.0.1/{port}; echo SSH-2.0-test >&3; cat <&3");
    let output = systemd.user(&["bash", "-c", &script]).await;
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains("corp needs a login"), "{output:?}");

    let line = eventually("the line is in the journal", async || {
        let lines = systemd.journal(&["TUNNEL=ssh"]).await;
        lines.into_iter().find(|it| !it["REASON"].is_null())
    })
    .await;
    assert_eq!(line["CLUSTER"], "corp");
    assert_eq!(line["CONNECTION"], "1");
    assert_eq!(line["REASON"], "login_needed");
    assert_eq!(line["PRIORITY"], "4");
    assert_eq!(line["SYSLOG_IDENTIFIER"], "pomd");
    assert_eq!(line["_SYSTEMD_USER_UNIT"], "pomd.service");
    let message = line["MESSAGE"].as_str().unwrap();
    assert!(
        message.starts_with("connection 1: corp needs a login"),
        "{message}"
    );
    // No line came twice, by stderr too.
    let all = systemd.journal(&["_SYSTEMD_USER_UNIT=pomd.service"]).await;
    let same = all.iter().filter(|it| it["MESSAGE"] == message);
    assert_eq!(same.count(), 1);
    let runs = |it: &&serde_json::Value| {
        it["MESSAGE"]
            .as_str()
            .is_some_and(|it| it.contains(" runs (pid "))
    };
    assert_eq!(all.iter().find(runs).unwrap()["PRIORITY"], "6");

    let output = systemd.user(&["pomctl", "logs"]).await;
    let named = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "Reading the journal (journalctl --user -u pomd)\n";
    assert_eq!(named, expected);
}
