//! One table of the tree, looked at by the key table; its single values are read in `values`.

use std::cell::RefCell;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use crate::config::expand::Env;
use crate::config::keys::{Kind, ROOT, Section, Shape};
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
    pub(super) desk: &'a Desk<'a>,
    pub(super) page: &'a Page<'a>,
    section: &'static Section,
    /// None = the table was left out: everything has its default.
    table: Option<&'a DeTable<'a>>,
    /// The header, or the key of an inline table.
    pub(super) place: Place,
    /// How messages call this table.
    pub(super) label: String,
    /// The unset variables of a value are noted once, however often it is read.
    pub(super) expanded: RefCell<HashSet<usize>>,
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
        Reader::of_page_as(&ROOT, desk, page)
    }

    /// The same for a file of another kind, whose top level is `section`.
    pub(crate) fn of_page_as(
        section: &'static Section,
        desk: &'a Desk<'a>,
        page: &'a Page<'a>,
    ) -> Self {
        let place = Place {
            file: page.file,
            span: 0..0,
        };
        Reader::open(desk, page, section, Some(&page.tree), place, "")
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
        for name in table.keys() {
            let place = self.place_of(name);
            match self.section.key(name.get_ref()).map(|key| &key.kind) {
                None => self.note(&place, self.unknown_key(name.get_ref())),
                Some(Kind::NotYet) => self.note(&place, not_yet(name.get_ref(), "leave it out")),
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

    /// The path of a file that a value names: relative to the file the value stands in.
    pub(crate) fn beside(&self, path: &str) -> PathBuf {
        let folder = Path::new(self.page.name).parent();
        let path = folder.unwrap_or(Path::new("")).join(path);
        // Fails where there is no working directory; reading the file will tell.
        std::path::absolute(&path).unwrap_or(path)
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

    pub(super) fn get(&self, name: &str) -> Option<&'a Spanned<DeValue<'a>>> {
        debug_assert!(
            self.section.key(name).is_some(),
            "{name} is not in the key table"
        );
        self.table?.get(name)
    }

    pub(super) fn place_of<T>(&self, value: &Spanned<T>) -> Place {
        Place {
            file: self.page.file,
            span: value.span(),
        }
    }

    pub(super) fn kind(&self, name: &str) -> &'static Kind {
        &self
            .section
            .key(name)
            .expect("readers ask for keys of the key table only")
            .kind
    }

    pub(super) fn example(&self, name: &str) -> String {
        self.section
            .key(name)
            .map(|key| key.example())
            .unwrap_or_default()
    }

    pub(crate) fn note_type(&self, name: &str, value: &Spanned<DeValue<'_>>, expected: &str) {
        let message = format!(
            "`{name}` is {}, expected {expected}",
            found_type(value.get_ref())
        );
        let hint = format!("for example {}", self.example(name));
        self.note(&self.place_of(value), Wrong::new(message, hint));
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

pub(super) fn integer(number: &DeInteger<'_>) -> Option<i64> {
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
