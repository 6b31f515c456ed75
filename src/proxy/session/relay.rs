//! A session that has its backend: bytes, deadlines, and how it ends.

use std::time::Duration;

use super::{Next, Session, Stage};
use crate::balance::timings::Timed;
use crate::base::addr::Side;
use crate::base::clock::Moment;
use crate::base::ending::{Phase, Termination};
use crate::base::wheel::TICK;
use crate::net::peer::unacknowledged_max;
use crate::proxy::account::Closing;
use crate::proxy::context::Context;
use crate::proxy::relaying::{REPORTED_WITHIN, Silence};
use crate::relay::duplex::{End, Step};
use crate::relay::secured::Fault;
use crate::tls::fault;

/// A connection that outlives this gets what a short one does without: keepalive on the
/// backend's side, and a look at its deadlines.
const SETTLED_AFTER: Duration = Duration::from_secs(1);

impl Session {
    /// Moves what can be moved. In place: this runs for every event of a live connection.
    pub(super) fn relay(&mut self, cx: &mut Context<'_>) -> Next {
        let Some(Stage::Relaying(relaying)) = &mut self.stage else {
            return Next::Over;
        };
        let step = relaying.duplex.advance(&mut cx.tools, cx.poller, cx.now);
        relaying.note_first_byte(cx.worker, cx.now);
        match step {
            Step::Waits => {
                // The alarm that stands may be that of the connect, or the look at a session
                // whose halves were both open: neither knows of the limits that hold now.
                let half_closed = relaying.duplex.half_closed();
                if relaying.alarm_for != Some(half_closed) {
                    relaying.alarm_for = Some(half_closed);
                    relaying.look_at = cx.now + SETTLED_AFTER;
                } else if relaying.looks_too_late(cx.now) {
                    relaying.look_at = cx.now + REPORTED_WITHIN;
                } else {
                    return Next::Waits;
                }
                Next::WaitsUntil(relaying.look_at)
            }
            Step::Again => {
                // Which it may want for long, with an alarm that is far away.
                relaying.report_bytes(cx.relayed);
                Next::Again
            }
            Step::Lingers => Next::WaitsUntil(cx.now + TICK),
            Step::Ended(end) => {
                let fault = relaying.duplex.fault();
                let (termination, detail) = match end {
                    End::Reset(side) if fault.is_some_and(|(of, _)| *of == side) => {
                        let answered = relaying.duplex.is_complete(side.other());
                        broken_tls(side, fault, answered)
                    }
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

    pub(super) fn check_deadlines(&mut self, cx: &mut Context<'_>) -> Next {
        let limits = self.account.route.limits;
        let Some(Stage::Relaying(relaying)) = &mut self.stage else {
            return Next::Over;
        };
        if !relaying.settled {
            relaying.settled = true;
            relaying.duplex.hurry();
            relaying
                .duplex
                .backend()
                .keep_alive(unacknowledged_max(limits.idle));
        }
        relaying.report_bytes(cx.relayed);

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
            Next::Waits => self.look_again(look_again.into_iter().chain(end_of_life).min(), cx),
            next => next,
        }
    }

    /// At the latest when bytes are to be reported, if any moved lately.
    fn look_again(&mut self, at: Option<Moment>, cx: &Context<'_>) -> Next {
        let Some(Stage::Relaying(relaying)) = &mut self.stage else {
            return Next::Over;
        };
        let moved = cx.now.since(relaying.duplex.moved_at) < REPORTED_WITHIN;
        let report = moved.then(|| cx.now + REPORTED_WITHIN);
        match at.into_iter().chain(report).min() {
            Some(at) => {
                relaying.look_at = at;
                Next::WaitsUntil(at)
            }
            None => {
                relaying.look_at = Moment::from_micros(u64::MAX);
                Next::Waits
            }
        }
    }

    /// Ends a relay from our side: both peers see a reset.
    pub(super) fn cut_short(
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
        relaying.report_bytes(cx.relayed);
        relaying.report_end(termination, cx.now);
        let lived = cx.now.since(self.account.accepted_at);
        relaying.lease.took(cx.worker, Timed::Session, lived);
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
                path: relaying.path(),
                queue: relaying.queued,
                failed_tries: &relaying.failed_tries,
            },
            cx,
        );
    }
}

/// How a session ended in which one side broke the rules of TLS.
///
/// `answered`: the other side had ended in order before. Many clients and servers then hang up
/// without a word, and who looks for what went wrong should not find them.
fn broken_tls(
    side: Side,
    fault: Option<&(Side, Fault)>,
    answered: bool,
) -> (Termination, &'static str) {
    let termination = match (fault, side, answered) {
        (Some((_, Fault::Broken(error))), ..) => {
            return (Termination::TlsFailed, fault::word(error));
        }
        (_, Side::Client, false) => Termination::ClientReset,
        (_, Side::Client, true) => Termination::BackendClosed,
        (_, Side::Backend, false) => Termination::BackendReset,
        (_, Side::Backend, true) => Termination::ClientClosed,
    };
    (termination, "tls_truncated")
}

fn deadline(from: Moment, limit: Duration) -> Option<Moment> {
    (!limit.is_zero()).then(|| from + limit)
}
