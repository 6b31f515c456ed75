//! The PROXY protocol, versions 1 and 2, read and written
//! (<https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt>, whose sections these files name).

mod decode;
mod encode;
pub mod tlv;

pub use decode::{Decoded, Header, Refused, Version, decode, decode_up_to, starts_like_header};
pub use encode::{Extras, Ssl, TooLong, v1, v2, v2_with};
pub use tlv::Tlvs;

use std::net::SocketAddr;

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

/// Longest header of version 1, line end included (section 2.1).
pub const V1_BYTES_MAX: usize = 107;
/// Longest header there is: one of version 2 whose length field is full. What is sent may be as
/// long (a client's certificate goes in a TLV), so no less is taken.
pub const HEADER_BYTES_MAX: usize = V2_FIXED_BYTES + u16::MAX as usize;
/// Longest unique id (section 2.2.5).
pub const UNIQUE_ID_BYTES_MAX: usize = 128;

const V1_BEGINNING: &[u8] = b"PROXY ";
const V2_SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, command, family and length of version 2 (section 2.2).
const V2_FIXED_BYTES: usize = 16;
/// Two addresses and two ports.
const IPV4_BYTES: usize = 2 * (4 + 2);
const IPV6_BYTES: usize = 2 * (16 + 2);

/// Command and version, the 13th byte of version 2.
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
/// Family and transport, its 14th byte.
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

#[cfg(test)]
mod tests;
