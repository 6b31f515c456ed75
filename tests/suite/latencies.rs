//! `least_latency` in virtual time: who is chosen, and what it does for the slowest clients.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;
use std::time::Duration;

use crate::balance_kit::*;
use lbd::balance::chance::Chance;
use lbd::balance::policy::PolicyKind;
use lbd::balance::pool::{Lease, Pool, SessionEnd};
use lbd::balance::table::Table;
use lbd::base::clock::Moment;
use lbd::base::ending::Termination;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A request under way.
struct Request {
    lease: Lease<usize>,
    arrived_at: Moment,
}

/// What each request takes when clients come at random, `a_second` on average, and the backend at
/// an index takes `service` of it, give or take the half; in order, and who served how many.
fn play(
    pool: &Arc<Pool<usize>>,
    seconds: u64,
    a_second: u32,
    service: impl Fn(usize, Moment) -> Duration,
) -> (Vec<Duration>, Vec<u64>) {
    let mut chance = Chance::seeded(7);
    let (mut now, end) = (NOW, after(seconds));
    let mut under_way: BinaryHeap<Reverse<(Moment, usize)>> = BinaryHeap::new();
    let mut requests: Vec<Option<Request>> = Vec::new();
    let (mut took, mut served) = (Vec::new(), vec![0; pool.members().len()]);
    while now < end {
        while let Some(&Reverse((done, number))) = under_way.peek() {
            if done > now {
                break;
            }
            under_way.pop();
            let Request { lease, arrived_at } = requests[number].take().expect("it ends once");
            let lived = done.since(arrived_at);
            lease.first_byte(done, lived);
            lease.ended(
                done,
                SessionEnd {
                    termination: Termination::ClientClosed,
                    lived,
                    bytes_to_backend: 1,
                    bytes_to_client: 1,
                },
            );
            took.push(lived);
        }
        let lease = pick_at(pool, now, &mut chance).expect("all are up");
        lease.connected(now, TOOK);
        let index = lease.index();
        served[index] += 1;
        let usual = service(index, now);
        let done = now + usual / 2 + usual.mul_f64(f64::from(chance.below(1000)) / 1000.0);
        under_way.push(Reverse((done, requests.len())));
        requests.push(Some(Request {
            lease,
            arrived_at: now,
        }));
        now = now + Duration::from_micros(chance.below(2_000_000 / a_second).into());
    }
    took.sort_unstable();
    (took, served)
}

fn p99(took: &[Duration]) -> Duration {
    took[took.len() * 99 / 100]
}

#[test]
fn with_one_backend_ten_times_slower_the_slowest_clients_wait_half_as_long_at_most() {
    let measure = |policy| {
        let pool = pool(policy, &[1; 10]);
        let slow = |index, _| if index == 3 { ms(100) } else { ms(10) };
        p99(&play(&pool, 120, 200, slow).0)
    };
    let (turns, latency) = (
        measure(PolicyKind::RoundRobin),
        measure(PolicyKind::LeastLatency),
    );
    assert!(latency * 2 <= turns, "{latency:?} and {turns:?}");
}

#[test]
fn a_backend_that_gets_slow_is_left_at_once_and_found_again_when_it_is_well() {
    let pool = pool(PolicyKind::LeastLatency, &[1; 4]);
    let phase = |from: u64, to: u64| move |now: Moment| now >= after(from) && now < after(to);
    let bad = phase(20, 40);
    let service = |index, now| {
        if index == 0 && bad(now) {
            ms(2000)
        } else {
            ms(10)
        }
    };
    let (_, before) = play(&pool, 20, 100, service);
    assert!(before[0] > 300, "{before:?}");
    let pool = crate::balance_kit::pool(PolicyKind::LeastLatency, &[1; 4]);
    let (_, all) = play(&pool, 40, 100, service);
    let while_bad = all[0] - before[0];
    assert!(while_bad < 100, "{while_bad} of 2000 went to the slow one");
    let pool = crate::balance_kit::pool(PolicyKind::LeastLatency, &[1; 4]);
    let (_, later) = play(&pool, 180, 100, service);
    assert!(later[0] - all[0] > 1000, "it is used again: {later:?}");
}

