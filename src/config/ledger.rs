//! Collects mistakes while the files are read, and turns them into text with lines and carets at the end.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashSet;
use std::ops::Range;
use std::rc::Rc;

use crate::config::mistakes::{Mistake, Mistakes};

/// More are not listed: nobody reads them, and each carries a copy of its line.
const MISTAKES_MAX: usize = 1000;
/// Characters of a source line shown around the caret; a longer line is cut to a window of this size.
const EXCERPT_CHARS_MAX: usize = 160;

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: String,
    pub(crate) text: String,
    /// The text with lines blanked out, where that was needed to read the others.
    pub(crate) repaired: OnceCell<String>,
}

impl Source {
    pub(crate) fn new(name: String, text: String) -> Self {
        Source {
            name,
            text,
            repaired: OnceCell::new(),
        }
    }
}

/// Bytes of one of the files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Index into the list of sources.
    pub(crate) file: usize,
    pub(crate) span: Range<usize>,
}

/// What a note says, apart from where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wrong {
    pub(crate) message: String,
    pub(crate) hint: String,
}

impl Wrong {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Wrong {
            message: message.into(),
            hint: hint.into(),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Text that cannot be read, or is not TOML.
    Broken,
    /// Something is not there. Not believed while a part of the text is broken: that may have hidden it.
    Absence,
    Other,
}

#[derive(Debug)]
struct Note {
    kind: Kind,
    file: usize,
    /// None = the file as a whole.
    span: Option<Range<usize>>,
    wrong: Wrong,
    /// Another place, named at the end of the hint.
    other: Option<Place>,
}

/// The mistakes found so far. Shared by every reader of one run, hence the cell.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    notes: RefCell<Vec<Note>>,
    /// Where the structure of a file was lost, by an unclosed bracket: what follows it is not believed.
    lost: RefCell<Vec<Place>>,
    /// Files that values name, numbered behind those of the configuration.
    attached: RefCell<Vec<Rc<Source>>>,
    /// How many files the configuration has.
    files: Cell<usize>,
}

impl Ledger {
    pub(crate) fn note(&self, place: &Place, wrong: Wrong) {
        self.add(
            Kind::Other,
            place.file,
            Some(place.span.clone()),
            wrong,
            None,
        );
    }

    /// The hint is followed by the position of `other`.
    pub(crate) fn note_with(&self, place: &Place, wrong: Wrong, other: &Place) {
        self.add(
            Kind::Other,
            place.file,
            Some(place.span.clone()),
            wrong,
            Some(other.clone()),
        );
    }

    pub(crate) fn note_absence(&self, place: &Place, wrong: Wrong) {
        self.add(
            Kind::Absence,
            place.file,
            Some(place.span.clone()),
            wrong,
            None,
        );
    }

    pub(crate) fn note_broken(&self, place: &Place, wrong: Wrong) {
        self.add(
            Kind::Broken,
            place.file,
            Some(place.span.clone()),
            wrong,
            None,
        );
    }

    /// The file as a whole cannot be read.
    pub(crate) fn note_unreadable(&self, file: usize, wrong: Wrong) {
        self.add(Kind::Broken, file, None, wrong, None);
    }

    /// The file as a whole lacks something.
    pub(crate) fn note_lack(&self, file: usize, wrong: Wrong) {
        self.add(Kind::Absence, file, None, wrong, None);
    }

    /// To be told before any file is attached.
    pub(crate) fn set_files(&self, count: usize) {
        debug_assert!(
            self.attached.borrow().is_empty(),
            "their numbers would change"
        );
        self.files.set(count);
    }

    /// A file that a value of the configuration names, and its number.
    pub(crate) fn attach(&self, source: Source) -> (usize, Rc<Source>) {
        let (mut attached, source) = (self.attached.borrow_mut(), Rc::new(source));
        attached.push(source.clone());
        (self.files.get() + attached.len() - 1, source)
    }

    /// The one of this name, when it was attached before.
    pub(crate) fn attached(&self, name: &str) -> Option<(usize, Rc<Source>)> {
        let attached = self.attached.borrow();
        let at = attached.iter().position(|source| source.name == name)?;
        Some((self.files.get() + at, attached[at].clone()))
    }

