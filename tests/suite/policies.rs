//! Every policy against a plain slow model, and the promises of candidates, leases and reloads.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use crate::balance_kit::*;
use lbd::balance::backend::{Availability, State, Verdict, Wish, availability};
use lbd::balance::chance::Chance;
use lbd::balance::ejection::Ejection;
use lbd::balance::key::HashSeed;
use lbd::balance::policy::{Cost, PolicyKind};
use lbd::balance::pool::{Candidates, Lease, MemberSpec, Pool, PoolSpec, TRIES_MAX};
use lbd::balance::table::Table;

// ---- The slow model ------------------------------------------------------------------------

/// What a test arranges of one backend.
#[derive(Clone, Debug)]
struct Fate {
    weight: u16,
    priority: u16,
    limit: u32,
    verdict: Verdict,
    wish: Wish,
    cost: u8,
    latency: Duration,
}

/// The model: plain lists, plain fractions, no atomics.
struct Model {
    policy: PolicyKind,
    fates: Vec<Fate>,
    active: Vec<u32>,
    /// The round robin sequence of each priority, and the position in it.
    turns: BTreeMap<u16, (Vec<usize>, usize)>,
}

impl Model {
    /// The members of the best class and, within it, the lowest tier that has anybody.
    fn field(&self, tried: &[usize]) -> Vec<usize> {
        for class in [Availability::Available, Availability::LastResort] {
            let eligible: Vec<usize> = (0..self.fates.len())
                .filter(|&i| {
                    let Fate {
                        weight,
                        limit,
                        verdict,
                        wish,
                        ..
                    } = self.fates[i];
                    availability(verdict, wish, false, weight) == class
                        && (limit == 0 || self.active[i] < limit)
                        && !tried.contains(&i)
                })
                .collect();
            if let Some(tier) = eligible.iter().map(|&i| self.fates[i].priority).min() {
                return eligible
                    .into_iter()
                    .filter(|&i| self.fates[i].priority == tier)
                    .collect();
            }
        }
        Vec::new()
    }

    fn load(&self, i: usize) -> (u64, u64) {
        let latency = match self.policy {
            PolicyKind::LeastLatency => self.fates[i].latency.as_millis() as u64,
            _ => 1,
        };
        (
            latency * (u64::from(self.active[i]) + 1),
            u64::from(self.fates[i].weight),
        )
    }

    fn less(a: (u64, u64), b: (u64, u64)) -> bool {
        a.0 * b.1 < b.0 * a.1
    }

    /// Those of the field that the policy may choose.
    fn choices(&mut self, tried: &[usize]) -> Vec<usize> {
        let field = self.field(tried);
        match self.policy {
            PolicyKind::Failover => field.first().copied().into_iter().collect(),
            PolicyKind::LowestCost => {
                let least = field.iter().map(|&i| self.fates[i].cost).min();
                let cheap = |&i: &usize| Some(self.fates[i].cost) == least;
                field.into_iter().filter(cheap).collect()
            }
            PolicyKind::LeastConnections | PolicyKind::LeastLatency => {
                let beaten = |&i: &usize| {
                    field
                        .iter()
                        .any(|&j| Self::less(self.load(j), self.load(i)))
                };
                field.iter().copied().filter(|i| !beaten(i)).collect()
            }
            // Of two different ones the strictly most loaded of all can never be the better.
            PolicyKind::TwoChoices if field.len() > 1 => {
                let worst = |&i: &usize| {
                    field
                        .iter()
                        .all(|&j| j == i || Self::less(self.load(j), self.load(i)))
                };
                field.iter().copied().filter(|i| !worst(i)).collect()
            }
            PolicyKind::RoundRobin => self.round_robin(&field).into_iter().collect(),
            _ => field,
        }
    }

    /// nginx's algorithm from its start on, turns of those who are out given up. A tier that has
    /// nobody to choose gives up one turn whenever it is asked, so every tier asked is counted.
    fn round_robin(&mut self, field: &[usize]) -> Option<usize> {
        let classes = if field.is_empty() {
            2
        } else {
            1 + usize::from(self.is_last_resort(field))
        };
        let theirs = field.first().map(|&i| self.fates[i].priority);
        for class in 1..=classes {
            for (&tier, (sequence, turn)) in &mut self.turns {
                if class < classes || theirs != Some(tier) {
                    *turn += 1;
                    continue;
                }
                loop {
                    let i = sequence[*turn % sequence.len()];
                    *turn += 1;
                    if field.contains(&i) {
                        return Some(i);
                    }
                }
            }
        }
        None
    }

    fn is_last_resort(&self, field: &[usize]) -> bool {
        field
            .iter()
            .any(|&i| self.fates[i].verdict == Verdict::Unchecked)
    }
}

