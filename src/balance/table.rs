//! The live records of one pool's backends, which outlive the pool's reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::backend::Verdict;
use super::budget::Budget;
use super::policy::Memory;
use super::queue::Queue;
use super::share::Shares;
use super::slots::{CHUNK_SLOTS, Chunk, Slots};
use crate::base::clock::Moment;

/// Live records of all backends that a pool has or had; one table for each pool, kept as long as
/// the pool's name is in the configuration.
///
/// A [`Pool`](super::pool::Pool) built over the table finds the backends it already knows, by name
/// and address: they keep counters, verdict, wish and ejection. The record of a backend that is in
/// no pool any more is kept until its place is needed for another one; while it is in a pool, or a
/// lease of such a pool is held, its place is its own.
#[derive(Debug, Default)]
pub struct Table {
    book: Mutex<Book>,
    held: Held,
    queue: Arc<Queue>,
    conditions: Conditions,
    budget: Budget,
    /// Held while a backend's state changes, so that a pool's share of ejected backends is exact
    /// and what is worked out from all states is true of some moment. Traffic takes it only for
    /// what may begin or end an ejection or a slow start.
    changing: Mutex<()>,
}

/// What a pick has to know of all backends together. Written when a state changes, read by every
/// pick: on cache lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Conditions {
    /// Until then (in microseconds) some backend's share of its weight is not whole.
    shares_until: AtomicU64,
    /// What the weight of the most preferred counts; 0 stands for 100.
    percent_max: AtomicU32,
    /// Changes of state since the table was made.
    changes: AtomicU64,
}

impl Table {
    pub fn new() -> Arc<Table> {
        Arc::default()
    }

