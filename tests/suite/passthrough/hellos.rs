//! Hellos in every form: whatever their length, their names and their split, they lead to the same
//! pool and arrive as they were sent.

use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::{ClientConfig, SupportedProtocolVersion};

use super::{named_hello, route, setup};
use crate::harness::balancer::Balancer;
use crate::routing_kit::{
    Keeper, ask, ask_split, connect, dribble, hear, hello_of, host, in_records, message, refusal,
};

/// A fatal alert decode_error.
const ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];

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
