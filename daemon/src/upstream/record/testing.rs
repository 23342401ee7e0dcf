//! For tests: a rustls server over loopback, and the client's half of its configuration.

use std::sync::Arc;

use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, SupportedKxGroup, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{HandshakeError, Remote};

pub(crate) const NAME: &str = "proxy.test";
pub(crate) static TLS_1_3: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub(crate) static TLS_1_2: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];

/// A certificate that nobody but the test trusts.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(vec![NAME.into()]).unwrap();
        Self {
            chain: vec![made.cert.der().clone()],
            key: made.signing_key.serialize_der(),
        }
    }

    pub(crate) fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(self.key.clone().into())
    }

    /// Appends `bytes` of ballast to the chain.
    pub(crate) fn with_ballast(mut self, bytes: usize) -> Self {
        let mut parameters = rcgen::CertificateParams::new(vec![NAME.into()]).unwrap();
        // A private extension that means nothing.
        parameters.custom_extensions = vec![rcgen::CustomExtension::from_oid_content(
            &[1, 3, 6, 1, 4, 1, 99999, 1],
            vec![7; bytes],
        )];
        let key = rcgen::KeyPair::generate().unwrap();
        self.chain
            .push(parameters.self_signed(&key).unwrap().der().clone());
        self
    }

    pub(crate) fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.chain[0].clone()).unwrap();
        roots
    }
}

/// What a test wants different.
pub(crate) struct Setup {
    pub(crate) versions: &'static [&'static SupportedProtocolVersion],
    pub(crate) server_groups: Vec<&'static dyn SupportedKxGroup>,
    pub(crate) server: Identity,
    /// The server asks for this client certificate, and the client has it.
    pub(crate) client: Option<Identity>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            versions: TLS_1_3,
            server_groups: aws_lc_rs::default_provider().kx_groups,
            server: Identity::new(),
            client: None,
        }
    }
}

impl Setup {
    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(CryptoProvider {
            kx_groups: self.server_groups.clone(),
            ..aws_lc_rs::default_provider()
        });
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(self.versions)
            .unwrap();
        let builder = match &self.client {
            None => builder.with_no_client_auth(),
            Some(client) => builder.with_client_cert_verifier(
                rustls::server::WebPkiClientVerifier::builder_with_provider(
                    Arc::new(client.roots()),
                    provider,
                )
                .build()
                .unwrap(),
            ),
        };
        Arc::new(
            builder
                .with_single_cert(self.server.chain.clone(), self.server.key())
                .unwrap(),
        )
    }

    pub(crate) fn client_config(&self) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(self.versions)
            .unwrap()
            .with_root_certificates(self.server.roots());
        Arc::new(match &self.client {
            None => builder.with_no_client_auth(),
            Some(client) => builder
                .with_client_auth_cert(client.chain.clone(), client.key())
                .unwrap(),
        })
    }
}

/// Both ends of a TCP connection over loopback.
pub(crate) async fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap());
    let (near, far) = tokio::join!(near, listener.accept());
    let (near, far) = (near.unwrap(), far.unwrap().0);
    near.set_nodelay(true).unwrap();
    far.set_nodelay(true).unwrap();
    (near, far)
}

/// Our end of a connection whose other end is `far`.
pub(crate) async fn shake(near: TcpStream, setup: &Setup) -> Result<Remote, HandshakeError> {
    let name = ServerName::try_from(NAME).unwrap();
    Remote::handshake(near, setup.client_config(), name).await
}

/// Both ends of a TLS connection.
pub(crate) async fn tls(setup: &Setup) -> (Remote, TlsStream<TcpStream>) {
    let (near, far) = sockets().await;
    let acceptor = TlsAcceptor::from(setup.server_config());
    let (remote, server) = tokio::join!(shake(near, setup), acceptor.accept(far));
    (remote.unwrap(), server.unwrap())
}
