//! `${NAME}` in a string is a variable of the environment; `$${` is a plain `${`.

use std::borrow::Cow;
use std::ops::Range;

use crate::config::ledger::Wrong;

/// Where variables come from: the process environment, or a table in a test.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A `${` that could not be replaced.
#[derive(Debug)]
pub(crate) struct Fault {
    /// Which `${` of the string it is, counted from 0.
    nth: usize,
    /// How it is written.
    written: String,
    pub(crate) wrong: Wrong,
}

/// Replaces every variable; the faulty ones are left out of the text.
pub(crate) fn expand<'v>(value: &'v str, env: Env<'_>) -> (Cow<'v, str>, Vec<Fault>) {
    if !value.contains("${") {
        return (Cow::Borrowed(value), Vec::new());
    }
    let mut out = String::with_capacity(value.len());
    let mut faults = Vec::new();
    let mut rest = value;
    let mut nth = 0;
    while let Some(dollar) = rest.find('$') {
        out.push_str(&rest[..dollar]);
        rest = &rest[dollar..];
        if let Some(after) = rest.strip_prefix("$${") {
            out.push_str("${");
            rest = after;
            nth += 1;
        } else if rest.starts_with("${") {
            let end = rest.find('}').map_or(rest.len(), |brace| brace + 1);
            let written = &rest[..end];
            match replace(written, env) {
                Ok(text) => out.push_str(&text),
                Err(wrong) => faults.push(Fault {
                    nth,
                    written: written.to_owned(),
                    wrong,
                }),
            }
            rest = &rest[end..];
            nth += 1;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    (Cow::Owned(out), faults)
}

/// `written` is "${NAME}", or "${…" to the end of the string when no brace closes it.
fn replace(written: &str, env: Env<'_>) -> Result<String, Wrong> {
    const LITERAL: &str = "write `$${` for a plain `${`";
    let Some(name) = written
        .strip_prefix("${")
        .and_then(|text| text.strip_suffix('}'))
    else {
        return Err(Wrong::new("`${` is not closed by a `}`", LITERAL));
    };
    let begins_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if !begins_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(Wrong::new(
            format!("`{written}` does not name an environment variable"),
            format!("a name has letters, digits and `_`, such as ${{HOST}}; {LITERAL}"),
        ));
    }
    env(name).ok_or_else(|| {
        Wrong::new(
            format!("the environment variable `{name}` is not set"),
            format!("set it where lbd is started; {LITERAL}"),
        )
    })
}

/// The bytes of a fault within the string as the file has it, quotes and escapes included.
pub(crate) fn locate(fault: &Fault, value: &str, raw: &str) -> Option<Range<usize>> {
    // An escape such as "\u0024{" hides a `${` from the raw text: then counting does not help.
    if raw.matches("${").count() != value.matches("${").count() {
        return None;
    }
    let (start, _) = raw.match_indices("${").nth(fault.nth)?;
    raw[start..]
        .starts_with(&fault.written)
        .then(|| start..start + fault.written.len())
}

/// The string that [`expand`] turns into `value`.
pub(crate) fn protect(value: &str) -> String {
    value.replace("${", "$${")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(name: &str) -> Option<String> {
        match name {
            "HOST" => Some("10.0.0.1".to_owned()),
            "NESTED" => Some("${HOST}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_replaced_once_and_doubled_dollars_are_plain() {
        let cases = [
            ("${HOST}:80", "10.0.0.1:80"),
            ("a${HOST}b${HOST}", "a10.0.0.1b10.0.0.1"),
            ("$${HOST}", "${HOST}"),
            ("$$${HOST}", "$${HOST}"),
            ("$HOST $ {} $$", "$HOST $ {} $$"),
            ("${NESTED}", "${HOST}"),
        ];
        for (value, expected) in cases {
            let (text, faults) = expand(value, &env);
            assert_eq!((text.as_ref(), faults.len()), (expected, 0), "{value}");
        }
    }

    #[test]
    fn a_protected_string_comes_back_unchanged() {
        for value in ["${HOST}", "$${", "$$$${x", "a$", "${${"] {
            assert_eq!(expand(&protect(value), &env).0, value);
        }
    }

    #[test]
    fn each_fault_knows_its_place() {
        let value = "a\"${X}$${Y}${HOST}${Z!}${";
        let raw = r#""a\"${X}$${Y}${HOST}${Z!}${""#;
        let (_, faults) = expand(value, &env);
        let places: Vec<_> = faults
            .iter()
            .map(|fault| &raw[locate(fault, value, raw).unwrap()])
            .collect();
        assert_eq!(places, ["${X}", "${Z!}", "${"]);
    }
}
