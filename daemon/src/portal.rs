//! What a cluster says of me: who I am, what I may use, until when.
//!
//! Everything here comes from a server that is not trusted for more than its own routes: it is bounded, checked and
//! cleaned. Must not know sessions or tunnels.

mod near;
mod offered;
mod sign_in;

pub use near::similar;
pub use offered::Offered;

use control::{text::clean, wire::RouteKind};
use jiff::Timestamp;
use pomd_core::{
    config::{Address, Authority},
    route::{
        error::{HttpError, StepError, Target},
        refusal::{self, OpenError, Refusal, RefusalKind},
    },
    session::token::{Token, User},
};
use serde::{Deserialize, Deserializer, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::upstream::{Answer, Upstream};

/// Where the page says what it knows.
const PAGE_DATA: &[u8] = b"window.POMERIUM_DATA";

/// Asks whether `token` is good, and whose it is. `OpenError::Unauthenticated` if it is not. Older servers do not know
/// the question: see [`takes`].
pub async fn user(upstream: &Upstream, at: &Address, token: &Token) -> Result<User, OpenError> {
    let answer = asked(upstream, at, USER_PATH, token).await?;
    read_user(&answer.body).ok_or_else(|| not_pomerium(at, &answer).into())
}

/// Where a server tells who sends a token.
pub const USER_PATH: &str = "/.pomerium/user";

/// Returns who sent the token that `answer`, of [`USER_PATH`], is about; `None` unless the server takes it.
pub fn user_of(answer: &Answer) -> Option<User> {
    read_user(&answer.body).filter(|_| answer.status == 200)
}

/// Whether `token` is good as far as a server tells that knows no [`user`]: by its page, if that says anything of
/// sessions. Only a server that is in trouble is an error.
pub async fn takes(upstream: &Upstream, at: &Address, token: &Token) -> Result<bool, OpenError> {
    match asked(upstream, at, "/.pomerium/", token).await {
        Ok(page) => Ok(read_session(&page.body).is_none_or(|it| it.is_good())),
        Err(OpenError::Unauthenticated { .. }) => Ok(false),
        Err(OpenError::Refused(it)) if it.status != 0 && it.status < 450 => Ok(true),
        Err(other) => Err(other),
    }
}

/// Returns the routes that the user may use, at most 10,000.
pub async fn offered(
    upstream: &Upstream,
    at: &Address,
    token: &Token,
) -> Result<Vec<Offered>, OpenError> {
    let answer = asked(upstream, at, "/.pomerium/api/v1/routes", token).await?;
    offered::read(&answer.body).ok_or_else(|| not_pomerium(at, &answer).into())
}

/// Returns the TCP routes among [`offered`]. Those of other protocols are of no use to a tunnel.
pub async fn routes(
    upstream: &Upstream,
    at: &Address,
    token: &Token,
) -> Result<Vec<Authority>, OpenError> {
    let offered = offered(upstream, at, token).await?.into_iter();
    let tcp = offered.filter(|it| it.shown.kind == RouteKind::Tcp);
    Ok(tcp.filter_map(|it| it.target).collect())
}

/// When the session ends at the latest: an upper bound, `None` if the page does not say.
pub async fn session_end(upstream: &Upstream, at: &Address, token: &Token) -> Option<Timestamp> {
    let answer = asked(upstream, at, "/.pomerium/", token).await.ok()?;
    read_session_end(&answer.body)
}

/// Mints a sign-in URL that comes back to `redirect`. Checked as A12 says: https (http for an http cluster), no user
/// part, no control bytes, at most 8 KiB.
pub async fn sign_in_url(
    upstream: &Upstream,
    at: &Address,
    redirect: &str,
) -> Result<String, OpenError> {
    let answer = upstream.get(at, &sign_in_path(redirect), None).await?;
    sign_in_url_of(&answer, at)
}

/// Returns where a server mints a sign-in URL that comes back to `redirect`. Every Pomerium does so for everybody.
pub fn sign_in_path(redirect: &str) -> String {
    let redirect: String = url::form_urlencoded::byte_serialize(redirect.as_bytes()).collect();
    format!("/.pomerium/api/v1/login?pomerium_redirect_uri={redirect}")
}

/// Returns the sign-in URL that `answer`, of [`sign_in_path`], holds.
pub fn sign_in_url_of(answer: &Answer, at: &Address) -> Result<String, OpenError> {
    if answer.status != 200 {
        return Err(login_refused(answer));
    }
    sign_in::checked(&answer.body, at.tls).map_err(|wrong| {
        let error = HttpError::SignIn(wrong.to_string());
        StepError::new(Target::Server(at.clone()), error).into()
    })
}

async fn asked(
    upstream: &Upstream,
    at: &Address,
    path: &str,
    token: &Token,
) -> Result<Answer, OpenError> {
    let answer = upstream.get(at, path, Some(token)).await?;
    match answer.status {
        200 => Ok(answer),
        status => Err(refusal::from(
            status,
            answer.request_id.as_deref(),
            &answer.body,
        )),
    }
}

/// No token was sent, so none can be bad: a 401 or a redirect is a refusal like others.
fn login_refused(answer: &Answer) -> OpenError {
    match refusal::from(answer.status, answer.request_id.as_deref(), &answer.body) {
        OpenError::Unauthenticated { request_id } => OpenError::Refused(Refusal {
            kind: RefusalKind::Other,
            status: answer.status,
            request_id,
            detail: None,
        }),
        other => other,
    }
}

/// Returns the error for a server at `at` whose `answer` is none of Pomerium's.
pub fn not_pomerium(at: &Address, answer: &Answer) -> StepError {
    let error = HttpError::NotPomerium {
        length: answer.body.len(),
        content_type: answer.content_type.clone(),
    };
    StepError::new(Target::Server(at.clone()), error)
}

fn read_user(body: &[u8]) -> Option<User> {
    #[derive(Deserialize)]
    struct Claims<'a> {
        #[serde(borrow)]
        email: Option<&'a RawValue>,
        #[serde(borrow)]
        name: Option<&'a RawValue>,
        #[serde(borrow)]
        sub: Option<&'a RawValue>,
    }
    let claims: Claims<'_> = serde_json::from_slice(body).ok()?;
    let text = |raw: Option<&RawValue>| {
        let text = clean(&lenient::<String>(raw?)?, 200);
        (!text.is_empty()).then_some(text)
    };
    let subject = text(claims.sub);
    let display = text(claims.email)
        .or_else(|| text(claims.name))
        .or_else(|| subject.clone())?;
    Some(User { display, subject })
}

