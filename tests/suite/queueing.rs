//! Clients that wait while every backend is full: in order, for a bounded time, in a bounded line.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lbd::balance::backend::Wish;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::peer::Backend;
use crate::harness::sockets::{self, Options};
use crate::harness::wait;

/// A backend with a limit behind a pool with a queue.
fn setup(backend: SocketAddr, limit: u32, queue: &str) -> Setup {
    let mut setup = Setup::over(&[backend]).pool(&format!("queue = {{ {queue} }}"));
    setup.backends[0].2 = format!("max_connections = {limit}\n");
    setup
}

fn connect(balancer: &Balancer) -> TcpStream {
    let client = TcpStream::connect(balancer.address()).unwrap();
    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    client
}

/// A client that has its backend.
fn served(balancer: &Balancer) -> TcpStream {
    let mut client = connect(balancer);
    assert!(echoes(&mut client));
    client
}

fn echoes(client: &mut TcpStream) -> bool {
    let mut byte = [0];
    client.write_all(b"x").is_ok() && matches!(client.read(&mut byte), Ok(1))
}

/// A client that has joined the line.
fn waiting(balancer: &Balancer) -> TcpStream {
    let before = balancer.queued();
    let client = connect(balancer);
    wait::until("the client waits", || balancer.queued() > before);
    client
}

fn is_reset(client: &mut TcpStream) -> bool {
    client.read(&mut [0]).is_err()
}

/// D12.
#[test]
fn ten_are_served_fifty_wait_and_forty_are_refused_at_once() {
    let backend = Backend::echo();
    let balancer = Balancer::start(&setup(
        backend.address,
        10,
        "length = 50, timeout = \"60s\"",
    ));
    let mut first: Vec<_> = (0..10).map(|_| served(&balancer)).collect();
    let mut line: Vec<_> = (0..50).map(|_| waiting(&balancer)).collect();
    for _ in 0..40 {
        let mut refused = connect(&balancer);
        let address = refused.local_addr().unwrap();
        assert!(is_reset(&mut refused));
        let record = balancer.record_of(address);
        assert_eq!(record.termination(), "queue_full");
        assert_eq!(record.text("phase"), "queue");
    }
    assert_eq!(balancer.backend("b0").0, 10, "the limit is exact");
    // One that leaves frees its place, and nobody is served for it.
    let gone = line.remove(20);
    let address = gone.local_addr().unwrap();
    drop(gone);
    wait::until("its place is free", || balancer.queued() == 49);
    let record = balancer.record_of(address);
    assert_eq!(record.termination(), "client_closed");
    assert_eq!(record.text("phase"), "queue");
    line.push(waiting(&balancer));
    while let Some(done) = first.pop() {
        drop(done);
        let mut next = line.remove(0);
        assert!(echoes(&mut next), "the one that has waited longest is next");
        assert_eq!(balancer.queued() as usize, line.len());
        first.insert(0, next);
        if line.is_empty() {
            break;
        }
    }
    assert!(balancer.records().iter().any(|record| {
        record.termination() == "client_closed" && record.text("phase") == "relay"
    }));
    drop(line);
}

#[test]
fn clients_of_all_workers_are_served_in_the_order_they_came() {
    const CLIENTS: u16 = 300;
    let order: Arc<Mutex<Vec<u16>>> = Arc::default();
    let seen = order.clone();
    let backend = Backend::serving(
        sockets::listen_with(Options::default()),
        move |mut socket| {
            let mut number = [0; 2];
            if socket.read_exact(&mut number).is_ok() {
                seen.lock().unwrap().push(u16::from_be_bytes(number));
            }
        },
    );
    let mut setup = setup(backend.address, 1, "length = 1000, timeout = \"60s\"");
    setup.workers = 4;
    let balancer = Balancer::start(&setup);
    let blocker = connect(&balancer);
    wait::until("it has the only seat", || balancer.backend("b0").0 == 1);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = waiting(&balancer);
            client.write_all(&number.to_be_bytes()).unwrap();
            client
        })
        .collect();
    // The backend closes each as soon as it has its number.
    drop(blocker);
    for mut client in clients {
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
    assert!(order.lock().unwrap().iter().copied().eq(0..CLIENTS));
}

