//! Which routes somebody may have meant. Pure.

use control::suggest::mistakes;
use pomd_core::config::{Authority, Host};

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
    if let Some(it) = mistakes(&asked, &other, 2) {
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
    let begun = |length| mistakes(short, long.get(..length)?, most);
    let nearest = lengths.filter_map(begun).min()?;
    (short.len() >= 3).then_some(3 + nearest)
}

#[cfg(test)]
mod tests {
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
        let long = |it: usize| {
            format!(
                "{}{it}.{}:22",
                "a".repeat(50),
                [&*"b".repeat(60); 3].join(".")
            )
        };
        let offered: Vec<_> = (0..10_000).map(|it| authority(&long(it))).collect();
        assert_eq!(similar(&authority(&long(77)), &offered).len(), 3);
    }
}
