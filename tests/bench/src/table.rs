//! Plain tables, and how a figure stands to its target.

use std::fmt;

/// A title, a head and rows of the same width.
#[derive(Debug)]
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// The columns' names; the first one is to the left, the last one is a verdict.
    pub(crate) fn new(title: impl Into<String>, head: &[&str]) -> Self {
        Self {
            title: title.into(),
            rows: vec![head.iter().map(|it| (*it).to_owned()).collect()],
        }
    }

    /// One more row; what is missing to its right stays empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let mut row: Vec<String> = cells.into_iter().collect();
        assert!(row.len() <= self.rows[0].len(), "too wide: {row:?}");
        row.resize(self.rows[0].len(), String::new());
        self.rows.push(row);
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let last = self.rows[0].len() - 1;
        let width = |column: usize| {
            let widths = self.rows.iter().map(|it| it[column].chars().count());
            widths.max().unwrap_or(0)
        };
        for row in &self.rows {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                line += &match column {
                    0 => format!("  {cell:<0$}", width(0)),
                    _ if column == last => format!("   {cell}"),
                    _ => format!("   {cell:>0$}", width(column)),
                };
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// How a figure stands to the most it should be.
pub(crate) fn verdict(figure: f64, most: f64) -> String {
    if figure <= most {
        format!("at most {most}: met")
    } else {
        let percent = (figure / most - 1.0) * 100.0;
        format!("at most {most}: missed by {percent:.0} %")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_and_no_line_ends_in_spaces() {
        let mut table = Table::new("title", &["what", "ms", "target"]);
        table.row(["longer".to_owned(), "1.5".to_owned()]);
        table.row(["b".into(), "10.25".into(), verdict(2.0, 1.0)]);
        assert_eq!(
            table.to_string(),
            "title\n  what        ms   target\n  longer     1.5\n  b        10.25   at most 1: missed by 100 %\n"
        );
    }

    #[test]
    fn a_figure_at_its_target_has_met_it() {
        assert_eq!(verdict(1.2, 1.2), "at most 1.2: met");
        assert_eq!(verdict(1.5, 1.2), "at most 1.2: missed by 25 %");
    }
}
