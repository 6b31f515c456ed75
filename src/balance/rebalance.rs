//! Which backends have sessions to give away, and how many, when another one has joined.

/// A backend as the sharing of sessions sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    pub active: u32,
    /// 0 = it is to get none, and gives none away: draining is another matter.
    pub weight: u32,
}

/// Sessions above the fair share, in percent of it, that are not worth a client's reconnect.
const TOLERANCE: u64 = 10;

/// How many sessions each backend should give away so that all have their fair share, by index,
/// the fullest for its weight first; nothing when no backend lacks any. No more are given away
/// than others lack.
pub fn surplus(shares: &[Share]) -> Vec<(usize, u32)> {
    let takes_part = |share: &&Share| share.weight > 0;
    let total: u64 = shares
        .iter()
        .filter(takes_part)
        .map(|it| u64::from(it.active))
        .sum();
    let weights: u64 = shares
        .iter()
        .filter(takes_part)
        .map(|it| u64::from(it.weight))
        .sum();
    if weights == 0 {
        return Vec::new();
    }
    let fair = |share: &Share| (total * u64::from(share.weight)).div_ceil(weights);
    let mut lacking: u64 = shares
        .iter()
        .filter(takes_part)
        .map(|share| {
            let (fair, active) = (fair(share), u64::from(share.active));
            if active + (fair * TOLERANCE).div_ceil(100) < fair {
                fair - active
            } else {
                0
            }
        })
        .sum();
    let mut givers: Vec<(usize, u64, Share)> = shares
        .iter()
        .enumerate()
        .filter(|(_, share)| takes_part(share))
        .map(|(index, share)| {
            (
                index,
                u64::from(share.active).saturating_sub(fair(share)),
                *share,
            )
        })
        .filter(|&(_, above, _)| above > 0)
        .collect();
    // By load for the weight, without dividing.
    givers.sort_by(|(_, _, a), (_, _, b)| {
        let of = |one: &Share, other: &Share| u64::from(one.active) * u64::from(other.weight);
        of(b, a).cmp(&of(a, b))
    });
    let mut surplus = Vec::new();
    for (index, above, _) in givers {
        let gives = above.min(lacking);
        if gives > 0 {
            surplus.push((index, gives as u32));
            lacking -= gives;
        }
    }
    surplus
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn share(active: u32, weight: u32) -> Share {
        Share { active, weight }
    }

    #[test]
    fn the_fullest_give_what_the_new_one_lacks() {
        let shares = [share(60, 1), share(30, 1), share(0, 1)];
        assert_eq!(surplus(&shares), [(0, 30)]);
        let shares = [share(40, 1), share(50, 1), share(0, 1)];
        assert_eq!(surplus(&shares), [(1, 20), (0, 10)]);
    }

    #[test]
    fn a_fair_share_goes_by_weight() {
        assert_eq!(surplus(&[share(30, 3), share(10, 1)]), []);
        assert_eq!(surplus(&[share(40, 1), share(0, 3)]), [(0, 30)]);
    }

    #[test]
    fn small_differences_are_left_alone() {
        assert_eq!(surplus(&[share(104, 1), share(96, 1)]), []);
        assert_eq!(surplus(&[share(1, 1), share(0, 1)]), []);
    }

    #[test]
    fn who_gets_nothing_gives_nothing() {
        assert_eq!(surplus(&[share(100, 0), share(0, 1)]), []);
        assert_eq!(surplus(&[share(100, 0)]), []);
    }

    proptest! {
        #[test]
        fn nobody_falls_below_its_fair_share(
            shares in prop::collection::vec((0..1000_u32, 0..10_u32), 0..20),
        ) {
            let shares: Vec<Share> = shares.into_iter().map(|(a, w)| share(a, w)).collect();
            let weights: u64 = shares.iter().map(|it| u64::from(it.weight)).sum();
            let total: u64 = shares
                .iter()
                .filter(|it| it.weight > 0)
                .map(|it| u64::from(it.active))
                .sum();
            for (index, gives) in surplus(&shares) {
                let it = shares[index];
                prop_assert!(gives <= it.active);
                let left = u64::from(it.active - gives);
                prop_assert!(left * weights >= total * u64::from(it.weight));
            }
        }
    }
}
