//! A session, from the accepted client to its record: preface → secure → route → connect → relay →
//! end.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::io::Errno;

use super::account::{Account, Closing};
use super::admission::Admission;
use super::announce::announce;
use super::connecting::{self, Connecting, Failed, Opening};
use super::context::Context;
use super::preface::{self, Preface, Refused};
use super::relaying::Relaying;
use super::route::{Route, Tls, Upstream};
use super::securing::{self, Secured, Securing};
use crate::balance::pool::Lease;
use crate::base::addr::{ClientAddr, Endpoint, Side};
use crate::base::clock::Moment;
use crate::base::ending::{Phase, RelayPath, Termination};
use crate::net::peer::Peer;
use crate::net::poller::{Readiness, Token};
use crate::relay::direction::COPY_BYTES;
use crate::tls::stream::TlsStream;

mod relay;

/// A client that was accepted, perhaps by another worker.
#[derive(Debug)]
pub struct Arrival {
    pub socket: OwnedFd,
    pub client: ClientAddr,
    pub route: Arc<Route>,
    pub accepted_at: Moment,
}

/// How a session stands that has its backend.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    pub lease: &'a Lease<Endpoint>,
    /// When a byte last moved.
    pub moved_at: Moment,
    /// The client was the last to say something.
    pub awaits_answer: bool,
}

/// What is to be seen of a session.
#[derive(Clone, Copy, Debug)]
pub struct Glimpse<'a> {
    pub listener: &'a str,
    pub client: ClientAddr,
    /// Empty while there is none, as the texts below.
    pub pool: &'a str,
    pub backend: &'a str,
    pub sni: &'a str,
    pub tls: &'a str,
    pub phase: Phase,
    pub accepted_at: Moment,
    pub moved_at: Moment,
    /// To the backend and to the client.
    pub bytes: (u64, u64),
    pub path: RelayPath,
}

/// What a session wants of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An event; its alarm stands as it is.
    Waits,
    /// An event, or its alarm at this moment.
    WaitsUntil(Moment),
    /// A turn for something that takes long, when there is time for it; its alarm at this moment.
    Labours(Moment),
    /// A turn after the others had theirs.
    Again,
    /// To be dropped: its record is written.
    Over,
}

#[derive(Debug)]
pub struct Session {
    account: Account,
    backend_token: Token,
    /// `None` only inside a step and when the session is over.
    stage: Option<Stage>,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most sessions relay: a box would be one more hop"
)]
enum Stage {
    Preface(Box<Preface>),
    Securing(Box<Securing>),
    Connecting(Box<Connecting>),
    Relaying(Relaying),
}

impl Session {
    /// Begins a session: admits the client or refuses it, and goes as far as it can. `None`: it is
    /// over already.
    pub fn open(
        arrival: Arrival,
        tokens: [Token; 2],
        cx: &mut Context<'_>,
    ) -> Option<(Session, Next)> {
        let Arrival {
            socket,
            client,
            route,
            accepted_at,
        } = arrival;
        let passed_on = route.trusts(client).is_some();
        let admission = if passed_on {
            Admission::enter_unnamed(cx.process, &route)
        } else {
            Admission::enter(cx.process, &route, client, cx.now)
        };
        let (admission, refusal) = match admission {
            Ok(admission) => (Some(admission), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let begins_plainly = route.header.is_none() && route.tls.is_none();
        let mut session = Session {
            account: Account {
                route,
                upstream: None,
                client,
                accepted_at,
                admission,
                learnt: None,
            },
            backend_token: tokens[1],
            stage: None,
        };
        let peer = Peer::accepted(socket, tokens[0], client != ClientAddr::Unix);
        let next = match refusal {
            Some(refusal) => session.refuse(Refused::at_once(peer, refusal), cx),
            None if begins_plainly => session.begin_plainly(peer, cx),
            None => {
                let outcome = Preface::begin(peer, &mut session.account, cx);
                session.after_preface(outcome, cx)
            }
        };
        match next {
            Next::Over => None,
            next => Some((session, next)),
        }
    }

    /// An event on one of the session's sockets.
    pub fn notice(&mut self, side: Side, readiness: Readiness, cx: &mut Context<'_>) -> Next {
        if let Some(Stage::Relaying(relaying)) = &mut self.stage {
            relaying.duplex.notice(side, readiness);
            return self.relay(cx);
        }
        match self.stage.take() {
            Some(Stage::Preface(preface)) => {
                let outcome = preface.notice(readiness, &mut self.account, cx);
                self.after_preface(outcome, cx)
            }
            Some(Stage::Securing(securing)) => {
                let outcome = securing.notice(readiness, &mut self.account, cx);
                self.after_securing(outcome, cx)
            }
            Some(Stage::Connecting(connecting)) => {
                let outcome = connecting.notice(side, readiness, cx);
                self.after_connecting(outcome, cx)
            }
            Some(Stage::Relaying(_)) | None => Next::Over,
        }
    }

    /// The turn asked for with [`Next::Again`] or [`Next::Labours`].
    pub fn turn(&mut self, cx: &mut Context<'_>) -> Next {
        if let Some(Stage::Relaying(_)) = self.stage {
            return self.relay(cx);
        }
        match self.stage.take() {
            Some(Stage::Securing(securing)) => {
                let outcome = securing.turn(&mut self.account, cx);
                self.after_securing(outcome, cx)
            }
            other => {
                self.stage = other;
                Next::Waits
            }
        }
    }

    /// The pool's queue calls.
    pub fn called(&mut self, cx: &mut Context<'_>) -> Next {
        match self.stage.take() {
            Some(Stage::Connecting(connecting)) => {
                let account = &mut self.account;
                let announce =
                    |newest: &Arc<Upstream>, client: &Peer, secured, cx: &mut Context<'_>| {
                        account.upstream = Some(newest.clone());
                        announce(account, newest, client, secured, cx)
                    };
                let outcome = connecting.called(announce, cx);
                self.after_connecting(outcome, cx)
            }
            other => {
                self.stage = other;
                Next::Waits
            }
        }
    }

    /// The session's alarm rang, perhaps early.
    pub fn alarm(&mut self, cx: &mut Context<'_>) -> Next {
        if let Some(Stage::Relaying(_)) = self.stage {
            return self.check_deadlines(cx);
        }
        match self.stage.take() {
            Some(Stage::Preface(preface)) => {
                let outcome = preface.alarm(cx);
                self.after_preface(outcome, cx)
            }
            Some(Stage::Securing(securing)) => {
                let outcome = securing.alarm(&self.account, cx);
                self.after_securing(outcome, cx)
            }
            Some(Stage::Connecting(connecting)) => {
                let outcome = connecting.alarm(cx);
                self.after_connecting(outcome, cx)
            }
            Some(Stage::Relaying(_)) | None => Next::Over,
        }
    }

    /// `None` while there is no backend yet.
    pub fn standing(&self) -> Option<Standing<'_>> {
        match &self.stage {
            Some(Stage::Relaying(relaying)) => Some(Standing {
                lease: &relaying.lease,
                moved_at: relaying.duplex.moved_at,
                awaits_answer: relaying.duplex.awaits_answer,
            }),
            _ => None,
        }
    }

