//! Sources against a plain model, under floods, and from several threads.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Barrier;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use proptest::prelude::*;

use super::*;

const PREFIXES: Prefixes = Prefixes { v4: 32, v6: 64 };

fn limits(connections: u32, rate: Option<(u32, u64, u32)>) -> SourceLimits {
    SourceLimits {
        connections,
        rate: rate.map(|(count, millis, burst)| Rate {
            count,
            per: Duration::from_millis(millis),
            burst,
        }),
        prefixes: PREFIXES,
    }
}

fn sources(limits: SourceLimits) -> Arc<Sources> {
    Arc::new(Sources::new(limits, HashSeed::new("a test")))
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn number(number: u32) -> IpAddr {
    Ipv4Addr::from_bits(number).into()
}

const NOW: Moment = Moment::from_millis(1_000_000);

fn later(millis: u64) -> Moment {
    NOW + Duration::from_millis(millis)
}

#[test]
fn a_source_has_so_many_connections_at_once_and_others_have_theirs() {
    let sources = sources(limits(2, None));
    let (one, other) = (ip("192.0.2.1"), ip("192.0.2.2"));
    let first = sources.enter(one, NOW).unwrap();
    let _second = sources.enter(one, NOW).unwrap();
    assert_eq!(sources.enter(one, NOW).unwrap_err(), Excess::Connections);
    assert!(sources.enter(other, NOW).is_ok());
    drop(first);
    assert_eq!(sources.active(one), 1);
    let _third = sources.enter(one, NOW).unwrap();
    assert_eq!(sources.enter(one, NOW).unwrap_err(), Excess::Connections);
}

#[test]
fn tokens_come_back_evenly_up_to_the_burst() {
    let sources = sources(limits(0, Some((2, 1000, 3))));
    let one = ip("2001:db8::1");
    let enter = |at| sources.enter(one, later(at)).map(drop);
    for _ in 0..3 {
        assert_eq!(enter(0), Ok(()));
    }
    assert_eq!(enter(0), Err(Excess::Rate));
    assert_eq!(enter(499), Err(Excess::Rate));
    assert_eq!(enter(500), Ok(()));
    assert_eq!(enter(500), Err(Excess::Rate));
    // A clock that is read late takes nothing back.
    assert_eq!(enter(400), Err(Excess::Rate));
    assert_eq!(enter(1000), Ok(()));
    for _ in 0..3 {
        assert_eq!(enter(60_000), Ok(()));
    }
    assert_eq!(enter(60_000), Err(Excess::Rate));
}

/// Two workers whose clocks were read apart: the time between them does not pass twice.
#[test]
fn a_clock_that_was_read_earlier_gives_no_token_twice() {
    let sources = sources(limits(0, Some((1, 1000, 3))));
    let enter = |at| sources.enter(number(1), later(at)).map(drop);
    for at in [1000, 0, 1000] {
        assert_eq!(enter(at), Ok(()));
    }
    assert_eq!(enter(1000), Err(Excess::Rate));
    assert_eq!(enter(1999), Err(Excess::Rate));
    assert_eq!(enter(2000), Ok(()));
}

#[test]
fn who_is_refused_takes_no_token() {
    let sources = sources(limits(0, Some((1, 1000, 1))));
    let one = ip("192.0.2.1");
    assert!(sources.enter(one, NOW).is_ok());
    for at in 1..1000 {
        assert!(sources.enter(one, later(at)).is_err());
    }
    assert!(sources.enter(one, later(1000)).is_ok());
}

#[test]
fn a_stay_that_is_undone_has_taken_neither_place_nor_token() {
    let sources = sources(limits(1, Some((1, 1000, 1))));
    let one = ip("192.0.2.1");
    sources.enter(one, NOW).unwrap().undo();
    assert_eq!((sources.active(one), sources.remembered()), (0, 0));
    assert!(sources.enter(one, NOW).is_ok());
    assert_eq!(sources.enter(one, NOW).unwrap_err(), Excess::Rate);
}

#[test]
fn clients_of_one_prefix_are_one_source_and_a_mapped_address_is_the_ipv4_one() {
    let apart = |limits: SourceLimits, one: &str, other: &str| {
        let sources = sources(limits);
        let _stay = sources.enter(ip(one), NOW).unwrap();
        sources.enter(ip(other), NOW).is_ok()
    };
    let wide = SourceLimits {
        prefixes: Prefixes { v4: 24, v6: 48 },
        ..limits(1, None)
    };
    let whole = SourceLimits {
        prefixes: Prefixes { v4: 0, v6: 128 },
        ..limits(1, None)
    };
    let cases = [
        (limits(1, None), "192.0.2.1", "192.0.2.2", true),
        (limits(1, None), "192.0.2.1", "::ffff:192.0.2.1", false),
        (
            limits(1, None),
            "2001:db8::1",
            "2001:db8::ffff:0:0:1",
            false,
        ),
        (limits(1, None), "2001:db8::1", "2001:db8:0:1::1", true),
        (wide, "192.0.2.1", "192.0.2.200", false),
        (wide, "192.0.2.1", "192.0.3.1", true),
        (wide, "2001:db8::1", "2001:db8:0:ff::1", false),
        (wide, "2001:db8::1", "2001:db8:1::1", true),
        (whole, "192.0.2.1", "10.0.0.1", false),
        (whole, "192.0.2.1", "::1", true),
        (whole, "::1", "::2", true),
    ];
    for (limits, one, other, expected) in cases {
        assert_eq!(apart(limits, one, other), expected, "{one} and {other}");
    }
}

#[test]
fn other_limits_apply_to_the_counts_there_are() {
    let sources = sources(limits(5, Some((1, 1000, 10))));
    let one = ip("192.0.2.1");
    let mut stays: Vec<_> = (0..4).map(|_| sources.enter(one, NOW).unwrap()).collect();
    sources.set_limits(limits(3, Some((1, 1000, 10))), NOW);
    assert_eq!(sources.enter(one, NOW).unwrap_err(), Excess::Connections);
    stays.truncate(2);
    stays.push(sources.enter(one, NOW).unwrap());
    // Five of ten tokens are lacking; of a burst of seven, two are left.
    sources.set_limits(limits(0, Some((4, 60_000, 7))), NOW);
    assert!(sources.enter(one, NOW).is_ok());
    assert!(sources.enter(one, NOW).is_ok());
    assert_eq!(sources.enter(one, NOW).unwrap_err(), Excess::Rate);
    assert!(sources.enter(one, later(15_000)).is_ok());
    assert_eq!(sources.enter(one, later(15_000)).unwrap_err(), Excess::Rate);
    sources.set_limits(limits(0, None), later(15_000));
    assert_eq!(sources.active(one), 3);
    stays.clear();
    assert_eq!((sources.active(one), sources.remembered()), (0, 0));
}

#[test]
fn a_source_that_says_nothing_any_more_is_forgotten() {
    let unlimited = sources(limits(3, None));
    for at in 0..1000 {
        drop(unlimited.enter(number(at), NOW).unwrap());
    }
    assert_eq!(unlimited.remembered(), 0);
    // Each lacks a token for a second; those of the first round go while others arrive.
    let limited = sources(limits(0, Some((1, 1000, 5))));
    for round in 0..10 {
        for at in 0..10_000 {
            drop(
                limited
                    .enter(number(round * 10_000 + at), later(round as u64 * 1000))
                    .unwrap(),
            );
        }
        assert!(limited.remembered() <= 20_000, "{}", limited.remembered());
    }
}

/// A flood from a million sources, in the middle of it one that has used its burst up.
#[test]
fn a_flood_of_sources_is_remembered_in_bounded_memory_and_frees_nobody_of_his_limit() {
    let sources = sources(limits(10, Some((5, 60_000, 5))));
    println!(
        "RSS {}",
        std::fs::read_to_string("/proc/self/statm").unwrap()
    );
    let (busy, spent) = (ip("203.0.113.1"), ip("203.0.113.2"));
    let stays: Vec<_> = (0..5).map(|_| sources.enter(busy, NOW).unwrap()).collect();
    for _ in 0..5 {
        drop(sources.enter(spent, NOW).unwrap());
    }
    let mut most = 0;
    for at in 0..1_000_000 {
        // All within a second, so that no bucket is full again.
        let now = NOW + Duration::from_micros(at.into());
        drop(sources.enter(number(at), now).unwrap());
        if at % 1000 == 0 {
            most = most.max(sources.remembered());
            assert_eq!(sources.enter(spent, now).unwrap_err(), Excess::Rate, "{at}");
        }
    }
    println!(
        "RSS {}",
        std::fs::read_to_string("/proc/self/statm").unwrap()
    );
    most = most.max(sources.remembered());
    assert!(most <= SHARDS * IDLE_MAX + 1, "{most} are remembered");
    assert!(
        most > SHARDS * IDLE_MAX * 9 / 10,
        "only {most} are remembered"
    );
    // A source with connections is never forgotten, and the bucket of it neither.
    assert_eq!(sources.active(busy), 5);
    assert_eq!(sources.enter(busy, later(1000)).unwrap_err(), Excess::Rate);
    drop(stays);
    assert_eq!(sources.enter(busy, later(1000)).unwrap_err(), Excess::Rate);
}

#[test]
fn who_floods_from_one_prefix_is_one_source_and_stays_refused() {
    let sources = sources(limits(0, Some((1, 60_000, 3))));
    let mut admitted = 0;
    for at in 0..100_000_u128 {
        let client = Ipv6Addr::from_bits((0x2001_0db8 << 96) | (at * 0x1_0000_0001));
        admitted += u32::from(sources.enter(client.into(), NOW).is_ok());
    }
    assert_eq!((admitted, sources.remembered()), (3, 1));
}

#[test]
fn the_shards_have_about_the_same_number_of_sources_each() {
    let sources = sources(limits(1, None));
    let stays: Vec<_> = (0..SHARDS as u32 * 1000)
        .map(|at| sources.enter(number(at), NOW).unwrap())
        .collect();
    for shard in &sources.shards {
        // Six standard deviations around a thousand.
        let len = lock(shard).sources.len();
        assert!(len.abs_diff(1000) < 190, "{len}");
    }
    drop(stays);
}

/// The limit is one for all threads: none gets more, and as many get in as there are places.
#[test]
fn limits_are_exact_over_threads() {
    const THREADS: usize = 8;
    let sources = sources(limits(7, Some((1, 86_400_000, 500))));
    let one = ip("192.0.2.1");
    let (admitted, barrier) = (AtomicU32::new(0), Barrier::new(THREADS));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                barrier.wait();
                let stay = sources.enter(one, NOW);
                admitted.fetch_add(u32::from(stay.is_ok()), SeqCst);
                barrier.wait();
                assert_eq!(sources.active(one), 7);
                barrier.wait();
                drop(stay);
                for _ in 0..10_000 {
                    let stay = sources.enter(one, NOW);
                    admitted.fetch_add(u32::from(stay.is_ok()), SeqCst);
                    assert!(sources.active(one) <= 7);
                }
            });
        }
    });
    assert_eq!(sources.active(one), 0);
    // Seven at first, and then as many as there were tokens.
    assert_eq!(admitted.into_inner(), 500);
}

