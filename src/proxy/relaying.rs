//! A session whose backend is connected: what is known of it while bytes move.

use std::time::Duration;

use super::connecting::Connected;
use super::tally::Relayed;
use crate::balance::pool::{Lease, SessionEnd};
use crate::balance::timings::Timed;
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::base::ending::{RelayPath, Termination};
use crate::base::wheel::TICK;
use crate::observe::access::FailedTry;
use crate::relay::duplex::Duplex;

#[derive(Debug)]
pub(super) struct Relaying {
    pub(super) duplex: Duplex,
    pub(super) lease: Lease<Endpoint>,
    pub(super) queued: Duration,
    pub(super) failed_tries: Box<[FailedTry]>,
    pub(super) connect: Duration,
    pub(super) connected_at: Moment,
    pub(super) first_byte: Option<Duration>,
    /// When the client's first byte had gone to the backend, which could answer from then on.
    asked_at: Option<Moment>,
    /// When the alarm is set to that looks at deadlines and reports bytes.
    pub(super) look_at: Moment,
    /// Bytes already added to the backend's totals, to it and to the client.
    pub(super) reported: (u64, u64),
    /// What both peers had acknowledged at the last look, when that last grew, and when that
    /// look was.
    pub(super) acknowledged: u64,
    pub(super) progress_at: Moment,
    pub(super) marked_at: Moment,
    pub(super) settled: bool,
    /// Whether it was half-closed when its alarm was set; `None` while it is the connect's.
    pub(super) alarm_for: Option<bool>,
}

/// Bytes are in the totals no later than this after they moved, so that a long transfer is seen
/// while it lasts.
pub(super) const REPORTED_WITHIN: Duration = Duration::from_secs(5);

/// How a relay's silence stands against its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Silence {
    Unlimited,
    LookAgain(Moment),
    TooLong,
}

impl Relaying {
    pub(super) fn new(connected: Connected, worker: usize, now: Moment) -> Self {
        let Connected {
            client,
            backend,
            secured,
            to_backend,
            to_client,
            lease,
            took,
            queued,
            failed_tries,
        } = connected;
        lease.took(worker, Timed::Connect, took);
        if !queued.is_zero() {
            lease.took(worker, Timed::Queue, queued);
        }
        Relaying {
            duplex: Duplex::new(client, backend, (to_backend, to_client), secured, now),
            lease,
            queued,
            failed_tries: failed_tries.into(),
            connect: took,
            connected_at: now,
            first_byte: None,
            asked_at: None,
            look_at: now,
            reported: (0, 0),
            acknowledged: 0,
            progress_at: now,
            marked_at: now,
            settled: false,
            alarm_for: None,
        }
    }

    /// To be called when bytes may have moved: looks for the backend's first.
    pub(super) fn note_first_byte(&mut self, worker: usize, now: Moment) {
        if self.first_byte.is_some() {
            return;
        }
        if self.duplex.bytes_to_client() > 0 {
            let took = now.since(self.connected_at);
            self.first_byte = Some(took);
            self.lease.took(worker, Timed::FirstByte, took);
            // A client that connects long before it speaks does not make its backend slow.
            let since = self.asked_at.unwrap_or(self.connected_at);
            self.lease.first_byte(now, now.since(since));
        } else if self.asked_at.is_none() && self.duplex.bytes_to_backend() > 0 {
            self.asked_at = Some(now);
        }
    }

    /// Tells the pool how the session ended.
    pub(super) fn report_end(&self, termination: Termination, now: Moment) {
        self.lease.ended(
            now,
            SessionEnd {
                termination,
                lived: now.since(self.connected_at),
                bytes_to_backend: self.duplex.bytes_to_backend(),
                bytes_to_client: self.duplex.bytes_to_client(),
            },
        );
    }

    /// Backends tried, the one that was connected to among them.
    pub(super) fn tries(&self) -> u32 {
        self.failed_tries.len() as u32 + 1
    }

    /// Judges the silence so far. Bytes that a slow reader acknowledges count as life, though
    /// nothing moves here meanwhile.
    pub(super) fn silence(&mut self, max: Duration, now: Moment) -> Silence {
        if max.is_zero() {
            return Silence::Unlimited;
        }
        let last = self.duplex.moved_at.max(self.progress_at);
        let half = last + max / 2;
        if now < half && self.duplex.blocked_by().is_none() {
            return Silence::LookAgain(half);
        }
        match self.duplex.acknowledged_mark() {
            Some(mark) if mark != self.acknowledged => {
                self.acknowledged = mark;
                // Bytes that moved here since the last mark account for the change. How lately
                // the reader took some of them is unknown then, and half the limit is granted.
                let unknown = self.duplex.moved_at >= self.marked_at;
                self.progress_at = if unknown { now.before(max / 2) } else { now };
            }
            _ => {}
        }
        self.marked_at = now;
        let last = self.duplex.moved_at.max(self.progress_at);
        let end = last + max;
        if now >= end {
            return Silence::TooLong;
        }
        // With bytes under way the reader's progress is looked for more often, so that its end
        // is noticed within a tenth of the limit.
        let soon = now + (max / 10).max(TICK);
        let under_way = self.duplex.blocked_by().is_some() || self.acknowledged != 0;
        Silence::LookAgain(if under_way { soon.min(end) } else { end })
    }

    /// How the bytes are moved now.
    pub(super) fn path(&self) -> RelayPath {
        if self.duplex.is_secured() {
            RelayPath::Tls
        } else if self.duplex.spliced() {
            RelayPath::Splice
        } else {
            RelayPath::Copy
        }
    }

    /// Whether bytes moved just now and the next look at them, which would report them, is too far
    /// away.
    pub(super) fn looks_too_late(&self, now: Moment) -> bool {
        self.duplex.moved_at == now && self.look_at > now + REPORTED_WITHIN
    }

    /// Adds what moved since the last time to the totals of the backend and of the worker.
    pub(super) fn report_bytes(&mut self, relayed: &Relayed) {
        let bytes = (
            self.duplex.bytes_to_backend(),
            self.duplex.bytes_to_client(),
        );
        let (to_backend, to_client) = (bytes.0 - self.reported.0, bytes.1 - self.reported.1);
        if to_backend > 0 || to_client > 0 {
            self.lease.add_bytes(to_backend, to_client);
            relayed.add(self.path(), to_backend + to_client);
            self.reported = bytes;
        }
    }
}
