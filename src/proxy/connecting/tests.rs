//! Connecting with real sockets: what a reset in between is taken for, and whose turn it is.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use rustix::net::sockopt;

use super::*;
use crate::balance::chance::Chance;
use crate::balance::ejection::Ejection;
use crate::balance::key::{HashKey, HashSeed};
use crate::balance::policy::{Cost, PolicyKind};
use crate::balance::pool::{Member, Pool, PoolSpec};
use crate::balance::queue::Wake;
use crate::balance::table::Table;
use crate::config::settings::{Drain, Queue, SendProxy};
use crate::net::poller::Poller;
use crate::observe::access::{AccessLog, Target};
use crate::observe::form::Format;
use crate::proxy::route::ProcessCount;
use crate::proxy::tally::Relayed;
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
        send_proxy: SendProxy::Off,
        tls: None,
        newest: Arc::default(),
    })
}

/// A client that has said nothing.
fn opening(client: Peer) -> Opening {
    Opening {
        client,
        tls: None,
        fresh: 0,
        ended: false,
        announcement: Announcement::default(),
    }
}

/// Runs a test with a client that is accepted and a worker's things.
fn with_client(test: impl FnOnce(Peer, &mut Context<'_>)) {
    let front = TcpListener::bind("127.0.0.1:0").unwrap();
    let _client = TcpStream::connect(front.local_addr().unwrap()).unwrap();
    let (accepted, _) = front.accept().unwrap();
    accepted.set_nonblocking(true).unwrap();
    let log = AccessLog::open(&Target::Off, Format::Text).unwrap();
    let mut cx = Context {
        worker: 0,
        now: Moment::now(),
        poller: &Poller::new().unwrap(),
        tools: Tools {
            scratch: &mut [0; 1024],
            sealed: &mut [],
            pipes: &mut Pipes::default(),
        },
        chance: &mut Chance::seeded(1),
        log: &mut log.line_writer(),
        relayed: &Relayed::default(),
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
        let begun = Connecting::begin(opening(client), Token(3), &upstream, 0, cx);
        let Outcome::Waits(connecting, _) = begun else {
            panic!("without bytes of the client nothing tells that the connect stands: {begun:?}")
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
        let begun = Connecting::begin(opening(client), Token(3), &upstream, 0, cx);
        let Outcome::Waits(connecting, _) = begun else {
            panic!("{begun:?}")
        };
        assert_eq!((upstream.pool.active(), queue.waiting()), (0, 2));
        assert!(matches!(connecting.awaits, Awaits::Room(_)));
        drop(first);
        let called = connecting.called(|_, _, _, _| Announcement::default(), cx);
        assert!(matches!(called, Outcome::Waits(_, _)));
        assert_eq!((upstream.pool.active(), queue.waiting()), (1, 0));
    });
}