/// A source of the model: tokens that are there, in parts, brought up to date at every step.
#[derive(Clone, Copy)]
struct Plain {
    active: u32,
    parts: i128,
}

struct Model {
    limits: SourceLimits,
    sources: BTreeMap<IpAddr, Plain>,
}

impl Model {
    fn bucket(limits: &SourceLimits) -> i128 {
        limits.rate.map_or(0, |rate| {
            i128::from(rate.burst) * rate.per.as_micros() as i128
        })
    }

    fn source(&mut self, client: IpAddr) -> &mut Plain {
        let parts = Model::bucket(&self.limits);
        let new = Plain { active: 0, parts };
        self.sources.entry(client).or_insert(new)
    }

    fn pass(&mut self, micros: u64) {
        let Some(rate) = self.limits.rate else { return };
        for source in self.sources.values_mut() {
            source.parts += i128::from(micros) * i128::from(rate.count);
            source.parts = source.parts.min(Model::bucket(&self.limits));
        }
    }

    fn enter(&mut self, client: IpAddr) -> Result<(), Excess> {
        let limits = self.limits;
        let source = self.source(client);
        if limits.connections > 0 && source.active >= limits.connections {
            return Err(Excess::Connections);
        }
        if let Some(rate) = limits.rate {
            let token = rate.per.as_micros() as i128;
            if source.parts < token {
                return Err(Excess::Rate);
            }
            source.parts -= token;
        }
        source.active += 1;
        Ok(())
    }

