//! The two forms of a log line, and how foreign text is put into each so that it stays one value on
//! one line, whatever it holds.

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key=value` pairs.
    Text,
    /// One object per line.
    Json,
}

/// As a value of the text form: bare where that is unambiguous, else in double quotes with
/// escapes; `-` when empty.
pub fn push_text(out: &mut Vec<u8>, value: &str) {
    if value.is_empty() {
        out.push(b'-');
    } else if value != "-" && value.bytes().all(|byte| BARE[usize::from(byte)]) {
        out.extend_from_slice(value.as_bytes());
    } else {
        out.push(b'"');
        for c in value.chars() {
            match c {
                '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                c => push_prose_char(out, c),
            }
        }
        out.push(b'"');
    }
}

/// As prose, which a text line may end with or hold before its pairs: unquoted, but nothing in it
/// ends the line or steers a terminal.
pub fn push_prose(out: &mut Vec<u8>, value: &str) {
    for c in value.chars() {
        push_prose_char(out, c);
    }
}

/// As a JSON string, quotes included.
pub fn push_json(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    if value.bytes().all(|byte| JSON_PLAIN[usize::from(byte)]) {
        out.extend_from_slice(value.as_bytes());
    } else {
        for c in value.chars() {
            match c {
                '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                c if !is_dangerous(c) => push_char(out, c),
                c => {
                    out.extend_from_slice(b"\\u");
                    push_hex(out, u32::from(c), 4);
                }
            }
        }
    }
    out.push(b'"');
}

/// What a terminal or a viewer would act upon instead of showing: control characters, line and
/// paragraph separators, and marks that turn the direction of what follows.
fn is_dangerous(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

fn push_prose_char(out: &mut Vec<u8>, c: char) {
    match c {
        '\n' => out.extend_from_slice(b"\\n"),
        '\r' => out.extend_from_slice(b"\\r"),
        '\t' => out.extend_from_slice(b"\\t"),
        c if !is_dangerous(c) => push_char(out, c),
        c if c.is_ascii() => {
            out.extend_from_slice(b"\\x");
            push_hex(out, u32::from(c), 2);
        }
        c => {
            out.extend_from_slice(b"\\u{");
            push_hex(out, u32::from(c), 4); // all of them are below U+10000
            out.push(b'}');
        }
    }
}

fn push_char(out: &mut Vec<u8>, c: char) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn push_hex(out: &mut Vec<u8>, value: u32, digits: u32) {
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[(value >> (4 * place) & 0xf) as usize]);
    }
}

/// Bytes that a bare value of the text form may hold. Non-ASCII is looked at char by char.
const BARE: [bool; 256] = plain(b'!', b"\"\\=");
const JSON_PLAIN: [bool; 256] = plain(b' ', b"\"\\");

const fn plain(from: u8, except: &[u8]) -> [bool; 256] {
    let mut table = [false; 256];
    let mut byte = from;
    while byte <= b'~' {
        table[byte as usize] = true;
        byte += 1;
    }
    let mut index = 0;
    while index < except.len() {
        table[except[index] as usize] = false;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(value: &str) -> String {
        let mut out = Vec::new();
        push_text(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    fn json(value: &str) -> String {
        let mut out = Vec::new();
        push_json(&mut out, value);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn text_values_are_bare_only_when_nobody_can_mistake_them() {
        for (value, shown) in [
            ("", "-"),
            ("-", r#""-""#),
            ("web-1", "web-1"),
            ("[::1]:80", "[::1]:80"),
            ("two words", r#""two words""#),
            ("a=b", r#""a=b""#),
            (r#"say "hi" \"#, r#""say \"hi\" \\""#),
            ("a\nb\r\tc", r#""a\nb\r\tc""#),
            ("\x1b[31m\0\x7f", r#""\x1b[31m\x00\x7f""#),
            ("b\u{fc}ro", "\"b\u{fc}ro\""),
            (
                "\u{9b}31m\u{202e}\u{2028}",
                r#""\u{009b}31m\u{202e}\u{2028}""#,
            ),
        ] {
            assert_eq!(text(value), shown);
        }
    }

    #[test]
    fn json_strings_are_valid_and_hold_no_raw_control_character() {
        for (value, shown) in [
            ("", r#""""#),
            ("two words", r#""two words""#),
            (r#"say "hi" \"#, r#""say \"hi\" \\""#),
            ("a\nb\r\tc", r#""a\nb\r\tc""#),
            ("\x1b[31m\0\x7f\u{9b}", r#""\u001b[31m\u0000\u007f\u009b""#),
            ("b\u{fc}ro \u{1f600}", "\"b\u{fc}ro \u{1f600}\""),
            ("\u{2028}\u{202e}", r#""\u2028\u202e""#),
        ] {
            assert_eq!(json(value), shown);
        }
    }

    proptest! {
        #[test]
        fn no_text_leaves_its_value_or_its_line(value in any::<String>()) {
            for shown in [text(&value), json(&value)] {
                prop_assert!(!shown.chars().any(is_dangerous));
                if shown.starts_with('"') {
                    let inner = &shown[1..shown.len() - 1];
                    let mut escaped = false;
                    for c in inner.chars() {
                        prop_assert!(escaped || c != '"');
                        escaped = !escaped && c == '\\';
                    }
                    prop_assert!(!escaped);
                } else {
                    prop_assert!(!shown.contains([' ', '"', '=']));
                }
            }
        }
    }
}
