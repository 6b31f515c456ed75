//! TLS of clients: certificates by name, versions, protocols, client certificates, tickets.

use std::fmt;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, UnbufferedServerConnection, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::version::{TLS12, TLS13};
use rustls::{Error, ServerConfig};

use super::certificates::Certificates;
use super::tickets::{Partition, Tickets};

pub use super::certificates::Certificate;
pub use super::tickets::TicketKeys;

/// What a listener offers its clients.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// Of the listener.
    pub name: String,
    /// At least one; the first is for clients that ask for no name or an unknown one.
    pub certificates: Vec<Certificate>,
    pub only_tls13: bool,
    /// In order of preference; each of 1 to 255 bytes.
    pub alpn: Vec<Vec<u8>>,
    pub client_auth: Option<ClientAuthSpec>,
}

/// Whose client certificates are believed.
///
/// Every certificate of a chain is looked up in those lists that its issuer made; one that no list
/// speaks of is good, so that a list for the root alone, or for one of several issuers, may be
/// given. A list past its `nextUpdate` goes on being applied: it can but revoke too little, while
/// to refuse every client because a file was not renewed would be an outage.
#[derive(Clone, Debug)]
pub struct ClientAuthSpec {
    pub roots: Vec<CertificateDer<'static>>,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    /// A client that shows none is refused. One that shows a bad one always is.
    pub required: bool,
}

/// Begins connections of clients. Cheap to clone.
#[derive(Clone)]
pub struct Acceptor {
    config: Arc<ServerConfig>,
    certificates: Arc<Certificates>,
}

impl Acceptor {
    /// Errors: no certificate; roots or revocation lists that cannot be used.
    pub fn new(spec: ServerSpec, keys: &Arc<TicketKeys>) -> Result<Acceptor, Error> {
        if spec.certificates.is_empty() {
            return Err(Error::General(
                "a listener without a certificate".to_owned(),
            ));
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier = match &spec.client_auth {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(auth) => client_verifier(auth, &provider)?,
        };
        let tickets = Tickets::new(keys.clone(), partition(&spec));
        let certificates = Arc::new(Certificates::new(spec.certificates));
        let versions: &[_] = match spec.only_tls13 {
            true => &[&TLS13],
            false => &[&TLS13, &TLS12],
        };
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(certificates.clone());
        config.alpn_protocols = spec.alpn;
        // Every suite is a good one, so the order is a matter of cost, and ours is paid here. Clients
        // without AES in hardware, which like ChaCha20 better, have become rare.
        config.ignore_client_order = true;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::new(tickets);
        // A ticket is good for one connection of a client that keeps to RFC 8446, appendix C.4, and
        // each connection brings the next one.
        config.send_tls13_tickets = 1;
        // The rest is as rustls has it: no early data, no key log, no secrets to be taken out, no
        // compressed certificates (their crates are not compiled in).
        Ok(Acceptor {
            config: Arc::new(config),
            certificates,
        })
    }

    /// Others from now on, at least one; connections and resumption live on.
    pub fn replace_certificates(&self, certificates: Vec<Certificate>) {
        debug_assert!(!certificates.is_empty(), "checked with the settings");
        self.certificates.replace(certificates);
    }

    /// Errors: none that this configuration can bring about.
    pub fn begin(&self) -> Result<UnbufferedServerConnection, Error> {
        UnbufferedServerConnection::new(self.config.clone())
    }
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("certificates", &self.certificates)
            .finish_non_exhaustive()
    }
}

/// A client with several certificates is told the names of those whom we believe; the field has
/// 16 bits for their length (RFC 8446, section 4.2.4). With more of them it has to know.
const HINT_BYTES_MAX: usize = 16 << 10;

fn client_verifier(
    auth: &ClientAuthSpec,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    let roots = super::client::roots(auth.roots.iter().cloned());
    let hint_bytes: usize = roots
        .subjects()
        .iter()
        .map(|name| name.as_ref().len())
        .sum();
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .with_crls(auth.crls.iter().cloned())
        .allow_unknown_revocation_status();
    let builder = match auth.required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    let builder = match hint_bytes <= HINT_BYTES_MAX {
        true => builder,
        false => builder.clear_root_hint_subjects(),
    };
    builder.build().map_err(|error| match error {
        VerifierBuilderError::InvalidCrl(why) => Error::InvalidCertRevocationList(why),
        other => Error::General(other.to_string()),
    })
}

/// A ticket holds the client's certificate as verified. So it is good only where the same would
/// have been asked for and believed.
fn partition(spec: &ServerSpec) -> Partition {
    let auth = spec.client_auth.as_ref();
    let roots: Vec<&[u8]> = auth
        .iter()
        .flat_map(|auth| auth.roots.iter().map(AsRef::as_ref))
        .collect();
    let crls: Vec<&[u8]> = auth
        .iter()
        .flat_map(|auth| auth.crls.iter().map(AsRef::as_ref))
        .collect();
    let asks: &[u8] = match auth {
        None => b"nothing",
        Some(auth) if auth.required => b"required",
        Some(_) => b"optional",
    };
    Partition::of(&[&[spec.name.as_bytes()], &[asks], &roots, &crls])
}

#[cfg(test)]
mod tests;
