//! TLS that is passed through, and where clients go by what they say first: names, protocols and
//! addresses; E1 to E7 of the fault catalogue as far as nothing is decrypted.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned, SupportedProtocolVersion};

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::machine::{self, program};
use crate::harness::peer::End;
use crate::harness::process::{Helper, free_port};
use crate::harness::sockets::{self, Refusing, Silent};
use crate::harness::tls::{self, Authority};
use crate::routing_kit::{
    Keeper, PASSTHROUGH, ask, ask_from, ask_split, await_read, connect, dribble, hear, hello,
    hello_of, host, in_records, message, pool, refusal, say,
};

/// A fatal alert decode_error.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

/// A listener `in` that passes TLS through, with these routes; `other` is its default pool.
/// Each of `servers` is a pool of that name.
fn setup(other: &Keeper, routes: &str, servers: &[(&str, &Keeper)]) -> Setup {
    let mut setup = Setup::over(&[other.address()])
        .listener(PASSTHROUGH)
        .listener(routes);
    for (name, server) in servers {
        setup.more += &pool(name, "", &[server.address()]);
    }
    setup
}

/// The same on a listener `strict`, which has no default pool.
fn strict(mut setup: Setup, lines: &str, routes: &str) -> Setup {
    setup.more +=
        &format!("\n[[listener]]\nname = \"strict\"\nbind = \"127.0.0.1:0\"\n{lines}\n{routes}\n");
    setup
}

fn route(what: &str, pool: &str) -> String {
    format!("[[listener.route]]\n{what}\npool = \"{pool}\"\n")
}

/// One that asks for `named.test` and offers no protocol.
fn named_hello() -> Vec<u8> {
    hello("named.test", &[])
}

#[test]
fn the_name_asked_for_leads_to_its_pool() {
    let (other, exact, wild) = (
        Keeper::new("other"),
        Keeper::new("exact"),
        Keeper::new("wild"),
    );
    let routes = [
        route("sni = [\"api.example.com\", \"Second.Example\"]", "exact"),
        route("sni = [\"*.example.org\"]", "wild"),
    ];
    let servers = [("exact", &exact), ("wild", &wild)];
    let balancer = Balancer::start(&setup(&other, &routes.concat(), &servers));
    for (name, expected) in [
        ("api.example.com", "exact"),
        ("API.Example.COM", "exact"),
        ("api.example.com.", "exact"),
        ("second.example", "exact"),
        ("x.api.example.com", "other"),
        ("example.com", "other"),
        ("a.example.org", "wild"),
        ("a.b.c.Example.org", "wild"),
        ("a.example.org.", "wild"),
        // Not below itself, and not the end of a label.
        ("example.org", "other"),
        ("anexample.org", "other"),
        ("a.example.org.test", "other"),
    ] {
        let heard = ask(balancer.address(), &hello(name, &[]));
        assert_eq!(heard.from(), expected, "{name}");
        let record = balancer.record_of(heard.client);
        let bare = name.strip_suffix('.').unwrap_or(name).to_lowercase();
        assert_eq!(record.text("sni"), bare);
        assert_eq!(record.text("tls"), "", "nothing was terminated");
        let pool = if expected == "other" { "out" } else { expected };
        assert_eq!(record.text("pool"), pool);
    }
}

#[test]
fn a_protocol_that_the_client_offers_leads_to_its_pool_wherever_it_stands_in_the_list() {
    let (other, web, mail) = (
        Keeper::new("other"),
        Keeper::new("web"),
        Keeper::new("mail"),
    );
    let routes = [
        route("alpn = [\"h2\", \"http/1.1\"]", "web"),
        route("alpn = [\"imap\"]", "mail"),
    ];
    let servers = [("web", &web), ("mail", &mail)];
    let balancer = Balancer::start(&setup(&other, &routes.concat(), &servers));
    for (offered, expected) in [
        (&["h2", "http/1.1"][..], "web"),
        (&["x", "http/1.1"], "web"),
        (&["imap"], "mail"),
        (&["imap", "h2"], "web"),
        (&["H2"], "other"),
        (&["h"], "other"),
        (&[], "other"),
    ] {
        let heard = ask(balancer.address(), &hello("a.test", offered));
        assert_eq!(heard.from(), expected, "{offered:?}");
    }
}

