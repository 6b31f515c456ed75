//! Clients whose hello does not come, and hellos that wait for a backend which answers.

use std::io::Read;
use std::time::Duration;

use super::{named_hello, route, strict};
use crate::harness::balancer::{Balancer, Setup};
use crate::harness::sockets::{self, Refusing, Silent};
use crate::routing_kit::{
    Keeper, PASSTHROUGH, ask, connect, dribble, host, in_records, message, refusal, say,
};

/// E1, E2.
#[test]
fn a_hello_that_does_not_come_ends_at_the_deadline_which_no_byte_puts_off() {
    let other = Keeper::new("other");
    let lines = "tls = { mode = \"passthrough\", handshake_timeout = \"400ms\" }";
    let setup = Setup::over(&[other.address()]).listener(lines);
    let balancer = Balancer::start(&setup);
    let silent = connect(balancer.address());
    let mut slow = connect(balancer.address());
    // A byte each 40 ms for 4 s and more, were it not cut.
    dribble(&mut slow, &named_hello(), Duration::from_millis(40));
    for mut client in [silent, slow] {
        let own = client.local_addr().unwrap();
        assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
        let record = balancer.record_of(own);
        assert_eq!(refusal(&record), ("preface", "tls_timeout", ""));
        let after = record.text("duration_ms");
        let millis: f64 = after.parse().unwrap();
        assert!((400.0..2_000.0).contains(&millis), "{after} ms");
    }
    assert!(other.untouched());
}

#[test]
fn a_client_that_goes_before_its_hello_touches_no_backend() {
    let other = Keeper::new("other");
    let setup = Setup::over(&[other.address()]).listener(PASSTHROUGH);
    let by_name = route("sni = [\"named.test\"]", "out");
    let balancer = Balancer::start(&strict(setup, PASSTHROUGH, &by_name));
    // What the checks of a balancer in front of this one do: a FIN, or a reset.
    let heard = ask(balancer.address(), b"");
    let record = balancer.record_of(heard.client);
    assert_eq!(refusal(&record), ("preface", "client_closed", ""));
    let checker = connect(balancer.address());
    let own = checker.local_addr().unwrap();
    await_accepted(&balancer);
    sockets::reset(&checker);
    let record = balancer.record_of(own);
    assert_eq!(refusal(&record), ("preface", "client_reset", ""));
    let heard = say(connect(balancer.address_of("strict")), &named_hello()[..20]);
    let record = balancer.record_of(heard.client);
    assert_eq!(refusal(&record), ("preface", "client_closed", ""));
    assert!(other.untouched());
}

#[test]
fn the_beginning_of_a_hello_and_then_an_end_go_to_the_default_pool_as_they_are() {
    let other = Keeper::new("other");
    let setup = Setup::over(&[other.address()]).listener(PASSTHROUGH);
    let balancer = Balancer::start(&setup);
    let begun = &named_hello()[..20];
    assert_eq!(ask(balancer.address(), begun).from(), "other");
    assert_eq!(other.received_once(), begun);
}

fn await_accepted(balancer: &Balancer) {
    crate::harness::wait::until("the client is accepted", || balancer.active() == 1);
}

#[test]
fn a_hello_that_was_held_goes_to_the_next_backend_when_the_first_does_not_answer() {
    let (refusing, silent) = (Refusing::new(), Silent::new());
    let long = in_records(&message(Some(&host(b"named.test")), &[], 30_000), 1 << 14);
    for first in [refusing.address, silent.address] {
        let named = Keeper::new("named");
        let setup = Setup::over(&[first, named.address()])
            .listener(PASSTHROUGH)
            .pool("connect_timeout = \"2s\"\nretries = 1\npolicy = \"failover\"")
            .pool("ejection = { connect_failures = 0 }");
        let balancer = Balancer::start(&setup);
        for hello in [named_hello(), long.clone()] {
            let heard = ask(balancer.address(), &hello);
            assert_eq!(heard.from(), "named");
            assert_eq!(named.received().last(), Some(&hello));
            let record = balancer.record_of(heard.client);
            assert_eq!(record.number("tries"), 2);
            assert_eq!(record.text("backend"), "b1");
            assert_eq!(record.number("bytes_to_backend"), hello.len() as u64);
        }
    }
}
