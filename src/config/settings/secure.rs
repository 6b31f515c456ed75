//! Settings of TLS and of the PROXY protocol.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::CertificateRevocationListDer;
use rustls::sign::CertifiedKey;

use super::{CaBundle, TlsVerify};
use crate::balance::networks::Network;
use crate::base::host::NamePattern;

/// Whose connections begin with a header of the PROXY protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcceptProxy {
    /// At least one. These must send a header; a header from anybody else is refused.
    pub from: Vec<Network>,
    /// From the accept to the last byte of the header, more than zero.
    pub timeout: Duration,
}

/// What a listener does with the TLS of its clients.
#[derive(Clone, Debug, PartialEq)]
pub enum ListenerTls {
    Terminate(Box<Terminate>),
    /// Looks at the ClientHello, routes by it and forwards every byte as it came.
    Passthrough {
        /// From the accept (or the PROXY header) to the last byte of the hello.
        handshake_timeout: Duration,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub struct Terminate {
    /// At least one; the first is for clients that ask for no name or an unknown one.
    pub certificates: Vec<Identity>,
    pub min_version: TlsVersion,
    /// In order of preference; each of 1 to 255 bytes. Empty: no protocol is negotiated.
    pub alpn: Vec<Vec<u8>>,
    pub client_auth: Option<ClientAuth>,
    /// From the accept (or the PROXY header) to the end of the handshake, more than zero.
    pub handshake_timeout: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V12,
    V13,
}

/// Certificates of clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAuth {
    pub ca: CaBundle,
    /// One that has no certificate is refused. One that has a bad one always is.
    pub required: bool,
    pub crl: Option<CrlFile>,
}

/// A PEM file of revocation lists as it was when the configuration was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlFile {
    pub path: PathBuf,
    /// At least one.
    pub lists: Vec<CertificateRevocationListDer<'static>>,
}

/// A certificate with its key, as their files were when they were read: the key is that of the
/// certificate, which is valid at that time.
#[derive(Clone)]
pub struct Identity {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Chain, key and perhaps an OCSP response (from the file `CERT.ocsp`).
    pub certified: Arc<CertifiedKey>,
    /// DNS names of the certificate. A wildcard stands for one label (RFC 6125, section 6.4.3).
    pub names: Vec<NamePattern>,
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl PartialEq for Identity {
    /// The chain says which key it is.
    fn eq(&self, other: &Self) -> bool {
        let parts = |one: &Identity| (one.cert.clone(), one.key.clone());
        parts(self) == parts(other)
            && self.certified.cert == other.certified.cert
            && self.certified.ocsp == other.certified.ocsp
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("cert", &self.cert)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

/// TLS towards the backends of a pool.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamTls {
    pub verify: TlsVerify,
    /// Shown to backends that ask for a certificate.
    pub identity: Option<Identity>,
}

/// One `[[listener.route]]`: clients that fit every list that is not empty go to its pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    /// At least one of the three lists has something.
    pub sni: Vec<NamePattern>,
    /// Each of 1 to 255 bytes.
    pub alpn: Vec<Vec<u8>>,
    pub source: Vec<Network>,
    /// Index into [`Settings::pools`](super::Settings::pools).
    pub pool: usize,
}
