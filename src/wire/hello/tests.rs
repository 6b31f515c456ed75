//! Hellos of rustls' own client and hand-made ones, whole and in every split, against rustls' own
//! acceptor.

use std::sync::Arc;

use proptest::prelude::*;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::server::Acceptor;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::*;

/// What rustls' client sends first: the bytes on the wire.
fn client(name: &str, change: impl FnOnce(&mut ClientConfig)) -> Vec<u8> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![
        aws_lc_rs::kx_group::X25519MLKEM768,
        aws_lc_rs::kx_group::X25519,
    ];
    connect(provider, &[&TLS13, &TLS12], name, change)
}

fn connect(
    provider: tokio_rustls::rustls::crypto::CryptoProvider,
    versions: &[&'static tokio_rustls::rustls::SupportedProtocolVersion],
    name: &str,
    change: impl FnOnce(&mut ClientConfig),
) -> Vec<u8> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    change(&mut config);
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
    let mut sent = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut sent).unwrap();
    }
    sent
}

/// So many protocols of the greatest length.
fn long_alpn(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|one| vec![one; 255]).collect()
}

/// What clients send, what they ask for, and how many bytes it has at least.
fn samples() -> Vec<(Vec<u8>, Hello)> {
    let browser = [b"h2".to_vec(), b"http/1.1".to_vec()];
    let classic = || {
        let mut provider = aws_lc_rs::default_provider();
        provider.kx_groups = vec![aws_lc_rs::kx_group::X25519];
        provider
    };
    let old = connect(classic(), &[&TLS12], "old.example", |_| {});
    let small = connect(classic(), &[&TLS13], "a.example", |config| {
        config.alpn_protocols = browser.to_vec();
    });
    let post_quantum = client("pq.example.org", |config| {
        config.alpn_protocols = browser.to_vec();
    });
    let nameless = client("pq.example.org", |config| config.enable_sni = false);
    let address = client("192.0.2.1", |_| {});
    let of_12_kb = client("big.example", |config| {
        config.alpn_protocols = long_alpn(42)
    });
    let of_17_kb = client("bigger.example", |config| {
        config.alpn_protocols = long_alpn(62)
    });
    for (sent, bytes) in [(&old, 150..300), (&post_quantum, 1_300..1_700)] {
        assert!(bytes.contains(&sent.len()), "{} bytes", sent.len());
    }
    assert!((12_000..13_000).contains(&of_12_kb.len()));
    // In two records, as rustls sends it.
    assert!((17_000..18_000).contains(&of_17_kb.len()));
    vec![
        (old, asks("old.example", &[])),
        (small, asks("a.example", &browser)),
        (post_quantum, asks("pq.example.org", &browser)),
        (nameless, asks("", &[])),
        (address, asks("", &[])),
        (of_12_kb, asks("big.example", &long_alpn(42))),
        (of_17_kb, asks("bigger.example", &long_alpn(62))),
    ]
}

/// A hello as it is to be read; no name if it is empty.
fn asks(name: &str, alpn: &[Vec<u8>]) -> Hello {
    Hello {
        name: HostName::parse(name).ok(),
        alpn: Protocols {
            list: alpn_list(alpn).into(),
        },
    }
}

fn alpn_list(names: &[Vec<u8>]) -> Vec<u8> {
    let one = |name: &Vec<u8>| [&[name.len() as u8], &name[..]].concat();
    names.iter().flat_map(one).collect()
}

/// The first message that these whole records hold.
fn message_of(records: &[u8]) -> Vec<u8> {
    gather(
        records,
        records.len() - records_in(records) * RECORD_HEADER_BYTES,
    )
}

fn records_in(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some(length)) = record_length(bytes, true) {
        bytes = &bytes[RECORD_HEADER_BYTES + length..];
        count += 1;
    }
    count
}

fn record(part: &[u8]) -> Vec<u8> {
    let length = u16::try_from(part.len()).unwrap().to_be_bytes();
    [&[22, 3, 1], &length[..], part].concat()
}

