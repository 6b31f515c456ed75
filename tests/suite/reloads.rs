//! Reload and drain under load: nobody who is served notices, and what fails changes nothing.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::machine::{descriptors, threads};
use crate::harness::peer::Backend;
use crate::harness::process::{self, Process};
use crate::harness::sockets;
use crate::harness::wait;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn connect(to: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(to).unwrap();
    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    client
}

fn echo(client: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    client.write_all(b"hello").is_ok()
        && client.read_exact(&mut answer).is_ok()
        && answer == *b"hello"
}

/// Connects again and again while `meanwhile` runs, which sees how many were served so far; in
/// the end how many were served and how many not.
fn under_load(to: SocketAddr, meanwhile: impl FnOnce(&AtomicU64)) -> (u64, u64) {
    let (served, failed) = (AtomicU64::new(0), AtomicU64::new(0));
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !over.load(SeqCst) {
                    let good = TcpStream::connect(to).is_ok_and(|mut client| {
                        client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                        echo(&mut client)
                    });
                    let count = if good { &served } else { &failed };
                    count.fetch_add(1, SeqCst);
                }
            });
        }
        // Also when it fails, or the load would never end.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&served)));
        over.store(true, SeqCst);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    (served.into_inner(), failed.into_inner())
}

#[test]
fn fifty_reloads_under_load_fail_no_connection() {
    let backends: Vec<Backend> = (0..3).map(|_| Backend::echo()).collect();
    let all: Vec<SocketAddr> = backends.iter().map(|one| one.address).collect();
    let base = Setup::over(&all);
    let balancer = Balancer::start(&base);
    balancer.forget_totals();
    let mut held = connect(balancer.address());
    assert!(echo(&mut held));
    let of_held = (0..3)
        .find(|at| balancer.backend(&format!("b{at}")).0 == 1)
        .unwrap();
    let before = balancer.backend(&format!("b{of_held}")).1;
    let (served, failed) = under_load(balancer.address(), |served| {
        for round in 0..50 {
            let mut next = base.clone();
            match round % 5 {
                0 => {}
                1 => next.backends[0].2 = "weight = 7".to_owned(),
                // Another backend than the one whose session is looked at afterwards.
                2 => drop(next.backends.remove((of_held + 1) % 3)),
                3 => {
                    next.more = "[[listener]]\nname = \"extra\"\nbind = \"127.0.0.2:0\"\n\
                                 pool = \"out\"\n"
                        .to_owned();
                }
                _ => next.pool = "policy = \"least_connections\"".to_owned(),
            }
            balancer.reload(&next).unwrap();
            if round % 5 == 3 {
                // The added listener serves, and is gone with the next reload.
                assert!(echo(&mut connect(balancer.address_of("extra"))));
            }
            assert!(echo(&mut held), "reload {round} ended a session");
            // Clients of before and of after each reload.
            let so_far = served.load(SeqCst);
            wait::until("clients are served", || served.load(SeqCst) >= so_far + 10);
        }
    });
    assert_eq!(failed, 0, "of {}", served + failed);
    assert!(served >= 500, "only {served} connections");
    balancer.reload(&base).unwrap();
    let (active, total) = balancer.backend(&format!("b{of_held}"));
    assert!(
        active >= 1 && total > before,
        "counters survive: {active} active, {total} in all"
    );
    drop(held);
}

#[test]
fn sessions_of_a_removed_backend_go_on_until_they_end() {
    let (old, new) = (Backend::echo(), Backend::echo());
    let balancer = Balancer::over(&[old.address]);
    let mut held = connect(balancer.address());
    assert!(echo(&mut held));
    let mut next = Setup::over(&[new.address]);
    next.backends[0].0 = "other".to_owned();
    balancer.reload(&next).unwrap();
    for _ in 0..10 {
        assert!(echo(&mut connect(balancer.address())));
    }
    assert_eq!((old.accepted(), new.accepted()), (1, 10));
    assert!(echo(&mut held), "the old session goes on");
    let own = held.local_addr().unwrap();
    drop(held);
    assert_eq!(balancer.record_of(own).text("backend"), "b0");
}

