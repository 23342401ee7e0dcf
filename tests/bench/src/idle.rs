//! Memory and wake-ups of a pomd that has nothing to do.

use std::time::Duration;

use integration::{corp::Corp, pomd::Pomd};

use crate::{
    Size, lab,
    measure::{Sleeps, memory},
    table::{Table, verdict},
};

/// Wake-ups in a minute.
const WAKES: f64 = 2.0;
/// MiB.
const MEMORY: f64 = 12.0;

/// One that is watched.
struct Idle {
    what: String,
    pomd: Pomd,
    sleeps: Sleeps,
}

/// Watches all at the same time.
pub(crate) async fn run(size: Size) -> Vec<Table> {
    let watch = Duration::from_secs(size.pick(1, 120, 900));
    // Threads for what blocks end after ten seconds without work.
    let rest = Duration::from_secs(size.pick(0, 20, 30));
    let corp = lab::corp().await;
    let mut pomds = Vec::new();
    for tunnels in size.pick([1, 5], [50, 500], [50, 500]) {
        pomds.push((format!("{tunnels} tunnels"), start(&corp, tunnels).await));
    }
    let tunnels = size.pick(1, 50, 50);
    let used = start(&corp, tunnels).await;
    drop(lab::open(used.address(lab::TUNNEL).await).await);
    pomds.push((format!("{tunnels} tunnels, one just used"), used));

    tokio::time::sleep(rest).await;
    let start = |(what, pomd): (String, Pomd)| Idle {
        sleeps: Sleeps::of(pomd.pid()),
        what,
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
    for Idle { what, pomd, sleeps } in &idle {
        let now = Sleeps::of(pomd.pid());
        let mib = memory(pomd.pid()) / 1024.0;
        let wakes = now.since(sleeps) * 60.0 / watch.as_secs_f64();
        table.row([
            what.clone(),
            now.threads().to_string(),
            format!("{mib:.1}"),
            verdict(mib, MEMORY),
            format!("{wakes:.1}"),
            verdict(wakes, WAKES),
        ]);
    }
    vec![table]
}

async fn start(corp: &Corp, tunnels: usize) -> Pomd {
    lab::pomd(corp, corp.address(), tunnels).await
}
