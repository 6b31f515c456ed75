//! What a pool works out from the states of all its backends: whether there are too few to be
//! choosy, and the weights among which a load is bounded. Looked at by every pick, worked out again
//! only when a state changed or an ejection ended.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};

use super::live::Class;
use super::pool::{Pool, Tier};
use crate::base::clock::Moment;

#[derive(Debug)]
pub(super) struct Watch {
    /// Percent of the backends that should be used; 0 = never panic.
    panic_threshold: u8,
    panic: AtomicBool,
    /// The table's count of changes that this is true of.
    seen: AtomicU64,
    /// In microseconds: an ejection ends then, which is a change that nobody makes.
    again_at: AtomicU64,
}

impl Watch {
    pub(super) fn new(panic_threshold: u8) -> Self {
        Watch {
            panic_threshold,
            panic: AtomicBool::new(false),
            seen: AtomicU64::new(u64::MAX),
            again_at: AtomicU64::new(0),
        }
    }

    /// Looks again by itself; what it finds is what is true of the records it looks at.
    pub(super) fn twin(&self) -> Self {
        Watch::new(self.panic_threshold)
    }

    #[inline]
    fn is_fresh(&self, changes: u64, now: Moment) -> bool {
        self.seen.load(Acquire) == changes && now.as_micros() < self.again_at.load(Relaxed)
    }
}

impl<T> Pool<T> {
    /// Whether so few backends are available that also those known to be down are used
    /// (`panic_threshold`).
    #[inline]
    pub fn in_panic(&self, now: Moment) -> bool {
        let Some(watch) = &self.watch else {
            return false;
        };
        if !watch.is_fresh(self.table.changes(), now) {
            self.look_again(watch, now);
        }
        watch.panic.load(Relaxed)
    }

    #[cold]
    fn look_again(&self, watch: &Watch, now: Moment) {
        let _changing = self.table.changing();
        let changes = self.table.changes();
        if watch.is_fresh(changes, now) {
            return;
        }
        let (mut available, mut wanted, mut again_at) = (0, 0, Moment::from_micros(u64::MAX));
        for tier in &self.tiers {
            let census = self.census(tier, now);
            available += census.available;
            wanted += census.wanted;
            again_at = again_at.min(census.first_end);
        }
        let panic = available * 100 < wanted * u32::from(watch.panic_threshold);
        for tier in &self.tiers {
            let census = self.census(tier, now);
            let few = panic || census.available == 0;
            let weight = if few {
                census.wanted_weight
            } else {
                census.available_weight
            };
            tier.weight.store(weight, Relaxed);
        }
        watch.panic.store(panic, Relaxed);
        watch.again_at.store(again_at.as_micros(), Relaxed);
        watch.seen.store(changes, Release);
    }

    fn census(&self, tier: &Tier, now: Moment) -> Census {
        let mut census = Census::default();
        for seat in &tier.seats {
            let counters = self.slots.counters(seat.slot);
            let word = self.slots.hot(seat.slot).load();
            let is = |class| word.admits(class, u32::MAX, || counters, now);
            let weight = u64::from(seat.weight) * u64::from(word.percent());
            if is(Class::WANTED) {
                census.wanted += 1;
                census.wanted_weight += weight;
            }
            if is(Class::AVAILABLE) {
                census.available += 1;
                census.available_weight += weight;
            }
            if word.ejected() && counters.ejected_until() > now {
                census.first_end = census.first_end.min(counters.ejected_until());
            }
        }
        census
    }
}

/// One tier's backends, counted. Weights are multiplied by their percent.
struct Census {
    available: u32,
    available_weight: u64,
    /// Ready and of some weight, whatever probes and traffic say.
    wanted: u32,
    wanted_weight: u64,
    /// When the first of the ejections ends.
    first_end: Moment,
}

impl Default for Census {
    fn default() -> Self {
        Census {
            available: 0,
            available_weight: 0,
            wanted: 0,
            wanted_weight: 0,
            first_end: Moment::from_micros(u64::MAX),
        }
    }
}
