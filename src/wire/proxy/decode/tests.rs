//! Conformance: the specification's demands, the probes of the catalogue, the cases of Envoy's own
//! tests (by their names) and of HAProxy's.

use std::collections::HashSet;

use super::*;
use crate::wire::proxy::tests::slow_crc32c;
use crate::wire::proxy::tlv;

/// Lines, where they come from and where they went to.
const LINES: &[(&str, &str, &str)] = &[
    // Probe 25.
    (
        "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        "192.168.0.1:56324",
        "192.168.0.11:443",
    ),
    // V1Basic.
    (
        "PROXY TCP4 1.2.3.4 253.253.253.253 65535 1234\r\n",
        "1.2.3.4:65535",
        "253.253.253.253:1234",
    ),
    (
        "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        "255.255.255.255:65535",
        "255.255.255.255:65535",
    ),
    // InvalidDstAddress and InvalidSrcAddress: for Envoy alone, the specification has them valid.
    (
        "PROXY TCP4 10.1.1.2 0.0.0.0 0 0\r\n",
        "10.1.1.2:0",
        "0.0.0.0:0",
    ),
    (
        "PROXY TCP4 230.0.0.1 10.1.1.3 1 2\r\n",
        "230.0.0.1:1",
        "10.1.1.3:2",
    ),
    // BasicV6.
    (
        "PROXY TCP6 1:2:3::4 5:6::7:8 65535 1234\r\n",
        "[1:2:3::4]:65535",
        "[5:6::7:8]:1234",
    ),
    (
        "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
         65535 65535\r\n",
        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
    ),
    (
        "PROXY TCP6 2001:0DB8:0000::000A :: 1 2\r\n",
        "[2001:db8::a]:1",
        "[::]:2",
    ),
    // Mapped, as `inet_ntop` writes it and as we do; then on one side only.
    (
        "PROXY TCP6 ::ffff:10.0.0.1 ::ffff:a00:2 1 2\r\n",
        "10.0.0.1:1",
        "10.0.0.2:2",
    ),
    (
        "PROXY TCP6 ::ffff:10.0.0.1 3::4 1 2\r\n",
        "10.0.0.1:1",
        "[3::4]:2",
    ),
];

/// What is no header. The byte before the bar is the one that tells.
const LINES_REFUSED: &[(Refused, &[&str])] = &[
    (
        Refused::NoHeader,
        &[
            // Probe 29, MalformedProxyLine, ProxyLineTooLarge.
            "G|ET / HTTP/1.1\r\n",
            "B|OGUS\r\n",
            "0|12345678901234567890123456789",
            "p|roxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            " |PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY\t|TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            // AllowTinyNoProxyProtocolPartialMatchesV1First, and V2First.
            "PR\r|\n",
            "\r\nO|X",
            "\r\n\r\n\0\r\nQUIT\r|\n",
        ],
    ),
    (
        Refused::V1Protocol,
        &[
            "PROXY  |TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY t|cp4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP5| 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4\r|\n",
            "PROXY UNKNOWN4|\r\n",
            // UnsupportedProto.
            "PROXY UD|P6 1:2:3::4 5:6::7:8 1234 5678\r\n",
        ],
    ),
    (
        Refused::V1Address,
        &[
            "PROXY TCP4  |1.2.3.4 5.6.7.8 1 2\r\n",
            // Probe 26.
            "PROXY TCP4 01.2.3.4 |5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.08 |1 2\r\n",
            "PROXY TCP4 1.2.3.00 |5.6.7.8 1 2\r\n",
            "PROXY TCP4 256.2.3.4 |5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3 |5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4.5 |5.6.7.8 1 2\r\n",
            "PROXY TCP4 0x|1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1111111111111111|1111",
            "PROXY TCP4 1:|2:3::4 5:6::7:8 1 2\r\n",
            // AddressVersionsNotMatch and AddressVersionsNotMatch2.
            "PROXY TCP4 [|1:2:3::4] 1.2.3.4 1234 5678\r\n",
            "PROXY TCP4 1.2.3.4 [|1:2:3: 1234 4]:5678\r\n",
            "PROXY TCP6 1.2.3.4 |5.6.7.8 1 2\r\n",
            // BadAddress.
            "PROXY TCP6 1::2:3::4 |5:6::7:8 1234 5678\r\n",
            "PROXY TCP6 1:2:3:4:5:6:7:8:9 |1::2 1 2\r\n",
            "PROXY TCP6 1:2:3:4:5:6:7 |1::2 1 2\r\n",
            "PROXY TCP6 00001::2 |3::4 1 2\r\n",
            "PROXY TCP6 ::ffff:10.0.0.01 |3::4 1 2\r\n",
            // Zone ids.
            "PROXY TCP6 fe80::1%|eth0 3::4 1 2\r\n",
        ],
    ),
    (
        Refused::V1Port,
        &[
            // Probe 27.
            "PROXY TCP4 1.2.3.4 5.6.7.8 70000 |443\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r|\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 100000| 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 080 |443\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 00\r|\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +|1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8  |1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 |\r\n",
            // PortOutOfRange, NegativePort, BadPort, NotEnoughFields, V1TooLong.
            "PROXY TCP6 1:2:3::4 5:6::7:8 66776 |1234\r\n",
            "PROXY TCP6 1:2:3::4 5:6::7:8 -|1 1234\r\n",
            "PROXY TCP6 1:2:3::4 5:6::7:8 1234 a|bc\r\n",
            "PROXY TCP6 1:2:3::4 5:6::7:8 1234\r|\n",
            "PROXY TCP4 1.2.3.4 2.3.4.5 100 100 |                ",
        ],
    ),
    (
        Refused::V1NoCr,
        &[
            // Probe 28.
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n|",
            "PROXY TCP4 1.2.3.4\n|",
            "PROXY UNKNOWN\n|GET / HTTP/1.1\r\n",
            "PROXY UNKNOWN abc\n|\r\n",
        ],
    ),
    (
        Refused::V1NoLf,
        &[
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rG|ET",
            "PROXY UNKNOWN a\rb|\r\n",
        ],
    ),
    (
        Refused::V1LineTooLong,
        &[
            // 108 bytes, then addresses that are right but too long together.
            "PROXY UNKNOWN ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff\
             ffffffffffffffff\r|\n",
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255 \
             ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255 6553|5 65535\r\n",
        ],
    ),
];

