//! What the tests of this room share: authorities, and two ends that talk through memory.

use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams,
    SerialNumber, SignatureAlgorithm, date_time_ymd,
};
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::sign::CertifiedKey;
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{Connection, Error};

use super::client::{ClientSpec, Trust, roots};
use super::server::{Certificate, ServerSpec};
use crate::base::host::NamePattern;

pub(super) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(super) fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().unwrap();
        Authority(CertifiedIssuer::self_signed(params, key).unwrap())
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.0.der().clone()
    }

    pub(super) fn trust(&self) -> Trust {
        Trust::Roots(roots([self.der()]))
    }

    /// For clients that believe this one and show nothing.
    pub(super) fn believers(&self) -> ClientSpec {
        ClientSpec {
            trust: self.trust(),
            identity: None,
        }
    }

    pub(super) fn issue(&self, names: &[&str]) -> Arc<CertifiedKey> {
        self.issue_with(names, &PKCS_ECDSA_P256_SHA256, |_| ())
    }

    pub(super) fn issue_with(
        &self,
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Arc<CertifiedKey> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let chain = vec![certificate.der().clone()];
        Arc::new(CertifiedKey::new(chain, any_supported_type(&key).unwrap()))
    }

    /// A list of these serial numbers, whose next one was due in 2021.
    pub(super) fn revoke(&self, serials: &[u64]) -> CertificateRevocationListDer<'static> {
        let revoked = serials.iter().map(|&serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial),
            revocation_time: date_time_ymd(2020, 6, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 7, 1),
            next_update: date_time_ymd(2021, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).unwrap().der().clone()
    }
}

/// A certificate for these names, as its file would give it.
pub(super) fn certificate(names: &[&str], certified: &Arc<CertifiedKey>) -> Certificate {
    let names = names.iter().map(|name| NamePattern::parse(name).unwrap());
    Certificate {
        names: names.collect(),
        certified: certified.clone(),
    }
}

pub(super) fn listener(name: &str, certificates: Vec<Certificate>) -> ServerSpec {
    ServerSpec {
        name: name.to_owned(),
        certificates,
        only_tls13: false,
        alpn: Vec::new(),
        client_auth: None,
    }
}

pub(super) fn name(text: &str) -> ServerName<'static> {
    ServerName::try_from(text.to_owned()).unwrap()
}

/// One end of a connection.
pub(super) trait End {
    /// Takes what it can of `incoming` and adds to `outgoing`. `false`: there was nothing to do.
    fn step(&mut self, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>) -> Result<bool, Error>;
}

impl End for Connection {
    fn step(&mut self, incoming: &mut Vec<u8>, outgoing: &mut Vec<u8>) -> Result<bool, Error> {
        let length = incoming.len();
        let mut unread = &incoming[..];
        while !unread.is_empty() && self.wants_read() {
            self.read_tls(&mut unread).unwrap();
            let processed = self.process_new_packets();
            while self.wants_write() {
                self.write_tls(outgoing).unwrap();
            }
            processed?;
        }
        *incoming = unread.to_vec();
        let before = outgoing.len();
        while self.wants_write() {
            self.write_tls(outgoing).unwrap();
        }
        Ok(incoming.len() < length || outgoing.len() > before)
    }
}

/// Whether there was something to do.
fn answer<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    outgoing: &mut Vec<u8>,
) -> Result<bool, Error> {
    match status.state? {
        ConnectionState::EncodeTlsData(mut data) => {
            let Err(EncodeError::InsufficientSize(size)) = data.encode(&mut []) else {
                panic!("nothing to encode");
            };
            let at = outgoing.len();
            outgoing.resize(at + size.required_size, 0);
            assert_eq!(
                data.encode(&mut outgoing[at..]).unwrap(),
                size.required_size
            );
            Ok(true)
        }
        ConnectionState::TransmitTlsData(data) => {
            data.done();
            Ok(true)
        }
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => Ok(false),
        other => panic!("unexpected: {other:?}"),
    }
}

macro_rules! unbuffered_end {
    ($connection:ty) => {
        impl End for $connection {
            fn step(
                &mut self,
                incoming: &mut Vec<u8>,
                outgoing: &mut Vec<u8>,
            ) -> Result<bool, Error> {
                let mut any = false;
                loop {
                    let status = self.process_tls_records(incoming);
                    let discard = status.discard;
                    let went_on = answer(status, outgoing);
                    incoming.drain(..discard);
                    any |= discard > 0;
                    match went_on {
                        Ok(true) => any = true,
                        Ok(false) => return Ok(any),
                        Err(error) => {
                            // The alert for the other end. What rustls has not taken must be
                            // there still: it panics over less.
                            while let Ok(true) =
                                answer(self.process_tls_records(incoming), outgoing)
                            {
                            }
                            return Err(error);
                        }
                    }
                }
            }
        }
    };
}
// Both have the method from different blocks, so no function serves both.
unbuffered_end!(UnbufferedServerConnection);
unbuffered_end!(UnbufferedClientConnection);

/// Lets both talk until neither has anything to say. Errors: the first end's and the second's.
pub(super) fn talk<'a>(
    first: &'a mut dyn End,
    second: &'a mut dyn End,
) -> (Result<(), Error>, Result<(), Error>) {
    let (mut to_first, mut to_second) = (Vec::new(), Vec::new());
    let ends = [first, second];
    let mut results = [Ok(()), Ok(())];
    loop {
        let mut any = false;
        for at in 0..2 {
            let (incoming, outgoing) = match at {
                0 => (&mut to_first, &mut to_second),
                _ => (&mut to_second, &mut to_first),
            };
            if results[at].is_ok() {
                match ends[at].step(incoming, outgoing) {
                    Ok(more) => any |= more,
                    Err(error) => (results[at], any) = (Err(error), true),
                }
            }
        }
        if !any {
            let [first, second] = results;
            return (first, second);
        }
    }
}