#[test]
fn the_first_route_that_fits_is_taken_and_each_of_its_lists_must_fit() {
    let servers = ["all", "first", "second"].map(|name| (name, Keeper::new(name)));
    let routes = [
        route(
            "sni = [\"a.test\"]\nalpn = [\"h2\"]\nsource = [\"127.0.0.2/32\"]",
            "all",
        ),
        route("sni = [\"*.test\"]", "first"),
        route("sni = [\"a.test\"]", "second"),
        route("source = [\"127.0.0.3\"]", "second"),
    ];
    let other = Keeper::new("other");
    let pools = servers.each_ref().map(|(name, keeper)| (*name, keeper));
    let balancer = Balancer::start(&setup(&other, &routes.concat(), &pools));
    for (source, name, offered, expected) in [
        ("127.0.0.2", "a.test", &["h2"][..], "all"),
        ("127.0.0.1", "a.test", &["h2"], "first"),
        ("127.0.0.2", "a.test", &["h3"], "first"),
        ("127.0.0.2", "b.test", &["h2"], "first"),
        ("127.0.0.2", "a.example", &["h2"], "other"),
        ("127.0.0.3", "a.example", &[], "second"),
    ] {
        let heard = ask_from(source, balancer.address(), &hello(name, offered));
        assert_eq!(heard.from(), expected, "{source} {name} {offered:?}");
    }
}

#[test]
fn the_clients_network_leads_to_its_pool_where_nothing_is_said_of_tls() {
    let (other, near) = (Keeper::new("other"), Keeper::new("near"));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("in.sock");
    let mut setup = Setup::over(&[other.address()])
        .listener(&route("source = [\"127.0.0.8/29\", \"::1\"]", "near"));
    setup.more += &pool("near", "", &[near.address()]);
    setup.more += &format!(
        "\n[[listener]]\nname = \"unix\"\nbind = \"unix:{}\"\npool = \"out\"\n{}",
        path.display(),
        route("source = [\"0.0.0.0/0\", \"::/0\"]", "near")
    );
    let balancer = Balancer::start(&setup);
    for (source, expected) in [
        ("127.0.0.7", "other"),
        ("127.0.0.8", "near"),
        ("127.0.0.15", "near"),
        ("127.0.0.16", "other"),
    ] {
        let heard = ask_from(source, balancer.address(), b"anything");
        assert_eq!(heard.from(), expected, "{source}");
    }
    // A client without an address is in no network.
    let mut client = UnixStream::connect(path).unwrap();
    client.write_all(b"anything").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "other");
}

#[test]
fn a_client_that_no_route_fits_is_turned_away_where_there_is_no_default_pool() {
    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let by_name = route("sni = [\"named.test\"]", "named");
    let mut setup = setup(&other, &by_name, &[("named", &named)]);
    setup.more += &format!(
        "\n[[listener]]\nname = \"near\"\nbind = \"127.0.0.1:0\"\n{}",
        route("source = [\"127.0.0.9\"]", "named")
    );
    let balancer = Balancer::start(&strict(setup, PASSTHROUGH, &by_name));
    let strict = balancer.address_of("strict");
    assert_eq!(ask(strict, &named_hello()).from(), "named");
    let near = balancer.address_of("near");
    for (to, said) in [(strict, hello("x.test", &["h2"])), (near, b"any".to_vec())] {
        let heard = ask(to, &said);
        assert_eq!((heard.end, heard.answer.len()), (End::Reset, 0));
        let record = balancer.record_of(heard.client);
        assert_eq!(refusal(&record), ("route", "no_backend", "no_route"));
        assert_eq!((record.text("pool"), record.number("tries")), ("", 0));
    }
    assert_eq!(named.received().len(), 1);
}

