//! The test certificate authority and the certificates that the gateway can show. Knows no sockets.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};

/// Which certificate the gateway shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Certificate {
    /// The right names, signed by the gateway's authority, valid.
    #[default]
    Good,
    /// Ended long ago.
    Expired,
    /// Begins in the far future.
    NotYetValid,
    /// For a name that nobody asks for.
    WrongName,
    /// Signed by an authority that nobody trusts.
    OtherAuthority,
    /// Signed by a product that decrypts the TLS of a network.
    Inspected,
}

/// A certificate and its key as PEM, for a client.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    other: CertifiedIssuer<'static, KeyPair>,
    inspector: CertifiedIssuer<'static, KeyPair>,
    names: Vec<String>,
}

impl Authority {
    /// For `names` and this machine's loopback names.
    pub(crate) fn new(mut names: Vec<String>) -> Result<Self, rcgen::Error> {
        for loopback in ["localhost", "127.0.0.1", "::1"] {
            names.push(loopback.to_owned());
        }
        names.sort();
        names.dedup();
        Ok(Self {
            issuer: authority("Make-believe Pomerium CA")?,
            other: authority("A CA that nobody trusts")?,
            inspector: authority("Zscaler Intermediate Root CA")?,
            names,
        })
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A client certificate that [`Authority::server`] takes.
    pub(crate) fn client_identity(&self, name: &str) -> Result<Identity, rcgen::Error> {
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ClientAuth);
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A server certificate as PEM, for a server that stands in front of the gateway.
    pub(crate) fn server_identity(&self, which: Certificate) -> Result<Identity, rcgen::Error> {
        let names = match which {
            Certificate::WrongName => vec!["somebody-else.invalid".to_owned()],
            _ => self.names.clone(),
        };
        let mut params = CertificateParams::new(names)?;
        params
            .distinguished_name
            .push(DnType::CommonName, "simulated Pomerium");
        params
            .extended_key_usages
            .push(ExtendedKeyUsagePurpose::ServerAuth);
        match which {
            Certificate::Expired => {
                params.not_before = date_time_ymd(2001, 1, 1);
                params.not_after = date_time_ymd(2002, 1, 1);
            }
            Certificate::NotYetValid => params.not_before = date_time_ymd(2200, 1, 1),
            _ => {}
        }
        let issuer = match which {
            Certificate::OtherAuthority => &self.other,
            Certificate::Inspected => &self.inspector,
            _ => &self.issuer,
        };
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, issuer)?;
        Ok(Identity {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// The server's side of TLS; with `ask`, only clients with a certificate of ours get through.
    pub(crate) fn server(
        &self,
        which: Certificate,
        ask: bool,
    ) -> Result<Arc<ServerConfig>, anyhow::Error> {
        let identity = self.server_identity(which)?;
        let chain = vec![CertificateDer::from_pem_slice(
            identity.certificate.as_bytes(),
        )?];
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes())?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let builder = if ask {
            let mut roots = RootCertStore::empty();
            roots.add(self.issuer.der().clone())?;
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

fn authority(name: &str) -> Result<CertifiedIssuer<'static, KeyPair>, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate()?)
}
