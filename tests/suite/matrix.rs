//! The table of every policy with every feature: one case for each pair. A policy or a feature that
//! does not say here what is expected of it does not compile.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use crate::balance_kit::*;
use lbd::balance::backend::{State, Verdict, Wish};
use lbd::balance::chance::Chance;
use lbd::balance::ejection::Ejection;
use lbd::balance::policy::PolicyKind;
use lbd::balance::pool::{Candidates, Lease, MemberSpec, Pool, PoolSpec};
use lbd::balance::table::Table;
use lbd::base::clock::Moment;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Feature {
    Weights,
    WeightZero,
    WeightPercent,
    Tiers,
    BackendLimit,
    PoolLimit,
    SlowStart,
    Ejection,
    Drain,
    Maintenance,
    Down,
    Panic,
    TriedOnce,
    Reload,
}

const FEATURES: [Feature; 14] = [
    Feature::Weights,
    Feature::WeightZero,
    Feature::WeightPercent,
    Feature::Tiers,
    Feature::BackendLimit,
    Feature::PoolLimit,
    Feature::SlowStart,
    Feature::Ejection,
    Feature::Drain,
    Feature::Maintenance,
    Feature::Down,
    Feature::Panic,
    Feature::TriedOnce,
    Feature::Reload,
];
// Discriminants count from 0, so one that is left out of the list is noticed.
const _: () = assert!(Feature::Reload as usize + 1 == FEATURES.len());

/// How a policy shares clients out, as far as the cases need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nature {
    /// Exactly by weight.
    Turns,
    /// By weight, each client on its own.
    Draws,
    /// Connections grow in proportion to the weights.
    Loads,
    /// Weights do not matter.
    Order,
}

fn nature(policy: PolicyKind) -> Nature {
    match policy {
        PolicyKind::RoundRobin | PolicyKind::LowestCost => Nature::Turns,
        PolicyKind::Random | PolicyKind::IpHash => Nature::Draws,
        PolicyKind::LeastConnections | PolicyKind::TwoChoices | PolicyKind::LeastLatency => {
            Nature::Loads
        }
        PolicyKind::Failover => Nature::Order,
    }
}

#[test]
fn every_policy_honours_every_feature() {
    for policy in PolicyKind::ALL {
        for feature in FEATURES {
            // Says on the way out of a panic which case it was.
            let _case = Case(policy, feature);
            check(policy, feature);
        }
    }
}

struct Case(PolicyKind, Feature);

impl Drop for Case {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed: {:?} with {:?}", self.0, self.1);
        }
    }
}

fn check(policy: PolicyKind, feature: Feature) {
    match feature {
        Feature::Weights => weights(policy),
        Feature::WeightZero => weight_zero(policy),
        Feature::WeightPercent => weight_percent(policy),
        Feature::Tiers => tiers(policy),
        Feature::BackendLimit => backend_limit(policy),
        Feature::PoolLimit => pool_limit(policy),
        Feature::SlowStart => slow_start(policy),
        Feature::Ejection => ejection(policy),
        Feature::Drain => wish(policy, Wish::Drain, State::Drain),
        Feature::Maintenance => wish(policy, Wish::Maintenance, State::Maintenance),
        Feature::Down => down(policy),
        Feature::Panic => panic(policy),
        Feature::TriedOnce => tried_once(policy),
        Feature::Reload => reload_keeps(policy),
    }
}

/// Fails unless the policy shares clients out as `ideal` says.
fn assert_shares(pool: &Arc<Pool<usize>>, now: Moment, ideal: &[u64]) {
    let mut chance = Chance::seeded(1);
    let sum: u64 = ideal.iter().sum();
    let picks = 6 * sum as usize;
    match nature(pool.policy()) {
        Nature::Turns | Nature::Draws => {
            assert_proportional(&counts_at(pool, now, picks, &mut chance), ideal);
        }
        Nature::Loads => {
            let filled = filled_at(pool, now, picks, &mut chance);
            for (count, ideal) in filled.iter().zip(ideal) {
                let room = 3.max(ideal * 6 / 10);
                assert!(count.abs_diff(ideal * 6) <= room, "{filled:?}");
            }
        }
        Nature::Order => panic!("an order has no shares"),
    }
}

