//! How many retries a pool's clients may make together, so that a dead pool does not multiply the
//! load that killed it.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::base::clock::Moment;

/// A retry budget as Finagle and Linkerd have it: every connection pays in a share of a retry,
/// every retry takes a whole one out; besides, a few are always let through, because a pool that
/// is hardly used pays nothing in. Shared by all threads; outlives the pool's reloads.
#[derive(Debug)]
pub struct Budget {
    /// In hundredths of a retry.
    saved: AtomicU64,
    /// When the next retry that costs nothing is due, in microseconds of [`Moment`].
    free_at: AtomicU64,
    refused: AtomicU64,
}

/// What can be saved, in hundredths: 1000 retries carry a busy pool over the seconds until probes
/// and ejection have found the dead. While it is full a connection only looks at it.
const SAVED_MAX: u64 = 100_000;
const RETRY: u64 = 100;

/// One free retry each 100 ms, and up to ten at once.
const FREE_EVERY: Duration = Duration::from_millis(100);
const FREE_AHEAD: Duration = Duration::from_millis(900);

impl Default for Budget {
    fn default() -> Self {
        Budget {
            saved: AtomicU64::new(SAVED_MAX),
            free_at: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }
    }
}

impl Budget {
    /// A client begins: pays in `percent` of a retry.
    #[inline]
    pub fn pay_in(&self, percent: u32) {
        let saved = self.saved.load(Relaxed);
        if saved < SAVED_MAX {
            // What two threads pay in at once may go a little over the most.
            self.saved.fetch_add(percent.into(), Relaxed);
        }
    }

    /// Whether a client may try another backend; counts it if so.
    pub fn take(&self, now: Moment) -> bool {
        let paid = self
            .saved
            .fetch_update(Relaxed, Relaxed, |saved| saved.checked_sub(RETRY));
        let granted = paid.is_ok() || self.take_free(now);
        if !granted {
            self.refused.fetch_add(1, Relaxed);
        }
        granted
    }

    /// Retries that were not granted.
    pub fn refused_total(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    /// The generic cell rate algorithm (ITU-T I.371): `free_at` may run ahead of the clock by
    /// [`FREE_AHEAD`].
    fn take_free(&self, now: Moment) -> bool {
        let (every, ahead) = (micros(FREE_EVERY), micros(FREE_AHEAD));
        let now = now.as_micros();
        self.free_at
            .fetch_update(Relaxed, Relaxed, |due| {
                (due <= now + ahead).then(|| due.max(now) + every)
            })
            .is_ok()
    }
}

const fn micros(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes until it is refused.
    fn take_all(budget: &Budget, now: Moment) -> u64 {
        let granted = (0..1_000_000).take_while(|_| budget.take(now)).count();
        granted as u64
    }

    #[test]
    fn a_dead_pool_gets_its_share_of_retries_and_no_more() {
        let budget = Budget::default();
        let start = Moment::from_millis(5000);
        assert_eq!(take_all(&budget, start), 1000 + 10, "saved, and free ones");
        for _ in 0..4000 {
            budget.pay_in(50);
        }
        assert_eq!(take_all(&budget, start), 1000, "no more than can be saved");
        for _ in 0..300 {
            budget.pay_in(50);
        }
        assert_eq!(take_all(&budget, start), 150, "a half for each connection");
        assert_eq!(budget.refused_total(), 3);
    }

    #[test]
    fn ten_a_second_are_always_let_through() {
        let budget = Budget::default();
        take_all(&budget, Moment::from_millis(5000));
        for second in 6..20 {
            assert_eq!(take_all(&budget, Moment::from_millis(second * 1000)), 10);
        }
        assert_eq!(
            take_all(&budget, Moment::from_millis(3_600_000)),
            10,
            "an hour of quiet saves no more"
        );
    }
}