    pub(crate) fn structure_lost_at(&self, place: &Place) {
        self.lost.borrow_mut().push(place.clone());
    }

    fn add(
        &self,
        kind: Kind,
        file: usize,
        span: Option<Range<usize>>,
        wrong: Wrong,
        other: Option<Place>,
    ) {
        self.notes.borrow_mut().push(Note {
            kind,
            file,
            span,
            wrong,
            other,
        });
    }

    /// Every mistake that is not a mere consequence of another, or nothing when all is well.
    pub(crate) fn finish(&self, sources: &[&Source]) -> Option<Mistakes> {
        let attached = self.attached.take();
        let all = sources
            .iter()
            .copied()
            .chain(attached.iter().map(|source| &**source));
        let lines: Vec<Lines<'_>> = all.map(Lines::of).collect();
        let mut notes = self.notes.take();
        drop_consequences(&mut notes, &self.lost.take(), &lines);
        notes.sort_by_key(|note| {
            (
                note.file,
                note.span.as_ref().map(|span| (span.start, span.end)),
            )
        });
        notes.dedup_by(|a, b| (a.file, &a.span, &a.wrong) == (b.file, &b.span, &b.wrong));
        let unlisted = notes.len().saturating_sub(MISTAKES_MAX);
        notes.truncate(MISTAKES_MAX);
        let list: Vec<Mistake> = notes
            .into_iter()
            .map(|note| mistake(note, &lines))
            .collect();
        (!list.is_empty()).then(|| Mistakes::new(list, unlisted))
    }
}

