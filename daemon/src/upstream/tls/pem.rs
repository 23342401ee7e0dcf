//! Certificates and keys in PEM, read as tolerantly as people write them: text around the blocks, any line ends, spaces
//! at the ends of lines, a byte that is no text, a block that is damaged beside others that are good. Pure.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use pomd_core::route::error::{PemDamage, PemError, PemKind};
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
    },
};
use zeroize::Zeroizing;

use super::certificate::{is_version_one, reason};

const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// One `-----BEGIN …-----` and what follows it.
struct Block {
    /// What it says it is: `CERTIFICATE`.
    label: String,
    /// The line it begins in, from 1.
    line: usize,
    contents: Result<Zeroizing<Vec<u8>>, PemDamage>,
}

/// The certificates of a file, and what is wrong with those that cannot be used.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    pub(super) good: Vec<CertificateDer<'static>>,
    pub(super) bad: Vec<PemError>,
}

/// Reads every certificate. `Err`: none can be used.
pub(super) fn certificates(bytes: &[u8]) -> Result<Certificates, PemError> {
    let blocks = blocks(bytes);
    let mut res = Certificates::default();
    for Block {
        label,
        line,
        contents,
    } in &blocks
    {
        if !matches!(
            &**label,
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"
        ) {
            continue;
        }
        let damaged = |damage| PemError::Damaged {
            kind: PemKind::Certificate,
            line: *line,
            damage,
        };
        match contents {
            Err(damage) => res.bad.push(damaged(damage.clone())),
            Ok(_) if label.starts_with("TRUSTED") => {
                res.bad.push(PemError::Trusted { line: *line });
            }
            Ok(der) => {
                let der = CertificateDer::from(der.to_vec());
                // Whether it can be a root or a client's certificate at all.
                match RootCertStore::empty().add(der.clone()) {
                    Ok(()) => res.good.push(der),
                    Err(error) if is_version_one(&error) => {
                        res.bad.push(damaged(PemDamage::VersionOne));
                    }
                    Err(error) => res.bad.push(damaged(PemDamage::Crypto(reason(&error)))),
                }
            }
        }
    }
    if !res.good.is_empty() {
        return Ok(res);
    }
    Err(match res.bad.into_iter().next() {
        Some(bad) => bad,
        None => nothing(bytes, &blocks, PemKind::Certificate),
    })
}

/// Reads the one private key.
pub(super) fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, PemError> {
    let blocks = blocks(bytes);
    for block in &blocks {
        let make: fn(Vec<u8>) -> PrivateKeyDer<'static> = match &*block.label {
            "PRIVATE KEY" => |it| PrivatePkcs8KeyDer::from(it).into(),
            "RSA PRIVATE KEY" => |it| PrivatePkcs1KeyDer::from(it).into(),
            "EC PRIVATE KEY" => |it| PrivateSec1KeyDer::from(it).into(),
            "ENCRYPTED PRIVATE KEY" => return Err(PemError::Encrypted),
            "OPENSSH PRIVATE KEY" => return Err(PemError::Ssh),
            _ => continue,
        };
        return match &block.contents {
            Ok(der) => Ok(make(der.to_vec())),
            Err(damage) => Err(PemError::Damaged {
                kind: PemKind::PrivateKey,
                line: block.line,
                damage: damage.clone(),
            }),
        };
    }
    Err(nothing(bytes, &blocks, PemKind::PrivateKey))
}

/// Why there is no block that was looked for: what there is instead.
fn nothing(bytes: &[u8], blocks: &[Block], wanted: PemKind) -> PemError {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return PemError::Empty;
    }
    PemError::Missing {
        wanted,
        found: blocks.first().map(|it| it.label.clone()),
        is_der: bytes.starts_with(&[0x30, 0x82]),
    }
}

fn blocks(bytes: &[u8]) -> Vec<Block> {
    const BEGIN: &str = "-----BEGIN ";
    const DASHES: &str = "-----";
    let mut res = Vec::new();
    let text = Zeroizing::new(String::from_utf8_lossy(bytes).into_owned());
    // A single carriage return ends a line too, as on old Macs.
    let mut lines = text
        .split(['\n', '\r'])
        .map(str::trim)
        .filter(|it| !it.is_empty());
    let line_of = |part: &str| {
        let at = part.as_ptr() as usize - text.as_ptr() as usize;
        let before = &text[..at];
        1 + before
            .matches('\n')
            .count()
            .max(before.matches('\r').count())
    };
    let mut next = lines.next();
    while let Some(head) = next {
        next = lines.next();
        let label = head.find(BEGIN).map(|at| &head[at + BEGIN.len()..]);
        let Some(label) = label.and_then(|it| it.split_once(DASHES)) else {
            continue;
        };
        let mut body = Zeroizing::new(String::with_capacity(bytes.len().min(64 << 10)));
        let mut encrypted = false;
        let mut ended = false;
        while let Some(line) = next {
            if line.contains(BEGIN) {
                break;
            }
            next = lines.next();
            if line.starts_with("-----END") {
                ended = true;
                break;
            }
            // Headers, as old keys have them.
            if line.contains(':') {
                encrypted |= line.contains("ENCRYPTED");
            } else {
                body.extend(line.chars().filter(|it| !it.is_whitespace()));
            }
        }
        let contents = if encrypted {
            Err(PemDamage::Encrypted)
        } else if !ended {
            Err(PemDamage::NoEnd)
        } else {
            let der = BASE64.decode(body.as_bytes());
            der.map(Zeroizing::new).map_err(|_| PemDamage::NotBase64)
        };
        res.push(Block {
            label: label.0.trim().to_owned(),
            line: line_of(head),
            contents,
        });
    }
    res
}

