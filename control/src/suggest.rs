//! "Did you mean": which known words a mistyped one is like. Pure.

/// The most words that are offered.
const OFFERED_MOST: usize = 3;
/// The most typing mistakes between two words that are alike.
const MISTAKES_MOST: usize = 2;
/// The most letters between the first and the last difference of two words that are compared: the cost grows with its
/// square, and a list of routes may hold ten thousand.
const COMPARED_MOST: usize = 64;

/// Returns how many letters must be added, left out, replaced or swapped with their neighbour to get from one word to the
/// other (optimal string alignment), if at most `most`.
pub fn mistakes(a: &str, b: &str, most: usize) -> Option<usize> {
    let (a, b) = differing(a, b);
    let (letters_a, letters_b) = (a.chars().count(), b.chars().count());
    if letters_a.abs_diff(letters_b) > most || letters_a.max(letters_b) > COMPARED_MOST {
        return None;
    }
    Some(strsim::osa_distance(a, b)).filter(|it| *it <= most)
}

/// Returns up to three of `known` that `typed` may have meant, the best first: at most two typing mistakes away (one for
/// short words), or one begins with the other. Case counts for nothing.
pub fn similar<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let typed = typed.to_lowercase();
    let ranked = known
        .into_iter()
        .filter_map(|it| Some((rank(&typed, it)?, it)));
    let mut ranked: Vec<(usize, &str)> = ranked.collect();
    ranked.sort_unstable();
    ranked.dedup();
    ranked
        .into_iter()
        .take(OFFERED_MOST)
        .map(|it| it.1)
        .collect()
}

/// Returns the one of `known` that `typed` most likely means.
pub fn nearest<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    similar(typed, known).first().copied()
}

/// Returns `; did you mean a, b or c?` for the words of `known` that `typed` may have meant, or nothing.
pub fn question<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match similar(typed, known).as_slice() {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        [head @ .., last] => format!("; did you mean {} or {last}?", head.join(", ")),
    }
}

/// Returns how unlike the two are, the smaller the better.
fn rank(typed: &str, name: &str) -> Option<usize> {
    if typed.is_empty() {
        return None;
    }
    let name = name.to_lowercase();
    let letters = typed.chars().count();
    let most = if letters <= 3 { 1 } else { MISTAKES_MOST };
    // As many mistakes as letters would make every short name similar.
    let shorter = letters.min(name.chars().count());
    let counted = mistakes(typed, &name, most).filter(|it| *it < shorter);
    let is_begun = name.starts_with(typed) || typed.starts_with(&name);
    counted.or(is_begun.then_some(MISTAKES_MOST + 1))
}

/// Returns both words without what they begin and end with alike, which no distance depends on.
fn differing<'a>(a: &'a str, b: &'a str) -> (&'a str, &'a str) {
    let alike = a.chars().zip(b.chars()).take_while(|it| it.0 == it.1);
    let start: usize = alike.map(|it| it.0.len_utf8()).sum();
    let (a, b) = (&a[start..], &b[start..]);
    let alike = a
        .chars()
        .rev()
        .zip(b.chars().rev())
        .take_while(|it| it.0 == it.1);
    let end: usize = alike.map(|it| it.0.len_utf8()).sum();
    (&a[..a.len() - end], &b[..b.len() - end])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_typing_mistake_counts_once() {
        for (a, b, expected) in [
            ("listen", "listen", 0),
            ("lissten", "listen", 1),
            ("litsen", "listen", 1),
            ("lsiten", "listen", 1),
            ("", "url", 3),
            ("url", "", 3),
            ("ruote", "route", 1),
            ("hosts", "expose", 5),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(mistakes(a, b, 9), Some(expected), "{a} {b}");
            assert_eq!(mistakes(a, b, expected), Some(expected), "{a} {b}");
            if expected > 0 {
                assert_eq!(mistakes(a, b, expected - 1), None, "{a} {b}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_two_words_have_in_common_at_their_ends_changes_no_count(
            a in "[abß.]{0,9}", b in "[abß.]{0,9}", most in 0..4_usize,
        ) {
            let whole = strsim::osa_distance(&a, &b);
            prop_assert_eq!(mistakes(&a, &b, most), (whole <= most).then_some(whole));
        }
    }

    #[test]
    fn the_best_come_first_and_three_are_enough() {
        let names = ["db-4", "db-22", "web", "db-2", "db-1"];
        assert_eq!(similar("db-2", names), ["db-2", "db-1", "db-22"]);
    }

    #[test]
    fn only_what_is_near_is_offered() {
        let known = ["route", "listen", "start", "expose", "ssh"];
        for (typed, expected) in [
            ("lissten", Some("listen")),
            ("Listen", Some("listen")),
            ("lis", Some("listen")),
            ("routes", Some("route")),
            ("shh", Some("ssh")),
            ("x", None),
            ("port", None),
            ("", None),
        ] {
            assert_eq!(nearest(typed, known), expected, "{typed}");
        }
        assert_eq!(similar("ab", ["xy", "cd"]), [""; 0]);
        assert_eq!(similar("graf", ["grafana"]), ["grafana"]);
    }

    #[test]
    fn the_question_is_a_sentence() {
        assert_eq!(
            question("ssh-prd", ["ssh-prod", "x"]),
            "; did you mean ssh-prod?"
        );
        assert_eq!(
            question("dbx", ["db1", "db2"]),
            "; did you mean db1 or db2?"
        );
        assert_eq!(question("zzz", ["db1"]), "");
    }
}
