//! Handshakes: certificates of both sides, and files that change.

use std::{collections::BTreeMap, path::Path};

use base64::prelude::{BASE64_STANDARD, Engine as _};
use rcgen::date_time_ymd;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use tokio::net::TcpStream;

use pomd_core::route::error::SettingsError;

use super::{super::tls::certificate::Der, *};

/// Opens against `server`, which the client is going to distrust.
async fn distrusts(lab: &Lab, upstream: &Upstream, server: &TlsAcceptor) -> Told {
    let mut early = early(Says(b"secret"));
    let (route, token) = (route(), token());
    let (res, accepted) = join!(upstream.open(&route, &token, &mut early), async {
        let mut stream = lab.accept(server).await?;
        stream.read(&mut [0]).await
    });
    assert!(accepted.is_err(), "nothing may be sent");
    let it = unreachable(res);
    assert_eq!((it.step, it.timed_out), (Step::Tls, false));
    let at = corp();
    let (res, _) = join!(upstream.get(&at, "/", None), lab.accept(server));
    assert_eq!(unreachable(res), it, "a GET says the same");
    it
}

#[tokio::test]
async fn a16_t1_each_thing_wrong_with_a_certificate_has_its_sentence() {
    let lab = Lab::new().await;
    let upstream = lab.upstream();
    let it = distrusts(
        &lab,
        &upstream,
        &lab.server_for(&["a.example", "b.example"], |_| {}),
    )
    .await;
    assert_eq!(
        it.message,
        "the certificate of corp.example.com is for a.example, b.example, not for corp.example.com (issued by \"Corp Lab CA\")"
    );
    assert!(it.hint.unwrap().contains("server_name in [cluster.corp]"));

    let expired = lab.server_for(&[HOST], |it| {
        it.not_before = date_time_ymd(2020, 1, 1);
        it.not_after = date_time_ymd(2021, 2, 3);
    });
    let it = distrusts(&lab, &upstream, &expired).await;
    assert_eq!(
        it.message,
        "the certificate of corp.example.com expired on 2021-02-03 (issued by \"Corp Lab CA\")"
    );
    assert!(it.hint.unwrap().contains("clock"));

    let early = lab.server_for(&[HOST], |it| it.not_before = date_time_ymd(2999, 1, 1));
    let it = distrusts(&lab, &upstream, &early).await;
    assert_eq!(
        it.message,
        "the certificate of corp.example.com is not valid before 2999-01-01 (issued by \"Corp Lab CA\")"
    );

    let namesake = Lab::new().await.server();
    let it = distrusts(&lab, &upstream, &namesake).await;
    assert_eq!(
        it.message,
        "the certificate of corp.example.com is not trusted: issued by \"Corp Lab CA\", but that signature is not theirs"
    );

    for (issuer, cause) in [
        ("Zscaler Root CA", "this network decrypts TLS"),
        ("Corp Internal CA", "login page"),
    ] {
        let foreign = Lab::signed_by(issuer).await.server();
        let it = distrusts(&lab, &upstream, &foreign).await;
        assert_eq!(
            it.message,
            format!(
                "the certificate of corp.example.com is not trusted: issued by \"{issuer}\", which this machine does not know"
            )
        );
        let hint = it.hint.unwrap();
        assert!(
            hint.contains(cause) && hint.contains("ca_file in [cluster.corp]"),
            "{hint}"
        );
    }
}

/// The first record that comes, without its head.
async fn record(stream: &mut TcpStream) -> Vec<u8> {
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.unwrap();
    let mut res = vec![0; usize::from(head[3]) << 8 | usize::from(head[4])];
    stream.read_exact(&mut res).await.unwrap();
    res
}

/// What a ClientHello says beside its ciphers, by number.
fn extensions(hello: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    fn number(bytes: &[u8]) -> usize {
        bytes.iter().fold(0, |sum, it| sum << 8 | usize::from(*it))
    }
    // Its kind, length, version and random bytes; then session, ciphers and compressions, each after its length.
    let mut rest = &hello[4 + 2 + 32..];
    for size in [1, 2, 1] {
        rest = &rest[size + number(&rest[..size])..];
    }
    let mut res = BTreeMap::new();
    rest = &rest[2..];
    while !rest.is_empty() {
        let (head, after) = rest.split_at(4);
        let (value, after) = after.split_at(number(&head[2..]));
        res.insert(number(&head[..2]) as u16, value.to_owned());
        rest = after;
    }
    res
}

