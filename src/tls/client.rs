//! TLS towards backends: whom to believe, what to offer, and sessions to resume.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, UnbufferedClientConnection};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::listed::Listed;

/// Sessions kept for a backend: rustls keeps eight for each name, and a backend has one name, or a
/// second one after a reload. Each is about as large as the backend's certificates.
const SESSIONS_MAX: usize = 16;

/// Which certificates of a server are believed.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Those for its name that these have issued.
    Roots(Arc<RootCertStore>),
    /// The same with authorities that are listed, or those that are listed themselves.
    Listed(Vec<CertificateDer<'static>>),
    /// Any, though the handshake must be signed by its key.
    Anyone,
}

/// How backends are spoken to.
#[derive(Clone)]
pub struct ClientSpec {
    pub trust: Trust,
    /// Shown to a backend that asks for a certificate.
    pub identity: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for ClientSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientSpec")
            .field("trust", &self.trust)
            .field("identity", &self.identity.is_some())
            .finish()
    }
}

/// Begins connections to one backend and remembers its sessions. Clones share them.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
}

impl Connector {
    /// Errors: none that the crypto compiled in can bring about.
    pub fn new(spec: &ClientSpec) -> Result<Connector, Error> {
        Ok(Connector::over(config(spec)?))
    }

    /// The same towards another backend, whose sessions are resumed apart.
    pub fn for_another(&self) -> Connector {
        Connector::over(ClientConfig::clone(&self.config))
    }

    fn over(mut config: ClientConfig) -> Connector {
        config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
        Connector {
            config: Arc::new(config),
        }
    }

    /// The certificate must be for this name, which is also asked for (SNI) unless it is an
    /// address. Errors: none that this configuration can bring about.
    pub fn begin(
        &self,
        name: ServerName<'static>,
        alpn: Option<&[u8]>,
    ) -> Result<UnbufferedClientConnection, Error> {
        let alpn = alpn.into_iter().map(<[u8]>::to_vec).collect();
        UnbufferedClientConnection::new_with_alpn(self.config.clone(), name, alpn)
    }
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector").finish_non_exhaustive()
    }
}

/// TLS 1.2 and 1.3 with what the crypto compiled in prefers. Errors: as [`Connector::new`].
pub fn config(spec: &ClientSpec) -> Result<ClientConfig, Error> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match &spec.trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots.clone()),
        Trust::Listed(certificates) => {
            let listed = Listed::new(certificates.clone(), provider)?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(listed))
        }
        Trust::Anyone => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider))),
    };
    Ok(match &spec.identity {
        None => builder.with_no_client_auth(),
        Some(certified) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified.clone())))
        }
    })
}

/// Without those that cannot be used: the check of the configuration has tried each of them.
pub fn roots(
    certificates: impl IntoIterator<Item = CertificateDer<'static>>,
) -> Arc<RootCertStore> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(certificates);
    Arc::new(roots)
}

/// [`Trust::Anyone`].
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
