//! `failover`: the first in the listed order that may be chosen.

use super::{Chance, Field};

/// One that starts slowly lets the next in the order have some of its clients.
pub(super) fn pick(field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
    let mut in_order = (0..field.len()).filter(|&seat| field.has(seat));
    if field.shares.is_none() {
        return in_order.next();
    }
    let first = in_order.next()?;
    let warm = std::iter::once(first)
        .chain(in_order)
        .find(|&seat| chance.below(100) < field.ramp_percent(seat));
    warm.or(Some(first))
}
