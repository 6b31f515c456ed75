//! Group D of the fault catalogue: backends that die, refuse, swallow packets, come back, and
//! those that speak first.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::child;
use crate::harness::machine;
use crate::harness::peer::{self, Backend, End};
use crate::harness::process::{self, Helper, Process};
use crate::harness::script::{Script, Send, Take};
use crate::harness::sockets::{self, Options, Refusing, Silent};
use crate::harness::wait;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn greeting(bytes: u64) -> Script {
    Script::new([Send::Bytes(bytes), Send::Fin], [Take::ToEnd])
}

/// A client that only listens.
fn listening() -> Script {
    Script::new([Send::AwaitEnd, Send::Fin], [Take::ToEnd])
}

/// D1: one of four backends, a process of its own, is killed under load.
#[test]
fn a_killed_backend_takes_only_its_own_sessions_along() {
    // A balancer with one backend of its own stands for the process that is killed.
    let behind = Backend::echo();
    let mut victim = Process::start(&Setup::over(&[behind.address]));
    let others: Vec<Backend> = (0..3).map(|_| Backend::echo()).collect();
    let mut addresses = vec![victim.address];
    addresses.extend(others.iter().map(|one| one.address));
    let setup = Setup::over(&addresses).pool("ejection = { connect_failures = 3, base = \"60s\" }");
    let balancer = Balancer::start(&setup);
    let mut held: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut client = TcpStream::connect(balancer.address()).unwrap();
            client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
            assert!(echo(&mut client));
            client
        })
        .collect();
    victim.signal(rustix::process::Signal::KILL);
    victim.ended();
    let failed = held
        .iter_mut()
        .filter_map(|client| (!echo(client)).then_some(()))
        .count();
    assert_eq!(failed, 10, "only the victim's sessions end");
    // New ones go elsewhere from the first refusal on.
    for _ in 0..40 {
        let mut client = TcpStream::connect(balancer.address()).unwrap();
        client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        assert!(echo(&mut client), "a new client noticed");
    }
    held.retain_mut(echo);
    assert_eq!(held.len(), 30, "untouched sessions go on");
    drop(held);
    wait::until("all are written", || balancer.records().len() == 80);
    let ends: Vec<_> = balancer.records();
    let resets = ends
        .iter()
        .filter(|record| record.termination() == "backend_reset");
    // The kernel closes a killed process's sockets: by FIN where nothing was unread.
    assert!(resets.count() <= 10);
    let of_victim: Vec<_> = ends
        .iter()
        .filter(|record| record.text("backend") == "b0")
        .collect();
    assert_eq!(of_victim.len(), 10, "{of_victim:?}");
}

fn echo(client: &mut TcpStream) -> bool {
    let mut byte = [0];
    client.write_all(b"x").is_ok() && matches!(client.read(&mut byte), Ok(1))
}

/// D2: a stopped process is still connected to; only the client's own limits can end that.
#[test]
fn a_stopped_backend_delays_only_the_clients_it_was_given() {
    let behind = Backend::echo();
    let stopped = Process::start(&Setup::over(&[behind.address]));
    let good = Backend::echo();
    let setup = Setup::over(&[stopped.address, good.address]).listener("idle_timeout = \"1s\"");
    let balancer = Balancer::start(&setup);
    stopped.signal(rustix::process::Signal::STOP);
    let mut served = 0;
    for _ in 0..4 {
        let mut client = TcpStream::connect(balancer.address()).unwrap();
        served += usize::from(echo(&mut client));
    }
    assert_eq!(served, 2);
    stopped.signal(rustix::process::Signal::CONT);
    let records = wait::within(wait::PATIENCE, || {
        let records = balancer.records();
        (records.len() >= 4).then_some(records)
    });
    let idle = records.unwrap();
    let idle = idle
        .iter()
        .filter(|record| record.termination() == "idle_timeout");
    assert_eq!(idle.count(), 2);
}

/// D3: the port swallows SYNs; the try is given up in time for the next backend.
#[test]
fn a_backend_that_swallows_connects_costs_a_share_of_the_time_and_no_client() {
    let silent = Silent::new();
    let good = Backend::new(&greeting(5));
    let setup = Setup::over(&[silent.address, good.address]).pool("connect_timeout = \"1s\"");
    let balancer = Balancer::start(&setup);
    for script in [
        listening(),
        Script::new([Send::Bytes(9), Send::Fin], [Take::ToEnd]),
    ] {
        let mut tries = Vec::new();
        for _ in 0..2 {
            let client = peer::client(balancer.address(), &script);
            assert_eq!((client.taken, client.end), (5, End::Fin));
            assert!(client.took < ms(1100), "it took {:?}", client.took);
            tries.push(balancer.record_of(client.address).number("tries"));
        }
        assert!(
            tries.iter().all(|tries| (1..=2).contains(tries)),
            "{tries:?}"
        );
    }
}

