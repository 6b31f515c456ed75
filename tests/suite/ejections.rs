//! Ejections: when failed connects take a backend out, for how long, and how many at once.

use std::sync::Arc;
use std::time::Duration;

use crate::balance_kit::*;
use lbd::balance::backend::{State, Verdict, Wish};
use lbd::balance::chance::Chance;
use lbd::balance::ejection::Ejection;
use lbd::balance::policy::PolicyKind;
use lbd::balance::pool::{Candidates, Lease, Pool, PoolSpec, SessionEnd};
use lbd::base::clock::Moment;
use lbd::base::ending::Termination;

const EJECTION: Ejection = Ejection {
    connect_failures: 3,
    base: Duration::from_secs(5),
    max: Duration::from_secs(60),
    max_percent: 50,
    early_resets: 0,
    early_reset_within: Duration::from_secs(1),
    empty_closes: 0,
};

fn ejecting(n: usize, ejection: Ejection) -> Arc<Pool<usize>> {
    pool_of(PoolSpec {
        ejection,
        ..spec(PolicyKind::Failover, members(&vec![1; n]))
    })
}

fn lease_of(pool: &Arc<Pool<usize>>, index: usize, now: Moment) -> Lease<usize> {
    let mut candidates = Candidates::new(0);
    let mut chance = Chance::seeded(0);
    loop {
        let lease = candidates
            .next(pool, now, &mut chance)
            .expect("it may be chosen");
        if lease.index() == index {
            return lease;
        }
    }
}

#[test]
fn three_failed_connects_in_a_row_eject_the_backend_for_a_while() {
    let pool = ejecting(2, EJECTION);
    let lease = lease_of(&pool, 0, NOW);
    lease.connect_failed(NOW, TOOK);
    lease.connect_failed(NOW, TOOK);
    lease.connected(NOW, TOOK);
    lease.connect_failed(NOW, TOOK);
    lease.connect_failed(NOW, TOOK);
    assert_eq!(
        pool.state(0, NOW),
        State::Up,
        "a success in between ends the row"
    );
    lease.connect_failed(NOW, TOOK);
    assert_eq!(pool.state(0, NOW), State::Ejected);
    assert_eq!(pool.live(0).ejected_until(NOW), Some(after(5)));
    assert_eq!(pool.live(0).connect_failures_total(), 5);
    assert_eq!(lease_of(&pool, 1, after(4)).index(), 1);
    assert_eq!(pool.state(0, after(5)), State::Up, "by the clock alone");
    assert_eq!(lease_of(&pool, 0, after(5)).index(), 0);
}

#[test]
fn a_backend_that_fails_again_is_ejected_at_once_and_for_longer() {
    let pool = ejecting(2, EJECTION);
    let lease = lease_of(&pool, 0, NOW);
    (0..3).for_each(|_| lease.connect_failed(NOW, TOOK));
    let mut now = after(5);
    for seconds in [10, 20, 40, 60, 60] {
        assert_eq!(pool.state(0, now), State::Up);
        lease.connect_failed(now, TOOK);
        let until = now + Duration::from_secs(seconds);
        assert_eq!(pool.live(0).ejected_until(now), Some(until));
        now = until;
    }
    assert_eq!(pool.live(0).ejections_total(), 6);
    // A success: three failures are needed again, and after long quiet the length starts anew.
    lease.connected(NOW, TOOK);
    now = now + Duration::from_secs(3600);
    lease.connect_failed(now, TOOK);
    lease.connect_failed(now, TOOK);
    assert_eq!(pool.state(0, now), State::Up);
    lease.connect_failed(now, TOOK);
    assert_eq!(
        pool.live(0).ejected_until(now),
        Some(now + Duration::from_secs(5))
    );
}

#[test]
fn late_failures_of_an_ejected_backend_do_not_prolong_it() {
    let pool = ejecting(2, EJECTION);
    let lease = lease_of(&pool, 0, NOW);
    (0..50).for_each(|_| lease.connect_failed(NOW, TOOK));
    lease.connect_failed(after(4), TOOK);
    assert_eq!(pool.live(0).ejected_until(NOW), Some(after(5)));
    assert_eq!(pool.live(0).ejections_total(), 1);
}

#[test]
fn no_more_than_the_allowed_share_is_ejected_at_once() {
    let pool = ejecting(5, EJECTION);
    let leases: Vec<_> = (0..5).map(|i| lease_of(&pool, i, NOW)).collect();
    for lease in &leases {
        (0..9).for_each(|_| lease.connect_failed(NOW, TOOK));
    }
    let ejected = |now| (0..5).filter(|&i| pool.live(i).ejected(now)).count();
    assert_eq!(ejected(NOW), 2, "half of five, rounded down");
    leases[4].connect_failed(after(4), TOOK);
    assert!(!pool.live(4).ejected(after(4)));
    leases[4].connect_failed(after(5), TOOK);
    assert!(
        pool.live(4).ejected(after(5)),
        "room again once the first are back"
    );
    assert_eq!(ejected(after(5)), 1);
}

#[test]
fn the_only_backend_is_never_ejected_and_zero_failures_never_eject() {
    let everyone = Ejection {
        max_percent: 100,
        ..EJECTION
    };
    let never = Ejection {
        connect_failures: 0,
        ..everyone
    };
    for pool in [ejecting(1, everyone), ejecting(2, never)] {
        let lease = lease_of(&pool, 0, NOW);
        (0..100).for_each(|_| lease.connect_failed(NOW, TOOK));
        assert_eq!(pool.state(0, NOW), State::Up);
    }
}

