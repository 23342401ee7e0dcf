//! Why a TLS handshake failed, in words. Pure.

use std::io;

use pomd_core::route::refusal::{self, OpenError, Step, Unreachable};
use rustls::{AlertDescription, Error, InvalidMessage};

use super::{
    super::{dial::reason, record::HandshakeError},
    certificate::{self, Identity},
};

/// What to do about a server that seems to speak HTTP/2 alone.
pub(in crate::upstream) const ONLY_H2: &str = "a server that speaks only HTTP/2 does that: pomd needs HTTP/1.1, so Pomerium's codec_type must not be http2";

/// What a stream of tokio-rustls says of a failed handshake.
pub(in crate::upstream) fn error(error: io::Error) -> HandshakeError {
    let tls = error.get_ref().and_then(|it| it.downcast_ref());
    match tls.cloned() {
        Some(it) => HandshakeError::Tls(it),
        None => HandshakeError::Io(error),
    }
}

/// Why the handshake with `peer` failed. `another` is what speaks there instead of TLS, where somebody looked.
pub(in crate::upstream) fn failed(
    error: &HandshakeError,
    peer: &str,
    identity: &Identity,
    place: &str,
    another: Option<&str>,
) -> OpenError {
    let error = match error {
        HandshakeError::Io(error) => return broke_off(error, peer).into(),
        HandshakeError::Tls(error) => error,
    };
    if let Some(distrusted) = certificate::distrusted(error) {
        let (message, hint) = certificate::told(distrusted, peer, place);
        return Unreachable::new(Step::Tls, &message).hint(&hint).into();
    }
    if let Some(wanted) = certificate_wanted(error, identity) {
        return wanted;
    }
    if speaks_no_tls(error) {
        let instead = another.map(|it| format!(" ({it} answered)"));
        let message = format!("{peer} does not speak TLS{}", instead.unwrap_or_default());
        return Unreachable::new(Step::Tls, &message)
            .hint("is the port right, or a login page in the way?")
            .into();
    }
    if matches!(
        error,
        Error::AlertReceived(AlertDescription::NoApplicationProtocol)
    ) {
        let message = format!("{peer} refused TLS: it does not speak HTTP/1.1");
        return Unreachable::new(Step::Tls, &message).hint(ONLY_H2).into();
    }
    let message = match error {
        Error::AlertReceived(alert) => {
            let words = certificate::alert_words(*alert);
            format!("{peer} refused TLS: {words}")
        }
        other => format!("cannot agree on TLS with {peer}: {other}"),
    };
    Unreachable::new(Step::Tls, &message).into()
}

/// The refusal behind an alert that says a client certificate is missing or not good; it may come long after the
/// handshake (TLS 1.3).
pub(in crate::upstream) fn certificate_wanted(
    error: &Error,
    identity: &Identity,
) -> Option<OpenError> {
    match error {
        Error::AlertReceived(alert)
            if certificate::wants_certificate(*alert, identity.was_asked()) =>
        {
            Some(refusal::certificate_wanted(&certificate::alert_words(
                *alert,
            )))
        }
        _ => None,
    }
}

/// What came is not TLS at all.
pub(in crate::upstream) fn speaks_no_tls(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidMessage(
            InvalidMessage::InvalidContentType
                | InvalidMessage::UnknownProtocolVersion
                | InvalidMessage::MessageTooLarge
                | InvalidMessage::InvalidEmptyPayload
        )
    )
}

fn broke_off(error: &io::Error, peer: &str) -> Unreachable {
    let message = match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            format!("{peer} closed the connection during the TLS handshake")
        }
        _ => {
            let why = reason(error);
            format!("the TLS handshake with {peer} broke off: {why}")
        }
    };
    Unreachable::new(Step::Tls, &message).hint("is a firewall or a TLS inspection in the way?")
}
