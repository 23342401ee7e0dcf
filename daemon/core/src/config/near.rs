//! "Did you mean": the word most like another.

use control::near::mistakes;

/// The word of `known` most like `word`: at most two typing mistakes away (fewer for short words), or begun alike.
pub fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    // A longer word is no typing mistake, and its distance would cost.
    if word.len() > 64 {
        return None;
    }
    let word = word.to_lowercase();
    let most = if word.chars().count() <= 3 { 1 } else { 2 };
    let close = known
        .iter()
        .filter_map(|it| Some((mistakes(&word, it, most)?, *it)))
        .min();
    let begun = |it: &&&str| word.len() >= 3 && (it.starts_with(&word) || word.starts_with(**it));
    close
        .map(|it| it.1)
        .or_else(|| known.iter().find(begun).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_near_is_offered() {
        let known = ["route", "listen", "start", "expose", "ssh"];
        for (word, expected) in [
            ("lissten", Some("listen")),
            ("Listen", Some("listen")),
            ("lis", Some("listen")),
            ("routes", Some("route")),
            ("shh", Some("ssh")),
            ("x", None),
            ("port", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
    }
}
