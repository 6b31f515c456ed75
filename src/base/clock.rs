//! Monotonic time as one 64-bit number, and the only place of the lower floors that reads a clock.

use std::ops::Add;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Microseconds since the process first asked for the time. Never goes back, never wraps
/// (584 000 years), and fits an atomic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(u64);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

impl Moment {
    pub const ZERO: Moment = Moment(0);

    /// Reads the monotonic clock. One call per wake-up of a worker is the budget.
    pub fn now() -> Self {
        Moment(micros(START.elapsed()))
    }

    pub const fn from_micros(micros: u64) -> Self {
        Moment(micros)
    }

    pub const fn from_millis(millis: u64) -> Self {
        Moment(millis.saturating_mul(1000))
    }

    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The moment so long ago; the first of all when that lies ahead of it.
    pub fn before(self, time: Duration) -> Moment {
        Moment(self.0.saturating_sub(micros(time)))
    }

    /// Time since `earlier`; zero when `earlier` lies ahead.
    pub const fn since(self, earlier: Moment) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Moment {
    type Output = Moment;

    /// Saturates: a deadline too far to express is never reached.
    fn add(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(micros(by)))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_beyond_the_end_of_time_saturates() {
        let far = Moment::from_micros(u64::MAX - 1) + Duration::from_secs(1);
        assert_eq!(far.as_micros(), u64::MAX);
        assert_eq!(Moment::ZERO.since(far), Duration::ZERO);
    }
}
