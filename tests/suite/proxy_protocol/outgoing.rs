//! Headers that backends are told of a client with, before the client's own bytes.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use lbd::balance::backend::State;
use lbd::wire::proxy::{Decoded, Subject, Version, decode, tlv as kinds};

use super::{
    ADDRESSES, CLIENT, LINE, PROXY, TCP_OVER_IPV4, check_v2, first, setup, tlv, told, v2,
    with_checksum,
};
use crate::harness::balancer::{Balancer, Setup};
use crate::harness::peer::Backend;
use crate::harness::sockets::{self, Options, Refusing, Silent};
use crate::harness::wait;
use crate::routing_kit::{
    Keeper, PASSTHROUGH, ask, connect, hear, hello, record_passed_on, refusal,
};

#[test]
fn a_line_of_version_1_names_client_and_listener_in_either_family() {
    for (bind, protocol, ip) in [
        ("127.0.0.1:0", "TCP4", "127.0.0.1"),
        ("[::1]:0", "TCP6", "::1"),
        // Dual stack: a client that came by IPv4 is one of IPv4.
        ("[::]:0", "TCP4", "127.0.0.1"),
    ] {
        let server = Keeper::new("server");
        let mut setup = setup(&server, "v1");
        setup.bind = bind.to_owned();
        let balancer = Balancer::start(&setup);
        let port = balancer.address().port();
        let to = SocketAddr::new(ip.parse().unwrap(), port);
        let heard = ask(to, b"question");
        assert_eq!(heard.from(), "server");
        let from = heard.client.port();
        let expected = format!("PROXY {protocol} {ip} {ip} {from} {port}\r\nquestion");
        assert_eq!(
            server.received_once().escape_ascii().to_string(),
            expected.as_bytes().escape_ascii().to_string()
        );
    }
}

#[test]
fn a_header_of_version_2_has_the_addresses_the_number_of_the_log_and_a_checksum() {
    let server = Keeper::new("server");
    let mut setup = setup(&server, "v2");
    setup.more = "\n[[listener]]\nname = \"v6\"\nbind = \"[::1]:0\"\npool = \"out\"\n".to_owned();
    let balancer = Balancer::start(&setup);
    for to in [balancer.address(), balancer.address_of("v6")] {
        let heard = ask(to, b"question");
        let bytes = server.received().pop().unwrap();
        let (header, rest) = told(&bytes);
        check_v2(&bytes, rest.len());
        assert_eq!(rest, b"question");
        let expected = Subject::Tcp {
            source: heard.client,
            destination: to,
        };
        assert_eq!((header.version, header.subject), (Version::V2, expected));
        let record = balancer.record_of(heard.client);
        assert_eq!(record.text("id").len(), 16);
        assert_eq!(first(&header, kinds::UNIQUE_ID), Some(record.text("id")));
        let all: Vec<u8> = header.tlvs.iter().map(|(kind, _)| kind).collect();
        assert_eq!(all, [kinds::UNIQUE_ID, kinds::CRC32C]);
        // The header is nothing that the client sent.
        assert_eq!(record.number("bytes_to_backend"), 8);
    }
}

/// F6.
#[test]
fn a_client_of_a_unix_socket_is_unknown_in_both_versions() {
    for version in ["v1", "v2"] {
        let (server, folder) = (Keeper::new("server"), tempfile::tempdir().unwrap());
        let path = folder.path().join("in.sock");
        let mut setup = setup(&server, version);
        let bind = format!("unix:{}", path.display());
        setup.more =
            format!("\n[[listener]]\nname = \"unix\"\nbind = \"{bind}\"\npool = \"out\"\n");
        let balancer = Balancer::start(&setup);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"question").unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "server");
        let bytes = server.received_once();
        let (header, rest) = told(&bytes);
        assert_eq!(
            (header.subject, &rest[..]),
            (Subject::Unknown, &b"question"[..])
        );
        match version {
            "v1" => assert_eq!(bytes, b"PROXY UNKNOWN\r\nquestion"),
            _ => {
                check_v2(&bytes, rest.len());
                let id = balancer.only_record().text("id").to_owned();
                assert_eq!(first(&header, kinds::UNIQUE_ID), Some(&*id));
            }
        }
    }
}

