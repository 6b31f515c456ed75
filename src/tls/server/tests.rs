//! Handshakes of all kinds of clients, in memory.

use std::time::Duration;

use rcgen::{PKCS_RSA_SHA256, SerialNumber};
use rustls::client::Resumption;
use rustls::sign::CertifiedKey;
use rustls::{
    ClientConfig, ClientConnection, Connection, HandshakeKind, NamedGroup, ProtocolVersion,
};

use super::super::client::{self, ClientSpec};
use super::super::fault::word;
use super::super::tests::{Authority, End, certificate, listener, name, talk};
use super::*;

/// A client's and a server's end after they have talked.
struct Met {
    client: Connection,
    server: UnbufferedServerConnection,
    client_failed: Option<&'static str>,
    server_failed: Option<&'static str>,
}

impl Met {
    fn kind(&self) -> HandshakeKind {
        assert_eq!((self.client_failed, self.server_failed), (None, None));
        assert_eq!(self.client.handshake_kind(), self.server.handshake_kind());
        self.server.handshake_kind().unwrap()
    }

    fn resumed(&self) -> bool {
        self.kind() == HandshakeKind::Resumed
    }

    /// Words of the server and of the client.
    fn failed(&self) -> (&'static str, &'static str) {
        let word = |failed: Option<&'static str>| failed.unwrap_or("fine");
        (word(self.server_failed), word(self.client_failed))
    }
}

fn meet(acceptor: &Acceptor, client: &Arc<ClientConfig>, asks_for: &str) -> Met {
    let client = ClientConnection::new(client.clone(), name(asks_for)).unwrap();
    let mut client = Connection::from(client);
    let mut server = acceptor.begin().unwrap();
    let (client_result, server_result) = talk(&mut client, &mut server);
    Met {
        client,
        server,
        client_failed: client_result.err().map(|error| word(&error)),
        server_failed: server_result.err().map(|error| word(&error)),
    }
}

fn settings(spec: &ClientSpec) -> ClientConfig {
    client::config(spec).unwrap()
}

fn only_tls12(spec: &ClientSpec) -> ClientConfig {
    let full = settings(spec);
    let provider = full.crypto_provider().clone();
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS12])
        .unwrap();
    match &spec.trust {
        client::Trust::Roots(roots) => builder.with_root_certificates(roots.clone()),
        client::Trust::Listed(_) | client::Trust::Anyone => unreachable!(),
    }
    .with_no_client_auth()
}

/// A client that knows these groups of those that we know, the first one preferred.
fn with_groups(spec: &ClientSpec, groups: &[NamedGroup]) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = groups
        .iter()
        .map(|group| {
            let mut all = aws_lc_rs::ALL_KX_GROUPS.iter();
            *all.find(|one| one.name() == *group).unwrap()
        })
        .collect();
    let client::Trust::Roots(roots) = &spec.trust else {
        unreachable!()
    };
    ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots.clone())
        .with_no_client_auth()
}

fn keys() -> Arc<TicketKeys> {
    TicketKeys::new().unwrap()
}

fn one_name(authority: &Authority) -> ServerSpec {
    let key = authority.issue(&["a.example", "b.example"]);
    listener("web", vec![certificate(&["a.example", "b.example"], &key)])
}

#[test]
fn a_client_gets_the_certificate_for_the_name_that_it_asks_for() {
    let authority = Authority::new("ours");
    let [first, api, below] = [["first.example"], ["api.example.com"], ["*.example.com"]]
        .map(|names| (authority.issue(&names), names));
    let all = [&first, &api, &below].map(|(key, names)| certificate(names, key));
    let acceptor = Acceptor::new(listener("web", all.to_vec()), &keys()).unwrap();
    let mut config = settings(&ClientSpec {
        trust: client::Trust::Anyone,
        identity: None,
    });
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    for (asks_for, expected) in [
        ("first.example", &first),
        ("api.example.com", &api),
        ("API.Example.COM", &api),
        ("www.example.com", &below),
        ("WWW.example.com", &below),
        ("a.b.example.com", &first),
        ("example.com", &first),
        ("unknown.example", &first),
        // No name is asked for towards an address.
        ("127.0.0.1", &first),
    ] {
        let met = meet(&acceptor, &config, asks_for);
        assert_eq!(met.kind(), HandshakeKind::Full);
        let shown = met.client.peer_certificates().unwrap();
        assert_eq!(shown, expected.0.cert, "{asks_for}");
    }
}

