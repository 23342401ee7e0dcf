//! The small pages that a person sees in the browser at the end of a login.
//!
//! Pure: facts in, HTML out. No script, nothing from elsewhere, readable without the style. Everything is escaped; no
//! page can hold a token or a link other than the one to try again.

use jiff::{Timestamp, tz::TimeZone};

/// The only style there is; the policy of every reply allows exactly this one, by its hash.
pub const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1b1f24;--paper:#fff;--link:#0550ae}\
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ec;--paper:#16191d;--link:#79b8ff}}\
body{margin:0;padding:12vh 1.5rem 2rem;background:var(--paper);color:var(--ink);font:1.125rem/1.5 system-ui,sans-serif}\
main{max-width:34rem;margin:0 auto}h1{font-size:1.6rem;line-height:1.25;margin:0 0 1rem;overflow-wrap:anywhere}p{margin:0 0 .75rem;overflow-wrap:anywhere}\
a{color:var(--link)}code{font-family:ui-monospace,monospace}";
/// `STYLE`'s hash as the policy wants it; a test computes it anew.
pub const STYLE_HASH: &str = "sha256-Lcodn00RKHbOFUy9ZfFLiEldj4HryjbLRv9sOr7bAQM=";

/// What became of a login that was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Success {
    /// Who is logged in.
    pub user: Option<String>,
    /// Until when, in the person's words.
    pub until: Option<String>,
    /// How many connections waited for it.
    pub waiting: u64,
    /// Who was logged in before, if that was somebody else.
    pub instead_of: Option<String>,
}

/// Says on every page whose it is.
const WHOSE: &str = "This page is pomd's, on this machine.";

/// The page of a login that succeeded.
pub fn success(cluster: &str, it: &Success) -> String {
    let who = it.user.as_deref().map(|it| format!("as {it}"));
    let until = it.until.as_deref().map(|it| format!("until {it}"));
    let facts: Vec<_> = who.into_iter().chain(until).collect();
    let mut text = String::new();
    if !facts.is_empty() {
        text += &escape(&format!("{}. ", facts.join(", ")));
    }
    match it.waiting {
        0 => {}
        1 => text += "1 waiting connection goes on. ",
        more => text += &format!("{more} waiting connections go on. "),
    }
    let mut paragraphs = vec![text + "You can close this tab."];
    if let Some(before) = &it.instead_of {
        paragraphs.push(
            escape(&format!(
                "This is another account than before ({before}). If it is not yours:"
            )) + &command("logout", cluster),
        );
    }
    page(&format!("You are logged in to {cluster}"), &paragraphs)
}

/// The page of a link whose login has succeeded before.
pub fn finished(cluster: &str) -> String {
    let text = format!("You are logged in to {cluster}. You can close this tab.");
    page("This login is finished", &[escape(&text)])
}

/// The page of a link whose login is over without success.
pub fn ended(cluster: &str) -> String {
    let text = "Nothing was changed. Start again:".to_owned() + &command("login", cluster);
    page("This login has ended", &[text])
}

/// The page of a login that the server refused; `why` is what it said, `again` the path to try again.
pub fn denied(why: &str, again: &str) -> String {
    page(
        "The login did not succeed",
        &[escape(why), try_again(again)],
    )
}

/// The page for an answer without a token that could be one.
pub fn unusable(cluster: &str) -> String {
    let text = "It belongs to another login, or was changed on the way. Start again:".to_owned()
        + &command("login", cluster);
    page("That answer can't be used", &[text])
}

/// The page of a login that is still open although a step towards the server failed.
pub fn unreachable(why: &str, again: &str) -> String {
    let heading = "The login can't go on yet";
    page(heading, &[escape(why), try_again(again)])
}

/// `until` as people say it: the time alone today, with the day within a week.
pub fn moment(until: Timestamp, now: Timestamp, zone: TimeZone) -> String {
    let then = until.to_zoned(zone.clone());
    let today = now.to_zoned(zone).date();
    let days = (then.date() - today).get_days();
    let format = match days {
        0 => "%H:%M",
        1..=6 => "%a %H:%M",
        _ => "%Y-%m-%d %H:%M",
    };
    then.strftime(format).to_string()
}

fn page(heading: &str, paragraphs: &[String]) -> String {
    let heading = escape(heading);
    let body: String = paragraphs
        .iter()
        .map(|it| format!("<p>{it}</p>\n"))
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{heading}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{heading}</h1>\n{body}<p>{WHOSE}</p>\n</main>\n</body>\n</html>\n"
    )
}

