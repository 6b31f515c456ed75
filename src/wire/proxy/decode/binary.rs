//! Version 2: addresses and TLVs in binary (section 2.2).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Header, Refused, Stop, Version};
use crate::wire::proxy::tlv::{self, Tlvs};
use crate::wire::proxy::{
    IPV4_BYTES, IPV6_BYTES, Subject, TCP_OVER_IPV4, TCP_OVER_IPV6, UNIQUE_ID_BYTES_MAX,
    V2_FIXED_BYTES, V2_LOCAL, V2_PROXY,
};

/// The header and its length.
pub(super) fn header(bytes: &[u8], bytes_max: usize) -> Result<(Header, usize), Stop> {
    let byte = |at: usize| bytes.get(at).copied().ok_or(Stop::More);
    let command = byte(12)?;
    // "The receiver must only accept this value", and "must drop connections presenting unexpected
    // values here".
    match command {
        V2_LOCAL | V2_PROXY => {}
        _ if command >> 4 != V2_LOCAL >> 4 => return Err(Refused::V2Version.into()),
        _ => return Err(Refused::V2Command.into()),
    }
    let block = Block::of(command, byte(13)?)?;
    let length = usize::from(u16::from_be_bytes([byte(14)?, byte(15)?]));
    let header_bytes = V2_FIXED_BYTES + length;
    if header_bytes > bytes_max {
        return Err(Refused::TooLarge.into());
    }
    if length < block.addresses_bytes() {
        return Err(Refused::V2ShortAddress.into());
    }
    let header = bytes.get(..header_bytes).ok_or(Stop::More)?;
    let (addresses, rest) = header[V2_FIXED_BYTES..].split_at(block.addresses_bytes());
    let tlvs = block.tlvs(rest)?;
    check(header, &tlvs)?;
    let header = Header {
        subject: block.subject(command, addresses),
        version: Version::V2,
        tlvs,
    };
    Ok((header, header_bytes))
}

/// What follows the fixed part, by command and family.
enum Block {
    TcpOverIpv4,
    TcpOverIpv6,
    /// Addresses of so many bytes that are none of a TCP connection: unix sockets, datagrams.
    /// "A receiver is not required to implement other ones, provided that it automatically falls
    /// back to the UNSPEC mode for the valid combinations".
    Foreign(usize),
    /// Neither family nor transport: senders have no addresses and put TLVs first. Were there
    /// addresses, "the receiver should ignore address information".
    Unspecified,
    /// Of no known layout. Of LOCAL the receiver must "discard the protocol block including the
    /// family which is ignored"; else half of the family's byte is unspecified.
    Ignored,
}

/// Two addresses of unix sockets.
const UNIX_BYTES: usize = 2 * 108;

impl Block {
    /// Errors: a family or transport that "must be rejected as invalid by receivers".
    fn of(command: u8, family: u8) -> Result<Block, Refused> {
        Ok(match (family >> 4, family & 0xf) {
            (0, 0) => Block::Unspecified,
            _ if command == V2_LOCAL => Block::Ignored,
            (4.., _) => return Err(Refused::V2Family),
            (_, 3..) => return Err(Refused::V2Transport),
            _ if family == TCP_OVER_IPV4 => Block::TcpOverIpv4,
            _ if family == TCP_OVER_IPV6 => Block::TcpOverIpv6,
            (0, _) | (_, 0) => Block::Ignored,
            (1, _) => Block::Foreign(IPV4_BYTES),
            (2, _) => Block::Foreign(IPV6_BYTES),
            (3, _) => Block::Foreign(UNIX_BYTES),
        })
    }

    fn addresses_bytes(&self) -> usize {
        match self {
            Block::TcpOverIpv4 => IPV4_BYTES,
            Block::TcpOverIpv6 => IPV6_BYTES,
            Block::Foreign(bytes) => *bytes,
            Block::Unspecified | Block::Ignored => 0,
        }
    }

    fn subject(&self, command: u8, addresses: &[u8]) -> Subject {
        match self {
            _ if command == V2_LOCAL => Subject::Local,
            Block::TcpOverIpv4 => tcp::<4, Ipv4Addr>(addresses),
            Block::TcpOverIpv6 => tcp::<16, Ipv6Addr>(addresses),
            _ => Subject::Unknown,
        }
    }

    /// Those in the bytes after the addresses.
    fn tlvs(&self, bytes: &[u8]) -> Result<Tlvs, Refused> {
        match self {
            Block::Ignored => Ok(Tlvs::default()),
            Block::Unspecified => Ok(Tlvs::read(bytes).unwrap_or_default()),
            _ => Tlvs::read(bytes).ok_or(Refused::V2Tlv),
        }
    }
}

/// The subject of a block of two addresses of `N` bytes each and their ports.
fn tcp<const N: usize, Address: From<[u8; N]> + Into<IpAddr>>(block: &[u8]) -> Subject {
    let (ips, ports) = block.split_at(2 * N);
    let end = |nth: usize| {
        let ip: &[u8; N] = ips[nth * N..].first_chunk().expect("length was checked");
        let ip: IpAddr = Address::from(*ip).into();
        let port = u16::from_be_bytes([ports[nth * 2], ports[nth * 2 + 1]]);
        SocketAddr::new(ip.to_canonical(), port)
    };
    Subject::Tcp {
        source: end(0),
        destination: end(1),
    }
}

/// What the specification says of the values of TLVs that must be right for the header to be valid.
fn check(header: &[u8], tlvs: &Tlvs) -> Result<(), Refused> {
    let mut crc32c = None;
    for (kind, place) in tlv::places(tlvs, header.len()) {
        match kind {
            // "Up to 128 bytes" (section 2.2.5).
            tlv::UNIQUE_ID if place.len() > UNIQUE_ID_BYTES_MAX => return Err(Refused::V2UniqueId),
            tlv::CRC32C => {
                // With two, each would have to hold for a header where the other is not zeroed.
                if crc32c.is_some() {
                    return Err(Refused::V2Crc);
                }
                let stated = header[place.clone()].try_into();
                let stated = stated.map_err(|_| Refused::V2Crc)?;
                crc32c = Some((u32::from_be_bytes(stated), place.start));
            }
            _ => {}
        }
    }
    match crc32c {
        Some((stated, field_at)) if stated != tlv::crc32c(header, field_at) => Err(Refused::V2Crc),
        _ => Ok(()),
    }
}
