//! What a pool says of a pick is what the pick does.

use std::sync::Arc;
use std::time::Duration;

use lbd::balance::backend::{Verdict, Wish};
use lbd::balance::chance::Chance;
use lbd::balance::explain::Reason;
use lbd::balance::policy::{Cost, PolicyKind};
use lbd::balance::pool::{Candidates, Lease, Pool, PoolSpec};
use lbd::base::clock::Moment;

use crate::balance_kit::{NOW, TOOK, member, members, pool_of, spec, take_down};

/// Two pools to which the same happens, of which one is asked to explain itself all the time.
struct Pair {
    asked: Arc<Pool<usize>>,
    left_alone: Arc<Pool<usize>>,
    held: Vec<(Lease<usize>, Lease<usize>)>,
}

impl Pair {
    fn new(spec: PoolSpec<usize>) -> Pair {
        Pair {
            asked: pool_of(spec.clone()),
            left_alone: pool_of(spec),
            held: Vec::new(),
        }
    }

    /// Something that may happen to a pool between two clients.
    fn disturb(&mut self, draw: &mut Chance, now: Moment) {
        let index = draw.below(self.asked.members().len() as u32) as usize;
        let (what, bit) = (draw.below(9), draw.below(3) == 0);
        let percent = [0, 40, 100, 250][draw.below(4) as usize];
        for pool in [&self.asked, &self.left_alone] {
            match what {
                0 if bit => pool.set_verdict(index, Verdict::Down, now),
                0 | 1 => pool.set_verdict(index, Verdict::Up, now),
                2 if bit => pool.set_wish(index, Wish::Drain, now),
                2 | 3 => pool.set_wish(index, Wish::Ready, now),
                4 => pool.set_weight_percent(index, percent),
                _ => {}
            }
        }
        let took = Duration::from_millis(u64::from(1 + draw.below(200)));
        if what > 4 && !self.held.is_empty() {
            let place = draw.below(self.held.len() as u32) as usize;
            let (one, other) = &self.held[place];
            for lease in [one, other] {
                match what {
                    5 if bit => lease.connect_failed(now, took),
                    5 | 6 => lease.connected(now, took),
                    _ => lease.first_byte(now, took),
                }
            }
            if what != 8 {
                self.held.swap_remove(place);
            }
        }
    }
}

/// A pool of up to 70 backends, which is more than one chunk of records.
fn any_spec(policy: PolicyKind, draw: &mut Chance) -> PoolSpec<usize> {
    let count = if draw.below(8) == 0 {
        70
    } else {
        1 + draw.below(9)
    };
    let members = (0..count as usize).map(|index| {
        let mut one = member(index, [0, 1, 1, 2, 5, 300][draw.below(6) as usize]);
        one.priority = draw.below(4).saturating_sub(1) as u16 / 2;
        one.cost = Cost::new(f64::from(draw.below(3))).unwrap();
        one.max_connections = [0, 0, 1, 3][draw.below(4) as usize];
        one
    });
    let mut spec = spec(policy, members.collect());
    spec.ejection.connect_failures = 1;
    spec.probed = draw.below(2) == 0;
    spec.slow_start = Duration::from_secs([0, 30][draw.below(2) as usize]);
    spec.panic_threshold = [0, 50][draw.below(2) as usize];
    spec.hash_balance_factor = [0, 125][draw.below(2) as usize];
    spec.max_connections = [0, 0, 20][draw.below(3) as usize];
    spec
}

