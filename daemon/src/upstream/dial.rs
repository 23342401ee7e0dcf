//! Names, addresses and sockets: from a host and a port to a TCP connection.
//!
//! Must not know TLS, clusters or routes.

mod next_hop;
pub(super) mod recent;

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use pomd_core::{
    config::{Authority, Host},
    route::error::{DialError, Step},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{Limits, steps::Steps};
use crate::{
    failpoints::{Failpoint, Failpoints},
    system::{errors, limits},
};

/// How long an address may stay silent before the next one is tried beside it (RFC 8305).
const STAGGER: Duration = Duration::from_millis(250);
/// The most addresses of a name that are tried.
const ADDRESSES: usize = 64;
/// The most lookups of a cluster that may run at once. The system's resolver cannot be cancelled: a lookup whose time
/// was over goes on holding a thread, and these threads are shared with everyone.
const LOOKUPS: usize = 16;
/// How long a second look at a peer without TLS may take.
const LOOK: Duration = Duration::from_secs(2);

/// Dials for one cluster.
#[derive(Debug)]
pub(super) struct Dialer {
    limits: Limits,
    lookups: Arc<Semaphore>,
    failpoints: Failpoints,
}

impl Dialer {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            failpoints: Failpoints::none(),
        }
    }

    pub(super) fn set_failpoints(&mut self, failpoints: Failpoints) {
        self.failpoints = failpoints;
    }

    /// Returns a connection to `target` that is ready for small writes and silent deaths.
    pub(super) async fn dial(
        &self,
        target: &Authority,
        steps: &mut Steps,
    ) -> Result<TcpStream, DialError> {
        let addresses = self.lookup(target).await?;
        steps.taken(Step::Resolve);
        steps.note(|it| it.addresses = addresses.iter().map(SocketAddr::ip).collect());
        let stream = self.connect(addresses).await?;
        steps.note(|it| it.peer = stream.peer_addr().ok());
        steps.taken(Step::Connect);
        Ok(stream)
    }

    /// Returns the addresses of `target` in the order to try them.
    pub(super) async fn lookup(&self, target: &Authority) -> Result<Vec<SocketAddr>, DialError> {
        let name = match &target.host {
            Host::Ip(ip) => return Ok(vec![SocketAddr::new(*ip, target.port)]),
            Host::Name(name) => name.clone(),
        };
        let limit = self.limits.name;
        let port = target.port;
        let lookups = Arc::clone(&self.lookups);
        let asked = async move {
            let permit = lookups.acquire_owned().await.map_err(io::Error::other)?;
            let found = tokio::task::spawn_blocking(move || {
                let _permit = permit;
                (name.as_str(), port)
                    .to_socket_addrs()
                    .map(|it| it.take(ADDRESSES).collect::<Vec<_>>())
            });
            found.await.map_err(io::Error::other)?
        };
        match timeout(limit, asked).await {
            Ok(Ok(found)) if !found.is_empty() => Ok(interleave(found)),
            Ok(Ok(_)) => Err(DialError::NoSuchName),
            Ok(Err(error)) => Err(lookup_failed(error)),
            Err(_) => Err(DialError::LookupTimedOut(limit)),
        }
    }

    /// Returns a connection to the first of `addresses` that answers, each tried a little after the one before.
    pub(super) async fn connect(&self, addresses: Vec<SocketAddr>) -> Result<TcpStream, DialError> {
        let limit = self.limits.tcp;
        let mut failed = Vec::new();
        let connect = async |address: SocketAddr| {
            self.failpoints.check(Failpoint::Dial)?;
            next_hop::connect(address).await
        };
        let racing = race(&addresses, STAGGER, &mut failed, connect);
        match timeout(limit, racing).await {
            Ok(Some(stream)) => {
                prepare(&stream);
                Ok(stream)
            }
            Ok(None) if failed.iter().any(lacks_descriptors) => Err(DialError::OutOfDescriptors {
                limit: limits::descriptors(),
            }),
            Ok(None) => Err(DialError::Failed(
                failed
                    .into_iter()
                    .map(|(at, error)| (at, error.into()))
                    .collect(),
            )),
            Err(_) => {
                let has_failed = |it: &SocketAddr| failed.iter().any(|(address, _)| address == it);
                let silent = addresses.iter().filter(|it| !has_failed(it));
                Err(DialError::TimedOut {
                    silent: silent.map(SocketAddr::ip).collect(),
                    limit,
                })
            }
        }
    }
}

