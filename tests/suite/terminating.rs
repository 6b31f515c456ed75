//! Listeners that terminate TLS.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::tls::{self, Authority, Client, Pair};

mod admitting;
mod clients;
mod ends;
mod offers;
mod programs;
mod renewing;
mod resuming;
mod stalling;
mod traffic;

/// A balancer that terminates TLS for `web.test`.
struct Bench {
    balancer: Balancer,
    setup: Setup,
    pair: Pair,
    authority: Authority,
}

impl Bench {
    fn echo() -> Bench {
        Bench::over(tls::plain_echo(), "")
    }

    /// `more` goes into the table of the listener's TLS.
    fn over(backend: SocketAddr, more: &str) -> Bench {
        Bench::with(backend, more, |setup| setup)
    }

    fn with(backend: SocketAddr, more: &str, change: impl FnOnce(Setup) -> Setup) -> Bench {
        let authority = Authority::new("test authority");
        let pair = authority.issue("web", &["web.test"]);
        let setup = Setup::over(&[backend]).listener(&terminate(&[&pair], more));
        let setup = change(setup);
        Bench {
            balancer: Balancer::start(&setup),
            setup,
            pair,
            authority,
        }
    }

    /// A connection whose handshake is not made yet.
    fn client(&self) -> Client {
        self.client_with(&Arc::new(self.authority.client()))
    }

    fn client_with(&self, config: &Arc<ClientConfig>) -> Client {
        tls::connect(self.balancer.address(), "web.test", config)
    }
}

/// The line of a listener.
fn terminate(pairs: &[&Pair], more: &str) -> String {
    let pairs: Vec<_> = pairs.iter().map(|pair| pair.toml()).collect();
    let pairs = pairs.join(", ");
    let more = match more {
        "" => String::new(),
        more => format!(", {more}"),
    };
    format!("tls = {{ mode = \"terminate\", certificates = [{pairs}]{more} }}")
}

#[test]
fn a_client_over_tls_is_served_by_a_plain_backend() {
    let bench = Bench::over(tls::plain_echo(), "alpn = [\"http/1.1\"]");
    let client = bench.client();
    let from = client.sock.local_addr().unwrap();
    assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
    let record = bench.balancer.record_of(from);
    assert_eq!(record.termination(), "client_closed");
    assert_eq!(record.text("sni"), "web.test");
    assert_eq!(record.text("alpn"), "");
    assert_eq!(record.text("tls"), "1.3");
    assert_eq!(record.text("path"), "tls");
}
