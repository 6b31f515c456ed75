//! One flat JSON object per line: written here, and read back by the report.

use std::fmt::Display;

use hdrhistogram::Histogram;

#[derive(Debug)]
pub(crate) struct Line {
    text: String,
}

impl Line {
    pub(crate) fn new(workload: &str) -> Self {
        Self {
            text: format!("{{\"workload\":\"{workload}\""),
        }
    }

    /// A number, or what else needs no quotes.
    pub(crate) fn number(mut self, key: &str, value: impl Display) -> Self {
        self.text.push_str(&format!(",\"{key}\":{value}"));
        self
    }

    /// A word without characters that JSON would escape.
    pub(crate) fn word(mut self, key: &str, value: impl Display) -> Self {
        self.text.push_str(&format!(",\"{key}\":\"{value}\""));
        self
    }

    /// The usual quantiles of latencies in nanoseconds, as microseconds.
    pub(crate) fn latencies(self, ns: &Histogram<u64>) -> Self {
        let quantiles = [
            ("p50_us", ns.value_at_quantile(0.5)),
            ("p99_us", ns.value_at_quantile(0.99)),
            ("p999_us", ns.value_at_quantile(0.999)),
            ("max_us", ns.max()),
        ];
        let add =
            |line: Line, (key, ns)| line.number(key, format_args!("{:.1}", ns as f64 / 1000.0));
        quantiles.into_iter().fold(self, add)
    }

    pub(crate) fn print(self) {
        println!("{}}}", self.text);
    }
}

/// The number under `key` in a line written by [`Line`].
pub(crate) fn number(line: &str, key: &str) -> Option<f64> {
    value(line, key)?.parse().ok()
}

/// The word under `key` in a line written by [`Line`].
pub(crate) fn word<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    Some(value(line, key)?.trim_matches('"'))
}

fn value<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let start = line.find(&format!("\"{key}\":"))? + key.len() + 3;
    let rest = &line[start..];
    Some(&rest[..rest.find([',', '}'])?])
}
