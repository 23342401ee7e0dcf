//! The lines of `/proc/net/tcp` and `/proc/net/tcp6`, for systems that do not answer socket diagnosis. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::sock_diag::{Row, canonical};

/// The sockets of one file; lines that make no sense are left out.
pub fn rows(text: &str) -> impl Iterator<Item = Row> {
    text.lines().skip(1).filter_map(row)
}

fn row(line: &str) -> Option<Row> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let local = address(words.next()?)?;
    let remote = address(words.next()?)?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let timer = words.nth(1)?.split(':').next()?;
    let uid = words.nth(1)?;
    let inode = words.nth(1)?;
    Some(Row {
        local,
        remote,
        state,
        timer: u8::from_str_radix(timer, 16).ok()?,
        uid: uid.parse().ok()?,
        inode: inode.parse().ok()?,
    })
}

/// `0100007F:089A`: words of 32 bits as they lie in memory, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let mut bytes = [0; 16];
    for (at, word) in bytes.chunks_exact_mut(4).enumerate().take(ip.len() / 8) {
        let word_text = ip.get(at * 8..at * 8 + 8)?;
        let value = u32::from_str_radix(word_text, 16).ok()?;
        word.copy_from_slice(&value.to_ne_bytes());
    }
    let ip: IpAddr = match ip.len() {
        8 => Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]).into(),
        32 => Ipv6Addr::from(bytes).into(),
        _ => return None,
    };
    let port = u16::from_str_radix(port, 16).ok()?;
    Some(canonical(SocketAddr::new(ip, port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn lines_of_both_files_are_read() {
        let v4 = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
             0: 0100007F:9C40 0100007F:089A 01 00000000:00000000 00:00000000 00000000  1000        0 43989 1 0 20 4 30 10 -1\n   \
             1: 0100007F:9C41 0100007F:089A 06 00000000:00000000 03:000016F2 00000000     0        0 0 3 0\n";
        let rows: Vec<_> = super::rows(v4).collect();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].local, "127.0.0.1:40000".parse().unwrap());
        assert_eq!(rows[0].remote, "127.0.0.1:2202".parse().unwrap());
        assert_eq!(
            (rows[0].state, rows[0].uid, rows[0].inode),
            (1, 1000, 43989)
        );
        assert!(!rows[0].lingers() && rows[1].lingers());

        let v6 = "  sl  header\n   0: 00000000000000000000000001000000:0CEA 00000000000000000000000000000000:0000 0A \
            00000000:00000000 00:00000000 00000000   110        0 777 1 0 100 0 0 10 0\n   \
            1: 0000000000000000FFFF00000100007F:9C40 0000000000000000FFFF00000100007F:089A 01 \
            00000000:00000000 00:00000000 00000000   111        0 778 1 0\n";
        let rows: Vec<_> = super::rows(v6).collect();
        assert_eq!(rows[0].local, "[::1]:3306".parse().unwrap());
        assert_eq!(rows[0].uid, 110);
        assert_eq!(rows[1].local, "127.0.0.1:40000".parse().unwrap());
    }

    proptest! {
        #[test]
        fn no_text_is_too_strange_to_be_read(text in "\\PC*", line in "[0-9A-F: ]{0,160}") {
            let _ = rows(&text).count();
            let _ = rows(&format!("\n{line}\né{line}")).count();
        }
    }
}
