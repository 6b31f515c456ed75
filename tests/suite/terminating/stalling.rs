//! Clients that do not get to the end of a handshake: silent, slow, too long, or no TLS at all.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::Bench;
use crate::harness::tls;
use crate::harness::wait;

/// Time that a busy machine may take beyond what was asked for.
const SLACK: Duration = Duration::from_secs(4);

/// Reads until the other side ended it, either way; how long that took. Panics when nobody does.
fn await_end(mut socket: &TcpStream, since: Instant) -> Duration {
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let mut rest = [0; 256];
    loop {
        match socket.read(&mut rest) {
            Ok(0) => return since.elapsed(),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("nobody ended it"),
            Err(_) => return since.elapsed(),
        }
    }
}

#[test]
fn a_silent_client_is_reset_when_its_time_is_over() {
    let bench = Bench::over(tls::plain_echo(), "handshake_timeout = \"500ms\"");
    let address = bench.balancer.address();
    let begun = Instant::now();
    let socket = TcpStream::connect(address).unwrap();
    let took = await_end(&socket, begun);
    let asked = Duration::from_millis(500);
    assert!(took >= asked, "{took:?}");
    assert!(took < asked + SLACK, "{took:?}");
    let record = bench.balancer.only_record();
    assert_eq!(record.termination(), "tls_timeout");
}

/// The deadline is one from the accept, not one for each read, also in the middle of a handshake.
#[test]
fn a_client_that_comes_byte_by_byte_has_no_more_time_than_others() {
    let bench = Bench::over(tls::plain_echo(), "handshake_timeout = \"1s\"");
    let config = Arc::new(bench.authority.client());
    let hello = tls::hello_of(&config, "web.test");
    let dribbling = TcpStream::connect(bench.balancer.address()).unwrap();
    let mut answered = TcpStream::connect(bench.balancer.address()).unwrap();
    let (one, other) = (
        dribbling.local_addr().unwrap(),
        answered.local_addr().unwrap(),
    );
    answered.write_all(&hello).unwrap();
    let begun = Instant::now();
    let took = thread::scope(|scope| {
        let mut writer = dribbling.try_clone().unwrap();
        scope.spawn(move || {
            for byte in &hello {
                if begun.elapsed() > 2 * SLACK || writer.write_all(&[*byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(100));
            }
        });
        [&dribbling, &answered].map(|socket| await_end(socket, begun))
    });
    for took in took {
        assert!(took < Duration::from_secs(1) + SLACK, "{took:?}");
    }
    for from in [one, other] {
        assert_eq!(bench.balancer.record_of(from).termination(), "tls_timeout");
    }
}

#[test]
fn silent_clients_do_not_delay_a_good_one() {
    const SILENT: usize = 2000;
    let bench = Bench::over(tls::plain_echo(), "handshake_timeout = \"120s\"");
    let config = Arc::new(bench.authority.client());
    let median = || {
        let mut all: Vec<Duration> = (0..15)
            .map(|_| {
                let begun = Instant::now();
                let mut client = bench.client_with(&config);
                tls::handshake(&mut client).unwrap();
                begun.elapsed()
            })
            .collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let alone = median();
    let address = bench.balancer.address();
    let silent: Vec<_> = (0..SILENT)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    wait::until("all are accepted", || {
        bench.balancer.active() as usize >= SILENT
    });
    // Other work of the machine may be in the way once, but not always.
    let beyond = Duration::from_millis(20);
    let mut seen = Vec::new();
    let fine = (0..5).any(|_| {
        seen.push(median());
        seen.last().is_some_and(|one| *one < alone + beyond)
    });
    assert!(fine, "{alone:?} alone, {seen:?} among {SILENT}");
    drop(silent);
}

#[test]
fn what_is_not_tls_is_reset_at_once() {
    // SSL 2.0: a length of two bytes, then CLIENT-HELLO and its version (RFC 6101, appendix E).
    let ssl2 = [0x80, 0x2e, 0x01, 0x03, 0x01, 0x00, 0x15, 0x00, 0x00, 0x00];
    let bench = Bench::over(tls::plain_echo(), "handshake_timeout = \"60s\"");
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: web.test\r\n\r\n"[..],
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &ssl2,
        &[0; 5],
    ] {
        let mut socket = TcpStream::connect(bench.balancer.address()).unwrap();
        let begun = Instant::now();
        socket.write_all(bytes).unwrap();
        let mut rest = Vec::new();
        socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        let error = socket.read_to_end(&mut rest).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{bytes:?}");
        assert!(rest.is_empty(), "{rest:?}");
        assert!(begun.elapsed() < SLACK);
        let record = bench.balancer.record_of(socket.local_addr().unwrap());
        assert_eq!(record.termination(), "tls_failed");
        assert_eq!(record.text("detail"), "not_tls", "{bytes:?}");
        assert_eq!(record.text("phase"), "tls");
    }
}

#[test]
fn a_hello_of_17_kilobytes_is_a_hello() {
    let bench = Bench::echo();
    let mut config = bench.authority.client();
    config.alpn_protocols = (0..70).map(|at| vec![b'a' + (at % 26); 250]).collect();
    let config = Arc::new(config);
    assert!(tls::hello_of(&config, "web.test").len() > 17 << 10);
    let client = bench.client_with(&config);
    assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
}

#[test]
fn a_hello_that_is_too_long_is_refused_soon() {
    let bench = Bench::over(tls::plain_echo(), "handshake_timeout = \"60s\"");
    // The first length is 64 KiB, the second the longest that can be said (RFC 8446, section 4).
    for length in [[1, 0, 0], [0xff, 0xff, 0xff]] {
        let mut socket = TcpStream::connect(bench.balancer.address()).unwrap();
        let from = socket.local_addr().unwrap();
        let mut record = vec![22, 3, 1, 0x40, 0x00];
        record.extend_from_slice(&[1, length[0], length[1], length[2], 3, 3]);
        record.resize(5 + 0x4000, 0);
        let begun = Instant::now();
        // It is enough that somebody stops us.
        while begun.elapsed() < 2 * SLACK && socket.write_all(&record).is_ok() {
            record.splice(5..11, [0; 6]);
        }
        assert!(begun.elapsed() < SLACK, "an endless hello was read");
        await_end(&socket, begun);
        let record = bench.balancer.record_of(from);
        assert_eq!(record.termination(), "tls_failed");
        assert_eq!(record.text("detail"), "hello_too_large");
    }
}
