//! What the server does with a connection, one step per wake-up.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::events::Interest;
use crate::exchange::{CHUNK_BYTES, Scratch, Shape, chunk};
use crate::net::{Moved, receive_some, send_some};

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Kind {
    /// A response for every `--request-bytes` received.
    Echo,
    /// A 200 with a body of `--response-bytes` for every HTTP/1.1 request head.
    Http,
    /// Reads everything and answers the end with the number of bytes, 8 bytes big endian.
    Sink,
    /// Sends without end, from the client's first byte on.
    Source,
    /// Accepts, and does nothing.
    Hold,
}

#[derive(Debug)]
pub(crate) struct Service {
    kind: Kind,
    request_bytes: u64,
    /// With the head for HTTP.
    response: Vec<u8>,
    response_bytes: u64,
    close_after_response: bool,
    source_bytes: u64,
    delay: Duration,
    name: u8,
    numbers: Option<AtomicU64>,
}

/// What else an echo can do, so that failures can be told apart.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// Wait so long before each response, whatever else there is to do (echo).
    #[arg(long, default_value_t = 0)]
    pub(crate) delay_us: u64,
    /// The letter that responses consist of, to tell servers apart (echo).
    #[arg(long, default_value_t = 'x')]
    pub(crate) name: char,
    /// Responses begin with the number of the connection, as they were accepted: 8 bytes big
    /// endian. Strict with one thread only (echo, one response for each connection).
    #[arg(long)]
    pub(crate) numbered: bool,
}

/// Bytes of the number that a numbered response begins with.
pub(crate) const NUMBER_BYTES: usize = 8;

/// How far a connection is.
#[derive(Debug, Default)]
pub(crate) struct Visit {
    /// Bytes of the unfinished request; all bytes, for a sink.
    received: u64,
    /// Bytes still to be sent.
    owed: u64,
    answered: bool,
    /// The response that is owed has had its delay.
    waited: bool,
    /// Which connection of the server it is.
    number: u64,
    /// How much of the blank line that ends an HTTP head the last bytes were.
    blank_matched: usize,
}

#[derive(Debug)]
pub(crate) enum Next {
    Await(Interest),
    /// Go on after the service's delay, and not before.
    Later,
    Hold,
    Close,
}

impl Service {
    pub(crate) fn new(
        kind: Kind,
        shape: Shape,
        close_after_response: bool,
        bytes: Option<u64>,
        traits: Traits,
    ) -> io::Result<Self> {
        let Ok(name) = u8::try_from(traits.name) else {
            return Err(io::Error::other("a name is one letter"));
        };
        if traits.numbered && shape.response_bytes < NUMBER_BYTES as u64 {
            return Err(io::Error::other("a numbered response has 8 bytes at least"));
        }
        let response = match kind {
            Kind::Http => http_response(shape.response_bytes, close_after_response),
            _ => Vec::new(),
        };
        Ok(Self {
            kind,
            request_bytes: shape.request_bytes,
            response_bytes: match kind {
                Kind::Http => response.len() as u64,
                _ => shape.response_bytes,
            },
            response,
            close_after_response,
            source_bytes: bytes.unwrap_or(u64::MAX),
            delay: Duration::from_micros(traits.delay_us),
            name,
            numbers: traits.numbered.then(AtomicU64::default),
        })
    }

    pub(crate) fn delay(&self) -> Duration {
        self.delay
    }

    /// For a connection just accepted.
    pub(crate) fn visit(&self) -> Visit {
        Visit {
            number: self
                .numbers
                .as_ref()
                .map_or(0, |numbers| numbers.fetch_add(1, Relaxed)),
            ..Visit::default()
        }
    }

    /// Buffers for one thread, filled with what this service sends.
    pub(crate) fn scratch(&self) -> Scratch {
        let mut scratch = Scratch::new();
        scratch.outgoing.fill(self.name);
        if !self.response.is_empty() {
            scratch.outgoing.clone_from(&self.response);
        }
        scratch
    }

    /// One step; a failed peer is closed like one that left.
    pub(crate) fn go_on(&self, socket: &OwnedFd, visit: &mut Visit, scratch: &mut Scratch) -> Next {
        let next = match self.kind {
            Kind::Echo | Kind::Http => self.answer(socket, visit, scratch),
            Kind::Sink => swallow(socket, visit, scratch),
            Kind::Source => self.pour(socket, visit, scratch),
            Kind::Hold => Ok(Next::Hold),
        };
        next.unwrap_or(Next::Close)
    }

