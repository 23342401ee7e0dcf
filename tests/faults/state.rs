//! Tokens and chosen ports on a disk that fails, and under a process that is killed.

mod disks;
mod kills;
mod last_good;

use std::{fs, path::PathBuf, time::Duration};

use control::wire::{ClusterState, Status};
use gateway::Upstream;
use integration::{
    PATIENCE,
    bystander::Bystander,
    deployment::{CLUSTER, Deployment},
    eventually,
    fault_injection::FaultPlan,
    pomd::{Pomd, Setup, cluster, find_tunnel, run, tunnel},
};
use tokio::task::{JoinSet, LocalSet};

use super::{ECHO, SSH, TUNNELS, carries};

async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(SSH, Upstream::Echo).route(ECHO, Upstream::Echo)).await
}

/// The shipped pomd's twin, with a disk and more that fail as planned.
async fn with_faults(deployment: &Deployment) -> (FaultPlan, Pomd) {
    let (faults, setup) = FaultPlan::new(Setup::new(&deployment.config(&TUNNELS)));
    (faults, setup.start().await)
}

/// Where the token of [`CLUSTER`] rests.
fn token_file(pomd: &Pomd) -> PathBuf {
    pomd.setup().state_dir().join("tokens/corp.test.json")
}

fn ports_file(pomd: &Pomd) -> PathBuf {
    pomd.setup().state_dir().join("ports.json")
}

/// The token in a file's text, if the text is whole.
fn token_of(text: &[u8]) -> Option<String> {
    let record: serde_json::Value = serde_json::from_slice(text).ok()?;
    Some(record["token"].as_str()?.to_owned())
}

/// Every name in the state folder that nobody made on purpose.
fn litter(pomd: &Pomd) -> Vec<String> {
    let state = pomd.setup().state_dir();
    let folders = [state.clone(), state.join("tokens")];
    let entries = folders.iter().filter_map(|it| fs::read_dir(it).ok());
    let names = entries.flatten().map(|it| it.unwrap().file_name());
    let names = names.map(|it| it.to_string_lossy().into_owned());
    names
        .filter(|it| it.contains("new") || it.contains("broken"))
        .collect()
}

/// Logs in again, as after a refusal; whether it came through.
async fn tries_to_log_in(deployment: &Deployment, pomd: &Pomd) -> bool {
    let Ok(answer) = pomd.client().login(CLUSTER, Default::default()).await else {
        return false;
    };
    match answer.login {
        Some(login) => {
            let page = deployment.browser.visit(&login.link).await;
            page.is_ok_and(|it| it.status == 200)
        }
        None => true,
    }
}

/// The tunnels of a configuration with these names more.
fn with_more(deployment: &Deployment, more: &[String]) -> String {
    let more = more.iter().map(|it| (it.as_str(), ECHO));
    let all: Vec<_> = TUNNELS.into_iter().chain(more).collect();
    deployment.config(&all)
}

