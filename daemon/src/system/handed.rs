//! Sockets that a service manager bound and handed over (systemd's `LISTEN_FDS`).
//!
//! Knows descriptors and addresses. Must not know tunnels. They stay open for the life of the process, whoever uses them
//! meanwhile: the manager bound them once, and they could not be had again.

use std::{fmt, net::SocketAddr, path::PathBuf};

/// Everything that was handed over.
#[derive(Debug, Default)]
pub struct Handed {
    sockets: Vec<Socket>,
    problems: Vec<String>,
    /// The names of all descriptors, usable or not, in their order.
    #[cfg_attr(not(unix), expect(dead_code, reason = "nothing is handed over there"))]
    names: Vec<String>,
}

/// One socket that listens.
#[derive(Debug)]
pub struct Socket {
    /// What the manager calls it (`FileDescriptorName=`); by default the name of the unit.
    pub name: String,
    /// Where it listens.
    pub address: Place,
    /// The socket itself.
    pub listener: Listener,
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// On a port.
    Tcp(SocketAddr),
    /// In the file system.
    Unix(PathBuf),
}

/// A socket of either kind.
#[derive(Debug)]
pub enum Listener {
    /// On a port.
    Tcp(std::net::TcpListener),
    /// In the file system.
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixListener),
}

impl Handed {
    /// The sockets that listen.
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// What is wrong with the others, in sentences.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(it) => it.fmt(f),
            Self::Unix(it) => write!(f, "unix:{}", it.display()),
        }
    }
}

#[cfg(not(unix))]
impl Handed {
    /// Nothing is handed over on this system.
    pub fn take() -> Self {
        Self::default()
    }
}

#[cfg(unix)]
mod imp {
    use std::{env, io, os::fd::AsFd, process::Command};

    use listenfd::ListenFd;
    use rustix::io::{FdFlags, fcntl_setfd};

    use super::{Handed, Listener, Place, Socket};

    const PID: &str = "LISTEN_PID";
    const COUNT: &str = "LISTEN_FDS";
    const NAMES: &str = "LISTEN_FDNAMES";
    /// The number of the first one.
    const FIRST: usize = 3;
    /// More is no service manager's doing.
    const MOST: usize = 1024;

    impl Handed {
        /// Takes what the environment names, and out of the environment: children are not to take it for theirs. Call
        /// it before anything is opened, which could be taken for a descriptor that is missing.
        pub fn take() -> Self {
            if env::var(PID).ok().and_then(|it| it.parse().ok()) != Some(std::process::id()) {
                return Self::default();
            }
            let said = env::var(COUNT).unwrap_or_default();
            if !said.parse().is_ok_and(|it: usize| it <= MOST) {
                let said = control::text::clean(&said, 40);
                return Self {
                    problems: vec![format!(
                        "the environment says that `{said}` sockets were handed over to pomd: \
                         {COUNT} is a number up to {MOST}"
                    )],
                    ..Self::default()
                };
            }
            let names = env::var(NAMES).unwrap_or_default();
            // Keeps from children also what turns out to be of no use below; one that is closed is found there too.
            #[cfg(target_os = "linux")]
            let _ = sd_notify::listen_fds();
            Self::from_descriptors(ListenFd::from_env(), &names)
        }

        fn from_descriptors(mut descriptors: ListenFd, names: &str) -> Self {
            let mut res = Self::default();
            let mut named = names.split(':').filter(|_| !names.is_empty());
            for index in 0..descriptors.len() {
                let name = control::text::clean(named.next().unwrap_or("unknown"), 80);
                match taken(&mut descriptors, index).and_then(|it| judged(it, &name)) {
                    Ok(socket) => res.sockets.push(socket),
                    Err(what) => res.problems.push(format!(
                        "descriptor {} was handed over to pomd ({name}), and {what}",
                        FIRST + index
                    )),
                }
                res.names.push(name);
            }
            res
        }

        /// Lets the heir of this process have all of them, under the same numbers and names.
        pub fn pass_on(&self, heir: &mut Command) -> io::Result<()> {
            if self.names.is_empty() {
                return Ok(());
            }
            for socket in &self.sockets {
                match &socket.listener {
                    Listener::Tcp(it) => fcntl_setfd(it.as_fd(), FdFlags::empty())?,
                    Listener::Unix(it) => fcntl_setfd(it.as_fd(), FdFlags::empty())?,
                }
            }
            heir.env(PID, std::process::id().to_string())
                .env(COUNT, self.names.len().to_string())
                .env(NAMES, self.names.join(":"));
            Ok(())
        }
    }

    /// The stream socket at `index`. What is of another kind is closed, as far as it is a socket.
    fn taken(descriptors: &mut ListenFd, index: usize) -> Result<Listener, &'static str> {
        if let Ok(Some(it)) = descriptors.take_tcp_listener(index) {
            Ok(Listener::Tcp(it))
        } else if let Ok(Some(it)) = descriptors.take_unix_listener(index) {
            Ok(Listener::Unix(it))
        } else if matches!(descriptors.take_udp_socket(index), Ok(Some(_)))
            || matches!(descriptors.take_unix_datagram(index), Ok(Some(_)))
        {
            Err("it is a datagram socket: a tunnel needs ListenStream=")
        } else {
            Err("it is closed, or no socket of streams: a tunnel needs ListenStream=")
        }
    }

    /// Whether it listens; where the system does not tell, accepting does.
    #[cfg(not(target_vendor = "apple"))]
    fn listens(socket: impl AsFd) -> bool {
        rustix::net::sockopt::socket_acceptconn(socket).unwrap_or(true)
    }

    #[cfg(target_vendor = "apple")]
    fn listens(_: impl AsFd) -> bool {
        true
    }

    fn judged(listener: Listener, name: &str) -> Result<Socket, &'static str> {
        const GONE: &str = "the system does not say where it listens";
        let (listens, set) = match &listener {
            Listener::Tcp(it) => (listens(it), it.set_nonblocking(true)),
            Listener::Unix(it) => (listens(it), it.set_nonblocking(true)),
        };
        if !listens {
            return Err("it is a socket that does not listen: Accept=yes is not for pomd");
        }
        set.map_err(|_| GONE)?;
        let address = match &listener {
            Listener::Tcp(it) => Place::Tcp(it.local_addr().map_err(|_| GONE)?),
            Listener::Unix(it) => {
                let address = it.local_addr().map_err(|_| GONE)?;
                let path = address.as_pathname().ok_or("it listens on no path")?;
                Place::Unix(path.to_owned())
            }
        };
        Ok(Socket {
            name: name.to_owned(),
            address,
            listener,
        })
    }
}
