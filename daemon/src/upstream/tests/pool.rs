//! Connections that are ready: when they are made, used, doubted and thrown away.

use std::sync::Mutex;

use pomd_core::moment::Moment;
use tokio::{net::TcpStream, task::JoinSet, time::Instant};
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    clock::Clock,
    upstream::pool::{Budget, Pool, Sent},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// An upstream that keeps connections ready, and the server's ends of those.
struct Ready {
    lab: Lab,
    server: TlsAcceptor,
    upstream: Arc<Upstream>,
    /// What the boot clock shows beyond the other one, as after a sleep.
    slept: Arc<Mutex<Duration>>,
    stop: CancellationToken,
    keeping: JoinSet<()>,
}

impl Ready {
    /// With two in stock, once somebody was answered; and the server's ends of them.
    async fn new() -> (Self, [TlsStream<TcpStream>; 2]) {
        let ready = Self::empty(Lab::new().await, Budget::new(9));
        opens(&ready.lab, &ready.upstream, &ready.server).await;
        let waiting = ready.refill().await;
        (ready, waiting)
    }

    /// With one in stock, so that it is known which is used; and the server's end of it.
    async fn one() -> (Self, TlsStream<TcpStream>) {
        let ready = Self::empty(Lab::new().await, Budget::new(1));
        opens(&ready.lab, &ready.upstream, &ready.server).await;
        let waiting = ready.accept().await;
        ready.until(1).await;
        (ready, waiting)
    }

    fn empty(lab: Lab, budget: Budget) -> Self {
        let slept = Arc::<Mutex<Duration>>::default();
        let (counted, origin) = (slept.clone(), Instant::now());
        let moment = move || {
            let awake = origin.elapsed();
            let boot = awake + *counted.lock().unwrap();
            Moment { boot, awake }
        };
        let clock = Clock::from_fn(|| jiff::Timestamp::UNIX_EPOCH).with_moment(moment);
        let upstream = Arc::new(lab.upstream().with_pool(budget, clock));
        let stop = CancellationToken::new();
        let mut keeping = JoinSet::new();
        let (kept, ends) = (upstream.clone(), stop.clone());
        keeping.spawn(async move { kept.run_pool(ends).await });
        Self {
            server: lab.server(),
            lab,
            upstream,
            slept,
            stop,
            keeping,
        }
    }

    fn pool(&self) -> &Pool {
        self.upstream.pool.as_ref().unwrap()
    }

    /// Accepts what is made for the stock, until it is full.
    async fn refill(&self) -> [TlsStream<TcpStream>; 2] {
        let both = [self.accept().await, self.accept().await];
        self.until(2).await;
        both
    }

    async fn accept(&self) -> TlsStream<TcpStream> {
        let accepted = tokio::time::timeout(PATIENCE, self.lab.accept(&self.server)).await;
        accepted.expect("nobody connects").unwrap()
    }

