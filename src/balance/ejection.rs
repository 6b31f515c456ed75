//! When traffic takes a backend out for a while, and for how long.

use std::time::Duration;

/// When failures that real traffic meets take a backend out for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Connect failures in a row; 0 = never eject.
    pub connect_failures: u32,
    /// Length of the first ejection; doubles with each further one in a row.
    pub base: Duration,
    pub max: Duration,
    /// Largest share of the pool's backends that may be ejected at once, 0..=100.
    pub max_percent: u8,
    /// Sessions in a row that the backend reset within `early_reset_within` of connecting;
    /// 0 = never eject for them. Ended by a session that lives longer, or that ends in order
    /// having had an answer.
    pub early_resets: u32,
    pub early_reset_within: Duration,
    /// Sessions in a row that the backend closed, before the client did, without having sent a
    /// byte; 0 = never eject for them. Ended by a byte.
    ///
    /// Both are off by default: a server may close without a word on purpose (nginx's
    /// `return 444`, a service that forbids the client), and where it does a client could have
    /// every backend ejected.
    pub empty_closes: u32,
}

impl Ejection {
    /// How many of `members` may be ejected at once: the share rounded down, and never the only
    /// one.
    pub(super) fn ejected_max(&self, members: usize) -> usize {
        if members < 2 {
            return 0;
        }
        members * usize::from(self.max_percent.min(100)) / 100
    }

    /// Length of the `nth` ejection in a row, counted from 1.
    pub(super) fn length(&self, nth: u32) -> Duration {
        debug_assert!(nth >= 1);
        let doubled = 2_u32
            .checked_pow(nth - 1)
            .and_then(|times| self.base.checked_mul(times));
        doubled.map_or(self.max, |length| length.min(self.max))
    }

    /// The number of the next ejection in a row, `quiet` after the end of number `nth`: each
    /// whole `max` of quiet takes one off. It stops where the length stops growing, so that a
    /// backend that was bad for a day is not remembered for weeks.
    pub(super) fn after(&self, nth: u32, quiet: Duration) -> u32 {
        let decayed = match quiet.as_micros().checked_div(self.max.as_micros()) {
            Some(periods) => nth.saturating_sub(u32::try_from(periods).unwrap_or(u32::MAX)),
            None => 0,
        };
        if decayed >= 1 && self.length(decayed) == self.max {
            decayed
        } else {
            decayed + 1
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ejection(base_s: u64, max_s: u64, max_percent: u8) -> Ejection {
        let (base, max) = (Duration::from_secs(base_s), Duration::from_secs(max_s));
        Ejection {
            connect_failures: 3,
            base,
            max,
            max_percent,
            early_resets: 0,
            early_reset_within: Duration::from_secs(1),
            empty_closes: 0,
        }
    }

    #[test]
    fn each_ejection_in_a_row_is_twice_as_long_up_to_the_longest() {
        let rule = ejection(5, 60, 50);
        let lengths: Vec<_> = (1..=6).map(|nth| rule.length(nth).as_secs()).collect();
        assert_eq!(lengths, [5, 10, 20, 40, 60, 60]);
        assert_eq!(rule.length(u32::MAX), Duration::from_secs(60));
        assert_eq!(ejection(90, 60, 50).length(1), Duration::from_secs(60));
    }

    #[test]
    fn quiet_time_takes_ejections_off_the_row() {
        let rule = ejection(5, 60, 50);
        assert_eq!(rule.after(0, Duration::ZERO), 1);
        assert_eq!(rule.after(3, Duration::from_secs(59)), 4);
        assert_eq!(rule.after(3, Duration::from_secs(60)), 3);
        assert_eq!(rule.after(3, Duration::from_secs(3600)), 1);
        assert_eq!(
            rule.after(5, Duration::ZERO),
            5,
            "the length has stopped growing"
        );
        assert_eq!(ejection(0, 0, 50).after(3, Duration::ZERO), 1);
    }

    #[test]
    fn the_share_that_may_be_ejected_is_rounded_down_and_never_the_only_backend() {
        for (members, percent, most) in [
            (1, 100, 0),
            (2, 100, 2),
            (2, 49, 0),
            (3, 50, 1),
            (10, 50, 5),
            (10, 0, 0),
        ] {
            assert_eq!(ejection(5, 60, percent).ejected_max(members), most);
        }
    }
}
