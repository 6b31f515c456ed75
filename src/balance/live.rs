//! The live record of one backend: one hot word that every pick looks at, and cold counters.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};

use super::backend::{Availability, Verdict, Wish, availability};
use crate::base::clock::Moment;

/// A view of one backend's live record. It belongs to the identity, so it outlives reloads and is
/// exact over all threads.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    pub(super) hot: &'a Hot,
    pub(super) counters: &'a Counters,
}

impl Live<'_> {
    /// Leases held now.
    pub fn active(&self) -> u32 {
        self.hot.load().active()
    }

    /// Connections made since the identity was first seen.
    pub fn connections_total(&self) -> u64 {
        self.counters.connections_total.load(Relaxed)
    }

    pub fn connect_failures_total(&self) -> u64 {
        self.counters.connect_failures_total.load(Relaxed)
    }

    pub fn ejections_total(&self) -> u64 {
        self.counters.ejections_total.load(Relaxed)
    }

    pub fn bytes_to_backend(&self) -> u64 {
        self.counters.bytes_to_backend.load(Relaxed)
    }

    pub fn bytes_to_client(&self) -> u64 {
        self.counters.bytes_to_client.load(Relaxed)
    }

    /// Connect failures since the last success, over all threads.
    pub fn connect_failures_in_row(&self) -> u32 {
        self.counters.failures_in_row.load(Relaxed)
    }

    pub fn verdict(&self) -> Verdict {
        self.hot.load().verdict()
    }

    pub fn wish(&self) -> Wish {
        self.hot.load().wish()
    }

    pub fn ejected(&self, now: Moment) -> bool {
        self.ejected_until(now).is_some()
    }

    /// When the present ejection ends; `None` when there is none.
    pub fn ejected_until(&self, now: Moment) -> Option<Moment> {
        if !self.hot.load().ejected() {
            return None;
        }
        let until = self.counters.ejected_until();
        (until > now).then_some(until)
    }
}

/// What a pick must know of a backend, in one word: the active count in the low half, the state in
/// the high half. So a lease that is taken is taken against exactly the state it saw.
#[derive(Debug)]
pub(super) struct Hot(AtomicU64);

impl Hot {
    pub(super) fn new(verdict: Verdict) -> Self {
        Hot(AtomicU64::new(verdict_bits(verdict)))
    }

    pub(super) fn reset(&self, verdict: Verdict) {
        debug_assert_eq!(
            self.load().active(),
            0,
            "the record of a backend in use is kept"
        );
        self.0.store(verdict_bits(verdict), Relaxed);
    }

    #[inline]
    pub(super) fn load(&self) -> Word {
        Word(self.0.load(Relaxed))
    }

    /// Counts one more active if the backend is of `class` and below `limit` at that very instant.
    #[inline]
    pub(super) fn occupy(
        &self,
        class: Class,
        limit: u32,
        counters: &Counters,
        now: Moment,
    ) -> bool {
        let mut word = self.load();
        loop {
            if !word.admits(class, limit, || counters, now) {
                return false;
            }
            // `limit` is at most u32::MAX, so the count cannot carry into the state.
            match self
                .0
                .compare_exchange_weak(word.0, word.0 + 1, Relaxed, Relaxed)
            {
                Ok(_) => return true,
                Err(seen) => word = Word(seen),
            }
        }
    }

    #[inline]
    pub(super) fn vacate(&self) {
        // Sequentially consistent for the queue's sake, see `Queue::released`.
        let before = self.0.fetch_sub(1, SeqCst);
        debug_assert_ne!(Word(before).active(), 0, "a lease was given back twice");
    }

    pub(super) fn set_verdict(&self, verdict: Verdict) {
        self.replace(VERDICT, verdict_bits(verdict));
    }

    pub(super) fn set_wish(&self, wish: Wish) {
        self.replace(WISH, wish_bits(wish));
    }

    /// The end of the ejection is stored before: whoever sees the flag finds its end.
    pub(super) fn set_ejected(&self, ejected: bool) {
        self.replace(EJECTED, if ejected { EJECTED } else { 0 });
    }

