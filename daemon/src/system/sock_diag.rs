//! The words of the kernel's socket diagnosis (`NETLINK_SOCK_DIAG`), as bytes. Pure.
//!
//! Requests ask for one connection by its two ends, or for all sockets on a port. An answer counts only if it is about
//! what was asked: the kernel falls back to a listener on the same port, and reports sockets that already ended.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// One TCP socket, seen from its own end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its own address; an IPv4 address mapped into IPv6 appears as IPv4.
    pub local: SocketAddr,
    /// The address it talks to.
    pub remote: SocketAddr,
    /// The state of the TCP machine, as the kernel counts it.
    pub state: u8,
    /// The kernel's mark for the timer that runs.
    pub timer: u8,
    /// The user who owns it. Means nothing if it [lingers](Row::lingers).
    pub uid: u32,
    /// Identifies the open socket; 0 once no process has it open.
    pub inode: u32,
}

/// How far a connection came with what was written to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that were written and not acknowledged yet.
    pub waiting: u32,
    /// Segments of them that left. None while the other end has no room: what waits then, waits here.
    pub unanswered: u32,
    /// Bytes that were acknowledged so far.
    pub acknowledged: u64,
    /// How long ago the other end acknowledged something, be it a probe.
    pub heard: Duration,
    /// The shortest round trip so far; zero where it is not known.
    pub round_trip: Duration,
}

/// The state of a socket that listens.
pub const LISTEN: u8 = 10;
/// All states, for [`on_port`].
pub const ANY_STATE: u32 = u32::MAX;
/// The length of a request.
pub const REQUEST: usize = HEADER + 56;

/// The states of a connection that both ends made, and that the owner of one may still own: established, and all stages
/// of its end but the last. One that is only asked for (SYN_SENT) is none: it may be asked of a socket that is dead.
const MADE: [u8; 6] = [1, 4, FIN_WAIT_2, 8, 9, 11];
const FIN_WAIT_2: u8 = 5;
const TIME_WAIT: u8 = 6;
/// The timer mark of a socket of which the kernel keeps nothing but the addresses, in whatever state it is.
const TIMER_LINGERS: u8 = 3;
const HEADER: usize = 16;
const ROW: usize = 72;
const TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const TYPE_SOCKET: u16 = 20;
const FLAG_REQUEST: u16 = 1;
const FLAG_DUMP: u16 = 0x300;
/// The attribute that holds the kernel's `tcp_info`, and the bit that asks for it.
const INFO: u16 = 2;
const WITH_INFO: u8 = 1 << (INFO - 1);

impl Row {
    /// It ended, and only its addresses are remembered: uid and inode read 0, whoever owned it.
    pub fn lingers(&self) -> bool {
        let orphan = self.state == FIN_WAIT_2 && (self.uid, self.inode) == (0, 0);
        self.timer == TIMER_LINGERS || self.state == TIME_WAIT || orphan
    }

    /// It is an end of a connection that was made.
    pub fn is_connected(&self) -> bool {
        MADE.contains(&self.state)
    }
}

/// What the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A socket.
    Row(Row),
    /// That was the last one.
    Done,
    /// The request failed, with this error number.
    Failed(i32),
}

/// Asks for the socket at `local` that talks to `remote`. `None` if that cannot be one connection.
pub fn exact(local: SocketAddr, remote: SocketAddr, sequence: u32) -> Option<[u8; REQUEST]> {
    let (local, remote) = (canonical(local), canonical(remote));
    let family = family(local);
    (family == self::family(remote))
        .then(|| request(family, FLAG_REQUEST, ANY_STATE, local, remote, sequence))
}

/// As [`exact`], and how far it came.
pub fn exact_with_progress(
    local: SocketAddr,
    remote: SocketAddr,
    sequence: u32,
) -> Option<[u8; REQUEST]> {
    let mut res = exact(local, remote, sequence)?;
    res[HEADER + 2] = WITH_INFO;
    Some(res)
}