/// A header of version 2 whose length field tells what follows.
pub(in crate::wire::proxy) fn binary(command: u8, family: u8, block: &[&[u8]]) -> Vec<u8> {
    let block = block.concat();
    binary_of_length(command, family, block.len(), &block)
}

fn binary_of_length(command: u8, family: u8, length: usize, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(length).unwrap().to_be_bytes();
    let fixed = [command, family, length[0], length[1]];
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &fixed, block].concat()
}

/// A header that has its checksum put where the field is.
pub(in crate::wire::proxy) fn with_crc32c(mut header: Vec<u8>, field_at: usize) -> Vec<u8> {
    header[field_at..field_at + 4].fill(0);
    let crc32c = slow_crc32c(&header);
    header[field_at..field_at + 4].copy_from_slice(&crc32c.to_be_bytes());
    header
}

fn tcp(source: &str, destination: &str) -> Subject {
    Subject::Tcp {
        source: source.parse().unwrap(),
        destination: destination.parse().unwrap(),
    }
}

/// 1.2.3.4:770 to 5.6.7.8:443.
const IPV4: &[u8] = &[1, 2, 3, 4, 5, 6, 7, 8, 3, 2, 1, 187];
/// 102:304::506 to 708:900::a at the same ports.
const IPV6: &[u8] = &[
    1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 6, 7, 8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    10, 3, 2, 1, 187,
];
/// ::ffff:10.0.0.1 to ::ffff:10.0.0.2.
const MAPPED: &[u8] = &[
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 255, 255,
    10, 0, 0, 2, 3, 2, 1, 187,
];
const UNIX: &[u8] = &[b'/'; 216];
const WRONG_CRC32C: &[u8] = &[tlv::CRC32C, 0, 4, 1, 2, 3, 4];
const CRC32C_AT: usize = 16 + IPV4.len() + 3;

/// What Amazon's network load balancer sends: checksum, endpoint and padding.
const AMAZON: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x54\xac\x1f\x07\x71\xac\x1f\x0a\x1f\xc8\xf2\0\x50\
    \x03\0\x04\xe8\xd6\x89\x2d\xea\0\x17\x01vpce-08d2bf15fac5001c9\x04\0\x24\
    \0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Bytes, of whom they speak, and the TLVs.
