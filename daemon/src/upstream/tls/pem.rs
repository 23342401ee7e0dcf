//! Certificates and keys in PEM, read as tolerantly as people write them: text around the blocks, any line ends, spaces
//! at the ends of lines, a byte that is no text, a block that is damaged beside others that are good. Pure.

use std::fmt::Write;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use rustls::{
    RootCertStore,
    pki_types::{
        CertificateDer, PrivateKeyDer, PrivatePkcs1KeyDer, PrivatePkcs8KeyDer, PrivateSec1KeyDer,
    },
};
use zeroize::Zeroizing;

use super::certificate::not_ours;

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
    contents: Result<Zeroizing<Vec<u8>>, &'static str>,
}

/// The certificates of a file, and what is wrong with those that cannot be used.
#[derive(Debug, Default)]
pub(super) struct Certificates {
    pub(super) good: Vec<CertificateDer<'static>>,
    /// Such as `the certificate in line 21 is damaged`.
    pub(super) bad: Vec<String>,
}

/// Reads every certificate. `Err`: there is none that can be used, and why, as a sentence goes on after the file's name.
pub(super) fn certificates(bytes: &[u8]) -> Result<Certificates, String> {
    let blocks = blocks(bytes);
    let mut res = Certificates::default();
    for block in &blocks {
        if !matches!(
            &*block.label,
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE"
        ) {
            continue;
        }
        let line = block.line;
        match &block.contents {
            Err(why) => res.bad.push(format!("the certificate in line {line} is damaged: {why}")),
            Ok(_) if block.label.starts_with("TRUSTED") => res.bad.push(format!(
                "the certificate in line {line} is in OpenSSL's own form: convert it with openssl x509"
            )),
            Ok(der) => {
                let der = CertificateDer::from(der.to_vec());
                // Whether it can be a root or a client's certificate at all.
                match RootCertStore::empty().add(der.clone()) {
                    Ok(()) => res.good.push(der),
                    Err(error) => res.bad.push(format!(
                        "the certificate in line {line} is damaged: {}",
                        not_ours(&error)
                    )),
                }
            }
        }
    }
    if !res.good.is_empty() {
        return Ok(res);
    }
    Err(match res.bad.first() {
        Some(bad) => bad.clone(),
        None => nothing(bytes, &blocks, "certificate"),
    })
}

/// Reads the one private key. `Err`: as a sentence goes on after the file's name.
pub(super) fn private_key(bytes: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    let blocks = blocks(bytes);
    for block in &blocks {
        let make: fn(Vec<u8>) -> PrivateKeyDer<'static> = match &*block.label {
            "PRIVATE KEY" => |it| PrivatePkcs8KeyDer::from(it).into(),
            "RSA PRIVATE KEY" => |it| PrivatePkcs1KeyDer::from(it).into(),
            "EC PRIVATE KEY" => |it| PrivateSec1KeyDer::from(it).into(),
            "ENCRYPTED PRIVATE KEY" => return Err(ENCRYPTED.to_owned()),
            "OPENSSH PRIVATE KEY" => {
                return Err("it holds a key of ssh, not one of a certificate".to_owned());
            }
            _ => continue,
        };
        return match &block.contents {
            Ok(it) => Ok(make(it.to_vec())),
            Err(why) if *why == ENCRYPTED => Err(ENCRYPTED.to_owned()),
            Err(why) => Err(format!("the key in line {} is damaged: {why}", block.line)),
        };
    }
    Err(nothing(bytes, &blocks, "private key"))
}

const ENCRYPTED: &str = "its key has a passphrase, and pomd cannot ask for it: remove it with openssl pkey -in OLD -out NEW";

/// Why there is no block that was looked for: what there is instead.
fn nothing(bytes: &[u8], blocks: &[Block], wanted: &str) -> String {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return "it is empty".to_owned();
    }
    let mut res = format!("it holds no {wanted} in PEM");
    if let Some(first) = blocks.first() {
        let label = control::text::clean(&first.label.to_lowercase(), 40);
        let _ = write!(res, ", but a {label}");
        let exchanged = match wanted {
            "certificate" => first.label.ends_with("PRIVATE KEY"),
            _ => first.label.ends_with("CERTIFICATE"),
        };
        if exchanged {
            res += "; are client_cert and client_key exchanged?";
        }
    } else if bytes.starts_with(&[0x30, 0x82]) {
        res += "; it looks like DER: convert it with openssl x509 -inform der, or openssl pkcs12 -nodes";
    }
    res
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
            Err(ENCRYPTED)
        } else if !ended {
            Err("its end is missing")
        } else {
            let der = BASE64.decode(body.as_bytes());
            der.map(Zeroizing::new).map_err(|_| "it is not base64")
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
                    found.bad[0].contains(&format!("in line {line} ")),
                    "{found:?}"
                );
            }
            assert!(certificates(bad.as_bytes()).is_err());
        }
    }

    #[test]
    fn c8_what_is_there_instead_is_named() {
        let (certificate, key) = pair();
        let refused = |text: &str| certificates(text.as_bytes()).unwrap_err();
        assert_eq!(refused(" \r\n"), "it is empty");
        assert_eq!(refused("x"), "it holds no certificate in PEM");
        assert!(refused(&key).contains("but a private key; are client_cert and client_key"));
        assert!(refused("0\u{82}").starts_with("it holds no certificate"));
        assert!(
            certificates(&[0x30, 0x82, 1, 0])
                .unwrap_err()
                .contains("DER")
        );
        let refused = |text: &str| private_key(text.as_bytes()).unwrap_err();
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
