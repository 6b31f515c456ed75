//! Reads one table of the tree by the key table: every mistake is noted, and reading goes on with a default.

use std::cell::RefCell;
use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::config::duration;
use crate::config::expand::{self, Env};
use crate::config::keys::{Kind, Off, ROOT, Section, Shape};
use crate::config::ledger::{Ledger, Place, Wrong};
use crate::config::suggest;
use crate::config::syntax::Page;

/// What every reader of a run shares.
pub(crate) struct Desk<'a> {
    pub(crate) ledger: &'a Ledger,
    pub(crate) env: Env<'a>,
}

/// One table of a file.
pub(crate) struct Reader<'a> {
    desk: &'a Desk<'a>,
    page: &'a Page<'a>,
    section: &'static Section,
    /// None = the table was left out: everything has its default.
    table: Option<&'a DeTable<'a>>,
    /// The header, or the key of an inline table.
    place: Place,
    /// How messages call this table.
    label: String,
    /// The unset variables of a value are noted once, however often it is read.
    expanded: RefCell<HashSet<usize>>,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Found<T> {
    pub(crate) value: T,
    pub(crate) place: Place,
}

impl<'a> Reader<'a> {
    /// Keys that are unknown or not there yet are noted here.
    pub(crate) fn of_page(desk: &'a Desk<'a>, page: &'a Page<'a>) -> Self {
        let place = Place {
            file: page.file,
            span: 0..0,
        };
        Reader::open(desk, page, &ROOT, Some(&page.tree), place, "")
    }

    fn open(
        desk: &'a Desk<'a>,
        page: &'a Page<'a>,
        section: &'static Section,
        table: Option<&'a DeTable<'a>>,
        place: Place,
        within: &str,
    ) -> Self {
        let mut label = section.header();
        let name = table
            .and_then(|table| table.get("name"))
            .and_then(|name| name.get_ref().as_str());
        if let Some(name) = name.filter(|_| section.shape == Shape::Array) {
            label.push_str(&format!(" {name:?}"));
        }
        if !within.is_empty() {
            label.push_str(&format!(" of {within}"));
        }
        let expanded = RefCell::default();
        let reader = Reader {
            desk,
            page,
            section,
            table,
            place,
            label,
            expanded,
        };
        reader.check_keys();
        reader
    }

    fn check_keys(&self) {
        let Some(table) = self.table else { return };
        for (name, value) in table.iter() {
            let place = self.place_of(name);
            match self.section.key(name.get_ref()).map(|key| &key.kind) {
                None => self.note(&place, self.unknown_key(name.get_ref())),
                Some(Kind::NotYet(off)) if !self.is_off(off, value) => {
                    let hint = match off {
                        Off::Text(text) | Off::Duration(text) => {
                            format!(
                                "leave it out; only {name} = {text:?} is accepted",
                                name = name.get_ref()
                            )
                        }
                        Off::Zero => {
                            format!("leave it out; only {} = 0 is accepted", name.get_ref())
                        }
                        Off::EmptyArray | Off::Never => "leave it out".to_owned(),
                    };
                    self.note(&place, not_yet(name.get_ref(), hint));
                }
                Some(_) => {}
            }
        }
    }

    fn unknown_key(&self, name: &str) -> Wrong {
        let message = format!("unknown key `{name}` in {}", self.label);
        let message = if self.section.shape == Shape::Root {
            format!("unknown key `{name}` at the top level")
        } else {
            message
        };
        Wrong::new(message, suggest::for_key(self.section, name))
    }

    fn is_off(&self, off: &Off, value: &Spanned<DeValue<'_>>) -> bool {
        match (off, value.get_ref()) {
            (Off::Text(text), DeValue::String(found)) => found == text,
            (Off::Duration(text), DeValue::String(found)) => {
                duration::parse(found) == duration::parse(text)
            }
            (Off::Zero, DeValue::Integer(found)) => integer(found) == Some(0),
            (Off::Zero, DeValue::Float(found)) => found.as_str().parse() == Ok(0.0),
            (Off::EmptyArray, DeValue::Array(found)) => found.is_empty(),
            _ => false,
        }
    }

    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn label(&self) -> &str {
        &self.label
    }

