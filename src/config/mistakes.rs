//! Mistakes of the operator, each with its place in the file, its source line and what would be right.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::ops::Range;

/// One mistake in a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Name of the file as it was given or found.
    pub file: String,
    /// Counted from 1; 0 = the file as a whole: then there is no source line.
    pub line: usize,
    /// Counted from 1, in characters.
    pub column: usize,
    /// The line of the file, or the part of a long line that holds the caret. One character wide each:
    /// tabs and control characters are replaced.
    pub source_line: String,
    /// What is wrong, in characters of `source_line`; never empty when there is a line.
    pub caret: Range<usize>,
    pub message: String,
    /// What would be right.
    pub hint: Option<String>,
}

/// Every mistake of a configuration, at least one, sorted by file and position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    list: Vec<Mistake>,
    /// How many further ones are not listed.
    unlisted: usize,
}

impl Mistakes {
    pub(crate) fn new(list: Vec<Mistake>, unlisted: usize) -> Self {
        debug_assert!(!list.is_empty(), "no mistakes is no error");
        Mistakes { list, unlisted }
    }

    pub fn as_slice(&self) -> &[Mistake] {
        &self.list
    }

    /// Without their places, for a text that nobody wrote: `message; hint`, joined by `, and `.
    pub fn in_words(&self) -> String {
        let words = self.list.iter().map(|mistake| match &mistake.hint {
            Some(hint) => format!("{}; {hint}", mistake.message),
            None => mistake.message.clone(),
        });
        words.collect::<Vec<_>>().join(", and ")
    }

    /// "1 mistake in lb.toml", "3 mistakes in lb.toml and conf.d/a.toml", "9 mistakes in 4 files",
    /// "1500 mistakes in lb.toml, the first 1000 are shown".
    fn summary(&self) -> String {
        let count = self.list.len() + self.unlisted;
        let plural = if count == 1 { "" } else { "s" };
        let files: BTreeSet<&str> = self
            .list
            .iter()
            .map(|mistake| mistake.file.as_str())
            .collect();
        let place = match files.len() {
            1 | 2 => files.into_iter().collect::<Vec<_>>().join(" and "),
            many => format!("{many} files"),
        };
        let shown = match self.unlisted {
            0 => String::new(),
            _ => format!(", the first {} are shown", self.list.len()),
        };
        format!("{count} mistake{plural} in {place}{shown}")
    }
}

impl<'a> IntoIterator for &'a Mistakes {
    type Item = &'a Mistake;
    type IntoIter = std::slice::Iter<'a, Mistake>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl fmt::Display for Mistake {
    /// Several lines, the last without a line end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line == 0 {
            write!(f, "{}: {}", self.file, self.message)?;
        } else {
            writeln!(
                f,
                "{}:{}:{}: {}",
                self.file, self.line, self.column, self.message
            )?;
            writeln!(f, "{:>5} | {}", self.line, self.source_line)?;
            let indent = " ".repeat(self.caret.start);
            write!(f, "      | {indent}{}", "^".repeat(self.caret.len()))?;
        }
        match &self.hint {
            Some(hint) => write!(f, "\n      = hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for mistake in &self.list {
            writeln!(f, "{mistake}\n")?;
        }
        f.write_str(&self.summary())
    }
}

impl Error for Mistake {}
impl Error for Mistakes {}
