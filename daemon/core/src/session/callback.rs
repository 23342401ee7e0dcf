//! The one request that a login takes from a browser, and the form of every reply.
//!
//! Pure: a request and what is expected in, a [`Visit`] out. The path alone is not the defence: the caller has looked
//! at who connects, and asks the server about the token.

use std::{borrow::Cow, hint::black_box};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body_util::Full;

use super::{pages::STYLE_HASH, token::Token};

/// Where the page is that shows the end of a login without the token in its address.
pub const DONE: &str = "/done";

/// The addresses that one login answers to.
#[derive(Clone, PartialEq, Eq)]
pub struct LoginEndpoints {
    /// `127.0.0.1:PORT`, or `[::1]:PORT` on a machine without the other.
    pub host: String,
    /// The port alone.
    pub port: u16,
    /// `/ID`: short, for people; every visit mints a sign-in URL.
    pub link: String,
    /// A path that nobody can guess, where the sign-in comes back to.
    pub callback: String,
}

/// What to make of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Visit {
    /// It was not meant for this place: 421.
    Misdirected,
    /// 404, and no word about what there is.
    Nothing,
    /// The link: mint a sign-in URL and go there.
    SignIn,
    /// The sign-in came back with this.
    Answer(Token),
    /// The sign-in came back and says why it did not succeed. Cleaned for display.
    Denied(String),
    /// The sign-in came back without a token that could be one.
    Unusable,
    /// The page at the end.
    Done,
}

impl LoginEndpoints {
    /// What a person is shown.
    pub fn link_url(&self) -> String {
        format!("http://{}{}", self.host, self.link)
    }

    /// What the server sends the browser back to.
    pub fn redirect_url(&self) -> String {
        format!("http://{}{}", self.host, self.callback)
    }
}

/// Classifies a request by its head. Whatever is not exactly right never uses the login up.
pub fn classify<B>(request: &Request<B>, endpoints: &LoginEndpoints) -> Visit {
    if !is_for(request, endpoints) {
        return Visit::Misdirected;
    }
    if request.method() != Method::GET
        || !matches!(request.version(), Version::HTTP_10 | Version::HTTP_11)
        || !is_navigation(request.headers())
    {
        return Visit::Nothing;
    }
    let path = request.uri().path();
    if path == DONE {
        Visit::Done
    } else if is_same(path, &endpoints.link) {
        Visit::SignIn
    } else if is_same(path, &endpoints.callback) {
        answer(request.uri().query().unwrap_or_default())
    } else {
        Visit::Nothing
    }
}

/// Classifies the address that a browser ended on, as a person copied it: the whole of it, or it is none.
pub fn classify_pasted(address: &str, endpoints: &LoginEndpoints) -> Visit {
    let behind = address.strip_prefix("http://");
    let behind = behind.and_then(|it| it.strip_prefix(&*endpoints.host));
    let Some(path) = behind.filter(|it| it.starts_with('/')) else {
        return Visit::Misdirected;
    };
    let request = Request::get(path).header(header::HOST, &*endpoints.host);
    match request.body(()) {
        Ok(request) => classify(&request, endpoints),
        Err(_) => Visit::Nothing,
    }
}

