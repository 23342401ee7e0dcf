//! Whose a TCP socket is and how far it came, asked of the system.

use tokio::net::TcpStream;

#[cfg(not(target_os = "linux"))]
pub use imp::{Progress, Row, Sockets, connected, on_port, progress};
#[cfg(target_os = "linux")]
pub use imp::{Sockets, connected, on_port, progress};

#[cfg(target_os = "linux")]
pub use super::sock_diag::{LISTEN, Progress, Row, canonical};

/// Lets a listener be bound beside our own connections that ended or live on; it never allows two listeners there. On
/// Windows it would, and a second one could take the port from us, so that there the default stands, which refuses ports
/// in use; SO_EXCLUSIVEADDRUSE, which would also keep later takers off, needs `unsafe`.
pub fn reuse_address(socket: &socket2::Socket) -> std::io::Result<()> {
    if cfg!(windows) {
        return Ok(());
    }
    socket.set_reuse_address(true)
}

/// Waits until nothing that was written to `socket` is unsent. Over loopback, what was sent has been received.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub async fn all_sent(socket: &TcpStream) -> std::io::Result<()> {
    use std::os::fd::AsFd;
    // With this limit a socket counts as writable only when nothing waits to be sent.
    socket2::SockRef::from(socket).set_tcp_notsent_lowat(1)?;
    // A second registration, as the first remembers an older answer.
    let again = std::net::TcpStream::from(socket.as_fd().try_clone_to_owned()?);
    TcpStream::from_std(again)?.writable().await
}

/// Waits until the socket takes more: other systems do not tell what is unsent. What was written may be lost by a reset,
/// and the reset tells that it was.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub async fn all_sent(socket: &TcpStream) -> std::io::Result<()> {
    socket.writable().await
}