    pub fn glimpse(&self) -> Glimpse<'_> {
        let account = &self.account;
        let learnt = account.learnt.as_deref();
        let upstream = account.upstream.as_ref();
        let glimpse = Glimpse {
            listener: &account.route.listener,
            client: account.client,
            pool: upstream.map_or("", |upstream| upstream.pool.name()),
            backend: "",
            sni: account.name().unwrap_or(""),
            tls: learnt.map_or("", |learnt| learnt.version),
            phase: match &self.stage {
                Some(Stage::Preface(_)) => Phase::Preface,
                Some(Stage::Securing(_)) => Phase::Tls,
                Some(Stage::Connecting(_)) | None => Phase::Connect,
                Some(Stage::Relaying(_)) => Phase::Relay,
            },
            accepted_at: account.accepted_at,
            moved_at: account.accepted_at,
            bytes: (0, 0),
            path: RelayPath::None,
        };
        let Some(Stage::Relaying(relaying)) = &self.stage else {
            return glimpse;
        };
        let duplex = &relaying.duplex;
        Glimpse {
            backend: &relaying.lease.member().name,
            moved_at: duplex.moved_at,
            bytes: (duplex.bytes_to_backend(), duplex.bytes_to_client()),
            path: relaying.path(),
            ..glimpse
        }
    }

    /// Ends the session from our side, at once.
    pub fn kill(&mut self, termination: Termination, detail: &'static str, cx: &mut Context<'_>) {
        match self.stage.take() {
            Some(Stage::Preface(preface)) => {
                let outcome = preface.refused(termination, detail, false);
                self.after_preface(outcome, cx);
            }
            Some(Stage::Securing(securing)) => {
                let outcome = securing.refused(termination, detail, false);
                self.after_securing(outcome, cx);
            }
            Some(Stage::Connecting(connecting)) => {
                let outcome = connecting.failed(termination, detail, cx);
                self.after_connecting(outcome, cx);
            }
            stage => {
                self.stage = stage;
                self.cut_short(termination, detail, cx);
            }
        }
    }

    /// After a panic inside a step: the session is lost, its record is not.
    pub fn record_panic(&self, cx: &mut Context<'_>) {
        self.account.close(
            Closing::without_backend(Phase::Relay, Termination::Internal, "panic"),
            cx,
        );
    }

    /// A client of whom nothing is to be known: its first bytes can leave with the connect.
    fn begin_plainly(&mut self, mut client: Peer, cx: &mut Context<'_>) -> Next {
        let (fresh, ended) = match client.receive(&mut cx.tools.scratch[..COPY_BYTES]) {
            Ok(count) => (count, count == 0),
            Err(Errno::AGAIN) => (0, false),
            Err(_) => {
                let refused = Refused::new(client, Phase::Connect, Termination::ClientReset);
                return self.refuse(refused, cx);
            }
        };
        self.route(client, None, fresh, ended, cx)
    }

    fn after_preface(&mut self, outcome: preface::Outcome, cx: &mut Context<'_>) -> Next {
        let beginning = match outcome {
            preface::Outcome::Waits(preface, at) => {
                self.stage = Some(Stage::Preface(Box::new(preface)));
                return Next::WaitsUntil(at);
            }
            preface::Outcome::Refused(refused) => return self.refuse(refused, cx),
            preface::Outcome::Read(beginning) => beginning,
        };
        let terminates = matches!(self.account.route.tls, Some(Tls::Terminate { .. }));
        if let Some(hello) = &beginning.hello {
            let learnt = self.account.learn();
            learnt.name = hello.name.as_ref().map(|name| name.bare().to_owned());
            if !terminates {
                learnt.offers = hello.alpn.iter().map(Box::from).collect();
            }
        }
        if terminates {
            let securing = Securing::new(beginning);
            let at = securing.deadline();
            self.stage = Some(Stage::Securing(Box::new(securing)));
            return Next::Labours(at);
        }
        let fresh = beginning.bytes.len();
        cx.tools.scratch[..fresh].copy_from_slice(&beginning.bytes);
        self.route(beginning.client, None, fresh, beginning.ended, cx)
    }

    fn after_securing(&mut self, outcome: securing::Outcome, cx: &mut Context<'_>) -> Next {
        match outcome {
            securing::Outcome::Waits(securing, at) => {
                self.stage = Some(Stage::Securing(Box::new(securing)));
                Next::WaitsUntil(at)
            }
            securing::Outcome::Refused(refused) => self.refuse(refused, cx),
            securing::Outcome::Secured(secured) => {
                let Secured {
                    client,
                    tls,
                    fresh,
                    ended,
                } = secured;
                self.route(client, Some(tls), fresh, ended, cx)
            }
        }
    }

    /// Finds out where the client goes and begins to connect it. Its first `fresh` bytes lie in
    /// the scratch buffer; `ended`: nothing follows them.
    fn route(
        &mut self,
        client: Peer,
        tls: Option<TlsStream>,
        fresh: usize,
        ended: bool,
        cx: &mut Context<'_>,
    ) -> Next {
        let account = &mut self.account;
        let learnt = account.learnt.as_deref();
        let alpn = learnt.map_or(&[][..], |learnt| &learnt.offers);
        let protocols = alpn.iter().map(|one| &**one);
        let chosen = account
            .route
            .choose(account.client, account.name(), protocols);
        let Some(upstream) = chosen.cloned() else {
            let refused = Refused::new(client, Phase::Route, Termination::NoBackend);
            return self.refuse(refused.because("no_route"), cx);
        };
        let key = upstream.key(account.client, account.name());
        let opening = Opening {
            announcement: announce(account, &upstream, &client, tls.is_some(), cx),
            client,
            tls,
            fresh,
            ended,
        };
        let outcome = Connecting::begin(opening, self.backend_token, &upstream, key, cx);
        self.account.upstream = Some(upstream);
        self.after_connecting(outcome, cx)
    }

    fn after_connecting(&mut self, outcome: connecting::Outcome, cx: &mut Context<'_>) -> Next {
        match outcome {
            connecting::Outcome::Waits(connecting, at) => {
                self.stage = Some(Stage::Connecting(Box::new(connecting)));
                Next::WaitsUntil(at)
            }
            connecting::Outcome::Connected(connected) => {
                self.stage = Some(Stage::Relaying(Relaying::new(connected, cx.worker, cx.now)));
                self.relay(cx)
            }
            connecting::Outcome::Failed(failed) => {
                self.fail(failed, cx);
                Next::Over
            }
        }
    }

    /// The client goes without having had a backend: by reset, because nothing has ended that an
    /// orderly close could speak of.
    fn fail(&mut self, failed: Failed, cx: &mut Context<'_>) {
        failed.client.close_by_reset();
        self.account.close(
            Closing {
                backend: failed.backend.as_deref().unwrap_or(""),
                tries: failed.tries,
                queue: failed.queued,
                failed_tries: &failed.failed_tries,
                ..Closing::without_backend(failed.phase, failed.termination, failed.detail)
            },
            cx,
        );
    }

    /// The client goes before a backend was looked for.
    fn refuse(&mut self, refused: Refused, cx: &mut Context<'_>) -> Next {
        if !refused.told {
            refused.client.close_by_reset();
        }
        self.account.close(
            Closing::without_backend(refused.phase, refused.termination, refused.detail),
            cx,
        );
        Next::Over
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every idle connection holds one; what it needs only while it connects is in a box.
    #[test]
    fn a_session_stays_within_512_bytes() {
        assert!(size_of::<Session>() <= 512, "{}", size_of::<Session>());
    }
}