fn smooth(fates: &[Fate], tier: u16) -> Vec<usize> {
    let weight = |i: usize| {
        if fates[i].priority == tier {
            i64::from(fates[i].weight)
        } else {
            0
        }
    };
    let sum: i64 = (0..fates.len()).map(weight).sum();
    let mut current = vec![0; fates.len()];
    (0..sum)
        .map(|_| {
            (0..fates.len()).for_each(|i| current[i] += weight(i));
            let most = (0..fates.len())
                .filter(|&i| weight(i) > 0)
                .max_by_key(|&i| (current[i], std::cmp::Reverse(i)))
                .expect("a tier has members of weight");
            current[most] -= sum;
            most
        })
        .collect()
}

fn fates() -> impl Strategy<Value = Vec<Fate>> {
    let fate = (
        prop_oneof![2 => Just(0), 5 => Just(1), 3 => 1..10_u16],
        prop_oneof![4 => Just(0), 1 => Just(1), 1 => Just(7)],
        prop_oneof![4 => Just(0), 2 => 1..3_u32],
        prop_oneof![
            4 => Just(Verdict::Up),
            1 => Just(Verdict::Unprobed),
            2 => Just(Verdict::Unchecked),
            2 => Just(Verdict::Down)
        ],
        prop_oneof![8 => Just(Wish::Ready), 1 => Just(Wish::Drain), 1 => Just(Wish::Maintenance)],
        0..4_u8,
        prop_oneof![Just(1), Just(2), 1..500_u64].prop_map(Duration::from_millis),
    )
        .prop_map(
            |(weight, priority, limit, verdict, wish, cost, latency)| Fate {
                weight,
                priority,
                limit,
                verdict,
                wish,
                cost,
                latency,
            },
        );
    prop_oneof![Just(1_usize), Just(2), Just(3), Just(100)]
        .prop_flat_map(move |n| proptest::collection::vec(fate.clone(), n))
}

fn arranged(policy: PolicyKind, fates: &[Fate]) -> Arc<Pool<usize>> {
    let table = Table::new();
    // Kept until the pool is there: records of no pool are given up.
    let mut known = Vec::new();
    if policy == PolicyKind::LeastLatency {
        for (i, fate) in fates.iter().enumerate() {
            let alone = reload(&table, spec(policy, vec![member(i, 1)]));
            let lease = pick(&alone, &mut Chance::seeded(0)).unwrap();
            lease.first_byte(NOW, fate.latency);
            known.push(alone);
        }
    }
    let members = fates.iter().enumerate().map(|(i, fate)| MemberSpec {
        priority: fate.priority,
        max_connections: fate.limit,
        cost: Cost::new(fate.cost.into()).unwrap(),
        ..member(i, fate.weight)
    });
    let pool = reload(&table, spec(policy, members.collect()));
    for (i, fate) in fates.iter().enumerate() {
        pool.set_verdict(i, fate.verdict, NOW);
        pool.set_wish(i, fate.wish, NOW);
    }
    pool
}

/// Lets clients come, retry, stay and go, and asks the model before each try.
fn follows_its_model(policy: PolicyKind, fates: Vec<Fate>, seed: u64) -> Result<(), TestCaseError> {
    let pool = arranged(policy, &fates);
    let tiers = fates
        .iter()
        .filter(|fate| fate.weight > 0)
        .map(|fate| fate.priority);
    let turns = tiers
        .map(|tier| (tier, (smooth(&fates, tier), 0)))
        .collect();
    let mut model = Model {
        policy,
        active: vec![0; fates.len()],
        turns,
        fates,
    };
    let mut chance = Chance::seeded(seed);
    let mut held: Vec<Lease<usize>> = Vec::new();
    for _ in 0..40 {
        let mut candidates = Candidates::new(chance.next_u64());
        let mut tried = Vec::new();
        for _ in 0..=chance.below(TRIES_MAX as u32 + 1) {
            let choices = if tried.len() < TRIES_MAX {
                model.choices(&tried)
            } else {
                Vec::new()
            };
            let lease = candidates.next(&pool, NOW, &mut chance);
            prop_assert_eq!(
                lease.is_some(),
                !choices.is_empty(),
                "may choose {:?}",
                choices
            );
            let Some(lease) = lease else { break };
            let i = lease.index();
            prop_assert!(choices.contains(&i), "chose {} of {:?}", i, choices);
            prop_assert_eq!(lease.member().target, i);
            tried.push(i);
            prop_assert_eq!(candidates.tries() as usize, tried.len());
            if chance.below(3) > 0 {
                model.active[i] += 1;
                held.push(lease);
            }
        }
        for at in (0..held.len()).rev() {
            if chance.below(4) == 0 {
                model.active[held.swap_remove(at).index()] -= 1;
            }
        }
        for (i, &active) in model.active.iter().enumerate() {
            prop_assert_eq!(pool.live(i).active(), active);
        }
    }
    drop(held);
    prop_assert!((0..pool.members().len()).all(|i| pool.live(i).active() == 0));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 64,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x1bd),
        ..ProptestConfig::default()
    })]

    #[test]
    fn round_robin_follows_its_model(fates in fates(), seed in any::<u64>()) {
        follows_its_model(PolicyKind::RoundRobin, fates, seed)?;
    }

    #[test]
    fn least_connections_follows_its_model(fates in fates(), seed in any::<u64>()) {
        follows_its_model(PolicyKind::LeastConnections, fates, seed)?;
    }

    #[test]
    fn random_follows_its_model(fates in fates(), seed in any::<u64>()) {
        follows_its_model(PolicyKind::Random, fates, seed)?;
    }

    #[test]
    fn two_choices_follows_its_model(fates in fates(), seed in any::<u64>()) {
        follows_its_model(PolicyKind::TwoChoices, fates, seed)?;
    }

    #[test]
    fn least_latency_follows_its_model(fates in fates(), seed in any::<u64>()) {
        follows_its_model(PolicyKind::LeastLatency, fates, seed)?;
    }

    #[test]
    fn lowest_cost_follows_its_model(fates in fates(), seed in any::<u64>()) {
        follows_its_model(PolicyKind::LowestCost, fates, seed)?;
    }

    #[test]
    fn failover_follows_its_model(fates in fates(), seed in any::<u64>()) {
        follows_its_model(PolicyKind::Failover, fates, seed)?;
    }
}