/// Whether an address failed for what this machine lacks: that is no fault of the network (E1).
fn lacks_descriptors((_, error): &(SocketAddr, io::Error)) -> bool {
    errors::is_out_of_descriptors(error)
}

fn lookup_failed(error: io::Error) -> DialError {
    // There is no kind for these: the words of the C libraries, and of Windows.
    const UNKNOWN: [&str; 5] = [
        "not known",
        "No address associated",
        "nodename nor servname",
        "No such host",
        "no data of the requested type",
    ];
    let text = error.to_string();
    match UNKNOWN.iter().any(|it| text.contains(it)) {
        true => DialError::NoSuchName,
        false => DialError::Lookup(error.into()),
    }
}

/// Returns what speaks where TLS should (T3): asked on a connection of its own, without any secret.
pub(super) async fn greeting<S, E>(
    dialling: impl Future<Output = Result<S, E>>,
) -> Option<&'static str>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let look = async {
        let mut stream = dialling.await.ok()?;
        stream.write_all(b"HEAD / HTTP/1.0\r\n\r\n").await.ok()?;
        stream.flush().await.ok()?;
        let mut first = [0; 5];
        stream.read_exact(&mut first).await.ok()?;
        match &first {
            b"HTTP/" => Some("HTTP"),
            b"SSH-2" => Some("SSH"),
            _ => None,
        }
    };
    timeout(LOOK, look).await.ok()?
}

/// Returns the addresses of both families in turn, IPv6 first, each in the order the system gave.
fn interleave(found: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let (six, four): (Vec<_>, Vec<_>) = found.into_iter().partition(SocketAddr::is_ipv6);
    let mut res = Vec::with_capacity(six.len() + four.len());
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    loop {
        match (six.next(), four.next()) {
            (None, None) => return res,
            (a, b) => res.extend(a.into_iter().chain(b)),
        }
    }
}

/// Tries `addresses` in order: the next one `stagger` after the one before, or at once when one fails. The first that
/// answers ends all others. `None`: all of them are in `failed`.
async fn race<T, F, C>(
    addresses: &[SocketAddr],
    stagger: Duration,
    failed: &mut Vec<(SocketAddr, io::Error)>,
    connect: F,
) -> Option<T>
where
    F: Fn(SocketAddr) -> C,
    C: Future<Output = io::Result<T>>,
{
    let connect = &connect;
    let mut running = FuturesUnordered::new();
    let mut waiting = addresses.iter().copied();
    loop {
        if let Some(address) = waiting.next() {
            running.push(async move { (address, connect(address).await) });
        }
        let more = waiting.len() > 0;
        tokio::select! {
            biased;
            it = running.next() => match it {
                Some((_, Ok(connected))) => return Some(connected),
                Some((address, Err(error))) => failed.push((address, error)),
                None => return None,
            },
            () = sleep(stagger), if more => {}
        }
    }
}

/// Small writes go at once; a peer that fell silent is noticed (N5). None of it is worth failing for.
fn prepare(stream: &TcpStream) {
    let socket = socket2::SockRef::from(stream);
    let done = stream
        .set_nodelay(true)
        .and_then(|()| system::notice_silence(&socket));
    if let Err(error) = done {
        tracing::debug!(%error, "a socket option was not taken");
    }
}

mod system {
    use std::{io, time::Duration};

    use socket2::{Socket, TcpKeepalive};

