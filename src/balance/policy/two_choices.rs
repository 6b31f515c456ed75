//! `two_choices`: of two different backends drawn by weight, the one with less load for its weight.

use super::draw::Draw;
use super::{Chance, Field};

pub(super) fn pick(draw: &Draw, field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
    let first = draw.eligible(field, None, chance)?;
    let Some(second) = draw.eligible(field, Some(first), chance) else {
        return Some(first);
    };
    debug_assert_ne!(first, second);
    // Read again: whichever of the two has gone since then loses.
    let Some(first_load) = field.load(first) else {
        return Some(second);
    };
    let Some(second_load) = field.load(second) else {
        return Some(first);
    };
    // Between equals the first draw decides, which was made by weight.
    Some(if second_load.cmp(first_load).is_lt() {
        second
    } else {
        first
    })
}
