//! HTTP CONNECT to a forward proxy: one question, one head.
//!
//! Knows one stream. The proxy's credentials go in; a token never comes here.

use control::text::clean;
use pomd_core::{
    config::Authority,
    route::{
        error::ProxyError,
        head::{Head, HeadError, HeadReader},
    },
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::{super::h1::AGENT, credentials::Credentials};

/// The most that the heads of an answer may take (A17).
const HEAD: usize = 16 << 10;
/// The most of something else that is looked at.
const GARBAGE: usize = 80;

/// Has the proxy at the other end of `stream` connect it to `target`. No limit of its own.
pub(super) async fn connect<S>(
    stream: &mut S,
    target: &Authority,
    credentials: Option<&Credentials>,
) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(&request(target, credentials)).await?;
    stream.flush().await?;
    let head = answer(stream).await?;
    match head.status {
        200..300 => Ok(()),
        status => Err(ProxyError::Answered {
            status,
            reason: head.reason(),
            schemes: schemes(&head),
        }),
    }
}

/// The head of the question. Holds the credentials.
fn request(target: &Authority, credentials: Option<&Credentials>) -> Zeroizing<Vec<u8>> {
    // As long as it gets: growing would leave copies of the password behind.
    let mut res = Zeroizing::new(Vec::with_capacity(2048));
    let line = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {AGENT}\r\n");
    res.extend_from_slice(line.as_bytes());
    if let Some(it) = credentials {
        res.extend_from_slice(b"Proxy-Authorization: Basic ");
        res.extend_from_slice(it.basic().as_bytes());
        res.extend_from_slice(b"\r\n");
    }
    res.extend_from_slice(b"\r\n");
    res
}

/// The first final head. Byte by byte, because what stands behind it belongs to whoever was asked for.
async fn answer<S>(stream: &mut S) -> Result<Head, ProxyError>
where
    S: AsyncRead + Unpin,
{
    let mut reader = HeadReader::up_to(HEAD);
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Err(ProxyError::Closed);
        }
        match reader.push(&byte) {
            Ok(None) => {}
            Ok(Some(head)) => return Ok(head),
            Err(HeadError::TooLong | HeadError::TooManyInterim) => {
                return Err(ProxyError::HeadTooLong);
            }
            Err(HeadError::NotHttp) => {
                return Err(ProxyError::NotHttp(line(stream, reader.held()).await?));
            }
            Err(HeadError::Broken(_)) => {
                let held = reader.held();
                return Err(ProxyError::NotHttp(
                    held[..held.len().min(GARBAGE)].to_vec(),
                ));
            }
        }
    }
}

/// The rest of the line that began with `begun`, as far as it is worth being shown.
async fn line<S>(stream: &mut S, begun: &[u8]) -> Result<Vec<u8>, ProxyError>
where
    S: AsyncRead + Unpin,
{
    let mut line = begun.to_vec();
    let mut byte = [0];
    while line.last() != Some(&b'\n') && line.len() < GARBAGE && stream.read(&mut byte).await? > 0 {
        line.push(byte[0]);
    }
    Ok(line)
}

