//! Directions with TLS at one end or at both: opened out of one buffer, sealed into the other.

use rustix::io::Errno;
use rustls::Error;

use super::direction::{Broken, Direction, Flow, Tools, Turn};
use crate::base::addr::Side;
use crate::net::peer::Peer;
use crate::tls::stream::{
    PLAIN_BYTES, RECORDS, SEALED_BYTES, TlsStream, plain_bytes, sealed_bytes,
};

/// Bytes of a direction in one turn, about, so that one fast flow does not starve the others.
const TURN_BYTES: usize = 512 * 1024;

/// Read at once of a direction whose sink does not take all it is offered, or has not shown yet
/// that it does: no more than this is kept for a slow reader.
const SLOW_RECORDS: usize = 4;

/// Control records up to this length wait for the data that they are sent with.
const RIDES_ALONG_BYTES_MAX: usize = 2048;

/// The TLS of a session's two ends; at least one is there.
#[derive(Debug)]
pub struct Secured {
    pub client: Option<TlsStream>,
    pub backend: Option<TlsStream>,
    /// Who broke the rules of TLS, and how.
    pub(super) fault: Option<(Side, Fault)>,
    /// The client's ticket, written with the first answer; not later than
    /// [`hurry`](Secured::hurry) says.
    ticket_waits: bool,
    /// Bytes came, though perhaps of a record whose rest has not.
    heard: bool,
}

/// How a peer broke the rules of TLS.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Its FIN came without a close_notify (RFC 8446, section 6.1).
    Truncated,
    /// Not to be opened, or not to be understood.
    Broken(Error),
}

impl Secured {
    pub fn new(client: Option<TlsStream>, backend: Option<TlsStream>) -> Secured {
        let ticket_waits = client.as_ref().is_some_and(|tls| {
            tls.may_wait_to_speak() && tls.control().len() <= RIDES_ALONG_BYTES_MAX
        });
        Secured {
            client,
            backend,
            fault: None,
            ticket_waits,
            heard: false,
        }
    }

    fn of(&mut self, side: Side) -> Option<&mut TlsStream> {
        match side {
            Side::Client => self.client.as_mut(),
            Side::Backend => self.backend.as_mut(),
        }
    }

    /// What waits for data to be sent with waits no longer. But a client that has ended may have
    /// closed: it would answer with a reset, and it can have no use for a ticket alone.
    pub(super) fn hurry(&mut self) {
        if self.client.as_ref().is_some_and(|tls| !tls.has_ended()) {
            self.ticket_waits = false;
        }
    }

    /// Whether bytes came since this was asked last, even if none could be passed on.
    pub(super) fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// One turn of the direction from `side`, as [`Direction::turn`].
    pub(super) fn turn(
        &mut self,
        side: Side,
        direction: &mut Direction,
        source: &mut Peer,
        sink: &mut Peer,
        tools: &mut Tools<'_>,
    ) -> Result<Turn, Broken> {
        let other = side.other();
        // Only what was read ahead of the relay is held as it came.
        if let Some(tls) = self.of(other)
            && let Some(ahead) = direction.take_unsealed()
        {
            for part in ahead.chunks(PLAIN_BYTES) {
                offer_sealed(tls, direction, part, sink, tools.sealed)?;
            }
        }
        let mut moved = 0;
        loop {
            if let Err(stop) = direction.deliver_held(sink) {
                return stop;
            }
            if direction.flow() != Flow::Open {
                return Ok(Turn::Waits);
            }
            // Found behind plaintext that went first.
            if let Some(error) = self.of(side).and_then(|tls| tls.fault()) {
                let fault = Fault::Broken(error.clone());
                self.fault.get_or_insert((side, fault));
                return Err(Broken::Source);
            }
            if !source.readable {
                return Ok(Turn::Waits);
            }
            if moved >= TURN_BYTES {
                return Ok(Turn::Again);
            }
            let records = if direction.flows_freely() {
                RECORDS
            } else {
                SLOW_RECORDS
            };
            let received = match self.of(side) {
                None => receive(source, &mut tools.scratch[..plain_bytes(records)]),
                Some(tls) => {
                    let received = receive_opened(tls, source, records, tools);
                    self.heard |= matches!(received, Ok(Received::Plain(_)));
                    received
                }
            };
            let count = match received {
                Ok(Received::Plain(count)) => count,
                Ok(Received::LastPlain(count)) => {
                    direction.end();
                    count
                }
                Ok(Received::Nothing) => return Ok(Turn::Waits),
                Err(None) => return Err(Broken::Source),
                Err(Some(fault)) => {
                    self.fault.get_or_insert((side, fault));
                    return Err(Broken::Source);
                }
            };
            if count == 0 {
                continue;
            }
            moved += count;
            match self.of(other) {
                None => offer(direction, &tools.scratch[..count], sink)?,
                Some(tls) => {
                    let plain = &tools.scratch[..count];
                    offer_sealed(tls, direction, plain, sink, tools.sealed)?;
                    if other == Side::Client {
                        self.ticket_waits = false;
                    }
                }
            }
        }
    }

