//! Wherever the server ends and however: the local side sees a prefix of what it sent, and the whole of it exactly if
//! the end looks clean.

use std::io::Write as _;

use proptest::prelude::*;
use rustls::ServerConnection;

use super::*;

#[derive(Clone, Copy, Debug)]
enum How {
    Fin,
    Reset,
}

/// Ciphertext of `parts` bytes of noise and a close_notify.
fn seal(connection: &mut ServerConnection, parts: &[usize]) -> (Vec<u8>, Vec<u8>) {
    let (mut plain, mut sealed) = (Vec::new(), Vec::new());
    for &part in parts {
        let bytes = &noise()[plain.len()..plain.len() + part];
        connection.writer().write_all(bytes).unwrap();
        plain.extend_from_slice(bytes);
        while connection.wants_write() {
            connection.write_tls(&mut sealed).unwrap();
        }
    }
    connection.send_close_notify();
    while connection.wants_write() {
        connection.write_tls(&mut sealed).unwrap();
    }
    (plain, sealed)
}

async fn ends(parts: &[usize], cut: Option<prop::sample::Index>, how: How) {
    let (remote, server) = tls(&Setup::default()).await;
    let mut rig = Rig::over(remote, Want::default()).await;
    let (mut socket, mut connection) = server.into_inner();
    let (plain, sealed) = seal(&mut connection, parts);
    let cut = cut.map_or(sealed.len(), |cut| cut.index(sealed.len()));
    socket.write_all(&sealed[..cut]).await.unwrap();
    if matches!(how, How::Reset) {
        socket.set_zero_linger().unwrap();
    }
    drop(socket);
    let (seen, end) = read_all(&mut rig.app).await;
    assert!(plain.starts_with(&seen), "a prefix");
    match end {
        Ok(()) => assert_eq!((seen.len(), cut), (plain.len(), sealed.len())),
        Err(kind) => {
            assert_eq!(kind, io::ErrorKind::ConnectionReset);
            assert!(cut < sealed.len() || matches!(how, How::Reset));
        }
    }
    let _ = rig.app.shutdown().await;
    rig.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_local_side_sees_a_prefix_and_a_clean_end_only_behind_the_whole(
        parts in prop::collection::vec(prop_oneof![1..40_usize, 1..40_000_usize], 0..6),
        cut in proptest::option::of(any::<prop::sample::Index>()),
        how in prop_oneof![Just(How::Fin), Just(How::Reset)],
    ) {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(ends(&parts, cut, how));
    }
}
