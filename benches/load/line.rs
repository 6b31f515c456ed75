//! One flat JSON object per line: written here, and read back by the report.

use std::fmt::Display;

#[derive(Debug)]
pub(crate) struct Line {
    text: String,
}

impl Line {
    pub(crate) fn new(workload: &str) -> Self {
        Self {
            text: format!("{{\"workload\":\"{workload}\""),
        }
    }

    /// A number, or what else needs no quotes.
    pub(crate) fn number(mut self, key: &str, value: impl Display) -> Self {
        self.text.push_str(&format!(",\"{key}\":{value}"));
        self
    }

    /// A word without characters that JSON would escape.
    pub(crate) fn word(mut self, key: &str, value: impl Display) -> Self {
        self.text.push_str(&format!(",\"{key}\":\"{value}\""));
        self
    }

    pub(crate) fn print(self) {
        println!("{}}}", self.text);
    }
}

/// The number under `key` in a line written by [`Line`].
pub(crate) fn number(line: &str, key: &str) -> Option<f64> {
    value(line, key)?.parse().ok()
}

/// The word under `key` in a line written by [`Line`].
pub(crate) fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    Some(value(line, key)?.trim_matches('"'))
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let start = line.find(&format!("\"{key}\":"))? + key.len() + 3;
    let rest = &line[start..];
    Some(&rest[..rest.find([',', '}'])?])
}
