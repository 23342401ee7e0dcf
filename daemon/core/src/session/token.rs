//! The secret that proves a login, the right to send it, and what else is known of that login.

use std::fmt;

use crate::{
    config::{Address, TokenKind},
    session::error::SourceError,
};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use control::text::clean;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

/// A token: sent to its cluster's hosts, stored in its file, shown nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    text: Zeroizing<String>,
    kind: TokenKind,
}

impl Token {
    /// The secret itself: for a header of a request to the cluster, and for the token's file. The only way to it.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Returns how it is sent.
    pub fn kind(&self) -> TokenKind {
        self.kind
    }

    /// Takes a token from a login or a file; `None` unless it is 1 to 16,384 visible ASCII characters.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of_kind(text, TokenKind::Pomerium)
    }

    /// Takes a token of this kind, as [`Token::parse`] does.
    pub fn of_kind(text: &str, kind: TokenKind) -> Option<Self> {
        let fits =
            (1..=16_384).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_graphic());
        fits.then(|| Self {
            text: Zeroizing::new(text.to_owned()),
            kind,
        })
    }

    /// Reads what a source gives: one word, which may stand between blanks.
    pub fn read(bytes: &[u8], kind: TokenKind) -> Result<Self, SourceError> {
        let text = std::str::from_utf8(bytes).map_err(|_| SourceError::NotAToken)?;
        match text.trim() {
            "" => Err(SourceError::Empty),
            word => Self::of_kind(word, kind).ok_or(SourceError::NotAToken),
        }
    }

    /// Returns when a bearer token ends by its own word: it is sent no later. Of Pomerium's own tokens only the server
    /// says whether they are good (pomerium#6304).
    pub fn expires(&self) -> Option<Timestamp> {
        match self.kind {
            TokenKind::Bearer => self.claims().expires,
            TokenKind::Pomerium => None,
        }
    }

    /// Returns what the token says of itself, if it is a JWT (RFC 7519) that can be read. Nothing of it is verified:
    /// whoever issued it is asked by the server.
    pub fn claims(&self) -> Claims {
        let mut parts = self.text.split('.');
        let (Some(_), Some(payload), Some(_), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Claims::default();
        };
        let payload = BASE64_URL_SAFE_NO_PAD.decode(payload.trim_end_matches('='));
        let Ok(payload) = payload.map(Zeroizing::new) else {
            return Claims::default();
        };
        serde_json::from_slice::<Shape>(&payload).map_or_else(|_| Claims::default(), Claims::from)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// What a JWT says of itself, cleaned for display. Not verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims {
    /// The end of its life (`exp`).
    pub expires: Option<Timestamp>,
    /// Who issued it (`iss`).
    pub issuer: Option<String>,
    /// Whom it is for (`aud`), several with commas between them.
    pub audience: Option<String>,
    /// Whose it is: the e-mail address, else the subject.
    pub user: Option<User>,
}

/// The claims as a token may hold them: what has another form counts as absent.
#[derive(Deserialize)]
struct Shape {
    #[serde(default)]
    exp: Value,
    #[serde(default)]
    iss: Value,
    #[serde(default)]
    aud: Value,
    #[serde(default)]
    sub: Value,
    #[serde(default)]
    email: Value,
}

impl From<Shape> for Claims {
    fn from(shape: Shape) -> Self {
        let text = |value: &Value| {
            let text = clean(value.as_str()?, 200);
            (!text.is_empty()).then_some(text)
        };
        let audience = match &shape.aud {
            Value::Array(all) => {
                let all: Vec<String> = all.iter().take(8).filter_map(text).collect();
                (!all.is_empty()).then(|| all.join(", "))
            }
            one => text(one),
        };
        let subject = text(&shape.sub);
        let display = text(&shape.email).or_else(|| subject.clone());
        Self {
            // RFC 7519, 2: seconds, that need not be whole.
            expires: shape
                .exp
                .as_f64()
                .filter(|it| (0.0..=253_402_207_200.0).contains(it))
                .and_then(|it| Timestamp::from_second(it as i64).ok()),
            issuer: text(&shape.iss),
            audience,
            user: display.map(|display| User { display, subject }),
        }
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
