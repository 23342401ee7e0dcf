//! Keeps secrets out of excerpts: finds what in a file may be one, by its key or by its looks.
//!
//! Works on the text, not on the parsed file: the line shown may be the one that does not parse.

use std::ops::Range;

/// A text without its secrets, and where its places went.
#[derive(Debug)]
pub(super) struct Hidden {
    /// The text to show. Has as many lines as the original.
    pub(super) text: String,
    moved: Vec<(Range<usize>, Range<usize>)>,
}

impl Hidden {
    /// Hides the values of keys that hold secrets, and what looks like a secret anywhere.
    pub(super) fn file(text: &str) -> Self {
        let mut parts = values(text);
        parts.extend(looks(text));
        // A carriage return would be shown as a sign of its own.
        let returns = text.match_indices("\r\n");
        parts.extend(returns.map(|(at, _)| (at..at + 1, String::new())));
        parts.sort_by_key(|it| (it.0.start, std::cmp::Reverse(it.0.end)));
        let mut end = 0;
        parts.retain(|it| {
            let free = it.0.start >= end;
            end = end.max(it.0.end);
            free
        });
        Self::without(text, &parts)
    }

    /// Hides what looks like a secret in a sentence.
    pub(super) fn sentence(text: &str) -> String {
        Self::without(text, &looks(text)).text
    }

    /// Returns where a place of the original is now. A place within a secret becomes the whole of what stands for it.
    pub(super) fn span(&self, span: &Range<usize>) -> Range<usize> {
        let mut shift = 0;
        let (mut start, mut end) = (None, None);
        for (old, new) in &self.moved {
            if start.is_none() && span.start < old.end {
                start = Some(if span.start <= old.start {
                    span.start.wrapping_add_signed(shift)
                } else {
                    new.start
                });
            }
            if end.is_none() && span.end <= old.end {
                end = Some(if span.end <= old.start {
                    span.end.wrapping_add_signed(shift)
                } else {
                    new.end
                });
            }
            shift = new.end as isize - old.end as isize;
        }
        let start = start.unwrap_or_else(|| span.start.wrapping_add_signed(shift));
        let end = end.unwrap_or_else(|| span.end.wrapping_add_signed(shift));
        start..end.max(start)
    }

    fn without(text: &str, parts: &[(Range<usize>, String)]) -> Self {
        let mut res = String::with_capacity(text.len());
        let mut moved = Vec::new();
        let mut at = 0;
        for (old, shown) in parts {
            res.push_str(&text[at..old.start]);
            let start = res.len();
            res.push_str(shown);
            let end = res.len();
            let lines = text[old.clone()].matches('\n').count();
            res.extend(std::iter::repeat_n('\n', lines));
            moved.push((old.clone(), start..end + lines));
            at = old.end;
        }
        res.push_str(&text[at..]);
        Self { text: res, moved }
    }
}

/// Returns the values of keys that hold secrets, also misspelt ones and those of a table with such a name.
fn values(text: &str) -> Vec<(Range<usize>, String)> {
    let bytes = text.as_bytes();
    let mut res = Vec::new();
    let (mut at, mut depth) = (0, 0usize);
    let mut line_is_new = true;
    let mut secret_table = false;
    let mut word = 0..0;
    while at < bytes.len() {
        let was_new = std::mem::replace(&mut line_is_new, false);
        let next = match bytes[at] {
            b'#' => line_end(bytes, at),
            b'"' | b'\'' => {
                word = at..string_end(bytes, at);
                word.end
            }
            b'[' if was_new && depth == 0 => {
                let end = line_end(bytes, at);
                secret_table = text[at..end].split(['.', ']']).skip(2).any(holds_secret);
                end
            }
            b'=' if secret_table || holds_secret(&text[word.clone()]) => {
                let start = at + 1 + spaces(&bytes[at + 1..]);
                let end = value_end(bytes, start);
                if end > start {
                    res.push((start..end, stand_in(bytes[start]).to_owned()));
                }
                end.max(at + 1)
            }
            space @ (b' ' | b'\t' | b'\r' | b'\n') => {
                line_is_new = was_new || space == b'\n';
                at + 1
            }
            b'[' | b'{' => {
                depth += 1;
                at + 1
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at + 1
            }
            b'.' | b',' | b'=' => at + 1,
            _ => {
                word = at..word_end(bytes, at);
                word.end
            }
        };
        at = next;
    }
    res
}

