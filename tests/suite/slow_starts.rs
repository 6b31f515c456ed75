//! Slow start and panic: how backends come back, and what is done when too few are left.

use std::sync::Arc;
use std::time::Duration;

use crate::balance_kit::*;
use lbd::balance::backend::{State, Verdict, Wish};
use lbd::balance::chance::Chance;
use lbd::balance::ejection::Ejection;
use lbd::balance::policy::PolicyKind;
use lbd::balance::pool::{Candidates, MemberSpec, Pool, PoolSpec};
use lbd::balance::table::Table;

const RAMP: Duration = Duration::from_secs(30);

fn slow(policy: PolicyKind, members: Vec<MemberSpec<usize>>) -> PoolSpec<usize> {
    PoolSpec {
        slow_start: RAMP,
        ..spec(policy, members)
    }
}

fn states(pool: &Pool<usize>) -> Vec<State> {
    (0..pool.members().len())
        .map(|i| pool.state(i, NOW))
        .collect()
}

#[test]
fn a_backend_that_joins_starts_slowly_and_those_at_the_start_do_not() {
    for probed in [false, true] {
        let table = Table::new();
        let of = |n: usize| PoolSpec {
            probed,
            ..slow(PolicyKind::Random, members(&vec![1; n]))
        };
        let old = reload(&table, of(2));
        (0..2).for_each(|i| old.set_verdict(i, Verdict::Up, NOW));
        assert_eq!(states(&old), [State::Up; 2]);
        let new = reload(&table, of(3));
        if probed {
            assert_eq!(new.state(2, NOW), State::Unchecked);
            new.set_verdict(2, Verdict::Up, NOW);
        }
        assert_eq!(states(&new), [State::Up, State::Up, State::SlowStart]);
        let counts = counts(&new, 21_000, &mut Chance::seeded(1));
        assert_proportional(&counts, &[100, 100, 10]);
        assert_eq!(new.state(2, after(30)), State::Up);
        // A further reload neither ends it nor begins it again.
        let again = reload(&table, of(3));
        assert_eq!(again.ramp_percent(2, after(10)), 40);
        // One that was away is new again.
        let _without = reload(&table, of(2));
        let back = reload(&table, of(3));
        if probed {
            back.set_verdict(2, Verdict::Up, NOW);
        }
        assert_eq!(back.ramp_percent(2, NOW), 10);
    }
}

#[test]
fn a_backend_starts_slowly_after_whatever_kept_it_out() {
    let spec = slow(PolicyKind::Failover, members(&[1, 1, 1]));
    let ejection = Ejection {
        connect_failures: 1,
        ..spec.ejection
    };
    let pool = pool_of(PoolSpec { ejection, ..spec });
    for wish in [Wish::Drain, Wish::Maintenance] {
        pool.set_wish(1, wish, NOW);
        pool.set_wish(1, Wish::Ready, after(1));
        assert_eq!(pool.state(1, after(1)), State::SlowStart);
        assert_eq!(pool.state(1, after(31)), State::Up);
    }
    let lease = pick(&pool, &mut Chance::seeded(0)).unwrap();
    lease.connect_failed(NOW, TOOK);
    assert_eq!(pool.state(lease.index(), after(4)), State::Ejected);
    assert_eq!(pool.state(lease.index(), after(5)), State::SlowStart);
    assert_eq!(pool.ramp_percent(lease.index(), after(5)), 10);
    assert_eq!(pool.state(lease.index(), after(35)), State::Up);
    // Up again while ejected: the ramp waits for the end of the ejection.
    lease.connect_failed(after(40), TOOK);
    let until = pool.live(lease.index()).ejected_until(after(40)).unwrap();
    pool.set_verdict(lease.index(), Verdict::Down, after(41));
    pool.set_verdict(lease.index(), Verdict::Up, after(42));
    assert_eq!(pool.ramp_percent(lease.index(), until), 10);
    assert_eq!(pool.ramp_percent(lease.index(), until + RAMP / 2), 55);
}

/// Elsewhere the one that comes back is idle, so least connections sends every client there.
#[test]
fn a_recovered_backend_is_not_overrun_by_those_who_compare_loads() {
    for policy in [
        PolicyKind::LeastConnections,
        PolicyKind::TwoChoices,
        PolicyKind::LeastLatency,
    ] {
        let pool = pool_of(slow(policy, members(&[1; 4])));
        take_down(&pool, &[3]);
        let mut chance = Chance::seeded(1);
        let mut held: Vec<_> = (0..300).map(|_| pick(&pool, &mut chance)).collect();
        pool.set_verdict(3, Verdict::Up, NOW);
        held.extend((0..100).map(|_| pick(&pool, &mut chance)));
        let share = pool.live(3).active();
        assert!(
            (5..=14).contains(&share),
            "{policy:?}: {share} of 100 at once"
        );
    }
}

