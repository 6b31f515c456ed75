//! From an accepted client to a connected backend: pick, dial, and on failure the next one; while
//! every backend is full, wait in the pool's queue.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::context::Context;
use super::route::Upstream;
use crate::balance::pool::{Candidates, Lease};
use crate::balance::queue::Place;
use crate::base::addr::{Endpoint, Side};
use crate::base::clock::Moment;
use crate::base::ending::{Phase, Termination};
use crate::net::dial::{self, DialError};
use crate::net::peer::Peer;
use crate::net::poller::{Readiness, Token};
use crate::observe::access::FailedTry;
use crate::relay::direction::{Direction, Flow};

/// A client whose backend is not connected yet. Every step consumes it and says what it became.
#[derive(Debug)]
pub(super) struct Connecting {
    client: Peer,
    /// What the client sent so far. Held until the backend takes it.
    ahead: Direction,
    backend_token: Token,
    upstream: Arc<Upstream>,
    candidates: Candidates,
    awaits: Awaits,
    /// All connects together end here; moved on by the time spent in the queue.
    deadline: Moment,
    /// Time spent in the queue.
    queued: Duration,
    failed_tries: Vec<FailedTry>,
    last_error: Option<DialError>,
}

#[derive(Debug)]
enum Awaits {
    /// Nothing: the next backend is being chosen.
    Nothing,
    Backend(Try),
    Room(Waiting),
}

