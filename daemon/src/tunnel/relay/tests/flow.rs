//! Bytes that move, and those that wait.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::ReadBuf;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::{
    buffer::borrowed,
    upstream::record::testing::{TLS_1_2, shake},
};

over_each_stream! {
    sixty_four_mebibytes_arrive_both_ways_at_once;
    an_idle_relay_owns_no_buffer_and_is_not_polled;
    what_came_with_the_answer_comes_first;
    a_flood_in_one_direction_does_not_starve_the_other;
    a_reply_of_eight_mebibytes_is_taken_although_nobody_reads_it;
    a_short_pause_of_the_reader_takes_no_memory_and_a_longer_one_does (start_paused = true);
    without_a_budget_the_server_has_to_wait_and_nothing_is_lost (start_paused = true);
}

async fn sixty_four_mebibytes_arrive_both_ways_at_once<L: Link>() {
    const ALL: usize = 64 << 20;
    let (mut rig, mut server) = Rig::on::<L>(Want::default()).await;
    {
        let (mut app_in, mut app_out) = rig.app.split();
        let (mut server_in, mut server_out) = tokio::io::split(&mut server);
        tokio::join!(
            pour(&mut app_out, ALL),
            catch(&mut app_in, ALL),
            pour(&mut server_out, ALL),
            catch(&mut server_in, ALL),
        );
    }
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.app).await, (vec![], Ok(())));
    drop(rig.app.shutdown().await);
    assert!(matches!(rig.end().await, End::Clean));
    let counted = (&rig.counters.received, &rig.counters.sent);
    assert_eq!(
        (counted.0.load(Relaxed), counted.1.load(Relaxed)),
        (ALL as u64, ALL as u64)
    );
}

#[tokio::test]
async fn tls_1_2_and_no_tls_carry_bytes_both_ways_and_end_cleanly() {
    let old = Setup {
        versions: TLS_1_2,
        ..Setup::default()
    };
    let (remote, mut server) = tls(&old).await;
    carries(remote, &mut server).await;
    let (near, mut server) = pair().await;
    carries(Remote::plain(near), &mut server).await;
}

async fn carries(remote: Remote, server: &mut (impl AsyncRead + AsyncWrite + Unpin)) {
    const ALL: usize = 1 << 20;
    let mut rig = Rig::over(remote, Want::default()).await;
    tokio::join!(pour(&mut rig.app, ALL), catch(server, ALL));
    tokio::join!(pour(server, ALL), catch(&mut rig.app, ALL));
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.app).await, (vec![], Ok(())));
    rig.app.shutdown().await.unwrap();
    assert!(matches!(rig.end().await, End::Clean));
}

async fn an_idle_relay_owns_no_buffer_and_is_not_polled<L: Link>() {
    let (mut rig, mut server) = Rig::on::<L>(Want::default()).await;
    rig.app.write_all(b"ping").await.unwrap();
    assert_eq!(read_some(&mut server, 4).await, b"ping");
    server.write_all(b"pong").await.unwrap();
    assert_eq!(read_some(&mut rig.app, 4).await, b"pong");
    until(|| borrowed() == 0).await;
    let mut polls = rig.polls();
    // Whatever was still on its way is over once nothing happened for a while.
    loop {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        match rig.polls() {
            same if same == polls => break,
            more => polls = more,
        }
    }
    assert!(polls < 20, "{polls} polls for a word each way");
    assert_eq!(borrowed(), 0);
    rig.app.write_all(b"still").await.unwrap();
    assert_eq!(read_some(&mut server, 5).await, b"still");
    rig.cancel.cancel();
    rig.end().await;
}

async fn what_came_with_the_answer_comes_first<L: Link>() {
    let want = Want {
        first: b"SSH-2.0",
        ..Want::default()
    };
    let (mut rig, mut server) = Rig::on::<L>(want).await;
    server.write_all(b"-OpenSSH").await.unwrap();
    server.shutdown().await.unwrap();
    let all = read_all(&mut rig.app).await;
    assert_eq!(all, (b"SSH-2.0-OpenSSH".to_vec(), Ok(())));
    rig.app.shutdown().await.unwrap();
    assert!(matches!(rig.end().await, End::Clean));
    assert_eq!(rig.counters.received.load(Relaxed), 15);
}

