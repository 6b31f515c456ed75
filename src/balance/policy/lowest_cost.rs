//! `lowest_cost`: the cheapest that may be chosen; equally cheap ones take turns by weight.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::round_robin::{RoundRobin, Turn};
use super::{Candidate, Chance, Field};

/// What a backend costs, in a unit of the operator's: finite and not below 0. Ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cost {
    /// Of an `f64`; those that are not negative are ordered as their bits are.
    bits: u64,
}

impl Cost {
    pub const FREE: Cost = Cost { bits: 0 };

    /// `None` for what is no cost: negative, infinite or not a number.
    pub fn new(cost: f64) -> Option<Cost> {
        // Adding it makes of -0.0 what equals it.
        let bits = (cost + 0.0).to_bits();
        (cost.is_finite() && cost >= 0.0).then_some(Cost { bits })
    }

    pub fn as_f64(self) -> f64 {
        f64::from_bits(self.bits)
    }
}

/// The seats of a tier, cheapest first.
#[derive(Debug)]
pub(in crate::balance) struct LowestCost {
    levels: Box<[Level]>,
}

/// Neighbouring seats of one cost.
#[derive(Debug)]
struct Level {
    cost: Cost,
    seats: Range<usize>,
    /// `None` for one seat alone.
    turns: Option<RoundRobin>,
}

/// Where each cost's round robin is.
pub(super) type Turns = BTreeMap<Cost, Arc<Turn>>;

impl LowestCost {
    /// Of seats in the order of [`by_cost`].
    pub(super) fn new(seats: &[Candidate<'_>], memory: &Turns) -> Self {
        debug_assert!(seats.is_sorted_by_key(|candidate| candidate.cost));
        let mut levels = Vec::new();
        let mut first = 0;
        for equals in seats.chunk_by(|one, other| one.cost == other.cost) {
            let cost = equals[0].cost;
            let weights: Vec<u16> = equals.iter().map(|one| one.seat.weight).collect();
            let turn = || memory.get(&cost).cloned().unwrap_or_default();
            levels.push(Level {
                cost,
                seats: first..first + equals.len(),
                turns: (equals.len() > 1).then(|| RoundRobin::new(&weights, turn())),
            });
            first += equals.len();
        }
        LowestCost {
            levels: levels.into(),
        }
    }

    /// A dearer one is chosen only when every cheaper one is out or full. One that starts slowly
    /// gives way to its equals only.
    pub(super) fn pick(&self, field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
        self.levels.iter().find_map(|level| {
            let first = level.seats.start;
            match &level.turns {
                None => field.has(first).then_some(first),
                Some(turns) => {
                    let equals = field.part(level.seats.clone());
                    turns.pick(&equals, chance).map(|seat| first + seat)
                }
            }
        })
    }

    /// Whose round robins are at the same places, and go on by themselves.
    pub(super) fn twin(&self) -> Self {
        let level = |level: &Level| Level {
            cost: level.cost,
            seats: level.seats.clone(),
            turns: level.turns.as_ref().map(RoundRobin::twin),
        };
        LowestCost {
            levels: self.levels.iter().map(level).collect(),
        }
    }

    pub(super) fn turns(&self) -> Turns {
        let turns = |level: &Level| Some((level.cost, Arc::clone(level.turns.as_ref()?.turn())));
        self.levels.iter().filter_map(turns).collect()
    }
}

/// Puts seats in the order that [`LowestCost::new`] expects; equals stay in theirs.
pub(super) fn by_cost(seats: &mut [Candidate<'_>]) {
    seats.sort_by_key(|candidate| candidate.cost);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_finite_not_negative_and_ordered_as_numbers() {
        for no_cost in [
            -1.0,
            -f64::MIN_POSITIVE,
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
        ] {
            assert_eq!(Cost::new(no_cost), None);
        }
        assert_eq!(Cost::new(-0.0), Some(Cost::FREE));
        let costs = [0.0, 1e-300, 0.5, 1.0, 1.5, 1e9].map(|cost| Cost::new(cost).unwrap());
        assert!(costs.is_sorted());
        assert_eq!(costs[2].as_f64(), 0.5);
    }
}
