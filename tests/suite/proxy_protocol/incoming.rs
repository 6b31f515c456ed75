//! Headers that clients are introduced with: taken or refused as the specification says, and
//! believed from those only who may send one.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ADDRESSES, CLIENT, LINE, LOCAL, PROXY, TCP_OVER_IPV4, TCP_OVER_IPV6, UNSPECIFIED, line_of, tlv,
    v2, with_checksum,
};
use crate::harness::balancer::{Balancer, Setup};
use crate::harness::peer::End;
use crate::harness::tls::{self, Authority};
use crate::harness::wait;
use crate::routing_kit::{
    Heard, Keeper, PASSTHROUGH, ask, ask_from, ask_split, connect, connect_from, dribble, hello,
    pool, record_passed_on, records_passed_on, refusal, say,
};

const ACCEPTS: &str = "accept_proxy = { from = [\"127.0.0.0/8\"], timeout = \"10m\" }";

fn start(server: &Keeper) -> Balancer {
    Balancer::start(&Setup::over(&[server.address()]).listener(ACCEPTS))
}

fn ask_with(header: &[u8], balancer: &Balancer, said: &[u8]) -> Heard {
    ask(balancer.address(), &[header, said].concat())
}

/// Headers that are good, and whose connection each says it is; `None`: the sender's own.
fn good() -> Vec<(Vec<u8>, Option<&'static str>)> {
    let ipv6 = |source: [u8; 16]| {
        let destination = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        [&source[..], &destination, &[0x12, 0x67, 1, 187]].concat()
    };
    let client6 = ipv6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
    let mapped = ipv6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 7]);
    let tlvs = [tlv(2, b"a.test"), tlv(4, b"padding"), tlv(3, &[0; 4])].concat();
    let with_tlvs = v2(PROXY, TCP_OVER_IPV4, &[&ADDRESSES[..], &tlvs].concat());
    vec![
        (LINE.to_vec(), Some(CLIENT)),
        (
            b"PROXY TCP6 2001:db8::7 2001:db8::9 4711 443\r\n".to_vec(),
            Some("[2001:db8::7]:4711"),
        ),
        (
            b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:203.0.113.9 4711 443\r\n".to_vec(),
            Some(CLIENT),
        ),
        (
            b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n".to_vec(),
            Some("255.255.255.255:65535"),
        ),
        (b"PROXY UNKNOWN\r\n".to_vec(), None),
        (
            b"PROXY UNKNOWN 192.0.2.7 203.0.113.9 4711 443\r\n".to_vec(),
            None,
        ),
        (v2(PROXY, TCP_OVER_IPV4, &ADDRESSES), Some(CLIENT)),
        (
            v2(PROXY, TCP_OVER_IPV6, &client6),
            Some("[2001:db8::7]:4711"),
        ),
        (v2(PROXY, TCP_OVER_IPV6, &mapped), Some(CLIENT)),
        (with_checksum(with_tlvs), Some(CLIENT)),
        (v2(PROXY, UNSPECIFIED, b""), None),
        // Two unix sockets.
        (v2(PROXY, 0x31, &[b'/'; 216]), None),
        (v2(LOCAL, UNSPECIFIED, b""), None),
        (v2(LOCAL, TCP_OVER_IPV4, &ADDRESSES), None),
        (v2(LOCAL, TCP_OVER_IPV6, &client6), None),
    ]
}

/// F1, F4.
#[test]
fn the_client_is_who_a_good_header_says_and_the_first_byte_behind_it_is_not_lost() {
    let server = Keeper::new("server");
    let balancer = start(&server);
    for (header, client) in good() {
        let told = header.escape_ascii();
        let heard = ask_with(&header, &balancer, b"question");
        assert_eq!(heard.from(), "server", "{told}");
        assert_eq!(server.received().last().unwrap(), b"question", "{told}");
        let record = record_passed_on(&balancer, heard.client);
        let own = heard.client.to_string();
        assert_eq!(record.text("client"), client.unwrap_or(&own), "{told}");
        assert_eq!(record.number("bytes_to_backend"), 8, "{told}");
    }
}

