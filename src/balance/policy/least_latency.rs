//! `least_latency`: the backend with the least latency × (connections + 1) / weight.
//!
//! The latency is a [peak-sensitive moving average](crate::balance::latency) of the time to the
//! first byte. A backend of which nothing is known is taken to be like the mean of its tier: at
//! nought, all clients would be sent there at once.

use super::ties::Equals;
use super::{Chance, Field};
use crate::balance::latency::{Average, Epoch};

pub(super) fn pick(field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
    let (chosen, missing) = scan(field, chance);
    if missing && estimate_missing(field) {
        return scan(field, chance).0;
    }
    chosen
}

/// The choice, and whether anybody in question was taken on no knowledge.
fn scan(field: &Field<'_>, chance: &mut Chance) -> (Option<usize>, bool) {
    match field.shares {
        None => scan_by(field, chance, |seat, _| f64::from(field.seats[seat].weight)),
        Some(_) => scan_by(field, chance, |seat, word| {
            field.units_of(&field.seats[seat], word) as f64
        }),
    }
}

#[inline(never)] // The loop needs the registers for itself.
fn scan_by(
    field: &Field<'_>,
    chance: &mut Chance,
    weight: impl Fn(usize, super::Word) -> f64,
) -> (Option<usize>, bool) {
    let epoch = Epoch::of(field.now);
    // The least so far: its latency times connections, and its weight; compared as quotients.
    let (mut cost, mut per) = (f64::INFINITY, 1.0);
    let mut chosen = None;
    let mut missing = false;
    let mut equals = Equals::NONE;
    for (first, hot, seats) in field.runs() {
        let latencies = field.slots.latencies(seats[0].slot, seats.len());
        for (index, (hot, latency)) in hot.iter().zip(latencies).enumerate() {
            let word = hot.load();
            let average = latency.load();
            let latency = if average.is_known() {
                average.relative(epoch)
            } else {
                missing = true;
                1.0
            };
            let mine = latency * (f64::from(word.active()) + 1.0);
            let weight = weight(first + index, word);
            let (left, right) = (mine * per, cost * weight);
            if left > right || !field.admits(&seats[index], word) {
                continue;
            }
            if left < right || chosen.is_none() {
                (cost, per, chosen, equals) = (mine, weight, Some(first + index), Equals::NONE);
            } else if equals.replaces(chance) {
                chosen = Some(first + index);
            }
        }
    }
    (chosen, missing)
}

/// Gives all of the tier that lack one an average; false when nobody has one, and all are equal.
#[cold]
fn estimate_missing(field: &Field<'_>) -> bool {
    let all = || {
        field
            .seats
            .iter()
            .map(|seat| field.slots.latency(seat.slot))
    };
    let Some(mean) = Average::mean(all().map(|latency| latency.load())) else {
        return false;
    };
    all().for_each(|latency| latency.estimate(mean));
    true
}
