//! Connections that are ready: they save round trips, and whatever happens to them while they wait costs no more than
//! that.

mod envoy;
mod network;
mod wires;

use std::{sync::Mutex, time::Duration};

use gateway::Upstream;
use integration::{
    PATIENCE,
    client::{Ending, pattern, read_all},
    deployment::{CLUSTER, Deployment, tunnel},
    pomd::Pomd,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

use wires::Wires;

const ECHO: &str = "echo.corp.test:7000";
const SERVICE: &str = "service.corp.test:7000";
const TUNNELS: [(&str, &str); 2] = [("echo", ECHO), ("service", SERVICE)];

/// A company reached over wires, with a service that the test plays.
struct Lab {
    deployment: Deployment,
    wires: Wires,
    pomd: Pomd,
    service: TcpListener,
    /// What each visit to the service said.
    said: Mutex<Vec<Vec<u8>>>,
}

impl Lab {
    async fn new() -> Self {
        let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = service.local_addr().unwrap();
        let deployment = Deployment::gateway(|it| {
            it.route(ECHO, Upstream::Echo)
                .route(SERVICE, Upstream::Tcp(at))
                .linger(Duration::from_millis(10))
        })
        .await;
        // One way for both routes: the same name is verified.
        let cluster = deployment.cluster("server_name = \"corp.test\"");
        Self::of(deployment, service, &cluster, &TUNNELS).await
    }

    async fn of(
        deployment: Deployment,
        service: TcpListener,
        cluster: &str,
        tunnels: &[(&str, &str)],
    ) -> Self {
        let wires = Wires::to(deployment.address()).await;
        let mut config = wires.instead_of(deployment.address(), cluster);
        for (name, route) in tunnels {
            config.push_str(&tunnel(name, route, ""));
        }
        let pomd = Pomd::start(&config).await;
        deployment.log_in(&pomd).await;
        Self {
            deployment,
            wires,
            pomd,
            service,
            said: Mutex::default(),
        }
    }

    /// Waits until so many connections are ready, and nothing else is open.
    async fn ready(&self, count: u64) {
        let gateway = &self.deployment.gateway;
        gateway
            .wait_for(|it| it.waiting == count && it.open_tunnels == 0)
            .await;
    }

    /// Says `early` to the service, behind the number of this visit, and hears it answer; whether it ended well, and how
    /// often the service heard it.
    async fn visit(&self, early: &[u8]) -> (bool, usize) {
        let (early, before) = self.numbered(early);
        let mut local = self.pomd.connect("service").await;
        local.write_all(&early).await.unwrap();
        let mut visits = JoinSet::new();
        let (got, ending) = {
            let reading = read_all(&mut local);
            tokio::pin!(reading);
            loop {
                tokio::select! {
                    it = &mut reading => break it,
                    Ok((service, _)) = self.service.accept() => {
                        visits.spawn(hear(service, early.len()));
                    }
                }
            }
        };
        let mut heard = 0;
        while let Some(it) = visits.join_next().await {
            // A visit that was cut may have brought nothing yet, and one before may come only now.
            let it = it.unwrap();
            let is_this = early.starts_with(&it);
            assert!(
                is_this || before.iter().any(|other| other.starts_with(&it)),
                "{} bytes that nobody said",
                it.len()
            );
            heard += usize::from(is_this && !it.is_empty());
        }
        let whole = ending == Ending::Clean && got == b"heard";
        assert!(whole || (ending == Ending::Reset), "{ending:?}: {got:?}");
        (whole, heard)
    }

    /// What is said in a visit, and what was said in those before.
    fn numbered(&self, early: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let mut said = self.said.lock().unwrap();
        let before = said.clone();
        let number = u8::try_from(said.len()).expect("too many visits to tell them apart");
        let early = [&[number], early].concat();
        said.push(early.clone());
        (early, before)
    }
}

/// One visit to the service: what it heard. Answers when that was all of it.
async fn hear(mut service: TcpStream, n: usize) -> Vec<u8> {
    let mut heard = Vec::new();
    let mut limited = (&mut service).take(n as u64);
    let _ = timeout(PATIENCE, limited.read_to_end(&mut heard)).await;
    if heard.len() == n {
        let _ = service.write_all(b"heard").await;
    }
    heard
}

/// Says something and hears it back; ended by a reset, for an orderly end is held back for as long as more may come.
async fn echoes(pomd: &Pomd, name: &str) {
    let mut stream = pomd.connect(name).await;
    stream.set_zero_linger().unwrap();
    let talking = async {
        stream.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        stream.read_exact(&mut heard).await.unwrap();
        heard
    };
    assert_eq!(&timeout(PATIENCE, talking).await.unwrap(), b"hello");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_opens_on_a_connection_that_was_ready_and_the_stock_is_filled_again() {
    let lab = Lab::new().await;
    assert_eq!(
        lab.deployment.gateway.stats().waiting,
        0,
        "nobody was answered"
    );
    echoes(&lab.pomd, "echo").await;
    for _ in 0..5 {
        lab.ready(2).await;
        let before = lab.deployment.gateway.stats();
        echoes(&lab.pomd, "echo").await;
        // Two handshakes may not be needed for one connection.
        lab.ready(2).await;
        let after = lab.deployment.gateway.stats();
        assert_eq!(after.connects, before.connects + 1);
        assert_eq!(after.handshakes, before.handshakes + 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n7_half_the_spares_dead_costs_nothing_and_early_bytes_arrive_once_in_order() {
    let lab = Lab::new().await;
    echoes(&lab.pomd, "echo").await;
    for n in [1, 100, 8_000, 60_000, 200_000] {
        lab.ready(2).await;
        lab.wires.reset(1).await;
        let (whole, heard) = lab.visit(&pattern(n)).await;
        assert!(whole, "{n} bytes");
        assert_eq!(heard, 1, "{n} bytes");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn n7_spares_that_die_while_they_are_taken_make_nobody_hear_anything_twice() {
    let lab = Lab::new().await;
    echoes(&lab.pomd, "echo").await;
    let mut served = 0;
    for round in 0..24_u32 {
        let early = pattern(1 + 911 * round as usize);
        let dying = async {
            // Any moment of a connection's start.
            tokio::time::sleep(Duration::from_micros(u64::from(round) * 150)).await;
            lab.wires.reset(1 + round as usize % 2).await;
        };
        let ((whole, heard), ()) = tokio::join!(lab.visit(&early), dying);
        assert!(heard <= 1, "round {round}: heard {heard} times");
        assert!(!whole || heard == 1, "round {round}");
        served += u32::from(whole);
        // The next one is not harmed by it.
        let (whole, heard) = lab.visit(b"and then").await;
        assert!(whole && heard == 1, "round {round}, and then");
    }
    assert!(served > 0, "nothing was ever served");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_tunnels_hold_no_more_than_the_bound_and_a_logout_ends_them_all() {
    let hosts: Vec<String> = (0..50).map(|it| format!("host-{it}.corp.test:7")).collect();
    let deployment = Deployment::gateway(|mut builder| {
        for host in &hosts {
            builder = builder.route(host, Upstream::Echo);
        }
        builder.linger(Duration::from_millis(10))
    })
    .await;
    let names: Vec<String> = (0..50).map(|it| format!("host-{it}")).collect();
    let pairs = names.iter().zip(&hosts);
    let tunnels: Vec<_> = pairs.map(|it| (it.0.as_str(), it.1.as_str())).collect();
    let pomd = deployment.logged_in(&tunnels).await;
    for name in &names {
        echoes(&pomd, name).await;
    }
    deployment
        .gateway
        .wait_for(|it| it.waiting == 16 && it.open_tunnels == 0)
        .await;
    pomd.client().logout(CLUSTER).await.unwrap();
    deployment.gateway.nobody_waits().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn spares_end_when_their_cluster_changes_and_when_pomd_ends() {
    let lab = Lab::new().await;
    echoes(&lab.pomd, "echo").await;
    lab.ready(2).await;
    let config = std::fs::read_to_string(lab.pomd.setup().config_file()).unwrap();
    let changed = config.replace("server_name = \"corp.test\"", "");
    lab.pomd.reload(&changed).await;
    lab.deployment.gateway.nobody_waits().await;
    echoes(&lab.pomd, "echo").await;
    lab.ready(2).await;
    let Lab {
        deployment,
        mut pomd,
        ..
    } = lab;
    assert_eq!(pomd.stop().await.code(), Some(0));
    deployment.gateway.nobody_waits().await;
}
