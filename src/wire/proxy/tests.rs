//! What is read held against a slow reading of the specification as a second opinion, and against
//! what was written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use proptest::prelude::*;

use super::decode::tests::{accepted, binary, refused, with_crc32c};
use super::*;

type OwnedTlvs = Vec<(u8, Vec<u8>)>;

/// What the specification says of bytes, read slowly and only once they are all there.
#[derive(Debug, PartialEq)]
enum Opinion {
    Incomplete,
    Wrong,
    Right(Subject, OwnedTlvs, usize),
}

fn opinion(bytes: &[u8]) -> Opinion {
    if bytes.starts_with(b"PROXY ") {
        let first: Vec<u8> = bytes.iter().copied().take(107).collect();
        let Some(end) = first.windows(2).position(|pair| pair == b"\r\n") else {
            return if first.len() == 107 {
                Opinion::Wrong
            } else {
                Opinion::Incomplete
            };
        };
        return match line_opinion(&first[..end]) {
            Some(subject) => Opinion::Right(subject, vec![], end + 2),
            None => Opinion::Wrong,
        };
    }
    let signature = b"\r\n\r\n\0\r\nQUIT\n";
    if bytes.len() < 16 {
        let could_be = b"PROXY ".starts_with(bytes)
            || signature.starts_with(bytes)
            || bytes.starts_with(signature);
        return if could_be {
            Opinion::Incomplete
        } else {
            Opinion::Wrong
        };
    }
    let length = usize::from(bytes[14]) * 256 + usize::from(bytes[15]);
    if !bytes.starts_with(signature) {
        return Opinion::Wrong;
    }
    if bytes.len() < 16 + length {
        return Opinion::Incomplete;
    }
    match binary_opinion(&bytes[..16 + length]) {
        Some((subject, tlvs)) => Opinion::Right(subject, tlvs, 16 + length),
        None => Opinion::Wrong,
    }
}

fn line_opinion(line: &[u8]) -> Option<Subject> {
    if line.contains(&b'\r') || line.contains(&b'\n') {
        return None;
    }
    let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    if words[1] == b"UNKNOWN" {
        return Some(Subject::Unknown);
    }
    let [_, protocol, source, destination, from, to] = words[..] else {
        return None;
    };
    let address = |word: &[u8]| match protocol {
        b"TCP4" => ipv4_opinion(word).map(IpAddr::from),
        b"TCP6" => ipv6_opinion(word).map(|groups| IpAddr::from(groups).to_canonical()),
        _ => None,
    };
    Some(Subject::Tcp {
        source: SocketAddr::new(address(source)?, number_opinion(from, 65_535)?),
        destination: SocketAddr::new(address(destination)?, number_opinion(to, 65_535)?),
    })
}

fn number_opinion(word: &[u8], max: u16) -> Option<u16> {
    let is_number = (1..=5).contains(&word.len()) && word.iter().all(u8::is_ascii_digit);
    if !is_number || word[0] == b'0' && word.len() > 1 {
        return None;
    }
    let value = word
        .iter()
        .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    u16::try_from(value).ok().filter(|value| *value <= max)
}

fn ipv4_opinion(word: &[u8]) -> Option<[u8; 4]> {
    let octets: Option<Vec<u8>> = word
        .split(|byte| *byte == b'.')
        .map(|octet| number_opinion(octet, 255).map(|octet| octet as u8))
        .collect();
    octets?.try_into().ok()
}

fn ipv6_opinion(word: &[u8]) -> Option<[u16; 8]> {
    let text = std::str::from_utf8(word).ok()?;
    let groups = |text: &str, may_have_dots: bool| -> Option<Vec<u16>> {
        let mut groups = vec![];
        let words: Vec<&str> = text.split(':').collect();
        for (nth, word) in words.iter().enumerate().filter(|_| !text.is_empty()) {
            if word.contains('.') && may_have_dots && nth + 1 == words.len() {
                let [a, b, c, d] = ipv4_opinion(word.as_bytes())?.map(u16::from);
                groups.extend([a * 256 + b, c * 256 + d]);
            } else {
                let is_group = (1..=4).contains(&word.len())
                    && word.bytes().all(|byte| byte.is_ascii_hexdigit());
                groups.push(is_group.then(|| u16::from_str_radix(word, 16).unwrap())?);
            }
        }
        Some(groups)
    };
    let all = match text.split_once("::") {
        None => groups(text, true)?,
        Some((before, after)) => {
            let (mut before, after) = (groups(before, false)?, groups(after, true)?);
            if before.len() + after.len() > 7 {
                return None;
            }
            before.resize(8 - after.len(), 0);
            [before, after].concat()
        }
    };
    all.try_into().ok()
}

