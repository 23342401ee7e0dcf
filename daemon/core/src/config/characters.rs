//! Characters that a person does not see, or takes for others: what a copy from a web page or a chat leaves in a file.

use std::ops::Range;

/// Returns the first character in `text` that is not seen for what it is: where, and its name.
pub(super) fn invisible(text: &str) -> Option<(Range<usize>, String)> {
    text.char_indices().find_map(|(at, c)| {
        let name = name(c)?;
        let words = format!("U+{:04X}, {name}", u32::from(c));
        Some((at..at + c.len_utf8(), words))
    })
}

fn name(c: char) -> Option<&'static str> {
    Some(match c {
        '\u{a0}' => "a no-break space",
        '\u{ad}' => "a soft hyphen",
        '\u{1680}' | '\u{2000}'..='\u{200a}' | '\u{205f}' => "a space of another width",
        '\u{202f}' => "a narrow no-break space",
        '\u{3000}' => "an ideographic space",
        '\u{200b}' => "a zero-width space",
        '\u{200c}' | '\u{200d}' => "a zero-width joiner or non-joiner",
        '\u{2060}' => "a word joiner",
        '\u{feff}' => "a byte-order mark",
        '\u{200e}' | '\u{200f}' | '\u{61c}' => "a mark of the writing direction",
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => "a change of the writing direction",
        '\u{2028}' => "a line separator",
        '\u{2029}' => "a paragraph separator",
        '\u{2061}'..='\u{2065}' | '\u{206a}'..='\u{206f}' | '\u{fff9}'..='\u{fffb}' => {
            "an invisible character"
        }
        '\u{e0000}'..='\u{e007f}' => "an invisible tag",
        c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => "a control character",
        _ => return None,
    })
}

/// Returns where quotes stand that only typographers use, in a text that is not TOML.
pub(super) fn typographic_quote(text: &str) -> Option<Range<usize>> {
    const QUOTES: [char; 10] = ['“', '”', '„', '‟', '‘', '’', '‚', '«', '»', '＂'];
    let (at, c) = text.char_indices().find(|it| QUOTES.contains(&it.1))?;
    Some(at..at + c.len_utf8())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_named() {
        for (text, words) in [
            ("a\u{a0}b", "U+00A0, a no-break space"),
            ("\u{200b}", "U+200B, a zero-width space"),
            ("x\u{feff}", "U+FEFF, a byte-order mark"),
            ("\u{202e}x", "U+202E, a change of the writing direction"),
            ("\u{1b}[31m", "U+001B, a control character"),
            ("\u{e0041}", "U+E0041, an invisible tag"),
        ] {
            assert_eq!(invisible(text).unwrap().1, words);
        }
        for text in ["", "a b\tc\r\n", "bücher", "例え", "“x”"] {
            assert_eq!(invisible(text), None, "{text}");
        }
        assert_eq!(invisible("ä\u{a0}").unwrap().0, 2..4);
    }
}