#[test]
fn the_share_of_ejected_backends_is_exact_over_all_threads() {
    for _ in 0..20 {
        let pool = ejecting(
            12,
            Ejection {
                connect_failures: 1,
                ..EJECTION
            },
        );
        let leases: Vec<_> = (0..12).map(|i| lease_of(&pool, i, NOW)).collect();
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let leases = &leases;
                scope.spawn(move || {
                    (0..12).for_each(|i| leases[(i + thread) % 12].connect_failed(NOW, TOOK));
                });
            }
        });
        assert_eq!((0..12).filter(|&i| pool.live(i).ejected(NOW)).count(), 6);
        assert_eq!(
            (0..12).map(|i| pool.live(i).ejections_total()).sum::<u64>(),
            6
        );
        assert_eq!(
            (0..12)
                .map(|i| pool.live(i).connect_failures_total())
                .sum::<u64>(),
            96
        );
    }
}

// ---- What connected sessions say ---------------------------------------------------------------

fn end(termination: Termination, lived_ms: u64, bytes_to_client: u64) -> SessionEnd {
    SessionEnd {
        termination,
        lived: Duration::from_millis(lived_ms),
        bytes_to_backend: 10,
        bytes_to_client,
    }
}

fn ends(pool: &Arc<Pool<usize>>, ends: &[SessionEnd]) -> State {
    let lease = lease_of(pool, 0, NOW);
    lease.connected(NOW, TOOK);
    for &end in ends {
        if end.bytes_to_client > 0 {
            lease.first_byte(NOW, TOOK);
        }
        lease.ended(NOW, end);
    }
    pool.state(0, NOW)
}

const EARLY_RESETS: Ejection = Ejection {
    early_resets: 3,
    ..EJECTION
};

const EMPTY_CLOSES: Ejection = Ejection {
    empty_closes: 3,
    ..EJECTION
};

#[test]
fn sessions_that_the_backend_resets_early_eject_it() {
    let reset = end(Termination::BackendReset, 900, 0);
    let with_bytes = end(Termination::BackendReset, 1000, 500);
    let up = ends(&ejecting(2, EARLY_RESETS), &[reset, with_bytes]);
    assert_eq!(up, State::Up);
    let out = ends(&ejecting(2, EARLY_RESETS), &[reset, with_bytes, reset]);
    assert_eq!(out, State::Ejected);
    // What does not end the row, and what does.
    let client_left = end(Termination::ClientReset, 5, 0);
    let out = ends(
        &ejecting(2, EARLY_RESETS),
        &[reset, reset, client_left, reset],
    );
    assert_eq!(out, State::Ejected, "who leaves early says nothing");
    for fine in [
        end(Termination::BackendReset, 1001, 0),
        end(Termination::ClientClosed, 20, 7),
        end(Termination::IdleTimeout, 60_000, 0),
    ] {
        let up = ends(
            &ejecting(2, EARLY_RESETS),
            &[reset, reset, fine, reset, reset],
        );
        assert_eq!(up, State::Up, "{fine:?}");
    }
}

#[test]
fn sessions_that_the_backend_closes_without_a_byte_eject_it() {
    let empty = end(Termination::BackendClosed, 60_000, 0);
    assert_eq!(ends(&ejecting(2, EMPTY_CLOSES), &[empty; 2]), State::Up);
    assert_eq!(
        ends(&ejecting(2, EMPTY_CLOSES), &[empty; 3]),
        State::Ejected
    );
    let client_first = end(Termination::ClientClosed, 5, 0);
    let row = [empty, empty, client_first, empty];
    assert_eq!(ends(&ejecting(2, EMPTY_CLOSES), &row), State::Ejected);
    let answered = end(Termination::BackendClosed, 5, 1);
    let row = [empty, empty, answered, empty, empty];
    assert_eq!(ends(&ejecting(2, EMPTY_CLOSES), &row), State::Up);
}

#[test]
fn unless_asked_for_no_way_to_end_a_session_ejects() {
    let bad = [
        end(Termination::BackendReset, 1, 0),
        end(Termination::BackendClosed, 1, 0),
    ];
    assert_eq!(ends(&ejecting(2, EJECTION), &bad.repeat(100)), State::Up);
}

#[test]
fn a_session_that_ends_well_never_ejects() {
    // The row is long enough, but its backend was one too many: the next failure is to decide.
    let rule = Ejection {
        max_percent: 50,
        ..EARLY_RESETS
    };
    let pool = ejecting(2, rule);
    let (one, other) = (lease_of(&pool, 0, NOW), lease_of(&pool, 1, NOW));
    (0..3).for_each(|_| one.connect_failed(NOW, TOOK));
    (0..3).for_each(|_| other.connect_failed(NOW, TOOK));
    other.ended(after(6), end(Termination::ClientClosed, 5000, 100));
    assert_eq!(pool.state(1, after(6)), State::Up);
    other.connect_failed(after(6), TOOK);
    assert_eq!(pool.state(1, after(6)), State::Ejected);
}

#[test]
fn a_passing_probe_does_not_end_an_ejection_that_traffic_earned() {
    let pool = ejecting(2, EJECTION);
    let lease = lease_of(&pool, 0, NOW);
    (0..3).for_each(|_| lease.connect_failed(NOW, TOOK));
    pool.set_verdict(0, Verdict::Up, after(1));
    assert_eq!(pool.state(0, after(1)), State::Ejected);
    pool.set_verdict(0, Verdict::Down, after(2));
    pool.set_verdict(0, Verdict::Up, after(3));
    pool.set_wish(0, Wish::Maintenance, after(3));
    pool.set_wish(0, Wish::Ready, after(3));
    assert_eq!(pool.state(0, after(4)), State::Ejected);
    assert_eq!(lease_of(&pool, 1, after(4)).index(), 1);
    assert_eq!(pool.state(0, after(5)), State::Up);
}