#[test]
fn a_backend_that_refuses_quickly_does_not_look_idle() {
    let pool = pool(PolicyKind::LeastLatency, &[1; 3]);
    let mut chance = Chance::seeded(1);
    let mut refused = 0;
    for i in 0..1000 {
        let now = NOW + ms(i * 5);
        let lease = pick_at(&pool, now, &mut chance).unwrap();
        if lease.index() == 1 {
            lease.connect_failed(now, Duration::ZERO);
            refused += 1;
        } else {
            lease.connected(now, ms(1));
            lease.first_byte(now, ms(20));
        }
    }
    assert!((1..=3).contains(&refused), "{refused} of 1000");
    assert!(pool.live(1).latency(NOW + ms(5000)).unwrap() > ms(1000));
}

#[test]
fn early_resets_and_silence_count_as_failures_too() {
    let end = |termination, lived| SessionEnd {
        termination,
        lived,
        bytes_to_backend: 5,
        bytes_to_client: 0,
    };
    let failures = [
        end(Termination::BackendReset, ms(2)),
        end(Termination::IdleTimeout, ms(600_000)),
    ];
    for failure in failures {
        let pool = pool(PolicyKind::LeastLatency, &[1]);
        let lease = pick(&pool, &mut Chance::seeded(1)).unwrap();
        lease.first_byte(NOW, ms(5));
        lease.ended(NOW, failure);
        assert!(pool.live(0).latency(NOW).unwrap() > ms(1999), "{failure:?}");
    }
    // Of one that never sends anything silence is nothing new.
    let pool = pool(PolicyKind::LeastLatency, &[1]);
    let lease = pick(&pool, &mut Chance::seeded(1)).unwrap();
    lease.connected(NOW, ms(3));
    lease.ended(NOW, failures[1]);
    assert!(pool.live(0).latency(NOW).unwrap() < ms(4));
}

#[test]
fn where_backends_never_speak_the_time_to_connect_decides() {
    let pool = pool(PolicyKind::LeastLatency, &[1, 1, 1]);
    let mut chance = Chance::seeded(1);
    let mut counts = [0; 3];
    for i in 0..3000 {
        let now = NOW + ms(i);
        let lease = pick_at(&pool, now, &mut chance).unwrap();
        let connect = [ms(9), ms(1), ms(9)][lease.index()];
        lease.connected(now, connect);
        counts[lease.index()] += 1;
    }
    assert!(counts[1] > 2900, "{counts:?}");
}

/// At nought, or with no word, it would be the best of all.
#[test]
fn a_new_backend_is_taken_to_be_like_the_others_and_not_overrun() {
    let table = Table::new();
    let of = |n: usize| spec(PolicyKind::LeastLatency, members(&vec![1; n]));
    let old = reload(&table, of(4));
    let mut chance = Chance::seeded(1);
    let held: Vec<_> = (0..40).map(|_| pick(&old, &mut chance).unwrap()).collect();
    for lease in &held {
        lease.first_byte(NOW, ms(10 + lease.index() as u64));
    }
    let new = reload(&table, of(5));
    drop(held);
    let filled = filled_at(&new, NOW, 500, &mut chance);
    assert!(
        filled.iter().all(|count| (85..=115).contains(count)),
        "{filled:?}"
    );
    let guess = new.live(4).latency(NOW).unwrap();
    assert!(guess > ms(9) && guess < ms(14), "{guess:?}");
    // Its first answer replaces the guess.
    take_down(&new, &[0, 1, 2, 3]);
    pick(&new, &mut chance).unwrap().first_byte(NOW, ms(2));
    assert!(new.live(4).latency(NOW).unwrap() < ms(3));
}

#[test]
fn connections_and_weights_count_besides_the_latency() {
    let pool = pool(PolicyKind::LeastLatency, &[1, 3]);
    let mut chance = Chance::seeded(1);
    let both: Vec<_> = (0..20).map(|_| pick(&pool, &mut chance).unwrap()).collect();
    both.iter().for_each(|lease| lease.first_byte(NOW, ms(10)));
    drop(both);
    assert_eq!(filled_at(&pool, NOW, 400, &mut chance), [100, 300]);
}
