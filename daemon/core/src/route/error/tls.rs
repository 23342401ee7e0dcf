//! Why there is no TLS, and why what the configuration says of it cannot be used.

use std::{path::PathBuf, time::Duration};

use super::SystemError;
use crate::config::Host;

/// Why there is no TLS.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// What the configuration says of TLS cannot be used.
    #[error("the settings cannot be used")]
    Settings(#[from] SettingsError),
    /// No certificate can be for this name.
    #[error("no certificate can be for this name")]
    Name(Host),
    /// The handshake took longer than it may.
    #[error("the handshake took too long")]
    TimedOut(Duration),
    /// The connection ended or broke in the handshake.
    #[error("the connection broke off")]
    Io(#[source] SystemError),
    /// Something else than TLS is spoken there.
    #[error("it does not speak TLS")]
    NotTls {
        /// What, where a second look could tell.
        instead: Option<&'static str>,
    },
    /// The server speaks no HTTP/1.1.
    #[error("it does not speak HTTP/1.1")]
    NoHttp1,
    /// The server's certificate is not acceptable.
    #[error("its certificate is not acceptable")]
    Certificate {
        /// What is wrong with it.
        problem: CertificateProblem,
        /// The issuer's common name, else organisation, as it stands in the certificate.
        issuer: Option<String>,
    },
    /// The server wants a client certificate, or another one. Holds how it said so.
    #[error("it wants a client certificate: {0}")]
    ClientCertificate(String),
    /// The server sent this alert.
    #[error("alert: {0}")]
    Alert(String),
    /// The two sides cannot agree.
    #[error("{0}")]
    Protocol(String),
}

/// What is wrong with the certificate of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CertificateProblem {
    /// Nobody here knows its issuer.
    UnknownIssuer,
    /// Its issuer is known, and did not sign it.
    BadSignature,
    /// It expired then, in seconds since 1970.
    Expired(u64),
    /// It is not valid before then, in seconds since 1970.
    NotYetValid(u64),
    /// It is for other names.
    WrongName {
        /// The name that was wanted.
        expected: String,
        /// The names it is for.
        presented: Vec<String>,
    },
    /// Something rarer, in rustls' words.
    Other(String),
}

/// Why the TLS settings of a cluster cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A file of the configuration.
    #[error("a file cannot be used")]
    File(#[from] FileError),
    /// Reading the files took longer than it may.
    #[error("reading the files took too long")]
    TimedOut(Duration),
    /// The system has no roots.
    #[error("this machine has no roots: {0}")]
    NoRoots(String),
    /// The TLS library cannot be set up.
    #[error("TLS cannot be set up: {0}")]
    Library(String),
    /// pomd is ending.
    #[error("pomd is ending")]
    Ending,
}

/// Why a file that the configuration names cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}")]
pub struct FileError {
    /// The key of the configuration that names it.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    #[source]
    pub problem: FileProblem,
}

/// What is wrong with a file that the configuration names.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    /// It cannot be read.
    #[error("it cannot be read")]
    Io(#[source] SystemError),
    /// Its owner or mode, or its kind, is not good enough: the reader of such files says what.
    #[error("{0}")]
    Refused(String),
    /// It does not hold what it should.
    #[error("it does not hold what it should")]
    Pem(#[source] PemError),
    /// The certificate or the key is of no use. Holds the TLS library's words.
    #[error("{0}")]
    Crypto(String),
    /// The certificate is one of X.509 version 1.
    #[error("it is of X.509 version 1")]
    VersionOne,
    /// The certificate belongs to another key than the one in this file.
    #[error("it belongs to another key")]
    OtherKey(PathBuf),
    /// It holds no user and password.
    #[error("it holds no user and password")]
    NoCredentials,
}

/// What is looked for in a PEM file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PemKind {
    /// A certificate.
    Certificate,
    /// A private key.
    PrivateKey,
}

/// Why a PEM file, or a part of it, is of no use.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// There is nothing in the file.
    #[error("it is empty")]
    Empty,
    /// There is no block of the kind that was looked for.
    #[error("it is not there")]
    Missing {
        /// What was looked for.
        wanted: PemKind,
        /// The label of the first block, where there is one.
        found: Option<String>,
        /// The file looks like DER.
        is_der: bool,
    },
    /// A block is damaged.
    #[error("it is damaged")]
    Damaged {
        /// What it says it is.
        kind: PemKind,
        /// The line it begins in, from 1.
        line: usize,
        /// What is wrong with it.
        damage: PemDamage,
    },
    /// A certificate is in OpenSSL's own form.
    #[error("it is in OpenSSL's own form")]
    Trusted {
        /// The line it begins in, from 1.
        line: usize,
    },
    /// The key has a passphrase.
    #[error("it has a passphrase")]
    Encrypted,
    /// The key is one of ssh.
    #[error("it is a key of ssh")]
    Ssh,
}

/// What is wrong with a damaged block of a PEM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PemDamage {
    /// It has a passphrase.
    Encrypted,
    /// It does not end.
    NoEnd,
    /// It is not base64.
    NotBase64,
    /// It is one of X.509 version 1.
    VersionOne,
    /// It is no certificate, in the TLS library's words.
    Crypto(String),
}

impl TlsError {
    pub(super) fn timed_out(&self) -> bool {
        matches!(
            self,
            Self::TimedOut(_) | Self::Settings(SettingsError::TimedOut(_))
        )
    }
}