fn command(verb: &str, cluster: &str) -> String {
    format!(" <code>pomctl {verb} {}</code>", escape(cluster))
}

fn try_again(link: &str) -> String {
    format!("<a href=\"{}\">Try again</a>", escape(link))
}

/// For text and for attributes in double quotes.
fn escape(text: &str) -> String {
    let mut res = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => res += "&amp;",
            '<' => res += "&lt;",
            '>' => res += "&gt;",
            '"' => res += "&quot;",
            other => res.push(other),
        }
    }
    res
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest;
    use base64::{Engine, prelude::BASE64_STANDARD};

    use super::*;

    #[test]
    fn the_policy_allows_the_style_that_is_sent() {
        let hash = digest::digest(&digest::SHA256, STYLE.as_bytes());
        let hash = BASE64_STANDARD.encode(hash);
        assert_eq!(STYLE_HASH, format!("sha256-{hash}"));
    }

    #[test]
    fn nothing_from_outside_becomes_markup() {
        let evil = "<script>alert('1')</script>\"&";
        let success = success(
            evil,
            &Success {
                user: Some(evil.to_owned()),
                until: Some(evil.to_owned()),
                waiting: 2,
                instead_of: Some(evil.to_owned()),
            },
        );
        let pages = [
            success,
            finished(evil),
            ended(evil),
            denied(evil, evil),
            unusable(evil),
            unreachable(evil, evil),
        ];
        for page in pages {
            assert!(
                !page.contains("<script") && !page.contains("\"&\""),
                "{page}"
            );
        }
        assert_eq!(
            escape(evil),
            "&lt;script&gt;alert('1')&lt;/script&gt;&quot;&amp;"
        );
    }

    #[test]
    fn pages_say_what_happened_and_what_to_do() {
        let alice = Success {
            user: Some("alice@example.com".to_owned()),
            until: Some("23:41".to_owned()),
            waiting: 3,
            instead_of: None,
        };
        assert_eq!(
            text(&success("corp", &alice)),
            "You are logged in to corp | as alice@example.com, until 23:41. 3 waiting connections go on. You can close this tab."
        );
        let bare = Success {
            user: None,
            until: None,
            waiting: 1,
            instead_of: Some("bob@example.com".to_owned()),
        };
        assert_eq!(
            text(&success("corp", &bare)),
            "You are logged in to corp | 1 waiting connection goes on. You can close this tab. | \
             This is another account than before (bob@example.com). If it is not yours: pomctl logout corp"
        );
        assert_eq!(
            text(&finished("corp")),
            "This login is finished | You are logged in to corp. You can close this tab."
        );
        assert_eq!(
            text(&ended("corp")),
            "This login has ended | Nothing was changed. Start again: pomctl login corp"
        );
        assert_eq!(
            text(&denied("access_denied", "/x")),
            "The login did not succeed | access_denied | Try again"
        );
        assert_eq!(
            text(&unusable("corp")),
            "That answer can't be used | It belongs to another login, or was changed on the way. Start again: pomctl login corp"
        );
    }

    #[test]
    fn a_page_is_whole_and_its_title_is_its_first_line() {
        let page = ended("corp");
        assert!(page.starts_with("<!doctype html>\n<html lang=\"en\">"));
        assert!(page.contains("<title>This login has ended</title>"));
        assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("<script"));
    }

    #[test]
    fn a_moment_is_told_as_shortly_as_it_can_be() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let told = |text: &str| moment(text.parse().unwrap(), now, TimeZone::UTC);
        assert_eq!(told("2026-11-22T23:41:00Z"), "23:41");
        assert_eq!(told("2026-11-23T00:10:00Z"), "Mon 00:10");
        assert_eq!(told("2026-11-30T00:10:00Z"), "2026-11-30 00:10");
        assert_eq!(told("2026-12-22T12:00:00Z"), "2026-12-22 12:00");
    }

    fn text(page: &str) -> String {
        let main = page.split("<main>").nth(1).unwrap();
        let mut res = String::new();
        for part in main.split('<') {
            let (tag, text) = part.split_once('>').unwrap_or(("", part));
            if tag == "p" {
                res += " | ";
            }
            res += text.trim_matches('\n');
        }
        let (said, whose) = res.rsplit_once(" | ").unwrap();
        assert_eq!(whose, WHOSE);
        said.to_owned()
    }
}