#[test]
fn counters_and_sessions_of_a_kept_backend_survive_a_reload() {
    let backend = Backend::echo();
    let setup = Setup::over(&[backend.address]);
    let balancer = Balancer::start(&setup);
    let mut held = connect(balancer.address());
    assert!(echo(&mut held));
    assert!(echo(&mut connect(balancer.address())));
    wait::until("one is left", || balancer.backend("b0").0 == 1);
    balancer
        .reload(&setup.clone().pool("policy = \"random\""))
        .unwrap();
    assert_eq!(balancer.backend("b0"), (1, 2));
    assert_eq!(balancer.state().listeners[0].total, 2);
    drop(held);
    wait::until("none is left", || balancer.backend("b0").0 == 0);
}

#[test]
fn a_listener_that_a_reload_removes_refuses_new_clients_and_keeps_its_old_ones() {
    let backend = Backend::echo();
    let mut two = Setup::over(&[backend.address]);
    two.more =
        "[[listener]]\nname = \"extra\"\nbind = \"127.0.0.2:0\"\npool = \"out\"\n".to_owned();
    let balancer = Balancer::start(&two);
    balancer.forget_totals();
    let extra = balancer.address_of("extra");
    let mut held = connect(extra);
    assert!(echo(&mut held));
    balancer.reload(&Setup::over(&[backend.address])).unwrap();
    wait::until("new clients are refused", || {
        TcpStream::connect(extra).is_err()
    });
    assert!(echo(&mut held), "the old session goes on");
    assert!(
        echo(&mut connect(balancer.address())),
        "the other listener serves"
    );
}

#[test]
fn a_reload_that_cannot_listen_changes_nothing() {
    let backend = Backend::echo();
    let base = Setup::over(&[backend.address]);
    let balancer = Balancer::start(&base);
    let taken = TcpListener::bind("127.0.0.2:0").unwrap();
    let mut next = base.clone().listener("max_connections = 1");
    next.backends[0].0 = "renamed".to_owned();
    next.more = format!(
        "[[listener]]\nname = \"free\"\nbind = \"127.0.0.3:0\"\npool = \"out\"\n\
         [[listener]]\nname = \"taken\"\nbind = \"{}\"\npool = \"out\"\n",
        taken.local_addr().unwrap()
    );
    let error = balancer.reload(&next).unwrap_err().to_string();
    assert!(error.contains("taken"), "{error}");
    let state = balancer.state();
    assert_eq!(state.listeners.len(), 1);
    assert_eq!(state.pools[0].backends[0].name, "b0");
    let (mut one, mut two) = (connect(balancer.address()), connect(balancer.address()));
    assert!(echo(&mut one) && echo(&mut two), "the old limits hold");
    // A good one works afterwards.
    drop(taken);
    next.more.clear();
    balancer.reload(&next).unwrap();
    assert_eq!(balancer.state().pools[0].backends[0].name, "renamed");
}

#[test]
fn a_drain_refuses_new_clients_waits_for_the_old_and_ends_when_they_do() {
    let backend = Backend::echo();
    let balancer = Balancer::over(&[backend.address]);
    let address = balancer.address();
    let mut held: Vec<TcpStream> = (0..6).map(|_| connect(address)).collect();
    assert!(held.iter_mut().all(echo));
    balancer.drain(Duration::from_secs(60));
    wait::until("new clients are refused", || {
        TcpStream::connect(address).is_err()
    });
    assert!(held.iter_mut().all(echo), "old sessions go on");
    drop(held);
    let records = balancer.ended();
    // Among the others may be one that asked whether it would be refused.
    let of_held = records
        .iter()
        .filter(|record| record.number("bytes_to_client") == 10);
    let orderly = of_held.filter(|record| record.termination() == "client_closed");
    assert_eq!(orderly.count(), 6, "{records:?}");
}

#[test]
fn what_is_left_when_the_drain_is_over_is_reset_and_recorded() {
    let backend = Backend::echo();
    let balancer = Balancer::over(&[backend.address]);
    let mut held: Vec<TcpStream> = (0..6).map(|_| connect(balancer.address())).collect();
    assert!(held.iter_mut().all(echo));
    let begun = Instant::now();
    balancer.drain(ms(500));
    for client in &held {
        assert!(
            sockets::await_reset(client, Duration::from_secs(10)),
            "reset"
        );
        assert!(
            begun.elapsed() >= ms(370),
            "too early: {:?}",
            begun.elapsed()
        );
    }
    assert!(
        begun.elapsed() < ms(1500),
        "too late: {:?}",
        begun.elapsed()
    );
    let records = balancer.ended();
    assert_eq!(records.len(), 6);
    assert!(
        records
            .iter()
            .all(|record| record.termination() == "drained"),
        "{records:?}"
    );
    assert!(
        records
            .iter()
            .all(|record| record.number("bytes_to_client") == 5)
    );
}

