//! Names, addresses and sockets: from a host and a port to a TCP connection.
//!
//! Must not know TLS, clusters or routes.

mod next_hop;
pub(super) mod recent;

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use pomd_core::{
    config::{Authority, Host},
    route::refusal::{Step, Unreachable},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};

use super::{Limits, exhausted};
use crate::failpoints::{Failpoint, Failpoints};

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
    /// Where a person would set `connect`.
    place: String,
    failpoints: Failpoints,
}

impl Dialer {
    pub(super) fn new(limits: Limits, place: String) -> Self {
        Self {
            limits,
            lookups: Arc::new(Semaphore::new(LOOKUPS)),
            place,
            failpoints: Failpoints::none(),
        }
    }

    pub(super) fn set_failpoints(&mut self, failpoints: Failpoints) {
        self.failpoints = failpoints;
    }

    /// A connection to `target`, ready for small writes and silent deaths.
    pub(super) async fn dial(&self, target: &Authority) -> Result<TcpStream, Unreachable> {
        let addresses = self.lookup(target).await?;
        self.connect(target, addresses).await
    }

    /// The addresses of `target` in the order to try them.
    pub(super) async fn lookup(&self, target: &Authority) -> Result<Vec<SocketAddr>, Unreachable> {
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
            Ok(Ok(_)) => Err(self.no_such_name(target)),
            Ok(Err(error)) => Err(self.lookup_failed(target, &error)),
            Err(_) => {
                let message = format!("looking up {} took more than {}", target.host, shown(limit));
                Err(Unreachable::new(Step::Dns, &message)
                    .timed_out()
                    .hint("is this machine offline, or its name server gone?"))
            }
        }
    }

    /// The first of `addresses` that answers, each tried a little after the one before.
    pub(super) async fn connect(
        &self,
        target: &Authority,
        addresses: Vec<SocketAddr>,
    ) -> Result<TcpStream, Unreachable> {
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
            Ok(None) => Err(exhausted::told(target, &failed)
                .unwrap_or_else(|| Unreachable::new(Step::Tcp, &failures(target, &failed)))),
            Err(_) => {
                let silent = addresses
                    .iter()
                    .filter(|it| !failed.iter().any(|(address, _)| address == *it));
                let message = silence(target, silent, limit);
                let hint = format!(
                    "is a VPN off, or a firewall in the way? To dial elsewhere set connect in {}",
                    self.place
                );
                Err(Unreachable::new(Step::Tcp, &message)
                    .timed_out()
                    .hint(&hint))
            }
        }
    }

    fn lookup_failed(&self, target: &Authority, error: &io::Error) -> Unreachable {
        let error = error.to_string();
        // There is no kind for these: the words of the C libraries, and of Windows.
        let unknown = [
            "not known",
            "No address associated",
            "nodename nor servname",
            "No such host",
            "no data of the requested type",
        ];
        if unknown.iter().any(|it| error.contains(it)) {
            return self.no_such_name(target);
        }
        let reason = error
            .strip_prefix("failed to lookup address information: ")
            .unwrap_or(&error);
        let message = format!("cannot look up {}: {}", target.host, lower(reason));
        Unreachable::new(Step::Dns, &message)
            .hint("is this machine offline, or its name server gone?")
    }

    fn no_such_name(&self, target: &Authority) -> Unreachable {
        let message = format!("no such name: {}", target.host);
        let hint = format!(
            "VPN off, or a typo? To dial elsewhere set connect in {}",
            self.place
        );
        Unreachable::new(Step::Dns, &message).hint(&hint)
    }
}

/// What speaks where TLS should (T3): asked on a connection of its own, without any secret.
pub(super) async fn greeting<S>(
    dialling: impl Future<Output = Result<S, Unreachable>>,
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

/// The families in turn, IPv6 first, each in the order the system gave.
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

/// `cannot reach HOST:PORT (ADDRESS): REASON`, for one address or for several.
fn failures(target: &Authority, failed: &[(SocketAddr, io::Error)]) -> String {
    match failed {
        [] => format!("cannot reach {target}: it has no address"),
        [(address, error)] => {
            format!("{}: {}", attempt(target, &[address.ip()]), reason(error))
        }
        [(_, first), rest @ ..] if rest.iter().all(|(_, it)| reason(it) == reason(first)) => {
            let tried: Vec<_> = failed.iter().map(|(it, _)| it.ip()).collect();
            format!("{}: {}", attempt(target, &tried), reason(first))
        }
        _ => {
            let each: Vec<_> = failed
                .iter()
                .take(3)
                .map(|(address, error)| format!("{} {}", address.ip(), reason(error)))
                .collect();
            format!("cannot reach {target}: {}", each.join(", "))
        }
    }
}

fn silence<'a>(
    target: &Authority,
    silent: impl Iterator<Item = &'a SocketAddr>,
    limit: Duration,
) -> String {
    let silent: Vec<_> = silent.map(SocketAddr::ip).collect();
    format!(
        "{}: no answer within {}",
        attempt(target, &silent),
        shown(limit)
    )
}

