//! Which address a tunnel listens on, and who holds it if we cannot.

mod inherited;
mod unix;

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::Path,
    task::{Context, Poll, ready},
};

use control::wire::{Code, Holder, Reason};
use jiff::Timestamp;
use pomd_core::config::{Listen, SocketName};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use super::{
    holder,
    local::{Ends, Local},
};
use crate::{
    clock::Clock,
    system::{
        errors, limits,
        socket_activation::{self as system, InheritedSockets, ListenAddress, Socket as Inherited},
        sockets,
        unix_listener::UnixListener,
    },
};
pub use inherited::is_for;

/// The ports among which [`choose`] chooses.
pub const CHOICE: RangeInclusive<u16> = 20_000..=29_999;

const BACKLOG: i32 = 1024;
/// Ports below this need a privilege on most systems.
const PRIVILEGED: u16 = 1024;

/// A socket that a tunnel accepts on.
#[derive(Debug)]
pub enum Listener {
    /// A port.
    Tcp(TcpListener),
    /// A socket in the file system; its file is removed when this is dropped.
    Unix(UnixListener),
}

/// The sockets of one tunnel.
#[derive(Debug)]
pub struct Bound {
    /// One for each address, IPv4 first.
    pub listeners: Vec<Listener>,
    /// The addresses as people write them.
    pub addresses: Vec<String>,
    /// The loopback address of a bare port that the machine lacks.
    pub left_out: Option<IpAddr>,
}

/// What is known before an address is bound.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// The tunnel's name.
    pub name: &'a str,
    /// Sockets that are bound already.
    pub inherited: &'a InheritedSockets,
    /// The port kept for [`Listen::Chosen`].
    pub chosen: Option<u16>,
    /// The control socket: Unix sockets lie beside it.
    pub control: &'a Path,
    /// Who held it when it failed the last time: looked at first, which makes trying again cheap.
    pub before: Option<&'a Holder>,
}

/// Binds `listen` on all its addresses or on none; what was handed over is used in place of binding it. Never `SO_REUSEPORT`.
#[expect(
    clippy::result_large_err,
    reason = "a failure is rare and becomes the status as it is"
)]
pub fn bind(listen: &Listen, known: Known<'_>, clock: &Clock) -> Result<Bound, Reason> {
    let at = clock.now();
    if let Some(bound) = inherited::bind(listen, known) {
        return bound.map_err(|it| it.reason(known.before, at));
    }
    let bound = match (listen, known.chosen) {
        (Listen::Unix(name), _) => return bind_file(name, known, at),
        (Listen::Loopback(port), _) => loopback(*port, known.inherited),
        (Listen::Chosen, Some(port)) => loopback(port, known.inherited),
        (Listen::Address(address), _) => inherit_or_open(*address, known.inherited)
            .and_then(|it| Ok(vec![TcpListener::from_std(it)?]))
            .map_err(|error| Failure::alone(*address, error)),
        (Listen::Chosen, None) => Err(Failure::NoPort),
    };
    let listeners = bound.map_err(|it| it.reason(known.before, at))?;
    let addresses: io::Result<Vec<SocketAddr>> =
        listeners.iter().map(TcpListener::local_addr).collect();
    match addresses {
        Ok(addresses) => Ok(Bound {
            listeners: listeners.into_iter().map(Listener::Tcp).collect(),
            left_out: left_out(listen, &addresses),
            addresses: addresses.iter().map(ToString::to_string).collect(),
        }),
        Err(error) => Err(Reason::new(
            Code::Local,
            format!("cannot listen: {error}"),
            at,
        )),
    }
}

#[expect(clippy::result_large_err, reason = "as `bind`")]
fn bind_file(name: &SocketName, known: Known<'_>, at: Timestamp) -> Result<Bound, Reason> {
    let path = known.control.with_file_name(name.as_str());
    if path == known.control {
        return Err(unix::is_control(&path, at));
    }
    let inherited = known
        .inherited
        .take_inherited(&ListenAddress::Unix(path.clone()));
    let socket = match inherited.and_then(|it| UnixListener::inherited(it, path.clone())) {
        Some(socket) => socket,
        None => UnixListener::bind(path).map_err(|it| unix::reason(it, at))?,
    };
    Ok(Bound {
        addresses: vec![file_address(name, known.control)],
        left_out: None,
        listeners: vec![Listener::Unix(socket)],
    })
}

/// How the address of a Unix socket is written: `unix:` and its path.
pub fn file_address(name: &SocketName, control: &Path) -> String {
    format!("unix:{}", control.with_file_name(name.as_str()).display())
}

