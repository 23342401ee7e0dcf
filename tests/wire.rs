//! The gateway is held to the real thing: the same wire tests run against it and against a real Envoy.
//!
//! A plain client of rustls and bytes asks; nothing of pomd is in it.

use std::{net::SocketAddr, time::Duration};

use gateway::{DEMO_USER, Gateway, Upstream};
use integration::{
    client::{Front, Tunnel},
    envoy::Envoy,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};

/// Each test twice: against the gateway and against Envoy.
macro_rules! against_both {
    ($($test:ident)*) => {
        mod at_the_gateway {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test(super::Who::Gateway).await })*
        }
        mod at_envoy {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test(super::Who::Envoy).await })*
        }
    };
}

mod answers;
mod ends;

const ROUTE: &str = "service.corp.test:7000";
const SECOND: Duration = Duration::from_secs(1);

/// Pomerium, played or real, before one service that the test itself plays.
struct Deployment {
    gateway: Gateway,
    _envoy: Option<Envoy>,
    front: Front,
    token: String,
    service: TcpListener,
}

/// Who plays Pomerium.
#[derive(Clone, Copy, Debug)]
enum Who {
    Gateway,
    Envoy,
}

impl Deployment {
    async fn new(who: Who) -> Self {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = service.local_addr().unwrap();
        let builder = Gateway::builder().route(ROUTE, Upstream::Tcp(address));
        let gateway = builder.start().await.unwrap();
        let envoy = match who {
            Who::Gateway => None,
            Who::Envoy => Some(Envoy::start(&gateway, &[(ROUTE, address)]).await),
        };
        let address: SocketAddr = envoy
            .as_ref()
            .map_or(gateway.address(), |envoy| envoy.address());
        Self {
            front: Front::new(address, &gateway.ca_pem()),
            token: gateway.token(DEMO_USER),
            _envoy: envoy,
            gateway,
            service,
        }
    }

    /// An open tunnel and the service's end of it.
    async fn open(&self, early: &[u8]) -> (Tunnel, TcpStream) {
        let opening = self.front.open(ROUTE, &self.token, early);
        let (tunnel, accepted) = tokio::join!(opening, self.service.accept());
        assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
        (tunnel, accepted.unwrap().0)
    }

    /// Nobody connects to the service within the next 300 ms.
    async fn no_byte_reaches_the_service(&self) {
        let visit = timeout(SECOND * 3 / 10, self.service.accept()).await;
        assert!(visit.is_err(), "{visit:?}");
    }
}
