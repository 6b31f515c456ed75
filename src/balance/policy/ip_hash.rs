//! `ip_hash`: Maglev hashing of the client's key (Eisenbud and others, NSDI 2016, section 3.4).

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::{Candidate, Field, unit_at};
use crate::balance::key::{HashSeed, Subject, rehash};

/// A table that gives each of its slots to one seat, in proportion to the weights.
///
/// It depends on names, weights and the seed alone, so instances agree on every client's backend,
/// also when they list them in different orders: the seats are [sorted](by_name). It says nothing of
/// who is up; a client whose seat may not be chosen, or is above the bound on the load, hashes
/// again, so that one seat that goes moves only its own clients, spread over the others by weight.
pub(in crate::balance) struct Maglev {
    slots: Box<[u16]>,
    /// What the table was built from.
    names: Box<[Box<str>]>,
    weights: Box<[u16]>,
    seed: HashSeed,
}

/// A prime, and the paper's small table: a hundred times as many as there are seats, for up to 655
/// seats, keep equal seats within 1 % of each other.
const SLOTS: usize = 65_537;

/// Further hashes of a client before the eligible are counted out. With half of the weight
/// eligible it never comes to that, with a tenth for one client in thirty.
const REHASHES_MAX: u32 = 32;

const EMPTY: u16 = u16::MAX;

impl Maglev {
    pub(super) fn new(names: &[&str], weights: &[u16], seed: &HashSeed) -> Self {
        debug_assert!(names.len() == weights.len() && names.len() <= usize::from(EMPTY));
        debug_assert!(names.is_sorted());
        Maglev {
            slots: fill(names, weights, seed),
            names: names.iter().map(|&name| name.into()).collect(),
            weights: weights.into(),
            seed: seed.clone(),
        }
    }

    /// Whether building it anew would give the same table.
    pub(super) fn is_of(&self, names: &[&str], weights: &[u16], seed: &HashSeed) -> bool {
        *self.weights == *weights
            && self.seed == *seed
            && self
                .names
                .iter()
                .map(|name| &**name)
                .eq(names.iter().copied())
    }

    #[inline]
    pub(super) fn pick(&self, field: &Field<'_>, key: u64) -> Option<usize> {
        let seat = self.owner(key);
        if field.has_bound(seat) && takes(field, seat, key) {
            Some(seat)
        } else {
            self.pick_next(field, key)
        }
    }

    /// Chooses within the bound on the load, if there is one; beyond it only when that leaves
    /// nobody, so that nobody is refused for its sake.
    #[cold]
    fn pick_next(&self, field: &Field<'_>, key: u64) -> Option<usize> {
        let free = Field {
            bound: None,
            ..*field
        };
        let unbound = self.walk(&free, key)?;
        let Some(bound) = field.bound.filter(|_| !field.has_bound(unbound)) else {
            return Some(unbound);
        };
        let spilled = self.walk(field, key);
        if spilled.is_some() {
            bound.count_spill();
        }
        spilled.or(Some(unbound))
    }

    fn walk(&self, field: &Field<'_>, mut key: u64) -> Option<usize> {
        for _ in 0..=REHASHES_MAX {
            let seat = self.owner(key);
            if field.has_bound(seat) && takes(field, seat, key) {
                return Some(seat);
            }
            key = rehash(key);
        }
        field.by_weight(None, |total| unit_at(key, total))
    }

    #[inline]
    fn owner(&self, key: u64) -> usize {
        usize::from(self.slots[(key % SLOTS as u64) as usize])
    }
}

/// Whether a seat that does not take all of its clients takes this one: always the same ones, and
/// more of them as its share grows, so that clients come back one by one.
#[inline]
fn takes(field: &Field<'_>, seat: usize, key: u64) -> bool {
    field.takes(seat, |units| unit_at(rehash(!key), units.into()) as u32)
}

/// Puts seats in the order that [`Maglev::new`] expects.
pub(super) fn by_name(seats: &mut [Candidate<'_>]) {
    seats.sort_by_key(|candidate| candidate.name);
}

impl std::fmt::Debug for Maglev {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maglev")
            .field("seats", &self.names.len())
            .finish_non_exhaustive()
    }
}