#[test]
fn the_name_asked_for_is_told_with_the_hello_in_one_piece() {
    let seen: Arc<std::sync::Mutex<Vec<Vec<u8>>>> = Arc::default();
    let reads = seen.clone();
    let listener = sockets::listen_with(Options::default());
    let server = Backend::serving(listener, move |mut socket: TcpStream| {
        let mut buffer = vec![0; 64 * 1024];
        let count = socket.read(&mut buffer).unwrap_or(0);
        reads.lock().unwrap().push(buffer[..count].to_vec());
        let _gone_or_not = socket.write_all(b"server");
    });
    let setup = Setup::over(&[server.address])
        .listener(PASSTHROUGH)
        .pool("send_proxy = \"v2\"");
    let balancer = Balancer::start(&setup);
    let hello = hello("Named.Test.", &["h2", "http/1.1"]);
    for _ in 0..20 {
        let mut client = connect(balancer.address());
        client.write_all(&hello).unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).unwrap();
    }
    for first_read in seen.lock().unwrap().iter() {
        let (header, rest) = told(first_read);
        assert_eq!(rest, hello, "the hello came apart from the header");
        check_v2(first_read, rest.len());
        assert_eq!(first(&header, kinds::AUTHORITY), Some("named.test"));
        // Offered to the backend, which has not chosen yet; and no TLS ended here.
        assert_eq!(first(&header, kinds::ALPN), None);
        assert_eq!(header.tlvs.first(kinds::SSL), None);
    }
}

/// A server that says something once it has a header.
fn greeter() -> Backend {
    let listener = sockets::listen_with(Options::default());
    Backend::serving(listener, |mut socket: TcpStream| {
        let mut bytes = Vec::new();
        while !matches!(decode(&bytes), Ok(Decoded::Header(..))) {
            let mut piece = [0; 512];
            match socket.read(&mut piece) {
                Ok(count) if count > 0 => bytes.extend(&piece[..count]),
                _ => return,
            }
        }
        let _gone_or_not = socket.write_all(b"220 ready\r\n");
        let _closed = socket.read(&mut [0]);
    })
}

#[test]
fn a_backend_that_speaks_first_has_its_header_before_the_client_says_a_word() {
    let server = greeter();
    for version in ["v1", "v2"] {
        let pool = format!("send_proxy = \"{version}\"");
        let balancer = Balancer::start(&Setup::over(&[server.address]).pool(&pool));
        let mut client = connect(balancer.address());
        let mut greeting = [0; 11];
        client.read_exact(&mut greeting).unwrap();
        assert_eq!(&greeting, b"220 ready\r\n");
    }
}

#[test]
fn a_client_that_waited_through_a_reload_has_the_header_that_is_wanted_now() {
    let (echo, greeter) = (Backend::echo(), greeter());
    let mut setup = Setup::over(&[echo.address]).pool("queue = { length = 10, timeout = \"60s\" }");
    setup.backends[0].2 = "max_connections = 1\n".to_owned();
    let balancer = Balancer::start(&setup);
    let mut held = connect(balancer.address());
    held.write_all(b"x").unwrap();
    held.read_exact(&mut [0]).unwrap();
    let mut waits = connect(balancer.address());
    wait::until("the client waits", || balancer.queued() == 1);
    let more = ("greeter".to_owned(), greeter.address, String::new());
    setup.backends.push(more);
    balancer.reload(&setup.pool("send_proxy = \"v1\"")).unwrap();
    let mut greeting = [0; 11];
    waits.read_exact(&mut greeting).unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
}

