//! Backends that stop answering connects: passed over before the first connect has timed out.

use std::time::Duration;

use crate::balance_kit::*;
use lbd::balance::chance::Chance;
use lbd::balance::policy::PolicyKind;
use lbd::balance::pool::Lease;
use lbd::base::clock::Moment;

fn ms(millis: u64) -> Moment {
    NOW + Duration::from_millis(millis)
}

fn took(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A thousand clients a second for 200 ms over three backends of which the first has fallen
/// silent; the second is a round trip of 8 ms away. Returns the leases the first one got, with
/// the others' over.
fn a_backend_falls_silent(policy: PolicyKind) -> Vec<Lease<usize>> {
    let pool = pool(policy, &[1; 3]);
    let mut chance = Chance::seeded(5);
    for _ in 0..30 {
        pick(&pool, &mut chance).unwrap().connected(NOW, TOOK);
    }
    let mut silent = Vec::new();
    let mut far: Vec<(u64, Lease<usize>)> = Vec::new();
    for now in 0..200 {
        let lease = pick_at(&pool, ms(now), &mut chance).unwrap();
        match lease.index() {
            0 => {
                lease.connect_waits(ms(now));
                silent.push(lease);
            }
            1 => {
                lease.connect_waits(ms(now));
                far.push((now, lease));
            }
            _ => lease.connected(ms(now), took(0)),
        }
        far.retain(|(begun, lease)| {
            let answered = now >= begun + 8;
            if answered {
                lease.connected(ms(now), took(8));
            }
            !answered
        });
    }
    drop(far);
    silent
}

#[test]
fn a_silent_backend_keeps_a_few_clients_waiting_and_not_hundreds() {
    for policy in [
        PolicyKind::RoundRobin,
        PolicyKind::Random,
        PolicyKind::TwoChoices,
        PolicyKind::LeastConnections,
        PolicyKind::LeastLatency,
        PolicyKind::LowestCost,
        PolicyKind::IpHash,
    ] {
        let silent = a_backend_falls_silent(policy);
        let most = silent.len();
        // 10 ms of a third of a thousand a second, and then some of chance.
        assert!(most <= 12, "{policy:?}: {most} wait");
    }
}

#[test]
fn an_answer_ends_the_suspicion_at_once() {
    let silent = a_backend_falls_silent(PolicyKind::Failover);
    let pool = silent[0].pool().clone();
    let mut chance = Chance::seeded(6);
    assert_ne!(pick_at(&pool, ms(300), &mut chance).unwrap().index(), 0);
    silent[0].connected(ms(300), took(290));
    assert_eq!(pick_at(&pool, ms(300), &mut chance).unwrap().index(), 0);
}

#[test]
fn when_nobody_waits_for_it_any_more_it_is_tried_again() {
    let silent = a_backend_falls_silent(PolicyKind::Failover);
    let pool = silent[0].pool().clone();
    let mut chance = Chance::seeded(6);
    for lease in &silent {
        assert_ne!(pick_at(&pool, ms(300), &mut chance).unwrap().index(), 0);
        // Nothing is ejected in this pool.
        lease.connect_failed(ms(300), took(200));
    }
    assert_eq!(pick_at(&pool, ms(300), &mut chance).unwrap().index(), 0);
}

#[test]
fn one_that_is_alone_is_used_though_it_is_suspected() {
    let pool = pool(PolicyKind::RoundRobin, &[1]);
    let mut chance = Chance::seeded(7);
    pick(&pool, &mut chance).unwrap().connected(NOW, TOOK);
    let held: Vec<_> = (0..50)
        .map(|now| {
            let lease = pick_at(&pool, ms(now), &mut chance).expect("better than nobody");
            lease.connect_waits(ms(now));
            lease
        })
        .collect();
    assert_eq!(held.len(), 50);
}

#[test]
fn a_backend_far_away_is_not_suspected_for_being_far() {
    let pool = pool(PolicyKind::Failover, &[1; 2]);
    let mut chance = Chance::seeded(8);
    pick(&pool, &mut chance).unwrap().connected(NOW, TOOK);
    let mut under_way = Vec::new();
    for now in 0..2000 {
        // At first one client at a time, so that it is known how far it is.
        if now < 200 && now % 90 != 0 {
            continue;
        }
        let lease = pick_at(&pool, ms(now), &mut chance).unwrap();
        assert_eq!(lease.index(), 0, "after {now} ms");
        lease.connect_waits(ms(now));
        under_way.push((now, lease));
        under_way.retain(|(begun, lease)| {
            let answered = now >= begun + 80;
            if answered {
                lease.connected(ms(now), took(80));
            }
            !answered
        });
    }
}