#[test]
fn a_thousand_picks_of_each_policy_are_those_explained_before_and_explaining_changes_nothing() {
    for policy in PolicyKind::ALL {
        let mut draw = Chance::seeded(policy as u64);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..50 {
            let mut pair = Pair::new(any_spec(policy, &mut draw));
            let mut now = NOW;
            for _ in 0..30 {
                now = now + Duration::from_millis(u64::from(draw.below(900)));
                pair.disturb(&mut draw, now);
                let (key, seed) = (draw.next_u64(), draw.next_u64());
                let explained = pair.asked.explain(key, now, &mut Chance::seeded(seed));
                let retries = draw.below(2) * 16;
                let pick = |pool: &Arc<Pool<usize>>| {
                    let mut chance = Chance::seeded(seed);
                    let mut candidates = Candidates::new(key);
                    let first = candidates.next(pool, now, &mut chance)?;
                    // As a client that tries one after the other has one lease at a time.
                    let index = first.index();
                    let mut order = vec![index];
                    let mut last = first;
                    for _ in 0..retries {
                        drop(last);
                        last = match candidates.next(pool, now, &mut chance) {
                            Some(next) => next,
                            None => return Some((order, None)),
                        };
                        order.push(last.index());
                    }
                    Some((order, Some(last)))
                };
                let (one, other) = (pick(&pair.asked), pick(&pair.left_alone));
                let order = |it: &Option<(Vec<usize>, Option<Lease<usize>>)>| {
                    it.as_ref().map(|(order, _)| order.clone())
                };
                assert_eq!(
                    order(&one),
                    order(&other),
                    "{policy}: asking changed a pick"
                );
                let (order, held) = match (one, other) {
                    (Some((order, one)), Some((_, other))) => (order, one.zip(other)),
                    _ => (Vec::new(), None),
                };
                assert_eq!(explained.taken(), order.first().copied(), "{policy}");
                if retries > 0 {
                    assert_eq!(explained.order, order, "{policy}");
                }
                for (index, reason) in explained.reasons.iter().enumerate() {
                    let is_first = order.first() == Some(&index);
                    assert_eq!(*reason == Reason::Taken, is_first, "{policy}");
                }
                match order.first() {
                    Some(_) => taken += 1,
                    None => refused += 1,
                }
                pair.held.extend(held);
                for index in 0..pair.asked.members().len() {
                    let active = |pool: &Pool<usize>| pool.live(index).active();
                    assert_eq!(active(&pair.asked), active(&pair.left_alone));
                }
                let spills = |pool: &Pool<usize>| (pool.spills_total(), pool.active());
                assert_eq!(spills(&pair.asked), spills(&pair.left_alone));
            }
        }
        assert!(taken >= 1000, "{policy}: {taken}");
        assert!(refused > 0, "{policy}: pools were never full or out");
    }
}

#[test]
fn each_backend_that_is_not_taken_says_why() {
    let mut list = members(&[1, 1, 1, 1, 1, 0, 1, 1, 1]);
    list[4].max_connections = 1;
    list[8].priority = 1;
    let mut spec = spec(PolicyKind::Failover, list);
    spec.probed = true;
    spec.ejection.connect_failures = 1;
    let pool = pool_of(spec);
    for index in (0..9).filter(|&index| index != 7) {
        pool.set_verdict(index, Verdict::Up, NOW);
    }
    // Who is first is ejected, the others that would come before the one that is full drain.
    let mut chance = Chance::seeded(1);
    let mut take = || Candidates::new(0).next(&pool, NOW, &mut chance).unwrap();
    take().connect_failed(NOW, TOOK);
    take_down(&pool, &[1]);
    pool.set_wish(2, Wish::Drain, NOW);
    pool.set_wish(3, Wish::Maintenance, NOW);
    let held = take();
    assert_eq!(held.index(), 4);
    let explained = pool.explain(0, NOW, &mut Chance::seeded(1));
    assert_eq!(
        explained.reasons,
        [
            Reason::Ejected,
            Reason::Down,
            Reason::Drain,
            Reason::Maintenance,
            Reason::Full,
            Reason::WeightZero,
            Reason::Taken,
            Reason::Unchecked,
            Reason::LowerTier,
        ]
    );
    assert_eq!(explained.order, [6, 8, 7]);
    drop(held);
    let explained = pool.explain(0, NOW, &mut Chance::seeded(1));
    assert_eq!(explained.taken(), Some(4));
    assert_eq!(explained.reasons[6], Reason::Next);
}

#[test]
fn a_pool_without_room_says_that_waiting_may_help_and_one_without_backends_that_it_does_not() {
    let mut full = spec(PolicyKind::RoundRobin, members(&[1, 1]));
    full.max_connections = 1;
    let pool = pool_of(full);
    let held = Candidates::new(0).next(&pool, NOW, &mut Chance::seeded(1));
    let explained = pool.explain(0, NOW, &mut Chance::seeded(1));
    assert!(explained.pool_full && explained.all_full && explained.order.is_empty());
    drop(held);
    take_down(&pool, &[0, 1]);
    let explained = pool.explain(0, NOW, &mut Chance::seeded(1));
    assert!(!explained.pool_full && !explained.all_full);
    assert_eq!(explained.reasons, [Reason::Down, Reason::Down]);
}
