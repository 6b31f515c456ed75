//! When a name is asked for again; pure.

use std::time::Duration;

use crate::config::settings::TtlBounds;

/// After the first failure in a row, doubled after each further one.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// The delays of one name.
#[derive(Clone, Debug)]
pub struct Pace {
    bounds: TtlBounds,
    failures_in_row: u32,
}

impl Pace {
    pub fn new(bounds: TtlBounds) -> Self {
        Pace {
            bounds,
            failures_in_row: 0,
        }
    }

    /// How long to wait after an answer: `ttl` where there was one, `failed` where a part of it or
    /// all went wrong. `chance` (any number, all equally likely) takes up to a tenth off, so that
    /// names are not asked for in step and no answer is believed longer than it allows.
    pub fn after(&mut self, ttl: Option<Duration>, failed: bool, chance: u64) -> Duration {
        let believed = ttl.map(|ttl| ttl.clamp(self.bounds.min, self.bounds.max));
        let backoff = failed.then(|| self.backoff());
        if !failed {
            self.failures_in_row = 0;
        }
        let delay = match (believed, backoff) {
            (Some(believed), Some(backoff)) => believed.min(backoff),
            (Some(delay), None) | (None, Some(delay)) => delay,
            // Nobody says how long: as long as is allowed.
            (None, None) => self.bounds.max,
        };
        shortened(delay, chance)
    }

    fn backoff(&mut self) -> Duration {
        let doubled = 1_u32.checked_shl(self.failures_in_row).unwrap_or(u32::MAX);
        self.failures_in_row = self.failures_in_row.saturating_add(1);
        BACKOFF_FIRST.saturating_mul(doubled).min(BACKOFF_MAX)
    }
}

fn shortened(delay: Duration, chance: u64) -> Duration {
    // 32 bits of chance are a share of 2^32; durations here are far below 2^64 nanoseconds.
    let tenth = delay.as_nanos() / 10;
    let off = tenth * u128::from(chance >> 32) / u128::from(u32::MAX);
    delay.saturating_sub(Duration::from_nanos(u64::try_from(off).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::settings::TTL_BOUNDS;

    fn seconds(seconds: u64) -> Option<Duration> {
        Some(Duration::from_secs(seconds))
    }

    #[test]
    fn an_answer_is_believed_for_its_time_within_the_bounds() {
        let mut pace = Pace::new(TTL_BOUNDS);
        for (ttl, expected) in [(0, 1), (1, 1), (60, 60), (300, 300), (86_400, 300)] {
            let delay = pace.after(seconds(ttl), false, 0);
            assert_eq!(Some(delay), seconds(expected), "{ttl}");
        }
    }

    #[test]
    fn failures_in_a_row_are_asked_again_after_one_second_up_to_thirty() {
        let mut pace = Pace::new(TTL_BOUNDS);
        let delays: Vec<u64> = (0..8)
            .map(|_| pace.after(None, true, 0).as_secs())
            .collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(Some(pace.after(seconds(60), false, 0)), seconds(60));
        assert_eq!(Some(pace.after(None, true, 0)), seconds(1), "it began anew");
    }

    #[test]
    fn a_half_answer_is_asked_again_by_whichever_is_sooner() {
        let mut pace = Pace::new(TTL_BOUNDS);
        assert_eq!(Some(pace.after(seconds(60), true, 0)), seconds(1));
        assert_eq!(Some(pace.after(seconds(60), true, 0)), seconds(2));
        assert_eq!(Some(pace.after(seconds(3), true, 0)), seconds(3));
    }

    #[test]
    fn failures_without_end_do_not_overflow() {
        let mut pace = Pace {
            bounds: TTL_BOUNDS,
            failures_in_row: u32::MAX - 1,
        };
        for _ in 0..3 {
            assert_eq!(Some(pace.after(None, true, 0)), seconds(30));
        }
    }

    proptest! {
        #[test]
        fn no_answer_is_believed_longer_than_it_allows(
            ttl in 0..1_000_000_u64, chance: u64, failed: bool,
        ) {
            let mut pace = Pace::new(TTL_BOUNDS);
            let delay = pace.after(seconds(ttl), failed, chance);
            prop_assert!(delay <= Duration::from_secs(ttl.clamp(1, 300)));
            prop_assert!(delay >= Duration::from_millis(900));
        }
    }
}