#[test]
fn the_first_of_our_protocols_that_the_client_has_is_spoken() {
    let authority = Authority::new("ours");
    let mut spec = one_name(&authority);
    spec.alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = Acceptor::new(spec, &keys()).unwrap();
    for (offered, spoken) in [
        (vec!["http/1.1", "h2"], Some("h2")),
        (vec!["x", "http/1.1"], Some("http/1.1")),
        (vec![], None),
    ] {
        let mut config = settings(&authority.believers());
        config.alpn_protocols = offered.iter().map(|one| one.as_bytes().to_vec()).collect();
        let met = meet(&acceptor, &Arc::new(config), "a.example");
        assert_eq!(met.kind(), HandshakeKind::Full);
        assert_eq!(met.server.alpn_protocol(), spoken.map(str::as_bytes));
        assert_eq!(met.client.alpn_protocol(), spoken.map(str::as_bytes));
    }
    let mut config = settings(&authority.believers());
    config.alpn_protocols = vec![b"smtp".to_vec()];
    let met = meet(&acceptor, &Arc::new(config), "a.example");
    assert_eq!(
        met.failed(),
        ("no_common_alpn", "alert_no_application_protocol")
    );
}

#[test]
fn a_client_of_tls_1_2_is_served_unless_only_1_3_is() {
    let authority = Authority::new("ours");
    let mut spec = one_name(&authority);
    let config = Arc::new(only_tls12(&authority.believers()));
    let met = meet(
        &Acceptor::new(spec.clone(), &keys()).unwrap(),
        &config,
        "a.example",
    );
    assert_eq!(met.kind(), HandshakeKind::Full);
    assert_eq!(
        met.server.protocol_version(),
        Some(ProtocolVersion::TLSv1_2)
    );

    spec.only_tls13 = true;
    let acceptor = Acceptor::new(spec, &keys()).unwrap();
    let met = meet(&acceptor, &config, "a.example");
    assert_eq!(
        met.failed(),
        ("no_common_version", "alert_protocol_version")
    );
    let modern = Arc::new(settings(&authority.believers()));
    let met = meet(&acceptor, &modern, "a.example");
    assert_eq!(
        met.server.protocol_version(),
        Some(ProtocolVersion::TLSv1_3)
    );
}

#[test]
fn post_quantum_key_exchange_is_taken_when_offered() {
    use NamedGroup::*;
    let authority = Authority::new("ours");
    let acceptor = Acceptor::new(one_name(&authority), &keys()).unwrap();
    for (groups, expected) in [
        (&[X25519MLKEM768, X25519, secp256r1][..], X25519MLKEM768),
        (&[X25519, secp256r1], X25519),
        (&[secp256r1], secp256r1),
        (&[secp384r1], secp384r1),
    ] {
        let config = Arc::new(with_groups(&authority.believers(), groups));
        let met = meet(&acceptor, &config, "a.example");
        assert_eq!(met.kind(), HandshakeKind::Full, "{groups:?}");
        let group = met.server.negotiated_key_exchange_group().unwrap();
        assert_eq!(group.name(), expected);
    }
    // As clients have it that know of nothing special.
    let config = Arc::new(settings(&authority.believers()));
    let met = meet(&acceptor, &config, "a.example");
    let group = met.server.negotiated_key_exchange_group().unwrap();
    assert_eq!(group.name(), X25519MLKEM768);
}