#[test]
fn what_is_not_tls_goes_to_the_default_pool_as_it_is_and_nowhere_else() {
    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let by_name = route("sni = [\"named.test\"]", "named");
    let setup = setup(&other, &by_name, &[("named", &named)]);
    let balancer = Balancer::start(&strict(setup, PASSTHROUGH, &by_name));
    let sslv2 = [&[0x80, 46, 1, 0, 2, 0, 21, 0, 0, 0, 16][..], &[9; 40]].concat();
    let zeros = vec![0; 70_000];
    let others = [
        b"GET / HTTP/1.1\r\nHost: named.test\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(),
        b"x".to_vec(),
        // The type of a record, and no version there is.
        b"\x16\x09and more".to_vec(),
        sslv2,
        zeros,
    ];
    for (at, said) in others.iter().enumerate() {
        let heard = ask(balancer.address(), said);
        assert_eq!(heard.from(), "other");
        assert_eq!(&other.received()[at], said, "not as it was sent");
        assert_eq!(balancer.record_of(heard.client).text("sni"), "");

        let heard = ask(balancer.address_of("strict"), said);
        // It would not know what an alert is.
        assert_eq!((heard.end, heard.answer.len()), (End::Reset, 0));
        let record = balancer.record_of(heard.client);
        assert_eq!(refusal(&record), ("tls", "tls_failed", "not_tls"));
    }
    assert!(named.untouched());
}

