//! Candidates, best first, and the lease that each comes with.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::chance::Chance;
use super::live::Class;
use super::policy::{Field, Seat};
use super::pool::{Member, Pool, Record, Tier, View};
use super::timings::Timed;
use super::traffic::SessionEnd;
use crate::base::clock::Moment;

/// The backends for one client, best first, each once: redispatch and failover are
/// [`Candidates::next`]. Owned, so that a session may keep it while it waits, even through a
/// reload.
#[derive(Clone, Debug)]
pub struct Candidates {
    key: u64,
    tries: u8,
    /// Slots; the first `tries` are those already given out.
    tried: [u32; TRIES_MAX],
}

/// The first try and at most 16 retries (`pool.retries`).
pub const TRIES_MAX: usize = 17;

/// Seats lost to other threads, between choosing and taking, before the tier is searched in order.
const LOST_SEATS_MAX: u32 = 8;

impl Candidates {
    /// `key` is the client's hash ([`HashSeed::source_ip`](super::key::HashSeed::source_ip)).
    pub fn new(key: u64) -> Self {
        Candidates {
            key,
            tries: 0,
            tried: [0; TRIES_MAX],
        }
    }

    /// Backends given out so far.
    pub fn tries(&self) -> u32 {
        u32::from(self.tries)
    }

    /// The best backend not tried yet, counted as active from now on; `None` when every backend is
    /// tried, full or out, when the pool is full, or after [`TRIES_MAX`] tries.
    pub fn next<T>(
        &mut self,
        pool: &Arc<Pool<T>>,
        now: Moment,
        chance: &mut Chance,
    ) -> Option<Lease<T>> {
        let tries = usize::from(self.tries);
        if tries == TRIES_MAX {
            return None;
        }
        let view = pool.view(pool.table.hold(pool.limit)?, now);
        let Some(seat) = self.take_best(pool, &view, chance) else {
            pool.table.let_go();
            return None;
        };
        self.tried[tries] = seat.slot;
        self.tries += 1;
        let lease = Lease {
            pool: Arc::clone(pool),
            index: seat.member.into(),
            waits: AtomicBool::new(false),
        };
        if pool.slots.hot(seat.slot).load().passing() {
            pool.clear_ended(lease.index(), now);
        }
        Some(lease)
    }

    #[inline]
    fn take_best<T>(&self, pool: &Pool<T>, view: &View, chance: &mut Chance) -> Option<Seat> {
        if view.panic {
            return self.take_in_panic(pool, view, chance);
        }
        for class in Class::BY_PREFERENCE {
            for tier in &pool.tiers {
                let field = pool.field(tier, class, self.tried(), view);
                // A policy that takes turns loses one with each choice: not where nobody is
                // suspected, which is nearly always.
                if class == Class::SUSPECTS && !field.has_room() {
                    continue;
                }
                if let Some(seat) = take(tier, &field, self.key, chance) {
                    return Some(tier.seats[seat]);
                }
            }
        }
        None
    }

    /// The load is spread over all of a tier, but not over a tier in which nobody is available
    /// while another has somebody.
    #[cold]
    fn take_in_panic<T>(&self, pool: &Pool<T>, view: &View, chance: &mut Chance) -> Option<Seat> {
        let manned = pool.tiers.iter().filter(|tier| {
            let available = pool.field(tier, Class::AVAILABLE, self.tried(), view);
            available.has_room()
        });
        for tier in manned.chain(&pool.tiers) {
            let field = pool.field(tier, Class::WANTED, self.tried(), view);
            if let Some(seat) = take(tier, &field, self.key, chance) {
                return Some(tier.seats[seat]);
            }
        }
        None
    }

    fn tried(&self) -> &[u32] {
        &self.tried[..usize::from(self.tries)]
    }

    /// Whether [`Candidates::next`] found nobody only because whoever could be taken is full: then
    /// waiting may help.
    pub fn found_all_full<T>(&self, pool: &Pool<T>, now: Moment) -> bool {
        usize::from(self.tries) < TRIES_MAX
            && pool.any_field(self.tried(), now, |field| field.has_anybody())
    }
}

