//! From text to a tree of values that know their bytes; a line that is not TOML becomes a mistake of its own.

use std::ops::Range;

use toml::de::DeTable;

use crate::config::ledger::{Ledger, Place, Source, Wrong};

/// One file as a tree.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    /// Index into the list of sources.
    pub(crate) file: usize,
    pub(crate) text: &'a str,
    pub(crate) tree: DeTable<'a>,
}

/// Reads what can be read; the rest is noted.
pub(crate) fn parse<'a>(file: usize, source: &'a Source, ledger: &Ledger) -> Page<'a> {
    let text = source.text.as_str();
    let (tree, errors) = DeTable::parse_recoverable(text);
    let mut errors: Vec<SyntaxError> = errors
        .into_iter()
        .map(|error| SyntaxError {
            span: error.span().unwrap_or(0..0),
            message: error.message().to_owned(),
        })
        .collect();
    errors.sort_by_key(|error| error.span.start);
    keep_causes(text, &mut errors);
    for error in errors {
        if error.loses_structure() {
            ledger.structure_lost_at(&Place {
                file,
                span: error.span.clone(),
            });
        }
        let (span, wrong) = explain(text, error);
        ledger.note_broken(&Place { file, span }, wrong);
    }
    Page {
        file,
        text,
        tree: tree.into_inner(),
    }
}

struct SyntaxError {
    span: Range<usize>,
    /// In the words of the parser.
    message: String,
}

impl SyntaxError {
    /// The parser takes all that follows, up to a closing bracket, for a part of what is open.
    fn loses_structure(&self) -> bool {
        self.message.starts_with("unclosed")
    }
}

/// Leaves one error for each line, and of an array that is never closed only the place where it
/// shows first: every later line would be an error of that array.
fn keep_causes(text: &str, errors: &mut Vec<SyntaxError>) {
    if errors
        .iter()
        .any(|error| error.message.starts_with("unclosed array, "))
    {
        let first = errors
            .iter()
            .position(|error| error.message.contains("array"));
        if let Some(first) = first {
            errors.truncate(first + 1);
            errors[first].message = "unclosed array".to_owned();
        }
    }
    errors.dedup_by_key(|error| line_of(text, error.span.start).start);
}

/// In words for an operator, with what would be right.
fn explain(text: &str, error: SyntaxError) -> (Range<usize>, Wrong) {
    let SyntaxError { span, message } = error;
    let written = text.get(span.clone()).unwrap_or_default();
    let (what, expected) = message.split_once(", expected ").unwrap_or((&message, ""));
    match what {
        "duplicate key" => {
            return (
                span,
                Wrong::new(format!("`{written}` is set twice"), "keep one of the two"),
            );
        }
        "key with no value" => {
            return (
                span,
                Wrong::new("a key without a value", "write `key = value`"),
            );
        }
        "unclosed array" => {
            let hint = "every `[` of a value needs its `]`; look at the lines above";
            return (span, Wrong::new("an array is not closed", hint));
        }
        what if what.starts_with("unclosed") && what.ends_with("table") => {
            let hint = "a header looks like [log] or [[pool]], an inline table like { rise = 2 }";
            return (span, Wrong::new(what, hint));
        }
        _ => {}
    }
    match bare_value(text, span.start) {
        Some(bare) if bare.is_empty() => (
            span,
            Wrong::new("no value after `=`", "write `key = value`"),
        ),
        Some(bare) => {
            let hint = format!("text stands in quotes: {:?}", &text[bare.clone()]);
            (bare, Wrong::new("not a value", hint))
        }
        None if what.contains("escape") => {
            let hint = "write `\\\\` for a backslash, or put the text in single quotes";
            (span, Wrong::new(what, hint))
        }
        None if expected.is_empty() || expected == "nothing" => (span, Wrong::new(what, "")),
        None => (span, Wrong::new(what, format!("expected {expected}"))),
    }
}

/// The value around `offset`, when it is neither in quotes nor an array or table.
fn bare_value(text: &str, offset: usize) -> Option<Range<usize>> {
    let line = line_of(text, offset);
    let equals = line.start + text.get(line.clone())?.find('=')?;
    let after = text.get(equals + 1..line.end)?;
    let value = after.split('#').next().unwrap_or_default();
    let start = equals + 1 + (value.len() - value.trim_start().len());
    let value = value.trim();
    let bare = !value.starts_with(['"', '\'', '[', '{']);
    (bare && offset > equals && offset <= start + value.len()).then(|| start..start + value.len())
}

fn line_of(text: &str, offset: usize) -> Range<usize> {
    let bytes = text.as_bytes();
    let offset = offset.min(bytes.len());
    let start = bytes[..offset]
        .iter()
        .rposition(|byte| *byte == b'\n')
        .map_or(0, |end| end + 1);
    let length = bytes[offset..].iter().position(|byte| *byte == b'\n');
    start..length.map_or(bytes.len(), |length| offset + length)
}