/// A line that is not TOML makes further mistakes of what could be read of it: only the syntax
/// error is kept, and nothing is called missing.
fn drop_consequences(notes: &mut Vec<Note>, lost: &[Place], lines: &[Lines<'_>]) {
    let line = |note: &Note| {
        note.span
            .as_ref()
            .map(|span| (note.file, lines[note.file].number(span.start)))
    };
    let broken = || notes.iter().filter(|note| note.kind == Kind::Broken);
    if broken().next().is_none() {
        return;
    }
    let broken_lines: HashSet<_> = broken().filter_map(line).collect();
    let after_loss = |note: &Note| {
        lost.iter().any(|place| {
            place.file == note.file
                && note
                    .span
                    .as_ref()
                    .is_some_and(|span| span.start >= place.span.start)
        })
    };
    notes.retain(|note| match note.kind {
        Kind::Broken => true,
        Kind::Absence => false,
        // The parser gives 0..0 to a value that it made up.
        Kind::Other => {
            note.span != Some(0..0)
                && !after_loss(note)
                && !line(note).is_some_and(|line| broken_lines.contains(&line))
        }
    });
}

fn mistake(note: Note, lines: &[Lines<'_>]) -> Mistake {
    let file = &lines[note.file];
    let position = note
        .span
        .map(|span| file.position(&span))
        .unwrap_or_default();
    let mut hint = note.wrong.hint;
    if let Some(other) = note.other {
        let source = &lines[other.file];
        let there = source.position(&other.span);
        hint = format!("{hint} {}:{}:{}", source.name, there.line, there.column);
    }
    Mistake {
        file: file.name.to_owned(),
        line: position.line,
        column: position.column,
        source_line: position.excerpt,
        caret: position.caret,
        message: note.wrong.message,
        hint: (!hint.is_empty()).then_some(hint),
    }
}

#[derive(Debug, Default)]
struct Position {
    line: usize,
    column: usize,
    excerpt: String,
    caret: Range<usize>,
}

/// A source and where each of its lines begins.
struct Lines<'a> {
    name: &'a str,
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn of(source: &'a Source) -> Self {
        let text = source.text.as_str();
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(ends.map(|(end, _)| end + 1))
            .collect();
        Lines {
            name: &source.name,
            text,
            starts,
        }
    }

    /// Counted from 0.
    fn number(&self, offset: usize) -> usize {
        self.starts
            .partition_point(|start| *start <= offset)
            .saturating_sub(1)
    }

    fn position(&self, span: &Range<usize>) -> Position {
        // A mistake at the very end of the file belongs to its last line that has text.
        let end_of_text = self.text.trim_end().len();
        let offset = span
            .start
            .min(end_of_text.max(self.starts[self.number(end_of_text)]));
        let number = self.number(offset);
        let start = self.starts[number];
        let line = self.text[start..].split('\n').next().unwrap_or_default();
        let line = line.strip_suffix('\r').unwrap_or(line);
        let line = line.strip_prefix('\u{feff}').unwrap_or(line);
        // The byte order mark is not counted, as no editor shows it.
        let skipped = if self.text[start..].starts_with('\u{feff}') {
            3
        } else {
            0
        };
        let chars_before = |offset: usize| {
            let offset = offset.saturating_sub(start + skipped);
            line.char_indices()
                .take_while(|(at, _)| *at < offset)
                .count()
        };
        let caret = chars_before(offset)..chars_before(span.end).max(chars_before(offset) + 1);
        let column = caret.start + 1;
        let (excerpt, caret) = excerpt(line, caret);
        Position {
            line: number + 1,
            column,
            excerpt,
            caret,
        }
    }
}

/// The line as it can be shown, each character one column wide, and the caret in it.
fn excerpt(line: &str, caret: Range<usize>) -> (String, Range<usize>) {
    let visible = |c: char| match c {
        '\t' => ' ',
        c if c.is_control() => '\u{fffd}',
        c => c,
    };
    let from = if line.chars().nth(EXCERPT_CHARS_MAX).is_none() {
        0
    } else {
        caret.start.saturating_sub(EXCERPT_CHARS_MAX / 2)
    };
    let shown = line
        .chars()
        .skip(from)
        .take(EXCERPT_CHARS_MAX)
        .map(visible)
        .collect();
    let start = caret.start - from;
    (
        shown,
        start..(caret.end - from).min(EXCERPT_CHARS_MAX).max(start + 1),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(text: &str, span: Range<usize>) -> (usize, usize, String, Range<usize>) {
        let source = Source::new("x".to_owned(), text.to_owned());
        let position = Lines::of(&source).position(&span);
        (
            position.line,
            position.column,
            position.excerpt,
            position.caret,
        )
    }

    #[test]
    fn positions_count_characters_and_stay_within_the_text() {
        let cases = [
            ("a = 1\nbc = 2\n", 6..8, (2, 1, "bc = 2", 0..2)),
            ("é = 1\r\nx", 5..6, (1, 5, "é = 1", 4..5)),
            ("\u{feff}a = 1", 7..8, (1, 5, "a = 1", 4..5)),
            ("\ta = 1", 1..2, (1, 2, " a = 1", 1..2)),
            ("a = [\n\n", 7..7, (1, 6, "a = [", 5..6)),
            ("", 0..0, (1, 1, "", 0..1)),
            ("a = \"x\ny\"", 4..9, (1, 5, "a = \"x", 4..6)),
        ];
        for (text, span, (line, column, excerpt, caret)) in cases {
            assert_eq!(
                position(text, span),
                (line, column, excerpt.to_owned(), caret),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_long_line_is_cut_around_the_caret() {
        let text = format!("{}!{}", "a".repeat(1000), "b".repeat(1000));
        let (_, column, excerpt, caret) = position(&text, 1000..1001);
        assert_eq!(column, 1001);
        assert_eq!(excerpt.chars().count(), EXCERPT_CHARS_MAX);
        assert_eq!(excerpt.chars().nth(caret.start), Some('!'));
    }

    #[test]
    fn one_mistake_found_twice_is_told_once() {
        let ledger = Ledger::default();
        let place = Place {
            file: 0,
            span: 0..1,
        };
        ledger.note(&place, Wrong::new("m", ""));
        ledger.note(&place, Wrong::new("m", ""));
        let source = Source::new("x".to_owned(), "a = 1".to_owned());
        assert_eq!(ledger.finish(&[&source]).unwrap().as_slice().len(), 1);
    }
}
