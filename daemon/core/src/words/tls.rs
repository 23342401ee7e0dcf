//! TLS that did not come about, told; and what is wrong with the files that the configuration names for it.

use std::{fmt::Write, io, path::Path};

use control::text::clean;
use jiff::Timestamp;

use super::{
    limit,
    step::{IN_THE_WAY, ONLY_HTTP2},
};
use crate::route::error::{
    CertificateProblem, FileError, FileProblem, PemDamage, PemError, PemKind, SettingsError,
    Target, TlsError,
};

const VERSION_ONE: &str =
    "it is an X.509 certificate of version 1, and only version 3 is supported";
const ENCRYPTED: &str = "its key has a passphrase, and pomd cannot ask for it: remove it with openssl pkey -in OLD -out NEW";
const LOGIN_PAGE: &str = "is a login page or a TLS inspection in the way?";
const CLOCK: &str =
    "this machine's clock is judged by: is it right? Else the server needs a new one";

pub(super) fn message(error: &TlsError, target: &Target) -> String {
    match error {
        TlsError::Settings(error) => settings(error),
        TlsError::Name(name) => format!("no certificate can be for the name {name}"),
        TlsError::TimedOut(after) => {
            let after = limit(*after);
            format!("the TLS handshake with {target} took more than {after}")
        }
        TlsError::Io(error) if error.kind == io::ErrorKind::UnexpectedEof => {
            format!("{target} closed the connection during the TLS handshake")
        }
        TlsError::Io(error) => {
            let why = error;
            format!("the TLS handshake with {target} broke off: {why}")
        }
        TlsError::NotTls { instead } => {
            let instead = instead.map_or(String::new(), |it| format!(" ({it} answered)"));
            format!("{target} does not speak TLS{instead}")
        }
        TlsError::NoHttp1 => format!("{target} refused TLS: it does not speak HTTP/1.1"),
        TlsError::Certificate { problem, issuer } => {
            let problem = certificate(problem, issuer.as_deref());
            format!("the certificate of {target} {problem}")
        }
        TlsError::ClientCertificate(how) => format!("{target} wants a client certificate: {how}"),
        TlsError::Alert(alert) => format!("{target} refused TLS: {alert}"),
        TlsError::Protocol(why) => format!("cannot agree on TLS with {target}: {why}"),
    }
}

pub(super) fn advice(error: &TlsError, section: &str) -> Option<String> {
    Some(match error {
        TlsError::Settings(SettingsError::NoRoots(_)) => {
            format!("install the system's roots (ca-certificates), or set ca_file in {section}")
        }
        TlsError::Settings(SettingsError::Ending) => return None,
        TlsError::Settings(_) => format!("see {section}"),
        TlsError::TimedOut(_) | TlsError::Io(_) => IN_THE_WAY.to_owned(),
        TlsError::NotTls { .. } => "is the port right, or a login page in the way?".to_owned(),
        TlsError::NoHttp1 => ONLY_HTTP2.to_owned(),
        TlsError::Certificate { problem, issuer } => match problem {
            CertificateProblem::UnknownIssuer if issuer.as_deref().is_some_and(decrypts) => {
                format!(
                    "this network decrypts TLS: ask your IT department to exempt this host, or trust its CA by ca_file in {section}"
                )
            }
            CertificateProblem::UnknownIssuer => format!(
                "{LOGIN_PAGE} If this Pomerium has a private CA, ca_file in {section} must hold it"
            ),
            CertificateProblem::BadSignature => {
                format!("{LOGIN_PAGE} If its private CA is a new one, renew ca_file in {section}")
            }
            CertificateProblem::Expired(_) | CertificateProblem::NotYetValid(_) => CLOCK.to_owned(),
            CertificateProblem::WrongName { .. } => {
                format!("{LOGIN_PAGE} If one of its names is right, set server_name in {section}")
            }
            CertificateProblem::Other(_) => LOGIN_PAGE.to_owned(),
        },
        TlsError::Name(_)
        | TlsError::ClientCertificate(_)
        | TlsError::Alert(_)
        | TlsError::Protocol(_) => return None,
    })
}

/// Returns what is wrong with the TLS settings of a cluster, as a sentence.
pub fn settings(error: &SettingsError) -> String {
    match error {
        SettingsError::File(error) => file(error),
        SettingsError::TimedOut(after) => {
            format!("reading the certificates took more than {}", limit(*after))
        }
        SettingsError::NoRoots(why) => {
            format!("no certificate can be verified on this machine: {why}")
        }
        SettingsError::Library(why) => format!("TLS cannot be set up: {why}"),
        SettingsError::Ending => "the TLS settings cannot be made: pomd is ending".to_owned(),
    }
}

/// Returns what is wrong with a file that the configuration names, as a sentence.
pub fn file(error: &FileError) -> String {
    let FileError { key, path, problem } = error;
    let path = path.display();
    let why = match problem {
        FileProblem::Io(error) => {
            return format!("cannot read {key} {path}: {}", error.text);
        }
        FileProblem::Refused(why) | FileProblem::Crypto(why) => why.clone(),
        FileProblem::Pem(error) => pem(error),
        FileProblem::VersionOne => VERSION_ONE.to_owned(),
        FileProblem::OtherKey(key) => format!("{} is not its key", key.display()),
        FileProblem::NoCredentials => "it does not hold user:password in one line".to_owned(),
    };
    format!("cannot use {key} {path}: {why}")
}

