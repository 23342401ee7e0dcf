//! Answers → pages of text. Pure: what it needs to know of the world is in a [`View`].

pub(crate) mod doctor;
pub(crate) mod glyphs;
pub(crate) mod json;
pub(crate) mod page;
pub(crate) mod paint;
pub(crate) mod report;
pub(crate) mod routes;
pub(crate) mod session;
pub(crate) mod table;
pub(crate) mod times;
pub(crate) mod top;
pub(crate) mod traffic;
pub(crate) mod tunnel;

use std::path::Path;

use control::text::{self, shell_word};
use jiff::{Timestamp, tz::TimeZone};

use self::glyphs::Glyphs;

/// What a page is drawn for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct View<'a> {
    /// Columns of the terminal; `None` where nobody looks: nothing is cut then.
    pub(crate) width: Option<usize>,
    pub(crate) glyphs: &'a Glyphs,
    pub(crate) now: Timestamp,
    pub(crate) zone: &'a TimeZone,
    pub(crate) home: Option<&'a Path>,
    /// The configuration file that `pomd check` judges where none is named.
    pub(crate) checked: Option<&'a Path>,
}

impl View<'_> {
    /// Returns a time as a person says it.
    pub(crate) fn time(&self, at: Timestamp) -> String {
        times::time(at, self.now, self.zone)
    }

    /// Returns a path, with `~` for the home folder.
    pub(crate) fn path(&self, path: &Path) -> String {
        let short = self.home.and_then(|home| path.strip_prefix(home).ok());
        match short {
            Some(rest) => format!("~/{}", rest.display()),
            None => path.display().to_string(),
        }
    }

    /// Returns the command that checks this configuration file.
    pub(crate) fn check_command(&self, path: &Path) -> String {
        if self.checked == Some(path) {
            return "pomd check".to_owned();
        }
        // A shell finds the home folder only outside of quotes.
        let short = self.path(path);
        match short.strip_prefix("~/") {
            Some(below) if shell_word(below) == below => format!("pomd check {short}"),
            _ => text::check_command(path),
        }
    }
}

/// Returns `1 connection`, `2 connections`.
pub(crate) fn count(number: u64, one: &str) -> String {
    format!("{number} {one}{}", if number == 1 { "" } else { "s" })
}

/// Returns a sentence with its first letter large.
pub(crate) fn sentence(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

/// How much a terminal shows at once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    pub(crate) columns: usize,
    pub(crate) rows: usize,
}

/// Returns the lines of `page` that a terminal can show without scrolling, so that it can be drawn over.
pub(crate) fn fitted(page: &str, size: Option<Size>) -> String {
    let Some(size) = size.filter(|it| it.columns > 0 && it.rows > 1) else {
        return page.to_owned();
    };
    let mut left = size.rows - 1;
    let mut lines = Vec::new();
    for line in page.lines() {
        let length = anstream::adapter::strip_str(line)
            .to_string()
            .chars()
            .count();
        let rows = length.div_ceil(size.columns).max(1);
        if rows > left {
            break;
        }
        left -= rows;
        lines.push(line);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_that_is_drawn_over_never_scrolls() {
        let size = |columns, rows| Some(Size { columns, rows });
        let page = "1\n\n123456\n4\n5";
        assert_eq!(fitted(page, size(80, 40)), page);
        assert_eq!(fitted(page, size(80, 4)), "1\n\n123456");
        assert_eq!(fitted(page, size(5, 4)), "1\n");
        assert_eq!(fitted(page, size(5, 5)), "1\n\n123456");
        assert_eq!(fitted(page, size(0, 0)), page);
        assert_eq!(fitted(page, None), page);
    }
}
