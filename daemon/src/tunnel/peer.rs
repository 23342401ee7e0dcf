//! Who is at the other end of a local connection (A1).
//!
//! The system is asked for the owner of *their* end, right after the accept: whoever may open a connection to a listener
//! of pomd is signed in as its owner.
//!
//! The system knows addresses, not connections: a client that reset its connection has freed its address, and the next
//! program that gets it is answered for. So our own socket is asked *after* the owner is known: if it is still
//! connected, it was all the time, and there was no other connection with these addresses.

use std::{
    collections::BTreeSet,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream},
    sync::Mutex,
    time::{Duration, Instant},
};

use super::local::{Ends, Local};
use crate::system::{
    process,
    sockets::{Row, Sockets},
    unix_socket, users,
};

/// The users who may use our listeners, and whether this system can tell who connects.
#[derive(Debug)]
pub struct Owners {
    /// Who may use the listeners.
    uids: BTreeSet<u32>,
    /// Who may answer a login: the user of this process alone.
    own: BTreeSet<u32>,
    sockets: Option<Sockets>,
    /// The system remembers whose a socket was after its process closed it.
    remembers: bool,
    /// When a process was last looked for.
    looked: Mutex<Option<Instant>>,
}

/// The verdict on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerVerdict {
    /// One of the owners, or this system cannot tell.
    Welcome,
    /// Somebody else, or this connection cannot be told although others can.
    TurnAway {
        /// Who, if the system said so.
        uid: Option<u32>,
    },
}

/// Looking for a process costs about a microsecond for each descriptor looked at, ...
const EFFORT: usize = 1_000;
/// ... and is not done more often than this: it serves a log line.
const REST: Duration = Duration::from_millis(100);

impl Owners {
    /// The user of this process and `allow_users` (names or numeric ids). Tries the system once: see `can_tell`.
    /// Names that no user has are left out, and come back.
    pub fn new(allow_users: &[String]) -> (Self, Vec<String>) {
        let own: BTreeSet<u32> = users::own_uid().into_iter().collect();
        let mut uids = own.clone();
        let mut missing = Vec::new();
        for user in allow_users {
            match user.parse().ok().or_else(|| users::uid(user)) {
                Some(uid) => {
                    uids.insert(uid);
                }
                None => missing.push(user.clone()),
            }
        }
        let sockets = users::own_uid().and_then(|me| Sockets::ways().find(|it| tells(it, me)));
        let remembers = sockets.as_ref().is_some_and(remembers);
        let owners = Self {
            uids,
            own,
            sockets,
            remembers,
            looked: Mutex::new(None),
        };
        (owners, missing)
    }

    /// This system says who connects; if not, it is told once in log and status, and everyone is welcome.
    pub fn can_tell(&self) -> bool {
        self.sockets.is_some()
    }

    /// Judges a connection that a listener accepted. Takes microseconds; call it before anything else.
    pub fn check(&self, local: &Local, ends: Ends) -> PeerVerdict {
        match ends {
            Ends::Tcp { theirs, ours } => {
                let verdict = self.check_addresses(theirs, ours, &self.uids);
                if_alive(verdict, local.check())
            }
            Ends::Unix { uid, .. } => self.check_uid(uid),
        }
    }

    fn check_uid(&self, uid: u32) -> PeerVerdict {
        // Root may open what is ours anyway.
        if uid == 0 || self.uids.contains(&uid) {
            PeerVerdict::Welcome
        } else {
            PeerVerdict::TurnAway { uid: Some(uid) }
        }
    }

    /// Judges a connection that the page of a login accepted from `theirs`: other users who may use the listeners are not
    /// welcome there, for whoever answers a login decides whose it is (A5).
    pub fn check_login_peer(
        &self,
        socket: &tokio::net::TcpStream,
        theirs: SocketAddr,
    ) -> PeerVerdict {
        let Ok(ours) = socket.local_addr() else {
            return PeerVerdict::TurnAway { uid: None };
        };
        let verdict = self.check_addresses(theirs, ours, &self.own);
        if_alive(verdict, socket.peer_addr())
    }

    /// By the addresses alone, which only counts if our socket is connected afterwards.
    fn check_addresses(
        &self,
        theirs: SocketAddr,
        ours: SocketAddr,
        uids: &BTreeSet<u32>,
    ) -> PeerVerdict {
        match &self.sockets {
            None => PeerVerdict::Welcome,
            Some(it) => match it.connected(theirs, ours) {
                Ok(Some(row)) => verdict(&row, uids, self.remembers),
                Ok(None) | Err(_) => PeerVerdict::TurnAway { uid: None },
            },
        }
    }