#[cfg(test)]
mod tests {
    use pomd_core::words::tls::pem as told;
    use proptest::prelude::*;

    use super::*;

    fn pair() -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn c8_a_bundle_is_read_however_it_was_saved() {
        let (a, b) = (pair().0, pair().0);
        let both = format!("{a}{b}");
        let spaced = both.replace('\n', "  \t\n");
        let indented = both.replace('\n', "\n    ");
        let blank = both.replace('\n', "\n\n");
        let commented =
            format!("# Corp root: ä\nIssuer: CN=Corp\n{a}\nBag Attributes: <none>\n{b}\ntext");
        let one_line = both.replace("-----\n", "-----\r").replace('\n', "");
        for text in [
            both.clone(),
            both.replace('\n', "\r\n"),
            both.replace('\n', "\r"),
            both.trim_end().to_owned(),
            spaced,
            indented,
            blank,
            commented,
            one_line
                .replace("-----END", "\r-----END")
                .replace("-----BEGIN", "\r-----BEGIN"),
        ] {
            let found = certificates(text.as_bytes()).unwrap();
            assert_eq!((found.good.len(), found.bad.len()), (2, 0), "{text}");
        }
        let latin = [b"# K\xf6ln\n", both.as_bytes()].concat();
        assert_eq!(certificates(&latin).unwrap().good.len(), 2);
    }

    #[test]
    fn c8_one_bad_certificate_costs_only_itself() {
        let (good, _) = pair();
        let broken = [
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
            "-----BEGIN CERTIFICATE-----\nMIIB\n",
            "-----BEGIN TRUSTED CERTIFICATE-----\nAAAA\n-----END TRUSTED CERTIFICATE-----\n",
        ];
        for bad in broken {
            for (text, line) in [
                (format!("{bad}{good}"), 1),
                (format!("{good}{bad}"), 1 + good.lines().count()),
            ] {
                let found = certificates(text.as_bytes()).unwrap();
                assert_eq!((found.good.len(), found.bad.len()), (1, 1), "{text}");
                assert!(
                    told(&found.bad[0]).contains(&format!("in line {line} ")),
                    "{found:?}"
                );
            }
            assert!(certificates(bad.as_bytes()).is_err());
        }
    }

    #[test]
    fn c8_what_is_there_instead_is_named() {
        let (certificate, key) = pair();
        let refused = |text: &str| told(&certificates(text.as_bytes()).unwrap_err());
        assert_eq!(refused(" \r\n"), "it is empty");
        assert_eq!(refused("x"), "it holds no certificate in PEM");
        assert!(refused(&key).contains("but a private key; are client_cert and client_key"));
        assert!(refused("0\u{82}").starts_with("it holds no certificate"));
        assert!(told(&certificates(&[0x30, 0x82, 1, 0]).unwrap_err()).contains("DER"));
        let refused = |text: &str| told(&private_key(text.as_bytes()).unwrap_err());
        assert_eq!(refused(""), "it is empty");
        assert!(
            refused(&certificate).contains("but a certificate; are client_cert and client_key")
        );
        let block = |label: &str, head: &str| {
            format!("-----BEGIN {label}-----\n{head}AAAA\n-----END {label}-----\n")
        };
        assert!(refused(&block("ENCRYPTED PRIVATE KEY", "")).contains("passphrase"));
        let old = "Proc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00\n\n";
        assert!(refused(&block("RSA PRIVATE KEY", old)).contains("passphrase"));
        assert!(refused(&block("OPENSSH PRIVATE KEY", "")).contains("a key of ssh"));
        assert!(private_key(format!("{certificate}{key}").as_bytes()).is_ok());
        assert!(private_key(key.replace('\n', "\r\n").as_bytes()).is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_are_a_panic(
            text in "(-----BEGIN |CERTIFICATE|PRIVATE KEY|-----END |-----|\n|\r|AAAA|ä|=|:| ){0,24}",
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            for it in [text.as_bytes(), &bytes] {
                let _ = (certificates(it), private_key(it).is_ok());
            }
        }
    }
}
