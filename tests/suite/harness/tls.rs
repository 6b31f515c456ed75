//! TLS for scenarios: authorities, certificates in files, clients and servers.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned,
};
use tempfile::TempDir;

/// Longest wait of a peer for anything; a test that meets it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

pub type Client = StreamOwned<ClientConnection, TcpStream>;
pub type Server = StreamOwned<ServerConnection, TcpStream>;

/// An authority, and a folder for what it signs.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

/// A certificate and its key as files.
#[derive(Clone, Debug)]
pub struct Pair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

impl Pair {
    /// As an entry of `certificates`.
    pub fn toml(&self) -> String {
        format!("{{ cert = {:?}, key = {:?} }}", self.cert, self.key)
    }

    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let found = CertificateDer::pem_file_iter(&self.cert).unwrap();
        found.map(Result::unwrap).collect()
    }

    pub fn key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_file(&self.key).unwrap()
    }
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        let authority = Authority {
            issuer: CertifiedIssuer::self_signed(params, key).unwrap(),
            folder: tempfile::tempdir().unwrap(),
        };
        std::fs::write(authority.ca(), authority.issuer.pem()).unwrap();
        authority
    }

    /// The authority's own certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    pub fn issuer(&self) -> &CertifiedIssuer<'static, KeyPair> {
        &self.issuer
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A certificate with an ECDSA P-256 key, in `FILE.pem` and `FILE.key`.
    pub fn issue(&self, file: &str, names: &[&str]) -> Pair {
        self.issue_with(file, names, |_| {})
    }

    pub fn issue_with(
        &self,
        file: &str,
        names: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Pair {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let pair = Pair {
            cert: self.folder.path().join(format!("{file}.pem")),
            key: self.folder.path().join(format!("{file}.key")),
        };
        std::fs::write(&pair.cert, certificate.pem()).unwrap();
        std::fs::write(&pair.key, key.serialize_pem()).unwrap();
        let private = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&pair.key, private).unwrap();
        pair
    }

    pub fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(roots)
    }

    /// How clients speak that believe this authority. Keep it over connections to resume sessions.
    pub fn client(&self) -> ClientConfig {
        ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
            .with_no_client_auth()
    }
}

/// A connection whose handshake is not made yet: the first write or read makes it.
pub fn connect(to: SocketAddr, name: &str, config: &Arc<ClientConfig>) -> Client {
    let stream = TcpStream::connect(to).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let connection = ClientConnection::new(config.clone(), name).unwrap();
    StreamOwned::new(connection, stream)
}

/// Says `hello` and returns what comes back, up to the end that the other side must say.
pub fn call(mut client: Client, hello: &[u8]) -> std::io::Result<Vec<u8>> {
    client.write_all(hello)?;
    client.conn.send_close_notify();
    client.flush()?;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer)?;
    Ok(answer)
}

pub fn server_config(pair: &Pair) -> ServerConfig {
    ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(pair.chain(), pair.key())
        .unwrap()
}

/// A TLS server whose every connection is served by `serve` in a thread of its own, until the
/// process ends.
pub fn serve(config: ServerConfig, serve: impl Fn(Server) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (config, serve) = (Arc::new(config), Arc::new(serve));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let (config, serve) = (config.clone(), serve.clone());
            thread::spawn(move || {
                stream.set_read_timeout(Some(PATIENCE)).unwrap();
                let connection = ServerConnection::new(config).unwrap();
                serve(StreamOwned::new(connection, stream));
            });
        }
    });
    address
}

/// Sends back what comes, and the end after the end.
pub fn echo(mut peer: impl Read + Write) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count) = peer.read(&mut buffer) {
        if count == 0 || peer.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
}

/// The same as a server of plain TCP.
pub fn plain_echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            thread::spawn(move || echo(stream));
        }
    });
    address
}
