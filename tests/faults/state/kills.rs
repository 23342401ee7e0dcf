//! The process is killed while it writes.

use std::{collections::BTreeMap, os::unix::process::ExitStatusExt};

use control::wire::Status;
use integration::pomd::Setup;
use rustix::process::Signal;

use super::*;

/// How often the process is killed at random at night.
const RANDOM_KILLS: u32 = 1_000;

/// Which port each tunnel has.
fn ports(status: &Status) -> BTreeMap<String, Vec<String>> {
    let tunnels = status.tunnels.iter();
    tunnels
        .map(|it| (it.name.clone(), it.listen.clone()))
        .collect()
}

/// Does `what` with a pomd that dies at its disk call number 1, 2, … in lives one after the other, until it lives on;
/// after each death `check` is given the pomd of the next life.
async fn killed_at_every_call(
    deployment: &Deployment,
    what: impl AsyncFn(&Pomd, usize),
    check: impl AsyncFn(&Pomd, usize),
) -> usize {
    let (faults, mut pomd) = with_faults(deployment).await;
    deployment.log_in(&pomd).await;
    let mut n = 0;
    loop {
        n += 1;
        faults.plan(&[&format!("disk {n} kill")]);
        what(&pomd, n).await;
        let killed = faults
            .calls()
            .iter()
            .filter(|it| kind(it) == "disk")
            .count()
            == n;
        faults.plan(&[]);
        if !killed {
            pomd.process().assert_runs();
            return n - 1;
        }
        let ended = pomd.process().wait().await;
        assert_eq!(ended.signal(), Some(Signal::KILL.as_raw()), "{ended:?}");
        pomd.start_again().await;
        assert_eq!(litter(&pomd), Vec::<String>::new(), "killed at call {n}");
        check(&pomd, n).await;
        // What it knows may be the older token, which the server takes no more.
        deployment.log_in(&pomd).await;
        carries(&pomd, "echo").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_f7_a_kill_at_every_call_of_a_login_s_save_leaves_the_old_or_the_new_token_whole() {
    let deployment = deployment().await;
    let old = std::sync::Mutex::new(None);
    let calls = killed_at_every_call(
        &deployment,
        async |pomd, _| {
            *old.lock().unwrap() = fs::read(token_file(pomd)).ok();
            deployment.gateway.end_all_sessions();
            tries_to_log_in(&deployment, pomd).await;
        },
        async |pomd, n| {
            // The server had refused the old one, so it may be forgotten already.
            let Ok(now) = fs::read(token_file(pomd)) else {
                return;
            };
            let is_old = old.lock().unwrap().as_ref() == Some(&now);
            let is_new = token_of(&now).is_some_and(|it| deployment.gateway.is_good(&it));
            assert!(is_old || is_new, "killed at call {n}: {now:?}");
        },
    )
    .await;
    // Open the folder, make, write, sync, rename, sync the folder.
    assert!(calls >= 6, "{calls} calls");
}

#[tokio::test(flavor = "multi_thread")]
async fn s1_f7_a_kill_at_every_call_of_a_port_s_choice_leaves_all_earlier_ports_as_they_were() {
    let deployment = deployment().await;
    let before = std::sync::Mutex::new(BTreeMap::new());
    let calls = killed_at_every_call(
        &deployment,
        async |pomd, n| {
            *before.lock().unwrap() = ports(&pomd.status().await);
            let names: Vec<String> = (1..=n).map(|it| format!("more-{it}")).collect();
            pomd.replace_config(&with_more(&deployment, &names));
            let _ = pomd.client().reload().await;
        },
        async |pomd, n| {
            let now = ports(&pomd.status().await);
            for (name, addresses) in before.lock().unwrap().iter() {
                assert_eq!(now.get(name), Some(addresses), "killed at call {n}");
            }
            assert_eq!(now.len(), TUNNELS.len() + n);
            let text = fs::read(ports_file(pomd)).unwrap();
            let kept: serde_json::Value = serde_json::from_slice(&text).unwrap();
            assert_eq!(kept["ports"].as_object().unwrap().len(), now.len());
        },
    )
    .await;
    assert!(calls >= 6, "{calls} calls");
}

/// One night; the shipped program, killed at any moment of logins, logouts and reloads.
#[ignore = "ten minutes"]
#[tokio::test(flavor = "multi_thread")]
async fn s1_f7_x4_a_thousand_kills_at_random_moments_break_no_file() {
    let deployment = deployment().await;
    let mut pomd = Setup::new(&deployment.config(&TUNNELS)).start().await;
    let mut moment = 0x2545_f491_u32;
    let mut names = Vec::new();
    let mut known = BTreeMap::new();
    for n in 0..RANDOM_KILLS {
        moment ^= moment << 13;
        moment ^= moment >> 17;
        moment ^= moment << 5;
        let after = Duration::from_micros(u64::from(moment % 60_000));
        if n % 3 == 0 {
            names.truncate(20);
            names.insert(0, format!("more-{n}"));
        }
        let busy = async {
            deployment.gateway.end_all_sessions();
            let reloading = async {
                pomd.replace_config(&with_more(&deployment, &names));
                let _ = pomd.client().reload().await;
            };
            tokio::join!(tries_to_log_in(&deployment, &pomd), reloading);
            std::future::pending::<()>().await;
        };
        let _ = tokio::time::timeout(after, busy).await;
        pomd.kill_and_restart().await;
        assert_eq!(litter(&pomd), Vec::<String>::new(), "kill {n}");
        if let Ok(text) = fs::read(token_file(&pomd)) {
            assert!(token_of(&text).is_some(), "kill {n}: {text:?}");
        }
        let now = ports(&pomd.status().await);
        for (name, addresses) in &now {
            let before = known.insert(name.clone(), addresses.clone());
            assert!(
                before.as_ref().is_none_or(|it| it == addresses),
                "kill {n}: {name} was {before:?} and is {addresses:?}"
            );
        }
    }
    deployment.log_in(&pomd).await;
    carries(&pomd, "echo").await;
}
