//! Writes headers; those of version 2 with TLVs of our own and with those that came to us.

use std::net::{IpAddr, Ipv6Addr};

use super::tlv::{self, Tlvs};
use super::{
    IPV6_BYTES, Subject, TCP_OVER_IPV4, TCP_OVER_IPV6, UNIQUE_ID_BYTES_MAX, UNSPECIFIED,
    V1_BYTES_MAX, V2_FIXED_BYTES, V2_LOCAL, V2_PROXY, V2_SIGNATURE,
};

/// The line of version 1. It has no word for the sender's own connection: that is unknown too.
pub fn v1(subject: Subject) -> Vec<u8> {
    let Subject::Tcp {
        source,
        destination,
    } = subject
    else {
        return b"PROXY UNKNOWN\r\n".to_vec();
    };
    let (from, to) = (source.port(), destination.port());
    let line = match same_family(source.ip(), destination.ip()) {
        (IpAddr::V4(source), destination) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        // Written out: `Display` of a mapped address has dots, which not every reader takes.
        (IpAddr::V6(source), IpAddr::V6(destination)) => format!(
            "PROXY TCP6 {} {} {from} {to}\r\n",
            colons(source),
            colons(destination)
        ),
        (IpAddr::V6(_), IpAddr::V4(_)) => unreachable!("brought to one family"),
    };
    debug_assert!(line.len() <= V1_BYTES_MAX);
    line.into_bytes()
}

/// The header of version 2 with TLVs as pairs of type and value, in this order.
///
/// Errors: the TLVs are too long.
pub fn v2(subject: Subject, tlvs: &[(u8, &[u8])]) -> Result<Vec<u8>, TooLong> {
    v2_with(
        subject,
        &Extras {
            others: tlvs,
            ..Extras::default()
        },
    )
}

/// A header of version 2 that cannot be written: what follows its fixed part does not fit the
/// length field of 16 bits, or its unique id is over [`UNIQUE_ID_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// Of what does not fit.
    pub bytes: usize,
}

/// What a header of version 2 tells beside the addresses, written in the order of these fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras<'a> {
    pub alpn: Option<&'a [u8]>,
    /// The host name that the client asked for.
    pub authority: Option<&'a [u8]>,
    pub unique_id: Option<&'a [u8]>,
    pub ssl: Option<Ssl<'a>>,
    /// Types and values as they are to be sent; replaces nothing that was received.
    pub others: &'a [(u8, &'a [u8])],
    /// Those of the client's own header, in their order; but not those of the types that the
    /// fields above state, which this process knows better.
    pub received: Option<&'a Tlvs>,
    /// A checksum over all of it, as the last TLV; sent too if the client's header had one.
    pub crc32c: bool,
}

/// How a client's TLS connection was made (section 2.2.6).
#[derive(Clone, Copy, Debug)]
pub struct Ssl<'a> {
    /// [`tlv::CLIENT_SSL`], [`tlv::CLIENT_CERT_CONN`] and [`tlv::CLIENT_CERT_SESS`].
    pub client: u8,
    /// 0 if the client presented a certificate and it was verified; anything else if not.
    pub verify: u32,
    /// Such as `TLSv1.3`.
    pub version: &'a str,
    /// The common name of the client's certificate.
    pub cn: Option<&'a str>,
    pub cipher: Option<&'a str>,
    /// What our certificate is signed with, such as `RSA-SHA256`.
    pub sig_alg: Option<&'a str>,
    /// The key of our certificate, such as `RSA2048`.
    pub key_alg: Option<&'a str>,
    /// The key exchange, such as `secp256r1`.
    pub group: Option<&'a str>,
    /// What we signed the handshake with, such as `rsa_pss_rsae_sha256`.
    pub sig_scheme: Option<&'a str>,
    /// The client's certificate in DER.
    pub client_cert: Option<&'a [u8]>,
}

impl Default for Ssl<'_> {
    /// A client that came over TLS and presented no certificate.
    fn default() -> Self {
        Ssl {
            client: tlv::CLIENT_SSL,
            verify: 1,
            version: "",
            cn: None,
            cipher: None,
            sig_alg: None,
            key_alg: None,
            group: None,
            sig_scheme: None,
            client_cert: None,
        }
    }
}

/// The header of version 2 with all that.
///
/// Errors: the TLVs or the unique id are too long.
pub fn v2_with(subject: Subject, extras: &Extras) -> Result<Vec<u8>, TooLong> {
    let mut header = Vec::with_capacity(extras.bytes_usual());
    header.extend(V2_SIGNATURE);
    push_addresses(&mut header, subject);
    let has_crc32c = extras.push_to(&mut header)?;
    let bytes = header.len() - V2_FIXED_BYTES;
    let length = u16::try_from(bytes).map_err(|_| TooLong { bytes })?;
    header[V2_FIXED_BYTES - 2..V2_FIXED_BYTES].copy_from_slice(&length.to_be_bytes());
    if has_crc32c {
        let field_at = header.len() - tlv::CRC32C_BYTES;
        let crc32c = tlv::crc32c(&header, field_at);
        header[field_at..].copy_from_slice(&crc32c.to_be_bytes());
    }
    Ok(header)
}

