//! Reads the ClientHello that a TLS connection begins with: which server the client asks for and
//! which protocols it offers, the same however the bytes are split into segments and records.

use std::borrow::Cow;

use crate::base::host::HostName;

/// Longest hello taken, without the header of its message. Real ones have 200 bytes to 2 KiB, those
/// with post-quantum keys included.
pub const HELLO_BYTES_MAX: usize = 32 * 1024;
/// Most bytes on the wire that a caller has to hold for one hello, the headers of its records
/// included: records may be as small as 6 bytes for the longest hello, and as small as 1 byte for
/// one of 10 KiB. rustls holds no more for one message either.
pub const HELLO_WIRE_BYTES_MAX: usize = 64 * 1024;

/// Type, version and length (RFC 8446, section 5.1).
const RECORD_HEADER_BYTES: usize = 5;
/// RFC 8446, section 5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
const RECORD_OF_HANDSHAKE: u8 = 22;
/// Of every version from SSL 3.0 on. The minor version says nothing: it is not looked at (RFC 8446,
/// section 5.1).
const VERSION_MAJOR: u8 = 3;
/// Type and length (RFC 8446, section 4).
const MESSAGE_HEADER_BYTES: usize = 4;
const MESSAGE_OF_CLIENT_HELLO: u8 = 1;

const _: () = assert!(HELLO_WIRE_BYTES_MAX >= wire_bytes(HELLO_BYTES_MAX, 6));

/// What the first bytes of a connection are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// A hello begins so. With fewer than `at_least` bytes in all it is not complete, so that there
    /// is no need to look again before; never more than [`HELLO_WIRE_BYTES_MAX`].
    More {
        at_least: usize,
    },
    Hello(Hello),
}

/// What a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Without a final dot. `None`: none was sent, or none that is a host name, such as an IP
    /// address (RFC 6066, section 3).
    pub name: Option<HostName>,
    pub alpn: Protocols,
}

/// The names of protocols that a client offers (ALPN, RFC 7301), the one it likes best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Protocols {
    /// Each name after the byte of its length, as on the wire; checked when it was read.
    list: Box<[u8]>,
}

/// Why the first bytes of a connection begin no hello. It is found at the first byte at fault of
/// the records, and of the hello once it is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotHello {
    /// Another protocol, or SSL 2.0.
    NotTls,
    /// TLS, but broken: in what.
    Malformed(&'static str),
    /// Longer than [`HELLO_BYTES_MAX`], or in so small records that it is longer than
    /// [`HELLO_WIRE_BYTES_MAX`].
    TooLarge,
}

impl NotHello {
    /// The word of the access log.
    pub const fn as_str(self) -> &'static str {
        match self {
            NotHello::NotTls => "not_tls",
            NotHello::Malformed(_) => "hello_malformed",
            NotHello::TooLarge => "hello_too_large",
        }
    }
}

/// Reads all that has come of a connection so far; bytes after the hello are not looked at.
/// A caller that heeds `at_least` calls it some 60 times at most, whatever the client does.
///
/// Errors: whatever else comes, there will be no hello.
pub fn read(bytes: &[u8]) -> Result<Seen, NotHello> {
    Ok(match assemble(bytes)? {
        Message::More { at_least } => Seen::More { at_least },
        Message::Whole(message) => Seen::Hello(parse(&message[MESSAGE_HEADER_BYTES..])?),
    })
}

/// The first message of the handshake, its header included.
enum Message<'a> {
    More {
        at_least: usize,
    },
    /// Borrowed where it is, as usual, in one record.
    Whole(Cow<'a, [u8]>),
}

