//! A backend that has stopped answering connects is passed over before the first of them has
//! timed out: at thousands of connections a second hundreds would else wait for it.
//!
//! A suspicion is no verdict. It costs the backend nothing but new clients, falls with the next
//! connect that succeeds, and at the latest with the last of those it kept waiting; what they bring
//! then counts as ever.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{AcqRel, Relaxed};
use std::time::Duration;

use super::live::Live;
use crate::base::clock::Moment;

/// Connects that wait at once, at the least: one or two may have lost a packet.
const WAITING_MIN: u32 = 3;

/// Kernels answer a connect in the time of a round trip, whatever the program does; this is for
/// the stalls of virtual machines.
const PATIENCE_MIN: Duration = Duration::from_millis(10);

/// Times as long as connects of this backend take on average.
const PATIENCE_TIMES: u32 = 4;

/// The connects of one backend that have been begun and not answered.
#[derive(Debug, Default)]
pub(super) struct Waits {
    count: AtomicU32,
    /// When the first of them began, or a later one was answered, in microseconds.
    silent_since: AtomicU64,
    /// Of those that had to wait, in microseconds; each counts an eighth.
    average: AtomicU32,
}

impl Waits {
    pub(super) fn reset(&self) {
        self.count.store(0, Relaxed);
        self.silent_since.store(0, Relaxed);
        self.average.store(0, Relaxed);
    }

    fn patience(&self) -> Duration {
        let average = Duration::from_micros(self.average.load(Relaxed).into());
        (average * PATIENCE_TIMES).max(PATIENCE_MIN)
    }
}

impl Live<'_> {
    /// A connect has been begun and is not answered at once.
    pub(super) fn wait_began(&self, now: Moment) {
        let waits = &self.counters.waits;
        let others = waits.count.fetch_add(1, AcqRel);
        if others == 0 {
            waits.silent_since.store(now.as_micros(), Relaxed);
        }
        // What never answered yet is left to probes and ejection.
        if others + 1 >= WAITING_MIN && self.connections_total() > 0 {
            let since = Moment::from_micros(waits.silent_since.load(Relaxed));
            if now.since(since) >= waits.patience() && !self.hot.load().suspected() {
                // This wait ends after it: whoever is last finds the flag.
                self.hot.set_suspected(true);
            }
        }
    }

    /// The connect was answered after all.
    pub(super) fn wait_answered(&self, now: Moment, took: Duration) {
        let waits = &self.counters.waits;
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        let average = waits.average.load(Relaxed);
        // Of two threads that do so at once one may count for nothing.
        let average = if average == 0 {
            took
        } else {
            average - average / 8 + took / 8
        };
        waits.average.store(average, Relaxed);
        waits.silent_since.store(now.as_micros(), Relaxed);
        self.end_suspicion();
    }

    /// However it ended; to be told once of each.
    pub(super) fn wait_ended(&self) {
        if self.counters.waits.count.fetch_sub(1, AcqRel) == 1 {
            self.end_suspicion();
        }
    }

    fn end_suspicion(&self) {
        if self.hot.load().suspected() {
            self.hot.set_suspected(false);
        }
    }
}
