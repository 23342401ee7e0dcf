//! Whether this machine is connected in another way than before.
//!
//! The system is asked by which of our addresses a packet would leave, which sends none. Where it tells that something
//! about its network changed, that is a reason to ask at once; else whoever owns this asks now and then. Much of what it
//! tells changes no way of ours: a container that comes, an address whose time is extended.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Between two looks at a network that goes on changing.
const REST: Duration = Duration::from_millis(200);
/// Far away, and nobody's (RFC 5737, RFC 3849): the way there is the way to most others.
const AFAR: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

/// Watches the ways from this machine to others.
#[derive(Debug)]
pub struct Network {
    news: Option<imp::News>,
    rests_until: Instant,
    ways: Ways,
}

/// By which of our addresses a packet leaves for each of some others; `None`: it cannot.
#[derive(Debug, Default)]
struct Ways(BTreeMap<IpAddr, Option<IpAddr>>);

impl Network {
    /// As it is now.
    pub fn new() -> Self {
        let news = imp::News::open().inspect_err(|error| {
            tracing::debug!("changes of the network are noticed late: {error}");
        });
        let mut ways = Ways::default();
        ways.look(AFAR, source);
        Self {
            news: news.ok(),
            rests_until: Instant::now(),
            ways,
        }
    }

    /// Ready when the system told that something may have changed; where it does not tell, never. Cancel-safe.
    pub async fn news(&mut self) {
        let Some(news) = &self.news else {
            return std::future::pending().await;
        };
        sleep_until(self.rests_until).await;
        if let Err(error) = news.heard().await {
            tracing::debug!("changes of the network are noticed late from now on: {error}");
            self.news = None;
        }
        self.rests_until = Instant::now() + REST;
    }

    /// One of the ways to `targets`, or to most of the world, is another one than at the last look.
    pub fn look(&mut self, targets: impl IntoIterator<Item = IpAddr>) -> bool {
        self.ways.look(targets.into_iter().chain(AFAR), source)
    }
}

impl Default for Network {
    fn default() -> Self {
        Self::new()
    }
}

impl Ways {
    /// Asks for each; a target that is new is no change, nor one that the system says nothing about.
    fn look(
        &mut self,
        targets: impl IntoIterator<Item = IpAddr>,
        source: impl Fn(IpAddr) -> io::Result<Option<IpAddr>>,
    ) -> bool {
        let before = std::mem::take(&mut self.0);
        let mut changed = false;
        for target in targets {
            let old = before.get(&target);
            let Some(now) = source(target).ok().or(old.copied()) else {
                continue;
            };
            changed |= old.is_some_and(|it| *it != now);
            self.0.insert(target, now);
        }
        changed
    }
}

/// What is sent to this loopback address arrives: the machine has it, and loopback is up.
pub fn is_here(address: IpAddr) -> io::Result<bool> {
    Ok(source(address)? == Some(address) && !imp::loopback_is_down())
}

