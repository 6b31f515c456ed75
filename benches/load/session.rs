//! The client's side of one TLS connection: rustls without buffers of its own, so that a step costs
//! one call of the kernel.

use std::fmt;
use std::io;
use std::mem;
use std::os::fd::AsFd;
use std::sync::Arc;

use rustls::HandshakeKind;
use rustls::client::{ClientConfig, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};

use crate::exchange::{Awaiting, CHUNK_BYTES};
use crate::net::{Moved, receive_some, send_some};

/// Enough for a handshake and for small responses; a flow that fills it gets more.
const INCOMING_BYTES_FIRST: usize = 8 * 1024;
/// What comes is no longer when it is opened, so it always fits into a caller's chunk.
const INCOMING_BYTES_MAX: usize = CHUNK_BYTES;
/// A record holds 16 KiB: four of them for one send.
const SEALED_BYTES_MAX: usize = 64 * 1024;
/// More than a flight of ours takes, and more than the records of one send take besides the bytes.
const FLIGHT_BYTES_MAX: usize = 4 * 1024;

pub(crate) struct Session {
    tls: UnbufferedClientConnection,
    /// The first `received` bytes wait for the rest of their record.
    incoming: Vec<u8>,
    received: usize,
    outgoing: Outgoing,
    /// Bytes of the caller that `outgoing` holds.
    sealed: usize,
    is_established: bool,
    is_closed_by_peer: bool,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(config: Arc<ClientConfig>, name: ServerName<'static>) -> io::Result<Self> {
        let mut session = Self {
            tls: UnbufferedClientConnection::new(config, name).map_err(io::Error::other)?,
            incoming: vec![0; INCOMING_BYTES_FIRST],
            received: 0,
            outgoing: Outgoing::default(),
            sealed: 0,
            is_established: false,
            is_closed_by_peer: false,
        };
        session.open(&mut [])?;
        Ok(session)
    }