fn binary_opinion(header: &[u8]) -> Option<(Subject, OwnedTlvs)> {
    let is_local = match header[12] {
        0x20 => true,
        0x21 => false,
        _ => return None,
    };
    let block = &header[16..];
    let family = header[13];
    let own = if is_local {
        Subject::Local
    } else {
        Subject::Unknown
    };
    if family == 0 {
        return match tlvs_opinion(header, block) {
            Ok(tlvs) => Some((own, tlvs)),
            Err(IsSound::No) => Some((own, vec![])),
            Err(IsSound::Yes) => None,
        };
    }
    if is_local {
        return Some((own, vec![]));
    }
    if family >> 4 > 3 || family & 15 > 2 {
        return None;
    }
    if family >> 4 == 0 || family & 15 == 0 {
        return Some((own, vec![]));
    }
    let size = [0, 12, 36, 216][usize::from(family >> 4)];
    let tlvs = tlvs_opinion(header, block.get(size..)?).ok()?;
    let port = |at: usize| u16::from(block[at]) * 256 + u16::from(block[at + 1]);
    let v4 = |at: usize| IpAddr::from([block[at], block[at + 1], block[at + 2], block[at + 3]]);
    let v6 = |at: usize| {
        IpAddr::from(std::array::from_fn::<u8, 16, _>(|nth| block[at + nth])).to_canonical()
    };
    let (source, destination) = match family {
        0x11 => ((v4(0), port(8)), (v4(4), port(10))),
        0x21 => ((v6(0), port(32)), (v6(16), port(34))),
        _ => return Some((own, tlvs)),
    };
    let subject = Subject::Tcp {
        source: source.into(),
        destination: destination.into(),
    };
    Some((subject, tlvs))
}

/// Whether what is wrong with TLVs is a value and not their lengths.
enum IsSound {
    Yes,
    No,
}

fn tlvs_opinion(header: &[u8], block: &[u8]) -> Result<OwnedTlvs, IsSound> {
    let mut tlvs = vec![];
    let mut zeroed = header.to_vec();
    let mut at = header.len() - block.len();
    while at < header.len() {
        if at + 3 > header.len() {
            return Err(IsSound::No);
        }
        let end = at + 3 + usize::from(header[at + 1]) * 256 + usize::from(header[at + 2]);
        if end > header.len() {
            return Err(IsSound::No);
        }
        if header[at] == 3 {
            zeroed[at + 3..end].fill(0);
        }
        tlvs.push((header[at], header[at + 3..end].to_vec()));
        at = end;
    }
    let sums: Vec<&Vec<u8>> = tlvs
        .iter()
        .filter(|tlv| tlv.0 == 3)
        .map(|tlv| &tlv.1)
        .collect();
    let is_sum_right = match sums[..] {
        [] => true,
        [sum] => *sum == slow_crc32c(&zeroed).to_be_bytes(),
        _ => false,
    };
    let are_ids_short = tlvs.iter().all(|tlv| tlv.0 != 5 || tlv.1.len() <= 128);
    if is_sum_right && are_ids_short {
        Ok(tlvs)
    } else {
        Err(IsSound::Yes)
    }
}

/// Holds the decoder against the slow reading.
fn compare(bytes: &[u8]) -> Result<(), TestCaseError> {
    let decoded = decode(bytes);
    match opinion(bytes) {
        Opinion::Right(subject, tlvs, consumed) => {
            let Ok(Decoded::Header(header, bytes)) = decoded else {
                return Err(TestCaseError::fail(format!("{decoded:?}")));
            };
            let found: OwnedTlvs = header
                .tlvs
                .iter()
                .map(|(kind, value)| (kind, value.to_vec()))
                .collect();
            prop_assert_eq!((header.subject, found, bytes), (subject, tlvs, consumed));
        }
        Opinion::Wrong => prop_assert!(decoded.is_err(), "{:?}", decoded),
        Opinion::Incomplete => prop_assert!(!matches!(decoded, Ok(Decoded::Header(..)))),
    }
    // What is refused early stays refused, and nothing asks for more that is there.
    let whole = decode(bytes);
    for length in 0..bytes.len().min(400) {
        match decode(&bytes[..length]) {
            Ok(Decoded::More) => {}
            told => prop_assert_eq!(&told, &whole, "{}", length),
        }
    }
    Ok(())
}

