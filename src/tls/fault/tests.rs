//! Every error has its word, and no word is for two ideas.

use super::*;

#[test]
fn names_are_shown_without_their_wrapping_and_not_all_of_many() {
    let names = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        presented_names(&names)
    };
    assert_eq!(names(&["DnsName(\"a.example\")"]), "a.example");
    assert_eq!(names(&["IpAddress(10.0.0.1)", "odd"]), "10.0.0.1, odd");
    assert_eq!(names(&[]), "no name");
    assert_eq!(names(&["a", "b", "c", "d", "e"]), "a, b, c and 2 more");
}

#[test]
fn what_a_peer_did_has_its_word() {
    for (error, expected) in [
        (CertificateError::NotValidForName.into(), "cert_name"),
        (CertificateError::BadEncoding.into(), "cert_bad"),
        (CertificateError::InvalidPurpose.into(), "cert_purpose"),
        (
            CertificateError::UnknownRevocationStatus.into(),
            "crl_missing",
        ),
        (Error::NoCertificatesPresented, "cert_missing"),
        (
            PeerIncompatible::NoCipherSuitesInCommon.into(),
            "no_common_suite",
        ),
        (
            PeerIncompatible::NoKxGroupsInCommon.into(),
            "no_common_group",
        ),
        (PeerMisbehaved::TooManyKeyUpdateRequests.into(), "flood"),
        (PeerMisbehaved::IncorrectBinder.into(), "protocol"),
        (Error::DecryptError, "bad_record"),
        (Error::PeerSentOversizedRecord, "oversized_record"),
        (
            Error::AlertReceived(AlertDescription::UnknownCA),
            "alert_unknown_ca",
        ),
        (
            Error::AlertReceived(AlertDescription::from(200)),
            "alert_other",
        ),
        (Error::FailedToGetRandomBytes, "internal"),
    ] {
        assert_eq!(word(&error), expected, "{error:?}");
    }
}

#[test]
fn every_alert_that_a_peer_may_send_has_a_word_of_its_own() {
    let mut words: Vec<_> = (0..=255)
        .map(|number| alert_word(AlertDescription::from(number)))
        .collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), 30);
    let plain = |word: &&str| {
        word.bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    assert!(words.iter().all(plain));
}

#[test]
fn what_a_handshake_failed_of_is_told_by_the_word() {
    for (word, kind) in [
        ("cert_expired", Kind::Certificate),
        ("crl_missing", Kind::RevocationList),
        ("alert_unknown_ca", Kind::Alert),
        ("no_common_suite", Kind::NothingInCommon),
        ("not_tls", Kind::Protocol),
        ("flood", Kind::Protocol),
        ("internal", Kind::Internal),
    ] {
        assert_eq!(Kind::of(word), kind, "{word}");
    }
    for (index, kind) in Kind::ALL.into_iter().enumerate() {
        assert_eq!(kind as usize, index);
    }
}