fn firsts(pool: &Arc<Pool<usize>>, now: Moment) -> BTreeSet<usize> {
    let mut chance = Chance::seeded(2);
    (0..200)
        .filter_map(|_| Some(pick_at(pool, now, &mut chance)?.index()))
        .collect()
}

/// Everyone a client may be sent to, one after the other.
fn reachable(pool: &Arc<Pool<usize>>, now: Moment) -> BTreeSet<usize> {
    let mut chance = Chance::seeded(3);
    let mut all = BTreeSet::new();
    for key in 0..20 {
        let mut candidates = Candidates::new(key);
        let tries: Vec<usize> =
            std::iter::from_fn(|| Some(candidates.next(pool, now, &mut chance)?.index())).collect();
        let set: BTreeSet<usize> = tries.iter().copied().collect();
        assert_eq!(set.len(), tries.len(), "tried twice: {tries:?}");
        assert!(all.is_empty() || all == set, "{all:?} or {set:?}");
        all = set;
    }
    all
}

fn set(list: &[usize]) -> BTreeSet<usize> {
    list.iter().copied().collect()
}

fn fill(pool: &Arc<Pool<usize>>) -> Vec<Lease<usize>> {
    let mut chance = Chance::seeded(4);
    std::iter::from_fn(|| pick(pool, &mut chance)).collect()
}

fn weights(policy: PolicyKind) {
    let pool = pool(policy, &[100, 500, 300]);
    match nature(policy) {
        Nature::Order => assert_eq!(firsts(&pool, NOW), set(&[0])),
        _ => assert_shares(&pool, NOW, &[100, 500, 300]),
    }
}

fn weight_zero(policy: PolicyKind) {
    let pool = pool(policy, &[0, 1, 0, 3]);
    assert_eq!(reachable(&pool, NOW), set(&[1, 3]));
    assert_eq!(pool.state(0, NOW), State::Drain);
    take_down(&pool, &[1, 3]);
    assert_eq!(reachable(&pool, NOW), set(&[]));
}

fn weight_percent(policy: PolicyKind) {
    let pool = pool(policy, &[4, 4, 2]);
    pool.set_weight_percent(0, 50);
    pool.set_weight_percent(2, 256);
    pool.set_weight_percent(2, 200);
    match nature(policy) {
        Nature::Order => assert_eq!(firsts(&pool, NOW), set(&[0])),
        _ => assert_shares(&pool, NOW, &[200, 400, 400]),
    }
    pool.set_weight_percent(0, 0);
    assert_eq!(reachable(&pool, NOW), set(&[1, 2]));
    assert_eq!(pool.state(0, NOW), State::Drain);
    pool.set_weight_percent(1, 0);
    pool.set_weight_percent(2, 0);
    assert_eq!(reachable(&pool, NOW), set(&[]));
    (0..3).for_each(|i| pool.set_weight_percent(i, 100));
    match nature(policy) {
        Nature::Order => assert_eq!(firsts(&pool, NOW), set(&[0])),
        _ => assert_shares(&pool, NOW, &[400, 400, 200]),
    }
}

fn tiers(policy: PolicyKind) {
    let specs = [5, 0, 5, 0].iter().enumerate().map(|(i, &priority)| {
        let spec = member(i, 1);
        MemberSpec { priority, ..spec }
    });
    let pool = pool_of(spec(policy, specs.collect()));
    assert!(firsts(&pool, NOW).is_subset(&set(&[1, 3])));
    assert_eq!(reachable(&pool, NOW), set(&[0, 1, 2, 3]));
    let tries = all_tries(&pool, 7, &mut Chance::seeded(1));
    assert_eq!(
        tries[..2].iter().copied().collect::<BTreeSet<_>>(),
        set(&[1, 3])
    );
    take_down(&pool, &[1, 3]);
    assert!(firsts(&pool, NOW).is_subset(&set(&[0, 2])));
}

