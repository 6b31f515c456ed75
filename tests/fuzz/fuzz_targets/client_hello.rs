//! The reader of a ClientHello: what it says of a beginning it says of the whole, it says the same
//! of every split into records, and it agrees with rustls' own acceptor.

#![no_main]

use lbd::wire::hello::{HELLO_WIRE_BYTES_MAX, NotHello, Seen, read};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fuzz_target!(|input: &[u8]| {
    check_connection(input);
    check_message(input);
    check_message(&with_extensions(input));
});

/// The input as what a client sends.
fn check_connection(bytes: &[u8]) {
    let verdict = read(bytes);
    for cut in (0..bytes.len()).step_by(bytes.len() / 8 + 1) {
        match read(&bytes[..cut]) {
            Ok(Seen::More { at_least }) => {
                assert!(at_least > cut && at_least <= HELLO_WIRE_BYTES_MAX);
                let early = at_least > bytes.len() && matches!(verdict, Ok(Seen::Hello(_)));
                assert!(!early, "complete at {}, not {at_least}", bytes.len());
            }
            earlier => assert_eq!(earlier, verdict, "cut at {cut}"),
        }
    }
    compare_with_rustls(bytes, &verdict);
}

/// The input as a hello in records, the size of which its first byte says.
fn check_message(input: &[u8]) {
    let Some((size, hello)) = input.split_first() else {
        return;
    };
    let message = [&[1], &(hello.len() as u32).to_be_bytes()[1..], hello].concat();
    let whole = in_records(&message, 1 << 14);
    let verdict = read(&whole);
    let size = 1 + usize::from(*size);
    let split = in_records(&message, size);
    if split.len() <= HELLO_WIRE_BYTES_MAX {
        assert_eq!(read(&split), verdict, "records of {size}");
    }
    compare_with_rustls(&whole, &verdict);
}

fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    let mut sent = Vec::with_capacity(message.len() * 2);
    for part in message.chunks(size) {
        sent.extend([22, 3, 1]);
        sent.extend((part.len() as u16).to_be_bytes());
        sent.extend(part);
    }
    sent
}

/// A hello with the input as its extensions, after one without which rustls takes none; its first
/// byte stays the size of records.
fn with_extensions(input: &[u8]) -> Vec<u8> {
    const SIGNATURE_ALGORITHMS: [u8; 8] = [0, 13, 0, 4, 0, 2, 4, 3];
    let Some((size, others)) = input.split_first() else {
        return Vec::new();
    };
    let mut hello = vec![*size, 3, 3];
    hello.extend([7; 32]);
    // No session, one cipher suite, no compression.
    hello.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    let length = (SIGNATURE_ALGORITHMS.len() + others.len()) as u16;
    hello.extend(length.to_be_bytes());
    hello.extend(SIGNATURE_ALGORITHMS);
    hello.extend(others);
    hello
}

/// Whatever rustls takes is taken, and is the same; nothing is complete that is not for rustls.
fn compare_with_rustls(bytes: &[u8], verdict: &Result<Seen, NotHello>) {
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    let accepted = loop {
        if rest.is_empty() {
            assert!(
                !matches!(verdict, Ok(Seen::Hello(_))),
                "incomplete for rustls"
            );
            return;
        }
        if acceptor.read_tls(&mut rest).is_err() {
            return;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => break accepted,
            // It looks at all extensions, and at the name more strictly.
            Err(_) => return,
        }
    };
    let theirs = accepted.client_hello();
    let hello = match verdict {
        Ok(Seen::Hello(hello)) => hello,
        Err(NotHello::TooLarge) => return,
        // It takes records that are too long, records with the version of DTLS, and whatever follows
        // a name of a type that it does not know.
        Err(NotHello::Malformed("record_too_long" | "record_version")) | Err(NotHello::NotTls) => {
            return;
        }
        Err(NotHello::Malformed(what)) if what.starts_with("server_name") => return,
        other => panic!("rustls takes what is {other:?}"),
    };
    let name = theirs
        .server_name()
        .map(|name| name.strip_suffix('.').unwrap_or(name));
    assert_eq!(hello.name.as_ref().map(|name| name.as_str()), name);
    let alpn: Vec<&[u8]> = theirs.alpn().into_iter().flatten().collect();
    assert_eq!(hello.alpn.iter().collect::<Vec<_>>(), alpn);
}