/// Hellos as clients send them: TLS 1.2, TLS 1.3, with post-quantum keys, and by hand in two
/// records and without anything to go by.
fn samples() -> Vec<(Vec<u8>, &'static str)> {
    let client = |versions: &[&'static SupportedProtocolVersion],
                  groups: &[&'static dyn SupportedKxGroup]| {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = groups.to_vec();
        let config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        Arc::new(config)
    };
    let old = client(&[&rustls::version::TLS12], &[kx_group::X25519]);
    let new = client(&[&rustls::version::TLS13], &[kx_group::X25519]);
    let post_quantum = client(
        &[&rustls::version::TLS13, &rustls::version::TLS12],
        &[kx_group::X25519MLKEM768, kx_group::X25519],
    );
    let whole = message(Some(&host(b"named.test")), &[b"h2"], 0);
    vec![
        (hello_of(&old, "named.test"), "named"),
        (hello_of(&new, "named.test"), "named"),
        (hello_of(&post_quantum, "named.test"), "named"),
        (in_records(&whole, whole.len() / 2), "named"),
        (in_records(&message(None, &[], 0), 1 << 14), "other"),
    ]
}

/// E3.
#[test]
fn a_hello_in_two_segments_split_anywhere_leads_to_the_same_pool_and_arrives_as_it_was_sent() {
    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let routes = route("sni = [\"named.test\"]", "named");
    let balancer = Balancer::start(&setup(&other, &routes, &[("named", &named)]));
    for (sample, expected) in samples() {
        let before = (named.received().len(), other.received().len());
        let heard = ask_split(balancer.address(), &sample, 1..sample.len());
        for (at, heard) in &heard {
            assert_eq!(heard.from(), expected, "split at {at} of {}", sample.len());
        }
        let received = match expected {
            "named" => named.received().split_off(before.0),
            _ => other.received().split_off(before.1),
        };
        assert_eq!(received.len(), sample.len() - 1);
        assert!(received.iter().all(|bytes| *bytes == sample), "changed");
    }
}

#[test]
fn a_hello_byte_by_byte_leads_to_the_same_pool() {
    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let routes = route("sni = [\"named.test\"]", "named");
    let balancer = Balancer::start(&setup(&other, &routes, &[("named", &named)]));
    for (sample, expected) in samples() {
        let mut client = connect(balancer.address());
        dribble(&mut client, &sample, Duration::from_millis(1));
        assert_eq!(hear(client).from(), expected);
        let received = [named.received(), other.received()].concat();
        assert!(received.contains(&sample), "changed");
    }
}

/// E4; `HELLO_BYTES_MAX` and `HELLO_WIRE_BYTES_MAX` are what it is about.
#[test]
fn long_hellos_in_any_records_are_routed_up_to_the_limit_and_refused_beyond() {
    const RECORD: usize = 1 << 14;

    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let routes = route("sni = [\"named.test\"]", "named");
    let balancer = Balancer::start(&setup(&other, &routes, &[("named", &named)]));
    let padded = |body, record| in_records(&message(Some(&host(b"named.test")), &[], body), record);
    for (body, record) in [
        (0, 40),
        (0, 16),
        (0, 1),
        (2_000, 500),
        (10_000, 1),
        (12_000, RECORD),
        (12_000, 16),
        (17_000, RECORD),
        (17_000, 16),
        (32_768, RECORD),
        (32_768, 16),
        (32_768, 6),
    ] {
        let hello = padded(body, record);
        let heard = ask(balancer.address(), &hello);
        assert_eq!(heard.from(), "named", "{body} in records of {record}");
        assert_eq!(named.received().last(), Some(&hello));
    }
    for (body, record) in [(32_769, RECORD), (32_768, 4), (12_000, 1)] {
        let heard = ask(balancer.address(), &padded(body, record));
        let record = balancer.record_of(heard.client);
        assert_eq!(refusal(&record), ("tls", "tls_failed", "hello_too_large"));
        assert_ne!(heard.from(), "named");
    }
    assert!(other.untouched());
}

/// E6.
#[test]
fn odd_names_have_a_defined_result_and_never_reach_the_log_as_they_are() {
    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let routes = route("sni = [\"named.test\"]", "named");
    let balancer = Balancer::start(&setup(&other, &routes, &[("named", &named)]));
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    let too_long = format!("{label}.{label}.{label}.{label}");
    assert_eq!((longest.len(), too_long.len()), (253, 255));
    let two = [host(b"named.test"), host(b"other.test")].concat();
    let future = [&[7, 0, 10][..], b"named.test"].concat();
    let future_and_known = [&future[..], &host(b"named.test")].concat();
    // The list of names; who answers; the name in the log.
    for (names, expected, logged) in [
        (None, "other", ""),
        (Some(host(b"")), "nobody", ""),
        (Some(Vec::new()), "nobody", ""),
        (Some(two), "nobody", ""),
        (Some(host(b"NAMED.Test")), "named", "named.test"),
        (Some(host(b"named.test.")), "named", "named.test"),
        (Some(host(b"named.test..")), "other", ""),
        (Some(host(b".")), "other", ""),
        (Some(host(longest.as_bytes())), "other", &longest),
        (Some(host(too_long.as_bytes())), "other", ""),
        (Some(host(b"192.0.2.1")), "other", ""),
        (Some(host(b"2001:db8::1")), "other", ""),
        (Some(host(b"named.test\0")), "other", ""),
        (Some(host(b"\0named.test")), "other", ""),
        (Some(host("n\u{e4}med.test".as_bytes())), "other", ""),
        (Some(host(b"\xffnamed.test")), "other", ""),
        (Some(host(b"*.test")), "other", ""),
        (Some(host(b"a b.test")), "other", ""),
        (
            Some(host(b"x\",\"sni\":\"y\n{\"time\":\"\x1b[2J")),
            "other",
            "",
        ),
        (Some(future), "other", ""),
        (Some(future_and_known), "named", "named.test"),
    ] {
        let told = format!("{:?}", names.as_deref().map(String::from_utf8_lossy));
        let hello = in_records(&message(names.as_deref(), &[], 0), 1 << 14);
        let heard = ask(balancer.address(), &hello);
        let record = balancer.record_of(heard.client);
        assert_eq!(record.text("sni"), logged, "{told}");
        if expected == "nobody" {
            assert_eq!(heard.answer, ALERT, "{told}");
            assert_eq!(refusal(&record), ("tls", "tls_failed", "hello_malformed"));
        } else {
            assert_eq!(heard.from(), expected, "{told}");
        }
    }
}

#[test]
fn a_protocol_that_is_no_text_is_escaped_in_the_log() {
    let other = Keeper::new("other");
    let balancer = Balancer::start(&setup(&other, "", &[]));
    let hostile = b"h2\",\"client\":\"1.2.3.4:5\"}\r\n{\"a\x1b[2J\0\xff";
    let hello = in_records(&message(None, &[hostile], 0), 1 << 14);
    let heard = ask(balancer.address(), &hello);
    assert_eq!(heard.from(), "other");
    let record = balancer.record_of(heard.client);
    let alpn = record.text("alpn");
    assert!(alpn.starts_with("h2\",\"client\":"), "{alpn}");
    assert!(!alpn.contains(char::is_control), "{alpn}");
}

#[test]
fn bytes_behind_the_hello_in_the_same_segment_reach_the_backend() {
    let (other, named) = (Keeper::new("other"), Keeper::new("named"));
    let routes = route("sni = [\"named.test\"]", "named");
    let balancer = Balancer::start(&setup(&other, &routes, &[("named", &named)]));
    // Early data of a record, and more than fits any buffer at once.
    for bytes in [1, 100, 20_000, 60_000, 1_000_000] {
        let early = vec![0x5a; bytes];
        let said = [&named_hello()[..], &early].concat();
        assert_eq!(ask(balancer.address(), &said).from(), "named");
        assert_eq!(named.received().last(), Some(&said), "{bytes} bytes behind");
    }
}

/// E1, E2.
#[test]
fn a_hello_that_does_not_come_ends_at_the_deadline_which_no_byte_puts_off() {
    let other = Keeper::new("other");
    let lines = "tls = { mode = \"passthrough\", handshake_timeout = \"400ms\" }";
    let setup = Setup::over(&[other.address()]).listener(lines);
    let balancer = Balancer::start(&setup);
    let silent = connect(balancer.address());
    let mut slow = connect(balancer.address());
    // A byte each 40 ms for 4 s and more, were it not cut.
    dribble(&mut slow, &named_hello(), Duration::from_millis(40));
    for mut client in [silent, slow] {
        let own = client.local_addr().unwrap();
        assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
        let record = balancer.record_of(own);
        assert_eq!(refusal(&record), ("preface", "tls_timeout", ""));
        let after = record.text("duration_ms");
        let millis: f64 = after.parse().unwrap();
        assert!((400.0..2_000.0).contains(&millis), "{after} ms");
    }
    assert!(other.untouched());
}

#[test]
fn a_client_that_goes_before_its_hello_touches_no_backend() {
    let other = Keeper::new("other");
    let setup = Setup::over(&[other.address()]).listener(PASSTHROUGH);
    let by_name = route("sni = [\"named.test\"]", "out");
    let balancer = Balancer::start(&strict(setup, PASSTHROUGH, &by_name));
    // What the checks of a balancer in front of this one do: a FIN, or a reset.
    let heard = ask(balancer.address(), b"");
    let record = balancer.record_of(heard.client);
    assert_eq!(refusal(&record), ("preface", "client_closed", ""));
    let checker = connect(balancer.address());
    let own = checker.local_addr().unwrap();
    await_accepted(&balancer);
    sockets::reset(&checker);
    let record = balancer.record_of(own);
    assert_eq!(refusal(&record), ("preface", "client_reset", ""));
    let heard = say(connect(balancer.address_of("strict")), &named_hello()[..20]);
    let record = balancer.record_of(heard.client);
    assert_eq!(refusal(&record), ("preface", "client_closed", ""));
    assert!(other.untouched());
}

fn await_accepted(balancer: &Balancer) {
    crate::harness::wait::until("the client is accepted", || balancer.active() == 1);
}

#[test]
fn the_same_name_leads_to_the_same_backend_whoever_asks() {
    let keepers = ["0", "1", "2", "3"].map(Keeper::new);
    let addresses = keepers.each_ref().map(Keeper::address);
    let setup = Setup::over(&addresses)
        .listener(PASSTHROUGH)
        .pool("policy = \"ip_hash\"\nhash_key = \"sni\"\nhash_balance_factor = 0");
    let balancer = Balancer::start(&setup);
    let mut chosen = Vec::new();
    for number in 0..24 {
        let names = [format!("n{number}.test"), format!("N{number}.Test.")];
        let answers = ["127.0.0.1", "127.0.0.2", "127.0.0.77"].map(|source| {
            let hello = hello(&names[usize::from(source == "127.0.0.2")], &[]);
            ask_from(source, balancer.address(), &hello)
                .from()
                .to_owned()
        });
        assert!(answers.iter().all(|one| *one == answers[0]), "{answers:?}");
        chosen.push(answers[0].clone());
    }
    // 24 names on 4 backends: one that is never hit has a chance of 0.4 %, with a fixed seed.
    chosen.sort();
    chosen.dedup();
    assert_eq!(chosen, ["0", "1", "2", "3"]);
}

#[test]
fn a_hello_that_was_held_goes_to_the_next_backend_when_the_first_does_not_answer() {
    let (refusing, silent) = (Refusing::new(), Silent::new());
    let long = in_records(&message(Some(&host(b"named.test")), &[], 30_000), 1 << 14);
    for first in [refusing.address, silent.address] {
        let named = Keeper::new("named");
        let setup = Setup::over(&[first, named.address()])
            .listener(PASSTHROUGH)
            .pool("connect_timeout = \"2s\"\nretries = 1\npolicy = \"failover\"")
            .pool("ejection = { connect_failures = 0 }");
        let balancer = Balancer::start(&setup);
        for hello in [named_hello(), long.clone()] {
            let heard = ask(balancer.address(), &hello);
            assert_eq!(heard.from(), "named");
            assert_eq!(named.received().last(), Some(&hello));
            let record = balancer.record_of(heard.client);
            assert_eq!(record.number("tries"), 2);
            assert_eq!(record.text("backend"), "b1");
            assert_eq!(record.number("bytes_to_backend"), hello.len() as u64);
        }
    }
}

/// Writes what it is given in pieces, each once the one before it was read.
struct Sliced {
    socket: TcpStream,
    piece: usize,
}

impl Read for Sliced {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.socket.read(buffer)
    }
}