/// The message in records of so many bytes.
fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    message
        .chunks(size)
        .map(record)
        .collect::<Vec<_>>()
        .concat()
}

fn vector16(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&length, content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [&kind.to_be_bytes(), &vector16(content)[..]].concat()
}

/// One without which rustls accepts none.
fn signature_algorithms() -> Vec<u8> {
    extension(13, &vector16(&[4, 3, 8, 4]))
}

fn server_name(entries: &[(u8, &[u8])]) -> Vec<u8> {
    let entry = |&(kind, name): &(u8, &[u8])| [&[kind], &vector16(name)[..]].concat();
    let list: Vec<u8> = entries.iter().flat_map(entry).collect();
    extension(0, &vector16(&list))
}

fn alpn(names: &[&[u8]]) -> Vec<u8> {
    let names: Vec<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    extension(16, &vector16(&alpn_list(&names)))
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

/// Version, random, no session, one cipher suite, no compression.
fn body_start() -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body
}

/// A hello in one record with these extensions, and with the one that rustls insists on.
fn hello_with(extensions: &[Vec<u8>]) -> Vec<u8> {
    let all = [signature_algorithms(), extensions.concat()].concat();
    let body = [body_start(), vector16(&all)].concat();
    record(&message(1, &body))
}

fn name_in(sent: &[u8]) -> Result<Option<String>, NotHello> {
    match read(sent)? {
        Seen::Hello(hello) => Ok(hello.name.map(|name| name.as_str().to_owned())),
        more => panic!("{more:?}"),
    }
}

/// What rustls makes of the same bytes; `None`: it waits for more, or refuses them.
fn rustls_reads(sent: &[u8]) -> Option<(Option<String>, Vec<Vec<u8>>)> {
    let mut acceptor = Acceptor::default();
    let mut rest = sent;
    while !rest.is_empty() {
        acceptor.read_tls(&mut rest).ok()?;
        if let Some(accepted) = acceptor.accept().ok()? {
            let hello = accepted.client_hello();
            let name = hello
                .server_name()
                .map(|name| name.strip_suffix('.').unwrap_or(name));
            let alpn = hello.alpn().into_iter().flatten().map(<[u8]>::to_vec);
            return Some((name.map(str::to_owned), alpn.collect()));
        }
    }
    None
}

/// Whatever rustls takes is taken, and is the same.
fn check_against_rustls(sent: &[u8]) {
    let Some((name, alpn)) = rustls_reads(sent) else {
        return;
    };
    match read(sent) {
        Ok(Seen::Hello(hello)) => {
            assert_eq!(hello.name.map(|name| name.as_str().to_owned()), name);
            assert!(hello.alpn.iter().eq(alpn.iter()));
        }
        // It looks less closely: at the length and the version of records, and at what follows a
        // name of a type it does not know.
        Err(NotHello::NotTls | NotHello::Malformed("record_version" | "record_too_long")) => {}
        Err(NotHello::Malformed(what)) if what.starts_with("server_name") => {}
        other => panic!("rustls takes what is {other:?}"),
    }
}

#[test]
fn what_clients_send_is_read_as_rustls_reads_it() {
    for (sent, expected) in samples() {
        assert!(rustls_reads(&sent).is_some());
        check_against_rustls(&sent);
        assert_eq!(read(&sent), Ok(Seen::Hello(expected)));
    }
}

#[test]
fn every_split_into_two_segments_gives_the_same_hello() {
    for (sent, expected) in samples() {
        for cut in 0..sent.len() {
            let Ok(Seen::More { at_least }) = read(&sent[..cut]) else {
                panic!("{:?} after {cut} bytes", read(&sent[..cut]));
            };
            assert!(
                cut < at_least && at_least <= sent.len(),
                "{at_least} at {cut}"
            );
        }
        // Early data, or whatever else: not looked at.
        let more = [&sent[..], b"\0\xffwhatever"].concat();
        assert_eq!(read(&more), Ok(Seen::Hello(expected)));
    }
}