/// A member that is there, be it null.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    Deserialize::deserialize(deserializer).map(Some)
}

fn lenient<T: DeserializeOwned>(raw: &RawValue) -> Option<T> {
    serde_json::from_str(raw.get()).ok()
}

/// What a page says of the session that asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Session {
    /// There is none.
    None,
    /// One that ends then, if it says so.
    Until(Option<Timestamp>),
}

impl Session {
    /// A stale token has an end at the beginning of time.
    fn is_good(self) -> bool {
        match self {
            Self::None => false,
            Self::Until(end) => end.is_none_or(|it| it.as_second() > 366 * 24 * 3600),
        }
    }
}

fn read_session_end(page: &[u8]) -> Option<Timestamp> {
    match read_session(page)? {
        it @ Session::Until(end) if it.is_good() => end,
        _ => None,
    }
}

/// `None`: the page says nothing of sessions, or nothing that can be understood.
fn read_session(page: &[u8]) -> Option<Session> {
    #[derive(Deserialize)]
    struct Data<'a> {
        #[serde(borrow, default, deserialize_with = "present")]
        session: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Ends {
        expires_at: Option<Timestamp>,
    }
    let mut rest = page;
    // The name may stand in a script before its value does; a page of nothing else is not searched for ever.
    for _ in 0..8 {
        let at = rest
            .windows(PAGE_DATA.len())
            .position(|it| it == PAGE_DATA)?;
        rest = rest[at + PAGE_DATA.len()..].trim_ascii_start();
        let Some(value) = rest.strip_prefix(b"=") else {
            continue;
        };
        let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Data>();
        if let Some(Ok(data)) = values.next() {
            let session = data.session?;
            return match session.get().as_bytes().first() {
                Some(b'n') => Some(Session::None),
                Some(b'{') => Some(Session::Until(
                    lenient::<Ends>(session).and_then(|it| it.expires_at),
                )),
                _ => None,
            };
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;
    use crate::upstream::testing::{Lab, corp, head, token};

    #[test]
    fn a_user_is_shown_by_the_best_name_there_is() {
        let shown = |body: &str| read_user(body.as_bytes()).map(|it| (it.display, it.subject));
        let sub = || Some("s".to_owned());
        assert_eq!(
            shown(r#"{"email":"a@b","name":"A","sub":"s","groups":[1]}"#),
            Some(("a@b".to_owned(), sub()))
        );
        assert_eq!(
            shown(r#"{"email":"","name":"A","sub":"s"}"#),
            Some(("A".to_owned(), sub()))
        );
        assert_eq!(
            shown(r#"{"email":null,"name":7,"sub":"s"}"#),
            Some(("s".to_owned(), sub()))
        );
        assert_eq!(shown(r#"{"email":"a@b"}"#), Some(("a@b".to_owned(), None)));
        assert_eq!(
            shown(r#"{"email":"a\u001b[2J\u202e"}"#),
            Some((r"a\u{1b}[2J\u{202e}".to_owned(), None))
        );
        for it in ["{}", "[]", "null", "<html>", "", r#"{"sub":" "}"#] {
            assert_eq!(shown(it), None, "{it}");
        }
    }

    /// Asks with `ask`; the server answers its one GET with `answer`.
    async fn told<T>(
        answer: &str,
        ask: impl AsyncFnOnce(Upstream, Address, Token) -> T,
    ) -> (T, String) {
        let lab = Lab::new().await;
        let (upstream, server) = (lab.upstream(), lab.server());
        tokio::join!(ask(upstream, corp(), token()), async {
            let mut stream = lab.accept(&server).await.unwrap();
            let asked = head(&mut stream).await.0;
            stream.write_all(answer.as_bytes()).await.unwrap();
            asked
        })
    }

    fn page(status: u16, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status} X\r\nlocation: https://evil.example/\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn a_bad_token_is_told_from_a_page_that_is_no_pomerium() {
        let ask = async |it: Upstream, at, token| user(&it, &at, &token).await;
        let (good, asked) = told(&page(200, r#"{"email":"a@b"}"#), ask).await;
        assert_eq!(good.unwrap().display, "a@b");
        assert!(
            asked.starts_with("GET /.pomerium/user HTTP/1.1\r\n"),
            "{asked}"
        );
        for bad in [401, 302] {
            let res = told(&page(bad, ""), ask).await.0;
            assert!(
                matches!(res, Err(OpenError::Unauthenticated { .. })),
                "{res:?}"
            );
        }
        let res = told(&page(200, "<html>Welcome to the hotel"), ask).await.0;
        assert_eq!(
            res.unwrap_err().to_string(),
            "corp.example.com does not answer as Pomerium does: 26 bytes of nothing known"
        );
        let res = told(&page(404, ""), ask).await.0;
        assert!(matches!(res, Err(OpenError::Refused(_))), "{res:?}");
    }

    #[tokio::test]
    async fn a12_a_sign_in_address_is_minted_without_a_token_and_no_redirect_is_followed() {
        let redirect = "http://127.0.0.1:41235/k3v9qz?a=b&c";
        let ask = async |it: Upstream, at, _| sign_in_url(&it, &at, redirect).await;
        let (url, asked) = told(&page(200, "https://auth.example.com/x?sig=1\n"), ask).await;
        assert_eq!(url.unwrap(), "https://auth.example.com/x?sig=1");
        let path = "/.pomerium/api/v1/login?pomerium_redirect_uri=http%3A%2F%2F127.0.0.1%3A41235%2Fk3v9qz%3Fa%3Db%26c";
        assert!(
            asked.starts_with(&format!("GET {path} HTTP/1.1\r\n")),
            "{asked}"
        );
        assert!(asked.contains("host: corp.example.com\r\n"), "{asked}");
        assert!(!asked.contains("authorization"), "{asked}");
        for status in [302, 401, 400, 404, 500] {
            match told(&page(status, ""), ask).await.0 {
                Err(OpenError::Refused(it)) => assert_eq!(it.status, status),
                other => panic!("{other:?}"),
            }
        }
        for body in ["<html>hello</html>", "http://auth.example.com/", ""] {
            let error = told(&page(200, body), ask).await.0.unwrap_err();
            assert_eq!(
                error.to_string(),
                "corp.example.com gave no sign-in address: it is not https"
            );
        }
    }

    #[tokio::test]
    async fn a_session_without_an_end_is_no_error() {
        let ask = async |it: Upstream, at, token| session_end(&it, &at, &token).await;
        for (status, body) in [(200, "<html>"), (401, ""), (500, "")] {
            assert_eq!(told(&page(status, body), ask).await.0, None);
        }
        let body = r#"window.POMERIUM_DATA = {"session":{"expiresAt":"2026-11-22T23:41:00Z"}};"#;
        assert!(told(&page(200, body), ask).await.0.is_some());
    }

    #[tokio::test]
    async fn a_server_that_knows_no_user_tells_by_its_page_whether_it_takes_a_token() {
        let ask = async |it: Upstream, at, token| takes(&it, &at, &token).await;
        let data = |session: &str| format!("<script>window.POMERIUM_DATA = {{\"a\":1{session}}};");
        for (status, body, expected) in [
            (
                200,
                data(r#","session":{"expiresAt":"2026-11-22T23:41:00Z"}"#),
                true,
            ),
            (200, data(r#","session":{"id":"x"}"#), true),
            (200, data(r#","session":null"#), false),
            (
                200,
                data(r#","session":{"expiresAt":"1970-01-01T00:00:00Z"}"#),
                false,
            ),
            // Nothing to go by: the CONNECT will tell.
            (200, data(""), true),
            (200, data(r#","session":7"#), true),
            (200, "<html>an older dashboard".to_owned(), true),
            (404, String::new(), true),
            (403, "no".to_owned(), true),
            (401, String::new(), false),
            (302, String::new(), false),
        ] {
            let (res, asked) = told(&page(status, &body), ask).await;
            assert!(asked.starts_with("GET /.pomerium/ HTTP/1.1\r\n"), "{asked}");
            assert_eq!(res.unwrap(), expected, "{status} {body}");
        }
        for status in [500, 502, 503] {
            let res = told(&page(status, ""), ask).await.0;
            assert!(matches!(res, Err(OpenError::Refused(_))), "{res:?}");
        }
    }

    fn end(page: &str) -> Option<String> {
        read_session_end(page.as_bytes()).map(|it| it.to_string())
    }

    #[test]
    fn the_end_of_a_session_is_read_where_the_page_says_it() {
        let page = |session: &str| {
            format!(
                "<html><script>window.POMERIUM_DATA = {{\"page\":\"UserInfo\",\"session\":{session},\"x\":[\"\\u003c\"]}};</script>"
            )
        };
        assert_eq!(
            end(&page(r#"{"id":"1","expiresAt":"2026-11-22T23:41:00.5Z"}"#)).unwrap(),
            "2026-11-22T23:41:00.5Z"
        );
        for none in [
            "null",
            "{}",
            "7",
            r#"{"expiresAt":null}"#,
            r#"{"expiresAt":7}"#,
            r#"{"expiresAt":"soon"}"#,
            r#"{"expiresAt":"1970-01-01T00:00:00Z"}"#,
        ] {
            assert_eq!(end(&page(none)), None, "{none}");
        }
        let twice = format!(
            "if (window.POMERIUM_DATA) {{}} {}",
            page(r#"{"expiresAt":"2026-11-22T23:41:00Z"}"#)
        );
        assert_eq!(end(&twice).unwrap(), "2026-11-22T23:41:00Z");
        for none in [
            "",
            "window.POMERIUM_DATA",
            "window.POMERIUM_DATA =",
            "window.POMERIUM_DATA = {",
        ] {
            assert_eq!(end(none), None);
        }
        assert_eq!(end(&"window.POMERIUM_DATA = [".repeat(100_000)), None);
    }
}