/// `cannot reach HOST:PORT (ADDRESS, …)`, without what would only repeat the host.
fn attempt(target: &Authority, tried: &[IpAddr]) -> String {
    if matches!(target.host, Host::Ip(_)) || tried.is_empty() {
        return format!("cannot reach {target}");
    }
    let mut list: Vec<_> = tried.iter().take(3).map(IpAddr::to_string).collect();
    if tried.len() > 3 {
        list.push("…".to_owned());
    }
    format!("cannot reach {target} ({})", list.join(", "))
}

/// An error of the system in lower case and without its number.
pub(super) fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    lower(words)
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// A limit as people say it: `10 s`, `1.5 s`.
pub(super) fn shown(limit: Duration) -> String {
    format!("{} s", (limit.as_secs_f64() * 10.0).round() / 10.0)
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
        Dialer::new(limits, "[cluster.corp]".to_owned())
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
    fn a_failure_names_the_addresses_and_the_reason_once() {
        let target = authority("corp.example.com", 443);
        let refused =
            || io::Error::from_raw_os_error(rustix::io::Errno::CONNREFUSED.raw_os_error());
        let unreachable =
            || io::Error::from_raw_os_error(rustix::io::Errno::NETUNREACH.raw_os_error());
        assert_eq!(
            failures(&target, &[(address("198.51.100.7:443"), refused())]),
            "cannot reach corp.example.com:443 (198.51.100.7): connection refused"
        );
        assert_eq!(
            failures(
                &target,
                &[
                    (address("[2001:db8::7]:443"), unreachable()),
                    (address("198.51.100.7:443"), refused())
                ]
            ),
            "cannot reach corp.example.com:443: 2001:db8::7 network is unreachable, 198.51.100.7 connection refused"
        );
        assert_eq!(
            failures(
                &authority("198.51.100.7", 443),
                &[(address("198.51.100.7:443"), refused())]
            ),
            "cannot reach 198.51.100.7:443: connection refused"
        );
        assert_eq!(
            silence(
                &target,
                [address("198.51.100.7:443")].iter(),
                Duration::from_secs(10)
            ),
            "cannot reach corp.example.com:443 (198.51.100.7): no answer within 10 s"
        );
    }

    #[test]
    fn n3_an_unknown_name_is_told_apart_from_a_name_server_that_fails() {
        let dialer = dialer(Limits::default());
        let target = authority("corp.example.com", 443);
        let error =
            |text: &str| io::Error::other(format!("failed to lookup address information: {text}"));
        let it = dialer.lookup_failed(&target, &error("Name or service not known"));
        assert_eq!(it.message, "no such name: corp.example.com");
        assert!(it.hint.unwrap().contains("connect in [cluster.corp]"));
        let it = dialer.lookup_failed(&target, &error("Temporary failure in name resolution"));
        assert_eq!(
            it.message,
            "cannot look up corp.example.com: temporary failure in name resolution"
        );
        assert_eq!(it.step, Step::Dns);
    }

    #[tokio::test]
    async fn an_address_needs_no_lookup_and_brackets_only_where_printed() {
        let found = dialer(Limits::default())
            .lookup(&authority("::1", 443))
            .await;
        assert_eq!(found, Ok(vec![address("[::1]:443")]));
    }

    #[tokio::test]
    async fn n1_a_closed_port_is_refused_at_once() {
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            listener.local_addr().unwrap().port()
        };
        let error = dialer(Limits::default())
            .dial(&authority("127.0.0.1", port))
            .await
            .unwrap_err();
        assert_eq!(error.step, Step::Tcp);
        assert!(!error.timed_out);
        assert_eq!(
            error.message,
            format!("cannot reach 127.0.0.1:{port}: connection refused")
        );
    }

    #[tokio::test]
    async fn n5_a_connection_is_prepared_for_silence() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = dialer(Limits::default())
            .dial(&authority("127.0.0.1", port))
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
            match dialer(limits).dial(&target).await {
                Ok(it) if queued.len() < 8 => queued.push(it),
                Ok(_) => panic!("the queue never filled"),
                Err(it) => break it,
            }
        };
        assert!(error.timed_out, "{error:?}");
        assert_eq!(error.step, Step::Tcp);
        assert_eq!(
            error.message,
            format!("cannot reach {target}: no answer within 0.2 s")
        );
    }
}
