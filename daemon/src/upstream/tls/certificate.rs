//! What is wrong with a certificate; and the two ways of verifying one.
//!
//! Knows certificates and TLS errors. Must not know files, sockets or clusters.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use jiff::Timestamp;
use pomd_core::route::error::CertificateProblem;
use rustls::{
    AlertDescription, CertificateError, DigitallySignedStruct, Error, OtherError, SignatureScheme,
    client::{
        ResolvesClientCert,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{self, CryptoProvider},
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};

/// A certificate that was not accepted, with its issuer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{cause}")]
pub(in crate::upstream) struct Distrusted {
    pub(in crate::upstream) cause: CertificateError,
    /// The issuer's common name (or organisation), as it stands in the certificate.
    pub(in crate::upstream) issuer: Option<String>,
}

/// Verifies as `0` does, and keeps the issuer of what it refuses.
#[derive(Debug)]
pub(in crate::upstream) struct NamesIssuer(pub(in crate::upstream) Arc<dyn ServerCertVerifier>);

impl ServerCertVerifier for NamesIssuer {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.0
            .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
            .map_err(|error| match error {
                Error::InvalidCertificate(cause) => {
                    let issuer = issuer(end_entity);
                    let distrusted = Distrusted { cause, issuer };
                    Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(
                        distrusted,
                    ))))
                }
                other => other,
            })
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Accepts any certificate whose key is really there: `insecure_skip_verify`.
#[derive(Debug)]
pub(in crate::upstream) struct AcceptsAny(pub(in crate::upstream) Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptsAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The client certificate, if there is one; whether any server ever asked for it, and whether any server answered a request
/// all the same. Only a server that asked can be unhappy with the answer.
#[derive(Debug, Default)]
pub(in crate::upstream) struct Identity {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
    answered: AtomicBool,
}

impl Identity {
    pub(in crate::upstream) fn new(key: Option<CertifiedKey>) -> Self {
        Self {
            key: key.map(Arc::new),
            asked: AtomicBool::new(false),
            answered: AtomicBool::new(false),
        }
    }

    pub(in crate::upstream) fn was_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Notes that a server answered in HTTP.
    pub(in crate::upstream) fn answered(&self) {
        self.answered.store(true, Ordering::Relaxed);
    }

    /// Whether a mere close may be the way in which a server says that it misses a certificate: it asked for one, got
    /// none, and never went on without.
    pub(in crate::upstream) fn may_be_missed(&self) -> bool {
        self.was_asked() && self.key.is_none() && !self.answered.load(Ordering::Relaxed)
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    fn has_certs(&self) -> bool {
        self.key.is_some()
    }
}

/// Returns what is wrong with a certificate that was not accepted.
pub(super) fn problem(cause: &CertificateError) -> CertificateProblem {
    use CertificateError as E;
    match cause {
        E::UnknownIssuer => CertificateProblem::UnknownIssuer,
        E::BadSignature => CertificateProblem::BadSignature,
        E::ExpiredContext { not_after, .. } => CertificateProblem::Expired(not_after.as_secs()),
        E::NotValidYetContext { not_before, .. } => {
            CertificateProblem::NotYetValid(not_before.as_secs())
        }
        E::NotValidForNameContext {
            expected,
            presented,
        } => CertificateProblem::WrongName {
            expected: expected.to_str().into_owned(),
            presented: presented.iter().map(|it| bare_name(it)).collect(),
        },
        other => CertificateProblem::Other(other.to_string()),
    }
}

/// Whether a certificate is of no use because it is of X.509 version 1.
pub(super) fn is_version_one(error: &Error) -> bool {
    error.to_string().contains("UnsupportedCertVersion")
}

/// Returns why a certificate is of no use, in rustls' words.
pub(super) fn reason(error: &Error) -> String {
    let text = error.to_string();
    text.trim_start_matches("invalid peer certificate: ")
        .to_owned()
}

/// Returns what a [`NamesIssuer`] put into an error of rustls.
pub(in crate::upstream) fn distrusted(error: &Error) -> Option<&Distrusted> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(it)) => it.0.downcast_ref(),
        _ => None,
    }
}

