//! The PROXY protocol end to end, group F of the fault catalogue: headers that clients are
//! introduced with, and those that backends are.

mod incoming;
mod outgoing;
mod programs;
mod secured;

use lbd::wire::proxy::{Decoded, Header, decode, tlv as kinds};

use crate::harness::balancer::Setup;
use crate::routing_kit::Keeper;

/// 192.0.2.7:4711 connected to 203.0.113.9:443.
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 203.0.113.9 4711 443\r\n";
const ADDRESSES: [u8; 12] = [192, 0, 2, 7, 203, 0, 113, 9, 0x12, 0x67, 1, 187];
const CLIENT: &str = "192.0.2.7:4711";

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const UNSPECIFIED: u8 = 0x00;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;

/// A header of version 2 by hand.
fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).unwrap().to_be_bytes();
    let fixed = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[command, family], &length];
    [&fixed.concat(), block].concat()
}

fn tlv(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).unwrap().to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// The line of a client with this address.
fn line_of(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 203.0.113.9 4711 443\r\n").into_bytes()
}

/// The header with the checksum it has to have; its TLV is the last, with any value.
fn with_checksum(mut header: Vec<u8>) -> Vec<u8> {
    let at = header.len() - 4;
    header[at..].fill(0);
    let checksum = crc32c(&header).to_be_bytes();
    header[at..].copy_from_slice(&checksum);
    header
}

/// Bit by bit, as RFC 3309 has it, so that it is nobody else's.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut register = !0_u32;
    for byte in bytes {
        register ^= u32::from(*byte);
        for _ in 0..8 {
            register = (register >> 1) ^ (0x82f6_3b78 & (register & 1).wrapping_neg());
        }
    }
    !register
}

/// A pool whose backend is told of clients in this version.
fn setup(server: &Keeper, version: &str) -> Setup {
    Setup::over(&[server.address()]).pool(&format!("send_proxy = \"{version}\""))
}

/// The header that these bytes begin with, and what follows it.
fn told(bytes: &[u8]) -> (Header, Vec<u8>) {
    match decode(bytes) {
        Ok(Decoded::Header(header, length)) => (header, bytes[length..].to_vec()),
        other => panic!("{other:?} in {}", bytes.escape_ascii()),
    }
}

fn first(header: &Header, kind: u8) -> Option<&str> {
    let value = header.tlvs.first(kind)?;
    Some(std::str::from_utf8(value).expect("text"))
}

/// The length field is that of what follows, and the checksum, the last of all, is right.
fn check_v2(bytes: &[u8], rest: usize) {
    let header = &bytes[..bytes.len() - rest];
    let length = usize::from(u16::from_be_bytes([header[14], header[15]]));
    assert_eq!(header.len(), 16 + length);
    let at = header.len() - 4;
    assert_eq!(header[at - 3..at], [kinds::CRC32C, 0, 4], "no checksum");
    let mut zeroed = header.to_vec();
    zeroed[at..].fill(0);
    assert_eq!(crc32c(&zeroed).to_be_bytes(), header[at..]);
}

#[test]
fn the_checksum_is_the_one_of_rfc_3720() {
    assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
}