/// The ways to log in that a proxy offers, as it spells them. Cleaned for display.
fn schemes(head: &Head) -> Vec<String> {
    let mut schemes: Vec<String> = Vec::new();
    for value in head.values("proxy-authenticate") {
        for part in value.split(',') {
            // A parameter of a scheme is no scheme.
            let word = part.split_whitespace().next().unwrap_or_default();
            let known = schemes.iter().any(|it| it.eq_ignore_ascii_case(word));
            if !word.is_empty() && !word.contains('=') && !known && schemes.len() < 8 {
                schemes.push(clean(word, 30));
            }
        }
    }
    schemes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::duplex;

    use super::*;
    use pomd_core::config::Host;

    fn target() -> Authority {
        Authority {
            host: Host::Name("corp.test".to_owned()),
            port: 443,
        }
    }

    /// What becomes of these bytes, and how many of them were taken.
    fn read(bytes: &[u8]) -> (Result<Head, ProxyError>, usize) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let mut rest = bytes;
        let answer = runtime.block_on(answer(&mut rest));
        (answer, bytes.len() - rest.len())
    }

    #[tokio::test]
    async fn it_is_asked_for_the_target_with_the_credentials_and_nothing_else() {
        let it = Credentials::parse("alice:canary").unwrap();
        for (credentials, line) in [
            (None, ""),
            (Some(&it), "Proxy-Authorization: Basic YWxpY2U6Y2FuYXJ5\r\n"),
        ] {
            let (mut near, mut far) = duplex(4096);
            far.write_all(b"HTTP/1.0 200 Connection established\r\n\r\n\x16")
                .await
                .unwrap();
            connect(&mut near, &target(), credentials).await.unwrap();
            assert_eq!(near.read_u8().await.unwrap(), 0x16, "it is the target's");
            drop(near);
            let mut asked = String::new();
            far.read_to_string(&mut asked).await.unwrap();
            let want = format!(
                "CONNECT corp.test:443 HTTP/1.1\r\nHost: corp.test:443\r\nUser-Agent: {AGENT}\r\n{line}\r\n"
            );
            assert_eq!(asked, want);
        }
    }

    #[test]
    fn an_answer_is_read_to_the_end_of_its_head_and_no_further() {
        for (bytes, status, reason) in [
            (&b"HTTP/1.1 200 OK\r\n\r\nrest"[..], 200, "OK"),
            (b"HTTP/1.0 200\r\nVia: x\r\n\r\nrest", 200, ""),
            (b"HTTP/1.1 502 Bad\x07Gateway\r\n\r\nrest", 502, ""),
            (b"HTTP/1.1 302 Found\nLocation: x\n\nrest", 302, "Found"),
            (
                b"HTTP/1.1 100 Go\r\n\r\nHTTP/1.1 403 No\r\n\r\nrest",
                403,
                "No",
            ),
        ] {
            let (answer, taken) = read(bytes);
            if reason.is_empty() && status == 502 {
                assert!(matches!(answer, Err(ProxyError::NotHttp(_))));
                continue;
            }
            let answer = answer.unwrap();
            assert_eq!((answer.status, answer.reason().as_str()), (status, reason));
            assert_eq!(&bytes[taken..], b"rest");
        }
    }

    #[test]
    fn the_schemes_of_a_407_are_told_apart_from_their_parameters() {
        let (answer, _) = read(
            b"HTTP/1.1 407 Auth\r\nProxy-Authenticate: Negotiate\r\nProxy-Authenticate: \
              Digest realm=\"x\", nonce=\"y\", Basic realm=\"z\"\r\nproxy-authenticate: NEGOTIATE\r\n\r\n",
        );
        assert_eq!(schemes(&answer.unwrap()), ["Negotiate", "Digest", "Basic"]);
    }

    #[test]
    fn a17_no_answer_is_held_beyond_16_kib() {
        let long = [b"HTTP/1.1 200 OK\r\nX: ".to_vec(), vec![b'x'; 1 << 20]].concat();
        let (answer, taken) = read(&long);
        assert!(matches!(answer, Err(ProxyError::HeadTooLong)));
        assert_eq!(taken, HEAD + 1);
        let interim = b"HTTP/1.1 100 Go on\r\n\r\n".repeat(10_000);
        let (answer, taken) = read(&interim);
        assert!(matches!(answer, Err(ProxyError::HeadTooLong)));
        assert!(taken <= HEAD + 1);
        let (answer, taken) = read(&vec![b'<'; 1 << 20]);
        assert!(matches!(answer, Err(ProxyError::NotHttp(_))));
        assert_eq!(taken, GARBAGE);
    }

    #[test]
    fn what_is_no_answer_is_told_apart_from_none() {
        for (bytes, wrong) in [
            (&b""[..], None),
            (b"HTTP/1.1 200 OK\r\n", None),
            (b"<html>\n", Some(&b"<html>\n"[..])),
            (b"SSH-2.0-x", Some(b"SSH-2.0-x")),
            (
                b"\x15\x03\x01\0\x02\x02\x46",
                Some(b"\x15\x03\x01\0\x02\x02\x46"),
            ),
        ] {
            match (read(bytes).0, wrong) {
                (Err(ProxyError::Closed), None) => {}
                (Err(ProxyError::NotHttp(got)), Some(want)) => assert_eq!(got, want),
                (other, _) => panic!("{bytes:?}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_a_panic_or_takes_more_than_allowed(
            head in "(HTTP/1\\.[01])?[ -~\r\n]{0,60}(\r\n\r\n)?", bytes in prop::collection::vec(any::<u8>(), 0..40)
        ) {
            let (_, taken) = read(&[head.as_bytes(), &bytes].concat());
            prop_assert!(taken <= HEAD + 1);
        }
    }
}