#[tokio::test(flavor = "multi_thread")]
async fn s4_what_is_no_token_is_set_aside_and_costs_one_login() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let file = token_file(&pomd);
    let good = fs::read_to_string(&file).unwrap();
    let cases: [(&str, Vec<u8>); 5] = [
        ("empty", Vec::new()),
        ("half", good.as_bytes()[..good.len() / 2].to_vec()),
        (
            "another version",
            good.replace("\"version\":1", "\"version\":7").into(),
        ),
        ("binary", vec![0xff; 3000]),
        ("1 GiB", Vec::new()),
    ];
    for (n, (what, text)) in cases.into_iter().enumerate() {
        assert!(pomd.stop().await.success());
        fs::write(&file, &text).unwrap();
        if what == "1 GiB" {
            let file = fs::File::options().write(true).open(&file).unwrap();
            file.set_len(1 << 30).unwrap();
        }
        pomd.start_again().await;
        let status = pomd.status().await;
        assert_eq!(
            cluster(&status, CLUSTER).state,
            ClusterState::LoginNeeded,
            "{what}"
        );
        let aside = fs::metadata(file.with_extension("json.broken")).unwrap();
        let expected = if what == "1 GiB" {
            1 << 30
        } else {
            text.len() as u64
        };
        assert_eq!(aside.len(), expected, "{what}");
        assert!(
            pomd.words().contains("set aside as corp.test.json.broken"),
            "{what}"
        );
        deployment.log_in(&pomd).await;
        carries(&pomd, "echo").await;
        assert_eq!(deployment.gateway.stats().sign_ins, 2 + n as u64, "{what}");
        pomd.kill_and_restart().await;
        carries(&pomd, "ssh").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_a_state_folder_that_is_removed_is_made_anew_and_nobody_notices() {
    let deployment = deployment().await;
    let mut pomd = deployment.logged_in(&TUNNELS).await;
    let mut bystander = Bystander::new(&pomd, "echo").await;
    let before = pomd.status().await;
    fs::remove_dir_all(pomd.setup().state_dir()).unwrap();
    bystander.carries().await;
    carries(&pomd, "ssh").await;
    // What is chosen and made from now on rests there again.
    pomd.reload(&with_more(&deployment, &["more".to_owned()]))
        .await;
    carries(&pomd, "more").await;
    deployment.gateway.end_all_sessions();
    pomd.client().logout(CLUSTER).await.unwrap();
    deployment.log_in(&pomd).await;
    pomd.reload(&deployment.config(&TUNNELS)).await;
    bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
    pomd.kill_and_restart().await;
    for (name, _) in TUNNELS {
        carries(&pomd, name).await;
        let now = pomd.status().await;
        assert_eq!(tunnel(&now, name).listen, tunnel(&before, name).listen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s6_where_the_disk_refuses_locks_it_warns_and_works_and_no_second_one_takes_its_place() {
    let deployment = deployment().await;
    // ENOLCK as of a network disk without its lock service, EIO as of one that lost its server.
    for (error, words) in [(37, "no locks available"), (5, "input/output error")] {
        let (faults, setup) = FaultPlan::new(Setup::new(&deployment.config(&TUNNELS)));
        faults.plan(&[&format!("lock 1-9 error {error}")]);
        let mut pomd = setup.start().await;
        let folders = [pomd.setup().state_dir(), pomd.setup().runtime()];
        let warned = |it: &Status| {
            let warnings = &it.pomd.warnings;
            let of = |folder: &PathBuf| format!("{} cannot be locked ({words})", folder.display());
            let warns = |start: String| warnings.iter().any(|it| it.starts_with(&start));
            folders.iter().map(of).all(warns)
        };
        assert!(warned(&pomd.status().await), "{:?}", pomd.status().await);
        deployment.log_in(&pomd).await;
        let bystander = Bystander::new(&pomd, "echo").await;
        let second = run(pomd.setup().pomd_command(), PATIENCE).await;
        let said = String::from_utf8_lossy(&second.stderr);
        assert_eq!(second.status.code(), Some(1), "{said}");
        assert!(said.contains("another pomd listens there"), "{said}");
        assert_eq!(pomd.status().await.pomd.pid, pomd.pid());
        bystander.all_is_well(&pomd, &["ssh", "echo"]).await;
        // What was saved without a lock is there for one with a lock.
        faults.plan(&[]);
        let sign_ins = deployment.gateway.stats().sign_ins;
        pomd.kill_and_restart().await;
        assert!(!warned(&pomd.status().await));
        carries(&pomd, "ssh").await;
        assert_eq!(deployment.gateway.stats().sign_ins, sign_ins);
    }
}

/// Each call that can fail fails once, in a life of its own: what a person wants is had at last without a restart.
#[tokio::test(flavor = "multi_thread")]
async fn s3_each_call_that_fails_once_on_the_way_from_login_to_connect_is_survived() {
    let deployment = deployment().await;
    let (faults, pomd) = with_faults(&deployment).await;
    faults.plan(&[]);
    assert!(reaches_its_aim(&deployment, &pomd).await);
    let calls = faults.calls();
    let kinds = ["disk", "dial", "accept"];
    let of_kind = |kind_is: &str| calls.iter().filter(|it| kind(it) == kind_is).count();
    let count = kinds.map(of_kind).into_iter().max().unwrap_or(0);
    for kind in ["disk:create", "disk:sync_folder", "dial", "accept"] {
        assert!(calls.iter().any(|it| it == kind), "no {kind}: {calls:?}");
    }
    drop(pomd);
    all_at_once(4, (1..=count).map(fails_once)).await;
}

/// Runs these beside each other, not too many at once.
async fn all_at_once<F: Future<Output = ()> + 'static>(
    most: usize,
    tries: impl IntoIterator<Item = F>,
) {
    let here = LocalSet::new();
    let all = async {
        let mut running = JoinSet::new();
        for it in tries {
            while running.len() >= most {
                running.join_next().await.unwrap().unwrap();
            }
            running.spawn_local(it);
        }
        while let Some(ended) = running.join_next().await {
            ended.unwrap();
        }
    };
    here.run_until(all).await;
}

fn kind(call: &str) -> &str {
    call.split(':').next().unwrap_or(call)
}

/// A pomd of its own in which the call number `n` fails.
async fn fails_once(n: usize) {
    let deployment = deployment().await;
    let (faults, pomd) = with_faults(&deployment).await;
    // Which kind of call that is depends on the order of things, so each kind counts for itself.
    let lines = ["disk", "dial", "accept"].map(|it| format!("{it} {n} error 5"));
    faults.plan(&lines.each_ref().map(String::as_str));
    eventually(&format!("it works though call {n} failed"), async || {
        reaches_its_aim(&deployment, &pomd).await.then_some(())
    })
    .await;
    faults.plan(&[]);
    Bystander::new(&pomd, "echo")
        .await
        .all_is_well(&pomd, &["ssh", "more"])
        .await;
}

/// Login, save, reload, connect: whether all of it came through.
async fn reaches_its_aim(deployment: &Deployment, pomd: &Pomd) -> bool {
    if !tries_to_log_in(deployment, pomd).await {
        return false;
    }
    pomd.replace_config(&with_more(deployment, &["more".to_owned()]));
    if pomd.client().reload().await.is_err() {
        return false;
    }
    let status = pomd.status().await;
    let Some(more) = find_tunnel(&status, "more") else {
        return false;
    };
    let Some(address) = more.listen.first() else {
        return false;
    };
    let echoed = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, b"x").await?;
        let mut heard = [0];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut heard).await
    };
    let echoed = tokio::time::timeout(Duration::from_secs(5), echoed).await;
    echoed.is_ok_and(|it| it.is_ok())
}

