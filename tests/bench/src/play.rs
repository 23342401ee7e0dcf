//! The processes that pomd is measured against; each is this program once more, so that only its own CPU counts.

use std::{fs, io::Read, net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

use integration::{
    binary::binary,
    client::Front,
    deployment::Deployment,
    eventually,
    pomd::{folder, run_with_input},
    process::Process,
};
use pomd::upstream::tls::cipher_suites;
use rustls::{
    ClientConfig,
    client::Resumption,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use rustls_platform_verifier::Verifier;
use tokio::{
    io::copy_bidirectional_with_sizes,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

use crate::{lab, measure, memory};

/// As much as pomd reads and writes at once.
const BUFFER: usize = 64 << 10;
/// How long a client by hand may take in all.
const LIMIT: Duration = Duration::from_secs(600);

/// Plays a role until it is over, or for ever.
pub(crate) async fn play(role: &str, arguments: &[String]) {
    let address = arguments.first().and_then(|it| it.parse().ok());
    match (role, address, arguments.get(1..)) {
        ("relay", Some(to), _) => relay(to).await,
        ("by-hand", Some(server), Some([ca, count])) => {
            by_hand(server, Path::new(ca), count.parse().unwrap()).await;
        }
        ("handshakes", Some(server), Some([ca, count])) => {
            handshakes(server, Path::new(ca), count.parse().unwrap()).await;
        }
        ("clients", Some(tunnel), Some([count])) => {
            memory::clients(tunnel, count.parse().unwrap()).await;
        }
        _ => panic!("nobody plays {role} with {arguments:?}"),
    }
}

/// A plain TCP relay in a process of its own.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Process,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Relay {
    /// Relays to `to`.
    pub(crate) async fn start(to: SocketAddr) -> Self {
        let folder = folder();
        let mut command = Command::new(binary("bench"));
        command.args(["--play", "relay", &to.to_string()]);
        let mut process = Process::start("relay", &mut command, &folder.path().join("words"));
        let address = eventually("the relay listens", async || {
            process.assert_runs();
            let words = process.words();
            words.strip_suffix('\n')?.parse().ok()
        })
        .await;
        Self {
            process,
            address,
            _folder: folder,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.pid()
    }
}

async fn relay(to: SocketAddr) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    println!("{}", listener.local_addr().unwrap());
    let mut connections = JoinSet::new();
    loop {
        let (near, _) = listener.accept().await.unwrap();
        connections.spawn(carry(near, to));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(mut near: TcpStream, to: SocketAddr) {
    let Ok(mut far) = TcpStream::connect(to).await else {
        return;
    };
    let _ = near.set_nodelay(true).and(far.set_nodelay(true));
    // How it ends is for its two sides to judge.
    let _ = copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await;
}

/// What pomd's connections are measured against.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sample {
    /// TCP and TLS, and nothing said.
    Handshake,
    /// All that a client has to say to get one byte of the service.
    ByHand,
}

/// Makes so many connections one after the other, in a process of its own; returns the CPU time it took for them.
pub(crate) async fn connects(deployment: &Deployment, sample: Sample, count: usize) -> Duration {
    let role = match sample {
        Sample::Handshake => "handshakes",
        Sample::ByHand => "by-hand",
    };
    let mut command = Command::new(binary("bench"));
    command
        .args(["--play", role, &deployment.address().to_string()])
        .arg(deployment.ca_file())
        .arg(count.to_string());
    let output = run_with_input(command, lab::token(deployment).as_bytes(), LIMIT).await;
    let said = String::from_utf8_lossy(&output.stdout);
    let took = said.trim().parse().map(Duration::from_millis);
    took.unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Full handshakes with pomd's suites and its kind of verifier.
async fn handshakes(server: SocketAddr, ca: &Path, count: usize) {
    let provider = Arc::new(cipher_suites::provider());
    let ca = CertificateDer::from_pem_file(ca).unwrap();
    let verifier = Verifier::new_with_extra_roots([ca], provider.clone()).unwrap();
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    let tls = TlsConnector::from(Arc::new(config));
    let shake = async || {
        let tcp = TcpStream::connect(server).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        let name = ServerName::try_from(lab::HOST).unwrap();
        drop(tls.connect(name, tcp).await.unwrap());
    };
    // The first one reads certificates and the like.
    shake().await;
    let me = std::process::id();
    let before = measure::cpu(me);
    for _ in 0..count {
        shake().await;
    }
    println!("{}", (measure::cpu(me) - before).as_millis());
}

/// The token comes on standard input.
async fn by_hand(server: SocketAddr, ca: &Path, count: usize) {
    let mut token = String::new();
    std::io::stdin().read_to_string(&mut token).unwrap();
    let front = Front::new(server, &fs::read_to_string(ca).unwrap());
    let me = std::process::id();
    let before = measure::cpu(me);
    for _ in 0..count {
        let mut tunnel = front.open(lab::ROUTE, &token, b"").await;
        assert_eq!(tunnel.status(), 200, "{}", tunnel.head);
        lab::first_byte(&mut tunnel.tls).await;
    }
    println!("{}", (measure::cpu(me) - before).as_millis());
}