/// Asks for all sockets of one family at `port` in any of `states` (one bit for each).
pub fn on_port(v6: bool, port: u16, states: u32, sequence: u32) -> [u8; REQUEST] {
    let ip: IpAddr = if v6 {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let local = SocketAddr::new(ip, port);
    let flags = FLAG_REQUEST | FLAG_DUMP;
    let remote = SocketAddr::new(ip, 0);
    request(family(local), flags, states, local, remote, sequence)
}

/// Everything in `datagram` that answers the request with this `sequence`. Stops at the first thing that makes no sense.
pub fn messages(datagram: &[u8], sequence: u32) -> Vec<Message> {
    let mut res = Vec::new();
    let mut rest = datagram;
    while let Some((kind, theirs, payload, length)) = next(rest) {
        if theirs == sequence {
            res.extend(message(kind, payload));
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    res
}

/// The socket that [`exact`] asked for, if `datagram` is about that very connection.
pub fn answer(
    datagram: &[u8],
    sequence: u32,
    local: SocketAddr,
    remote: SocketAddr,
) -> Option<Row> {
    let asked = (end(local), end(remote));
    messages(datagram, sequence)
        .into_iter()
        .find_map(|it| match it {
            Message::Row(row) if (end(row.local), end(row.remote)) == asked => Some(row),
            _ => None,
        })
}

/// How far the connection came that [`exact_with_progress`] asked for.
pub fn progress(
    datagram: &[u8],
    sequence: u32,
    local: SocketAddr,
    remote: SocketAddr,
) -> Option<Progress> {
    answer(datagram, sequence, local, remote)?;
    // The one message of an exact answer.
    let (_, _, payload, _) = next(datagram)?;
    let mut rest = payload.get(ROW..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(array(rest, 0)?));
        let value = rest.get(4..length)?;
        if u16::from_ne_bytes(array(rest, 2)?) == INFO {
            return Some(Progress {
                waiting: u32::from_ne_bytes(array(payload, 60)?),
                unanswered: u32::from_ne_bytes(array(value, 24)?),
                acknowledged: u64::from_ne_bytes(array(value, 120)?),
                heard: Duration::from_millis(u32::from_ne_bytes(array(value, 56)?).into()),
                round_trip: round_trip(value),
            });
        }
        rest = rest.get(length.next_multiple_of(4)..)?;
    }
}

/// Older kernels do not tell it, and it is at its highest before there was any.
fn round_trip(info: &[u8]) -> Duration {
    let micros = array(info, 148).map(u32::from_ne_bytes);
    let known = micros.filter(|it| *it != u32::MAX);
    Duration::from_micros(known.unwrap_or(0).into())
}

/// `address`, as IPv4 if it is IPv4 mapped into IPv6.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Without the scope of an IPv6 address, which the kernel does not tell here.
fn end(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

fn family(address: SocketAddr) -> u8 {
    if address.is_ipv4() { AF_INET } else { AF_INET6 }
}

fn request(
    family: u8,
    flags: u16,
    states: u32,
    local: SocketAddr,
    remote: SocketAddr,
    sequence: u32,
) -> [u8; REQUEST] {
    const LENGTH: u32 = REQUEST as u32;
    let mut res = [0; REQUEST];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        res[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(&LENGTH.to_ne_bytes());
    put(&TYPE_SOCKET.to_ne_bytes());
    put(&flags.to_ne_bytes());
    put(&sequence.to_ne_bytes());
    put(&[0; 4]); // the sender's port: the kernel fills it in
    put(&[family, TCP, 0, 0]); // no further attributes
    put(&states.to_ne_bytes());
    put(&local.port().to_be_bytes());
    put(&remote.port().to_be_bytes());
    put(&padded(local.ip()));
    put(&padded(remote.ip()));
    put(&[0; 4]); // any interface
    put(&[0xff; 8]); // no cookie
    res
}

fn padded(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(it) => {
            let mut res = [0; 16];
            res[..4].copy_from_slice(&it.octets());
            res
        }
        IpAddr::V6(it) => it.octets(),
    }
}

/// Type, sequence, payload and whole length of the first message.
fn next(bytes: &[u8]) -> Option<(u16, u32, &[u8], usize)> {
    let length = usize::try_from(u32::from_ne_bytes(array(bytes, 0)?)).ok()?;
    let payload = bytes.get(HEADER..length)?;
    let kind = u16::from_ne_bytes(array(bytes, 4)?);
    let sequence = u32::from_ne_bytes(array(bytes, 8)?);
    Some((kind, sequence, payload, length))
}

fn message(kind: u16, payload: &[u8]) -> Option<Message> {
    match kind {
        TYPE_SOCKET => row(payload).map(Message::Row),
        TYPE_DONE => Some(Message::Done),
        TYPE_ERROR => {
            let code = i32::from_ne_bytes(array(payload, 0)?);
            Some(Message::Failed(code.saturating_neg()))
        }
        _ => None,
    }
}

fn row(payload: &[u8]) -> Option<Row> {
    let payload = payload.get(..ROW)?;
    let family = payload[0];
    let address = |port: usize, ip: usize| {
        let port = u16::from_be_bytes(array(payload, port)?);
        let ip: IpAddr = match family {
            AF_INET => Ipv4Addr::from(array::<4>(payload, ip)?).into(),
            AF_INET6 => Ipv6Addr::from(array::<16>(payload, ip)?).to_canonical(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, port))
    };
    Some(Row {
        local: address(4, 8)?,
        remote: address(6, 24)?,
        state: payload[1],
        timer: payload[2],
        uid: u32::from_ne_bytes(array(payload, 64)?),
        inode: u32::from_ne_bytes(array(payload, 68)?),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn socket(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// The kernel's answer about one socket, made from the request that asks for it.
    fn about(local: &str, remote: &str, sequence: u32, uid: u32, inode: u32) -> Vec<u8> {
        let (local, remote) = (socket(local), socket(remote));
        let request = request(family(local), 0, 0, local, remote, sequence);
        let mut res = request[..HEADER].to_vec();
        res[..4].copy_from_slice(&u32::try_from(HEADER + ROW).unwrap().to_ne_bytes());
        res.extend([family(local), 1, 0, 0]);
        res.extend(&request[HEADER + 8..]);
        res.extend([0; 12]);
        res.extend(uid.to_ne_bytes());
        res.extend(inode.to_ne_bytes());
        res
    }

    #[test]
    fn an_answer_tells_whose_the_asked_connection_is() {
        for (local, remote) in [
            ("127.0.0.1:40000", "127.0.0.1:2202"),
            ("[::1]:40000", "[::1]:2202"),
        ] {
            let datagram = about(local, remote, 7, 1000, 42);
            let row = answer(&datagram, 7, socket(local), socket(remote)).unwrap();
            assert_eq!((row.uid, row.inode, row.state), (1000, 42, 1));
        }
    }

    #[test]
    fn an_answer_about_anything_else_tells_nothing() {
        let (local, remote) = (socket("127.0.0.1:40000"), socket("127.0.0.1:2202"));
        for (case, datagram) in [
            (
                "our own end",
                about("127.0.0.1:2202", "127.0.0.1:40000", 7, 0, 1),
            ),
            ("a listener", about("127.0.0.1:40000", "0.0.0.0:0", 7, 0, 1)),
            (
                "another connection",
                about("127.0.0.1:40001", "127.0.0.1:2202", 7, 0, 1),
            ),
            (
                "another host",
                about("127.0.0.2:40000", "127.0.0.1:2202", 7, 0, 1),
            ),
            (
                "another request",
                about("127.0.0.1:40000", "127.0.0.1:2202", 6, 0, 1),
            ),
        ] {
            assert_eq!(answer(&datagram, 7, local, remote), None, "{case}");
        }
    }

    #[test]
    fn a_mapped_address_is_the_ipv4_address_it_maps() {
        let datagram = about(
            "[::ffff:127.0.0.1]:40000",
            "[::ffff:127.0.0.1]:2202",
            7,
            5,
            1,
        );
        let (local, remote) = (socket("127.0.0.1:40000"), socket("127.0.0.1:2202"));
        assert_eq!(answer(&datagram, 7, local, remote).unwrap().uid, 5);
        let mapped = exact(socket("[::ffff:127.0.0.1]:40000"), remote, 7).unwrap();
        assert_eq!(mapped, exact(local, remote, 7).unwrap());
        assert_eq!(exact(socket("[::1]:1"), remote, 7), None);
    }

    #[test]
    fn a_socket_that_only_lingers_belongs_to_nobody() {
        let mut datagram = about("127.0.0.1:1", "127.0.0.1:2", 7, 0, 0);
        datagram[HEADER + 1] = 5;
        datagram[HEADER + 2] = 3;
        let row = answer(&datagram, 7, socket("127.0.0.1:1"), socket("127.0.0.1:2")).unwrap();
        assert!(row.lingers());
    }

    #[test]
    fn errors_and_the_end_of_a_list_are_seen() {
        let mut datagram = about("127.0.0.1:1", "127.0.0.1:2", 7, 0, 0);
        datagram.extend(20_u32.to_ne_bytes());
        datagram.extend(TYPE_ERROR.to_ne_bytes());
        datagram.extend([0, 0]);
        datagram.extend(7_u32.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend((-2_i32).to_ne_bytes());
        datagram.extend(16_u32.to_ne_bytes());
        datagram.extend(TYPE_DONE.to_ne_bytes());
        datagram.extend([0, 0]);
        datagram.extend(7_u32.to_ne_bytes());
        datagram.extend([0; 4]);
        let messages = messages(&datagram, 7);
        assert!(matches!(messages[0], Message::Row(_)));
        assert_eq!(messages[1..], [Message::Failed(2), Message::Done]);
    }

    /// An attribute as the kernel writes it.
    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut res = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        res.extend(value);
        res.resize(usize::from(length).next_multiple_of(4), 0);
        res
    }

    #[test]
    fn progress_is_read_from_its_attribute_whatever_stands_before_it() {
        let (local, remote) = ("127.0.0.1:40000", "127.0.0.1:2202");
        let mut info = vec![0; 232];
        info[24..28].copy_from_slice(&3_u32.to_ne_bytes());
        info[56..60].copy_from_slice(&1_500_u32.to_ne_bytes());
        info[120..128].copy_from_slice(&70_000_u64.to_ne_bytes());
        info[148..152].copy_from_slice(&20_250_u32.to_ne_bytes());
        let told = |attributes: &[Vec<u8>]| {
            let mut datagram = about(local, remote, 7, 1000, 42);
            datagram[HEADER + 60..HEADER + 64].copy_from_slice(&4_321_u32.to_ne_bytes());
            datagram.extend(attributes.concat());
            let length = u32::try_from(datagram.len()).unwrap();
            datagram[..4].copy_from_slice(&length.to_ne_bytes());
            progress(&datagram, 7, socket(local), socket(remote))
        };
        let expected = Progress {
            waiting: 4_321,
            unanswered: 3,
            acknowledged: 70_000,
            heard: Duration::from_millis(1_500),
            round_trip: Duration::from_micros(20_250),
        };
        let older = Progress {
            round_trip: Duration::ZERO,
            ..expected
        };
        let (shutdown, info) = (attribute(8, &[0]), attribute(INFO, &info));
        assert_eq!(told(&[shutdown.clone(), info.clone()]), Some(expected));
        let before = attribute(INFO, &info[4..4 + 128]);
        assert_eq!(told(&[before]), Some(older), "of an older kernel");
        assert_eq!(told(&[]), None);
        assert_eq!(told(&[shutdown]), None);
        assert_eq!(told(&[attribute(INFO, &[0; 100])]), None);
        assert_eq!(told(&[vec![0; 64]]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_give_a_uid_for_a_connection_they_do_not_name(
            mut datagram in proptest::collection::vec(any::<u8>(), 0..200),
            flips in proptest::collection::vec((0_usize..88, any::<u8>()), 0..4),
        ) {
            let (local, remote) = ("127.0.0.1:40000", "127.0.0.1:2202");
            let _ = messages(&datagram, 7);
            let _ = progress(&datagram, 7, socket(local), socket(remote));
            datagram = about(local, remote, 7, 1000, 42);
            for (at, flip) in flips {
                datagram[at] ^= flip;
            }
            if let Some(row) = answer(&datagram, 7, socket(local), socket(remote)) {
                prop_assert_eq!((row.local, row.remote), (socket(local), socket(remote)));
                prop_assert_eq!(&datagram[HEADER + 4..HEADER + 8], &[0x9c, 0x40, 0x08, 0x9a]);
            }
        }
    }
}
