//! The accept loop: who comes in, who is turned away, and what to do when there is no descriptor left.
//!
//! Knows listeners and a [`AcceptHandler`]. Must not know what happens to a connection that came in.

use std::{future::poll_fn, io, task::Poll, time::Duration};

use futures_util::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    bind::Listener,
    local::{Ends, Local},
    peer::PeerVerdict,
};
use crate::{
    accept_backoff::{AfterFailure, Backoff},
    system::descriptor_reserve::Reserve,
};

/// What the accept loop needs to know, and whom it tells.
pub(super) trait AcceptHandler {
    /// May fail as an accept does.
    fn try_to_accept(&mut self) -> io::Result<()> {
        Ok(())
    }
    /// Judges a connection before anything else.
    fn check_peer(&mut self, local: &Local, ends: Ends) -> PeerVerdict;
    /// A connection that may come in.
    fn enter(&mut self, local: Local, ends: Ends);
    /// A connection was turned away.
    fn turned_away(&mut self, uid: Option<u32>);
    /// Nothing can be accepted for now, for lack of descriptors or memory.
    fn exhausted(&mut self, error: &io::Error);
    /// That goes on. Connections that are open may have said meanwhile that all is well.
    fn still_exhausted(&mut self) {}
    /// So many connections waited until now, and were reset.
    fn gave_up(&mut self, count: usize);
    /// Accepting works again.
    fn relieved(&mut self);
}

