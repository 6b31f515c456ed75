//! A histogram of durations that any thread may record into and any other read, without a lock.
//!
//! Eight buckets for each power of two, so a value is known to one part in eight. The crate
//! `hdrhistogram` has finer ones, but reading it while another thread records takes a lock, or the
//! help of the thread that records.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Durations in microseconds, up to 2³⁶ (19 hours); longer ones count as that.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU32; BUCKETS],
    /// In microseconds.
    sum: AtomicU64,
    /// The buckets that have wrapped, one entry for each time: at 50 000 a second that is once a
    /// day, and half the memory.
    wrapped: Mutex<Vec<u16>>,
}

/// What a [`Histogram`] held at one moment, or gained between two.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// By bucket; zeros behind the last are left out.
    counts: Vec<u64>,
    sum_micros: u64,
}

const SUB_BITS: u32 = 3;
/// Buckets for each power of two; those below 2³ µs hold one value each.
const SUBS: usize = 1 << SUB_BITS;
const MICROS_BITS: u32 = 36;
const BUCKETS: usize = SUBS * (MICROS_BITS - SUB_BITS + 1) as usize;
const _: () = assert!(BUCKETS == bucket_of(1 << MICROS_BITS) + 1);
const _: () = assert!(BUCKETS <= u16::MAX as usize);

impl Histogram {
    pub fn new() -> Self {
        Histogram {
            buckets: [const { AtomicU32::new(0) }; BUCKETS],
            sum: AtomicU64::new(0),
            wrapped: Mutex::default(),
        }
    }

    #[inline]
    pub fn record(&self, duration: Duration) {
        let micros = micros(duration);
        let bucket = bucket_of(micros);
        if self.buckets[bucket].fetch_add(1, Relaxed) == u32::MAX {
            self.note_wrapped(bucket);
        }
        self.sum.fetch_add(micros, Relaxed);
    }

    /// Forgets all. What is recorded meanwhile may be half forgotten.
    pub fn reset(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Relaxed);
        }
        self.sum.store(0, Relaxed);
        self.wrapped().clear();
    }

    /// What is in it now. A value that is being recorded may be in the counts and not in the sum.
    pub fn snapshot(&self) -> Snapshot {
        let sum_micros = self.sum.load(Relaxed);
        let counts = self.buckets.iter();
        let mut counts: Vec<u64> = counts.map(|count| count.load(Relaxed).into()).collect();
        for &bucket in self.wrapped().iter() {
            counts[usize::from(bucket)] += 1 << u32::BITS;
        }
        let used = counts.iter().rposition(|&count| count != 0);
        counts.truncate(used.map_or(0, |last| last + 1));
        counts.shrink_to_fit();
        Snapshot { counts, sum_micros }
    }

    #[cold]
    fn note_wrapped(&self, bucket: usize) {
        self.wrapped().push(bucket as u16);
    }

    fn wrapped(&self) -> MutexGuard<'_, Vec<u16>> {
        self.wrapped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram::new()
    }
}

impl Snapshot {
    pub fn add(&mut self, other: &Snapshot) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, others) in self.counts.iter_mut().zip(&other.counts) {
            *mine += others;
        }
        self.sum_micros += other.sum_micros;
    }

    /// What came since `earlier`, a snapshot of the same; all of it when that was reset meanwhile.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        let was_reset = earlier.counts.len() > self.counts.len()
            || earlier.counts.iter().zip(&self.counts).any(|(a, b)| a > b);
        if was_reset {
            return self.clone();
        }
        let mut counts = self.counts.clone();
        for (count, before) in counts.iter_mut().zip(&earlier.counts) {
            *count -= before;
        }
        Snapshot {
            counts,
            sum_micros: self.sum_micros.saturating_sub(earlier.sum_micros),
        }
    }

    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }

    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// The duration that `percent` of all (0 to 100) do not exceed, within one part in eight;
    /// `None` when there are none.
    pub fn percentile(&self, percent: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let rank = (percent.clamp(0.0, 100.0) / 100.0 * count as f64).max(1.0);
        let mut below = 0.0;
        for (bucket, &here) in self.counts.iter().enumerate() {
            let here = here as f64;
            if here > 0.0 && below + here >= rank {
                let (from, to) = (floor_of(bucket) as f64, floor_of(bucket + 1) as f64);
                let micros = from + (to - from) * (rank - below) / here;
                return Some(Duration::from_micros(micros.round() as u64));
            }
            below += here;
        }
        // Rounding, with more than 2⁵³ values.
        Some(Duration::from_micros(floor_of(self.counts.len())))
    }

    /// How many are no longer than each of `bounds`, in microseconds and ascending: exact for
    /// powers of two up to 2³⁶, otherwise those of the whole buckets below.
    pub fn cumulative<'a>(&'a self, bounds: &'a [u64]) -> impl Iterator<Item = u64> + 'a {
        let (mut next, mut count) = (0, 0);
        bounds.iter().map(move |&bound| {
            let end = match bound {
                0 => 0,
                FIRST_BEYOND.. => BUCKETS,
                // The bucket of the value after it begins at it, or before.
                _ => bucket_of(bound + 1),
            };
            let end = end.min(self.counts.len());
            if next < end {
                count += self.counts[next..end].iter().sum::<u64>();
                next = end;
            }
            count
        })
    }
}

const FIRST_BEYOND: u64 = 1 << MICROS_BITS;

/// Bucket `n` holds what is more than `floor_of(n)` and not more than `floor_of(n + 1)`: the upper
/// end is inside, as with the bounds of Prometheus. The first holds 0 as well.
const fn bucket_of(micros: u64) -> usize {
    let before = match micros {
        0 => 0,
        FIRST_BEYOND.. => FIRST_BEYOND - 1,
        _ => micros - 1,
    };
    if before < SUBS as u64 {
        return before as usize;
    }
    let octave = before.ilog2() - SUB_BITS;
    let sub = (before >> octave) as usize - SUBS;
    (octave as usize + 1) * SUBS + sub
}

const fn floor_of(bucket: usize) -> u64 {
    if bucket < SUBS {
        return bucket as u64;
    }
    ((SUBS + bucket % SUBS) as u64) << (bucket / SUBS - 1)
}

fn micros(duration: Duration) -> u64 {
    // Cannot be more than the 2⁶⁴ µs that a `Moment` counts.
    duration.as_micros() as u64
}

#[cfg(test)]
mod tests;
