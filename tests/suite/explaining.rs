//! Where a running balancer says a client would go is where the client goes.

use lbd::admin::ask::Refusal;
use lbd::admin::why::{Why, WhyQuery, parse_client};
use lbd::balance::backend::State;
use lbd::balance::explain::Reason;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::sockets::Refusing;
use crate::harness::wait;
use crate::routing_kit::{Keeper, PASSTHROUGH, ask, ask_from, connect, hello, pool};

fn query(client: &str) -> WhyQuery {
    WhyQuery {
        client: parse_client(client).unwrap(),
        listener: "in".to_owned(),
        sni: None,
        alpn: Vec::new(),
    }
}

fn taken(why: &Why) -> &str {
    why.taken().map_or("nobody", |one| &one.name)
}

fn reasons(why: &Why) -> Vec<(&str, Reason)> {
    let pool = why.pool.as_ref().expect("a pool");
    let candidates = pool.candidates.iter();
    candidates.map(|one| (&*one.name, one.reason)).collect()
}

#[test]
fn clients_go_where_their_hash_is_said_to_lead_them() {
    let keepers = ["b0", "b1", "b2", "b3"].map(Keeper::new);
    let addresses = keepers.each_ref().map(Keeper::address);
    let balancer = Balancer::start(&Setup::over(&addresses).pool("policy = \"ip_hash\""));
    let mut seen = std::collections::BTreeSet::new();
    for last in 1..60 {
        let source = format!("127.0.0.{last}");
        let why = balancer.why(query(&source)).unwrap();
        let heard = ask_from(&source, balancer.address(), b"x");
        assert_eq!(taken(&why), heard.from(), "{source}");
        assert!(why.served && why.summary.contains(heard.from()), "{why:?}");
        let pool = why.pool.unwrap();
        assert_eq!(pool.hash_key.as_deref(), Some("source_ip"));
        assert!(!pool.by_chance);
        seen.insert(heard.from().to_owned());
    }
    assert_eq!(seen.len(), 4, "one answer for all would say nothing");
}

#[test]
fn whoever_asks_takes_nobodys_turn() {
    let keepers = ["b0", "b1", "b2"].map(Keeper::new);
    let addresses = keepers.each_ref().map(Keeper::address);
    let balancer = Balancer::start(&Setup::over(&addresses));
    for _ in 0..7 {
        let first = balancer.why(query("127.0.0.1")).unwrap();
        let again = balancer.why(query("127.0.0.9")).unwrap();
        let heard = ask(balancer.address(), b"x");
        assert_eq!([taken(&first), taken(&again)], [heard.from(); 2]);
    }
}

#[test]
fn the_first_that_is_down_is_passed_over_and_its_probe_says_why() {
    let (gone, second, third) = (Refusing::new(), Keeper::new("b1"), Keeper::new("b2"));
    let addresses = [gone.address, second.address(), third.address()];
    let setup = Setup::over(&addresses)
        .pool("policy = \"failover\"\nretries = 1")
        .pool("[pool.health]\nprobe = \"tcp\"\ninterval = \"50ms\"");
    let balancer = Balancer::start(&setup);
    wait::until("probes have spoken", || {
        let state = balancer.state();
        let states = state.pools[0].backends.iter().map(|one| one.state);
        states.eq([State::Down, State::Up, State::Up])
    });
    let why = balancer.why(query("127.0.0.1")).unwrap();
    assert_eq!(
        reasons(&why),
        [
            ("b1", Reason::Taken),
            ("b2", Reason::Next),
            ("b0", Reason::Down)
        ]
    );
    let down = &why.pool.as_ref().unwrap().candidates[2];
    assert!(!down.last_probe.as_ref().unwrap().detail.is_empty());
    assert_eq!(ask(balancer.address(), b"x").from(), "b1");
}

#[test]
fn the_rule_that_is_said_to_fit_a_name_is_the_one_that_does() {
    let (other, web, mail) = (Keeper::new("out"), Keeper::new("web"), Keeper::new("mail"));
    let mut setup = Setup::over(&[other.address()])
        .listener(PASSTHROUGH)
        .listener("[[listener.route]]\nsni = [\"*.example.org\"]\npool = \"web\"")
        .listener("[[listener.route]]\nalpn = [\"imap\"]\npool = \"mail\"");
    setup.more += &pool("web", "", &[web.address()]);
    setup.more += &pool("mail", "", &[mail.address()]);
    let balancer = Balancer::start(&setup);
    for (name, protocols, rule) in [
        ("a.example.org", &[][..], Some(1)),
        ("A.Example.org.", &["imap"], Some(1)),
        ("b.test", &["h2", "imap"], Some(2)),
        ("b.test", &["h2"], None),
    ] {
        let why = balancer.why(WhyQuery {
            sni: Some(name.to_owned()),
            alpn: protocols.iter().map(|&one| one.to_owned()).collect(),
            ..query("127.0.0.1")
        });
        let route = why.unwrap().route.expect("there is a default");
        let heard = ask(balancer.address(), &hello(name, protocols));
        assert_eq!((route.rule, &*route.pool), (rule, heard.from()), "{name}");
    }
}

#[test]
fn who_is_not_let_in_is_told_so_and_so_is_who_finds_the_listener_full() {
    let keeper = Keeper::new("b0");
    let setup =
        Setup::over(&[keeper.address()]).listener("deny = [\"127.0.0.7\"]\nmax_connections = 1");
    let balancer = Balancer::start(&setup);
    let why = balancer.why(query("127.0.0.7")).unwrap();
    assert!(!why.allowed && why.pool.is_none() && why.summary.starts_with("denied"));
    let heard = ask_from("127.0.0.7", balancer.address(), b"x");
    assert_eq!(heard.from(), "nobody");
    assert_eq!(balancer.record_of(heard.client).termination(), "denied");
    wait::until("it has left", || balancer.active() == 0);

    let why = balancer.why(query("127.0.0.1")).unwrap();
    assert!(why.allowed && why.served && taken(&why) == "b0");
    let held = connect(balancer.address());
    wait::until("there is one client", || balancer.active() == 1);
    let why = balancer.why(query("127.0.0.1")).unwrap();
    assert!(!why.served && why.pool.is_none());
    assert!(
        why.summary.contains("the listener has all of its 1"),
        "{why:?}"
    );
    drop(held);
}

#[test]
fn a_listener_that_is_not_there_is_answered_with_those_that_are() {
    let keeper = Keeper::new("b0");
    let balancer = Balancer::over(&[keeper.address()]);
    let asked = WhyQuery {
        listener: "inn".to_owned(),
        ..query("127.0.0.1")
    };
    let Err(Refusal::NotFound(why)) = balancer.why(asked) else {
        panic!("there is no such listener")
    };
    assert!(why.ends_with("there are: in"), "{why}");
    let named = balancer.why(WhyQuery {
        sni: Some("a.test".to_owned()),
        ..query("127.0.0.1")
    });
    let notes = named.unwrap().notes;
    assert!(notes[0].contains("no `tls`"), "{notes:?}");
}
