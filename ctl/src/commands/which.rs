//! Which tunnel or cluster a person means. Pure, but for the names that stand in the file.

use control::{
    suggest,
    wire::{Cluster, Status, Tunnel},
};

use crate::{args::Which, config_store::ConfigStore, context::Context, error::CliError, sanitise};

/// Refuses to guess where neither names nor `--all` are given; the question names the tunnels of the file.
pub(crate) fn must_be_said(cx: &Context, which: &Which) -> Result<(), CliError> {
    const SHOWN: usize = 8;
    if which.all || !which.names.is_empty() {
        return Ok(());
    }
    let names = ConfigStore::open(cx)?.tunnels();
    let more = if names.len() > SHOWN { " …" } else { "" };
    let listed = names[..names.len().min(SHOWN)].join(", ");
    let choice = match listed.as_str() {
        "" => "NAME or --all".to_owned(),
        listed => format!("{listed}{more} or --all"),
    };
    let message = format!("which tunnel? {choice}");
    Err(CliError::usage("bad_request", message, None))
}

/// Returns the tunnels of these names, in the order given, each once.
pub(crate) fn tunnels<'a>(
    status: &'a Status,
    names: &[String],
) -> Result<Vec<&'a Tunnel>, CliError> {
    let mut found: Vec<&Tunnel> = Vec::new();
    for name in names {
        let tunnel = tunnel(status, name).ok_or_else(|| no_tunnel(status, name))?;
        if !found.iter().any(|it| it.name == tunnel.name) {
            found.push(tunnel);
        }
    }
    Ok(found)
}

/// Returns the tunnel of this name, or the one to this route: no name has a colon.
pub(crate) fn tunnel<'a>(status: &'a Status, said: &str) -> Option<&'a Tunnel> {
    let mut tunnels = status.tunnels.iter();
    if is_route(said) {
        return tunnels.find(|it| it.route.eq_ignore_ascii_case(said));
    }
    tunnels.find(|it| it.name == said)
}

/// Tells whether a person who says this means a route, and not a name.
pub(crate) fn is_route(said: &str) -> bool {
    said.contains(':')
}

/// Returns the error for a name that no tunnel has, with those that are similar.
pub(crate) fn no_tunnel(status: &Status, name: &str) -> CliError {
    let names = names(status.tunnels.iter().map(|it| &it.name));
    unknown("tunnel", "no_such_tunnel", name, &names)
}

/// Returns the cluster that somebody means who says its name, one of its tunnels, a URL or a host.
pub(crate) fn cluster<'a>(status: &'a Status, said: &str) -> Result<&'a Cluster, CliError> {
    let by_name = |name: &str| status.clusters.iter().find(|it| it.name == name);
    by_name(said)
        .or_else(|| tunnel(status, said).and_then(|it| by_name(&it.cluster)))
        .or_else(|| by_host(status, host(said)))
        .ok_or_else(|| {
            let clusters = status.clusters.iter().map(|it| &it.name);
            let names = names(clusters.chain(status.tunnels.iter().map(|it| &it.name)));
            unknown("cluster", "no_such_cluster", said, &names)
        })
}

/// Returns the name of the cluster that is meant for `command`: the one that was said, or the only one.
pub(crate) fn one_cluster(
    status: &Status,
    said: Option<&str>,
    command: &str,
) -> Result<String, CliError> {
    if let Some(said) = said {
        return Ok(cluster(status, said)?.name.clone());
    }
    match status.clusters.as_slice() {
        [one] => Ok(one.name.clone()),
        [] => {
            let hint = "write a tunnel or a cluster into the file first; to see how: pomctl status";
            let message = "there is no cluster yet";
            Err(CliError::usage(
                "no_such_cluster",
                message,
                Some(hint.to_owned()),
            ))
        }
        [first, ..] => {
            let names = status.clusters.iter().map(|it| sanitise::name(&it.name));
            let names: Vec<String> = names.collect();
            let message = format!("there are several clusters: {}", names.join(", "));
            let hint = format!("say which: {command} {}", sanitise::name(&first.name));
            Err(CliError::usage("bad_request", message, Some(hint)))
        }
    }
}

/// Returns the cluster that has this host in its hosts.
pub(crate) fn cluster_of_host<'a>(status: &'a Status, host: &str) -> Option<&'a Cluster> {
    let host = host.to_ascii_lowercase();
    status
        .clusters
        .iter()
        .filter_map(|it| Some((best_match(&it.hosts, &host)?, it)))
        .max_by_key(|it| it.0)
        .map(|it| it.1)
}

fn by_host<'a>(status: &'a Status, host: &str) -> Option<&'a Cluster> {
    let host = host.to_ascii_lowercase();
    let by_name = |name: &str| status.clusters.iter().find(|it| it.name == name);
    let by_pattern = || cluster_of_host(status, &host);
    let by_route = || {
        let mut tunnels = status.tunnels.iter();
        tunnels
            .find(|it| it.route.rsplit_once(':').is_some_and(|it| it.0 == host))
            .and_then(|it| by_name(&it.cluster))
    };
    by_name(&host).or_else(by_pattern).or_else(by_route)
}

