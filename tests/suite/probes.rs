//! The probes of closing, resetting and slowness that layer-4 proxies are known to fail: one test
//! for each, in the order of the catalogue's table.

use std::time::{Duration, Instant};

use crate::harness::balancer::{Balancer, Setup, check_transfer};
use crate::harness::peer::{self, Backend, End, Seen};
use crate::harness::record::Record;
use crate::harness::script::{Script, Send, Take};
use crate::harness::sockets::{Options, Refusing};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One client, one backend, and the checks that hold for any such pair.
fn play(
    setup: impl FnOnce(Setup) -> Setup,
    options: Options,
    client: &Script,
    backend: &Script,
) -> (Seen, Seen, Record) {
    let backend = Backend::new(backend);
    let balancer = Balancer::start(&setup(Setup::over(&[backend.address])));
    let client = peer::client_with(balancer.address(), options, client);
    let served = backend.seen_once();
    let record = balancer.record_of(client.address);
    check_transfer(&client, &served, &record);
    (client, served, record)
}

fn plain(client: &Script, backend: &Script) -> (Seen, Seen, Record) {
    play(|setup| setup, Options::default(), client, backend)
}

#[test]
fn an_answer_that_follows_the_clients_half_close_arrives_whole() {
    let (client, served, record) = plain(
        &Script::new([Send::Bytes(500), Send::Fin], [Take::ToEnd]),
        &Script::new(
            [
                Send::AwaitEnd,
                Send::Pause(ms(100)),
                Send::Bytes(10 << 20),
                Send::Fin,
            ],
            [Take::ToEnd],
        ),
    );
    assert_eq!((served.taken, served.end), (500, End::Fin));
    assert_eq!((client.taken, client.end), (10 << 20, End::Fin));
    assert_eq!(record.termination(), "client_closed");
}

#[test]
fn an_upload_that_follows_the_backends_half_close_arrives_whole() {
    for bytes in [100_000, 10 << 20] {
        let (client, served, record) = plain(
            &Script::new(
                [
                    Send::AwaitEnd,
                    Send::Pause(ms(100)),
                    Send::Bytes(bytes),
                    Send::Fin,
                ],
                [Take::ToEnd],
            ),
            &Script::new([Send::Bytes(500), Send::Fin], [Take::ToEnd]),
        );
        assert_eq!((served.taken, served.end), (bytes, End::Fin));
        assert_eq!((client.taken, client.end), (500, End::Fin));
        assert_eq!(record.termination(), "backend_closed");
    }
}

#[test]
fn a_reset_from_the_backend_is_never_seen_as_a_clean_end() {
    for bytes in [1, 1000, 100_000, 2_000_000] {
        let (client, _, record) = plain(
            &Script::new([Send::Bytes(10)], [Take::ToEnd]),
            &Script::new(
                [Send::Bytes(bytes), Send::Pause(ms(20)), Send::Reset],
                [Take::ToEnd],
            ),
        );
        assert_eq!(client.end, End::Reset, "after {bytes} bytes");
        assert_eq!(record.termination(), "backend_reset");
    }
}

#[test]
fn a_reset_from_the_client_reaches_the_backend_as_a_reset() {
    for bytes in [1, 1000, 100_000, 2_000_000] {
        let (_, served, record) = plain(
            &Script::new(
                [Send::Bytes(bytes), Send::Pause(ms(20)), Send::Reset],
                [Take::ToEnd],
            ),
            &Script::new([], [Take::ToEnd]),
        );
        assert_eq!(served.end, End::Reset, "after {bytes} bytes");
        assert_eq!(record.termination(), "client_reset");
    }
}

#[test]
fn a_reader_that_starts_late_gets_everything() {
    let (client, _, record) = plain(
        &Script::new([Send::Bytes(10)], [Take::Pause(ms(800)), Take::ToEnd]),
        &Script::new([Send::Bytes(5 << 20), Send::Fin], [Take::Bytes(10)]),
    );
    assert_eq!((client.taken, client.end), (5 << 20, End::Fin));
    assert_eq!(record.termination(), "backend_closed");
}

#[test]
fn an_early_answer_arrives_whole_while_the_upload_is_unread() {
    // The backend answers, waits, and closes with most of the upload unread, which makes its
    // close a reset.
    let (client, _, record) = plain(
        &Script::new([Send::Bytes(3 << 20), Send::Fin], [Take::ToEnd]),
        &Script::new(
            [
                Send::AwaitTaken(1000),
                Send::Bytes(100_000),
                Send::Pause(ms(200)),
            ],
            [Take::Bytes(1000)],
        ),
    );
    assert_eq!(client.taken, 100_000);
    assert_eq!(client.end, End::Reset);
    assert_eq!(record.termination(), "backend_reset");
}

#[test]
fn a_client_whose_backend_refuses_is_told_at_once() {
    let refusing = Refusing::new();
    let balancer = Balancer::over(&[refusing.address]);
    for sends in [0, 100] {
        let begun = Instant::now();
        let client = peer::client(
            balancer.address(),
            &Script::new([Send::Bytes(sends)], [Take::ToEnd]),
        );
        assert!(
            begun.elapsed() < ms(500),
            "told after {:?}",
            begun.elapsed()
        );
        assert_eq!((client.taken, client.end), (0, End::Reset));
        let record = balancer.record_of(client.address);
        assert_eq!(record.termination(), "connect_failed");
        assert_eq!(record.text("phase"), "connect");
        assert_eq!(record.text("detail"), "refused");
        assert_eq!(record.text("backend"), "b0");
    }
}

#[test]
fn no_client_notices_that_one_of_two_backends_refuses() {
    let refusing = Refusing::new();
    let backend = Backend::new(&Script::new([Send::Bytes(7), Send::Fin], [Take::ToEnd]));
    let balancer = Balancer::over(&[refusing.address, backend.address]);
    for sends in [0, 100, 0, 100] {
        let script = Script::new([Send::Bytes(sends), Send::Fin], [Take::ToEnd]);
        let client = peer::client(balancer.address(), &script);
        assert_eq!((client.taken, client.end), (7, End::Fin));
        let record = balancer.record_of(client.address);
        assert_eq!(record.text("backend"), "b1");
        assert_eq!(record.number("bytes_to_backend"), sends);
    }
}

#[test]
fn a_stream_in_one_direction_only_is_not_idle() {
    let trickle = Send::Sliced {
        bytes: 27,
        piece: 1,
        gap: ms(100),
    };
    let (client, _, record) = play(
        |setup| setup.listener("idle_timeout = \"1s\""),
        Options::default(),
        &Script::new([], [Take::ToEnd]),
        &Script::new([trickle, Send::Fin], []),
    );
    assert_eq!((client.taken, client.end), (27, End::Fin));
    assert_eq!(record.termination(), "backend_closed");
}

#[test]
fn a_steady_slow_reader_is_not_idle_however_little_it_takes() {
    // What is left when the backend has sent it all takes the reader twice the limit.
    let paced = Take::Paced {
        bytes: u64::MAX,
        piece: 8192,
        gap: ms(4),
    };
    let small = Options {
        receive_buffer: Some(16 * 1024),
        ..Options::default()
    };
    let (client, _, record) = play(
        |setup| setup.listener("idle_timeout = \"1500ms\""),
        small,
        &Script::new([], [paced]),
        &Script::new([Send::Bytes(5 << 20), Send::Fin], []),
    );
    assert!(
        client.took > ms(2000),
        "the reader was not slow: {:?}",
        client.took
    );
    assert_eq!((client.taken, client.end), (5 << 20, End::Fin));
    assert_eq!(record.termination(), "backend_closed");
}
