//! The user and password for a forward proxy. Pure.

use std::fmt;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use percent_encoding::percent_decode_str;
use zeroize::Zeroizing;

/// The most that either part takes: SOCKS counts it in a byte, and nobody types more.
const PART: usize = 255;

/// Who we are to a forward proxy: sent to it and shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: Zeroizing<String>,
    pub(super) password: Zeroizing<String>,
}

impl Credentials {
    /// `None` where no proxy could be told so.
    pub(super) fn new(user: &str, password: &str) -> Option<Self> {
        let fits = |it: &str| it.len() <= PART && !it.contains(char::is_control);
        let good = !user.is_empty() && fits(user) && fits(password);
        good.then(|| Self {
            user: Zeroizing::new(user.to_owned()),
            password: Zeroizing::new(password.to_owned()),
        })
    }

    /// `user:password` in the one line that is not blank. Spaces around the password are a part of it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut lines = text.split(['\n', '\r']).filter(|it| !it.trim().is_empty());
        let (user, password) = lines.next()?.split_once(':')?;
        match lines.next() {
            None => Self::new(user, password),
            Some(_) => None,
        }
    }

    /// For behind `Basic ` in a header.
    pub(super) fn basic(&self) -> Zeroizing<String> {
        let mut plain = Zeroizing::new(String::with_capacity(2 * PART + 1));
        plain.push_str(&self.user);
        plain.push(':');
        plain.push_str(&self.password);
        Zeroizing::new(BASE64_STANDARD.encode(&*plain))
    }
}

/// Returns `encoded` without its percent-encoding; `None` if that is broken or not UTF-8.
pub(super) fn percent_decoded(encoded: &str) -> Option<Zeroizing<String>> {
    let is_whole = |behind: &str| {
        let digits = behind.as_bytes().get(..2);
        digits.is_some_and(|it| it.iter().all(u8::is_ascii_hexdigit))
    };
    if !encoded.split('%').skip(1).all(is_whole) {
        return None;
    }
    // As long as it gets: growing would leave copies of the password behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(encoded.len()));
    bytes.extend(percent_decode_str(encoded));
    let text = std::str::from_utf8(&bytes).ok()?;
    Some(Zeroizing::new(text.to_owned()))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_a_file_holds_one_line_with_a_user_and_a_password() {
        let parsed = |text: &str| {
            let it = Credentials::parse(text)?;
            Some((it.user.to_string(), it.password.to_string()))
        };
        let pair = |user: &str, password: &str| Some((user.to_owned(), password.to_owned()));
        assert_eq!(parsed("alice:s3:cret"), pair("alice", "s3:cret"));
        assert_eq!(parsed("alice: p w \r\n"), pair("alice", " p w "));
        assert_eq!(parsed("älice:\n"), pair("älice", ""));
        for blank in ["a:b\n\n", "a:b\r\n \t\r\n", "\n\na:b", "a:b\r", "a:b\r\r"] {
            assert_eq!(parsed(blank), pair("a", "b"), "{blank:?}");
        }
        for bad in [
            "",
            "\n",
            "alice",
            ":x",
            "a:b\nc:d\n",
            "a:b\0",
            "a:b\r\nX: y",
            &format!("a:{}", "x".repeat(256)),
        ] {
            assert_eq!(parsed(bad), None, "{bad:.20}");
        }
    }

    #[test]
    fn n11_what_is_encoded_is_decoded_and_never_printed() {
        let it = Credentials::parse("Aladdin:open sesame").unwrap();
        assert_eq!(&*it.basic(), "QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        assert_eq!(format!("{it:?}"), "Credentials(…)");
        let decoded = |it: &str| percent_decoded(it).map(|it| it.to_string());
        for (encoded, want) in [
            ("a%3Ab%40c%25", Some("a:b@c%")),
            ("%c3%A4+ü", Some("ä+ü")),
            ("", Some("")),
            ("%", None),
            ("a%4", None),
            ("%zz", None),
            ("%+1", None),
            ("%ff", None),
        ] {
            assert_eq!(decoded(encoded).as_deref(), want, "{encoded}");
        }
    }
}
