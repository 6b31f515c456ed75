//! The live records of one pool's backends, which outlive the pool's reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backend::Verdict;
use super::budget::Budget;
use super::policy::Memory;
use super::queue::Queue;
use super::slots::{CHUNK_SLOTS, Chunk, Slots};

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
    budget: Budget,
    /// Held while ejections begin or are cleared, so that a pool's share of ejected backends is
    /// exact. Taken only on connect failures and successes that may change one.
    ejecting: Mutex<()>,
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
        self.held.0.load(Relaxed)
    }

    /// Counts one more lease, unless `limit` are held.
    #[inline]
    pub(super) fn hold(&self, limit: u32) -> bool {
        let before = self.held.0.fetch_add(1, Relaxed);
        if before >= limit {
            self.held.0.fetch_sub(1, Relaxed);
        }
        before < limit
    }

    #[inline]
    pub(super) fn let_go(&self) {
        let before = self.held.0.fetch_sub(1, SeqCst);
        debug_assert_ne!(before, 0, "a lease was given back twice");
    }

    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    pub(super) fn budget(&self) -> &Budget {
        &self.budget
    }

    pub(super) fn ejecting(&self) -> MutexGuard<'_, ()> {
        self.ejecting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every change of the book is complete before anything that could panic.
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On cache lines of its own: every lease changes it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Held(AtomicU32);

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
        self.chunks[index / CHUNK_SLOTS].begin(index % CHUNK_SLOTS, first_verdict(probed));
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