    /// The ticket was taken, so the certificate was not needed.
    pub(crate) fn is_resumed(&self) -> bool {
        self.tls.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// The peer has said that it sends no more, so nothing was cut off.
    pub(crate) fn is_closed_by_peer(&self) -> bool {
        self.is_closed_by_peer
    }

    /// See [`crate::channel::Channel::establish`].
    pub(crate) fn establish(&mut self, socket: impl AsFd) -> io::Result<Awaiting> {
        while !self.is_established {
            if !self.outgoing.is_empty() {
                let is_sent = self.outgoing.flush(&socket)?;
                return Ok(if is_sent {
                    Awaiting::Response
                } else {
                    Awaiting::Room
                });
            }
            match self.fill(&socket)? {
                Moved::Bytes(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Moved::Bytes(_) => self.open(&mut [])?,
                Moved::WouldBlock => return Ok(Awaiting::Response),
            };
        }
        Ok(Awaiting::Nothing)
    }

    /// See [`crate::channel::Channel::send_some`].
    pub(crate) fn send_some(&mut self, socket: impl AsFd, bytes: &[u8]) -> io::Result<Moved> {
        if self.sealed == 0 {
            self.sealed = bytes.len().min(SEALED_BYTES_MAX);
            self.seal(Sealing::Bytes(&bytes[..self.sealed]))?;
        }
        Ok(if self.outgoing.flush(socket)? {
            Moved::Bytes(mem::take(&mut self.sealed))
        } else {
            Moved::WouldBlock
        })
    }

    /// See [`crate::channel::Channel::holds_back`].
    pub(crate) fn holds_back(&self) -> bool {
        self.sealed > 0
    }

    /// See [`crate::channel::Channel::receive_some`].
    pub(crate) fn receive_some(&mut self, socket: impl AsFd, into: &mut [u8]) -> io::Result<Moved> {
        if self.is_closed_by_peer || self.fill(socket)? == Moved::Bytes(0) {
            return Ok(Moved::Bytes(0));
        }
        Ok(match self.open(into)? {
            0 if self.is_closed_by_peer => Moved::Bytes(0),
            0 => Moved::WouldBlock,
            count => Moved::Bytes(count),
        })
    }

    /// The alert leaves at once or never: a peer that does not read is not waited for.
    pub(crate) fn notify_close(&mut self, socket: impl AsFd) -> io::Result<()> {
        self.seal(Sealing::CloseNotify)?;
        self.outgoing.flush(socket)?;
        Ok(())
    }

    /// One receive behind what waits for its rest.
    fn fill(&mut self, socket: impl AsFd) -> io::Result<Moved> {
        let moved = receive_some(socket, &mut self.incoming[self.received..])?;
        if let Moved::Bytes(count) = moved {
            self.received += count;
        }
        Ok(moved)
    }

    /// Opens all complete records into `into` and queues what the handshake answers.
    fn open(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let was_full = self.received == self.incoming.len();
        let (mut begin, mut opened) = (0, 0);
        loop {
            let unread = &mut self.incoming[begin..self.received];
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(unread);
            let mut is_done = false;
            match state.map_err(io::Error::other)? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(io::Error::other)?;
                        let end = opened + record.payload.len();
                        let Some(place) = into.get_mut(opened..end) else {
                            return Err(io::Error::other("a response before the request"));
                        };
                        place.copy_from_slice(record.payload);
                        opened = end;
                        discard += record.discard;
                    }
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    let count = data.encode(self.outgoing.room(FLIGHT_BYTES_MAX));
                    self.outgoing.filled += count.map_err(io::Error::other)?;
                }
                // It has its place in `outgoing`.
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.is_closed_by_peer = true,
                ConnectionState::WriteTraffic(_) => {
                    self.is_established = true;
                    is_done = true;
                }
                _ => is_done = true,
            }
            begin += discard;
            if is_done {
                break;
            }
        }
        self.incoming.copy_within(begin..self.received, 0);
        self.received -= begin;
        if was_full && self.incoming.len() < INCOMING_BYTES_MAX {
            self.incoming.resize(self.incoming.len() * 2, 0);
        }
        Ok(opened)
    }

    fn seal(&mut self, what: Sealing<'_>) -> io::Result<()> {
        let unread = &mut self.incoming[..self.received];
        let status = self.tls.process_tls_records(unread);
        let ConnectionState::WriteTraffic(mut traffic) = status.state.map_err(io::Error::other)?
        else {
            return Err(io::Error::other("TLS is not ready to send"));
        };
        let count = match what {
            Sealing::Bytes(bytes) => {
                traffic.encrypt(bytes, self.outgoing.room(bytes.len() + FLIGHT_BYTES_MAX))
            }
            Sealing::CloseNotify => {
                traffic.queue_close_notify(self.outgoing.room(FLIGHT_BYTES_MAX))
            }
        };
        self.outgoing.filled += count.map_err(io::Error::other)?;
        Ok(())
    }
}

#[derive(Clone, Copy)]
enum Sealing<'a> {
    Bytes(&'a [u8]),
    CloseNotify,
}

/// Records on their way to the kernel: those from `sent` to `filled`.
#[derive(Debug, Default)]
struct Outgoing {
    bytes: Vec<u8>,
    filled: usize,
    sent: usize,
}

impl Outgoing {
    fn is_empty(&self) -> bool {
        self.sent == self.filled
    }

    /// Where so many bytes may be written; `filled` is to be moved behind what was.
    fn room(&mut self, bytes: usize) -> &mut [u8] {
        if self.bytes.len() < self.filled + bytes {
            self.bytes.resize(self.filled + bytes, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// Whether all of it is with the kernel now.
    fn flush(&mut self, socket: impl AsFd) -> io::Result<bool> {
        while self.sent < self.filled {
            match send_some(&socket, &self.bytes[self.sent..self.filled])? {
                Moved::Bytes(count) => self.sent += count,
                Moved::WouldBlock => return Ok(false),
            }
        }
        (self.sent, self.filled) = (0, 0);
        Ok(true)
    }
}