/// Nothing of the shipped programs listens to a test: what steps in are values that only `main` of a test program makes.
#[test]
fn the_shipped_programs_hold_no_name_of_a_test_hook() {
    const KNOWN: [&str; 9] = [
        "POMD_ASCII",
        "POMD_BROWSER",
        "POMD_CONFIG",
        "POMD_EDITOR",
        // One life of the process tells the next by it how many descriptors it hands over.
        "POMD_HANDOVER",
        "POMD_LOG",
        "POMD_NO_START",
        "POMD_SOCKET",
        "POMD_STATE_DIR",
    ];
    let ours = fs::read(integration::binary::binary("pomd-with-faults")).unwrap();
    let hooks: [&[u8]; 3] = [b"POMD_FAULTS", b"disk:sync_folder", b"planned at "];
    for program in ["pomd", "pomctl"] {
        let bytes = fs::read(integration::binary::binary(program)).unwrap();
        for hook in hooks {
            let is_in = |it: &[u8]| it.windows(hook.len()).any(|it| it == hook);
            assert!(is_in(&ours), "the search finds nothing");
            let hook = String::from_utf8_lossy(hook);
            assert!(!is_in(&bytes), "{program} holds {hook}");
        }
        // Every variable it reads is one that its pages name.
        let starts = bytes.windows(5).enumerate().filter(|it| it.1 == b"POMD_");
        for (at, _) in starts {
            let name = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 40)]).into_owned();
            let known = KNOWN.iter().any(|it| name.starts_with(it));
            assert!(known, "{program} holds {name:?}");
        }
    }
}
