//! What a server may make a browser open (A12). Pure.

use url::Url;

/// The longest sign-in URL.
const URL: usize = 8 << 10;

/// Why a text is no sign-in address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongUrl {
    #[error("it is longer than 8 KiB")]
    TooLong,
    #[error("it is not https")]
    Scheme,
    #[error("it has characters that do not belong into an address")]
    Characters,
    #[error("it names a user")]
    User,
    #[error("it is broken")]
    Broken,
}

/// The URL as the server wrote it, if it may be handed to a browser (A12).
pub(super) fn checked(body: &[u8], tls: bool) -> Result<String, WrongUrl> {
    let text = body.trim_ascii();
    let (secure, plain) = (&b"https://"[..], &b"http://"[..]);
    if !text.starts_with(secure) && (tls || !text.starts_with(plain)) {
        return Err(WrongUrl::Scheme);
    }
    if text.len() > URL {
        return Err(WrongUrl::TooLong);
    }
    let belongs = |it: &u8| it.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(it);
    if !text.iter().all(belongs) || hides_control(text) {
        return Err(WrongUrl::Characters);
    }
    let text = std::str::from_utf8(text).map_err(|_| WrongUrl::Characters)?;
    let url = Url::parse(text).map_err(|_| WrongUrl::Broken)?;
    let place = text.split_once("://").map_or("", |it| it.1);
    let place = place.split(['/', '?', '#']).next().unwrap_or_default();
    if place.contains('@') || !url.username().is_empty() || url.password().is_some() {
        return Err(WrongUrl::User);
    }
    match url.host_str() {
        Some(host) if !host.is_empty() && !place.is_empty() => Ok(text.to_owned()),
        _ => Err(WrongUrl::Broken),
    }
}

/// A control byte behind a `%`: no opener may come to unpack one.
fn hides_control(text: &[u8]) -> bool {
    text.windows(3).any(|it| match it {
        [b'%', b'0' | b'1', _] => true,
        [b'%', b'7', last] => last.eq_ignore_ascii_case(&b'f'),
        _ => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a12_only_a_plain_https_address_reaches_a_browser() {
        let good = "https://auth.example.com/.pomerium/sign_in?a=b%2Fc&sig=x_-~$(id)#f";
        assert_eq!(checked(format!("{good}\n").as_bytes(), true).unwrap(), good);
        assert_eq!(
            checked(b"https://[::1]:8443/x", true).unwrap(),
            "https://[::1]:8443/x"
        );
        assert!(checked(b"https://a/?next=https://b@c", true).is_ok());
        let long = format!("https://a/{}", "x".repeat(1 << 20));
        let table: &[(&str, WrongUrl)] = &[
            ("", WrongUrl::Scheme),
            ("javascript:alert(1)", WrongUrl::Scheme),
            ("file:///etc/passwd", WrongUrl::Scheme),
            ("-flag", WrongUrl::Scheme),
            ("--new-window https://a", WrongUrl::Scheme),
            ("$(id)", WrongUrl::Scheme),
            ("<!doctype html><html>", WrongUrl::Scheme),
            ("http://a/", WrongUrl::Scheme),
            ("HTTPS://a/", WrongUrl::Scheme),
            ("https:/a", WrongUrl::Scheme),
            ("https://a@b/", WrongUrl::User),
            ("https://a:b@c/", WrongUrl::User),
            ("https://@b/", WrongUrl::User),
            ("https://:@b?x", WrongUrl::User),
            ("https://a/%0a", WrongUrl::Characters),
            ("https://a/%1B", WrongUrl::Characters),
            ("https://a/%7F", WrongUrl::Characters),
            ("https://a/\nb", WrongUrl::Characters),
            ("https://a/\0", WrongUrl::Characters),
            ("https://a/ b", WrongUrl::Characters),
            ("https://a\\b", WrongUrl::Characters),
            ("https://a/`id`", WrongUrl::Characters),
            ("https://a/\"", WrongUrl::Characters),
            ("https://a/\u{202e}", WrongUrl::Characters),
            ("https://a/ https://b/", WrongUrl::Characters),
            ("https://", WrongUrl::Broken),
            ("https:///a", WrongUrl::Broken),
            ("https://a:99999/", WrongUrl::Broken),
            ("https://[::1/", WrongUrl::Broken),
            (&long, WrongUrl::TooLong),
        ];
        for (text, wrong) in table {
            let start: String = text.chars().take(60).collect();
            assert_eq!(checked(text.as_bytes(), true), Err(*wrong), "{start}");
        }
        assert_eq!(checked(b"http://a/", false).unwrap(), "http://a/");
        assert_eq!(checked(b"https://a/\xff", true), Err(WrongUrl::Characters));
        let most = format!("https://a/{}", "x".repeat(URL - 10));
        assert!(checked(most.as_bytes(), true).is_ok());
        assert_eq!(
            checked(format!("{most}x").as_bytes(), true),
            Err(WrongUrl::TooLong)
        );
    }
}
