//! How tunnels end, and what the local side sees of it.

use std::io::ErrorKind::{ConnectionReset, UnexpectedEof};

use tokio::time;

use super::*;

/// A relay through which the app read "bye", and the server.
async fn said_bye(want: Want) -> (Rig, TlsStream<TcpStream>) {
    said_bye_on::<Tls>(want).await
}

async fn said_bye_on<L: Link>(want: Want) -> (Rig, L::Server) {
    let (mut rig, mut server) = Rig::on::<L>(want).await;
    server.write_all(b"bye").await.unwrap();
    server.flush().await.unwrap();
    assert_eq!(read_some(&mut rig.app, 3).await, b"bye");
    (rig, server)
}

over_each_stream! {
    a16_t4_an_end_without_close_notify_is_a_reset_behind_all_that_came_before;
    bytes_that_a_slow_reader_has_not_taken_survive_the_reset;
    a_reply_that_comes_after_our_end_arrives_whole;
    an_end_that_came_before_the_tunnel_was_open_is_held_back_too;
    silence_after_our_end_ends_the_relay_and_each_byte_gives_new_time;
    a_reset_by_the_local_side_stops_at_once_and_is_passed_on;
    cancelling_resets_both_sides;
    a_clean_end_reaches_a_local_side_that_goes_on_writing;
    a_local_side_that_does_not_end_is_not_waited_for_longer_than_the_linger_time;
    a_truncated_upload_does_not_look_whole_to_the_server;
}

async fn a16_t4_an_end_without_close_notify_is_a_reset_behind_all_that_came_before<L: Link>() {
    let (mut rig, mut server) = Rig::on::<L>(Want::default()).await;
    server.write_all(b"bye").await.unwrap();
    server.flush().await.unwrap();
    L::cut(server);
    let seen = read_all(&mut rig.app).await;
    assert_eq!(seen, (b"bye".to_vec(), Err(ConnectionReset)));
    assert!(matches!(rig.end().await, End::Cut(_)));
}

#[tokio::test]
async fn a_reset_of_the_remote_is_a_reset() {
    let (mut rig, server) = said_bye(Want::default()).await;
    server.get_ref().0.set_zero_linger().unwrap();
    drop(server);
    assert_eq!(read_all(&mut rig.app).await, (vec![], Err(ConnectionReset)));
    assert!(matches!(rig.end().await, End::Cut(_)));
}

#[tokio::test]
async fn garbage_is_a_reset_and_the_server_is_told() {
    let (mut rig, mut server) = said_bye(Want::default()).await;
    let raw = &mut server.get_mut().0;
    raw.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(read_all(&mut rig.app).await, (vec![], Err(ConnectionReset)));
    let End::Cut(why) = rig.end().await else {
        unreachable!("garbage is a cut");
    };
    assert!(why.contains("corrupt message"), "{why}");
    let told = server.read_u8().await.unwrap_err();
    assert!(told.to_string().contains("alert"), "{told}");
}

async fn bytes_that_a_slow_reader_has_not_taken_survive_the_reset<L: Link>() {
    const ALL: usize = 3 << 20;
    let (mut rig, mut server) = Rig::on::<L>(Want::default()).await;
    pour(&mut server, ALL).await;
    L::cut(server);
    // All is with the kernels before the first byte is read.
    until(|| rig.counters.received.load(Relaxed) > 1 << 20).await;
    catch(&mut rig.app, ALL).await;
    assert_eq!(read_all(&mut rig.app).await, (vec![], Err(ConnectionReset)));
    assert!(matches!(rig.end().await, End::Cut(_)));
}

async fn a_reply_that_comes_after_our_end_arrives_whole<L: Link>() {
    let (mut rig, mut server) = Rig::on::<L>(Want::default()).await;
    rig.app.write_all(b"request").await.unwrap();
    rig.app.shutdown().await.unwrap();
    assert_eq!(read_some(&mut server, 7).await, b"request");
    tokio::join!(pour(&mut server, 4 << 20), catch(&mut rig.app, 4 << 20));
    let mut unheard = [0; 1];
    let heard = futures_util::poll!(pin!(server.read(&mut unheard)));
    assert!(heard.is_pending(), "the server was not told of our end");
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.app).await, (vec![], Ok(())));
    assert!(matches!(rig.end().await, End::Clean));
}

async fn an_end_that_came_before_the_tunnel_was_open_is_held_back_too<L: Link>() {
    let want = Want {
        local_ended: true,
        ..Want::default()
    };
    let (mut rig, mut server) = Rig::on::<L>(want).await;
    server.write_all(b"reply").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.app).await, (b"reply".to_vec(), Ok(())));
    rig.app.shutdown().await.unwrap();
    assert!(matches!(rig.end().await, End::Clean));
}

