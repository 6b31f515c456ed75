//! `random`: each backend as often as its weight says, each draw on its own.

use super::draw::Draw;
use super::{Chance, Field};

pub(super) fn pick(draw: &Draw, field: &Field<'_>, chance: &mut Chance) -> Option<usize> {
    draw.eligible(field, None, chance)
}
