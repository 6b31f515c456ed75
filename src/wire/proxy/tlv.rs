//! What a header of version 2 tells beside the addresses: vectors of type, length and value.

pub const ALPN: u8 = 0x01;
/// The host name that the client asked for (SNI).
pub const AUTHORITY: u8 = 0x02;
pub const CRC32C: u8 = 0x03;
pub const NOOP: u8 = 0x04;
pub const UNIQUE_ID: u8 = 0x05;
pub const SSL: u8 = 0x20;
pub const SSL_VERSION: u8 = 0x21;
pub const SSL_CN: u8 = 0x22;
pub const SSL_CIPHER: u8 = 0x23;
pub const SSL_SIG_ALG: u8 = 0x24;
pub const SSL_KEY_ALG: u8 = 0x25;
pub const SSL_GROUP: u8 = 0x26;
pub const SSL_SIG_SCHEME: u8 = 0x27;
pub const SSL_CLIENT_CERT: u8 = 0x28;
pub const NETNS: u8 = 0x30;
/// First and last type that an application may give its own meaning (section 2.2.8).
pub const CUSTOM_MIN: u8 = 0xe0;
pub const CUSTOM_MAX: u8 = 0xef;

/// Bits of the first byte of [`SSL`] (section 2.2.6).
pub const CLIENT_SSL: u8 = 0x01;
/// The client presented a certificate on this connection.
pub const CLIENT_CERT_CONN: u8 = 0x02;
/// It did so at least once in the TLS session that this connection belongs to.
pub const CLIENT_CERT_SESS: u8 = 0x04;

/// Type and length, before the value.
const FIXED_BYTES: usize = 3;
pub(super) const CRC32C_BYTES: usize = 4;

/// The TLVs of a received header, in their order, duplicates kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tlvs {
    /// Whole TLVs and nothing else.
    bytes: Vec<u8>,
}

impl Tlvs {
    /// The TLVs that these bytes are; nothing if one goes beyond the end or bytes are left over.
    pub(super) fn read(bytes: &[u8]) -> Option<Tlvs> {
        let mut tlvs = Iter { rest: bytes };
        while tlvs.next().is_some() {}
        tlvs.rest.is_empty().then(|| Tlvs {
            bytes: bytes.to_vec(),
        })
    }

    /// Type and value of each.
    pub fn iter(&self) -> Iter<'_> {
        Iter { rest: &self.bytes }
    }

    /// The value of the first of this type.
    pub fn first(&self, kind: u8) -> Option<&[u8]> {
        self.iter()
            .find_map(|(found, value)| (found == kind).then_some(value))
    }

    /// As they came: types, lengths and values.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl<'a> IntoIterator for &'a Tlvs {
    type Item = (u8, &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Types and values of [`Tlvs`].
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Iter<'a> {
    type Item = (u8, &'a [u8]);

    /// Stays where the bytes are no whole TLV.
    fn next(&mut self) -> Option<Self::Item> {
        let ([kind, high, low], rest) = self.rest.split_first_chunk::<FIXED_BYTES>()?;
        let length = u16::from_be_bytes([*high, *low]);
        let (value, rest) = rest.split_at_checked(usize::from(length))?;
        self.rest = rest;
        Some((*kind, value))
    }
}

/// Where each value begins in a header that ends with these TLVs, with its type and length.
pub(super) fn places(
    tlvs: &Tlvs,
    header_bytes: usize,
) -> impl Iterator<Item = (u8, std::ops::Range<usize>)> {
    let mut end = header_bytes - tlvs.bytes.len();
    tlvs.iter().map(move |(kind, value)| {
        let begin = end + FIXED_BYTES;
        end = begin + value.len();
        (kind, begin..end)
    })
}

/// Appends one. A value that the length field cannot tell makes the header too long as a whole,
/// which is for the caller to refuse.
pub(super) fn push(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.push(kind);
    bytes.extend((value.len() as u16).to_be_bytes());
    bytes.extend_from_slice(value);
}

/// The checksum of a header whose checksum field, taken as zeroes, begins there (section 2.2.3).
pub(super) fn crc32c(header: &[u8], field_at: usize) -> u32 {
    let before = crc32c::crc32c(&header[..field_at]);
    let zeroed = crc32c::crc32c_append(before, &[0; CRC32C_BYTES]);
    crc32c::crc32c_append(zeroed, &header[field_at + CRC32C_BYTES..])
}