/// Whether a server says by this alert that it wants a client certificate, or a better one. `asked`: it asked for one.
pub(in crate::upstream) fn wants_certificate(alert: AlertDescription, asked: bool) -> bool {
    match alert {
        AlertDescription::CertificateRequired
        | AlertDescription::UnknownCA
        | AlertDescription::BadCertificate => true,
        // Servers say these for many reasons; after a request for a certificate it is the one. A bad signature may also
        // be one by an authority that was renewed under its old name.
        AlertDescription::HandshakeFailure
        | AlertDescription::DecryptError
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::AccessDenied => asked,
        _ => false,
    }
}

/// Returns the name of an alert: `handshake failure`.
pub(in crate::upstream) fn alert_name(alert: AlertDescription) -> String {
    let mut res = String::new();
    let mut before_was_upper = true;
    for c in format!("{alert:?}").chars() {
        if c.is_uppercase() && !before_was_upper {
            res.push(' ');
        }
        before_was_upper = c.is_uppercase();
        res.extend(c.to_lowercase());
    }
    res
}

/// A name of a certificate, which rustls lists as `DnsName("a.example")`.
fn bare_name(listed: &str) -> String {
    let inner = listed.split_once('(').map_or(listed, |(_, inner)| inner);
    inner.trim_end_matches(')').trim_matches('"').to_owned()
}

/// Returns who issued `certificate`: the common name, else the organisation.
pub(super) fn issuer(certificate: &[u8]) -> Option<String> {
    let (_, certificate) = Der(certificate).next()?;
    let (_, signed) = Der(certificate).next()?;
    let mut fields = Der(signed);
    // A version stands before the serial number, except in version 1.
    if fields.next()?.0 == Der::VERSION {
        fields.next()?;
    }
    let _algorithm = fields.next()?;
    let (_, name) = fields.next()?;
    attribute(name, 3).or_else(|| attribute(name, 10))
}

/// Returns from when and until when `certificate` is valid.
pub(in crate::upstream) fn validity(certificate: &[u8]) -> Option<(Timestamp, Timestamp)> {
    let (_, certificate) = Der(certificate).next()?;
    let (_, signed) = Der(certificate).next()?;
    let mut fields = Der(signed);
    if fields.next()?.0 == Der::VERSION {
        fields.next()?;
    }
    let (_algorithm, _issuer) = (fields.next()?, fields.next()?);
    let mut times = Der(fields.next()?.1);
    Some((time(times.next()?)?, time(times.next()?)?))
}

/// A time of a certificate: two digits of the year, or four.
fn time((tag, digits): (u8, &[u8])) -> Option<Timestamp> {
    const SHORT: u8 = 0x17;
    let digits = std::str::from_utf8(digits).ok()?.strip_suffix('Z')?;
    let century = match digits.get(..2)? {
        year if tag == SHORT && year < "50" => "20",
        _ if tag == SHORT => "19",
        _ => "",
    };
    let whole = format!("{century}{digits}");
    let civil = jiff::civil::DateTime::strptime("%Y%m%d%H%M%S", whole).ok()?;
    Some(civil.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
}

/// The attribute `2.5.4.kind` of a distinguished name.
fn attribute(name: &[u8], kind: u8) -> Option<String> {
    Der(name)
        .flat_map(|(_, set)| Der(set))
        .find_map(|(_, pair)| {
            let mut pair = Der(pair);
            let (_, id) = pair.next()?;
            let (_, value) = pair.next()?;
            (id == [0x55, 4, kind]).then(|| String::from_utf8_lossy(value).into_owned())
        })
}

/// The elements of a piece of DER, as tag and content; ends at the first that is not whole.
pub(in crate::upstream) struct Der<'a>(pub(in crate::upstream) &'a [u8]);

