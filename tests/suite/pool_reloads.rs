//! What a pool keeps when it is built anew over the same table, and what it forgets.

use crate::balance_kit::*;
use lbd::balance::backend::{State, Verdict, Wish};
use lbd::balance::chance::Chance;
use lbd::balance::ejection::Ejection;
use lbd::balance::policy::PolicyKind;
use lbd::balance::pool::{Candidates, MemberSpec, PoolSpec};
use lbd::balance::table::Table;
use lbd::balance::timings::Timed;

fn probed(policy: PolicyKind, members: Vec<MemberSpec<usize>>) -> PoolSpec<usize> {
    let spec = spec(policy, members);
    let ejection = Ejection {
        connect_failures: 1,
        ..spec.ejection
    };
    PoolSpec {
        probed: true,
        ejection,
        ..spec
    }
}

#[test]
fn a_reload_keeps_what_is_known_of_a_backend() {
    let table = Table::new();
    let old = reload(&table, probed(PolicyKind::Failover, members(&[1, 1, 1])));
    (0..3).for_each(|i| old.set_verdict(i, Verdict::Up, NOW));
    let mut chance = Chance::seeded(0);
    let lease = pick(&old, &mut chance).unwrap();
    lease.connected(NOW, TOOK);
    lease.add_bytes(10, 20);
    lease.took(0, Timed::Connect, TOOK);
    lease.connect_failed(NOW, TOOK);
    old.set_verdict(1, Verdict::Down, NOW);
    old.set_wish(2, Wish::Drain, NOW);

    // Other order, other weights, one more.
    let mut members = members(&[5, 5, 5, 5]);
    members.reverse();
    let new = reload(&table, probed(PolicyKind::LeastConnections, members));
    let states: Vec<State> = (0..4).map(|i| new.state(i, NOW)).collect();
    assert_eq!(
        states,
        [State::Unchecked, State::Drain, State::Down, State::Ejected]
    );
    let live = new.live(3);
    assert_eq!(
        (
            live.active(),
            live.connections_total(),
            live.connect_failures_total()
        ),
        (1, 1, 1)
    );
    assert_eq!((live.bytes_to_backend(), live.bytes_to_client()), (10, 20));
    lease.add_bytes(1, 2);
    lease.took(1, Timed::Connect, TOOK);
    assert_eq!(live.histograms().connect.count(), 2);
    assert_eq!((live.bytes_to_backend(), live.bytes_to_client()), (11, 22));
    drop(lease);
    assert_eq!(
        new.live(3).active(),
        0,
        "a lease of the old pool counts in the new one"
    );
}

#[test]
fn limits_count_leases_from_before_the_reload() {
    let table = Table::new();
    let limited = |limit| {
        let specs = vec![MemberSpec {
            max_connections: limit,
            ..member(0, 1)
        }];
        reload(&table, spec(PolicyKind::Random, specs))
    };
    let mut chance = Chance::seeded(0);
    let old = limited(3);
    let held: Vec<_> = (0..3).map(|_| pick(&old, &mut chance).unwrap()).collect();
    let new = limited(2);
    assert!(pick(&new, &mut chance).is_none());
    drop(held);
    let again: Vec<_> = std::iter::from_fn(|| pick(&new, &mut chance)).collect();
    assert_eq!(again.len(), 2);
}

#[test]
fn another_address_is_another_backend() {
    let table = Table::new();
    let old = reload(&table, probed(PolicyKind::Failover, members(&[1])));
    let lease = pick(&old, &mut Chance::seeded(0)).unwrap();
    lease.connected(NOW, TOOK);
    lease.took(0, Timed::Connect, TOOK);
    drop(lease);
    old.set_verdict(0, Verdict::Down, NOW);
    let moved = MemberSpec {
        identity: "198.51.100.1:80".into(),
        ..member(0, 1)
    };
    let new = reload(&table, probed(PolicyKind::Failover, vec![moved]));
    assert_eq!(new.state(0, NOW), State::Unchecked);
    assert_eq!(new.live(0).connections_total(), 0);
    drop((old, new));
    // By now there are two places that nobody has: of each another backend begins.
    let others = (2..4).map(|name| member(name, 1)).collect();
    let others = reload(&table, probed(PolicyKind::Failover, others));
    for index in 0..2 {
        assert!(others.live(index).histograms().connect.is_empty());
    }
}

