//! The TLS handshake with a client.

use std::time::SystemTime;

use rustix::io::Errno;

use super::account::Account;
use super::context::Context;
use super::preface::{Beginning, Refused};
use super::route::Tls;
use crate::base::clock::Moment;
use crate::base::ending::{Phase, Termination};
use crate::net::peer::Peer;
use crate::net::poller::Readiness;
use crate::tls::fault::Kind;
use crate::tls::stream::{SEALED_BYTES, TlsStream};
use crate::tls::{fault, subject};

/// A client whose handshake is not over.
#[derive(Debug)]
pub(super) struct Securing {
    client: Peer,
    stage: Stage,
    deadline: Moment,
}

#[derive(Debug)]
enum Stage {
    /// The whole hello is here; answering it is the costly part, for which the session waits until
    /// it is its turn.
    Hello(Vec<u8>),
    Handshake {
        tls: TlsStream,
        /// Our flight, and how much of it the client's socket took.
        flight: Vec<u8>,
        sent: usize,
    },
}

/// What came of a step.
#[derive(Debug)]
pub(super) enum Outcome {
    Waits(Securing, Moment),
    Secured(Secured),
    Refused(Refused),
}

/// A client with whom everything is agreed on.
#[derive(Debug)]
pub(super) struct Secured {
    pub(super) client: Peer,
    pub(super) tls: TlsStream,
    /// Bytes that it has said already, in the scratch buffer.
    pub(super) fresh: usize,
    /// Its close_notify came behind them.
    pub(super) ended: bool,
}

impl Securing {
    pub(super) fn new(beginning: Beginning) -> Securing {
        Securing {
            client: beginning.client,
            stage: Stage::Hello(beginning.bytes),
            deadline: beginning.deadline,
        }
    }

    pub(super) fn deadline(&self) -> Moment {
        self.deadline
    }

    /// The turn that was waited for: answers the hello.
    pub(super) fn turn(mut self, account: &mut Account, cx: &mut Context<'_>) -> Outcome {
        let Stage::Hello(hello) = &mut self.stage else {
            return self.advance(account, cx);
        };
        let hello = std::mem::take(hello);
        let Some(Tls::Terminate { acceptor, .. }) = &account.route.tls else {
            unreachable!("only listeners that terminate TLS come here")
        };
        let mut tls = match acceptor.begin() {
            Ok(connection) => TlsStream::server(connection),
            Err(error) => return self.refused(Termination::Internal, fault::word(&error), false),
        };
        let sealed = &mut cx.tools.sealed[..hello.len()];
        sealed.copy_from_slice(&hello);
        let result = tls.open(sealed, cx.tools.scratch);
        let flight = tls.take_control();
        self.stage = Stage::Handshake {
            tls,
            flight,
            sent: 0,
        };
        match result {
            Ok(_) => self.advance(account, cx),
            Err(error) => self.broken(&error, account),
        }
    }

    pub(super) fn notice(
        mut self,
        readiness: Readiness,
        account: &mut Account,
        cx: &mut Context<'_>,
    ) -> Outcome {
        self.client.notice(readiness);
        if matches!(self.stage, Stage::Hello(_)) {
            let deadline = self.deadline;
            return Outcome::Waits(self, deadline);
        }
        self.advance(account, cx)
    }

    /// The moment [`Outcome::Waits`] named has come, or an earlier one.
    pub(super) fn alarm(self, account: &Account, cx: &mut Context<'_>) -> Outcome {
        if cx.now < self.deadline {
            let deadline = self.deadline;
            return Outcome::Waits(self, deadline);
        }
        account.route.tally.count_failed_handshake(Kind::Timeout);
        self.refused(Termination::TlsTimeout, "", false)
    }