    fn set_limits(&mut self, limits: SourceLimits) {
        let (old, new) = (self.limits.rate, limits.rate);
        let (old_bucket, new_bucket) = (Model::bucket(&self.limits), Model::bucket(&limits));
        for source in self.sources.values_mut() {
            source.parts = match (old, new) {
                (Some(old), Some(new)) if old != new => {
                    let (was, is) = (old.per.as_micros() as i128, new.per.as_micros() as i128);
                    // Rounded against the source, by less than a part.
                    let lacks = ((old_bucket - source.parts) * is + was - 1) / was;
                    (new_bucket - lacks).max(0)
                }
                (Some(_), Some(_)) => source.parts,
                _ => new_bucket,
            };
        }
        self.limits = limits;
    }
}

#[derive(Clone, Debug)]
enum Step {
    Enter(u32),
    /// One of the stays there are.
    Leave(prop::sample::Index),
    Undo(u32),
    Pass(u64),
    SetLimits(SourceLimits),
}

fn any_limits() -> impl Strategy<Value = SourceLimits> {
    let rate = (1..5_u32, 1..4_u64, 1..5_u32);
    (0..4_u32, prop::option::weighted(0.8, rate))
        .prop_map(|(connections, rate)| limits(connections, rate))
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (0..5_u32).prop_map(Step::Enter),
        6 => any::<prop::sample::Index>().prop_map(Step::Leave),
        1 => (0..5_u32).prop_map(Step::Undo),
        6 => prop_oneof![0..10_u64, 0..3_000_u64, 0..20_000_u64].prop_map(Step::Pass),
        1 => any_limits().prop_map(Step::SetLimits),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_decision_is_that_of_a_plain_model_that_forgets_nothing(
        first in any_limits(),
        steps in prop::collection::vec(any_step(), 1..200),
    ) {
        let sources = sources(first);
        let mut model = Model { limits: first, sources: BTreeMap::new() };
        let mut stays = Vec::new();
        let mut now = NOW;
        for step in steps {
            match step {
                Step::Enter(client) => {
                    let client = number(client);
                    let stay = sources.enter(client, now);
                    let decision = stay.as_ref().map(|_| ()).map_err(|excess| *excess);
                    prop_assert_eq!(decision, model.enter(client));
                    stays.extend(stay.ok().map(|stay| (client, stay)));
                }
                Step::Leave(which) if !stays.is_empty() => {
                    let (client, stay) = stays.swap_remove(which.index(stays.len()));
                    drop(stay);
                    model.source(client).active -= 1;
                }
                Step::Undo(client) => {
                    let before = *model.source(number(client));
                    let stay = sources.enter(number(client), now);
                    prop_assert_eq!(stay.is_ok(), model.enter(number(client)).is_ok());
                    *model.source(number(client)) = before;
                    stay.into_iter().for_each(Stay::undo);
                }
                Step::Pass(micros) => {
                    now = now + Duration::from_micros(micros);
                    model.pass(micros);
                }
                Step::SetLimits(limits) => {
                    sources.set_limits(limits, now);
                    model.set_limits(limits);
                }
                Step::Leave(_) => {}
            }
            for (client, plain) in &model.sources {
                prop_assert_eq!(sources.active(*client), plain.active);
            }
        }
        stays.clear();
        let lacking = model.sources.len();
        prop_assert!(sources.remembered() <= lacking);
    }

    /// What a rate promises, said without buckets: in no span of time are more admitted than the
    /// burst and what comes back meanwhile.
    #[test]
    fn no_span_of_time_has_more_new_connections_than_the_rate_allows(
        (count, millis, burst) in (1..20_u32, 1..50_u64, 1..10_u32),
        gaps in prop::collection::vec(0..5_000_u64, 1..300),
    ) {
        let sources = sources(limits(0, Some((count, millis, burst))));
        let mut now = NOW;
        let mut admitted = Vec::new();
        for gap in gaps {
            now = now + Duration::from_micros(gap);
            if sources.enter(number(1), now).is_ok() {
                admitted.push(now);
            }
        }
        for (at, first) in admitted.iter().enumerate() {
            for (further, last) in admitted[at..].iter().enumerate() {
                let span = last.since(*first).as_micros() as u64;
                let allowed = u64::from(burst) + span * u64::from(count) / (millis * 1000);
                // `further` more than one.
                prop_assert!((further as u64) < allowed);
            }
        }
    }
}
