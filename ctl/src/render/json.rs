//! JSON that is harmless on a terminal and still says the same.

use std::fmt::Write;

use control::text::clean;

/// Returns `json` with every character that could steer a terminal written as `\uXXXX`. Outside of strings JSON has none but
/// the ends of lines.
pub(crate) fn harmless(json: &str) -> String {
    let mut res = String::with_capacity(json.len());
    for c in json.chars() {
        if passes(c) {
            res.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(res, "\\u{unit:04x}");
        }
    }
    res
}

fn passes(c: char) -> bool {
    let mut alone = [0; 4];
    let alone: &str = c.encode_utf8(&mut alone);
    c == '\n' || matches!(c, ' '..='~') || (!c.is_ascii() && clean(alone, 8) == alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_meaning_stays_and_the_control_bytes_go() {
        let text = "a\u{1b}\u{7f}\u{9b}\u{202e}\u{e0001}\nö→\u{2028}\u{3000}";
        let json = harmless(&serde_json::to_string(text).unwrap());
        assert_eq!(
            json,
            r#""a\u001b\u007f\u009b\u202e\udb40\udc01\nö→\u2028\u3000""#
        );
        assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
