//! B7: many small talks beside a large one.

use std::time::Duration;

use integration::{PATIENCE, bystander::echoes, client::pattern, descriptors};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{Lab, Who};

/// How many talk at once.
const TALKS: usize = 1_000;
/// How often each says a byte and hears it back.
const ROUNDS: usize = 10;
/// How many connections are made at once.
const AT_ONCE: usize = 50;

/// All answer, and none waits much longer than the others: a ratio, for a machine may be slow for all of them.
#[tokio::test(flavor = "multi_thread")]
async fn f5_b7_a_thousand_ping_pongs_beside_a_large_transfer_all_answer_and_none_starves() {
    descriptors::raise();
    let lab = Lab::new(Who::Gateway).await;
    let (mut large, mut service) = lab.open().await;
    let mut flow = JoinSet::new();
    let block = pattern(1 << 20);
    let (up, down) = (block.clone(), block);
    flow.spawn(async move {
        let (mut from, mut to) = large.split();
        let saying = async { while to.write_all(&up).await.is_ok() {} };
        let mut void = tokio::io::sink();
        let hearing = tokio::io::copy(&mut from, &mut void);
        let _ = tokio::join!(saying, hearing);
    });
    flow.spawn(async move {
        let (mut from, mut to) = service.split();
        let saying = async { while to.write_all(&down).await.is_ok() {} };
        let mut void = tokio::io::sink();
        let hearing = tokio::io::copy(&mut from, &mut void);
        let _ = tokio::join!(saying, hearing);
    });
    let address = lab.pomd.address("echo").await;
    let turns = std::sync::Arc::new(Semaphore::new(AT_ONCE));
    let mut opening = JoinSet::new();
    for _ in 0..TALKS {
        let turns = turns.clone();
        opening.spawn(async move {
            let _turn = turns.acquire_owned().await.unwrap();
            let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
            echoes(&mut stream, b"!").await;
            stream
        });
    }
    let open = opening.join_all().await;
    let mut talks = JoinSet::new();
    for mut stream in open {
        talks.spawn(async move {
            let mut slowest = Duration::ZERO;
            for n in 0..ROUNDS {
                let start = Instant::now();
                let word = [n as u8];
                stream.write_all(&word).await.unwrap();
                let mut back = [0];
                let read = timeout(PATIENCE, stream.read_exact(&mut back)).await;
                read.expect("starved").unwrap();
                assert_eq!(back, word);
                slowest = slowest.max(start.elapsed());
            }
            slowest
        });
    }
    let mut slowest = talks.join_all().await;
    slowest.sort();
    let (half, most) = (slowest[TALKS / 2], slowest[TALKS - 1]);
    assert!(
        most < half * 10 + Duration::from_secs(1),
        "{half:?}, {most:?}"
    );
    let status = lab.pomd.status().await;
    let large = integration::pomd::tunnel(&status, "service");
    assert!(large.bytes.sent > 10 << 20, "{large:?}");
    assert!(large.bytes.received > 10 << 20, "{large:?}");
    flow.shutdown().await;
}
