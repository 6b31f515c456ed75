//! One TLS connection without a socket: ciphertext in, plaintext out, and the other way.
//!
//! Whole records are opened out of the caller's buffer; what is left of the last one is kept here,
//! so a connection that is idle between records owns no buffer.

use std::fmt;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::CertificateDer;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error, HandshakeKind, ProtocolVersion};

use super::cipher;

/// Longest plaintext of one record (RFC 8446, section 5.1).
const RECORD_PLAIN_BYTES_MAX: usize = 1 << 14;

/// What a record has beside its plaintext: at most header, explicit nonce and tag of TLS 1.2
/// (RFC 5288); with TLS 1.3 header, type and tag.
const RECORD_EXTRA_BYTES_MAX: usize = 5 + 8 + 16;
const RECORD_EXTRA_BYTES: usize = 5 + 1 + 16;

/// Full records that are opened or sealed at once.
pub const RECORDS: usize = 16;

/// Plaintext that is sealed at once.
pub const PLAIN_BYTES: usize = plain_bytes(RECORDS);

/// Ciphertext that is opened at once. What it says fits [`PLAIN_BYTES`]: with the least that a
/// record can have beside its plaintext, 21 bytes, what is over is too short for one more.
pub const SEALED_BYTES: usize = sealed_bytes(RECORDS);
const _: () = assert!(RECORDS * (RECORD_EXTRA_BYTES - 21) < 21);

/// What so many full records say.
pub const fn plain_bytes(records: usize) -> usize {
    records * RECORD_PLAIN_BYTES_MAX
}

/// Exactly so many full records of TLS 1.3, of which a bulk transfer consists: with a byte less,
/// each read would end in the middle of the last.
pub const fn sealed_bytes(records: usize) -> usize {
    records * (RECORD_PLAIN_BYTES_MAX + RECORD_EXTRA_BYTES)
}

/// Room for [`PLAIN_BYTES`] sealed, behind what a connection has to say for itself: tickets, key
/// updates, an alert.
pub const SEALED_ROOM: usize = PLAIN_BYTES + RECORDS * RECORD_EXTRA_BYTES_MAX + CONTROL_BYTES;

/// Longer ones are sent by themselves.
const CONTROL_BYTES: usize = 4096;

pub struct TlsStream {
    machine: Machine,
    /// The beginning of a record that has not come whole.
    partial: Vec<u8>,
    /// Records beside the data that are to be sent, ahead of any data sealed from now on.
    control: Vec<u8>,
    /// The peer's close_notify came: nothing that follows is read.
    ended: bool,
    /// Our close_notify is sealed.
    said_goodbye: bool,
    /// What the peer did wrong: the connection is of no further use.
    fault: Option<Error>,
}

enum Machine {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// What a step brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opened {
    /// Bytes of plaintext.
    pub plain: usize,
    /// The handshake is complete.
    pub established: bool,
    /// The peer's close_notify came, behind the plaintext.
    pub ended: bool,
}

/// What is known of a connection once it is established.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    pub version: &'static str,
    pub resumed: bool,
    pub alpn: Option<&'a [u8]>,
    /// As OpenSSL has it.
    pub cipher: Option<&'static str>,
    /// The peer's own certificate.
    pub certificate: Option<&'a CertificateDer<'static>>,
}

impl TlsStream {
    pub fn server(connection: UnbufferedServerConnection) -> TlsStream {
        TlsStream::new(Machine::Server(Box::new(connection)))
    }

    pub fn client(connection: UnbufferedClientConnection) -> TlsStream {
        TlsStream::new(Machine::Client(Box::new(connection)))
    }

    fn new(machine: Machine) -> TlsStream {
        TlsStream {
            machine,
            partial: Vec::new(),
            control: Vec::new(),
            ended: false,
            said_goodbye: false,
            fault: None,
        }
    }

    /// Puts the beginning of a record that came before at the front of `buffer` and returns its
    /// length: what is received next goes behind it, and all of it to [`open`](Self::open).
    pub fn lay_out(&self, buffer: &mut [u8]) -> usize {
        buffer[..self.partial.len()].copy_from_slice(&self.partial);
        self.partial.len()
    }

    /// Whether bytes of a record are here whose rest has not come.
    pub fn awaits_rest(&self) -> bool {
        !self.partial.is_empty()
    }