#[tokio::test]
async fn a16_an_older_tls_is_refused_and_nothing_is_said_before_the_handshake_is_done() {
    const SUPPORTED_VERSIONS: u16 = 43;
    const EARLY_DATA: u16 = 42;
    const ALERT: u8 = 21;
    let lab = Lab::new().await;
    let upstream = lab.upstream();
    let (route, token) = (route(), token());
    let mut said_early = early(Says(b"secret"));
    let (res, (hello, said)) = join!(upstream.open(&route, &token, &mut said_early), async {
        let mut stream = lab.accept_plain().await;
        let hello = record(&mut stream).await;
        // "TLS 1.1, with a cipher of its time".
        let mut answer = vec![22, 3, 2, 0, 42, 2, 0, 0, 38, 3, 2];
        answer.extend([7; 32]);
        answer.extend([0, 0, 0x2f, 0]);
        stream.write_all(&answer).await.unwrap();
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said).await;
        (hello, said)
    });
    let it = unreachable(res);
    assert_eq!((it.step, it.timed_out), (Step::Tls, false), "{it:?}");
    assert_eq!(extensions(&hello)[&SUPPORTED_VERSIONS], [4, 3, 4, 3, 3]);
    assert!(said.first().is_none_or(|it| *it == ALERT), "{said:?}");
    assert!(said.len() < 16, "an alert and nothing behind it: {said:?}");
    // A server that is known could be spoken to at once; whoever recorded that could say it once more.
    drop(opens(&lab, &upstream, &lab.server()).await);
    let mut said_early = early(Says(b"secret"));
    let again = tokio::select! {
        _ = upstream.open(&route, &token, &mut said_early) => panic!("nobody answered"),
        hello = async { record(&mut lab.accept_plain().await).await } => extensions(&hello),
    };
    assert!(!again.contains_key(&EARLY_DATA), "{again:?}");
}

#[tokio::test]
async fn a16_insecure_skip_verify_takes_any_certificate() {
    let lab = Lab::new().await;
    let mut spec = lab.spec();
    spec.insecure_skip_verify = true;
    spec.ca_file = None;
    let upstream = lab.upstream_of(spec);
    opens(
        &lab,
        &upstream,
        &Lab::new().await.server_for(&["other.example"], |_| {}),
    )
    .await;
}

#[tokio::test]
async fn a16_server_name_is_verified_and_asked_for_instead_of_the_host() {
    let lab = Lab::new().await;
    let server = lab.server_for(&["other.example"], |_| {});
    let mut spec = lab.spec();
    spec.server_name = Some(Host::Name("other.example".to_owned()));
    opens(&lab, &lab.upstream_of(spec), &server).await;
    let mut spec = lab.spec();
    spec.server_name = Some(Host::Ip("127.0.0.1".parse().unwrap()));
    let server = lab.server_for(&["127.0.0.1"], |_| {});
    opens(&lab, &lab.upstream_of(spec), &server).await;
}

#[tokio::test]
async fn t3_a_server_without_tls_is_told_by_what_it_speaks() {
    let lab = Lab::new().await;
    let upstream = lab.upstream();
    let mut early = early(Says(b"x"));
    let (route, token) = (route(), token());
    let (res, seen) = join!(upstream.open(&route, &token, &mut early), async {
        let mut seen = Vec::new();
        for _ in 0..2 {
            let mut socket = lab.accept_plain().await;
            socket.read_buf(&mut seen).await.unwrap();
            socket
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        }
        seen
    });
    let it = unreachable(res);
    assert_eq!(it.step, Step::Tls);
    assert_eq!(
        it.message,
        "corp.example.com does not speak TLS (HTTP answered)"
    );
    assert!(
        !String::from_utf8_lossy(&seen).contains("secret"),
        "the token stays here"
    );
}

#[tokio::test]
async fn t3_a_close_within_the_handshake_is_told() {
    let lab = Lab::new().await;
    let upstream = lab.upstream();
    let mut early = early(Says(b"x"));
    let (route, token) = (route(), token());
    let (res, ()) = join!(upstream.open(&route, &token, &mut early), async {
        let mut socket = lab.accept_plain().await;
        socket.read_buf(&mut Vec::new()).await.unwrap();
        let mut rest = Vec::new();
        socket.shutdown().await.unwrap();
        socket.read_to_end(&mut rest).await.unwrap();
    });
    assert_eq!(
        unreachable(res).message,
        "corp.example.com closed the connection during the TLS handshake"
    );
}

