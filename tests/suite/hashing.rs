//! `ip_hash`: what is hashed, and the bound on the load that skewed clients cannot break.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::balance_kit::*;
use lbd::balance::backend::{Verdict, Wish};
use lbd::balance::chance::Chance;
use lbd::balance::key::{HashKey, HashSeed};
use lbd::balance::policy::PolicyKind;
use lbd::balance::pool::{Candidates, Lease, MemberSpec, Pool, PoolSpec};

fn bounded(factor: u16, members: Vec<MemberSpec<usize>>) -> Arc<Pool<usize>> {
    pool_of(PoolSpec {
        hash_balance_factor: factor,
        ..spec(PolicyKind::IpHash, members)
    })
}

fn connect(pool: &Arc<Pool<usize>>, key: u64) -> Lease<usize> {
    let lease = Candidates::new(key).next(pool, NOW, &mut Chance::seeded(0));
    lease.expect("nobody is refused for the bound")
}

fn key_of(client: u32) -> u64 {
    HashSeed::new("clients").source_ip(IpAddr::from(client.to_be_bytes()))
}

fn loads(pool: &Pool<usize>) -> Vec<u32> {
    (0..pool.members().len())
        .map(|i| pool.live(i).active())
        .collect()
}

/// ⌈factor × share of the connections⌉
fn allowed(factor: f64, connections: usize, share: f64) -> u32 {
    (factor * connections as f64 * share - 1e-9).ceil() as u32
}

// ---- The bound -----------------------------------------------------------------------------------

#[test]
fn no_skew_brings_a_backend_above_its_bound() {
    type Clients = fn(u32) -> u32;
    let clients: [(&str, Clients); 4] = [
        ("one source", |_| 7),
        ("two sources", |i| i % 2),
        (
            "half of it from one source",
            |i| if i % 2 == 0 { 7 } else { i },
        ),
        ("few large ones", |i| (i * i) % 11),
    ];
    for (what, client) in clients {
        let pool = bounded(125, members(&[1; 10]));
        let mut held = Vec::new();
        for i in 0..2000 {
            held.push(connect(&pool, key_of(client(i))));
            let most = loads(&pool).into_iter().max().unwrap();
            let bound = allowed(1.25, held.len(), 0.1).max(8);
            assert!(most <= bound, "{what}: {most} of {}", held.len());
        }
        assert!(pool.spills_total() > 0, "{what}");
    }
    // Without the bound it would not hold.
    let pool = bounded(0, members(&[1; 10]));
    let _held: Vec<_> = (0..100).map(|_| connect(&pool, 7)).collect();
    assert_eq!(loads(&pool).into_iter().max(), Some(100));
    assert_eq!(pool.spills_total(), 0);
}

#[test]
fn the_bound_goes_by_weight_among_those_who_may_be_used() {
    let weights = [1, 2, 3, 4, 10];
    let pool = bounded(110, members(&weights));
    take_down(&pool, &[4]);
    let check = |held: usize, sum: f64, used: &[usize]| {
        for &i in used {
            let bound = allowed(1.1, held, f64::from(weights[i]) / sum);
            assert!(loads(&pool)[i] <= bound, "{:?}", loads(&pool));
        }
    };
    let mut held: Vec<_> = (0..1000).map(|_| connect(&pool, 5)).collect();
    check(1000, 10.0, &[0, 1, 2, 3]);
    // One more leaves: its share is shared again.
    held.retain(|lease| lease.index() != 3);
    pool.set_wish(3, Wish::Drain, NOW);
    while held.len() < 1000 {
        held.push(connect(&pool, 5));
    }
    check(1000, 6.0, &[0, 1, 2]);
    held.clear();
    pool.set_verdict(4, Verdict::Up, NOW);
    pool.set_wish(3, Wish::Ready, NOW);
    pool.set_weight_percent(4, 10);
    held.extend((0..1100).map(|_| connect(&pool, 5)));
    let ten_percent = loads(&pool)[4];
    assert!(ten_percent <= 111, "{ten_percent}");
}