    /// Sends and hears what can be sent and heard.
    fn advance(mut self, account: &mut Account, cx: &mut Context<'_>) -> Outcome {
        loop {
            let Stage::Handshake { tls, flight, sent } = &mut self.stage else {
                unreachable!("the hello is answered first")
            };
            if *sent < flight.len() {
                match self.client.transmit(&flight[*sent..], false) {
                    Ok(count) => *sent += count,
                    Err(Errno::AGAIN) => {}
                    Err(_) => return self.refused(Termination::ClientReset, "", false),
                }
                if *sent < flight.len() {
                    return self.wait(true, cx);
                }
                *flight = Vec::new();
                *sent = 0;
            }
            if !self.client.readable {
                return self.wait(false, cx);
            }
            let sealed = &mut cx.tools.sealed[..SEALED_BYTES];
            let front = tls.lay_out(sealed);
            let count = match self.client.receive(&mut sealed[front..]) {
                Ok(0) => return self.refused(Termination::ClientClosed, "", false),
                Ok(count) => count,
                Err(Errno::AGAIN) => return self.wait(false, cx),
                Err(_) => return self.refused(Termination::ClientReset, "", false),
            };
            match tls.open(&mut sealed[..front + count], cx.tools.scratch) {
                // What is to be said now, tickets, is said with the first answer.
                Ok(opened) if opened.established => {
                    return self.secured(opened.plain, opened.ended, account);
                }
                Ok(_) => {
                    *flight = tls.take_control();
                }
                Err(error) => return self.broken(&error, account),
            }
        }
    }

    fn secured(mut self, fresh: usize, ended: bool, account: &mut Account) -> Outcome {
        let Stage::Handshake { tls, .. } = &self.stage else {
            unreachable!("it is established")
        };
        let facts = tls.facts();
        let certificate = facts.certificate.and_then(subject::about);
        // A resumed session has the certificate of the first one, which nobody looked at again.
        if certificate
            .as_ref()
            .is_some_and(|about| about.not_after < SystemTime::now())
        {
            account
                .route
                .tally
                .count_failed_handshake(Kind::Certificate);
            return self.refused(Termination::TlsFailed, "cert_expired", false);
        }
        let learnt = account.learn();
        learnt.version = facts.version;
        learnt.cipher = facts.cipher.unwrap_or("");
        learnt.offers = facts.alpn.map(Box::from).into_iter().collect();
        learnt.certificate = certificate;
        learnt.resumed = facts.resumed;
        let tally = &account.route.tally;
        tally.count_handshake(facts.version, facts.resumed);
        let Stage::Handshake { mut tls, .. } = self.stage else {
            unreachable!("it is established")
        };
        if !tls.may_wait_to_speak() {
            // What is not taken at once goes first when the relay begins.
            let sent = self.client.transmit(tls.control(), false).unwrap_or(0);
            tls.control_sent_part(sent);
        }
        Outcome::Secured(Secured {
            client: self.client,
            tls,
            fresh,
            ended,
        })
    }

    fn wait(mut self, writes: bool, cx: &Context<'_>) -> Outcome {
        match self.client.watch(cx.poller, writes) {
            Ok(()) => {
                let deadline = self.deadline;
                Outcome::Waits(self, deadline)
            }
            Err(_) => self.refused(Termination::Internal, "local_memory", false),
        }
    }

    /// The client broke the rules, or nothing could be agreed on; it is told, if it listens.
    fn broken(mut self, error: &rustls::Error, account: &Account) -> Outcome {
        let word = fault::word(error);
        account.route.tally.count_failed_handshake(Kind::of(word));
        if let Stage::Handshake { tls, flight, sent } = &mut self.stage {
            let _ = match flight.is_empty() {
                true => self.client.transmit(tls.control(), false),
                false => self.client.transmit(&flight[*sent..], false),
            };
        }
        self.refused(Termination::TlsFailed, word, true)
    }

    pub(super) fn refused(
        self,
        termination: Termination,
        detail: &'static str,
        told: bool,
    ) -> Outcome {
        let refused = Refused::new(self.client, Phase::Tls, termination);
        Outcome::Refused(Refused {
            told,
            ..refused.because(detail)
        })
    }
}