#[test]
fn a_backend_that_was_away_is_probed_before_it_is_believed() {
    let table = Table::new();
    let both = || probed(PolicyKind::Failover, members(&[1, 1]));
    let first = reload(&table, both());
    [0, 1]
        .iter()
        .for_each(|&i| first.set_verdict(i, Verdict::Up, NOW));
    pick(&first, &mut Chance::seeded(0))
        .unwrap()
        .connected(NOW, TOOK);
    first.set_wish(0, Wish::Drain, NOW);
    let without = probed(PolicyKind::Failover, vec![member(1, 1)]);
    let second = reload(&table, without);
    assert_eq!(second.state(0, NOW), State::Up);
    let third = reload(&table, both());
    assert_eq!(
        third.live(0).verdict(),
        Verdict::Unchecked,
        "nobody probed it meanwhile"
    );
    assert_eq!(
        third.live(0).wish(),
        Wish::Drain,
        "the operator's word holds"
    );
    assert_eq!(third.live(0).connections_total(), 1);
    assert_eq!(third.state(1, NOW), State::Up);
}

#[test]
fn a_reload_with_nothing_alive_in_between_keeps_verdicts_too() {
    let table = Table::new();
    let first = reload(&table, probed(PolicyKind::Failover, members(&[1])));
    first.set_verdict(0, Verdict::Down, NOW);
    drop(first);
    let second = reload(&table, probed(PolicyKind::Failover, members(&[1])));
    assert_eq!(second.live(0).verdict(), Verdict::Down);
}

#[test]
fn adding_or_removing_the_probe_changes_what_the_verdict_starts_from() {
    let table = Table::new();
    let unprobed = spec(PolicyKind::Failover, members(&[1]));
    let probed = PoolSpec {
        probed: true,
        ..unprobed.clone()
    };
    assert_eq!(
        reload(&table, unprobed.clone()).live(0).verdict(),
        Verdict::Unprobed
    );
    let pool = reload(&table, probed);
    assert_eq!(pool.live(0).verdict(), Verdict::Unchecked);
    pool.set_verdict(0, Verdict::Down, NOW);
    assert_eq!(
        reload(&table, unprobed).live(0).verdict(),
        Verdict::Unprobed
    );
}

#[test]
fn round_robin_goes_on_where_it_was_before_the_reload() {
    let table = Table::new();
    let spec = || spec(PolicyKind::RoundRobin, members(&[1, 1, 1]));
    let mut chance = Chance::seeded(0);
    let old = reload(&table, spec());
    assert_eq!(pick(&old, &mut chance).unwrap().index(), 0);
    let new = reload(&table, spec());
    assert_eq!(pick(&new, &mut chance).unwrap().index(), 1);
    assert_eq!(
        pick(&old, &mut chance).unwrap().index(),
        2,
        "and shares it with the old one"
    );
    assert_eq!(pick(&new, &mut chance).unwrap().index(), 0);
}

#[test]
fn a_client_that_waits_through_a_reload_still_knows_whom_it_tried() {
    for policy in PolicyKind::ALL {
        let table = Table::new();
        let mut chance = Chance::seeded(0);
        let old = reload(&table, spec(policy, members(&[1, 1, 1])));
        let mut candidates = Candidates::new(1);
        let tried = candidates.next(&old, NOW, &mut chance).unwrap().index();
        let mut listed = members(&[1, 1, 1]);
        listed.rotate_left(1);
        let new = reload(&table, spec(policy, listed));
        let mut targets = vec![tried];
        while let Some(lease) = candidates.next(&new, NOW, &mut chance) {
            targets.push(lease.member().target);
        }
        targets.sort_unstable();
        assert_eq!(targets, [0, 1, 2], "{policy:?}");
    }
}

#[test]
fn slots_of_backends_that_are_gone_are_used_again_with_a_clean_record() {
    let table = Table::new();
    let mut chance = Chance::seeded(0);
    for round in 0..200 {
        let fresh: Vec<_> = (0..10).map(|i| member(round * 10 + i, 1)).collect();
        let pool = reload(&table, probed(PolicyKind::Random, fresh));
        for i in 0..10 {
            assert_eq!(pool.state(i, NOW), State::Unchecked);
            let live = pool.live(i);
            assert_eq!(
                (
                    live.active(),
                    live.connections_total(),
                    live.ejections_total()
                ),
                (0, 0, 0)
            );
        }
        for _ in 0..3 {
            let lease = pick(&pool, &mut chance).unwrap();
            lease.connected(NOW, TOOK);
            lease.connect_failed(NOW, TOOK);
            pool.set_verdict(lease.index(), Verdict::Up, NOW);
        }
    }
}
