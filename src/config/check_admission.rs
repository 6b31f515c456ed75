//! Reads the keys of a listener that say who is let in.

use std::collections::HashMap;
use std::time::Duration;

use crate::balance::networks::Network;
use crate::balance::sources::{Prefixes, Rate, SourceLimits};
use crate::config::duration;
use crate::config::files;
use crate::config::ledger::{Place, Wrong};
use crate::config::network;
use crate::config::reader::{Found, Reader};
use crate::config::settings::NetworkList;

/// Shorter times are not told apart by a duration.
const PER_MIN: Duration = Duration::from_millis(1);

const RATE_EXAMPLES: &str = "such as \"50/1s\" or \"600/1m\"";

/// The lists `allow` and `deny` with the networks of their files.
pub(crate) fn network_lists(table: &Reader<'_>) -> (NetworkList, NetworkList) {
    let (allow, deny) = (read(table, "allow"), read(table, "deny"));
    note_contradictions(table, &allow, &deny);
    (allow.finish(), deny.finish())
}

struct Draft {
    networks: Vec<Found<Network>>,
    file: Option<std::path::PathBuf>,
    from_file: Vec<Found<Network>>,
}

impl Draft {
    fn all(&self) -> impl Iterator<Item = &Found<Network>> {
        self.networks.iter().chain(&self.from_file)
    }

    fn finish(self) -> NetworkList {
        let values = |list: Vec<Found<Network>>| list.into_iter().map(|one| one.value).collect();
        NetworkList {
            networks: values(self.networks),
            file: self.file,
            from_file: values(self.from_file),
        }
    }
}

fn read(table: &Reader<'_>, name: &str) -> Draft {
    let networks = networks(table, table.list(name, "an array of networks in quotes"));
    let key = format!("{name}_file");
    let path = table.text(&key);
    let file = (!path.is_empty()).then(|| table.beside(&path));
    let place = table.place_of_value(&key);
    let attached = file
        .as_ref()
        .and_then(|file| files::attach(file, &place, table.ledger()));
    if name == "allow" && networks.is_empty() && table.is_default(name) {
        let empty = attached
            .as_ref()
            .filter(|(_, source)| network::says_nothing(&source.text));
        if empty.is_some() {
            let message = "`allow_file` names a file without a network: everybody would be let in";
            let hint = "a network in each line, or leave `allow_file` out to let everybody in";
            table.note(&place, Wrong::new(message, hint));
        }
    }
    let from_file =
        attached.map(|(number, source)| network::parse_lines(&source.text, number, table.ledger()));
    Draft {
        networks,
        file,
        from_file: from_file.unwrap_or_default(),
    }
}

/// The networks that strings of a table are.
pub(crate) fn networks(table: &Reader<'_>, texts: Vec<Found<String>>) -> Vec<Found<Network>> {
    let mut networks = Vec::new();
    for text in texts {
        match network::parse(&text.value) {
            Ok(value) => networks.push(Found {
                value,
                place: text.place,
            }),
            Err(wrong) => table.note(&text.place, wrong),
        }
    }
    networks
}

fn note_contradictions(table: &Reader<'_>, allow: &Draft, deny: &Draft) {
    let allowed: HashMap<Network, &Place> =
        allow.all().map(|one| (one.value, &one.place)).collect();
    for denied in deny.all() {
        if let Some(place) = allowed.get(&denied.value) {
            let message = format!("the network {} is both allowed and denied", denied.value);
            let wrong = Wrong::new(message, "keep one; it is allowed at");
            table.ledger().note_with(&denied.place, wrong, place);
        }
    }
}

