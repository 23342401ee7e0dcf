//! What every measurement stands on: a company behind Pomerium, a logged in pomd, and connections through it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use gateway::{DEMO_USER, Upstream};
use integration::{
    PATIENCE,
    client::Front,
    deployment::{Deployment, tunnel},
    descriptors,
    pomd::{Pomd, Setup},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::service;

/// The route that everything goes to.
pub(crate) const ROUTE: &str = "service.corp.test:7000";
/// Its host.
pub(crate) const HOST: &str = "service.corp.test";
/// The tunnel that leads there.
pub(crate) const TUNNEL: &str = "service";

/// A gateway whose one route leads to a service in its own process.
pub(crate) async fn deployment() -> Deployment {
    Deployment::gateway(|it| it.route(ROUTE, Upstream::service(|stream, _| service::serve(stream))))
        .await
}

/// A logged in pomd with the tunnel, and so many in all, that dials `server` for Pomerium.
pub(crate) async fn pomd(deployment: &Deployment, server: SocketAddr, tunnels: usize) -> Pomd {
    let mut config = deployment.config(&[(TUNNEL, ROUTE)]);
    for number in 1..tunnels {
        config += &tunnel(
            &format!("t{number}"),
            &format!("t{number}.corp.test:7000"),
            "",
        );
    }
    let config = config.replace(&deployment.address().to_string(), &server.to_string());
    let pomd = Setup::new(&config).start().await;
    deployment.log_in(&pomd).await;
    pomd.address(TUNNEL).await;
    pomd
}

/// A plain client of Pomerium that dials `server`.
pub(crate) fn front(deployment: &Deployment, server: SocketAddr) -> Front {
    Front::new(server, &deployment.gateway.ca_pem())
}

/// A token for it.
pub(crate) fn token(deployment: &Deployment) -> String {
    deployment.gateway.token(DEMO_USER)
}

/// Asks the service for one byte and waits for it.
pub(crate) async fn first_byte(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    let asked = async {
        stream.write_all(&service::down(1)).await?;
        stream.flush().await?;
        stream.read_u8().await
    };
    timeout(PATIENCE, asked).await.unwrap().unwrap();
}

/// A connection through a tunnel of pomd, carrying bytes.
pub(crate) async fn open(tunnel: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(tunnel).await.unwrap();
    stream.set_nodelay(true).unwrap();
    first_byte(&mut stream).await;
    stream
}

/// Waits until `look` shows the same for `quiet`; `limit` at most.
pub(crate) async fn settled<T: PartialEq>(
    quiet: Duration,
    limit: Duration,
    mut look: impl FnMut() -> T,
) -> T {
    let start = Instant::now();
    let mut seen = (look(), start);
    loop {
        tokio::time::sleep((quiet / 20).max(Duration::from_millis(1))).await;
        let now = look();
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        if seen.1.elapsed() >= quiet || start.elapsed() >= limit {
            return seen.0;
        }
    }
}

/// As many descriptors as may be had, for this process and those it starts.
pub(crate) fn raise_descriptors() {
    // Two for each of 9,000 connections in pomd and in the gateway, and some.
    descriptors::raise_to(20_000);
}
