//! A certificate authority and scripted servers for the tests of this room.

use std::{io, net::SocketAddr, path::PathBuf, sync::Arc};

use pomd_core::{
    config::{
        Address, Authority, BrowserChoice, ClientIdentity, ClusterName, ClusterSpec, ForwardProxy,
        Host, HostPattern, Protocol, Route,
    },
    session::token::Token,
};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, DnValue, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
    server::WebPkiClientVerifier,
};
use tempfile::TempDir;
use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{Early, Limits, Upstream};

/// The host of the cluster under test.
pub(crate) const HOST: &str = "corp.example.com";

/// One certificate authority, its files, and a listener that plays the server.
pub(crate) struct Lab {
    pub(crate) folder: TempDir,
    pub(crate) listener: TcpListener,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    pub(crate) limits: Limits,
}

impl Lab {
    pub(crate) async fn new() -> Self {
        Self::signed_by("Corp Lab CA").await
    }

    /// With an authority of this name.
    pub(crate) async fn signed_by(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, DnValue::Utf8String(name.to_owned()));
        let root = params.self_signed(&key).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), root.pem()).unwrap();
        Self {
            folder,
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
            root: root.der().clone(),
            issuer: Issuer::new(params, key),
            limits: Limits::default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// A cluster that trusts the lab's authority and is dialled at the lab's listener.
    pub(crate) fn spec(&self) -> ClusterSpec {
        let at = self.address();
        ClusterSpec {
            hosts: vec![
                HostPattern::parse(HOST).unwrap(),
                HostPattern::parse("*.corp.example.com").unwrap(),
            ],
            login_at: vec![corp()],
            ports: [corp().port].into(),
            connect: Some(Authority {
                host: Host::Ip(at.ip()),
                port: at.port(),
            }),
            server_name: None,
            ca_file: Some(self.path("ca.pem")),
            client_identity: None,
            forward_proxy: ForwardProxy::Environment,
            forward_proxy_auth: None,
            browser: BrowserChoice::None,
            token: pomd_core::config::TokenSpec::default(),
            insecure_skip_verify: false,
            named: true,
        }
    }

    /// The same cluster in a lab without TLS.
    pub(crate) fn plain_spec(&self) -> ClusterSpec {
        let plain = Address {
            tls: false,
            ..corp()
        };
        ClusterSpec {
            login_at: vec![plain],
            ..self.spec()
        }
    }

    pub(crate) fn upstream(&self) -> Upstream {
        self.upstream_of(self.spec())
    }

    pub(crate) fn upstream_of(&self, spec: ClusterSpec) -> Upstream {
        Upstream::new(ClusterName::parse("corp").unwrap(), spec, self.limits)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A certificate of the lab's authority and its key.
    pub(crate) fn leaf(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (rcgen::Certificate, KeyPair) {
        let names: Vec<_> = names.iter().map(|it| (*it).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// Writes a client certificate and its key; `name` keeps several apart.
    pub(crate) fn client_identity(&self, name: &str) -> ClientIdentity {
        let (certificate, key) = self.leaf(&["alice"], |_| {});
        let res = ClientIdentity {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
        };
        std::fs::write(&res.certificate, certificate.pem()).unwrap();
        let _ = std::fs::remove_file(&res.key);
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(&res.key).unwrap();
        std::io::Write::write_all(&mut file, key.serialize_pem().as_bytes()).unwrap();
        res
    }

    /// A good server.
    pub(crate) fn server(&self) -> TlsAcceptor {
        self.server_for(&[HOST], |_| {})
    }

    /// A server with a certificate for `names`.
    pub(crate) fn server_for(
        &self,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> TlsAcceptor {
        acceptor(self.leaf(names, change), None)
    }

    /// A server that asks for a client certificate, and insists on it if told to.
    pub(crate) fn asking_server(&self, insists: bool) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        let verifier = if insists {
            verifier
        } else {
            verifier.allow_unauthenticated()
        };
        acceptor(self.leaf(&[HOST], |_| {}), Some(verifier.build().unwrap()))
    }

    /// TLS for a proxy on loopback that asks for a client certificate, and breaks off if it gets one.
    pub(crate) fn asking_proxy(&self) -> TlsAcceptor {
        let verifier = Arc::new(Nobody);
        acceptor(self.leaf(&["127.0.0.1"], |_| {}), Some(verifier))
    }

    /// The next connection, without TLS.
    pub(crate) async fn accept_plain(&self) -> TcpStream {
        let socket = self.listener.accept().await.unwrap().0;
        // Else an answer may wait for an acknowledgement, and be lost when the socket is closed.
        socket.set_nodelay(true).unwrap();
        socket
    }

    /// The next connection, past its handshake.
    pub(crate) async fn accept(&self, tls: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
        tls.accept(self.accept_plain().await).await
    }
}

/// Asks for a client certificate and takes none.
#[derive(Debug)]
struct Nobody;

impl rustls::server::danger::ClientCertVerifier for Nobody {
    fn root_hint_subjects(&self) -> &[rustls::DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::server::danger::ClientCertVerified, rustls::Error> {
        Err(rustls::CertificateError::ApplicationVerificationFailure.into())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::CertificateError::BadSignature.into())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::CertificateError::BadSignature.into())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let provider = aws_lc_rs::default_provider();
        provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn acceptor(
    (certificate, key): (rcgen::Certificate, KeyPair),
    client: Option<Arc<dyn rustls::server::danger::ClientCertVerifier>>,
) -> TlsAcceptor {
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match client {
        Some(it) => config.with_client_cert_verifier(it),
        None => config.with_no_client_auth(),
    };
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = config
        .with_single_cert(vec![certificate.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// Reads until the head of a request is whole: the head, and what came behind it.
pub(crate) async fn head<S>(stream: &mut S) -> (String, Vec<u8>)
where
    S: tokio::io::AsyncRead + Unpin,
{
    let mut bytes = Vec::new();
    loop {
        if let Some(at) = bytes.windows(4).position(|it| it == b"\r\n\r\n") {
            let rest = bytes.split_off(at + 4);
            return (String::from_utf8(bytes).unwrap(), rest);
        }
        assert_ne!(
            stream.read_buf(&mut bytes).await.unwrap(),
            0,
            "no whole head"
        );
    }
}

pub(crate) fn corp() -> Address {
    Address {
        tls: true,
        host: Host::Name(HOST.to_owned()),
        port: 443,
    }
}

pub(crate) fn route() -> Route {
    Route {
        protocol: Protocol::Tcp,
        authority: Authority {
            host: Host::Name(HOST.to_owned()),
            port: 22,
        },
        address: corp(),
    }
}

pub(crate) fn token() -> Token {
    Token::parse("secret.jwt").unwrap()
}

pub(crate) fn early<R>(source: R) -> Early<R> {
    Early {
        source,
        kept: Vec::new(),
        ended: false,
    }
}