#[test]
fn the_order_of_suites_is_ours() {
    use rustls::CipherSuite::*;
    let authority = Authority::new("ours");
    let acceptor = Acceptor::new(one_name(&authority), &keys()).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.reverse();
    let client::Trust::Roots(roots) = authority.trust() else {
        unreachable!()
    };
    for (version, expected) in [
        (&TLS13, TLS13_AES_256_GCM_SHA384),
        (&TLS12, TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    ] {
        let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        let met = meet(&acceptor, &Arc::new(config), "a.example");
        let suite = met.server.negotiated_cipher_suite().unwrap();
        assert_eq!(suite.suite(), expected);
    }
}

/// A client that comes twice to two listeners: whether it resumes at the second.
fn resumes(first: &Acceptor, second: &Acceptor, config: ClientConfig) -> bool {
    let config = Arc::new(config);
    assert!(!meet(first, &config, "a.example").resumed());
    meet(second, &config, "a.example").resumed()
}

#[test]
fn a_session_goes_on_after_a_reload_and_with_other_certificates() {
    let authority = Authority::new("ours");
    let (spec, keys) = (one_name(&authority), keys());
    let before = Acceptor::new(spec.clone(), &keys).unwrap();
    let after = Acceptor::new(one_name(&authority), &keys).unwrap();
    let believers = authority.believers();
    assert!(resumes(&before, &after, settings(&believers)));
    assert!(resumes(&before, &after, only_tls12(&believers)));

    let config = Arc::new(settings(&believers));
    assert!(!meet(&before, &config, "a.example").resumed());
    let renewed = one_name(&authority).certificates;
    before.replace_certificates(renewed.clone());
    assert!(meet(&before, &config, "a.example").resumed());
    // And again by the ticket of the resumed session.
    assert!(meet(&before, &config, "a.example").resumed());
    let stranger = Arc::new(settings(&believers));
    let met = meet(&before, &stranger, "a.example");
    assert!(!met.resumed());
    assert_eq!(
        met.client.peer_certificates().unwrap(),
        renewed[0].certified.cert
    );
}

#[test]
fn a_ticket_is_good_for_its_listener_only() {
    let authority = Authority::new("ours");
    let (spec, keys) = (one_name(&authority), keys());
    let web = Acceptor::new(spec.clone(), &keys).unwrap();
    let other = ServerSpec {
        name: "other".to_owned(),
        ..spec.clone()
    };
    let other = Acceptor::new(other, &keys).unwrap();
    assert!(resumes(&web, &web, settings(&authority.believers())));
    assert!(!resumes(&web, &other, settings(&authority.believers())));
    assert!(!resumes(&web, &other, only_tls12(&authority.believers())));
    let restarted = Acceptor::new(spec, &TicketKeys::new().unwrap()).unwrap();
    assert!(!resumes(&web, &restarted, settings(&authority.believers())));
}

#[test]
fn a_ticket_of_another_name_is_not_taken() {
    let authority = Authority::new("ours");
    let acceptor = Acceptor::new(one_name(&authority), &keys()).unwrap();
    // A client that keeps its sessions for one name and asks for another: it asks for none.
    for version in [settings, only_tls12] {
        let mut config = version(&authority.believers());
        let asks = Arc::new(config.clone());
        assert!(!meet(&acceptor, &asks, "a.example").resumed());
        assert!(meet(&acceptor, &asks, "a.example").resumed());
        config.enable_sni = false;
        assert!(!meet(&acceptor, &Arc::new(config), "a.example").resumed());
    }
}

#[test]
fn each_handshake_brings_one_ticket_and_none_allows_early_data() {
    let authority = Authority::new("ours");
    let acceptor = Acceptor::new(one_name(&authority), &keys()).unwrap();
    let mut config = settings(&authority.believers());
    config.enable_early_data = true;
    let config = Arc::new(config);
    for resumed in [false, true, true] {
        let client = ClientConnection::new(config.clone(), name("a.example")).unwrap();
        let mut client = Connection::from(client);
        let Connection::Client(inner) = &mut client else {
            unreachable!()
        };
        assert!(inner.early_data().is_none());
        let mut server = acceptor.begin().unwrap();
        assert_eq!(talk(&mut client, &mut server), (Ok(()), Ok(())));
        let Connection::Client(client) = client else {
            unreachable!()
        };
        assert_eq!(client.tls13_tickets_received(), 1);
        assert_eq!(
            client.handshake_kind() == Some(HandshakeKind::Resumed),
            resumed
        );
    }
}

#[test]
fn nothing_is_offered_that_weakens_a_session() {
    let acceptor = Acceptor::new(one_name(&Authority::new("ours")), &keys()).unwrap();
    let config = &acceptor.config;
    assert_eq!(config.max_early_data_size, 0);
    assert!(!config.send_half_rtt_data && !config.enable_secret_extraction);
    assert!(!config.key_log.will_log("CLIENT_RANDOM"));
    assert!(config.cert_compressors.is_empty() && config.cert_decompressors.is_empty());
    assert!(!config.session_storage.can_cache());
    for suite in &config.crypto_provider().cipher_suites {
        let name = format!("{:?}", suite.suite());
        assert!(
            name.starts_with("TLS13_") || name.starts_with("TLS_ECDHE_"),
            "{name}"
        );
        assert!(
            name.contains("_GCM_") || name.contains("_POLY1305_"),
            "{name}"
        );
    }
}

/// Clients by what they show, and the authority that issued it.
fn with_identity(authority: &Authority, identity: Option<Arc<CertifiedKey>>) -> ClientConfig {
    settings(&ClientSpec {
        trust: authority.trust(),
        identity,
    })
}

fn client_of(authority: &Authority, serial: u64) -> Option<Arc<CertifiedKey>> {
    let change = |params: &mut rcgen::CertificateParams| {
        params.serial_number = Some(SerialNumber::from(serial));
    };
    Some(authority.issue_with(&["client"], &rcgen::PKCS_ECDSA_P256_SHA256, change))
}

fn asking(
    authority: &Authority,
    roots: &[&Authority],
    crls: Vec<CertificateRevocationListDer<'static>>,
    required: bool,
) -> ServerSpec {
    ServerSpec {
        client_auth: Some(ClientAuthSpec {
            roots: roots.iter().map(|root| root.der()).collect(),
            crls,
            required,
        }),
        ..one_name(authority)
    }
}

#[test]
fn a_client_certificate_is_asked_for_and_verified() {
    let [ours, clients, strangers] = ["ours", "clients", "strangers"].map(Authority::new);
    let crl = clients.revoke(&[13]);
    let acceptor = |required| {
        let spec = asking(&ours, &[&clients], vec![crl.clone()], required);
        Acceptor::new(spec, &keys()).unwrap()
    };
    let expired = |params: &mut rcgen::CertificateParams| {
        params.not_after = rcgen::date_time_ymd(2021, 2, 3);
    };
    let expired = clients.issue_with(&["client"], &rcgen::PKCS_ECDSA_P256_SHA256, expired);
    let fine = ("fine", "fine");
    // The client of TLS 1.3 is through with its part before the server has judged it, and hears of
    // it as soon as it reads.
    for (identity, if_required, if_optional) in [
        (client_of(&clients, 12), fine, fine),
        (None, ("cert_missing", "alert_certificate_required"), fine),
        (
            client_of(&strangers, 12),
            ("cert_unknown_ca", "alert_unknown_ca"),
            ("cert_unknown_ca", "alert_unknown_ca"),
        ),
        (
            client_of(&clients, 13),
            ("cert_revoked", "alert_certificate_revoked"),
            ("cert_revoked", "alert_certificate_revoked"),
        ),
        (
            Some(expired),
            ("cert_expired", "alert_certificate_expired"),
            ("cert_expired", "alert_certificate_expired"),
        ),
    ] {
        for (required, expected) in [(true, if_required), (false, if_optional)] {
            let config = Arc::new(with_identity(&ours, identity.clone()));
            let met = meet(&acceptor(required), &config, "a.example");
            assert_eq!(met.failed(), expected);
            let shown = identity.as_ref().map(|identity| &identity.cert[..]);
            if expected == fine {
                assert_eq!(met.server.peer_certificates(), shown);
            }
        }
    }
}

#[test]
fn a_list_for_one_issuer_says_nothing_of_anothers_clients() {
    let [ours, clients, others] = ["ours", "clients", "others"].map(Authority::new);
    let crls = vec![clients.revoke(&[13])];
    let spec = asking(&ours, &[&clients, &others], crls, true);
    let acceptor = Acceptor::new(spec, &keys()).unwrap();
    let config = Arc::new(with_identity(&ours, client_of(&others, 13)));
    assert_eq!(
        meet(&acceptor, &config, "a.example").kind(),
        HandshakeKind::Full
    );
}

#[test]
fn a_resumed_client_is_the_one_that_was_verified() {
    let [ours, clients] = ["ours", "clients"].map(Authority::new);
    let acceptor = Acceptor::new(asking(&ours, &[&clients], vec![], true), &keys()).unwrap();
    let identity = client_of(&clients, 12);
    let config = Arc::new(with_identity(&ours, identity.clone()));
    assert!(!meet(&acceptor, &config, "a.example").resumed());
    let met = meet(&acceptor, &config, "a.example");
    assert!(met.resumed());
    assert_eq!(
        met.server.peer_certificates().unwrap(),
        identity.unwrap().cert
    );
}

#[test]
fn a_ticket_from_before_another_rule_for_clients_leads_to_a_full_handshake() {
    let [ours, clients, others] = ["ours", "clients", "others"].map(Authority::new);
    let keys = keys();
    let [seven, eight] = [7, 8].map(|serial| clients.revoke(&[serial]));
    let acceptor =
        |roots: &[&Authority], crls: &[&CertificateRevocationListDer<'static>], required| {
            let crls = crls.iter().map(|&crl| crl.clone()).collect();
            Acceptor::new(asking(&ours, roots, crls, required), &keys).unwrap()
        };
    let client = || with_identity(&ours, client_of(&clients, 12));
    let before = acceptor(&[&clients], &[], true);
    for (after, resumed) in [
        (acceptor(&[&clients], &[], true), true),
        (acceptor(&[&clients, &clients], &[], true), true),
        (acceptor(&[&clients, &others], &[], true), false),
        (acceptor(&[&clients], &[&seven], true), false),
        (acceptor(&[&clients], &[], false), false),
        (Acceptor::new(one_name(&ours), &keys).unwrap(), false),
    ] {
        assert_eq!(resumes(&before, &after, client()), resumed);
    }
    // A session of nobody in particular is none where clients must be somebody.
    let open = Acceptor::new(one_name(&ours), &keys).unwrap();
    assert!(!resumes(&open, &before, client()));
    // Order is none of the rule.
    let two = acceptor(&[&clients, &others], &[&seven, &eight], true);
    let turned = acceptor(&[&others, &clients], &[&eight, &seven], true);
    assert!(resumes(&two, &turned, client()));
}

#[test]
fn roots_and_lists_that_cannot_be_used_are_refused() {
    let ours = Authority::new("ours");
    let failed = |spec| Acceptor::new(spec, &keys()).unwrap_err();
    assert!(matches!(failed(listener("web", vec![])), Error::General(_)));
    let nobody = asking(&ours, &[], vec![], true);
    assert!(matches!(failed(nobody), Error::General(_)));
    let rubbish = CertificateRevocationListDer::from(vec![1, 2, 3]);
    let rubbish = asking(&ours, &[&ours], vec![rubbish], true);
    assert_eq!(word(&failed(rubbish)), "crl_bad");
}

#[test]
fn an_rsa_certificate_serves_those_who_have_nothing_better() {
    let authority = Authority::new("ours");
    let rsa = authority.issue_with(&["a.example"], &PKCS_RSA_SHA256, |_| ());
    let ecdsa = authority.issue(&["a.example"]);
    let both = [&rsa, &ecdsa].map(|key| certificate(&["a.example"], key));
    let acceptor = Acceptor::new(listener("web", both.to_vec()), &keys()).unwrap();
    let mut provider = aws_lc_rs::default_provider();
    let config = |provider: &CryptoProvider| {
        let client::Trust::Roots(roots) = authority.trust() else {
            unreachable!()
        };
        let config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    };
    let met = meet(&acceptor, &config(&provider), "a.example");
    assert_eq!(met.client.peer_certificates().unwrap(), ecdsa.cert);
    // The suites of TLS 1.2 name the kind of the key.
    provider
        .cipher_suites
        .retain(|suite| format!("{suite:?}").contains("RSA"));
    let met = meet(&acceptor, &config(&provider), "a.example");
    assert_eq!(met.kind(), HandshakeKind::Full);
    assert_eq!(met.client.peer_certificates().unwrap(), rsa.cert);
}

#[test]
fn rubbish_on_a_tls_port_is_told_from_bad_tls() {
    let acceptor = Acceptor::new(one_name(&Authority::new("ours")), &keys()).unwrap();
    for (bytes, expected) in [
        (&b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..], "not_tls"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "not_tls"),
        (&[0; 64], "not_tls"),
        // A hello of SSL 2.
        (&[0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10], "not_tls"),
        // An alert, and a record of data, before any handshake.
        (&[21, 3, 1, 0, 2, 2, 40], "alert_handshake_failure"),
        (&[23, 3, 3, 0, 1, 0], "unexpected_message"),
        (&[22, 3, 1, 0, 4, 1, 0, 0, 0], "bad_message"),
    ] {
        let mut server = acceptor.begin().unwrap();
        let mut bytes = bytes.to_vec();
        let error = server.process_tls_records(&mut bytes).state.unwrap_err();
        assert_eq!(word(&error), expected, "{error:?}");
    }
}