    /// Finds or makes a slot for each member of a new pool, which counts as the newest from now
    /// on. The slots are the pool's until [`Table::leave`].
    pub(super) fn enter<'a>(
        &self,
        members: impl Iterator<Item = (&'a str, &'a str)>,
        probed: bool,
    ) -> (Slots, Vec<u32>) {
        let mut book = self.book();
        book.generation += 1;
        let slots = members
            .map(|(name, identity)| book.enter(name, identity, probed))
            .collect();
        (Slots::new(&book.chunks), slots)
    }

    pub(super) fn leave(&self, slots: impl Iterator<Item = u32>) {
        let mut book = self.book();
        slots.for_each(|slot| book.leave(slot));
    }

    /// A table of its own that says of the same slots what this one says now, as far as a pick
    /// looks at it, and its slots. Nobody waits in its queue. No pool is ever built over it: it
    /// knows no names. To be called under the lock of changes.
    pub(super) fn twin(&self) -> (Arc<Table>, Slots) {
        let book = self.book();
        let chunks: Vec<_> = book.chunks.iter().map(|it| Arc::new(it.twin())).collect();
        let entry = |entry: &Entry| Entry {
            name: "".into(),
            identity: "".into(),
            pools: entry.pools,
            generation: entry.generation,
        };
        let slots = Slots::new(&chunks);
        let twin = Table {
            book: Mutex::new(Book {
                chunks,
                entries: book.entries.iter().map(entry).collect(),
                generation: book.generation,
                ..Book::default()
            }),
            held: Held {
                leases: AtomicU32::new(self.active()),
                spills: AtomicU64::new(0),
            },
            conditions: Conditions {
                shares_until: AtomicU64::new(self.conditions.shares_until.load(Relaxed)),
                percent_max: AtomicU32::new(self.conditions.percent_max.load(Relaxed)),
                changes: AtomicU64::new(self.changes()),
            },
            ..Table::default()
        };
        (Arc::new(twin), slots)
    }

    /// Counts one more pool that has these slots.
    pub(super) fn stay(&self, slots: impl Iterator<Item = u32>) {
        let mut book = self.book();
        slots.for_each(|slot| book.entries[slot as usize].pools += 1);
    }

    /// What the tier of this priority left behind.
    pub(super) fn memory(&self, priority: u16) -> Memory {
        self.book()
            .memories
            .get(&priority)
            .cloned()
            .unwrap_or_default()
    }

    pub(super) fn remember(&self, memories: BTreeMap<u16, Memory>) {
        self.book().memories = memories;
    }

    /// Leases held of all backends, also of those that are in no pool any more.
    pub(super) fn active(&self) -> u32 {
        self.held.leases.load(Relaxed)
    }

    /// Counts one more lease, unless `limit` are held, and says how many there are with it.
    #[inline]
    pub(super) fn hold(&self, limit: u32) -> Option<u32> {
        if limit == u32::MAX {
            return Some(self.held.leases.fetch_add(1, Relaxed) + 1);
        }
        // What is over the limit is never counted: it could keep out one who was called, for whom
        // nobody would call again.
        let one_more = |leases: u32| (leases < limit).then(|| leases + 1);
        let before = self.held.leases.fetch_update(Relaxed, Relaxed, one_more);
        before.ok().map(|before| before + 1)
    }

    #[inline]
    pub(super) fn let_go(&self) {
        let before = self.held.leases.fetch_sub(1, SeqCst);
        debug_assert_ne!(before, 0, "a lease was given back twice");
    }

    /// Counts clients that a bound on the load led to another backend than their hash.
    pub(super) fn spills(&self) -> &AtomicU64 {
        &self.held.spills
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    /// Changes of state happen one after the other.
    pub(super) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be told after a backend's state changed.
    pub(super) fn changed(&self) {
        self.conditions.changes.fetch_add(1, Release);
    }

    /// How often states have changed.
    #[inline]
    pub(super) fn changes(&self) -> u64 {
        self.conditions.changes.load(Acquire)
    }

    /// Which shares of their weights the backends have; `None`, as nearly always: all of it.
    #[inline]
    pub(super) fn shares(&self, slow_start: Duration, now: Moment) -> Option<Shares> {
        if now.as_micros() >= self.conditions.shares_until.load(Relaxed) {
            return None;
        }
        let percent_max = self.conditions.percent_max.load(Relaxed);
        Some(Shares::new(slow_start, percent_max))
    }

    /// A slow start was arranged that ends at `until`. Called under the lock of changes.
    pub(super) fn ramp_until(&self, until: Moment) {
        let shares_until = &self.conditions.shares_until;
        shares_until.fetch_max(until.as_micros(), Relaxed);
    }

    /// Works out again which shares are not whole, of the backends that are in a pool. Called
    /// under the lock of changes.
    pub(super) fn settle_shares(&self, slow_start: Duration) {
        let (mut ramps_until, mut percent_max, mut changed) = (Moment::ZERO, 0, false);
        self.book().for_each_used(|chunk, slot| {
            let word = chunk.hot(slot).load();
            if word.ramps() {
                let end = chunk.counters(slot).ramp_since() + slow_start;
                ramps_until = ramps_until.max(end);
            }
            percent_max = percent_max.max(word.percent());
            changed |= word.percent() != 100;
        });
        let until = if changed {
            u64::MAX
        } else {
            ramps_until.as_micros()
        };
        self.conditions.percent_max.store(percent_max, Relaxed);
        self.conditions.shares_until.store(until, Relaxed);
    }

    /// Every change of the book is complete before anything that could panic.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On cache lines of its own: every lease changes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Held {
    leases: AtomicU32,
    spills: AtomicU64,
}

/// Which slot is whose; read and written when pools come and go only.
#[derive(Debug, Default)]
struct Book {
    chunks: Vec<Arc<Chunk>>,
    /// One for each slot in use so far.
    entries: Vec<Entry>,
    /// By name and identity.
    known: BTreeMap<(Box<str>, Box<str>), u32>,
    /// Slots of no pool; the lowest is reused first, which keeps those in use close together.
    unused: BTreeSet<u32>,
    /// Counts the pools built.
    generation: u64,
    memories: BTreeMap<u16, Memory>,
}

#[derive(Debug)]
struct Entry {
    name: Box<str>,
    identity: Box<str>,
    /// Pools there are with this slot among their members.
    pools: u32,
    /// The newest pool that had it.
    generation: u64,
}

impl Book {
    fn enter(&mut self, name: &str, identity: &str, probed: bool) -> u32 {
        let key = (Box::from(name), Box::from(identity));
        let slot = match self.known.get(&key) {
            Some(&slot) => self.carry_on(slot, probed),
            None => self.begin(key, probed),
        };
        let entry = &mut self.entries[slot as usize];
        debug_assert_eq!((&*entry.name, &*entry.identity), (name, identity));
        entry.pools += 1;
        entry.generation = self.generation;
        self.unused.remove(&slot);
        slot
    }

