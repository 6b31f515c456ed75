//! Host names as operators and name servers write them, checked once.

use std::fmt;

/// Longest name, its dots counted and a final dot left out (RFC 1035, section 2.3.4, in text form).
const NAME_BYTES_MAX: usize = 253;
/// RFC 1035, section 2.3.4.
const LABEL_BYTES_MAX: usize = 63;

/// A name to be looked up, in lower case: RFC 1123 labels, where `_` may stand too, because names
/// of services (RFC 2782) and of containers have it. A final dot is kept: it says that no search
/// domain is tried.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// Errors: what is wrong with the text, in words that follow it.
    pub fn parse(text: &str) -> Result<HostName, String> {
        let name = text.strip_suffix('.').unwrap_or(text);
        if name.is_empty() {
            return Err("is empty".to_owned());
        }
        if name.len() > NAME_BYTES_MAX {
            return Err(format!(
                "has {} bytes, more than the {NAME_BYTES_MAX} of a host name",
                name.len()
            ));
        }
        for (index, label) in name.split('.').enumerate() {
            check_label(label).map_err(|what| match label {
                "" => format!("has nothing between two dots (label {})", index + 1),
                _ => format!("has the label {label:?}, which {what}"),
            })?;
        }
        let last = name.rsplit('.').next().unwrap_or(name);
        if last.bytes().all(|byte| byte.is_ascii_digit()) {
            // Resolvers take such for an address, each in its own way (RFC 1123, section 2.1).
            return Err(format!("ends in the number {last:?}, as no host name does"));
        }
        Ok(HostName(text.to_ascii_lowercase()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Without the final dot.
    pub fn bare(&self) -> &str {
        self.0.strip_suffix('.').unwrap_or(&self.0)
    }
}

/// A name, or every name below one: `api.example.com`, `*.example.org`. In lower case, without a
/// final dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum NamePattern {
    Exact(String),
    /// What follows `*.`.
    Below(String),
}

impl NamePattern {
    /// Errors: what is wrong with the text, in words that follow it.
    pub fn parse(text: &str) -> Result<NamePattern, String> {
        let (name, wild) = match text.strip_prefix("*.") {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        if name.contains('*') {
            return Err("has a `*` that is not its whole first label".to_owned());
        }
        let name = HostName::parse(name)?.bare().to_owned();
        Ok(if wild {
            NamePattern::Below(name)
        } else {
            NamePattern::Exact(name)
        })
    }

    /// Whether a name in lower case and without a final dot is meant; by `*.` names of any depth
    /// are.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            NamePattern::Exact(exact) => exact == name,
            NamePattern::Below(parent) => name
                .strip_suffix(parent.as_str())
                .and_then(|front| front.strip_suffix('.'))
                .is_some_and(|labels| !labels.is_empty()),
        }
    }

    /// The same where `*` stands for one label only, as in certificates (RFC 6125, section 6.4.3).
    pub fn matches_one_label(&self, name: &str) -> bool {
        match (self, name.split_once('.')) {
            (NamePattern::Below(parent), Some((first, rest))) => {
                !first.is_empty() && rest == parent
            }
            (NamePattern::Below(_), None) => false,
            (NamePattern::Exact(exact), _) => exact == name,
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NamePattern::Exact(name) => f.write_str(name),
            NamePattern::Below(parent) => write!(f, "*.{parent}"),
        }
    }
}

fn check_label(label: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if let Some(c) = label.chars().find(|c| !fits(*c)) {
        return Err(format!("has the character {c:?}"));
    }
    if label.len() > LABEL_BYTES_MAX {
        return Err(format!(
            "has {} bytes, more than {LABEL_BYTES_MAX}",
            label.len()
        ));
    }
    if label.starts_with('-') || label.ends_with('-') {
        return Err("begins or ends with `-`".to_owned());
    }
    if label.is_empty() {
        return Err("is empty".to_owned());
    }
    Ok(())
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_hosts_and_services_are_taken_in_lower_case() {
        for (text, expected) in [
            ("db.internal", "db.internal"),
            ("DB", "db"),
            ("_http._tcp.Web.Example.", "_http._tcp.web.example."),
            ("my_service", "my_service"),
            ("4u.example", "4u.example"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ] {
            assert_eq!(HostName::parse(text).unwrap().as_str(), expected);
        }
        assert_eq!(HostName::parse("a.b.").unwrap().bare(), "a.b");
        let longest = format!("{0}.{0}.{0}.{1}.", "a".repeat(63), "b".repeat(61));
        assert!(HostName::parse(&longest).is_ok());
    }

    #[test]
    fn what_is_no_name_is_told_with_its_label() {
        let long_label = "a".repeat(64);
        let long_name = format!("{0}.{0}.{0}.{1}", "a".repeat(63), "b".repeat(62));
        for (text, expected) in [
            ("", "is empty"),
            (".", "is empty"),
            ("a..b", "has nothing between two dots (label 2)"),
            (
                "a.-b.c",
                "has the label \"-b\", which begins or ends with `-`",
            ),
            (
                "a.b-",
                "has the label \"b-\", which begins or ends with `-`",
            ),
            (
                "a b.c",
                "has the label \"a b\", which has the character ' '",
            ),
            (
                "bücher.example",
                "has the label \"bücher\", which has the character 'ü'",
            ),
            ("10.0.0", "ends in the number \"0\", as no host name does"),
            (
                &long_name,
                "has 254 bytes, more than the 253 of a host name",
            ),
        ] {
            assert_eq!(HostName::parse(text).unwrap_err(), expected, "{text}");
        }
        let error = HostName::parse(&long_label).unwrap_err();
        assert!(
            error.ends_with("which has 64 bytes, more than 63"),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,300}") {
            let _ = HostName::parse(&text);
        }
    }

    #[test]
    fn a_wildcard_means_names_below_and_never_the_name_itself() {
        let wild = NamePattern::parse("*.Example.org").unwrap();
        assert_eq!(wild.to_string(), "*.example.org");
        for (name, any_depth, one_label) in [
            ("a.example.org", true, true),
            ("a.b.example.org", true, false),
            ("example.org", false, false),
            (".example.org", false, false),
            ("badexample.org", false, false),
            ("example.org.evil.net", false, false),
        ] {
            assert_eq!(wild.matches(name), any_depth, "{name}");
            assert_eq!(wild.matches_one_label(name), one_label, "{name}");
        }
        assert!(
            NamePattern::parse("api.example.com.")
                .unwrap()
                .matches("api.example.com")
        );
        for wrong in ["*", "*.", "a.*.org", "*a.org", "", "127.0.0.1"] {
            assert!(NamePattern::parse(wrong).is_err(), "{wrong}");
        }
    }
}
