//! The live record of one backend: one hot word that every pick looks at, and cold counters.

use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64, fence};
use std::time::Duration;

use super::backend::{Availability, Verdict, Wish, availability};
use super::latency::Latency;
use super::suspicion::Waits;
use super::timings::{Histograms, Timings};
use crate::base::clock::Moment;

/// A view of one backend's live record. It belongs to the identity, so it outlives reloads and is
/// exact over all threads.
#[derive(Clone, Copy, Debug)]
pub struct Live<'a> {
    pub(super) hot: &'a Hot,
    pub(super) counters: &'a Counters,
    pub(super) latency: &'a Latency,
    pub(super) timings: &'a Timings,
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

    /// How long connects, first bytes, sessions and waits in the queue took.
    pub fn histograms(&self) -> Histograms {
        self.timings.merged()
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

    /// What the weight counts at runtime, besides slow start: 100 = as configured.
    pub fn weight_percent(&self) -> u16 {
        self.hot.load().percent() as u16
    }

    /// What `least_latency` goes by, decayed to now; `None` when nothing is known.
    pub fn latency(&self, now: Moment) -> Option<Duration> {
        self.latency.at(now)
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

    pub(super) fn twin(&self) -> Self {
        Hot(AtomicU64::new(self.load().0))
    }

    /// The record of another backend begins. `joined`: its pool was there before it.
    pub(super) fn reset(&self, verdict: Verdict, joined: bool) {
        debug_assert_eq!(
            self.load().active(),
            0,
            "the record of a backend in use is kept"
        );
        let joined = if joined { JOINED } else { 0 };
        self.0.store(verdict_bits(verdict) | joined, Relaxed);
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

    /// When it began is stored before, as with ejections.
    pub(super) fn set_ramp(&self, ramp: bool) {
        self.replace(RAMP, if ramp { RAMP } else { 0 });
    }

    pub(super) fn set_suspected(&self, suspected: bool) {
        self.replace(SUSPECTED, if suspected { SUSPECTED } else { 0 });
    }

    pub(super) fn set_joined(&self, joined: bool) {
        self.replace(JOINED, if joined { JOINED } else { 0 });
    }

    /// 0 to [`PERCENT_MAX`].
    pub(super) fn set_percent(&self, percent: u16) {
        let percent = percent.min(PERCENT_MAX);
        let none = if percent == 0 { WEIGHTLESS } else { 0 };
        let bits = u64::from(percent ^ 100) << PERCENT_SHIFT;
        self.replace(PERCENT | WEIGHTLESS, bits | none);
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
        let against = (self.0 ^ class.wanted) & class.looked_at;
        if against < u64::from(limit) {
            debug_assert!(class.holds(availability(
                self.verdict(),
                self.wish(),
                false,
                self.percent() as u16
            )));
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

    /// Whether it has stopped answering connects.
    pub(super) fn suspected(self) -> bool {
        self.0 & SUSPECTED != 0
    }

    /// Whether it has a flag that time alone ends.
    #[inline]
    pub(super) fn passing(self) -> bool {
        self.0 & (EJECTED | RAMP) != 0
    }

    /// Whether the flag of a slow start is set, which may have ended since.
    #[inline]
    pub(super) fn ramps(self) -> bool {
        self.0 & RAMP != 0
    }

    /// Whether it came to a pool that was there before it, and has not served since.
    pub(super) fn joined(self) -> bool {
        self.0 & JOINED != 0
    }

    /// What its weight counts, slow start aside; 100 = as configured.
    #[inline]
    pub(super) fn percent(self) -> u32 {
        ((self.0 & PERCENT) >> PERCENT_SHIFT) as u32 ^ 100
    }
}

/// The most that [`Pool::set_weight_percent`](super::pool::Pool::set_weight_percent) takes.
pub(super) const PERCENT_MAX: u16 = 256;

/// Which backends a pick may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Class {
    /// What is set of `looked_at` in their words, besides the active count.
    wanted: u64,
    looked_at: u64,
}

impl Class {
    pub(super) const AVAILABLE: Class = Class {
        wanted: 0,
        looked_at: BLOCKS | ACTIVE,
    };
    pub(super) const LAST_RESORT: Class = Class {
        wanted: UNCHECKED,
        looked_at: BLOCKS | ACTIVE,
    };
    /// In panic, whatever probes and traffic say: all that the operator wants used.
    pub(super) const WANTED: Class = Class {
        wanted: 0,
        looked_at: WEIGHTLESS | DRAIN | MAINTENANCE | ACTIVE,
    };

    /// Those that do not answer connects just now, whether probed or not: better than nobody.
    pub(super) const SUSPECTS: Class = Class {
        wanted: SUSPECTED,
        looked_at: BLOCKS & !UNCHECKED | ACTIVE,
    };

    pub(super) const BY_PREFERENCE: [Class; 3] =
        [Class::AVAILABLE, Class::LAST_RESORT, Class::SUSPECTS];

    /// Whether backends that are not ejected belong to the class.
    fn holds(self, may: Availability) -> bool {
        match self {
            Class::AVAILABLE => may == Availability::Available,
            Class::LAST_RESORT => may == Availability::LastResort,
            _ => true,
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
/// The percent is 0.
const WEIGHTLESS: u64 = 1 << 38;
const RAMP: u64 = 1 << 39;
const JOINED: u64 = 1 << 40;
const SUSPECTED: u64 = 1 << 41;
/// Held as the difference to 100 (by exclusive or), so that a plain word has none of it set.
const PERCENT: u64 = 0x1ff << PERCENT_SHIFT;
const PERCENT_SHIFT: u32 = 48;
const VERDICT: u64 = DOWN | UNCHECKED | UNPROBED;
const WISH: u64 = DRAIN | MAINTENANCE;
/// Each of these makes a backend less than available.
const BLOCKS: u64 = DOWN | UNCHECKED | DRAIN | MAINTENANCE | EJECTED | WEIGHTLESS | SUSPECTED;

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
    /// When the slow start began, or will, likewise.
    pub(super) ramp_since: AtomicU64,
    /// Sessions in a row that the backend reset early, and that it closed without a byte.
    pub(super) early_resets_in_row: AtomicU32,
    pub(super) empty_closes_in_row: AtomicU32,
    pub(super) waits: Waits,
    /// When the latency was last changed by a sample, in microseconds.
    pub(super) sampled_at: AtomicU64,
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
            ramp_since,
            early_resets_in_row,
            empty_closes_in_row,
            waits,
            sampled_at,
        } = self;
        waits.reset();
        for total in [
            connections_total,
            connect_failures_total,
            ejections_total,
            bytes_to_backend,
            bytes_to_client,
            ejected_until,
            ramp_since,
            sampled_at,
        ] {
            total.store(0, Relaxed);
        }
        for row in [
            failures_in_row,
            ejections_in_row,
            early_resets_in_row,
            empty_closes_in_row,
        ] {
            row.store(0, Relaxed);
        }
    }

    /// Only what a pick looks at.
    pub(super) fn twin(&self) -> Self {
        Counters {
            ejected_until: AtomicU64::new(self.ejected_until().as_micros()),
            ramp_since: AtomicU64::new(self.ramp_since().as_micros()),
            ..Counters::default()
        }
    }

    /// Meaningful once the flag in the hot word has been seen.
    pub(super) fn ejected_until(&self) -> Moment {
        // Pairs with the release of `Hot::set_ejected`.
        fence(Acquire);
        Moment::from_micros(self.ejected_until.load(Relaxed))
    }

    /// Meaningful once the flag in the hot word has been seen.
    pub(super) fn ramp_since(&self) -> Moment {
        fence(Acquire);
        Moment::from_micros(self.ramp_since.load(Relaxed))
    }

    pub(super) fn connected(&self) {
        self.connections_total.fetch_add(1, Relaxed);
        end_row(&self.failures_in_row);
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

pub(super) fn end_row(row: &AtomicU32) {
    // Looked at first: a store would take the line from other threads for nothing.
    if row.load(Relaxed) != 0 {
        row.store(0, Relaxed);
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
                        latency: &Latency::default(),
                        timings: &Timings::default(),
                    };
                    assert_eq!((live.verdict(), live.wish()), (verdict, wish));
                    for percent in [100, 0, 256, 1] {
                        hot.set_percent(percent);
                        assert_eq!(live.weight_percent(), percent);
                        let may = availability(verdict, wish, live.ejected(NOW), percent);
                        let wanted = availability(Verdict::Up, wish, false, percent);
                        for (class, is) in [
                            (Class::AVAILABLE, may == Availability::Available),
                            (Class::LAST_RESORT, may == Availability::LastResort),
                            (Class::WANTED, wanted == Availability::Available),
                        ] {
                            let admits = hot.load().admits(class, 1, || &counters, NOW);
                            assert_eq!(admits, is, "{verdict:?} {wish:?} {percent}");
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
    }

    #[test]
    fn changes_of_state_leave_the_active_count_alone() {
        let (hot, counters) = (Hot::new(Verdict::Up), Counters::default());
        assert!(hot.occupy(Class::AVAILABLE, u32::MAX, &counters, NOW));
        hot.set_verdict(Verdict::Down);
        hot.set_wish(Wish::Drain);
        hot.set_ejected(true);
        hot.set_percent(0);
        hot.set_ramp(true);
        hot.set_joined(true);
        assert_eq!(hot.load().active(), 1);
        hot.set_percent(100);
        hot.set_ramp(false);
        hot.set_joined(false);
        hot.set_verdict(Verdict::Unchecked);
        hot.set_wish(Wish::Ready);
        hot.set_ejected(false);
        assert_eq!(
            (hot.load().active(), hot.load().verdict()),
            (1, Verdict::Unchecked)
        );
    }
}