#[test]
fn every_split_into_two_records_gives_the_same_hello() {
    let mut cases = 0;
    for (sent, expected) in samples() {
        let message = message_of(&sent);
        let expected = Ok(Seen::Hello(expected));
        for cut in 1..message.len() {
            let (one, two) = message.split_at(cut);
            let sent = [in_records(one, 1 << 14), in_records(two, 1 << 14)].concat();
            assert_eq!(read(&sent), expected, "cut at {cut}");
            assert!(matches!(
                read(&sent[..sent.len() - 1]),
                Ok(Seen::More { .. })
            ));
            cases += 1;
        }
    }
    assert!(cases > 3_000, "{cases}");
}

#[test]
fn records_of_every_size_give_the_same_hello() {
    for (sent, expected) in samples() {
        let message = message_of(&sent);
        let expected = Ok(Seen::Hello(expected));
        for size in [1, 2, 3, 4, 5, 16, 255, 1_000, 1 << 14] {
            let sent = in_records(&message, size);
            if sent.len() <= HELLO_WIRE_BYTES_MAX {
                assert_eq!(read(&sent), expected, "records of {size}");
                check_against_rustls(&sent);
            } else {
                assert_eq!(read(&sent), Err(NotHello::TooLarge), "records of {size}");
                assert!(
                    size < 4,
                    "records of {size} are too small for {}",
                    message.len()
                );
            }
        }
    }
}

#[test]
fn a_byte_at_a_time_is_looked_at_a_few_times_only() {
    let longest = message(1, &[0; HELLO_BYTES_MAX]);
    for size in [6, 16, 1_000, 1 << 14] {
        let sent = in_records(&longest, size);
        let (mut come, mut looks) = (0, 0);
        // The body is no hello: the end of waiting is all that is asked for.
        while let Ok(Seen::More { at_least }) = read(&sent[..come]) {
            assert!(
                come < at_least && at_least <= sent.len(),
                "{at_least} after {come}"
            );
            come = at_least;
            looks += 1;
        }
        assert_eq!(come, sent.len());
        assert!(looks <= 60, "{looks} looks at records of {size}");
    }
}

#[test]
fn the_longest_hello_is_read_and_a_longer_one_refused_by_its_header() {
    let frame = hello_with(&[extension(99, &[])]).len() - RECORD_HEADER_BYTES - 4;
    let padded = |bytes: usize| {
        let padding = extension(99, &vec![0; bytes - frame]);
        let all = [signature_algorithms(), padding].concat();
        message(1, &[body_start(), vector16(&all)].concat())
    };
    let longest = padded(HELLO_BYTES_MAX);
    for size in [6, 16, 1 << 14] {
        let sent = in_records(&longest, size);
        assert!(sent.len() <= HELLO_WIRE_BYTES_MAX);
        assert_eq!(read(&sent), Ok(Seen::Hello(Hello::default())));
    }
    let longer = in_records(&padded(HELLO_BYTES_MAX + 1), 1 << 14);
    assert!(matches!(read(&longer[..8]), Ok(Seen::More { .. })));
    assert_eq!(read(&longer[..9]), Err(NotHello::TooLarge));
    assert_eq!(read(&longer), Err(NotHello::TooLarge));
}

#[test]
fn records_too_small_for_the_length_are_refused_before_the_bound() {
    let sent = in_records(&message(1, &[0; HELLO_BYTES_MAX]), 5);
    let mut come = 0;
    while let Ok(Seen::More { at_least }) = read(&sent[..come]) {
        assert!(come < at_least && at_least <= HELLO_WIRE_BYTES_MAX);
        come = at_least;
    }
    assert_eq!(read(&sent[..come]), Err(NotHello::TooLarge));
    assert_eq!(read(&sent), Err(NotHello::TooLarge));
    assert_eq!(NotHello::TooLarge.as_str(), "hello_too_large");
}

