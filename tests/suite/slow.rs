//! Group B of the fault catalogue: slow, stalled and idle peers.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::balancer::{Balancer, Setup, check_transfer};
use crate::harness::child;
use crate::harness::machine;
use crate::harness::peer::{self, Backend, End};
use crate::harness::script::{Script, Send, Stream, Take};
use crate::harness::sockets::{self, Options};
use crate::harness::wait;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const TINY: Options = Options {
    receive_buffer: Some(4096),
    send_buffer: None,
    source: None,
    connect_timeout: None,
};

/// B1: 100 kB a second through a window of 4 KiB, far longer than the idle limit.
#[test]
fn a_reader_slower_than_the_idle_limit_allows_for_in_all_gets_everything() {
    let backend = Backend::new(&Script::new(
        [Send::Bytes(700_000), Send::Fin],
        [Take::Bytes(1)],
    ));
    let setup = Setup::over(&[backend.address]).listener("idle_timeout = \"2s\"");
    let balancer = Balancer::start(&setup);
    let paced = Take::Paced {
        bytes: u64::MAX,
        piece: 2000,
        gap: ms(20),
    };
    let script = Script::new([Send::Bytes(1)], [paced]);
    let client = peer::client_with(balancer.address(), TINY, &script);
    let record = balancer.record_of(client.address);
    assert!(
        client.took > ms(5000),
        "the reader was not slow: {:?}",
        client.took
    );
    assert_eq!(
        (client.taken, client.intact, client.end),
        (700_000, true, End::Fin),
        "{record:?}"
    );
    assert_eq!(record.termination(), "backend_closed");
}

/// B2.
#[test]
fn a_reader_that_stops_for_good_is_cut_at_the_idle_limit() {
    let backend = Backend::new(&Script::new([Send::Bytes(64 << 20)], [Take::ToEnd]));
    let setup = Setup::over(&[backend.address]).listener("idle_timeout = \"2s\"");
    let balancer = Balancer::start(&setup);
    let script = Script::new([Send::Bytes(1)], [Take::Nothing]);
    let client = peer::client_with(balancer.address(), TINY, &script);
    let record = balancer.record_of(client.address);
    assert_eq!(record.termination(), "idle_timeout", "{record:?}");
    assert_eq!(record.text("detail"), "client_not_reading");
    let served = backend.seen_once();
    assert_eq!((client.end, served.end), (End::Reset, End::Reset));
    assert!(
        client.took > ms(1900) && client.took < ms(3000),
        "cut after {:?}",
        client.took
    );
    check_transfer(&client, &served, &record);
}

/// B3.
#[test]
fn a_byte_now_and_then_either_way_keeps_a_session_alive() {
    let trickle = Send::Sliced {
        bytes: 4,
        piece: 1,
        gap: ms(900),
    };
    for (client, backend) in [(vec![trickle], vec![]), (vec![], vec![trickle])] {
        let ends = [vec![Send::Fin]].concat();
        let backend = Backend::new(&Script::new(
            [backend, ends.clone()].concat(),
            [Take::ToEnd],
        ));
        let setup = Setup::over(&[backend.address])
            .listener("idle_timeout = \"1s\"\nhalf_close_timeout = \"1s\"");
        let balancer = Balancer::start(&setup);
        let script = Script::new([client, ends].concat(), [Take::ToEnd]);
        let client = peer::client(balancer.address(), &script);
        assert_eq!(client.end, End::Fin);
        let record = balancer.record_of(client.address);
        assert!(record.termination().ends_with("_closed"), "{record:?}");
    }
}