/// Words of which lines are made, right and wrong ones.
fn word() -> impl Strategy<Value = String> {
    let fixed = prop::sample::select(vec![
        "TCP4",
        "TCP6",
        "UNKNOWN",
        "PROXY",
        "",
        "0",
        "00",
        "65535",
        "65536",
        "1",
        "443",
        "1.2.3.4",
        "1.2.3.04",
        "1.2.3",
        "255.255.255.256",
        "::",
        "::1",
        "1::2",
        "1:2:3:4:5:6:7:8",
        "1:2:3:4:5:6:7::",
        "1::2:3:4:5:6:7:8",
        "::ffff:1.2.3.4",
        "::1.2.3.4:5",
        "fe80::1%1",
        ":::",
        "1:",
        "12345::",
        "\r",
        "\n",
    ]);
    prop_oneof![
        4 => fixed.prop_map(str::to_owned),
        1 => any::<Ipv4Addr>().prop_map(|ip| ip.to_string()),
        1 => any::<Ipv6Addr>().prop_map(|ip| ip.to_string()),
        1 => any::<u16>().prop_map(|port| port.to_string()),
    ]
}

fn any_line() -> impl Strategy<Value = Vec<u8>> {
    let family = prop_oneof![Just("TCP4"), Just("TCP6"), Just("UNKNOWN")];
    let end = prop_oneof![6 => Just("\r\n"), 1 => Just("\n"), 1 => Just("\r"), 1 => Just("")];
    (
        family,
        prop::collection::vec(word(), 3..6),
        end,
        "[a ]{0,60}",
    )
        .prop_map(|(family, words, end, rest)| {
            format!("PROXY {family} {}{end}{rest}", words.join(" ")).into_bytes()
        })
}

fn right_line() -> impl Strategy<Value = Vec<u8>> {
    let v4 = any::<[Ipv4Addr; 2]>().prop_map(|[from, to]| format!("TCP4 {from} {to}"));
    let v6 = any::<[Ipv6Addr; 2]>().prop_map(|[from, to]| format!("TCP6 {from} {to}"));
    (prop_oneof![v4, v6], any::<[u16; 2]>())
        .prop_map(|(ips, [from, to])| format!("PROXY {ips} {from} {to}\r\ndata").into_bytes())
}

fn any_binary() -> impl Strategy<Value = Vec<u8>> {
    let command = prop_oneof![8 => Just(0x21), 3 => Just(0x20), 1 => any::<u8>()];
    let family = prop_oneof![
        8 => prop::sample::select(vec![0x00, 0x11, 0x21, 0x12, 0x22, 0x31, 0x32]),
        2 => prop::sample::select(vec![0x01, 0x10, 0x20, 0x30, 0x13, 0x41]),
        1 => any::<u8>(),
    ];
    let kind = prop_oneof![2 => prop::sample::select(vec![1, 2, 3, 4, 5, 0x20]), 1 => any::<u8>()];
    let value = prop_oneof![
        8 => prop::collection::vec(any::<u8>(), 0..8),
        1 => prop::collection::vec(any::<u8>(), 126..131),
    ];
    let tlvs = prop::collection::vec((kind, value), 0..5);
    let stray = prop_oneof![6 => Just(vec![]), 1 => prop::collection::vec(any::<u8>(), 0..8)];
    let short = prop_oneof![10 => Just(0_usize), 1 => 1..20_usize];
    (command, family, tlvs, stray, short, any::<bool>()).prop_map(
        |(command, family, tlvs, stray, short, is_sealed)| {
            let addresses = [0, 12, 36, 216, 7][usize::from(family >> 4).min(4)];
            let mut block: Vec<u8> = (0..addresses).map(|nth| nth as u8).collect();
            let mut field_at = None;
            for (kind, value) in tlvs {
                if kind == 3 && value.len() == 4 {
                    field_at = Some(16 + block.len() + 3);
                }
                tlv::push(&mut block, kind, &value);
            }
            block.extend(stray);
            block.truncate(block.len().saturating_sub(short));
            let header = binary(command, family, &[&block]);
            match field_at.filter(|at| is_sealed && at + 4 <= header.len()) {
                Some(at) => with_crc32c(header, at),
                None => header,
            }
        },
    )
}

