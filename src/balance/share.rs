//! How much of its weight a backend has at present: less while it starts slowly, more or less
//! where somebody changed it at runtime.

use std::time::Duration;

use super::live::{Counters, Word};
use crate::base::clock::Moment;

/// What a slow start begins with, in percent: enough to warm up by, and Envoy's `min_weight_percent`.
const RAMP_FIRST: u32 = 10;

/// How a pool's backends come back after they were out, and how far their weights were changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shares {
    /// Zero: they have all of their weight at once.
    slow_start: Duration,
    /// What the largest percent of the pool is, at least 100.
    percent_max: u32,
}

impl Shares {
    pub(super) fn new(slow_start: Duration, percent_max: u32) -> Self {
        Shares {
            slow_start,
            percent_max: percent_max.max(100),
        }
    }

    /// The share of the weight in units of 1/10 000, at most [`Shares::largest`]. 0 when it takes
    /// nothing at all.
    #[inline]
    pub(super) fn of<'a>(
        &self,
        word: Word,
        counters: impl FnOnce() -> &'a Counters,
        now: Moment,
    ) -> u32 {
        let share = word.percent() * self.ramp_percent(word, counters, now);
        // The largest percent is worked out after one was changed.
        share.min(self.largest())
    }

    /// Which share a policy that draws takes whenever it is drawn.
    pub(super) fn largest(&self) -> u32 {
        self.percent_max * 100
    }

    /// Where the backend is on its way from 10 to 100 percent: in a straight line.
    #[inline]
    pub(super) fn ramp_percent<'a>(
        &self,
        word: Word,
        counters: impl FnOnce() -> &'a Counters,
        now: Moment,
    ) -> u32 {
        if !word.ramps() {
            return 100;
        }
        ramp_percent(now.since(counters().ramp_since()), self.slow_start)
    }
}

fn ramp_percent(elapsed: Duration, length: Duration) -> u32 {
    if elapsed >= length {
        return 100;
    }
    let way = elapsed.as_micros() * u128::from(100 - RAMP_FIRST) / length.as_micros().max(1);
    RAMP_FIRST + way as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_start_goes_in_a_straight_line_from_ten_to_a_hundred_percent() {
        let length = Duration::from_secs(30);
        for (millis, percent) in [
            (0, 10),
            (10_000, 40),
            (15_000, 55),
            (29_999, 99),
            (30_000, 100),
        ] {
            assert_eq!(ramp_percent(Duration::from_millis(millis), length), percent);
        }
        assert_eq!(ramp_percent(Duration::ZERO, Duration::ZERO), 100);
    }
}