/// Writes in crumbs, and lets the other end read each of them first.
struct Crumbs {
    socket: TcpStream,
    size: usize,
    ready: bool,
}

impl AsyncRead for Crumbs {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(cx, to)
    }
}

impl AsyncWrite for Crumbs {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ready = !self.ready;
        if self.ready {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let n = self.size.min(from.len());
        Pin::new(&mut self.socket).poll_write(cx, &from[..n])
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}

#[test]
fn records_in_crumbs_arrive_whole() {
    // Sockets are looked at after every step, so that crumbs are not swept together.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .event_interval(1)
        .enable_all()
        .build()
        .unwrap();
    for (size, all) in [(1, 20_000), (7, 100_000)] {
        runtime.block_on(async {
            let setup = Setup::default();
            let (near, socket) = pair().await;
            let far = Crumbs {
                socket,
                size,
                ready: false,
            };
            let acceptor = TlsAcceptor::from(setup.server_config());
            let (remote, server) = tokio::join!(shake(near, &setup), acceptor.accept(far));
            let mut server = server.unwrap();
            let mut rig = Rig::over(remote.unwrap(), Want::default()).await;
            tokio::join!(pour(&mut server, all), catch(&mut rig.app, all));
            server.shutdown().await.unwrap();
            assert_eq!(read_all(&mut rig.app).await, (vec![], Ok(())));
            rig.app.shutdown().await.unwrap();
            assert!(matches!(rig.end().await, End::Clean));
        });
    }
}

#[tokio::test]
async fn a_hundred_key_updates_lose_nothing_in_either_direction() {
    let (mut rig, mut server) = Rig::new(Want::default()).await;
    for round in 0..100_u8 {
        server.get_mut().1.refresh_traffic_keys().unwrap();
        server.write_all(&[round]).await.unwrap();
        server.flush().await.unwrap();
        assert_eq!(read_some(&mut rig.app, 1).await, [round]);
        // Every third only, so that several requests wait for the same answer.
        if round % 3 == 0 {
            rig.app.write_all(&[round, !round]).await.unwrap();
            assert_eq!(read_some(&mut server, 2).await, [round, !round]);
        }
    }
    rig.cancel.cancel();
    rig.end().await;
}

async fn a_flood_in_one_direction_does_not_starve_the_other<L: Link>() {
    let (mut rig, server) = Rig::on::<L>(Want::default()).await;
    let (mut server_in, mut server_out) = tokio::io::split(server);
    let (mut app_in, mut app_out) = rig.app.split();
    // Down: it goes on until a byte came up. Up: the same the other way round.
    let flood_down = async {
        tokio::select! {
            () = pour(&mut server_out, usize::MAX) => {}
            byte = server_in.read_u8() => assert_eq!(byte.unwrap(), 1),
        }
    };
    let answer = async {
        catch(&mut app_in, 2 << 20).await;
        app_out.write_all(&[1]).await.unwrap();
        let mut rest = vec![0; 1 << 20];
        while app_in.read(&mut rest).await.unwrap() > 0 {}
    };
    tokio::select! {
        () = answer => unreachable!("nobody ended the stream"),
        () = flood_down => {}
    }
    rig.cancel.cancel();
    rig.end().await;

    let (mut rig, server) = Rig::on::<L>(Want::default()).await;
    let (mut server_in, mut server_out) = tokio::io::split(server);
    let (mut app_in, mut app_out) = rig.app.split();
    let flood_up = async {
        tokio::select! {
            () = pour(&mut app_out, usize::MAX) => {}
            byte = app_in.read_u8() => assert_eq!(byte.unwrap(), 1),
        }
    };
    let answer = async {
        catch(&mut server_in, 2 << 20).await;
        server_out.write_all(&[1]).await.unwrap();
        server_out.flush().await.unwrap();
        let mut rest = vec![0; 1 << 20];
        while server_in.read(&mut rest).await.unwrap() > 0 {}
    };
    tokio::select! {
        () = answer => unreachable!("nobody ended the stream"),
        () = flood_up => {}
    }
    rig.cancel.cancel();
    rig.end().await;
}

async fn a_reply_of_eight_mebibytes_is_taken_although_nobody_reads_it<L: Link>() {
    const REPLY: usize = 8 << 20;
    let want = Want {
        narrow: true,
        ..Want::default()
    };
    let (mut rig, mut server) = Rig::on::<L>(want).await;
    let before = rig.budget();
    pour(&mut server, REPLY).await;
    server.shutdown().await.unwrap();
    // All but what the kernels between relay and app took, and the buffer that is free.
    until(|| before - rig.budget() >= REPLY - (512 << 10)).await;
    rig.widen();
    catch(&mut rig.app, REPLY).await;
    assert_eq!(read_all(&mut rig.app).await, (vec![], Ok(())));
    rig.app.shutdown().await.unwrap();
    assert!(matches!(rig.end().await, End::Clean));
    assert_eq!(rig.budget(), before);
}

/// What goes through memory costs more: a local side that reads on soon gets everything past it.
async fn a_short_pause_of_the_reader_takes_no_memory_and_a_longer_one_does<L: Link>() {
    const ALL: usize = 4 << 20;
    let want = Want {
        narrow: true,
        ..Want::default()
    };
    let (mut rig, mut server) = Rig::on::<L>(want).await;
    let before = rig.budget();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        pour(&mut server, ALL).await;
        server.shutdown().await.unwrap();
        server
    });
    in_time(|| borrowed() == 1).await;
    let blocked = tokio::time::Instant::now();
    tokio::time::sleep(SOON / 2).await;
    assert_eq!((rig.budget(), borrowed()), (before, 1));
    in_time(|| rig.budget() < before).await;
    assert!(blocked.elapsed() <= 2 * SOON, "{:?}", blocked.elapsed());
    rig.widen();
    catch(&mut rig.app, ALL).await;
    assert_eq!(read_all(&mut rig.app).await, (vec![], Ok(())));
    rig.app.shutdown().await.unwrap();
    assert!(matches!(rig.end().await, End::Clean));
    assert_eq!(rig.budget(), before);
}