/// F1, F8.
#[test]
fn a_header_that_breaks_the_rules_is_refused_with_a_word_before_any_backend_is_touched() {
    let server = Keeper::new("server");
    let balancer = start(&server);
    let of_tcp = |more: &[u8]| v2(PROXY, TCP_OVER_IPV4, &[&ADDRESSES[..], more].concat());
    let past_end = [&[2, 1, 0][..], b"a.test"].concat();
    let stray = [&tlv(2, b"a.test")[..], &[0]].concat();
    let over_long = [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat();
    assert_eq!(over_long.len(), 108);
    let cases: [(&[u8], &str); 16] = [
        (&v2(0x22, TCP_OVER_IPV4, &ADDRESSES), "v2_command"),
        (&v2(0x11, TCP_OVER_IPV4, &ADDRESSES), "v2_version"),
        (
            &v2(PROXY, TCP_OVER_IPV4, &ADDRESSES[..8]),
            "v2_short_address",
        ),
        (&of_tcp(&past_end), "v2_tlv"),
        (&of_tcp(&stray), "v2_tlv"),
        (&of_tcp(&tlv(3, b"\xde\xad\xbe\xef")), "v2_crc"),
        (&v2(PROXY, 0x41, &ADDRESSES), "v2_family"),
        (
            b"PROXY TCP4 192.000.002.007 203.0.113.9 4711 443\r\n",
            "v1_address",
        ),
        (b"PROXY TCP4 192.0.2.7 203.0.113.9 04711 443\r\n", "v1_port"),
        (b"PROXY TCP4 192.0.2.7 203.0.113.9 70000 443\r\n", "v1_port"),
        (b"PROXY TCP4 192.0.2.7 203.0.113.9 4711 443\n", "v1_no_cr"),
        (b"PROXY TCP6 fe80::1%eth0 fe80::2 1 2\r\n", "v1_address"),
        (b"PROXY TCP5 192.0.2.7 203.0.113.9 1 2\r\n", "v1_protocol"),
        (&over_long, "v1_line_too_long"),
        (b"GET / HTTP/1.1\r\n\r\n", "no_header"),
        (b"\x16\x03\x01\x02\x00", "no_header"),
    ];
    for (header, word) in cases {
        let told = header.escape_ascii();
        let heard = ask_with(header, &balancer, b"question");
        assert_eq!((heard.end, heard.answer.len()), (End::Reset, 0), "{told}");
        let record = balancer.record_of(heard.client);
        let expected = ("preface", "proxy_header_invalid", word);
        assert_eq!(refusal(&record), expected, "{told}");
    }
    assert!(server.untouched());
}

/// F3.
#[test]
fn a_header_split_anywhere_gives_the_same_client_and_the_same_bytes() {
    let server = Keeper::new("server");
    let balancer = start(&server);
    let (mut count, mut expected) = (0, HashMap::new());
    for (header, client) in good() {
        let said = [&header[..], b"question"].concat();
        for (at, heard) in ask_split(balancer.address(), &said, 1..said.len()) {
            let told = format!("{} split at {at}", header.escape_ascii());
            assert_eq!(heard.from(), "server", "{told}");
            let own = heard.client.to_string();
            let client = client.unwrap_or(&own).to_owned();
            // Ports come back, so that there may be fewer of them.
            expected.insert(own, (client, told));
            count += 1;
        }
    }
    let received = server.received();
    assert_eq!(received.len(), count);
    assert!(received.iter().all(|bytes| bytes == b"question"));
    let records = records_passed_on(&balancer, count);
    for (own, (client, told)) in &expected {
        assert_eq!(records[own].text("client"), client, "{told}");
    }
}

/// F4.
#[test]
fn a_header_that_does_not_come_ends_at_its_own_deadline_which_no_byte_puts_off() {
    let server = Keeper::new("server");
    let rule = "accept_proxy = { from = [\"127.0.0.0/8\"], timeout = \"400ms\" }";
    let balancer = Balancer::start(&Setup::over(&[server.address()]).listener(rule));
    let silent = connect(balancer.address());
    let mut slow = connect(balancer.address());
    // 4 s and more, were it not cut.
    dribble(&mut slow, &LINE[..42], Duration::from_millis(100));
    for mut client in [silent, slow] {
        let own = client.local_addr().unwrap();
        assert!(client.read(&mut [0]).map_or(true, |count| count == 0));
        let record = balancer.record_of(own);
        assert_eq!(refusal(&record), ("preface", "proxy_header_timeout", ""));
        let after = record.text("duration_ms");
        let millis: f64 = after.parse().unwrap();
        assert!((400.0..2_000.0).contains(&millis), "{after} ms");
    }
    // What the checks of a balancer in front of this one do.
    for said in [&b""[..], &LINE[..20]] {
        let record = balancer.record_of(ask(balancer.address(), said).client);
        assert_eq!(refusal(&record), ("preface", "client_closed", ""));
    }
    assert!(server.untouched());
}

#[test]
fn networks_are_those_of_the_client_and_not_of_who_passes_it_on() {
    let server = Keeper::new("server");
    let setup = Setup::over(&[server.address()])
        .listener(ACCEPTS)
        .listener("allow = [\"192.0.2.0/24\", \"127.0.0.9\"]\ndeny = [\"192.0.2.128/25\"]");
    let balancer = Balancer::start(&setup);
    for (client, served) in [
        ("192.0.2.7", true),
        ("192.0.2.200", false),
        ("198.51.100.1", false),
    ] {
        let heard = ask_with(&line_of(client), &balancer, b"question");
        assert_eq!(heard.from() == "server", served, "{client}");
        let record = record_passed_on(&balancer, heard.client);
        assert_eq!(record.text("client"), format!("{client}:4711"));
        let expected = if served { "client_closed" } else { "denied" };
        assert_eq!(record.termination(), expected, "{client}");
    }
    // Connections of its own are looked at as such.
    let own = v2(LOCAL, UNSPECIFIED, b"");
    let said = [&own[..], b"question"].concat();
    assert_ne!(ask(balancer.address(), &said).from(), "server");
    let heard = ask_from("127.0.0.9", balancer.address(), &said);
    assert_eq!(heard.from(), "server");
}

/// F5.
#[test]
fn the_limit_of_a_source_counts_the_client_and_for_local_ones_the_sender() {
    let server = Keeper::new("server");
    let setup = Setup::over(&[server.address()])
        .listener(ACCEPTS)
        .listener("per_source = { connections = 1 }");
    let balancer = Balancer::start(&setup);
    let hold = |header: &[u8]| {
        let before = balancer.backend("b0").0;
        let mut client = connect(balancer.address());
        client.write_all(header).unwrap();
        wait::until("it has a backend", || balancer.backend("b0").0 > before);
        client
    };
    let local = |last| {
        let mut addresses = ADDRESSES;
        addresses[3] = last;
        v2(LOCAL, TCP_OVER_IPV4, &addresses)
    };
    let refused = |header: &[u8]| {
        let heard = ask_with(header, &balancer, b"question");
        assert_eq!(heard.end, End::Reset);
        let record = record_passed_on(&balancer, heard.client);
        assert_eq!(record.termination(), "source_limit");
        record.text("client").to_owned()
    };
    let seventh = hold(LINE);
    let eighth = hold(&line_of("192.0.2.8"));
    assert_eq!(refused(LINE), CLIENT);
    // The addresses of local ones say nothing: they all are 127.0.0.1.
    let own = hold(&local(7));
    assert!(refused(&local(9)).starts_with("127.0.0.1:"));
    drop((seventh, eighth, own));
    wait::until("all are over", || balancer.active() == 0);
    assert_eq!(ask_with(LINE, &balancer, b"again").from(), "server");
}

#[test]
fn a_hash_goes_by_the_client_whoever_passes_it_on() {
    let keepers = ["0", "1", "2", "3"].map(Keeper::new);
    let setup = Setup::over(&keepers.each_ref().map(Keeper::address))
        .listener(ACCEPTS)
        .pool("policy = \"ip_hash\"\nhash_balance_factor = 0");
    let balancer = Balancer::start(&setup);
    let mut chosen = Vec::new();
    for last in 0..24 {
        let header = line_of(&format!("192.0.2.{last}"));
        let answers = ["127.0.0.1", "127.0.0.2", "127.0.0.3"].map(|by| {
            let heard = ask_from(by, balancer.address(), &header);
            heard.from().to_owned()
        });
        assert!(answers.iter().all(|one| *one == answers[0]), "{answers:?}");
        chosen.push(answers[0].clone());
    }
    chosen.sort();
    chosen.dedup();
    assert_eq!(chosen, ["0", "1", "2", "3"]);
}

#[test]
fn routes_go_by_the_network_of_the_client() {
    let (server, near) = (Keeper::new("server"), Keeper::new("near"));
    let mut setup = Setup::over(&[server.address()])
        .listener(ACCEPTS)
        .listener("[[listener.route]]\nsource = [\"192.0.2.0/24\"]\npool = \"near\"");
    setup.more = pool("near", "", &[near.address()]);
    let balancer = Balancer::start(&setup);
    assert_eq!(ask_with(LINE, &balancer, b"x").from(), "near");
    let far = line_of("198.51.100.1");
    assert_eq!(ask_with(&far, &balancer, b"x").from(), "server");
}

/// F2.
#[test]
fn a_header_from_who_is_not_trusted_is_never_believed_and_refused_where_a_hello_is_awaited() {
    let server = Keeper::new("server");
    let from = "accept_proxy = { from = [\"127.0.0.2\"], timeout = \"20s\" }";
    let mut setup = Setup::over(&[server.address()])
        .listener(from)
        .listener(PASSTHROUGH);
    setup.more =
        format!("\n[[listener]]\nname = \"plain\"\nbind = \"127.0.0.1:0\"\npool = \"out\"\n{from}");
    let balancer = Balancer::start(&setup);
    let hello = hello("a.test", &[]);
    for header in [LINE.to_vec(), v2(PROXY, TCP_OVER_IPV4, &ADDRESSES)] {
        let said = [&header[..], &hello].concat();
        for (at, heard) in ask_split(balancer.address(), &said, [header.len(), said.len()]) {
            assert_eq!(heard.end, End::Reset, "split at {at}");
            let record = balancer.record_of(heard.client);
            let (_, termination, detail) = refusal(&record);
            assert_eq!(
                (termination, detail),
                ("proxy_header_invalid", "not_trusted")
            );
            assert_eq!(record.text("passed_on_by"), "");
        }
        // Refused if it is there when the connection is looked at, else the client's own bytes.
        let heard = ask(balancer.address_of("plain"), &said);
        let record = balancer.record_of(heard.client);
        assert_eq!(record.text("passed_on_by"), "");
        match heard.from() {
            "server" => assert_eq!(server.received().last(), Some(&said)),
            _ => assert_eq!(refusal(&record).2, "not_trusted"),
        }
        // The one that may.
        let heard = ask_from("127.0.0.2", balancer.address(), &said);
        assert_eq!(heard.from(), "server");
        assert_eq!(server.received().last(), Some(&hello));
    }
    // Without a header they are served as everywhere.
    let to = [balancer.address(), balancer.address_of("plain")];
    for (to, said) in [(to[0], &hello[..]), (to[1], b"question")] {
        let heard = ask(to, said);
        assert_eq!(heard.from(), "server");
        assert_eq!(server.received().last().unwrap(), said);
        assert_eq!(balancer.record_of(heard.client).text("passed_on_by"), "");
    }
}

#[test]
fn a_header_and_a_hello_split_anywhere_lead_to_the_named_pool_and_the_hello_is_passed_on() {
    let (server, named) = (Keeper::new("server"), Keeper::new("named"));
    let mut setup = Setup::over(&[server.address()])
        .listener(ACCEPTS)
        .listener(PASSTHROUGH)
        .listener("[[listener.route]]\nsni = [\"named.test\"]\npool = \"named\"");
    setup.more = pool("named", "", &[named.address()]);
    let balancer = Balancer::start(&setup);
    let hello = hello("named.test", &["h2"]);
    let mut count = 0;
    for header in [LINE.to_vec(), v2(PROXY, TCP_OVER_IPV4, &ADDRESSES)] {
        let said = [&header[..], &hello].concat();
        for (at, heard) in ask_split(balancer.address(), &said, 1..said.len()) {
            assert_eq!(heard.from(), "named", "split at {at}");
            count += 1;
        }
    }
    for record in records_passed_on(&balancer, count).values() {
        assert_eq!(record.text("client"), CLIENT);
        assert_eq!(record.text("sni"), "named.test");
    }
    assert!(named.received().iter().all(|bytes| *bytes == hello));
    assert!(server.untouched());
}

#[test]
fn a_header_stands_before_the_handshake_of_tls_that_is_terminated() {
    let authority = Authority::new("test authority");
    let pair = authority.issue("web", &["web.test"]);
    let terminates = format!(
        "tls = {{ mode = \"terminate\", certificates = [{}] }}",
        pair.toml()
    );
    let setup = Setup::over(&[tls::plain_echo()])
        .listener(ACCEPTS)
        .listener(&terminates);
    let balancer = Balancer::start(&setup);
    let config = Arc::new(authority.client());
    for header in [LINE.to_vec(), v2(PROXY, TCP_OVER_IPV4, &ADDRESSES)] {
        let mut client = tls::connect(balancer.address(), "web.test", &config);
        let own = client.sock.local_addr().unwrap();
        client.sock.write_all(&header).unwrap();
        assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
        let record = record_passed_on(&balancer, own);
        assert_eq!(record.text("client"), CLIENT);
        assert_eq!(record.text("sni"), "web.test");
    }
    // Inside of TLS it is nobody's header.
    let client = tls::connect(balancer.address(), "web.test", &config);
    assert!(tls::call(client, LINE).is_err());
}

#[test]
fn a_header_follows_nobody_twice() {
    let server = Keeper::new("server");
    let balancer = start(&server);
    let said = [LINE, &line_of("198.51.100.1"), b"question"].concat();
    let heard = say(connect_from("127.0.0.5", balancer.address()), &said);
    let record = record_passed_on(&balancer, heard.client);
    assert_eq!(record.text("client"), CLIENT);
    assert_eq!(
        heard.client.ip(),
        SocketAddr::from(([127, 0, 0, 5], 0)).ip()
    );
    assert_eq!(server.received_once(), said[LINE.len()..]);
}
