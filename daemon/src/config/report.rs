//! What is wrong with a file, and the annotated lines that a person reads.

use std::{fmt, fmt::Write, ops::Range};

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use control::text::clean;

use super::{secrets::Hidden, without_bom};

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
    /// Other places that have to do with it, and how.
    pub others: Vec<(Span, String)>,
    /// What to do, where that does not fit at the place.
    pub help: Option<String>,
    /// Line and column of the place, from 1.
    pub position: Option<(usize, usize)>,
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
}

impl Wrong {
    /// What is wrong, and what to write instead.
    pub fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            instead: instead.into(),
        }
    }
}

impl Problem {
    /// `what` is wrong at `span`.
    pub(super) fn at(span: Span, what: impl Into<String>) -> Self {
        Self {
            span: Some(span),
            ..Self::of_file(what)
        }
    }

    /// `what` is wrong with the whole file.
    pub(super) fn of_file(what: impl Into<String>) -> Self {
        Self {
            span: None,
            what: what.into(),
            section: None,
            label: None,
            others: Vec::new(),
            help: None,
            position: None,
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

    /// What is wrong, and in which section.
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

    pub(super) fn spans(&self) -> Vec<Span> {
        self.list.iter().filter_map(|it| it.span.clone()).collect()
    }

    pub(super) fn append(&mut self, other: Self) {
        self.left_out += other.left_out;
        for problem in other.list {
            self.push(problem);
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Problem) -> bool) {
        self.list.retain(keep);
    }

    /// Nothing, or every problem in the order of the file.
    pub(super) fn finish(mut self, text: &str) -> Result<(), Problems> {
        if self.list.is_empty() {
            return Ok(());
        }
        self.list
            .sort_by_key(|it| it.span.as_ref().map(|it| (it.start, it.end)));
        for problem in &mut self.list {
            problem.position = problem
                .span
                .as_ref()
                .map(|it| line_and_column(text, it.start));
        }
        Err(Problems {
            list: self.list,
            left_out: self.left_out,
        })
    }
}

impl Problems {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.len() + self.left_out
    }

    /// The first ones, in the order of the file.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.list.iter()
    }

    /// The first in one short line, for a notification or a log: `Line 14: unknown key lissten`.
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

    /// All of them, annotated, without an end of line behind the last. `text` is what was read (bytes that are not
    /// UTF-8 replaced), `shown_path` the file's name as the person knows it.
    pub fn render(&self, text: &str, shown_path: &str, color: bool) -> String {
        let hidden = Hidden::file(without_bom(text));
        let shown_path = clean(shown_path, 200);
        let renderer = if color {
            Renderer::styled()
        } else {
            Renderer::plain()
        };
        let mut res = String::new();
        for problem in self.list.iter().take(MOST_SHOWN) {
            if !res.is_empty() {
                res.push_str("\n\n");
            }
            res.push_str(&renderer.render(&[group(problem, &hidden, &shown_path)]));
        }
        match self.count().saturating_sub(MOST_SHOWN) {
            0 => {}
            more => {
                let _ = write!(res, "\n\n… and {more} more");
            }
        }
        res
    }
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

/// Text of the file, to stand in a sentence.
pub(super) fn quoted(text: &str) -> String {
    format!("`{}`", clean(text, 60))
}

/// The words for what the contract promises and this version lacks.
pub(super) fn not_yet(thing: &str) -> String {
    format!("{thing} is not supported by this version yet")
}

fn group<'a>(problem: &Problem, hidden: &'a Hidden, shown_path: &'a str) -> Group<'a> {
    let title = Level::ERROR.primary_title(problem.title());
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