/// Command and family, a length of zero to be filled in, the addresses.
fn push_addresses(header: &mut Vec<u8>, subject: Subject) {
    let (source, destination) = match subject {
        Subject::Local => return header.extend([V2_LOCAL, UNSPECIFIED, 0, 0]),
        Subject::Unknown => return header.extend([V2_PROXY, UNSPECIFIED, 0, 0]),
        Subject::Tcp {
            source,
            destination,
        } => (source, destination),
    };
    match same_family(source.ip(), destination.ip()) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            header.extend([V2_PROXY, TCP_OVER_IPV4, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            header.extend([V2_PROXY, TCP_OVER_IPV6, 0, 0]);
            header.extend(source.octets());
            header.extend(destination.octets());
        }
        _ => unreachable!("brought to one family"),
    }
    header.extend(source.port().to_be_bytes());
    header.extend(destination.port().to_be_bytes());
}

impl Extras<'_> {
    /// Appends the TLVs; the checksum, of which it tells whether there is one, as zeroes.
    fn push_to(&self, header: &mut Vec<u8>) -> Result<bool, TooLong> {
        if let Some(alpn) = self.alpn {
            tlv::push(header, tlv::ALPN, alpn);
        }
        if let Some(authority) = self.authority {
            tlv::push(header, tlv::AUTHORITY, authority);
        }
        if let Some(id) = self.unique_id {
            let bytes = id.len();
            if bytes > UNIQUE_ID_BYTES_MAX {
                return Err(TooLong { bytes });
            }
            tlv::push(header, tlv::UNIQUE_ID, id);
        }
        if let Some(ssl) = &self.ssl {
            tlv::push(header, tlv::SSL, &ssl.value());
        }
        for (kind, value) in self.others {
            debug_assert!(*kind != tlv::CRC32C, "asked for by its own field");
            tlv::push(header, *kind, value);
        }
        let mut has_crc32c = self.crc32c;
        for (kind, value) in self.received.into_iter().flatten() {
            match kind {
                // It was right for the header that it came in.
                tlv::CRC32C => has_crc32c = true,
                // Padding that aligned the header that it came in and would align nothing here;
                // readers ignore it (section 2.2.4).
                tlv::NOOP => {}
                _ if self.states(kind) => {}
                _ => tlv::push(header, kind, value),
            }
        }
        if has_crc32c {
            tlv::push(header, tlv::CRC32C, &[0; tlv::CRC32C_BYTES]);
        }
        Ok(has_crc32c)
    }

    /// Whether this process has its own value for the type.
    fn states(&self, kind: u8) -> bool {
        match kind {
            tlv::ALPN => self.alpn.is_some(),
            tlv::AUTHORITY => self.authority.is_some(),
            tlv::UNIQUE_ID => self.unique_id.is_some(),
            tlv::SSL => self.ssl.is_some(),
            _ => false,
        }
    }

    /// Room that most headers need no more than.
    fn bytes_usual(&self) -> usize {
        let received = self.received.map_or(0, |tlvs| tlvs.as_bytes().len());
        V2_FIXED_BYTES + IPV6_BYTES + 128 + received
    }
}

impl Ssl<'_> {
    /// The value of the TLV: fixed fields, then TLVs of its own.
    fn value(&self) -> Vec<u8> {
        let mut value = vec![self.client];
        value.extend(self.verify.to_be_bytes());
        let texts = [
            (tlv::SSL_VERSION, Some(self.version)),
            (tlv::SSL_CN, self.cn),
            (tlv::SSL_CIPHER, self.cipher),
            (tlv::SSL_SIG_ALG, self.sig_alg),
            (tlv::SSL_KEY_ALG, self.key_alg),
            (tlv::SSL_GROUP, self.group),
            (tlv::SSL_SIG_SCHEME, self.sig_scheme),
        ];
        for (kind, text) in texts {
            if let Some(text) = text {
                tlv::push(&mut value, kind, text.as_bytes());
            }
        }
        if let Some(der) = self.client_cert {
            tlv::push(&mut value, tlv::SSL_CLIENT_CERT, der);
        }
        value
    }
}

/// Both addresses in the family of IPv4 if both have a form in it, else both in that of IPv6.
fn same_family(source: IpAddr, destination: IpAddr) -> (IpAddr, IpAddr) {
    let (source, destination) = (source.to_canonical(), destination.to_canonical());
    let mapped = |ip| match ip {
        IpAddr::V4(ip) => IpAddr::V6(ip.to_ipv6_mapped()),
        v6 => v6,
    };
    if source.is_ipv4() && destination.is_ipv4() {
        (source, destination)
    } else {
        (mapped(source), mapped(destination))
    }
}

/// An address without dots and without a zone.
fn colons(ip: Ipv6Addr) -> String {
    if ip.to_ipv4_mapped().is_none() {
        return ip.to_string();
    }
    let [.., high, low] = ip.segments();
    format!("::ffff:{high:x}:{low:x}")
}

#[cfg(test)]
mod tests;