/// How far what was written to `socket` came; `None` where the system cannot tell, or has closed the connection.
pub fn progress_of(socket: &TcpStream) -> Option<Progress> {
    let (local, remote) = (socket.local_addr().ok()?, socket.peer_addr().ok()?);
    progress(local, remote).ok().flatten()
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{
        cell::RefCell,
        io,
        net::SocketAddr,
        os::fd::OwnedFd,
        sync::{Mutex, PoisonError},
        time::Duration,
    };

    use rustix::{
        io::Errno,
        net::{
            AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink,
            sockopt::{self, Timeout},
        },
    };

    use crate::system::{
        proc_net,
        sock_diag::{self, Message, Progress, REQUEST, Row},
    };

    /// A way to ask, kept open: a question must not need a new descriptor when there is none left.
    #[derive(Debug)]
    pub struct Sockets(Method);

    #[derive(Debug)]
    enum Method {
        Diagnosis(Mutex<NetlinkSocket>),
        Files,
    }

    #[derive(Debug)]
    struct NetlinkSocket {
        socket: OwnedFd,
        sequence: u32,
    }

    /// The kernel answers within the call; this is for a kernel that does not.
    const LIMIT: Duration = Duration::from_millis(200);
    /// More sockets than this on one port are not looked at.
    const MOST: usize = 10_000;

    impl Sockets {
        /// The ways that might work here, best first; only a try shows whether they do.
        pub fn ways() -> impl Iterator<Item = Self> {
            let diagnosis = || {
                NetlinkSocket::open()
                    .ok()
                    .map(|it| Method::Diagnosis(Mutex::new(it)))
            };
            let files = || {
                std::path::Path::new("/proc/net/tcp")
                    .exists()
                    .then_some(Method::Files)
            };
            let ways: [&dyn Fn() -> Option<Method>; 2] = [&diagnosis, &files];
            ways.map(|it| it()).into_iter().flatten().map(Self)
        }

        /// The socket at `local` that talks to `remote`; `None` if there is none.
        pub fn connected(&self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Row>> {
            match &self.0 {
                // Held for one question, which the kernel answers within the call.
                Method::Diagnosis(channel) => channel
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .connected(local, remote),
                Method::Files => {
                    let asked = (sock_diag::canonical(local), sock_diag::canonical(remote));
                    Ok(files()?.find(|it| {
                        // Rows that linger stand beside the live one of a port in use again.
                        (it.local, it.remote) == asked && it.inode != 0
                    }))
                }
            }
        }
    }

    /// All TCP sockets at `port`, of any state.
    pub fn on_port(port: u16) -> io::Result<Vec<Row>> {
        let listed = NetlinkSocket::open().and_then(|mut channel| {
            let mut res = channel.on_port(false, port)?;
            // A kernel without IPv6 does not know the question.
            res.extend(channel.on_port(true, port).unwrap_or_default());
            Ok(res)
        });
        match listed {
            Ok(rows) => Ok(rows),
            Err(_) => Ok(files()?
                .filter(|it| it.local.port() == port)
                .take(MOST)
                .collect()),
        }
    }

    thread_local!(static NETLINK: RefCell<Option<NetlinkSocket>> = const { RefCell::new(None) });

    /// The socket at `local` that talks to `remote`, if there is one. Asks in the first of the [`Sockets`]'s ways only.
    pub fn connected(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Row>> {
        ask(|channel| channel.connected(local, remote))
    }

    /// How far what was written at `local` to `remote` came; `None` if there is no such connection.
    pub fn progress(local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Progress>> {
        ask(|channel| channel.progress(local, remote))
    }

    /// Asks on this thread's channel; one that failed is not used again.
    fn ask<T>(question: impl FnOnce(&mut NetlinkSocket) -> io::Result<T>) -> io::Result<T> {
        NETLINK.with_borrow_mut(|kept| {
            let mut channel = match kept.take() {
                Some(it) => it,
                None => NetlinkSocket::open()?,
            };
            let answer = question(&mut channel)?;
            *kept = Some(channel);
            Ok(answer)
        })
    }

    impl NetlinkSocket {
        fn open() -> io::Result<Self> {
            let socket = rustix::net::socket_with(
                AddressFamily::NETLINK,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC,
                Some(netlink::SOCK_DIAG),
            )?;
            sockopt::set_socket_timeout(&socket, Timeout::Recv, Some(LIMIT))?;
            sockopt::set_socket_timeout(&socket, Timeout::Send, Some(LIMIT))?;
            rustix::net::connect(&socket, &netlink::SocketAddrNetlink::new(0, 0))?;
            let sequence = 0;
            Ok(Self { socket, sequence })
        }

        fn connected(&mut self, local: SocketAddr, remote: SocketAddr) -> io::Result<Option<Row>> {
            let request = |sequence| sock_diag::exact(local, remote, sequence);
            self.ask(request, |datagram, sequence| {
                sock_diag::answer(datagram, sequence, local, remote)
            })
        }

        fn progress(
            &mut self,
            local: SocketAddr,
            remote: SocketAddr,
        ) -> io::Result<Option<Progress>> {
            let request = |sequence| sock_diag::exact_with_progress(local, remote, sequence);
            self.ask(request, |datagram, sequence| {
                sock_diag::progress(datagram, sequence, local, remote)
            })
        }

        /// Asks about one connection.
        fn ask<T>(
            &mut self,
            request: impl Fn(u32) -> Option<[u8; REQUEST]>,
            answer: impl Fn(&[u8], u32) -> Option<T>,
        ) -> io::Result<Option<T>> {
            self.sequence = self.sequence.wrapping_add(1);
            let request = request(self.sequence).ok_or(io::ErrorKind::InvalidInput)?;
            rustix::net::send(&self.socket, &request, SendFlags::empty())?;
            let mut buffer = [0; 4096];
            // An answer to an earlier question, given up by its limit, may come first.
            for _ in 0..16 {
                let (_, length) = rustix::net::recv(&self.socket, &mut buffer, RecvFlags::empty())?;
                let datagram = &buffer[..length.min(4096)];
                if let Some(it) = answer(datagram, self.sequence) {
                    return Ok(Some(it));
                }
                match sock_diag::messages(datagram, self.sequence).first() {
                    Some(Message::Failed(code)) if *code == Errno::NOENT.raw_os_error() => {
                        return Ok(None);
                    }
                    Some(Message::Failed(code)) => return Err(io::Error::from_raw_os_error(*code)),
                    // About another socket: a listener on the same port. The asked one is gone.
                    Some(Message::Row(_) | Message::Done) => return Ok(None),
                    None => {}
                }
            }
            Err(io::ErrorKind::TimedOut.into())
        }

        fn on_port(&mut self, v6: bool, port: u16) -> io::Result<Vec<Row>> {
            self.sequence = self.sequence.wrapping_add(1);
            let request = sock_diag::on_port(v6, port, sock_diag::ANY_STATE, self.sequence);
            rustix::net::send(&self.socket, &request, SendFlags::empty())?;
            let mut buffer = vec![0; 32 << 10];
            let mut res = Vec::new();
            while res.len() < MOST {
                let (_, length) =
                    rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty())?;
                let length = length.min(buffer.len());
                for message in sock_diag::messages(&buffer[..length], self.sequence) {
                    match message {
                        Message::Row(row) if row.local.port() == port => res.push(row),
                        Message::Row(_) => {}
                        Message::Done | Message::Failed(0) => return Ok(res),
                        Message::Failed(code) => return Err(io::Error::from_raw_os_error(code)),
                    }
                }
            }
            Ok(res)
        }
    }

    fn files() -> io::Result<impl Iterator<Item = Row>> {
        let v4 = std::fs::read_to_string("/proc/net/tcp")?;
        let v6 = std::fs::read_to_string("/proc/net/tcp6").unwrap_or_default();
        let rows = |text: String| proc_net::rows(&text).collect::<Vec<_>>();
        Ok(rows(v4).into_iter().chain(rows(v6)))
    }
}

// macOS and Windows can tell only through calls that need `unsafe` or a foreign crate; until then they do not tell.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::{io, net::SocketAddr, time::Duration};

    /// One TCP socket, seen from its own end.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Row {
        /// Its own address.
        pub local: SocketAddr,
        /// The address it talks to.
        pub remote: SocketAddr,
        /// The state of the TCP machine.
        pub state: u8,
        /// The user who owns it.
        pub uid: u32,
        /// Identifies the open socket; 0 once no process has it open.
        pub inode: u32,
    }

    impl Row {
        /// It ended, and only its addresses are remembered.
        pub fn lingers(&self) -> bool {
            false
        }

        /// It is an end of a connection that was made.
        pub fn is_connected(&self) -> bool {
            true
        }
    }

    /// How far a connection came with what was written to it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Progress {
        /// Bytes that were written and not acknowledged yet.
        pub waiting: u32,
        /// Segments of them that left.
        pub unanswered: u32,
        /// Bytes that were acknowledged so far.
        pub acknowledged: u64,
        /// How long ago the other end acknowledged something.
        pub heard: Duration,
        /// The shortest round trip so far.
        pub round_trip: Duration,
    }

    /// A way to ask.
    #[derive(Debug)]
    pub struct Sockets {}

    impl Sockets {
        /// None yet.
        pub fn ways() -> impl Iterator<Item = Self> {
            std::iter::empty()
        }

        /// Never told.
        pub fn connected(&self, _: SocketAddr, _: SocketAddr) -> io::Result<Option<Row>> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    /// Never told.
    pub fn on_port(_: u16) -> io::Result<Vec<Row>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never told.
    pub fn connected(_: SocketAddr, _: SocketAddr) -> io::Result<Option<Row>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never told.
    pub fn progress(_: SocketAddr, _: SocketAddr) -> io::Result<Option<Progress>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(not(target_os = "linux"))]
