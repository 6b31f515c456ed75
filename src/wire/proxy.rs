//! Writes the header of the PROXY protocol, versions 1 and 2
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>).

use std::net::{IpAddr, SocketAddr};

/// Whose connection the header speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The sender's own, such as a probe's.
    Local,
    /// A client's: where it comes from, and where it connected to.
    Tcp {
        source: SocketAddr,
        destination: SocketAddr,
    },
    /// A client's that has no address, such as one of a unix socket.
    Unknown,
}

/// A header of version 2 that cannot be written: its TLVs do not fit the length field of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong {
    /// What would follow the fixed part.
    pub bytes: usize,
}

/// Longest header of version 1, line end included (section 2.1).
pub const V1_BYTES_MAX: usize = 107;
/// Signature, command, family and length of version 2 (section 2.2).
const V2_FIXED_BYTES: usize = 16;
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

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
    let mut header = V2_SIGNATURE.to_vec();
    let mut addresses = Vec::with_capacity(36);
    let (command, family) = match subject {
        Subject::Local => (V2_LOCAL, UNSPECIFIED),
        Subject::Unknown => (V2_PROXY, UNSPECIFIED),
        Subject::Tcp {
            source,
            destination,
        } => {
            let family = match same_family(source.ip(), destination.ip()) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    addresses.extend(source.octets());
                    addresses.extend(destination.octets());
                    TCP_OVER_IPV4
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    addresses.extend(source.octets());
                    addresses.extend(destination.octets());
                    TCP_OVER_IPV6
                }
                _ => unreachable!("brought to one family"),
            };
            addresses.extend(source.port().to_be_bytes());
            addresses.extend(destination.port().to_be_bytes());
            (V2_PROXY, family)
        }
    };
    let bytes = addresses.len() + tlvs.iter().map(|(_, value)| 3 + value.len()).sum::<usize>();
    let length = u16::try_from(bytes).map_err(|_| TooLong { bytes })?;
    header.extend([command, family]);
    header.extend(length.to_be_bytes());
    header.extend(addresses);
    for (kind, value) in tlvs {
        // Fits, as the sum does.
        let length = value.len() as u16;
        header.push(*kind);
        header.extend(length.to_be_bytes());
        header.extend_from_slice(value);
    }
    debug_assert_eq!(header.len(), V2_FIXED_BYTES + bytes);
    Ok(header)
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
fn colons(ip: std::net::Ipv6Addr) -> String {
    if ip.to_ipv4_mapped().is_none() {
        return ip.to_string();
    }
    let [.., high, low] = ip.segments();
    format!("::ffff:{high:x}:{low:x}")
}

#[cfg(test)]
mod tests;
