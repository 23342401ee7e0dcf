//! Which requests get an answer on the control socket: no web page's (A9).

use hyper::{HeaderMap, Uri, header};

/// What a browser adds to requests of web pages, or a name that a web page could have pointed at this machine, in the
/// headers or in the target.
pub(super) fn is_from_web_page(target: &Uri, headers: &HeaderMap) -> bool {
    let added = |name: &header::HeaderName| {
        name == header::ORIGIN || name == header::REFERER || name.as_str().starts_with("sec-fetch-")
    };
    let host = headers
        .get(header::HOST)
        .map_or(&b""[..], |it| it.as_bytes());
    let named = target.authority().map_or("", |it| it.as_str());
    headers.keys().any(added)
        || !is_ours(named.as_bytes())
        || headers.get_all(header::HOST).iter().count() > 1
        || !is_ours(host)
}

fn is_ours(host: &[u8]) -> bool {
    matches!(host, b"" | b"localhost" | b"pomd")
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    #[test]
    fn only_plain_local_requests_pass() {
        let table: &[(&[(&str, &str)], bool)] = &[
            (&[], false),
            (&[("host", "")], false),
            (&[("host", "localhost")], false),
            (&[("host", "pomd")], false),
            (&[("host", "pomd"), ("pomd-protocol", "1")], false),
            (&[("host", "localhost:80")], true),
            (&[("host", "127.0.0.1")], true),
            (&[("host", "evil.example")], true),
            (&[("host", "pomd"), ("host", "pomd")], true),
            (&[("host", "pomd"), ("origin", "null")], true),
            (&[("host", "pomd"), ("origin", "http://localhost")], true),
            (&[("host", "pomd"), ("referer", "")], true),
            (&[("host", "pomd"), ("sec-fetch-site", "none")], true),
            (&[("host", "pomd"), ("sec-fetch-anything", "x")], true),
        ];
        for (headers, expected) in table {
            let mut map = HeaderMap::new();
            for (name, value) in *headers {
                map.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_str(value).unwrap(),
                );
            }
            let target = Uri::from_static("/v1/status");
            assert_eq!(is_from_web_page(&target, &map), *expected, "{headers:?}");
        }
        let elsewhere = Uri::from_static("http://evil.example/v1/status");
        assert!(is_from_web_page(&elsewhere, &HeaderMap::new()));
        let here = Uri::from_static("http://pomd/v1/status");
        assert!(!is_from_web_page(&here, &HeaderMap::new()));
    }
}
