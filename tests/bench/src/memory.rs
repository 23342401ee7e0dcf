//! Memory per idle connection, and what is given back after a burst and after the connections ended.

use std::{net::SocketAddr, time::Duration};

use integration::PATIENCE;
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::timeout};

use crate::{
    Size, lab,
    measure::memory,
    service,
    table::{Table, verdict},
};

/// KiB for one connection.
const MOST: f64 = 10.0;
/// Of the memory before the connections, once they are gone.
const MOST_LEFT: f64 = 1.2;
/// Connections that are opened, or carry, at once.
const AT_ONCE: usize = 64;
/// What each connection carries in the burst.
const BURST: u64 = 1 << 20;
/// Within this, what a burst took must be given back.
const GIVE_BACK: Duration = Duration::from_secs(60);

/// What one pomd held, in KiB.
struct Held {
    before: f64,
    open: f64,
    after_burst: f64,
    closed: f64,
}

/// Measures with few and with many connections.
pub(crate) async fn run(size: Size) -> Vec<Table> {
    let title = format!(
        "memory: KiB per idle connection, before and after {} MiB went down each; then all closed",
        BURST >> 20
    );
    let head = [
        "connections",
        "base MiB",
        "idle",
        "target",
        "after burst",
        "target",
        "left of base",
        "target",
    ];
    let mut table = Table::new(title, &head);
    for connections in size.pick(&[20][..], &[100, 2000, 9000], &[100, 2000, 9000]) {
        let Held {
            before,
            open,
            after_burst,
            closed,
        } = measure(size, *connections).await;
        let each = |held: f64| (held - before) / *connections as f64;
        table.row([
            connections.to_string(),
            format!("{:.1}", before / 1024.0),
            format!("{:.1}", each(open)),
            verdict(each(open), MOST),
            format!("{:.1}", each(after_burst)),
            verdict(each(after_burst), MOST),
            format!("{:.2}", closed / before),
            verdict(closed / before, MOST_LEFT),
        ]);
    }
    vec![table]
}

async fn measure(size: Size, connections: usize) -> Held {
    let corp = lab::corp().await;
    let pomd = lab::pomd(&corp, corp.address(), 1).await;
    let tunnel = pomd.address(lab::TUNNEL).await;
    // A connection looks once more, ten seconds after its last write.
    let quiet = size.pick(
        Duration::from_millis(200),
        Duration::from_secs(12),
        Duration::from_secs(20),
    );
    let settled = async || {
        let look = || memory(pomd.pid());
        lab::settled(quiet, GIVE_BACK.max(quiet), look).await
    };
    // What the first ones bring in, such as the roots of trust, is not for each.
    drop(open(tunnel, AT_ONCE.min(connections)).await);
    let before = settled().await;
    let mut streams = open(tunnel, connections).await;
    let open = settled().await;
    streams = burst(streams).await;
    let after_burst = settled().await;
    drop(streams);
    let closed = settled().await;
    Held {
        before,
        open,
        after_burst,
        closed,
    }
}

async fn open(tunnel: SocketAddr, connections: usize) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(connections);
    while streams.len() < connections {
        let mut opening = JoinSet::new();
        for _ in 0..AT_ONCE.min(connections - streams.len()) {
            opening.spawn(lab::open(tunnel));
        }
        streams.extend(opening.join_all().await);
    }
    streams
}

async fn burst(mut streams: Vec<TcpStream>) -> Vec<TcpStream> {
    let mut res = Vec::with_capacity(streams.len());
    while !streams.is_empty() {
        let next = streams.split_off(streams.len().saturating_sub(AT_ONCE));
        let mut carrying = JoinSet::new();
        for mut stream in next {
            carrying.spawn(async move {
                let carried = async {
                    stream.write_all(&service::down(BURST)).await?;
                    service::take(&mut stream, BURST).await
                };
                timeout(PATIENCE, carried).await.unwrap().unwrap();
                stream
            });
        }
        res.extend(carrying.join_all().await);
    }
    res
}
