//! Draws one of several equals in a single pass, with few draws.

use super::Chance;

/// Leaves each of several equals, seen one after the other, equally likely to be the chosen one:
/// the `k`th has to replace it with probability 1/k.
///
/// Asking chance about every one of them would cost more than the scan. So what is drawn is which
/// will be the next to do it: after the `j`th one it lies beyond the `k`th with probability j/k
/// (to 2⁻³²), and some ln n draws serve n equals.
#[derive(Debug)]
pub(super) struct Equals {
    /// Seen besides the first.
    more: u32,
    /// The value of `more` at which to look closer; with the first equal nothing is drawn yet.
    next: u32,
}

impl Equals {
    pub(super) const NONE: Equals = Equals { more: 0, next: 1 };

    /// Counts one more; whether it is to replace the chosen one.
    #[inline]
    pub(super) fn replaces(&mut self, chance: &mut Chance) -> bool {
        self.more += 1;
        if self.more < self.next {
            return false;
        }
        // By value: what a call gets the address of is not kept in registers.
        let (replaces, next) = look_closer(self.more, self.next, chance);
        self.next = next;
        replaces
    }
}

/// Whether the equal numbered `more` replaces the chosen one, and the number of the next that may.
#[cold]
#[inline(never)]
fn look_closer(more: u32, mut next: u32, chance: &mut Chance) -> (bool, u32) {
    if more == 1 {
        next = draw_next(1, chance);
    }
    if more < next {
        (false, next)
    } else {
        (true, draw_next(u64::from(more) + 1, chance))
    }
}

fn draw_next(seen: u64, chance: &mut Chance) -> u32 {
    let drawn = (chance.next_u64() >> 32) + 1;
    let next = (seen << 32) / drawn;
    debug_assert!(next >= seen);
    u32::try_from(next).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_equals_is_chosen_equally_often() {
        let mut chance = Chance::seeded(5);
        for n in [2, 3, 10] {
            let mut counts = vec![0_u32; n];
            for _ in 0..n * 10_000 {
                let mut equals = Equals::NONE;
                let chosen = (1..n).filter(|_| equals.replaces(&mut chance)).last();
                counts[chosen.unwrap_or(0)] += 1;
            }
            assert!(
                counts.iter().all(|count| count.abs_diff(10_000) < 600),
                "{counts:?}"
            );
        }
    }
}