proptest! {
    // Each case builds tables of 65 537 slots.
    #![proptest_config(ProptestConfig {
        cases: 12,
        failure_persistence: None,
        rng_seed: proptest::test_runner::RngSeed::Fixed(0x1bd),
        ..ProptestConfig::default()
    })]

    #[test]
    fn ip_hash_follows_its_model(fates in fates(), seed in any::<u64>()) {
        follows_its_model(PolicyKind::IpHash, fates, seed)?;
    }
}

// ---- Shares ----------------------------------------------------------------------------------

#[test]
fn shares_are_in_proportion_to_the_weights_of_those_who_may_be_chosen() {
    // Some of weight 0, some down: neither may be chosen nor shift the others' shares.
    for n in [1, 2, 3, 100] {
        let weights: Vec<u16> = (0..n)
            .map(|i| if i % 5 == 4 { 0 } else { 1 + i as u16 % 3 })
            .collect();
        let down: Vec<usize> = (0..n).filter(|i| i % 7 == 2).collect();
        let ideal: Vec<u64> = (0..n)
            .map(|i| {
                if down.contains(&i) {
                    0
                } else {
                    u64::from(weights[i])
                }
            })
            .collect();
        for policy in [PolicyKind::Random, PolicyKind::IpHash] {
            let pool = pool(policy, &weights);
            take_down(&pool, &down);
            let mut chance = Chance::seeded(n as u64);
            assert_proportional(&counts(&pool, n * 2000, &mut chance), &ideal);
        }
        let pool = pool(PolicyKind::RoundRobin, &weights);
        take_down(&pool, &down);
        let period = ideal.iter().sum::<u64>();
        let rounds = counts(&pool, 7 * period as usize, &mut Chance::seeded(1));
        // Those who are out give up turns in between, so a start within the period may be off by
        // one turn; whole periods of the others are exact.
        for (count, weight) in rounds.iter().zip(&ideal) {
            assert!(count.abs_diff(7 * weight) <= 1, "{rounds:?} for {ideal:?}");
        }
    }
}

#[test]
fn few_who_are_left_of_many_share_by_weight_too() {
    // Too few for a draw to find them: the exact choice among them has to.
    for policy in [PolicyKind::Random, PolicyKind::IpHash] {
        let pool = pool(policy, &[2; 1000]);
        let left = [3, 500, 998];
        let down: Vec<usize> = (0..1000).filter(|i| !left.contains(i)).collect();
        take_down(&pool, &down);
        let counts = counts(&pool, 3000, &mut Chance::seeded(4));
        assert_proportional(&left.map(|i| counts[i]), &[1, 1, 1]);
    }
}

#[test]
fn round_robin_of_equal_weights_goes_around_in_the_listed_order() {
    let pool = pool(PolicyKind::RoundRobin, &[4, 4, 4]);
    let mut chance = Chance::seeded(0);
    let order: Vec<_> = (0..7)
        .map(|_| pick(&pool, &mut chance).unwrap().index())
        .collect();
    assert_eq!(order, [0, 1, 2, 0, 1, 2, 0]);
}

