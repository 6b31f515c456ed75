//! What a connection begins with, before it is known where it goes: the header of whoever passed
//! it on, and the ClientHello.

use rustix::io::Errno;

use super::account::{Account, PassedOn};
use super::admission::Refusal;
use super::context::Context;
use super::route::Tls;
use crate::base::clock::Moment;
use crate::base::ending::{Phase, Termination};
use crate::net::peer::Peer;
use crate::net::poller::Readiness;
use crate::tls::stream::PLAIN_BYTES;
use crate::wire::hello::{self, HELLO_WIRE_BYTES_MAX, Hello, NotHello, Seen};
use crate::wire::proxy::{self, Decoded, Subject};

/// Kept of a client before it is known where it goes: the longest hello, or a header that is
/// hardly shorter than the longest.
const PREFACE_BYTES_MAX: usize = 64 * 1024;
const _: () =
    assert!(HELLO_WIRE_BYTES_MAX <= PREFACE_BYTES_MAX && PREFACE_BYTES_MAX <= PLAIN_BYTES);

/// A client whose first bytes are awaited.
#[derive(Debug)]
pub(super) struct Preface {
    client: Peer,
    /// What came and was not used up.
    bytes: Vec<u8>,
    awaits: Awaits,
    /// More bytes than this are needed before another look is worth it.
    at_least: usize,
    deadline: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Header,
    Hello,
    /// Whatever the client says first, if it said it already.
    Nothing,
}

/// What came of a step.
#[derive(Debug)]
pub(super) enum Outcome {
    Waits(Preface, Moment),
    Read(Beginning),
    Refused(Refused),
}

/// A client whose first bytes are here and understood.
#[derive(Debug)]
pub(super) struct Beginning {
    pub(super) client: Peer,
    pub(super) bytes: Vec<u8>,
    /// Nothing follows them.
    pub(super) ended: bool,
    /// `None` where none was looked for, or where there is something else than TLS.
    pub(super) hello: Option<Hello>,
    /// When the handshake must be over.
    pub(super) deadline: Moment,
}

#[derive(Debug)]
pub(super) struct Refused {
    pub(super) client: Peer,
    pub(super) phase: Phase,
    pub(super) termination: Termination,
    pub(super) detail: &'static str,
    /// The client was told in its own protocol, so it is not reset.
    pub(super) told: bool,
}

impl Refused {
    pub(super) fn new(client: Peer, phase: Phase, termination: Termination) -> Refused {
        Refused {
            client,
            phase,
            termination,
            detail: "",
            told: false,
        }
    }

    pub(super) fn at_once(client: Peer, refusal: Refusal) -> Refused {
        let refused = Refused::new(client, Phase::Preface, refusal.termination);
        refused.because(refusal.detail)
    }

    pub(super) fn because(self, detail: &'static str) -> Refused {
        Refused { detail, ..self }
    }
}

impl Preface {
    /// Reads what is there. `account` says what is to be awaited, and learns what is read.
    pub(super) fn begin(client: Peer, account: &mut Account, cx: &mut Context<'_>) -> Outcome {
        let header = account.route.trusts(account.client);
        let mut this = Preface {
            client,
            bytes: Vec::new(),
            awaits: Awaits::Header,
            at_least: 0,
            deadline: header.map_or(cx.now, |rule| account.accepted_at + rule.timeout),
        };
        if header.is_none() {
            this.expect_hello(account, account.accepted_at);
        }
        this.read(account, cx)
    }

    fn expect_hello(&mut self, account: &Account, from: Moment) {
        self.at_least = 0;
        (self.awaits, self.deadline) = match account.route.tls {
            Some(Tls::Terminate { timeout, .. } | Tls::Passthrough { timeout }) => {
                (Awaits::Hello, from + timeout)
            }
            None => (Awaits::Nothing, from),
        };
    }

    pub(super) fn notice(
        mut self,
        readiness: Readiness,
        account: &mut Account,
        cx: &mut Context<'_>,
    ) -> Outcome {
        self.client.notice(readiness);
        self.read(account, cx)
    }

    /// The moment [`Outcome::Waits`] named has come, or an earlier one.
    pub(super) fn alarm(self, cx: &mut Context<'_>) -> Outcome {
        if cx.now < self.deadline {
            let deadline = self.deadline;
            return Outcome::Waits(self, deadline);
        }
        let termination = match self.awaits {
            Awaits::Header => Termination::ProxyHeaderTimeout,
            Awaits::Hello | Awaits::Nothing => Termination::TlsTimeout,
        };
        self.refused(termination, "", false)
    }

    fn read(mut self, account: &mut Account, cx: &mut Context<'_>) -> Outcome {
        loop {
            // Nothing is read that no event told of: it would be a call for nothing.
            if !self.client.readable {
                return match self.awaits {
                    Awaits::Nothing => self.finished(None, false),
                    Awaits::Header | Awaits::Hello => self.wait(cx),
                };
            }
            let room = PREFACE_BYTES_MAX - self.bytes.len();
            match self.client.receive(&mut cx.tools.scratch[..room]) {
                Ok(0) => return self.client_ended(account),
                Ok(count) => self.bytes.extend_from_slice(&cx.tools.scratch[..count]),
                Err(Errno::AGAIN) => continue,
                Err(_) => return self.refused(Termination::ClientReset, "", false),
            }
            if self.bytes.len() < self.at_least {
                continue;
            }
            self = match self.look(account, cx) {
                Ok(this) if this.awaits == Awaits::Nothing => return this.finished(None, false),
                // Nothing more is read than what the buffers of the next step can hold.
                Ok(this) if this.bytes.len() == PREFACE_BYTES_MAX => {
                    return this.refused(Termination::TlsFailed, "hello_too_large", false);
                }
                Ok(this) => this,
                Err(outcome) => return outcome,
            };
        }
    }

