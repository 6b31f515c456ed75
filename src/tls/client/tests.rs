//! Handshakes with backends that are what they should be, and with others.

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256, date_time_ymd,
};
use rustls::HandshakeKind;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;

use super::super::fault::word;
use super::super::server::{Acceptor, ClientAuthSpec, ServerSpec, TicketKeys};
use super::super::tests::{Authority, certificate, listener, name, talk};
use super::*;

fn backend(certified: &Arc<CertifiedKey>) -> ServerSpec {
    let mut spec = listener("backend", vec![certificate(&["a.example"], certified)]);
    spec.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    spec
}

fn accepting(spec: ServerSpec) -> Acceptor {
    Acceptor::new(spec, &TicketKeys::new().unwrap()).unwrap()
}

/// What the client says of it: the kind of the handshake, or the word for its failure.
fn meet(connector: &Connector, backend: &Acceptor) -> Result<HandshakeKind, &'static str> {
    let mut client = connector.begin(name("a.example"), None).unwrap();
    let mut server = backend.begin().unwrap();
    let (result, _) = talk(&mut client, &mut server);
    result.map_err(|error| word(&error))?;
    Ok(client.handshake_kind().unwrap())
}

#[test]
fn a_backend_that_is_not_the_right_one_is_refused_with_its_word() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let issue = |change: fn(&mut CertificateParams)| {
        ours.issue_with(&["a.example"], &PKCS_ECDSA_P256_SHA256, change)
    };
    let expired = issue(|params| params.not_after = date_time_ymd(2021, 2, 3));
    let early = issue(|params| params.not_before = date_time_ymd(2999, 1, 1));
    for (certified, expected) in [
        (ours.issue(&["a.example"]), Ok(HandshakeKind::Full)),
        (ours.issue(&["b.example"]), Err("cert_name")),
        (theirs.issue(&["a.example"]), Err("cert_unknown_ca")),
        (expired, Err("cert_expired")),
        (early, Err("cert_not_yet_valid")),
    ] {
        let backend = accepting(backend(&certified));
        let connector = Connector::new(&ours.believers()).unwrap();
        assert_eq!(meet(&connector, &backend), expected);
        let anyone = ClientSpec {
            trust: Trust::Anyone,
            identity: None,
        };
        let connector = Connector::new(&anyone).unwrap();
        assert_eq!(meet(&connector, &backend), Ok(HandshakeKind::Full));
    }
}

/// As `openssl req -x509` makes them.
fn self_made(change: impl FnOnce(&mut CertificateParams)) -> Arc<CertifiedKey> {
    let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let chain = vec![params.self_signed(&key).unwrap().der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = aws_lc_rs::default_provider();
    Arc::new(CertifiedKey::from_der(chain, key, &provider).unwrap())
}

#[test]
fn a_certificate_that_is_listed_itself_is_good_for_its_name_and_time() {
    let good = self_made(|_| {});
    let expired = self_made(|params| params.not_after = date_time_ymd(2021, 2, 3));
    let early = self_made(|params| params.not_before = date_time_ymd(2999, 1, 1));
    let listed = |certified: &CertifiedKey| ClientSpec {
        trust: Trust::Listed(certified.cert.clone()),
        identity: None,
    };
    for (certified, expected) in [
        (&good, Ok(HandshakeKind::Full)),
        (&expired, Err("cert_expired")),
        (&early, Err("cert_not_yet_valid")),
    ] {
        let connector = Connector::new(&listed(certified)).unwrap();
        assert_eq!(meet(&connector, &accepting(backend(certified))), expected);
    }
    let other = self_made(|_| {});
    let connector = Connector::new(&listed(&good)).unwrap();
    let refused = meet(&connector, &accepting(backend(&other)));
    assert!(
        matches!(refused, Err("cert_of_ca" | "cert_unknown_ca")),
        "{refused:?}"
    );

    let mut client = connector.begin(name("b.example"), None).unwrap();
    let mut server = accepting(backend(&good)).begin().unwrap();
    let (result, _) = talk(&mut client, &mut server);
    assert_eq!(result.map_err(|error| word(&error)), Err("cert_name"));
}

#[test]
fn a_listed_authority_stands_for_those_it_signed() {
    let authority = Authority::new("ours");
    let spec = ClientSpec {
        trust: Trust::Listed(vec![authority.der()]),
        identity: None,
    };
    let connector = Connector::new(&spec).unwrap();
    let good = accepting(backend(&authority.issue(&["a.example"])));
    assert_eq!(meet(&connector, &good), Ok(HandshakeKind::Full));
    let theirs = Authority::new("theirs").issue(&["a.example"]);
    let refused = meet(&connector, &accepting(backend(&theirs)));
    assert_eq!(refused, Err("cert_unknown_ca"));
}

#[test]
fn sessions_are_resumed_with_their_backend_and_no_other() {
    let authority = Authority::new("ours");
    let certified = authority.issue(&["a.example"]);
    let backend = accepting(backend(&certified));
    let one = Connector::new(&authority.believers()).unwrap();
    assert_eq!(meet(&one, &backend), Ok(HandshakeKind::Full));
    assert_eq!(meet(&one.clone(), &backend), Ok(HandshakeKind::Resumed));
    assert_eq!(meet(&one, &backend), Ok(HandshakeKind::Resumed));
    let another = one.for_another();
    assert_eq!(meet(&another, &backend), Ok(HandshakeKind::Full));
    assert_eq!(meet(&another, &backend), Ok(HandshakeKind::Resumed));
}

#[test]
fn a_backend_that_asks_for_a_certificate_gets_ours() {
    let authority = Authority::new("ours");
    let mut spec = backend(&authority.issue(&["a.example"]));
    spec.client_auth = Some(ClientAuthSpec {
        roots: vec![authority.der()],
        crls: vec![],
        required: true,
    });
    let backend = accepting(spec);
    let identity = authority.issue(&["balancer"]);
    let spec = ClientSpec {
        identity: Some(identity.clone()),
        ..authority.believers()
    };
    let connector = Connector::new(&spec).unwrap();
    let mut client = connector.begin(name("a.example"), None).unwrap();
    let mut server = backend.begin().unwrap();
    assert_eq!(talk(&mut client, &mut server), (Ok(()), Ok(())));
    assert_eq!(server.peer_certificates().unwrap(), identity.cert);
    let nobody = Connector::new(&authority.believers()).unwrap();
    assert_eq!(meet(&nobody, &backend), Err("alert_certificate_required"));
    assert!(!format!("{spec:?}{connector:?}").contains("key"));
}

#[test]
fn the_given_protocol_is_offered_and_no_other() {
    let authority = Authority::new("ours");
    let backend = accepting(backend(&authority.issue(&["a.example"])));
    let connector = Connector::new(&authority.believers()).unwrap();
    for offered in [Some(&b"http/1.1"[..]), Some(b"h2"), None] {
        let mut client = connector.begin(name("a.example"), offered).unwrap();
        let mut server = backend.begin().unwrap();
        assert_eq!(talk(&mut client, &mut server), (Ok(()), Ok(())));
        assert_eq!(client.alpn_protocol(), offered);
    }
}
