//! Reads headers, the same however the bytes are split, and refuses what is none as early as can
//! be told.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::tlv::{self, Tlvs};
use super::{
    HEADER_BYTES_MAX, IPV4_BYTES, IPV6_BYTES, Subject, TCP_OVER_IPV4, TCP_OVER_IPV6,
    UNIQUE_ID_BYTES_MAX, V1_BEGINNING, V1_BYTES_MAX, V2_FIXED_BYTES, V2_LOCAL, V2_PROXY,
    V2_SIGNATURE,
};

/// What the bytes so far are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// Not enough to tell; a header may begin so.
    More,
    /// A whole header of this many bytes; what follows it is the client's.
    Header(Header, usize),
}

/// What a header tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Addresses are canonical: IPv4 that came mapped into IPv6 is IPv4, on either side alone too.
    pub subject: Subject,
    pub version: Version,
    /// Version 1 has none.
    pub tlvs: Tlvs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    V1,
    V2,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// They begin as neither version does.
    NoHeader,
    /// Neither TCP4 nor TCP6 nor UNKNOWN.
    V1Protocol,
    V1Address,
    V1Port,
    /// The line ends with LF alone.
    V1NoCr,
    /// CR is not followed by LF.
    V1NoLf,
    V1LineTooLong,
    V2Version,
    V2Command,
    V2Family,
    V2Transport,
    /// Less than the addresses of its family.
    V2ShortAddress,
    /// A TLV goes beyond the end, or bytes are left after the last.
    V2Tlv,
    /// The checksum is wrong, not of four bytes, or there more than once.
    V2Crc,
    V2UniqueId,
    /// Longer than the reader takes.
    TooLarge,
}

impl Refused {
    /// The word in the access log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Refused::NoHeader => "no_header",
            Refused::V1Protocol => "v1_protocol",
            Refused::V1Address => "v1_address",
            Refused::V1Port => "v1_port",
            Refused::V1NoCr => "v1_no_cr",
            Refused::V1NoLf => "v1_no_lf",
            Refused::V1LineTooLong => "v1_line_too_long",
            Refused::V2Version => "v2_version",
            Refused::V2Command => "v2_command",
            Refused::V2Family => "v2_family",
            Refused::V2Transport => "v2_transport",
            Refused::V2ShortAddress => "v2_short_address",
            Refused::V2Tlv => "v2_tlv",
            Refused::V2Crc => "v2_crc",
            Refused::V2UniqueId => "v2_unique_id",
            Refused::TooLarge => "too_large",
        }
    }
}

/// Looks at all bytes so far, from the connection's first on; to be called again with those and
/// more while it needs more. That is cheap: a line of version 1 is short, and a header of version 2
/// is read once it is whole.
///
/// Errors: the bytes are no header, whatever follows them.
pub fn decode(bytes: &[u8]) -> Result<Decoded, Refused> {
    decode_up_to(bytes, HEADER_BYTES_MAX)
}

/// As [`decode`], for a reader with less room: a header of version 2 of more than `bytes_max` is
/// refused as soon as its length is known.
pub fn decode_up_to(bytes: &[u8], bytes_max: usize) -> Result<Decoded, Refused> {
    let header = if bytes.starts_with(V1_BEGINNING) {
        v1(bytes)
    } else if bytes.starts_with(&V2_SIGNATURE) {
        v2(bytes, bytes_max)
    } else if V1_BEGINNING.starts_with(bytes) || V2_SIGNATURE.starts_with(bytes) {
        Err(Stop::More)
    } else {
        Err(Stop::Refused(Refused::NoHeader))
    };
    match header {
        Ok((header, bytes)) => Ok(Decoded::Header(header, bytes)),
        Err(Stop::More) => Ok(Decoded::More),
        Err(Stop::Refused(why)) => Err(why),
    }
}

/// Whether a client's first bytes begin as a header of either version does. From those who are not
/// trusted that is refused: the next hop might believe it.
pub fn starts_like_header(bytes: &[u8]) -> bool {
    bytes.starts_with(V1_BEGINNING) || bytes.starts_with(&V2_SIGNATURE)
}

/// Why reading stops before the end of the header.
enum Stop {
    More,
    Refused(Refused),
}

impl From<Refused> for Stop {
    fn from(why: Refused) -> Self {
        Stop::Refused(why)
    }
}

/// The line of version 1 and its length (section 2.1).
///
/// A field is judged with the byte that ends it and its characters as they come, as "it is
/// recommended to abort the connection as soon as possible".
fn v1(bytes: &[u8]) -> Result<(Header, usize), Stop> {
    let seen = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let mut line = Line {
        rest: &seen[V1_BEGINNING.len()..],
    };
    let subject = match line.subject() {
        Err(Stop::More) if seen.len() == V1_BYTES_MAX => {
            return Err(Refused::V1LineTooLong.into());
        }
        subject => subject?,
    };
    let header = Header {
        subject,
        version: Version::V1,
        tlvs: Tlvs::default(),
    };
    Ok((header, seen.len() - line.rest.len()))
}

/// What is left of a line of version 1.
struct Line<'a> {
    rest: &'a [u8],
}

const IPV4_TEXT_BYTES_MAX: usize = "255.255.255.255".len();
/// With the last 32 bits in dots: the specification knows hexadecimal only, but its "canonical
/// format" of a mapped address is that of `inet_ntop`, which HAProxy and nginx send.
const IPV6_TEXT_BYTES_MAX: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();
const PORT_TEXT_BYTES_MAX: usize = "65535".len();