fn backend_limit(policy: PolicyKind) {
    let limits = [2, 0, 3].iter().enumerate().map(|(i, &max_connections)| {
        let spec = member(i, 1);
        MemberSpec {
            max_connections,
            ..spec
        }
    });
    let pool = pool_of(spec(policy, limits.collect()));
    take_down(&pool, &[1]);
    let held = fill(&pool);
    assert_eq!([0, 1, 2].map(|i| pool.live(i).active()), [2, 0, 3]);
    assert!(!pool.has_room(NOW));
    let mut waiting = Candidates::new(0);
    assert!(waiting.next(&pool, NOW, &mut Chance::seeded(1)).is_none());
    assert!(waiting.found_all_full(&pool, NOW));
    drop(held);
    assert!(pool.has_room(NOW));
    assert_eq!(fill(&pool).len(), 5);
}

fn pool_limit(policy: PolicyKind) {
    let spec = PoolSpec {
        max_connections: 5,
        ..spec(policy, members(&[1, 1, 1]))
    };
    let pool = pool_of(spec);
    let held = fill(&pool);
    assert_eq!((held.len(), pool.active()), (5, 5));
    assert!(!pool.has_room(NOW));
    drop(held);
    assert_eq!((pool.active(), fill(&pool).len()), (0, 5));
}

fn slow_start(policy: PolicyKind) {
    let pool = pool_of(PoolSpec {
        slow_start: Duration::from_secs(30),
        ..spec(policy, members(&[1, 1, 1]))
    });
    let states = || [0, 1, 2].map(|i| pool.state(i, NOW));
    assert_eq!(
        states(),
        [State::Up; 3],
        "at the start nobody has to be spared"
    );
    take_down(&pool, &[0]);
    pool.set_verdict(0, Verdict::Up, NOW);
    assert_eq!(states(), [State::SlowStart, State::Up, State::Up]);
    for (seconds, percent) in [(0, 10), (10, 40), (30, 100)] {
        assert_eq!(pool.ramp_percent(0, after(seconds)), percent);
        let percent = u64::from(percent);
        if nature(policy) == Nature::Order {
            let counts = counts_at(&pool, after(seconds), 2000, &mut Chance::seeded(1));
            assert_proportional(&counts, &[percent, 100 - percent, 0]);
        } else {
            assert_shares(&pool, after(seconds), &[percent, 100, 100]);
        }
    }
    assert_eq!(pool.state(0, after(30)), State::Up);
    // Nobody is refused because all have just come, and it is all the same then.
    take_down(&pool, &[0, 1, 2]);
    (0..3).for_each(|i| pool.set_verdict(i, Verdict::Up, after(40)));
    match nature(policy) {
        Nature::Order => assert_eq!(firsts(&pool, after(40)), set(&[0, 1, 2])),
        _ => assert_shares(&pool, after(40), &[100, 100, 100]),
    }
    take_down(&pool, &[1, 2]);
    assert_eq!(firsts(&pool, after(41)), set(&[0]));
}

fn ejection(policy: PolicyKind) {
    let spec = spec(policy, members(&[1, 1, 1]));
    let ejection = Ejection {
        connect_failures: 1,
        ..spec.ejection
    };
    let pool = pool_of(PoolSpec { ejection, ..spec });
    let mut chance = Chance::seeded(1);
    let failing = pick(&pool, &mut chance).unwrap();
    let ejected = failing.index();
    failing.connect_failed(NOW, TOOK);
    drop(failing);
    assert_eq!(pool.state(ejected, NOW), State::Ejected);
    let others: BTreeSet<usize> = (0..3).filter(|&i| i != ejected).collect();
    assert_eq!(reachable(&pool, after(4)), others);
    assert_eq!(reachable(&pool, after(5)), set(&[0, 1, 2]));
}

fn wish(policy: PolicyKind, wish: Wish, state: State) {
    let pool = pool(policy, &[1, 1, 1]);
    pool.set_wish(0, wish, NOW);
    assert_eq!(pool.state(0, NOW), state);
    assert_eq!(reachable(&pool, NOW), set(&[1, 2]));
    take_down(&pool, &[1, 2]);
    assert_eq!(reachable(&pool, NOW), set(&[]), "not even as the last");
    pool.set_wish(0, Wish::Ready, NOW);
    assert_eq!(reachable(&pool, NOW), set(&[0]));
}

