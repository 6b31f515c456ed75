//! Columns for people: as wide as what is in them, numbers to the right.

use std::fmt::Write;

/// How a column's cells stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    Left,
    Right,
}

/// A colour of the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Good,
    Warn,
    Bad,
    Faint,
}

#[derive(Clone, Debug)]
pub struct Cell {
    text: String,
    paint: Paint,
}

/// Rows under a header; the last column is not padded.
#[derive(Debug)]
pub struct Table {
    indent: usize,
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<Cell>>,
}

impl<T: ToString> From<T> for Cell {
    fn from(value: T) -> Self {
        Cell {
            text: value.to_string(),
            paint: Paint::Plain,
        }
    }
}

impl Cell {
    pub fn painted(text: impl Into<String>, paint: Paint) -> Cell {
        Cell {
            text: text.into(),
            paint,
        }
    }
}

impl Table {
    pub fn new(indent: usize, columns: &[(&'static str, Align)]) -> Table {
        Table {
            indent,
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Has as many cells as there are columns.
    pub fn row(&mut self, cells: Vec<Cell>) {
        debug_assert_eq!(cells.len(), self.columns.len());
        self.rows.push(cells);
    }

    /// Lines with their ends.
    pub fn text(&self, colour: bool) -> String {
        let width = |(at, (title, _)): (usize, &(&'static str, Align))| {
            let cells = self.rows.iter().map(|row| row[at].text.chars().count());
            cells.chain([title.len()]).max().unwrap_or(0)
        };
        let widths: Vec<usize> = self.columns.iter().enumerate().map(width).collect();
        let titles = self.columns.iter();
        let header = titles.map(|(title, _)| Cell::painted(*title, Paint::Faint));
        let mut out = String::new();
        self.line(&mut out, &header.collect::<Vec<_>>(), &widths, colour);
        for row in &self.rows {
            self.line(&mut out, row, &widths, colour);
        }
        out
    }

    fn line(&self, out: &mut String, cells: &[Cell], widths: &[usize], colour: bool) {
        let mut line = " ".repeat(self.indent);
        for (at, ((cell, &width), (_, align))) in
            cells.iter().zip(widths).zip(&self.columns).enumerate()
        {
            if at > 0 {
                line += "  ";
            }
            let padding = " ".repeat(width - cell.text.chars().count());
            let text = paint(&cell.text, cell.paint, colour);
            let _infallible = match align {
                Align::Right => write!(line, "{padding}{text}"),
                Align::Left if at + 1 == cells.len() => write!(line, "{text}"),
                Align::Left => write!(line, "{text}{padding}"),
            };
        }
        *out += line.trim_end();
        out.push('\n');
    }
}

/// The text in its colour, if colours are wanted.
pub fn paint(text: &str, paint: Paint, colour: bool) -> String {
    let code = match paint {
        Paint::Good => "32",
        Paint::Warn => "33",
        Paint::Bad => "1;31",
        Paint::Faint => "2",
        Paint::Plain => "",
    };
    match colour && !code.is_empty() {
        true => format!("\x1b[{code}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_what_is_in_them() {
        let mut table = Table::new(
            2,
            &[
                ("NAME", Align::Left),
                ("N", Align::Right),
                ("", Align::Left),
            ],
        );
        table.row(vec!["a".into(), 5.into(), "x".into()]);
        table.row(vec!["longer".into(), 1234.into(), "".into()]);
        assert_eq!(
            table.text(false),
            "  NAME       N\n  a          5  x\n  longer  1234\n"
        );
        assert!(table.text(true).contains("\x1b[2mNAME\x1b[0m"));
    }
}
