//! Did you mean: names close to a mistyped one. Pure.

use control::near::mistakes;

/// The most that are offered.
const MOST: usize = 3;

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
    let (typed_letters, name_letters) = (typed.chars().count(), name.chars().count());
    if typed.is_empty() {
        return None;
    }
    // Two slips in a name of two letters would make every such name similar.
    let counts = |slips: &usize| *slips < typed_letters.min(name_letters);
    if let Some(slips) = mistakes(typed, name, SLIPS).filter(counts) {
        return Some(slips);
    }
    (name.starts_with(typed) || typed.starts_with(name)).then_some(SLIPS + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

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