/// No client that the kernel has accepted for us is lost to a drain.
#[test]
fn a_drain_under_load_serves_whoever_was_connected() {
    for workers in [1, 2] {
        let backend = Backend::echo();
        let setup = Setup {
            workers,
            ..Setup::over(&[backend.address])
        };
        let balancer = Balancer::start(&setup);
        let address = balancer.address();
        let (served, refused, lost) =
            (AtomicU64::new(0), AtomicBool::new(false), AtomicU64::new(0));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !refused.load(SeqCst) {
                        match TcpStream::connect(address) {
                            Ok(mut client) => {
                                client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                                let count = if echo(&mut client) { &served } else { &lost };
                                count.fetch_add(1, SeqCst);
                            }
                            Err(_) => refused.store(true, SeqCst),
                        }
                    }
                });
            }
            wait::until("the load is on", || served.load(SeqCst) > 200);
            balancer.drain(Duration::from_secs(30));
        });
        let lost = lost.into_inner();
        balancer.ended();
        // What comes between the last look at the queue and its close is reset by the kernel:
        // at most one for each client at work.
        assert!(lost <= 2, "{lost} of {} were lost", served.into_inner());
    }
}

/// The real binary: SIGHUP again and again under load, then a broken file, then SIGTERM.
#[test]
fn the_binary_reloads_on_hangup_survives_a_broken_file_and_drains_on_terminate() {
    let backends = [Backend::echo(), Backend::echo()];
    let setup =
        Setup::over(&[backends[0].address, backends[1].address]).global("drain_timeout = \"20s\"");
    let mut lbd = Process::start(&setup);
    let mut held = connect(lbd.address);
    assert!(echo(&mut held));
    let before = (descriptors(&lbd.proc()), threads(&lbd.proc()));
    let (served, failed) = under_load(lbd.address, |_| {
        for round in 0..50 {
            let mut next = setup.clone();
            next.backends[1].2 = format!("weight = {}", round % 3);
            lbd.write_config(&next);
            lbd.signal(Signal::HUP);
            thread::sleep(ms(20));
            assert!(echo(&mut held), "reload {round} ended a session");
        }
    });
    assert_eq!(failed, 0, "of {}: {}", served + failed, lbd.errors());
    wait::until("descriptors and threads are as before", || {
        (descriptors(&lbd.proc()), threads(&lbd.proc())) == before
    });
    std::fs::write(lbd.folder().join("lb.toml"), "[[listener]]\nname = 1\n").unwrap();
    lbd.signal(Signal::HUP);
    wait::until("the mistakes are told", || lbd.errors().contains("lb.toml"));
    assert!(lbd.is_alive() && echo(&mut held) && echo(&mut connect(lbd.address)));
    lbd.write_config(&setup);
    lbd.signal(Signal::HUP);
    lbd.signal(Signal::TERM);
    wait::until("new clients are refused", || {
        TcpStream::connect(lbd.address).is_err()
    });
    assert!(echo(&mut held), "the drain waits");
    drop(held);
    assert!(lbd.ended().success(), "{}", lbd.errors());
}

/// The binary says what is wrong and does not start.
#[test]
fn the_binary_ends_with_the_mistakes_or_the_port_that_is_taken() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lb.toml");
    let backend = process::free_port();
    let taken = taken.local_addr().unwrap();
    let occupied = Setup {
        bind: taken.to_string(),
        ..Setup::over(&[backend])
    };
    let broken = Setup::over(&[backend]).pool("policy = \"rnd\"");
    for (setup, word, code) in [
        (occupied, taken.to_string(), 1),
        (broken, "rnd".to_owned(), 78),
    ] {
        std::fs::write(&file, setup.toml("off")).unwrap();
        let ended = std::process::Command::new(env!("CARGO_BIN_EXE_lbd"))
            .arg("--config")
            .arg(&file)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&ended.stderr);
        assert!(told.contains(&word), "{told}");
        assert_eq!(ended.status.code(), Some(code), "{told}");
    }
}
