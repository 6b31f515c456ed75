//! Headers against byte vectors written by hand from the specification.

use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::wire::proxy::tests::slow_crc32c;

fn tcp(source: &str, destination: &str) -> Subject {
    Subject::Tcp {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

#[test]
fn version_1_is_the_line_of_the_specification() {
    let cases = [
        (
            tcp("192.168.0.1:56324", "192.168.0.11:443"),
            "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        ),
        (
            tcp("[2001:db8::1]:1", "[2001:db8::2]:65535"),
            "PROXY TCP6 2001:db8::1 2001:db8::2 1 65535\r\n",
        ),
        (
            tcp("[::ffff:10.0.0.1]:5", "10.0.0.2:6"),
            "PROXY TCP4 10.0.0.1 10.0.0.2 5 6\r\n",
        ),
        (
            tcp("10.0.0.1:5", "[2001:db8::2]:6"),
            "PROXY TCP6 ::ffff:a00:1 2001:db8::2 5 6\r\n",
        ),
        (Subject::Unknown, "PROXY UNKNOWN\r\n"),
        (Subject::Local, "PROXY UNKNOWN\r\n"),
    ];
    for (subject, line) in cases {
        assert_eq!(String::from_utf8(v1(subject)).unwrap(), line);
    }
    let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
    assert!(v1(tcp(longest, longest)).len() <= V1_BYTES_MAX);
}

#[test]
fn version_2_is_the_bytes_of_the_specification() {
    let signature = [
        0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a,
    ];
    let local = [0x20, 0x00, 0x00, 0x00];
    let unknown = [0x21, 0x00, 0x00, 0x00];
    let ipv4 = [
        0x21, 0x11, 0x00, 0x0c, 192, 168, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x01, 0xbb,
    ];
    let mut ipv6 = vec![0x21, 0x21, 0x00, 0x24];
    ipv6.extend([0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    ipv6.extend([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 2]);
    ipv6.extend([0x00, 0x01, 0xff, 0xff]);
    let cases = [
        (Subject::Local, local.as_slice()),
        (Subject::Unknown, &unknown),
        (tcp("192.168.0.1:56324", "192.168.0.11:443"), &ipv4),
        (tcp("[2001:db8::1]:1", "10.0.0.2:65535"), &ipv6),
    ];
    for (subject, rest) in cases {
        let expected = [&signature, rest].concat();
        assert_eq!(v2(subject, &[]).unwrap(), expected, "{subject:?}");
    }
}

#[test]
fn tlvs_follow_the_addresses_in_their_order() {
    let header = v2(
        tcp("1.2.3.4:5", "6.7.8.9:10"),
        &[(0x02, b"web"), (0xe1, b""), (0x02, b"x")],
    )
    .unwrap();
    let tail = [
        0x21, 0x11, 0x00, 0x19, 1, 2, 3, 4, 6, 7, 8, 9, 0, 5, 0, 10, 0x02, 0, 3, b'w', b'e', b'b',
        0xe1, 0, 0, 0x02, 0, 1, b'x',
    ];
    assert_eq!(header[12..], tail);
}

#[test]
fn the_length_field_is_full_and_never_overflows() {
    let value = vec![7; 65_535 - 12 - 3];
    let subject = tcp("1.2.3.4:5", "6.7.8.9:10");
    let header = v2(subject, &[(1, &value)]).unwrap();
    assert_eq!(header.len(), 16 + 65_535);
    assert_eq!(header[14..16], [0xff, 0xff]);
    let over = vec![7; value.len() + 1];
    assert_eq!(v2(subject, &[(1, &over)]), Err(TooLong { bytes: 65_536 }));
    let many = vec![(1, [0_u8; 200].as_slice()); 400];
    assert_eq!(v2(Subject::Local, &many), Err(TooLong { bytes: 400 * 203 }));
}

proptest! {
    #[test]
    fn the_length_field_is_what_follows_it(
        source: SocketAddr,
        destination: SocketAddr,
        tlvs in prop::collection::vec((4_u8.., prop::collection::vec(any::<u8>(), 0..40)), 0..5),
    ) {
        let subject = Subject::Tcp { source, destination };
        let tlvs: Vec<(u8, &[u8])> = tlvs.iter().map(|(kind, value)| (*kind, &**value)).collect();
        let header = v2(subject, &tlvs).unwrap();
        let length = u16::from_be_bytes([header[14], header[15]]);
        prop_assert_eq!(header.len(), 16 + usize::from(length));
        prop_assert!(v1(subject).len() <= V1_BYTES_MAX);
    }
}

const SUBJECT: Subject = Subject::Local;

/// What follows the fixed part of a header that tells of no address.
fn tlvs_of(extras: &Extras) -> Vec<u8> {
    let header = v2_with(SUBJECT, extras).unwrap();
    let length = u16::from_be_bytes([header[14], header[15]]);
    assert_eq!(header.len(), 16 + usize::from(length));
    header[16..].to_vec()
}

fn received(tlvs: &[(u8, &[u8])]) -> Tlvs {
    let mut bytes = Vec::new();
    for (kind, value) in tlvs {
        tlv::push(&mut bytes, *kind, value);
    }
    Tlvs::read(&bytes).unwrap()
}

#[test]
fn what_this_process_knows_is_told_in_the_order_of_the_fields() {
    let extras = Extras {
        alpn: Some(b"h2"),
        authority: Some(b"a.b"),
        unique_id: Some(&[9, 8]),
        ssl: Some(Ssl {
            version: "TLSv1.3",
            ..Ssl::default()
        }),
        others: &[(0xe1, b"x"), (tlv::NETNS, b"n"), (0xe1, b"")],
        ..Extras::default()
    };
    let expected = [
        b"\x01\0\x02h2\x02\0\x03a.b\x05\0\x02\x09\x08".as_slice(),
        b"\x20\0\x0f\x01\0\0\0\x01\x21\0\x07TLSv1.3",
        b"\xe1\0\x01x\x30\0\x01n\xe1\0\0",
    ];
    assert_eq!(tlvs_of(&extras), expected.concat());
}

#[test]
fn the_ssl_tlv_holds_each_of_its_own() {
    // The first is what HAProxy sends for a client whose certificate it verified.
    let verified = Ssl {
        client: tlv::CLIENT_SSL | tlv::CLIENT_CERT_CONN | tlv::CLIENT_CERT_SESS,
        verify: 0,
        version: "TLSv1.3",
        cn: Some("Example Common Name Client Cert"),
        ..Ssl::default()
    };
    let all = Ssl {
        version: "1",
        cn: Some("2"),
        cipher: Some("3"),
        sig_alg: Some("4"),
        key_alg: Some("5"),
        group: Some("6"),
        sig_scheme: Some("7"),
        client_cert: Some(b"8"),
        verify: 0x0102_0304,
        ..Ssl::default()
    };
    let cases = [
        (
            verified,
            b"\x20\0\x31\x07\0\0\0\0\x21\0\x07TLSv1.3\x22\0\x1fExample Common Name Client Cert"
                .as_slice(),
        ),
        (
            all,
            b"\x20\0\x25\x01\x01\x02\x03\x04\x21\0\x011\x22\0\x012\x23\0\x013\x24\0\x014\x25\0\x015\
              \x26\0\x016\x27\0\x017\x28\0\x018",
        ),
    ];
    for (ssl, expected) in cases {
        let extras = Extras {
            ssl: Some(ssl),
            ..Extras::default()
        };
        assert_eq!(tlvs_of(&extras), expected, "{ssl:?}");
    }
}

#[test]
fn the_checksum_is_last_and_over_the_finished_header() {
    let extras = Extras {
        others: &[(0xea, b"\x01vpce-08d2bf15fac5001c9"), (tlv::NOOP, &[0; 36])],
        crc32c: true,
        ..Extras::default()
    };
    let header = v2_with(tcp("172.31.7.113:51442", "172.31.10.31:80"), &extras).unwrap();
    assert_eq!(header.len(), 100);
    let (rest, sum) = header.split_at(header.len() - 4);
    assert_eq!(rest[rest.len() - 3..], [tlv::CRC32C, 0, 4]);
    let expected = slow_crc32c(&[rest, &[0; 4]].concat());
    assert_eq!(sum, expected.to_be_bytes());
}

#[test]
fn received_tlvs_are_relayed_in_order_with_duplicates_and_what_is_known_better_is_replaced() {
    let received = received(&[
        (tlv::NOOP, b"pad"),
        (0xe5, b"1"),
        (tlv::ALPN, b"old"),
        (tlv::CRC32C, b"\x01\x02\x03\x04"),
        (tlv::AUTHORITY, b"old"),
        (tlv::AUTHORITY, b"older"),
        (tlv::NETNS, b"net"),
        (tlv::UNIQUE_ID, b"id"),
        (tlv::SSL, b"\x01\0\0\0\0"),
        (0xe5, b"1"),
        (0x77, b""),
    ]);
    let kept = Extras {
        received: Some(&received),
        ..Extras::default()
    };
    let replaced = Extras {
        alpn: Some(b"h2"),
        authority: Some(b"new"),
        unique_id: Some(b"mine"),
        ssl: Some(Ssl::default()),
        others: &[(0xe5, b"0")],
        ..kept
    };
    let cases = [
        (
            kept,
            b"\xe5\0\x011\x01\0\x03old\x02\0\x03old\x02\0\x05older\x30\0\x03net\x05\0\x02id\
              \x20\0\x05\x01\0\0\0\0\xe5\0\x011\x77\0\0\x03\0\x04"
                .as_slice(),
        ),
        (
            replaced,
            b"\x01\0\x02h2\x02\0\x03new\x05\0\x04mine\x20\0\x08\x01\0\0\0\x01\x21\0\0\xe5\0\x010\
              \xe5\0\x011\x30\0\x03net\xe5\0\x011\x77\0\0\x03\0\x04",
        ),
    ];
    for (extras, expected) in cases {
        let header = v2_with(SUBJECT, &extras).unwrap();
        let (rest, sum) = header.split_at(header.len() - 4);
        assert_eq!(&rest[16..], expected);
        assert_eq!(sum, slow_crc32c(&[rest, &[0; 4]].concat()).to_be_bytes());
    }
}

#[test]
fn what_does_not_fit_is_refused_and_what_just_fits_is_written() {
    let of = |extras: &Extras| v2_with(SUBJECT, extras).map(|header| header.len());
    let id = [7; 129];
    let with_id = |id| Extras {
        unique_id: Some(id),
        ..Extras::default()
    };
    assert_eq!(of(&with_id(&id[..128])), Ok(16 + 3 + 128));
    assert_eq!(of(&with_id(&id)), Err(TooLong { bytes: 129 }));
    let der = vec![7; 65_535 - 3 - 5 - 3 - 3];
    let with_cert = |der| Extras {
        ssl: Some(Ssl {
            client_cert: Some(der),
            ..Ssl::default()
        }),
        ..Extras::default()
    };
    assert_eq!(of(&with_cert(&der)), Ok(16 + 65_535));
    let over = Extras {
        alpn: Some(b""),
        ..with_cert(&der)
    };
    assert_eq!(of(&over), Err(TooLong { bytes: 65_538 }));
    // No length field is so cut that the whole looks as if it fitted.
    let huge = vec![7; 2 * 65_536];
    assert_eq!(
        of(&with_cert(&huge)),
        Err(TooLong {
            bytes: huge.len() + 3 + 5 + 3 + 3
        })
    );
}
