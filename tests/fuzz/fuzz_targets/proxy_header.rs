//! PROXY headers in: what bytes are does not depend on how they are split, no more is consumed than
//! is there, and what was read, written again, reads the same.

#![no_main]

use lbd::wire::proxy::{Decoded, Extras, Version, decode, tlv, v2_with};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let whole = decode(bytes);
    for length in 0..bytes.len() {
        match decode(&bytes[..length]) {
            Ok(Decoded::More) => {}
            told => assert_eq!(told, whole, "after {length} bytes"),
        }
    }
    let Ok(Decoded::Header(header, consumed)) = whole else {
        return;
    };
    assert!(consumed <= bytes.len());
    assert_eq!(decode(&bytes[..consumed]), decode(bytes));

    let extras = Extras {
        received: Some(&header.tlvs),
        ..Extras::default()
    };
    let written = v2_with(header.subject, &extras).expect("no longer than what came");
    let Ok(Decoded::Header(again, written_bytes)) = decode(&written) else {
        panic!("what was written is no header");
    };
    assert_eq!(written_bytes, written.len());
    assert_eq!(again.subject, header.subject);
    assert_eq!(again.version, Version::V2);
    let is_kept = |(kind, _): &(u8, &[u8])| !matches!(*kind, tlv::NOOP | tlv::CRC32C);
    assert!(
        again
            .tlvs
            .iter()
            .filter(is_kept)
            .eq(header.tlvs.iter().filter(is_kept))
    );
});
