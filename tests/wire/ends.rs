//! How tunnels end, and what arrives before they do.

use std::sync::Arc;

use integration::client::{Ending, Tunnel, pattern};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::{Instant, timeout},
};

use super::{Deployment, SECOND, Who};

against_both! {
    the_service_ends_and_everything_it_said_arrives_before_a_clean_end
    the_clean_end_comes_a_second_after_the_last_byte
    a_reset_of_the_service_looks_like_a_clean_end
    the_client_ends_and_the_service_sees_it_after_all_bytes
    the_client_ends_first_and_the_reply_is_lost
    the_client_resets_and_the_service_sees_an_end
    sixty_four_mebibytes_each_way_are_equal
    a_reader_that_pauses_too_long_loses_the_tail_behind_a_clean_end
}

async fn the_service_ends_and_everything_it_said_arrives_before_a_clean_end(who: Who) {
    let deployment = Deployment::new(who).await;
    for n in [0, 1, 16_384, 1_000_000] {
        let (mut tunnel, mut service) = deployment.open(b"hello").await;
        let said = pattern(n);
        service.write_all(&said).await.unwrap();
        service.shutdown().await.unwrap();
        let (got, ending) = tunnel.read_to_end().await;
        assert!(got == said, "{} of {n} bytes", got.len());
        assert_eq!(ending, Ending::Clean);
    }
}

async fn the_clean_end_comes_a_second_after_the_last_byte(who: Who) {
    let deployment = Deployment::new(who).await;
    let (mut tunnel, mut service) = deployment.open(b"").await;
    service.write_all(b"last").await.unwrap();
    drop(service);
    assert_eq!(tunnel.read(4).await, b"last");
    let last = Instant::now();
    assert_eq!(tunnel.read_to_end().await, (Vec::new(), Ending::Clean));
    let waited = last.elapsed();
    assert!(
        (SECOND * 8 / 10..SECOND * 3).contains(&waited),
        "{waited:?}"
    );
}

async fn a_reset_of_the_service_looks_like_a_clean_end(who: Who) {
    let deployment = Deployment::new(who).await;
    let (mut tunnel, mut service) = deployment.open(b"").await;
    service.write_all(b"last").await.unwrap();
    assert_eq!(tunnel.read(4).await, b"last");
    service.set_zero_linger().unwrap();
    drop(service);
    assert_eq!(tunnel.read_to_end().await, (Vec::new(), Ending::Clean));
}

async fn the_client_ends_and_the_service_sees_it_after_all_bytes(who: Who) {
    let deployment = Deployment::new(who).await;
    let said = pattern(300_000);
    let (mut tunnel, mut service) = deployment.open(b"").await;
    tunnel.tls.write_all(&said).await.unwrap();
    tunnel.tls.shutdown().await.unwrap();
    let mut got = Vec::new();
    // Envoy ends it with FIN or with RST; the bytes before it count.
    let _ = timeout(SECOND * 20, service.read_to_end(&mut got))
        .await
        .unwrap();
    assert!(said.starts_with(&got), "{} bytes differ", got.len());
}

async fn the_client_ends_first_and_the_reply_is_lost(who: Who) {
    let deployment = Deployment::new(who).await;
    let (mut tunnel, mut service) = deployment.open(b"").await;
    tunnel.tls.write_all(b"request").await.unwrap();
    let mut request = [0; 7];
    service.read_exact(&mut request).await.unwrap();
    tunnel.tls.shutdown().await.unwrap();
    let gone = timeout(SECOND * 20, service.read(&mut request))
        .await
        .unwrap();
    assert!(matches!(gone, Ok(0) | Err(_)), "{gone:?}");
    // Some of it may be taken by kernels on the way; the client gets none.
    let _ = service.write_all(&pattern(10_000_000)).await;
    let (got, _) = tunnel.read_to_end().await;
    assert!(got.is_empty(), "{} bytes", got.len());
}

async fn the_client_resets_and_the_service_sees_an_end(who: Who) {
    let deployment = Deployment::new(who).await;
    let (tunnel, mut service) = deployment.open(b"x").await;
    let mut byte = [0; 1];
    service.read_exact(&mut byte).await.unwrap();
    tunnel.reset();
    let gone = timeout(SECOND * 20, service.read(&mut byte)).await.unwrap();
    assert!(matches!(gone, Ok(0) | Err(_)), "{gone:?}");
}

async fn sixty_four_mebibytes_each_way_are_equal(who: Who) {
    const N: usize = 64 << 20;
    let deployment = Deployment::new(who).await;
    let (tunnel, service) = deployment.open(b"").await;
    let (mut from_far, mut to_far) = tokio::io::split(tunnel.tls);
    let (mut from_near, mut to_near) = service.into_split();
    let (up, down) = (pattern(N), pattern(N + 1));
    let mut tasks = JoinSet::new();
    let sent = up.clone();
    tasks.spawn(async move {
        to_far.write_all(&sent).await.unwrap();
        // The rest of it may still be with TLS.
        to_far.flush().await.unwrap();
        None
    });
    let sent = down.clone();
    // Kept until both are done: the end of one direction would end the other at once.
    tasks.spawn(async move {
        to_near.write_all(&sent).await.unwrap();
        Some(to_near)
    });
    let (mut got_up, mut got_down) = (vec![0; N], vec![0; N + 1]);
    let (a, b) = tokio::join!(
        from_near.read_exact(&mut got_up),
        from_far.read_exact(&mut got_down)
    );
    assert_eq!((a.unwrap(), b.unwrap()), (N, N + 1));
    assert!(got_up == up && got_down == down, "bytes differ");
    tasks.join_all().await;
}

/// The trap that pomd's read-ahead is for: the service is done, the reader pauses, and the tail is lost behind a clean
/// end. How much must be outstanding for it depends on the kernels' buffers, so many amounts are tried.
async fn a_reader_that_pauses_too_long_loses_the_tail_behind_a_clean_end(who: Who) {
    const N: usize = 12 << 20;
    let deployment = Deployment::new(who).await;
    let said = Arc::new(pattern(N));
    for round in 0..8 {
        let mut tasks = JoinSet::new();
        for outstanding in 1..=8 {
            let (tunnel, mut service) = deployment.open(b"").await;
            let said = said.clone();
            tasks.spawn(async move {
                let _ = service.write_all(&said).await;
                // Its end is this drop.
                None
            });
            let pause = N - (outstanding << 20) + (round << 17);
            tasks.spawn(async move { Some(read_with_a_pause(tunnel, pause).await) });
        }
        let read = tasks.join_all().await;
        let read: Vec<_> = read.into_iter().flatten().collect();
        // A tail that is lost by a cut is no trap: who reads is told.
        let is_whole = |it: &&(usize, Ending)| it.0 == N;
        assert!(
            read.iter().filter(is_whole).all(|it| it.1 == Ending::Clean),
            "{read:?}"
        );
        if read.iter().any(|it| it.0 < N && it.1 == Ending::Clean) {
            return;
        }
    }
    panic!("nothing was lost");
}

/// Reads to the end, with a pause of 2 s at `pause`.
async fn read_with_a_pause(mut tunnel: Tunnel, pause: usize) -> (usize, Ending) {
    let before = tunnel.read(pause).await.len();
    // The pause is the behaviour itself.
    tokio::time::sleep(SECOND * 2).await;
    let (after, ending) = tunnel.read_to_end().await;
    (before + after.len(), ending)
}