/// Seats take turns, each as often as its weight says, and take in each turn the next free slot of
/// their own permutation of the table.
fn fill(names: &[&str], weights: &[u16], seed: &HashSeed) -> Box<[u16]> {
    let mut walks: Vec<Walk> = names.iter().map(|name| Walk::new(name, seed)).collect();
    let mut turns: BinaryHeap<Reverse<Turn>> = weights
        .iter()
        .enumerate()
        .map(|(seat, &weight)| Reverse(Turn::first(seat, weight)))
        .collect();
    let mut slots = vec![EMPTY; SLOTS];
    for _ in 0..SLOTS {
        let Some(mut top) = turns.peek_mut() else {
            break;
        };
        let Reverse(turn) = &mut *top;
        let free = walks[turn.seat].next_free(&slots);
        slots[free] = turn.seat as u16;
        turn.advance(weights[turn.seat]);
    }
    slots.into()
}

/// A seat's permutation of the table: from its start on, in strides that reach every slot because
/// the number of slots is prime.
struct Walk {
    at: usize,
    stride: usize,
}

impl Walk {
    fn new(name: &str, seed: &HashSeed) -> Self {
        let start = seed.of(Subject::TurnStart, name.as_bytes());
        let stride = seed.of(Subject::TurnStride, name.as_bytes());
        Walk {
            at: (start % SLOTS as u64) as usize,
            stride: (stride % (SLOTS as u64 - 1)) as usize + 1,
        }
    }

    /// Ends because the caller stops when the table is full.
    fn next_free(&mut self, slots: &[u16]) -> usize {
        loop {
            let at = self.at;
            self.at += self.stride;
            if self.at >= SLOTS {
                self.at -= SLOTS;
            }
            if slots[at] == EMPTY {
                return at;
            }
        }
    }
}

/// When a seat takes its next turn: the turn numbered `k` at (k + ½) / weight, so that equal
/// weights alternate and small ones are not all served last.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    due: u64,
    seat: usize,
    number: u64,
}

impl Turn {
    fn first(seat: usize, weight: u16) -> Self {
        Turn {
            due: Turn::due(0, weight),
            seat,
            number: 0,
        }
    }

    fn advance(&mut self, weight: u16) {
        self.number += 1;
        self.due = Turn::due(self.number, weight);
    }

    /// In units of 2⁻³³; turns are numbered to 65 537, so it fits 64 bits and the quotients of
    /// any two weights stay apart.
    fn due(number: u64, weight: u16) -> u64 {
        ((2 * number + 1) << 32) / u64::from(weight)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(maglev: &Maglev, n: usize) -> Vec<usize> {
        let mut counts = vec![0; n];
        maglev
            .slots
            .iter()
            .for_each(|&seat| counts[usize::from(seat)] += 1);
        counts
    }

    #[test]
    fn slots_are_shared_in_proportion_to_the_weights() {
        let seed = HashSeed::new("lbd");
        let equal = Maglev::new(&["a", "b", "c", "d", "e", "f", "g"], &[9; 7], &seed);
        assert!(
            counts(&equal, 7)
                .iter()
                .all(|count| (9362..=9363).contains(count))
        );
        let graded = Maglev::new(&["a", "b", "c"], &[1, 2, 3], &seed);
        for (count, ideal) in counts(&graded, 3)
            .iter()
            .zip([10_923, 21_846, 32_769_usize])
        {
            assert!(count.abs_diff(ideal) <= 2, "{count} for {ideal}");
        }
        let steep = Maglev::new(&["a", "b"], &[65_535, 1], &seed);
        assert_eq!(counts(&steep, 2), [65_536, 1]);
    }

    #[test]
    fn the_table_of_a_name_and_seed_never_changes() {
        // Worked out by a second implementation: other versions must agree with it.
        let maglev = Maglev::new(&["a", "b", "c"], &[1, 2, 3], &HashSeed::new("lbd"));
        let mut digest = 0_u64;
        for &seat in &maglev.slots {
            digest = rehash(digest ^ u64::from(seat));
        }
        assert_eq!(digest, 13_641_417_981_318_885_320);
    }
}