    const IDLE: Duration = Duration::from_secs(30);
    const INTERVAL: Duration = Duration::from_secs(10);
    const PROBES: u32 = 3;

    /// An idle connection is probed. No `TCP_USER_TIMEOUT`: it would also end a connection whose other end is well but
    /// takes nothing for that long.
    pub(super) fn notice_silence(socket: &Socket) -> io::Result<()> {
        socket.set_tcp_keepalive(
            &TcpKeepalive::new()
                .with_time(IDLE)
                .with_interval(INTERVAL)
                .with_retries(PROBES),
        )
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, future::pending};

    use tokio::{net::TcpListener, time::Instant};

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn authority(host: &str, port: u16) -> Authority {
        let host = host
            .parse()
            .map_or_else(|_| Host::Name(host.to_owned()), Host::Ip);
        Authority { host, port }
    }

    fn dialer(limits: Limits) -> Dialer {
        Dialer::new(limits)
    }

    /// What becomes of an attempt, and after how long.
    type Plan = fn(SocketAddr) -> (u64, Option<io::ErrorKind>);

    /// Races in paused time; tells who won, when, and when each attempt began.
    async fn raced(
        addresses: &[&str],
        plan: Plan,
    ) -> (Option<SocketAddr>, u128, Vec<(String, u128)>, usize) {
        let start = Instant::now();
        let began = RefCell::new(Vec::new());
        let addresses: Vec<_> = addresses.iter().map(|it| address(it)).collect();
        let mut failed = Vec::new();
        let won = race(&addresses, STAGGER, &mut failed, |it| {
            began
                .borrow_mut()
                .push((it.to_string(), start.elapsed().as_millis()));
            async move {
                let (after, error) = plan(it);
                if after == u64::MAX {
                    pending::<()>().await;
                }
                sleep(Duration::from_millis(after)).await;
                error.map_or(Ok(it), |it| Err(it.into()))
            }
        })
        .await;
        (
            won,
            start.elapsed().as_millis(),
            began.into_inner(),
            failed.len(),
        )
    }

    #[test]
    fn families_take_turns_and_ipv6_begins() {
        let found = [
            "10.0.0.1:1",
            "10.0.0.2:1",
            "10.0.0.3:1",
            "[::1]:1",
            "[::2]:1",
        ];
        let res = interleave(found.iter().map(|it| address(it)).collect());
        let want = [
            "[::1]:1",
            "10.0.0.1:1",
            "[::2]:1",
            "10.0.0.2:1",
            "10.0.0.3:1",
        ];
        assert_eq!(res, want.map(address));
        assert_eq!(interleave(Vec::new()), []);
    }

