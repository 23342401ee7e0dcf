//! What a TLS handshake came to: why it failed, or what was agreed on, as a value.

use pomd_core::route::{error::TlsError, trail::TlsFound};
use rustls::{AlertDescription, Error, InvalidMessage, ProtocolVersion};

use super::{
    super::record::{HandshakeError, Records, Remote},
    certificate::{self, Identity},
};

/// Returns why the handshake failed in which `identity` was at hand.
pub(super) fn error(error: HandshakeError, identity: &Identity) -> TlsError {
    let error = match error {
        HandshakeError::Io(error) => return TlsError::Io(error.into()),
        HandshakeError::Tls(error) => error,
    };
    if let Some(distrusted) = certificate::distrusted(&error) {
        return TlsError::Certificate {
            problem: certificate::problem(&distrusted.cause),
            issuer: distrusted.issuer.clone(),
        };
    }
    if let Some(alert) = certificate_wanted(&error, identity) {
        return TlsError::ClientCertificate(alert);
    }
    match error {
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
            | InvalidMessage::UnknownProtocolVersion
            | InvalidMessage::MessageTooLarge
            | InvalidMessage::InvalidEmptyPayload,
        ) => TlsError::NotTls { instead: None },
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) => TlsError::NoHttp1,
        Error::AlertReceived(alert) => TlsError::Alert(certificate::alert_name(alert)),
        other => TlsError::Protocol(other.to_string()),
    }
}

/// Returns what the handshake of `remote` agreed on, and what its server's certificate says; `None` without TLS.
pub(in crate::upstream) fn found(remote: &Remote) -> Option<TlsFound> {
    let Records::Tls(tls) = &remote.records else {
        return None;
    };
    let version = match tls.protocol_version()? {
        ProtocolVersion::TLSv1_3 => "1.3".to_owned(),
        ProtocolVersion::TLSv1_2 => "1.2".to_owned(),
        other => format!("{other:?}"),
    };
    let leaf = tls.peer_certificates().and_then(<[_]>::first);
    Some(TlsFound {
        version,
        group: tls
            .negotiated_key_exchange_group()
            .map(|it| format!("{:?}", it.name())),
        issuer: leaf.and_then(|it| certificate::issuer(it)),
        until: leaf.and_then(|it| Some(certificate::validity(it)?.1)),
    })
}

/// Returns the name of the alert by which a server says that a client certificate is missing or not good; it may come
/// long after the handshake (TLS 1.3).
pub(in crate::upstream) fn certificate_wanted(
    error: &Error,
    identity: &Identity,
) -> Option<String> {
    match error {
        Error::AlertReceived(alert)
            if certificate::wants_certificate(*alert, identity.was_asked()) =>
        {
            Some(certificate::alert_name(*alert))
        }
        _ => None,
    }
}
