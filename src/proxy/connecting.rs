//! From an accepted client to a connected backend: pick, dial, and on failure the next one; while
//! every backend is full, wait in the pool's queue.

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::route::Upstream;
use super::trying::{Announcement, Attempt, Progress, Try, TryError};
use crate::balance::pool::{Candidates, Lease};
use crate::balance::queue::Place;
use crate::base::addr::{Endpoint, Side};
use crate::base::clock::Moment;
use crate::base::ending::{Phase, Termination};
use crate::net::peer::Peer;
use crate::net::poller::{Readiness, Token};
use crate::observe::access::FailedTry;
use crate::relay::direction::{Direction, Flow};
use crate::relay::secured::Secured;
use crate::tls::stream::TlsStream;

/// A client that may have its backend.
#[derive(Debug)]
pub(super) struct Opening {
    pub(super) client: Peer,
    pub(super) tls: Option<TlsStream>,
    /// Bytes of the client in the scratch buffer.
    pub(super) fresh: usize,
    /// Nothing follows them.
    pub(super) ended: bool,
    pub(super) announcement: Announcement,
}

/// A client whose backend is not connected yet. Every step consumes it and says what it became.
#[derive(Debug)]
pub(super) struct Connecting {
    client: Peer,
    client_tls: Option<TlsStream>,
    /// What the client sent so far. Held until the backend takes it.
    ahead: Direction,
    announcement: Announcement,
    backend_token: Token,
    upstream: Arc<Upstream>,
    candidates: Candidates,
    awaits: Awaits,
    /// All connects together end here; moved on by the time spent in the queue.
    deadline: Moment,
    /// Time spent in the queue.
    queued: Duration,
    failed_tries: Vec<FailedTry>,
    last_error: Option<TryError>,
}

#[derive(Debug)]
enum Awaits {
    /// Nothing: the next backend is being chosen.
    Nothing,
    Backend(Box<Try>),
    Room(Waiting),
}

/// A wait in the pool's queue.
#[derive(Debug)]
struct Waiting {
    place: Place,
    begun_at: Moment,
    deadline: Moment,
}

/// What came of a step.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "a connect that stands at once, as most do nearby, costs no allocation"
)]
pub(super) enum Outcome {
    /// Look again at an event, at a call of the queue, or at this moment.
    Waits(Connecting, Moment),
    Connected(Connected),
    Failed(Failed),
}

#[derive(Debug)]
pub(super) struct Connected {
    pub(super) client: Peer,
    pub(super) backend: Peer,
    pub(super) secured: Option<Box<Secured>>,
    pub(super) to_backend: Direction,
    pub(super) to_client: Direction,
    pub(super) lease: Lease<Endpoint>,
    pub(super) took: Duration,
    pub(super) queued: Duration,
    pub(super) failed_tries: Vec<FailedTry>,
}

#[derive(Debug)]
pub(super) struct Failed {
    pub(super) client: Peer,
    pub(super) phase: Phase,
    pub(super) termination: Termination,
    pub(super) detail: &'static str,
    pub(super) queued: Duration,
    /// The one being tried, or that was tried last.
    pub(super) backend: Option<Box<str>>,
    pub(super) tries: u32,
    pub(super) failed_tries: Vec<FailedTry>,
}

/// What a choice among the backends brought.
enum Choice {
    Taken(Lease<Endpoint>),
    /// It waits in the queue from now on.
    Queued,
    Over(Termination, &'static str),
}

impl Connecting {
    /// Chooses a backend and dials it. The first `opening.fresh` bytes of the client lie in the
    /// scratch buffer, so that they can leave with the connect.
    pub(super) fn begin(
        opening: Opening,
        backend_token: Token,
        upstream: &Arc<Upstream>,
        key: u64,
        cx: &mut Context<'_>,
    ) -> Outcome {
        let mut ahead = Direction::new();
        if opening.ended {
            ahead.end();
        }
        let this = Connecting {
            client: opening.client,
            client_tls: opening.tls,
            ahead,
            announcement: opening.announcement,
            backend_token,
            upstream: upstream.clone(),
            candidates: Candidates::new(key),
            awaits: Awaits::Nothing,
            deadline: cx.now + upstream.connect_timeout,
            queued: Duration::ZERO,
            failed_tries: Vec::new(),
            last_error: None,
        };
        upstream.pool.budget().pay_in(upstream.retry_budget);
        this.dial(opening.fresh, cx)
    }

