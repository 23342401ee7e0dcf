//! Did you mean: names close to a mistyped one. Pure.

/// The most that are offered.
const MOST: usize = 3;
/// Longer names are not compared: nobody mistypes them by hand, and the cost grows with the square.
const LONGEST: usize = 100;

/// Up to three of `names` that `typed` may have meant, the best first: at most two slips apart, or one begins with the
/// other.
pub(crate) fn near<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let mut found: Vec<(usize, &str)> = names
        .into_iter()
        .filter_map(|name| Some((rank(typed, name)?, name)))
        .collect();
    found.sort();
    found.dedup();
    found.into_iter().take(MOST).map(|it| it.1).collect()
}

/// `; did you mean a, b or c?`, or nothing.
pub(crate) fn question<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> String {
    match near(typed, names).as_slice() {
        [] => String::new(),
        [one] => format!("; did you mean {one}?"),
        [head @ .., last] => format!("; did you mean {} or {last}?", head.join(", ")),
    }
}

fn rank(typed: &str, name: &str) -> Option<usize> {
    const SLIPS: usize = 2;
    let (a, b): (Vec<char>, Vec<char>) = (typed.chars().collect(), name.chars().collect());
    if a.is_empty() || a.len() > LONGEST || b.len() > LONGEST {
        return None;
    }
    let slips = distance(&a, &b);
    // Two slips in a name of two letters would make every such name similar.
    if slips <= SLIPS && slips < a.len().min(b.len()) {
        return Some(slips);
    }
    (name.starts_with(typed) || typed.starts_with(name)).then_some(SLIPS + 1)
}

/// Insertions, deletions, replacements and swaps of neighbours (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_counted_once_each() {
        let d = |a: &str, b: &str| {
            distance(
                &a.chars().collect::<Vec<_>>(),
                &b.chars().collect::<Vec<_>>(),
            )
        };
        assert_eq!(d("ssh-prd", "ssh-prod"), 1);
        assert_eq!(d("hss", "shs"), 1);
        assert_eq!(d("", "abc"), 3);
        assert_eq!(d("kitten", "sitting"), 3);
        assert_eq!(d("same", "same"), 0);
    }

    #[test]
    fn the_best_come_first_and_three_are_enough() {
        let names = ["db-4", "db-22", "web", "db-2", "db-1"];
        assert_eq!(near("db-2", names), ["db-2", "db-1", "db-22"]);
    }

    #[test]
    fn short_names_are_not_similar_to_everything() {
        assert!(near("ab", ["xy", "cd"]).is_empty());
        assert_eq!(near("graf", ["grafana"]), ["grafana"]);
        assert!(near("", ["a"]).is_empty());
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
