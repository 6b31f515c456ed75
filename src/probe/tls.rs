//! TLS towards a backend that is probed: verified unless told otherwise, and every refusal in words.

use std::io;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, ProtocolVersion, RootCertStore,
    SignatureScheme,
};

use super::connect::{Failure, Stream, describe};
use crate::base::addr::Endpoint;
use crate::base::wall::Stamp;
use crate::config::certificates::system_roots;
use crate::config::settings::{Probe, TlsVerify, without_port};

/// Names of a certificate that are shown.
const NAMES_SHOWN: usize = 3;

/// What a handshake needs to know.
#[derive(Clone, Debug)]
pub struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    verifies: bool,
}

impl TlsClient {
    /// For the probe of a target; `None` for a probe without TLS. The certificate must be for the
    /// configured name, else for the Host header's, else for the name that the backend's address
    /// has, else for the target's address.
    pub fn of(probe: &Probe, named: Option<&str>, target: &Endpoint) -> Option<TlsClient> {
        let verify = probe.tls()?;
        let host = match probe {
            Probe::Https(http, _) => without_port(&http.host),
            _ => "",
        };
        let written = [verify.server_name.as_str(), host, named.unwrap_or("")];
        let name = written
            .into_iter()
            .find(|name| !name.is_empty())
            .and_then(|name| ServerName::try_from(name.to_owned()).ok());
        let alpn = matches!(probe, Probe::Https(..)).then(|| b"http/1.1".to_vec());
        Some(TlsClient {
            config: Arc::new(config(verify, alpn)),
            name: name.unwrap_or_else(|| match target {
                Endpoint::Tcp(addr) => ServerName::from(addr.ip()),
                // Only without verification: the settings ask for a name otherwise.
                Endpoint::Unix(_) => {
                    ServerName::try_from("localhost").expect("a constant that is a name")
                }
            }),
            verifies: !verify.insecure,
        })
    }

    /// A whole handshake, never a resumed one: the certificate is looked at each time.
    pub(super) async fn handshake<S: Stream>(&self, stream: S) -> Result<TlsStream<S>, Failure> {
        TlsConnector::from(self.config.clone())
            .connect(self.name.clone(), stream)
            .await
            .map_err(|error| Failure::of_backend(refusal(&error)))
    }

    /// `TLS 1.3`, and that nobody was verified.
    pub(super) fn detail<S>(&self, stream: &TlsStream<S>) -> String {
        let version = match stream.get_ref().1.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => "TLS 1.2",
            _ => "TLS 1.3",
        };
        match self.verifies {
            true => version.to_owned(),
            false => format!("{version}, not verified"),
        }
    }
}

fn config(verify: &TlsVerify, alpn: Option<Vec<u8>>) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has suites of both versions");
    let mut config = if verify.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
            .with_no_client_auth()
    } else {
        builder
            .with_root_certificates(roots(verify))
            .with_no_client_auth()
    };
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.into_iter().collect();
    config
}

fn roots(verify: &TlsVerify) -> Arc<RootCertStore> {
    match &verify.ca {
        None => system_roots(),
        Some(bundle) => {
            let mut roots = RootCertStore::empty();
            // The check of the configuration has tried each of them.
            roots.add_parsable_certificates(bundle.certificates.iter().cloned());
            Arc::new(roots)
        }
    }
}

/// Why the handshake failed, for the operator.
fn refusal(error: &io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(Error::InvalidCertificate(why)) => certificate_refusal(why),
        Some(Error::InvalidMessage(_)) => "the answer is not TLS".to_owned(),
        Some(Error::AlertReceived(alert)) => format!("the server ended the handshake: {alert:?}"),
        Some(Error::PeerIncompatible(why)) => format!("nothing in common with the server: {why:?}"),
        Some(other) => format!("TLS: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "closed within the TLS handshake".to_owned()
        }
        None => format!("{} within the TLS handshake", describe(error)),
    }
}

fn certificate_refusal(why: &CertificateError) -> String {
    match why {
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names = presented_names(presented);
            format!("certificate is for {names}, expected {}", expected.to_str())
        }
        CertificateError::NotValidForName => "certificate is for another name".to_owned(),
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("certificate expired on {}", date(*not_after))
        }
        CertificateError::Expired => "certificate has expired".to_owned(),
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("certificate is not valid before {}", date(*not_before))
        }
        CertificateError::NotValidYet => "certificate is not valid yet".to_owned(),
        CertificateError::UnknownIssuer => "certificate of an unknown issuer".to_owned(),
        CertificateError::BadSignature => {
            "certificate of an unknown issuer: the known one of its name has another key".to_owned()
        }
        CertificateError::Revoked => "certificate is revoked".to_owned(),
        other => format!("certificate refused: {other}"),
    }
}

/// The names as rustls gives them, `DnsName("a.example")`, without their wrapping.
fn presented_names(presented: &[String]) -> String {
    let bare = |name: &String| {
        let inner = name
            .split_once('(')
            .and_then(|(_, rest)| rest.rsplit_once(')'));
        let inner = inner.map_or(name.as_str(), |(inner, _)| inner);
        inner.trim_matches('"').escape_debug().to_string()
    };
    let shown: Vec<String> = presented.iter().take(NAMES_SHOWN).map(bare).collect();
    match presented.len() {
        0 => "no name".to_owned(),
        all if all > NAMES_SHOWN => format!("{} and {} more", shown.join(", "), all - NAMES_SHOWN),
        _ => shown.join(", "),
    }
}

fn date(time: UnixTime) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(time.as_secs()));
    let mut stamp = Stamp::new();
    let text = stamp.render(at.unwrap_or(UNIX_EPOCH));
    String::from_utf8_lossy(&text[..10]).into_owned()
}

/// `insecure = true`: takes any certificate, though the handshake must be signed by its key.
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
        tokio_rustls::rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        tokio_rustls::rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests;
