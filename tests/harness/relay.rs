//! A TCP relay between two programs of a test that can be spoilt while it runs: slow, held, cut, reset.
//!
//! Knows bytes and how connections end; nothing of TLS, HTTP or pomd. One for each wire: what is changed is changed for
//! all its connections at once, unless it is for the next one only.

use std::{
    collections::{BTreeSet, VecDeque},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{PATIENCE, pomd::free_port};

/// How much is read at once.
const PIECE: usize = 16 << 10;
/// How much later than its time a byte may come without slowing down those behind it.
const LATE: Duration = Duration::from_millis(20);
/// How much may be under way in one direction of a connection.
const HELD_MOST: usize = 256 << 10;

/// How one direction carries bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// How long each byte is under way.
    pub delay: Duration,
    /// Bytes a second.
    pub rate: Option<u32>,
    /// The most bytes of one write.
    pub piece: usize,
    /// Nothing passes.
    pub held: bool,
    /// After so many bytes of a connection, all of them delivered, it ends so.
    pub cut: Option<(u64, Cut)>,
}

/// How a connection is ended, on both of its sides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// FIN.
    Fin,
    /// RST.
    Reset,
    /// It does not end; no more bytes pass.
    Stall,
}

impl Way {
    /// As quickly as it goes.
    pub const PLAIN: Self = Self {
        delay: Duration::ZERO,
        rate: None,
        piece: PIECE,
        held: false,
        cut: None,
    };
    /// Nothing passes.
    pub const HELD: Self = Self {
        held: true,
        ..Self::PLAIN
    };

    /// Ends a connection so after `bytes`.
    pub const fn cut(bytes: u64, how: Cut) -> Self {
        Self {
            cut: Some((bytes, how)),
            ..Self::PLAIN
        }
    }
}

/// The ways of a connection: from who connects, and back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ways {
    /// From who connects.
    pub up: Way,
    /// To who connects.
    pub down: Way,
}

impl Ways {
    /// Both directions so.
    pub const fn both(way: Way) -> Self {
        Self { up: way, down: way }
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections not over yet.
    pub open: u64,
}

/// A running relay; its connections end with it.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    accepting: Mutex<Option<JoinSet<()>>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    to: Mutex<SocketAddr>,
    ways: watch::Sender<Ways>,
    next: Mutex<Option<Ways>>,
    new: Mutex<Option<Ways>>,
    ends: watch::Sender<Option<Ended>>,
    counts: watch::Sender<Counts>,
    /// The connections that carry bytes, by their number.
    carrying: watch::Sender<BTreeSet<u64>>,
    connections: Mutex<JoinSet<()>>,
}

/// All connections that carried nothing for `idle` end so.
#[derive(Clone, Copy, Debug)]
struct Ended {
    idle: Duration,
    how: Cut,
}