async fn silence_after_our_end_ends_the_relay_and_each_byte_gives_new_time<L: Link>() {
    let (mut rig, mut server) = said_bye_on::<L>(Want::default()).await;
    rig.app.shutdown().await.unwrap();
    // The relay has seen it once it was polled for nothing else.
    let polls = rig.polls();
    until(|| rig.polls() > polls).await;
    time::pause();
    for byte in 0..3 {
        time::advance(LONG - Duration::from_millis(10)).await;
        server.write_all(&[byte]).await.unwrap();
        server.flush().await.unwrap();
        time::resume();
        assert_eq!(read_some(&mut rig.app, 1).await, [byte]);
        time::pause();
    }
    time::advance(LONG + Duration::from_millis(10)).await;
    time::resume();
    assert!(matches!(rig.end().await, End::Lingered));
    assert_eq!(read_all(&mut rig.app).await, (vec![], Err(ConnectionReset)));
    assert_eq!(read_all(&mut server).await, (vec![], Ok(())));
}

async fn a_reset_by_the_local_side_stops_at_once_and_is_passed_on<L: Link>() {
    let (mut rig, mut server) = said_bye_on::<L>(Want::default()).await;
    rig.app.set_zero_linger().unwrap();
    drop(std::mem::replace(&mut rig.app, pair().await.0));
    assert!(matches!(rig.end().await, End::LocalGone(_)));
    assert_eq!(read_all(&mut server).await, (vec![], Err(ConnectionReset)));
}

async fn cancelling_resets_both_sides<L: Link>() {
    let (mut rig, mut server) = said_bye_on::<L>(Want::default()).await;
    rig.cancel.cancel();
    assert!(matches!(rig.end().await, End::Cancelled));
    assert_eq!(read_all(&mut rig.app).await, (vec![], Err(ConnectionReset)));
    assert_eq!(read_all(&mut server).await, (vec![], Err(ConnectionReset)));
}

async fn a_clean_end_reaches_a_local_side_that_goes_on_writing<L: Link>() {
    let (mut rig, mut server) = Rig::on::<L>(Want::default()).await;
    server.write_all(b"enough").await.unwrap();
    server.shutdown().await.unwrap();
    pour(&mut rig.app, 8 << 20).await;
    assert_eq!(read_all(&mut rig.app).await, (b"enough".to_vec(), Ok(())));
    rig.app.shutdown().await.unwrap();
    assert!(matches!(rig.end().await, End::Clean));
}

async fn a_local_side_that_does_not_end_is_not_waited_for_longer_than_the_linger_time<L: Link>() {
    let want = Want {
        linger: Duration::from_millis(20),
        ..Want::default()
    };
    let (mut rig, mut server) = Rig::on::<L>(want).await;
    server.shutdown().await.unwrap();
    assert_eq!(read_all(&mut rig.app).await, (vec![], Ok(())));
    assert!(matches!(rig.end().await, End::Clean));
}

#[tokio::test]
async fn what_the_remote_said_before_it_took_no_more_is_still_delivered() {
    let (mut rig, mut server) = Rig::new(Want::default()).await;
    // Enough to fill the kernels: the relay is writing when the server goes.
    let (mut app_in, mut app_out) = rig.app.split();
    let sent = rig.counters.clone();
    let reply = async {
        until(|| sent.sent.load(Relaxed) > 1 << 20).await;
        server.write_all(b"403").await.unwrap();
        server.shutdown().await.unwrap();
        drop(server); // with unread bytes: a reset
        read_all(&mut app_in).await
    };
    let (_, seen) = tokio::join!(
        async {
            while app_out.write_all(noise()).await.is_ok() {
                if sent.received.load(Relaxed) == 3 {
                    break;
                }
            }
        },
        reply
    );
    assert_eq!(seen, (b"403".to_vec(), Ok(())));
    rig.app.shutdown().await.unwrap();
    assert!(matches!(rig.end().await, End::Clean));
}

#[tokio::test]
async fn without_tls_a_failed_connection_does_not_end_cleanly() {
    let (near, server) = pair().await;
    let mut rig = Rig::over(Remote::plain(near), Want::default()).await;
    rig.app.write_all(b"lost").await.unwrap();
    until(|| rig.counters.sent.load(Relaxed) == 4).await;
    drop(server); // with unread bytes: a reset
    let end = read_all(&mut rig.app).await;
    assert_eq!(end, (vec![], Err(ConnectionReset)));
    assert!(matches!(rig.end().await, End::Cut(_)));
}

#[tokio::test]
async fn without_tls_an_end_behind_a_failed_write_is_a_cut() {
    let ((near, server), (_app, local)) = (pair().await, pair().await);
    drop(server);
    let (shared, counters) = (Want::default().shared(), Carried::default());
    let mut relay = Relay {
        local: Local::new(local),
        remote: Remote::plain(near),
        counters: &counters,
        linger: LONG,
        remote_to_local: RemoteToLocal::new(Vec::new(), &shared),
        local_to_remote: LocalToRemote::Failed,
        linger_timer: None,
        liveness: None,
    };
    let Err(end) = poll_fn(|cx| relay.poll(cx)).await;
    assert!(matches!(end, End::Cut(_)), "{end:?}");
}

