//! Reads a certificate with its key, and what a certificate authority says of it for clients.

use std::ffi::OsString;
use std::fmt;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::SectionKind;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error, InconsistentKeys};
use x509_parser::asn1_rs::{Enumerated, Sequence};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::{date, read, sections, system_time};
use crate::base::host::NamePattern;
use crate::config::settings::Identity;

/// One of the two files of a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PairFile {
    Certificate,
    Key,
}

/// What is wrong with a pair of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flaw {
    /// Where it shows.
    pub file: PairFile,
    /// With the name of the file, and never with bytes of it.
    pub message: String,
    /// What would be right.
    pub hint: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.hint)
    }
}

/// The certificate with its chain, its key and, when there is a file `CERT.ocsp`, the OCSP response
/// in that, as they are now.
///
/// Errors: at least one flaw, and at most one of each file; the two files do not belong together,
/// or the certificate is not valid at this time.
pub fn identity(cert: &Path, key: &Path) -> Result<Identity, Vec<Flaw>> {
    let (chain, key_of_file) = match (chain(cert), signing_key(key)) {
        (Ok(chain), Ok(key)) => (chain, key),
        (chain, key) => return Err(chain.err().into_iter().chain(key.err()).collect()),
    };
    let mut certified = CertifiedKey::new(chain.certificates, key_of_file);
    match certified.keys_match() {
        // It is not said where the kind of key does not tell its public half.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(Error::InconsistentKeys(_)) => {
            return Err(vec![Flaw {
                file: PairFile::Key,
                message: format!("the key in {key:?} is not that of the certificate {cert:?}"),
                hint: "the two files were written together, perhaps only one is new".to_owned(),
            }]);
        }
        Err(error) => {
            return Err(vec![of_certificate(cert, CERTIFICATE_HINT)(format!(
                "cannot be used: {error}"
            ))]);
        }
    }
    certified.ocsp = ocsp_response(cert).map_err(|flaw| vec![flaw])?;
    Ok(Identity {
        cert: cert.to_owned(),
        key: key.to_owned(),
        certified: Arc::new(certified),
        names: chain.names,
        not_before: chain.not_before,
        not_after: chain.not_after,
    })
}

const CERTIFICATE_HINT: &str =
    "a PEM file with the certificate and those that lead to an authority";

fn of_certificate(path: &Path, hint: &str) -> impl Fn(String) -> Flaw {
    move |what| Flaw {
        file: PairFile::Certificate,
        message: format!("the certificate file {path:?} {what}"),
        hint: hint.to_owned(),
    }
}

struct Chain {
    certificates: Vec<CertificateDer<'static>>,
    names: Vec<NamePattern>,
    not_before: SystemTime,
    not_after: SystemTime,
}

fn chain(path: &Path) -> Result<Chain, Flaw> {
    let flaw = of_certificate(path, CERTIFICATE_HINT);
    let (bytes, _) = read(path).map_err(&flaw)?;
    let sections = sections(&bytes).map_err(&flaw)?;
    let holds_key = sections.iter().any(|(kind, _)| is_key(*kind));
    let certificates: Vec<CertificateDer<'static>> = sections
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| der.into())
        .collect();
    let mut parsed = Vec::with_capacity(certificates.len());
    for (at, der) in certificates.iter().enumerate() {
        match X509Certificate::from_der(der) {
            Ok(([], certificate)) => parsed.push(certificate),
            _ => {
                let number = at + 1;
                return Err(flaw(format!(
                    "has an unusable certificate, number {number}"
                )));
            }
        }
    }
    let Some(leaf) = parsed.first() else {
        return Err(match holds_key {
            true => of_certificate(path, SWAPPED_HINT)("holds a key and no certificate".to_owned()),
            false => flaw("has no certificate".to_owned()),
        });
    };
    check_order(path, &parsed)?;
    check_strength(path, leaf)?;
    let validity = leaf.validity();
    let (not_before, not_after) = (
        system_time(validity.not_before),
        system_time(validity.not_after),
    );
    check_time(path, not_before, not_after)?;
    let names = names(leaf);
    drop(parsed);
    Ok(Chain {
        certificates,
        names,
        not_before,
        not_after,
    })
}