pub use portable::{LISTEN, canonical};

#[cfg(not(target_os = "linux"))]
mod portable {
    use std::net::SocketAddr;

    /// The state of a socket that listens.
    pub const LISTEN: u8 = 10;

    /// `address`, as IPv4 if it is IPv4 mapped into IPv6.
    pub fn canonical(address: SocketAddr) -> SocketAddr {
        SocketAddr::new(address.ip().to_canonical(), address.port())
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn every_way_names_the_owner_of_a_connection_and_no_way_that_of_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = listener.local_addr().unwrap();
        let client = TcpStream::connect(ours).unwrap();
        let theirs = client.local_addr().unwrap();
        let me = rustix::process::geteuid().as_raw();
        let mut ways = 0;
        for way in Sockets::ways() {
            let row = way.connected(theirs, ours).unwrap().unwrap();
            assert_eq!(row.uid, me);
            assert_ne!(row.inode, 0);
            // No connection there, but a listener: the kernel would rather speak of that.
            assert_eq!(
                way.connected(ours, ([127, 0, 0, 1], 1).into()).unwrap(),
                None
            );
            ways += 1;
        }
        assert_eq!(ways, 2);
    }

    #[test]
    fn all_sockets_of_a_port_are_listed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = listener.local_addr().unwrap();
        let client = TcpStream::connect(ours).unwrap();
        let rows = on_port(ours.port()).unwrap();
        assert!(rows.iter().any(|it| it.state == LISTEN && it.local == ours));
        assert!(
            rows.iter()
                .any(|it| it.remote == client.local_addr().unwrap())
        );
    }
    #[test]
    fn bytes_for_a_peer_that_fell_silent_are_unanswered_and_for_a_full_one_they_are_not() {
        use std::io::Write;

        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let (local, remote) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        let now = || progress(local, remote).unwrap().unwrap();
        ours.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(n) = ours.write(&[0; 64 << 10]) {
            written += n as u64;
        }
        // Full: the kernels hold what they can, and the rest has not left.
        while now().unanswered > 0 {
            std::thread::yield_now();
        }
        let full = now().acknowledged;
        assert!(full > 1000 && full < written, "{full} of {written}");
        assert!(now().waiting > 0);

        let mut ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (silent, _) = listener.accept().unwrap();
        let (local, remote) = (ours.local_addr().unwrap(), ours.peer_addr().unwrap());
        // Whatever comes in is dropped before TCP sees it.
        let drop_all = [socket2::SockFilter::new(6, 0, 0, 0)];
        socket2::SockRef::from(&silent)
            .attach_filter(&drop_all)
            .unwrap();
        let before = progress(local, remote).unwrap().unwrap();
        ours.write_all(b"anybody there?").unwrap();
        let after = progress(local, remote).unwrap().unwrap();
        assert_eq!(
            (before.unanswered, after.unanswered, after.waiting),
            (0, 1, 14),
            "the one segment is on its way for ever"
        );
        assert_eq!(before.acknowledged, after.acknowledged);
        let gone = progress(([127, 0, 0, 1], 1).into(), remote).unwrap();
        assert_eq!(gone, None);
        drop(theirs);
    }
}