fn assemble(bytes: &[u8]) -> Result<Message<'_>, NotHello> {
    let mut header = [0; MESSAGE_HEADER_BYTES];
    // Where a record begins, and how much of the message is in the records before it.
    let (mut at, mut held) = (0, 0);
    loop {
        let Some(length) = record_length(&bytes[at..], at == 0)? else {
            let begun = &header[..held.min(MESSAGE_HEADER_BYTES)];
            let wanted = message_bytes(begun)?.unwrap_or(MESSAGE_HEADER_BYTES);
            let at_least = at + RECORD_HEADER_BYTES + wanted - held;
            return Ok(Message::More { at_least });
        };
        let start = at + RECORD_HEADER_BYTES;
        let end = start + length;
        let here = &bytes[start..end.min(bytes.len())];
        for (slot, byte) in header.iter_mut().skip(held).zip(here) {
            *slot = *byte;
        }
        let message = message_bytes(&header[..(held + here.len()).min(MESSAGE_HEADER_BYTES)])?;
        let wanted = message.unwrap_or(MESSAGE_HEADER_BYTES);
        held += length;
        if message.is_some_and(|message| message < held) {
            // As rustls has it: whatever may follow a hello comes in a record of its own.
            return malformed("more_in_record");
        }
        let at_least = match held.checked_sub(wanted) {
            Some(beyond) => end - beyond,
            None => end + RECORD_HEADER_BYTES + (wanted - held),
        };
        if at_least > HELLO_WIRE_BYTES_MAX {
            return Err(NotHello::TooLarge);
        }
        if bytes.len() < end {
            return Ok(Message::More { at_least });
        }
        if message == Some(held) {
            return Ok(Message::Whole(match at {
                0 => Cow::Borrowed(here),
                _ => Cow::Owned(gather(&bytes[..end], held)),
            }));
        }
        at = end;
    }
}

/// How many bytes the record holds that begins here; `None`: its header is not complete.
fn record_length(bytes: &[u8], first: bool) -> Result<Option<usize>, NotHello> {
    let other = |what| match first {
        true => NotHello::NotTls,
        // Nothing comes between the records of one message (RFC 8446, section 5.1).
        false => NotHello::Malformed(what),
    };
    if bytes
        .first()
        .is_some_and(|kind| *kind != RECORD_OF_HANDSHAKE)
    {
        return Err(other("record_type"));
    }
    if bytes.get(1).is_some_and(|major| *major != VERSION_MAJOR) {
        return Err(other("record_version"));
    }
    let [_, _, _, high, low, ..] = *bytes else {
        return Ok(None);
    };
    match usize::from(u16::from_be_bytes([high, low])) {
        // Must not be sent (RFC 8446, section 5.1); each would cost a look for nothing.
        0 => malformed("record_empty"),
        length if length > RECORD_BYTES_MAX => malformed("record_too_long"),
        length => Ok(Some(length)),
    }
}

/// How many bytes the message has that begins so, its header included; `None`: the header is not
/// complete.
fn message_bytes(begun: &[u8]) -> Result<Option<usize>, NotHello> {
    if begun
        .first()
        .is_some_and(|kind| *kind != MESSAGE_OF_CLIENT_HELLO)
    {
        return malformed("message_type");
    }
    let [_, high, middle, low] = *begun else {
        return Ok(None);
    };
    match u32::from_be_bytes([0, high, middle, low]) as usize {
        length if length > HELLO_BYTES_MAX => Err(NotHello::TooLarge),
        length => Ok(Some(MESSAGE_HEADER_BYTES + length)),
    }
}

/// The message that these whole records hold.
fn gather(mut records: &[u8], message: usize) -> Vec<u8> {
    let mut gathered = Vec::with_capacity(message);
    while let [_, _, _, high, low, rest @ ..] = records {
        let (payload, others) = rest.split_at(usize::from(u16::from_be_bytes([*high, *low])));
        gathered.extend_from_slice(payload);
        records = others;
    }
    debug_assert_eq!(gathered.len(), message);
    gathered
}

/// RFC 8446, section 4.1.2.
fn parse(hello: &[u8]) -> Result<Hello, NotHello> {
    const VERSION_AND_RANDOM_BYTES: usize = 2 + 32;
    const SESSION_ID_BYTES_MAX: usize = 32;

    let mut fields = Fields(hello);
    fields.take(VERSION_AND_RANDOM_BYTES)?;
    if fields.vector8()?.len() > SESSION_ID_BYTES_MAX {
        return malformed("session_id");
    }
    let suites = fields.vector16()?;
    if suites.is_empty() || suites.len() % 2 != 0 {
        return malformed("cipher_suites");
    }
    if fields.vector8()?.is_empty() {
        return malformed("compression_methods");
    }
    // A client of TLS 1.2 may do without extensions (RFC 5246, section 7.4.1.2).
    if fields.is_empty() {
        return Ok(Hello::default());
    }
    let extensions = fields.vector16()?;
    match fields.is_empty() {
        true => parse_extensions(Fields(extensions)),
        false => malformed("after_extensions"),
    }
}