/// One connect under way.
#[derive(Debug)]
struct Try {
    backend: Peer,
    lease: Lease<Endpoint>,
    begun_at: Moment,
    /// When the next backend gets its chance.
    deadline: Moment,
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
    pub(super) to_backend: Direction,
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
    /// Reads what the client has sent already, so that it can leave with the connect, and dials.
    pub(super) fn begin(
        client: Peer,
        backend_token: Token,
        upstream: &Arc<Upstream>,
        key: u64,
        cx: &mut Context<'_>,
    ) -> Outcome {
        let mut this = Connecting {
            client,
            ahead: Direction::new(),
            backend_token,
            upstream: upstream.clone(),
            candidates: Candidates::new(key),
            awaits: Awaits::Nothing,
            deadline: cx.now + upstream.connect_timeout,
            queued: Duration::ZERO,
            failed_tries: Vec::new(),
            last_error: None,
        };
        let fresh = match this.client.receive(cx.tools.scratch) {
            Ok(0) => {
                this.ahead.end();
                0
            }
            Ok(count) => count,
            Err(Errno::AGAIN) => 0,
            Err(_) => return this.failed(Termination::ClientReset, "", cx),
        };
        upstream.pool.budget().pay_in(upstream.retry_budget);
        this.dial(fresh, cx)
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
        tried.backend.notice(readiness);
        if tried.backend.broken {
            let error = match sockopt::socket_error(tried.backend.socket()) {
                Ok(Err(error)) | Err(error) => error,
                Ok(Ok(())) => Errno::CONNRESET,
            };
            // A connection that brought bytes before it broke did stand: they are the client's.
            // One that brought none took none either, so another backend may be tried.
            if tried.backend.has_input() {
                return self.connected(tried, cx);
            }
            self.blame(&tried.lease, tried.begun_at, DialError(error), cx);
            return self.dial(0, cx);
        }
        if readiness.writable {
            return self.connected(tried, cx);
        }
        self.awaits = Awaits::Backend(tried);
        self.waits()
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
                self.blame(&tried.lease, tried.begun_at, DialError(Errno::TIMEDOUT), cx);
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
    pub(super) fn called(mut self, cx: &mut Context<'_>) -> Outcome {
        let Awaits::Room(waiting) = &mut self.awaits else {
            return self.waits();
        };
        if !waiting.place.is_called() {
            return self.waits();
        }
        // Backends may have come since: a client that waited through a reload finds them.
        self.upstream = self.upstream.newest();
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
            let deadline = begun_at + self.share_of_time(tries_left, begun_at);
            match self.dial_one(&lease, fresh, cx) {
                Ok((backend, stands)) => {
                    let tried = Try {
                        backend,
                        lease,
                        begun_at,
                        deadline,
                    };
                    return if stands {
                        self.connected(tried, cx)
                    } else {
                        self.wait_for_backend(tried, cx)
                    };
                }
                Err(error) => self.blame(&lease, begun_at, error, cx),
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
        self.awaits = Awaits::Backend(tried);
        match watched {
            Ok(()) => self.waits(),
            Err(_) => self.failed(Termination::Internal, "local_memory", cx),
        }
    }

    /// Begins one connect and offers it the `fresh` bytes. True: it took them, so it stands.
    fn dial_one(
        &mut self,
        lease: &Lease<Endpoint>,
        fresh: usize,
        cx: &mut Context<'_>,
    ) -> Result<(Peer, bool), DialError> {
        let target = &lease.member().target;
        let socket = dial::begin(target, fresh > 0 || self.ahead.holds_bytes())?;
        let tcp = matches!(target, Endpoint::Tcp(_));
        let mut backend = Peer::dialled(socket, self.backend_token, tcp);
        if fresh == 0 || self.ahead.holds_bytes() {
            return Ok((backend, false));
        }
        let bytes = &cx.tools.scratch[..fresh];
        let sent = match backend.transmit(bytes, false) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => {
                self.ahead.keep(bytes);
                return Ok((backend, false));
            }
            Err(error) => return Err(DialError(error)),
        };
        self.ahead.count_delivered(sent);
        if sent < fresh {
            self.ahead.keep(&bytes[sent..]);
        }
        Ok((backend, true))
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
            ..
        } = tried;
        lease.connected(cx.now, cx.now.since(begun_at));
        backend.writable = true;
        Outcome::Connected(Connected {
            client: self.client,
            backend,
            to_backend: self.ahead,
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
        error: DialError,
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
            Some(DialError(Errno::TIMEDOUT)) => (Termination::ConnectTimeout, ""),
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
mod tests {
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    use super::*;
    use crate::balance::chance::Chance;
    use crate::balance::ejection::Ejection;
    use crate::balance::key::{HashKey, HashSeed};
    use crate::balance::policy::{Cost, PolicyKind};
    use crate::balance::pool::{Member, Pool, PoolSpec};
    use crate::balance::queue::Wake;
    use crate::balance::table::Table;
    use crate::config::settings::{Drain, Queue};
    use crate::net::poller::Poller;
    use crate::observe::access::{AccessLog, Target};
    use crate::observe::form::Format;
    use crate::proxy::route::ProcessCount;
    use crate::relay::direction::Tools;
    use crate::relay::pipe::Pipes;

    #[derive(Debug)]
    struct Nobody;

    impl Wake for Nobody {
        fn wake(&self, _: u64) {}
    }

    const BROKEN: Readiness = Readiness {
        readable: true,
        writable: true,
        finished: true,
        broken: true,
    };

    fn upstream_to(listener: &TcpListener) -> Arc<Upstream> {
        let address = Endpoint::Tcp(listener.local_addr().unwrap());
        let member = Member {
            name: "a".to_owned(),
            identity: address.to_string(),
            target: address,
            weight: 1,
            priority: 0,
            cost: Cost::FREE,
            max_connections: 0,
        };
        let second = Duration::from_secs(1);
        let spec = PoolSpec {
            name: "pool".to_owned(),
            policy: PolicyKind::RoundRobin,
            ejection: Ejection {
                connect_failures: 0,
                base: second,
                max: second,
                max_percent: 50,
                early_resets: 0,
                early_reset_within: second,
                empty_closes: 0,
            },
            hash_balance_factor: 0,
            slow_start: Duration::ZERO,
            panic_threshold: 0,
            failure_latency: second,
            probed: false,
            seed: String::new(),
            max_connections: 0,
            members: vec![member],
        };
        Arc::new(Upstream {
            pool: Arc::new(Pool::new(spec, Table::new(), Moment::ZERO)),
            connect_timeout: second,
            retries: 0,
            retry_budget: 0,
            queue: Queue {
                length: 10,
                timeout: second,
                stays_half_closed: false,
            },
            drain: Drain {
                deadline: second,
                closes_on_down: false,
            },
            rebalance: 0,
            seed: HashSeed::new(""),
            hash_key: HashKey::SourceIp,
            newest: Arc::default(),
        })
    }

    /// Runs a test with a client that is accepted and a worker's things.
    fn with_client(test: impl FnOnce(Peer, &mut Context<'_>)) {
        let front = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(front.local_addr().unwrap()).unwrap();
        let (accepted, _) = front.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        let log = AccessLog::open(&Target::Off, Format::Text).unwrap();
        let mut cx = Context {
            now: Moment::now(),
            poller: &Poller::new().unwrap(),
            tools: Tools {
                scratch: &mut [0; 1024],
                pipes: &mut Pipes::default(),
            },
            chance: &mut Chance::seeded(1),
            log: &mut log.line_writer(),
            process: &Arc::new(ProcessCount::new(10)),
            bell: &(Arc::new(Nobody) as Arc<dyn Wake>),
        };
        test(Peer::accepted(accepted.into(), Token(2), true), &mut cx);
    }

    /// What comes of a connect whose backend, by the time it is looked at, has said `said` and
    /// reset the connection.
    fn outcome_when_the_backend_reset_first(said: &[u8]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut outcome = None;
        with_client(|client, cx| {
            let upstream = upstream_to(&listener);
            let begun = Connecting::begin(client, Token(3), &upstream, 0, cx);
            let Outcome::Waits(connecting, _) = begun else {
                panic!(
                    "without bytes of the client nothing tells that the connect stands: {begun:?}"
                )
            };

            let (mut backend, _) = listener.accept().unwrap();
            backend.write_all(said).unwrap();
            sockopt::set_socket_linger(&backend, Some(Duration::ZERO)).unwrap();
            drop(backend);
            let Awaits::Backend(tried) = &connecting.awaits else {
                panic!("no connect is under way")
            };
            let socket = tried.backend.socket();
            let waited = Instant::now();
            // tcp(7): a connection that was reset has no peer any more.
            while rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_some()) {
                assert!(waited.elapsed() < Duration::from_secs(10));
                std::thread::yield_now();
            }
            outcome = Some(connecting.notice(Side::Backend, BROKEN, cx));
        });
        outcome.unwrap()
    }

    #[test]
    fn a_backend_that_spoke_before_its_reset_was_connected() {
        let outcome = outcome_when_the_backend_reset_first(b"hello");
        assert!(matches!(outcome, Outcome::Connected(_)), "{outcome:?}");
    }

    #[test]
    fn a_backend_that_reset_without_a_word_failed() {
        let outcome = outcome_when_the_backend_reset_first(b"");
        let Outcome::Failed(failed) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!(failed.termination, Termination::ConnectFailed);
        assert_eq!(failed.detail, "reset");
    }
    #[test]
    fn who_just_came_stands_behind_those_who_wait_even_if_there_is_room() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let upstream = upstream_to(&listener);
        let queue = upstream.pool.queue().clone();
        let first = queue.join(10, Arc::new(Nobody), 1).unwrap();
        with_client(|client, cx| {
            let begun = Connecting::begin(client, Token(3), &upstream, 0, cx);
            let Outcome::Waits(connecting, _) = begun else {
                panic!("{begun:?}")
            };
            assert_eq!((upstream.pool.active(), queue.waiting()), (0, 2));
            assert!(matches!(connecting.awaits, Awaits::Room(_)));
            drop(first);
            let called = connecting.called(cx);
            assert!(matches!(called, Outcome::Waits(_, _)));
            assert_eq!((upstream.pool.active(), queue.waiting()), (1, 0));
        });
    }
}
