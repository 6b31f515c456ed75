//! Draws by weight, shared by the policies that leave the choice to chance.

use super::{Chance, Field, unit_at};

/// Walker's alias table in whole numbers (Vose's construction), so that a draw costs the same for
/// any number of backends and is exact: no weight is rounded.
///
/// Each seat has a column of as many units as all weights together. The units below `own` are its
/// own, the others belong to `alias`; over all columns each seat has units in proportion to its
/// weight.
#[derive(Clone, Debug)]
pub(in crate::balance) struct Draw {
    columns: Box<[Column]>,
    /// Units of a column; fits 32 bits because a tier has at most 65 535 seats.
    units: u32,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    own: u32,
    alias: u16,
}

/// Draws before the eligible are counted out. With half of the weight eligible one pick in 65 536
/// comes to that, with a tenth one in five.
const DRAWS_MAX: u32 = 16;

impl Draw {
    pub(super) fn new(weights: &[u16]) -> Self {
        debug_assert!(weights.iter().all(|&weight| weight > 0));
        let units = weights.iter().map(|&weight| u64::from(weight)).sum::<u64>();
        let mut shares: Vec<u64> = weights
            .iter()
            .map(|&weight| u64::from(weight) * weights.len() as u64)
            .collect();
        let mut columns: Vec<Column> = (0..weights.len())
            .map(|seat| Column {
                own: narrow(units),
                alias: seat as u16,
            })
            .collect();
        let (mut small, mut large): (Vec<usize>, Vec<usize>) =
            (0..weights.len()).partition(|&seat| shares[seat] < units);
        // The sum of the shares left is always `units` times the columns left, so a column that
        // lacks units finds another that has them to spare.
        while let Some(lacking) = small.pop() {
            let Some(&sparing) = large.last() else {
                debug_assert!(false, "the shares do not add up");
                break;
            };
            columns[lacking] = Column {
                own: narrow(shares[lacking]),
                alias: sparing as u16,
            };
            shares[sparing] -= units - shares[lacking];
            if shares[sparing] < units {
                large.pop();
                small.push(sparing);
            }
        }
        Draw {
            columns: columns.into(),
            units: narrow(units),
        }
    }

    /// A seat of the field, but not `except`, drawn by weight among those that may be chosen.
    #[inline]
    pub(super) fn eligible(
        &self,
        field: &Field<'_>,
        except: Option<usize>,
        chance: &mut Chance,
    ) -> Option<usize> {
        debug_assert_eq!(field.len(), self.columns.len());
        for _ in 0..DRAWS_MAX {
            let seat = self.any(chance);
            if Some(seat) != except && field.takes(seat, |units| chance.below(units)) {
                return Some(seat);
            }
        }
        field.by_weight(except, |total| unit_at(chance.next_u64(), total))
    }

    #[inline]
    fn any(&self, chance: &mut Chance) -> usize {
        let seat = chance.below(self.columns.len() as u32) as usize;
        let column = self.columns[seat];
        if chance.below(self.units) < column.own {
            seat
        } else {
            usize::from(column.alias)
        }
    }
}

fn narrow(units: u64) -> u32 {
    debug_assert!(u32::try_from(units).is_ok(), "more than 65 535 seats");
    u32::try_from(units).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seat_has_units_in_exact_proportion_to_its_weight() {
        for weights in [
            vec![1],
            vec![1, 1],
            vec![1, 2, 3],
            vec![65_535, 1, 7, 7, 300],
            { (1..=1000).collect::<Vec<u16>>() },
        ] {
            let draw = Draw::new(&weights);
            let mut units = vec![0_u64; weights.len()];
            for (seat, column) in draw.columns.iter().enumerate() {
                units[seat] += u64::from(column.own);
                units[usize::from(column.alias)] += u64::from(draw.units - column.own);
            }
            let n = weights.len() as u64;
            let ideal: Vec<u64> = weights
                .iter()
                .map(|&weight| u64::from(weight) * n)
                .collect();
            assert_eq!(units, ideal);
        }
    }
}
