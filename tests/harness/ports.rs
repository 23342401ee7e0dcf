//! Ports that a test may find free, leave free for a while, and bind again.
//!
//! A port that was found free belongs to nobody: another process may take it before it is bound. So every process of
//! these tests takes a block of ports for itself first, by listening on the block's first port until it ends, and gives
//! each of the others out once. Blocks lie below the ports that the system and pomd give out.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener},
    ops::Range,
    sync::{Mutex, PoisonError},
};

const FIRST: u16 = 10_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 100;

/// What this process took.
struct Ours {
    /// Nobody else takes a block while it is held.
    guards: Vec<TcpListener>,
    left: Range<u16>,
}

static OURS: Mutex<Ours> = Mutex::new(Ours {
    guards: Vec::new(),
    left: 0..0,
});

/// A port that is free on both loopback addresses, given out only once, and to no other process of these tests.
pub fn free_port() -> u16 {
    let mut ours = OURS.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match ours.left.next() {
            Some(port) if is_free(port) => return port,
            Some(_) => {}
            None => {
                let (guard, left) = take_block();
                ours.guards.push(guard);
                ours.left = left;
            }
        }
    }
}

fn take_block() -> (TcpListener, Range<u16>) {
    let start = std::process::id() as u16 % BLOCKS;
    let blocks = (0..BLOCKS).map(|it| FIRST + (start + it) % BLOCKS * BLOCK);
    let mut taken = blocks.filter_map(|first| {
        let guard = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).ok()?;
        Some((guard, first + 1..first + BLOCK))
    });
    taken.next().unwrap_or_else(|| {
        panic!("other tests, or other programs, have all ports from {FIRST} on for themselves")
    })
}

/// A machine without one of the addresses has it free.
fn is_free(port: u16) -> bool {
    let loopback = [
        IpAddr::from(Ipv4Addr::LOCALHOST),
        Ipv6Addr::LOCALHOST.into(),
    ];
    let bound = loopback.map(|it| TcpListener::bind((it, port)));
    let in_use = |it: &std::io::Result<_>| {
        let error = it.as_ref().err().map(std::io::Error::kind);
        error == Some(ErrorKind::AddrInUse)
    };
    !bound.iter().any(in_use)
}
