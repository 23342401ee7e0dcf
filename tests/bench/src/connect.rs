//! CPU that one connection takes from its start to its end, beside a bare TLS handshake, a client by hand and a plain TCP
//! relay.
//!
//! The bare handshake is tokio-rustls with the suites and the kind of verifier that pomd has: the platform's, which finds the
//! gateway's authority beside the system's own. It is full each time, while pomd resumes its sessions where the server lets
//! it.

use std::time::Duration;

use integration::deployment::Deployment;

use crate::{
    Size, lab,
    measure::{cpu, median},
    play::{self, Relay, Sample},
    table::{Table, verdict},
};

/// How many times a bare handshake.
const MOST: f64 = 1.3;

/// Measures with few and with many tunnels, the three of them in turn.
pub(crate) async fn run(size: Size) -> Vec<Table> {
    let (rounds, connects) = size.pick((1, 20), (7, 300), (15, 1000));
    let deployment = lab::deployment().await;
    let title = format!(
        "connect: CPU per connection with one byte each way, ms ({rounds} rounds of {connects})"
    );
    let head = [
        "",
        "pomd",
        "bare handshake",
        "by hand",
        "ratio",
        "plain relay",
        "ratio",
        "pomd / handshake",
        "target",
    ];
    let mut table = Table::new(title, &head);
    for tunnels in size.pick([1, 2], [5, 500], [5, 500]) {
        let [ours, bare, by_hand, plain] = measure(&deployment, tunnels, rounds, connects).await;
        table.row([
            format!("{tunnels} tunnels"),
            format!("{ours:.2}"),
            format!("{bare:.2}"),
            format!("{by_hand:.2}"),
            ratio(ours, by_hand),
            format!("{plain:.2}"),
            ratio(ours, plain),
            ratio(ours, bare),
            verdict(ours / bare, MOST),
        ]);
    }
    vec![table]
}

/// Milliseconds: pomd, a bare handshake, by hand, a plain relay.
async fn measure(
    deployment: &Deployment,
    tunnels: usize,
    rounds: usize,
    connects: usize,
) -> [f64; 4] {
    let pomd = lab::pomd(deployment, deployment.address(), tunnels).await;
    let tunnel = pomd.address(lab::TUNNEL).await;
    let relay = Relay::start(deployment.address()).await;
    let front = lab::front(deployment, relay.address());
    let token = lab::token(deployment);
    let mut took = [const { Vec::new() }; 4];
    let each = |cpu: Duration| cpu.as_secs_f64() * 1000.0 / connects as f64;
    // The first one reads certificates and the like.
    drop(lab::open(tunnel).await);
    for _ in 0..rounds {
        let before = cpu(pomd.pid());
        for _ in 0..connects {
            drop(lab::open(tunnel).await);
        }
        took[0].push(each(cpu(pomd.pid()) - before));
        took[1].push(each(
            play::connects(deployment, Sample::Handshake, connects).await,
        ));
        took[2].push(each(
            play::connects(deployment, Sample::ByHand, connects).await,
        ));
        let before = cpu(relay.pid());
        for _ in 0..connects {
            let mut tunnel = front.open(lab::ROUTE, &token, b"").await;
            lab::first_byte(&mut tunnel.tls).await;
        }
        took[3].push(each(cpu(relay.pid()) - before));
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