/// So many bytes to an app that reads nothing for `pause`, then all; the server ended cleanly.
async fn after_a_pause_of(pause: Duration, all: usize) -> (Result<(), io::ErrorKind>, End) {
    let want = Want {
        budget: 2 * SIZE,
        narrow: true,
        ..Want::default()
    };
    let (mut rig, mut server) = Rig::new(want).await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        pour(&mut server, all).await;
        server.shutdown().await.unwrap();
        let _ = server.read_u8().await;
    });
    // What waits is read ahead after a while only; the remote has waited since then.
    in_time(|| rig.budget() == 0).await;
    time::advance(pause - SOON).await;
    if pause.as_secs() > 0 {
        // Enough doubt; from here on a limit that a paused clock skips to would do harm.
        time::resume();
    }
    rig.widen();
    catch(&mut rig.app, all).await;
    let seen = read_all(&mut rig.app).await;
    assert_eq!(seen.0, b"", "all of it came");
    drop(rig.app.shutdown().await);
    (seen.1, rig.end().await)
}

#[tokio::test(start_paused = true)]
async fn a_close_soon_after_a_long_pause_of_the_reader_is_told_as_a_reset() {
    let (seen, end) = after_a_pause_of(Duration::from_millis(1000), 12 << 20).await;
    assert_eq!(seen, Err(ConnectionReset));
    assert!(matches!(end, End::Doubtful), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn b4_a_close_soon_after_a_long_pause_is_an_end_once_more_came_than_kernels_hold() {
    let (seen, end) = after_a_pause_of(Duration::from_millis(1500), 64 << 20).await;
    assert_eq!(seen, Ok(()));
    assert!(matches!(end, End::Clean), "{end:?}");
}

#[tokio::test(start_paused = true)]
async fn a_close_after_a_short_pause_of_the_reader_is_an_end() {
    let (seen, end) = after_a_pause_of(Duration::from_millis(800), 12 << 20).await;
    assert_eq!(seen, Ok(()));
    assert!(matches!(end, End::Clean), "{end:?}");
}

async fn a_truncated_upload_does_not_look_whole_to_the_server<L: Link>() {
    let (mut rig, mut server) = Rig::on::<L>(Want::default()).await;
    rig.app.write_all(b"half").await.unwrap();
    assert_eq!(read_some(&mut server, 4).await, b"half");
    rig.app.set_zero_linger().unwrap();
    drop(std::mem::replace(&mut rig.app, pair().await.0));
    rig.end().await;
    let (_, end) = read_all(&mut server).await;
    assert!(matches!(end, Err(ConnectionReset | UnexpectedEof)));
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn n5_a_remote_that_fell_silent_is_a_cut_within_a_minute_of_the_next_write() {
    let (mut rig, server) = said_bye(Want::default()).await;
    // From here on whatever comes is dropped before the server's TCP sees it.
    let drop_all = [socket2::SockFilter::new(6, 0, 0, 0)];
    SockRef::from(server.get_ref().0)
        .attach_filter(&drop_all)
        .unwrap();
    time::sleep(10 * LONG).await;
    let start = time::Instant::now();
    rig.app.write_all(b"anybody there?").await.unwrap();
    assert_eq!(read_all(&mut rig.app).await, (vec![], Err(ConnectionReset)));
    let took = start.elapsed();
    assert!((LONG / 3..LONG).contains(&took), "noticed after {took:?}");
    assert!(matches!(rig.end().await, End::Cut(_)));
}

/// Closes the app's socket.
async fn leave(rig: &mut Rig) {
    drop(std::mem::replace(&mut rig.app, pair().await.0));
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn e5_a_client_that_said_nothing_and_closed_leaves_nothing_behind() {
    let (mut rig, mut server) = Rig::new(Want::default()).await;
    let start = time::Instant::now();
    leave(&mut rig).await;
    assert!(matches!(rig.end().await, End::LocalGone(_)));
    assert!(start.elapsed() < LONG / 30);
    assert_eq!(read_all(&mut server).await, (vec![], Err(ConnectionReset)));
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn a_client_that_closed_after_its_last_word_is_soon_let_go() {
    let (mut rig, mut server) = said_bye(Want::default()).await;
    rig.app.write_all(b"QUIT").await.unwrap();
    assert_eq!(read_some(&mut server, 4).await, b"QUIT");
    until(|| progress(&server).waiting == 0).await;
    let start = time::Instant::now();
    leave(&mut rig).await;
    let end = rig.end().await;
    assert!(matches!(end, End::Lingered), "{end:?}");
    let took = start.elapsed();
    // The paused clock runs ahead of a kernel that is busy.
    assert!((LONG / 12..LONG / 2).contains(&took), "{took:?}");
    assert_eq!(read_all(&mut server).await, (vec![], Ok(())));
}

#[cfg(target_os = "linux")]
#[tokio::test(start_paused = true)]
async fn an_upload_that_the_service_takes_late_arrives_whole_although_its_client_is_gone() {
    let (mut rig, mut server) = Rig::new(Want {
        linger: Duration::from_millis(50),
        ..Want::default()
    })
    .await;
    let written = fill(&mut rig, &server).await;
    leave(&mut rig).await;
    time::sleep(10 * LONG).await;
    time::resume();
    let (all, end) = read_all(&mut server).await;
    assert_eq!((all.len(), end), (written, Ok(())));
    assert!(matches!(rig.end().await, End::Lingered));
}
