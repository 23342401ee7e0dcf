//! A real Envoy that is stopped, killed and started anew while connections to it are ready.

use std::time::Duration;

use integration::{
    client::{Ending, pattern, read_all},
    deployment::Deployment,
    envoy::Envoy,
};
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use super::{Lab, PATIENCE, SERVICE};

/// What the service says, over and over.
const PIECE: usize = 64 << 10;

/// One behind a real Envoy.
async fn lab() -> Lab {
    let service = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deployment = Deployment::envoy(&[(SERVICE, service.local_addr().unwrap())]).await;
    let cluster = deployment.cluster("");
    Lab::of(deployment, service, &cluster, &[("service", SERVICE)]).await
}

impl Lab {
    /// Both ends of a new connection that said `early`, which the service has heard.
    async fn open(&self, early: &[u8]) -> (TcpStream, TcpStream) {
        let mut local = self.pomd.connect("service").await;
        local.write_all(early).await.unwrap();
        let accepted = timeout(PATIENCE, self.service.accept()).await;
        let (mut service, _) = accepted.expect("nobody reached the service").unwrap();
        let mut heard = vec![0; early.len()];
        timeout(PATIENCE, service.read_exact(&mut heard))
            .await
            .expect("the early bytes did not come")
            .unwrap();
        assert_eq!(heard, early);
        (local, service)
    }

    /// A connection in the middle of its transfer.
    async fn transfer(&self) -> (TcpStream, TcpStream) {
        let (mut local, mut service) = self.open(b"much, please").await;
        let piece = pattern(PIECE);
        service.write_all(&piece).await.unwrap();
        let mut heard = vec![0; PIECE];
        timeout(PATIENCE, local.read_exact(&mut heard))
            .await
            .unwrap()
            .unwrap();
        assert!(heard == piece);
        (local, service)
    }

    async fn works(&self, words: &[u8]) {
        let (mut local, mut service) = self.open(words).await;
        service.write_all(b"yes").await.unwrap();
        drop(service);
        let read = read_all(&mut local).await;
        assert_eq!(read, (b"yes".to_vec(), Ending::Clean));
    }

    async fn restart(&mut self) {
        let routes = [(SERVICE, self.service.local_addr().unwrap())];
        let envoy = Envoy::start(&self.deployment.gateway, &routes).await;
        self.wires.lead_to(envoy.address());
        self.deployment.envoy = Some(envoy);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h9_an_envoy_killed_and_started_anew_resets_transfers_and_the_next_connection_works() {
    let mut lab = lab().await;
    for round in 0..3_u8 {
        lab.works(b"so that connections are ready").await;
        let (mut local, _service) = lab.transfer().await;
        lab.deployment.envoy.as_mut().unwrap().signal(Signal::KILL);
        let (_, ending) = read_all(&mut local).await;
        assert_eq!(
            ending,
            Ending::Reset,
            "round {round}: a cut is no clean end"
        );
        // Nobody is there: told, and the token is kept.
        let mut refused = lab.pomd.connect("service").await;
        refused.write_all(b"anybody?").await.unwrap();
        assert_eq!(read_all(&mut refused).await, (Vec::new(), Ending::Reset));
        lab.restart().await;
        lab.works(&[round; 9]).await;
    }
    assert!(lab.deployment.links.all().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn h9_an_envoy_that_stands_still_for_five_seconds_loses_nothing() {
    let mut lab = lab().await;
    lab.works(b"so that connections are ready").await;
    let (mut local, mut service) = lab.transfer().await;
    let envoy = lab.deployment.envoy.as_mut().unwrap();
    envoy.stand_still().await;
    // One that comes meanwhile, on a connection that is ready: it is said once, and waits.
    let mut waiting = lab.pomd.connect("service").await;
    waiting.write_all(b"meanwhile").await.unwrap();
    // And one that says nothing at first.
    let mut silent = lab.pomd.connect("service").await;
    // The pause is the fault itself.
    tokio::time::sleep(Duration::from_secs(5)).await;
    lab.deployment.envoy.as_mut().unwrap().signal(Signal::CONT);
    silent.write_all(b"and I").await.unwrap();
    let mut heard = Vec::new();
    for _ in 0..2 {
        let accepted = timeout(PATIENCE, lab.service.accept()).await;
        let (mut one, _) = accepted.expect("it was lost").unwrap();
        let mut words = vec![0; 5];
        timeout(PATIENCE, one.read_exact(&mut words))
            .await
            .unwrap()
            .unwrap();
        heard.push(words);
        one.write_all(b"yes").await.unwrap();
    }
    heard.sort();
    assert_eq!(heard, [b"and I".to_vec(), b"meanw".to_vec()]);
    for one in [&mut waiting, &mut silent] {
        let mut answer = [0; 3];
        timeout(PATIENCE, one.read_exact(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(&answer, b"yes");
    }
    let other_user = timeout(Duration::ZERO, lab.service.accept()).await;
    assert!(other_user.is_err(), "somebody was heard twice");
    service.write_all(b"still here").await.unwrap();
    let mut heard = [0; 10];
    timeout(PATIENCE, local.read_exact(&mut heard))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&heard, b"still here");
}
