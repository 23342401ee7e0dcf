//! A line of pomd's log file, read back as pomd itself would tell it. Pure.
//!
//! The file is for people and in tracing's usual format: the time, the level, the spans with their fields, the message,
//! and fields behind it.

use std::collections::BTreeMap;

use control::wire::LogLine;

/// What pomd's own lines say of where they belong; the message says a `reason` in words.
const FIELDS: [&str; 4] = ["tunnel", "cluster", "connection", "reason"];

/// Reads a line as a release before `control::log_line` wrote it. `None`: it is no whole line of pomd's log, such as the words of a panic.
pub(crate) fn parse(line: &str) -> Option<LogLine> {
    let (time, rest) = line.split_once(' ')?;
    let at = time.parse().ok()?;
    let (level, rest) = rest.trim_start().split_once(' ')?;
    let levels = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
    let level = levels.iter().find(|it| **it == level)?;
    let (mut fields, rest) = spans(rest);
    let message = behind(rest, &mut fields);
    // What is said last is said nearest to the event.
    let last = |key: &str| fields.iter().rev().find(|it| it.0 == key).map(|it| it.1);
    Some(LogLine {
        at,
        level: level.to_ascii_lowercase(),
        tunnel: last("tunnel").map(str::to_owned),
        cluster: last("cluster").map(str::to_owned),
        connection: last("connection").and_then(|it| it.parse().ok()),
        message: message.to_owned(),
        target: String::new(),
        fields: BTreeMap::new(),
    })
}

type Fields<'a> = Vec<(&'a str, &'a str)>;

/// The fields of `connection{tunnel=db connection=7}:inner{…}: ` at the beginning, outermost first, and what follows.
fn spans(mut rest: &str) -> (Fields<'_>, &str) {
    let mut fields = Vec::new();
    while let Some((inside, after)) = span(rest) {
        fields.extend(inside.split(' ').filter_map(|it| it.split_once('=')));
        rest = after;
    }
    (fields, rest.trim_start())
}

fn span(rest: &str) -> Option<(&str, &str)> {
    let (name, inside) = rest.split_once('{')?;
    let is_name = !name.is_empty() && name.chars().all(|it| it.is_ascii_lowercase() || it == '_');
    is_name.then(|| inside.split_once("}:")).flatten()
}

/// The message without pomd's own fields behind it, which are taken into `fields`.
fn behind<'a>(mut message: &'a str, fields: &mut Fields<'a>) -> &'a str {
    let mut taken = Vec::new();
    while let Some((before, last)) = message.rsplit_once(' ')
        && let Some(field) = last.split_once('=')
        && FIELDS.contains(&field.0)
    {
        taken.push(field);
        message = before;
    }
    fields.extend(taken.into_iter().rev());
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str) -> (String, Option<String>, Option<String>, Option<u64>) {
        let line = parse(line).unwrap();
        (line.message, line.tunnel, line.cluster, line.connection)
    }

    #[test]
    fn a_line_is_told_as_pomd_would() {
        let line = parse("2026-11-28T14:05:40.123456Z  WARN connection{tunnel=db cluster=corp connection=42}: refused").unwrap();
        assert_eq!(
            (line.level.as_str(), line.message.as_str()),
            ("warn", "refused")
        );
        assert_eq!(line.at.to_string(), "2026-11-28T14:05:40.123456Z");
        let some = |it: &str| Some(it.to_owned());
        assert_eq!(
            (line.tunnel, line.cluster, line.connection),
            (some("db"), some("corp"), Some(42))
        );

        let plain = "2026-11-28T14:05:40Z  INFO";
        for (rest, message, tunnel, cluster, connection) in [
            (
                "pomd 0.1.0 runs (pid 7)",
                "pomd 0.1.0 runs (pid 7)",
                None,
                None,
                None,
            ),
            ("down tunnel=db", "down", some("db"), None, None),
            (
                "cannot listen: busy tunnel=db reason=address_in_use",
                "cannot listen: busy",
                some("db"),
                None,
                None,
            ),
            (
                "outer{tunnel=a}:inner_one{tunnel=b x=1}: m cluster=c",
                "m",
                some("b"),
                some("c"),
                None,
            ),
            (
                "GET {x}: a=b status=403",
                "GET {x}: a=b status=403",
                None,
                None,
                None,
            ),
            ("said: tunnel=", "said:", some(""), None, None),
        ] {
            assert_eq!(
                told(&format!("{plain} {rest}")),
                (message.to_owned(), tunnel, cluster, connection),
                "{rest}"
            );
        }
    }

    #[test]
    fn what_is_no_line_of_the_log_is_not_taken_for_one() {
        for line in [
            "",
            "thread 'main' panicked at x.rs:1:1:",
            "2026-11-28T14:05:40Z",
            "2026-11-28T14:05:40Z INFO",
            "2026-11-28T14:05:40Z NOTE hello",
            "yesterday INFO hello",
        ] {
            assert!(parse(line).is_none(), "{line}");
        }
    }
}
