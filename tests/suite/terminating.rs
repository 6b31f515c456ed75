//! Listeners that terminate TLS.

use std::sync::Arc;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::tls::{self, Authority};

#[test]
fn a_client_over_tls_is_served_by_a_plain_backend() {
    let authority = Authority::new("test authority");
    let pair = authority.issue("web", &["web.test"]);
    let setup = Setup::over(&[tls::plain_echo()]).listener(&format!(
        "tls = {{ mode = \"terminate\", certificates = [{}], alpn = [\"http/1.1\"] }}",
        pair.toml()
    ));
    let balancer = Balancer::start(&setup);
    let client = tls::connect(
        balancer.address(),
        "web.test",
        &Arc::new(authority.client()),
    );
    let from = client.sock.local_addr().unwrap();
    assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
    let record = balancer.record_of(from);
    assert_eq!(record.termination(), "client_closed");
    assert_eq!(record.text("sni"), "web.test");
    assert_eq!(record.text("tls"), "1.3");
    assert_eq!(record.text("path"), "tls");
}