impl Relay {
    /// On a loopback port of its own, in front of `to`.
    pub async fn start(to: SocketAddr) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        Self::with(listen(address).await, to)
    }

    /// With a listener made elsewhere, in front of `to`.
    pub fn with(listener: TcpListener, to: SocketAddr) -> Self {
        let address = listener.local_addr();
        let res = Self {
            address: address.unwrap_or_else(|error| panic!("a listener: {error}")),
            accepting: Mutex::default(),
            shared: Arc::new(Shared {
                to: Mutex::new(to),
                ways: watch::Sender::new(Ways::both(Way::PLAIN)),
                next: Mutex::default(),
                new: Mutex::default(),
                ends: watch::Sender::default(),
                counts: watch::Sender::default(),
                carrying: watch::Sender::default(),
                connections: Mutex::default(),
            }),
        };
        res.serve(listener);
        res
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where new connections are led from now on.
    pub fn lead_to(&self, to: SocketAddr) {
        *lock(&self.shared.to) = to;
    }

    /// How all connections carry bytes from now on.
    pub fn set(&self, ways: Ways) {
        self.shared.ways.send_replace(ways);
    }

    /// How the next connection carries bytes, for as long as it lives.
    pub fn set_next(&self, ways: Ways) {
        *lock(&self.shared.next) = Some(ways);
    }

    /// How new connections carry bytes, for as long as they live; `None`: as all do.
    pub fn set_new(&self, ways: Option<Ways>) {
        *lock(&self.shared.new) = ways;
    }

    /// Ends every connection so, and comes back when nothing more goes through any of them.
    pub async fn end_all(&self, how: Cut) {
        let newest = self.counts().accepted;
        self.end_idle(Duration::ZERO, how);
        let mut carrying = self.shared.carrying.subscribe();
        let ended = carrying.wait_for(|it| it.iter().all(|number| *number > newest));
        let ended = timeout(PATIENCE, ended).await;
        assert!(ended.is_ok(), "the relay does not end its connections");
    }

    /// Ends every connection so that carried nothing for so long.
    pub fn end_idle(&self, idle: Duration, how: Cut) {
        self.shared.ends.send_replace(Some(Ended { idle, how }));
    }

    /// Closes the port: new connections are refused, open ones live on.
    pub async fn close(&self) {
        let accepting = lock(&self.accepting).take();
        if let Some(mut accepting) = accepting {
            accepting.shutdown().await;
        }
    }

    /// Opens the port again, at the same address.
    pub async fn open(&self) {
        self.serve(listen(self.address).await);
    }

    /// What it counted.
    pub fn counts(&self) -> Counts {
        *self.shared.counts.borrow()
    }

    /// Waits until it counted that.
    pub async fn wait_for(&self, what: &str, found: impl Fn(&Counts) -> bool) -> Counts {
        let mut counts = self.shared.counts.subscribe();
        let waiting = timeout(PATIENCE, counts.wait_for(|it| found(it)));
        match waiting.await {
            Ok(Ok(counts)) => *counts,
            _ => panic!("the relay never counted: {what}; {:?}", self.counts()),
        }
    }

    fn serve(&self, listener: TcpListener) {
        let mut accepting = JoinSet::new();
        let shared = self.shared.clone();
        accepting.spawn(async move {
            loop {
                // A client that left again is none.
                let Ok((near, _)) = listener.accept().await else {
                    continue;
                };
                let next = lock(&shared.next).take();
                let ways = next.or(*lock(&shared.new));
                let ways = ways.map_or_else(|| shared.ways.subscribe(), |it| watch::channel(it).1);
                // From now on, so that none is missed.
                let ends = shared.ends.subscribe();
                let open = Open::new(&shared);
                let mut connections = lock(&shared.connections);
                while connections.try_join_next().is_some() {}
                connections.spawn(connection(near, ways, ends, open));
            }
        });
        *lock(&self.accepting) = Some(accepting);
    }
}

async fn listen(address: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(address).await;
    listener.unwrap_or_else(|error| panic!("a relay at {address}: {error}"))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts a connection as long as it is open.
struct Open {
    shared: Arc<Shared>,
    number: u64,
}

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        let mut number = 0;
        shared.counts.send_modify(|it| {
            it.accepted += 1;
            it.open += 1;
            number = it.accepted;
        });
        shared.carrying.send_modify(|it| {
            it.insert(number);
        });
        let shared = shared.clone();
        Self { shared, number }
    }

    /// From now on it carries nothing.
    fn carries_nothing(&self) {
        self.shared
            .carrying
            .send_if_modified(|it| it.remove(&self.number));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.carries_nothing();
        self.shared.counts.send_modify(|it| it.open -= 1);
    }
}