    /// The peer's close_notify came.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    pub fn is_established(&self) -> bool {
        !self.common().is_handshaking()
    }

    /// What the peer did wrong, also if [`open`](Self::open) had plaintext to give before it.
    pub fn fault(&self) -> Option<&Error> {
        self.fault.as_ref()
    }

    /// Takes in what came, of at most [`SEALED_BYTES`]: plaintext goes to the front of `plain`,
    /// which has room for [`PLAIN_BYTES`]. Answers of the connection itself are in
    /// [`control`](Self::control) afterwards, also after an error, of which the peer is told.
    ///
    /// Errors: what the peer did wrong; the connection is of no further use. Plaintext that came
    /// ahead of it is given first, and the error by [`fault`](Self::fault).
    pub fn open(&mut self, sealed: &mut [u8], plain: &mut [u8]) -> Result<Opened, Error> {
        self.check_fault()?;
        let TlsStream {
            machine,
            control,
            ended,
            ..
        } = self;
        let mut opened = 0;
        let mut take = |payload: &[u8]| {
            plain[opened..opened + payload.len()].copy_from_slice(payload);
            opened += payload.len();
        };
        let result = match machine {
            Machine::Server(one) => drive(&mut **one, sealed, control, ended, &mut take),
            Machine::Client(one) => drive(&mut **one, sealed, control, ended, &mut take),
        };
        match result {
            Ok(used) => {
                self.keep(if self.ended { &[] } else { &sealed[used..] });
                Ok(Opened {
                    plain: opened,
                    established: self.is_established(),
                    ended: self.ended,
                })
            }
            Err(error) => {
                self.partial = Vec::new();
                self.fault = Some(error.clone());
                match opened {
                    0 => Err(error),
                    plain => Ok(Opened {
                        plain,
                        established: self.is_established(),
                        ended: false,
                    }),
                }
            }
        }
    }

    fn check_fault(&self) -> Result<(), Error> {
        self.fault.clone().map_or(Ok(()), Err)
    }

    fn keep(&mut self, rest: &[u8]) {
        if rest.is_empty() {
            // Its memory goes too: most connections are idle between records.
            self.partial = Vec::new();
        } else {
            self.partial.clear();
            self.partial.extend_from_slice(rest);
        }
    }

    /// What the connection has to say beside the data, to be sent first.
    pub fn control(&self) -> &[u8] {
        &self.control
    }

    /// The same, for the caller to send.
    pub fn take_control(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.control)
    }

    /// All of it is sent.
    pub fn control_sent(&mut self) {
        self.control = Vec::new();
    }

    /// The first bytes of it are sent.
    pub fn control_sent_part(&mut self, bytes: usize) {
        self.control.drain(..bytes);
    }

    /// Whether what a server has to say when it is established may wait for its first data: a
    /// ticket may, the end of the handshake, which TLS 1.2 leaves to the server, must not.
    pub fn may_wait_to_speak(&self) -> bool {
        self.common().protocol_version() == Some(ProtocolVersion::TLSv1_3)
    }

    /// Begins a client's handshake: its first flight is in [`control`](Self::control) then.
    pub fn start(&mut self) -> Result<(), Error> {
        self.open(&mut [], &mut []).map(|_| ())
    }

    /// Seals at most [`PLAIN_BYTES`] into `out`, behind what the connection has to say itself, and
    /// returns the bytes to be sent.
    ///
    /// Errors: the keys are used up.
    pub fn seal(&mut self, plain: &[u8], out: &mut [u8]) -> Result<usize, Error> {
        debug_assert!(self.is_established() && plain.len() <= PLAIN_BYTES);
        let front = self.control.len();
        if front + plain.len() + RECORDS * RECORD_EXTRA_BYTES_MAX > out.len() {
            return Err(Error::General("no room for what is to be sent".to_owned()));
        }
        out[..front].copy_from_slice(&self.control);
        self.control_sent();
        match self.write(|traffic| traffic.encrypt(plain, &mut out[front..]).ok()) {
            Ok(sealed) => Ok(front + sealed),
            Err(error) => {
                // Over keys that are used up rustls says that we end. A peer that believed it
                // would take what it has for everything.
                let _ = self.write(|_| Some(0));
                self.control_sent();
                Err(error)
            }
        }
    }

    /// Adds the close_notify to [`control`](Self::control), once.
    pub fn say_goodbye(&mut self) {
        if std::mem::replace(&mut self.said_goodbye, true) {
            return;
        }
        let mut alert = [0; 64];
        let length = self.write(|traffic| traffic.queue_close_notify(&mut alert).ok());
        if let Ok(length) = length {
            self.control.extend_from_slice(&alert[..length]);
        }
    }

    pub fn has_said_goodbye(&self) -> bool {
        self.said_goodbye
    }

    fn write(
        &mut self,
        act: impl FnOnce(&mut dyn Traffic) -> Option<usize>,
    ) -> Result<usize, Error> {
        self.check_fault()?;
        let TlsStream {
            machine,
            partial,
            control,
            ended,
            ..
        } = self;
        match machine {
            Machine::Server(one) => write(&mut **one, partial, control, ended, act),
            Machine::Client(one) => write(&mut **one, partial, control, ended, act),
        }
    }

    pub fn facts(&self) -> Facts<'_> {
        let common = self.common();
        Facts {
            version: match common.protocol_version() {
                Some(ProtocolVersion::TLSv1_3) => "1.3",
                Some(ProtocolVersion::TLSv1_2) => "1.2",
                _ => "",
            },
            resumed: common.handshake_kind() == Some(HandshakeKind::Resumed),
            alpn: common.alpn_protocol(),
            cipher: common
                .negotiated_cipher_suite()
                .and_then(|suite| cipher::name(suite.suite())),
            certificate: common.peer_certificates().and_then(<[_]>::first),
        }
    }

    fn common(&self) -> &CommonState {
        match &self.machine {
            Machine::Server(one) => one,
            Machine::Client(one) => one,
        }
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("partial", &self.partial.len())
            .field("control", &self.control.len())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// The two sides of rustls' connections, which share all but their type.
trait Process {
    type Data;
    fn process<'c, 'i>(&'c mut self, sealed: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn has_to_say(&self) -> bool;
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        sealed: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(sealed)
    }

    fn has_to_say(&self) -> bool {
        self.wants_write()
    }
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        sealed: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(sealed)
    }

    fn has_to_say(&self) -> bool {
        self.wants_write()
    }
}