impl Listener {
    /// The same listener for the next life of this process.
    pub fn hand_on(self) -> io::Result<Inherited> {
        let (address, listener) = match self {
            Self::Tcp(it) => {
                let it = it.into_std()?;
                (
                    ListenAddress::Tcp(it.local_addr()?),
                    system::Listener::Tcp(it),
                )
            }
            Self::Unix(it) => {
                let (path, it) = it.hand_on()?;
                (ListenAddress::Unix(path), system::Listener::Unix(it))
            }
        };
        Ok(Inherited {
            name: String::new(),
            address,
            listener,
        })
    }

    /// The next connection, and its ends unless it is gone already.
    pub(super) fn poll_accept(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<(Local, Option<Ends>)>> {
        match self {
            Self::Tcp(it) => {
                let (local, theirs) = ready!(it.poll_accept(cx))?;
                let ours = local.local_addr().ok();
                let ends = ours.map(|ours| Ends::Tcp { theirs, ours });
                Poll::Ready(Ok((local.into(), ends)))
            }
            Self::Unix(it) => {
                let (local, peer) = ready!(it.poll_accept(cx))?;
                let ends = peer.map(|it| Ends::Unix {
                    uid: it.uid,
                    pid: it.pid,
                });
                Poll::Ready(Ok((local.into(), ends)))
            }
        }
    }
}

/// A port for the tunnel `name` that is free on both loopback addresses now and not in `taken`. Where nothing stands in
/// the way, the same name gives the same port again to whoever keeps it in the folder `state`, and others prefer another.
pub fn choose(name: &str, state: &Path, taken: &BTreeSet<u16>) -> Option<u16> {
    let count = u32::from(CHOICE.end() - CHOICE.start()) + 1;
    let start = hash(name, state) % count;
    (0..count)
        .filter_map(|it| u16::try_from((start + it) % count).ok())
        .map(|it| CHOICE.start() + it)
        .find(|it| !taken.contains(it) && is_free(*it))
}

/// Why an address could not be bound.
enum Failure {
    /// This address; `partly`: its sister was free.
    At {
        address: SocketAddr,
        partly: bool,
        error: io::Error,
    },
    /// What was handed over cannot be used now.
    Handed {
        place: ListenAddress,
        error: io::Error,
    },
    /// The machine has no loopback address at all.
    NoLoopback,
    /// No port was chosen yet.
    NoPort,
}

/// Binds `port` on both loopback addresses. One that the machine lacks is left out.
fn loopback(port: u16, inherited: &InheritedSockets) -> Result<Vec<TcpListener>, Failure> {
    let listeners = both(port, inherited)?;
    listeners
        .into_iter()
        .map(|it| {
            let address = it.local_addr().unwrap_or_else(|_| v4(port));
            TcpListener::from_std(it).map_err(|error| Failure::alone(address, error))
        })
        .collect()
}

fn both(port: u16, inherited: &InheritedSockets) -> Result<Vec<std::net::TcpListener>, Failure> {
    let first = match inherit_or_open(v4(port), inherited) {
        Ok(it) => Some(it),
        Err(error) if errors::is_absent_address(&error) => None,
        Err(error) => {
            return Err(Failure::At {
                address: v4(port),
                partly: open(v6(port)).is_ok(),
                error,
            });
        }
    };
    // Port 0 is whatever the first one got.
    let port = match &first {
        Some(it) => it.local_addr().map_or(port, |it| it.port()),
        None => port,
    };
    match inherit_or_open(v6(port), inherited) {
        Ok(it) => Ok(first.into_iter().chain([it]).collect()),
        Err(error) if errors::is_absent_address(&error) => match first {
            Some(it) => Ok(vec![it]),
            None => Err(Failure::NoLoopback),
        },
        Err(error) => Err(Failure::At {
            address: v6(port),
            partly: first.is_some(),
            error,
        }),
    }
}

/// The addresses of a bare port.
fn sisters(port: u16) -> [SocketAddr; 2] {
    [v4(port), v6(port)]
}

/// Which of the two has no listener, where there should be one on both.
fn left_out(listen: &Listen, bound: &[SocketAddr]) -> Option<IpAddr> {
    let port = bound.first()?.port();
    let missing = sisters(port).into_iter().find(|it| !bound.contains(it));
    missing
        .map(|it| it.ip())
        .filter(|_| listen.is_on_both_families())
}

fn v4(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn v6(port: u16) -> SocketAddr {
    (Ipv6Addr::LOCALHOST, port).into()
}

fn is_free(port: u16) -> bool {
    both(port, &InheritedSockets::default()).is_ok()
}

/// What the life before this one had bound there goes on listening, with the connections that wait in its queue.
fn inherit_or_open(
    address: SocketAddr,
    inherited: &InheritedSockets,
) -> io::Result<std::net::TcpListener> {
    match inherited.take_inherited(&ListenAddress::Tcp(address)) {
        Some(system::Listener::Tcp(it)) => Ok(it),
        _ => open(address),
    }
}

fn open(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    sockets::reuse_address(&socket)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

impl Failure {
    fn alone(address: SocketAddr, error: io::Error) -> Self {
        Self::At {
            address,
            partly: false,
            error,
        }
    }

    fn reason(self, before: Option<&Holder>, at: Timestamp) -> Reason {
        match self {
            Self::At {
                address,
                partly,
                error,
            } if error.kind() == io::ErrorKind::AddrInUse => {
                holder::reason(address, partly, before, at)
            }
            Self::At { address, error, .. } => refused(address, &error, at),
            Self::Handed { error, .. } if errors::is_out_of_descriptors(&error) => {
                let message = format!("cannot listen: {}", limits::descriptors_reached());
                Reason::new(Code::Local, message, at)
            }
            Self::Handed { place, error } => {
                let message = format!("cannot listen on {place}, which was handed over: {error}");
                Reason::new(Code::AddressNotAvailable, message, at)
            }
            Self::NoLoopback => Reason::new(
                Code::AddressNotAvailable,
                "this machine has no loopback address now".to_owned(),
                at,
            ),
            Self::NoPort => Reason::new(
                Code::AddressNotAvailable,
                format!("no port from {}–{} is free", CHOICE.start(), CHOICE.end()),
                at,
            ),
        }
    }
}

fn refused(address: SocketAddr, error: &io::Error, at: Timestamp) -> Reason {
    let port = address.port();
    if errors::is_out_of_descriptors(error) {
        let message = format!(
            "cannot listen on {address}: {}",
            limits::descriptors_reached()
        );
        return Reason::new(Code::Local, message, at);
    }
    if errors::is_absent_address(error) {
        let message = format!("{} is no address of this machine", address.ip());
        return Reason::new(Code::AddressNotAvailable, message, at);
    }
    if error.kind() == io::ErrorKind::PermissionDenied && port < PRIVILEGED {
        let message = format!("port {port} needs a privilege that pomd doesn't have");
        return Reason {
            hint: Some(format!("choose a port from {PRIVILEGED} up")),
            ..Reason::new(Code::AddressNotAvailable, message, at)
        };
    }
    let message = format!("cannot listen on {address}: {error}");
    Reason::new(Code::AddressNotAvailable, message, at)
}

/// FNV-1a: stable over releases, so that a lost list of ports comes out the same.
fn hash(name: &str, state: &Path) -> u32 {
    let state = state.as_os_str().as_encoded_bytes();
    let bytes = name.bytes().chain([0]).chain(state.iter().copied());
    bytes.fold(0x811c_9dc5, |sum, byte| {
        (sum ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;

    use super::*;

    #[expect(clippy::result_large_err, reason = "as the function itself")]
    fn bind(listen: Listen, chosen: Option<u16>) -> Result<Bound, Reason> {
        bind_known(&listen, chosen, None)
    }

    #[expect(clippy::result_large_err, reason = "as the function itself")]
    fn bind_known(
        listen: &Listen,
        chosen: Option<u16>,
        before: Option<&Holder>,
    ) -> Result<Bound, Reason> {
        let control = Path::new("/nowhere/pomd.sock");
        let known = Known {
            name: "db",
            inherited: &InheritedSockets::default(),
            chosen,
            control,
            before,
        };
        super::bind(listen, known, &Clock::real())
    }

    fn address(bound: &Bound, at: usize) -> SocketAddr {
        bound.addresses[at].parse().unwrap()
    }

    /// Binds a port that was just given up. A child of another test, between its fork and its exec, may still hold it.
    fn bind_again(port: u16) -> Bound {
        let start = std::time::Instant::now();
        loop {
            match bind(Listen::Loopback(port), None) {
                Ok(it) => return it,
                Err(it) => assert!(start.elapsed().as_secs() < 10, "{}", it.message),
            }
        }
    }

    fn has_v6() -> bool {
        let res = open(v6(0)).is_ok();
        if !res {
            eprintln!("skipped: no ::1 here");
        }
        res
    }

    #[tokio::test]
    async fn a_bare_port_is_bound_on_both_families_and_by_nobody_else() {
        if !has_v6() {
            return;
        }
        let bound = bind(Listen::Loopback(0), None).unwrap();
        let port = address(&bound, 0).port();
        assert_eq!(
            bound.addresses,
            [v4(port), v6(port)].map(|it| it.to_string())
        );
        assert_eq!(bound.listeners.len(), 2);
        for address in [v4(port), v6(port)] {
            assert!(TcpStream::connect(address).is_ok());
            assert!(open(address).is_err());
        }
    }

    #[tokio::test]
    async fn a_port_that_is_busy_on_either_family_is_bound_on_neither() {
        if !has_v6() {
            return;
        }
        for (held, free) in [(v4 as fn(u16) -> _, v6 as fn(u16) -> _), (v6, v4)] {
            let holder = std::net::TcpListener::bind(held(0)).unwrap();
            let port = holder.local_addr().unwrap().port();
            for listen in [Listen::Loopback(port), Listen::Chosen] {
                let reason = bind(listen, Some(port)).unwrap_err();
                assert_eq!(reason.code, Code::AddressInUse);
                let place = format!("pomd itself holds the port on {}", held(0).ip());
                assert_eq!(reason.message, place);
                assert_eq!(reason.holder.unwrap().pid, Some(std::process::id()));
                // As for `bind_again`.
                let start = std::time::Instant::now();
                while std::net::TcpListener::bind(free(port)).is_err() {
                    assert!(start.elapsed().as_secs() < 10, "still bound");
                }
            }
            drop(holder);
            bind_again(port);
        }
    }

    #[tokio::test]
    async fn the_program_that_holds_a_port_is_named() {
        let script = "import socket,sys\ns=socket.socket(); s.bind(('127.0.0.1',0)); s.listen()\nprint(s.getsockname()[1],flush=True)\nsys.stdin.read()";
        let mut child = std::process::Command::new("python3")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut output, &mut line).unwrap();
        let port = line.trim().parse().unwrap();
        let reason = bind(Listen::Address(v4(port)), None).unwrap_err();
        let again = bind_known(&Listen::Address(v4(port)), None, reason.holder.as_ref());
        drop(child.stdin.take());
        child.wait().unwrap();
        let holder = reason.holder.clone().unwrap();
        let program = holder.program.clone().unwrap();
        assert!(program.starts_with("python3"), "{program}");
        let pid = holder.pid.unwrap();
        assert_eq!(
            reason.message,
            format!("{program} (pid {pid}) holds the port")
        );
        assert_eq!(again.unwrap_err().holder, Some(holder));
    }

    #[tokio::test]
    async fn an_outgoing_connection_in_the_way_is_told_as_such() {
        let server = std::net::TcpListener::bind(v4(0)).unwrap();
        let client = TcpStream::connect(server.local_addr().unwrap()).unwrap();
        let address = client.local_addr().unwrap();
        let reason = bind(Listen::Address(address), None).unwrap_err();
        assert_eq!(reason.code, Code::AddressInUse);
        let start = format!(
            "an outgoing connection of pomd itself holds the port; {} lies in the range",
            address.port()
        );
        assert!(reason.message.starts_with(&start), "{}", reason.message);
        assert!(reason.hint.unwrap().starts_with("choose a port below "));
    }

    #[tokio::test]
    async fn a_port_is_taken_again_beside_its_own_connections() {
        let bound = bind(Listen::Loopback(0), None).unwrap();
        let address = address(&bound, 0);
        let client = TcpStream::connect(address).unwrap();
        let accepted = std::future::poll_fn(|cx| bound.listeners[0].poll_accept(cx));
        let (living, _) = accepted.await.unwrap();
        drop(bound);
        let again = bind_again(address.port());
        drop((client, living, again));
        bind_again(address.port());
    }

    #[tokio::test]
    async fn an_address_of_another_machine_is_told_apart_from_one_in_use() {
        let reason = bind(Listen::Address("192.0.2.1:2202".parse().unwrap()), None).unwrap_err();
        assert_eq!(reason.code, Code::AddressNotAvailable);
        assert_eq!(reason.message, "192.0.2.1 is no address of this machine");
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let reason = refused(v4(80), &denied, Timestamp::UNIX_EPOCH);
        assert_eq!(reason.code, Code::AddressNotAvailable);
        assert_eq!(
            reason.message,
            "port 80 needs a privilege that pomd doesn't have"
        );
        assert_eq!(
            bind(Listen::Chosen, None).unwrap_err().code,
            Code::AddressNotAvailable
        );
    }

    #[test]
    fn chosen_ports_are_free_on_both_families_and_not_taken() {
        let state = Path::new("/home/alice");
        let first = choose("db", state, &BTreeSet::new()).unwrap();
        assert!(CHOICE.contains(&first));
        let second = choose("db", state, &BTreeSet::from([first])).unwrap();
        assert_ne!(first, second);
        let holder = open(v4(second)).unwrap();
        let third = choose("db", state, &BTreeSet::from([first])).unwrap();
        assert_ne!(third, second);
        drop(holder);
        assert_eq!(choose("db", state, &CHOICE.collect()), None);
        assert_ne!(hash("db", state), hash("db", Path::new("/home/bob")));
        assert_ne!(hash("db", state), hash("web", state));
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn listeners_do_not_pass_to_children() {
        let bound = bind(Listen::Loopback(0), None).unwrap();
        for listener in &bound.listeners {
            let Listener::Tcp(listener) = listener else {
                unreachable!();
            };
            let flags = rustix::io::fcntl_getfd(listener).unwrap();
            assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
        }
    }
}
