//! Reads the values of a table: every mistake is noted, and reading goes on with the default.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::Spanned;
use toml::de::DeValue;

use crate::config::duration;
use crate::config::expand;
use crate::config::keys::Kind;
use crate::config::ledger::{Place, Wrong};
use crate::config::quotes;
use crate::config::reader::{self, Found, Reader, integer};
use crate::config::suggest;
use crate::wire::script;

impl<'a> Reader<'a> {
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

    /// Notes it when the key is left out.
    pub(crate) fn require(&self, name: &str) {
        if !self.has(name) {
            let message = format!("{} has no `{name}`", self.label);
            let hint = format!("add a line such as {}", self.example(name));
            self.desk
                .ledger
                .note_absence(&self.place, Wrong::new(message, hint));
        }
    }

    /// A string or an array of strings, with at least one.
    pub(crate) fn strings(&self, name: &str, expected: &str) -> Vec<Found<String>> {
        if let Some(value) = self.get(name)
            && matches!(value.get_ref(), DeValue::Array(items) if items.is_empty())
            && !matches!(self.kind(name), Kind::List)
        {
            let hint = format!("for example {}", self.example(name));
            let wrong = Wrong::new(format!("`{name}` is an empty array"), hint);
            self.note(&self.place_of(value), wrong);
        }
        self.list(name, expected)
    }