#[test]
fn other_protocols_are_told_at_the_first_byte_that_is_not_tls() {
    for (sent, at) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1),
        (b"SSH-2.0-OpenSSH_9.9\r\n", 1),
        (b"PROXY TCP4 ", 1),
        (&[0; 20], 1),
        // SSL 2.0, with its length first; an alert, and the data of a session, of TLS.
        (&[0x80, 0x2e, 0x01, 0x00, 0x02], 1),
        (&[21, 3, 1, 0, 2, 1, 0], 1),
        (&[23, 3, 3, 0, 1, 0], 1),
        // DTLS.
        (&[22, 0xfe, 0xfd, 0, 0], 2),
        (&[22, 2, 0, 0, 10], 2),
    ] {
        for come in 0..at {
            assert!(matches!(read(&sent[..come]), Ok(Seen::More { .. })));
        }
        for come in at..=sent.len() {
            assert_eq!(read(&sent[..come]), Err(NotHello::NotTls), "{sent:?}");
        }
    }
    assert_eq!(NotHello::NotTls.as_str(), "not_tls");
}

#[test]
fn the_minor_version_of_a_record_says_nothing() {
    let mut sent = hello_with(&[server_name(&[(0, b"a.example")])]);
    for minor in [0, 1, 3, 4, 255] {
        sent[2] = minor;
        assert_eq!(name_in(&sent).unwrap().unwrap(), "a.example");
    }
}

#[test]
fn records_that_may_not_be_between_or_around_a_hello_are_refused() {
    let hello = message(
        1,
        &[body_start(), vector16(&server_name(&[(0, b"a.b")]))].concat(),
    );
    let (one, two) = hello.split_at(20);
    let alert = [21, 3, 3, 0, 2, 1, 0];
    let change_cipher_spec = [20, 3, 3, 0, 1, 1];
    let other_version = [22, 2, 0, 0, 1, 0];
    for (sent, expected) in [
        (
            [record(one), alert.to_vec(), record(two)].concat(),
            "record_type",
        ),
        (
            [record(one), change_cipher_spec.to_vec()].concat(),
            "record_type",
        ),
        (
            [record(one), other_version.to_vec()].concat(),
            "record_version",
        ),
        (record(&[]), "record_empty"),
        (
            [record(one), record(&[]), record(two)].concat(),
            "record_empty",
        ),
        (vec![22, 3, 1, 0x40, 0x01], "record_too_long"),
        (record(&[&hello[..], &[0]].concat()), "more_in_record"),
        (
            [record(one), record(&[two, &hello].concat())].concat(),
            "more_in_record",
        ),
        (record(&message(2, &[0; 40])), "message_type"),
        (record(&[0]), "message_type"),
    ] {
        assert_eq!(read(&sent), Err(NotHello::Malformed(expected)));
        assert_eq!(rustls_reads(&sent), None, "{expected}");
    }
    assert_eq!(NotHello::Malformed("").as_str(), "hello_malformed");
}

#[test]
fn a_name_is_read_in_lower_case_without_its_final_dot_or_not_at_all() {
    let label = "a".repeat(63);
    let longest = format!("{label}.{label}.{label}.{}", "b".repeat(61));
    let too_long = format!("{label}.{label}.{label}.{}", "b".repeat(63));
    for (name, expected) in [
        (&b"a.example"[..], Some("a.example")),
        (b"WWW.Example.ORG", Some("www.example.org")),
        (b"a.example.", Some("a.example")),
        (b"under_score.example", Some("under_score.example")),
        (b"xn--bcher-kva.example", Some("xn--bcher-kva.example")),
        (longest.as_bytes(), Some(longest.as_str())),
        (too_long.as_bytes(), None),
        (b"a.example..", None),
        (b".", None),
        (b"..", None),
        (b"192.0.2.1", None),
        (b"::1", None),
        (b"[::1]", None),
        (b"a\0.example", None),
        (b"a.example\r\ninjected=1", None),
        (b"a b", None),
        (b"*.example", None),
        ("bücher.example".as_bytes(), None),
        (b"\xff\xfe", None),
        (&[b'a'; 255], None),
    ] {
        let sent = hello_with(&[server_name(&[(0, name)])]);
        assert_eq!(name_in(&sent).unwrap().as_deref(), expected, "{name:?}");
        check_against_rustls(&sent);
    }
}