#[test]
fn a_client_waits_no_longer_than_the_timeout() {
    let backend = Backend::echo();
    let balancer = Balancer::start(&setup(backend.address, 1, "timeout = \"200ms\""));
    let held = served(&balancer);
    let mut late = waiting(&balancer);
    let address = late.local_addr().unwrap();
    assert!(is_reset(&mut late));
    let record = balancer.record_of(address);
    assert_eq!(record.termination(), "queue_timeout");
    assert_eq!(record.text("phase"), "queue");
    let waited: f64 = record.text("queue_ms").parse().unwrap();
    assert!((200.0..1000.0).contains(&waited), "{waited} ms");
    assert_eq!(balancer.queued(), 0);
    drop(held);
}

#[test]
fn without_a_queue_the_client_is_told_at_once() {
    let backend = Backend::echo();
    let balancer = Balancer::start(&setup(backend.address, 1, "length = 0"));
    let held = served(&balancer);
    let mut refused = connect(&balancer);
    let address = refused.local_addr().unwrap();
    assert!(is_reset(&mut refused));
    assert_eq!(balancer.record_of(address).termination(), "queue_full");
    drop(held);
}

#[test]
fn what_a_waiting_client_sent_reaches_its_backend() {
    let backend = Backend::echo();
    let balancer = Balancer::start(&setup(backend.address, 1, "length = 10"));
    let held = served(&balancer);
    let mut client = connect(&balancer);
    client.write_all(b"sent before").unwrap();
    wait::until("it waits", || balancer.queued() == 1);
    client.write_all(b" and after").unwrap();
    drop(held);
    let mut answer = [0; 21];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"sent before and after");
    let address = client.local_addr().unwrap();
    drop(client);
    let record = balancer.record_of(address);
    assert_ne!(record.text("queue_ms"), "0.000");
}

#[test]
fn a_client_that_closed_its_half_may_wait_on_where_the_pool_says_so() {
    let backend = Backend::echo();
    let stay = "length = 10, on_half_close = \"stay\"";
    let balancer = Balancer::start(&setup(backend.address, 1, stay));
    let held = served(&balancer);
    let mut client = waiting(&balancer);
    client.write_all(b"all of it").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    drop(held);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "all of it");
}

#[test]
fn the_limit_of_a_pool_is_exact_over_its_backends_and_workers() {
    let backends = [Backend::echo(), Backend::echo()];
    let mut setup = Setup::over(&[backends[0].address, backends[1].address])
        .pool("max_connections = 7\nqueue = { length = 100, timeout = \"60s\" }");
    setup.workers = 4;
    let balancer = Balancer::start(&setup);
    let mut clients: Vec<_> = (0..20).map(|_| connect(&balancer)).collect();
    wait::until("the others wait", || balancer.queued() == 13);
    assert_eq!(balancer.state().pools[0].active, 7);
    assert_eq!(balancer.backend("b0").0 + balancer.backend("b1").0, 7);
    clients
        .iter_mut()
        .for_each(|client| client.write_all(b"x").unwrap());
    // Whoever has its answer makes room for another one.
    while !clients.is_empty() {
        clients.retain_mut(|client| {
            client.set_nonblocking(true).unwrap();
            !matches!(client.read(&mut [0]), Ok(1))
        });
        assert!(balancer.state().pools[0].active <= 7);
    }
}

#[test]
fn a_backend_that_becomes_ready_serves_those_who_wait() {
    let backends = [Backend::echo(), Backend::echo()];
    let mut setup = setup(backends[0].address, 1, "length = 100, timeout = \"60s\"");
    let second = backends[1].address;
    setup
        .backends
        .push(("b1".to_owned(), second, String::new()));
    let balancer = Balancer::start(&setup);
    balancer.wish("b1", Wish::Drain);
    let held = served(&balancer);
    let mut line: Vec<_> = (0..20).map(|_| waiting(&balancer)).collect();
    balancer.wish("b1", Wish::Ready);
    assert!(line.iter_mut().all(echoes), "one call leads to the next");
    assert_eq!(balancer.backend("b1").0, 20);
    drop(held);
}

