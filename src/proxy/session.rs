//! A session, from the accepted client to its record: connect → relay → end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::account::{Account, Closing};
use super::admission::Admission;
use super::connecting::{Connecting, Failed, Outcome};
use super::context::Context;
use super::relaying::{Relaying, Silence};
use super::route::Route;
use crate::balance::pool::Lease;
use crate::base::addr::{ClientAddr, Endpoint, Side};
use crate::base::clock::Moment;
use crate::base::ending::{Phase, RelayPath, Termination};
use crate::base::wheel::TICK;
use crate::net::peer::{Peer, unacknowledged_max};
use crate::net::poller::{Readiness, Token};
use crate::relay::duplex::{End, Step};

/// A connection that outlives this gets what a short one does without: keepalive on the
/// backend's side, and a look at its deadlines.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

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

/// What a session wants of its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// An event; its alarm stands as it is.
    Waits,
    /// An event, or its alarm at this moment.
    WaitsUntil(Moment),
    /// A turn after the others had theirs.
    Again,
    /// To be dropped: its record is written.
    Over,
}

#[derive(Debug)]
pub struct Session {
    account: Account,
    /// `None` only inside a step and when the session is over.
    stage: Option<Stage>,
}

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most sessions relay: a box would be one more hop"
)]
enum Stage {
    Connecting(Box<Connecting>),
    Relaying(Relaying),
}

impl Session {
    /// Begins a session: admits the client or refuses it, and dials. `None`: it is over already.
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
        let (admission, refused) = match Admission::enter(cx.process, &route, client, cx.now) {
            Ok(admission) => (Some(admission), None),
            Err(refusal) => (None, Some(refusal)),
        };
        let account = Account {
            upstream: route.upstream.clone(),
            route,
            client,
            accepted_at,
            _admission: admission,
        };
        let peer = Peer::accepted(socket, tokens[0], client != ClientAddr::Unix);
        let mut session = Session {
            account,
            stage: None,
        };
        if let Some(refusal) = refused {
            let failed = Failed {
                client: peer,
                phase: Phase::Preface,
                termination: refusal.termination,
                detail: refusal.detail,
                queued: Duration::ZERO,
                backend: None,
                tries: 0,
                failed_tries: Vec::new(),
            };
            session.fail(failed, cx);
            return None;
        }
        let upstream = session.account.upstream.as_ref().expect("no rules yet");
        let key = upstream.key(client);
        let outcome = Connecting::begin(peer, tokens[1], upstream, key, cx);
        match session.go_on(outcome, cx) {
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
        self.connect(cx, |connecting, cx| connecting.notice(side, readiness, cx))
    }

    /// The turn asked for with [`Next::Again`].
    pub fn turn(&mut self, cx: &mut Context<'_>) -> Next {
        match self.stage {
            Some(Stage::Relaying(_)) => self.relay(cx),
            _ => Next::Waits,
        }
    }

    /// The pool's queue calls.
    pub fn called(&mut self, cx: &mut Context<'_>) -> Next {
        match self.stage {
            Some(Stage::Relaying(_)) => Next::Waits,
            _ => self.connect(cx, Connecting::called),
        }
    }