/// What may be done while data may be sent, of either side.
trait Traffic {
    fn encrypt(
        &mut self,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<usize, rustls::unbuffered::EncryptError>;
    fn queue_close_notify(
        &mut self,
        out: &mut [u8],
    ) -> Result<usize, rustls::unbuffered::EncryptError>;
}

impl<Data> Traffic for WriteTraffic<'_, Data> {
    fn encrypt(
        &mut self,
        plain: &[u8],
        out: &mut [u8],
    ) -> Result<usize, rustls::unbuffered::EncryptError> {
        WriteTraffic::encrypt(self, plain, out)
    }

    fn queue_close_notify(
        &mut self,
        out: &mut [u8],
    ) -> Result<usize, rustls::unbuffered::EncryptError> {
        WriteTraffic::queue_close_notify(self, out)
    }
}

/// Processes every whole record and returns the bytes used. rustls remembers places in what is
/// left, where a message goes on in the next record: it must be shown that again at every call.
fn drive<P: Process>(
    machine: &mut P,
    sealed: &mut [u8],
    control: &mut Vec<u8>,
    ended: &mut bool,
    take: &mut impl FnMut(&[u8]),
) -> Result<usize, Error> {
    let mut used = 0;
    loop {
        let UnbufferedStatus { discard, state, .. } = machine.process(&mut sealed[used..]);
        let more = match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    take(record?.payload);
                }
                true
            }
            Ok(ConnectionState::EncodeTlsData(encode)) => {
                append(encode, control);
                true
            }
            Ok(ConnectionState::TransmitTlsData(transmit)) => {
                // It is in `control`, which is sent before anything else.
                transmit.done();
                true
            }
            Ok(ConnectionState::PeerClosed) => {
                *ended = true;
                false
            }
            // The rest: more is needed, data may be sent, or both sides have closed. Early data
            // is not taken, so there is none.
            Ok(_) => false,
            Err(error) => {
                // What the peer is told of it. It comes before anything is looked for in the
                // input, which must not be processed a second time.
                while machine.has_to_say()
                    && let Ok(ConnectionState::EncodeTlsData(encode)) =
                        machine.process(&mut []).state
                {
                    append(encode, control);
                }
                return Err(error);
            }
        };
        used += discard;
        if !more {
            return Ok(used);
        }
    }
}

fn append<Data>(mut encode: EncodeTlsData<'_, Data>, control: &mut Vec<u8>) {
    let start = control.len();
    let mut room = 512;
    loop {
        control.resize(start + room, 0);
        match encode.encode(&mut control[start..]) {
            Ok(length) => {
                control.truncate(start + length);
                return;
            }
            Err(EncodeError::InsufficientSize(size)) => room = size.required_size,
            Err(EncodeError::AlreadyEncoded) => {
                control.truncate(start);
                return;
            }
        }
    }
}

/// Acts once data may be sent. `partial`: see [`drive`]; no record in it is whole.
fn write<P: Process>(
    machine: &mut P,
    partial: &mut [u8],
    control: &mut Vec<u8>,
    ended: &mut bool,
    act: impl FnOnce(&mut dyn Traffic) -> Option<usize>,
) -> Result<usize, Error> {
    loop {
        let UnbufferedStatus { discard, state, .. } = machine.process(partial);
        debug_assert_eq!(discard, 0, "what was whole has been processed");
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                return act(&mut traffic).ok_or(Error::EncryptError);
            }
            ConnectionState::EncodeTlsData(encode) => append(encode, control),
            ConnectionState::TransmitTlsData(transmit) => transmit.done(),
            ConnectionState::PeerClosed => *ended = true,
            _ => return Err(Error::HandshakeNotComplete),
        }
    }
}

#[cfg(test)]
mod tests;
