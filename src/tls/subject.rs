//! Who a certificate is about, for logs and for the backend.

use std::fmt::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::objects::{oid_registry, oid2abbrev};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Longest subject and longest common name, in bytes; X.520 has 64 characters for the latter.
const NAME_BYTES_MAX: usize = 256;
/// RFC 5280, section 4.1.2.2, and a zero before a number whose first bit is set.
const SERIAL_BYTES_MAX: usize = 21;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct About {
    /// As of RFC 4514, `CN=web,O=Example`, with no control character. A subject that is longer than
    /// 256 bytes ends in `...`.
    pub subject: String,
    /// The first one, unchanged, if it is text without control characters and not over 256 bytes:
    /// a shortened name could be another's.
    pub common_name: Option<String>,
    /// In hexadecimal digits, lower case.
    pub serial: String,
    /// A resumed session is one of a certificate that was good when the first of its line began:
    /// rustls does not look at it again, so who lets it in asks for this.
    pub not_after: SystemTime,
}

/// `None` for what is no certificate, or one with a serial number beyond RFC 5280.
pub fn about(certificate: &CertificateDer<'_>) -> Option<About> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let not_after = u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0);
    Some(About {
        subject: distinguished_name(parsed.subject()),
        common_name: common_name(parsed.subject()),
        serial: serial(parsed.raw_serial())?,
        not_after: UNIX_EPOCH.checked_add(Duration::from_secs(not_after))?,
    })
}

fn common_name(name: &X509Name<'_>) -> Option<String> {
    let text = name.iter_common_name().next()?.as_str().ok()?;
    let plain = !text.is_empty() && text.len() <= NAME_BYTES_MAX;
    (plain && !text.contains(char::is_control)).then(|| text.to_owned())
}

fn serial(bytes: &[u8]) -> Option<String> {
    if bytes.is_empty() || bytes.len() > SERIAL_BYTES_MAX {
        return None;
    }
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    // One digit pair at least.
    Some(hex(&bytes[zeros.min(bytes.len() - 1)..]))
}

/// RFC 4514, section 2: the last of the sequence first.
fn distinguished_name(name: &X509Name<'_>) -> String {
    let sets: Vec<_> = name.iter_rdn().collect();
    let mut text = String::new();
    for (at, set) in sets.into_iter().rev().enumerate() {
        for (within, attribute) in set.iter().enumerate() {
            text.push_str(match (at, within) {
                (0, 0) => "",
                (_, 0) => ",",
                _ => "+",
            });
            push_attribute(&mut text, attribute);
            if text.len() > NAME_BYTES_MAX {
                return shortened(text);
            }
        }
    }
    text
}

fn push_attribute(text: &mut String, attribute: &AttributeTypeAndValue<'_>) {
    match oid2abbrev(attribute.attr_type(), oid_registry()) {
        Ok(word) => text.push_str(word),
        Err(_) => text.push_str(&attribute.attr_type().to_id_string()),
    }
    text.push('=');
    match attribute.as_str() {
        Ok(value) => push_escaped(text, value),
        // Section 2.4: what is no string.
        Err(_) => {
            let data = attribute.attr_value().data;
            text.push('#');
            text.push_str(&hex(&data[..data.len().min(NAME_BYTES_MAX)]));
        }
    }
}

/// RFC 4514, section 2.4.
fn push_escaped(text: &mut String, value: &str) {
    let last = value.chars().count().saturating_sub(1);
    for (at, char) in value.chars().enumerate().take(NAME_BYTES_MAX) {
        let mut utf8 = [0; 4];
        match char {
            '"' | '+' | ',' | ';' | '<' | '>' | '\\' => text.extend(['\\', char]),
            ' ' if at == 0 || at == last => text.push_str("\\ "),
            '#' if at == 0 => text.push_str("\\#"),
            char if char.is_control() => {
                for byte in char.encode_utf8(&mut utf8).bytes() {
                    // Writing to a string does not fail.
                    let _ = write!(text, "\\{byte:02x}");
                }
            }
            char => text.push(char),
        }
    }
}

/// Never within an escape, and so never one that its cut makes another.
fn shortened(mut text: String) -> String {
    const MARK: &str = "...";
    let mut end = NAME_BYTES_MAX - MARK.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    if let Some(escape) = text[..end].rfind('\\')
        && end - escape < 3
    {
        end = escape;
    }
    text.truncate(end);
    text.push_str(MARK);
    text
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
