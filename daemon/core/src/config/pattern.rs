//! Which hosts a cluster's login is good for. A token goes to these and to no other (A15).

use std::fmt;

use super::{
    ClusterSpec, Wrong,
    host::{Host, name},
    report::quoted,
};

/// A host, or `*` for one or more labels at its start: `*.corp.example.com`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPattern(String);

impl HostPattern {
    /// Reads a host as [`Host::parse`] takes it, or `*.` and a name.
    pub fn parse(text: &str) -> Result<Self, Wrong> {
        if let Some(rest) = text.strip_prefix("*.").filter(|it| !it.contains('*')) {
            // A name only: `*.0.0.1` would be no pattern over names.
            return Ok(Self(format!("*.{}", name(rest)?)));
        }
        if text.contains('*') {
            return Err(Wrong::new(
                format!("bad host pattern {}", quoted(text)),
                "`*` stands for the first labels of a name: \"*.corp.example.com\"",
            ));
        }
        if text.contains('/') || (text.contains(':') && Host::parse(text).is_err()) {
            return Err(Wrong::new(
                format!("more than a host in {}", quoted(text)),
                "write only the host, without scheme and port",
            ));
        }
        Ok(Self::exactly(&Host::parse(text)?))
    }

    /// Returns the pattern that matches this host and no other.
    pub fn exactly(host: &Host) -> Self {
        Self(host.to_string())
    }

    /// Returns the host of a pattern without `*`.
    pub fn host(&self) -> Option<Host> {
        (!self.0.starts_with('*'))
            .then(|| Host::parse(&self.0).ok())
            .flatten()
    }

    /// Whether `host` is the pattern's host, or has one or more labels where the `*` is.
    pub fn matches(&self, host: &Host) -> bool {
        match (host, self.0.strip_prefix('*')) {
            // What `*` leaves begins with a dot: it ends at a label's edge, and something stands before it.
            (Host::Name(name), Some(rest)) => name.len() > rest.len() && name.ends_with(rest),
            (Host::Ip(_), Some(_)) => false,
            (host, None) => host.to_string() == self.0,
        }
    }

    /// Returns every pattern that could match `host`, the most specific first.
    pub fn all_for(host: &Host) -> Vec<Self> {
        let mut res = vec![Self::exactly(host)];
        if let Host::Name(name) = host {
            res.extend(
                name.match_indices('.')
                    .map(|(dot, _)| Self(format!("*{}", &name[dot..]))),
            );
        }
        res
    }

    /// Returns the pattern as it stands in the file, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ClusterSpec {
    /// Whether a token of this cluster may be sent to `host`.
    pub fn allows(&self, host: &Host) -> bool {
        self.hosts.iter().any(|it| it.matches(host))
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Label by label from the right, sharing nothing with the real one.
    fn slow(pattern: &str, host: &str) -> bool {
        let plain = |text: &str| {
            let text = text.to_lowercase();
            let mut labels: Vec<String> = text.split('.').map(str::to_owned).collect();
            if labels.last().is_some_and(String::is_empty) {
                labels.pop();
            }
            labels.reverse();
            labels
        };
        let (pattern, host) = (plain(pattern), plain(host));
        for (at, wanted) in pattern.iter().enumerate() {
            if wanted == "*" {
                return at + 1 == pattern.len() && host.len() > at;
            }
            if host.get(at) != Some(wanted) {
                return false;
            }
        }
        pattern.len() == host.len()
    }

    #[test]
    fn only_whole_labels_match() {
        let matches = |pattern: &str, host: &str| {
            HostPattern::parse(pattern)
                .unwrap()
                .matches(&Host::parse(host).unwrap())
        };
        for (pattern, host, yes) in [
            ("*.corp.x", "a.corp.x", true),
            ("*.corp.x", "a.b.corp.x", true),
            ("*.corp.x", "corp.x", false),
            ("*.corp.x", "evilcorp.x", false),
            ("*.corp.x", "corp.x.evil", false),
            ("*.corp.x", "a.corp.x.evil", false),
            ("*.Corp.X.", "A.cORP.x", true),
            ("*.corp.x", "a.corp.x.", true),
            ("corp.x", "CORP.X.", true),
            ("corp.x", "a.corp.x", false),
            ("*.bücher.x", "a.xn--bcher-kva.x", true),
            ("*.xn--bcher-kva.x", "a.BÜCHER.x", true),
            ("127.0.0.1", "127.0.0.1", true),
            ("[::1]", "0:0::1", true),
            ("::1", "127.0.0.1", false),
        ] {
            assert_eq!(matches(pattern, host), yes, "{pattern} {host}");
        }
    }

    #[test]
    fn a_star_is_the_first_whole_label_or_refused() {
        for text in [
            "*",
            "*.",
            "**",
            "a.*",
            "a.*.x",
            "*a.x",
            "a*.x",
            "*.*.x",
            "",
            ".",
            "*..x",
            "*.0.0.1",
            "*.127.0.0.1",
            "h:22",
            "https://h",
            "h/x",
            "*.[::1]",
        ] {
            assert!(HostPattern::parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn the_matcher_agrees_with_a_slow_one(
            pattern in "(\\*\\.)?[aAb](\\.[abX]){0,3}\\.?",
            host in "(evil)?[aAb]{1,2}(\\.[abX]){0,4}\\.?",
        ) {
            let parsed = HostPattern::parse(&pattern).unwrap();
            let name = Host::parse(&host).unwrap();
            prop_assert_eq!(parsed.matches(&name), slow(&pattern, &host));
        }

        #[test]
        fn the_patterns_of_a_host_are_those_that_match_it(
            pattern in "(\\*\\.)?[ab](\\.[ab]){0,3}",
            host in "[ab](\\.[ab]){0,3}",
        ) {
            let parsed = HostPattern::parse(&pattern).unwrap();
            let name = Host::parse(&host).unwrap();
            prop_assert_eq!(HostPattern::all_for(&name).contains(&parsed), slow(&pattern, &host));
        }
    }
}
