//! Candidates, best first, and the lease that each comes with.

use std::fmt;
use std::sync::Arc;

use super::chance::Chance;
use super::live::Class;
use super::policy::Field;
use super::pool::{Member, Pool, Tier};
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
        if tries == TRIES_MAX || !pool.table.hold(pool.limit) {
            return None;
        }
        for class in Class::BY_PREFERENCE {
            for tier in &pool.tiers {
                let field = Field {
                    seats: &tier.seats,
                    runs: &tier.runs,
                    slots: &pool.slots,
                    tried: &self.tried[..tries],
                    class,
                    now,
                };
                if let Some(seat) = take(tier, &field, self.key, chance) {
                    let seat = tier.seats[seat];
                    self.tried[tries] = seat.slot;
                    self.tries += 1;
                    let lease = Lease {
                        pool: Arc::clone(pool),
                        index: seat.member.into(),
                    };
                    if pool.slots.hot(seat.slot).load().ejected() {
                        pool.clear_ended_ejection(lease.index(), now);
                    }
                    return Some(lease);
                }
            }
        }
        pool.table.let_go();
        None
    }

    /// Whether [`Candidates::next`] found nobody only because whoever could be taken is full: then
    /// waiting may help.
    pub fn found_all_full<T>(&self, pool: &Pool<T>, now: Moment) -> bool {
        let tried = &self.tried[..usize::from(self.tries)];
        tried.len() < TRIES_MAX
            && pool.tiers.iter().any(|tier| {
                Class::BY_PREFERENCE.iter().any(|&class| {
                    let field = Field {
                        seats: &tier.seats,
                        runs: &tier.runs,
                        slots: &pool.slots,
                        tried,
                        class,
                        now,
                    };
                    field.has_anybody()
                })
            })
    }
}

impl<T> Pool<T> {
    /// Whether a client that has tried nobody yet would find a backend.
    pub fn has_room(&self, now: Moment) -> bool {
        self.active() < self.limit
            && self.tiers.iter().any(|tier| {
                Class::BY_PREFERENCE.iter().any(|&class| {
                    let field = Field {
                        seats: &tier.seats,
                        runs: &tier.runs,
                        slots: &self.slots,
                        tried: &[],
                        class,
                        now,
                    };
                    field.has_room()
                })
            })
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

    /// Whether the lease is of this member, by its live record: in a pool of another configuration
    /// it may have another index.
    pub fn is_of(&self, pool: &Pool<T>, index: usize) -> bool {
        self.pool.record(self.index()) == pool.record(index)
    }

    /// The backend accepted; to be told once. Ends its row of failures.
    pub fn connected(&self) {
        self.pool.live(self.index()).counters.connected();
    }

    /// The backend refused or did not answer. Counts, and may eject it.
    pub fn connect_failed(&self, now: Moment) {
        self.pool.connect_failed(self.index(), now);
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
