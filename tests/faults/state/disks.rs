//! Disks that are full, read-only or broken for a while.

use std::process::Command;

use super::*;

/// What is said while a login cannot be saved.
fn trouble(status: &control::wire::Status) -> Option<&str> {
    let reason = cluster(status, CLUSTER).reason.as_ref();
    reason.map(|it| it.message.as_str())
}

/// Waits for the next try, which comes within half a minute.
async fn is_saved_at_last(pomd: &Pomd) {
    let end = tokio::time::Instant::now() + Duration::from_secs(60);
    while tokio::time::Instant::now() < end {
        if trouble(&pomd.status().await).is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("never saved: {:?}", pomd.status().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_an_error_at_each_call_of_a_save_is_told_until_the_next_try_saves() {
    let deployment = deployment().await;
    let (faults, pomd) = with_faults(&deployment).await;
    faults.plan(&[]);
    deployment.log_in(&pomd).await;
    let calls = faults.calls();
    let calls: Vec<_> = calls.into_iter().filter(|it| kind(it) == "disk").collect();
    let save = calls.len();
    drop(pomd);
    // Each call with one error, and what writes with the others too.
    let others = ["disk:create", "disk:write", "disk:rename"];
    let others = (1..=save).filter(|it| others.contains(&calls[it - 1].as_str()));
    let all = (1..=save).map(|it| (it, 5));
    let all = all.chain(others.flat_map(|it| [(it, 28), (it, 4)]));
    all_at_once(16, all.map(|(n, error)| fails_for_a_while(n, error))).await;
}

async fn fails_for_a_while(n: usize, error: i32) {
    let deployment = deployment().await;
    let (faults, mut pomd) = with_faults(&deployment).await;
    faults.plan(&[&format!("disk {n} error {error}")]);
    deployment.log_in(&pomd).await;
    let told = pomd
        .wait_for("the trouble is told", |it| trouble(it).is_some())
        .await;
    let told = trouble(&told).unwrap();
    assert!(told.starts_with("cannot "), "{told}");
    let words = match error {
        5 => "input/output error",
        28 => "no space left",
        _ => "interrupted",
    };
    assert!(told.contains(words), "{told}");
    // It works from memory.
    let bystander = Bystander::new(&pomd, "echo").await;
    carries(&pomd, "ssh").await;
    is_saved_at_last(&pomd).await;
    faults.plan(&[]);
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
    assert_eq!(litter(&pomd), Vec::<String>::new(), "call {n}");
    pomd.kill_and_restart().await;
    carries(&pomd, "ssh").await;
    assert_eq!(deployment.gateway.stats().sign_ins, 1, "call {n}");
}

/// The state folder of this pomd as its own namespace sees it.
fn within(pomd: &Pomd, words: &str) -> String {
    let mut command = Command::new("nsenter");
    command.args(["-m", "-t", &pomd.pid().to_string()]);
    command.args(["/bin/sh", "-c", words, "sh"]);
    let output = command.arg(pomd.setup().state_dir()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}: {told}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn s2_what_a_full_or_read_only_disk_does_not_take_is_kept_in_memory_and_saved_later() {
    let test = "s2_what_a_full_or_read_only_disk_does_not_take_is_kept_in_memory_and_saved_later";
    if !rustix::process::geteuid().is_root() {
        return integration::skipped(test, "needs root");
    }
    let deployment = deployment().await;
    let mount = "mkdir -p \"$POMD_STATE_DIR\" && mount -t tmpfs -o size=8k,mode=0700 tmpfs \"$POMD_STATE_DIR\" || exit 1";
    let setup = Setup::new(&deployment.config(&TUNNELS)).inside(&["-m"], mount);
    let possible = Command::new("unshare")
        .args(["-m", "mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output();
    if !possible.is_ok_and(|it| it.status.success()) {
        return integration::skipped(test, "nothing can be mounted here");
    }
    let pomd = setup.start().await;
    let before = within(&pomd, "cat \"$1/ports.json\"");
    // Two pages: one has the ports, the other the lock's text.
    deployment.log_in(&pomd).await;
    let told = pomd.status().await;
    assert_eq!(
        trouble(&told),
        Some("cannot save the login: no space left"),
        "{told:#?}"
    );
    let bystander = Bystander::new(&pomd, "echo").await;
    carries(&pomd, "ssh").await;
    pomd.reload(&with_more(&deployment, &["more".to_owned()]))
        .await;
    carries(&pomd, "more").await;
    let warned = |it: &control::wire::Status, words: &str| {
        it.pomd.warnings.iter().any(|it| it.contains(words))
    };
    let status = pomd.status().await;
    let words = "cannot save the chosen ports: no space left";
    assert!(warned(&status, words), "{:?}", status.pomd.warnings);
    assert_eq!(within(&pomd, "cat \"$1/ports.json\""), before, "cut short");
    within(&pomd, "mount -o remount,size=1m \"$1\"");
    is_saved_at_last(&pomd).await;
    pomd.reload(&deployment.config(&TUNNELS)).await;
    let status = pomd.status().await;
    assert!(
        !warned(&status, "chosen ports"),
        "{:?}",
        status.pomd.warnings
    );
    assert!(within(&pomd, "cat \"$1/ports.json\"").contains("more"));
    let saved = within(&pomd, "cat \"$1/tokens/corp.test.json\"");
    assert!(
        deployment
            .gateway
            .is_good(&token_of(saved.as_bytes()).unwrap())
    );
    // Read-only, as after an error of the disk.
    let read_only =
        "mount --bind \"$1/tokens\" \"$1/tokens\" && mount -o remount,bind,ro \"$1/tokens\"";
    within(&pomd, read_only);
    deployment.gateway.end_all_sessions();
    deployment.log_in(&pomd).await;
    let told = pomd.status().await;
    let words = "cannot save the login: the disk is read-only";
    assert_eq!(trouble(&told), Some(words));
    assert_eq!(within(&pomd, "cat \"$1/tokens/corp.test.json\""), saved);
    within(&pomd, "umount \"$1/tokens\"");
    is_saved_at_last(&pomd).await;
    let saved = within(&pomd, "cat \"$1/tokens/corp.test.json\"");
    assert!(
        deployment
            .gateway
            .is_good(&token_of(saved.as_bytes()).unwrap())
    );
    assert_eq!(
        within(&pomd, "ls -A \"$1/tokens\"").trim(),
        "corp.test.json"
    );
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
}