#[test]
fn round_robin_spreads_the_heavy_one_over_the_period() {
    let pool = pool(PolicyKind::RoundRobin, &[5, 1, 1]);
    let mut chance = Chance::seeded(0);
    let order: Vec<_> = (0..7)
        .map(|_| pick(&pool, &mut chance).unwrap().index())
        .collect();
    assert_eq!(order, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn round_robin_is_exact_over_all_threads() {
    let pool = pool(PolicyKind::RoundRobin, &[3, 2, 1, 0, 6]);
    let counts: [AtomicU32; 5] = Default::default();
    std::thread::scope(|scope| {
        for seed in 0..8 {
            let (pool, counts) = (&pool, &counts);
            scope.spawn(move || {
                let mut chance = Chance::seeded(seed);
                for _ in 0..1200 {
                    let index = pick(pool, &mut chance).unwrap().index();
                    counts[index].fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(
        counts.map(AtomicU32::into_inner),
        [2400, 1600, 800, 0, 4800]
    );
}

#[test]
fn round_robin_keeps_the_others_shares_while_one_is_out() {
    let pool = pool(PolicyKind::RoundRobin, &[1, 1, 1, 1]);
    take_down(&pool, &[1]);
    // Skipping to the neighbour instead would give the third twice the share of the others.
    assert_eq!(
        counts(&pool, 3000, &mut Chance::seeded(0)),
        [1000, 0, 1000, 1000]
    );
}

#[test]
fn round_robin_of_weights_too_large_for_its_sequence_stays_within_its_precision() {
    let pool = pool(PolicyKind::RoundRobin, &[65_535, 32_768, 9_999, 1]);
    let counts = counts(&pool, 16_384, &mut Chance::seeded(0));
    let sum = 65_535 + 32_768 + 9_999 + 1;
    for (count, weight) in counts.iter().zip([65_535_u64, 32_768, 9_999, 1]) {
        assert!(count.abs_diff(16_384 * weight / sum) <= 2, "{counts:?}");
    }
    assert_eq!(counts[3], 1);
}

// ---- Mistakes seen elsewhere -------------------------------------------------------------------

#[test]
fn two_choices_are_two_different_backends() {
    // The busy one could only win if it were drawn twice.
    for weights in [[1, 1], [65_535, 1], [1, 65_535]] {
        let pool = pool(PolicyKind::TwoChoices, &weights);
        let mut chance = Chance::seeded(1);
        take_down(&pool, &[1]);
        let busy: Vec<_> = (0..70_000)
            .map(|_| pick(&pool, &mut chance).unwrap())
            .collect();
        pool.set_verdict(1, Verdict::Up, NOW);
        assert_eq!(counts(&pool, 2000, &mut chance), [0, 2000], "{weights:?}");
        drop(busy);
    }
}

#[test]
fn two_choices_does_not_simply_prefer_the_heaviest() {
    // By load for its weight: a heavy one with as much for each unit of weight is no better, and
    // one with more is worse.
    let pool = pool(PolicyKind::TwoChoices, &[10, 1]);
    let mut chance = Chance::seeded(2);
    let held: Vec<_> = (0..1100)
        .map(|_| pick(&pool, &mut chance).unwrap())
        .collect();
    let heavy = held.iter().filter(|lease| lease.index() == 0).count();
    assert!(
        heavy.abs_diff(1000) <= 10,
        "{heavy} of 1100 went to the heavy one"
    );
}

#[test]
fn two_choices_among_idle_equals_is_even() {
    let pool = pool(PolicyKind::TwoChoices, &[7; 10]);
    let counts = counts(&pool, 20_000, &mut Chance::seeded(3));
    assert_proportional(&counts, &[1; 10]);
}

#[test]
fn two_choices_with_one_left_takes_it() {
    let pool = pool(PolicyKind::TwoChoices, &[1; 50]);
    take_down(&pool, &(1..50).collect::<Vec<_>>());
    assert_eq!(counts(&pool, 100, &mut Chance::seeded(3))[0], 100);
}

#[test]
fn least_connections_heeds_weights_among_idle_backends() {
    let pool = pool(PolicyKind::LeastConnections, &[1, 5, 3]);
    let counts = counts(&pool, 100, &mut Chance::seeded(1));
    assert_eq!(
        counts,
        [0, 100, 0],
        "(0 + 1) / weight is least for the heaviest"
    );
}

#[test]
fn least_connections_fills_up_in_proportion_to_the_weights() {
    let pool = pool(PolicyKind::LeastConnections, &[1, 5, 3]);
    let mut chance = Chance::seeded(1);
    let _held: Vec<_> = (0..900)
        .map(|_| pick(&pool, &mut chance).unwrap())
        .collect();
    assert_eq!([0, 1, 2].map(|i| pool.live(i).active()), [100, 500, 300]);
}

#[test]
fn least_connections_draws_ties_evenly() {
    for n in [2, 3, 100] {
        let pool = pool(PolicyKind::LeastConnections, &vec![4; n]);
        let counts = counts(&pool, n * 1000, &mut Chance::seeded(n as u64));
        assert_proportional(&counts, &vec![1; n]);
    }
}

#[test]
fn no_policy_searches_forever_when_only_weight_zero_is_healthy() {
    for policy in PolicyKind::ALL {
        let pool = pool(policy, &[0, 3, 0, 5]);
        take_down(&pool, &[1, 3]);
        assert!(pick(&pool, &mut Chance::seeded(1)).is_none(), "{policy:?}");
        let nobody = crate::balance_kit::pool(policy, &[0, 0]);
        assert!(
            pick(&nobody, &mut Chance::seeded(1)).is_none(),
            "{policy:?}"
        );
        let empty = crate::balance_kit::pool(policy, &[]);
        assert!(pick(&empty, &mut Chance::seeded(1)).is_none(), "{policy:?}");
    }
}

#[test]
fn the_weight_of_a_dead_backend_does_not_count() {
    // A maximum or sum that counted the dead one would starve or skew the two others.
    for policy in [
        PolicyKind::RoundRobin,
        PolicyKind::Random,
        PolicyKind::IpHash,
    ] {
        let pool = pool(policy, &[65_535, 1, 2]);
        take_down(&pool, &[0]);
        let counts = counts(&pool, 3000, &mut Chance::seeded(5));
        assert_proportional(&counts, &[0, 1, 2]);
    }
    // In a sequence scaled for the dead one, 2 and 3 would be rounded to 1 and 2.
    let weights: Vec<u16> = (0..21)
        .map(|i| if i == 0 { 30_000 } else { 2 + i % 2 })
        .collect();
    let graded = pool(PolicyKind::RoundRobin, &weights);
    take_down(&graded, &[0]);
    let ideal: Vec<u64> = weights.iter().map(|&it| u64::from(it % 30_000)).collect();
    let counts = counts(&graded, 5000, &mut Chance::seeded(0));
    assert_proportional(&counts, &ideal);

    let pool = pool(PolicyKind::LeastConnections, &[65_535, 1, 2]);
    take_down(&pool, &[0]);
    let mut chance = Chance::seeded(5);
    let _held: Vec<_> = (0..300)
        .map(|_| pick(&pool, &mut chance).unwrap())
        .collect();
    assert_eq!([0, 1, 2].map(|i| pool.live(i).active()), [0, 100, 200]);
}

#[test]
fn a_limit_is_for_all_threads_together() {
    for policy in PolicyKind::ALL {
        let limits = [5, 1, 9];
        let specs = limits.iter().enumerate().map(|(i, &limit)| MemberSpec {
            max_connections: limit,
            ..member(i, 1)
        });
        let pool = pool_of(spec(policy, specs.collect()));
        let (held, refused) = (AtomicU32::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for seed in 0..8 {
                let (pool, held, refused) = (&pool, &held, &refused);
                scope.spawn(move || {
                    let mut chance = Chance::seeded(seed);
                    let mut mine = Vec::new();
                    for _ in 0..2000 {
                        match pick(pool, &mut chance) {
                            Some(lease) => {
                                let all = held.fetch_add(1, Ordering::SeqCst) + 1;
                                assert!(all <= 15, "{policy:?}: {all} leases");
                                assert!(pool.live(lease.index()).active() <= limits[lease.index()]);
                                mine.push(lease);
                            }
                            None => {
                                refused.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        if mine.len() > chance.below(5) as usize {
                            held.fetch_sub(1, Ordering::SeqCst);
                            mine.swap_remove(chance.below(mine.len() as u32) as usize);
                        }
                    }
                    held.fetch_sub(mine.len() as u32, Ordering::SeqCst);
                });
            }
        });
        assert!(
            (0..3).all(|i| pool.live(i).active() == 0),
            "{policy:?} leaks"
        );
        // Alone, one gets exactly as many as there are.
        let mut chance = Chance::seeded(0);
        let all: Vec<_> = std::iter::from_fn(|| pick(&pool, &mut chance)).collect();
        assert_eq!(all.len(), 15, "{policy:?}");
        assert_eq!([0, 1, 2].map(|i| pool.live(i).active()), limits);
    }
}

#[test]
fn a_retry_goes_to_another_backend_while_there_is_one() {
    for policy in PolicyKind::ALL {
        let pool = pool(policy, &[1, 9, 3, 3, 0]);
        let mut chance = Chance::seeded(6);
        for key in 0..200 {
            let mut tries = all_tries(&pool, key, &mut chance);
            tries.sort_unstable();
            assert_eq!(tries, [0, 1, 2, 3], "{policy:?}: each once, then nobody");
        }
    }
}

#[test]
fn no_client_tries_more_often_than_the_bound() {
    for policy in PolicyKind::ALL {
        let pool = pool(policy, &[1; 40]);
        let mut tries = all_tries(&pool, 1, &mut Chance::seeded(6));
        assert_eq!(tries.len(), TRIES_MAX);
        tries.sort_unstable();
        tries.dedup();
        assert_eq!(tries.len(), TRIES_MAX, "{policy:?} tried one twice");
    }
}

// ---- Every policy, every reason ----------------------------------------------------------------

/// Each reason takes the first of three backends out (or puts it last); the policies may differ in
/// whom they choose instead, not in that.
#[test]
fn every_policy_honours_every_reason_to_pass_a_backend_by() {
    type Arrange = fn(&mut MemberSpec<usize>);
    type Happen = fn(&Pool<usize>, &Lease<usize>);
    let (nothing, calm): (Arrange, Happen) = (|_| {}, |_, _| {});
    // Name, how the first is arranged, what happens while it has one lease, whether it is used when
    // the two others are out.
    let reasons: [(&str, Arrange, Happen, bool); 8] = [
        ("weight 0", |first| first.weight = 0, calm, false),
        ("tier", |first| first.priority = 1, calm, true),
        ("limit", |first| first.max_connections = 1, calm, false),
        (
            "down",
            nothing,
            |pool, _| pool.set_verdict(0, Verdict::Down, NOW),
            false,
        ),
        (
            "drain",
            nothing,
            |pool, _| pool.set_wish(0, Wish::Drain, NOW),
            false,
        ),
        (
            "maintenance",
            nothing,
            |pool, _| pool.set_wish(0, Wish::Maintenance, NOW),
            false,
        ),
        (
            "unchecked",
            nothing,
            |pool, _| pool.set_verdict(0, Verdict::Unchecked, NOW),
            true,
        ),
        (
            "ejected",
            nothing,
            |_, lease| lease.connect_failed(NOW, TOOK),
            false,
        ),
    ];
    for policy in PolicyKind::ALL {
        for (reason, arrange, happen, used_last) in reasons {
            // The lease on the first comes from a pool before, in which its weight was not 0.
            let table = Table::new();
            let spec = |members| {
                let spec = spec(policy, members);
                let ejection = Ejection {
                    connect_failures: 1,
                    ..spec.ejection
                };
                PoolSpec { ejection, ..spec }
            };
            let before = reload(&table, spec(members(&[1, 0, 0])));
            let lease = pick(&before, &mut Chance::seeded(0)).unwrap();
            let mut members = members(&[1, 1, 1]);
            arrange(&mut members[0]);
            let pool = reload(&table, spec(members));
            happen(&pool, &lease);
            let mut chance = Chance::seeded(7);
            for key in 0..50 {
                let mut candidates = Candidates::new(key);
                let first = candidates.next(&pool, NOW, &mut chance).unwrap().index();
                assert_ne!(first, 0, "{policy:?}, {reason}");
                let tries = all_tries(&pool, key, &mut chance);
                let expected = if used_last { 3 } else { 2 };
                assert_eq!(tries.len(), expected, "{policy:?}, {reason}: {tries:?}");
                assert_eq!(tries.iter().position(|&i| i == 0), used_last.then_some(2));
            }
            take_down(&pool, &[1, 2]);
            let last = pick(&pool, &mut chance).map(|lease| lease.index());
            assert_eq!(last, used_last.then_some(0), "{policy:?}, {reason}");
        }
    }
}

#[test]
fn a_tier_is_used_only_when_all_lower_ones_have_nobody() {
    for policy in PolicyKind::ALL {
        let specs = [0, 0, 5, 5, 9]
            .iter()
            .enumerate()
            .map(|(i, &priority)| MemberSpec {
                priority,
                max_connections: 2,
                ..member(i, 1)
            });
        let pool = pool_of(spec(policy, specs.collect()));
        let mut chance = Chance::seeded(8);
        let held: Vec<_> = std::iter::from_fn(|| pick(&pool, &mut chance)).collect();
        let order: Vec<u16> = held.iter().map(|lease| lease.member().priority).collect();
        assert_eq!(
            order,
            [0, 0, 0, 0, 5, 5, 5, 5, 9, 9],
            "{policy:?}: full tiers are left"
        );
    }
}

#[test]
fn unchecked_backends_come_after_every_tier_of_those_known_to_be_up() {
    for policy in PolicyKind::ALL {
        let specs = [0, 1, 2].map(|i| MemberSpec {
            priority: i as u16,
            ..member(i, 1)
        });
        let pool = pool_of(PoolSpec {
            probed: true,
            ..spec(policy, specs.into())
        });
        assert_eq!(pool.state(0, NOW), State::Unchecked);
        let mut chance = Chance::seeded(9);
        assert_eq!(
            all_tries(&pool, 1, &mut chance),
            [0, 1, 2],
            "nobody known: all as they come"
        );
        pool.set_verdict(2, Verdict::Up, NOW);
        assert_eq!(all_tries(&pool, 1, &mut chance), [2, 0, 1], "{policy:?}");
    }
}

#[test]
fn failover_takes_the_listed_order() {
    let pool = pool(PolicyKind::Failover, &[1, 9, 5]);
    let mut chance = Chance::seeded(0);
    assert_eq!(all_tries(&pool, 1, &mut chance), [0, 1, 2]);
    take_down(&pool, &[0]);
    assert_eq!(all_tries(&pool, 1, &mut chance), [1, 2]);
}

// ---- lowest_cost ------------------------------------------------------------------------------

fn costly(costs: &[f64], weights: &[u16]) -> Arc<Pool<usize>> {
    let specs = costs.iter().zip(weights).enumerate();
    let specs = specs.map(|(i, (&cost, &weight))| MemberSpec {
        cost: Cost::new(cost).unwrap(),
        ..member(i, weight)
    });
    pool_of(spec(PolicyKind::LowestCost, specs.collect()))
}

#[test]
fn equally_cheap_backends_take_turns_by_weight_and_dearer_ones_none() {
    let pool = costly(&[2.0, 0.5, 0.5, 0.25, 0.5], &[9, 3, 1, 0, 2]);
    let mut chance = Chance::seeded(0);
    assert_eq!(counts(&pool, 600, &mut chance), [0, 300, 100, 0, 200]);
    // Evenly spaced, as with round_robin.
    let order: Vec<_> = (0..6)
        .map(|_| pick(&pool, &mut chance).unwrap().index())
        .collect();
    assert_eq!(order, [1, 4, 1, 2, 4, 1]);
    take_down(&pool, &[1]);
    assert_proportional(&counts(&pool, 600, &mut chance), &[0, 0, 1, 0, 2]);
    take_down(&pool, &[2, 4]);
    assert_eq!(pick(&pool, &mut chance).unwrap().index(), 0);
}

#[test]
fn the_next_cost_is_used_only_when_every_cheaper_backend_is_full() {
    let specs = [3.0, 1.0, 2.0, 1.0].iter().enumerate();
    let specs = specs.map(|(i, &cost)| MemberSpec {
        cost: Cost::new(cost).unwrap(),
        max_connections: 2,
        ..member(i, 1)
    });
    let pool = pool_of(spec(PolicyKind::LowestCost, specs.collect()));
    let mut chance = Chance::seeded(0);
    let held: Vec<_> = std::iter::from_fn(|| pick(&pool, &mut chance)).collect();
    let order: Vec<_> = held.iter().map(|lease| lease.index()).collect();
    assert_eq!(order, [1, 3, 1, 3, 2, 2, 0, 0]);
}

#[test]
fn equally_cheap_backends_go_on_with_their_turns_after_a_reload() {
    let table = Table::new();
    let spec = || spec(PolicyKind::LowestCost, members(&[1, 1, 1]));
    let mut chance = Chance::seeded(0);
    let old = reload(&table, spec());
    assert_eq!(pick(&old, &mut chance).unwrap().index(), 0);
    let new = reload(&table, spec());
    assert_eq!(pick(&new, &mut chance).unwrap().index(), 1);
}

// ---- ip_hash ----------------------------------------------------------------------------------

const CLIENTS: u32 = 60_000;

fn owners(pool: &Arc<Pool<usize>>) -> Vec<usize> {
    owners_of(CLIENTS, pool)
}

fn owners_of(clients: u32, pool: &Arc<Pool<usize>>) -> Vec<usize> {
    let seed = HashSeed::new("clients");
    let mut chance = Chance::seeded(0);
    (0..clients)
        .map(|ip| {
            let key = seed.source_ip(std::net::IpAddr::from(ip.to_be_bytes()));
            Candidates::new(key)
                .next(pool, NOW, &mut chance)
                .unwrap()
                .index()
        })
        .collect()
}

fn tally(owners: impl Iterator<Item = usize>, n: usize) -> Vec<u64> {
    let mut counts = vec![0; n];
    owners.for_each(|owner| counts[owner] += 1);
    counts
}

#[test]
fn ip_hash_gives_each_backend_its_share_of_the_clients() {
    let ten = owners(&pool(PolicyKind::IpHash, &[1; 10]));
    assert_proportional(&tally(ten.into_iter(), 10), &[1; 10]);
    let graded = owners(&pool(PolicyKind::IpHash, &[1, 2, 3]));
    assert_proportional(&tally(graded.into_iter(), 3), &[1, 2, 3]);
}

#[test]
fn ip_hash_shares_the_table_within_two_percent() {
    // Every slot once: a key that is a multiple of nothing but itself names its slot.
    let share = |weights: &[u16]| {
        let pool = pool(PolicyKind::IpHash, weights);
        let mut chance = Chance::seeded(0);
        let slots = (0..65_537).map(|slot| {
            Candidates::new(slot)
                .next(&pool, NOW, &mut chance)
                .unwrap()
                .index()
        });
        tally(slots, weights.len())
    };
    for count in share(&[1; 10]) {
        assert!((count as f64 / 6553.7 - 1.0).abs() < 0.02, "{count}");
    }
    for (count, weight) in share(&[1, 2, 3]).into_iter().zip([1.0, 2.0, 3.0]) {
        assert!(
            (count as f64 * 6.0 / (65_537.0 * weight) - 1.0).abs() < 0.02,
            "{count}"
        );
    }
}

#[test]
fn one_backend_out_moves_only_its_own_clients_and_spreads_them_evenly() {
    let pool = pool(PolicyKind::IpHash, &[1, 1, 1, 1, 2, 1, 1, 1, 1, 1]);
    let before = owners(&pool);
    take_down(&pool, &[3]);
    let after = owners(&pool);
    let moved: Vec<usize> = (0..before.len())
        .filter(|&i| before[i] != after[i])
        .collect();
    assert!(
        moved.iter().all(|&i| before[i] == 3),
        "others' clients moved"
    );
    assert!(after.iter().all(|&owner| owner != 3));
    let heirs = tally(moved.iter().map(|&i| after[i]), 10);
    assert_proportional(&heirs, &[1, 1, 1, 0, 2, 1, 1, 1, 1, 1]);
    pool.set_verdict(3, Verdict::Up, NOW);
    assert_eq!(owners(&pool), before, "back again, everything is as before");
}

#[test]
fn instances_agree_whatever_the_order_of_their_lists() {
    let one = pool(PolicyKind::IpHash, &[1, 2, 3, 4]);
    let mut listed = members(&[1, 2, 3, 4]);
    listed.reverse();
    let other = pool_of(spec(PolicyKind::IpHash, listed));
    let names = |pool: &Arc<Pool<usize>>| -> Vec<usize> {
        owners(pool)
            .into_iter()
            .map(|index| pool.members()[index].target)
            .collect()
    };
    assert_eq!(names(&one), names(&other));
    // Also where so few are left that clients are led to them by counting.
    let many = pool(PolicyKind::IpHash, &[1; 300]);
    let mut listed = members(&[1; 300]);
    listed.reverse();
    let reversed = pool_of(spec(PolicyKind::IpHash, listed));
    let names = [many, reversed].map(|pool| {
        let up = [7, 8, 200];
        let down = (0..300).filter(|&i| !up.contains(&pool.members()[i].target));
        take_down(&pool, &down.collect::<Vec<_>>());
        let owners = owners_of(500, &pool).into_iter();
        owners
            .map(|index| pool.members()[index].target)
            .collect::<Vec<_>>()
    });
    assert_eq!(names[0], names[1]);
}

#[test]
fn another_seed_leads_clients_to_other_backends() {
    let one = pool(PolicyKind::IpHash, &[1, 2, 3, 4]);
    let seeded = PoolSpec {
        seed: "other".into(),
        ..spec(PolicyKind::IpHash, members(&[1, 2, 3, 4]))
    };
    assert_ne!(owners(&one), owners(&pool_of(seeded)));
}

#[test]
fn a_client_keeps_its_second_choice_too() {
    let pool = pool(PolicyKind::IpHash, &[1; 8]);
    for key in [3, 1 << 40, u64::MAX] {
        let tries = |seed| all_tries(&pool, key, &mut Chance::seeded(seed));
        assert_eq!(tries(1), tries(2), "chance has no part in it");
    }
}

#[test]
fn a_membership_change_by_reload_moves_few_of_the_others_clients() {
    let all = pool(PolicyKind::IpHash, &[1; 10]);
    let fewer = pool(PolicyKind::IpHash, &[1; 9]);
    let (before, after) = (owners(&all), owners(&fewer));
    let disturbed = (0..before.len())
        .filter(|&i| before[i] != 9 && before[i] != after[i])
        .count();
    // The paper counts about two percent for one of a thousand; a plain modulo moves nine tenths.
    assert!(
        disturbed < before.len() / 10,
        "{disturbed} of {}",
        before.len()
    );
}