    pub(super) fn notice(
        mut self,
        side: Side,
        readiness: Readiness,
        cx: &mut Context<'_>,
    ) -> Outcome {
        if side == Side::Client {
            return self.notice_client(readiness, cx);
        }
        let mut tried = match std::mem::replace(&mut self.awaits, Awaits::Nothing) {
            Awaits::Backend(tried) => tried,
            other => {
                self.awaits = other;
                return self.waits();
            }
        };
        match tried.notice(readiness, &mut self.ahead, &mut cx.tools) {
            Progress::Stands => self.connected(*tried, cx),
            Progress::Waits => {
                self.awaits = Awaits::Backend(tried);
                self.waits()
            }
            Progress::Failed(error) => {
                self.blame(&tried.lease, tried.begun_at, error, cx);
                self.dial(0, cx)
            }
        }
    }

    /// A client that waits for room and closes its half is taken to have left, unless the pool
    /// says otherwise: the kernel does not tell the two apart, and under overload most who close
    /// have given up.
    fn notice_client(mut self, readiness: Readiness, cx: &Context<'_>) -> Outcome {
        self.client.notice(readiness);
        if self.client.broken {
            return self.failed(Termination::ClientReset, "", cx);
        }
        let queues = matches!(self.awaits, Awaits::Room(_));
        if queues && self.client.finished && !self.upstream.queue.stays_half_closed {
            return self.failed(Termination::ClientClosed, "", cx);
        }
        self.waits()
    }

    /// The moment [`Outcome::Waits`] named has come.
    pub(super) fn alarm(mut self, cx: &mut Context<'_>) -> Outcome {
        match std::mem::replace(&mut self.awaits, Awaits::Nothing) {
            Awaits::Backend(tried) if cx.now >= tried.deadline => {
                self.blame(&tried.lease, tried.begun_at, TryError::TIMED_OUT, cx);
                self.dial(0, cx)
            }
            Awaits::Room(waiting) if cx.now >= waiting.deadline => {
                self.awaits = Awaits::Room(waiting);
                self.failed(Termination::QueueTimeout, "", cx)
            }
            other => {
                self.awaits = other;
                self.waits()
            }
        }
    }