    /// The uid and, if it is ours to see, the process at the other end: for the log. Takes about a millisecond; `None`
    /// also if it was asked a moment ago.
    pub fn describe(&self, ends: Ends) -> Option<String> {
        self.rested().then(|| self.look(ends)).flatten()
    }

    /// As `describe`, at any time.
    pub(super) fn look(&self, ends: Ends) -> Option<String> {
        let (uid, pid) = match ends {
            Ends::Tcp { theirs, ours } => {
                let row = self.sockets.as_ref()?.connected(theirs, ours).ok()??;
                if row.inode == 0 {
                    return None; // closed already
                }
                let pid = process::holding(row.inode, row.uid, None, EFFORT);
                (row.uid, pid)
            }
            Ends::Unix { uid, pid } => (uid, pid),
        };
        Some(match pid.and_then(|it| Some((process::program(it)?, it))) {
            Some((program, pid)) => format!("{program} (pid {pid})"),
            None => format!("uid {uid}"),
        })
    }

    /// Some process still has the other end open. `None`: this system cannot tell.
    pub(super) fn is_held(&self, local: &Local, ends: Ends) -> Option<bool> {
        let (theirs, ours) = match (local, ends) {
            (_, Ends::Tcp { theirs, ours }) => (theirs, ours),
            (Local::Unix(it), _) => return Some(unix_socket::is_held(it)),
            (Local::Tcp(_), _) => return None,
        };
        self.is_held_at(theirs, ours)
    }

    fn is_held_at(&self, theirs: SocketAddr, ours: SocketAddr) -> Option<bool> {
        match self.sockets.as_ref()?.connected(theirs, ours) {
            Ok(Some(row)) => Some(row.inode != 0),
            Ok(None) => Some(false),
            Err(_) => None,
        }
    }

    /// Nobody was looked for a moment ago; now somebody is.
    pub(super) fn rested(&self) -> bool {
        let Ok(mut looked) = self.looked.try_lock() else {
            return false;
        };
        let now = Instant::now();
        let rested = looked.is_none_or(|it| now.duration_since(it) >= REST);
        if rested {
            *looked = Some(now);
        }
        rested
    }
}

/// The verdict, if our own socket was found connected after it: else it was about somebody else's connection.
fn if_alive<T>(verdict: PeerVerdict, checked: io::Result<T>) -> PeerVerdict {
    match checked {
        Ok(_) => verdict,
        Err(_) => PeerVerdict::TurnAway { uid: None },
    }
}

/// The rule, for a row that is about the very connection.
fn verdict(row: &Row, uids: &BTreeSet<u32>, remembers: bool) -> PeerVerdict {
    if row.lingers() || !row.is_connected() {
        // It reads as root's, whoever it was; or it is about a connection that nobody has accepted.
        return PeerVerdict::TurnAway { uid: None };
    }
    let open = row.inode != 0;
    let known = open || remembers || row.uid != 0;
    if !known {
        return PeerVerdict::TurnAway { uid: None };
    }
    if uids.contains(&row.uid) || (open && row.uid == 0) {
        PeerVerdict::Welcome
    } else {
        PeerVerdict::TurnAway { uid: Some(row.uid) }
    }
}

/// This way names the owner of a connection that we make to ourselves. Where none can be made it counts as working:
/// nobody can connect then, and who can later must not be welcome unseen.
fn tells(sockets: &Sockets, me: u32) -> bool {
    let Ok(own) = Own::connect() else {
        return true;
    };
    let row = sockets.connected(own.theirs, own.ours);
    matches!(row, Ok(Some(row)) if row.uid == me && row.inode != 0)
}

/// Whether a closed socket's uid is still its owner's: older kernels say 0. Tried with a user who is not root.
fn remembers(sockets: &Sockets) -> bool {
    // What the system says of a socket that just closed, and what is right; `None` if this try shows nothing.
    let closed_one = || {
        let own = Own::connect().ok()?;
        let owner = users::give_away_if_root(&own.client)?;
        drop(own.client);
        let row = sockets.connected(own.theirs, own.ours).ok()??;
        (!row.lingers()).then_some((row.uid, owner))
    };
    (0..5)
        .find_map(|_| closed_one())
        .is_some_and(|(uid, owner)| uid == owner)
}

/// A connection to ourselves, never accepted.
struct Own {
    client: TcpStream,
    theirs: SocketAddr,
    ours: SocketAddr,
    /// Holds our end.
    _listener: TcpListener,
}

impl Own {
    fn connect() -> io::Result<Self> {
        let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let listener = TcpListener::bind(v4).or_else(|_| TcpListener::bind(v6))?;
        let ours = listener.local_addr()?;
        let client = TcpStream::connect_timeout(&ours, Duration::from_secs(1))?;
        Ok(Self {
            theirs: client.local_addr()?,
            client,
            ours,
            _listener: listener,
        })
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests;
