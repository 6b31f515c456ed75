//! `round_robin`: smooth weighted round robin, exact over all threads.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::{Chance, Field, unit_at};

/// Where one tier is in its sequence. Shared by all threads and handed on over reloads. On cache
/// lines of its own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Turn {
    /// Positions claimed since the first pick; never wraps.
    position: AtomicU64,
    /// Turns given away by weight.
    given_away: AtomicU64,
}

/// One period of the sequence that nginx's smooth weighted round robin gives, worked out
/// beforehand; what is left of a pick is to claim a position in it.
#[derive(Debug)]
pub(in crate::balance) struct RoundRobin {
    sequence: Box<[u16]>,
    /// Whether the sequence has the weights' exact proportions.
    exact: bool,
    turn: Arc<Turn>,
}

/// Longest sequence, 32 KiB, unless there are more seats than that. Where the weights add up to
/// more (after division by their common divisor) they are scaled down: a share is then off by at
/// most half of 1/16 384 of the tier, or by less than a whole of it for those that keep the least
/// possible.
const PERIOD_MAX: u64 = 16_384;

/// How far the sequence is searched for somebody who may be chosen: some microseconds at most.
const SEARCH_MAX: u64 = 1024;

/// Claims lost to other threads in one search.
const CLAIMS_MAX: u32 = 64;

impl RoundRobin {
    pub(super) fn new(weights: &[u16], turn: Arc<Turn>) -> Self {
        let (weights, exact) = scaled(weights);
        RoundRobin {
            sequence: smooth(&weights).into(),
            exact,
            turn,
        }
    }

    /// At the same place in the same sequence, and going on by itself.
    pub(super) fn twin(&self) -> Self {
        RoundRobin {
            sequence: self.sequence.clone(),
            exact: self.exact,
            turn: Arc::new(Turn {
                position: AtomicU64::new(self.turn.position.load(Relaxed)),
                given_away: AtomicU64::new(self.turn.given_away.load(Relaxed)),
            }),
        }
    }

    pub(super) fn turn(&self) -> &Arc<Turn> {
        &self.turn
    }

    #[inline]
    pub(super) fn pick(&self, field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
        let position = self.turn.position.fetch_add(1, Relaxed);
        let seat = self.seat(position);
        if field.takes(seat, |units| chance.below(units)) {
            return Some(seat);
        }
        // A scaled sequence would keep what it rounded: with 65 535 out, 1 and 2 would be equals.
        let found = if self.exact {
            self.search(field, chance)
        } else {
            None
        };
        found.or_else(|| self.give_away(field))
    }

    /// Claims every position up to the first whose seat may be chosen: who is out gives up its
    /// own turns, and the others keep theirs to each other in proportion.
    #[cold]
    fn search(&self, field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
        let mut position = self.turn.position.load(Relaxed);
        let length = SEARCH_MAX.min(self.sequence.len() as u64);
        for _ in 0..CLAIMS_MAX {
            let mut takes = |at: u64| field.takes(self.seat(at), |units| chance.below(units));
            let found = (position..position + length).find(|&at| takes(at))?;
            let claim = &self.turn.position;
            match claim.compare_exchange_weak(position, found + 1, Relaxed, Relaxed) {
                Ok(_) => return Some(self.seat(found)),
                Err(moved) => position = moved,
            }
        }
        None
    }

    /// Gives one turn to somebody who may be chosen, by weight. Multiples of the golden ratio visit
    /// the units of the weights as evenly as any sequence does (Knuth, volume 3, section 6.4).
    #[cold]
    fn give_away(&self, field: &Field<'_>) -> Option<usize> {
        field.by_weight(None, |total| {
            let nth = self.turn.given_away.fetch_add(1, Relaxed);
            unit_at(nth.wrapping_mul(0x9e37_79b9_7f4a_7c15), total)
        })
    }

    #[inline]
    fn seat(&self, position: u64) -> usize {
        usize::from(self.sequence[(position % self.sequence.len() as u64) as usize])
    }
}

