//! Tables without borders: two spaces between columns, numbers to the right, one column that gives way. Pure.

use super::paint::{Role, paint};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) head: &'static str,
    pub(crate) side: Side,
    /// Never narrower, so that a table does not wobble while it is watched.
    pub(crate) least: usize,
    /// Gives way where the terminal is narrow.
    pub(crate) yields: bool,
}

/// Where a cell's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Left,
    Right,
}

impl Column {
    pub(crate) const fn new(head: &'static str) -> Self {
        Self {
            head,
            side: Side::Left,
            least: 0,
            yields: false,
        }
    }

    pub(crate) const fn numbers(head: &'static str, least: usize) -> Self {
        Self {
            head,
            side: Side::Right,
            least,
            yields: false,
        }
    }

    pub(crate) const fn yielding(head: &'static str) -> Self {
        Self {
            yields: true,
            ..Self::new(head)
        }
    }
}

/// A cell.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) text: String,
    pub(crate) role: Role,
}

impl Cell {
    pub(crate) fn new(role: Role, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            role,
        }
    }
}

/// A row: its sign, its cells, and its troubles below it.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) sign: Cell,
    pub(crate) cells: Vec<Cell>,
    pub(crate) below: Vec<String>,
}

/// The narrowest that a yielding column gets.
const NARROWEST: usize = 12;
const GAP: usize = 2;

/// Returns how wide each column would like to be.
pub(crate) fn widths(columns: &[Column], rows: &[Row]) -> Vec<usize> {
    columns
        .iter()
        .enumerate()
        .map(|(at, column)| {
            let cells = rows.iter().filter_map(|row| row.cells.get(at));
            let widest = cells.map(|it| it.text.chars().count()).max();
            widest
                .unwrap_or_default()
                .max(column.head.len())
                .max(column.least)
        })
        .collect()
}

/// Tells whether the columns fit into `width` if the yielding ones give all they can.
pub(crate) fn fits(columns: &[Column], widths: &[usize], width: usize) -> bool {
    let least = columns.iter().zip(widths).map(|(column, wish)| {
        if column.yields {
            (*wish).min(NARROWEST)
        } else {
            *wish
        }
    });
    total(least) <= width
}

/// Returns header and rows as lines, fitted into `width` if there is one.
pub(crate) fn lines(
    columns: &[Column],
    rows: &[Row],
    widths: &[usize],
    width: Option<usize>,
    cut: &str,
) -> Vec<String> {
    let widths = fitted(columns, widths, width);
    let head: Vec<Cell> = columns
        .iter()
        .map(|it| Cell::new(Role::Muted, it.head))
        .collect();
    let mut lines = vec![line(
        columns,
        &Cell::new(Role::Plain, " "),
        &head,
        &widths,
        cut,
    )];
    for row in rows {
        lines.push(line(columns, &row.sign, &row.cells, &widths, cut));
        lines.extend(row.below.iter().map(|it| format!("    {it}")));
    }
    lines
}

fn total(widths: impl Iterator<Item = usize>) -> usize {
    widths.map(|it| it + GAP).sum()
}

/// Takes what is too much from the yielding columns.
fn fitted(columns: &[Column], widths: &[usize], width: Option<usize>) -> Vec<usize> {
    let mut widths = widths.to_vec();
    let Some(width) = width else { return widths };
    let mut excess = total(widths.iter().copied()).saturating_sub(width);
    for (column, wish) in columns.iter().zip(&mut widths) {
        if column.yields {
            let gives = wish.saturating_sub(NARROWEST).min(excess);
            *wish -= gives;
            excess -= gives;
        }
    }
    widths
}

fn line(columns: &[Column], sign: &Cell, cells: &[Cell], widths: &[usize], cut: &str) -> String {
    let mut res = paint(sign.role, &sign.text);
    let last = cells.iter().rposition(|it| !it.text.is_empty());
    let mut gap = 1;
    for at in 0..last.map_or(0, |it| it + 1) {
        let text = shortened(&cells[at].text, widths[at], cut);
        let pad = " ".repeat(widths[at].saturating_sub(text.chars().count()));
        let text = paint(cells[at].role, &text);
        res.push_str(&" ".repeat(gap));
        match columns[at].side {
            Side::Right => res.push_str(&(pad + &text)),
            Side::Left if Some(at) == last => res.push_str(&text),
            Side::Left => res.push_str(&(text + &pad)),
        }
        gap = GAP;
    }
    res
}

/// Returns `text` in at most `width` columns.
pub(crate) fn shortened(text: &str, width: usize, cut: &str) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let keep = width.saturating_sub(cut.chars().count());
    text.chars().take(keep).collect::<String>() + cut
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::new("NAME"),
        Column::numbers("N", 3),
        Column::yielding("ROUTE"),
    ];

    fn drawn(rows: &[[&str; 3]], width: Option<usize>) -> Vec<String> {
        let rows: Vec<Row> = rows
            .iter()
            .map(|row| Row {
                sign: Cell::new(Role::Plain, "*"),
                cells: row.iter().map(|it| Cell::new(Role::Plain, *it)).collect(),
                below: Vec::new(),
            })
            .collect();
        let overrides = widths(&COLUMNS, &rows);
        let lines = lines(&COLUMNS, &rows, &overrides, width, "…");
        lines
            .iter()
            .map(|it| anstream::adapter::strip_str(it).to_string())
            .collect()
    }

    #[test]
    fn columns_align_and_lines_end_without_spaces() {
        let lines = drawn(&[["a", "1", "x"], ["long-name", "22", ""]], None);
        assert_eq!(
            lines,
            [
                "  NAME         N  ROUTE",
                "* a            1  x",
                "* long-name   22"
            ]
        );
    }

    #[test]
    fn the_yielding_column_is_cut_to_the_width_and_no_further() {
        let route = "a-very-long-route.example.com:22";
        for width in 25..60 {
            let lines = drawn(&[["name", "1", route]], Some(width));
            let widest = lines.iter().map(|it| it.chars().count()).max().unwrap();
            let whole = 2 + 4 + 2 + 3 + 2 + route.len();
            assert_eq!(widest, width.min(whole), "{width}: {lines:?}");
        }
        let lines = drawn(&[["name", "1", route]], Some(3));
        assert_eq!(lines[1], "* name    1  a-very-long…");
    }
}
