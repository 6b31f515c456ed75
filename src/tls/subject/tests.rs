//! Subjects of all kinds, and bytes that are no certificate.

use proptest::prelude::*;
use rcgen::{CertificateParams, DnType, KeyPair, SerialNumber};

use super::*;

fn with(serial: &[u8], names: &[(DnType, &str)]) -> CertificateDer<'static> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    for (kind, value) in names {
        params.distinguished_name.push(kind.clone(), *value);
    }
    params.serial_number = Some(SerialNumber::from_slice(serial));
    let key = KeyPair::generate().unwrap();
    params.self_signed(&key).unwrap().der().clone()
}

#[test]
fn the_parts_of_a_subject_are_told_apart_whatever_they_contain() {
    let custom = DnType::CustomDnType(vec![1, 2, 3, 4]);
    for (names, subject, common_name) in [
        (vec![], "", None),
        (vec![(DnType::CommonName, "web")], "CN=web", Some("web")),
        (
            vec![(DnType::CountryName, "DE"), (DnType::CommonName, "Bücher")],
            "CN=Bücher,C=DE",
            Some("Bücher"),
        ),
        (
            vec![(DnType::CommonName, "a,O=b+c\\ "), (custom, "#1")],
            "1.2.3.4=\\#1,CN=a\\,O=b\\+c\\\\\\ ",
            Some("a,O=b+c\\ "),
        ),
        (
            vec![(DnType::CommonName, "a\0\n\u{85}")],
            "CN=a\\00\\0a\\c2\\85",
            None,
        ),
    ] {
        let about = about(&with(&[1], &names)).unwrap();
        assert_eq!(about.subject, subject);
        assert_eq!(about.common_name.as_deref(), common_name);
        assert!(about.not_after > SystemTime::now());
    }
}

#[test]
fn a_long_subject_is_cut_and_a_long_common_name_left_out() {
    for (filling, length) in [("x", 256), ("ü", 256), (",", 255)] {
        let long = filling.repeat(300);
        let about = about(&with(&[1], &[(DnType::CommonName, &long)])).unwrap();
        assert!(about.subject.ends_with("..."), "{}", about.subject);
        assert!(about.subject.len() <= length, "{}", about.subject);
        assert!(about.subject.len() > 250);
        assert!(!about.subject.ends_with("\\..."), "{}", about.subject);
        assert_eq!(about.common_name, None);
    }
}

#[test]
fn a_serial_number_is_written_in_hexadecimal_digits_without_a_sign() {
    for (bytes, expected) in [
        (&[1][..], "01"),
        (&[0x80, 0xab], "80ab"),
        (&[0x7f; 20], &"7f".repeat(20)),
    ] {
        assert_eq!(about(&with(bytes, &[])).unwrap().serial, expected);
    }
    assert_eq!(serial(&[0]).as_deref(), Some("00"));
    assert_eq!(serial(&[]), None);
    assert_eq!(serial(&[1; 22]), None);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes: Vec<u8>, at: prop::sample::Index, to: u8) {
        about(&CertificateDer::from(bytes));
        let mut real = with(&[1], &[(DnType::CommonName, "a,b")]).to_vec();
        let at = at.index(real.len());
        real[at] = to;
        about(&CertificateDer::from(real));
    }
}