impl Write for Sliced {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let count = self.socket.write(&bytes[..bytes.len().min(self.piece)])?;
        await_read(self.socket.peer_addr()?);
        Ok(count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A TLS server that answers what it is told, up to the client's close_notify, backwards.
fn mirror(authority: &Authority, name: &str) -> std::net::SocketAddr {
    let pair = authority.issue(name, &[name]);
    tls::serve(tls::server_config(&pair), |mut server| {
        let mut said = Vec::new();
        if server.read_to_end(&mut said).is_ok() {
            said.reverse();
            let _gone_or_not = server.write_all(&said);
            server.conn.send_close_notify();
            let _gone_or_not = server.flush();
        }
    })
}

/// E5.
#[test]
fn a_post_quantum_handshake_is_made_with_the_backend_itself_in_however_many_segments() {
    let authority = Authority::new("test authority");
    let (named, other) = (mirror(&authority, "named.test"), Keeper::new("other"));
    let mut setup = Setup::over(&[other.address()])
        .listener(PASSTHROUGH)
        .listener(&route("sni = [\"named.test\"]", "named"));
    setup.more += &pool("named", "", &[named]);
    let balancer = Balancer::start(&setup);
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519MLKEM768];
    let config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    let config = Arc::new(config);
    assert!(hello_of(&config, "named.test").len() > 1_200);
    for piece in [100, 536, 1_400, 1 << 20] {
        let socket = connect(balancer.address());
        let own = socket.local_addr().unwrap();
        let name = ServerName::try_from("named.test").unwrap();
        let connection = ClientConnection::new(config.clone(), name).unwrap();
        let mut client = StreamOwned::new(connection, Sliced { socket, piece });
        client.write_all(b"drawer").unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "reward");
        drop(client);
        assert_eq!(balancer.record_of(own).text("sni"), "named.test");
    }
    assert!(other.untouched());
}