/// D3 with nobody else: the whole budget, and no more than it.
#[test]
fn a_client_never_waits_longer_than_the_connect_limit() {
    let silent = Silent::new();
    let setup = Setup::over(&[silent.address]).pool("connect_timeout = \"700ms\"\nretries = 5");
    let balancer = Balancer::start(&setup);
    for script in [listening(), Script::new([Send::Bytes(9)], [Take::ToEnd])] {
        let client = peer::client(balancer.address(), &script);
        assert_eq!(client.end, End::Reset);
        assert!(
            client.took >= ms(650) && client.took < ms(900),
            "told after {:?}",
            client.took
        );
        let record = balancer.record_of(client.address);
        assert_eq!(record.termination(), "connect_timeout", "{record:?}");
        assert_eq!(record.number("bytes_to_backend"), 0);
    }
}

/// A client that leaves while its connect is under way.
#[test]
fn a_client_that_leaves_before_its_backend_answers_is_let_go_at_once() {
    let silent = Silent::new();
    let setup = Setup::over(&[silent.address]).pool("connect_timeout = \"20s\"");
    let balancer = Balancer::start(&setup);
    let client = TcpStream::connect(balancer.address()).unwrap();
    wait::until("it is served", || balancer.active() == 1);
    sockets::reset(&client);
    let begun = Instant::now();
    let record = balancer.only_record();
    assert!(
        begun.elapsed() < ms(500),
        "let go after {:?}",
        begun.elapsed()
    );
    assert_eq!(record.termination(), "client_reset");
    assert_eq!(record.text("phase"), "connect");
    assert_eq!(balancer.state().pools[0].backends[0].failures, 0);
}

/// D4: refused by reset, and by ICMP in a network of its own.
#[test]
fn a_refusal_by_packet_filter_is_retried_at_once() {
    child::in_own_network(
        "backends::a_refusal_by_packet_filter_is_retried_at_once",
        || {
            let port = process::free_port().port();
            child::nft(&format!(
                "table ip fault {{\n chain out {{\n type filter hook output priority 0\n \
             ip daddr 127.0.0.3 tcp dport {port} reject with tcp reset\n \
             ip daddr 127.0.0.4 tcp dport {port} reject with icmp type port-unreachable\n \
             ip daddr 127.0.0.5 tcp dport {port} reject with icmp type host-unreachable\n \
             }}\n}}"
            ));
            let refusing = [3, 4, 5].map(|host| SocketAddr::from(([127, 0, 0, host], port)));
            let good = Backend::new(&greeting(5));
            for bad in refusing {
                let setup = Setup::over(&[bad, good.address])
                    .pool("connect_timeout = \"5s\"\nejection = { connect_failures = 0 }");
                let balancer = Balancer::start(&setup);
                for script in [
                    listening(),
                    Script::new([Send::Bytes(9), Send::Fin], [Take::ToEnd]),
                ] {
                    for _ in 0..2 {
                        let client = peer::client(balancer.address(), &script);
                        assert_eq!((client.taken, client.end), (5, End::Fin), "{bad}");
                        assert!(client.took < ms(300), "{bad}: it took {:?}", client.took);
                    }
                }
            }
        },
    );
}

/// D5: a backend that loses five packets of a hundred is slow, not dead.
#[test]
fn a_backend_with_lost_packets_stays_up_and_gets_fewer_clients_where_latency_counts() {
    child::in_own_network(
        "backends::a_backend_with_lost_packets_stays_up_and_gets_fewer_clients_where_latency_counts",
        || {
            let lossy = sockets::listen_with(Options {
                source: Some("127.0.0.3:0".parse().unwrap()),
                ..Options::default()
            });
            let lossy = Backend::on(lossy, &greeting(5));
            let good = Backend::new(&greeting(5));
            child::nft(&format!(
                "table ip fault {{\n chain out {{\n type filter hook output priority 0\n \
                 ip daddr 127.0.0.3 tcp dport {} numgen random mod 100 < 5 drop\n }}\n}}",
                lossy.address.port()
            ));
            let setup = Setup::over(&[lossy.address, good.address]).pool(
                "policy = \"least_latency\"\n[pool.health]\nprobe = \"tcp\"\n\
                 interval = \"100ms\"\nfast_interval = \"100ms\"",
            );
            let balancer = Balancer::start(&setup);
            wait::until("both are up", || {
                let state = balancer.state();
                let mut backends = state.pools[0].backends.iter();
                backends.all(|backend| backend.state.as_str() == "up")
            });
            for _ in 0..300 {
                let client = peer::client(balancer.address(), &listening());
                assert_eq!((client.taken, client.end), (5, End::Fin));
            }
            let state = balancer.state();
            let backends = &state.pools[0].backends;
            assert_eq!(backends[0].state.as_str(), "up", "{:?}", backends[0]);
            assert!(backends[0].total < 100, "{} of 300", backends[0].total);
        },
    );
}