fn down(policy: PolicyKind) {
    let pool = pool(policy, &[1, 1, 1]);
    take_down(&pool, &[0]);
    assert_eq!(reachable(&pool, NOW), set(&[1, 2]));
    pool.set_verdict(0, Verdict::Unchecked, NOW);
    assert_eq!(reachable(&pool, NOW), set(&[0, 1, 2]));
    assert!(firsts(&pool, NOW).is_subset(&set(&[1, 2])));
    take_down(&pool, &[1, 2]);
    assert_eq!(reachable(&pool, NOW), set(&[0]));
}

fn panic(policy: PolicyKind) {
    let spec = spec(policy, members(&[1, 1, 1, 1, 1, 0]));
    let ejection = Ejection {
        connect_failures: 1,
        ..spec.ejection
    };
    let pool = pool_of(PoolSpec {
        panic_threshold: 50,
        ejection,
        ..spec
    });
    pool.set_wish(4, Wish::Drain, NOW);
    // Two of the four that are wanted: not fewer than the half.
    take_down(&pool, &[0, 1]);
    assert!(!pool.in_panic(NOW));
    assert_eq!(reachable(&pool, NOW), set(&[2, 3]));
    let mut chance = Chance::seeded(1);
    let failing = pick(&pool, &mut chance).unwrap();
    let ejected = failing.index();
    failing.connect_failed(NOW, TOOK);
    assert!(pool.in_panic(NOW));
    assert_eq!(pool.state(ejected, NOW), State::Ejected);
    assert_eq!(reachable(&pool, NOW), set(&[0, 1, 2, 3]));
    drop(failing);
    match nature(policy) {
        Nature::Order => assert_eq!(firsts(&pool, NOW), set(&[0])),
        _ => assert_shares(&pool, NOW, &[100, 100, 100, 100, 0, 0]),
    }
    assert!(!pool.in_panic(after(5)), "the ejection has ended");
    assert_eq!(reachable(&pool, after(5)), set(&[2, 3]));
}

fn tried_once(policy: PolicyKind) {
    let pool = pool(policy, &[1, 9, 3, 3]);
    assert_eq!(reachable(&pool, NOW), set(&[0, 1, 2, 3]));
    take_down(&pool, &[1]);
    assert_eq!(reachable(&pool, NOW), set(&[0, 2, 3]));
}

fn reload_keeps(policy: PolicyKind) {
    let table = Table::new();
    let limited = || {
        let specs = (0..4).map(|i| MemberSpec {
            max_connections: 2,
            ..member(i, 1)
        });
        PoolSpec {
            slow_start: Duration::from_secs(30),
            probed: true,
            ..spec(policy, specs.collect())
        }
    };
    let old = reload(&table, limited());
    (0..4).for_each(|i| old.set_verdict(i, Verdict::Up, NOW));
    old.set_verdict(0, Verdict::Down, NOW);
    old.set_wish(1, Wish::Drain, NOW);
    old.set_weight_percent(2, 0);
    let held = fill(&old);
    assert_eq!(held.len(), 2, "those of the last one");
    let mut reordered = limited();
    reordered.members.rotate_left(1);
    let new = reload(&table, reordered);
    let states = [0, 1, 2, 3].map(|i| new.state(i, NOW));
    assert_eq!(states, [State::Drain, State::Drain, State::Up, State::Down]);
    assert_eq!(reachable(&new, NOW), set(&[]), "full");
    // What a pool before it is told holds for the new one.
    drop(held);
    assert_eq!(reachable(&new, NOW), set(&[2]));
    old.set_weight_percent(2, 100);
    old.set_verdict(0, Verdict::Up, NOW);
    assert_eq!(reachable(&new, NOW), set(&[1, 2, 3]));
    assert_eq!(new.state(3, NOW), State::SlowStart);
}