/// The address by which a packet would leave for `target`. Sends nothing.
fn source(target: IpAddr) -> io::Result<Option<IpAddr>> {
    let any: IpAddr = match target {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = match UdpSocket::bind((any, 0)) {
        // This machine has nothing of that family.
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(None),
        other => other?,
    };
    match socket.connect((target, 9)) {
        Ok(()) => socket.local_addr().map(|it| Some(it.ip())),
        Err(_) => Ok(None),
    }
}

#[cfg(target_os = "linux")]
mod imp {
    use std::{io, os::unix::net::UnixDatagram as StdDatagram};

    use rustix::{
        io::Errno,
        net::{
            AddressFamily, SocketFlags, SocketType, bind, netlink::SocketAddrNetlink, socket_with,
        },
    };
    use tokio::net::UnixDatagram;

    /// An interface that is down may keep its addresses and routes; what is sent there is lost.
    pub(super) fn loopback_is_down() -> bool {
        let state = std::fs::read_to_string("/sys/class/net/lo/operstate");
        state.is_ok_and(|it| it.trim_end() == "down")
    }

    /// Links, addresses and routes of both families, as the kernel numbers these groups.
    const GROUPS: u32 = LINK | IPV4_ADDRESS | IPV4_ROUTE | IPV6_ADDRESS | IPV6_ROUTE;
    const LINK: u32 = 1;
    const IPV4_ADDRESS: u32 = 1 << 4;
    const IPV4_ROUTE: u32 = 1 << 6;
    const IPV6_ADDRESS: u32 = 1 << 8;
    const IPV6_ROUTE: u32 = 1 << 10;

    /// What the kernel tells of the network, over a netlink socket. Reading works as with any socket of datagrams, so
    /// it is handed to the runtime as one.
    #[derive(Debug)]
    pub(super) struct News(UnixDatagram);

    impl News {
        pub(super) fn open() -> io::Result<Self> {
            let socket = socket_with(
                AddressFamily::NETLINK,
                SocketType::DGRAM,
                SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
                None, // NETLINK_ROUTE
            )?;
            bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
            Ok(Self(UnixDatagram::from_std(StdDatagram::from(socket))?))
        }

        /// Ready when something was told; all of it is taken, and none is read: the state itself is asked.
        pub(super) async fn heard(&self) -> io::Result<()> {
            loop {
                self.0.readable().await?;
                if self.take_all()? {
                    return Ok(());
                }
            }
        }

        /// Whether there was anything.
        fn take_all(&self) -> io::Result<bool> {
            let mut room = [0; 8192];
            let mut told = false;
            loop {
                match self.0.try_recv(&mut room) {
                    Ok(_) => told = true,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(told),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // More was told than the kernel could keep.
                    Err(error) if Errno::from_io_error(&error) == Some(Errno::NOBUFS) => {
                        told = true
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// These systems are asked now and then.
#[cfg(not(target_os = "linux"))]
mod imp {
    use std::io;

    /// There it keeps no routes.
    pub(super) fn loopback_is_down() -> bool {
        false
    }

    #[derive(Debug)]
    pub(super) struct News;

    impl News {
        pub(super) fn open() -> io::Result<Self> {
            Err(io::ErrorKind::Unsupported.into())
        }

        #[expect(clippy::unused_async, reason = "where it can be told, it takes time")]
        pub(super) async fn heard(&self) -> io::Result<()> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn n6_a_way_that_goes_comes_or_leaves_by_another_address_is_a_change() {
        let (near, far) = (ip("10.0.0.9"), ip("192.0.2.1"));
        let mut ways = Ways::default();
        let mut look = |targets: &[IpAddr], source: Option<Option<&str>>| {
            let answer = source.map(|it| it.map(ip));
            ways.look(targets.iter().copied(), |_| {
                answer.ok_or(io::ErrorKind::Other.into())
            })
        };
        let (home, office) = (Some(Some("10.0.0.2")), Some(Some("172.16.0.7")));
        assert!(!look(&[far], home), "the first look");
        assert!(!look(&[far], home));
        assert!(!look(&[far, near], home), "another target");
        assert!(look(&[far, near], Some(None)), "gone");
        assert!(!look(&[far, near], Some(None)));
        assert!(look(&[far, near], home), "and back");
        assert!(look(&[near], office), "elsewhere");
        assert!(!look(&[near], None), "nothing was told");
        assert!(!look(&[near], office));
        assert!(look(&[near], home));
    }

    #[test]
    fn this_machine_reaches_itself_by_its_own_address() {
        let here = ip("127.0.0.1");
        assert_eq!(source(here).unwrap(), Some(here));
        assert!(is_here(here).unwrap());
        assert!(!is_here(ip("192.0.2.1")).unwrap(), "nobody's");
    }

    #[tokio::test]
    async fn a_network_that_stays_as_it_is_is_no_change() {
        let mut network = Network::new();
        assert!(!network.look([ip("127.0.0.1")]));
        assert!(!network.look([ip("127.0.0.1")]));
    }
}
