//! Reads certificate authorities: those of a PEM file, or those the system trusts.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, LazyLock};

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::config::ledger::Wrong;
use crate::config::settings::CaBundle;

/// Whom this system trusts, read when it is first asked for; perhaps nobody.
pub fn system_roots() -> Arc<RootCertStore> {
    static ROOTS: LazyLock<Arc<RootCertStore>> = LazyLock::new(|| {
        let mut roots = RootCertStore::empty();
        // A few that cannot be used do not matter: systems carry odd ones along.
        let found = rustls_native_certs::load_native_certs().certs;
        let _counts = roots.add_parsable_certificates(found);
        Arc::new(roots)
    });
    ROOTS.clone()
}

/// The bundles of all public authorities together are less than 1 MiB.
const FILE_BYTES_MAX: u64 = 16 << 20;

const HINT: &str = "a PEM file with the certificates of those who sign the backends' certificates";

/// Every certificate of the file. Errors: it cannot be read, has none, or one that is unusable.
pub(crate) fn bundle(path: &str) -> Result<CaBundle, Wrong> {
    let wrong = |what: String| Wrong::new(format!("the CA file {path:?} {what}"), HINT);
    let mut pem = Vec::new();
    File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX).read_to_end(&mut pem))
        .map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let certificates = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| wrong(format!("is not PEM: {error}")))?;
    if certificates.is_empty() {
        return Err(wrong("has no certificate".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    for (at, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| {
            wrong(format!(
                "has an unusable certificate, number {}: {error}",
                at + 1
            ))
        })?;
    }
    Ok(CaBundle {
        path: Path::new(path).to_owned(),
        certificates,
    })
}