/// The queue calls a client; the policy chooses for it.
#[test]
fn who_waited_is_served_by_the_better_tier_while_that_has_room() {
    let backends = [Backend::echo(), Backend::echo()];
    let mut setup = setup(backends[0].address, 2, "length = 100, timeout = \"60s\"");
    let spare = "max_connections = 2\npriority = 1\n".to_owned();
    setup
        .backends
        .push(("spare".to_owned(), backends[1].address, spare));
    let balancer = Balancer::start(&setup);
    let first: Vec<_> = (0..4).map(|_| served(&balancer)).collect();
    assert_eq!(
        (balancer.backend("b0").0, balancer.backend("spare").0),
        (2, 2)
    );
    balancer.wish("b0", Wish::Drain);
    balancer.wish("spare", Wish::Drain);
    drop(first);
    wait::until("both are empty", || balancer.active() == 0);
    balancer.wish("spare", Wish::Ready);
    let held: Vec<_> = (0..2).map(|_| served(&balancer)).collect();
    let mut line: Vec<_> = (0..4).map(|_| waiting(&balancer)).collect();
    balancer.wish("b0", Wish::Ready);
    assert!(line[..2].iter_mut().all(echoes));
    assert_eq!((balancer.backend("b0").0, balancer.queued()), (2, 2));
    drop(held);
    assert!(line[2..].iter_mut().all(echoes));
    assert_eq!(
        (balancer.backend("b0").0, balancer.backend("spare").0),
        (2, 2)
    );
}

#[test]
fn a_reload_that_adds_a_backend_serves_those_who_wait() {
    let backends = [Backend::echo(), Backend::echo()];
    let mut setup = setup(backends[0].address, 1, "length = 100, timeout = \"60s\"");
    let balancer = Balancer::start(&setup);
    let held = served(&balancer);
    let mut line: Vec<_> = (0..20).map(|_| waiting(&balancer)).collect();
    let second = backends[1].address;
    setup
        .backends
        .push(("b1".to_owned(), second, String::new()));
    balancer.reload(&setup).unwrap();
    assert!(line.iter_mut().all(echoes));
    assert_eq!(balancer.backend("b1").0, 20);
    drop(held);
}

/// Room that no event tells of: only the clock ends an ejection.
#[test]
fn a_backend_whose_ejection_ends_serves_those_who_wait() {
    let place = crate::harness::process::free_port();
    let good = Backend::echo();
    let mut setup = setup(good.address, 1, "length = 100, timeout = \"60s\"")
        .pool("ejection = { connect_failures = 1, base = \"500ms\", max = \"500ms\" }")
        .pool("policy = \"failover\"");
    setup
        .backends
        .insert(0, ("back".to_owned(), place, String::new()));
    let balancer = Balancer::start(&setup);
    let held = served(&balancer);
    let options = Options {
        source: Some(place),
        ..Options::default()
    };
    let back = Backend::serving(sockets::listen_with(options), |mut socket| {
        let _ = socket.write_all(b"x");
    });
    let mut client = waiting(&balancer);
    assert_eq!(client.read(&mut [0]).unwrap(), 1);
    assert_eq!(back.accepted(), 1);
    drop(held);
}

/// The first in the line has tried the backend that came back, and may not try it again.
#[test]
fn room_that_the_first_in_the_line_has_tried_in_vain_is_for_those_behind() {
    let place = crate::harness::process::free_port();
    let good = Backend::echo();
    let mut setup = setup(good.address, 1, "length = 100, timeout = \"60s\"")
        .pool("policy = \"failover\"\nejection = { connect_failures = 0 }");
    setup
        .backends
        .insert(0, ("back".to_owned(), place, String::new()));
    let balancer = Balancer::start(&setup);
    let held = served(&balancer);
    let mut first = waiting(&balancer);
    let options = Options {
        source: Some(place),
        ..Options::default()
    };
    let back = Backend::serving(sockets::listen_with(options), |mut socket| {
        let _ = socket.write_all(b"y");
    });
    let mut behind = connect(&balancer);
    let mut answer = [0];
    behind.read_exact(&mut answer).unwrap();
    assert_eq!((&answer, back.accepted()), (b"y", 1));
    assert_eq!(balancer.queued(), 1, "the first waits for the other one");
    drop(held);
    assert!(echoes(&mut first));
}

#[test]
fn those_who_wait_when_the_balancer_drains_are_served_still() {
    let backend = Backend::echo();
    let balancer = Balancer::start(&setup(backend.address, 1, "length = 100"));
    let held = served(&balancer);
    let mut client = waiting(&balancer);
    balancer.drain(Duration::from_secs(10));
    drop(held);
    assert!(echoes(&mut client));
    drop(client);
    let records = balancer.ended();
    assert_eq!(records.len(), 2);
}
