//! `least_connections`: the backend with the least load for its weight; ties are drawn.

use std::cmp::Ordering;

use super::{Chance, Field, Load};

/// Reads every seat once, and up to once more to find the drawn one of several equals; so chance
/// is asked once per pick, not once per equal.
pub(super) fn pick(field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
    let mut best: Option<(usize, Load)> = None;
    let mut equals = 0;
    for seat in 0..field.len() {
        let Some(active) = field.active(seat) else {
            continue;
        };
        let load = Load::new(active, field.weight(seat));
        let order = best.map_or(Ordering::Less, |(_, least)| load.cmp(least));
        match order {
            Ordering::Less => {
                best = Some((seat, load));
                equals = 1;
            }
            Ordering::Equal => equals += 1,
            Ordering::Greater => {}
        }
    }
    let (first, least) = best?;
    if equals == 1 {
        return Some(first);
    }
    let drawn = chance.below(equals) as usize;
    let mut as_good = (first..field.len()).filter(|&seat| {
        let active = field.active(seat);
        active.is_some_and(|active| Load::new(active, field.weight(seat)).cmp(least).is_eq())
    });
    // Other threads may have taken some in between; then the first one found is still as good.
    Some(as_good.nth(drawn).unwrap_or(first))
}