/// Weights of the same proportions with a bounded sum, each at least 1; and whether the
/// proportions are exact (see [`PERIOD_MAX`] for how nearly they are else).
fn scaled(weights: &[u16]) -> (Vec<u64>, bool) {
    let mut weights: Vec<u64> = weights.iter().map(|&weight| u64::from(weight)).collect();
    debug_assert!(weights.iter().all(|&weight| weight > 0));
    let sum = divide_by_common(&mut weights);
    let exact = sum <= PERIOD_MAX.max(weights.len() as u64);
    if !exact {
        for weight in &mut weights {
            *weight = ((*weight * PERIOD_MAX + sum / 2) / sum).max(1);
        }
        divide_by_common(&mut weights);
    }
    (weights, exact)
}

/// Returns the sum that is left.
fn divide_by_common(weights: &mut [u64]) -> u64 {
    let common = weights.iter().copied().fold(0, common_divisor).max(1);
    weights.iter_mut().for_each(|weight| *weight /= common);
    weights.iter().sum()
}

fn common_divisor(mut a: u64, mut b: u64) -> u64 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}

/// One period of nginx's algorithm: in each step every seat gains its weight, the first of those
/// that have most is chosen and pays the sum of all weights.
///
/// Seats of one weight are chosen in their listed order, over and over; so it is enough to keep
/// one balance for each weight that occurs, that of the seat whose turn is next.
fn smooth(weights: &[u64]) -> Vec<u16> {
    struct Group {
        weight: i64,
        seats: Vec<u16>,
        /// Index into `seats` of the next in turn.
        next: usize,
        /// Times all of `seats` before `next` were chosen, less one round for those from it on.
        rounds: i64,
    }
    let mut groups: Vec<Group> = Vec::new();
    for (seat, &weight) in weights.iter().enumerate() {
        let (seat, weight) = (seat as u16, weight as i64);
        match groups.iter_mut().find(|group| group.weight == weight) {
            Some(group) => group.seats.push(seat),
            None => groups.push(Group {
                weight,
                seats: vec![seat],
                next: 0,
                rounds: 0,
            }),
        }
    }
    let sum: i64 = weights.iter().map(|&weight| weight as i64).sum();
    let step = |time: i64| {
        let balance = |group: &Group| group.weight * time - sum * group.rounds;
        let first = |group: &Group| std::cmp::Reverse(group.seats[group.next]);
        let chosen = groups
            .iter_mut()
            .max_by_key(|group| (balance(group), first(group)))?;
        let seat = chosen.seats[chosen.next];
        chosen.next += 1;
        if chosen.next == chosen.seats.len() {
            chosen.next = 0;
            chosen.rounds += 1;
        }
        Some(seat)
    };
    (1..=sum).map_while(step).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// nginx's algorithm as its source has it (`ngx_http_upstream_get_peer`).
    fn by_the_book(weights: &[u64]) -> Vec<u16> {
        let sum: i64 = weights.iter().map(|&weight| weight as i64).sum();
        let mut current = vec![0_i64; weights.len()];
        (0..sum)
            .map(|_| {
                let mut best = 0;
                for (seat, &weight) in weights.iter().enumerate() {
                    current[seat] += weight as i64;
                    if current[seat] > current[best] {
                        best = seat;
                    }
                }
                current[best] -= sum;
                best as u16
            })
            .collect()
    }

    #[test]
    fn the_sequence_is_that_of_nginx() {
        assert_eq!(smooth(&[5, 1, 1]), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(smooth(&[1, 1, 1]), [0, 1, 2]);
        let mut chance = super::super::Chance::seeded(3);
        for _ in 0..200 {
            let n = 1 + chance.below(12);
            let weights: Vec<u64> = (0..n).map(|_| 1 + u64::from(chance.below(9))).collect();
            assert_eq!(smooth(&weights), by_the_book(&weights), "{weights:?}");
        }
    }

    #[test]
    fn weights_are_divided_by_what_they_have_in_common() {
        assert_eq!(scaled(&[100, 200, 300]), (vec![1, 2, 3], true));
        assert_eq!(scaled(&[65_535; 4]), (vec![1; 4], true));
    }

    #[test]
    fn a_long_period_is_scaled_and_nobody_loses_the_last_turn() {
        assert_eq!(scaled(&[65_535, 32_767, 1]), (vec![10_923, 5461, 1], false));
        let many: Vec<u16> = (1..=4096).collect();
        let (scaled, exact) = scaled(&many);
        assert!(!exact);
        assert!(scaled.iter().all(|&weight| weight >= 1));
        assert!(scaled.iter().sum::<u64>() <= PERIOD_MAX + 4096);
    }
}