#[test]
fn a_list_of_names_holds_one_host_and_any_others() {
    for (entries, expected) in [
        (&[(0, &b"a.example"[..])][..], Ok(Some("a.example"))),
        (&[(7, b"whatever")], Ok(None)),
        (
            &[(7, b"x"), (0, b"a.example"), (8, b"")],
            Ok(Some("a.example")),
        ),
        (
            &[(0, b"a.example"), (0, b"b.example")],
            Err("server_name_twice"),
        ),
        (
            &[(0, b"a.example"), (0, b"a.example")],
            Err("server_name_twice"),
        ),
        (
            &[(0, b"192.0.2.1"), (0, b"a.example")],
            Err("server_name_twice"),
        ),
        (&[(0, b"")], Err("server_name_empty")),
        (&[], Err("server_name_list")),
    ] {
        let sent = hello_with(&[server_name(entries)]);
        let expected = expected.map(|name| name.map(str::to_owned));
        assert_eq!(name_in(&sent), expected.map_err(NotHello::Malformed));
        check_against_rustls(&sent);
    }
}

#[test]
fn a_hello_needs_no_extensions() {
    let expected = Ok(Seen::Hello(Hello::default()));
    assert_eq!(read(&record(&message(1, &body_start()))), expected);
    let empty = [body_start(), vector16(&[])].concat();
    assert_eq!(read(&record(&message(1, &empty))), expected);
}

#[test]
fn protocols_are_read_in_the_order_of_the_client() {
    let any = [&b"http/1.1"[..], b"h2", b"\0\xff", &[b'x'; 255]];
    let Ok(Seen::Hello(hello)) = read(&hello_with(&[alpn(&any)])) else {
        panic!("no hello");
    };
    assert!(hello.alpn.iter().eq(any));
    assert!(!hello.alpn.is_empty());
    assert!(Hello::default().alpn.is_empty());
}

#[test]
fn extensions_that_nobody_knows_pass() {
    let (name, h2) = (server_name(&[(0, b"a.example")]), alpn(&[b"h2"]));
    // GREASE (RFC 8701), one at the end of the numbers, and the encrypted hello's.
    let others = [0x0a0a, 0xfafa, 0xffff, 0xfe0d, 1].map(|kind| extension(kind, &[1, 2, 3]));
    let sent = hello_with(&[&[name][..], &others, &[h2]].concat());
    let expected = asks("a.example", &[b"h2".to_vec()]);
    assert_eq!(read(&sent), Ok(Seen::Hello(expected)));
}

