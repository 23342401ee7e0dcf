//! Why a TLS handshake failed, as a value.

use pomd_core::route::error::TlsError;
use rustls::{AlertDescription, Error, InvalidMessage};

use super::{
    super::record::HandshakeError,
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
