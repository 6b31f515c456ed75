//! Reads headers, the same however the bytes are split, and refuses what is none as early as can
//! be told.

mod binary;
mod line;

use super::tlv::Tlvs;
use super::{HEADER_BYTES_MAX, Subject, V1_BEGINNING, V2_SIGNATURE};

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
        line::header(bytes)
    } else if bytes.starts_with(&V2_SIGNATURE) {
        binary::header(bytes, bytes_max)
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

#[cfg(test)]
pub(super) mod tests;
