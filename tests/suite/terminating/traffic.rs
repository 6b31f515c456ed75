//! Bytes over TLS: whole, in both directions at once, slow readers, and new keys in between.

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Bench;
use crate::harness::peer::{Backend, End};
use crate::harness::script::{Script, Send, Stream, Take};
use crate::harness::sockets;
use crate::harness::tls;
use crate::harness::wait;

/// Sends its stream to the end while it hears the other's; how many bytes that were.
fn exchange(bench: &Bench, config: ClientConfig, bytes: u64) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = bench.balancer.address();
    runtime.block_on(async {
        let socket = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("web.test").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, socket).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let sender = async {
            let mut sent = 0;
            while sent < bytes {
                let most = usize::try_from(bytes - sent).unwrap().min(50_000);
                let part = Stream::OfClient.bytes_at(sent, most);
                writer.write_all(part).await.unwrap();
                sent += part.len() as u64;
            }
            writer.shutdown().await.unwrap();
        };
        let taker = async {
            let (mut taken, mut buffer) = (0, vec![0; 64 << 10]);
            loop {
                // An end without a close_notify is an error.
                match reader.read(&mut buffer).await.unwrap() {
                    0 => return taken,
                    count => {
                        assert!(Stream::OfBackend.holds(taken, &buffer[..count]));
                        taken += count as u64;
                    }
                }
            }
        };
        tokio::join!(sender, taker).1
    })
}

#[test]
fn fifty_megabytes_each_way_arrive_whole() {
    const BYTES: u64 = 50 << 20;
    for version in [&TLS13, &TLS12] {
        let script = Script::new([Send::Bytes(BYTES), Send::Fin], [Take::ToEnd]);
        let backend = Backend::new(&script);
        let bench = Bench::over(backend.address, "");
        let config = bench.authority.client_of(&[version]);
        assert_eq!(exchange(&bench, config, BYTES), BYTES);
        let seen = backend.seen_once();
        assert_eq!((seen.taken, seen.end, seen.intact), (BYTES, End::Fin, true));
        let record = bench.balancer.only_record();
        assert_eq!(record.number("bytes_to_backend"), BYTES);
        assert_eq!(record.number("bytes_to_client"), BYTES);
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_backend_and_loses_nothing() {
    const BYTES: u64 = 64 << 20;
    let sent = Arc::new(AtomicU64::new(0));
    let count = sent.clone();
    let listener = sockets::listen_with(sockets::Options::default());
    let backend = Backend::serving(listener, move |mut socket| {
        while count.load(SeqCst) < BYTES {
            let at = count.load(SeqCst);
            let most = usize::try_from(BYTES - at).unwrap().min(50_000);
            let part = Stream::OfBackend.bytes_at(at, most);
            socket.write_all(part).unwrap();
            count.fetch_add(part.len() as u64, SeqCst);
        }
    });
    let bench = Bench::over(backend.address, "");
    let mut client = bench.client();
    tls::handshake(&mut client).unwrap();
    let mut last = (0, Instant::now());
    let stopped = wait::until_some("the backend is stopped", || {
        let now = sent.load(SeqCst);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(now)
    });
    // Buffers of two sockets and of one turn lie between.
    assert!(stopped < BYTES / 2, "{stopped} bytes were taken");
    let mut heard = Vec::new();
    client.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len() as u64, BYTES);
    assert!(Stream::OfBackend.holds(0, &heard));
}

#[test]
fn new_keys_of_the_client_are_answered_with_new_keys() {
    let bench = Bench::echo();
    let mut client = bench.client();
    let mut heard = vec![0; 20_000];
    for round in 0..5 {
        let said = vec![round; heard.len()];
        client.write_all(&said).unwrap();
        client.read_exact(&mut heard).unwrap();
        assert_eq!(heard, said);
        // The other side has to take new keys as well (RFC 8446, section 4.6.3).
        client.conn.refresh_traffic_keys().unwrap();
    }
    assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
    let record = bench.balancer.only_record();
    assert_eq!(record.termination(), "client_closed");
}
