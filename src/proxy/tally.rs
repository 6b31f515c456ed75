//! What is counted of a listener's clients.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::route::take_one;
use crate::base::ending::{RelayPath, Termination};
use crate::net::listen::AcceptFault;
use crate::tls::fault::Kind;

/// Live counters of one listener name; they outlive reloads.
#[derive(Debug, Default)]
pub struct Tally {
    active: AtomicU32,
    total: AtomicU64,
    /// By the name of the pool. Locked when a plan is made and when somebody looks; sessions count
    /// in the [`Ends`] of their route.
    ended: Mutex<BTreeMap<String, Arc<EndCounts>>>,
    /// By `AcceptFault as usize`.
    accept_errors: [AtomicU64; AcceptFault::ALL.len()],
    /// TLS 1.2 full and resumed, TLS 1.3 full and resumed.
    handshakes: [AtomicU64; 4],
    /// By `Kind as usize`.
    failed_handshakes: [AtomicU64; Kind::ALL.len()],
}

/// TLS handshakes of a listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handshakes {
    pub full_12: u64,
    pub resumed_12: u64,
    pub full_13: u64,
    pub resumed_13: u64,
    pub failed: u64,
}

/// How the sessions of one listener ended whose clients went to one pool, or to none.
#[derive(Debug, Default)]
pub struct EndCounts(
    /// By `Termination as usize`.
    [AtomicU64; Termination::ALL.len()],
);

/// Where a route counts how its sessions end.
#[derive(Debug, Default)]
pub struct Ends {
    no_pool: Arc<EndCounts>,
    pools: HashMap<String, Arc<EndCounts>>,
}

/// Bytes that one worker relayed, both ways together.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Relayed(
    /// By `RelayPath as usize`.
    [AtomicU64; RelayPath::ALL.len()],
);

impl Tally {
    pub fn active(&self) -> u32 {
        self.active.load(Relaxed)
    }

    pub fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// For each pool that clients went to (none = "") the terminations that there were.
    pub fn ended(&self) -> BTreeMap<String, Vec<(Termination, u64)>> {
        let by_pool = self.lock();
        let seen = by_pool.iter().map(|(pool, counts)| {
            let counts = Termination::ALL.map(|word| (word, counts.get(word)));
            let seen = counts.into_iter().filter(|(_, count)| *count > 0).collect();
            (pool.clone(), seen)
        });
        seen.filter(|(_, counts): &(_, Vec<_>)| !counts.is_empty())
            .collect()
    }

    /// Where a new route to these pools counts.
    pub fn ends<'p>(&self, pools: impl Iterator<Item = &'p str>) -> Ends {
        let mut by_pool = self.lock();
        let mut of = |pool: &str| by_pool.entry(pool.to_owned()).or_default().clone();
        Ends {
            no_pool: of(""),
            pools: pools.map(|pool| (pool.to_owned(), of(pool))).collect(),
        }
    }

    /// Forgets the ends in pools that are not configured any more.
    pub fn forget_pools(&self, exists: impl Fn(&str) -> bool) {
        self.lock()
            .retain(|pool, _| pool.is_empty() || exists(pool));
    }

    pub fn accept_errors(&self, fault: AcceptFault) -> u64 {
        self.accept_errors[fault as usize].load(Relaxed)
    }

    pub fn count_accept_error(&self, fault: AcceptFault) {
        self.accept_errors[fault as usize].fetch_add(1, Relaxed);
    }

    pub fn handshakes(&self) -> Handshakes {
        let [full_12, resumed_12, full_13, resumed_13] =
            [0, 1, 2, 3].map(|kind: usize| self.handshakes[kind].load(Relaxed));
        let failed = Kind::ALL.map(|kind| self.failed_handshakes(kind));
        Handshakes {
            full_12,
            resumed_12,
            full_13,
            resumed_13,
            failed: failed.iter().sum(),
        }
    }

    pub fn failed_handshakes(&self, kind: Kind) -> u64 {
        self.failed_handshakes[kind as usize].load(Relaxed)
    }

    pub(super) fn count_handshake(&self, version: &str, resumed: bool) {
        let kind = usize::from(version == "1.3") * 2 + usize::from(resumed);
        self.handshakes[kind].fetch_add(1, Relaxed);
    }

    pub(super) fn count_failed_handshake(&self, kind: Kind) {
        self.failed_handshakes[kind as usize].fetch_add(1, Relaxed);
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

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Arc<EndCounts>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl EndCounts {
    fn get(&self, termination: Termination) -> u64 {
        self.0[termination as usize].load(Relaxed)
    }
}

impl Ends {
    /// `pool`: where the client went; "" = nowhere.
    pub(super) fn count(&self, pool: &str, termination: Termination) {
        let counts = self.pools.get(pool).unwrap_or(&self.no_pool);
        counts.0[termination as usize].fetch_add(1, Relaxed);
    }
}

impl Relayed {
    pub fn bytes(&self, path: RelayPath) -> u64 {
        self.0[path as usize].load(Relaxed)
    }

    pub(super) fn add(&self, path: RelayPath, bytes: u64) {
        self.0[path as usize].fetch_add(bytes, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_counted_on_over_a_reload_while_the_pool_is_there() {
        let tally = Tally::default();
        let old = tally.ends(["a", "b"].into_iter());
        old.count("a", Termination::ClientClosed);
        old.count("b", Termination::Killed);
        old.count("", Termination::Denied);
        tally.forget_pools(|pool| pool == "a");
        let new = tally.ends(["a"].into_iter());
        // Sessions of the old route still end.
        old.count("a", Termination::ClientClosed);
        old.count("b", Termination::Killed);
        new.count("a", Termination::Internal);
        let ended = tally.ended();
        assert_eq!(
            ended["a"],
            [(Termination::ClientClosed, 2), (Termination::Internal, 1)]
        );
        assert_eq!(ended[""], [(Termination::Denied, 1)]);
        assert_eq!(ended.len(), 2, "b is in no configuration any more");
    }
}
