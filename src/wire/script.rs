//! What a probe sends and expects: text with escapes, and the comparison of an answer with it, the
//! same however the bytes are split.

use std::fmt::Write;

/// One step of a scripted probe. Nothing to send or nothing to expect skips that half.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    pub send: Vec<u8>,
    pub expect: Vec<u8>,
}

/// An escape that is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadEscape {
    /// Bytes of the text that the escape takes, from its backslash on.
    pub at: std::ops::Range<usize>,
    pub what: String,
}

/// The bytes of a text with the escapes `\r`, `\n`, `\t`, `\\` and `\xNN`.
///
/// Errors: the first escape that is not one of these.
pub fn unescape(text: &str) -> Result<Vec<u8>, BadEscape> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(slash) = rest.find('\\') {
        bytes.extend_from_slice(&rest.as_bytes()[..slash]);
        rest = &rest[slash..];
        let at = text.len() - rest.len();
        let (byte, length) = escape_at(rest).map_err(|(length, what)| BadEscape {
            at: at..at + length,
            what,
        })?;
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

/// The byte of the escape that the text begins with, and how long it is written.
fn escape_at(text: &str) -> Result<(u8, usize), (usize, String)> {
    match text[1..].chars().next() {
        None => Err((1, "a backslash at the end".to_owned())),
        Some('r') => Ok((b'\r', 2)),
        Some('n') => Ok((b'\n', 2)),
        Some('t') => Ok((b'\t', 2)),
        Some('\\') => Ok((b'\\', 2)),
        Some('x') => {
            let digits: String = text[2..]
                .chars()
                .take(2)
                .take_while(char::is_ascii_hexdigit)
                .collect();
            match u8::from_str_radix(&digits, 16) {
                Ok(byte) if digits.len() == 2 => Ok((byte, 4)),
                _ => Err((
                    2 + digits.len(),
                    format!("\\x{digits} lacks its two hexadecimal digits"),
                )),
            }
        }
        Some(other) => Err((
            1 + other.len_utf8(),
            format!("\\{} is no escape", other.escape_debug()),
        )),
    }
}

/// A text that [`unescape`] turns into these bytes, all of it visible.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for char in part.valid().chars() {
            match char {
                '\r' => text.push_str("\\r"),
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\\' => text.push_str("\\\\"),
                char if char.is_control() => push_hex(&mut text, char.to_string().as_bytes()),
                char => text.push(char),
            }
        }
        push_hex(&mut text, part.invalid());
    }
    text
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _infallible = write!(text, "\\x{byte:02x}");
    }
}

/// Compares what comes with what is expected to come first; keeps no byte of it.
#[derive(Clone, Debug)]
pub struct Expectation<'a> {
    expected: &'a [u8],
    seen: usize,
}

/// How far an [`Expectation`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    NeedMore,
    /// So many of the bytes just fed belonged to it.
    Met(usize),
    /// For the operator; the place is counted from 1.
    Differs(String),
}

impl<'a> Expectation<'a> {
    pub fn new(expected: &'a [u8]) -> Self {
        Expectation { expected, seen: 0 }
    }

    /// Takes the next bytes. An empty expectation is met by none.
    pub fn feed(&mut self, bytes: &[u8]) -> Match {
        let awaited = &self.expected[self.seen..];
        let differing = awaited
            .iter()
            .zip(bytes)
            .position(|(wanted, got)| wanted != got);
        if let Some(place) = differing {
            return Match::Differs(format!(
                "byte {} is {}, expected {}",
                self.seen + place + 1,
                shown(bytes[place]),
                shown(awaited[place]),
            ));
        }
        let taken = awaited.len().min(bytes.len());
        self.seen += taken;
        if self.seen == self.expected.len() {
            Match::Met(taken)
        } else {
            Match::NeedMore
        }
    }

    /// Bytes that have come as expected, and all that are expected.
    pub fn progress(&self) -> (usize, usize) {
        (self.seen, self.expected.len())
    }
}

/// `0x45 'E'`, or the number alone where there is nothing to see.
fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() {
        format!("0x{byte:02x} '{}'", char::from(byte))
    } else {
        format!("0x{byte:02x}")
    }
}

#[cfg(test)]
mod tests;
