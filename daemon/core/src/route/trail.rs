//! What the steps of opening a route met on the way, for who wants to see it.

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;

/// What the steps met. Each part is there once its step was taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trail {
    /// The addresses of the name that was looked up.
    pub addresses: Vec<IpAddr>,
    /// Who took the connection.
    pub peer: Option<SocketAddr>,
    /// What the handshake agreed on.
    pub tls: Option<TlsFound>,
}

/// What a handshake agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFound {
    /// The version of TLS, such as `1.3`.
    pub version: String,
    /// The group of the key exchange, such as `X25519MLKEM768`.
    pub group: Option<String>,
    /// The issuer of the server's certificate, as it stands there.
    pub issuer: Option<String>,
    /// When that certificate expires.
    pub until: Option<Timestamp>,
}
