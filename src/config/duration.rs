//! Durations as the file writes them: "250ms", "2s", "1m30s".

use std::time::Duration;

/// What a duration looks like, for hints.
pub(crate) const EXAMPLES: &str =
    "a number and a unit (ms, s, m, h or d), such as \"250ms\", \"2s\" or \"1m30s\"";

/// The longest that is accepted: a century, so that no deadline computed from it can overflow.
pub(crate) const DURATION_MAX: Duration = Duration::from_secs(36_500 * 86_400);

/// Largest unit first, in milliseconds.
const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// Numbers with units, the larger first, each at most once; `None` for anything else, and for what
/// is longer than [`DURATION_MAX`].
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut units = UNITS.iter();
    let mut millis: u64 = 0;
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit_end = after
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let (_, factor) = units.find(|(name, _)| *name == unit)?;
        millis = number
            .parse::<u64>()
            .ok()?
            .checked_mul(*factor)?
            .checked_add(millis)?;
        rest = after;
    }
    let duration = Duration::from_millis(millis);
    (!text.is_empty() && duration <= DURATION_MAX).then_some(duration)
}

/// The shortest text that [`parse`] reads as this duration; parts of a millisecond are left out.
pub(crate) fn format(duration: Duration) -> String {
    let mut millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if millis == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, factor) in UNITS {
        let count = millis / factor;
        millis %= factor;
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_with_units_are_durations() {
        let cases = [
            ("250ms", 250),
            ("2s", 2000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("1d", 86_400_000),
            ("1m30s", 90_000),
            ("1d2h3m4s5ms", 93_784_005),
            ("0s", 0),
            ("90m", 5_400_000),
            ("36500d", 3_153_600_000_000),
        ];
        for (text, millis) in cases {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn anything_else_is_not() {
        let cases = [
            "",
            "2",
            "s",
            "2 s",
            "-2s",
            "+2s",
            "1.5s",
            "30s1m",
            "1s1s",
            "2sec",
            "2S",
            "2µs",
            "1h30",
            "36501d",
            "99999999999999999999s",
            "18446744073709551615d",
            "２s",
            "2s ",
        ];
        for text in cases {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_survives_being_printed(millis in 0..=3_153_600_000_000_u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&format(duration)), Some(duration));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in "[0-9a-zµ. -]{0,24}") {
            let _ = parse(&text);
        }
    }
}
