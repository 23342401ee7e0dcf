//! SOCKS version 5 (RFC 1928) with user and password (RFC 1929): names go to the proxy as they are.
//!
//! Knows one stream. The proxy's credentials go in; a token never comes here.

use std::net::IpAddr;

use pomd_core::{
    config::{Authority, Host},
    route::error::ProxyError,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use zeroize::Zeroizing;

use super::credentials::Credentials;

const VERSION: u8 = 5;
const NOTHING: u8 = 0;
const PASSWORD: u8 = 2;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Has the proxy at the other end of `stream` connect it to `target`. No limit of its own.
pub(super) async fn connect<S>(
    stream: &mut S,
    target: &Authority,
    credentials: Option<&Credentials>,
) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let methods: &[u8] = match credentials {
        None => &[VERSION, 1, NOTHING],
        Some(_) => &[VERSION, 2, NOTHING, PASSWORD],
    };
    stream.write_all(methods).await?;
    stream.flush().await?;
    match (answer(stream).await?, credentials) {
        (NOTHING, _) => {}
        (PASSWORD, Some(it)) => log_in(stream, it).await?,
        (NO_METHOD | PASSWORD, None) => return Err(ProxyError::PasswordWanted),
        (NO_METHOD, Some(_)) => return Err(ProxyError::NoPassword),
        (other, _) => return Err(ProxyError::NotSocks(vec![VERSION, other])),
    }
    stream.write_all(&question(target)).await?;
    stream.flush().await?;
    match answer(stream).await? {
        0 => skip_bound(stream).await,
        code => Err(ProxyError::Socks(code)),
    }
}

/// Two bytes: the version, and what it says.
async fn answer<S: AsyncRead + Unpin>(stream: &mut S) -> Result<u8, ProxyError> {
    let mut first = [0];
    if stream.read(&mut first).await? == 0 {
        return Err(ProxyError::Closed);
    }
    if first[0] != VERSION {
        return Err(ProxyError::NotSocks(first.to_vec()));
    }
    Ok(stream.read_u8().await?)
}

async fn log_in<S>(stream: &mut S, credentials: &Credentials) -> Result<(), ProxyError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut said = Zeroizing::new(Vec::with_capacity(3 + 2 * 255));
    said.push(1);
    for part in [&credentials.user, &credentials.password] {
        // They are made no longer.
        said.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        said.extend_from_slice(part.as_bytes());
    }
    stream.write_all(&said).await?;
    stream.flush().await?;
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).await?;
    match answer[1] {
        0 => Ok(()),
        _ => Err(ProxyError::BadPassword),
    }
}

fn question(target: &Authority) -> Vec<u8> {
    let mut res = vec![VERSION, CONNECT, 0];
    match &target.host {
        Host::Ip(IpAddr::V4(it)) => {
            res.push(IPV4);
            res.extend_from_slice(&it.octets());
        }
        Host::Ip(IpAddr::V6(it)) => {
            res.push(IPV6);
            res.extend_from_slice(&it.octets());
        }
        Host::Name(it) => {
            res.push(NAME);
            // No name is longer than 253.
            res.push(u8::try_from(it.len()).unwrap_or(u8::MAX));
            res.extend_from_slice(it.as_bytes());
        }
    }
    res.extend_from_slice(&target.port.to_be_bytes());
    res
}

