//! Text → the tables of a TOML file, and what is no TOML in it as problems.

use toml::{
    Spanned,
    de::{DeTable, DeValue, Error},
};

use super::{
    characters::{invisible, typographic_quote},
    report::{Found, Problem, Span, quoted},
};

/// What of a broken file can still be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rest {
    /// Everything: it is TOML.
    Whole,
    /// What stands on other lines. Nothing can be called missing.
    OtherLines,
    /// Nothing: the mistake may have swallowed what follows it.
    Nothing,
}

/// Returns the tables as far as they could be read. Several mistakes on a line are told once.
pub(super) fn tables<'t>(text: &'t str, found: &mut Found) -> (DeTable<'t>, Rest) {
    if let Some(problem) = yaml(text) {
        found.push(problem);
        return (DeTable::new(), Rest::Nothing);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    let table = table.into_inner();
    let mut rest = Rest::Whole;
    let mut lines_end = 0;
    for error in &errors {
        let confined = is_confined(error.message());
        let span = error.span().unwrap_or(0..0);
        if span.start >= lines_end || rest == Rest::Whole {
            found.push(problem(text, &table, error, span.clone()));
        }
        let at = text.floor_char_boundary(span.end);
        lines_end = text[at..].find('\n').map_or(text.len() + 1, |it| at + it);
        rest = if confined && rest != Rest::Nothing {
            Rest::OtherLines
        } else {
            Rest::Nothing
        };
        if !confined {
            // What follows an open bracket is noise.
            break;
        }
    }
    (table, rest)
}

/// Whether the rest of the file means the same with the mistake as without.
fn is_confined(message: &str) -> bool {
    const CONFINED: [&str; 7] = [
        "duplicate key",
        "invalid basic string",
        "invalid literal string",
        "string values must be quoted",
        "missing escaped value",
        "unexpected leading zero",
        "key with no value",
    ];
    CONFINED.iter().any(|it| message.starts_with(it))
}

fn problem(text: &str, table: &DeTable<'_>, error: &Error, span: Span) -> Problem {
    let message = error.message();
    if message == "duplicate key" {
        return duplicate(text, table, span);
    }
    if let Some(problem) = misread(text, &span) {
        return problem;
    }
    let (what, expected) = match message.split_once(", expected ") {
        Some((what, expected)) => (what, format!("expected {expected}")),
        None => (message, String::new()),
    };
    let label = match what {
        "string values must be quoted" if span.is_empty() => "a value is missing here".to_owned(),
        // Not the value itself: it may be a secret.
        "string values must be quoted" => "write it in quotes".to_owned(),
        "invalid basic string" | "invalid literal string" if expected.len() < 14 => {
            "the closing quote is missing".to_owned()
        }
        "missing escaped value" => r"write a backslash twice: \\".to_owned(),
        "key with no value" => "write KEY = VALUE".to_owned(),
        "unexpected leading zero" => "write it without the zero".to_owned(),
        _ => expected,
    };
    let mut problem = Problem::at(span, format!("not valid TOML: {what}"));
    if !label.is_empty() {
        problem = problem.label(label);
    }
    if what.contains(" array") && !what.starts_with("unclosed") {
        problem = problem.help("perhaps a `]` is missing in a line above");
    }
    problem
}

/// Returns the problem of what is not TOML because it only looks as if it were: a character that a person cannot tell from
/// another, or a blank in a section's name.
fn misread(text: &str, span: &Span) -> Option<Problem> {
    let line = super::line_of(text, span);
    let line = line.start..line.end.min(text.len());
    let code = text[line.clone()].split('#').next().unwrap_or_default();
    let at = |it: Span| line.start + it.start..line.start + it.end;
    if let Some(quote) = typographic_quote(code) {
        let problem = Problem::at(at(quote), "not valid TOML: typographic quotes");
        return Some(problem.label("these are typographic quotes; use \""));
    }
    if let Some((place, name)) = invisible(code) {
        let problem = Problem::at(at(place), format!("not valid TOML: {name}"));
        return Some(problem.label("delete it, or write a plain space"));
    }
    let header = code.trim();
    let inner = header.trim_start_matches('[').trim_end_matches(']');
    let mut words = inner.split_whitespace();
    let (first, second) = (words.next()?, words.next()?);
    let is_plain = |it: &str| {
        it.chars()
            .all(|it| it.is_ascii_alphanumeric() || "._-".contains(it))
    };
    let kinds = ["tunnel", "cluster"];
    let kind = kinds
        .iter()
        .find(|it| first == **it || first.starts_with(&format!("{it}.")))?;
    if !header.starts_with('[') || !is_plain(first) || !is_plain(second) {
        return None;
    }
    let rest = inner[inner.find(kind)? + kind.len()..].trim_start_matches(['.', ' ', '\t']);
    let name: Vec<&str> = rest.split_whitespace().collect();
    let start = code.find('[')?;
    let whole = at(start..start + header.len());
    let problem = Problem::at(whole, "not valid TOML: a space in the name of a section");
    Some(problem.label(format!(
        "write [{kind}.{}]",
        super::report::plain(&name.join("-"))
    )))
}

/// Returns the problem of a file whose first lines have colons where TOML has brackets and equals signs.
fn yaml(text: &str) -> Option<Problem> {
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        let (at, code) = (start, line.trim());
        start += line.len();
        if code.is_empty() || code.starts_with('#') || code == "---" {
            continue;
        }
        let key = code.strip_suffix(':')?;
        let is_key = !key.is_empty()
            && key
                .chars()
                .all(|it| it.is_ascii_alphanumeric() || "_-".contains(it));
        let at = at + line.len() - line.trim_start().len();
        return is_key.then(|| {
            Problem::at(at..at + code.len(), "this looks like YAML; pomd reads TOML")
                .label("write [tunnel.NAME], and on the lines below: route = \"HOST:PORT\"")
        });
    }
    None
}