/// Returns what looks like a token, a private key or the user part of a URL.
fn looks(text: &str) -> Vec<(Range<usize>, String)> {
    let bytes = text.as_bytes();
    let mut res: Vec<(Range<usize>, String)> = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let found = if rest.starts_with(b"eyJ") {
            let length = rest
                .iter()
                .take_while(|it| it.is_ascii_alphanumeric() || b"-_.".contains(it))
                .count();
            (length >= 16).then_some(at..at + length)
        } else if rest.starts_with(b"-----BEGIN") {
            let end = text[at..]
                .find("-----END")
                .map_or(line_end(bytes, at), |it| at + it);
            Some(at..end)
        } else if rest.starts_with(b"://") {
            user(&rest[3..]).map(|it| at + 3..at + 3 + it)
        } else if b"\"'`".contains(&rest[0]) {
            // Without a scheme only with a password: `me@host` is a habit of ssh.
            let user = user(&rest[1..]).filter(|it| rest[1..1 + it].contains(&b':'));
            user.map(|it| at + 1..at + 1 + it)
        } else {
            None
        };
        at = match found {
            Some(part) => {
                let end = part.end;
                res.push((part, "…".to_owned()));
                end
            }
            None => at + 1,
        };
    }
    res
}

/// Returns how long the user part is that a URL begins with behind its scheme.
fn user(bytes: &[u8]) -> Option<usize> {
    let place = bytes
        .iter()
        .take_while(|it| !b"/?# \t\r\n\"'`".contains(it))
        .count();
    let end = bytes[..place].iter().rposition(|it| *it == b'@');
    end.filter(|it| *it > 0)
}

fn holds_secret(key: &str) -> bool {
    let key = key
        .trim_matches(['"', '\'', '[', ' ', '\t'])
        .to_ascii_lowercase();
    const PARTS: [&str; 8] = [
        "token",
        "secret",
        "passw",
        "auth",
        "jwt",
        "credential",
        "bearer",
        "cookie",
    ];
    PARTS.iter().any(|it| key.contains(it))
        || (key.len() <= 8 && control::suggest::mistakes(&key, "token", 2).is_some())
}

fn stand_in(first: u8) -> &'static str {
    match first {
        b'{' => "{ … }",
        b'[' => "[…]",
        _ => "\"…\"",
    }
}

fn spaces(bytes: &[u8]) -> usize {
    bytes.iter().take_while(|it| b" \t".contains(it)).count()
}

fn word_end(bytes: &[u8], at: usize) -> usize {
    let ends = |it: &u8| b" \t\r\n#\"'[]{}=.,".contains(it);
    at + bytes[at..].iter().take_while(|it| !ends(it)).count()
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    at + bytes[at..].iter().take_while(|it| **it != b'\n').count()
}

/// Returns where a value ends that begins at `at`: at the end of its line or its place in a list, brackets and strings whole.
fn value_end(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0usize;
    let mut end = at;
    while at < bytes.len() {
        match bytes[at] {
            b'\n' | b',' | b'}' | b']' | b'#' if depth == 0 => break,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b'"' | b'\'' => {
                at = string_end(bytes, at);
                end = at;
                continue;
            }
            _ => {}
        }
        at += 1;
        if !b" \t\r".contains(&bytes[at - 1]) {
            end = at;
        }
    }
    end
}