    /// A string or an array of strings, which may be empty.
    pub(crate) fn list(&self, name: &str, expected: &str) -> Vec<Found<String>> {
        match self.get(name).map(Spanned::get_ref) {
            None => Vec::new(),
            Some(DeValue::Array(items)) => {
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

    /// A string with the escapes of scripted probes, as bytes; a mistake is noted.
    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let Some(found) = self.written(name, "a string") else {
            return Vec::new();
        };
        script::unescape(&found.value).unwrap_or_else(|bad| {
            let raw = self.page.text.get(found.place.span.clone());
            let within = quotes::span_of(raw.unwrap_or_default(), &found.value, &bad.at);
            let (file, start) = (found.place.file, found.place.span.start);
            let place = match within {
                Some(within) => Place {
                    file,
                    span: start + within.start..start + within.end,
                },
                None => found.place,
            };
            let hint = "escapes are \\r, \\n, \\t, \\\\ and \\xNN; in single quotes TOML leaves them alone";
            self.note(&place, Wrong::new(format!("`{name}`: {}", bad.what), hint));
            Vec::new()
        })
    }

    /// One of a few words that must be there.
    pub(crate) fn required_choice<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Option<T> {
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let expected = format!("one of {}", suggest::quoted(&list));
        let found = self.required(name, &expected, |text| one_of(name, text, words, &[]));
        found.map(|found| found.value)
    }

    /// One of a few words.
    pub(crate) fn choice<T: Copy>(&self, name: &str, words: &[(&str, T)], not_yet: &[&str]) -> T {
        let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        self.parsed(
            name,
            &format!("one of {}", suggest::quoted(&list)),
            |text| one_of(name, text, words, not_yet),
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
        self.written_number(name, range)
            .map(|found| found.value)
            .unwrap_or_else(|| {
                let Kind::Number(default) = self.kind(name) else {
                    panic!("{name} has no default number")
                };
                T::try_from(i64::from(*default))
                    .ok()
                    .expect("the defaults of the key table fit")
            })
    }

    /// An integer within the range; `None` when it is left out or the mistake is noted.
    pub(crate) fn written_number<T>(&self, name: &str, range: RangeInclusive<T>) -> Option<Found<T>>
    where
        T: Copy + Into<i64> + TryFrom<i64>,
    {
        let (min, max): (i64, i64) = ((*range.start()).into(), (*range.end()).into());
        let value = self.get(name)?;
        let place = self.place_of(value);
        let DeValue::Integer(number) = value.get_ref() else {
            self.note_type(name, value, "an integer");
            return None;
        };
        let fits = integer(number).filter(|number| (min..=max).contains(number));
        let converted = fits.and_then(|number| T::try_from(number).ok());
        if converted.is_none() {
            let message = format!("`{name}` is {number}, not within {min} to {max}");
            let hint = match self.kind(name) {
                Kind::Optional(_) => format!("for example {}", self.example(name)),
                _ => format!("the default is {}", self.example(name)),
            };
            self.note(&place, Wrong::new(message, hint));
        }
        converted.map(|value| Found { value, place })
    }

    /// A boolean; a mistake is noted and the default taken.
    pub(crate) fn flag(&self, name: &str) -> bool {
        let Kind::Flag(default) = self.kind(name) else {
            panic!("{name} has no default boolean")
        };
        match self.get(name).map(|value| (value, value.get_ref())) {
            None => *default,
            Some((_, DeValue::Boolean(value))) => *value,
            Some((value, _)) => {
                self.note_type(name, value, "true or false");
                *default
            }
        }
    }

    /// A number with or without a fraction that `parse` takes; a mistake is noted, with what would
    /// be right, and the default taken.
    pub(crate) fn decimal<T>(
        &self,
        name: &str,
        right: &str,
        parse: impl Fn(f64) -> Option<T>,
    ) -> T {
        let written = self.get(name).and_then(|value| {
            let Some(number) = decimal(value.get_ref()) else {
                self.note_type(name, value, "a number");
                return None;
            };
            let parsed = parse(number);
            if parsed.is_none() {
                let message = format!("`{name}` is {number}, not {right}");
                let hint = format!("the default is {}", self.example(name));
                self.note(&self.place_of(value), Wrong::new(message, hint));
            }
            parsed
        });
        written.unwrap_or_else(|| {
            let Kind::Decimal(default) = self.kind(name) else {
                panic!("{name} has no default decimal")
            };
            let number = default.parse().ok();
            number
                .and_then(parse)
                .expect("the defaults of the key table are valid")
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

    pub(crate) fn is_empty_array(&self, name: &str) -> bool {
        let value = self.get(name).map(Spanned::get_ref);
        matches!(value, Some(DeValue::Array(items)) if items.is_empty())
    }

    /// Whether the key is left out or holds its default.
    pub(crate) fn is_default(&self, name: &str) -> bool {
        match (self.get(name).map(Spanned::get_ref), self.kind(name)) {
            (None, _) => true,
            (Some(DeValue::String(text)), Kind::Text(default)) => text == default,
            (Some(DeValue::Integer(number)), Kind::Number(default)) => {
                integer(number) == Some(i64::from(*default))
            }
            (Some(DeValue::Boolean(flag)), Kind::Flag(default)) => flag == default,
            (Some(DeValue::Array(items)), Kind::List | Kind::Section(_)) => items.is_empty(),
            (Some(DeValue::Table(_)), Kind::Section(section)) => {
                let inner = self.table(name);
                section.keys.iter().all(|key| inner.is_default(key.name))
            }
            (Some(value), Kind::Decimal(default)) => decimal(value) == default.parse().ok(),
            _ => false,
        }
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
}

fn decimal(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(number) => number.as_str().parse().ok(),
        DeValue::Integer(number) => integer(number).map(|number| number as f64),
        _ => None,
    }
}

fn one_of<T: Copy>(
    name: &str,
    text: &str,
    words: &[(&str, T)],
    not_yet: &[&str],
) -> Result<T, Wrong> {
    if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let list: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let allowed = format!("allowed: {}", suggest::quoted(&list));
    if not_yet.contains(&text) {
        return Err(reader::not_yet(&format!("{name} = {text:?}"), allowed));
    }
    let hint = match suggest::nearest(text, list.iter().copied()) {
        Some(word) => format!("did you mean {word:?}? {allowed}"),
        None => allowed,
    };
    Err(Wrong::new(format!("`{name}` cannot be {text:?}"), hint))
}
