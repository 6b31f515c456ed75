//! Where a part of a string's value stands in the text between its quotes.

use std::ops::Range;

/// The bytes of `raw`, a TOML string with its quotes, that are the bytes `part` of its value.
/// `None` where that is not known: in strings of several lines, and where variables were replaced.
pub(crate) fn span_of(raw: &str, value: &str, part: &Range<usize>) -> Option<Range<usize>> {
    let several_lines = raw.starts_with("'''") || raw.starts_with("\"\"\"");
    if several_lines || raw.len() < 2 {
        return None;
    }
    let inner = &raw[1..raw.len() - 1];
    if raw.starts_with('\'') {
        return (inner == value).then(|| 1 + part.start..1 + part.end);
    }
    // For each byte of the value, and for its end, where it is written.
    let mut places = Vec::with_capacity(value.len() + 1);
    let mut decoded = String::with_capacity(value.len());
    let mut rest = inner;
    while !rest.is_empty() {
        let (char, length) = decode(rest)?;
        decoded.push(char);
        places.resize(decoded.len(), 1 + inner.len() - rest.len());
        rest = &rest[length..];
    }
    places.push(1 + inner.len());
    let found = || Some(*places.get(part.start)?..*places.get(part.end)?);
    (decoded == value).then(found).flatten()
}

/// The first character of a basic string's inside, and how many bytes it is written in.
fn decode(text: &str) -> Option<(char, usize)> {
    let mut chars = text.chars();
    let first = chars.next()?;
    if first != '\\' {
        return Some((first, first.len_utf8()));
    }
    let escaped = match chars.next()? {
        'b' => '\u{8}',
        't' => '\t',
        'n' => '\n',
        'f' => '\u{c}',
        'r' => '\r',
        'e' => '\u{1b}',
        same @ ('"' | '\\') => same,
        'x' => return hex(text, 2),
        'u' => return hex(text, 4),
        'U' => return hex(text, 8),
        _ => return None,
    };
    Some((escaped, 2))
}

fn hex(text: &str, digits: usize) -> Option<(char, usize)> {
    let number = u32::from_str_radix(text.get(2..2 + digits)?, 16).ok()?;
    Some((char::from_u32(number)?, 2 + digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_the_value_is_found_in_every_form_of_quotes() {
        for (raw, value, part, found) in [
            (r"'a\qb'", r"a\qb", 1..3, Some(r"\q")),
            (r#""a\\qb""#, r"a\qb", 1..3, Some(r"\\q")),
            (r#""\r\n\\q""#, "\r\n\\q", 2..4, Some(r"\\q")),
            (r#""\u00e9\\q""#, "\u{e9}\\q", 2..4, Some(r"\\q")),
            (r#""ab\\""#, "ab\\", 2..3, Some(r"\\")),
            (r"'${X}\q'", r"1\q", 1..3, None),
            (r#""${X}\\q""#, r"1\q", 1..3, None),
            (r"'''a\q'''", r"a\q", 1..3, None),
            ("", "", 0..0, None),
        ] {
            assert_eq!(
                span_of(raw, value, &part).map(|at| &raw[at]),
                found,
                "{raw}"
            );
        }
    }
}
