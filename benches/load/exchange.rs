//! One request and its response on a non-blocking connection, as the client sees it.

use std::io;

use clap::Args;

use crate::channel::Channel;
use crate::net::Moved;

/// How large both messages are; client and server must agree.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Shape {
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) request_bytes: u64,
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) response_bytes: u64,
}

/// Largest single send and receive.
pub(crate) const CHUNK_BYTES: usize = 256 * 1024;

/// Bytes to send from and a place to receive into, one per thread.
#[derive(Debug)]
pub(crate) struct Scratch {
    pub(crate) outgoing: Vec<u8>,
    pub(crate) incoming: Vec<u8>,
}

impl Scratch {
    pub(crate) fn new() -> Self {
        Self {
            outgoing: vec![b'x'; CHUNK_BYTES],
            incoming: vec![0; CHUNK_BYTES],
        }
    }
}

/// What an exchange needs next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Awaiting {
    Room,
    Response,
    Nothing,
}

#[derive(Debug)]
pub(crate) struct Exchange {
    unsent: u64,
    unread: u64,
}

impl Exchange {
    pub(crate) fn new(shape: Shape) -> Self {
        Self {
            unsent: shape.request_bytes,
            unread: shape.response_bytes,
        }
    }

    pub(crate) fn is_sent(&self) -> bool {
        self.unsent == 0
    }

    /// Bytes of the response that are still to come.
    pub(crate) fn unread(&self) -> u64 {
        self.unread
    }

    /// Goes on with the request.
    pub(crate) fn send(
        &mut self,
        channel: &mut Channel,
        scratch: &Scratch,
    ) -> io::Result<Awaiting> {
        while self.unsent > 0 {
            match channel.send_some(chunk(&scratch.outgoing, self.unsent))? {
                Moved::Bytes(count) => self.unsent -= count as u64,
                Moved::WouldBlock => return Ok(Awaiting::Room),
            }
        }
        Ok(Awaiting::Response)
    }

    /// Goes on with the response: one receive, because a readable socket says so again if there
    /// is more, and a second call for nothing would be paid by every request.
    pub(crate) fn receive(
        &mut self,
        channel: &mut Channel,
        scratch: &mut Scratch,
    ) -> io::Result<Awaiting> {
        match channel.receive_some(&mut scratch.incoming)? {
            Moved::Bytes(0) => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "short response",
            )),
            Moved::Bytes(count) if count as u64 > self.unread => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "response longer than agreed",
            )),
            Moved::Bytes(count) => {
                self.unread -= count as u64;
                Ok(if self.unread == 0 {
                    Awaiting::Nothing
                } else {
                    Awaiting::Response
                })
            }
            Moved::WouldBlock => Ok(Awaiting::Response),
        }
    }
}

/// The part of `bytes` to send when `left` are to go.
pub(crate) fn chunk(bytes: &[u8], left: u64) -> &[u8] {
    &bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))]
}