    /// Keeps what is known of a backend. Only a verdict that no probe kept up with is forgotten:
    /// that of a backend which the pool before did not have, or of a pool without a probe.
    fn carry_on(&self, slot: u32, probed: bool) -> u32 {
        let hot = self.chunks[slot as usize / CHUNK_SLOTS].hot(slot as usize % CHUNK_SLOTS);
        let verdict = hot.load().verdict();
        let absent = self.entries[slot as usize].generation + 1 < self.generation;
        if absent || probed == (verdict == Verdict::Unprobed) {
            hot.set_verdict(first_verdict(probed));
        }
        if absent {
            hot.set_joined(true);
        }
        slot
    }

    fn begin(&mut self, key: (Box<str>, Box<str>), probed: bool) -> u32 {
        let slot = match self.unused.first() {
            Some(&slot) => {
                let old = &self.entries[slot as usize];
                self.known.remove(&(old.name.clone(), old.identity.clone()));
                slot
            }
            None => self.append(),
        };
        let index = slot as usize;
        self.chunks[index / CHUNK_SLOTS].begin(
            index % CHUNK_SLOTS,
            first_verdict(probed),
            // With the first pool all are new, and nobody is spared for the others' sake.
            self.generation > 1,
        );
        let (name, identity) = key.clone();
        self.entries[index] = Entry {
            name,
            identity,
            pools: 0,
            generation: self.generation,
        };
        self.known.insert(key, slot);
        slot
    }

    /// Every slot that is in a pool.
    fn for_each_used(&self, mut look: impl FnMut(&Chunk, usize)) {
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.pools > 0 {
                look(&self.chunks[index / CHUNK_SLOTS], index % CHUNK_SLOTS);
            }
        }
    }

    fn append(&mut self) -> u32 {
        if self.entries.len() == self.chunks.len() * CHUNK_SLOTS {
            self.chunks.push(Arc::new(Chunk::new()));
        }
        let none = Entry {
            name: "".into(),
            identity: "".into(),
            pools: 0,
            generation: 0,
        };
        self.entries.push(none);
        (self.entries.len() - 1) as u32
    }

    fn leave(&mut self, slot: u32) {
        let entry = &mut self.entries[slot as usize];
        debug_assert_ne!(entry.pools, 0);
        entry.pools -= 1;
        if entry.pools == 0 {
            // Leases hold their pool, so the last pool leaves after the last lease.
            debug_assert_eq!(
                self.chunks[slot as usize / CHUNK_SLOTS]
                    .hot(slot as usize % CHUNK_SLOTS)
                    .load()
                    .active(),
                0
            );
            self.unused.insert(slot);
        }
    }
}

fn first_verdict(probed: bool) -> Verdict {
    if probed {
        Verdict::Unchecked
    } else {
        Verdict::Unprobed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(table: &Table, names: &[String]) -> Vec<u32> {
        table
            .enter(names.iter().map(|name| (&**name, "address")), true)
            .1
    }

    fn names(from: usize, n: usize) -> Vec<String> {
        (from..from + n).map(|index| format!("b{index}")).collect()
    }

    #[test]
    fn backends_that_come_and_go_do_not_make_the_table_grow() {
        let table = Table::new();
        let mut before = enter(&table, &names(0, 70));
        for round in 1..100 {
            let now = enter(&table, &names(round * 70, 70));
            assert!(
                now.iter().all(|slot| !before.contains(slot)),
                "in use by the pool before"
            );
            table.leave(before.into_iter());
            before = now;
        }
        let book = table.book();
        assert_eq!(
            (book.entries.len(), book.known.len(), book.chunks.len()),
            (140, 140, 3)
        );
    }

    #[test]
    fn a_slot_stays_while_any_pool_has_it() {
        let table = Table::new();
        let old = enter(&table, &names(0, 2));
        let new = enter(&table, &names(1, 2));
        assert_eq!(new, [old[1], 2]);
        table.leave(old.into_iter());
        assert_eq!(
            enter(&table, &names(7, 2)),
            [0, 3],
            "the one that nobody has, then a new one"
        );
    }

    #[test]
    fn the_slots_of_a_new_pool_lie_in_the_listed_order() {
        let slots = enter(&Table::new(), &names(0, 200));
        assert_eq!(slots, (0..200).collect::<Vec<u32>>());
    }
}