const SWAPPED_HINT: &str = "perhaps `cert` and `key` are swapped";

/// Each certificate has issued one before it. That it is the very one before, which RFC 5246,
/// section 7.4.2, asks for, is not looked at: chains with two ways to an authority are in use.
fn check_order(path: &Path, parsed: &[X509Certificate<'_>]) -> Result<(), Flaw> {
    for (at, certificate) in parsed.iter().enumerate().skip(1) {
        let subject = certificate.subject().as_raw();
        if parsed[..at]
            .iter()
            .all(|earlier| earlier.issuer().as_raw() != subject)
        {
            let hint = "first the own certificate, then the one that issued it, and so on";
            let number = at + 1;
            return Err(of_certificate(path, hint)(format!(
                "is out of order: its certificate number {number} has issued none before it"
            )));
        }
    }
    Ok(())
}

/// Fewer are refused by today's clients (NIST SP 800-131A, CA/Browser Forum baseline 6.1.5).
const RSA_BITS_MIN: usize = 2048;

fn check_strength(path: &Path, leaf: &X509Certificate<'_>) -> Result<(), Flaw> {
    let Ok(PublicKey::RSA(rsa)) = leaf.public_key().parsed() else {
        return Ok(());
    };
    let significant = rsa.modulus.iter().position(|byte| *byte != 0);
    let bits = significant.map_or(0, |at| {
        (rsa.modulus.len() - at) * 8 - rsa.modulus[at].leading_zeros() as usize
    });
    if bits < RSA_BITS_MIN {
        let hint = "make a new key: ECDSA with P-256, or RSA with 2048 bits or more";
        return Err(of_certificate(path, hint)(format!(
            "has an RSA key of {bits} bits, fewer than {RSA_BITS_MIN}"
        )));
    }
    Ok(())
}

fn check_time(path: &Path, not_before: SystemTime, not_after: SystemTime) -> Result<(), Flaw> {
    let now = SystemTime::now();
    let what = if now > not_after {
        format!("expired on {}", date(not_after))
    } else if now < not_before {
        format!("is not valid before {}", date(not_before))
    } else {
        return Ok(());
    };
    let hint = format!("renew it, or set the clock: today is {}", date(now));
    Err(of_certificate(path, &hint)(what))
}

/// Of the subjectAltName; a common name is not looked at by clients (RFC 6125, section 6.4.4). What
/// is no host name is left out: nobody asks for it.
fn names(leaf: &X509Certificate<'_>) -> Vec<NamePattern> {
    let Ok(Some(alternative)) = leaf.subject_alternative_name() else {
        return Vec::new();
    };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => NamePattern::parse(name).ok(),
        _ => None,
    };
    let names = &alternative.value.general_names;
    names.iter().filter_map(dns).collect()
}

fn is_key(kind: SectionKind) -> bool {
    matches!(
        kind,
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey
    )
}

