//! The record layer against rustls' server, over loopback.

use std::io::{Read as _, Write as _};

use rustls::{HandshakeKind, ServerConnection, crypto::aws_lc_rs::kx_group::SECP256R1};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsAcceptor;

use super::{
    testing::{Identity, NAME, Setup, TLS_1_2, shake, sockets, tls},
    *,
};
use crate::buffer::borrowed;

async fn send(remote: &mut Remote, bytes: &[u8]) {
    for part in bytes.chunks(64 * 1024) {
        remote.queue(part).unwrap();
        poll_fn(|cx| remote.poll_flush(cx)).await.unwrap();
    }
}

async fn recv(remote: &mut Remote) -> Result<Vec<u8>, RecvError> {
    poll_fn(|cx| remote.poll_recv(cx))
        .await
        .map(|buffer| buffer.bytes().to_vec())
}

/// A word each way, and both ends.
async fn speaks(setup: &Setup) {
    let (mut remote, mut server) = tls(setup).await;
    send(&mut remote, b"ping").await;
    let mut got = [0; 4];
    server.read_exact(&mut got).await.unwrap();
    server.write_all(b"pong").await.unwrap();
    assert_eq!(
        (&got, recv(&mut remote).await.unwrap().as_slice()),
        (b"ping", &b"pong"[..])
    );
    assert_eq!(borrowed(), 0, "an idle connection owns no buffer");
    server.shutdown().await.unwrap();
    assert!(matches!(recv(&mut remote).await, Err(RecvError::Closed)));
    assert!(matches!(recv(&mut remote).await, Err(RecvError::Closed)));
    remote.queue_close().unwrap();
    poll_fn(|cx| remote.poll_flush(cx)).await.unwrap();
    assert_eq!(
        server.read(&mut got).await.unwrap(),
        0,
        "close_notify both ways"
    );
}

#[tokio::test]
async fn tls_1_3_carries_a_word_each_way() {
    speaks(&Setup::default()).await;
}

