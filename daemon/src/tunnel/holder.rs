//! Who holds an address that we cannot bind, in words.

use std::net::SocketAddr;

use control::wire::{Code, Holder, Reason};
use jiff::Timestamp;

use crate::system::{
    limits, process,
    sockets::{self, LISTEN, Row, canonical},
    users,
};

/// Descriptors looked at to find the process behind a socket.
const EFFORT: usize = 50_000;

/// Why `address` is in use. `before` is who held it the last time: looked at first, for a tunnel that waits asks again
/// and again. `partly`: the port is free on the machine's other loopback address.
pub(super) fn reason(
    address: SocketAddr,
    partly: bool,
    before: Option<&Holder>,
    at: Timestamp,
) -> Reason {
    let rows = sockets::on_port(address.port()).unwrap_or_default();
    let use_ = Use::of(address, &rows);
    let holder = use_.row().map(|row| find(row, before));
    let port = address.port();
    let place = match partly {
        true => format!("the port on {}", address.ip()),
        false => "the port".to_owned(),
    };
    let (message, hint) = words(&use_, holder.as_ref(), &place, port);
    Reason {
        hint,
        holder,
        ..Reason::new(Code::AddressInUse, message, at)
    }
}

/// How an address is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    Listener(Row),
    Connection(Row),
    /// A connection that ended; the system keeps its address for a minute.
    Ended,
    Unknown,
}

impl Use {
    /// The socket among `rows` that keeps others off `address`.
    fn of(address: SocketAddr, rows: &[Row]) -> Self {
        let best = |wanted: &dyn Fn(&Row) -> bool| {
            rows.iter()
                .filter(|it| wanted(it))
                .filter_map(|it| Some((distance(it.local, address)?, *it)))
                .min_by_key(|it| it.0)
                .map(|it| it.1)
        };
        if let Some(row) = best(&|it| it.state == LISTEN) {
            Self::Listener(row)
        } else if let Some(row) = best(&|it| it.state != LISTEN && !it.lingers()) {
            Self::Connection(row)
        } else if best(&Row::lingers).is_some() {
            Self::Ended
        } else {
            Self::Unknown
        }
    }

    fn row(&self) -> Option<&Row> {
        match self {
            Self::Listener(row) | Self::Connection(row) => Some(row),
            Self::Ended | Self::Unknown => None,
        }
    }
}

/// How near a socket at `held` is to one at `address`; `None`: they do not disturb each other.
fn distance(held: SocketAddr, address: SocketAddr) -> Option<u8> {
    let (held, address) = (canonical(held), canonical(address));
    let same_family = held.is_ipv4() == address.is_ipv4();
    if held == address {
        Some(0)
    } else if held.port() != address.port() {
        None
    } else if same_family && (held.ip().is_unspecified() || address.ip().is_unspecified()) {
        Some(1)
    } else if held.is_ipv6() && held.ip().is_unspecified() {
        Some(2) // it may take IPv4 too
    } else {
        None
    }
}

fn find(row: &Row, before: Option<&Holder>) -> Holder {
    let likely = before.and_then(|it| it.pid).or(Some(std::process::id()));
    let pid = process::holding(row.inode, row.uid, likely, EFFORT);
    Holder {
        pid,
        program: pid.and_then(process::program),
        uid: Some(row.uid),
        ours: users::is_own(row.uid),
    }
}

fn words(use_: &Use, holder: Option<&Holder>, place: &str, port: u16) -> (String, Option<String>) {
    let who = holder.map_or_else(|| "another program".to_owned(), name);
    match use_ {
        Use::Listener(_) | Use::Unknown => (format!("{who} holds {place}"), None),
        Use::Ended => (
            format!("a connection that ended a moment ago still holds {place}"),
            None,
        ),
        Use::Connection(_) => match limits::outgoing_ports() {
            Some(range) if range.contains(&port) => (
                format!(
                    "an outgoing connection of {who} holds {place}; {port} lies in the range the system hands out ({}–{})",
                    range.start(),
                    range.end()
                ),
                Some(format!("choose a port below {}", range.start())),
            ),
            _ => (format!("a connection of {who} holds {place}"), None),
        },
    }
}

