//! A plain client of Pomerium: rustls and bytes, nothing of pomd. It holds the gateway to the real thing.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, RootCertStore,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use socket2::SockRef;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::PATIENCE;

/// Where a client dials, and whom it trusts.
#[derive(Clone)]
pub struct Front {
    address: SocketAddr,
    tls: TlsConnector,
}

/// How a connection ended, as the reader of its TLS sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// close_notify.
    Clean,
    /// FIN without close_notify.
    Cut,
    /// RST.
    Reset,
}

/// A connection past its CONNECT.
#[derive(Debug)]
pub struct Tunnel {
    /// The TLS connection.
    pub tls: TlsStream<TcpStream>,
    /// The answer's head.
    pub head: String,
    /// Bytes that came right behind it.
    pub first: Vec<u8>,
}

impl Front {
    /// Dials `address` and trusts `ca_pem`.
    pub fn new(address: SocketAddr, ca_pem: &str) -> Self {
        Self::with_provider(address, ca_pem, aws_lc_rs::default_provider())
    }

    /// The same with the crypto of another client.
    pub fn with_provider(address: SocketAddr, ca_pem: &str, provider: CryptoProvider) -> Self {
        let mut roots = RootCertStore::empty();
        let added = CertificateDer::from_pem_slice(ca_pem.as_bytes()).map(|it| roots.add(it));
        assert!(matches!(added, Ok(Ok(()))), "no certificate: {ca_pem}");
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions();
        let config = config.unwrap_or_else(|error| panic!("{error}"));
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self {
            address,
            tls: TlsConnector::from(Arc::new(config)),
        }
    }

    /// Shakes hands under `name`.
    pub async fn dial(&self, name: &str) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(self.address).await?;
        tcp.set_nodelay(true)?;
        let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
        self.tls.connect(name, tcp).await
    }

    /// Sends a CONNECT for `authority` with `early` in the same flight and reads the answer's head.
    pub async fn open(&self, authority: &str, token: &str, early: &[u8]) -> Tunnel {
        let tls = self.dial(authority.split(':').next().unwrap_or_default());
        let mut tls = tls
            .await
            .unwrap_or_else(|error| panic!("dialling: {error}"));
        let mut flight = connect_head(authority, token).into_bytes();
        flight.extend_from_slice(early);
        let sent = tls.write_all(&flight).await;
        sent.unwrap_or_else(|error| panic!("sending the CONNECT: {error}"));
        let _ = tls.flush().await;
        read_answer(tls).await
    }
}

/// The head that a client of Pomerium sends.
pub fn connect_head(authority: &str, token: &str) -> String {
    format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nAuthorization: Pomerium {token}\r\n\
         Accept: application/json\r\n\r\n"
    )
}

/// Reads a local connection until it ends.
pub async fn read_all(stream: &mut (impl AsyncRead + Unpin)) -> (Vec<u8>, Ending) {
    let mut got = Vec::new();
    let ending = read_on(stream, &mut got).await;
    (got, ending)
}

async fn read_on(stream: &mut (impl AsyncRead + Unpin), got: &mut Vec<u8>) -> Ending {
    let mut piece = vec![0; 64 << 10];
    loop {
        // The limit is for silence: a long transfer may take longer than that in all.
        let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await;
        match read {
            Ok(Ok(0)) => return Ending::Clean,
            Ok(Ok(n)) => got.extend_from_slice(&piece[..n]),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ending::Cut,
            Ok(Err(_)) => return Ending::Reset,
            Err(_) => panic!(
                "neither bytes nor an end for {PATIENCE:?}; {} bytes came",
                got.len()
            ),
        }
    }
}

/// `n` bytes that differ from their neighbours.
pub fn pattern(n: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(0);
    let mut res = vec![0; n];
    random.fill(&mut res);
    res
}

/// Reads an answer's head.
pub async fn read_answer(mut tls: TlsStream<TcpStream>) -> Tunnel {
    let mut got = Vec::new();
    let end = loop {
        if let Some(at) = got.windows(4).position(|it| it == b"\r\n\r\n") {
            break at + 4;
        }
        let read = tokio::time::timeout(PATIENCE, tls.read_buf(&mut got)).await;
        let so_far = String::from_utf8_lossy(&got);
        match read {
            Ok(Ok(1..)) => {}
            other => panic!("no whole answer ({other:?}): {so_far:?}"),
        }
    };
    let first = got.split_off(end);
    Tunnel {
        tls,
        head: String::from_utf8_lossy(&got).into_owned(),
        first,
    }
}

impl Tunnel {
    /// The answer's status.
    pub fn status(&self) -> u16 {
        let status = self.head.split(' ').nth(1);
        status.and_then(|it| it.parse().ok()).unwrap_or_default()
    }

    /// The value of a header of the answer; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        let lines = self.head.lines().skip(1);
        lines
            .filter_map(|it| it.split_once(':'))
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim().to_owned())
    }

    /// Reads `n` bytes, those behind the head first.
    pub async fn read(&mut self, n: usize) -> Vec<u8> {
        let mut got = std::mem::take(&mut self.first);
        while got.len() < n {
            let read = tokio::time::timeout(PATIENCE, self.tls.read_buf(&mut got)).await;
            match read {
                Ok(Ok(1..)) => {}
                other => panic!("{} of {n} bytes came: {other:?}", got.len()),
            }
        }
        self.first = got.split_off(n);
        got
    }

    /// Reads until the connection ends.
    pub async fn read_to_end(&mut self) -> (Vec<u8>, Ending) {
        let mut got = std::mem::take(&mut self.first);
        let ending = read_on(&mut self.tls, &mut got).await;
        (got, ending)
    }

    /// Ends it with RST.
    pub fn reset(self) {
        let tcp = self.tls.get_ref().0;
        let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
    }
}

impl std::fmt::Debug for Front {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Front({})", self.address)
    }
}