#[tokio::test]
async fn tls_1_2_carries_a_word_each_way() {
    speaks(&Setup {
        versions: TLS_1_2,
        ..Setup::default()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_wants_another_key_share_gets_it() {
    let setup = Setup {
        server_groups: vec![SECP256R1],
        ..Setup::default()
    };
    let (_, server) = tls(&setup).await;
    assert_eq!(
        server.get_ref().1.handshake_kind(),
        Some(HandshakeKind::FullWithHelloRetryRequest)
    );
    speaks(&setup).await;
}

#[tokio::test]
async fn a_client_certificate_chain_larger_than_a_buffer_is_sent() {
    let client = Identity::new().with_ballast(30_000).with_ballast(30_000);
    speaks(&Setup {
        client: Some(client),
        ..Setup::default()
    })
    .await;
}

#[tokio::test]
async fn certificates_of_more_than_64_kib_are_an_error_and_no_wait() {
    let setup = Setup {
        server: Identity::new().with_ballast(40_000).with_ballast(40_000),
        ..Setup::default()
    };
    let (near, far) = sockets().await;
    let acceptor = TlsAcceptor::from(setup.server_config());
    let (ours, theirs) = tokio::join!(shake(near, &setup), acceptor.accept(far));
    let Err(HandshakeError::Tls(error)) = ours else {
        unreachable!("not an error of TLS: {ours:?}");
    };
    assert_eq!(error, InvalidMessage::HandshakePayloadTooLarge.into());
    assert!(theirs.is_err());
    assert_eq!(borrowed(), 0);
}

#[tokio::test]
async fn certificates_that_fit_no_buffer_for_their_many_records_are_an_error() {
    let setup = Setup {
        server: Identity::new().with_ballast(50_000),
        ..Setup::default()
    };
    let (near, far) = sockets().await;
    let mut config = Arc::unwrap_or_clone(setup.server_config());
    config.max_fragment_size = Some(64);
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let (ours, _) = tokio::join!(shake(near, &setup), acceptor.accept(far));
    assert!(
        matches!(ours, Err(HandshakeError::Tls(_))),
        "{:?}",
        ours.err()
    );
}

#[tokio::test]
async fn certificates_of_just_under_64_kib_pass() {
    speaks(&Setup {
        server: Identity::new().with_ballast(31_000).with_ballast(31_000),
        ..Setup::default()
    })
    .await;
}

#[tokio::test]
async fn an_unknown_certificate_is_an_error_and_the_server_is_told() {
    let (near, far) = sockets().await;
    let acceptor = TlsAcceptor::from(Setup::default().server_config());
    let stranger = Setup::default();
    let (ours, theirs) = tokio::join!(shake(near, &stranger), acceptor.accept(far));
    assert!(matches!(
        ours,
        Err(HandshakeError::Tls(rustls::Error::InvalidCertificate(_)))
    ));
    let told = theirs.unwrap_err().to_string();
    assert!(told.contains("received fatal alert"), "{told}");
}

#[tokio::test]
async fn a_peer_that_closes_in_the_handshake_is_an_unexpected_end() {
    let (near, mut far) = sockets().await;
    far.shutdown().await.unwrap();
    let Err(HandshakeError::Io(e)) = shake(near, &Setup::default()).await else {
        unreachable!("it cannot succeed");
    };
    assert_eq!(e.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn plain_http_is_an_error_of_tls() {
    let (near, mut far) = sockets().await;
    far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        .await
        .unwrap();
    let refused = shake(near, &Setup::default()).await;
    assert!(matches!(refused, Err(HandshakeError::Tls(_))));
}

/// A server whose records leave one at a time.
struct Slow {
    socket: TcpStream,
    connection: ServerConnection,
}

impl Slow {
    /// Shakes hands; whatever the server says behind the handshake is still in `connection`.
    async fn new(setup: &Setup) -> (Remote, Self) {
        let mut config = Arc::unwrap_or_clone(setup.server_config());
        config.max_fragment_size = Some(32);
        let (near, mut socket) = sockets().await;
        let mut connection = ServerConnection::new(Arc::new(config)).unwrap();
        let server = async {
            while connection.is_handshaking() {
                Self::say(&mut socket, &mut connection).await;
                if connection.is_handshaking() {
                    Self::hear(&mut socket, &mut connection).await;
                }
            }
        };
        let (remote, ()) = tokio::join!(shake(near, setup), server);
        (remote.unwrap(), Self { socket, connection })
    }

    async fn say(socket: &mut TcpStream, connection: &mut ServerConnection) {
        let mut sealed = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut sealed).unwrap();
        }
        socket.write_all(&sealed).await.unwrap();
    }

    async fn hear(socket: &mut TcpStream, connection: &mut ServerConnection) {
        let mut some = [0; 4096];
        let n = socket.read(&mut some).await.unwrap();
        assert!(n > 0, "the client went away");
        let mut rest = &some[..n];
        while !rest.is_empty() {
            connection.read_tls(&mut rest).unwrap();
            connection.process_new_packets().unwrap();
        }
    }

    /// The records that wait, one by one.
    fn records(&mut self) -> Vec<Vec<u8>> {
        let mut sealed = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut sealed).unwrap();
        }
        let (mut rest, mut records) = (&sealed[..], Vec::new());
        while let [_, _, _, high, low, ..] = *rest {
            let (record, more) = rest.split_at(5 + usize::from(u16::from_be_bytes([high, low])));
            records.push(record.to_vec());
            rest = more;
        }
        records
    }
}

#[tokio::test]
async fn bytes_are_sealed_while_half_a_ticket_has_arrived() {
    let (mut remote, mut server) = Slow::new(&Setup::default()).await;
    server.connection.writer().write_all(b"answer").unwrap();
    let records = server.records();
    assert!(records.len() > 4, "tickets in several records");
    let mut said = Vec::new();
    for record in &records {
        // Between any two records, and in the middle of one.
        for half in record.chunks(record.len() / 2) {
            server.socket.write_all(half).await.unwrap();
            poll_fn(|cx| remote.socket.poll_read_ready(cx))
                .await
                .unwrap();
            let read = poll_fn(|cx| Poll::Ready(remote.poll_recv(cx))).await;
            if let Poll::Ready(answer) = read {
                said.extend_from_slice(answer.unwrap().bytes());
            }
            assert_eq!(borrowed(), 0);
            send(&mut remote, b"x").await;
            Slow::hear(&mut server.socket, &mut server.connection).await;
            let mut heard = [0; 2];
            assert_eq!(server.connection.reader().read(&mut heard).unwrap(), 1);
        }
    }
    assert_eq!(said, b"answer");
}

#[tokio::test]
async fn what_came_in_the_same_breath_as_the_end_of_the_handshake_is_not_lost() {
    // In TLS 1.2 the server ends the handshake: its first words may come with that, and so may its end.
    let setup = Setup {
        versions: TLS_1_2,
        ..Setup::default()
    };
    let (near, mut socket) = sockets().await;
    let mut connection = ServerConnection::new(setup.server_config()).unwrap();
    let server = async {
        while connection.is_handshaking() {
            Slow::hear(&mut socket, &mut connection).await;
            if !connection.is_handshaking() {
                connection.writer().write_all(b"early").unwrap();
                connection.send_close_notify();
            }
            Slow::say(&mut socket, &mut connection).await;
        }
    };
    let (remote, ()) = tokio::join!(shake(near, &setup), server);
    let mut remote = remote.unwrap();
    assert_eq!(recv(&mut remote).await.unwrap(), b"early");
    assert!(matches!(recv(&mut remote).await, Err(RecvError::Closed)));
    assert_eq!(borrowed(), 0);
}

#[tokio::test]
async fn a16_t4_an_end_without_close_notify_is_a_cut() {
    let (mut remote, mut server) = tls(&Setup::default()).await;
    server.get_mut().0.shutdown().await.unwrap();
    assert!(matches!(recv(&mut remote).await, Err(RecvError::Cut)));
}

#[tokio::test]
async fn an_alert_is_an_error_of_tls() {
    // The server of TLS 1.3 tells only after our side of the handshake that it wanted a certificate.
    let server = Setup {
        client: Some(Identity::new()),
        ..Setup::default()
    };
    let client = Setup {
        client: None,
        ..Setup::default()
    };
    let (near, far) = sockets().await;
    let acceptor = TlsAcceptor::from(server.server_config());
    let ours = async {
        let name = ServerName::try_from(NAME).unwrap();
        let mut config = Arc::unwrap_or_clone(server.client_config());
        config.client_auth_cert_resolver = client.client_config().client_auth_cert_resolver.clone();
        let mut remote = Remote::handshake(near, Arc::new(config), name)
            .await
            .unwrap();
        recv(&mut remote).await
    };
    let (ours, theirs) = tokio::join!(ours, acceptor.accept(far));
    assert!(theirs.is_err());
    let Err(RecvError::Tls(rustls::Error::AlertReceived(alert))) = ours else {
        unreachable!("not an alert: {ours:?}");
    };
    assert_eq!(alert, rustls::AlertDescription::CertificateRequired);
}

#[tokio::test]
async fn many_small_pieces_may_be_queued_before_one_flush() {
    let (mut remote, mut server) = tls(&Setup::default()).await;
    for i in 0..5000_u16 {
        remote.queue(&i.to_le_bytes()).unwrap();
    }
    poll_fn(|cx| remote.poll_flush(cx)).await.unwrap();
    for i in 0..5000_u16 {
        assert_eq!(server.read_u16_le().await.unwrap(), i);
    }
    assert_eq!(borrowed(), 0);
}

#[tokio::test]
async fn without_tls_bytes_pass_as_they_are_and_a_fin_is_the_end() {
    let (near, mut far) = sockets().await;
    let mut remote = Remote::plain(near);
    send(&mut remote, b"ping").await;
    let mut got = [0; 4];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"ping");
    far.write_all(b"pong").await.unwrap();
    assert_eq!(recv(&mut remote).await.unwrap(), b"pong");
    drop(far);
    assert!(matches!(recv(&mut remote).await, Err(RecvError::Closed)));
    assert_eq!(borrowed(), 0);
}

#[test]
fn a_read_ends_where_full_records_end() {
    let record = |length: usize| {
        let mut record = vec![23, 3, 3];
        record.extend(u16::try_from(length - HEADER).unwrap().to_be_bytes());
        record.resize(length, 0);
        record
    };
    let whole = 4 * FULL;
    assert!(whole <= buffer::SIZE && whole + FULL > buffer::SIZE);
    assert_eq!(to_a_records_end(&[]), whole);
    for begun in [HEADER, 100, FULL - 1] {
        assert_eq!(to_a_records_end(&record(FULL)[..begun]), whole - begun);
    }
    assert_eq!(
        to_a_records_end(&record(1000)[..10]),
        990 + 3 * FULL,
        "the one begun is shorter"
    );
    assert_eq!(
        to_a_records_end(&record(1000)[..4]),
        whole - 4,
        "not known yet"
    );
    assert_eq!(
        to_a_records_end(&record(1000).repeat(2)),
        3 * FULL,
        "kept for the rest of a handshake message"
    );
}