async fn without_a_budget_the_server_has_to_wait_and_nothing_is_lost<L: Link>() {
    const ALL: usize = 32 << 20;
    let want = Want {
        budget: 2 * SIZE,
        narrow: true,
        ..Want::default()
    };
    let (mut rig, mut server) = Rig::on::<L>(want).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        pour(&mut server, ALL).await;
        server.shutdown().await.unwrap();
        server
    });
    // What waits is read ahead after a while only.
    in_time(|| rig.budget() == 0).await;
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert_eq!(borrowed(), 3, "the free one and two from the budget");
    assert!(tasks.try_join_next().is_none(), "the server waits");
    rig.widen();
    catch(&mut rig.app, ALL).await;
    assert_eq!(read_all(&mut rig.app).await, (vec![], Ok(())));
    rig.app.shutdown().await.unwrap();
    // The clock stood still but for that: no doubt.
    assert!(matches!(rig.end().await, End::Clean));
    assert_eq!(rig.budget(), 2 * SIZE);
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn b3_a_service_that_reads_nothing_for_an_hour_gets_all_when_it_reads_on() {
    let (mut rig, mut server) = Rig::new(Want::default()).await;
    let written = fill(&mut rig, &server).await;
    tokio::time::sleep(60 * LONG).await;
    tokio::time::resume();
    catch(&mut server, written).await;
    rig.cancel.cancel();
    assert!(matches!(rig.end().await, End::Cancelled));
}
