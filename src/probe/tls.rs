//! TLS towards a backend that is probed: verified unless told otherwise, and every refusal in words.

use std::io;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, Error, ProtocolVersion};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect::{Failure, Stream, describe};
use crate::base::addr::Endpoint;
use crate::config::certificates::system_roots;
use crate::config::settings::{Probe, TlsVerify, without_port};
use crate::tls::client::{self, ClientSpec, Trust};
use crate::tls::fault;

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
    let spec = ClientSpec {
        trust: trust(verify),
        identity: None,
    };
    let mut config = client::config(&spec).expect("the provider has suites of both versions");
    config.resumption = Resumption::disabled();
    config.alpn_protocols = alpn.into_iter().collect();
    config
}

/// Whom these settings believe.
pub fn trust(verify: &TlsVerify) -> Trust {
    match &verify.ca {
        _ if verify.insecure => Trust::Anyone,
        None => Trust::Roots(system_roots()),
        Some(bundle) => Trust::Listed(bundle.certificates.clone()),
    }
}

/// Why the handshake failed, for the operator.
fn refusal(error: &io::Error) -> String {
    let tls = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>());
    match tls {
        Some(error) => fault::phrase(error),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "closed within the TLS handshake".to_owned()
        }
        None => format!("{} within the TLS handshake", describe(error)),
    }
}

#[cfg(test)]
mod tests;