/// Where the proxy connects from, which nobody asked for.
async fn skip_bound<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), ProxyError> {
    let _reserved = stream.read_u8().await?;
    let length = match stream.read_u8().await? {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await?),
        other => return Err(ProxyError::NotSocks(vec![VERSION, 0, 0, other])),
    };
    let mut bound = [0; 255 + 2];
    stream.read_exact(&mut bound[..length + 2]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{DuplexStream, duplex};

    use super::*;

    fn target(host: &str) -> Authority {
        Authority {
            host: Host::parse(host).unwrap(),
            port: 443,
        }
    }

    /// Asks a proxy that says these bytes; what it made of them, what it said, and its end of the line.
    async fn asks(
        said: &[u8],
        host: &str,
        login: Option<&str>,
    ) -> (Result<(), ProxyError>, Vec<u8>, DuplexStream) {
        let (mut near, mut far) = duplex(4096);
        far.write_all(said).await.unwrap();
        far.shutdown().await.unwrap();
        let credentials = login.map(|it| Credentials::parse(it).unwrap());
        let res = connect(&mut near, &target(host), credentials.as_ref()).await;
        near.shutdown().await.unwrap();
        let mut heard = Vec::new();
        far.read_to_end(&mut heard).await.unwrap();
        (res, heard, near)
    }

    #[tokio::test]
    async fn a_name_is_sent_as_a_name_and_an_address_as_an_address() {
        let good = b"\x05\0\x05\0\0\x01\x7f\0\0\x01\x04\x38rest";
        for (host, question) in [
            ("corp.test", &b"\x03\x09corp.test"[..]),
            ("198.51.100.7", b"\x01\xc6\x33\x64\x07"),
            ("::1", b"\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"),
        ] {
            let (res, heard, mut near) = asks(good, host, None).await;
            res.unwrap();
            let want = [b"\x05\x01\0\x05\x01\0", question, b"\x01\xbb"].concat();
            assert_eq!(heard, want, "{host}");
            let mut rest = String::new();
            near.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "rest", "it is the target's");
        }
    }

    #[tokio::test]
    async fn the_password_is_told_only_to_a_proxy_that_asks_for_it() {
        let asking = b"\x05\x02\x01\0\x05\0\0\x03\x02ab\0\0";
        let (res, heard, _) = asks(asking, "a.b", Some("al:ice")).await;
        res.unwrap();
        assert_eq!(
            heard,
            b"\x05\x02\0\x02\x01\x02al\x03ice\x05\x01\0\x03\x03a.b\x01\xbb"
        );
        let open = b"\x05\0\x05\0\0\x04\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let (res, heard, _) = asks(open, "a.b", Some("al:ice")).await;
        res.unwrap();
        assert_eq!(heard, b"\x05\x02\0\x02\x05\x01\0\x03\x03a.b\x01\xbb");
    }

    #[tokio::test]
    async fn each_refusal_is_told_apart() {
        use ProxyError as F;
        type Is = fn(&ProxyError) -> bool;
        let rows: [(&[u8], Option<&str>, Is); 11] = [
            (b"", None, |it| matches!(it, F::Closed)),
            (b"\x05", None, |it| matches!(it, F::Io(_))),
            (
                b"HTTP/1.1 400 Bad",
                None,
                |it| matches!(it, F::NotSocks(it) if it == b"H"),
            ),
            (b"\x05\xff", None, |it| matches!(it, F::PasswordWanted)),
            (b"\x05\xff", Some("a:b"), |it| matches!(it, F::NoPassword)),
            // Without credentials it was not offered.
            (b"\x05\x02", None, |it| matches!(it, F::PasswordWanted)),
            (b"\x05\x07", None, |it| matches!(it, F::NotSocks(_))),
            (b"\x05\x02\x01\x01", Some("a:b"), |it| {
                matches!(it, F::BadPassword)
            }),
            (b"\x05\0\x05\x05", None, |it| matches!(it, F::Socks(5))),
            (b"\x05\0\x05\0\0\x09", None, |it| {
                matches!(it, F::NotSocks(_))
            }),
            (b"\x05\0\x05\0\0\x01\0\0", None, |it| matches!(it, F::Io(_))),
        ];
        for (said, login, is) in rows {
            let error = asks(said, "a.b", login).await.0.unwrap_err();
            assert!(is(&error), "{said:?}: {error:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_a_panic(said in prop::collection::vec(prop_oneof![Just(5), Just(0), 0_u8..5, any::<u8>()], 0..40), login: bool) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(asks(&said, "a.b", login.then_some("a:b")));
        }
    }
}