#[test]
fn broken_hellos_are_refused_and_told_in_what() {
    let name = || server_name(&[(0, b"a.example")]);
    let body = |body: &[u8]| record(&message(1, body));
    let start = body_start();
    let with_session_of = |bytes: u8| {
        let session = [&[bytes], &vec![0; bytes.into()][..]].concat();
        [&start[..34], &session, &start[35..]].concat()
    };
    assert_eq!(name_in(&body(&with_session_of(32))), Ok(None));
    for (sent, expected) in [
        (body(&[]), "field_past_end"),
        (body(&start[..33]), "field_past_end"),
        (body(&start[..40]), "field_past_end"),
        (body(&with_session_of(33)), "session_id"),
        (
            body(&[&start[..35], &[0, 0, 1, 0]].concat()),
            "cipher_suites",
        ),
        (
            body(&[&start[..35], &[0, 3, 1, 2, 3, 1, 0]].concat()),
            "cipher_suites",
        ),
        (body(&[&start[..39], &[0]].concat()), "compression_methods"),
        (body(&[&start[..], &[0]].concat()), "field_past_end"),
        (
            body(&[&start[..], &[0, 9], &name()].concat()),
            "after_extensions",
        ),
        (
            body(&[start.clone(), vector16(&name()), vec![0]].concat()),
            "after_extensions",
        ),
        (hello_with(&[extension(0, &[])]), "field_past_end"),
        (
            hello_with(&[extension(0, &[0, 9, 0, 0, 1, b'a'])]),
            "field_past_end",
        ),
        (
            hello_with(&[extension(0, &[0, 4, 0, 0, 2, b'a'])]),
            "server_name_list",
        ),
        (
            hello_with(&[extension(0, &[0, 4, 0, 0, 1, b'a', 0])]),
            "server_name_list",
        ),
        (hello_with(&[alpn(&[])]), "alpn_list"),
        (hello_with(&[alpn(&[b"h2", b""])]), "alpn_empty"),
        (
            hello_with(&[extension(16, &[0, 2, 2, b'h'])]),
            "field_past_end",
        ),
        (
            hello_with(&[extension(16, &[0, 2, 1, b'h', 0])]),
            "alpn_list",
        ),
        (hello_with(&[name(), name()]), "extension_twice"),
        (
            hello_with(&[alpn(&[b"h2"]), alpn(&[b"h2"])]),
            "extension_twice",
        ),
        (
            hello_with(&[extension(0x0a0a, &[]), extension(0x0a0a, &[])]),
            "extension_twice",
        ),
        (hello_with(&[vec![0, 0, 0]]), "field_past_end"),
    ] {
        assert_eq!(read(&sent), Err(NotHello::Malformed(expected)), "{sent:?}");
        assert_eq!(rustls_reads(&sent), None, "{expected}");
    }
}

/// Whatever is said of a beginning is said of all that begins so.
fn check_prefixes(sent: &[u8]) {
    let mut verdict = None;
    let mut awaited = 0;
    for come in 0..=sent.len() {
        match (read(&sent[..come]), &verdict) {
            (Ok(Seen::More { at_least }), None) => {
                assert!(come < at_least && at_least <= HELLO_WIRE_BYTES_MAX);
                assert!(awaited <= at_least, "{at_least} after {awaited}");
                awaited = at_least;
            }
            (found, None) => {
                assert!(
                    come >= awaited || found.is_err(),
                    "complete at {come}, not {awaited}"
                );
                verdict = Some(found);
            }
            (found, Some(verdict)) => assert_eq!(found, *verdict, "with {come} bytes"),
        }
    }
}

/// A hello with a name and protocols, in records of a size.
fn small_hello(size: usize) -> Vec<u8> {
    let sent = hello_with(&[
        server_name(&[(0, b"www.example.org")]),
        alpn(&[b"h2", b"http/1.1"]),
    ]);
    in_records(&sent[RECORD_HEADER_BYTES..], size)
}

proptest! {
    #[test]
    fn mutated_hellos_are_judged_once_and_as_rustls_judges(
        size in prop_oneof![Just(1 << 14), 1_usize..100],
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 0..6),
    ) {
        let mut sent = small_hello(size);
        for (place, byte, how) in changes {
            let place = place.index(sent.len());
            match how {
                0 => sent[place] = byte,
                1 => sent.insert(place, byte),
                _ => sent.truncate(place + 1),
            }
        }
        check_prefixes(&sent);
        check_against_rustls(&sent);
    }

    #[test]
    fn any_extensions_are_read_the_same_in_records_of_any_size(
        extensions in prop::collection::vec(
            (
                prop_oneof![Just(0_u16), Just(16), Just(13), any::<u16>()],
                prop::collection::vec(0_u8..12, 0..14),
            ),
            0..5,
        ),
        size in 1_usize..80,
    ) {
        let extensions: Vec<Vec<u8>> =
            extensions.iter().map(|(kind, content)| extension(*kind, content)).collect();
        let sent = hello_with(&extensions);
        check_against_rustls(&sent);
        prop_assert_eq!(read(&in_records(&sent[RECORD_HEADER_BYTES..], size)), read(&sent));
    }

    #[test]
    fn no_bytes_make_the_reader_panic(
        begins in 0_usize..12,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let sent = [&small_hello(1 << 14)[..begins], &bytes].concat();
        check_prefixes(&sent);
        check_against_rustls(&sent);
    }
}