    fn replace(&self, mask: u64, bits: u64) {
        debug_assert_eq!(bits & !mask, 0);
        let _ = self
            .0
            .fetch_update(Release, Relaxed, |word| Some(word & !mask | bits));
    }
}

/// One reading of a [`Hot`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Word(u64);

impl Word {
    #[inline]
    pub(super) fn active(self) -> u32 {
        self.0 as u32
    }

    /// Whether a backend (of a weight above 0) is of this class now and below `limit`.
    ///
    /// What would keep it out lies above the count, so one comparison tells of both; a test holds
    /// it to [`availability`]. The cold counters are looked at only when nothing but the flag of an
    /// ejection keeps it out, which may have ended.
    #[inline]
    pub(super) fn admits<'a>(
        self,
        class: Class,
        limit: u32,
        counters: impl FnOnce() -> &'a Counters,
        now: Moment,
    ) -> bool {
        let against = (self.0 ^ class as u64) & (BLOCKS | ACTIVE);
        if against < u64::from(limit) {
            debug_assert_eq!(
                availability(self.verdict(), self.wish(), false, 1),
                class.into()
            );
            return true;
        }
        self.ejected() && against & !EJECTED < u64::from(limit) && counters().ejected_until() <= now
    }

    pub(super) fn verdict(self) -> Verdict {
        match self.0 & VERDICT {
            DOWN => Verdict::Down,
            UNCHECKED => Verdict::Unchecked,
            UNPROBED => Verdict::Unprobed,
            _ => Verdict::Up,
        }
    }

    pub(super) fn wish(self) -> Wish {
        match self.0 & WISH {
            DRAIN => Wish::Drain,
            MAINTENANCE => Wish::Maintenance,
            _ => Wish::Ready,
        }
    }

    /// Whether the flag is set; the ejection may have ended since.
    pub(super) fn ejected(self) -> bool {
        self.0 & EJECTED != 0
    }
}

/// Which backends a pick may use; the number is what of [`BLOCKS`] their word has set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(super) enum Class {
    Available = 0,
    LastResort = UNCHECKED,
}

impl Class {
    pub(super) const BY_PREFERENCE: [Class; 2] = [Class::Available, Class::LastResort];
}

impl From<Class> for Availability {
    fn from(class: Class) -> Self {
        match class {
            Class::Available => Availability::Available,
            Class::LastResort => Availability::LastResort,
        }
    }
}

const ACTIVE: u64 = u32::MAX as u64;
const DOWN: u64 = 1 << 32;
const UNCHECKED: u64 = 1 << 33;
const UNPROBED: u64 = 1 << 34;
const DRAIN: u64 = 1 << 35;
const MAINTENANCE: u64 = 1 << 36;
const EJECTED: u64 = 1 << 37;
const VERDICT: u64 = DOWN | UNCHECKED | UNPROBED;
const WISH: u64 = DRAIN | MAINTENANCE;
/// Each of these makes a backend less than available.
const BLOCKS: u64 = DOWN | UNCHECKED | DRAIN | MAINTENANCE | EJECTED;

fn verdict_bits(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Up => 0,
        Verdict::Down => DOWN,
        Verdict::Unchecked => UNCHECKED,
        Verdict::Unprobed => UNPROBED,
    }
}

fn wish_bits(wish: Wish) -> u64 {
    match wish {
        Wish::Ready => 0,
        Wish::Drain => DRAIN,
        Wish::Maintenance => MAINTENANCE,
    }
}

