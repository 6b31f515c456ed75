//! From text to a tree of values that know their bytes; a line that is not TOML becomes a mistake of its own.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::ledger::{Ledger, Place, Source, Wrong};

/// One file as a tree.
#[derive(Debug)]
pub(crate) struct Page<'a> {
    /// Index into the list of sources.
    pub(crate) file: usize,
    /// As it was given or found.
    pub(crate) name: &'a str,
    pub(crate) text: &'a str,
    pub(crate) tree: DeTable<'a>,
}

/// Reads what can be read; the rest is noted.
pub(crate) fn parse<'a>(file: usize, source: &'a Source, ledger: &Ledger) -> Page<'a> {
    let text = source.text.as_str();
    let (mut tree, mut errors) = read(text);
    if errors.iter().any(SyntaxError::swallows_a_line) {
        let repaired = source.repaired.get_or_init(|| blanked(text, &errors));
        let (again, further) = read(repaired);
        tree = again;
        errors.retain(SyntaxError::swallows_a_line);
        errors.extend(further);
    }
    errors.sort_by_key(|error| error.span.start);
    if let Some(span) = blame_the_open_array(text, tree.get_ref(), &mut errors) {
        ledger.structure_lost_at(&Place { file, span });
    }
    errors.dedup_by_key(|error| line_of(text, error.span.start).start);
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
        name: &source.name,
        text,
        tree: tree.into_inner(),
    }
}

fn read(text: &str) -> (Spanned<DeTable<'_>>, Vec<SyntaxError>) {
    let (tree, errors) = DeTable::parse_recoverable(text);
    let errors = errors.into_iter().map(|error| SyntaxError {
        span: error.span().unwrap_or(0..0),
        message: error.message().to_owned(),
    });
    (tree, errors.collect())
}

/// The text without the lines that swallow others; all other bytes keep their place.
fn blanked(text: &str, errors: &[SyntaxError]) -> String {
    let mut repaired = text.to_owned();
    for error in errors.iter().filter(|error| error.swallows_a_line()) {
        let line = line_of(text, error.span.start);
        repaired.replace_range(line.clone(), &" ".repeat(line.len()));
    }
    repaired
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

    /// The parser goes on behind the next line.
    fn swallows_a_line(&self) -> bool {
        self.message.starts_with("key with no value")
    }

    fn is_open_string(&self) -> bool {
        let (what, expected) = self.message.split_once(", expected ").unwrap_or_default();
        what.starts_with("invalid")
            && what.ends_with("string")
            && matches!(expected, "`\"`" | "`'`" | "'`'")
    }
}

/// All that follows an array that is never closed is an error of that array: only the bracket that
/// opens it is kept, or the string on its line that swallowed the closing one. Gives that bracket.
fn blame_the_open_array(
    text: &str,
    tree: &DeTable<'_>,
    errors: &mut Vec<SyntaxError>,
) -> Option<Range<usize>> {
    let unclosed = errors
        .iter()
        .find(|error| error.message.starts_with("unclosed array, "));
    let end = unclosed?.span.start;
    let start = open_array(tree.values(), end)?;
    let line = line_of(text, start);
    let open_string = |error: &SyntaxError| {
        error.is_open_string() && (line.start..=line.end).contains(&error.span.start)
    };
    let cause = errors.iter().position(open_string);
    let cause = cause.map(|at| errors.swap_remove(at));
    errors.retain(|error| error.span.start < start);
    let bracket = start..start + 1;
    errors.push(cause.unwrap_or_else(|| SyntaxError {
        span: bracket.clone(),
        message: "unclosed array".to_owned(),
    }));
    Some(bracket)
}

/// Where the outermost array begins that the text ended in.
fn open_array<'v>(
    values: impl Iterator<Item = &'v Spanned<DeValue<'v>>>,
    end: usize,
) -> Option<usize> {
    let open = |value: &'v Spanned<DeValue<'v>>| match value.get_ref() {
        DeValue::Array(_) if value.span().end == end => Some(value.span().start),
        DeValue::Array(items) => open_array(Box::new(items.iter()) as Values<'v>, end),
        DeValue::Table(table) => open_array(Box::new(table.values()) as Values<'v>, end),
        _ => None,
    };
    values.filter_map(open).min()
}

type Values<'v> = Box<dyn Iterator<Item = &'v Spanned<DeValue<'v>>> + 'v>;

/// In words for an operator, with what would be right.
fn explain(text: &str, error: SyntaxError) -> (Range<usize>, Wrong) {
    if error.is_open_string() {
        let hint = "a string ends with the quote it begins with";
        return (error.span, Wrong::new("a string is not closed", hint));
    }
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
            return (
                span,
                Wrong::new("this array is not closed", "add the missing `]`"),
            );
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
        None if what == "string values must be quoted" => (
            span,
            Wrong::new("not a value", format!("text stands in quotes: {written:?}")),
        ),
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
