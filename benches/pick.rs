//! What it costs to take a lease and give it back, per policy and size of the pool, and to build
//! the pool in the first place.
//!
//! `cargo bench --bench pick`

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};

use lbd::balance::backend::Verdict;
use lbd::balance::chance::Chance;
use lbd::balance::ejection::Ejection;
use lbd::balance::policy::{Cost, PolicyKind};
use lbd::balance::pool::{Candidates, MemberSpec, Pool, PoolSpec};
use lbd::balance::table::Table;
use lbd::base::clock::Moment;

const NOW: Moment = Moment::from_millis(1);

fn spec(policy: PolicyKind, n: usize) -> PoolSpec<()> {
    let members = (0..n).map(|i| MemberSpec {
        name: format!("backend-{i}"),
        identity: format!("192.0.2.1:{i}"),
        target: (),
        weight: 10,
        priority: 0,
        cost: Cost::FREE,
        max_connections: 0,
    });
    PoolSpec {
        name: "pool".into(),
        policy,
        ejection: Ejection {
            connect_failures: 3,
            base: Duration::from_secs(5),
            max: Duration::from_secs(60),
            max_percent: 50,
            early_resets: 0,
            early_reset_within: Duration::from_secs(1),
            empty_closes: 0,
        },
        hash_balance_factor: 125,
        slow_start: Duration::ZERO,
        panic_threshold: 0,
        failure_latency: Duration::from_secs(1),
        probed: false,
        seed: "seed".into(),
        max_connections: 0,
        members: members.collect(),
    }
}

fn pick(c: &mut Criterion) {
    for policy in PolicyKind::ALL {
        let mut group = c.benchmark_group(format!("{policy:?}"));
        for n in [3, 100, 1000] {
            let pool = Arc::new(Pool::new(spec(policy, n), Table::new(), NOW));
            let mut chance = Chance::seeded(1);
            group.bench_function(BenchmarkId::from_parameter(n), |b| {
                b.iter(|| {
                    let key = chance.next_u64();
                    black_box(Candidates::new(key).next(&pool, NOW, &mut chance))
                });
            });
        }
        group.finish();
    }
}

/// What [`pick`] leaves out: there everybody is idle, up and of one weight.
fn pick_in_trouble(c: &mut Criterion) {
    let mut group = c.benchmark_group("of 1000");
    let mut chance = Chance::seeded(1);

    let mut graded = spec(PolicyKind::LeastConnections, 1000);
    (10..)
        .zip(&mut graded.members)
        .for_each(|(i, member)| member.weight = 10 + i % 7);
    let pool = Arc::new(Pool::new(graded, Table::new(), NOW));
    let mut held: Vec<_> = (0..20_000)
        .map(|key| Candidates::new(key).next(&pool, NOW, &mut chance))
        .collect();
    held.retain(|_| chance.below(3) > 0);
    group.bench_function("LeastConnections, busy and weighted", |b| {
        b.iter(|| black_box(Candidates::new(0).next(&pool, NOW, &mut chance)));
    });

    for policy in PolicyKind::ALL {
        let pool = Arc::new(Pool::new(spec(policy, 1000), Table::new(), NOW));
        (0..999).for_each(|index| pool.set_verdict(index, Verdict::Down, NOW));
        group.bench_function(format!("{policy:?}, one up"), |b| {
            b.iter(|| black_box(Candidates::new(0).next(&pool, NOW, &mut chance)));
        });
    }
    group.finish();
}

fn build(c: &mut Criterion) {
    let mut group = c.benchmark_group("build 1000");
    group.sample_size(10);
    for policy in [
        PolicyKind::RoundRobin,
        PolicyKind::IpHash,
        PolicyKind::TwoChoices,
    ] {
        group.bench_function(format!("{policy:?}"), |b| {
            b.iter(|| Pool::new(spec(policy, 1000), Table::new(), NOW));
        });
    }
    let table = Table::new();
    let _before = Pool::new(spec(PolicyKind::IpHash, 1000), Arc::clone(&table), NOW);
    group.bench_function("IpHash again", |b| {
        b.iter(|| Pool::new(spec(PolicyKind::IpHash, 1000), Arc::clone(&table), NOW));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = pick, pick_in_trouble, build
}
criterion_main!(benches);
