//! CPU that one connection takes from its start to its end, beside a client by hand and a plain TCP relay.

use std::time::Duration;

use integration::deployment::Deployment;

use crate::{
    Size, lab,
    measure::{cpu, median},
    play::{Relay, connects_by_hand},
    table::Table,
};

/// Measures with few and with many tunnels, the three of them in turn.
pub(crate) async fn run(size: Size) -> Vec<Table> {
    let (rounds, connects) = size.pick((1, 20), (7, 300), (15, 1000));
    let deployment = lab::deployment().await;
    let title = format!(
        "connect: CPU per connection with one byte each way, ms ({rounds} rounds of {connects})"
    );
    let head = ["", "pomd", "by hand", "ratio", "plain relay", "ratio"];
    let mut table = Table::new(title, &head);
    for tunnels in size.pick([1, 2], [5, 500], [5, 500]) {
        let [ours, by_hand, plain] = measure(&deployment, tunnels, rounds, connects).await;
        table.row([
            format!("{tunnels} tunnels"),
            format!("{ours:.2}"),
            format!("{by_hand:.2}"),
            ratio(ours, by_hand),
            format!("{plain:.2}"),
            ratio(ours, plain),
        ]);
    }
    vec![table]
}

/// Milliseconds: pomd, by hand, a plain relay.
async fn measure(
    deployment: &Deployment,
    tunnels: usize,
    rounds: usize,
    connects: usize,
) -> [f64; 3] {
    let pomd = lab::pomd(deployment, deployment.address(), tunnels).await;
    let tunnel = pomd.address(lab::TUNNEL).await;
    let relay = Relay::start(deployment.address()).await;
    let front = lab::front(deployment, relay.address());
    let token = lab::token(deployment);
    let mut took = [const { Vec::new() }; 3];
    let each = |cpu: Duration| cpu.as_secs_f64() * 1000.0 / connects as f64;
    // The first one reads certificates and the like.
    drop(lab::open(tunnel).await);
    for _ in 0..rounds {
        let before = cpu(pomd.pid());
        for _ in 0..connects {
            drop(lab::open(tunnel).await);
        }
        took[0].push(each(cpu(pomd.pid()) - before));
        took[1].push(each(connects_by_hand(deployment, connects).await));
        let before = cpu(relay.pid());
        for _ in 0..connects {
            let mut tunnel = front.open(lab::ROUTE, &token, b"").await;
            lab::first_byte(&mut tunnel.tls).await;
        }
        took[2].push(each(cpu(relay.pid()) - before));
    }
    took.map(|it| median(&it))
}

fn ratio(ours: f64, theirs: f64) -> String {
    if theirs == 0.0 {
        // Less than the system counts.
        return "-".to_owned();
    }
    format!("{:.2}", ours / theirs)
}
