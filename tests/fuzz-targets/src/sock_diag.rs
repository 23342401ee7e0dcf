//! Answers of the kernel that it never gave.

use std::net::{IpAddr, SocketAddr};

use pomd::system::sock_diag;

use crate::random::split_first;

const SEQUENCE: u32 = 7;
/// The header of a message, and the row of a socket behind it.
const MESSAGE: usize = 16 + 72;
const TYPE_SOCKET: u16 = 20;

/// Which connection is asked for, then what the kernel answers: a uid comes from a message that names both ends of that
/// very connection, or not at all.
pub(super) fn sock_diag(bytes: &[u8]) {
    let (asked, datagram) = split_first(bytes);
    let [local, remote] = match asked % 3 {
        0 => ["127.0.0.1:40000", "127.0.0.1:2202"],
        1 => ["[::1]:40000", "[::1]:2202"],
        _ => ["[::ffff:127.0.0.1]:40000", "127.0.0.1:2202"],
    }
    .map(|it| it.parse::<SocketAddr>().expect("an address"));
    let _ = sock_diag::messages(datagram, SEQUENCE);
    let answer = sock_diag::answer(datagram, SEQUENCE, local, remote);
    assert_eq!(
        answer.map(|it| (it.uid, it.inode)),
        slowly(datagram, local, remote)
    );
    if let Some(row) = answer {
        let told = [row.local, row.remote].map(sock_diag::canonical);
        assert_eq!(told, [local, remote].map(sock_diag::canonical));
    }
    let progress = sock_diag::progress(datagram, SEQUENCE, local, remote);
    assert!(
        progress.is_none() || answer.is_some(),
        "progress of another connection"
    );
}

/// Uid and inode of the first message about `local` and `remote`, found by comparing bytes.
fn slowly(datagram: &[u8], local: SocketAddr, remote: SocketAddr) -> Option<(u32, u32)> {
    let number = |at: usize| {
        let bytes = datagram.get(at..at + 4)?;
        Some(u32::from_ne_bytes(bytes.try_into().ok()?))
    };
    let mut at = 0;
    loop {
        let length = usize::try_from(number(at)?).ok()?;
        if length < 16 || at.checked_add(length)? > datagram.len() {
            return None;
        }
        let message = &datagram[at..at + length];
        let is_row = message[4..6] == TYPE_SOCKET.to_ne_bytes() && number(at + 8) == Some(SEQUENCE);
        if is_row && length >= MESSAGE {
            let ports = [local.port(), remote.port()].map(u16::to_be_bytes).concat();
            let names = |family: u8, local: &[u8], remote: &[u8]| {
                message[16] == family
                    && message[20..24] == ports
                    && message[24..].starts_with(local)
                    && message[40..].starts_with(remote)
            };
            let found = match (local.ip().to_canonical(), remote.ip().to_canonical()) {
                (IpAddr::V4(a), IpAddr::V4(b)) => {
                    names(2, &a.octets(), &b.octets())
                        || names(
                            10,
                            &a.to_ipv6_mapped().octets(),
                            &b.to_ipv6_mapped().octets(),
                        )
                }
                (IpAddr::V6(a), IpAddr::V6(b)) => names(10, &a.octets(), &b.octets()),
                _ => false,
            };
            if found {
                return Some((number(at + 16 + 64)?, number(at + 16 + 68)?));
            }
        }
        at += length.next_multiple_of(4);
    }
}
