//! Group A of the fault catalogue beyond the probes: closes and resets at awkward moments.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::{Duration, Instant};

use crate::harness::balancer::{Balancer, Setup, check_transfer};
use crate::harness::fault::{self, Harm, Toxics};
use crate::harness::peer::{self, Backend, End};
use crate::harness::record::Record;
use crate::harness::script::{Dice, Script, Send, Take};
use crate::harness::sockets::{self, Options};
use crate::harness::wait;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A4.
#[test]
fn a_client_that_resets_while_nobody_reads_takes_its_backend_along_within_a_tenth_of_a_second() {
    // The client reads nothing, so the balancer is blocked on writing when the reset comes.
    let backend = Backend::new(&Script::new([Send::Bytes(64 << 20)], [Take::ToEnd]));
    let balancer = Balancer::over(&[backend.address]);
    let client = sockets::connect_with(balancer.address(), Options::default()).unwrap();
    let mut before = 0;
    wait::until("the transfer is stuck", || {
        thread::sleep(ms(50));
        let now = balancer.state().pools[0].backends[0].bytes_to_client;
        let stuck = balancer.active() == 1 && now == before && backend.accepted() == 1;
        before = now;
        stuck
    });
    sockets::reset(&client);
    let begun = Instant::now();
    let served = backend.seen_once();
    assert!(
        begun.elapsed() < ms(100),
        "the backend was told after {:?}",
        begun.elapsed()
    );
    assert_eq!(served.end, End::Reset);
    assert_eq!(balancer.only_record().termination(), "client_reset");
}

/// A9 from the other side: the reset may be there before the balancer looks at the connect, and
/// what the backend said first was said on a connection that stood.
#[test]
fn what_a_backend_says_right_before_its_reset_arrives_whenever_the_reset_comes() {
    let backend = Backend::serving(sockets::listen_with(Options::default()), |mut socket| {
        socket.write_all(b"hello").unwrap();
        sockets::reset(&socket);
    });
    let balancer = Balancer::over(&[backend.address]);
    for _ in 0..200 {
        let mut client = TcpStream::connect(balancer.address()).unwrap();
        client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        let mut greeting = [0; 5];
        client.read_exact(&mut greeting).expect("the greeting");
        assert_eq!(&greeting, b"hello");
        let own = client.local_addr().unwrap();
        assert!(client.read(&mut greeting).is_err(), "then the reset");
        assert_eq!(balancer.record_of(own).termination(), "backend_reset");
    }
}

/// A5: the backend closes with the upload unread and the client is told everything it said.
#[test]
fn a_full_answer_arrives_though_the_backend_closes_on_an_unread_upload() {
    for answer in [1, 30_000, 1_000_000] {
        let backend = Backend::new(&Script::new([Send::Bytes(answer)], [Take::Bytes(10)]));
        let balancer = Balancer::over(&[backend.address]);
        let script = Script::new([Send::Bytes(200_000)], [Take::ToEnd]);
        let client = peer::client(balancer.address(), &script);
        let served = backend.seen_once();
        check_transfer(&client, &served, &balancer.record_of(client.address));
        assert_ne!(
            client.end,
            End::Fin,
            "a cut upload looked complete after {answer}"
        );
        if answer <= 30_000 {
            assert_eq!(client.taken, answer, "{client:?}");
        }
    }
}

/// A6, and the half closes that come late in a session's life.
#[test]
fn a_half_closed_pair_that_falls_silent_is_cut_at_its_own_limit() {
    for closes_after in [ms(0), ms(1500)] {
        let backend = Backend::new(&Script::new([Send::AwaitReset], [Take::ToEnd]));
        let setup = Setup::over(&[backend.address]).listener("half_close_timeout = \"1s\"");
        let balancer = Balancer::start(&setup);
        let script = Script::new([Send::Pause(closes_after), Send::Fin], [Take::ToEnd]);
        let client = peer::client(balancer.address(), &script);
        let record = balancer.record_of(client.address);
        assert_eq!(record.termination(), "half_close_timeout", "{record:?}");
        assert_eq!(client.end, End::Reset);
        let silent = client.ended_after - closes_after;
        assert!(
            silent > ms(900) && silent < ms(1400),
            "cut after {silent:?}"
        );
        assert_eq!(backend.seen_once().end, End::Fin);
    }
}

