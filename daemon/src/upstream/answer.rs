//! Why an HTTP answer did not come, or not to its end: one judgement for every request.
//!
//! Must not know what was asked for.

use std::io;

use pomd_core::{
    config::Address,
    route::{
        error::{HttpError, StepError, SystemError, Target},
        head::{HEAD, HeadError, HeadReader},
        refusal::{self, OpenError},
    },
};
use rustls::ProtocolVersion;

use super::{
    record::{Records, RecvError, Remote},
    tls::{certificate::Identity, handshake},
};

/// What is known of a connection on which a request was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    /// The server.
    pub(super) server: &'a Address,
    /// The client certificate, where there is TLS.
    pub(super) identity: Option<&'a Identity>,
    /// The connection is a warm one: its server may have ended it for its age.
    pub(super) is_warm: bool,
}

impl Asked<'_> {
    /// Returns the error for an answer that failed in HTTP.
    pub(super) fn failed(&self, error: HttpError) -> OpenError {
        StepError::new(Target::Server(self.server.clone()), error).into()
    }

    /// Returns the error for bytes that are no head.
    pub(super) fn no_head(&self, error: HeadError, reader: &HeadReader) -> OpenError {
        self.failed(match error {
            HeadError::NotHttp => HttpError::NotHttp(reader.held().to_vec()),
            HeadError::TooLong => HttpError::HeadTooLong(HEAD >> 10),
            HeadError::TooManyInterim => HttpError::TooManyInterim,
            HeadError::Broken(error) => HttpError::BrokenHead(error.to_string()),
        })
    }

    /// Returns the error for a connection that ended before the answer did. `broken` is why writing failed before, and
    /// `begun` whether some of the answer came.
    pub(super) fn cut(
        &self,
        error: RecvError,
        broken: Option<SystemError>,
        begun: bool,
        remote: &Remote,
    ) -> OpenError {
        if let Some(how) = self.certificate_wanted(&error, begun, remote) {
            return refusal::certificate_wanted(&how);
        }
        // A server of `codec_type: http2` agrees on no protocol with us, and closes upon what we say.
        let agreed = match &remote.records {
            Records::Tls(tls) => tls.alpn_protocol().is_some(),
            Records::Plain => true,
        };
        let ended = !matches!(error, RecvError::Tls(_));
        let only_http2 = ended && !agreed && !self.is_warm && !begun;
        let why = match error {
            RecvError::Closed | RecvError::Cut => broken,
            RecvError::Tls(error) => Some(io::Error::other(error).into()),
            RecvError::Io(error) => Some(error.into()),
        };
        self.failed(HttpError::Closed {
            begun,
            why,
            only_http2,
        })
    }

    /// Returns how the server said that it wants a client certificate, if it did.
    fn certificate_wanted(
        &self,
        error: &RecvError,
        begun: bool,
        remote: &Remote,
    ) -> Option<String> {
        let identity = self.identity?;
        match error {
            RecvError::Tls(error) => handshake::certificate_wanted(error, identity),
            RecvError::Cut | RecvError::Io(_) => {
                let late_verdict = is_tls13(remote) && !begun && identity.may_be_missed();
                let how = "closed right after it had asked for a certificate";
                late_verdict.then(|| how.to_owned())
            }
            RecvError::Closed => None,
        }
    }
}

/// Only here does the client believe in a handshake that the server is about to refuse.
fn is_tls13(remote: &Remote) -> bool {
    match &remote.records {
        Records::Tls(tls) => tls.protocol_version() == Some(ProtocolVersion::TLSv1_3),
        Records::Plain => false,
    }
}
