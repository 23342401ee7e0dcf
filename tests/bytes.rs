//! Bytes arrive: nothing is lost or added on the way, and a cut is never shown as an end. With the gateway and, where it
//! can play its part, with a real Envoy.

mod answers;
mod cuts;
mod duplex;
mod flow;
mod many;
mod property;

use std::{net::SocketAddr, time::Duration};

use gateway::Upstream;
use integration::{
    PATIENCE,
    client::{Ending, read_all},
    deployment::{Deployment, Who},
    pomd::Pomd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

const ROUTE: &str = "service.corp.test:7000";
/// Says back what it hears.
const ECHO: &str = "echo.corp.test:7000";
const TUNNELS: [(&str, &str); 2] = [("service", ROUTE), ("echo", ECHO)];

/// A logged in pomd before one service that the test itself plays.
struct Lab {
    deployment: Deployment,
    pomd: Pomd,
    service: TcpListener,
    /// Where the tunnel to the service listens.
    address: SocketAddr,
}

impl Lab {
    async fn new(who: Who) -> Self {
        let service = listener().await;
        let address = service.local_addr().unwrap();
        let deployment = match who {
            Who::Gateway => Deployment::gateway(|it| routes(it, address)).await,
            Who::Envoy => Deployment::envoy(&[(ROUTE, address)]).await,
        };
        Self::with(deployment, service).await
    }

    /// With a gateway that does not wait a second before it closes.
    async fn hasty() -> Self {
        let service = listener().await;
        let address = service.local_addr().unwrap();
        let build = |it| routes(it, address).linger(Duration::from_millis(10));
        Self::with(Deployment::gateway(build).await, service).await
    }

    async fn with(deployment: Deployment, service: TcpListener) -> Self {
        let pomd = deployment.logged_in(&TUNNELS).await;
        Self {
            address: pomd.address("service").await,
            deployment,
            pomd,
            service,
        }
    }

    /// A local connection that said `early` first.
    async fn connect(&self, early: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(early).await.unwrap();
        stream
    }

    /// The service's end of a connection.
    async fn accept(&self) -> TcpStream {
        let accepted = timeout(PATIENCE, self.service.accept()).await;
        accepted.expect("nobody reached the service").unwrap().0
    }

    /// Both ends of an open connection.
    async fn open(&self) -> (TcpStream, TcpStream) {
        let mut local = self.connect(b"!").await;
        let mut service = self.accept().await;
        assert_eq!(hear(&mut service, 1).await, b"!");
        service.write_all(b"?").await.unwrap();
        assert_eq!(hear(&mut local, 1).await, b"?");
        (local, service)
    }

    /// Nobody reaches the service any more, and no connection is left anywhere.
    async fn is_quiet(&self) {
        let other_user = timeout(Duration::ZERO, self.service.accept()).await;
        assert!(other_user.is_err(), "{other_user:?}");
        self.pomd
            .wait_for("no connection is left", |it| {
                let counts = it.tunnels.iter().map(|it| it.connections);
                counts.map(|it| it.open + it.waiting).sum::<u64>() == 0
            })
            .await;
    }
}

fn routes(builder: gateway::Builder, service: SocketAddr) -> gateway::Builder {
    builder
        .route(ROUTE, Upstream::Tcp(service))
        .route(ECHO, Upstream::Echo)
}

async fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

/// Reads exactly `n` bytes.
async fn hear(stream: &mut TcpStream, n: usize) -> Vec<u8> {
    let mut heard = vec![0; n];
    let mut got = 0;
    while got < n {
        // The limit is for silence: a long transfer may take longer than that in all.
        match timeout(PATIENCE, stream.read(&mut heard[got..])).await {
            Ok(Ok(more @ 1..)) => got += more,
            other => panic!("{got} of {n} bytes came, then {other:?}"),
        }
    }
    heard
}

/// Reads to the end, which must not be a reset.
async fn whole(stream: &mut TcpStream) -> Vec<u8> {
    let (got, ending) = read_all(stream).await;
    assert_eq!(ending, Ending::Clean, "after {} bytes", got.len());
    got
}

/// Panics unless they are equal; without printing megabytes.
fn assert_same(got: &[u8], expected: &[u8]) {
    let same = got.iter().zip(expected).take_while(|it| it.0 == it.1);
    let (n, got_n, expected_n) = (same.count(), got.len(), expected.len());
    assert!(
        n == got_n && n == expected_n,
        "{got_n} bytes instead of {expected_n}, the first {n} are the same"
    );
}
