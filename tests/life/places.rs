//! X12: callers whose environments differ find the pomd that has their state folder.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use control::client::Client;
use integration::{
    binary::binary,
    pomd::{self, Pomd, Setup},
};

use super::{LIMIT, words};

/// A command whose runtime folder is `folder`, and which names no socket.
fn with_runtime(setup: &Setup, program: &str, folder: &Path) -> Command {
    let mut command = setup.command(&binary(program));
    command
        .env_remove("POMD_SOCKET")
        .env("XDG_RUNTIME_DIR", folder);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn x12_a_pomd_is_found_whatever_runtime_folder_the_caller_has() {
    let setup = Setup::new("");
    let [first, second] = ["a", "b"].map(|it| {
        let folder = setup.folder().join(it);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o700)).unwrap();
        folder
    });
    let mut start = with_runtime(&setup, "pomd", &first);
    start.arg("--daemonize");
    let started = pomd::run(start, LIMIT).await;
    assert!(started.status.success(), "{}", words(&started));
    let run = async |arguments: &[&str], folder: &Path| {
        let mut command = with_runtime(&setup, "pomctl", folder);
        command.args(arguments);
        pomd::run(command, LIMIT).await
    };
    let pid = |output: &std::process::Output| {
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        status["pomd"]["pid"].as_u64().unwrap()
    };
    let there = pid(&run(&["status", "--json"], &first).await);
    assert_eq!(pid(&run(&["status", "--json"], &second).await), there);
    // A restart names the place anew.
    let restart = run(&["restart"], &second).await;
    assert!(restart.status.success(), "{}", words(&restart));
    // No folder at all, as in a cron job; and a command that would start a second one.
    let none = run(&["status", "--json"], Path::new("/nonexistent")).await;
    assert_eq!(pid(&none), there);
    let logs = run(&["logs"], &second).await;
    assert!(logs.status.success(), "{}", words(&logs));
    // Who names a socket means that one.
    let named = second.join("pomd.sock");
    let named = run(
        &["status", "--socket", named.to_str().unwrap(), "--json"],
        &first,
    )
    .await;
    assert_eq!(named.status.code(), Some(3));
    let stop = run(&["stop"], &second).await;
    let told = String::from_utf8_lossy(&stop.stdout).into_owned();
    assert!(
        told.starts_with(&format!("Stopped pomd (pid {there})")),
        "{told}"
    );
    let over = run(&["status", "--json"], &first).await;
    assert_eq!(over.status.code(), Some(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn x12_what_a_lock_file_names_is_tried_and_not_believed() {
    let pomd = Pomd::start("").await;
    let setup = pomd.setup();
    let place = control::paths::Paths {
        config: setup.config_file(),
        state: setup.folder().join("other-state"),
        socket: setup.socket(),
    };
    fs::create_dir(&place.state).unwrap();
    let lock = place.state.join("pomd.lock");
    let gone = setup.folder().join("gone.sock");
    for text in [
        String::new(),
        "7".to_owned(),
        "\0nonsense".to_owned(),
        format!("7\n{{\"phase\":\"running\",\"socket\":{gone:?}}}\n"),
        "7\n{\"phase\":\"restarting\",\"socket\":\"relative\"}\n".to_owned(),
    ] {
        fs::write(&lock, &text).unwrap();
        let status = Client::of(&place, false).status().await;
        assert_eq!(status.unwrap().pomd.pid, pomd.pid(), "{text:?}");
    }
}