async fn connection(
    mut near: TcpStream,
    ways: watch::Receiver<Ways>,
    ends: watch::Receiver<Option<Ended>>,
    open: Open,
) {
    let to = *lock(&open.shared.to);
    let mut far = match TcpStream::connect(to).await {
        Ok(far) => far,
        Err(_) => {
            let _ = near.set_zero_linger();
            return;
        }
    };
    let _ = near.set_nodelay(true);
    let _ = far.set_nodelay(true);
    let moved = Mutex::new(Instant::now());
    let how = {
        let (from_near, to_near) = near.split();
        let (from_far, to_far) = far.split();
        let up = pump(from_near, to_far, ways.clone(), |it| it.up, &moved);
        let down = pump(from_far, to_near, ways, |it| it.down, &moved);
        tokio::select! {
            how = async { tokio::try_join!(up, down) } => how.err(),
            how = ended(ends, &moved) => Some(how),
        }
    };
    match how {
        // Both sides have ended by themselves.
        None => {}
        Some(Cut::Stall) => {
            open.carries_nothing();
            std::future::pending().await
        }
        Some(Cut::Reset) => {
            let _ = near.set_zero_linger();
            let _ = far.set_zero_linger();
            drop((near, far));
        }
        Some(Cut::Fin) => {
            let _ = near.shutdown().await;
            let _ = far.shutdown().await;
            open.carries_nothing();
            // Read on, so that a FIN stays a FIN.
            let (mut nowhere, mut void) = (sink(), sink());
            let rest = async {
                let _ = tokio::join!(copy(&mut near, &mut nowhere), copy(&mut far, &mut void));
            };
            let _ = timeout(PATIENCE, rest).await;
        }
    }
}

/// Until this connection is among those that are to end.
async fn ended(mut ends: watch::Receiver<Option<Ended>>, moved: &Mutex<Instant>) -> Cut {
    loop {
        if ends.changed().await.is_err() {
            return std::future::pending().await;
        }
        if let Some(Ended { idle, how }) = *ends.borrow_and_update()
            && lock(moved).elapsed() >= idle
        {
            return how;
        }
    }
}

/// Bytes under way.
struct Held {
    at: Instant,
    bytes: Vec<u8>,
    /// How many of them were passed on.
    gone: usize,
}

/// Carries one direction until it has ended; `Err`: the whole connection ends so.
async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut ways: watch::Receiver<Ways>,
    which: impl Fn(&Ways) -> Way,
    moved: &Mutex<Instant>,
) -> Result<(), Cut> {
    let reset = |_: io::Error| Cut::Reset;
    let mut held = VecDeque::<Held>::new();
    let mut piece = vec![0; PIECE];
    let (mut bytes, mut passed, mut ended) = (0, 0, false);
    let mut free_at = Instant::now();
    loop {
        let way = which(&ways.borrow_and_update());
        if let Some((after, how)) = way.cut
            && passed >= after
        {
            return Err(how);
        }
        let due = held.front().map(|it| (it.at + way.delay).max(free_at));
        if ended && due.is_none() && !way.held {
            // Whoever does not listen any more is told by its own reset.
            let _ = to.shutdown().await;
            return Ok(());
        }
        tokio::select! {
            read = from.read(&mut piece), if !ended && bytes < HELD_MOST => match read.map_err(reset)? {
                0 => ended = true,
                n => {
                    bytes += n;
                    held.push_back(Held { at: Instant::now(), bytes: piece[..n].to_vec(), gone: 0 });
                }
            },
            () = sleep_until(due.unwrap_or(free_at)), if due.is_some() && !way.held => {
                let Some(first) = held.front_mut() else { continue };
                let left = way.cut.map_or(u64::MAX, |it| it.0 - passed);
                let rest = &first.bytes[first.gone..];
                let n = rest.len().min(way.piece).min(usize::try_from(left).unwrap_or(usize::MAX));
                to.write_all(&rest[..n]).await.map_err(reset)?;
                first.gone += n;
                if first.gone == first.bytes.len() {
                    held.pop_front();
                }
                (passed, bytes) = (passed + n as u64, bytes - n);
                *lock(moved) = Instant::now();
                if let Some(rate) = way.rate {
                    let pause = Duration::from_secs_f64(n as f64 / f64::from(rate));
                    // Timers are coarse: what one was late the next ones make up for.
                    free_at = free_at.max(Instant::now() - LATE) + pause;
                }
            }
            Ok(()) = ways.changed() => {}
            // Held for good.
            else => std::future::pending().await,
        }
    }
}
