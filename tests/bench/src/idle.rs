//! Memory and wake-ups of a pomd that has nothing to do.

use std::time::Duration;

use integration::{deployment::Deployment, pomd::Pomd};

use crate::{
    Size, lab,
    measure::{Sleeps, memory},
    table::{Table, verdict},
};

/// Wake-ups in a minute.
const WAKES: f64 = 2.0;
/// MiB, with as many tunnels as a person has.
const MEMORY: f64 = 12.0;
/// From here on there is no promise for the memory: it shows what a tunnel costs.
const MANY: usize = 100;

/// One that is watched.
struct Idle {
    what: String,
    tunnels: usize,
    pomd: Pomd,
    sleeps: Sleeps,
}

/// Watches all at the same time.
pub(crate) async fn run(size: Size) -> Vec<Table> {
    let watch = Duration::from_secs(size.pick(1, 120, 900));
    // Threads for what blocks end after ten seconds without work, and a session looks around half a minute after a login.
    let rest = Duration::from_secs(size.pick(0, 40, 60));
    let deployment = lab::deployment().await;
    let mut pomds = Vec::new();
    for tunnels in size.pick([1, 5], [50, 500], [50, 500]) {
        let pomd = start(&deployment, tunnels).await;
        pomds.push((format!("{tunnels} tunnels"), tunnels, pomd));
    }
    let tunnels = size.pick(1, 50, 50);
    let used = start(&deployment, tunnels).await;
    drop(lab::open(used.address(lab::TUNNEL).await).await);
    let what = format!("{tunnels} tunnels, one just used");
    pomds.push((what, tunnels, used));

    tokio::time::sleep(rest).await;
    let start = |(what, tunnels, pomd): (String, usize, Pomd)| Idle {
        sleeps: Sleeps::of(pomd.pid()),
        what,
        tunnels,
        pomd,
    };
    let idle: Vec<Idle> = pomds.into_iter().map(start).collect();
    tokio::time::sleep(watch).await;

    let title = format!("idle: watched for {watch:?}");
    let head = [
        "",
        "threads",
        "MiB",
        "target",
        "wake-ups a minute",
        "target",
    ];
    let mut table = Table::new(title, &head);
    for Idle {
        what,
        tunnels,
        pomd,
        sleeps,
    } in &idle
    {
        let now = Sleeps::of(pomd.pid());
        let mib = memory(pomd.pid()) / 1024.0;
        let wakes = now.since(sleeps) * 60.0 / watch.as_secs_f64();
        table.row([
            what.clone(),
            now.threads().to_string(),
            format!("{mib:.1}"),
            if *tunnels < MANY {
                verdict(mib, MEMORY)
            } else {
                "none".to_owned()
            },
            format!("{wakes:.1}"),
            verdict(wakes, WAKES),
        ]);
    }
    vec![table]
}

async fn start(deployment: &Deployment, tunnels: usize) -> Pomd {
    lab::pomd(deployment, deployment.address(), tunnels).await
}
