//! Long transfers, slow readers, ends in an odd order.

use std::time::Duration;

use gateway::{End, Script};
use integration::{
    PATIENCE,
    client::{Ending, pattern, read_all},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

use super::{Lab, ROUTE, Who, assert_same, hear, whole};

const MIB: usize = 1 << 20;

/// `n` bytes that repeat only at a distance that no buffer has.
fn long(n: usize) -> Vec<u8> {
    let piece = pattern(MIB + 7);
    piece.iter().copied().cycle().take(n).collect()
}

/// Says `said` and hears `n` bytes at once.
async fn talk(mut stream: TcpStream, said: Vec<u8>, n: usize) -> (TcpStream, Vec<u8>) {
    let (mut from, mut to) = stream.split();
    let mut heard = vec![0; n];
    let (sent, got) = tokio::join!(to.write_all(&said), from.read_exact(&mut heard));
    sent.unwrap();
    got.unwrap();
    (stream, heard)
}

async fn f6_b1_sixty_four_mebibytes_both_ways_at_once_are_equal(who: Who) {
    let lab = Lab::new(who).await;
    let (local, service) = lab.open().await;
    let (up, down) = (long(64 * MIB), long(64 * MIB + 1));
    let talks = async {
        tokio::join!(
            tokio::task::JoinSet::from_iter([talk(local, up.clone(), down.len())]).join_all(),
            tokio::task::JoinSet::from_iter([talk(service, down.clone(), up.len())]).join_all(),
        )
    };
    let talked = timeout(PATIENCE * 4, talks).await;
    let (mut local, mut service) = talked.expect("the bytes do not all come");
    let ((mut local, got_down), (service, got_up)) = (local.pop().unwrap(), service.pop().unwrap());
    assert_same(&got_up, &up);
    assert_same(&got_down, &down);
    drop(service);
    assert_eq!(read_all(&mut local).await, (Vec::new(), Ending::Clean));
}

/// Says `n` bytes, and hears as many that must be the same, without holding them.
async fn talk_long(mut stream: TcpStream, n: usize) -> TcpStream {
    let words = pattern(MIB + 7);
    let mut heard = vec![0; words.len()];
    let (mut from, mut to) = stream.split();
    let saying = async {
        for at in (0..n).step_by(words.len()) {
            let most = words.len().min(n - at);
            to.write_all(&words[..most]).await.unwrap();
        }
    };
    let hearing = async {
        for at in (0..n).step_by(words.len()) {
            let most = words.len().min(n - at);
            from.read_exact(&mut heard[..most]).await.unwrap();
            assert_same(&heard[..most], &words[..most]);
        }
    };
    tokio::join!(saying, hearing);
    stream
}

async fn f6_b1_a_gibibyte_both_ways_at_once_is_equal(who: Who) {
    let lab = Lab::new(who).await;
    let (local, service) = lab.open().await;
    let talks = async { tokio::join!(talk_long(local, 1 << 30), talk_long(service, 1 << 30)) };
    let (mut local, service) = timeout(PATIENCE * 40, talks)
        .await
        .expect("it takes too long");
    drop(service);
    assert_eq!(read_all(&mut local).await, (Vec::new(), Ending::Clean));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a night's work"]
async fn f6_b1_a_gibibyte_both_ways_at_once_is_equal_with_the_gateway() {
    f6_b1_a_gibibyte_both_ways_at_once_is_equal(Who::Gateway).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a night's work"]
async fn f6_b1_a_gibibyte_both_ways_at_once_is_equal_with_envoy() {
    f6_b1_a_gibibyte_both_ways_at_once_is_equal(Who::Envoy).await;
}

/// What Envoy drops behind a clean end when nobody reads for a second (held to the real thing in `wire.rs`).
async fn b4_a_reply_of_30_mib_to_a_reader_that_pauses_is_whole_or_ends_in_a_reset(who: Who) {
    const N: usize = 30 * MIB;
    let lab = Lab::new(who).await;
    let said = long(N);
    let mut readers = JoinSet::new();
    let mut speakers = JoinSet::new();
    // Where the pause is decides how much is outstanding, and so whether the last byte is on its way yet.
    for before in [0, N / 2, N - 12 * MIB, N - 7 * MIB, N - 3 * MIB] {
        let (mut local, mut service) = lab.open().await;
        let reply = said.clone();
        speakers.spawn(async move {
            let _ = service.write_all(&reply).await;
        });
        readers.spawn(async move {
            let mut got = hear(&mut local, before).await;
            // The pause is the behaviour itself.
            tokio::time::sleep(Duration::from_secs(3)).await;
            let (rest, ending) = read_all(&mut local).await;
            got.extend(rest);
            (before, got, ending)
        });
    }
    for (before, got, ending) in readers.join_all().await {
        let n = got.len();
        assert!(
            said.starts_with(&got),
            "paused at {before}: {n} bytes differ"
        );
        assert!(
            n == N || ending == Ending::Reset,
            "paused at {before}: {n} of {N} bytes behind a clean end"
        );
    }
    drop(speakers);
    lab.is_quiet().await;
}

/// 64 MiB whose reader pauses once: where more than kernels hold follows the pause, it is whole and its end is clean.
async fn b4_a_long_reply_is_whole_behind_a_pause(who: Who, pauses: &[(usize, u64)]) {
    const N: usize = 64 * MIB;
    /// Whoever pauses so near the end may be told a reset: a loss could not be told from a whole reply.
    const NEAR: usize = 60 * MIB;
    let lab = Lab::new(who).await;
    let said = long(N);
    for &(before, pause) in pauses {
        let (mut local, mut service) = lab.open().await;
        let speaking = async {
            let _ = service.write_all(&said).await;
            drop(service);
        };
        let hearing = async {
            let mut got = hear(&mut local, before).await;
            // The pause is the behaviour itself.
            tokio::time::sleep(Duration::from_millis(pause)).await;
            let (rest, ending) = read_all(&mut local).await;
            got.extend(rest);
            (got, ending)
        };
        let ((got, ending), ()) = tokio::join!(hearing, speaking);
        let case = format!(
            "paused at {before} for {pause} ms: {} bytes, {ending:?}",
            got.len()
        );
        assert!(said.starts_with(&got), "{case}");
        if N - before > NEAR {
            assert!(got.len() == N && ending == Ending::Clean, "{case}");
        } else {
            assert!(got.len() == N || ending == Ending::Reset, "{case}");
        }
    }
    lab.is_quiet().await;
}

async fn b4_64_mib_are_whole_behind_a_pause_anywhere(who: Who) {
    const PAUSES: [(usize, u64); 5] = [
        (0, 1500),
        (0, 3000),
        (32 * MIB, 1500),
        (56 * MIB, 1500),
        (63 * MIB, 1500),
    ];
    b4_a_long_reply_is_whole_behind_a_pause(who, &PAUSES).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "four minutes"]
async fn b4_64_mib_are_whole_behind_a_pause_at_the_start_50_of_50_with_envoy() {
    for pause in [1500, 3000] {
        b4_a_long_reply_is_whole_behind_a_pause(Who::Envoy, &[(0, pause); 50]).await;
    }
}

async fn a_reader_that_is_slow_all_the_time_gets_everything(who: Who) {
    const N: usize = 4 * MIB;
    let lab = Lab::new(who).await;
    let (mut local, mut service) = lab.open().await;
    let said = long(N);
    let reply = said.clone();
    let mut speaking = JoinSet::new();
    speaking.spawn(async move { service.write_all(&reply).await.unwrap() });
    let mut got = Vec::new();
    while got.len() < N {
        // The pace is the behaviour itself.
        tokio::time::sleep(Duration::from_millis(5)).await;
        let n = (32 << 10).min(N - got.len());
        got.extend(hear(&mut local, n).await);
    }
    assert_same(&got, &said);
    assert_eq!(whole(&mut local).await, b"");
}

async fn b5_a_reply_that_comes_after_our_end_arrives_whole(who: Who) {
    let lab = Lab::new(who).await;
    for n in [1, 70_000, 8 * MIB] {
        let mut local = lab.connect(b"request").await;
        local.shutdown().await.unwrap();
        let mut service = lab.accept().await;
        assert_eq!(hear(&mut service, 7).await, b"request");
        let said = long(n);
        let (got, sent) = tokio::join!(whole(&mut local), async {
            let sent = service.write_all(&said).await;
            drop(service);
            sent
        });
        sent.unwrap();
        assert_same(&got, &said);
    }
    lab.is_quiet().await;
}

async fn b6_both_ends_at_once_lose_nothing(who: Who) {
    let lab = Lab::new(who).await;
    for n in [0, 1, 16_384, 65_536, 300_000] {
        let (mut local, mut service) = lab.open().await;
        let (up, down) = (long(n), long(n + 1));
        let saying = async {
            service.write_all(&down).await.unwrap();
            let got = hear(&mut service, n).await;
            service.shutdown().await.unwrap();
            got
        };
        let hearing = async {
            local.write_all(&up).await.unwrap();
            local.shutdown().await.unwrap();
            whole(&mut local).await
        };
        let (got_up, got_down) = tokio::join!(saying, hearing);
        assert_same(&got_up, &up);
        assert_same(&got_down, &down);
    }
}

async fn two_megabytes_that_come_before_the_route_is_open_arrive_once_and_whole(who: Who) {
    let lab = Lab::new(who).await;
    let early = long(2_000_000);
    let (mut local, mut service) = tokio::join!(lab.connect(&early), lab.accept());
    assert_same(&hear(&mut service, early.len()).await, &early);
    local.write_all(b"more").await.unwrap();
    assert_eq!(hear(&mut service, 4).await, b"more");
    service.write_all(b"thanks").await.unwrap();
    drop(service);
    assert_eq!(whole(&mut local).await, b"thanks");
}

/// A service that talks before it listens, to a client that talks before it listens: both are carried.
async fn a_service_that_talks_first_while_much_is_said_to_it_is_heard(who: Who) {
    let lab = Lab::new(who).await;
    let early = long(6 * MIB);
    let greeting = long(3 * MIB);
    let speaking = async {
        let local = TcpStream::connect(lab.address).await.unwrap();
        talk(local, early.clone(), greeting.len()).await
    };
    let serving = async {
        let mut service = lab.accept().await;
        service.write_all(&greeting).await.unwrap();
        let heard = hear(&mut service, early.len()).await;
        (service, heard)
    };
    let ((_local, heard), (_service, said)) = tokio::join!(speaking, serving);
    assert_same(&heard, &greeting);
    assert_same(&said, &early);
}

async fn a_local_reset_ends_the_connection_at_the_service(who: Who) {
    let lab = Lab::new(who).await;
    let (local, mut service) = lab.open().await;
    local.set_zero_linger().unwrap();
    drop(local);
    let (got, _) = read_all(&mut service).await;
    assert!(got.is_empty());
    lab.is_quiet().await;
}

with_both! {
    f6_b1_sixty_four_mebibytes_both_ways_at_once_are_equal
    b4_a_reply_of_30_mib_to_a_reader_that_pauses_is_whole_or_ends_in_a_reset
    b4_64_mib_are_whole_behind_a_pause_anywhere
    a_reader_that_is_slow_all_the_time_gets_everything
    b5_a_reply_that_comes_after_our_end_arrives_whole
    b6_both_ends_at_once_lose_nothing
    two_megabytes_that_come_before_the_route_is_open_arrive_once_and_whole
    a_service_that_talks_first_while_much_is_said_to_it_is_heard
    a_local_reset_ends_the_connection_at_the_service
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stalls_does_not_hold_up_another() {
    let lab = Lab::new(Who::Gateway).await;
    // One whose remote stops in the middle, and one whose local side reads nothing of very much.
    lab.deployment
        .gateway
        .script(ROUTE, Script::new().end_after(100_000, End::Stall).times(1));
    let mut stalled = lab.connect(b"x").await;
    let mut service = lab.accept().await;
    let said = long(100 * MIB);
    let mut speakers = JoinSet::new();
    let reply = said.clone();
    speakers.spawn(async move {
        let _ = service.write_all(&reply).await;
    });
    assert_same(&hear(&mut stalled, 100_000).await, &said[..100_000]);
    let (mut unread, mut service) = lab.open().await;
    speakers.spawn(async move {
        let _ = service.write_all(&said).await;
    });
    // Its bytes are under way.
    assert_eq!(hear(&mut unread, 1).await.len(), 1);

    let echo = lab.pomd.connect("echo").await;
    let words = long(8 * MIB);
    let talk = timeout(PATIENCE, talk(echo, words.clone(), words.len())).await;
    assert_same(&talk.expect("held up").1, &words);
    let (local, service) = lab.open().await;
    drop((local, service));
    // Cut in the end: no clean end for either.
    lab.deployment.gateway.sever(End::Cut);
    for mut stream in [stalled, unread] {
        let (_, ending) = read_all(&mut stream).await;
        assert_eq!(ending, Ending::Reset);
    }
    speakers.shutdown().await;
    lab.is_quiet().await;
}
