//! What is wrong with a file, and the annotated lines that a person reads.
//!
//! Long because errors and warnings are collected, ordered and shown by the same code.

use std::{fmt, fmt::Write, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use control::text::clean;

use super::{characters::invisible, secrets::Hidden, without_bom};

/// So many problems are kept of one file, the rest is counted.
const MOST_KEPT: usize = 1_000;
/// So many are shown.
const MOST_SHOWN: usize = 50;

/// A place in the text, in bytes, not counting a byte order mark.
pub type Span = Range<usize>;

/// Why a value cannot be what it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {instead}")]
pub struct Wrong {
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub instead: String,
}

/// One thing that is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, unless it is the whole file.
    pub span: Option<Span>,
    /// What is wrong.
    pub what: String,
    /// The section it is in, such as `[tunnel.db]`.
    pub section: Option<String>,
    /// A few words at the place; mostly what to write instead.
    pub label: Option<String>,
    /// Other locations that have to do with it, and how.
    pub others: Vec<(Span, String)>,
    /// What to do, where that does not fit at the place.
    pub help: Option<String>,
    /// Line and column of the place, from 1.
    pub position: Option<(usize, usize)>,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad a problem is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Severity {
    /// The file cannot be used.
    #[default]
    Error,
    /// It can, and a person should look at this when editing it.
    Warning,
    /// A warning that belongs into the status as long as the settings are in force.
    Standing,
}

/// What a person should know of a file that can be used, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Warnings {
    list: Vec<Problem>,
    locations: Vec<Location>,
}

/// Where a value stands that can only be judged by looking at the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Location {
    /// Such as `[cluster.corp]`.
    section: String,
    /// The key, or one item of its list.
    key: String,
    span: Span,
}

/// Everything that is wrong with a file, in its order. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    left_out: usize,
}

/// Problems being collected.
#[derive(Debug, Default)]
pub(super) struct Found {
    list: Vec<Problem>,
    left_out: usize,
    warnings: Warnings,
}

impl Wrong {
    /// Returns the objection that `what` is wrong, and `instead` to be written.
    pub fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            instead: instead.into(),
        }
    }
}

impl Problem {
    /// Returns the problem that `what` is wrong at `span`.
    pub(super) fn at(span: Span, what: impl Into<String>) -> Self {
        Self {
            span: Some(span),
            ..Self::of_file(what)
        }
    }

    /// Returns the problem that `what` is wrong with the whole file.
    pub(super) fn of_file(what: impl Into<String>) -> Self {
        Self {
            span: None,
            what: what.into(),
            section: None,
            label: None,
            others: Vec::new(),
            help: None,
            position: None,
            severity: Severity::Error,
        }
    }

    pub(super) fn wrong(span: Span, wrong: Wrong) -> Self {
        Self::at(span, wrong.what).label(wrong.instead)
    }

    pub(super) fn section(mut self, name: &str) -> Self {
        self.section = Some(name.to_owned());
        self
    }

    pub(super) fn label(mut self, text: impl Into<String>) -> Self {
        self.label = Some(text.into());
        self
    }

    pub(super) fn help(mut self, text: impl Into<String>) -> Self {
        self.help = Some(text.into());
        self
    }

    pub(super) fn other(mut self, span: Span, text: impl Into<String>) -> Self {
        self.others.push((span, text.into()));
        self
    }

    /// Returns what is wrong, and in which section.
    pub fn title(&self) -> String {
        let what = Hidden::sentence(&self.what);
        match &self.section {
            Some(section) => format!("{what} in {section}"),
            None => what,
        }
    }
}

impl Found {
    pub(super) fn push(&mut self, problem: Problem) {
        if self.list.len() < MOST_KEPT {
            self.list.push(problem);
        } else {
            self.left_out += 1;
        }
    }

    /// Adds what to tell of a file that can be used.
    pub(super) fn warn(&mut self, severity: Severity, mut problem: Problem) {
        problem.severity = severity;
        if self.warnings.list.len() < MOST_KEPT {
            self.warnings.list.push(problem);
        }
    }