/// What is counted of a backend but not looked at by a pick. Two cache lines of its own (the
/// prefetcher of current x86 fetches lines in pairs), so backends do not slow each other down.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    pub(super) connections_total: AtomicU64,
    pub(super) connect_failures_total: AtomicU64,
    pub(super) ejections_total: AtomicU64,
    pub(super) bytes_to_backend: AtomicU64,
    pub(super) bytes_to_client: AtomicU64,
    /// Wraps after 2³² failures without a success; that costs one late ejection.
    pub(super) failures_in_row: AtomicU32,
    /// How often the length of the next ejection has doubled, plus one. Written under the table's
    /// ejection lock only, as is `ejected_until`.
    pub(super) ejections_in_row: AtomicU32,
    /// [`Moment`] in microseconds; stored before the flag that makes others look at it.
    pub(super) ejected_until: AtomicU64,
}

impl Counters {
    pub(super) fn reset(&self) {
        let Counters {
            connections_total,
            connect_failures_total,
            ejections_total,
            bytes_to_backend,
            bytes_to_client,
            failures_in_row,
            ejections_in_row,
            ejected_until,
        } = self;
        for total in [
            connections_total,
            connect_failures_total,
            ejections_total,
            bytes_to_backend,
            bytes_to_client,
            ejected_until,
        ] {
            total.store(0, Relaxed);
        }
        failures_in_row.store(0, Relaxed);
        ejections_in_row.store(0, Relaxed);
    }

    /// Meaningful once the flag in the hot word has been seen.
    pub(super) fn ejected_until(&self) -> Moment {
        // Pairs with the release of `Hot::set_ejected`.
        fence(Acquire);
        Moment::from_micros(self.ejected_until.load(Relaxed))
    }

    pub(super) fn connected(&self) {
        self.connections_total.fetch_add(1, Relaxed);
        // Looked at first: a store would take the line from other threads for nothing.
        if self.failures_in_row.load(Relaxed) != 0 {
            self.failures_in_row.store(0, Relaxed);
        }
    }

    pub(super) fn add_bytes(&self, to_backend: u64, to_client: u64) {
        for (total, bytes) in [
            (&self.bytes_to_backend, to_backend),
            (&self.bytes_to_client, to_client),
        ] {
            if bytes != 0 {
                total.fetch_add(bytes, Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Moment = Moment::from_millis(1000);

    #[test]
    fn the_one_comparison_of_a_pick_agrees_with_the_truth_table() {
        for verdict in [
            Verdict::Unprobed,
            Verdict::Unchecked,
            Verdict::Up,
            Verdict::Down,
        ] {
            for wish in [Wish::Ready, Wish::Drain, Wish::Maintenance] {
                for ejected_until_ms in [None, Some(999), Some(1000), Some(1001)] {
                    let (hot, counters) = (Hot::new(verdict), Counters::default());
                    hot.set_wish(wish);
                    if let Some(ms) = ejected_until_ms {
                        let until = Moment::from_millis(ms);
                        counters.ejected_until.store(until.as_micros(), Relaxed);
                        hot.set_ejected(true);
                    }
                    let live = Live {
                        hot: &hot,
                        counters: &counters,
                    };
                    assert_eq!((live.verdict(), live.wish()), (verdict, wish));
                    let may = availability(verdict, wish, live.ejected(NOW), 1);
                    for class in Class::BY_PREFERENCE {
                        let is = hot.load().admits(class, 1, || &counters, NOW);
                        assert_eq!(is, may == class.into(), "{verdict:?} {wish:?}");
                        assert_eq!(hot.occupy(class, 1, &counters, NOW), is);
                        assert!(!hot.occupy(class, 1, &counters, NOW), "above the limit");
                        if is {
                            hot.vacate();
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn changes_of_state_leave_the_active_count_alone() {
        let (hot, counters) = (Hot::new(Verdict::Up), Counters::default());
        assert!(hot.occupy(Class::Available, u32::MAX, &counters, NOW));
        hot.set_verdict(Verdict::Down);
        hot.set_wish(Wish::Drain);
        hot.set_ejected(true);
        assert_eq!(hot.load().active(), 1);
        hot.set_verdict(Verdict::Unchecked);
        hot.set_wish(Wish::Ready);
        hot.set_ejected(false);
        assert_eq!(
            (hot.load().active(), hot.load().verdict()),
            (1, Verdict::Unchecked)
        );
    }
}