/// The limit counts from the half close, not from the byte before it.
#[test]
fn an_answer_within_the_half_closed_limit_arrives_after_a_long_silence() {
    let answer = [
        Send::AwaitEnd,
        Send::Pause(ms(1400)),
        Send::Bytes(5),
        Send::Fin,
    ];
    let backend = Backend::new(&Script::new(answer, [Take::ToEnd]));
    let setup = Setup::over(&[backend.address]).listener("half_close_timeout = \"2s\"");
    let balancer = Balancer::start(&setup);
    let script = Script::new(
        [Send::Bytes(1), Send::Pause(ms(2500)), Send::Fin],
        [Take::ToEnd],
    );
    let client = peer::client(balancer.address(), &script);
    let record = balancer.record_of(client.address);
    assert_eq!((client.taken, client.end), (5, End::Fin), "{record:?}");
}

/// A8.
#[test]
fn both_sides_closing_at_once_leaves_nothing_behind() {
    const PAIRS: u64 = 3000;
    let backend = Backend::serving(sockets::listen_with(Options::default()), |mut socket| {
        let _ = socket.write_all(b"y");
    });
    let balancer = Balancer::over(&[backend.address]);
    let address = balancer.address();
    let done = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while done.fetch_add(1, SeqCst) < PAIRS {
                    let mut client = TcpStream::connect(address).unwrap();
                    let _ = client.write_all(b"x");
                }
            });
        }
    });
    wait::until("all are served", || balancer.active() == 0);
    // The invariants are checked as the balancer goes.
}

/// A9, from the client's side: no backend is held to have failed.
#[test]
fn a_client_that_leaves_between_accept_and_first_byte_blames_no_backend() {
    let backend = Backend::new(&Script::new([Send::AwaitEnd], [Take::ToEnd]));
    let setup = Setup::over(&[backend.address]).pool("ejection = { connect_failures = 1 }");
    let balancer = Balancer::start(&setup);
    for _ in 0..200 {
        let client = TcpStream::connect(balancer.address()).unwrap();
        sockets::reset(&client);
    }
    wait::until("all are over", || {
        balancer.active() == 0 && balancer.records().len() >= 200
    });
    let state = balancer.state();
    assert_eq!(state.pools[0].backends[0].failures, 0, "{state:?}");
    let script = Script::new([Send::Fin], [Take::ToEnd]);
    assert_eq!(peer::client(balancer.address(), &script).end, End::Fin);
}

/// A10.
#[test]
fn a_slow_client_gets_what_was_sent_before_the_backends_reset_and_then_a_reset() {
    const SENT: u64 = 1 << 20;
    // The pause lets the megabyte reach the balancer, which must not lose it to the reset.
    let backend = Backend::new(&Script::new(
        [Send::Bytes(SENT), Send::Pause(ms(300)), Send::Reset],
        [Take::ToEnd],
    ));
    let balancer = Balancer::over(&[backend.address]);
    let paced = Take::Paced {
        bytes: u64::MAX,
        piece: 16 * 1024,
        gap: ms(12),
    };
    let options = Options {
        receive_buffer: Some(16 * 1024),
        ..Options::default()
    };
    let client = peer::client_with(balancer.address(), options, &Script::new([], [paced]));
    let record = balancer.record_of(client.address);
    check_transfer(&client, &backend.seen_once(), &record);
    assert!(
        client.took > ms(400),
        "the reader was not slow: {:?}",
        client.took
    );
    assert_eq!(client.end, End::Reset);
    assert_eq!(client.taken, SENT, "{record:?}");
    assert_eq!(record.termination(), "backend_reset");
}

/// A10 for a reader that never reads: the bound on last bytes holds.
#[test]
fn a_client_that_reads_nothing_after_a_reset_is_let_go_soon() {
    let backend = Backend::new(&Script::new(
        [Send::Bytes(1 << 20), Send::Reset],
        [Take::ToEnd],
    ));
    let balancer = Balancer::over(&[backend.address]);
    let options = Options {
        receive_buffer: Some(4096),
        ..Options::default()
    };
    let client = peer::client_with(
        balancer.address(),
        options,
        &Script::new([], [Take::Nothing]),
    );
    assert!(
        client.took < Duration::from_secs(4),
        "let go after {:?}",
        client.took
    );
    assert_eq!(
        balancer.record_of(client.address).termination(),
        "backend_reset"
    );
}

