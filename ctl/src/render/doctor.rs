//! What a doctor found, as a page to be read, or pasted into an issue. Pure.

use std::time::Duration;

use control::{
    humanize,
    wire::{Check, CheckName, CheckOutcome, Diagnosis, Examination},
};

use super::{
    View, count,
    paint::{Role, paint},
    sentence,
};

/// Where messages begin behind the labels.
const LABEL: usize = 15;
/// The most columns of a message before its time.
const MESSAGE: usize = 51;
/// The columns of a time.
const TIME: usize = 8;

/// Returns the page. One tunnel is shown with all of its steps; of several each cluster once, and each tunnel in a line.
pub(crate) fn page(found: &Examination, view: &View<'_>) -> String {
    let mut lines = checks(&found.checks, view);
    match found.tunnels.as_slice() {
        [only] => lines.extend(checks(&only.checks, view)),
        all => lines.extend(overview(all, view)),
    }
    lines.push(verdict(found));
    lines.join("\n")
}

/// Returns what there is in a word, as people call it.
pub(crate) fn label(name: CheckName) -> &'static str {
    match name {
        CheckName::Pomd => "pomd",
        CheckName::Config => "config",
        CheckName::Listener => "listener",
        CheckName::Dns => "DNS",
        CheckName::ForwardProxy => "forward proxy",
        CheckName::Tcp => "TCP",
        CheckName::Tls => "TLS",
        CheckName::Http => "HTTP",
        CheckName::Session => "session",
        CheckName::Policy => "policy",
        CheckName::Upstream => "upstream",
        CheckName::Browser => "browser",
        CheckName::SshConfig => "ssh config",
        CheckName::Unknown => "other",
    }
}

/// Tells whether the check is about the way to a cluster, which its tunnels share.
fn is_shared(name: CheckName) -> bool {
    matches!(
        name,
        CheckName::Dns
            | CheckName::ForwardProxy
            | CheckName::Tcp
            | CheckName::Tls
            | CheckName::Http
            | CheckName::Session
    )
}

/// Tells whether a connection takes it.
fn is_step(name: CheckName) -> bool {
    is_shared(name) || matches!(name, CheckName::Policy | CheckName::Upstream)
}

/// Returns each check in a line, with what belongs to it below. Steps that were not tried share one line.
fn checks(all: &[Check], view: &View<'_>) -> Vec<String> {
    let is_untried = |it: &&Check| it.outcome == CheckOutcome::NotDone && it.message == UNTRIED;
    let mut lines: Vec<String> = all
        .iter()
        .filter(|it| !is_untried(it))
        .flat_map(|it| check(it, label(it.name), &it.message, view))
        .collect();
    let untried: Vec<&str> = all
        .iter()
        .filter(is_untried)
        .map(|it| label(it.name))
        .collect();
    if !untried.is_empty() {
        let sign = sign(CheckOutcome::NotDone, view);
        lines.push(format!("  {sign} {}: {UNTRIED}", untried.join(", ")));
    }
    lines
}

/// The message of a step that was not tried for one that failed before.
const UNTRIED: &str = "not tried";

fn check(check: &Check, label: &str, message: &str, view: &View<'_>) -> Vec<String> {
    let took = check.took_ms.map(Duration::from_millis);
    let took = took.map(|it| format!("{:>TIME$}", humanize::duration(it)));
    let line = match took {
        Some(took) => format!("{label:<LABEL$}{message:<MESSAGE$} {took}"),
        None => format!("{label:<LABEL$}{message}"),
    };
    let mut lines = vec![format!("  {} {line}", sign(check.outcome, view))];
    let facts = check.facts.iter();
    lines.extend(facts.map(|(key, value)| format!("      {key:<12} {value}")));
    let hint = check.hint.as_deref().map(sentence);
    lines.extend(hint.map(|it| format!("    {it}")));
    lines
}

