//! Where a listener's clients go, and what is counted of them.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::admission::Gate;
use crate::balance::key::{HashKey, HashSeed};
use crate::balance::pool::Pool;
use crate::base::addr::{ClientAddr, Endpoint};
use crate::base::ending::Termination;
use crate::config::settings::{Drain, Queue};

/// One listener as a snapshot has it. Sessions keep the route they began with.
#[derive(Debug)]
pub struct Route {
    pub listener: String,
    pub limits: Limits,
    pub gate: Gate,
    /// For those that no rule fits.
    pub upstream: Option<Arc<Upstream>>,
    pub tally: Arc<Tally>,
}

/// Zero means none, for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    pub max_connections: u32,
    /// Longest silence in both directions.
    pub idle: Duration,
    /// Longest silence once one side has closed.
    pub half_close: Duration,
    pub lifetime: Duration,
}

/// A pool and how its backends are connected to.
#[derive(Debug)]
pub struct Upstream {
    pub pool: Arc<Pool<Endpoint>>,
    /// For all tries of one client together.
    pub connect_timeout: Duration,
    /// Further backends tried after the first.
    pub retries: u32,
    /// Percent of the pool's connections, see [`Budget`](crate::balance::budget::Budget).
    pub retry_budget: u32,
    pub queue: Queue,
    pub drain: Drain,
    /// Idle sessions moved each second when a backend comes; 0 = none.
    pub rebalance: u32,
    pub seed: HashSeed,
    /// What of a client the hash is taken of.
    pub hash_key: HashKey,
    /// The same pool as the newest configuration has it.
    pub newest: Arc<Newest>,
}

/// Leads from an upstream of an older snapshot to that of the newest one, for clients that waited
/// through a reload. Never locked for longer than a copy takes.
#[derive(Debug, Default)]
pub struct Newest(Mutex<Weak<Upstream>>);

impl Newest {
    pub fn set(&self, upstream: &Arc<Upstream>) {
        *self.lock() = Arc::downgrade(upstream);
    }

    /// `None` when the pool is in no configuration any more.
    fn find(&self) -> Option<Arc<Upstream>> {
        self.lock().upgrade()
    }

    fn lock(&self) -> MutexGuard<'_, Weak<Upstream>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Upstream {
    /// This pool as it is configured now.
    pub(super) fn newest(self: &Arc<Self>) -> Arc<Upstream> {
        self.newest.find().unwrap_or_else(|| self.clone())
    }

    /// What a hash policy goes by. Clients on unix sockets are all one source.
    pub fn key(&self, client: ClientAddr) -> u64 {
        match client {
            // No listener reads the name a client asks for yet; the configuration says so.
            ClientAddr::Ip(addr) => self.seed.key(self.hash_key, addr, None),
            ClientAddr::Unix => 0,
        }
    }
}

/// Live counters of one listener name; they outlive reloads.
#[derive(Debug)]
pub struct Tally {
    active: AtomicU32,
    total: AtomicU64,
    /// By `Termination as usize`.
    ended: [AtomicU64; Termination::ALL.len()],
    accept_errors: AtomicU64,
}

impl Tally {
    pub fn new() -> Self {
        Tally {
            active: AtomicU32::new(0),
            total: AtomicU64::new(0),
            ended: [const { AtomicU64::new(0) }; Termination::ALL.len()],
            accept_errors: AtomicU64::new(0),
        }
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    pub fn ended(&self, termination: Termination) -> u64 {
        self.ended[termination as usize].load(Relaxed)
    }

    pub fn accept_errors(&self) -> u64 {
        self.accept_errors.load(Relaxed)
    }

    pub fn count_accept_error(&self) {
        self.accept_errors.fetch_add(1, Relaxed);
    }

    pub(super) fn count_arrival(&self) {
        self.total.fetch_add(1, Relaxed);
    }

    /// Counts one more connection, unless there are `max`; 0 = no limit.
    pub(super) fn take_place(&self, max: u32) -> bool {
        take_one(&self.active, if max == 0 { u32::MAX } else { max })
    }

    pub(super) fn give_back_place(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    pub(super) fn count_end(&self, termination: Termination) {
        self.ended[termination as usize].fetch_add(1, Relaxed);
    }
}

impl Default for Tally {
    fn default() -> Self {
        Tally::new()
    }
}

/// Client connections of the whole process.
#[derive(Debug)]
pub struct ProcessCount {
    active: AtomicU32,
    max: AtomicU32,
}

impl ProcessCount {
    pub fn new(max: u32) -> Self {
        ProcessCount {
            active: AtomicU32::new(0),
            max: AtomicU32::new(max),
        }
    }

    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    /// Counts one more connection, unless there are as many as there may be.
    pub(super) fn take_place(&self) -> bool {
        take_one(&self.active, self.max())
    }

    pub(super) fn give_back_place(&self) {
        self.active.fetch_sub(1, Relaxed);
    }

    pub fn max(&self) -> u32 {
        self.max.load(Relaxed)
    }

    pub fn set_max(&self, max: u32) {
        self.max.store(max, Relaxed);
    }
}

/// Workers count at the same time: what is over the limit is never counted, not even for a moment
/// in which it could keep another out.
fn take_one(active: &AtomicU32, max: u32) -> bool {
    let one_more = |count: u32| (count < max).then(|| count + 1);
    active.fetch_update(Relaxed, Relaxed, one_more).is_ok()
}
