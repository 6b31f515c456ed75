//! Which certificate is chosen, without a handshake.

use rcgen::{PKCS_ED25519, PKCS_RSA_SHA256};

use super::super::tests::{Authority, certificate};
use super::*;

const ALL: [SignatureScheme; 3] = [
    SignatureScheme::RSA_PSS_SHA256,
    SignatureScheme::ECDSA_NISTP256_SHA256,
    SignatureScheme::ED25519,
];

/// The position of the one that is chosen.
fn chosen(
    all: &[(&[&str], &Arc<CertifiedKey>)],
    name: Option<&str>,
    schemes: &[SignatureScheme],
) -> usize {
    let certificates = all.iter().map(|(names, key)| certificate(names, key));
    let chosen = Index::of(certificates.collect())
        .choose(name, schemes)
        .unwrap();
    all.iter()
        .position(|(_, key)| Arc::ptr_eq(key, &chosen))
        .unwrap()
}

#[test]
fn of_several_for_a_name_the_client_gets_one_that_it_can_verify() {
    let authority = Authority::new("ours");
    let rsa = authority.issue_with(&["a.example"], &PKCS_RSA_SHA256, |_| ());
    let ecdsa = authority.issue(&["a.example"]);
    let ed25519 = authority.issue_with(&["a.example"], &PKCS_ED25519, |_| ());
    let other = authority.issue(&["b.example"]);
    let a: &[&str] = &["a.example"];
    let all = [
        (a, &rsa),
        (&["b.example"], &other),
        (a, &ecdsa),
        (a, &ed25519),
    ];
    for (schemes, expected) in [
        (&ALL[..], 2),
        (&ALL[..1], 0),
        (&ALL[..2], 2),
        (&ALL[2..], 3),
        // Nothing fits: the default's, and rustls says why.
        (&[SignatureScheme::ML_DSA_44], 2),
    ] {
        assert_eq!(
            chosen(&all, Some("a.example"), schemes),
            expected,
            "{schemes:?}"
        );
        // The default has its twins with it.
        assert_eq!(chosen(&all, None, schemes), expected, "{schemes:?}");
    }
    assert_eq!(chosen(&all, Some("b.example"), &ALL), 1);
    // The name's own cannot be verified, the default's can.
    assert_eq!(chosen(&all, Some("b.example"), &ALL[..1]), 0);
}

#[test]
fn an_exact_name_comes_before_a_wildcard_and_that_before_the_default() {
    let authority = Authority::new("ours");
    let keys = [(); 4].map(|()| authority.issue(&["x"]));
    let all: [(&[&str], _); 4] = [
        (&["default.example"], &keys[0]),
        (&["*.example.org", "example.org"], &keys[1]),
        (&["api.example.org"], &keys[2]),
        // The same name again: the first one stays.
        (&["api.example.org"], &keys[3]),
    ];
    for (name, expected) in [
        (Some("api.example.org"), 2),
        (Some("www.example.org"), 1),
        (Some("example.org"), 1),
        (Some("a.b.example.org"), 0),
        (Some(".example.org"), 0),
        (Some("org"), 0),
        (Some(""), 0),
        (None, 0),
    ] {
        assert_eq!(chosen(&all, name, &ALL), expected, "{name:?}");
    }
    assert!(Index::of(Vec::new()).choose(None, &ALL).is_none());
}