#[test]
fn clients_of_other_backends_stay_when_one_source_gets_hot() {
    let pool = bounded(125, members(&[1; 10]));
    let homes: Vec<_> = (0..2000)
        .map(|i| connect(&pool, key_of(i)).index())
        .collect();
    let others: Vec<_> = (0..2000).map(|i| connect(&pool, key_of(i))).collect();
    let before = pool.spills_total();
    assert!(before < 100, "{before} of 2000 even clients are led away");
    let hot_home = homes[7];
    let hot: Vec<_> = (0..200).map(|_| connect(&pool, key_of(7))).collect();
    assert!(
        pool.spills_total() > before,
        "the hot one's overflow goes on"
    );
    let at_home = hot.iter().filter(|lease| lease.index() == hot_home).count();
    assert!(at_home > 20, "up to the bound it stays");
    // What does not fit there fills its next choice up to the bound, and no third one.
    let bound = allowed(1.25, 2200, 0.1);
    let full: Vec<_> = (0..10).filter(|&i| loads(&pool)[i] >= bound).collect();
    assert!((1..=2).contains(&full.len()), "{:?}", loads(&pool));
    for (i, home) in (0..).zip(homes) {
        let stays = connect(&pool, key_of(i)).index() == home;
        assert!(stays || full.contains(&home), "client {i} moved");
    }
    drop(others);
}

#[test]
fn a_client_that_is_passed_on_goes_to_the_same_next_choice_each_time() {
    let pool = bounded(125, members(&[1; 10]));
    let _others: Vec<_> = (0..500).map(|i| connect(&pool, key_of(i))).collect();
    let _hot: Vec<_> = (0..100).map(|_| connect(&pool, 99)).collect();
    let choice = |seed| {
        let lease = Candidates::new(99).next(&pool, NOW, &mut Chance::seeded(seed));
        lease.unwrap().index()
    };
    let first = choice(1);
    assert!(
        (2..50).all(|seed| choice(seed) == first),
        "chance has no part"
    );
}

#[test]
fn the_few_connections_of_a_quiet_pool_stay_together() {
    // A bound on 1.25 times the mean of three connections over ten backends would part them.
    let pool = bounded(125, members(&[1; 10]));
    let held: Vec<_> = (0..6).map(|_| connect(&pool, 3)).collect();
    assert!(held.iter().all(|lease| lease.index() == held[0].index()));
}

#[test]
fn when_everybody_else_is_full_the_bound_gives_way() {
    let mut specs = members(&[1; 4]);
    specs[1..]
        .iter_mut()
        .for_each(|one| one.max_connections = 1);
    let pool = bounded(101, specs);
    let held: Vec<_> = (0..200).map(|i| connect(&pool, key_of(i))).collect();
    assert_eq!(loads(&pool), [197, 1, 1, 1]);
    drop(held);
}

#[test]
fn the_busiest_of_ten_gets_its_share_of_the_slots_within_two_percent() {
    // With nobody connected the bound has nothing to say: the ring itself is that even.
    let pool = bounded(125, members(&[1; 10]));
    let mut counts = [0_u32; 10];
    for slot in 0..65_537 {
        counts[connect(&pool, slot).index()] += 1;
    }
    let most = f64::from(counts.into_iter().max().unwrap());
    assert!(most <= 1.02 * 6553.7, "{counts:?}");
}

// ---- The key -------------------------------------------------------------------------------------

fn client(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn source_ip_ignores_the_port_and_source_ip_port_does_not() {
    let seed = HashSeed::new("lbd");
    for [one, other] in [
        ["192.0.2.1:1000", "192.0.2.1:1001"],
        ["[2001:db8::1]:1000", "[2001:db8::1]:1001"],
    ] {
        let [one, other] = [client(one), client(other)];
        let keys = |of| [one, other].map(|client| seed.key(of, client, None));
        let by_address = keys(HashKey::SourceIp);
        assert_eq!(by_address[0], by_address[1]);
        let by_port = keys(HashKey::SourceIpPort);
        assert_ne!(by_port[0], by_port[1]);
        assert_ne!(by_port[0], by_address[0]);
        assert_eq!(by_port, keys(HashKey::SourceIpPort), "the same each time");
    }
    let mapped = seed.source_ip_port(client("[::ffff:192.0.2.1]:1000"));
    assert_eq!(mapped, seed.source_ip_port(client("192.0.2.1:1000")));
}

#[test]
fn the_name_a_client_asks_for_is_its_key_whatever_its_address_and_case() {
    let seed = HashSeed::new("lbd");
    let key = |name, from| seed.key(HashKey::Sni, client(from), name);
    let one = key(Some("www.example.com"), "192.0.2.1:1");
    assert_eq!(one, key(Some("WWW.Example.COM"), "198.51.100.7:2"));
    assert_ne!(one, key(Some("api.example.com"), "192.0.2.1:1"));
}

#[test]
fn a_client_without_a_name_has_the_key_of_its_address_and_never_a_random_one() {
    let seed = HashSeed::new("lbd");
    for name in [None, Some("")] {
        for from in ["192.0.2.1:1", "[2001:db8::1]:1"] {
            let from = client(from);
            let key = seed.key(HashKey::Sni, from, name);
            assert_eq!(key, seed.source_ip(from.ip()));
        }
    }
}
