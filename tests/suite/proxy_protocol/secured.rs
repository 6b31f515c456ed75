//! What backends are told of TLS that ends here, and of certificates that clients show.

use std::sync::Arc;

use lbd::wire::proxy::{Header, tlv as kinds};
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;

use super::{check_v2, first, setup, told};
use crate::harness::balancer::Balancer;
use crate::harness::record::Record;
use crate::harness::tls::{self, Authority};
use crate::routing_kit::Keeper;

/// A listener that ends the TLS of clients, who may show a certificate.
struct Terminating {
    authority: Authority,
    server: Keeper,
    balancer: Balancer,
}

impl Terminating {
    fn start() -> Terminating {
        let authority = Authority::new("test authority");
        let pair = authority.issue("web", &["web.test"]);
        let server = Keeper::new("server");
        let lines = format!(
            "tls = {{ mode = \"terminate\", certificates = [{}], alpn = [\"h2\", \"x\"], \
             client_auth = {{ ca = {:?}, mode = \"optional\" }} }}",
            pair.toml(),
            authority.ca()
        );
        let balancer = Balancer::start(&setup(&server, "v2").listener(&lines));
        Terminating {
            authority,
            server,
            balancer,
        }
    }

    /// What the backend was told of a client that speaks so, and the record of it.
    fn told_of(&self, config: ClientConfig) -> (Header, Record) {
        let client = tls::connect(self.balancer.address(), "web.test", &Arc::new(config));
        let own = client.sock.local_addr().unwrap();
        assert_eq!(tls::call(client, b"question").unwrap(), b"server");
        let bytes = self.server.received().pop().unwrap();
        let (header, rest) = told(&bytes);
        assert_eq!(rest, b"question");
        check_v2(&bytes, rest.len());
        (header, self.balancer.record_of(own))
    }

    fn builder(
        &self,
        version: &'static rustls::SupportedProtocolVersion,
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(self.authority.roots())
    }
}

/// The TLV about TLS: its bits, what came of the certificate, and TLVs of its own.
fn ssl(header: &Header) -> (u8, u32, Vec<(u8, String)>) {
    let value = header.tlvs.first(kinds::SSL).expect("TLS is told of");
    let (fixed, rest) = value.split_at(5);
    let verify = u32::from_be_bytes(fixed[1..].try_into().unwrap());
    let texts = tlvs(rest).into_iter();
    let texts = texts.map(|(kind, value)| (kind, String::from_utf8(value).unwrap()));
    (fixed[0], verify, texts.collect())
}

/// The TLVs that the value of one holds, read by hand.
fn tlvs(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut found = Vec::new();
    while let [kind, high, low, rest @ ..] = bytes {
        let (value, after) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        found.push((*kind, value.to_vec()));
        bytes = after;
    }
    assert!(bytes.is_empty(), "stray bytes");
    found
}

#[test]
fn tls_that_ends_here_is_told_of_with_version_cipher_name_and_protocol() {
    let bench = Terminating::start();
    for (version, word) in [
        (&rustls::version::TLS13, "TLSv1.3"),
        (&rustls::version::TLS12, "TLSv1.2"),
    ] {
        let mut config = bench.builder(version).with_no_client_auth();
        config.alpn_protocols = vec![b"y".to_vec(), b"x".to_vec()];
        let (header, record) = bench.told_of(config);
        assert_eq!(first(&header, kinds::AUTHORITY), Some("web.test"));
        assert_eq!(first(&header, kinds::ALPN), Some("x"));
        assert_eq!(first(&header, kinds::UNIQUE_ID), Some(record.text("id")));
        let (client, verify, texts) = ssl(&header);
        // Over TLS, without a certificate.
        assert_eq!((client, verify), (kinds::CLIENT_SSL, 1));
        let [(kinds::SSL_VERSION, told), (kinds::SSL_CIPHER, cipher)] = &texts[..] else {
            panic!("{texts:?}")
        };
        assert_eq!(told, word);
        // As OpenSSL has it, which the specification takes its example from.
        let expected = match word {
            "TLSv1.3" => "TLS_AES_256_GCM_SHA384",
            _ => "ECDHE-ECDSA-AES256-GCM-SHA384",
        };
        assert_eq!(cipher, expected);
        for kind in [kinds::CUSTOM_MIN, kinds::CUSTOM_MIN + 1] {
            assert_eq!(first(&header, kind), None);
        }
    }
}

#[test]
fn the_certificate_of_a_client_is_told_of_with_its_names_and_number() {
    let bench = Terminating::start();
    let pair = bench.authority.issue_with("client", &[], |params| {
        let name = &mut params.distinguished_name;
        name.push(rcgen::DnType::CommonName, "client 7");
        name.push(rcgen::DnType::OrganizationName, "Example");
        params.serial_number = Some(vec![0x1b, 0xd0, 7].into());
    });
    let config = bench
        .builder(&rustls::version::TLS13)
        .with_client_auth_cert(pair.chain(), pair.key())
        .unwrap();
    let (header, record) = bench.told_of(config.clone());
    let (client, verify, texts) = ssl(&header);
    let shown = kinds::CLIENT_SSL | kinds::CLIENT_CERT_CONN | kinds::CLIENT_CERT_SESS;
    assert_eq!((client, verify), (shown, 0));
    assert!(
        texts.contains(&(kinds::SSL_CN, "client 7".to_owned())),
        "{texts:?}"
    );
    let subject = first(&header, kinds::CUSTOM_MIN).expect("a subject");
    assert!(
        subject.contains("client 7") && subject.contains("Example"),
        "{subject}"
    );
    assert_eq!(record.text("client_subject"), subject);
    let serial = first(&header, kinds::CUSTOM_MIN + 1);
    assert_eq!(serial, Some("1bd007"));
    assert_eq!(record.text("client_serial"), "1bd007");

    // Of a session that is resumed the certificate is known, and was not shown again.
    let (header, _) = bench.told_of(config);
    let (client, verify, texts) = ssl(&header);
    let known = kinds::CLIENT_SSL | kinds::CLIENT_CERT_SESS;
    assert_eq!((client, verify), (known, 0));
    assert!(
        texts.contains(&(kinds::SSL_CN, "client 7".to_owned())),
        "{texts:?}"
    );
}