/// A reply with the headers that all replies have. A page comes with its type, a `location` as a redirect.
pub fn reply(
    status: StatusCode,
    location: Option<HeaderValue>,
    page: Option<String>,
) -> Response<Full<Bytes>> {
    let is_page = page.is_some();
    let mut res = Response::new(Full::from(page.unwrap_or_default()));
    *res.status_mut() = status;
    let policy = format!(
        "default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers = res.headers_mut();
    if let Ok(policy) = HeaderValue::from_str(&policy) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    for (name, value) in [
        ("referrer-policy", "no-referrer"),
        ("cache-control", "no-store"),
        ("x-content-type-options", "nosniff"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if is_page {
        let html = HeaderValue::from_static("text/html; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, html);
    }
    if let Some(location) = location {
        headers.insert(header::LOCATION, location);
    }
    res
}

fn is_for<B>(request: &Request<B>, endpoints: &LoginEndpoints) -> bool {
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let only = (hosts.next(), hosts.next());
    request.uri().authority().is_none()
        && matches!(only, (Some(host), None) if host.as_bytes() == endpoints.host.as_bytes())
}

/// A person goes to a page: no image, frame, script or prefetch. Programs that say nothing about it pass.
fn is_navigation(headers: &HeaderMap) -> bool {
    let all_are = |name: &str, wanted: &str| {
        let mut values = headers.get_all(name).iter().peekable();
        values.peek().is_some() && values.all(|it| it == wanted)
    };
    let tells = headers
        .keys()
        .any(|it| it.as_str().starts_with("sec-fetch-"));
    let prefetches = headers.contains_key("sec-purpose") || headers.contains_key("purpose");
    !prefetches
        && (!tells
            || all_are("sec-fetch-mode", "navigate") && all_are("sec-fetch-dest", "document"))
}

fn answer(query: &str) -> Visit {
    let mut tokens = Vec::new();
    let mut error = None;
    let mut description = None;
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "pomerium_jwt" => tokens.push(value),
            "error" => error = Some(value),
            "error_description" => description = Some(value),
            _ => {}
        }
    }
    match (&*tokens, error) {
        ([], Some(error)) => denied(&error, description),
        ([token], None) => Token::parse(token).map_or(Visit::Unusable, Visit::Answer),
        _ => Visit::Unusable,
    }
}

fn denied(error: &str, description: Option<Cow<'_, str>>) -> Visit {
    let text = match description {
        Some(description) => format!("{error}: {description}"),
        None => error.to_owned(),
    };
    Visit::Denied(control::text::clean(&text, 300))
}

/// In a time that does not tell how much is right.
fn is_same(given: &str, secret: &str) -> bool {
    let (given, secret) = (given.as_bytes(), secret.as_bytes());
    let differing = given
        .iter()
        .zip(secret)
        .fold(0, |res, (a, b)| black_box(res | (a ^ b)));
    given.len() == secret.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a8_every_reply_has_exactly_the_headers_that_keep_it_to_itself() {
        let page = reply(StatusCode::OK, None, Some("x".to_owned()));
        let mut headers: Vec<_> = page
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        headers.sort();
        assert_eq!(
            headers,
            [
                "cache-control: no-store".to_owned(),
                format!(
                    "content-security-policy: default-src 'none'; style-src '{STYLE_HASH}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
                ),
                "content-type: text/html; charset=utf-8".to_owned(),
                "cross-origin-opener-policy: same-origin".to_owned(),
                "cross-origin-resource-policy: same-origin".to_owned(),
                "referrer-policy: no-referrer".to_owned(),
                "x-content-type-options: nosniff".to_owned(),
            ]
        );
        let empty = reply(StatusCode::NOT_FOUND, None, None);
        assert_eq!(empty.headers().len(), 6);
    }

    #[test]
    fn a7_a_pasted_address_counts_as_a_whole_or_not_at_all() {
        let endpoints = LoginEndpoints {
            host: "127.0.0.1:41235".to_owned(),
            port: 41_235,
            link: "/k3v9qz".to_owned(),
            callback: "/unguessable".to_owned(),
        };
        let whole = format!("{}?pomerium_jwt=abc.def", endpoints.redirect_url());
        let token = Token::parse("abc.def").unwrap();
        assert_eq!(
            classify_pasted(&whole, &endpoints),
            Visit::Answer(token.clone())
        );
        let longest = format!("{whole}&filler={}", "x".repeat(6_000));
        assert_eq!(classify_pasted(&longest, &endpoints), Visit::Answer(token));
        assert_eq!(
            classify_pasted(&whole.replace("pomerium_jwt", "error"), &endpoints),
            Visit::Denied("abc.def".to_owned())
        );
        let no_token = endpoints.redirect_url();
        assert_eq!(classify_pasted(&no_token, &endpoints), Visit::Unusable);
        for (from, to) in [
            ("http://127.0.0.1:41235", ""),
            ("http://", ""),
            ("http://", "https://"),
            ("http://", "http://x@"),
            ("127.0.0.1", "localhost"),
            ("127.0.0.1:41235", "127.0.0.1:41235.example.com"),
            ("41235", "4123"),
            ("41235", "41236"),
            ("/unguessable", "/unguessabl"),
            ("/unguessable", "/other"),
            ("/unguessable", "/unguessable/"),
            ("/unguessable", "/x/../unguessable"),
            ("/unguessable", "//unguessable"),
            ("/unguessable", "/%75nguessable"),
            ("/unguessable", " /unguessable"),
            ("abc", "a\r\nb"),
            ("abc", "a b"),
        ] {
            let other = whole.replace(from, to);
            let visit = classify_pasted(&other, &endpoints);
            assert!(
                matches!(visit, Visit::Misdirected | Visit::Nothing),
                "{other}: {visit:?}"
            );
        }
    }

    #[test]
    fn comparing_takes_the_whole_into_account() {
        assert!(is_same("/abc", "/abc"));
        for other in ["", "/ab", "/abcd", "/abd", "xabc"] {
            assert!(!is_same(other, "/abc"), "{other}");
        }
    }
}
