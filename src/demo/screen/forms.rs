//! Small forms of numbers: bars, courses, durations.

use std::time::Duration;

/// The filled part of a bar of `width` cells, in half cells, and the part that is left.
pub fn bar(share: f64, width: usize) -> (String, String) {
    let halves = (share.clamp(0.0, 1.0) * width as f64 * 2.0).round() as usize;
    let (full, half) = (halves / 2, halves % 2);
    let mut filled = "━".repeat(full);
    if half == 1 {
        filled.push('╸');
    }
    (filled, "─".repeat(width - full - half))
}

/// The rows of a bar chart, `height` cells high with the top row first, and one column for each
/// value. Zero is an empty cell; any other value can be seen.
pub fn course(values: &[u64], most: u64, height: usize) -> Vec<String> {
    const STEPS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let most = most.max(1);
    let eighths = |value: u64| {
        let scaled = (value.min(most) as u128 * height as u128 * 8).div_ceil(most as u128);
        // At most height × 8.
        scaled as usize
    };
    (0..height)
        .rev()
        .map(|row| {
            let cell = |value: &u64| STEPS[eighths(*value).saturating_sub(row * 8).min(8)];
            values.iter().map(cell).collect()
        })
        .collect()
}

/// `0:07`, `12:34`, `1:02:03`.
pub fn clock(at: Duration) -> String {
    let seconds = at.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 {
        format!("{hours}:{minutes:02}:{seconds:02}")
    } else {
        format!("{minutes}:{seconds:02}")
    }
}

/// `0.42 ms`, `4.2 ms`, `420 ms`, `4.2 s`.
pub fn short(time: Duration) -> String {
    let millis = time.as_secs_f64() * 1e3;
    match millis {
        0.0..1.0 => format!("{millis:.2} ms"),
        1.0..100.0 => format!("{millis:.1} ms"),
        100.0..1000.0 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1e3),
    }
}

/// `1 234 567`: a thin space would not be one cell everywhere.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_wide_as_it_shall_be_whatever_the_share() {
        for share in [-1.0, 0.0, 0.04, 0.33, 0.5, 0.99, 1.0, 7.0, f64::NAN] {
            let (filled, left) = bar(share, 10);
            assert_eq!(filled.chars().count() + left.chars().count(), 10, "{share}");
        }
        assert_eq!(bar(0.5, 4), ("━━".into(), "──".into()));
        assert_eq!(bar(0.4, 4), ("━╸".into(), "──".into()));
    }

    #[test]
    fn a_course_shows_every_value_that_is_not_zero() {
        assert_eq!(course(&[0, 1, 50, 100], 100, 1), [" ▁▄█"]);
        assert_eq!(course(&[0, 1, 50, 75, 100], 100, 2), ["   ▄█", " ▁███"]);
        assert_eq!(course(&[0, 0], 0, 1), ["  "]);
    }

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!(clock(Duration::from_secs(7)), "0:07");
        assert_eq!(clock(Duration::from_secs(3723)), "1:02:03");
        for (micros, text) in [
            (420, "0.42 ms"),
            (4_200, "4.2 ms"),
            (420_000, "420 ms"),
            (4_200_000, "4.2 s"),
        ] {
            assert_eq!(short(Duration::from_micros(micros)), text);
        }
        assert_eq!(count(12), "12");
        assert_eq!(count(1_234_567), "1 234 567");
    }
}
