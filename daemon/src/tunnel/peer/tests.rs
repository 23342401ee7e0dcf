//! Rows, sockets and other users, and who is let in.

use std::{
    net::{IpAddr, Shutdown},
    os::unix::process::CommandExt,
    process::{Command, Stdio},
};

use super::*;

const STRANGER: u32 = 65_534;

fn row(uid: u32, inode: u32) -> Row {
    Row {
        local: ([127, 0, 0, 1], 1).into(),
        remote: ([127, 0, 0, 1], 2).into(),
        state: 1,
        timer: 0,
        uid,
        inode,
    }
}

#[test]
fn only_owners_and_an_open_socket_of_root_are_welcome() {
    let away = |uid| PeerVerdict::TurnAway { uid };
    for (owner, uid, inode, remembers, expected) in [
        (1000, 1000, 1, false, PeerVerdict::Welcome),
        (1000, 1001, 1, false, away(Some(1001))),
        (1000, 0, 1, false, PeerVerdict::Welcome),
        (1000, 0, 0, false, away(None)),
        (1000, 1000, 0, true, PeerVerdict::Welcome),
        (1000, 1001, 0, true, away(Some(1001))),
        (1000, 0, 0, true, away(Some(0))),
        (0, 0, 1, false, PeerVerdict::Welcome),
        (0, 0, 0, false, away(None)),
        (0, 0, 0, true, PeerVerdict::Welcome),
        (0, 1000, 0, true, away(Some(1000))),
        (0, 1000, 1, true, away(Some(1000))),
    ] {
        let verdict = verdict(&row(uid, inode), &BTreeSet::from([owner]), remembers);
        assert_eq!(verdict, expected, "{owner} {uid} {inode} {remembers}");
    }
}

#[test]
fn on_a_unix_socket_owners_and_root_are_welcome() {
    let me = users::own_uid().unwrap();
    let (owners, _) = Owners::new(&[(me + 1).to_string()]);
    for (uid, welcome) in [(me, true), (me + 1, true), (0, true), (me + 2, false)] {
        let verdict = owners.check_uid(uid);
        let expected = match welcome {
            true => PeerVerdict::Welcome,
            false => PeerVerdict::TurnAway { uid: Some(uid) },
        };
        assert_eq!(verdict, expected, "{uid}");
    }
    let pid = Some(std::process::id());
    let text = owners.look(Ends::Unix { uid: me, pid }).unwrap();
    assert!(
        text.ends_with(&format!("(pid {})", std::process::id())),
        "{text}"
    );
}

fn judged(owners: &Owners, theirs: SocketAddr, ours: SocketAddr) -> PeerVerdict {
    owners.check_addresses(theirs, ours, &owners.uids)
}

#[test]
fn a1_only_a_connection_that_was_made_counts_and_an_orphan_of_root_s_is_nobodys() {
    for state in 1..=12 {
        for (uid, inode) in [(0, 0), (0, 1), (1000, 0), (1000, 1)] {
            let row = Row {
                state,
                ..row(uid, inode)
            };
            let made = [1, 4, 5, 8, 9, 11].contains(&state);
            let orphan = state == 5 && (uid, inode) == (0, 0);
            for owner in [0, 1000] {
                let expected = match uid {
                    _ if !made || orphan => PeerVerdict::TurnAway { uid: None },
                    0 if owner == 0 || inode == 1 => PeerVerdict::Welcome,
                    _ if uid == owner => PeerVerdict::Welcome,
                    _ => PeerVerdict::TurnAway { uid: Some(uid) },
                };
                let verdict = verdict(&row, &BTreeSet::from([owner]), true);
                assert_eq!(verdict, expected, "{row:?} for {owner}");
            }
        }
    }
}

#[test]
fn a5_who_may_use_the_listeners_may_not_answer_a_login() {
    let me = users::own_uid().unwrap();
    let (owners, _) = Owners::new(&[(me + 1).to_string()]);
    assert_eq!(owners.uids, BTreeSet::from([me, me + 1]));
    assert_eq!(owners.own, BTreeSet::from([me]));
}

/// A socket that is bound to `at` beside what lingers there.
fn bound(at: SocketAddr) -> socket2::Socket {
    let res = socket2::Socket::new(
        socket2::Domain::for_address(at),
        socket2::Type::STREAM,
        None,
    )
    .unwrap();
    res.set_reuse_address(true).unwrap();
    res.bind(&at.into()).unwrap();
    res
}

#[tokio::test]
async fn a1_a_dead_socket_is_nobodys_although_its_address_is_an_owner_s_again() {
    let (owners, _) = Owners::new(&[]);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ours = listener.local_addr().unwrap();
    for live in [false, true] {
        let first = bound("127.0.0.1:0".parse().unwrap());
        first.connect(&ours.into()).unwrap();
        let theirs = first.local_addr().unwrap().as_socket().unwrap();
        first.send(&[b'x'; 64 << 10]).unwrap();
        first.set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        let second = bound(theirs);
        second.connect(&ours.into()).unwrap();
        let (dead, from) = listener.accept().await.unwrap();
        assert_eq!(from, theirs);
        // What the system says is about the second one.
        assert_eq!(judged(&owners, theirs, ours), PeerVerdict::Welcome);
        let login = owners.check_login_peer(&dead, from);
        let ends = Ends::Tcp { theirs, ours };
        let listened = owners.check(&dead.into(), ends);
        let away = PeerVerdict::TurnAway { uid: None };
        assert_eq!((login, listened), (away, away));
        let (alive, _) = listener.accept().await.unwrap();
        assert_eq!(
            owners.check_login_peer(&alive, theirs),
            PeerVerdict::Welcome
        );
        if live {
            assert_eq!(owners.check(&alive.into(), ends), PeerVerdict::Welcome);
        }
    }
}

