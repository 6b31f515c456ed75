//! Reads certificates: of authorities, of lbd itself with their keys, and lists of revoked ones.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject, SectionKind};
use x509_parser::time::ASN1Time;

use crate::base::wall::Stamp;
use crate::config::ledger::Wrong;
use crate::config::settings::CaBundle;

pub use identity::{Flaw, PairFile, identity};
pub(crate) use revocations::{next_update, revocations};

mod identity;
mod revocations;

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

/// Every certificate of the file; `peers` are those whom they have signed. Errors: it cannot be
/// read, has none, or one that is unusable.
pub(crate) fn bundle(path: &Path, peers: &str) -> Result<CaBundle, Wrong> {
    let hint =
        format!("a PEM file with the certificates of those who sign the {peers}' certificates");
    let wrong = |what: String| Wrong::new(format!("the CA file {path:?} {what}"), hint.clone());
    let (bytes, _) = read(path).map_err(wrong)?;
    let certificates: Vec<_> = sections(&bytes)
        .map_err(wrong)?
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| CertificateDer::from(der))
        .collect();
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
        path: path.to_owned(),
        certificates,
    })
}

/// The bundles of all public authorities together are less than 1 MiB; lists of revoked
/// certificates are the largest of these files.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// The bytes of a file and its mode. Errors: what is wrong, in words that follow its name.
fn read(path: &Path) -> Result<(Vec<u8>, u32), String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // Opening a pipe would wait for somebody who writes into it.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if meta.file_type().is_fifo() {
        return Err("is a pipe, not a file".to_owned());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(cannot)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("has more than {} MiB", FILE_BYTES_MAX >> 20));
    }
    Ok((bytes, meta.mode()))
}

/// The sections of a PEM file, those of unknown kinds left out. Errors: as of [`read`], and never
/// with bytes of the file, which may be those of a key.
fn sections(bytes: &[u8]) -> Result<Vec<(SectionKind, Vec<u8>)>, String> {
    PemObject::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| {
            let what = match error {
                pem::Error::MissingSectionEnd { .. } => "a section has no END line",
                pem::Error::IllegalSectionStart { .. } => "a BEGIN line does not end in -----",
                pem::Error::Base64Decode(_) => "a section is not Base64",
                _ => "a section is malformed",
            };
            format!("is not PEM: {what}")
        })
}

/// One that a `SystemTime` cannot hold is taken for 1970.
fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = time.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds < 0 {
        true => UNIX_EPOCH.checked_sub(distance),
        false => UNIX_EPOCH.checked_add(distance),
    };
    time.unwrap_or(UNIX_EPOCH)
}

/// `2026-01-02`
pub(crate) fn date(at: SystemTime) -> String {
    let mut stamp = Stamp::new();
    String::from_utf8_lossy(&stamp.render(at)[..10]).into_owned()
}
