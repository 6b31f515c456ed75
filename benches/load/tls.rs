//! Which TLS the client speaks: one version, one group, one suite, and nothing is verified, because
//! that cost would be the client's.

use std::io;
use std::sync::{Arc, Mutex};

use clap::ValueEnum;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{
    ClientConfig, ClientSessionStore, Resumption, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, NamedGroup, SignatureScheme, version};

use crate::session::Session;

/// Whether connections are secured, and how they begin.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Security {
    /// TLS 1.3 with X25519 and AES-128-GCM, and no other, over each connection.
    #[arg(long, value_enum)]
    tls: Option<Handshake>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Handshake {
    Full,
    /// With a ticket of an earlier connection, as soon as there is one.
    Resumed,
}

/// The name that is asked for; the certificate of `scripts/terminators.sh` has it.
const SERVER_NAME: &str = "bench.test";

impl Security {
    /// What opens the sessions of one thread; none when connections are plain.
    pub(crate) fn client(self) -> Option<Client> {
        let handshake = self.tls?;
        let provider = CryptoProvider {
            cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
            kx_groups: vec![aws_lc_rs::kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&version::TLS13])
            .expect("the provider has a suite for TLS 1.3")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trust))
            .with_no_client_auth();
        config.resumption = match handshake {
            Handshake::Full => Resumption::disabled(),
            Handshake::Resumed => Resumption::store(Arc::new(Tickets::default())),
        };
        Some(Client(Arc::new(config)))
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Client(Arc<ClientConfig>);

impl Client {
    /// A session with its first flight ready to be sent.
    pub(crate) fn session(&self) -> io::Result<Session> {
        let name = ServerName::try_from(SERVER_NAME).expect("a name of DNS");
        Session::new(self.0.clone(), name)
    }
}

/// The tickets of one thread, each for one use. Those of all servers together, as there is one.
#[derive(Debug, Default)]
struct Tickets(Mutex<Vec<Tls13ClientSessionValue>>);

/// More than a thread has connections at a time.
const TICKETS_MAX: usize = 1024;

impl ClientSessionStore for Tickets {
    fn insert_tls13_ticket(&self, _: ServerName<'static>, ticket: Tls13ClientSessionValue) {
        let mut tickets = self.0.lock().expect("no thread panics with it");
        if tickets.len() < TICKETS_MAX {
            tickets.push(ticket);
        }
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.lock().expect("no thread panics with it").pop()
    }

    // There is one group, and no TLS 1.2.

    fn set_kx_hint(&self, _: ServerName<'static>, _: NamedGroup) {}

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<NamedGroup> {
        None
    }

    fn set_tls12_session(&self, _: ServerName<'static>, _: Tls12ClientSessionValue) {}

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        None
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {}
}

/// Takes every certificate, and every signature without a look at it.
#[derive(Debug)]
struct Trust;

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