    /// The session's alarm rang, perhaps early.
    pub fn alarm(&mut self, cx: &mut Context<'_>) -> Next {
        match self.stage {
            Some(Stage::Relaying(_)) => self.check_deadlines(cx),
            _ => self.connect(cx, Connecting::alarm),
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

    /// Ends the session from our side, at once.
    pub fn kill(&mut self, termination: Termination, detail: &'static str, cx: &mut Context<'_>) {
        match self.stage.take() {
            Some(Stage::Connecting(connecting)) => {
                if let Outcome::Failed(failed) = connecting.failed(termination, detail, cx) {
                    self.fail(failed, cx);
                }
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
            Closing {
                phase: Phase::Relay,
                termination: Termination::Internal,
                detail: "panic",
                backend: "",
                tries: 0,
                connect: None,
                first_byte: None,
                bytes: (0, 0),
                path: RelayPath::None,
                queue: Duration::ZERO,
                failed_tries: &[],
            },
            cx,
        );
    }

    /// One step of a session that is connecting.
    fn connect(
        &mut self,
        cx: &mut Context<'_>,
        step: impl FnOnce(Connecting, &mut Context<'_>) -> Outcome,
    ) -> Next {
        match self.stage.take() {
            Some(Stage::Connecting(connecting)) => {
                let outcome = step(*connecting, cx);
                self.go_on(outcome, cx)
            }
            stage => {
                self.stage = stage;
                Next::Over
            }
        }
    }

    fn go_on(&mut self, outcome: Outcome, cx: &mut Context<'_>) -> Next {
        match outcome {
            Outcome::Waits(connecting, at) => {
                self.stage = Some(Stage::Connecting(Box::new(connecting)));
                Next::WaitsUntil(at)
            }
            Outcome::Connected(connected) => {
                self.stage = Some(Stage::Relaying(Relaying::new(connected, cx.now)));
                self.relay(cx)
            }
            Outcome::Failed(failed) => {
                self.fail(failed, cx);
                Next::Over
            }
        }
    }

    /// Moves what can be moved. In place: this runs for every event of a live connection.
    fn relay(&mut self, cx: &mut Context<'_>) -> Next {
        let Some(Stage::Relaying(relaying)) = &mut self.stage else {
            return Next::Over;
        };
        let step = relaying.duplex.advance(&mut cx.tools, cx.poller, cx.now);
        relaying.note_first_byte(cx.now);
        match step {
            Step::Waits => {
                // The alarm that stands may be that of the connect, or the look at a session
                // whose halves were both open: neither knows of the limits that hold now.
                let half_closed = relaying.duplex.half_closed();
                if relaying.alarm_for == Some(half_closed) {
                    return Next::Waits;
                }
                relaying.alarm_for = Some(half_closed);
                Next::WaitsUntil(cx.now + SETTLED_AFTER)
            }
            Step::Again => Next::Again,
            Step::Lingers => Next::WaitsUntil(cx.now + TICK),
            Step::Ended(end) => {
                let (termination, detail) = match end {
                    End::Closed(Side::Client) => (Termination::ClientClosed, ""),
                    End::Closed(Side::Backend) => (Termination::BackendClosed, ""),
                    End::Reset(Side::Client) => (Termination::ClientReset, ""),
                    End::Reset(Side::Backend) => (Termination::BackendReset, ""),
                    End::Unwatched => (Termination::Internal, "local_memory"),
                };
                self.end(termination, detail, cx);
                Next::Over
            }
        }
    }

    fn check_deadlines(&mut self, cx: &mut Context<'_>) -> Next {
        let limits = self.account.route.limits;
        let Some(Stage::Relaying(relaying)) = &mut self.stage else {
            return Next::Over;
        };
        if !relaying.settled {
            relaying.settled = true;
            relaying
                .duplex
                .backend()
                .keep_alive(unacknowledged_max(limits.idle));
        }
        relaying.report_bytes();

        let end_of_life = deadline(self.account.accepted_at, limits.lifetime);
        if end_of_life.is_some_and(|at| cx.now >= at) {
            return self.cut_short(Termination::MaxLifetime, "", cx);
        }
        let (silence_max, termination) = if relaying.duplex.half_closed() {
            (limits.half_close, Termination::HalfCloseTimeout)
        } else {
            (limits.idle, Termination::IdleTimeout)
        };
        let look_again = match relaying.silence(silence_max, cx.now) {
            Silence::Unlimited => None,
            Silence::LookAgain(at) => Some(at),
            Silence::TooLong => {
                let detail = match relaying.duplex.blocked_by() {
                    Some(Side::Client) => "client_not_reading",
                    Some(Side::Backend) => "backend_not_reading",
                    None => "",
                };
                return self.cut_short(termination, detail, cx);
            }
        };
        // A cut that lingers is advanced from here.
        match self.relay(cx) {
            Next::Waits => match look_again.into_iter().chain(end_of_life).min() {
                Some(at) => Next::WaitsUntil(at),
                None => Next::Waits,
            },
            next => next,
        }
    }

    /// Ends a relay from our side: both peers see a reset.
    fn cut_short(
        &mut self,
        termination: Termination,
        detail: &'static str,
        cx: &mut Context<'_>,
    ) -> Next {
        if let Some(Stage::Relaying(relaying)) = &self.stage {
            relaying.duplex.close_by_reset();
        }
        self.end(termination, detail, cx);
        Next::Over
    }

    fn end(&mut self, termination: Termination, detail: &'static str, cx: &mut Context<'_>) {
        let Some(Stage::Relaying(mut relaying)) = self.stage.take() else {
            return;
        };
        relaying.duplex.release(&mut cx.tools);
        relaying.report_bytes();
        relaying.report_end(termination, cx.now);
        let duplex = &relaying.duplex;
        self.account.close(
            Closing {
                phase: Phase::Relay,
                termination,
                detail,
                backend: &relaying.lease.member().name,
                tries: relaying.tries(),
                connect: Some(relaying.connect),
                first_byte: relaying.first_byte,
                bytes: (duplex.bytes_to_backend(), duplex.bytes_to_client()),
                path: if duplex.spliced() {
                    RelayPath::Splice
                } else {
                    RelayPath::Copy
                },
                queue: relaying.queued,
                failed_tries: &relaying.failed_tries,
            },
            cx,
        );
    }

    /// The client goes without having had a backend: by reset, because nothing has ended that an
    /// orderly close could speak of.
    fn fail(&mut self, failed: Failed, cx: &mut Context<'_>) {
        failed.client.close_by_reset();
        self.account.close(
            Closing {
                phase: failed.phase,
                termination: failed.termination,
                detail: failed.detail,
                backend: failed.backend.as_deref().unwrap_or(""),
                tries: failed.tries,
                connect: None,
                first_byte: None,
                bytes: (0, 0),
                path: RelayPath::None,
                queue: failed.queued,
                failed_tries: &failed.failed_tries,
            },
            cx,
        );
    }
}

fn deadline(from: Moment, limit: Duration) -> Option<Moment> {
    (!limit.is_zero()).then(|| from + limit)
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