impl<T> Pool<T> {
    /// Whether a client that has tried nobody yet would find a backend.
    pub fn has_room(&self, now: Moment) -> bool {
        self.active() < self.limit && self.any_field(&[], now, |field| field.has_room())
    }

    /// Whether it is so of any tier and class that may be used now.
    fn any_field(&self, tried: &[u32], now: Moment, is_so: impl Fn(&Field<'_>) -> bool) -> bool {
        let view = self.view(self.active(), now);
        let classes = if view.panic {
            &[Class::WANTED][..]
        } else {
            &Class::BY_PREFERENCE
        };
        let mut fields = self.tiers.iter().flat_map(|tier| {
            let field = |&class| self.field(tier, class, tried, &view);
            classes.iter().map(field)
        });
        fields.any(|field| is_so(&field))
    }
}

/// Chooses a seat and takes it; `None` when the tier has none that may be chosen.
fn take(tier: &Tier, field: &Field<'_>, key: u64, chance: &mut Chance) -> Option<usize> {
    for _ in 0..LOST_SEATS_MAX {
        let seat = tier.policy.pick(field, key, chance)?;
        if field.occupy(seat) {
            return Some(seat);
        }
    }
    (0..tier.seats.len()).find(|&seat| field.occupy(seat))
}

/// The right to use one backend, which counts as active until the lease is dropped.
pub struct Lease<T> {
    pool: Arc<Pool<T>>,
    index: u32,
    /// Its connect is under way.
    waits: AtomicBool,
}

impl<T> Lease<T> {
    pub fn pool(&self) -> &Arc<Pool<T>> {
        &self.pool
    }

    /// Index among [`Pool::members`].
    pub fn index(&self) -> usize {
        self.index as usize
    }

    pub fn member(&self) -> &Member<T> {
        &self.pool.members()[self.index()]
    }

    /// The live record of its member, which may have another index in a pool of another
    /// configuration.
    pub fn record(&self) -> Record {
        self.pool.record(self.index())
    }

    /// The connect has been begun and is not answered at once; to be told once at most.
    pub fn connect_waits(&self, now: Moment) {
        let before = self.waits.swap(true, Relaxed);
        debug_assert!(!before, "told once at most");
        self.pool.live(self.index()).wait_began(now);
    }

    /// The connect is over, one way or another.
    fn end_wait(&self) {
        if self.waits.load(Relaxed) && self.waits.swap(false, Relaxed) {
            self.pool.live(self.index()).wait_ended();
        }
    }

    /// The backend accepted, `took` after the connect began; to be told once. Ends its row of
    /// failures.
    pub fn connected(&self, now: Moment, took: Duration) {
        if self.waits.load(Relaxed) {
            self.pool.live(self.index()).wait_answered(now, took);
            self.end_wait();
        }
        self.pool.connected(self.index(), now, took);
    }

    /// The backend refused or did not answer for as long as `took`. Counts, and may eject it.
    pub fn connect_failed(&self, now: Moment, took: Duration) {
        self.pool.connect_failed(self.index(), now, took);
        self.end_wait();
    }

    /// The backend sent its first byte, `took` after it had something to answer, or after the
    /// connect when it speaks first; to be told once.
    pub fn first_byte(&self, now: Moment, took: Duration) {
        self.pool.first_byte(self.index(), now, took);
    }

    /// The session is over; to be told once, of those that were connected. May eject the backend.
    pub fn ended(&self, now: Moment, end: SessionEnd) {
        self.pool.ended(self.index(), now, end);
    }

    /// Adds to the backend's histograms. `worker`: those of different numbers do not slow each
    /// other down.
    #[inline]
    pub fn took(&self, worker: usize, what: Timed, took: Duration) {
        self.pool
            .live(self.index())
            .timings
            .record(worker, what, took);
    }

    pub fn add_bytes(&self, to_backend: u64, to_client: u64) {
        self.pool
            .live(self.index())
            .counters
            .add_bytes(to_backend, to_client);
    }
}

impl<T> Drop for Lease<T> {
    fn drop(&mut self) {
        self.end_wait();
        self.pool.live(self.index()).hot.vacate();
        self.pool.table.let_go();
        self.pool.table.queue().released();
    }
}

impl<T> fmt::Debug for Lease<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("pool", &self.pool.name())
            .field("index", &self.index)
            .finish()
    }
}