type Case = (Vec<u8>, Subject, Vec<(u8, &'static [u8])>);

pub(in crate::wire::proxy) fn accepted() -> Vec<Case> {
    let lines = LINES.iter().map(|(line, source, destination)| {
        (line.as_bytes().to_vec(), tcp(source, destination), vec![])
    });
    let unknown = [
        // V1Minimal, then anything, then the longest.
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN \r\n".to_vec(),
        b"PROXY UNKNOWN  \0\xff TCP4 01\r\n".to_vec(),
        [b"PROXY UNKNOWN ".as_slice(), &[b'f'; 91], b"\r\n"].concat(),
    ];
    let unknown = unknown.map(|line| (line, Subject::Unknown, vec![]));
    let plain = tcp("1.2.3.4:770", "5.6.7.8:443");
    let plain_v6 = tcp("[102:304::506]:770", "[708:900::a]:443");
    let (local, unknown_v2) = (Subject::Local, Subject::Unknown);
    let binaries: [Case; 27] = [
        // Probe 17.
        (binary(0x21, 0x11, &[IPV4]), plain, vec![]),
        (binary(0x21, 0x21, &[IPV6]), plain_v6, vec![]),
        (
            binary(0x21, 0x21, &[MAPPED]),
            tcp("10.0.0.1:770", "10.0.0.2:443"),
            vec![],
        ),
        // Probes 19 and 18, V2LocalConnection; whatever else its block is.
        (binary(0x20, 0x00, &[]), local, vec![]),
        (binary(0x20, 0x11, &[IPV4]), local, vec![]),
        (binary(0x20, 0x21, &[IPV6]), local, vec![]),
        (binary(0x20, 0x00, &[IPV4]), local, vec![]),
        (binary(0x20, 0x11, &[b"?"]), local, vec![]),
        (binary(0x20, 0xff, &[b"?"]), local, vec![]),
        (binary(0x20, 0x11, &[IPV4, WRONG_CRC32C]), local, vec![]),
        // V2LocalConnectionExtension.
        (
            binary(0x20, 0x00, &[&[0, 0, 1, 255]]),
            local,
            vec![(0, &[255])],
        ),
        // Unspecified.
        (binary(0x21, 0x00, &[]), unknown_v2, vec![]),
        (binary(0x21, 0x00, &[IPV4]), unknown_v2, vec![]),
        (
            binary(0x21, 0x00, &[&[2, 0, 1, b'a']]),
            unknown_v2,
            vec![(2, b"a")],
        ),
        (binary(0x21, 0x01, &[b"?"]), unknown_v2, vec![]),
        (binary(0x21, 0x10, &[b"?"]), unknown_v2, vec![]),
        // Not of TCP; for V2BasicV6 Envoy takes the addresses of datagrams.
        (binary(0x21, 0x12, &[IPV4]), unknown_v2, vec![]),
        (binary(0x21, 0x22, &[IPV6]), unknown_v2, vec![]),
        (binary(0x21, 0x31, &[UNIX]), unknown_v2, vec![]),
        (
            binary(0x21, 0x32, &[UNIX, &[0xe0, 0, 0]]),
            unknown_v2,
            vec![(0xe0, b"")],
        ),
        // HAProxy's; V2ParseExtensions; V2WillNotOverwriteTLV.
        (
            binary(0x21, 0x11, &[IPV4, b"\x02\0\x0512345"]),
            plain,
            vec![(2, b"12345")],
        ),
        (
            binary(0x21, 0x11, &[IPV4, &[0, 0, 1, 255, 0, 0, 1, 255]]),
            plain,
            vec![(0, &[255]), (0, &[255])],
        ),
        (
            binary(0x21, 0x11, &[IPV4, b"\x02\0\x01a\x0f\0\0\x02\0\x01b"]),
            plain,
            vec![(2, b"a"), (15, b""), (2, b"b")],
        ),
        (
            binary(
                0x21,
                0x21,
                &[IPV6, &[tlv::NOOP, 0, 2, 9, 9, tlv::NOOP, 0, 0]],
            ),
            plain_v6,
            vec![(tlv::NOOP, &[9, 9]), (tlv::NOOP, &[])],
        ),
        (
            AMAZON.to_vec(),
            tcp("172.31.7.113:51442", "172.31.10.31:80"),
            vec![
                (tlv::CRC32C, &[0xe8, 0xd6, 0x89, 0x2d]),
                (0xea, b"\x01vpce-08d2bf15fac5001c9"),
                (tlv::NOOP, &[0; 36]),
            ],
        ),
        (
            binary(0x21, 0x11, &[IPV4, &[tlv::UNIQUE_ID, 0, 128], &[7; 128]]),
            plain,
            vec![(tlv::UNIQUE_ID, &[7; 128])],
        ),
        // V2ParseExtensionsLargeThanInitMaxReadBytes: the length field is full.
        (
            binary(0x21, 0x11, &[IPV4, &[2, 0xff, 0xf0], &[b'a'; 65_520]]),
            plain,
            vec![(2, &[b'a'; 65_520])],
        ),
    ];
    lines.chain(unknown).chain(binaries).collect()
}

/// Bytes, why they are no header, and how many of them tell.
pub(in crate::wire::proxy) fn refused() -> Vec<(Vec<u8>, Refused, usize)> {
    use Refused::*;
    let mut cases = Vec::new();
    for (why, lines) in LINES_REFUSED {
        for line in *lines {
            let known = line.find('|').unwrap();
            cases.push((line.replacen('|', "", 1).into_bytes(), *why, known));
        }
    }
    let first_bytes_tell = [
        // Probe 20, V2BadCommand, V2NotLocalOrOnBehalf.
        (13, V2Version, binary(0x11, 0x11, &[])),
        (13, V2Version, binary(0x31, 0x11, &[IPV4])),
        (13, V2Command, binary(0x22, 0x11, &[IPV4])),
        (13, V2Command, binary(0x29, 0x32, &[UNIX])),
        (13, V2Command, binary(0x23, 0x1f, &[IPV4])),
        // V2UnsupportedAF, V2WrongVersion.
        (14, V2Family, binary(0x21, 0x41, &[IPV4])),
        (14, V2Family, binary(0x21, 0x93, &[IPV4])),
        (14, V2Transport, binary(0x21, 0x13, &[IPV4])),
        (14, V2Transport, binary(0x21, 0x0f, &[])),
        // Probe 21, V2ShortAddrV4, V2ShortV4, V2ShortAddrV6, V2AF_UNIX.
        (16, V2ShortAddress, binary(0x21, 0x11, &[])),
        (16, V2ShortAddress, binary(0x21, 0x11, &[&IPV4[..11]])),
        (16, V2ShortAddress, binary(0x21, 0x21, &[&IPV6[..4]])),
        (16, V2ShortAddress, binary(0x21, 0x21, &[&IPV6[..35]])),
        (16, V2ShortAddress, binary(0x21, 0x22, &[&IPV6[..35]])),
        (16, V2ShortAddress, binary(0x21, 0x12, &[&IPV4[..11]])),
        (16, V2ShortAddress, binary(0x21, 0x32, &[&UNIX[..20]])),
        (16, V2ShortAddress, binary(0x21, 0x31, &[&UNIX[..215]])),
    ];
    cases.extend(first_bytes_tell.map(|(known, why, bytes)| (bytes, why, known)));

    let zeroes = [tlv::CRC32C, 0, 4, 0, 0, 0, 0];
    let sealed = binary(0x21, 0x11, &[IPV4, &zeroes, &[2, 0, 1, b'a']]);
    let sealed = with_crc32c(sealed, CRC32C_AT);
    let changed = |at: usize| {
        let mut bytes = sealed.clone();
        bytes[at] ^= 1;
        bytes
    };
    let two_sums = binary(0x21, 0x11, &[IPV4, &zeroes, &zeroes]);
    let past_the_end = [IPV4, b"\x02\0\x0a12345"].concat();
    let all_tell = [
        // Probes 22 and 23, V2WrongTLVLength, V2IncompleteTLV; HAProxy's, with the rest behind it.
        (V2Tlv, binary(0x21, 0x11, &[IPV4, &[2, 0, 2, b'a']])),
        (V2Tlv, binary(0x21, 0x11, &[IPV4, &[2, 0, 1, b'a', 0]])),
        (V2Tlv, binary(0x21, 0x11, &[IPV4, &[2, 0, 1, b'a', 2, 0]])),
        (V2Tlv, binary(0x21, 0x11, &[IPV4, &[0xe1]])),
        (V2Tlv, binary(0x21, 0x31, &[UNIX, &[0]])),
        (V2Tlv, binary_of_length(0x21, 0x11, 20, &past_the_end)),
        // Probe 24; then a change of an address and of a TLV after the sum.
        (V2Crc, changed(CRC32C_AT)),
        (V2Crc, changed(16)),
        (V2Crc, changed(sealed.len() - 1)),
        (
            V2Crc,
            binary(0x21, 0x11, &[IPV4, &[tlv::CRC32C, 0, 3, 0, 0, 0]]),
        ),
        (
            V2Crc,
            binary(0x21, 0x11, &[IPV4, &[tlv::CRC32C, 0, 5, 0, 0, 0, 0, 0]]),
        ),
        (V2Crc, with_crc32c(two_sums, CRC32C_AT + 7)),
        (V2Crc, binary(0x20, 0x00, &[WRONG_CRC32C])),
        (
            V2UniqueId,
            binary(0x21, 0x11, &[IPV4, &[tlv::UNIQUE_ID, 0, 129], &[7; 129]]),
        ),
    ];
    for (why, bytes) in all_tell {
        let known = bytes.len();
        cases.push((bytes, why, known));
    }
    cases
}

#[test]
fn every_prefix_of_a_header_asks_for_more_and_what_follows_it_is_left_alone() {
    for (bytes, subject, tlvs) in accepted() {
        let name = bytes.escape_ascii();
        let is_line = bytes[0] == b'P';
        let version = if is_line { Version::V1 } else { Version::V2 };
        let follows = [&bytes, b"\r\nPROXY data".as_slice()].concat();
        for length in 0..=follows.len() {
            let decoded = decode(&follows[..length]);
            if length < bytes.len() {
                assert_eq!(decoded, Ok(Decoded::More), "{name}: {length}");
                continue;
            }
            let Ok(Decoded::Header(header, consumed)) = decoded else {
                panic!("{name}: {length}: {decoded:?}");
            };
            assert_eq!(consumed, bytes.len(), "{name}");
            assert_eq!(header.subject, subject, "{name}");
            assert_eq!(header.version, version, "{name}");
            assert_eq!(header.tlvs.iter().collect::<Vec<_>>(), tlvs, "{name}");
        }
    }
}

#[test]
fn bytes_are_refused_alike_from_the_byte_on_that_tells() {
    for (bytes, why, known) in refused() {
        for length in 0..=bytes.len() {
            let expected = if length < known {
                Ok(Decoded::More)
            } else {
                Err(why)
            };
            let decoded = decode(&bytes[..length]);
            assert_eq!(decoded, expected, "{}: {length}", bytes.escape_ascii());
        }
    }
}

#[test]
fn a_header_over_the_readers_bound_is_refused_once_its_length_is_known() {
    let header = binary(0x21, 0x11, &[IPV4, &[2, 0, 10], &[b'a'; 10]]);
    for length in 0..=header.len() {
        let decoded = decode_up_to(&header[..length], header.len() - 1);
        let expected = if length < 16 {
            Ok(Decoded::More)
        } else {
            Err(Refused::TooLarge)
        };
        assert_eq!(decoded, expected, "{length}");
    }
    assert_eq!(decode_up_to(&header, header.len()), decode(&header));
    assert!(matches!(decode(&header), Ok(Decoded::Header(..))));
}

#[test]
fn the_first_tlv_of_a_type_is_found() {
    let block = [0xe1, 0, 1, b'x', 2, 0, 1, b'a', 2, 0, 1, b'b'];
    let Ok(Decoded::Header(header, _)) = decode(&binary(0x21, 0x11, &[IPV4, &block])) else {
        panic!("refused");
    };
    assert_eq!(header.tlvs.first(2), Some(b"a".as_slice()));
    assert_eq!(header.tlvs.first(3), None);
    assert_eq!(header.tlvs.as_bytes(), block);
}

#[test]
fn first_bytes_are_like_a_header_once_its_signature_is_whole() {
    for (bytes, is_like) in [
        (b"".as_slice(), false),
        (b"PROXY", false),
        (b"PROXY ", true),
        (b"PROXY whatever", true),
        (b"proxy TCP4", false),
        (b" PROXY ", false),
        (b"\r\n\r\n\0\r\nQUIT", false),
        (b"\r\n\r\n\0\r\nQUIT\n", true),
        (b"\r\n\r\n\0\r\nQUIT\n\xff", true),
        (b"\x16\x03\x01", false),
    ] {
        assert_eq!(starts_like_header(bytes), is_like, "{bytes:?}");
    }
}

#[test]
fn every_word_is_its_own() {
    let reasons: HashSet<Refused> = refused().iter().map(|(_, why, _)| *why).collect();
    let words: HashSet<&str> = reasons.iter().map(|why| why.as_str()).collect();
    assert_eq!(words.len(), reasons.len());
    let is_plain = |char: char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '_';
    assert!(
        words.iter().all(|word| word.chars().all(is_plain)),
        "{words:?}"
    );
}
