//! How many sessions may be left of those that are to end, as time goes by.

use std::time::Duration;

use super::clock::Moment;

/// A straight line from all sessions at its beginning to none at its end, so that clients come
/// back one after the other and not all at once. Sessions that end by themselves count: a pool
/// whose sessions are short never meets the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Curve {
    pub begin: Moment,
    pub end: Moment,
}

impl Curve {
    pub fn over(begin: Moment, time: Duration) -> Curve {
        Curve {
            begin,
            end: begin + time,
        }
    }

    /// Of `initial` sessions those that may still be there; whole ones, rounded up.
    pub fn allowed(&self, initial: u32, now: Moment) -> u32 {
        let (all, left) = (self.micros(), self.end.since(now).as_micros());
        if left == 0 {
            return 0;
        }
        let allowed = (u128::from(initial) * left).div_ceil(all.max(1));
        u32::try_from(allowed).map_or(initial, |allowed| allowed.min(initial))
    }

    /// Whether sessions in the middle of something are left alone still: until the last quarter,
    /// into which all of them must fit.
    pub fn spares_busy(&self, now: Moment) -> bool {
        self.end.since(now).as_micros() * 4 > self.micros()
    }

    fn micros(&self) -> u128 {
        self.end.since(self.begin).as_micros()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Moment = Moment::from_millis(50_000);

    fn after(millis: u64) -> Moment {
        BEGIN + Duration::from_millis(millis)
    }

    #[test]
    fn the_line_goes_from_all_to_none() {
        let curve = Curve::over(BEGIN, Duration::from_secs(10));
        for (millis, allowed) in [
            (0, 100),
            (1, 100),
            (2500, 75),
            (5000, 50),
            (9901, 1),
            (10_000, 0),
        ] {
            assert_eq!(curve.allowed(100, after(millis)), allowed, "at {millis} ms");
        }
        assert_eq!(
            curve.allowed(1, after(9999)),
            1,
            "the last one has all the time"
        );
        assert_eq!(curve.allowed(100, after(1_000_000)), 0);
        assert_eq!(curve.allowed(u32::MAX, BEGIN), u32::MAX);
    }

    #[test]
    fn without_time_all_go_at_once() {
        let curve = Curve::over(BEGIN, Duration::ZERO);
        assert_eq!(curve.allowed(100, BEGIN), 0);
        assert!(!curve.spares_busy(BEGIN));
    }

    #[test]
    fn busy_sessions_are_spared_until_the_last_quarter() {
        let curve = Curve::over(BEGIN, Duration::from_secs(10));
        assert!(curve.spares_busy(BEGIN) && curve.spares_busy(after(7499)));
        assert!(!curve.spares_busy(after(7500)));
    }
}
