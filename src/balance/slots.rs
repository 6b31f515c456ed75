//! Where live records lie in memory: in chunks that never move, hot words side by side.

use std::sync::Arc;

use super::backend::Verdict;
use super::latency::Latency;
use super::live::{Counters, Hot, Live};
use super::timings::Timings;

/// Records per chunk. Their hot words fill eight cache lines, so a scan of 1000 backends reads
/// 8 KiB.
pub(super) const CHUNK_SLOTS: usize = 64;

/// Live records of [`CHUNK_SLOTS`] backends.
#[derive(Debug)]
#[repr(align(128))]
pub(super) struct Chunk {
    hot: [Hot; CHUNK_SLOTS],
    latencies: [Latency; CHUNK_SLOTS],
    counters: [Counters; CHUNK_SLOTS],
    timings: [Timings; CHUNK_SLOTS],
}

impl Chunk {
    pub(super) fn new() -> Self {
        Chunk {
            hot: std::array::from_fn(|_| Hot::new(Verdict::Unchecked)),
            latencies: std::array::from_fn(|_| Latency::default()),
            counters: std::array::from_fn(|_| Counters::default()),
            timings: std::array::from_fn(|_| Timings::default()),
        }
    }

    /// Records of their own that say what these say now, as far as a pick looks at it.
    pub(super) fn twin(&self) -> Self {
        Chunk {
            hot: std::array::from_fn(|slot| self.hot[slot].twin()),
            latencies: std::array::from_fn(|slot| self.latencies[slot].twin()),
            counters: std::array::from_fn(|slot| self.counters[slot].twin()),
            timings: std::array::from_fn(|_| Timings::default()),
        }
    }

    /// Makes a slot that no pool has the record of a backend that was never seen before.
    pub(super) fn begin(&self, slot: usize, verdict: Verdict, joined: bool) {
        self.counters[slot].reset();
        self.latencies[slot].reset();
        self.timings[slot].reset();
        self.hot[slot].reset(verdict, joined);
    }

    pub(super) fn hot(&self, slot: usize) -> &Hot {
        &self.hot[slot]
    }

    pub(super) fn counters(&self, slot: usize) -> &Counters {
        &self.counters[slot]
    }
}

/// The chunks there were when a pool was built: enough for every slot of that pool, and read
/// without a lock.
#[derive(Clone, Debug)]
pub(super) struct Slots(Box<[Arc<Chunk>]>);

impl Slots {
    pub(super) fn new(chunks: &[Arc<Chunk>]) -> Self {
        Slots(chunks.into())
    }

    #[inline]
    pub(super) fn hot(&self, slot: u32) -> &Hot {
        let slot = slot as usize;
        &self.0[slot / CHUNK_SLOTS].hot[slot % CHUNK_SLOTS]
    }

    /// The hot words of `len` slots of one chunk.
    pub(super) fn run(&self, slot: u32, len: usize) -> &[Hot] {
        let slot = slot as usize;
        &self.0[slot / CHUNK_SLOTS].hot[slot % CHUNK_SLOTS..][..len]
    }

    /// Their latencies likewise.
    pub(super) fn latencies(&self, slot: u32, len: usize) -> &[Latency] {
        let slot = slot as usize;
        &self.0[slot / CHUNK_SLOTS].latencies[slot % CHUNK_SLOTS..][..len]
    }

    pub(super) fn latency(&self, slot: u32) -> &Latency {
        let slot = slot as usize;
        &self.0[slot / CHUNK_SLOTS].latencies[slot % CHUNK_SLOTS]
    }

    #[inline]
    pub(super) fn counters(&self, slot: u32) -> &Counters {
        let slot = slot as usize;
        &self.0[slot / CHUNK_SLOTS].counters[slot % CHUNK_SLOTS]
    }

    fn timings(&self, slot: u32) -> &Timings {
        let slot = slot as usize;
        &self.0[slot / CHUNK_SLOTS].timings[slot % CHUNK_SLOTS]
    }

    pub(super) fn live(&self, slot: u32) -> Live<'_> {
        Live {
            hot: self.hot(slot),
            counters: self.counters(slot),
            latency: self.latency(slot),
            timings: self.timings(slot),
        }
    }
}

/// Whether this slot is the first of its chunk.
pub(super) fn begins_chunk(slot: u32) -> bool {
    (slot as usize).is_multiple_of(CHUNK_SLOTS)
}