/// B4: whichever way the session began, and whenever it fell silent.
#[test]
fn silence_ends_a_session_at_the_idle_limit_and_both_are_told() {
    let silent = Script::new([], [Take::ToEnd]);
    let hello = Script::new([Send::Bytes(5)], [Take::ToEnd]);
    let later = Script::new([Send::Pause(ms(700)), Send::Bytes(5)], [Take::ToEnd]);
    thread::scope(|scope| {
        for (script, spoke_after) in [(silent, ms(0)), (hello, ms(0)), (later, ms(700))] {
            scope.spawn(move || {
                // A long connect limit must not delay the look at the idle one.
                let backend = Backend::new(&Script::new([], [Take::ToEnd]));
                let setup = Setup::over(&[backend.address])
                    .listener("idle_timeout = \"2s\"")
                    .pool("connect_timeout = \"20s\"");
                let balancer = Balancer::start(&setup);
                let client = peer::client(balancer.address(), &script);
                let served = backend.seen_once();
                let record = balancer.record_of(client.address);
                assert_eq!(record.termination(), "idle_timeout", "{record:?}");
                assert_eq!((client.end, served.end), (End::Reset, End::Reset));
                let silence = client.ended_after - spoke_after;
                assert!(
                    silence >= ms(1950) && silence <= ms(2250),
                    "cut after {silence:?}"
                );
            });
        }
    });
}

/// B5: the client is gone and its bytes stay unacknowledged.
#[test]
fn a_peer_that_vanishes_with_bytes_under_way_is_given_up_in_time() {
    child::in_own_network(
        "slow::a_peer_that_vanishes_with_bytes_under_way_is_given_up_in_time",
        || {
            let trickle = Send::Sliced {
                bytes: 1000,
                piece: 1,
                gap: ms(100),
            };
            let backend = Backend::new(&Script::new([trickle], [Take::ToEnd]));
            let setup = Setup::over(&[backend.address]).listener("idle_timeout = \"3s\"");
            let balancer = Balancer::start(&setup);
            let source: SocketAddr = "127.0.0.2:7777".parse().unwrap();
            let options = Options {
                source: Some(source),
                ..Options::default()
            };
            let client = sockets::connect_with(balancer.address(), options).unwrap();
            wait::until("bytes flow", || {
                let mut byte = [0; 1];
                client.peek(&mut byte).is_ok()
            });
            unplug(source);
            let begun = Instant::now();
            let record = balancer.only_record();
            // The backend goes on talking, so only the missing acknowledgements can end this.
            assert!(
                begun.elapsed() < ms(6000),
                "given up after {:?}",
                begun.elapsed()
            );
            assert!(
                ["client_reset", "idle_timeout"].contains(&record.termination()),
                "{record:?}"
            );
            assert_eq!(backend.seen_once().end, End::Reset);
        },
    );
}

/// D16: the client is heard and the backend is not, from the middle of a session on.
#[test]
fn a_backend_whose_answers_are_lost_is_given_up_in_time_and_named() {
    child::in_own_network(
        "slow::a_backend_whose_answers_are_lost_is_given_up_in_time_and_named",
        || {
            let backend = Backend::echo();
            let setup = Setup::over(&[backend.address]).listener("idle_timeout = \"3s\"");
            let balancer = Balancer::start(&setup);
            let mut client = std::net::TcpStream::connect(balancer.address()).unwrap();
            client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            let port = backend.address.port();
            child::nft(&format!(
                "table ip fault {{\n chain out {{\n type filter hook output priority 0\n \
                 tcp sport {port} drop\n }}\n}}"
            ));
            let begun = Instant::now();
            // Never idle: only what the backend does not acknowledge can end this.
            client.set_read_timeout(Some(ms(100))).unwrap();
            let mut told = false;
            while !told && begun.elapsed() < ms(20_000) {
                let _ = client.write_all(b"x");
                told = !matches!(client.read(&mut [0]), Err(error) if is_timeout(&error));
            }
            let took = begun.elapsed();
            let record = balancer.only_record();
            assert!(took < ms(8000), "after {took:?}: {record:?}");
            assert_eq!(record.termination(), "backend_reset", "{record:?}");
            // The backend's end connects to it.
            child::nft("delete table ip fault");
        },
    );
}

fn is_timeout(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}

/// B6: with keepalive at its default of about two minutes this is only that it is set, on both
/// sides, on a session that has settled.
#[test]
fn both_sockets_of_a_settled_session_are_probed_by_the_kernel() {
    let name = "slow::both_sockets_of_a_settled_session_are_probed_by_the_kernel";
    let Some(ss) = machine::program("ss") else {
        return machine::skipped(name, "ss(8) is not installed");
    };
    let backend = Backend::new(&Script::new([], [Take::ToEnd]));
    let balancer = Balancer::over(&[backend.address]);
    let client = sockets::connect_with(balancer.address(), Options::default()).unwrap();
    let near = balancer.address().port();
    let far = backend.address.port();
    wait::until("keepalive is on for both", || {
        let list = |filter: &str| {
            let args = ["-Htno", "state", "established", filter];
            let out = std::process::Command::new(&ss).args(args).output().unwrap();
            String::from_utf8_lossy(&out.stdout).contains("timer:(keepalive")
        };
        list(&format!("( sport = :{near} )")) && list(&format!("( dport = :{far} )"))
    });
    drop(client);
}