    /// Nothing is received while a response is owed, so a client that does not read stops.
    fn answer(
        &self,
        socket: &OwnedFd,
        visit: &mut Visit,
        scratch: &mut Scratch,
    ) -> io::Result<Next> {
        if visit.owed == 0 {
            match receive_some(socket, &mut scratch.incoming)? {
                Moved::Bytes(0) => return Ok(Next::Close),
                Moved::Bytes(count) => {
                    let requests = self.requests_completed_by(&scratch.incoming[..count], visit);
                    visit.owed = requests * self.response_bytes;
                }
                Moved::WouldBlock => {}
            }
        }
        if visit.owed > 0 && !visit.waited && !self.delay.is_zero() {
            visit.waited = true;
            return Ok(Next::Later);
        }
        if visit.owed > 0 && self.numbers.is_some() && !visit.answered {
            // The socket's buffer is empty: eight bytes always fit.
            send_some(socket, &visit.number.to_be_bytes())?;
            visit.owed -= NUMBER_BYTES as u64;
            visit.answered = true;
        }
        while visit.owed > 0 {
            // Responses begin where the last one ended; one is longer than the buffer or fits.
            let at = self.response_offset(visit.owed);
            match send_some(socket, chunk(&scratch.outgoing[at..], visit.owed))? {
                Moved::Bytes(count) => visit.owed -= count as u64,
                Moved::WouldBlock => return Ok(Next::Await(Interest::Writable)),
            }
            visit.answered = true;
        }
        visit.waited = false;
        if visit.answered && self.close_after_response {
            return Ok(Next::Close);
        }
        Ok(Next::Await(Interest::Readable))
    }

    fn requests_completed_by(&self, bytes: &[u8], visit: &mut Visit) -> u64 {
        if let Kind::Http = self.kind {
            return bytes
                .iter()
                .map(|byte| u64::from(visit.ends_head(*byte)))
                .sum();
        }
        let received = visit.received + bytes.len() as u64;
        visit.received = received % self.request_bytes;
        received / self.request_bytes
    }

    /// Where in the prepared bytes sending goes on: only an HTTP response has an order.
    fn response_offset(&self, owed: u64) -> usize {
        match self.response.len() as u64 {
            0 => 0,
            length => ((length - owed % length) % length) as usize,
        }
    }

    fn pour(&self, socket: &OwnedFd, visit: &mut Visit, scratch: &mut Scratch) -> io::Result<Next> {
        if !visit.answered {
            match receive_some(socket, &mut scratch.incoming)? {
                Moved::Bytes(0) => return Ok(Next::Close),
                Moved::Bytes(_) => visit.owed = self.source_bytes,
                Moved::WouldBlock => return Ok(Next::Await(Interest::Readable)),
            }
            visit.answered = true;
        }
        for _ in 0..CHUNKS_PER_STEP {
            if visit.owed == 0 {
                return Ok(Next::Close);
            }
            match send_some(socket, chunk(&scratch.outgoing, visit.owed))? {
                Moved::Bytes(count) => visit.owed -= count as u64,
                Moved::WouldBlock => break,
            }
        }
        Ok(Next::Await(Interest::Writable))
    }
}

/// Chunks sent to one connection before the others get their turn.
const CHUNKS_PER_STEP: usize = 8;

fn swallow(socket: &OwnedFd, visit: &mut Visit, scratch: &mut Scratch) -> io::Result<Next> {
    match receive_some(socket, &mut scratch.incoming[..CHUNK_BYTES])? {
        Moved::Bytes(0) => {
            // The socket's buffer is empty: eight bytes always fit.
            send_some(socket, &visit.received.to_be_bytes())?;
            Ok(Next::Close)
        }
        Moved::Bytes(count) => {
            visit.received += count as u64;
            Ok(Next::Await(Interest::Readable))
        }
        Moved::WouldBlock => Ok(Next::Await(Interest::Readable)),
    }
}

impl Visit {
    fn ends_head(&mut self, byte: u8) -> bool {
        const BLANK: &[u8] = b"\r\n\r\n";
        if byte == BLANK[self.blank_matched] {
            self.blank_matched += 1;
        } else {
            self.blank_matched = usize::from(byte == BLANK[0]);
        }
        let complete = self.blank_matched == BLANK.len();
        if complete {
            self.blank_matched = 0;
        }
        complete
    }
}

fn http_response(body_bytes: u64, closes: bool) -> Vec<u8> {
    let connection = if closes { "close" } else { "keep-alive" };
    let mut response = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {body_bytes}\r\nConnection: {connection}\r\n\r\n"
    )
    .into_bytes();
    response.extend((0..body_bytes).map(|_| b'x'));
    response
}
