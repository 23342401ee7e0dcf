//! Listening sockets that this process did not bind: those of a service manager (systemd's `LISTEN_FDS`), and those of its
//! own life before a re-exec (`super::handover`).
//!
//! Knows descriptors and addresses. Must not know tunnels. The manager's stay open for the life of the process, whoever uses
//! them meanwhile: they were bound once, and could not be had again. Those of the life before belong to whoever takes them.

use std::{
    fmt,
    net::SocketAddr,
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::unix_socket::StdUnixListener;

/// Everything that was handed over.
#[derive(Debug, Default)]
pub struct InheritedSockets {
    sockets: Vec<Socket>,
    problems: Vec<String>,
    /// The names of all descriptors, usable or not, in their order.
    #[cfg_attr(not(unix), expect(dead_code, reason = "nothing is handed over there"))]
    names: Vec<String>,
    /// Bound by the life before, and taken by nobody yet.
    inherited: Mutex<Vec<Socket>>,
    /// To be bound in the next life too; `None`: there is none, as far as is known.
    kept: Mutex<Option<Vec<Socket>>>,
}

/// One socket that listens.
#[derive(Debug)]
pub struct Socket {
    /// What the manager calls it (`FileDescriptorName=`); by default the name of the unit.
    pub name: String,
    /// Where it listens.
    pub address: ListenAddress,
    /// The socket itself.
    pub listener: Listener,
}

/// Where a socket listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
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
    Unix(StdUnixListener),
}

impl InheritedSockets {
    /// The sockets that listen.
    pub fn sockets(&self) -> &[Socket] {
        &self.sockets
    }

    /// What is wrong with the others, in sentences.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Adds what the life before had bound.
    pub fn with_inherited(mut self, sockets: Vec<Socket>) -> Self {
        self.inherited = Mutex::new(sockets);
        self
    }

    /// The socket that the life before had bound at exactly this address: the caller's from now on.
    pub fn take_inherited(&self, address: &ListenAddress) -> Option<Listener> {
        let mut inherited = lock(&self.inherited);
        let at = inherited.iter().position(|it| it.address == *address)?;
        Some(inherited.swap_remove(at).listener)
    }

    /// Closes what nobody took. Returns where that listened.
    pub fn close_inherited(&self) -> Vec<ListenAddress> {
        let rest = std::mem::take(&mut *lock(&self.inherited));
        let closed = rest.into_iter().map(|it| {
            it.remove_file();
            it.address
        });
        closed.collect()
    }

    /// From now on [`InheritedSockets::keep`] keeps.
    pub fn begin_to_keep(&self) {
        lock(&self.kept).get_or_insert_default();
    }

    /// Whether another life follows, which wants the listeners.
    pub fn keeps(&self) -> bool {
        lock(&self.kept).is_some()
    }

    /// Leaves a listener to the next life.
    pub fn keep(&self, socket: Socket) {
        match &mut *lock(&self.kept) {
            Some(kept) => kept.push(socket),
            None => socket.remove_file(),
        }
    }

    /// What was left to the next life.
    pub fn kept(&self) -> Vec<Socket> {
        lock(&self.kept).take().unwrap_or_default()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Socket {
    /// Removes the file of one in the file system, which nobody will listen behind any more.
    pub fn remove_file(&self) {
        if let ListenAddress::Unix(path) = &self.address {
            // Nothing to do about a file that cannot be removed: the next one who binds replaces it.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(it) => it.fmt(f),
            Self::Unix(it) => write!(f, "unix:{}", it.display()),
        }
    }
}

#[cfg(not(unix))]
impl InheritedSockets {
    /// Returns nothing: no service manager hands sockets over on this system.
    pub fn take() -> Self {
        Self::default()
    }

    /// Has nothing to pass on.
    pub fn pass_on(&self, _: &mut std::process::Command) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
mod imp {
    use std::{
        env, io,
        os::fd::{AsFd, OwnedFd},
        process::Command,
    };

    use listenfd::ListenFd;
    use rustix::io::{FdFlags, fcntl_setfd};

    use super::{InheritedSockets, ListenAddress, Listener, Socket};

    const PID: &str = "LISTEN_PID";
    const COUNT: &str = "LISTEN_FDS";
    const NAMES: &str = "LISTEN_FDNAMES";
    /// The number of the first one.
    const FIRST: usize = 3;
    /// More is no service manager's doing.
    const MOST: usize = 1024;

    impl InheritedSockets {
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

        /// Lets the successor of this process have all of them, under the same numbers and names.
        pub fn pass_on(&self, successor: &mut Command) -> io::Result<()> {
            if self.names.is_empty() {
                return Ok(());
            }
            for socket in &self.sockets {
                match &socket.listener {
                    Listener::Tcp(it) => fcntl_setfd(it.as_fd(), FdFlags::empty())?,
                    Listener::Unix(it) => fcntl_setfd(it.as_fd(), FdFlags::empty())?,
                }
            }
            successor
                .env(PID, std::process::id().to_string())
                .env(COUNT, self.names.len().to_string())
                .env(NAMES, self.names.join(":"));
            Ok(())
        }
    }

    impl Socket {
        /// One that an earlier life bound at `address`; `None` if it is not what it is said to be.
        pub fn inherited(descriptor: OwnedFd, address: ListenAddress) -> Option<Self> {
            let listener = match address {
                ListenAddress::Tcp(_) => Listener::Tcp(descriptor.into()),
                ListenAddress::Unix(_) => Listener::Unix(descriptor.into()),
            };
            let socket = judged(listener, "").ok()?;
            (socket.address == address).then_some(socket)
        }

        /// The same socket by another descriptor.
        pub fn descriptor(&self) -> io::Result<OwnedFd> {
            match &self.listener {
                Listener::Tcp(it) => it.as_fd().try_clone_to_owned(),
                Listener::Unix(it) => it.as_fd().try_clone_to_owned(),
            }
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
            Listener::Tcp(it) => ListenAddress::Tcp(it.local_addr().map_err(|_| GONE)?),
            Listener::Unix(it) => {
                let address = it.local_addr().map_err(|_| GONE)?;
                let path = address.as_pathname().ok_or("it listens on no path")?;
                ListenAddress::Unix(path.to_owned())
            }
        };
        Ok(Socket {
            name: name.to_owned(),
            address,
            listener,
        })
    }
}