    /// Sends what the TLS of `side` has to say beside the data: answers to key updates, the
    /// close_notify. `direction` is the one towards it.
    pub(super) fn flush(&mut self, side: Side, direction: &mut Direction, peer: &mut Peer) {
        if side == Side::Client && self.ticket_waits {
            return;
        }
        let Some(tls) = self.of(side).filter(|tls| !tls.control().is_empty()) else {
            return;
        };
        direction.keep_sealed(tls.control());
        tls.control_sent();
        // A peer that breaks here is found broken at the next turn.
        let _ = direction.deliver_held(peer);
    }

    /// Tells a peer that it broke the rules, if it takes it at once; nothing depends on it.
    pub(super) fn send_alert(&mut self, side: Side, peer: &mut Peer) {
        if let Some(tls) = self.of(side).filter(|tls| !tls.control().is_empty()) {
            let _ = peer.transmit(tls.control(), false);
            tls.control_sent();
        }
    }

    /// Whether a FIN towards `side` may follow: its close_notify was said before. Says it now.
    pub(super) fn say_goodbye(&mut self, side: Side) {
        if let Some(tls) = self.of(side)
            && !tls.has_said_goodbye()
        {
            tls.say_goodbye();
            if side == Side::Client {
                self.ticket_waits = false;
            }
        }
    }
}

/// What a read brought, in the scratch buffer.
enum Received {
    Plain(usize),
    /// And nothing follows.
    LastPlain(usize),
    /// Before the next event.
    Nothing,
}

fn receive(source: &mut Peer, scratch: &mut [u8]) -> Result<Received, Option<Fault>> {
    match source.receive(scratch) {
        Ok(0) => Ok(Received::LastPlain(0)),
        Ok(count) => Ok(Received::Plain(count)),
        Err(Errno::AGAIN) => Ok(Received::Nothing),
        Err(_) => Err(None),
    }
}

fn receive_opened(
    tls: &mut TlsStream,
    source: &mut Peer,
    records: usize,
    tools: &mut Tools<'_>,
) -> Result<Received, Option<Fault>> {
    let front = tls.lay_out(tools.sealed);
    // More than a record is here only of a long message of the handshake's kind.
    let end = match front > sealed_bytes(1) {
        true => SEALED_BYTES,
        false => sealed_bytes(records),
    };
    let sealed = &mut tools.sealed[..end];
    let count = match source.receive(&mut sealed[front..]) {
        Ok(0) => return Err(Some(Fault::Truncated)),
        Ok(count) => count,
        Err(Errno::AGAIN) => return Ok(Received::Nothing),
        Err(_) => return Err(None),
    };
    match tls.open(&mut sealed[..front + count], tools.scratch) {
        Ok(opened) if opened.ended => Ok(Received::LastPlain(opened.plain)),
        Ok(opened) => Ok(Received::Plain(opened.plain)),
        Err(error) => Err(Some(Fault::Broken(error))),
    }
}

fn offer(direction: &mut Direction, plain: &[u8], sink: &mut Peer) -> Result<(), Broken> {
    let sent = match sink.transmit(plain, false) {
        Ok(sent) => sent,
        Err(Errno::AGAIN) => 0,
        Err(_) => return Err(Broken::Sink),
    };
    direction.count_delivered(sent);
    direction.note_taken(sent == plain.len());
    if sent < plain.len() {
        direction.keep(&plain[sent..]);
    }
    Ok(())
}

fn offer_sealed(
    tls: &mut TlsStream,
    direction: &mut Direction,
    plain: &[u8],
    sink: &mut Peer,
    room: &mut [u8],
) -> Result<(), Broken> {
    if tls.control().len() > RIDES_ALONG_BYTES_MAX {
        direction.keep_sealed(tls.control());
        tls.control_sent();
    }
    // Keys that are used up end the connection like a sink that broke.
    let length = tls.seal(plain, room).map_err(|_| Broken::Sink)?;
    direction.count_delivered(plain.len());
    let sent = if direction.holds_bytes() {
        0
    } else {
        match sink.transmit(&room[..length], false) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(_) => return Err(Broken::Sink),
        }
    };
    direction.note_taken(sent == length);
    if sent < length {
        direction.keep_sealed(&room[sent..length]);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
