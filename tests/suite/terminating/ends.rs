//! How sessions over TLS begin and end: what comes with the handshake, close_notify, and what is no
//! end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use rustls::version::{TLS12, TLS13};

use super::Bench;
use crate::harness::peer::{Backend, End};
use crate::harness::script::{Script, Send, Stream, Take};
use crate::harness::sockets;
use crate::harness::tls;
use crate::harness::wait::PATIENCE;

fn serving(serve: impl Fn(TcpStream) + std::marker::Send + Sync + 'static) -> Backend {
    Backend::serving(sockets::listen_with(sockets::Options::default()), serve)
}

#[test]
fn what_comes_with_the_end_of_the_handshake_is_not_lost() {
    for version in [&TLS13, &TLS12] {
        let bench = Bench::echo();
        let config = std::sync::Arc::new(bench.authority.client_of(&[version]));
        let mut client = bench.client_with(&config);
        // Kept until the handshake is made, and sent behind the Finished.
        client.conn.writer().write_all(b"early").unwrap();
        tls::handshake(&mut client).unwrap();
        assert_eq!(tls::call(client, b" bird").unwrap(), b"early bird");
    }
}

#[test]
fn a_whole_visit_in_one_segment_is_served() {
    let bench = Bench::echo();
    let mut client = bench.client();
    let begun = Instant::now();
    while client.conn.wants_write() {
        client.conn.write_tls(&mut client.sock).unwrap();
    }
    // The server's flight, until there is an answer to it.
    while !client.conn.wants_write() {
        client.conn.read_tls(&mut client.sock).unwrap();
        client.conn.process_new_packets().unwrap();
        assert!(begun.elapsed() < PATIENCE);
    }
    client.conn.writer().write_all(b"all of it").unwrap();
    client.conn.send_close_notify();
    let mut segment = Vec::new();
    while client.conn.wants_write() {
        client.conn.write_tls(&mut segment).unwrap();
    }
    client.sock.write_all(&segment).unwrap();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert_eq!(heard, b"all of it");
    let record = bench.balancer.only_record();
    assert_eq!(record.termination(), "client_closed");
}

#[test]
fn a_backend_that_speaks_first_is_heard_and_the_ticket_comes_along() {
    let backend = serving(|mut socket| {
        socket.write_all(b"220 ready\r\n").unwrap();
        tls::echo(socket);
    });
    let bench = Bench::over(backend.address, "");
    let mut client = bench.client();
    let mut banner = [0; 11];
    client.read_exact(&mut banner).unwrap();
    assert_eq!(&banner, b"220 ready\r\n");
    assert_eq!(client.conn.tls13_tickets_received(), 1);
    assert_eq!(tls::call(client, b"QUIT").unwrap(), b"QUIT");
}

#[test]
fn the_ticket_comes_within_a_second_or_so_when_the_backend_is_silent() {
    let bench = Bench::echo();
    let mut client = bench.client();
    tls::handshake(&mut client).unwrap();
    let begun = Instant::now();
    while client.conn.tls13_tickets_received() == 0 {
        client.conn.read_tls(&mut client.sock).unwrap();
        client.conn.process_new_packets().unwrap();
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
}

/// Large enough that it does not fit into buffers on the way.
const ANSWER: u64 = 1 << 20;

#[test]
fn a_client_that_has_ended_hears_the_whole_answer_and_its_end() {
    for version in [&TLS13, &TLS12] {
        let script = Script::new(
            [Send::AwaitEnd, Send::Bytes(ANSWER), Send::Fin],
            [Take::ToEnd],
        );
        let backend = Backend::new(&script);
        let bench = Bench::over(backend.address, "");
        let config = std::sync::Arc::new(bench.authority.client_of(&[version]));
        let client = bench.client_with(&config);
        let question = Stream::OfClient.bytes_at(0, 1000);
        // An end without a close_notify would be an error.
        let answer = tls::call(client, question).unwrap();
        assert_eq!(answer.len() as u64, ANSWER);
        assert!(Stream::OfBackend.holds(0, &answer));
        let seen = backend.seen_once();
        assert_eq!((seen.taken, seen.end, seen.intact), (1000, End::Fin, true));
        let record = bench.balancer.only_record();
        assert_eq!(record.termination(), "client_closed");
        assert_eq!(record.number("bytes_to_client"), ANSWER);
    }
}

#[test]
fn a_backend_that_has_ended_hears_the_rest_and_its_end() {
    let script = Script::new([Send::Bytes(1000), Send::Fin], [Take::ToEnd]);
    let backend = Backend::new(&script);
    let bench = Bench::over(backend.address, "");
    let mut client = bench.client();
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert!(Stream::OfBackend.holds(0, &heard) && heard.len() == 1000);
    let mut said = 0;
    while said < ANSWER {
        let most = (ANSWER - said) as usize;
        let bytes = Stream::OfClient.bytes_at(said, most);
        client.write_all(bytes).unwrap();
        said += bytes.len() as u64;
    }
    client.conn.send_close_notify();
    client.flush().unwrap();
    let seen = backend.seen_once();
    assert_eq!(
        (seen.taken, seen.end, seen.intact),
        (ANSWER, End::Fin, true)
    );
    drop(client);
    let record = bench.balancer.only_record();
    assert_eq!(record.termination(), "backend_closed");
}

#[test]
fn a_client_that_ends_without_saying_so_is_no_end() {
    let script = Script::new([Send::AwaitEnd], [Take::ToEnd]);
    let backend = Backend::new(&script);
    let bench = Bench::over(backend.address, "");
    let mut client = bench.client();
    client
        .write_all(Stream::OfClient.bytes_at(0, 1000))
        .unwrap();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    let seen = backend.seen_once();
    assert_eq!(seen.end, End::Reset, "half a request must not look whole");
    assert!(seen.intact && seen.taken == 1000, "{seen:?}");
    let record = bench.balancer.only_record();
    assert_eq!(record.termination(), "client_reset");
    assert_eq!(record.text("detail"), "tls_truncated");
}

#[test]
fn a_reset_of_the_backend_is_never_told_as_an_end() {
    let (reset, when) = channel();
    let when = std::sync::Mutex::new(when);
    let backend = serving(move |mut socket| {
        socket.write_all(&[7; 100_000]).unwrap();
        when.lock().unwrap().recv().unwrap();
        sockets::reset(&socket);
    });
    let bench = Bench::over(backend.address, "");
    let mut client = bench.client();
    let mut heard = vec![0; 100_000];
    client.read_exact(&mut heard).unwrap();
    reset.send(()).unwrap();
    let error = client.read(&mut heard).unwrap_err();
    let kinds = [ErrorKind::ConnectionReset, ErrorKind::UnexpectedEof];
    assert!(kinds.contains(&error.kind()), "{error}");
    let record = bench.balancer.only_record();
    assert_eq!(record.termination(), "backend_reset");
}
