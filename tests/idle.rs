//! R4: while nothing happens, pomd sleeps.

use std::{collections::BTreeMap, fs, time::Duration};

use gateway::Upstream;
use integration::{
    deployment::Deployment,
    pomd::{Pomd, Setup},
};
use tempfile::TempDir;

const ROUTE: &str = "echo.corp.test:7000";
const TUNNELS: usize = 50;
/// How often threads wake at most for one tick where its moment is not met exactly, as on a busy machine: for each of the
/// three levels of the runtime's wheel of timers that 30 s lie on, the one that waits for all and one that it hands the
/// work to, and each a second time. Far fewer than the rounds of what is written beside.
const TICK: u64 = 12;
/// How often where it is.
const EXACT_TICK: u64 = 1;
const MINUTE: Duration = Duration::from_secs(60);

/// How often each thread of a process woke, did something and waited again.
fn wakes(pid: u32) -> BTreeMap<String, u64> {
    let mut res = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        // A thread that ended meanwhile has no say.
        let Ok(status) = fs::read_to_string(task.path().join("status")) else {
            continue;
        };
        let field = |name: &str| status.lines().find_map(|it| it.strip_prefix(name)).unwrap();
        let name = format!("{} {}", field("Pid:").trim(), field("Name:").trim());
        res.insert(
            name,
            field("voluntary_ctxt_switches:").trim().parse().unwrap(),
        );
    }
    res
}

/// How often threads woke within `time`, and which ones.
async fn wakes_within(pomd: &Pomd, time: Duration) -> (u64, Vec<String>) {
    let before = wakes(pomd.pid());
    // What is measured is that time passes.
    tokio::time::sleep(time).await;
    let after = wakes(pomd.pid());
    let more = |name: &String| after[name] - before.get(name).copied().unwrap_or(0);
    let woken = after.keys().filter(|it| more(it) > 0);
    let which = woken.map(|it| format!("{it}: {}", more(it))).collect();
    (after.keys().map(more).sum(), which)
}

/// A pomd with many tunnels, and nothing under way any more.
struct Rested {
    pomd: Pomd,
    /// Holds a file, and the folder of the configuration.
    above: TempDir,
    _corp: Deployment,
}

async fn rested() -> Rested {
    let names: Vec<String> = (0..TUNNELS).map(|it| format!("tunnel-{it}")).collect();
    let tunnels: Vec<(&str, &str)> = names.iter().map(|it| (it.as_str(), ROUTE)).collect();
    let deployment = Deployment::gateway(|it| it.route(ROUTE, Upstream::Echo)).await;
    let above = integration::pomd::folder();
    let config = above.path().join("conf/pomd.toml");
    fs::create_dir(above.path().join("conf")).unwrap();
    fs::write(&config, deployment.config(&tunnels)).unwrap();
    fs::write(above.path().join("history"), "").unwrap();
    let setup = Setup::new("").config_at(config.to_str().unwrap());
    let pomd = setup.start().await;
    deployment.log_in(&pomd).await;
    // The runtime keeps threads that served the start for a while.
    let mut last = wakes(pomd.pid());
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let now = wakes(pomd.pid());
        if now == last {
            let _corp = deployment;
            return Rested { pomd, above, _corp };
        }
        last = now;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn r4_fifty_tunnels_at_rest_wake_nobody_and_neither_does_what_is_written_beside_the_way() {
    let rested = rested().await;
    let noise = async {
        for n in 0..50 {
            fs::read_to_string(rested.above.path().join("conf/pomd.toml")).unwrap();
            fs::write(rested.above.path().join("history"), n.to_string()).unwrap();
            // As in a home, or in a folder for temporary files; and as an editor does beside the file that it has open.
            for folder in ["", "conf"].map(|it| rested.above.path().join(it)) {
                fs::write(folder.join(".lesshst~"), n.to_string()).unwrap();
                fs::rename(folder.join(".lesshst~"), folder.join(".lesshst")).unwrap();
                fs::write(folder.join(".pomd.toml.swp"), n.to_string()).unwrap();
                fs::remove_file(folder.join(".pomd.toml.swp")).unwrap();
                drop(tempfile::tempdir_in(folder).unwrap());
            }
            drop(integration::pomd::folder());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (woken, ()) = tokio::join!(wakes_within(&rested.pomd, Duration::from_secs(12)), noise);
    let (count, which) = woken;
    // One tick of a half minute may fall into the time.
    assert!(count <= TICK, "{count} wakes in 12 s: {which:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes four minutes"]
async fn r4_fifty_tunnels_at_rest_wake_twice_a_minute() {
    let rested = rested().await;
    // The session looks around once more, half a minute after the login.
    tokio::time::sleep(MINUTE).await;
    let (count, which) = wakes_within(&rested.pomd, 3 * MINUTE).await;
    assert!(
        count <= 6 * EXACT_TICK,
        "{count} wakes in three minutes: {which:?}"
    );
}
