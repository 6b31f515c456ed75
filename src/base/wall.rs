//! Wall-clock time as text: RFC 3339 in UTC with milliseconds. For logs only; nothing is timed by it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Renders moments of the wall clock; keeps the last one's text, as most follow within the same
/// second and differ in the milliseconds only.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Seconds since 1970 that `text` shows.
    second: u64,
    text: [u8; 24],
}

impl Stamp {
    pub const fn new() -> Self {
        Stamp {
            second: 0,
            text: *b"1970-01-01T00:00:00.000Z",
        }
    }

    /// ASCII such as `2026-01-02T03:04:05.678Z`. Times before 1970 or after 9999 show as the
    /// nearest one that can be written.
    pub fn render(&mut self, at: SystemTime) -> &[u8; 24] {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let second = since.as_secs().min(SECOND_LAST);
        if second != self.second {
            self.second = second;
            self.set_second(second);
        }
        digits(&mut self.text[20..23], since.subsec_millis());
        &self.text
    }

    fn set_second(&mut self, second: u64) {
        // Both fit: SECOND_LAST is less than 3 000 000 days.
        let (days, of_day) = ((second / 86_400) as u32, (second % 86_400) as u32);
        let (year, month, day) = civil(days);
        digits(&mut self.text[0..4], year);
        digits(&mut self.text[5..7], month);
        digits(&mut self.text[8..10], day);
        digits(&mut self.text[11..13], of_day / 3600);
        digits(&mut self.text[14..16], of_day / 60 % 60);
        digits(&mut self.text[17..19], of_day % 60);
    }
}

impl Default for Stamp {
    fn default() -> Self {
        Stamp::new()
    }
}

/// As [`Stamp::render`] writes it.
pub fn text(at: SystemTime) -> String {
    Stamp::new()
        .render(at)
        .iter()
        .map(|&byte| char::from(byte))
        .collect()
}

/// Reads what [`Stamp::render`] writes; `None` when it is anything else.
pub fn parse(text: &str) -> Option<SystemTime> {
    let number = |place: std::ops::Range<usize>| text.get(place)?.parse::<u32>().ok();
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !(1..=12).contains(&month) || !(1970..=9999).contains(&year) {
        return None;
    }
    let seconds = u64::from(days_until(year, month, day)) * 86_400
        + u64::from(hour * 3600 + minute * 60 + second);
    let at =
        UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_millis(number(20..23)?.into());
    // Days and hours that there are not become others, and other text is not what is written.
    (Stamp::new().render(at) == text.as_bytes()).then_some(at)
}

/// Days from 1970-01-01; the inverse of [`civil`].
fn days_until(year: u32, month: u32, day: u32) -> u32 {
    let (year, from_march) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * from_march + 2) / 5 + day;
    let day_of_era = of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    (era * 146_097 + day_of_era).saturating_sub(719_469)
}

/// 9999-12-31T23:59:59Z.
const SECOND_LAST: u64 = 253_402_300_799;

/// Year, month and day of the day that lies so many days after 1970-01-01, counted in years that
/// begin in March, so that the leap day is the last of its year
/// (<https://howardhinnant.github.io/date_algorithms.html#civil_from_days>).
fn civil(days: u32) -> (u32, u32, u32) {
    let days = days + 719_468; // from 0000-03-01
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year_of_era + u32::from(month <= 2), month, day)
}

fn digits(out: &mut [u8], mut value: u32) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_seconds_have_their_known_dates() {
        let mut stamp = Stamp::new();
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (1, "1970-01-01T00:00:00.001Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_709_210_096_789, "2024-02-29T12:34:56.789Z"),
            (1_767_225_599_000, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            let at = UNIX_EPOCH + Duration::from_millis(millis);
            assert_eq!(std::str::from_utf8(stamp.render(at)).unwrap(), text);
            assert_eq!(parse(text), Some(at));
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "now",
            "2026-02-29T00:00:00.000Z",
            "2026-13-01T00:00:00.000Z",
            "2026-00-01T00:00:00.000Z",
            "2026-01-00T00:00:00.000Z",
            "2026-01-01T24:00:00.000Z",
            "2026-01-01T00:00:00.000",
            "2026-01-01 00:00:00.000Z",
            "2026-01-01T00:00:00.000Zé",
            "1969-12-31T23:59:59.000Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn each_day_of_four_centuries_follows_the_one_before() {
        let mut last = civil(0);
        for days in 1..146_097 {
            let (year, month, day) = civil(days);
            let next_day = (year, month, day) == (last.0, last.1, last.2 + 1);
            let next_month = (year, month, day) == (last.0, last.1 + 1, 1) && last.2 >= 28;
            let next_year = (year, month, day) == (last.0 + 1, 1, 1) && last == (year - 1, 12, 31);
            assert!(
                next_day || next_month || next_year,
                "{last:?} then {year}-{month}-{day}"
            );
            last = (year, month, day);
        }
        assert_eq!(last, (2369, 12, 31));
    }

    #[test]
    fn times_that_cannot_be_written_do_not_panic() {
        let mut stamp = Stamp::new();
        let before = UNIX_EPOCH - Duration::from_secs(5);
        assert!(
            stamp
                .render(before)
                .starts_with(b"1970-01-01T00:00:00.000Z")
        );
        let after = UNIX_EPOCH + Duration::from_secs(SECOND_LAST * 2);
        assert!(stamp.render(after).starts_with(b"9999-12-31"));
    }
}