impl<'a> Line<'a> {
    /// To the line's end.
    fn subject(&mut self) -> Result<Subject, Stop> {
        for word in [b"TCP4 ".as_slice(), b"TCP6 ", b"UNKNOWN"] {
            if let Some(rest) = self.rest.strip_prefix(word) {
                self.rest = rest;
                return match word {
                    b"TCP4 " => self.tcp::<Ipv4Addr>(IPV4_TEXT_BYTES_MAX, |byte| {
                        byte.is_ascii_digit() || byte == b'.'
                    }),
                    b"TCP6 " => self.tcp::<Ipv6Addr>(IPV6_TEXT_BYTES_MAX, |byte| {
                        byte.is_ascii_hexdigit() || byte == b':' || byte == b'.'
                    }),
                    _ => self.unknown(),
                };
            }
            if word.starts_with(self.rest) {
                return Err(Stop::More);
            }
        }
        Err(Refused::V1Protocol.into())
    }

    fn tcp<Address: FromStr + Into<IpAddr>>(
        &mut self,
        bytes_max: usize,
        belongs: fn(u8) -> bool,
    ) -> Result<Subject, Stop> {
        let mut address = || {
            let text = self.field(b' ', bytes_max, belongs, Refused::V1Address)?;
            match text.parse::<Address>() {
                Ok(address) => Ok(address.into().to_canonical()),
                Err(_) => Err(Stop::Refused(Refused::V1Address)),
            }
        };
        let (source, destination) = (address()?, address()?);
        let source = SocketAddr::new(source, self.port(b' ')?);
        let destination = SocketAddr::new(destination, self.port(b'\r')?);
        self.line_feed()?;
        Ok(Subject::Tcp {
            source,
            destination,
        })
    }

    fn port(&mut self, end: u8) -> Result<u16, Stop> {
        let is_digit = |byte: u8| byte.is_ascii_digit();
        let text = self.field(end, PORT_TEXT_BYTES_MAX, is_digit, Refused::V1Port)?;
        let has_leading_zero = text.len() > 1 && text.starts_with('0');
        match text.parse() {
            Ok(port) if !has_leading_zero => Ok(port),
            _ => Err(Refused::V1Port.into()),
        }
    }

    /// The text before the byte `end`, all of whose bytes belong; both are taken off.
    fn field(
        &mut self,
        end: u8,
        bytes_max: usize,
        belongs: fn(u8) -> bool,
        wrong: Refused,
    ) -> Result<&'a str, Stop> {
        let rest = self.rest;
        let looked_at = &rest[..rest.len().min(bytes_max + 1)];
        let Some(length) = looked_at.iter().position(|byte| !belongs(*byte)) else {
            let is_too_long = looked_at.len() > bytes_max;
            return Err(if is_too_long {
                wrong.into()
            } else {
                Stop::More
            });
        };
        if rest[length] == end {
            self.rest = &rest[length + 1..];
            Ok(str::from_utf8(&rest[..length]).map_err(|_| wrong)?)
        } else if rest[length] == b'\n' {
            Err(Refused::V1NoCr.into())
        } else {
            Err(wrong.into())
        }
    }

    /// "The receiver must ignore anything presented before the CRLF", but it is one line: a CR or
    /// LF alone is not to end it, nor to be taken for a part of it.
    fn unknown(&mut self) -> Result<Subject, Stop> {
        let is_word = matches!(self.rest, [] | [b' ' | b'\r' | b'\n', ..]);
        if !is_word {
            return Err(Refused::V1Protocol.into());
        }
        let is_end = |byte: &u8| matches!(byte, b'\r' | b'\n');
        let end = self.rest.iter().position(is_end).ok_or(Stop::More)?;
        if self.rest[end] == b'\n' {
            return Err(Refused::V1NoCr.into());
        }
        self.rest = &self.rest[end + 1..];
        self.line_feed()?;
        Ok(Subject::Unknown)
    }

    fn line_feed(&mut self) -> Result<(), Stop> {
        let (first, rest) = self.rest.split_first().ok_or(Stop::More)?;
        if *first != b'\n' {
            return Err(Refused::V1NoLf.into());
        }
        self.rest = rest;
        Ok(())
    }
}

/// The header of version 2 and its length (section 2.2).
fn v2(bytes: &[u8], bytes_max: usize) -> Result<(Header, usize), Stop> {
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
        let tlvs = Tlvs::read(bytes);
        match self {
            Block::Ignored => Ok(Tlvs::default()),
            Block::Unspecified => Ok(tlvs.unwrap_or_default()),
            _ => tlvs.ok_or(Refused::V2Tlv),
        }
    }
}

/// The subject whose addresses take `N` bytes each.
fn tcp<const N: usize, Address: From<[u8; N]> + Into<IpAddr>>(block: &[u8]) -> Subject {
    let field = |at: usize| &block[at..];
    let end = |address_at: usize, port_at: usize| {
        let address: &[u8; N] = field(address_at).first_chunk().expect("length was checked");
        let port = field(port_at).first_chunk().expect("length was checked");
        let address: IpAddr = Address::from(*address).into();
        SocketAddr::new(address.to_canonical(), u16::from_be_bytes(*port))
    };
    Subject::Tcp {
        source: end(0, 2 * N),
        destination: end(N, 2 * N + 2),
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

#[cfg(test)]
pub(super) mod tests;
