//! Lines of the access log, read back.

use std::collections::HashMap;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use lbd::base::ending::Termination;

/// One line of the JSON access log.
#[derive(Clone, Debug)]
pub struct Record(HashMap<String, String>);

impl Record {
    /// Reads a flat JSON object with lists kept as they are; the log writes no other. Panics on anything else.
    pub fn parse(line: &str) -> Record {
        let inner = line
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'));
        let mut rest = inner.unwrap_or_else(|| panic!("no object: {line}"));
        let mut fields = HashMap::new();
        while !rest.is_empty() {
            let (key, after) = string(rest);
            let after = after
                .strip_prefix(':')
                .unwrap_or_else(|| panic!("no value: {line}"));
            let (value, after) = if after.starts_with('"') {
                string(after)
            } else if after.starts_with('[') {
                let end = after.find(']').expect("an end of the list") + 1;
                (after[..end].to_owned(), &after[end..])
            } else {
                let end = after.find(',').unwrap_or(after.len());
                (after[..end].to_owned(), &after[end..])
            };
            assert!(fields.insert(key, value).is_none(), "a key twice: {line}");
            rest = after.strip_prefix(',').unwrap_or(after);
        }
        Record(fields)
    }

    pub fn text(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    pub fn number(&self, key: &str) -> u64 {
        let value = self.text(key);
        value
            .parse()
            .unwrap_or_else(|_| panic!("{key} is no number in {self:?}"))
    }

    pub fn termination(&self) -> &str {
        self.text("termination")
    }

    pub fn client(&self) -> Option<SocketAddr> {
        self.text("client").parse().ok()
    }

    /// Whether its words are from the closed lists.
    pub fn is_explained(&self) -> bool {
        Termination::ALL
            .iter()
            .any(|word| word.as_str() == self.termination())
    }
}

/// A string with its quotes at the beginning of `text`, and what follows.
fn string(text: &str) -> (String, &str) {
    let body = text
        .strip_prefix('"')
        .unwrap_or_else(|| panic!("no string: {text}"));
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, next)) = chars.next() {
        match next {
            '"' => return (value, &body[at + 1..]),
            '\\' => value.push(chars.next().map_or('\\', |(_, escaped)| escaped)),
            plain => value.push(plain),
        }
    }
    panic!("no end of string: {text}")
}

/// Every complete line of the log; none while there is no file.
pub fn read_all(log: &Path) -> Vec<Record> {
    let text = fs::read_to_string(log).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(Record::parse).collect()
}

#[test]
fn a_line_of_the_log_is_read_back_field_by_field() {
    let record = Record::parse(r#"{"client":"127.0.0.1:9","sni":"a\"b,c","tries":2,"x":null}"#);
    assert_eq!(record.client(), Some("127.0.0.1:9".parse().unwrap()));
    assert_eq!(record.text("sni"), "a\"b,c");
    assert_eq!(record.number("tries"), 2);
    assert!(!record.is_explained());
}
