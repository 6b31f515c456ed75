//! Headers against byte vectors written by hand from the specification.

use proptest::prelude::*;

use super::*;

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
        tlvs in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..40)), 0..5),
    ) {
        let subject = Subject::Tcp { source, destination };
        let tlvs: Vec<(u8, &[u8])> = tlvs.iter().map(|(kind, value)| (*kind, &**value)).collect();
        let header = v2(subject, &tlvs).unwrap();
        let length = u16::from_be_bytes([header[14], header[15]]);
        prop_assert_eq!(header.len(), 16 + usize::from(length));
        prop_assert!(v1(subject).len() <= V1_BYTES_MAX);
    }
}