/// Those that nobody knows pass (RFC 8701 has clients send some), but none may come twice
/// (RFC 8446, section 4.2): two readers could heed different ones.
fn parse_extensions(mut extensions: Fields<'_>) -> Result<Hello, NotHello> {
    const SERVER_NAME: u16 = 0;
    const ALPN: u16 = 16;

    let mut hello = Hello::default();
    // A bit for each type there can be: the time for a hello of thousands of extensions is linear.
    let mut met = [0_u64; 1 << 10];
    while !extensions.is_empty() {
        let kind = extensions.number16()?;
        let content = Fields(extensions.vector16()?);
        let (word, bit) = (&mut met[usize::from(kind >> 6)], 1 << (kind & 63));
        if *word & bit != 0 {
            return malformed("extension_twice");
        }
        *word |= bit;
        match kind {
            SERVER_NAME => hello.name = parse_server_name(content)?,
            ALPN => hello.alpn = parse_alpn(content)?,
            _ => {}
        }
    }
    Ok(hello)
}

/// RFC 6066, section 3.
fn parse_server_name(mut content: Fields<'_>) -> Result<Option<HostName>, NotHello> {
    const HOST_NAME: u8 = 0;

    let mut names = Fields(content.vector16()?);
    if names.is_empty() || !content.is_empty() {
        return malformed("server_name_list");
    }
    let mut host = None;
    while !names.is_empty() {
        let kind = names.number8()?;
        // Types to come begin with a length too.
        let name = names.vector16().or(malformed("server_name_list"))?;
        if kind != HOST_NAME {
            continue;
        }
        if name.is_empty() {
            return malformed("server_name_empty");
        }
        if host.replace(name).is_some() {
            return malformed("server_name_twice");
        }
    }
    Ok(host.and_then(host_name))
}

/// Not an error if there is none: servers treat a name of which they can make nothing as none, and
/// some clients send the address they connect to.
fn host_name(name: &[u8]) -> Option<HostName> {
    let bare = name.strip_suffix(b".").unwrap_or(name);
    if bare.ends_with(b".") {
        return None;
    }
    HostName::parse(std::str::from_utf8(bare).ok()?).ok()
}

/// RFC 7301, section 3.1.
fn parse_alpn(mut content: Fields<'_>) -> Result<Protocols, NotHello> {
    let list = content.vector16()?;
    if list.is_empty() || !content.is_empty() {
        return malformed("alpn_list");
    }
    let mut names = Fields(list);
    while !names.is_empty() {
        if names.vector8()?.is_empty() {
            return malformed("alpn_empty");
        }
    }
    Ok(Protocols { list: list.into() })
}

impl Protocols {
    /// In the client's order; any bytes, of which there are 1 to 255.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = &*self.list;
        std::iter::from_fn(move || {
            let (length, names) = rest.split_first()?;
            let (name, others) = names.split_at(usize::from(*length));
            rest = others;
            Some(name)
        })
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// What is left of a structure; each method takes its next field.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], NotHello> {
        let Some((field, rest)) = self.0.split_at_checked(length) else {
            return malformed("field_past_end");
        };
        self.0 = rest;
        Ok(field)
    }

    fn number8(&mut self) -> Result<u8, NotHello> {
        Ok(self.take(1)?[0])
    }

    fn number16(&mut self) -> Result<u16, NotHello> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// Bytes after a length of 8 bits.
    fn vector8(&mut self) -> Result<&'a [u8], NotHello> {
        let length = self.number8()?;
        self.take(length.into())
    }

    /// Bytes after a length of 16 bits.
    fn vector16(&mut self) -> Result<&'a [u8], NotHello> {
        let length = self.number16()?;
        self.take(length.into())
    }
}

const fn malformed<T>(what: &'static str) -> Result<T, NotHello> {
    Err(NotHello::Malformed(what))
}

/// Bytes on the wire of a hello in records that hold so many bytes each.
const fn wire_bytes(hello: usize, record: usize) -> usize {
    let message = MESSAGE_HEADER_BYTES + hello;
    message + message.div_ceil(record) * RECORD_HEADER_BYTES
}

#[cfg(test)]
mod tests;
