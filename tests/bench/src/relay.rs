//! CPU that relaying takes, per GiB, beside a plain TCP relay that carries the same TLS connection unopened.

use std::net::SocketAddr;

use gateway::Upstream;
use integration::{PATIENCE, corp::Corp};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
    time::timeout,
};

use crate::{
    Size, lab,
    measure::{cpu, median},
    play::Relay,
    service,
    table::{Table, verdict},
};

const MOST: f64 = 1.2;

/// Where the bytes of a round went.
#[derive(Clone, Copy, Debug)]
enum Direction {
    Down,
    Up,
}

/// Measures both directions in turn, with pomd and the plain relay in turn.
pub(crate) async fn run(size: Size, envoy: bool) -> Vec<Table> {
    let rounds = size.pick(1, 7, 15);
    let bytes: u64 = size.pick(64, 512, 2048) << 20;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let service = listener.local_addr().unwrap();
    let mut services = JoinSet::new();
    services.spawn(service::listen(listener));
    let corp = corp(service, envoy).await;
    let relay = Relay::start(corp.address()).await;
    let pomd = lab::pomd(&corp, corp.address(), 1).await;
    let tunnel = pomd.address(lab::TUNNEL).await;
    let front = lab::front(&corp, relay.address());
    let token = lab::token(&corp);

    let server = if envoy { "Envoy" } else { "the gateway" };
    let title = format!(
        "relay: CPU of the relay's process before {server}, s/GiB ({rounds} rounds of {} MiB each way)",
        bytes >> 20
    );
    let mut table = Table::new(title, &["", "pomd", "plain relay", "ratio", "target"]);
    for direction in [Direction::Down, Direction::Up] {
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let mut stream = lab::open(tunnel).await;
            ours.push(carry(&mut stream, direction, bytes, pomd.pid()).await);
            let mut stream = front.open(lab::ROUTE, &token, b"").await.tls;
            theirs.push(carry(&mut stream, direction, bytes, relay.pid()).await);
        }
        let (ours, theirs) = (median(&ours), median(&theirs));
        let ratio = ours / theirs;
        table.row([
            format!("{direction:?}").to_lowercase(),
            format!("{ours:.2}"),
            format!("{theirs:.2}"),
            format!("{ratio:.2}"),
            verdict(ratio, MOST),
        ]);
    }
    vec![table]
}

async fn corp(service: SocketAddr, envoy: bool) -> Corp {
    if envoy {
        Corp::envoy(&[(lab::ROUTE, service)]).await
    } else {
        Corp::gateway(|it| it.route(lab::ROUTE, Upstream::Tcp(service))).await
    }
}

/// Seconds of CPU per GiB that process `pid` took for so many bytes.
async fn carry<S>(stream: &mut S, direction: Direction, bytes: u64, pid: u32) -> f64
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let before = cpu(pid);
    let carrying = async {
        match direction {
            Direction::Down => {
                stream.write_all(&service::down(bytes)).await?;
                stream.flush().await?;
                service::take(stream, bytes).await
            }
            Direction::Up => {
                stream.write_all(&service::up(bytes)).await?;
                service::send(stream, bytes).await?;
                stream.flush().await?;
                stream.read_u8().await.map(drop)
            }
        }
    };
    timeout(PATIENCE * 10, carrying).await.unwrap().unwrap();
    (cpu(pid) - before).as_secs_f64() * f64::from(1 << 30) / bytes as f64
}