    /// Notes where the value of `key` stands.
    pub(super) fn locate(&mut self, section: &str, key: &str, span: Span) {
        self.warnings.locations.push(Location {
            section: section.to_owned(),
            key: key.to_owned(),
            span,
        });
    }

    pub(super) fn spans(&self) -> Vec<Span> {
        self.list.iter().filter_map(|it| it.span.clone()).collect()
    }

    pub(super) fn append(&mut self, other: Self) {
        self.left_out += other.left_out;
        self.warnings.list.extend(other.warnings.list);
        self.warnings.locations.extend(other.warnings.locations);
        for problem in other.list {
            self.push(problem);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Problem) -> bool) {
        self.list.retain(keep);
    }

    /// Returns the warnings, or every problem in the order of the file.
    pub(super) fn finish(mut self, text: &str) -> Result<Warnings, Problems> {
        if self.list.is_empty() {
            self.warnings.settle(text);
            return Ok(self.warnings);
        }
        settle(&mut self.list, text);
        Err(Problems {
            list: self.list,
            left_out: self.left_out,
        })
    }
}

/// Puts problems in the order of the file, and says where they are and what is not seen there.
fn settle(list: &mut [Problem], text: &str) {
    list.sort_by_key(|it| it.span.as_ref().map(|it| (it.start, it.end)));
    for problem in list {
        let Some(span) = &problem.span else { continue };
        problem.position = Some(line_and_column(text, span.start));
        let said = problem.help.is_some() || problem.what.contains("U+");
        // What is damaged is no matter of a single character.
        let part = text
            .get(span.clone())
            .filter(|it| !said && !it.contains('\0'));
        if let Some((_, name)) = part.and_then(invisible) {
            problem.help = Some(format!("there is {name}: delete it"));
        }
    }
}

impl Warnings {
    fn settle(&mut self, text: &str) {
        settle(&mut self.list, text);
    }

    /// Adds what a look at the machine found: `what` is wrong with the value of `key` in `section`.
    pub fn add(&mut self, section: &str, key: &str, what: &str) {
        let location = self.locations.iter();
        let location = location.filter(|it| it.section == section && it.key == key);
        let mut problem = match location.map(|it| it.span.clone()).next() {
            Some(span) => Problem::at(span, what),
            None => Problem::of_file(what),
        };
        problem.severity = Severity::Warning;
        self.list.push(problem);
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.list.len()
    }

    /// Returns all warnings, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Returns the warnings that belong into the status, each as a sentence.
    pub fn standing(&self) -> Vec<String> {
        let standing = self.list.iter();
        let standing = standing.filter(|it| it.severity == Severity::Standing);
        standing
            .map(|it| {
                let label = it.label.iter().map(|it| format!(": {it}"));
                let help = it.help.iter().map(|it| format!("; {it}"));
                let rest: String = label.chain(help).collect();
                Hidden::sentence(&format!("{}{rest}", it.what))
            })
            .collect()
    }

    /// Draws the warnings as [`Problems::render`] does. `text` is what was read.
    pub fn render(&mut self, text: &str, shown_path: &str, color: bool) -> String {
        self.settle(without_bom(text));
        render(&self.list, self.list.len(), text, shown_path, color)
    }
}

impl Problems {
    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.list.len() + self.left_out
    }

    /// Returns the first problems, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// Returns the first problem in one short line, for a notification or a log: `Line 14: unknown key lissten`.
    pub fn first_line(&self) -> String {
        let Some(first) = self.list.first() else {
            return String::new();
        };
        let what = Hidden::sentence(&first.what).replace('`', "");
        match first.position {
            Some((line, _)) => format!("Line {line}: {what}"),
            None => what,
        }
    }

    /// Draws all problems, annotated, without an end of line behind the last. `text` is what was read (bytes that are not
    /// UTF-8 replaced), `shown_path` the file's name as the person knows it.
    pub fn render(&self, text: &str, shown_path: &str, color: bool) -> String {
        render(&self.list, self.count(), text, shown_path, color)
    }
}

