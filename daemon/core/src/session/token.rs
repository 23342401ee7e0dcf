//! The secret that proves a login, the right to send it, and what else is known of that login.

use std::fmt;

use crate::config::Address;
use jiff::Timestamp;
use zeroize::Zeroizing;

/// A token: sent to its cluster's hosts, stored in its file, shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// The secret itself: for a header of a request to the cluster, and for the token's file. The only way to it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Takes a token from a login or a file; `None` unless it is 1 to 16,384 visible ASCII characters.
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

/// The right to send one token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Which login produced it, so that a late refusal cannot harm a newer one. Counts up from 1 in one daemon's life.
    pub generation: u64,
    /// The secret.
    pub token: Token,
    /// Who is logged in, if the server said so.
    pub user: Option<String>,
}

/// Who a token belongs to. Cleaned for display.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// The e-mail address, else the name, else the subject.
    pub display: String,
    /// The subject: the same person has the same one.
    pub subject: Option<String>,
}

/// A login that was made, as it is kept in memory and in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credential {
    /// Where it was made: its file is named after this.
    pub address: Address,
    /// The secret.
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