fn duplicate(text: &str, table: &DeTable<'_>, span: Span) -> Problem {
    let raw = text.get(span.clone()).unwrap_or_default();
    let line = super::line_of(text, &span);
    let header = text[line.start..].lines().next().unwrap_or_default().trim();
    let (what, first) = if header.starts_with('[') {
        let header = header.split('#').next().unwrap_or_default().trim();
        let mut at = 0;
        let first = text[..line.start].split_inclusive('\n').find_map(|it| {
            at += it.len();
            let same = it.split('#').next().unwrap_or_default().trim() == header;
            same.then(|| {
                let start = at - it.len() + (it.len() - it.trim_start().len());
                start..start + header.len()
            })
        });
        (format!("{} appears twice", quoted(header)), first)
    } else {
        let key = raw.trim_matches(['"', '\'']);
        let first = last_before(table, key, span.start);
        (format!("the key {} appears twice", quoted(raw)), first)
    };
    let problem = Problem::at(span, what).label("remove or rename one of them");
    match first {
        Some(first) => problem.other(first, "first here"),
        None => problem,
    }
}

/// Returns where `key` stands last before `at`.
fn last_before(table: &DeTable<'_>, key: &str, at: usize) -> Option<Span> {
    let mut res: Option<Span> = None;
    for (name, value) in table.iter() {
        let here = (name.get_ref() == key && name.span().start < at).then(|| name.span());
        let deeper = inner(value).and_then(|it| last_before(it, key, at));
        for span in [here, deeper].into_iter().flatten() {
            if res.as_ref().is_none_or(|it| it.start < span.start) {
                res = Some(span);
            }
        }
    }
    res
}

fn inner<'a, 't>(value: &'a Spanned<DeValue<'t>>) -> Option<&'a DeTable<'t>> {
    match value.get_ref() {
        DeValue::Table(it) => Some(it),
        _ => None,
    }
}
