//! Names of listeners, pools and backends: what they may look like, and that each stands once.

use std::collections::HashMap;

use crate::config::ledger::{Place, Wrong};
use crate::config::reader::{Found, Reader};

/// Longest name of a listener, pool or backend: they are labels of metrics and columns of tables.
const NAME_CHARS_MAX: usize = 64;

/// Notes every name that an earlier table of its kind has.
pub(crate) fn unique<'n>(
    tables: &[Reader<'_>],
    names: impl Iterator<Item = Option<&'n Found<String>>>,
    what: &str,
) {
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    for (table, name) in tables.iter().zip(names) {
        let Some(name) = name else { continue };
        if let Some(first) = seen.get(name.value.as_str()) {
            let message = format!("there are two {what}s named {:?}", name.value);
            let wrong = Wrong::new(message, "give one another name; the first is at");
            table.ledger().note_with(&name.place, wrong, first);
        } else {
            seen.insert(&name.value, &name.place);
        }
    }
}

/// The name of a listener or pool.
pub(crate) fn name(text: &str) -> Result<String, Wrong> {
    checked_name(text, "")
}

/// The name of a backend: it may also be an address.
pub(crate) fn backend_name(text: &str) -> Result<String, Wrong> {
    checked_name(text, "[]/")
}

fn checked_name(text: &str, further: &str) -> Result<String, Wrong> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c) || further.contains(c);
    let what = if text.is_empty() {
        "is empty".to_owned()
    } else if let Some(c) = text.chars().find(|c| !fits(*c)) {
        format!("has the character {c:?}")
    } else if text.len() > NAME_CHARS_MAX {
        format!("has {} characters", text.len())
    } else {
        return Ok(text.to_owned());
    };
    let hint = format!("1 to {NAME_CHARS_MAX} of the letters, digits and _ . : -");
    Err(Wrong::new(format!("the name {text:?} {what}"), hint))
}
