//! A long wire on one machine: whatever enters it comes out half a round trip later, however much is under way.
//!
//! Threads and not tasks, because a runtime's timers are too coarse for it.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Pieces under way in one direction; far more than a round trip's worth of what is sent here.
const UNDER_WAY: usize = 1024;
/// The most that one piece holds.
const PIECE: usize = 64 << 10;

/// The wire's near end. Cut when dropped.
#[derive(Debug)]
pub(crate) struct Wire {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    round_trip: Duration,
    cut: AtomicBool,
    /// Connections made and pieces that entered, for telling whether anything is going on.
    moved: AtomicU64,
    carried: Mutex<Vec<Carried>>,
}

/// Both ends of one connection, and who carries between them.
#[derive(Debug)]
struct Carried {
    ends: [TcpStream; 2],
    threads: Vec<JoinHandle<()>>,
}

/// Bytes, or the end if there are none, and when they come out.
type Piece = (Instant, Vec<u8>);

impl Wire {
    /// To `to`.
    pub(crate) fn new(to: SocketAddr, round_trip: Duration) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to,
            round_trip,
            cut: AtomicBool::new(false),
            moved: AtomicU64::new(0),
            carried: Mutex::default(),
        });
        let theirs = shared.clone();
        let accepting = thread::spawn(move || {
            for near in listener.incoming() {
                if theirs.cut.load(Relaxed) {
                    return;
                }
                theirs.carry(near.unwrap());
            }
        });
        Self {
            address,
            shared,
            accepting: Some(accepting),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn round_trip(&self) -> Duration {
        self.shared.round_trip
    }

    /// Grows with whatever goes on.
    pub(crate) fn moved(&self) -> u64 {
        self.shared.moved.load(Relaxed)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.shared.cut.store(true, Relaxed);
        // Wakes who accepts.
        let _ = TcpStream::connect(self.address);
        let _ = self.accepting.take().map(JoinHandle::join);
        let carried = self
            .shared
            .carried
            .lock()
            .map(|mut it| std::mem::take(&mut *it));
        for Carried { ends, threads } in carried.unwrap_or_default() {
            for end in ends {
                let _ = end.shutdown(Shutdown::Both);
            }
            for thread in threads {
                let _ = thread.join();
            }
        }
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, near: TcpStream) {
        // This system made the connection at once. Over a real wire it would take a round trip, and only then could
        // anything enter it.
        let made = Instant::now() + self.round_trip;
        self.moved.fetch_add(1, Relaxed);
        let far = TcpStream::connect(self.to).unwrap();
        for end in [&near, &far] {
            end.set_nodelay(true).unwrap();
        }
        let twin = |it: &TcpStream| it.try_clone().unwrap();
        let mut threads = self.direction(twin(&near), twin(&far), made);
        threads.extend(self.direction(twin(&far), twin(&near), made));
        let ends = [near, far];
        self.carried.lock().unwrap().push(Carried { ends, threads });
    }

    fn direction(
        self: &Arc<Self>,
        from: TcpStream,
        to: TcpStream,
        made: Instant,
    ) -> Vec<JoinHandle<()>> {
        let (enters, leaves) = sync_channel(UNDER_WAY);
        let shared = self.clone();
        vec![
            thread::spawn(move || shared.enter(from, &enters, made)),
            thread::spawn(move || leave(to, &leaves)),
        ]
    }

    fn enter(&self, mut from: TcpStream, under_way: &SyncSender<Piece>, made: Instant) {
        let mut piece = vec![0; PIECE];
        loop {
            let n = from.read(&mut piece).unwrap_or(0);
            self.moved.fetch_add(1, Relaxed);
            let due = Instant::now().max(made) + self.round_trip / 2;
            if under_way.send((due, piece[..n].to_vec())).is_err() || n == 0 {
                return;
            }
        }
    }
}

fn leave(mut to: TcpStream, under_way: &Receiver<Piece>) {
    for (due, bytes) in under_way {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if bytes.is_empty() || to.write_all(&bytes).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_pieces_under_way_take_no_longer_than_one() {
        let echo = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let round_trip = Duration::from_millis(200);
        let wire = Wire::new(echo.local_addr().unwrap(), round_trip);
        let start = Instant::now();
        let mut near = TcpStream::connect(wire.address()).unwrap();
        let (far, _) = echo.accept().unwrap();
        let echoing = thread::spawn(move || {
            std::io::copy(&mut &far, &mut &far).unwrap();
        });
        for byte in 0..10 {
            near.write_all(&[byte]).unwrap();
            thread::sleep(Duration::from_millis(2));
        }
        let mut heard = [0; 10];
        near.read_exact(&mut heard).unwrap();
        let took = start.elapsed();
        assert_eq!(heard, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert!(
            took >= round_trip * 2,
            "one for the connection, one for the bytes: {took:?}"
        );
        assert!(took < round_trip * 10, "not one for each: {took:?}");
        drop((near, wire));
        echoing.join().unwrap();
    }
}
