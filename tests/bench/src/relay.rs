//! CPU that relaying takes, per GiB, beside its floor: a plain TCP relay that carries the same TLS connection unopened,
//! and the cipher alone for the same bytes.
//!
//! A relay pays for waking its neighbours, the more the faster they are. So the client of the plain relay does no more
//! than that of pomd while it is measured: it seals what it sends beforehand, and does not open what it gets.

use std::{
    io::{self, Write},
    net::SocketAddr,
};

use gateway::Upstream;
use integration::{
    PATIENCE,
    client::{Front, pattern},
    deployment::Deployment,
};
use pomd::upstream::tls::cipher_suites;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use crate::{
    Size, crypto, lab,
    measure::{cpu, median},
    play::Relay,
    service,
    table::{Table, verdict},
};

/// How far above its floor.
const MOST: f64 = 1.15;
/// The most that a TLS record carries.
const RECORD: usize = 16 << 10;
/// What stands before a record.
const HEADER: usize = 5;
/// What TLS 1.3 adds inside a record.
const OVERHEAD: usize = 17;

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
    let deployment = deployment(service, envoy).await;
    let relay = Relay::start(deployment.address()).await;
    let pomd = lab::pomd(&deployment, deployment.address(), 1).await;
    let tunnel = pomd.address(lab::TUNNEL).await;
    let front = lab::front(&deployment, relay.address());
    let token = lab::token(&deployment);

    let server = if envoy { "Envoy" } else { "the gateway" };
    let title = format!(
        "relay: CPU of the relay's process before {server}, s/GiB ({rounds} rounds of {} MiB each way)",
        bytes >> 20
    );
    let like_pomd = Front::with_provider(
        deployment.address(),
        &deployment.gateway.ca_pem(),
        cipher_suites::provider(),
    );
    let handshake = like_pomd.dial(lab::HOST).await.unwrap();
    let suite = handshake.get_ref().1.negotiated_cipher_suite().unwrap();
    let suite = suite.suite();

    let columns = [
        "",
        "pomd",
        "plain relay",
        "cipher",
        "pomd / floor",
        "target",
    ];
    let mut table = Table::new(format!("{title}, {suite:?}"), &columns);
    for direction in [Direction::Down, Direction::Up] {
        let (mut ours, mut theirs, mut ciphers) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            let cost = crypto::measure(suite, bytes);
            ciphers.push(match direction {
                Direction::Down => cost.open,
                Direction::Up => cost.seal,
            });
            let stream = lab::open(tunnel).await;
            ours.push(plain(stream, direction, bytes, pomd.pid()).await);
            let mut stream = front.open(lab::ROUTE, &token, b"").await.tls;
            lab::first_byte(&mut stream).await;
            theirs.push(sealed(stream, direction, bytes, relay.pid()).await);
        }
        let (ours, theirs, cipher) = (median(&ours), median(&theirs), median(&ciphers));
        let ratio = ours / (theirs + cipher);
        table.row([
            format!("{direction:?}").to_lowercase(),
            format!("{ours:.2}"),
            format!("{theirs:.2}"),
            format!("{cipher:.2}"),
            format!("{ratio:.2}"),
            verdict(ratio, MOST),
        ]);
    }
    vec![table]
}

async fn deployment(service: SocketAddr, envoy: bool) -> Deployment {
    if envoy {
        Deployment::envoy(&[(lab::ROUTE, service)]).await
    } else {
        Deployment::gateway(|it| it.route(lab::ROUTE, Upstream::Tcp(service))).await
    }
}

/// Seconds of CPU per GiB that process `pid` took for so many bytes.
async fn plain(mut stream: TcpStream, direction: Direction, bytes: u64, pid: u32) -> f64 {
    let carrying = async {
        match direction {
            Direction::Down => {
                stream.write_all(&service::down(bytes)).await?;
                service::take(&mut stream, bytes).await
            }
            Direction::Up => {
                stream.write_all(&service::up(bytes)).await?;
                service::send(&mut stream, bytes).await?;
                stream.read_u8().await.map(drop)
            }
        }
    };
    measured(carrying, bytes, pid).await
}

/// The same for a client that speaks TLS.
async fn sealed(stream: TlsStream<TcpStream>, direction: Direction, bytes: u64, pid: u32) -> f64 {
    let (mut tcp, mut tls) = stream.into_inner();
    let mut flight = Vec::new();
    let mut seal = |bytes: &[u8]| {
        tls.writer().write_all(bytes).unwrap();
        while tls.wants_write() {
            tls.write_tls(&mut flight).unwrap();
        }
    };
    match direction {
        Direction::Down => seal(&service::down(bytes)),
        Direction::Up => {
            seal(&service::up(bytes));
            let piece = pattern(RECORD);
            for _ in 0..bytes / RECORD as u64 {
                seal(&piece);
            }
        }
    }
    let carrying = async {
        for piece in flight.chunks(service::PIECE) {
            tcp.write_all(piece).await?;
        }
        let answer = match direction {
            Direction::Down => bytes,
            Direction::Up => 1,
        };
        take_sealed(&mut tcp, answer).await
    };
    measured(carrying, bytes, pid).await
}

/// Takes records that hold so many bytes, unopened.
async fn take_sealed(from: &mut TcpStream, bytes: u64) -> io::Result<()> {
    let mut piece = vec![0; service::PIECE];
    let (mut held, mut left) = (0, bytes);
    loop {
        let n = from.read(&mut piece[held..]).await?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        held += n;
        let mut start = 0;
        while let [_, _, _, high, low, rest @ ..] = &piece[start..held] {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if rest.len() < length {
                break;
            }
            start += HEADER + length;
            left = left.saturating_sub((length - OVERHEAD) as u64);
            if left == 0 {
                return Ok(());
            }
        }
        piece.copy_within(start..held, 0);
        held -= start;
    }
}

async fn measured(carrying: impl Future<Output = io::Result<()>>, bytes: u64, pid: u32) -> f64 {
    let before = cpu(pid);
    timeout(PATIENCE * 10, carrying).await.unwrap().unwrap();
    (cpu(pid) - before).as_secs_f64() * f64::from(1 << 30) / bytes as f64
}
