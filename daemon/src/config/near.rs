//! "Did you mean": the word most like another.

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
        .map(|it| (distance(&word, it), *it))
        .filter(|(distance, _)| *distance <= most)
        .min();
    let begun = |it: &&&str| word.len() >= 3 && (it.starts_with(&word) || word.starts_with(**it));
    close
        .map(|it| it.1)
        .or_else(|| known.iter().find(begun).copied())
}

/// How many letters must be added, left out, replaced or swapped with their neighbour to get from one word to the other.
pub fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            row.push(least);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
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
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

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