/// D7: in under ten milliseconds, without a new try each time.
#[test]
fn with_every_backend_down_clients_are_told_at_once() {
    let (one, two) = (Refusing::new(), Refusing::new());
    let setup = Setup::over(&[one.address, two.address])
        .pool("ejection = { connect_failures = 1, base = \"60s\", max_percent = 100 }");
    let balancer = Balancer::start(&setup);
    let mut ends: HashMap<String, usize> = HashMap::new();
    let mut quickest = Duration::MAX;
    for _ in 0..20 {
        let client = peer::client(balancer.address(), &Script::new([], [Take::ToEnd]));
        assert_eq!(client.end, End::Reset);
        quickest = quickest.min(client.took);
        let record = balancer.record_of(client.address);
        *ends.entry(record.termination().to_owned()).or_default() += 1;
    }
    assert!(quickest < ms(10), "told after {quickest:?} at best");
    let known = ["connect_failed", "no_backend"];
    assert!(
        ends.keys().all(|word| known.contains(&word.as_str())),
        "{ends:?}"
    );
}

/// D8, limited: when all come back at once nobody is sent more than its limit, and who is too
/// many waits.
#[test]
fn a_storm_of_clients_on_recovered_backends_stays_within_their_limits() {
    const LIMIT: u32 = 10;
    let backends: Vec<Backend> = (0..2).map(|_| Backend::echo()).collect();
    let mut setup = Setup::over(&[backends[0].address, backends[1].address]);
    for backend in &mut setup.backends {
        backend.2 = format!("max_connections = {LIMIT}");
    }
    let balancer = Balancer::start(&setup);
    let address = balancer.address();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..64)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 0..15 {
                        let mut client = TcpStream::connect(address).unwrap();
                        assert!(echo(&mut client));
                        thread::sleep(ms(2));
                    }
                })
            })
            .collect();
        while clients.iter().any(|client| !client.is_finished()) {
            for backend in &balancer.state().pools[0].backends {
                assert!(backend.active <= LIMIT, "{} at once", backend.active);
            }
            thread::sleep(ms(1));
        }
    });
    wait::until("all are written", || balancer.records().len() == 64 * 15);
    let waited = balancer
        .records()
        .into_iter()
        .filter(|record| record.text("queue_ms") != "0.000");
    assert!(waited.count() > 0, "the limits were never reached");
}

/// D15.
#[test]
fn a_backend_that_speaks_first_is_heard_without_a_byte_from_the_client() {
    let backend = Backend::new(&Script::new(
        [Send::Bytes(40), Send::AwaitEnd],
        [Take::ToEnd],
    ));
    let balancer = Balancer::over(&[backend.address]);
    let mut client = sockets::connect_with(balancer.address(), Options::default()).unwrap();
    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let begun = Instant::now();
    client.read_exact(&mut [0; 40]).unwrap();
    assert!(
        begun.elapsed() < ms(300),
        "heard after {:?}",
        begun.elapsed()
    );
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0);
}

/// An ejected backend is out for new clients and keeps those it has.
#[test]
fn a_backend_that_came_back_is_used_again_when_its_time_out_is_over() {
    let place = process::free_port();
    let good = Backend::echo();
    let setup = Setup::over(&[place, good.address])
        .pool("ejection = { connect_failures = 1, base = \"300ms\", max = \"300ms\" }");
    let balancer = Balancer::start(&setup);
    let mut client = TcpStream::connect(balancer.address()).unwrap();
    assert!(echo(&mut client));
    drop(client);
    let options = Options {
        source: Some(place),
        ..Options::default()
    };
    let back = Backend::serving(sockets::listen_with(options), |mut socket| {
        let _ = socket.write_all(b"x");
    });
    wait::until("the one that came back is used", || {
        let mut client = TcpStream::connect(balancer.address()).unwrap();
        assert!(echo(&mut client));
        back.accepted() > 0
    });
}

/// What connected sessions meet reaches the pool.
#[test]
fn a_backend_that_breaks_sessions_off_is_ejected_where_that_is_asked_for() {
    for rule in ["empty_closes = 2", "early_resets = 2"] {
        let resets = rule.starts_with("early");
        let bad = Backend::serving(sockets::listen_with(Options::default()), move |socket| {
            if resets {
                sockets::reset(&socket);
            }
        });
        let good = Backend::echo();
        let setup = Setup::over(&[bad.address, good.address])
            .pool(&format!("ejection = {{ {rule}, base = \"60s\" }}"));
        let balancer = Balancer::start(&setup);
        wait::until("it is ejected", || {
            let mut client = TcpStream::connect(balancer.address()).unwrap();
            client.set_read_timeout(Some(ms(100))).unwrap();
            let _ = client.read(&mut [0]);
            let state = balancer.state().pools[0].backends[0].state;
            state == lbd::balance::backend::State::Ejected
        });
    }
}

/// Programs that a killed test leaves behind would be found by this: a helper ends with its test.
#[test]
fn a_helper_is_gone_with_the_test_that_started_it() {
    let Some(sleep) = machine::program("sleep") else {
        return machine::skipped("a_helper_is_gone", "sleep(1) is not installed");
    };
    let helper = Helper::start(Command::new(sleep).arg("60").stdin(Stdio::null()));
    let own = format!("/proc/{}", helper.0.id());
    assert!(std::fs::metadata(&own).is_ok());
    drop(helper);
    assert!(std::fs::metadata(&own).is_err());
}
