//! `failover`: the first in the listed order that may be chosen.

use super::Field;

pub(super) fn pick(field: &Field<'_>) -> Option<usize> {
    (0..field.len()).find(|&seat| field.has(seat))
}
