//! The bound that `ip_hash` keeps on the load of each backend (Mirrokni, Thorup and Zadimoghaddam,
//! "Consistent Hashing with Bounded Loads", SODA 2018).

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

/// No backend is to have more than `factor` times its share, by weight, of the pool's connections,
/// rounded up, as with HAProxy's `hash-balance-factor`.
///
/// The total is exact when nobody else is choosing; of those who choose at once each may see the
/// others' connections or not, so a backend may be over by as many as there are threads. It counts
/// the pool's connections in all tiers and to backends that were removed, which makes the bound
/// looser while there are such.
#[derive(Clone, Copy, Debug)]
pub(in crate::balance) struct Bound<'a> {
    /// Percent of the mean, times the pool's connections with the one to be placed.
    allowed: u64,
    /// Weights of all among whom they are shared.
    weight: u64,
    spills: &'a AtomicU64,
}

/// Connections that stay together whatever the mean: where there are only a few, a client's second
/// one would be above every bound, and sent elsewhere for nothing.
pub(in crate::balance) const UNBOUND_MAX: u32 = 8;

impl<'a> Bound<'a> {
    pub(in crate::balance) fn new(
        factor_percent: u16,
        total: u32,
        weight: u64,
        spills: &'a AtomicU64,
    ) -> Self {
        Bound {
            allowed: u64::from(factor_percent) * u64::from(total),
            weight,
            spills,
        }
    }

    /// Whether a backend with `active` connections may have one more. A weight in the same unit as
    /// that of all.
    #[inline]
    pub(super) fn admits(&self, active: u32, weight: u64) -> bool {
        // active < ⌈allowed × weight / (100 × all weights)⌉, without dividing.
        let taken = u128::from(active) * 100 * u128::from(self.weight);
        active < UNBOUND_MAX || taken < u128::from(self.allowed) * u128::from(weight)
    }

    pub(super) fn count_spill(&self) {
        self.spills.fetch_add(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_full_at_its_share_of_the_total_times_the_factor_rounded_up() {
        let spills = AtomicU64::new(0);
        // 125 % of 1000 connections, of which it is to have 3 of 10: 375.
        let bound = Bound::new(125, 1000, 10, &spills);
        assert!(bound.admits(374, 3));
        assert!(!bound.admits(375, 3));
        // 125.125: room for a part is room for one.
        let bound = Bound::new(125, 1001, 10, &spills);
        assert!(bound.admits(125, 1));
        assert!(!bound.admits(126, 1));
    }

    #[test]
    fn a_few_connections_are_never_bound() {
        let spills = AtomicU64::new(0);
        let bound = Bound::new(101, 1, 1000, &spills);
        assert!(bound.admits(UNBOUND_MAX - 1, 1));
        assert!(!bound.admits(UNBOUND_MAX, 1));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let spills = AtomicU64::new(0);
        let all = u64::from(u16::MAX).pow(2) * 256;
        let bound = Bound::new(1000, u32::MAX, all, &spills);
        assert!(!bound.admits(u32::MAX, 1));
        assert!(bound.admits(u32::MAX, all));
    }
}
