//! The secret that proves a login, and what else is known of that login.

use std::fmt;

use crate::config::Address;
use jiff::Timestamp;
use zeroize::Zeroizing;

/// A token: sent to its cluster's hosts, stored in its file, shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// The only way to the secret itself: for a header of a request to the cluster, and for the token's file.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// From a login or a file; `None` unless it is 1 to 16,384 visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        let fits =
            (1..=16_384).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_graphic());
        fits.then(|| Self(Zeroizing::new(text.to_owned())))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// A login that was made: what is kept of it, in memory and in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// Where it was made: its file is named after this.
    pub address: Address,
    /// What was got.
    pub token: Token,
    /// Who, for people.
    pub user: Option<String>,
    /// Who, for comparing.
    pub subject: Option<String>,
    /// When it was made.
    pub since: Timestamp,
    /// When the session ends at the latest.
    pub until: Option<Timestamp>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_visible_ascii_of_bounded_length() {
        assert!(Token::parse("eyJhbGciOiJFUzI1NiJ9.e30.c2ln").is_some());
        assert!(Token::parse(&"x".repeat(16_384)).is_some());
        for bad in ["", "a b", "a\r\nX: y", "ä", "a\0", &"x".repeat(16_385)] {
            assert_eq!(Token::parse(bad), None, "{bad:.20}");
        }
    }

    #[test]
    fn a_token_does_not_print_itself() {
        let token = Token::parse("canary").unwrap();
        assert_eq!(
            format!("{token:?} {:?}", Some(&token)),
            "Token(…) Some(Token(…))"
        );
    }
}