/// F7.
#[test]
fn what_a_header_told_is_passed_on_with_duplicates_in_order_and_a_checksum_of_its_own() {
    let server = Keeper::new("server");
    let setup = setup(&server, "v2")
        .listener("accept_proxy = { from = [\"127.0.0.0/8\"], timeout = \"10m\" }");
    let balancer = Balancer::start(&setup);
    let received = [
        tlv(0xe5, b"one"),
        tlv(kinds::AUTHORITY, b"up.test"),
        tlv(kinds::NOOP, b"padding"),
        tlv(0xe5, b"two"),
        tlv(0xe5, b"one"),
        tlv(kinds::UNIQUE_ID, b"their number"),
        tlv(0xee, b""),
        tlv(kinds::CRC32C, &[0; 4]),
    ];
    let block = [&ADDRESSES[..], &received.concat()].concat();
    let said = [
        &with_checksum(v2(PROXY, TCP_OVER_IPV4, &block))[..],
        b"question",
    ];
    let heard = ask(balancer.address(), &said.concat());
    let bytes = server.received_once();
    let (header, rest) = told(&bytes);
    assert_eq!(rest, b"question");
    check_v2(&bytes, rest.len());
    let expected = Subject::Tcp {
        source: CLIENT.parse().unwrap(),
        destination: "203.0.113.9:443".parse().unwrap(),
    };
    assert_eq!(header.subject, expected);
    // Padding aligned nothing any more, and one number is enough.
    let passed: Vec<(u8, &[u8])> = header.tlvs.iter().collect();
    assert_eq!(
        passed[..passed.len() - 1],
        [
            (0xe5, &b"one"[..]),
            (kinds::AUTHORITY, b"up.test"),
            (0xe5, b"two"),
            (0xe5, b"one"),
            (kinds::UNIQUE_ID, b"their number"),
            (0xee, b""),
        ]
    );
    let record = record_passed_on(&balancer, heard.client);
    assert_eq!(record.text("client"), CLIENT);
}

/// F6.
#[test]
fn what_leaves_no_room_for_a_longer_header_is_left_out_and_the_client_is_told_of() {
    let server = Keeper::new("server");
    let setup = setup(&server, "v2")
        .listener("accept_proxy = { from = [\"127.0.0.0/8\"], timeout = \"10m\" }");
    let balancer = Balancer::start(&setup);
    // With the number and the checksum that are added, all that the length field can tell are
    // 65,535 bytes; a listener reads 65,536 before it knows the client.
    for (bytes, passed_on) in [(60_000, Some(true)), (65_500, Some(false)), (65_520, None)] {
        let block = [&ADDRESSES[..], &tlv(0xe5, &vec![7; bytes])].concat();
        let said = [&v2(PROXY, TCP_OVER_IPV4, &block)[..], b"question"].concat();
        let heard = ask(balancer.address(), &said);
        let Some(passed_on) = passed_on else {
            let record = balancer.record_of(heard.client);
            let expected = ("preface", "proxy_header_invalid", "too_large");
            assert_eq!(refusal(&record), expected);
            continue;
        };
        assert_eq!(heard.from(), "server", "{bytes}");
        let received = server.received().pop().unwrap();
        let (header, rest) = told(&received);
        assert_eq!(rest, b"question");
        check_v2(&received, rest.len());
        let Subject::Tcp { source, .. } = header.subject else {
            panic!("no client")
        };
        assert_eq!(source.to_string(), CLIENT);
        assert_eq!(header.tlvs.first(0xe5).is_some(), passed_on, "{bytes}");
    }
}