#[test]
fn a_client_of_openssl_gets_through_to_a_server_of_that_name() {
    let name = "a_client_of_openssl_gets_through_to_a_server_of_that_name";
    let Some(openssl) = program("openssl") else {
        return machine::skipped(name, "openssl is not installed");
    };
    let authority = Authority::new("test authority");
    let pair = authority.issue("named.test", &["named.test"]);
    let named = tls::serve(tls::server_config(&pair), |server| tls::echo(server));
    let other = Keeper::new("other");
    let mut setup = Setup::over(&[other.address()])
        .listener(PASSTHROUGH)
        .listener(&route("sni = [\"named.test\"]", "named"));
    setup.more += &pool("named", "", &[named]);
    let balancer = Balancer::start(&setup);
    for version in ["-tls1_2", "-tls1_3"] {
        let to = balancer.address().to_string();
        let mut client = Command::new(&openssl)
            .args(["s_client", "-connect", &to, "-servername", "named.test"])
            .args(["-verify_return_error", "-quiet", "-no_ign_eof", version])
            .arg("-CAfile")
            .arg(authority.ca())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut input = client.stdin.take().unwrap();
        input.write_all(b"drawer").unwrap();
        let mut answer = [0; 6];
        let mut output = client.stdout.take().unwrap();
        output.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"drawer", "{version}");
        drop(input);
        client.wait().unwrap();
    }
    assert!(other.untouched());
}

