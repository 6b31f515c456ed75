//! How often and how many at once: keeps the probes of many backends from coming in step.

use std::time::Duration;

use tokio::sync::Semaphore;

use super::runner::{ProbeResult, ProbeSpec, run};

/// The delay until the next probe: `base` give or take a tenth, as `chance` (any number, all
/// equally likely) has it.
pub fn jittered(base: Duration, chance: u64) -> Duration {
    let nanos = base.as_nanos();
    // At most 2^128 / 5: a duration has fewer than 2^94 nanoseconds, which leaves 32 bits.
    let share = u128::from(chance >> 32);
    let added = nanos / 5 * share / u128::from(u32::MAX);
    let total = nanos - nanos / 10 + added;
    let second = 1_000_000_000;
    match u64::try_from(total / second) {
        Ok(seconds) => Duration::new(seconds, (total % second) as u32),
        Err(_) => Duration::MAX,
    }
}

/// The right to probe: so many at once over all pools, the others wait in order.
#[derive(Debug)]
pub struct Slots(Semaphore);

impl Slots {
    pub fn new(at_once: usize) -> Self {
        Slots(Semaphore::new(at_once))
    }

    /// Probes as soon as there is a slot.
    pub async fn run(&self, spec: &ProbeSpec) -> ProbeResult {
        self.hold(run(spec)).await
    }

    /// Does the work as soon as there is a slot. The wait counts neither as the work's time nor
    /// against its timeout. A dropped future gives its slot, or its place in the line, back.
    pub async fn hold<T>(&self, work: impl Future<Output = T>) -> T {
        let _slot = self
            .0
            .acquire()
            .await
            .expect("the semaphore is never closed");
        work.await
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_delay_spreads_over_a_tenth_to_either_side() {
        let base = Duration::from_secs(2);
        assert_eq!(jittered(base, 0), Duration::from_millis(1800));
        assert_eq!(jittered(base, u64::MAX), Duration::from_millis(2200));
        let middle = jittered(base, u64::MAX / 2).as_secs_f64();
        assert!((middle - 2.0).abs() < 1e-6, "{middle}");
        assert_eq!(jittered(Duration::ZERO, 7), Duration::ZERO);
        assert_eq!(jittered(Duration::MAX, u64::MAX), Duration::MAX);
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_tenth(millis in 1_u64..10_000_000, chance: u64) {
            let base = Duration::from_millis(millis);
            let delay = jittered(base, chance);
            prop_assert!(delay >= base * 9 / 10 && delay <= base * 11 / 10);
        }
    }
}