#[test]
fn a_socket_that_only_lingers_is_nobodys_although_it_reads_as_roots() {
    let mut row = row(0, 0);
    row.state = 5;
    row.timer = 3;
    let verdict = verdict(&row, &BTreeSet::from([0]), true);
    assert_eq!(verdict, PeerVerdict::TurnAway { uid: None });
}

#[test]
fn users_are_names_or_numbers_and_all_unknown_ones_are_named() {
    let users = ["root", "1234"].map(str::to_owned);
    let (owners, _) = Owners::new(&users);
    assert!(owners.uids.contains(&0) && owners.uids.contains(&1234));
    assert!(owners.can_tell());
    let users = ["root", "no such", "--help"].map(str::to_owned);
    assert_eq!(Owners::new(&users).1, ["no such", "--help"]);
}

fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr, SocketAddr) {
    let (local, theirs) = listener.accept().unwrap();
    let ours = local.local_addr().unwrap();
    (local, theirs, ours)
}

#[test]
fn we_are_welcome_over_either_family_also_half_closed() {
    let (owners, _) = Owners::new(&[]);
    for ip in [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ] {
        let Ok(listener) = TcpListener::bind((ip, 0)) else {
            eprintln!("skipped: no {ip} here");
            continue;
        };
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_local, theirs, ours) = accept(&listener);
        assert_eq!(judged(&owners, theirs, ours), PeerVerdict::Welcome);
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(judged(&owners, theirs, ours), PeerVerdict::Welcome);
        assert_eq!(owners.is_held_at(theirs, ours), Some(true));
        drop(client);
        assert_eq!(owners.is_held_at(theirs, ours), Some(false));
    }
}

#[test]
fn a_program_is_described_and_not_looked_for_twice_in_a_moment() {
    let (owners, _) = Owners::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (_local, theirs, ours) = accept(&listener);
    let text = owners.describe(Ends::Tcp { theirs, ours }).unwrap();
    let me = format!("(pid {})", std::process::id());
    assert!(text.contains(&me) || text.starts_with("uid "), "{text}");
    assert_eq!(owners.describe(Ends::Tcp { theirs, ours }), None);
}

/// A stranger runs `script` of Python with the port as its argument; prints a line when it may be judged.
fn stranger(script: &str, port: u16) -> std::process::Child {
    Command::new("python3")
        .args(["-c", script, &port.to_string()])
        .uid(STRANGER)
        .gid(STRANGER)
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn may_change_user() -> bool {
    let root = users::own_uid() == Some(0);
    if !root {
        eprintln!("skipped: needs root");
    }
    root
}

#[test]
fn another_uid_is_turned_away_over_v4_v6_and_mapped_addresses() {
    if !may_change_user() {
        return;
    }
    let (owners, _) = Owners::new(&[]);
    let (allowing, _) = Owners::new(&[STRANGER.to_string()]);
    for (bind, client) in [
        ("127.0.0.1:0", "127.0.0.1"),
        ("[::1]:0", "::1"),
        ("127.0.0.1:0", "::ffff:127.0.0.1"),
        ("[::]:0", "127.0.0.1"),
    ] {
        let listener = TcpListener::bind(bind).unwrap();
        let script = format!(
            "import socket,sys; c=socket.create_connection(('{client}',int(sys.argv[1]))); sys.stdin.read()"
        );
        let mut child = stranger(&script, listener.local_addr().unwrap().port());
        let (_local, theirs, ours) = accept(&listener);
        let uid = Some(STRANGER);
        assert_eq!(
            judged(&owners, theirs, ours),
            PeerVerdict::TurnAway { uid },
            "{bind} {client}"
        );
        assert_eq!(judged(&allowing, theirs, ours), PeerVerdict::Welcome);
        drop(child.stdin.take());
        child.wait().unwrap();
    }
}

#[test]
fn another_uid_that_sends_and_closes_is_never_taken_for_root() {
    if !may_change_user() {
        return;
    }
    let (owners, _) = Owners::new(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let script = "import socket,sys\nfor i in range(200):\n c=socket.create_connection(('127.0.0.1',int(sys.argv[1]))); c.send(b'x'); c.close()";
    let mut child = stranger(script, listener.local_addr().unwrap().port());
    let mut kept = Vec::new();
    for _ in 0..200 {
        let (local, theirs, ours) = accept(&listener);
        assert_ne!(judged(&owners, theirs, ours), PeerVerdict::Welcome);
        kept.push((local, theirs, ours));
    }
    child.wait().unwrap();
    // Once both sides said what they had to, the kernel remembers nothing but addresses: it says uid 0.
    let sockets = owners.sockets.as_ref().unwrap();
    let mut lingering = 0;
    let start = Instant::now();
    for (_, theirs, ours) in &kept {
        while let Some(row) = sockets.connected(*theirs, *ours).unwrap() {
            if row.lingers() {
                lingering += 1;
                break;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "{row:?}");
            std::thread::yield_now();
        }
        assert_ne!(judged(&owners, *theirs, *ours), PeerVerdict::Welcome);
    }
    assert!(lingering > 0);
}

#[test]
fn our_own_send_then_close_is_welcome_where_the_kernel_remembers() {
    let (owners, _) = Owners::new(&[]);
    if !owners.remembers {
        eprintln!("skipped: this kernel forgets the owner of a closed socket");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let ours = listener.local_addr().unwrap();
    let mut welcome = 0;
    for _ in 0..50 {
        let client = TcpStream::connect(ours).unwrap();
        let theirs = client.local_addr().unwrap();
        drop(client);
        welcome += usize::from(judged(&owners, theirs, ours) == PeerVerdict::Welcome);
    }
    assert!(welcome > 25, "{welcome} of 50");
}
