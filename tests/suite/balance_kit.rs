//! Short ways to write down pools, shared by the tests of the balance floor.

use std::sync::Arc;
use std::time::Duration;

use lbd::balance::backend::Verdict;
use lbd::balance::chance::Chance;
use lbd::balance::ejection::Ejection;
use lbd::balance::policy::{Cost, PolicyKind};
use lbd::balance::pool::{Candidates, Lease, MemberSpec, Pool, PoolSpec};
use lbd::balance::table::Table;
use lbd::base::clock::Moment;

pub(crate) const NOW: Moment = Moment::from_millis(1_000_000);

/// A connect's, where it does not matter.
pub(crate) const TOOK: Duration = Duration::from_millis(1);

/// A member named `b0`, `b1`, …, with an address to match.
pub(crate) fn member(index: usize, weight: u16) -> MemberSpec<usize> {
    MemberSpec {
        name: format!("b{index}"),
        identity: format!("192.0.2.{}:{index}", index % 256),
        target: index,
        weight,
        priority: 0,
        cost: Cost::FREE,
        max_connections: 0,
    }
}

pub(crate) fn members(weights: &[u16]) -> Vec<MemberSpec<usize>> {
    weights
        .iter()
        .enumerate()
        .map(|(index, &weight)| member(index, weight))
        .collect()
}

/// Without probes and with nothing that is not asked for.
pub(crate) fn spec(policy: PolicyKind, members: Vec<MemberSpec<usize>>) -> PoolSpec<usize> {
    PoolSpec {
        name: "pool".into(),
        policy,
        ejection: Ejection {
            connect_failures: 0,
            base: Duration::from_secs(5),
            max: Duration::from_secs(60),
            max_percent: 50,
            early_resets: 0,
            early_reset_within: Duration::from_secs(1),
            empty_closes: 0,
        },
        hash_balance_factor: 0,
        slow_start: Duration::ZERO,
        panic_threshold: 0,
        failure_latency: Duration::from_secs(2),
        probed: false,
        seed: "seed".into(),
        max_connections: 0,
        members,
    }
}

pub(crate) fn pool_of(spec: PoolSpec<usize>) -> Arc<Pool<usize>> {
    Arc::new(Pool::new(spec, Table::new(), NOW))
}

/// Another pool over what `table` knows.
pub(crate) fn reload(table: &Arc<Table>, spec: PoolSpec<usize>) -> Arc<Pool<usize>> {
    Arc::new(Pool::new(spec, Arc::clone(table), NOW))
}

pub(crate) fn pool(policy: PolicyKind, weights: &[u16]) -> Arc<Pool<usize>> {
    pool_of(spec(policy, members(weights)))
}

/// A first try for a new client with a key of its own.
pub(crate) fn pick(pool: &Arc<Pool<usize>>, chance: &mut Chance) -> Option<Lease<usize>> {
    pick_at(pool, NOW, chance)
}

pub(crate) fn pick_at(
    pool: &Arc<Pool<usize>>,
    now: Moment,
    chance: &mut Chance,
) -> Option<Lease<usize>> {
    let key = chance.next_u64();
    Candidates::new(key).next(pool, now, chance)
}

pub(crate) fn after(seconds: u64) -> Moment {
    NOW + Duration::from_secs(seconds)
}

/// Who comes first for each of `picks` clients that leave at once.
pub(crate) fn counts(pool: &Arc<Pool<usize>>, picks: usize, chance: &mut Chance) -> Vec<u64> {
    counts_at(pool, NOW, picks, chance)
}

pub(crate) fn counts_at(
    pool: &Arc<Pool<usize>>,
    now: Moment,
    picks: usize,
    chance: &mut Chance,
) -> Vec<u64> {
    let mut counts = vec![0; pool.members().len()];
    for _ in 0..picks {
        let lease = pick_at(pool, now, chance).expect("somebody may be chosen");
        counts[lease.index()] += 1;
    }
    counts
}

/// How many of `picks` clients that stay each has.
pub(crate) fn filled_at(
    pool: &Arc<Pool<usize>>,
    now: Moment,
    picks: usize,
    chance: &mut Chance,
) -> Vec<u64> {
    let held: Vec<_> = (0..picks).map(|_| pick_at(pool, now, chance)).collect();
    assert!(held.iter().all(Option::is_some), "somebody may be chosen");
    let members = 0..pool.members().len();
    members.map(|i| pool.live(i).active().into()).collect()
}

/// Everyone a client could try, in order.
pub(crate) fn all_tries(pool: &Arc<Pool<usize>>, key: u64, chance: &mut Chance) -> Vec<usize> {
    let mut candidates = Candidates::new(key);
    std::iter::from_fn(|| Some(candidates.next(pool, NOW, chance)?.index())).collect()
}

pub(crate) fn take_down(pool: &Pool<usize>, indices: &[usize]) {
    for &index in indices {
        pool.set_verdict(index, Verdict::Down, NOW);
    }
}

/// Fails if `counts` are less likely to stem from shares in proportion to `weights` than one in
/// some millions (Wilson and Hilferty's approximation of chi-square, at five standard deviations).
pub(crate) fn assert_proportional(counts: &[u64], weights: &[u64]) {
    let (sum, total) = (
        counts.iter().sum::<u64>() as f64,
        weights.iter().sum::<u64>() as f64,
    );
    let mut chi_square = 0.0;
    let mut freedom = -1.0;
    for (&count, &weight) in counts.iter().zip(weights) {
        if weight == 0 {
            assert_eq!(count, 0, "chosen in spite of no weight: {counts:?}");
            continue;
        }
        let ideal = sum * weight as f64 / total;
        assert!(ideal >= 5.0, "too few picks for a verdict");
        chi_square += (count as f64 - ideal).powi(2) / ideal;
        freedom += 1.0;
    }
    if freedom < 1.0 {
        return;
    }
    let spread = 2.0 / (9.0 * freedom);
    let deviations = ((chi_square / freedom).cbrt() - (1.0 - spread)) / f64::sqrt(spread);
    assert!(
        deviations < 5.0,
        "{deviations:.1} deviations: {counts:?} for {weights:?}"
    );
}