#[test]
fn a_server_of_nginx_shows_its_own_certificate_through_the_balancer() {
    let name = "a_server_of_nginx_shows_its_own_certificate_through_the_balancer";
    let Some(nginx) = program("nginx") else {
        return machine::skipped(name, "nginx is not installed");
    };
    let authority = Authority::new("test authority");
    let pair = authority.issue("nginx", &["nginx.test"]);
    let (at, folder) = (free_port(), tempfile::tempdir().unwrap());
    let config = format!(
        "daemon off; pid nginx.pid; error_log /dev/null; events {{}}\n\
         http {{ access_log off; server {{ listen {at} ssl; ssl_certificate {}; \
         ssl_certificate_key {}; return 200 \"$ssl_server_name $ssl_protocol\"; }} }}\n",
        pair.cert.display(),
        pair.key.display()
    );
    let file = folder.path().join("nginx.conf");
    fs::write(&file, config).unwrap();
    let mut command = Command::new(nginx);
    command.args(["-e", "/dev/null", "-p"]).arg(folder.path());
    let _nginx = Helper::start(command.arg("-c").arg(&file)).answering(at);
    let balancer = Balancer::start(&Setup::over(&[at]).listener(PASSTHROUGH));
    let config = Arc::new(authority.client());
    let client = tls::connect(balancer.address(), "nginx.test", &config);
    let request = b"GET / HTTP/1.0\r\nHost: nginx.test\r\n\r\n";
    let mut client = client;
    client.write_all(request).unwrap();
    let mut answer = String::new();
    // nginx may leave out the close_notify of an answer that says its length.
    let _truncated_or_not = client.read_to_string(&mut answer);
    assert!(answer.contains("\r\n\r\nnginx.test TLSv1."), "{answer}");
}