    /// Understands what is there. `Err`: that was all.
    fn look(mut self, account: &mut Account, cx: &Context<'_>) -> Result<Preface, Outcome> {
        if self.awaits == Awaits::Header {
            match proxy::decode_up_to(&self.bytes, PREFACE_BYTES_MAX) {
                Ok(Decoded::More) => return Ok(self),
                Ok(Decoded::Header(header, length)) => {
                    self.bytes.drain(..length);
                    if let Err(refusal) = introduce(account, header, cx.now) {
                        return Err(self.refused(refusal.termination, refusal.detail, false));
                    }
                    self.expect_hello(account, cx.now);
                }
                Err(refused) => {
                    let word = refused.as_str();
                    return Err(self.refused(Termination::ProxyHeaderInvalid, word, false));
                }
            }
        } else if account.route.header.is_some() && account.passed_on().is_none() {
            if proxy::starts_like_header(&self.bytes) {
                let detail = "not_trusted";
                return Err(self.refused(Termination::ProxyHeaderInvalid, detail, false));
            }
            // However it is split; where no hello is awaited, nobody waits for what a client says.
            if self.awaits == Awaits::Hello && proxy::decode(&self.bytes) == Ok(Decoded::More) {
                return Ok(self);
            }
        }
        if self.awaits == Awaits::Hello && !self.bytes.is_empty() {
            return self.look_for_hello(account);
        }
        Ok(self)
    }

    fn look_for_hello(mut self, account: &Account) -> Result<Preface, Outcome> {
        let why = match hello::read(&self.bytes) {
            Ok(Seen::More { at_least }) => {
                self.at_least = at_least;
                return Ok(self);
            }
            Ok(Seen::Hello(hello)) => return Err(self.finished(Some(hello), false)),
            Err(why) => why,
        };
        let terminates = matches!(account.route.tls, Some(Tls::Terminate { .. }));
        if why == NotHello::NotTls && !terminates && account.route.upstream.is_some() {
            return Err(self.finished(None, false));
        }
        let told = why != NotHello::NotTls;
        if told {
            // It is reset or not, whether it takes this or not.
            let _ = self.client.transmit(&DECODE_ERROR_ALERT, false);
        }
        Err(self.refused(Termination::TlsFailed, why.as_str(), told))
    }

    /// The client's FIN came before all that was awaited.
    fn client_ended(self, account: &Account) -> Outcome {
        let passes = matches!(account.route.tls, Some(Tls::Passthrough { .. }));
        match self.awaits {
            Awaits::Nothing => self.finished(None, true),
            // What it said is no hello, and may be of use to whoever is not asked for one.
            Awaits::Hello
                if passes && !self.bytes.is_empty() && account.route.upstream.is_some() =>
            {
                self.finished(None, true)
            }
            _ => self.refused(Termination::ClientClosed, "", false),
        }
    }

    fn wait(mut self, cx: &Context<'_>) -> Outcome {
        match self.client.watch(cx.poller, false) {
            Ok(()) => {
                let deadline = self.deadline;
                Outcome::Waits(self, deadline)
            }
            Err(_) => self.refused(Termination::Internal, "local_memory", false),
        }
    }

    fn finished(self, hello: Option<Hello>, ended: bool) -> Outcome {
        Outcome::Read(Beginning {
            client: self.client,
            bytes: self.bytes,
            ended,
            hello,
            deadline: self.deadline,
        })
    }

    pub(super) fn refused(
        self,
        termination: Termination,
        detail: &'static str,
        told: bool,
    ) -> Outcome {
        let phase = match self.awaits {
            Awaits::Hello if told || termination == Termination::TlsFailed => Phase::Tls,
            _ => Phase::Preface,
        };
        let refused = Refused::new(self.client, phase, termination);
        Outcome::Refused(Refused {
            told,
            ..refused.because(detail)
        })
    }
}

/// The client is who the header says, and is let in or not.
fn introduce(account: &mut Account, header: proxy::Header, now: Moment) -> Result<(), Refusal> {
    let by = account.client;
    let mut destination = None;
    if let Subject::Tcp {
        source,
        destination: to,
    } = header.subject
    {
        account.client = crate::base::addr::ClientAddr::from_socket(source);
        destination = Some(to);
    }
    account.learn().passed_on = Some(PassedOn {
        by,
        destination,
        tlvs: header.tlvs,
    });
    match &mut account.admission {
        Some(admission) => admission.name(&account.route.gate, account.client, now),
        None => Ok(()),
    }
}

/// A fatal alert decode_error in a plain record (RFC 8446, sections 5.1 and 6).
const DECODE_ERROR_ALERT: [u8; 7] = [21, 3, 3, 0, 2, 2, 50];