#[tokio::test]
async fn t5_an_alert_for_want_of_a_certificate_is_the_refusal_of_a_495() {
    let lab = Lab::new().await;
    let server = lab.asking_server(true);
    let upstream = lab.upstream();
    let mut early = early(Says(b"x"));
    let (route, token) = (route(), token());
    let (res, _) = join!(
        upstream.open(&route, &token, &mut early),
        lab.accept(&server)
    );
    let it = refusal(res);
    assert_eq!((it.kind, it.status), (RefusalKind::ClientCertificate, 0));
    assert_eq!(it.detail.as_deref(), Some("certificate required"));
    let at = corp();
    let (res, _) = join!(upstream.get(&at, "/", None), lab.accept(&server));
    let error = res.unwrap_err();
    assert!(
        matches!(&error, OpenError::Refused(other) if *other == it),
        "{error:?}"
    );
}

#[tokio::test]
async fn t5_a_cut_counts_as_want_of_a_certificate_only_if_one_was_asked_for() {
    let lab = Lab::new().await;
    for asks in [true, false] {
        let server = if asks {
            lab.asking_server(false)
        } else {
            lab.server()
        };
        let upstream = lab.upstream();
        let mut early = early(Says(b""));
        let (route, token) = (route(), token());
        let (res, ()) = join!(upstream.open(&route, &token, &mut early), async {
            drop(lab.accept(&server).await.unwrap());
        });
        if asks {
            assert_eq!(refusal(res).kind, RefusalKind::ClientCertificate);
        } else {
            let it = unreachable(res);
            assert!(
                it.message
                    .contains("closed the connection without an answer"),
                "{it:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_cut_of_a_server_that_went_on_without_a_certificate_before_is_a_cut() {
    let lab = Lab::new().await;
    let server = lab.asking_server(false);
    let upstream = lab.upstream();
    let (route, token) = (route(), token());
    for answers in [true, false] {
        let mut early = early(Says(b""));
        let (res, ()) = join!(upstream.open(&route, &token, &mut early), async {
            let mut stream = lab.accept(&server).await.unwrap();
            if answers {
                head(&mut stream).await;
                stream.write_all(OK).await.unwrap();
            }
        });
        if answers {
            res.unwrap();
        } else {
            let it = unreachable(res);
            assert!(it.message.contains("closed the connection"), "{it:?}");
        }
    }
}

#[tokio::test]
async fn t5_a_new_client_certificate_is_used_without_a_reload() {
    let lab = Lab::new().await;
    let server = lab.asking_server(true);
    let mut spec = lab.spec();
    let identity = lab.client_identity("me");
    spec.client_identity = Some(identity.clone());
    let upstream = lab.upstream_of(spec);
    opens(&lab, &upstream, &server).await;

    let before = std::fs::read(&identity.key).unwrap();
    lab.client_identity("me");
    assert_ne!(before, std::fs::read(&identity.key).unwrap());
    let secure = upstream.tls.secure().await.unwrap();
    opens(&lab, &upstream, &server).await;
    let again = upstream.tls.secure().await.unwrap();
    assert!(
        std::sync::Arc::ptr_eq(&secure.config, &again.config),
        "made once for each change"
    );

    // Half a change, and a file that went away, harm nobody.
    let other = lab.client_identity("other");
    std::fs::copy(&other.certificate, &identity.certificate).unwrap();
    opens(&lab, &upstream, &server).await;
    std::fs::remove_file(&identity.key).unwrap();
    opens(&lab, &upstream, &server).await;
    std::fs::copy(&other.key, &identity.key).unwrap();
    opens(&lab, &upstream, &server).await;
    let now = upstream.tls.secure().await.unwrap();
    assert!(!std::sync::Arc::ptr_eq(&now.config, &again.config));
}

/// What is told of settings that cannot be used.
fn unusable(res: Result<Secure, SettingsError>) -> Told {
    let error = TlsError::Settings(res.unwrap_err());
    StepError::new(Target::Server(corp()), error).into()
}

#[tokio::test]
async fn t7_files_that_cannot_be_used_are_named() {
    let lab = Lab::new().await;
    let path = lab.path("x.pem");
    let message = async |spec: ClusterSpec| {
        let it = unusable(lab.upstream_of(spec).tls.secure().await);
        assert_eq!(
            (it.step, it.hint.as_deref()),
            (Step::Tls, Some("see [cluster.corp]"))
        );
        it.message
    };
    let mut spec = lab.spec();
    spec.ca_file = Some(path.clone());
    let name = path.display();
    assert_eq!(
        message(spec.clone()).await,
        format!("cannot read ca_file {name}: no such file or directory")
    );
    for (text, why) in [("", "it is empty"), ("x", "it holds no certificate in PEM")] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(
            message(spec.clone()).await,
            format!("cannot use ca_file {name}: {why}")
        );
    }
    let mut spec = lab.spec();
    let (mine, other) = (lab.client_identity("mine"), lab.client_identity("other"));
    spec.client_identity = Some(pomd_core::config::ClientIdentity {
        certificate: mine.certificate.clone(),
        key: other.key.clone(),
    });
    assert_eq!(
        message(spec.clone()).await,
        format!(
            "cannot use client_cert {}: {} is not its key",
            mine.certificate.display(),
            other.key.display()
        )
    );
    let exchanged = pomd_core::config::ClientIdentity {
        certificate: mine.key,
        key: mine.certificate,
    };
    spec.client_identity = Some(exchanged);
    let said = message(spec).await;
    assert!(
        said.contains("it holds no certificate in PEM, but a private key"),
        "{said}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn a27_a_key_that_others_can_read_is_not_used_not_even_when_it_is_read_again() {
    use std::os::unix::fs::PermissionsExt;

    let lab = Lab::new().await;
    let mode = |path: &Path, mode: u32| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let mut spec = lab.spec();
    let identity = lab.client_identity("me");
    spec.client_identity = Some(identity.clone());
    let upstream = lab.upstream_of(spec.clone());
    for bad in [0o640, 0o644, 0o660, 0o666] {
        mode(&identity.key, bad);
        let said = unusable(upstream.tls.secure().await).message;
        let start = format!("cannot use client_key {}: ", identity.key.display());
        assert!(
            said.starts_with(&start) && said.contains("chmod "),
            "{said}"
        );
    }
    mode(&identity.key, 0o600);
    let good = upstream.tls.secure().await.unwrap();
    // A new pair comes that others could have written: the old one stays in use.
    lab.client_identity("me");
    mode(&identity.certificate, 0o666);
    let again = upstream.tls.secure().await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&good.config, &again.config));
    mode(&identity.certificate, 0o644);
    let new = upstream.tls.secure().await.unwrap();
    assert!(!std::sync::Arc::ptr_eq(&good.config, &new.config));
    // As does the authority of an open folder.
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::copy(spec.ca_file.as_ref().unwrap(), &authority).unwrap();
    spec.ca_file = Some(authority);
    mode(folder.path(), 0o777);
    let said = unusable(lab.upstream_of(spec.clone()).tls.secure().await);
    assert!(
        said.message.contains("everybody may write the folder"),
        "{said:?}"
    );
    mode(folder.path(), 0o755);
    lab.upstream_of(spec).tls.secure().await.unwrap();
}

#[tokio::test]
async fn c8_a_bundle_with_a_bad_block_is_used_without_it() {
    let lab = Lab::new().await;
    let mut spec = lab.spec();
    let bundle = lab.path("bundle.pem");
    let good = std::fs::read_to_string(spec.ca_file.as_ref().unwrap()).unwrap();
    let bad = "-----BEGIN CERTIFICATE-----\r\nMIIB\r\n-----END CERTIFICATE-----\r\n";
    std::fs::write(&bundle, format!("\u{feff}# Corp\r\n{bad}{good}")).unwrap();
    spec.ca_file = Some(bundle);
    opens(&lab, &lab.upstream_of(spec.clone()), &lab.server()).await;
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let said = crate::upstream::check_files(&spec, now);
    let [(key, what)] = said.as_slice() else {
        panic!("{said:?}");
    };
    assert_eq!(*key, "ca_file");
    assert!(
        what.contains("is used without a part: the certificate in line 2 is damaged"),
        "{what}"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn c8_check_says_of_every_file_what_is_wrong_with_it() {
    use std::os::unix::fs::PermissionsExt;

    let lab = Lab::new().await;
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    let (mine, other) = (lab.client_identity("mine"), lab.client_identity("other"));
    let empty = lab.path("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let password = lab.path("password");
    std::fs::write(&password, "me:word \n").unwrap();
    std::fs::set_permissions(&password, std::fs::Permissions::from_mode(0o600)).unwrap();
    let pair = |certificate: &Path, key: &Path| pomd_core::config::ClientIdentity {
        certificate: certificate.to_owned(),
        key: key.to_owned(),
    };
    type Said<'a> = &'a [(&'a str, &'a str)];
    for (identity, expected) in [
        (pair(&mine.certificate, &mine.key), &[][..] as Said<'_>),
        (
            pair(&mine.certificate, &other.key),
            &[("client_cert", "is not its key")],
        ),
        (pair(&mine.key, &mine.key), &[("client_cert", "exchanged?")]),
        (
            pair(&mine.certificate, &empty),
            &[("client_key", "others can read it")],
        ),
        (pair(&empty, &mine.key), &[("client_cert", "it is empty")]),
        (
            pair(&lab.path("gone"), &lab.path("gone.key")),
            &[
                ("client_cert", "no such file"),
                ("client_key", "no such file"),
            ],
        ),
    ] {
        let mut spec = lab.spec();
        spec.client_identity = Some(identity);
        let said = crate::upstream::check_files(&spec, now);
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for ((key, what), (expected, part)) in said.iter().zip(expected) {
            assert!(key == expected && what.contains(part), "{said:?}");
        }
    }
    let mut spec = lab.spec();
    spec.forward_proxy_auth = Some(password);
    let said = crate::upstream::check_files(&spec, now);
    assert!(said[0].1.contains("ends with a space"), "{said:?}");
    spec.forward_proxy_auth = None;
    let late = "9000-01-01T00:00:00Z".parse().unwrap();
    let said = crate::upstream::check_files(&spec, late);
    assert!(said[0].1.contains(" expired on "), "{said:?}");
}

#[tokio::test]
async fn a_touched_file_is_not_read_as_a_new_one() {
    let lab = Lab::new().await;
    let upstream = lab.upstream();
    let before = upstream.tls.secure().await.unwrap();
    let file = std::fs::File::options()
        .append(true)
        .open(lab.path("ca.pem"))
        .unwrap();
    file.set_modified(std::time::UNIX_EPOCH).unwrap();
    let after = upstream.tls.secure().await.unwrap();
    assert!(std::sync::Arc::ptr_eq(&before.config, &after.config));
}

/// An element of DER with `parts` inside.
fn der(tag: u8, parts: &[Vec<u8>]) -> Vec<u8> {
    let content = parts.concat();
    let length = content.len();
    let digits = length.to_be_bytes();
    let length = match length {
        0..0x80 => &digits[7..],
        0x80..0x100 => &[0x81, digits[7]],
        _ => &[0x82, digits[6], digits[7]],
    };
    [&[tag], length, &content[..]].concat()
}

#[tokio::test]
async fn t1_a_client_certificate_of_version_1_is_told_as_such() {
    let lab = Lab::new().await;
    let mut identity = lab.client_identity("me");
    let pem = std::fs::read(&identity.certificate).unwrap();
    let certificate = CertificateDer::from_pem_slice(&pem).unwrap();
    let parts = |bytes| {
        Der(bytes)
            .map(|(tag, it)| der(tag, &[it.to_vec()]))
            .collect::<Vec<_>>()
    };
    let (_, whole) = Der(&certificate).next().unwrap();
    let (_, signed) = Der(whole).next().unwrap();
    let mut fields = parts(signed);
    // Version 1 has neither the field that says so nor extensions.
    fields.retain(|it| it[0] != 0xa0 && it[0] != 0xa3);
    let mut whole = parts(whole);
    whole[0] = der(0x30, &fields);
    let text = BASE64_STANDARD.encode(der(0x30, &whole));
    identity.certificate = lab.path("v1.pem");
    let pem = format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n");
    std::fs::write(&identity.certificate, pem).unwrap();
    let mut spec = lab.spec();
    let name = identity.certificate.display().to_string();
    spec.client_identity = Some(identity);
    let error = unusable(lab.upstream_of(spec).tls.secure().await);
    assert_eq!(
        error.message,
        format!(
            "cannot use client_cert {name}: it is an X.509 certificate of version 1, and only version 3 is supported"
        )
    );
}