    /// Waits until so many are in stock.
    async fn until(&self, count: usize) {
        let counted = async {
            while self.pool().len() != count {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        let counted = tokio::time::timeout(PATIENCE, counted).await;
        assert!(counted.is_ok(), "{} instead of {count}", self.pool().len());
    }

    async fn nobody_connects(&self) {
        let limit = Duration::from_millis(50);
        let visit = tokio::time::timeout(limit, self.lab.listener.accept()).await;
        assert!(visit.is_err(), "{visit:?}");
    }

    /// Opens a route, saying `early`.
    async fn open(&self, early: &'static [u8]) -> Result<Opened, OpenError> {
        let mut early = super::early(Says(early));
        self.upstream.open(&route(), &token(), &mut early).await
    }
}

/// Answers the CONNECT that comes with `early`.
async fn serve<S>(stream: &mut S, early: &[u8])
where
    S: AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (said, mut rest) = head(stream).await;
    assert!(said.starts_with("CONNECT "), "{said}");
    while rest.len() < early.len() {
        stream.read_buf(&mut rest).await.unwrap();
    }
    assert_eq!(rest, early);
    stream.write_all(OK).await.unwrap();
    stream.flush().await.unwrap();
}

#[tokio::test]
async fn nothing_is_kept_ready_before_somebody_was_answered() {
    let ready = Ready::empty(Lab::new().await, Budget::new(9));
    ready.nobody_connects().await;
    let (failed, ()) = join!(ready.open(b""), async {
        drop(ready.lab.accept_plain().await);
    });
    failed.unwrap_err();
    ready.upstream.refresh_pool();
    ready.nobody_connects().await;
    // A refusal is an answer.
    let (refused, ()) = join!(ready.open(b""), async {
        let mut stream = ready.accept().await;
        head(&mut stream).await;
        let answer = b"HTTP/1.1 403 Forbidden\r\ncontent-length: 1\r\n\r\nx";
        stream.write_all(answer).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    refusal(refused);
    ready.refill().await;
}

#[tokio::test]
async fn a_route_is_opened_on_a_connection_that_is_ready_and_another_is_made() {
    let (ready, mut waiting) = Ready::one().await;
    let (opened, ()) = join!(ready.open(b"hello"), serve(&mut waiting, b"hello"));
    opened.unwrap();
    let _next = ready.accept().await;
    ready.until(1).await;
    ready.nobody_connects().await;
}

/// Another route of the cluster, with a name of its own.
fn other_route() -> Route {
    let name = Host::Name("db.corp.example.com".to_owned());
    Route {
        authority: Authority {
            host: name.clone(),
            port: 5432,
        },
        address: Address {
            host: name,
            ..corp()
        },
        ..route()
    }
}

#[tokio::test]
async fn one_of_another_name_is_never_taken_whatever_its_server_proved() {
    let mut ready = Ready::empty(Lab::new().await, Budget::new(9));
    let names = [HOST, "*.corp.example.com"];
    ready.server = ready.lab.server_for(&names, |_| {});
    opens(&ready.lab, &ready.upstream, &ready.server).await;
    let _waiting = ready.refill().await;
    let key = |address: &Address| ready.upstream.key(address);
    assert!(ready.pool().take(&key(&other_route().address)).is_none());
    assert!(ready.pool().take(&key(&corp())).is_some());
}

#[tokio::test]
async fn n7_one_that_ended_is_dropped_at_once_and_the_next_is_not_asked_for_at_once() {
    let (ready, [mut first, second]) = Ready::new().await;
    second.get_ref().0.set_zero_linger().unwrap();
    drop(second);
    ready.until(1).await;
    first.shutdown().await.unwrap();
    ready.until(0).await;
    ready.nobody_connects().await;
    // Bytes that nobody asked for are an end as well, once the pause is over.
    *ready.slept.lock().unwrap() = Duration::from_secs(15);
    ready.upstream.refresh_pool();
    let [mut first, _second] = ready.refill().await;
    first.write_all(b"HTTP/1.1 408 ").await.unwrap();
    first.flush().await.unwrap();
    ready.until(1).await;
}

#[tokio::test]
async fn n7_what_was_said_on_a_dead_one_is_said_once_more_on_a_fresh_one() {
    let (ready, mut waiting) = Ready::one().await;
    // It waited too long for a request, as Envoy says it.
    let timed_out = async {
        let (_, rest) = head(&mut waiting).await;
        assert_eq!(rest, b"hello");
        let answer = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n";
        waiting.write_all(answer).await.unwrap();
        let mut fresh = ready.accept().await;
        serve(&mut fresh, b"hello").await;
    };
    let (opened, ()) = join!(ready.open(b"hello"), timed_out);
    opened.unwrap();
}

#[tokio::test]
async fn n7_where_one_had_ended_unnoticed_the_others_are_not_tried() {
    let (ready, [mut first, mut second]) = Ready::new().await;
    let closes = async |stream: &mut TlsStream<TcpStream>| {
        // Nothing but the head may come, and not even that where it is not tried.
        let said = stream.read(&mut [0; 4096]).await.unwrap_or(0);
        stream.shutdown().await.unwrap_or(());
        said > 0
    };
    let (opened, tried) = join!(ready.open(b""), async {
        let tried = join!(closes(&mut first), closes(&mut second), async {
            let mut fresh = ready.accept().await;
            serve(&mut fresh, b"").await;
        });
        [tried.0, tried.1]
    });
    opened.unwrap();
    assert_eq!(tried.iter().filter(|it| **it).count(), 1);
}

#[tokio::test]
async fn n7_a_head_without_early_bytes_is_said_again_and_early_bytes_that_arrived_are_not() {
    let (ready, mut waiting) = Ready::one().await;
    let (opened, ()) = join!(ready.open(b""), async {
        head(&mut waiting).await;
        drop(waiting);
        let mut fresh = ready.accept().await;
        serve(&mut fresh, b"").await;
    });
    opened.unwrap();
    let mut waiting = ready.accept().await;
    ready.until(1).await;
    let (cut, ()) = join!(ready.open(b"hello"), async {
        assert_eq!(head(&mut waiting).await.1, b"hello");
        drop(waiting);
    });
    let it = unreachable(cut);
    assert_eq!(
        it.message,
        "corp.example.com closed the connection without an answer"
    );
    ready.nobody_connects().await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn n7_early_bytes_are_said_again_if_the_system_knows_that_none_arrived() {
    let (ready, waiting) = Ready::one().await;
    // As if what they send were lost on its way, but for the end that comes at last.
    let key = ready.upstream.key(&corp());
    let mut warm = ready.pool().take(&key).unwrap();
    let waited = warm.idle_state().await.unwrap();
    let drop_all = [socket2::SockFilter::new(6, 0, 0, 0)];
    let socket = socket2::SockRef::from(waiting.get_ref().0);
    socket.attach_filter(&drop_all).unwrap();
    let written = warm.remote.written();
    let mut remote = warm.remote;
    remote.queue(b"CONNECT and early bytes").unwrap();
    std::future::poll_fn(|cx| remote.poll_flush(cx))
        .await
        .unwrap();
    assert!(remote.written() > written);
    let said = |early| Sent {
        written: remote.written(),
        early,
    };
    let socket = remote.socket.socket();
    assert!(waited.is_unheard(socket, said(true)), "nothing arrived");
    assert!(waited.is_silent(socket, said(false)));
    assert!(
        !waited.is_silent(socket, said(true)),
        "it may arrive later: not while it is only silent"
    );
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn one_that_nobody_hears_is_given_up_soon_if_only_the_head_was_said() {
    let (ready, waiting) = Ready::one().await;
    let drop_all = [socket2::SockFilter::new(6, 0, 0, 0)];
    let socket = socket2::SockRef::from(waiting.get_ref().0);
    socket.attach_filter(&drop_all).unwrap();
    let start = Instant::now();
    let (opened, ()) = join!(ready.open(b""), async {
        let mut fresh = ready.accept().await;
        serve(&mut fresh, b"").await;
    });
    opened.unwrap();
    assert!(start.elapsed() < ready.lab.limits.answer);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn n2_early_bytes_that_nobody_hears_end_with_the_limit_of_a_connection_that_is_made() {
    let mut lab = Lab::new().await;
    lab.limits.tcp = Duration::from_millis(1500);
    let ready = Ready::empty(lab, Budget::new(1));
    opens(&ready.lab, &ready.upstream, &ready.server).await;
    let waiting = ready.accept().await;
    ready.until(1).await;
    let drop_all = [socket2::SockFilter::new(6, 0, 0, 0)];
    let socket = socket2::SockRef::from(waiting.get_ref().0);
    socket.attach_filter(&drop_all).unwrap();
    let it = unreachable(ready.open(b"hello").await);
    assert_eq!((it.step, it.timed_out), (Step::Connect, true));
    let message = "cannot reach corp.example.com: no answer within 1.5 s";
    assert_eq!(it.message, message);
    // They may arrive yet: nobody says them again.
    ready.nobody_connects().await;
}

#[tokio::test]
async fn k1_n6_after_a_sleep_or_a_change_of_network_none_is_used() {
    let (ready, [mut first, mut second]) = Ready::new().await;
    *ready.slept.lock().unwrap() = Duration::from_secs(8 * 3600);
    let (opened, ()) = join!(ready.open(b"hello"), async {
        let mut fresh = ready.accept().await;
        serve(&mut fresh, b"hello").await;
    });
    opened.unwrap();
    // The old ones heard nothing, and ended.
    for old in [&mut first, &mut second] {
        assert_eq!(old.read(&mut [0]).await.unwrap_or(0), 0);
    }
    let [mut first, mut second] = ready.refill().await;
    ready.upstream.invalidate_pool();
    assert_eq!(ready.pool().len(), 0);
    for old in [&mut first, &mut second] {
        assert_eq!(old.read(&mut [0]).await.unwrap_or(0), 0);
    }
    // Not at once: the network may go on changing.
    ready.nobody_connects().await;
    ready.upstream.refresh_pool();
    ready.refill().await;
}

#[tokio::test]
async fn after_a_logout_and_at_the_end_none_is_left() {
    let (mut ready, [mut first, mut second]) = Ready::new().await;
    ready.upstream.clear_pool();
    for old in [&mut first, &mut second] {
        assert_eq!(old.read(&mut [0]).await.unwrap_or(0), 0);
    }
    ready.upstream.refresh_pool();
    ready.nobody_connects().await;
    opens(&ready.lab, &ready.upstream, &ready.server).await;
    let waiting = ready.refill().await;
    ready.stop.cancel();
    ready.keeping.join_next().await.unwrap().unwrap();
    for mut old in waiting {
        assert_eq!(old.read(&mut [0]).await.unwrap_or(0), 0);
    }
    assert_eq!(ready.pool().len(), 0);
}

#[tokio::test]
async fn there_are_never_more_than_the_budget_allows() {
    let ready = Ready::empty(Lab::new().await, Budget::new(1));
    opens(&ready.lab, &ready.upstream, &ready.server).await;
    let _only = ready.accept().await;
    ready.until(1).await;
    ready.upstream.refresh_pool();
    ready.nobody_connects().await;
    let none = Ready::empty(Lab::new().await, Budget::new(0));
    opens(&none.lab, &none.upstream, &none.server).await;
    none.nobody_connects().await;
}

#[tokio::test]
async fn t5_one_that_was_made_with_another_certificate_is_not_used() {
    let lab = Lab::new().await;
    let mut spec = lab.spec();
    let identity = lab.client_identity("me");
    spec.client_identity = Some(identity.clone());
    let mut ready = Ready::empty(lab, Budget::new(9));
    ready.stop.cancel();
    ready.keeping.join_next().await.unwrap().unwrap();
    let clock = Clock::from_fn(|| jiff::Timestamp::UNIX_EPOCH);
    let upstream = ready.lab.upstream_of(spec);
    ready.upstream = Arc::new(upstream.with_pool(Budget::new(9), clock));
    ready.stop = CancellationToken::new();
    let (kept, ends) = (ready.upstream.clone(), ready.stop.clone());
    ready
        .keeping
        .spawn(async move { kept.run_pool(ends).await });
    opens(&ready.lab, &ready.upstream, &ready.server).await;
    let _old = ready.refill().await;
    let other = ready.lab.client_identity("other");
    std::fs::rename(other.certificate, &identity.certificate).unwrap();
    std::fs::rename(other.key, &identity.key).unwrap();
    let (opened, ()) = join!(ready.open(b"hello"), async {
        let mut fresh = ready.accept().await;
        serve(&mut fresh, b"hello").await;
    });
    opened.unwrap();
}
