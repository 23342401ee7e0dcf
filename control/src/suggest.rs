//! How far apart two words are, counted in typing mistakes: behind every "did you mean". Pure.

/// How many letters must be added, left out, replaced or swapped with their neighbour to get from one word to the other
/// (optimal string alignment), if at most `most`. The cost grows with the length, not with its square.
pub fn mistakes(a: &str, b: &str, most: usize) -> Option<usize> {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > most {
        return None;
    }
    let far = most + 1;
    let row = |first: usize| {
        let mut it = vec![far; b.len() + 1];
        it[0] = first.min(far);
        it
    };
    let mut before = row(far);
    let mut last: Vec<usize> = (0..=b.len()).map(|it| it.min(far)).collect();
    for i in 1..=a.len() {
        let mut now = row(i);
        // Only this near the diagonal can anything count.
        for j in i.saturating_sub(most).max(1)..=(i + most).min(b.len()) {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut least = replaced.min(last[j] + 1).min(now[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                least = least.min(before[j - 2] + 1);
            }
            now[j] = least.min(far);
        }
        before = std::mem::replace(&mut last, now);
    }
    Some(last[b.len()]).filter(|it| *it <= most)
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

    /// The textbook's whole table.
    fn slow(a: &[char], b: &[char]) -> usize {
        let mut d = vec![vec![0; b.len() + 1]; a.len() + 1];
        for i in 0..=a.len() {
            for j in 0..=b.len() {
                d[i][j] = if i == 0 || j == 0 {
                    i + j
                } else {
                    let replaced = d[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let mut it = replaced.min(d[i - 1][j] + 1).min(d[i][j - 1] + 1);
                    if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                        it = it.min(d[i - 2][j - 2] + 1);
                    }
                    it
                };
            }
        }
        d[a.len()][b.len()]
    }

    proptest! {
        #[test]
        fn mistakes_are_counted_as_the_textbook_does(a in "[abß.]{0,9}", b in "[abß.]{0,9}", most in 0..4_usize) {
            let letters = |it: &str| it.chars().collect::<Vec<_>>();
            let want = slow(&letters(&a), &letters(&b));
            prop_assert_eq!(mistakes(&a, &b, most), (want <= most).then_some(want));
        }
    }
}