/// Random cuts on either side and either direction: whoever sees an orderly end has it all.
#[test]
fn no_random_cut_ever_looks_complete() {
    const BYTES: u64 = 300_000;
    let rounds: u64 = if cfg!(debug_assertions) { 600 } else { 5000 };
    let seed = 20_240_229;
    let backend = Backend::new(&Script::new([Send::Bytes(BYTES), Send::Fin], [Take::ToEnd]));
    let far = fault::relay(backend.address, move |number| thrown(seed, number, BYTES));
    let balancer = Balancer::over(&[far.address]);
    let near = fault::relay(balancer.address(), move |number| {
        thrown(!seed, number, BYTES)
    });
    let script = Script::new([Send::Bytes(BYTES), Send::Fin], [Take::ToEnd]);
    let next = AtomicU64::new(0);
    let whole = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while next.fetch_add(1, SeqCst) < rounds {
                    let client = peer::client(near.address, &script);
                    assert!(client.intact, "{client:?}");
                    assert_ne!(client.end, End::Stuck, "{client:?}");
                    if client.end == End::Fin {
                        assert_eq!(client.taken, BYTES, "a cut looked complete: {client:?}");
                        whole.fetch_add(1, SeqCst);
                    }
                }
            });
        }
    });
    for served in backend.seen(0) {
        assert!(served.intact, "{served:?}");
        assert!(
            served.end != End::Fin || served.taken == BYTES,
            "looked complete: {served:?}"
        );
    }
    let whole = whole.into_inner();
    assert!(
        whole > rounds / 10 && whole < rounds,
        "{whole} of {rounds} were whole"
    );
    wait::until("all are over", || balancer.active() == 0);
    let records = balancer.records();
    assert!(records.iter().all(Record::is_explained));
}

fn thrown(seed: u64, number: u64, bytes: u64) -> [Toxics; 2] {
    let mut dice = Dice::new(seed ^ number.wrapping_mul(0x9e37_79b9));
    [
        Toxics::thrown(&mut dice, bytes),
        Toxics::thrown(&mut dice, bytes),
    ]
}

/// An early FIN through a harmful relay is an orderly end, with the record to say whose it was.
#[test]
fn an_early_fin_is_passed_on_behind_what_came_before_it() {
    let backend = Backend::new(&Script::new(
        [Send::Bytes(100_000), Send::Fin],
        [Take::ToEnd],
    ));
    let early = Toxics {
        after: Some((40_000, Harm::EarlyFin)),
        ..Toxics::default()
    };
    let far = fault::relay(backend.address, move |_| [Toxics::default(), early]);
    let balancer = Balancer::over(&[far.address]);
    let script = Script::new([Send::AwaitEnd, Send::Bytes(9), Send::Fin], [Take::ToEnd]);
    let client = peer::client(balancer.address(), &script);
    assert_eq!(
        (client.taken, client.intact, client.end),
        (40_000, true, End::Fin)
    );
    let record = balancer.record_of(client.address);
    assert_eq!(record.termination(), "backend_closed");
    assert_eq!(
        (
            record.number("bytes_to_client"),
            record.number("bytes_to_backend")
        ),
        (40_000, 9)
    );
}

/// The fault relay itself: what it corrupts is noticed, so the checks above can fail.
#[test]
fn corrupted_bytes_are_noticed_by_the_peers() {
    let backend = Backend::new(&Script::new(
        [Send::Bytes(100_000), Send::Fin],
        [Take::ToEnd],
    ));
    let harm = Toxics {
        corrupt_one_in: 5000,
        ..Toxics::default()
    };
    let far = fault::relay(backend.address, move |_| [Toxics::default(), harm]);
    let balancer = Balancer::over(&[far.address]);
    let client = peer::client(balancer.address(), &Script::new([Send::Fin], [Take::ToEnd]));
    assert!(!client.intact && client.taken == 100_000, "{client:?}");
}
