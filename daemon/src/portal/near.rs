//! Which routes somebody may have meant. Pure.

use crate::config::{Authority, Host};

/// The most near matches.
const SIMILAR: usize = 3;

/// The routes most like `asked`: Damerau distance at most 2 on the host, or the same host, or a shared prefix; at most
/// 3, best first. Pure.
pub fn similar(asked: &Authority, offered: &[Authority]) -> Vec<Authority> {
    let mut found: Vec<_> = offered
        .iter()
        .filter(|it| *it != asked)
        .filter_map(|it| {
            let distance = unlikeness(&asked.host, &it.host)?;
            Some((distance, it.port != asked.port, it))
        })
        .collect();
    found.sort_unstable();
    found.dedup();
    found.truncate(SIMILAR);
    found.into_iter().map(|it| it.2.clone()).collect()
}

/// How far apart two hosts are, the smaller the nearer; `None`: not alike. First those at most two typing mistakes
/// away, then those whose first label goes on where the other ends (`web`, `web-2`), but for such mistakes.
fn unlikeness(asked: &Host, other: &Host) -> Option<usize> {
    let (asked, other) = (asked.to_string(), other.to_string());
    if let Some(it) = mistakes(asked.as_bytes(), other.as_bytes(), 2) {
        return Some(it);
    }
    let (ours, our_domain) = asked.split_once('.').unwrap_or((&asked, ""));
    let (theirs, their_domain) = other.split_once('.').unwrap_or((&other, ""));
    if our_domain != their_domain {
        return None;
    }
    let (short, long) = if ours.len() <= theirs.len() {
        (ours, theirs)
    } else {
        (theirs, ours)
    };
    // In a short word two mistakes leave nothing in common.
    let most = if short.len() >= 6 { 2 } else { 0 };
    let lengths = short.len().saturating_sub(most)..=(short.len() + most).min(long.len());
    let begun = |length| mistakes(short.as_bytes(), &long.as_bytes()[..length], most);
    let nearest = lengths.filter_map(begun).min()?;
    (short.len() >= 3).then_some(3 + nearest)
}

/// How many letters must be added, left out, replaced or swapped with their neighbour, if at most `most`.
fn mistakes(a: &[u8], b: &[u8], most: usize) -> Option<usize> {
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

    fn authority(text: &str) -> Authority {
        Authority::parse(text).unwrap()
    }

    fn similar_to(asked: &str, offered: &[&str]) -> Vec<String> {
        let offered: Vec<_> = offered.iter().map(|it| authority(it)).collect();
        let found = similar(&authority(asked), &offered);
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn g8_near_matches_of_an_unknown_route() {
        let offered = [
            "reports-db.internal:5432",
            "ssh-prod-2.corp.example.com:22",
            "web-1.corp.example.com:22",
            "ssh-prod.corp.example.com:22",
        ];
        assert_eq!(
            similar_to("sssh-prod.corp.example.com:22", &offered),
            [
                "ssh-prod.corp.example.com:22",
                "ssh-prod-2.corp.example.com:22"
            ]
        );
        assert_eq!(
            similar_to("web-9.corp.example.com:22", &offered),
            ["web-1.corp.example.com:22"]
        );
        assert_eq!(
            similar_to("ssh-prod.corp.example.com:2222", &offered),
            [
                "ssh-prod.corp.example.com:22",
                "ssh-prod-2.corp.example.com:22"
            ]
        );
        assert_eq!(similar_to("mail.elsewhere.org:25", &offered), [""; 0]);
    }

    #[test]
    fn the_best_come_first_and_three_are_enough() {
        let offered = [
            "web-3.x:22",
            "web-2.x:22",
            "web.x:443",
            "web.x:22",
            "wbe.x:80",
            "web.x:22",
        ];
        assert_eq!(
            similar_to("web.x:80", &offered),
            ["web.x:22", "web.x:443", "wbe.x:80"]
        );
        assert_eq!(
            similar_to("db.x:1", &["dbserver.x:1", "db2.x:1"]),
            ["db2.x:1"]
        );
    }

    #[test]
    fn ten_thousand_long_names_take_no_time_to_speak_of() {
        let long = |it: usize| format!("{}{it}.{}:22", "a".repeat(50), "b".repeat(190));
        let offered: Vec<_> = (0..10_000).map(|it| authority(&long(it))).collect();
        assert_eq!(similar(&authority(&long(77)), &offered).len(), 3);
    }

    /// The textbook's whole table.
    fn slow_mistakes(a: &[u8], b: &[u8]) -> usize {
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
        fn mistakes_are_counted_as_the_textbook_does(a in "[ab.]{0,9}", b in "[ab.]{0,9}", most in 0..4_usize) {
            let (a, b) = (a.as_bytes(), b.as_bytes());
            let want = slow_mistakes(a, b);
            prop_assert_eq!(mistakes(a, b, most), (want <= most).then_some(want));
        }
    }
}
