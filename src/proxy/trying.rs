//! One backend being connected to: the connect, what is announced to it, and its TLS.

use rustix::io::Errno;
use rustix::net::sockopt;
use rustls::Error;

use super::context::Context;
use super::route::Upstream;
use crate::balance::pool::Lease;
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::net::dial::{self, DialError};
use crate::net::peer::Peer;
use crate::net::poller::{Readiness, Token};
use crate::relay::direction::{Direction, Tools};
use crate::tls::fault;
use crate::tls::stream::{SEALED_BYTES, TlsStream};

/// A connect under way.
#[derive(Debug)]
pub(super) struct Try {
    pub(super) lease: Lease<Endpoint>,
    pub(super) begun_at: Moment,
    /// When the next backend gets its chance.
    pub(super) deadline: Moment,
    pub(super) backend: Peer,
    /// What goes to the backend before anything is relayed, and how far it has gone.
    outgoing: Vec<u8>,
    sent: usize,
    /// Where the client's first bytes begin in it, if they are part of it.
    ahead_from: usize,
    pub(super) tls: Option<TlsStream>,
    /// What the backend said behind its side of the handshake.
    pub(super) early: Early,
}

/// Plaintext of a backend that speaks first.
#[derive(Debug, Default)]
pub(super) struct Early {
    pub(super) bytes: Vec<u8>,
    pub(super) ended: bool,
}

/// What is said to a backend before the client's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Announcement {
    /// A header of the PROXY protocol; may be empty.
    pub(super) header: Vec<u8>,
    /// Offered where the backend speaks TLS.
    pub(super) alpn: Option<Box<[u8]>>,
}

/// How a try stands.
#[derive(Debug)]
pub(super) enum Progress {
    Waits,
    /// Bytes may be relayed.
    Stands,
    Failed(TryError),
}

/// Why a backend was not connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TryError {
    Connect(DialError),
    /// The connect stood; its TLS did not.
    Tls(&'static str),
}

impl TryError {
    pub(super) const TIMED_OUT: TryError = TryError::Connect(DialError(Errno::TIMEDOUT));

    /// Whether it says nothing about the backend.
    pub(super) fn is_local(self) -> bool {
        matches!(self, TryError::Connect(error) if error.is_local())
    }

    /// One word for the access log.
    pub(super) fn detail(self) -> &'static str {
        match self {
            TryError::Connect(error) => error.detail(),
            TryError::Tls(word) => word,
        }
    }
}

impl From<Errno> for TryError {
    fn from(error: Errno) -> Self {
        TryError::Connect(DialError(error))
    }
}

/// What a try goes by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt<'a> {
    /// What the backend's socket is watched under.
    pub(super) token: Token,
    pub(super) begun_at: Moment,
    /// Until when it may last.
    pub(super) deadline: Moment,
    pub(super) upstream: &'a Upstream,
    pub(super) announcement: &'a Announcement,
}

impl Try {
    /// Begins a connect and offers it what there is to say. The `fresh` bytes of the client lie in
    /// the scratch buffer; what cannot leave at once is kept in `ahead`.
    ///
    /// Errors, with the lease given back: the connect failed at once.
    pub(super) fn begin(
        lease: Lease<Endpoint>,
        attempt: Attempt<'_>,
        ahead: &mut Direction,
        fresh: usize,
        cx: &mut Context<'_>,
    ) -> Result<(Try, Progress), (Lease<Endpoint>, TryError)> {
        let Attempt {
            token,
            begun_at,
            deadline,
            upstream,
            announcement,
        } = attempt;
        let target = &lease.member().target;
        let says_something = !announcement.header.is_empty() || upstream.tls.is_some();
        let data_follows = fresh > 0 || ahead.holds_bytes() || says_something;
        let socket = match dial::begin(target, data_follows) {
            Ok(socket) => socket,
            Err(error) => return Err((lease, TryError::Connect(error))),
        };
        let tcp = matches!(target, Endpoint::Tcp(_));
        let mut this = Try {
            backend: Peer::dialled(socket, token, tcp),
            lease,
            begun_at,
            deadline,
            outgoing: Vec::new(),
            sent: 0,
            ahead_from: 0,
            tls: None,
            early: Early::default(),
        };
        if !says_something {
            let progress = this.offer(fresh, ahead, cx.tools.scratch);
            return this.unless_failed(progress);
        }
        if fresh > 0 && !ahead.holds_bytes() {
            ahead.keep(&cx.tools.scratch[..fresh]);
        }
        this.outgoing.extend_from_slice(&announcement.header);
        match &upstream.tls {
            None => {
                this.ahead_from = this.outgoing.len();
                this.outgoing.extend_from_slice(ahead.held());
            }
            Some(tls) => {
                let alpn = announcement.alpn.as_deref();
                match tls.begin(this.lease.index(), alpn).and_then(begun) {
                    Ok(stream) => this.tls = Some(stream),
                    Err(error) => {
                        return Err((this.lease, TryError::Tls(fault::word(&error))));
                    }
                }
                this.take_control();
            }
        }
        let progress = this.advance(ahead, &mut cx.tools);
        this.unless_failed(progress)
    }