#[test]
fn what_is_logged_of_an_acceptor_has_no_key() {
    let acceptor = Acceptor::new(one_name(&Authority::new("ours")), &keys()).unwrap();
    assert_eq!(
        format!("{acceptor:?}"),
        "Acceptor { certificates: Certificates(1), .. }"
    );
    let tickets = format!("{:?}", acceptor.config.ticketer);
    assert!(
        tickets.starts_with("Tickets { keys: TicketKeys { .. }, "),
        "{tickets}"
    );
}

/// Counts the processor time of its own steps only.
struct Timed<'a>(&'a mut UnbufferedServerConnection, Duration);

impl End for Timed<'_> {
    fn step(&mut self, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>) -> Result<bool, Error> {
        let spent = || {
            let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            Duration::try_from(time).unwrap()
        };
        let before = spent();
        let result = self.0.step(incoming, outgoing);
        self.1 += spent() - before;
        result
    }
}

#[test]
#[ignore = "a measurement: processor time of the server's part of a handshake; wants --release"]
fn cost_of_a_handshake() {
    const ROUNDS: u32 = 1000;
    let authority = Authority::new("ours");
    let rsa = authority.issue_with(&["a.example"], &PKCS_RSA_SHA256, |_| ());
    let rsa = listener("web", vec![certificate(&["a.example"], &rsa)]);
    let x25519 = with_groups(&authority.believers(), &[NamedGroup::X25519]);
    let full = settings(&authority.believers());
    for (what, spec, config, resumes) in [
        (
            "ECDSA P-256, X25519MLKEM768",
            one_name(&authority),
            full.clone(),
            false,
        ),
        (
            "ECDSA P-256, X25519",
            one_name(&authority),
            x25519.clone(),
            false,
        ),
        ("RSA 2048, X25519", rsa, x25519.clone(), false),
        ("resumed, X25519MLKEM768", one_name(&authority), full, true),
        ("resumed, X25519", one_name(&authority), x25519, true),
    ] {
        let acceptor = Acceptor::new(spec, &keys()).unwrap();
        let mut config = config;
        if !resumes {
            config.resumption = Resumption::disabled();
        }
        let config = Arc::new(config);
        meet(&acceptor, &config, "a.example");
        let mut spent = Duration::ZERO;
        for _ in 0..ROUNDS {
            let client = ClientConnection::new(config.clone(), name("a.example")).unwrap();
            let mut server = acceptor.begin().unwrap();
            let mut timed = Timed(&mut server, Duration::ZERO);
            let _results = talk(&mut Connection::from(client), &mut timed);
            spent += timed.1;
            let kind = server.handshake_kind().unwrap();
            assert_eq!(kind == HandshakeKind::Resumed, resumes);
        }
        println!("{what}: {:?}", spent / ROUNDS);
    }
}
