//! What real shells offer when Tab is pressed.

use std::{path::Path, process::Command};

use control::wire::TunnelState;
use gateway::Upstream;
use integration::{
    binary::binary,
    deployment::Deployment,
    pomd::{Pomd, run},
};

const SSH: &str = "web-1.corp.test:22";
const DB: &str = "db.corp.test:5432";
/// Completes the words after the name of the program, as bash does.
const BASH: &str = r#"
source <(COMPLETE=bash pomctl)
COMP_WORDS=(pomctl "$@")
COMP_CWORD=$#
_clap_complete_pomctl pomctl "${@: -1}" ""
printf '%s\n' "${COMPREPLY[@]}"
"#;
/// The same by the line that belongs into fish's file.
const FISH: &str = r#"
pomctl completions fish 2>/dev/null | source
complete --do-complete "pomctl $argv"
"#;

/// What `shell` prints that runs `script` with these words, and nothing on standard error.
async fn offered(pomd: &Pomd, shell: &str, script: &str, words: &[&str]) -> Vec<String> {
    let program = binary("pomctl");
    let mut command = pomd.setup().command(Path::new(shell));
    match shell {
        "bash" => command.args(["--norc", "-c", script, "bash"]).args(words),
        _ => command
            .args(["--no-config", "-c", script])
            .arg(words.join(" ")),
    };
    command.env(
        "PATH",
        format!("{}:/usr/bin:/bin", program.parent().unwrap().display()),
    );
    let output = run(command, integration::PATIENCE).await;
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{words:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text.lines().map(str::trim).filter(|it| !it.is_empty());
    lines.map(str::to_owned).collect()
}

fn is_there(shell: &str) -> bool {
    Command::new(shell).arg("--version").output().is_ok()
}

async fn pomd() -> (Deployment, Pomd) {
    let deployment =
        Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(DB, Upstream::Echo)).await;
    let pomd = deployment.logged_in(&[("web-1", SSH), ("db", DB)]).await;
    for name in ["web-1", "db"] {
        pomd.address(name).await;
    }
    (deployment, pomd)
}

#[tokio::test(flavor = "multi_thread")]
async fn g24_bash_offers_what_makes_sense_at_the_moment() {
    let (_deployment, pomd) = pomd().await;
    pomd.client().down("db", false).await.unwrap();
    let offered = async |words: &[&str]| {
        let all = offered(&pomd, "bash", BASH, words).await;
        let plain = all.into_iter().filter(|it| !it.starts_with('-'));
        plain.collect::<Vec<_>>()
    };
    // A busy machine may have us pass pomd over for its file, in which nothing is up.
    integration::eventually("up offers what is not up", async || {
        (offered(&["up", ""]).await == ["db"]).then_some(())
    })
    .await;
    integration::eventually("down offers what is up", async || {
        (offered(&["down", ""]).await == ["web-1"]).then_some(())
    })
    .await;
    assert_eq!(offered(&["ssh", ""]).await, ["web-1"]);
    assert_eq!(offered(&["login", ""]).await, ["corp"]);
    assert_eq!(offered(&["connect", "w"]).await, [SSH]);
    assert_eq!(offered(&["enable", "d"]).await, ["db"]);
    assert_eq!(offered(&["dow"]).await, ["down"]);
    assert!(
        offered(&["completions", ""])
            .await
            .contains(&"powershell".to_owned())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn g24_a_shell_without_pomd_offers_what_the_file_has_and_starts_nothing() {
    let (_deployment, pomd) = pomd().await;
    let socket = pomd.setup().socket().to_owned();
    pomd.client().stop().await.unwrap();
    integration::eventually("pomd is gone", async || (!socket.exists()).then_some(())).await;
    let offered = offered(&pomd, "bash", BASH, &["enable", ""]).await;
    assert!(offered.contains(&"db".to_owned()), "{offered:?}");
    assert!(!socket.exists(), "it was started");
}

#[tokio::test(flavor = "multi_thread")]
async fn g24_fish_shows_state_and_address_beside_the_names() {
    if !is_there("fish") {
        integration::skipped(
            "g24_fish_shows_state_and_address_beside_the_names",
            "no fish",
        );
        return;
    }
    let (_deployment, pomd) = pomd().await;
    let local = pomd.address("web-1").await.port();
    integration::eventually("fish shows it", async || {
        let offered = offered(&pomd, "fish", FISH, &["down", "w"]).await;
        (offered == [format!("web-1\tup, localhost:{local}")]).then_some(())
    })
    .await;
    let status = pomd.status().await;
    assert_eq!(
        integration::pomd::tunnel(&status, "web-1").state,
        TunnelState::Up
    );
}