    fn unless_failed(
        self,
        progress: Progress,
    ) -> Result<(Try, Progress), (Lease<Endpoint>, TryError)> {
        match progress {
            Progress::Failed(error) => Err((self.lease, error)),
            progress => Ok((self, progress)),
        }
    }

    /// The client's bytes as the first ones: a backend that takes them is connected.
    fn offer(&mut self, fresh: usize, ahead: &mut Direction, scratch: &[u8]) -> Progress {
        if fresh == 0 || ahead.holds_bytes() {
            return Progress::Waits;
        }
        let bytes = &scratch[..fresh];
        let sent = match self.backend.transmit(bytes, false) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => {
                ahead.keep(bytes);
                return Progress::Waits;
            }
            Err(error) => return Progress::Failed(error.into()),
        };
        ahead.count_delivered(sent);
        if sent < fresh {
            ahead.keep(&bytes[sent..]);
        }
        Progress::Stands
    }

    /// An event on the backend's socket.
    pub(super) fn notice(
        &mut self,
        readiness: Readiness,
        ahead: &mut Direction,
        tools: &mut Tools<'_>,
    ) -> Progress {
        self.backend.notice(readiness);
        if self.backend.broken {
            // Asked ahead of everything else: whatever touches the socket takes it away.
            let error = match sockopt::socket_error(self.backend.socket()) {
                Ok(Err(error)) | Err(error) => error,
                Ok(Ok(())) => Errno::CONNRESET,
            };
            // An alert ahead of the reset says more than the reset.
            if self.tls.is_some()
                && let Progress::Failed(TryError::Tls(word)) = self.advance(ahead, tools)
            {
                return Progress::Failed(TryError::Tls(word));
            }
            // One that brought no bytes took none either, so another backend may be tried.
            if self.tls.is_some() || !self.backend.has_input() {
                return Progress::Failed(error.into());
            }
        }
        // A connection that brought bytes before it broke did stand: they are the client's.
        if self.outgoing.is_empty() && self.tls.is_none() {
            return match readiness.writable || self.backend.broken {
                true => Progress::Stands,
                false => Progress::Waits,
            };
        }
        self.advance(ahead, tools)
    }

    /// Says what is to be said, as far as the backend takes it, and hears its side of the
    /// handshake.
    fn advance(&mut self, ahead: &mut Direction, tools: &mut Tools<'_>) -> Progress {
        loop {
            if self.sent < self.outgoing.len() {
                match self.backend.transmit(&self.outgoing[self.sent..], false) {
                    Ok(sent) => self.sent += sent,
                    Err(Errno::AGAIN) => return Progress::Waits,
                    Err(error) => return Progress::Failed(error.into()),
                }
                if self.tls.is_none() && self.sent >= self.ahead_from {
                    // Another backend must not be given what this one has taken.
                    ahead.held_was_delivered(self.sent - self.ahead_from);
                    return Progress::Stands;
                }
                if self.sent < self.outgoing.len() {
                    return Progress::Waits;
                }
                self.outgoing = Vec::new();
                self.sent = 0;
            }
            let Some(tls) = &mut self.tls else {
                return Progress::Stands;
            };
            if tls.is_established() {
                return Progress::Stands;
            }
            if !self.backend.readable {
                return Progress::Waits;
            }
            let sealed = &mut tools.sealed[..SEALED_BYTES];
            let front = tls.lay_out(sealed);
            let count = match self.backend.receive(&mut sealed[front..]) {
                Ok(0) => return Progress::Failed(TryError::Tls("tls_closed")),
                Ok(count) => count,
                Err(Errno::AGAIN) => return Progress::Waits,
                Err(error) => return Progress::Failed(error.into()),
            };
            // The client's bytes, if any, are in `ahead`: the scratch buffer is free.
            let result = tls.open(&mut sealed[..front + count], tools.scratch);
            self.take_control();
            match result {
                Ok(opened) => {
                    let plain = &tools.scratch[..opened.plain];
                    self.early.bytes.extend_from_slice(plain);
                    self.early.ended = opened.ended;
                }
                Err(error) => {
                    let _told_if_it_listens =
                        self.backend.transmit(&self.outgoing[self.sent..], false);
                    return Progress::Failed(TryError::Tls(fault::word(&error)));
                }
            }
        }
    }

    fn take_control(&mut self) {
        if let Some(tls) = &mut self.tls {
            self.outgoing.append(&mut tls.take_control());
        }
    }
}

fn begun(mut stream: TlsStream) -> Result<TlsStream, Error> {
    stream.start()?;
    Ok(stream)
}
