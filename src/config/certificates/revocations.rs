//! Reads lists of revoked certificates.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::SectionKind;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{CertRevocationListError, RootCertStore};
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::config::ledger::Wrong;
use crate::config::settings::{CaBundle, CrlFile};

const HINT: &str = "a PEM file with the lists of those who sign the clients' certificates";

/// Every list of the file. Errors: it cannot be read, has none, or one that is unusable.
pub(crate) fn revocations(path: &Path, ca: &CaBundle) -> Result<CrlFile, Wrong> {
    let wrong = |what: String| Wrong::new(format!("the CRL file {path:?} {what}"), HINT);
    let (bytes, _) = super::read(path).map_err(wrong)?;
    let lists: Vec<_> = super::sections(&bytes)
        .map_err(wrong)?
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Crl)
        .map(|(_, der)| CertificateRevocationListDer::from(der))
        .collect();
    if lists.is_empty() {
        return Err(wrong("has no list".to_owned()));
    }
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(ca.certificates.iter().cloned());
    let (roots, provider) = (Arc::new(roots), Arc::new(aws_lc_rs::default_provider()));
    for (at, list) in lists.iter().enumerate() {
        // As it is used later, which is the only way to know.
        let built = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone())
            .with_crls([list.clone()])
            .build();
        if let Err(VerifierBuilderError::InvalidCrl(error)) = built {
            // The others are words such as UnsupportedDeltaCrl.
            let detail = match error {
                CertRevocationListError::Other(_) => String::new(),
                error => format!(": {error:?}"),
            };
            return Err(wrong(format!(
                "has an unusable list, number {}{detail}",
                at + 1
            )));
        }
    }
    Ok(CrlFile {
        path: path.to_owned(),
        lists,
    })
}

/// When there is to be a newer one of the list, if it says so.
pub(crate) fn next_update(list: &CertificateRevocationListDer<'_>) -> Option<SystemTime> {
    let (_, list) = CertificateRevocationList::from_der(list.as_ref()).ok()?;
    list.next_update().map(super::system_time)
}