pub(crate) fn per_source(listener: &Reader<'_>) -> SourceLimits {
    let table = listener.table("per_source");
    let burst: u32 = table.number("burst", 0..=Rate::COUNT_MAX);
    let rate = table.parsed("rate", "a number per time in quotes", parse_rate);
    if burst > 0 && table.is_default("rate") {
        let wrong = Wrong::new(
            format!("`burst` needs a `rate` in {}", table.label()),
            format!("a rate is a number per time, {RATE_EXAMPLES}"),
        );
        table.note(&table.place_of_value("burst"), wrong);
    }
    SourceLimits {
        connections: table.number("connections", 0..=u32::MAX),
        rate: rate.map(|(count, per)| Rate {
            count,
            per,
            burst: if burst == 0 { count } else { burst },
        }),
        prefixes: Prefixes {
            v4: table.number("v4_prefix", 0..=32),
            v6: table.number("v6_prefix", 0..=128),
        },
    }
}

/// "50/1s"; nothing is no rate.
fn parse_rate(text: &str) -> Result<Option<(u32, Duration)>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |what: String, hint: String| Wrong::new(format!("`rate` is {text:?}{what}"), hint);
    let Some((count, per)) = text.split_once('/') else {
        return Err(wrong(
            ", not a number per time".into(),
            RATE_EXAMPLES.into(),
        ));
    };
    // `parse` would take a sign.
    let digits = count.bytes().all(|byte| byte.is_ascii_digit());
    let count = count.parse().ok().filter(|_| digits);
    let Some(count) = count.filter(|count| (1..=Rate::COUNT_MAX).contains(count)) else {
        let what = format!(": the number is not within 1 to {}", Rate::COUNT_MAX);
        return Err(wrong(what, RATE_EXAMPLES.into()));
    };
    match duration::parse(per) {
        Some(per) if (PER_MIN..=Rate::PER_MAX).contains(&per) => Ok(Some((count, per))),
        Some(_) => {
            let (min, max) = (duration::format(PER_MIN), duration::format(Rate::PER_MAX));
            let what = format!(": the time is not within {min} to {max}");
            Err(wrong(what, RATE_EXAMPLES.into()))
        }
        None => {
            let hint = match duration::parse(&format!("1{per}")) {
                Some(_) => format!("write \"{count}/1{per}\""),
                None => format!("{RATE_EXAMPLES}; a time is {}", duration::EXAMPLES),
            };
            Err(wrong(format!(": {per:?} is not a time"), hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_per_time() {
        let cases = [
            ("", None),
            ("50/1s", Some((50, 1000))),
            ("600/1m", Some((600, 60_000))),
            ("1/1ms", Some((1, 1))),
            ("1000000/1d", Some((1_000_000, 86_400_000))),
        ];
        for (text, rate) in cases {
            let rate = rate.map(|(count, millis)| (count, Duration::from_millis(millis)));
            assert_eq!(parse_rate(text), Ok(rate), "{text}");
        }
    }

    #[test]
    fn anything_else_is_told_with_what_would_be_one() {
        let times = format!("{RATE_EXAMPLES}; a time is {}", duration::EXAMPLES);
        let cases = [
            ("50", ", not a number per time", RATE_EXAMPLES),
            ("50/s", ": \"s\" is not a time", "write \"50/1s\""),
            ("50/", ": \"\" is not a time", &times),
            ("50/second", ": \"second\" is not a time", &times),
            (
                "0/1s",
                ": the number is not within 1 to 1000000",
                RATE_EXAMPLES,
            ),
            (
                "+5/1s",
                ": the number is not within 1 to 1000000",
                RATE_EXAMPLES,
            ),
            (
                "1000001/1s",
                ": the number is not within 1 to 1000000",
                RATE_EXAMPLES,
            ),
            (
                "/1s",
                ": the number is not within 1 to 1000000",
                RATE_EXAMPLES,
            ),
            ("1/0s", ": the time is not within 1ms to 1d", RATE_EXAMPLES),
            ("1/25h", ": the time is not within 1ms to 1d", RATE_EXAMPLES),
        ];
        for (text, what, hint) in cases {
            let wrong = Wrong::new(format!("`rate` is {text:?}{what}"), hint);
            assert_eq!(parse_rate(text), Err(wrong), "{text}");
        }
    }
}