#[test]
fn when_all_recover_at_once_all_share_alike_and_nobody_is_refused() {
    for policy in PolicyKind::ALL {
        let pool = pool_of(slow(policy, members(&[1; 4])));
        take_down(&pool, &[0, 1, 2, 3]);
        assert!(pick(&pool, &mut Chance::seeded(1)).is_none());
        (0..4).for_each(|i| pool.set_verdict(i, Verdict::Up, NOW));
        let counts = filled_at(&pool, NOW, 4000, &mut Chance::seeded(1));
        if policy != PolicyKind::Failover {
            assert_proportional(&counts, &[1; 4]);
        }
    }
}

#[test]
fn clients_of_ip_hash_come_back_one_by_one_and_stay() {
    let pool = pool_of(slow(PolicyKind::IpHash, members(&[1; 5])));
    let owners = |seconds| -> Vec<usize> {
        let owner = |key: u64| {
            let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let lease = Candidates::new(key).next(&pool, after(seconds), &mut Chance::seeded(key));
            lease.unwrap().index()
        };
        (0..10_000).map(owner).collect()
    };
    let home = owners(0);
    take_down(&pool, &[2]);
    let mut before = owners(0);
    pool.set_verdict(2, Verdict::Up, NOW);
    let of_it = home.iter().filter(|&&owner| owner == 2).count();
    for (seconds, percent) in [(0, 10), (10, 40), (20, 70), (30, 100)] {
        let now = owners(seconds);
        for (i, &owner) in now.iter().enumerate() {
            assert!(owner == before[i] || owner == 2, "client {i} went astray");
            assert!(owner != 2 || home[i] == 2, "client {i} is another's");
        }
        let back = now.iter().filter(|&&owner| owner == 2).count();
        // Its weight is so many of 400 + so many, and was 100 of 500.
        let percent = percent * 500 / (400 + percent);
        let share = back * 100 / of_it;
        assert!(share.abs_diff(percent) <= 3, "{share} % at {percent} %");
        assert_eq!(now, owners(seconds), "chance has no part");
        before = now;
    }
    assert_eq!(before, home);
}

#[test]
fn turns_are_exact_again_when_the_slow_start_is_over() {
    let pool = pool_of(slow(PolicyKind::RoundRobin, members(&[3, 2, 1])));
    take_down(&pool, &[0]);
    pool.set_verdict(0, Verdict::Up, NOW);
    let counts = counts_at(&pool, after(30), 6000, &mut Chance::seeded(1));
    assert_eq!(counts, [3000, 2000, 1000]);
}

// ---- Panic -------------------------------------------------------------------------------------

fn panicking(priorities: &[u16], threshold: u8) -> Arc<Pool<usize>> {
    let specs = priorities.iter().enumerate().map(|(i, &priority)| {
        let spec = member(i, 1);
        MemberSpec { priority, ..spec }
    });
    pool_of(PoolSpec {
        panic_threshold: threshold,
        ..spec(PolicyKind::Random, specs.collect())
    })
}

#[test]
fn with_fewer_available_than_the_threshold_those_down_are_used_too() {
    let pool = panicking(&[0; 10], 30);
    let mut chance = Chance::seeded(1);
    take_down(&pool, &[0, 1, 2, 3, 4, 5, 6]);
    assert!(!pool.in_panic(NOW), "three of ten are thirty percent");
    assert_proportional(
        &counts(&pool, 3000, &mut chance),
        &[0, 0, 0, 0, 0, 0, 0, 1, 1, 1],
    );
    take_down(&pool, &[7]);
    assert!(pool.in_panic(NOW));
    assert_proportional(&counts(&pool, 3000, &mut chance), &[1; 10]);
    // Who is not wanted counts neither way, and is not used.
    (0..4).for_each(|i| pool.set_wish(i, Wish::Drain, NOW));
    assert!(!pool.in_panic(NOW), "two of six");
    pool.set_weight_percent(9, 0);
    assert!(pool.in_panic(NOW), "one of five");
    assert_proportional(
        &counts(&pool, 3000, &mut chance),
        &[0, 0, 0, 0, 1, 1, 1, 1, 1, 0],
    );
}

#[test]
fn by_default_nobody_is_sent_to_a_backend_that_is_down() {
    let pool = panicking(&[0; 3], 0);
    take_down(&pool, &[0, 1, 2]);
    assert!(!pool.in_panic(NOW));
    assert!(pick(&pool, &mut Chance::seeded(1)).is_none());
    let all = panicking(&[0; 3], 100);
    take_down(&all, &[0, 1, 2]);
    assert_eq!(all_tries(&all, 1, &mut Chance::seeded(1)).len(), 3);
}

/// The first tier is dead, the second is well: a panic must not take clients back to the dead.
#[test]
fn in_panic_a_tier_with_nobody_available_comes_after_one_with_somebody() {
    let pool = panicking(&[0, 0, 0, 1, 1], 50);
    take_down(&pool, &[0, 1, 2]);
    let mut chance = Chance::seeded(1);
    assert!(pool.in_panic(NOW));
    assert_proportional(&counts(&pool, 1000, &mut chance), &[0, 0, 0, 1, 1]);
    let tries = all_tries(&pool, 1, &mut chance);
    assert_eq!(tries.len(), 5, "as a last resort all the same");
    assert!(tries[..2].iter().all(|&i| i >= 3), "{tries:?}");
}