/// Returns how many labels of the best pattern are given in full.
fn best_match(patterns: &[String], host: &str) -> Option<usize> {
    let labels: Vec<&str> = host.split('.').collect();
    patterns
        .iter()
        .filter_map(|pattern| {
            let pattern = pattern.to_ascii_lowercase();
            let pattern: Vec<&str> = pattern.split('.').collect();
            let literal = pattern.iter().filter(|it| **it != "*").count();
            matches(&pattern, &labels).then_some(literal)
        })
        .max()
}

/// Tells whether the pattern matches: `*` stands for one or more labels. Goes back to the last `*`
/// only, so the cost is a product, not a power.
fn matches(pattern: &[&str], labels: &[&str]) -> bool {
    let (mut p, mut l) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while l < labels.len() {
        if p < pattern.len() && pattern[p] == "*" {
            star = Some((p, l + 1));
            (p, l) = (p + 1, l + 1);
        } else if p < pattern.len() && pattern[p] == labels[l] {
            (p, l) = (p + 1, l + 1);
        } else if let Some((at, taken)) = star {
            star = Some((at, taken + 1));
            (p, l) = (at + 1, taken + 1);
        } else {
            return false;
        }
    }
    p == pattern.len()
}

/// Returns the host of a URL, of `HOST:PORT`, or of a host.
fn host(said: &str) -> &str {
    let rest = said.split_once("://").map_or(said, |it| it.1);
    let rest = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let rest = rest.rsplit_once('@').map_or(rest, |it| it.1);
    match rest.rsplit_once(':') {
        Some((host, port)) if port.chars().all(|it| it.is_ascii_digit()) => host,
        _ => rest,
    }
}

/// Returns the error for a name that is none of `names`.
pub(crate) fn unknown(kind: &str, code: &str, said: &str, names: &[String]) -> CliError {
    let question = suggest::question(said, names.iter().map(String::as_str));
    let hint = match names {
        [] => Some("the configuration names no tunnel yet; to see how: pomctl status".to_owned()),
        _ if !question.is_empty() => None,
        names if names.len() <= 8 => Some(format!("there are: {}", names.join(", "))),
        _ => Some("to see them all: pomctl status".to_owned()),
    };
    let said = sanitise::name(said);
    CliError::usage(code, format!("no {kind} {said}{question}"), hint)
}

fn names<'a>(names: impl Iterator<Item = &'a String>) -> Vec<String> {
    let mut names: Vec<String> = names.map(|it| sanitise::name(it)).collect();
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_one_or_more_labels() {
        let is = |pattern: &str, host: &str| best_match(&[pattern.to_owned()], host).is_some();
        assert!(is("*.corp.example.com", "a.corp.example.com"));
        assert!(is("*.corp.example.com", "a.b.corp.example.com"));
        assert!(!is("*.corp.example.com", "corp.example.com"));
        assert!(!is("*.corp.example.com", "acorp.example.com"));
        assert!(is("Corp.example.com", "corp.example.com"));
        assert!(is("a.*.c.*.e", "a.b.c.c.d.e"));
        assert!(!is("a.*", "a"));
        let long = "*.a".repeat(100);
        assert!(!is(&long, &"a.".repeat(10_000)));
    }

    #[test]
    fn matching_agrees_with_a_plain_definition() {
        fn plain(pattern: &[&str], labels: &[&str]) -> bool {
            match (pattern, labels) {
                ([], rest) => rest.is_empty(),
                (["*", tail @ ..], labels) => {
                    (1..=labels.len()).any(|it| plain(tail, &labels[it..]))
                }
                ([head, tail @ ..], [first, rest @ ..]) => head == first && plain(tail, rest),
                (_, []) => false,
            }
        }
        let words = ["a", "b", "*"];
        let all = |letters: usize, length: u32| {
            (0..letters.pow(length)).map(move |mut it| {
                (0..length)
                    .map(|_| {
                        let word = words[it % letters];
                        it /= letters;
                        word
                    })
                    .collect::<Vec<_>>()
            })
        };
        for pattern in (1..=4).flat_map(|it| all(3, it)) {
            for labels in (1..=5).flat_map(|it| all(2, it)) {
                assert_eq!(
                    matches(&pattern, &labels),
                    plain(&pattern, &labels),
                    "{pattern:?} {labels:?}"
                );
            }
        }
    }

    #[test]
    fn the_host_is_found_in_what_people_paste() {
        for said in [
            "corp.example.com",
            "corp.example.com:22",
            "https://corp.example.com",
            "https://corp.example.com:8443/.pomerium/?x=http://y",
            "tcp+https://me@corp.example.com/",
        ] {
            assert_eq!(host(said), "corp.example.com", "{said}");
        }
    }
}
