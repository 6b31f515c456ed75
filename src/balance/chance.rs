//! Chance as an argument: a small generator whose draws depend on its seed alone.

/// A wyrand generator: 8 bytes of state, passes the usual statistical batteries, not for secrets.
/// Each worker owns one; a simulation seeds one and replays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chance(u64);

impl Chance {
    pub fn seeded(seed: u64) -> Self {
        Chance(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x2d35_8dcc_aa6c_78a5);
        let product = u128::from(self.0) * u128::from(self.0 ^ 0x8bb8_4b93_962e_acc9);
        (product >> 64) as u64 ^ product as u64
    }

    /// A number of `0..n`, each equally likely; 0 when `n` is 0.
    pub fn below(&mut self, n: u32) -> u32 {
        // Lemire's multiplication: the few products that would make some results likelier are
        // drawn again, at worst with probability one half each time.
        let mut product = u64::from(self.next_u32()) * u64::from(n);
        if (product as u32) < n {
            let unfair = n.wrapping_neg() % n;
            while (product as u32) < unfair {
                product = u64::from(self.next_u32()) * u64::from(n);
            }
        }
        (product >> 32) as u32
    }

    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_numbers() {
        let (mut a, mut b) = (Chance::seeded(7), Chance::seeded(7));
        for _ in 0..100 {
            assert_eq!(a.next_u64(), b.next_u64());
        }
        assert_ne!(Chance::seeded(8).next_u64(), Chance::seeded(7).next_u64());
    }

    #[test]
    fn every_number_below_the_limit_is_drawn_equally_often() {
        let mut chance = Chance::seeded(1);
        for n in [1_u32, 2, 3, 7, 10] {
            let mut counts = vec![0_u32; n as usize];
            for _ in 0..n * 10_000 {
                counts[chance.below(n) as usize] += 1;
            }
            for count in counts {
                // Six standard deviations of a binomial with mean 10 000.
                assert!(count.abs_diff(10_000) < 600, "{count} of 10000 for n = {n}");
            }
        }
        assert_eq!(chance.below(0), 0);
    }

    #[test]
    fn a_limit_that_does_not_divide_the_range_is_not_biased() {
        // Plain multiplication would draw the lower half of 3·2^30 twice as often in every third.
        let n = 3 << 30;
        let mut chance = Chance::seeded(2);
        let low = (0..100_000).filter(|_| chance.below(n) < n / 2).count();
        assert!(low.abs_diff(50_000) < 1000, "{low}");
    }
}