/// A few bytes of a sample changed, taken out or put in.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let samples: Vec<Vec<u8>> = accepted()
        .into_iter()
        .map(|case| case.0)
        .chain(refused().into_iter().map(|case| case.0))
        .filter(|bytes| bytes.len() < 1_000)
        .collect();
    let change = (any::<prop::sample::Index>(), any::<u8>(), 0..3_u8);
    (
        prop::sample::select(samples),
        prop::collection::vec(change, 1..4),
    )
        .prop_map(|(mut bytes, changes)| {
            for (at, byte, how) in changes {
                let at = at.index(bytes.len().max(1));
                match how {
                    _ if bytes.is_empty() => {}
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            bytes
        })
}

#[test]
fn the_cases_are_as_the_slow_reading_has_them() {
    for (bytes, subject, _) in accepted() {
        let opinion = opinion(&bytes);
        let is_right = matches!(&opinion, Opinion::Right(found, ..) if *found == subject);
        assert!(is_right, "{}: {opinion:?}", bytes.escape_ascii());
    }
    for (bytes, ..) in refused() {
        let opinion = opinion(&bytes);
        let is_right = matches!(opinion, Opinion::Right(..));
        assert!(!is_right, "{}: {opinion:?}", bytes.escape_ascii());
    }
}

proptest! {
    #[test]
    fn lines_are_read_as_the_slow_reading_has_them(bytes in any_line()) {
        compare(&bytes)?;
    }

    #[test]
    fn right_lines_are_read(bytes in right_line()) {
        compare(&bytes)?;
        prop_assert!(matches!(decode(&bytes), Ok(Decoded::Header(..))));
    }

    #[test]
    fn binary_headers_are_read_as_the_slow_reading_has_them(bytes in any_binary()) {
        compare(&bytes)?;
    }

    #[test]
    fn changed_headers_are_read_as_the_slow_reading_has_them(bytes in mutated()) {
        compare(&bytes)?;
    }

    #[test]
    fn any_bytes_are_read_as_the_slow_reading_has_them(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        beginning in 0..3_usize,
    ) {
        let beginnings = [b"".as_slice(), b"PROXY ", b"\r\n\r\n\0\r\nQUIT\n"];
        compare(&[beginnings[beginning], &bytes].concat())?;
    }
}

/// Bit by bit (RFC 4960, appendix B).
pub(super) fn slow_crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    })
}

fn any_subject() -> impl Strategy<Value = Subject> {
    prop_oneof![
        Just(Subject::Local),
        Just(Subject::Unknown),
        any::<[SocketAddr; 2]>().prop_map(|[source, destination]| Subject::Tcp {
            source,
            destination,
        }),
    ]
}

/// As a reader is to have it: canonical, without zone and flow.
fn canonical(subject: Subject) -> Subject {
    let end = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
    match subject {
        Subject::Tcp {
            source,
            destination,
        } => Subject::Tcp {
            source: end(source),
            destination: end(destination),
        },
        other => other,
    }
}

fn read(header: &[u8]) -> Header {
    let follows = [header, b"data"].concat();
    match decode(&follows) {
        Ok(Decoded::Header(read, bytes)) if bytes == header.len() => read,
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        subject in any_subject(),
        alpn: Option<Vec<u8>>,
        authority in prop::option::of("[a-z.]{0,60}"),
        unique_id in prop::option::of(prop::collection::vec(any::<u8>(), 0..=128)),
        others in prop::collection::vec((tlv::CUSTOM_MIN..=tlv::CUSTOM_MAX, any::<Vec<u8>>()), 0..4),
        crc32c: bool,
    ) {
        let others: Vec<(u8, &[u8])> = others.iter().map(|(kind, value)| (*kind, &**value)).collect();
        let extras = Extras {
            alpn: alpn.as_deref(),
            authority: authority.as_deref().map(str::as_bytes),
            unique_id: unique_id.as_deref(),
            others: &others,
            crc32c,
            ..Extras::default()
        };
        let header = v2_with(subject, &extras).unwrap();
        prop_assert_eq!(usize::from(u16::from_be_bytes([header[14], header[15]])), header.len() - 16);
        let received = read(&header);
        prop_assert_eq!(received.subject, canonical(subject));
        prop_assert_eq!(received.tlvs.first(tlv::ALPN), extras.alpn);
        prop_assert_eq!(received.tlvs.first(tlv::AUTHORITY), extras.authority);
        prop_assert_eq!(received.tlvs.first(tlv::UNIQUE_ID), extras.unique_id);
        prop_assert_eq!(received.tlvs.first(tlv::CRC32C).is_some(), crc32c);
        let custom: Vec<_> = received.tlvs.iter().filter(|(kind, _)| *kind >= 0xe0).collect();
        prop_assert_eq!(&custom, &others);

        // One hop further it is the same header, byte for byte.
        let relayed = Extras { received: Some(&received.tlvs), ..Extras::default() };
        prop_assert_eq!(v2_with(received.subject, &relayed).unwrap(), header);
    }

    #[test]
    fn lines_written_are_read_back(subject in any_subject()) {
        let expected = match canonical(subject) {
            Subject::Local => Subject::Unknown,
            told => told,
        };
        let line = v1(subject);
        prop_assert!(line.len() <= V1_BYTES_MAX);
        let received = read(&line);
        prop_assert_eq!((received.subject, received.version), (expected, Version::V1));
    }
}