/// Returns where a string ends that begins at `at`. One that is not closed ends with its line, or with the file.
fn string_end(bytes: &[u8], at: usize) -> usize {
    let quote = bytes[at];
    let long = bytes[at..].starts_with(&[quote; 3]);
    let mut end = at + if long { 3 } else { 1 };
    while end < bytes.len() {
        let rest = &bytes[end..];
        if rest[0] == b'\\' && quote == b'"' {
            end += 2;
        } else if long && rest.starts_with(&[quote; 3]) {
            // Up to two more quotes belong to the string.
            return end + rest.iter().take(5).take_while(|it| **it == quote).count();
        } else if !long && rest[0] == quote {
            return end + 1;
        } else if !long && rest[0] == b'\n' {
            return end;
        } else {
            end += 1;
        }
    }
    bytes.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_value_of_a_key_that_holds_a_secret_is_not_shown() {
        for (text, shown) in [
            ("token = \"abc\" # x", "token = \"…\" # x"),
            ("token = 'abc'\nurl = 'x'", "token = \"…\"\nurl = 'x'"),
            ("token = abc def", "token = \"…\""),
            ("token = \"abc", "token = \"…\""),
            ("tokne = \"abc\"", "tokne = \"…\""),
            ("\"token\" = \"abc\"", "\"token\" = \"…\""),
            ("a.b.token = \"abc\"", "a.b.token = \"…\""),
            (
                "c = { token = \"abc\", x = 1 }",
                "c = { token = \"…\", x = 1 }",
            ),
            ("token = { file = \"abc\" }", "token = { … }"),
            ("token = [\"a\",\n\"b\"]\nx = 1", "token = […]\n\nx = 1"),
            ("token = \"\"\"a\nb\"\"\"\nx = 1", "token = \"…\"\n\nx = 1"),
            (
                "[cluster.c.token]\nvalue = \"abc\"\n[x]\nv = 1",
                "[cluster.c.token]\nvalue = \"…\"\n[x]\nv = 1",
            ),
            ("[tunnel.token]\nlisten = 1", "[tunnel.token]\nlisten = 1"),
            ("forward_proxy_auth = \"u:p\"", "forward_proxy_auth = \"…\""),
            ("proxy = \"http://u:p@h:1/x\"", "proxy = \"http://…@h:1/x\""),
            ("x = \"eyJhbGciOiJFUzI1NiJ9.e30.sig\"", "x = \"…\""),
            (
                "client_key = \"-----BEGIN KEY\\nabc\\n-----END KEY-----\"",
                "client_key = \"…-----END KEY-----\"",
            ),
            ("route = \"u:p@h:1\"", "route = \"…@h:1\""),
            ("route = \"me@h:1\"", "route = \"me@h:1\""),
            ("a = 1\r\ntoken = 'x'\r\n", "a = 1\ntoken = \"…\"\n"),
            ("# token = \"abc\"\nx = 1", "# token = \"abc\"\nx = 1"),
            ("token =", "token ="),
            ("route = \"h:1\"", "route = \"h:1\""),
        ] {
            assert_eq!(Hidden::file(text).text, shown, "{text}");
        }
    }

    #[test]
    fn a_place_is_found_again() {
        let text = "token = \"abcdefgh\"\nroute = \"h\"";
        let hidden = Hidden::file(text);
        let show = |part: &str| {
            let start = text.find(part).unwrap();
            hidden.text[hidden.span(&(start..start + part.len()))].to_owned()
        };
        assert_eq!(show("token"), "token");
        assert_eq!(show("route"), "route");
        assert_eq!(show("\"abcdefgh\""), "\"…\"");
        assert_eq!(show("cde"), "\"…\"");
    }

    proptest! {
        #[test]
        fn no_text_is_a_panic_and_lines_stay(text in "([a-z]{0,3}|token|=|\"|'|\"\"\"|\\[|\\{|\\]|\\}|,|\\.|#|\\\\|\n| |é|://|@){0,24}") {
            let hidden = Hidden::file(&text);
            prop_assert_eq!(hidden.text.matches('\n').count(), text.matches('\n').count());
            for start in (0..=text.len()).filter(|it| text.is_char_boundary(*it)) {
                let span = hidden.span(&(start..text.len()));
                prop_assert!(hidden.text.get(span).is_some());
            }
        }
    }
}
