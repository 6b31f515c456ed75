//! What a listener offers: certificates by name and by kind, protocols, versions, groups.

use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, cipher_suite};
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, NamedGroup};

use super::{Bench, terminate};
use crate::harness::balancer::{Balancer, Setup};
use crate::harness::tls::{self, Authority};

#[test]
fn the_certificate_is_that_of_the_name_asked_for() {
    let authority = Authority::new("test authority");
    let default = authority.issue("default", &["default.test"]);
    let exact = authority.issue("exact", &["web.test", "a.wild.test"]);
    let wild = authority.issue("wild", &["*.wild.test"]);
    let setup = Setup::over(&[tls::plain_echo()]);
    let setup = setup.listener(&terminate(&[&default, &exact, &wild], ""));
    let balancer = Balancer::start(&setup);
    let config = Arc::new(tls::trusting_client());
    for (name, sni, pair) in [
        ("web.test", "web.test", &exact),
        ("b.wild.test", "b.wild.test", &wild),
        ("a.wild.test", "a.wild.test", &exact),
        ("c.b.wild.test", "c.b.wild.test", &default),
        ("wild.test", "wild.test", &default),
        ("default.test", "default.test", &default),
        ("other.test", "other.test", &default),
        // No name is sent with an address (RFC 6066, section 3).
        ("127.0.0.1", "", &default),
    ] {
        let mut client = tls::connect(balancer.address(), name, &config);
        let from = client.sock.local_addr().unwrap();
        tls::handshake(&mut client).unwrap();
        assert_eq!(tls::shown(&client), pair.chain()[0], "{name}");
        assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
        assert_eq!(balancer.record_of(from).text("sni"), sni);
    }
}

#[test]
fn upper_case_in_a_name_makes_no_difference() {
    if Command::new("openssl").arg("version").output().is_err() {
        eprintln!("skipped: there is no openssl");
        return;
    }
    let authority = Authority::new("test authority");
    let default = authority.issue("default", &["default.test"]);
    let exact = authority.issue("exact", &["web.test"]);
    let setup = Setup::over(&[tls::plain_echo()]);
    let setup = setup.listener(&terminate(&[&default, &exact], ""));
    let balancer = Balancer::start(&setup);
    let output = Command::new("openssl")
        .args(["s_client", "-servername", "WEB.Test", "-connect"])
        .arg(balancer.address().to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout);
    let shown = std::fs::read_to_string(&exact.cert).unwrap();
    assert!(output.contains(shown.trim()), "{output}");
    assert_eq!(balancer.only_record().text("sni"), "web.test");
}

#[test]
fn of_two_kinds_of_key_a_client_gets_the_one_that_it_can_verify() {
    let authority = Authority::new("test authority");
    let ecdsa = authority.issue("ecdsa", &["web.test"]);
    let rsa = authority.issue_rsa("rsa", &["web.test"]);
    // The order does not matter: ECDSA costs less.
    let setup = Setup::over(&[tls::plain_echo()]).listener(&terminate(&[&rsa, &ecdsa], ""));
    let balancer = Balancer::start(&setup);
    let shown = |config: ClientConfig| {
        let mut client = tls::connect(balancer.address(), "web.test", &Arc::new(config));
        tls::handshake(&mut client).unwrap();
        tls::shown(&client)
    };
    assert_eq!(shown(authority.client()), ecdsa.chain()[0]);
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = vec![cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256];
    let only_rsa = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS12])
        .unwrap()
        .with_root_certificates(authority.roots())
        .with_no_client_auth();
    assert_eq!(shown(only_rsa), rsa.chain()[0]);
}

#[test]
fn the_protocol_is_the_first_of_the_listener_that_the_client_offers() {
    let bench = Bench::over(tls::plain_echo(), "alpn = [\"h2\", \"http/1.1\"]");
    for (offered, agreed) in [
        (&["http/1.1", "h2"][..], "h2"),
        (&["spdy/1", "http/1.1"], "http/1.1"),
        (&[], ""),
    ] {
        let mut config = bench.authority.client();
        config.alpn_protocols = offered
            .iter()
            .map(|name| name.as_bytes().to_vec())
            .collect();
        let mut client = bench.client_with(&Arc::new(config));
        let from = client.sock.local_addr().unwrap();
        tls::handshake(&mut client).unwrap();
        assert_eq!(
            client.conn.alpn_protocol().unwrap_or(b""),
            agreed.as_bytes()
        );
        assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
        assert_eq!(bench.balancer.record_of(from).text("alpn"), agreed);
    }
}

#[test]
fn clients_without_a_common_protocol_or_version_are_told_so() {
    let more = "alpn = [\"h2\"], min_version = \"1.3\"";
    let bench = Bench::over(tls::plain_echo(), more);
    let mut other_protocol = bench.authority.client();
    other_protocol.alpn_protocols = vec![b"smtp".to_vec()];
    let refused = [
        (
            other_protocol,
            AlertDescription::NoApplicationProtocol,
            "no_common_alpn",
        ),
        (
            bench.authority.client_of(&[&TLS12]),
            AlertDescription::ProtocolVersion,
            "no_common_version",
        ),
    ];
    for (config, alert, word) in refused {
        let mut client = bench.client_with(&Arc::new(config));
        let from = client.sock.local_addr().unwrap();
        let error = tls::handshake(&mut client).unwrap_err();
        assert_eq!(tls::alert(&error), Some(alert), "{error}");
        let record = bench.balancer.record_of(from);
        assert_eq!(record.termination(), "tls_failed");
        assert_eq!(record.text("detail"), word);
        assert_eq!(record.text("phase"), "tls");
        assert_eq!(record.text("sni"), "web.test");
    }
    let listener = bench.balancer.state().listeners.remove(0);
    let handshakes = listener.handshakes;
    assert_eq!((handshakes.failed, handshakes.full_13), (2, 0));
    assert_eq!(listener.handshake_failures["nothing_in_common"], 2);
    assert_eq!(listener.ended_by_pool[""]["tls_failed"], 2);
}

#[test]
fn both_versions_are_spoken_and_logged() {
    let bench = Bench::echo();
    for (version, word) in [(&TLS12, "1.2"), (&TLS13, "1.3")] {
        let config = bench.authority.client_of(&[version]);
        let client = bench.client_with(&Arc::new(config));
        let from = client.sock.local_addr().unwrap();
        assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
        let record = bench.balancer.record_of(from);
        assert_eq!(record.text("tls"), word);
        assert_eq!(record.text("path"), "tls");
        assert_eq!(record.termination(), "client_closed");
        assert_eq!(record.number("bytes_to_backend"), 5);
        assert_eq!(record.number("bytes_to_client"), 5);
    }
    let handshakes = bench.balancer.state().listeners[0].handshakes;
    assert_eq!((handshakes.full_12, handshakes.full_13), (1, 1));
}

#[test]
fn a_client_that_offers_it_gets_the_exchange_that_quantum_computers_do_not_break() {
    let bench = Bench::echo();
    let mut client = bench.client();
    tls::handshake(&mut client).unwrap();
    let group = client.conn.negotiated_key_exchange_group().unwrap().name();
    assert_eq!(group, NamedGroup::X25519MLKEM768);
}