fn signing_key(path: &Path) -> Result<Arc<dyn SigningKey>, Flaw> {
    let flaw = |what: &str, hint: String| Flaw {
        file: PairFile::Key,
        message: format!("the key file {path:?} {what}"),
        hint,
    };
    let plain = |what: String| flaw(&what, "a PEM file with a private key".to_owned());
    let (bytes, mode) = read(path).map_err(plain)?;
    check_mode(path, mode)?;
    if is_encrypted(&bytes) {
        let hint = "nobody is there to enter the password; write it out by `openssl pkey`";
        return Err(flaw("is encrypted", hint.to_owned()));
    }
    let sections = sections(&bytes).map_err(plain)?;
    let holds_certificate = sections
        .iter()
        .any(|(kind, _)| *kind == SectionKind::Certificate);
    let mut keys = sections.into_iter().filter(|(kind, _)| is_key(*kind));
    let key = match (keys.next(), keys.count()) {
        (None, _) if holds_certificate => {
            return Err(flaw(
                "holds a certificate and no key",
                SWAPPED_HINT.to_owned(),
            ));
        }
        (None, _) => return Err(plain("has no key".to_owned())),
        (Some((kind, der)), 0) => match kind {
            SectionKind::RsaPrivateKey => PrivateKeyDer::Pkcs1(der.into()),
            SectionKind::EcPrivateKey => PrivateKeyDer::Sec1(der.into()),
            _ => PrivateKeyDer::Pkcs8(der.into()),
        },
        (Some(_), further) => {
            let what = format!("has {} keys", further + 1);
            return Err(flaw(&what, "one file for each key".to_owned()));
        }
    };
    any_supported_type(&key).map_err(|_| {
        let kinds = "RSA with 2048 to 8192 bits, ECDSA with P-256, P-384 or P-521, or Ed25519";
        flaw("has a key that cannot be used", kinds.to_owned())
    })
}

/// Everybody of the system is too many. The group of the file is let in: packages such as Debian's
/// ssl-cert give keys to services that run without root by a group, mode 0640.
fn check_mode(path: &Path, mode: u32) -> Result<(), Flaw> {
    let what = match mode & 0o006 {
        0 => return Ok(()),
        0o002 => "written",
        0o004 => "read",
        _ => "read and written",
    };
    let mode = mode & 0o7777;
    Err(Flaw {
        file: PairFile::Key,
        message: format!("the key file {path:?} may be {what} by everybody (mode {mode:04o})"),
        hint: format!("chmod 600 {}", path.display()),
    })
}

/// As PKCS #8 (RFC 5958) says it in the BEGIN line, and older files (RFC 1421) in a line of their
/// own.
fn is_encrypted(pem: &[u8]) -> bool {
    let mut lines = pem.split(|byte| matches!(byte, b'\n' | b'\r'));
    lines.any(|line| {
        line.starts_with(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
            || line.starts_with(b"Proc-Type: 4,ENCRYPTED")
    })
}

/// Responses are one or two kilobytes; larger ones make each handshake slow.
const OCSP_BYTES_MAX: usize = 64 << 10;

/// The file `CERT.ocsp`, when there is one.
fn ocsp_response(cert: &Path) -> Result<Option<Vec<u8>>, Flaw> {
    let mut path = OsString::from(cert);
    path.push(".ocsp");
    let path = PathBuf::from(path);
    let flaw = |what: String| Flaw {
        file: PairFile::Certificate,
        message: format!("the OCSP response {path:?} {what}"),
        hint: "in DER, as `openssl ocsp -respout` writes it; remove the file to do without"
            .to_owned(),
    };
    match std::fs::symlink_metadata(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        _ => {}
    }
    let (bytes, _) = read(&path).map_err(flaw)?;
    if bytes.is_empty() {
        return Err(flaw("is empty".to_owned()));
    }
    if bytes.len() > OCSP_BYTES_MAX {
        return Err(flaw(format!("has more than {} KiB", OCSP_BYTES_MAX >> 10)));
    }
    match ocsp_status(&bytes) {
        Some(0) => Ok(Some(bytes)),
        Some(status) => Err(flaw(format!("says that there is none (status {status})"))),
        None => Err(flaw("is none".to_owned())),
    }
}

/// What an OCSPResponse (RFC 6960, section 4.2.1) begins with; 0 = there is an answer in it.
fn ocsp_status(der: &[u8]) -> Option<u32> {
    let (rest, response) = Sequence::from_der(der).ok()?;
    let (_, status) = Enumerated::from_der(&response.content).ok()?;
    rest.is_empty().then_some(status.0)
}