fn unplug(source: SocketAddr) {
    child::nft(&format!(
        "table ip fault {{\n chain out {{\n type filter hook output priority 0\n \
         ip saddr {ip} drop\n ip daddr {ip} drop\n }}\n}}",
        ip = source.ip()
    ));
}

/// B8: a backend that accepts and never reads holds the sender back.
#[test]
fn a_backend_that_never_reads_makes_nobody_hold_more_than_the_buffers() {
    child::alone(
        "slow::a_backend_that_never_reads_makes_nobody_hold_more_than_the_buffers",
        || {
            let options = Options {
                receive_buffer: Some(16 * 1024),
                ..Options::default()
            };
            let backend = Backend::with(options, &Script::new([], [Take::Nothing]));
            let setup = Setup::over(&[backend.address]).listener("idle_timeout = \"2s\"");
            let balancer = Balancer::start(&setup);
            let address = balancer.address();
            // Warm up: the pattern and the first buffers are made.
            std::hint::black_box(Stream::OfClient.bytes_at(0, 1));
            let before = machine::resident_bytes("self");
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    peer::client_apart(address, &Script::new([Send::Bytes(1 << 30)], [Take::ToEnd]))
                })
                .collect();
            wait::until("all are connected", || balancer.active() == 8);
            let mut most = 0;
            wait::until("all are cut", || {
                most = most.max(machine::resident_bytes("self"));
                balancer.active() == 0
            });
            let grown = most.saturating_sub(before);
            assert!(grown < 16 << 20, "{grown} bytes for 8 connections");
            for client in clients {
                let client = client.join().unwrap();
                assert_eq!(client.end, End::Reset);
                // What fits the kernel's buffers on the way, not what was offered.
                assert!(client.sent < 64 << 20, "{} bytes were taken", client.sent);
                let record = balancer.record_of(client.address);
                assert_eq!(record.termination(), "idle_timeout", "{record:?}");
                assert_eq!(record.text("detail"), "backend_not_reading", "{record:?}");
            }
        },
    );
}

/// B9.
#[test]
fn a_session_ends_by_reset_when_its_life_is_over() {
    let trickle = Send::Sliced {
        bytes: 1000,
        piece: 1,
        gap: ms(20),
    };
    let backend = Backend::new(&Script::new([trickle], [Take::ToEnd]));
    let setup = Setup::over(&[backend.address])
        .listener("max_lifetime = \"1500ms\"")
        .pool("connect_timeout = \"20s\"");
    let balancer = Balancer::start(&setup);
    for script in [
        Script::new([], [Take::ToEnd]),
        Script::new([Send::Bytes(3)], [Take::ToEnd]),
    ] {
        let client = peer::client(balancer.address(), &script);
        let record = balancer.record_of(client.address);
        assert_eq!(record.termination(), "max_lifetime", "{record:?}");
        assert_eq!(client.end, End::Reset);
        assert!(
            client.took > ms(1450) && client.took < ms(1800),
            "after {:?}",
            client.took
        );
    }
}

/// B10.
#[test]
fn a_message_cut_into_single_bytes_with_gaps_arrives_whole_both_ways() {
    let sliced = Send::Sliced {
        bytes: 1500,
        piece: 1,
        gap: ms(1),
    };
    let script = Script::new([sliced, Send::Fin], [Take::ToEnd]);
    let backend = Backend::new(&script);
    let balancer = Balancer::over(&[backend.address]);
    let client = peer::client(balancer.address(), &script);
    let served = backend.seen_once();
    let record = balancer.record_of(client.address);
    check_transfer(&client, &served, &record);
    assert_eq!((client.taken, served.taken), (1500, 1500));
    assert_eq!(record.text("path"), "copy");
}
