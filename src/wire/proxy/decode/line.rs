//! Version 1: a line of text (section 2.1).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use super::{Header, Refused, Stop, Version};
use crate::wire::proxy::tlv::Tlvs;
use crate::wire::proxy::{Subject, V1_BEGINNING, V1_BYTES_MAX};

/// The line and its length.
///
/// A field is judged with the byte that ends it and its characters as they come, as "it is
/// recommended to abort the connection as soon as possible".
pub(super) fn header(bytes: &[u8]) -> Result<(Header, usize), Stop> {
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
/// format" of a mapped address is that of `inet_ntop`, which HAProxy sends.
const IPV6_TEXT_BYTES_MAX: usize = "ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255".len();
const PORT_TEXT_BYTES_MAX: usize = "65535".len();

impl<'a> Line<'a> {
    /// To the line's end.
    fn subject(&mut self) -> Result<Subject, Stop> {
        if self.goes_on_with(b"TCP4 ")? {
            let belongs = |byte: u8| byte.is_ascii_digit() || byte == b'.';
            self.tcp::<Ipv4Addr>(IPV4_TEXT_BYTES_MAX, belongs)
        } else if self.goes_on_with(b"TCP6 ")? {
            let belongs = |byte: u8| byte.is_ascii_hexdigit() || byte == b':' || byte == b'.';
            self.tcp::<Ipv6Addr>(IPV6_TEXT_BYTES_MAX, belongs)
        } else if self.goes_on_with(b"UNKNOWN")? {
            self.unknown()
        } else {
            Err(Refused::V1Protocol.into())
        }
    }

    /// If so, the word is taken off.
    fn goes_on_with(&mut self, word: &[u8]) -> Result<bool, Stop> {
        if let Some(rest) = self.rest.strip_prefix(word) {
            self.rest = rest;
            Ok(true)
        } else if word.starts_with(self.rest) {
            Err(Stop::More)
        } else {
            Ok(false)
        }
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
            if looked_at.len() > bytes_max {
                return Err(wrong.into());
            }
            return Err(Stop::More);
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
