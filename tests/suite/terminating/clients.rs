//! Certificates of clients.

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::{AlertDescription, ClientConfig};

use super::{Bench, terminate};
use crate::harness::record::Record;
use crate::harness::tls::{self, Authority, Pair};
use crate::harness::wait;

/// Those of the clients: an authority of their own, and certificates of it.
struct Clients {
    authority: Authority,
    good: Pair,
    revoked: Pair,
    expired: Pair,
}

impl Clients {
    fn new() -> Clients {
        let authority = Authority::new("authority of clients");
        let numbered = |file, serial: u64| {
            authority.issue_with(file, &[], |params| {
                params.serial_number = Some(serial.into());
                params
                    .distinguished_name
                    .push(rcgen::DnType::CommonName, file);
            })
        };
        let expired = authority.issue_with("expired", &[], |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
        Clients {
            good: numbered("good", 0x1234),
            revoked: numbered("revoked", 0x4321),
            expired,
            authority,
        }
    }

    /// As a part of the table of a listener's TLS.
    fn toml(&self, mode: &str, more: &str) -> String {
        let ca = self.authority.ca();
        format!("client_auth = {{ ca = {ca:?}, mode = \"{mode}\"{more} }}")
    }
}

/// What the client heard when it said hello, and what was written of it.
fn call(bench: &Bench, config: ClientConfig) -> (std::io::Result<Vec<u8>>, Record) {
    let client = bench.client_with(&Arc::new(config));
    let from = client.sock.local_addr().unwrap();
    let heard = tls::call(client, b"hello");
    (heard, bench.balancer.record_of(from))
}

#[test]
fn only_clients_with_a_good_certificate_are_served_where_one_is_required() {
    let clients = Clients::new();
    let crl = clients.authority.revoke("list", &[0x4321]);
    let more = clients.toml("required", &format!(", crl = {crl:?}"));
    let bench = Bench::over(tls::plain_echo(), &more);
    let strangers = Authority::new("another authority");
    let stranger = strangers.issue("stranger", &[]);
    let showing = |pair| bench.authority.client_showing(pair);

    let (heard, record) = call(&bench, showing(&clients.good));
    assert_eq!(heard.unwrap(), b"hello");
    assert_eq!(record.termination(), "client_closed");
    assert!(
        record.text("client_subject").contains("CN=good"),
        "{record:?}"
    );
    assert_eq!(record.text("client_serial"), "1234");

    use AlertDescription::*;
    for (config, alert, word) in [
        (
            bench.authority.client(),
            CertificateRequired,
            "cert_missing",
        ),
        (showing(&stranger), UnknownCA, "cert_unknown_ca"),
        (
            showing(&clients.expired),
            CertificateExpired,
            "cert_expired",
        ),
        (
            showing(&clients.revoked),
            CertificateRevoked,
            "cert_revoked",
        ),
    ] {
        let mut client = bench.client_with(&Arc::new(config));
        let from = client.sock.local_addr().unwrap();
        tls::handshake(&mut client).unwrap();
        let error = client.read(&mut [0; 8]).unwrap_err();
        assert_eq!(tls::alert(&error), Some(alert), "{error}");
        let record = bench.balancer.record_of(from);
        assert_eq!(record.termination(), "tls_failed");
        assert_eq!(record.text("detail"), word);
        assert_eq!(record.text("backend"), "", "nobody was connected to");
    }
    assert_eq!(bench.balancer.backend("b0").1, 1);
}

#[test]
fn where_it_is_optional_none_is_good_and_a_bad_one_is_refused() {
    let clients = Clients::new();
    let bench = Bench::over(tls::plain_echo(), &clients.toml("optional", ""));
    let (heard, record) = call(&bench, bench.authority.client());
    assert_eq!(heard.unwrap(), b"hello");
    assert_eq!(record.text("client_subject"), "");
    let (heard, record) = call(&bench, bench.authority.client_showing(&clients.good));
    assert_eq!(heard.unwrap(), b"hello");
    assert_eq!(record.text("client_serial"), "1234");
    let (heard, record) = call(&bench, bench.authority.client_showing(&clients.expired));
    assert!(heard.is_err());
    assert_eq!(record.text("detail"), "cert_expired");
}

#[test]
fn a_list_that_is_replaced_on_disk_revokes_without_a_reload() {
    let clients = Clients::new();
    let crl = clients.authority.revoke("list", &[0x4321]);
    let more = clients.toml("required", &format!(", crl = {crl:?}"));
    let bench = Bench::over(tls::plain_echo(), &more);
    // One that resumes as well: the list is part of what a ticket is good for.
    let config = Arc::new(bench.authority.client_showing(&clients.good));
    let call = || tls::call(bench.client_with(&config), b"hello");
    assert_eq!(call().unwrap(), b"hello");
    assert_eq!(call().unwrap(), b"hello");
    assert_eq!(bench.balancer.state().listeners[0].handshakes.resumed_13, 1);
    let mut long = bench.client_with(&config);
    tls::handshake(&mut long).unwrap();
    clients.authority.revoke("list", &[0x4321, 0x1234]);
    wait::until("the certificate is revoked", || call().is_err());
    let revoked = |record: &Record| record.text("detail") == "cert_revoked";
    wait::until("the record says why", || {
        bench.balancer.records().iter().any(revoked)
    });
    long.write_all(b"more").unwrap();
    let mut heard = [0; 4];
    long.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"more", "sessions that are served go on");
}

#[test]
fn a_ticket_is_not_good_for_others_than_those_whom_it_was_given_by() {
    let clients = Clients::new();
    let bench = Bench::over(tls::plain_echo(), &clients.toml("required", ""));
    let config = Arc::new(bench.authority.client_showing(&clients.good));
    let call = || tls::call(bench.client_with(&config), b"hello");
    assert_eq!(call().unwrap(), b"hello");
    assert_eq!(call().unwrap(), b"hello");
    assert_eq!(bench.balancer.state().listeners[0].handshakes.resumed_13, 1);

    let other = Clients::new();
    let mut setup = bench.setup.clone();
    setup.listener = terminate(&[&bench.pair], &other.toml("required", ""));
    bench.balancer.reload(&setup).unwrap();
    assert!(call().is_err(), "the ticket is of the authority before");
    let unknown = |record: &Record| record.text("detail") == "cert_unknown_ca";
    wait::until("the record says why", || {
        bench.balancer.records().iter().any(unknown)
    });
    assert_eq!(bench.balancer.state().listeners[0].handshakes.resumed_13, 1);
}
