//! Tickets: where they are good, and where not.

use std::fmt;
use std::sync::Arc;

use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, NamedGroup};

use super::{Bench, terminate};
use crate::harness::tls::{self, Authority};
use crate::harness::wait;

/// Whether a call over a new connection began by a ticket of an earlier one.
fn resumes(bench: &Bench, name: &str, config: &Arc<ClientConfig>) -> bool {
    let mut client = tls::connect(bench.balancer.address(), name, config);
    tls::handshake(&mut client).unwrap();
    let kind = client.conn.handshake_kind();
    assert_eq!(tls::call(client, b"hello").unwrap(), b"hello");
    kind == Some(HandshakeKind::Resumed)
}

#[test]
fn a_ticket_is_good_for_every_worker_and_over_reloads_and_new_certificates() {
    for version in [&TLS13, &TLS12] {
        let bench = Bench::with(tls::plain_echo(), "", |mut setup| {
            setup.workers = 4;
            setup
        });
        let config = Arc::new(bench.authority.client_of(&[version]));
        assert!(!resumes(&bench, "web.test", &config));
        // The kernel spreads them over the workers by their ports.
        for _ in 0..20 {
            assert!(resumes(&bench, "web.test", &config));
        }
        bench.balancer.reload(&bench.setup).unwrap();
        assert!(resumes(&bench, "web.test", &config), "after a reload");

        let new = bench.authority.issue("new", &["web.test"]);
        bench.pair.replace_by(&new);
        wait::until("the new certificate is in use", || {
            let mut client = bench.client();
            tls::handshake(&mut client).unwrap();
            tls::shown(&client) == new.chain()[0]
        });
        assert!(
            resumes(&bench, "web.test", &config),
            "after a new certificate"
        );
        let counts = bench.balancer.state().listeners[0].handshakes;
        let resumed = [counts.resumed_12, counts.resumed_13];
        assert_eq!(resumed.iter().sum::<u64>(), 22, "{counts:?}");
    }
}

#[test]
fn a_ticket_is_not_good_for_another_name() {
    let authority = Authority::new("test authority");
    let pair = authority.issue("both", &["web.test", "other.test"]);
    let bench = Bench::with(tls::plain_echo(), "", |mut setup| {
        setup.listener = terminate(&[&pair], "");
        setup
    });
    for version in [&TLS13, &TLS12] {
        let mut config = authority.client_of(&[version]);
        config.resumption = Resumption::store(Arc::new(OneForAll::new()));
        let config = Arc::new(config);
        assert!(!resumes(&bench, "web.test", &config));
        assert!(!resumes(&bench, "other.test", &config));
        assert!(resumes(&bench, "other.test", &config));
    }
}

/// Offers the sessions of any server to every other.
struct OneForAll(ClientSessionMemoryCache);

impl OneForAll {
    fn new() -> OneForAll {
        OneForAll(ClientSessionMemoryCache::new(8))
    }
}

fn one_name() -> ServerName<'static> {
    ServerName::try_from("one.test").unwrap()
}

impl fmt::Debug for OneForAll {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OneForAll")
    }
}

impl ClientSessionStore for OneForAll {
    fn set_kx_hint(&self, _: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(one_name(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        self.0.kx_hint(&one_name())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(one_name(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&one_name())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&one_name());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(one_name(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&one_name())
    }
}
