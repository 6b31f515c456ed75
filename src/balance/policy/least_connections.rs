//! `least_connections`: the backend with the least load for its weight; ties are drawn.

use super::ties::Equals;
use super::{Chance, Field, Load, Seat, Word};

pub(super) fn pick(field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
    match field.shares {
        None => scan(field, chance, |seat, _| u64::from(seat.weight)),
        Some(_) => scan(field, chance, |seat, word| field.units_of(seat, word)),
    }
}

/// Reads every seat once. Most are passed by for their count alone; only of the few that would be
/// chosen for it is asked whether they may be.
#[inline(never)] // The loop needs the registers for itself.
fn scan(
    field: &Field<'_>,
    chance: &mut Chance,
    weight: impl Fn(&Seat, Word) -> u64,
) -> Option<usize> {
    let mut least = Load::MAX;
    let mut chosen = None;
    let mut equals = Equals::NONE;
    for (first, hot, seats) in field.runs() {
        for (index, (hot, seat)) in hot.iter().zip(seats).enumerate() {
            let word = hot.load();
            let load = Load::new(word.active(), weight(seat, word));
            let order = load.cmp(least);
            if order.is_gt() || !field.admits(seat, word) {
                continue;
            }
            if order.is_lt() {
                (least, chosen, equals) = (load, Some(first + index), Equals::NONE);
            } else if equals.replaces(chance) {
                chosen = Some(first + index);
            }
        }
    }
    chosen
}