fn render(list: &[Problem], count: usize, text: &str, shown_path: &str, color: bool) -> String {
    let hidden = Hidden::file(without_bom(text));
    let shown_path = clean(shown_path, 200);
    let renderer = if color {
        Renderer::styled()
    } else {
        Renderer::plain()
    };
    let mut res = String::new();
    for problem in list.iter().take(MOST_SHOWN) {
        if !res.is_empty() {
            res.push_str("\n\n");
        }
        res.push_str(&renderer.render(&[group(problem, &hidden, &shown_path)]));
    }
    match count.saturating_sub(MOST_SHOWN) {
        0 => {}
        more => {
            let _ = write!(res, "\n\n… and {more} more");
        }
    }
    res
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first_line())?;
        match self.count() {
            0 | 1 => Ok(()),
            count => write!(f, " (and {} more)", count - 1),
        }
    }
}

impl std::error::Error for Problems {}

/// Returns text of the file as it was typed, spaces at its ends included, to stand in a sentence.
pub(super) fn quoted(text: &str) -> String {
    let mut res = clean(&format!("`{text}`"), 62);
    if !res.ends_with('`') {
        res.push('`');
    }
    res
}

/// Returns a name as it may stand in a section's header without quotes.
pub(super) fn plain(name: &str) -> String {
    let fits = |it: char| it.is_ascii_alphanumeric() || it == '_' || it == '-';
    let name = name.chars().map(|it| if fits(it) { it } else { '-' });
    name.take(64).collect()
}

/// The words for what the contract promises and this version lacks.
pub(super) fn not_yet(thing: &str) -> String {
    format!("{thing} is not supported by this version yet")
}

fn group<'a>(problem: &Problem, hidden: &'a Hidden, shown_path: &'a str) -> Group<'a> {
    let level = match problem.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning | Severity::Standing => Level::WARNING,
    };
    let title = level.primary_title(problem.title());
    let mut group = match &problem.span {
        Some(span) => title.element(snippet(problem, span, hidden, shown_path)),
        None => title.element(Origin::path(shown_path)),
    };
    if let Some(help) = &problem.help {
        group = group.element(Level::HELP.message(Hidden::sentence(help)));
    }
    group
}

fn snippet<'a>(
    problem: &Problem,
    span: &Span,
    hidden: &'a Hidden,
    shown_path: &'a str,
) -> Snippet<'a, annotate_snippets::Annotation<'a>> {
    let text = hidden.text.as_str();
    let inside = |span: &Span| {
        let span = hidden.span(span);
        let end = floor(text, span.end);
        floor(text, span.start)..end
    };
    let primary = inside(span);
    let others: Vec<(Span, &String)> = problem
        .others
        .iter()
        .map(|it| (inside(&it.0), &it.1))
        .collect();
    let all = || others.iter().map(|it| &it.0).chain([&primary]);
    // Only the lines that matter are handed over: the renderer reads all it is given, for each problem.
    let first = all().map(|it| it.start).min().unwrap_or(0);
    let last = all().map(|it| it.end).max().unwrap_or(0);
    let start = text[..first].rfind('\n').map_or(0, |it| it + 1);
    let end = text[last..].find('\n').map_or(text.len(), |it| last + it);
    let here = |span: &Span| span.start - start..span.end - start;
    let label = problem.label.as_deref().map(Hidden::sentence);
    let mut snippet = Snippet::source(&text[start..end])
        .line_start(1 + text[..start].matches('\n').count())
        .path(shown_path)
        .annotation(AnnotationKind::Primary.span(here(&primary)).label(label));
    for (span, label) in others {
        snippet = snippet.annotation(
            AnnotationKind::Context
                .span(here(&span))
                .label(Hidden::sentence(label)),
        );
    }
    snippet
}

fn floor(text: &str, at: usize) -> usize {
    text.floor_char_boundary(at)
}

fn line_and_column(text: &str, at: usize) -> (usize, usize) {
    let before = &text[..floor(text, at)];
    let line_start = before.rfind('\n').map_or(0, |it| it + 1);
    let line = 1 + before.matches('\n').count();
    (line, 1 + before[line_start..].chars().count())
}
