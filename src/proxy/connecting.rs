//! From an accepted client to a connected backend: pick, dial, and on failure the next one.

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::sockopt;

use super::context::Context;
use super::route::Upstream;
use crate::balance::pool::{Candidates, Lease};
use crate::base::addr::{Endpoint, Side};
use crate::base::clock::Moment;
use crate::base::ending::Termination;
use crate::net::dial::{self, DialError};
use crate::net::peer::Peer;
use crate::net::poller::{Readiness, Token};
use crate::relay::direction::Direction;

/// A client whose backend is not connected yet. Every step consumes it and says what it became.
#[derive(Debug)]
pub(super) struct Connecting {
    client: Peer,
    /// What the client sent so far. Held until the backend takes it.
    ahead: Direction,
    backend_token: Token,
    candidates: Candidates,
    tried: Option<Try>,
    /// All tries together end here.
    deadline: Moment,
    last_failure: Option<Failure>,
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

#[derive(Clone, Copy, Debug)]
struct Failure {
    /// Index of the backend in its pool.
    backend: usize,
    error: DialError,
}

/// What came of a step.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Look again at an event, or at this moment.
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
    pub(super) tries: u32,
}

#[derive(Debug)]
pub(super) struct Failed {
    pub(super) client: Peer,
    pub(super) termination: Termination,
    pub(super) detail: &'static str,
    /// Index of the backend that was tried last.
    pub(super) backend: Option<usize>,
    pub(super) tries: u32,
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
            candidates: Candidates::new(key),
            tried: None,
            deadline: cx.now + upstream.connect_timeout,
            last_failure: None,
        };
        let fresh = match this.client.receive(cx.tools.scratch) {
            Ok(0) => {
                this.ahead.end();
                0
            }
            Ok(count) => count,
            Err(Errno::AGAIN) => 0,
            Err(_) => return this.failed(Termination::ClientReset, ""),
        };
        this.dial(fresh, upstream, cx)
    }

    pub(super) fn notice(
        mut self,
        side: Side,
        readiness: Readiness,
        upstream: &Arc<Upstream>,
        cx: &mut Context<'_>,
    ) -> Outcome {
        if side == Side::Client {
            self.client.notice(readiness);
            return match self.client.broken {
                true => self.failed(Termination::ClientReset, ""),
                false => self.waits(),
            };
        }
        let Some(mut tried) = self.tried.take() else {
            return self.waits();
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
            return self.dial(0, upstream, cx);
        }
        if readiness.writable {
            return self.connected(tried, cx);
        }
        self.tried = Some(tried);
        self.waits()
    }

    /// The moment [`Outcome::Waits`] named has come.
    pub(super) fn alarm(mut self, upstream: &Arc<Upstream>, cx: &mut Context<'_>) -> Outcome {
        match self.tried.take_if(|tried| cx.now >= tried.deadline) {
            Some(tried) => {
                self.blame(&tried.lease, tried.begun_at, DialError(Errno::TIMEDOUT), cx);
                self.dial(0, upstream, cx)
            }
            None => self.waits(),
        }
    }

    /// Tries backends until a connect is under way or complete. `fresh` bytes of the client lie
    /// in the scratch buffer; they are kept when they cannot leave at once.
    fn dial(mut self, fresh: usize, upstream: &Arc<Upstream>, cx: &mut Context<'_>) -> Outcome {
        loop {
            let tries_left = (upstream.retries + 1).saturating_sub(self.candidates.tries());
            if tries_left == 0 || (self.last_failure.is_some() && cx.now >= self.deadline) {
                return self.give_up();
            }
            let Some(lease) = self.candidates.next(&upstream.pool, cx.now, cx.chance) else {
                return self.give_up();
            };
            let begun_at = cx.now;
            let deadline = begun_at + self.share_of_time(tries_left, upstream, begun_at);
            match self.dial_one(&lease, fresh, cx) {
                Ok((backend, true)) => {
                    return self.connected(
                        Try {
                            backend,
                            lease,
                            begun_at,
                            deadline,
                        },
                        cx,
                    );
                }
                Ok((mut backend, false)) => {
                    let watched = backend.watch(cx.poller, true);
                    if watched
                        .and_then(|()| self.client.watch(cx.poller, false))
                        .is_err()
                    {
                        return self.failed(Termination::Internal, "local_memory");
                    }
                    self.tried = Some(Try {
                        backend,
                        lease,
                        begun_at,
                        deadline,
                    });
                    return self.waits();
                }
                Err(error) => self.blame(&lease, begun_at, error, cx),
            }
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
    fn share_of_time(&self, tries_left: u32, upstream: &Upstream, now: Moment) -> Duration {
        let tries = self.candidates.tries() as usize;
        let others = upstream.pool.members().len().saturating_sub(tries);
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
            tries: self.candidates.tries(),
        })
    }

    fn blame(
        &mut self,
        lease: &Lease<Endpoint>,
        begun_at: Moment,
        error: DialError,
        cx: &Context<'_>,
    ) {
        self.last_failure = Some(Failure {
            backend: lease.index(),
            error,
        });
        if !error.is_local() {
            lease.connect_failed(cx.now, cx.now.since(begun_at));
        }
    }

    fn waits(self) -> Outcome {
        let at = self
            .tried
            .as_ref()
            .map_or(self.deadline, |tried| tried.deadline);
        Outcome::Waits(self, at)
    }

    fn give_up(self) -> Outcome {
        match self.last_failure.map(|failure| failure.error) {
            None => self.failed(Termination::NoBackend, ""),
            Some(DialError(Errno::TIMEDOUT)) => self.failed(Termination::ConnectTimeout, ""),
            Some(error) => self.failed(Termination::ConnectFailed, error.detail()),
        }
    }

    pub(super) fn failed(self, termination: Termination, detail: &'static str) -> Outcome {
        let last = self.last_failure.map(|failure| failure.backend);
        let current = self.tried.as_ref().map(|tried| tried.lease.index());
        Outcome::Failed(Failed {
            client: self.client,
            termination,
            detail,
            backend: current.or(last),
            tries: self.candidates.tries(),
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
    use crate::balance::table::Table;
    use crate::net::poller::Poller;
    use crate::observe::access::{AccessLog, Target};
    use crate::observe::form::Format;
    use crate::proxy::route::ProcessCount;
    use crate::relay::direction::Tools;
    use crate::relay::pipe::Pipes;

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
            seed: HashSeed::new(""),
            hash_key: HashKey::SourceIp,
        })
    }

    /// What comes of a connect whose backend, by the time it is looked at, has said `said` and
    /// reset the connection.
    fn outcome_when_the_backend_reset_first(said: &[u8]) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
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
        };
        let upstream = upstream_to(&listener);
        let client = Peer::accepted(accepted.into(), Token(2), true);
        let begun = Connecting::begin(client, Token(3), &upstream, 0, &mut cx);
        let Outcome::Waits(connecting, _) = begun else {
            panic!("without bytes of the client nothing tells that the connect stands: {begun:?}")
        };

        let (mut backend, _) = listener.accept().unwrap();
        backend.write_all(said).unwrap();
        sockopt::set_socket_linger(&backend, Some(Duration::ZERO)).unwrap();
        drop(backend);
        let socket = connecting.tried.as_ref().unwrap().backend.socket();
        let waited = Instant::now();
        // tcp(7): a connection that was reset has no peer any more.
        while rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_some()) {
            assert!(waited.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
        connecting.notice(Side::Backend, BROKEN, &upstream, &mut cx)
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
}