/// How long connections wait in the listener's queue before they are reset: their clients are to learn of it (E1).
const GIVE_UP: Duration = Duration::from_secs(10);
/// So many are reset in one go, at most: all that a queue holds.
const QUEUE: usize = 4096;
/// Accepts until `stop`. `Err`: a listener is broken.
pub(super) async fn accept(
    handler: &mut impl AcceptHandler,
    listeners: &[Listener],
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut turn = 0;
    let mut backoff = Backoff::default();
    // Since when, or since the connections that waited were reset.
    let mut exhausted: Option<Instant> = None;
    let mut reserve = Reserve::new(1);
    loop {
        let accepted = match handler.try_to_accept() {
            Ok(()) => tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                it = next(listeners, &mut turn) => it,
                // Nobody waits, and there was a descriptor to find that out with.
                () = std::future::ready(()), if exhausted.is_some() => {
                    exhausted = None;
                    handler.relieved();
                    continue;
                }
            },
            Err(error) => Err(error),
        };
        let error = match accepted {
            Ok((local, ends)) => {
                backoff.succeeded();
                if exhausted.take().is_some() {
                    handler.relieved();
                }
                receive(handler, local, ends);
                continue;
            }
            Err(error) => error,
        };
        let pause = match backoff.failed(&error) {
            AfterFailure::GiveUp => return Err(error),
            AfterFailure::Retry => continue,
            AfterFailure::Pause(pause) => pause,
            AfterFailure::Exhausted(pause) => {
                match exhausted {
                    None => {
                        exhausted = Some(Instant::now());
                        handler.exhausted(&error);
                    }
                    Some(since) if since.elapsed() >= GIVE_UP => {
                        exhausted = Some(Instant::now());
                        match reset_waiting(listeners, &mut turn, &mut reserve) {
                            0 => {}
                            count => handler.gave_up(count),
                        }
                    }
                    Some(_) => handler.still_exhausted(),
                }
                pause
            }
        };
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Resets the connections that wait, one after the other by the one descriptor that was kept for this. Returns how many.
fn reset_waiting(listeners: &[Listener], turn: &mut usize, reserve: &mut Reserve) -> usize {
    let mut count = 0;
    while count < QUEUE {
        reserve.spend();
        let accepted = next(listeners, turn).now_or_never();
        let Some(Ok((local, _))) = accepted else {
            break;
        };
        local.reset();
        reserve.refill();
        count += 1;
    }
    reserve.refill();
    count
}

fn receive(handler: &mut impl AcceptHandler, local: Local, ends: Option<Ends>) {
    // The system names no ends only if the connection is gone.
    let Some(ends) = ends else {
        return;
    };
    match handler.check_peer(&local, ends) {
        PeerVerdict::Welcome => handler.enter(local, ends),
        PeerVerdict::TurnAway { uid } => {
            // The other side sees an error and no empty answer.
            local.reset();
            handler.turned_away(uid);
        }
    }
}

/// The next connection of any listener, each in its turn. Cancel-safe.
async fn next(listeners: &[Listener], turn: &mut usize) -> io::Result<(Local, Option<Ends>)> {
    poll_fn(|cx| {
        for _ in 0..listeners.len() {
            *turn = (*turn + 1) % listeners.len();
            if let Poll::Ready(it) = listeners[*turn].poll_accept(cx) {
                return Poll::Ready(it);
            }
        }
        Poll::Pending
    })
    .await
}

/// Lets through one message a minute, and counts those it swallowed.
#[derive(Debug, Default)]
pub(super) struct Once {
    last: Option<Instant>,
    swallowed: u64,
}

impl Once {
    const MINUTE: Duration = Duration::from_secs(60);

    /// How many came since the last message, this one included; `None`: not yet.
    pub(super) fn note(&mut self, now: Instant) -> Option<u64> {
        self.swallowed += 1;
        if self
            .last
            .is_some_and(|it| now.duration_since(it) < Self::MINUTE)
        {
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.swallowed))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::SocketAddr,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
        sync::Notify,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Seen {
        entered: Arc<AtomicUsize>,
        turned_away: Arc<AtomicUsize>,
        exhausted: Arc<AtomicUsize>,
        gave_up: Arc<AtomicUsize>,
        relieved: Arc<AtomicUsize>,
        changed: Arc<Notify>,
    }

    impl Seen {
        async fn wait_for(&self, counter: &AtomicUsize, count: usize) {
            let waited = async {
                while counter.load(Ordering::SeqCst) < count {
                    self.changed.notified().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), waited)
                .await
                .unwrap();
        }

        fn count(&self, counter: &AtomicUsize) {
            counter.fetch_add(1, Ordering::SeqCst);
            self.changed.notify_one();
        }
    }

    struct Fake {
        seen: Seen,
        verdict: fn(Ends) -> PeerVerdict,
        kept: Vec<Local>,
    }

    impl AcceptHandler for Fake {
        fn check_peer(&mut self, _: &Local, ends: Ends) -> PeerVerdict {
            (self.verdict)(ends)
        }
        fn enter(&mut self, local: Local, _: Ends) {
            self.kept.push(local);
            self.seen.count(&self.seen.entered);
        }
        fn turned_away(&mut self, _: Option<u32>) {
            self.seen.count(&self.seen.turned_away);
        }
        fn exhausted(&mut self, _: &io::Error) {
            self.seen.count(&self.seen.exhausted);
        }
        fn gave_up(&mut self, count: usize) {
            self.seen.gave_up.fetch_add(count, Ordering::SeqCst);
        }
        fn relieved(&mut self) {
            self.seen.count(&self.seen.relieved);
        }
    }

    struct Listening {
        seen: Seen,
        stop: CancellationToken,
        addresses: Vec<SocketAddr>,
        task: tokio::task::JoinSet<io::Result<()>>,
    }

    async fn listening(verdict: fn(Ends) -> PeerVerdict, listeners: usize) -> Listening {
        let mut all = Vec::new();
        for _ in 0..listeners {
            all.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let addresses = all.iter().map(|it| it.local_addr().unwrap()).collect();
        let all: Vec<Listener> = all.into_iter().map(Listener::Tcp).collect();
        let (seen, stop) = (Seen::default(), CancellationToken::new());
        let mut handler = Fake {
            seen: seen.clone(),
            verdict,
            kept: Vec::new(),
        };
        let mut task = tokio::task::JoinSet::new();
        let stopped = stop.clone();
        task.spawn(async move { accept(&mut handler, &all, &stopped).await });
        Listening {
            seen,
            stop,
            addresses,
            task,
        }
    }

    #[tokio::test]
    async fn whoever_is_turned_away_gets_a_reset_and_never_enters() {
        let mut listening = listening(|_| PeerVerdict::TurnAway { uid: Some(7) }, 1).await;
        for n in 1..=50 {
            let mut client = TcpStream::connect(listening.addresses[0]).await.unwrap();
            let error = client.read(&mut [0]).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            listening
                .seen
                .wait_for(&listening.seen.turned_away, n)
                .await;
        }
        assert_eq!(listening.seen.entered.load(Ordering::SeqCst), 0);
        listening.stop.cancel();
        listening.task.join_next().await.unwrap().unwrap().unwrap();
    }

    #[tokio::test]
    async fn all_listeners_are_served_and_free_after_the_stop() {
        let mut listening = listening(|_| PeerVerdict::Welcome, 3).await;
        let mut clients = Vec::new();
        for _ in 0..4 {
            for address in &listening.addresses {
                clients.push(TcpStream::connect(address).await.unwrap());
            }
        }
        listening.seen.wait_for(&listening.seen.entered, 12).await;
        listening.stop.cancel();
        listening.task.join_next().await.unwrap().unwrap().unwrap();
        for address in &listening.addresses {
            // A child of another test, between its fork and its exec, may still hold it.
            let free = async { while TcpListener::bind(address).await.is_err() {} };
            tokio::time::timeout(Duration::from_secs(10), free)
                .await
                .unwrap();
        }
    }

    /// Runs the test `name` of this file, which is `test`, in a process of its own: the limit of descriptors is the whole
    /// process's.
    #[cfg(target_os = "linux")]
    fn alone(name: &str, paused: bool, test: impl Future<Output = ()>) {
        const CHILD: &str = "POMD_TEST_ALONE";
        if std::env::var_os(CHILD).is_none() {
            let name = format!("{}::{name}", module_path!().split_once("::").unwrap().1);
            let output = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &name, "--nocapture"])
                .env(CHILD, "1")
                .output()
                .unwrap();
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(
                output.status.success() && said.contains("1 passed"),
                "{said}"
            );
            return;
        }
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(paused)
            .build()
            .unwrap()
            .block_on(test);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn when_descriptors_run_out_it_waits_cheaply_and_recovers_soon() {
        let name = "when_descriptors_run_out_it_waits_cheaply_and_recovers_soon";
        alone(name, false, run_out_of_descriptors());
    }

    #[cfg(target_os = "linux")]
    async fn run_out_of_descriptors() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let mut listening = listening(|_| PeerVerdict::Welcome, 1).await;
        let limit = Rlimit {
            current: Some(64),
            ..getrlimit(Resource::Nofile)
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let client = std::net::TcpStream::connect(listening.addresses[0]).unwrap();
        listening.seen.wait_for(&listening.seen.entered, 1).await;
        let mut hoard = Vec::new();
        while let Ok(it) = std::fs::File::open("/dev/null") {
            hoard.push(it);
        }
        hoard.pop();
        let waiting = std::net::TcpStream::connect(listening.addresses[0]).unwrap();
        listening.seen.wait_for(&listening.seen.exhausted, 1).await;
        let before = cpu();
        // Not a wait for a state: what is measured is that time passes cheaply.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let spent = cpu() - before;
        assert!(spent <= Duration::from_millis(20), "{spent:?}");
        hoard.clear();
        // How soon is measured on the whole program, which gets more than one try.
        listening.seen.wait_for(&listening.seen.relieved, 1).await;
        listening.seen.wait_for(&listening.seen.entered, 2).await;
        listening.stop.cancel();
        listening.task.join_next().await.unwrap().unwrap().unwrap();
        drop((client, waiting));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn e1_clients_that_wait_for_a_descriptor_are_reset_after_ten_seconds() {
        let name = "e1_clients_that_wait_for_a_descriptor_are_reset_after_ten_seconds";
        alone(name, true, wait_without_descriptors());
    }

    #[cfg(target_os = "linux")]
    async fn wait_without_descriptors() {
        use std::io::Read;

        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

        let mut listening = listening(|_| PeerVerdict::Welcome, 1).await;
        // The accept loop has its spare once somebody came in.
        let first = std::net::TcpStream::connect(listening.addresses[0]).unwrap();
        listening.seen.wait_for(&listening.seen.entered, 1).await;
        let limit = Rlimit {
            current: Some(64),
            ..getrlimit(Resource::Nofile)
        };
        setrlimit(Resource::Nofile, limit).unwrap();
        let mut hoard = Vec::new();
        while let Ok(it) = std::fs::File::open("/dev/null") {
            hoard.push(it);
        }
        hoard.truncate(hoard.len() - 3);
        let mut waiting: Vec<_> = (0..3)
            .map(|_| std::net::TcpStream::connect(listening.addresses[0]).unwrap())
            .collect();
        let start = Instant::now();
        for client in &mut waiting {
            client.set_nonblocking(true).unwrap();
            let error = loop {
                match client.read(&mut [0]).unwrap_err() {
                    it if it.kind() == io::ErrorKind::WouldBlock => {}
                    it => break it,
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
                assert!(start.elapsed() < GIVE_UP * 3, "still waiting");
            };
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        }
        assert!(start.elapsed() >= GIVE_UP / 2, "{:?}", start.elapsed());
        assert_eq!(listening.seen.gave_up.load(Ordering::SeqCst), 3);
        // Whoever comes later is served as soon as there is a descriptor.
        let later = std::net::TcpStream::connect(listening.addresses[0]);
        assert!(later.is_err(), "there is no descriptor for a client either");
        drop(waiting.pop());
        hoard.clear();
        let _later = std::net::TcpStream::connect(listening.addresses[0]).unwrap();
        listening.seen.wait_for(&listening.seen.entered, 2).await;
        listening.stop.cancel();
        listening.task.join_next().await.unwrap().unwrap().unwrap();
        drop(first);
    }

    #[cfg(target_os = "linux")]
    fn cpu() -> Duration {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(
            u64::try_from(time.tv_sec).unwrap(),
            u32::try_from(time.tv_nsec).unwrap(),
        )
    }

    #[test]
    fn one_message_a_minute_tells_of_all() {
        let mut once = Once::default();
        let start = Instant::now();
        assert_eq!(once.note(start), Some(1));
        for _ in 0..9 {
            assert_eq!(once.note(start + Duration::from_secs(59)), None);
        }
        assert_eq!(once.note(start + Duration::from_secs(60)), Some(10));
        assert_eq!(once.note(start + Duration::from_secs(61)), None);
    }
}
