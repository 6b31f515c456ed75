//! How long what happened at one backend took, recorded by many threads at once.

use std::sync::OnceLock;
use std::time::Duration;

use crate::observe::histogram::{Histogram, Snapshot};

/// What is timed of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// In the queue of the pool; only of those who waited.
    Queue,
    /// From the beginning of the connect that succeeded.
    Connect,
    /// From the connect to the backend's first byte.
    FirstByte,
    /// From the accept of the client to the end.
    Session,
}

/// The durations of one backend, of all threads together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histograms {
    pub queue: Snapshot,
    pub connect: Snapshot,
    pub first_byte: Snapshot,
    pub session: Snapshot,
}

/// Several of each histogram, so that workers rarely write to the same cache line. Made when the
/// first session needs them: a backend that is not used takes no room for them.
#[derive(Debug, Default)]
pub(super) struct Timings([OnceLock<Box<Shard>>; SHARDS]);

/// Up to so many workers write to lines of their own.
const SHARDS: usize = 4;

#[derive(Debug, Default)]
struct Shard {
    connect: Histogram,
    first_byte: Histogram,
    session: Histogram,
    /// Most pools have no queue, or nobody in it.
    queue: OnceLock<Box<Histogram>>,
}

impl Timings {
    #[inline]
    pub(super) fn record(&self, worker: usize, what: Timed, took: Duration) {
        let shard = self.0[worker % SHARDS].get_or_init(Box::default);
        let histogram = match what {
            Timed::Queue => shard.queue.get_or_init(Box::default),
            Timed::Connect => &shard.connect,
            Timed::FirstByte => &shard.first_byte,
            Timed::Session => &shard.session,
        };
        histogram.record(took);
    }

    /// Nobody records meanwhile.
    pub(super) fn reset(&self) {
        for shard in self.shards() {
            shard.connect.reset();
            shard.first_byte.reset();
            shard.session.reset();
            if let Some(queue) = shard.queue.get() {
                queue.reset();
            }
        }
    }

    pub(super) fn merged(&self) -> Histograms {
        let mut all = Histograms::default();
        for shard in self.shards() {
            all.connect.add(&shard.connect.snapshot());
            all.first_byte.add(&shard.first_byte.snapshot());
            all.session.add(&shard.session.snapshot());
            if let Some(queue) = shard.queue.get() {
                all.queue.add(&queue.snapshot());
            }
        }
        all
    }

    fn shards(&self) -> impl Iterator<Item = &Shard> {
        self.0.iter().filter_map(|shard| Some(&**shard.get()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_any_worker_records_is_in_the_whole_and_gone_after_a_reset() {
        let timings = Timings::default();
        assert_eq!(timings.merged(), Histograms::default());
        for worker in 0..9 {
            for (what, ms) in [
                (Timed::Queue, 1),
                (Timed::Connect, 2),
                (Timed::FirstByte, 3),
                (Timed::Session, 4),
            ] {
                timings.record(worker, what, Duration::from_millis(ms));
            }
        }
        let all = timings.merged();
        let each = [&all.queue, &all.connect, &all.first_byte, &all.session];
        assert!(each.iter().all(|one| one.count() == 9));
        let sums = each.map(|one| one.sum().as_millis());
        assert_eq!(sums, [9, 18, 27, 36]);
        timings.reset();
        assert_eq!(timings.merged(), Histograms::default());
    }

    #[test]
    fn a_backend_that_is_not_used_takes_a_cache_line() {
        let timings = Timings::default();
        assert_eq!(timings.shards().count(), 0);
        assert!(size_of::<Timings>() <= 64);
        timings.record(5, Timed::Connect, Duration::ZERO);
        assert_eq!(timings.shards().count(), 1);
    }
}