impl Der<'_> {
    /// The tag of a certificate's version.
    const VERSION: u8 = 0xa0;
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [tag, first, rest @ ..] = self.0 else {
            return None;
        };
        let (length, rest) = match *first {
            short @ 0..=0x7f => (usize::from(short), rest),
            long @ 0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
                let length = digits
                    .iter()
                    .fold(0_u64, |sum, it| sum << 8 | u64::from(*it));
                (usize::try_from(length).ok()?, rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((*tag, content))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DnType, Issuer, KeyPair};

    use super::*;

    fn issued_by(names: &[(DnType, &str)]) -> CertificateDer<'static> {
        let mut authority = CertificateParams::default();
        authority.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, name) in names {
            authority.distinguished_name.push(kind.clone(), *name);
        }
        let issuer = Issuer::new(authority, KeyPair::generate().unwrap());
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        leaf.signed_by(&key, &issuer).unwrap().der().clone()
    }

    #[test]
    fn the_issuer_is_found_by_its_common_name_or_organisation() {
        let both = [
            (DnType::OrganizationName, "Corp"),
            (DnType::CommonName, "Zscaler Intermediate Root CA"),
        ];
        assert_eq!(
            issuer(&issued_by(&both)).as_deref(),
            Some("Zscaler Intermediate Root CA")
        );
        assert_eq!(issuer(&issued_by(&both[..1])).as_deref(), Some("Corp"));
        assert_eq!(issuer(&issued_by(&[])), None);
        assert_eq!(issuer(b""), None);
    }

    proptest! {
        #[test]
        fn no_certificate_makes_the_search_fail(cut in 0..2000_usize, at in 0..2000_usize, byte: u8) {
            let mut bytes = issued_by(&[(DnType::CommonName, "Corp")]).to_vec();
            let at = at % bytes.len();
            bytes[at] = byte;
            bytes.truncate(cut);
            issuer(&bytes);
            validity(&bytes);
        }
    }

    #[test]
    fn the_days_of_a_certificate_are_read_in_both_forms() {
        let key = KeyPair::generate().unwrap();
        for (from, until) in [((1975, 1, 2), (2049, 3, 4)), ((2024, 2, 29), (2750, 1, 1))] {
            let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
            params.not_before = rcgen::date_time_ymd(from.0, from.1, from.2);
            params.not_after = rcgen::date_time_ymd(until.0, until.1, until.2);
            let certificate = params.self_signed(&key).unwrap();
            let found = validity(certificate.der()).unwrap();
            let day = |(y, m, d): (i32, u8, u8)| format!("{y:04}-{m:02}-{d:02}T00:00:00Z");
            let expected = (day(from), day(until));
            assert_eq!((found.0.to_string(), found.1.to_string()), expected);
        }
    }

    #[test]
    fn alerts_have_readable_names() {
        assert_eq!(
            alert_name(AlertDescription::HandshakeFailure),
            "handshake failure"
        );
        assert_eq!(alert_name(AlertDescription::UnknownCA), "unknown ca");
        assert_eq!(alert_name(AlertDescription::BadRecordMac), "bad record mac");
    }

    #[test]
    fn a_handshake_failure_is_about_a_certificate_only_if_one_was_asked_for() {
        for asked in [true, false] {
            assert!(wants_certificate(
                AlertDescription::CertificateRequired,
                asked
            ));
            for alert in [
                AlertDescription::HandshakeFailure,
                AlertDescription::DecryptError,
            ] {
                assert_eq!(wants_certificate(alert, asked), asked);
            }
            assert!(!wants_certificate(AlertDescription::ProtocolVersion, asked));
        }
    }

    #[test]
    fn names_lose_their_wrapping() {
        let listed = ["DnsName(\"a.example\")", "IpAddress(127.0.0.1)", "b"];
        assert_eq!(listed.map(bare_name), ["a.example", "127.0.0.1", "b"]);
    }
}