    #[tokio::test(start_paused = true)]
    async fn n4_a_silent_first_address_costs_one_stagger() {
        let (won, took, began, failed) = raced(&["[::1]:1", "10.0.0.1:1"], |it| {
            (if it.is_ipv6() { u64::MAX } else { 20 }, None)
        })
        .await;
        assert_eq!(won, Some(address("10.0.0.1:1")));
        assert_eq!(took, 270);
        assert_eq!(
            began,
            [("[::1]:1".to_owned(), 0), ("10.0.0.1:1".to_owned(), 250)]
        );
        assert_eq!(failed, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_starts_the_next_address_at_once() {
        let (won, took, began, failed) = raced(&["[::1]:1", "10.0.0.1:1", "10.0.0.2:1"], |it| {
            if it == "10.0.0.2:1".parse().unwrap() {
                (5, None)
            } else {
                (10, Some(io::ErrorKind::ConnectionRefused))
            }
        })
        .await;
        assert_eq!(won, Some(address("10.0.0.2:1")));
        assert_eq!((took, failed), (25, 2));
        assert_eq!(began.iter().map(|it| it.1).collect::<Vec<_>>(), [0, 10, 20]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_first_address_still_wins_over_a_slower_second() {
        let (won, took, began, _) = raced(&["[::1]:1", "10.0.0.1:1"], |it| {
            (if it.is_ipv6() { 400 } else { 300 }, None)
        })
        .await;
        assert_eq!(won, Some(address("[::1]:1")));
        assert_eq!((took, began.len()), (400, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn when_all_fail_all_are_told() {
        let (won, _, began, failed) = raced(&["[::1]:1", "10.0.0.1:1"], |_| {
            (0, Some(io::ErrorKind::ConnectionRefused))
        })
        .await;
        assert_eq!((won, began.len(), failed), (None, 2, 2));
        assert_eq!(raced(&[], |_| (0, None)).await.0, None);
    }

    #[test]
    fn n3_an_unknown_name_is_told_apart_from_a_name_server_that_fails() {
        let failed = |text: &str| {
            let text = format!("failed to lookup address information: {text}");
            lookup_failed(io::Error::other(text))
        };
        let unknown = failed("Name or service not known");
        assert!(matches!(unknown, DialError::NoSuchName), "{unknown:?}");
        let broken = failed("Temporary failure in name resolution");
        assert!(matches!(broken, DialError::Lookup(_)), "{broken:?}");
    }

    #[test]
    #[cfg(unix)]
    fn e1_a_dial_without_a_descriptor_is_no_failure_of_tcp() {
        use rustix::io::Errno;

        let failed = |error: Errno| (address("127.0.0.1:443"), io::Error::from(error));
        assert!(lacks_descriptors(&failed(Errno::MFILE)));
        assert!(!lacks_descriptors(&failed(Errno::CONNREFUSED)));
    }

    #[tokio::test]
    async fn an_address_needs_no_lookup_and_brackets_only_where_printed() {
        let found = dialer(Limits::default())
            .lookup(&authority("::1", 443))
            .await;
        assert_eq!(found.unwrap(), [address("[::1]:443")]);
    }

    #[tokio::test]
    async fn n1_a_closed_port_is_refused_at_once() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = dialer(Limits::default())
            .dial(&authority("127.0.0.1", port), &mut Steps::begin())
            .await
            .unwrap_err();
        let DialError::Failed(failed) = error else {
            panic!("{error:?}")
        };
        assert_eq!(failed.len(), 1);
        assert_eq!(failed[0].1.kind, io::ErrorKind::ConnectionRefused);
    }

    #[tokio::test]
    async fn n5_a_connection_is_prepared_for_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = dialer(Limits::default())
            .dial(&authority("127.0.0.1", port), &mut Steps::begin())
            .await
            .unwrap();
        let socket = socket2::SockRef::from(&stream);
        assert!(stream.nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(
            socket.tcp_keepalive_time().unwrap(),
            Duration::from_secs(30)
        );
        assert_eq!(
            socket.tcp_keepalive_interval().unwrap(),
            Duration::from_secs(10)
        );
        // It would end a connection whose other end is well but has no room.
        #[cfg(target_os = "linux")]
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }

    #[tokio::test]
    async fn n2_a_black_hole_ends_with_the_limit_of_its_step() {
        // A listener whose queue is full drops further SYNs: the black hole that needs no privileges.
        let listener =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        listener.bind(&address("127.0.0.1:0").into()).unwrap();
        listener.listen(0).unwrap();
        let full = listener.local_addr().unwrap().as_socket().unwrap();
        let limits = Limits {
            tcp: Duration::from_millis(200),
            ..Limits::default()
        };
        let target = authority("127.0.0.1", full.port());
        let mut queued = Vec::new();
        let error = loop {
            match dialer(limits).dial(&target, &mut Steps::begin()).await {
                Ok(it) if queued.len() < 8 => queued.push(it),
                Ok(_) => panic!("the queue never filled"),
                Err(it) => break it,
            }
        };
        let DialError::TimedOut { silent, limit } = error else {
            panic!("{error:?}")
        };
        assert_eq!((silent, limit), (vec![full.ip()], limits.tcp));
    }
}
