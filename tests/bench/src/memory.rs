//! Memory per idle connection, and what is given back after a burst and after the connections ended.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use integration::{PATIENCE, binary::binary};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    net::TcpStream,
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinSet,
    time::timeout,
};

use crate::{
    Size, lab,
    measure::memory,
    service,
    table::{Table, verdict},
};

/// KiB for one connection.
const MOST: f64 = 10.0;
/// Of the memory before the connections, once they are gone.
const MOST_LEFT: f64 = 1.5;
/// Connections that are opened, or carry, at once.
const AT_ONCE: usize = 64;
/// What the clients say when they did what they were told.
const DONE: &str = "done";
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
    for connections in size.pick(&[20][..], &[1000, 9000], &[100, 1000, 9000]) {
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
    let deployment = lab::deployment().await;
    let pomd = lab::pomd(&deployment, deployment.address(), 1).await;
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
    Clients::open(tunnel, AT_ONCE.min(connections))
        .await
        .close()
        .await;
    let before = settled().await;
    let mut clients = Clients::open(tunnel, connections).await;
    let open = settled().await;
    clients.burst().await;
    let after_burst = settled().await;
    clients.close().await;
    let closed = settled().await;
    Held {
        before,
        open,
        after_burst,
        closed,
    }
}

/// The clients of all connections, in a process of their own: descriptors are scarce.
struct Clients {
    process: Child,
    orders: ChildStdin,
    words: Lines<BufReader<ChildStdout>>,
}

impl Clients {
    async fn open(tunnel: SocketAddr, connections: usize) -> Self {
        let mut command = Command::new(binary("bench"));
        command
            .args(["--play", "clients", &tunnel.to_string()])
            .arg(connections.to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut res = Self {
            orders: process.stdin.take().unwrap(),
            words: BufReader::new(process.stdout.take().unwrap()).lines(),
            process,
        };
        res.is_done().await;
        res
    }

    async fn burst(&mut self) {
        self.orders.write_all(b"burst\n").await.unwrap();
        self.is_done().await;
    }

    async fn close(mut self) {
        drop(self.orders);
        self.process.wait().await.unwrap();
    }

    async fn is_done(&mut self) {
        let word = timeout(PATIENCE * 10, self.words.next_line()).await;
        assert_eq!(word.unwrap().unwrap().as_deref(), Some(DONE));
    }
}

/// Plays the clients: opens them all, has each carry a burst for each line of standard input, and ends with it.
pub(crate) async fn clients(tunnel: SocketAddr, connections: usize) {
    let mut streams = open(tunnel, connections).await;
    println!("{DONE}");
    let mut orders = BufReader::new(tokio::io::stdin()).lines();
    while let Ok(Some(_)) = orders.next_line().await {
        streams = burst(streams).await;
        println!("{DONE}");
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