    /// The queue has called, perhaps somebody else who had this session's number before.
    /// `announce` says what the backends of a pool are told of this client, whose TLS ends here
    /// or not.
    pub(super) fn called(
        mut self,
        announce: impl FnOnce(&Arc<Upstream>, &Peer, bool, &mut Context<'_>) -> Announcement,
        cx: &mut Context<'_>,
    ) -> Outcome {
        let Awaits::Room(waiting) = &mut self.awaits else {
            return self.waits();
        };
        if !waiting.place.is_called() {
            return self.waits();
        }
        // Backends may have come since, and want to be told other things: a client that waited
        // through a reload finds them.
        let newest = self.upstream.newest();
        if !Arc::ptr_eq(&newest, &self.upstream) {
            self.announcement = announce(&newest, &self.client, self.client_tls.is_some(), cx);
            self.upstream = newest;
        }
        self.dial(0, cx)
    }

    /// Tries backends until a connect is under way or complete. `fresh` bytes of the client lie
    /// in the scratch buffer; they are kept when they cannot leave at once.
    fn dial(mut self, fresh: usize, cx: &mut Context<'_>) -> Outcome {
        loop {
            let tries_left = (self.upstream.retries + 1).saturating_sub(self.candidates.tries());
            let lease = match self.choose(tries_left, cx) {
                Choice::Taken(lease) => lease,
                Choice::Queued => return self.wait_in_line(fresh, cx),
                Choice::Over(termination, detail) => return self.failed(termination, detail, cx),
            };
            let begun_at = cx.now;
            let attempt = Attempt {
                token: self.backend_token,
                begun_at,
                deadline: begun_at + self.share_of_time(tries_left, begun_at),
                upstream: &self.upstream,
                announcement: &self.announcement,
            };
            let begun = Try::begin(lease, attempt, &mut self.ahead, fresh, cx);
            match begun {
                Ok((tried, Progress::Stands)) => return self.connected(tried, cx),
                Ok((tried, _)) => return self.wait_for_backend(tried, cx),
                Err((lease, error)) => self.blame(&lease, begun_at, error, cx),
            }
        }
    }

    /// Takes the best backend, or else a place in the queue.
    fn choose(&mut self, tries_left: u32, cx: &mut Context<'_>) -> Choice {
        if self.last_error.is_some() && (tries_left == 0 || cx.now >= self.deadline) {
            return self.over("");
        }
        // Who was served before and failed has stood in the line already.
        let is_new = self.last_error.is_none() && !matches!(self.awaits, Awaits::Room(_));
        let mut may_choose = !(is_new && self.upstream.pool.queue().is_occupied());
        loop {
            let pool = &self.upstream.pool;
            if may_choose && let Some(lease) = self.candidates.next(pool, cx.now, cx.chance) {
                self.leave_line(cx.now, true);
                if self.last_error.is_some() && !lease.pool().budget().take(cx.now) {
                    return self.over("retry_budget");
                }
                return Choice::Taken(lease);
            }
            match &mut self.awaits {
                Awaits::Room(waiting) => {
                    // Room that is of no use to a client who has tried it in vain.
                    let for_others = self.candidates.tries() > 0 && pool.has_room(cx.now);
                    if waiting.place.stand_back(for_others) {
                        return Choice::Queued;
                    }
                }
                _ => match self.join_line(cx) {
                    Ok(true) => {}
                    Ok(false) => return Choice::Queued,
                    Err(over) => return over,
                },
            }
            may_choose = true;
        }
    }

    /// Takes the last place in the pool's line. True: it is this client's turn at once.
    fn join_line(&mut self, cx: &Context<'_>) -> Result<bool, Choice> {
        let upstream = &self.upstream;
        let pool = &upstream.pool;
        if !self.candidates.found_all_full(pool, cx.now) {
            return Err(self.over(""));
        }
        let client = self.client.token().0;
        let joined = pool
            .queue()
            .join(upstream.queue.length, cx.bell.clone(), client);
        let Some(mut place) = joined else {
            return Err(match self.last_error {
                Some(_) => self.over(""),
                None => Choice::Over(Termination::QueueFull, ""),
            });
        };
        let called = place.is_called();
        let deadline = cx.now + upstream.queue.timeout.saturating_sub(self.queued);
        self.awaits = Awaits::Room(Waiting {
            place,
            begun_at: cx.now,
            deadline,
        });
        Ok(called)
    }

    /// Accounts for the time in the line, if it stood there. `served`: it has its backend, and
    /// whoever is next is called if there is room for one more.
    fn leave_line(&mut self, now: Moment, served: bool) {
        match std::mem::replace(&mut self.awaits, Awaits::Nothing) {
            Awaits::Room(waiting) => {
                let waited = now.since(waiting.begun_at);
                self.queued += waited;
                self.deadline = self.deadline + waited;
                if served {
                    waiting.place.served(self.upstream.pool.has_room(now));
                }
            }
            other => self.awaits = other,
        }
    }

    fn wait_in_line(mut self, fresh: usize, cx: &mut Context<'_>) -> Outcome {
        if fresh > 0 && !self.ahead.holds_bytes() {
            self.ahead.keep(&cx.tools.scratch[..fresh]);
        }
        let has_left = self.ahead.flow() == Flow::Ended || self.client.finished;
        if has_left && !self.upstream.queue.stays_half_closed {
            return self.failed(Termination::ClientClosed, "", cx);
        }
        match self.client.watch(cx.poller, false) {
            Ok(()) => self.waits(),
            Err(_) => self.failed(Termination::Internal, "local_memory", cx),
        }
    }

    fn wait_for_backend(mut self, mut tried: Try, cx: &mut Context<'_>) -> Outcome {
        tried.lease.connect_waits(cx.now);
        let watched = tried.backend.watch(cx.poller, true);
        let watched = watched.and_then(|()| self.client.watch(cx.poller, false));
        self.awaits = Awaits::Backend(Box::new(tried));
        match watched {
            Ok(()) => self.waits(),
            Err(_) => self.failed(Termination::Internal, "local_memory", cx),
        }
    }

    /// How long the try that begins now may take: what is left, shared with those that could
    /// still follow, so that one backend that swallows packets leaves time for another.
    fn share_of_time(&self, tries_left: u32, now: Moment) -> Duration {
        let tries = self.candidates.tries() as usize;
        let others = self.upstream.pool.members().len().saturating_sub(tries);
        let shares = tries_left.min(u32::try_from(others + 1).unwrap_or(u32::MAX));
        self.deadline.since(now) / shares.max(1)
    }

    fn connected(self, tried: Try, cx: &Context<'_>) -> Outcome {
        let Try {
            mut backend,
            lease,
            begun_at,
            tls,
            early,
            ..
        } = tried;
        lease.connected(cx.now, cx.now.since(begun_at));
        backend.writable = true;
        let mut to_client = Direction::new();
        if !early.bytes.is_empty() {
            to_client.keep(&early.bytes);
        }
        if early.ended {
            to_client.end();
        }
        let secured = (self.client_tls.is_some() || tls.is_some())
            .then(|| Box::new(Secured::new(self.client_tls, tls)));
        Outcome::Connected(Connected {
            client: self.client,
            backend,
            secured,
            to_backend: self.ahead,
            to_client,
            lease,
            took: cx.now.since(begun_at),
            queued: self.queued,
            failed_tries: self.failed_tries,
        })
    }

    fn blame(
        &mut self,
        lease: &Lease<Endpoint>,
        begun_at: Moment,
        error: TryError,
        cx: &Context<'_>,
    ) {
        self.failed_tries.push(FailedTry {
            backend: lease.member().name.as_str().into(),
            error: error.detail(),
            took: cx.now.since(begun_at),
        });
        self.last_error = Some(error);
        if !error.is_local() {
            lease.connect_failed(cx.now, cx.now.since(begun_at));
        }
    }

    fn waits(self) -> Outcome {
        let at = match &self.awaits {
            Awaits::Nothing => self.deadline,
            Awaits::Backend(tried) => tried.deadline,
            Awaits::Room(waiting) => waiting.deadline,
        };
        Outcome::Waits(self, at)
    }

    /// Nobody is left to be tried.
    fn over(&self, detail: &'static str) -> Choice {
        let (termination, error) = match self.last_error {
            None => (Termination::NoBackend, ""),
            Some(TryError::TIMED_OUT) => (Termination::ConnectTimeout, ""),
            Some(error) => (Termination::ConnectFailed, error.detail()),
        };
        Choice::Over(termination, if detail.is_empty() { error } else { detail })
    }

    pub(super) fn failed(
        mut self,
        termination: Termination,
        detail: &'static str,
        cx: &Context<'_>,
    ) -> Outcome {
        let queues = matches!(self.awaits, Awaits::Room(_));
        let phase = if queues || termination == Termination::QueueFull {
            Phase::Queue
        } else {
            Phase::Connect
        };
        self.leave_line(cx.now, false);
        let failed = self.failed_tries.len() as u32;
        let (backend, tries) = match &self.awaits {
            Awaits::Backend(tried) => {
                // Whatever was to be said to it is cut off, which a FIN would not tell.
                tried.backend.close_by_reset();
                let name = tried.lease.member().name.as_str();
                (Some(name.into()), failed + 1)
            }
            _ => (
                self.failed_tries.last().map(|last| last.backend.clone()),
                failed,
            ),
        };
        Outcome::Failed(Failed {
            client: self.client,
            phase,
            termination,
            detail,
            queued: self.queued,
            backend,
            tries,
            failed_tries: self.failed_tries,
        })
    }
}

#[cfg(test)]
mod tests;