fn sign(outcome: CheckOutcome, view: &View<'_>) -> String {
    let glyphs = view.glyphs;
    let (role, sign) = match outcome {
        CheckOutcome::Good => (Role::Good, glyphs.passed),
        CheckOutcome::Bad => (Role::Bad, glyphs.failed),
        CheckOutcome::NotDone => (Role::Muted, glyphs.not_done),
        CheckOutcome::Unknown => (Role::Warn, glyphs.unknown),
    };
    let width = [glyphs.passed, glyphs.failed, glyphs.not_done]
        .map(|it| it.chars().count())
        .into_iter()
        .max();
    let gap = " ".repeat(width.unwrap_or(0).saturating_sub(sign.chars().count()));
    format!("{}{gap}", paint(role, sign))
}

/// Returns each cluster with the way to it, as its first tunnel went, and each tunnel in a line.
fn overview(all: &[Diagnosis], view: &View<'_>) -> Vec<String> {
    let mut clusters: Vec<&str> = all.iter().map(|it| it.cluster.as_str()).collect();
    clusters.sort_unstable();
    clusters.dedup();
    let mut lines = Vec::new();
    for cluster in clusters {
        let theirs: Vec<&Diagnosis> = all.iter().filter(|it| it.cluster == cluster).collect();
        lines.push(paint(Role::Name, cluster));
        let first = theirs.first().map_or(&[][..], |it| it.checks.as_slice());
        let shared: Vec<Check> = first
            .iter()
            .filter(|it| is_shared(it.name))
            .cloned()
            .collect();
        lines.extend(checks(&shared, view));
        let told = shared.iter().find(|it| it.outcome == CheckOutcome::Bad);
        for tunnel in theirs {
            lines.extend(one_line(tunnel, told, view));
        }
    }
    lines
}

/// Returns the tunnel in a line: what failed first, or where it listens and what its service said. What was `told` of the
/// way to its cluster is not told again.
fn one_line(tunnel: &Diagnosis, told: Option<&Check>, view: &View<'_>) -> Vec<String> {
    let name = format!("{} ", tunnel.tunnel);
    let mut bad = tunnel
        .checks
        .iter()
        .filter(|it| it.outcome == CheckOutcome::Bad)
        .peekable();
    if bad.peek().is_some() {
        return bad
            .flat_map(|failed| {
                let message = format!("{}: {}", label(failed.name), failed.message);
                let mut shown = Check {
                    took_ms: None,
                    ..failed.clone()
                };
                if told.is_some_and(|it| it.name == failed.name && it.message == failed.message) {
                    (shown.hint, shown.facts) = (None, Vec::new());
                    let above = format!("{}: as above", label(failed.name));
                    return check(&shown, &name, &above, view);
                }
                check(&shown, &name, &message, view)
            })
            .collect();
    }
    let own = tunnel.checks.iter().filter(|it| !is_shared(it.name));
    let words: Vec<&str> = own.clone().map(|it| it.message.as_str()).collect();
    let outcome = match own.clone().any(|it| it.outcome == CheckOutcome::Good) {
        true => CheckOutcome::Good,
        false => CheckOutcome::NotDone,
    };
    let shown = Check {
        took_ms: tunnel.opens_in_ms,
        ..Check::new(CheckName::Upstream, outcome, "")
    };
    check(&shown, &name, &words.join(", "), view)
}

fn verdict(found: &Examination) -> String {
    let mut failed: Vec<&str> = Vec::new();
    let mut one = "step";
    let all = found.tunnels.iter().flat_map(|it| &it.checks);
    for check in found.checks.iter().chain(all) {
        let label = label(check.name);
        if check.outcome == CheckOutcome::Bad && !failed.contains(&label) {
            failed.push(label);
            if !is_step(check.name) {
                one = "check";
            }
        }
    }
    if !failed.is_empty() {
        let steps = count(failed.len() as u64, one);
        let mut all = found.tunnels.iter().flat_map(|it| &it.checks);
        let login = match all.any(|it| is_step(it.name)) {
            true => " The session was not touched.",
            false => "",
        };
        return format!("{steps} failed: {}.{login}", failed.join(", "));
    }
    match found.tunnels.iter().filter_map(|it| it.opens_in_ms).max() {
        Some(ms) => {
            let took = humanize::duration(Duration::from_millis(ms));
            format!("All good: a new connection takes about {took}.")
        }
        None => "All good.".to_owned(),
    }
}