    pub(crate) fn ledger(&self) -> &'a Ledger {
        self.desk.ledger
    }

    pub(crate) fn note(&self, place: &Place, wrong: Wrong) {
        self.desk.ledger.note(place, wrong);
    }

    /// Whether the key is written, whatever its value.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.table.is_some_and(|table| table.contains_key(name))
    }

    /// Where the key's value is, or the table when the key is left out.
    pub(crate) fn place_of_value(&self, name: &str) -> Place {
        self.get(name)
            .map_or_else(|| self.place.clone(), |value| self.place_of(value))
    }

    fn get(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(
            self.section.key(name).is_some(),
            "{name} is not in the key table"
        );
        self.table?.get(name)
    }

    fn place_of<T>(&self, value: &Spanned<T>) -> Place {
        Place {
            file: self.page.file,
            span: value.span(),
        }
    }

    fn kind(&self, name: &str) -> &'static Kind {
        &self
            .section
            .key(name)
            .expect("readers ask for keys of the key table only")
            .kind
    }

    fn example(&self, name: &str) -> String {
        self.section
            .key(name)
            .map(|key| key.example())
            .unwrap_or_default()
    }

    /// A string with its variables replaced; `None` when the key is left out or the mistake is noted.
    fn written(&self, name: &str, expected: &str) -> Option<Found<String>> {
        let value = self.get(name)?;
        let place = self.place_of(value);
        let DeValue::String(text) = value.get_ref() else {
            self.note_type(name, value, expected);
            return None;
        };
        self.expand(text, place)
    }

    fn expand(&self, text: &str, place: Place) -> Option<Found<String>> {
        let (value, faults) = expand::expand(text, self.desk.env);
        let first_time = self.expanded.borrow_mut().insert(place.span.start);
        for fault in faults.iter().filter(|_| first_time) {
            let raw = self.page.text.get(place.span.clone()).unwrap_or_default();
            let span = match expand::locate(fault, text, raw) {
                Some(within) => place.span.start + within.start..place.span.start + within.end,
                None => place.span.clone(),
            };
            self.note(
                &Place {
                    file: place.file,
                    span,
                },
                fault.wrong.clone(),
            );
        }
        faults.is_empty().then(|| Found {
            value: value.into_owned(),
            place,
        })
    }

    pub(crate) fn note_type(&self, name: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let message = format!(
            "`{name}` is {}, expected {expected}",
            found_type(value.get_ref())
        );
        let hint = format!("for example {}", self.example(name));
        self.note(&self.place_of(value), Wrong::new(message, hint));
    }

    /// A string of any form.
    pub(crate) fn text(&self, name: &str) -> String {
        self.parsed(name, "a string", |text| Ok(text.to_owned()))
    }

    /// A string with a meaning; a mistake is noted and the default taken.
    pub(crate) fn parsed<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> T {
        if let Some(found) = self.written(name, expected) {
            match parse(&found.value) {
                Ok(value) => return value,
                Err(wrong) => self.note(&found.place, wrong),
            }
        }
        let Kind::Text(default) = self.kind(name) else {
            panic!("{name} has no default text")
        };
        parse(default).expect("the defaults of the key table are valid")
    }

    /// A string without a default; `None` when it is left out or the mistake is noted.
    pub(crate) fn optional<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        let found = self.written(name, expected)?;
        match parse(&found.value) {
            Ok(value) => Some(Found {
                value,
                place: found.place,
            }),
            Err(wrong) => {
                self.note(&found.place, wrong);
                None
            }
        }
    }

    /// A string that must be there.
    pub(crate) fn required<T>(
        &self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Found<T>> {
        self.require(name);
        self.optional(name, expected, parse)
    }

    fn require(&self, name: &str) {
        if !self.has(name) {
            let message = format!("{} has no `{name}`", self.label);
            let hint = format!("add a line such as {}", self.example(name));
            self.desk
                .ledger
                .note_absence(&self.place, Wrong::new(message, hint));
        }
    }

    /// A string or an array of strings.
    pub(crate) fn strings(&self, name: &str, expected: &str) -> Vec<Found<String>> {
        match self.get(name).map(|value| (value, value.get_ref())) {
            None => Vec::new(),
            Some((value, DeValue::Array(items))) => {
                if items.is_empty() {
                    let hint = format!("for example {}", self.example(name));
                    let wrong = Wrong::new(format!("`{name}` is an empty array"), hint);
                    self.note(&self.place_of(value), wrong);
                }
                let text = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
                    DeValue::String(text) => self.expand(text, self.place_of(item)),
                    _ => {
                        self.note_type(name, item, expected);
                        None
                    }
                };
                items.iter().filter_map(text).collect()
            }
            Some(_) => self.written(name, expected).into_iter().collect(),
        }
    }

    /// A string or an array of strings that must be there.
    pub(crate) fn required_strings(&self, name: &str, expected: &str) -> Vec<Found<String>> {
        self.require(name);
        self.strings(name, expected)
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)], not_yet: &[&str]) -> T {
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.parsed(
            name,
            &format!("one of {}", suggest::quoted(&list)),
            |text| {
                if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
                    return Ok(*value);
                }
                let allowed = format!("allowed: {}", suggest::quoted(&list));
                if not_yet.contains(&text) {
                    return Err(self::not_yet(&format!("{name} = {text:?}"), allowed));
                }
                let hint = match suggest::nearest(text, list.iter().copied()) {
                    Some(word) => format!("did you mean {word:?}? {allowed}"),
                    None => allowed,
                };
                Err(Wrong::new(format!("`{name}` cannot be {text:?}"), hint))
            },
        )
    }

    pub(crate) fn duration(&self, name: &str, min: Duration) -> Duration {
        self.parsed(name, "a duration in quotes", |text| {
            let Some(value) = duration::parse(text) else {
                return Err(Wrong::new(
                    format!("`{name}` is {text:?}, not a duration"),
                    format!("{}; at most 36500d", duration::EXAMPLES),
                ));
            };
            if value < min {
                return Err(Wrong::new(
                    format!("`{name}` is {text:?}, too short"),
                    format!(
                        "at least \"{}\"; the default is {}",
                        duration::format(min),
                        self.example(name)
                    ),
                ));
            }
            Ok(value)
        })
    }

    /// An integer within the range; a mistake is noted and the default taken.
    pub(crate) fn number<T>(&self, name: &str, range: RangeInclusive<T>) -> T
    where
        T: Copy + Into<i64> + TryFrom<i64>,
    {
        let (min, max): (i64, i64) = ((*range.start()).into(), (*range.end()).into());
        let written = self.get(name).and_then(|value| match value.get_ref() {
            DeValue::Integer(number) => {
                let fits = integer(number).filter(|number| (min..=max).contains(number));
                let converted = fits.and_then(|number| T::try_from(number).ok());
                if converted.is_none() {
                    let message = format!("`{name}` is {number}, not within {min} to {max}");
                    let hint = format!("the default is {}", self.example(name));
                    self.note(&self.place_of(value), Wrong::new(message, hint));
                }
                converted
            }
            _ => {
                self.note_type(name, value, "an integer");
                None
            }
        });
        written.unwrap_or_else(|| {
            let Kind::Number(default) = self.kind(name) else {
                panic!("{name} has no default number")
            };
            T::try_from(i64::from(*default))
                .ok()
                .expect("the defaults of the key table fit")
        })
    }

    /// The word given, or an integer within the range.
    pub(crate) fn word_or_number(
        &self,
        name: &str,
        word: &str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let (min, max) = (range.start(), range.end());
        let expected = format!("{word:?} or an integer from {min} to {max}");
        let value = self.get(name)?;
        if let DeValue::Integer(number) = value.get_ref() {
            let fits = integer(number).and_then(|number| u32::try_from(number).ok());
            let fits = fits.filter(|number| range.contains(number));
            if fits.is_none() {
                let message = format!("`{name}` is {number}, not within {min} to {max}");
                let hint = format!("the default is {}", self.example(name));
                self.note(&self.place_of(value), Wrong::new(message, hint));
            }
            return fits;
        }
        let found = self.written(name, &expected)?;
        if found.value != word {
            let message = format!("`{name}` cannot be {:?}", found.value);
            self.note(
                &found.place,
                Wrong::new(message, format!("{expected}, without quotes")),
            );
        }
        None
    }

    /// Whether the key is left out or holds its default.
    pub(crate) fn is_default(&self, name: &str) -> bool {
        match (self.get(name).map(Spanned::get_ref), self.kind(name)) {
            (None, _) => true,
            (Some(DeValue::String(text)), Kind::Text(default)) => text == default,
            (Some(DeValue::Integer(number)), Kind::Number(default)) => {
                integer(number) == Some(i64::from(*default))
            }
            _ => false,
        }
    }

    /// Keys without a table of their own: `[log]`, or `ejection = { … }`.
    pub(crate) fn table(&self, name: &str) -> Reader<'a> {
        let section = self.inner_section(name);
        let Some(value) = self.get(name) else {
            return self.inner(section, None, self.place.clone());
        };
        let place = self.place_of(value);
        match value.get_ref() {
            DeValue::Table(table) => return self.inner(section, Some(table), place),
            DeValue::Array(items) => {
                let wrong = Wrong::new(
                    format!("`{name}` is an array of tables, expected one table"),
                    format!("single brackets: [{}]", section.path),
                );
                self.note(&place, wrong);
                if let Some(DeValue::Table(table)) = items.iter().map(Spanned::get_ref).next() {
                    return self.inner(section, Some(table), place);
                }
            }
            _ => self.note_type(name, value, "a table"),
        }
        self.inner(section, None, place)
    }

    /// The tables of an array of tables, such as `[[pool]]`.
    pub(crate) fn tables(&self, name: &str) -> Vec<Reader<'a>> {
        let section = self.inner_section(name);
        let Some(value) = self.get(name) else {
            return Vec::new();
        };
        let open = |item: &'a Spanned<DeValue<'a>>| match item.get_ref() {
            DeValue::Table(table) => Some(self.inner(section, Some(table), self.place_of(item))),
            _ => {
                self.note_type(name, item, "a table");
                None
            }
        };
        match value.get_ref() {
            DeValue::Array(items) => items.iter().filter_map(open).collect(),
            DeValue::Table(_) => {
                let wrong = Wrong::new(
                    format!("`{name}` is one table, expected an array of tables"),
                    format!("double brackets: [[{}]]", section.path),
                );
                self.note(&self.place_of(value), wrong);
                open(value).into_iter().collect()
            }
            _ => {
                self.note_type(name, value, "an array of tables");
                Vec::new()
            }
        }
    }

    fn inner_section(&self, name: &str) -> &'static Section {
        let Kind::Section(section) = self.kind(name) else {
            panic!("{name} is not a section")
        };
        section
    }

    fn inner(
        &self,
        section: &'static Section,
        table: Option<&'a DeTable<'a>>,
        place: Place,
    ) -> Reader<'a> {
        let within = if self.section.shape == Shape::Root {
            ""
        } else {
            &self.label
        };
        Reader::open(self.desk, self.page, section, table, place, within)
    }
}

/// A key, or a value of one, that a later version of lbd will have.
pub(crate) fn not_yet(what: &str, hint: impl Into<String>) -> Wrong {
    Wrong::new(
        format!("`{what}` is not supported by this version of lbd yet"),
        hint,
    )
}

fn integer(number: &DeInteger<'_>) -> Option<i64> {
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn found_type(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}