/// Returns the warning for a file that is used without a part of it.
pub fn used_in_part(key: &str, path: &Path, bad: &PemError) -> String {
    format!(
        "{key} {} is used without a part: {}",
        path.display(),
        pem(bad)
    )
}

/// When a certificate that is out of its term would be good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// It was good until then.
    Expired(Timestamp),
    /// It will be good from then on.
    NotBefore(Timestamp),
}

/// Returns the warning for a certificate that is out of its term. `place` is which one of how many of the file it is.
pub fn out_of_term(key: &str, path: &Path, place: (usize, usize), term: Term) -> String {
    let day = |it: Timestamp| it.strftime("%Y-%m-%d");
    let what = match term {
        Term::Expired(at) => format!("expired on {}", day(at)),
        Term::NotBefore(at) => format!("is not valid before {}", day(at)),
    };
    let which = match place {
        (_, 1) => "the certificate".to_owned(),
        (nth, all) => format!("certificate {nth} of {all}"),
    };
    format!("{which} in {key} {} {what}", path.display())
}

/// Returns what is wrong with a PEM file or a block of it, as a clause about the file.
pub fn pem(error: &PemError) -> String {
    match error {
        PemError::Empty => "it is empty".to_owned(),
        PemError::Missing {
            wanted,
            found,
            is_der,
        } => missing(*wanted, found.as_deref(), *is_der),
        PemError::Damaged {
            kind: PemKind::PrivateKey,
            damage: PemDamage::Encrypted,
            ..
        }
        | PemError::Encrypted => ENCRYPTED.to_owned(),
        PemError::Damaged { kind, line, damage } => {
            let what = match kind {
                PemKind::Certificate => "certificate",
                PemKind::PrivateKey => "key",
            };
            let why = match damage {
                PemDamage::Encrypted => ENCRYPTED,
                PemDamage::NoEnd => "its end is missing",
                PemDamage::NotBase64 => "it is not base64",
                PemDamage::VersionOne => VERSION_ONE,
                PemDamage::Crypto(why) => why,
            };
            format!("the {what} in line {line} is damaged: {why}")
        }
        PemError::Trusted { line } => format!(
            "the certificate in line {line} is in OpenSSL's own form: convert it with openssl x509"
        ),
        PemError::Ssh => "it holds a key of ssh, not one of a certificate".to_owned(),
    }
}

/// Why there is no block of the `wanted` kind, and what there is instead.
fn missing(wanted: PemKind, found: Option<&str>, is_der: bool) -> String {
    let name = match wanted {
        PemKind::Certificate => "certificate",
        PemKind::PrivateKey => "private key",
    };
    let mut res = format!("it holds no {name} in PEM");
    if let Some(label) = found {
        let _ = write!(res, ", but a {}", clean(&label.to_lowercase(), 40));
        let exchanged = match wanted {
            PemKind::Certificate => label.ends_with("PRIVATE KEY"),
            PemKind::PrivateKey => label.ends_with("CERTIFICATE"),
        };
        if exchanged {
            res += "; are client_cert and client_key exchanged?";
        }
    } else if is_der {
        res += "; it looks like DER: convert it with openssl x509 -inform der, or openssl pkcs12 -nodes";
    }
    res
}

/// Tells whether an issuer is one that products are known by which decrypt the TLS of a network or a machine.
fn decrypts(issuer: &str) -> bool {
    const PRODUCTS: [&str; 24] = [
        "avast",
        "barracuda",
        "bitdefender",
        "blue coat",
        "bluecoat",
        "cato networks",
        "charles proxy",
        "check point",
        "cisco umbrella",
        "do_not_trust",
        "eset ssl",
        "forcepoint",
        "fortigate",
        "fortinet",
        "kaspersky",
        "mitmproxy",
        "netskope",
        "palo alto",
        "portswigger",
        "sonicwall",
        "sophos",
        "trend micro",
        "watchguard",
        "zscaler",
    ];
    let issuer = issuer.to_ascii_lowercase();
    PRODUCTS.iter().any(|it| issuer.contains(it))
}

fn certificate(problem: &CertificateProblem, issuer: Option<&str>) -> String {
    let by = match issuer {
        Some(it) => format!("issued by \"{it}\""),
        None => "its issuer has no name".to_owned(),
    };
    match problem {
        CertificateProblem::UnknownIssuer => {
            format!("is not trusted: {by}, which this machine does not know")
        }
        CertificateProblem::BadSignature => {
            format!("is not trusted: {by}, but that signature is not theirs")
        }
        CertificateProblem::Expired(at) => format!("expired on {} ({by})", date(*at)),
        CertificateProblem::NotYetValid(at) => format!("is not valid before {} ({by})", date(*at)),
        CertificateProblem::WrongName {
            expected,
            presented,
        } => format!("is for {}, not for {expected} ({by})", names(presented)),
        CertificateProblem::Other(why) => format!("is not acceptable: {why} ({by})"),
    }
}

fn date(second: u64) -> String {
    let second = i64::try_from(second).unwrap_or(i64::MAX);
    Timestamp::from_second(second).map_or_else(
        |_| "a far year".to_owned(),
        |time| time.strftime("%Y-%m-%d").to_string(),
    )
}

/// At most three names of a certificate.
fn names(presented: &[String]) -> String {
    if presented.is_empty() {
        return "no name".to_owned();
    }
    let shown: Vec<_> = presented.iter().take(3).map(String::as_str).collect();
    let more = if presented.len() > 3 { ", …" } else { "" };
    format!("{}{more}", shown.join(", "))
}