#[test]
fn the_next_backend_has_the_header_and_the_clients_bytes_once_when_the_first_does_not_answer() {
    // One is found out at once, the other when its time is over.
    let (refusing, silent) = (Refusing::new(), Silent::new());
    for version in ["v1", "v2"] {
        for (first, listener, said) in [
            (refusing.address, "", b"question".to_vec()),
            (refusing.address, PASSTHROUGH, hello("a.test", &[])),
            (silent.address, "", b"question".to_vec()),
            (silent.address, PASSTHROUGH, hello("a.test", &[])),
        ] {
            let server = Keeper::new("server");
            let setup = Setup::over(&[first, server.address()])
                .listener(listener)
                .pool("connect_timeout = \"2s\"\nretries = 1\npolicy = \"failover\"")
                .pool(&format!("send_proxy = \"{version}\""));
            let balancer = Balancer::start(&setup);
            let heard = ask(balancer.address(), &said);
            assert_eq!(heard.from(), "server");
            let (header, rest) = told(&server.received_once());
            assert_eq!(rest, said, "{version}");
            let expected = Subject::Tcp {
                source: heard.client,
                destination: balancer.address(),
            };
            assert_eq!(header.subject, expected);
            assert_eq!(balancer.record_of(heard.client).number("tries"), 2);
        }
    }
}

#[test]
fn a_long_first_message_follows_its_header_whole() {
    let server = Keeper::new("server");
    let balancer = Balancer::start(&setup(&server, "v2"));
    let said: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
    assert_eq!(ask(balancer.address(), &said).from(), "server");
    let (_, rest) = told(&server.received_once());
    assert!(rest == said, "{} bytes of {}", rest.len(), said.len());
}

/// Answers who begins with a header, and says whose connection it told of.
fn picky() -> Backend {
    let listener = sockets::listen_with(Options::default());
    Backend::serving(listener, |mut socket: TcpStream| {
        let mut bytes = Vec::new();
        loop {
            let mut piece = [0; 4096];
            match decode(&bytes) {
                Ok(Decoded::Header(header, length)) if bytes.len() > length => {
                    let of = match header.subject {
                        Subject::Local => "local",
                        Subject::Tcp { .. } => "client",
                        Subject::Unknown => "unknown",
                    };
                    let answer = format!("HTTP/1.0 200 OK\r\n\r\nfor {of}\n");
                    let _gone_or_not = socket.write_all(answer.as_bytes());
                    return;
                }
                Err(_) => return,
                Ok(_) => match socket.read(&mut piece) {
                    Ok(count) if count > 0 => bytes.extend(&piece[..count]),
                    _ => return,
                },
            }
        }
    })
}

/// Version 1 has no word for a connection of one's own, so that it is told of as a client's.
#[test]
fn probes_of_a_pool_with_headers_begin_with_one_of_their_own() {
    let server = picky();
    for (version, local) in [("v1", "client"), ("v2", "local")] {
        let setup = Setup::over(&[server.address]).pool(&format!(
            "send_proxy = \"{version}\"\n[pool.health]\nprobe = \"http\"\ninterval = \"100ms\"\n\
             expect_body = \"for {local}\""
        ));
        let balancer = Balancer::start(&setup);
        wait::until("a probe has passed", || {
            let state = balancer.state();
            let backend = state
                .pool("out")
                .and_then(|pool| pool.backend("b0"))
                .unwrap();
            let passed = backend.last_probe.as_ref().is_some_and(|last| last.passed);
            passed && backend.state == State::Up
        });
        let mut client = connect(balancer.address());
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let answer = hear(client).answer;
        assert!(
            answer.ends_with(b"for client\n"),
            "{}",
            answer.escape_ascii()
        );
    }
}

#[test]
fn a_header_received_in_version_1_is_told_in_version_2() {
    let server = Keeper::new("server");
    let setup = setup(&server, "v2")
        .listener("accept_proxy = { from = [\"127.0.0.0/8\"], timeout = \"10m\" }");
    let balancer = Balancer::start(&setup);
    let heard = ask(balancer.address(), &[LINE, b"question"].concat());
    assert_eq!(heard.from(), "server");
    let (header, rest) = told(&server.received_once());
    let expected = Subject::Tcp {
        source: CLIENT.parse().unwrap(),
        destination: "203.0.113.9:443".parse().unwrap(),
    };
    assert_eq!((header.subject, &rest[..]), (expected, &b"question"[..]));
}