/// `node (pid 4242)`, `pomd itself`, `a program of another user (uid 0)`.
pub(super) fn name(holder: &Holder) -> String {
    match (holder.pid, &holder.program, holder.uid) {
        (Some(pid), _, _) if pid == std::process::id() => "pomd itself".to_owned(),
        (Some(pid), Some(program), _) => format!("{program} (pid {pid})"),
        (Some(pid), None, _) => format!("a program (pid {pid})"),
        (None, _, Some(uid)) => control::text::program_of(uid, holder.ours),
        (None, _, None) => "another program".to_owned(),
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::*;

    const ESTABLISHED: u8 = 1;

    fn row(local: &str, state: u8, uid: u32) -> Row {
        Row {
            local: local.parse().unwrap(),
            remote: "127.0.0.1:1".parse().unwrap(),
            state,
            timer: 0,
            uid,
            inode: 1,
        }
    }

    fn holder(pid: Option<u32>, program: Option<&str>, uid: Option<u32>) -> Holder {
        let program = program.map(str::to_owned);
        Holder {
            pid,
            program,
            uid,
            ours: uid.is_some_and(users::is_own),
        }
    }

    #[test]
    fn the_socket_that_is_in_the_way_is_found_among_others() {
        let address: SocketAddr = "127.0.0.1:3000".parse().unwrap();
        let exact = row("127.0.0.1:3000", LISTEN, 1);
        let any = row("0.0.0.0:3000", LISTEN, 2);
        let both = row("[::]:3000", LISTEN, 3);
        let other = row("127.0.0.2:3000", LISTEN, 4);
        let v6 = row("[::1]:3000", LISTEN, 5);
        let connection = row("127.0.0.1:3000", ESTABLISHED, 6);
        let mut ended = row("127.0.0.1:3000", 6, 0);
        ended.inode = 0;
        for (rows, expected) in [
            (vec![other, v6, both, any, exact], Use::Listener(exact)),
            (vec![other, both, any], Use::Listener(any)),
            (vec![other, v6, both], Use::Listener(both)),
            (vec![connection, both], Use::Listener(both)),
            (vec![ended, connection, other], Use::Connection(connection)),
            (vec![ended, v6], Use::Ended),
            (vec![other, v6], Use::Unknown),
        ] {
            assert_eq!(Use::of(address, &rows), expected, "{rows:?}");
        }
        let v6_address = "[::1]:3000".parse().unwrap();
        assert_eq!(Use::of(v6_address, &[any, v6]), Use::Listener(v6));
        assert_eq!(Use::of(v6_address, &[any]), Use::Unknown);
        let everywhere = "0.0.0.0:3000".parse().unwrap();
        assert_eq!(Use::of(everywhere, &[v6, other]), Use::Listener(other));
    }

    #[test]
    fn holders_are_named_as_promised() {
        let listener = Use::Listener(row("127.0.0.1:3000", LISTEN, 0));
        let me = rustix::process::geteuid().as_raw();
        for (holder, message) in [
            (
                Some(holder(Some(4242), Some("node"), Some(7))),
                "node (pid 4242) holds the port",
            ),
            (
                Some(holder(None, None, Some(me + 1))),
                &format!("a program of another user (uid {}) holds the port", me + 1),
            ),
            (
                Some(holder(Some(std::process::id()), Some("pomd"), Some(me))),
                "pomd itself holds the port",
            ),
            (
                Some(holder(None, None, Some(me))),
                "a program of yours whose name can't be read, perhaps another pomd holds the port",
            ),
            (None, "another program holds the port"),
        ] {
            assert_eq!(
                words(&listener, holder.as_ref(), "the port", 3000).0,
                message
            );
        }
    }
}
