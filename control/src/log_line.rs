//! The text form of a [`LogLine`], as it stands in pomd's log file: for people, and read back without a loss.
//!
//! `2026-11-28T14:05:40.123456Z  WARN [pomd::tunnel tunnel=db connection=42 status=403] refused`. A value that holds more
//! than letters, digits and a few signs is a JSON string. Pure.

use std::{
    collections::BTreeMap,
    fmt::{self, Display, Formatter},
    str::FromStr,
};

use crate::wire::LogLine;

/// The text is no line of pomd's log, such as the words of a panic, or one of a release before this form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a line of pomd's log")]
pub struct NoLogLine;

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

impl LogLine {
    /// Returns the message with the fields behind it that nothing else shows: `refused status=403`.
    pub fn text(&self) -> String {
        let mut res = self.message.clone();
        for (key, value) in &self.fields {
            res.push_str(&format!(" {key}={value}"));
        }
        res
    }
}

impl Display for LogLine {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let level = self.level.to_ascii_uppercase();
        write!(f, "{:.6} {level:>5} [{}", self.at, self.target)?;
        let own = [("tunnel", &self.tunnel), ("cluster", &self.cluster)];
        for (key, value) in own {
            if let Some(value) = value {
                write_field(f, key, value)?;
            }
        }
        if let Some(connection) = self.connection {
            write!(f, " connection={connection}")?;
        }
        for (key, value) in &self.fields {
            write_field(f, key, value)?;
        }
        write!(f, "] {}", self.message)
    }
}

fn write_field(f: &mut Formatter<'_>, key: &str, value: &str) -> fmt::Result {
    let is_plain = |it: char| it.is_alphanumeric() || "-_.:/@".contains(it);
    if !value.is_empty() && value.chars().all(is_plain) {
        return write!(f, " {key}={value}");
    }
    let quoted = serde_json::to_string(value).map_err(|_| fmt::Error)?;
    write!(f, " {key}={quoted}")
}

impl FromStr for LogLine {
    type Err = NoLogLine;

    fn from_str(line: &str) -> Result<Self, NoLogLine> {
        parse(line).ok_or(NoLogLine)
    }
}

fn parse(line: &str) -> Option<LogLine> {
    let (at, rest) = line.split_once(' ')?;
    let (level, rest) = rest.trim_start().split_once(" [")?;
    let level = level.to_ascii_lowercase();
    if !LEVELS.contains(&level.as_str()) {
        return None;
    }
    let end = rest.find([' ', ']'])?;
    let (target, mut rest) = rest.split_at(end);
    let mut fields = BTreeMap::new();
    while let Some(field) = rest.strip_prefix(' ') {
        let (key, value) = field.split_once('=')?;
        let (value, after) = value_of(value)?;
        fields.insert(key.to_owned(), value);
        rest = after;
    }
    let message = rest.strip_prefix(']')?;
    Some(LogLine {
        at: at.parse().ok()?,
        level,
        target: target.to_owned(),
        tunnel: fields.remove("tunnel"),
        cluster: fields.remove("cluster"),
        connection: match fields.remove("connection") {
            Some(number) => Some(number.parse().ok()?),
            None => None,
        },
        fields,
        message: message.strip_prefix(' ').unwrap_or(message).to_owned(),
    })
}

/// The value that the text begins with, and what stands behind it.
fn value_of(text: &str) -> Option<(String, &str)> {
    if !text.starts_with('"') {
        let (value, rest) = text.split_at(text.find([' ', ']'])?);
        return Some((value.to_owned(), rest));
    }
    let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
    let value = strings.next()?.ok()?;
    let end = strings.byte_offset();
    Some((value, &text[end..]))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use proptest::prelude::*;

    use super::*;

    fn line() -> LogLine {
        LogLine {
            at: Timestamp::from_microsecond(1_795_874_740_123_456).unwrap(),
            level: "warn".to_owned(),
            target: "pomd::tunnel".to_owned(),
            tunnel: Some("db".to_owned()),
            cluster: None,
            connection: Some(42),
            message: "refused: a=b [x]".to_owned(),
            fields: BTreeMap::from([("status".to_owned(), "403".to_owned())]),
        }
    }

    #[test]
    fn a_line_of_the_file_is_for_people_and_read_back_as_it_was() {
        let text = line().to_string();
        assert_eq!(
            text,
            "2026-11-28T14:05:40.123456Z  WARN [pomd::tunnel tunnel=db connection=42 status=403] refused: a=b [x]"
        );
        assert_eq!(text.parse(), Ok(line()));
        assert_eq!(line().text(), "refused: a=b [x] status=403");
    }

    #[test]
    fn what_is_no_line_of_the_log_is_not_taken_for_one() {
        for text in [
            "",
            "thread 'main' panicked at x.rs:1:1:",
            "2026-11-28T14:05:40Z",
            "2026-11-28T14:05:40Z INFO",
            "2026-11-28T14:05:40Z NOTE [pomd] hello",
            "yesterday INFO [pomd] hello",
            "2026-11-28T14:05:40Z INFO [pomd connection=x] hello",
            "2026-11-28T14:05:40Z INFO [pomd tunnel=\"x] hello",
            // Of a release before this form.
            "2026-11-28T14:05:40.123456Z  WARN connection{tunnel=db connection=42}: refused",
            "2026-11-28T14:05:40Z  INFO pomd 0.1.0 runs (pid 7)",
        ] {
            assert_eq!(text.parse::<LogLine>(), Err(NoLogLine), "{text}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_line_holds_is_read_back(
            tunnel in prop::option::of(".{0,8}"),
            cluster in prop::option::of("[a-z \"\\]=]{0,8}"),
            connection in prop::option::of(any::<u64>()),
            message in "[^\\n\\r]{0,20}",
            level in 0..LEVELS.len(),
            value in ".{0,8}",
        ) {
            let fields = BTreeMap::from([("x".to_owned(), value)]);
            let level = LEVELS[level].to_owned();
            let line = LogLine { level, tunnel, cluster, connection, message, fields, ..line() };
            prop_assert_eq!(line.to_string().parse(), Ok(line));
        }

        #[test]
        fn no_text_breaks_the_reader(text in "(2026-11-28T14:05:40Z INFO \\[)?.{0,60}") {
            if let Ok(line) = text.parse::<LogLine>() {
                prop_assert_eq!(line.to_string().parse(), Ok(line));
            }
        }
    }
}
