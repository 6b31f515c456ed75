//! Sessions that are to end: one after the other, idle ones first, all by the deadline.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use lbd::admin::state::Cause;
use lbd::balance::backend::Wish;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::peer::Backend;
use crate::harness::wait;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn echoes(client: &mut TcpStream) -> bool {
    let mut byte = [0];
    client.write_all(b"x").is_ok() && matches!(client.read(&mut byte), Ok(1))
}

/// A client whose last request was answered.
fn idle(balancer: &Balancer) -> TcpStream {
    let mut client = TcpStream::connect(balancer.address()).unwrap();
    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    assert!(echoes(&mut client));
    client
}

/// How long after `since` the client's connection was reset.
fn reset_after(mut client: TcpStream, since: Instant) -> JoinHandle<Duration> {
    thread::spawn(move || {
        let end = client.read(&mut [0]);
        assert!(end.is_err(), "not an orderly end: {end:?}");
        since.elapsed()
    })
}

fn two_backends() -> ([Backend; 2], Setup) {
    let backends = [Backend::echo(), Backend::echo()];
    let setup = Setup::over(&[backends[0].address, backends[1].address]);
    (backends, setup)
}

#[test]
fn a_drained_backend_loses_its_idle_sessions_one_after_the_other() {
    const SESSIONS: usize = 20;
    let (_backends, setup) = two_backends();
    let balancer = Balancer::start(&setup.pool("drain = { deadline = \"4s\" }"));
    let clients: Vec<_> = (0..2 * SESSIONS).map(|_| idle(&balancer)).collect();
    let (of_b0, mut of_b1): (Vec<_>, Vec<_>) = {
        let mut of = [Vec::new(), Vec::new()];
        for (at, client) in clients.into_iter().enumerate() {
            of[at % 2].push(client);
        }
        let [a, b] = of;
        (a, b)
    };
    let begun = Instant::now();
    balancer.wish("b0", Wish::Drain);
    let progress = balancer.state().pools[0].backends[0].drain.clone();
    let progress = progress.expect("it drains");
    assert_eq!((progress.cause, progress.initial), (Cause::Drain, 20));
    let ends: Vec<_> = of_b0
        .into_iter()
        .map(|client| reset_after(client, begun))
        .collect();
    let mut ends: Vec<Duration> = ends.into_iter().map(|end| end.join().unwrap()).collect();
    ends.sort_unstable();
    // Each worker has a line of its own for its share, so two may go at a time.
    for (nth, end) in ends.iter().enumerate().filter(|(_, end)| **end > ms(1300)) {
        let due = ms(4000) * (nth as u32) / SESSIONS as u32;
        assert!(
            *end + ms(600) > due,
            "number {nth} after {end:?}, due {due:?}"
        );
        assert!(
            *end < due + ms(1000),
            "number {nth} after {end:?}, due {due:?}"
        );
    }
    assert!(
        ends[0] >= ms(900),
        "silent for less than a second is not idle"
    );
    assert!(ends[SESSIONS - 1] < ms(4500));
    assert!(of_b1.iter_mut().all(echoes), "the others' sessions go on");
    wait::until("all are written", || balancer.records().len() >= SESSIONS);
    for record in balancer.records() {
        assert_eq!(
            (
                record.termination(),
                record.text("detail"),
                record.text("backend")
            ),
            ("drained", "backend_drain", "b0")
        );
    }
    wait::until("nothing is left to be drained", || {
        balancer.state().pools[0].backends[0].drain.is_none()
    });
}

#[test]
fn who_is_in_the_middle_of_something_is_spared_until_the_last_quarter() {
    let silent = Backend::serving(
        crate::harness::sockets::listen_with(Default::default()),
        |mut socket| {
            let mut greeting = [0];
            let _ = socket.read_exact(&mut greeting);
            let _ = socket.write_all(b"x");
            // Takes everything else without an answer.
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        },
    );
    let setup = Setup::over(&[silent.address]).pool("drain = { deadline = \"4s\" }");
    let balancer = Balancer::start(&setup);
    let idle: Vec<_> = (0..4).map(|_| idle(&balancer)).collect();
    let mut asking = idle[0].try_clone().unwrap();
    asking.write_all(b"a long question").unwrap();
    wait::until("the question has passed", || {
        balancer.state().pools[0].backends[0].active == 4
    });
    let begun = Instant::now();
    balancer.wish("b0", Wish::Drain);
    let ends: Vec<_> = idle
        .into_iter()
        .map(|client| reset_after(client, begun))
        .collect();
    let ends: Vec<Duration> = ends.into_iter().map(|end| end.join().unwrap()).collect();
    assert!(ends[0] >= ms(2900), "cut while it waited: {ends:?}");
    assert!(ends[1..].iter().min() < Some(&ms(2900)), "{ends:?}");
    assert!(ends.iter().all(|end| *end < ms(4500)), "{ends:?}");
}

#[test]
fn a_backend_that_is_ready_again_keeps_the_sessions_it_has_left() {
    let (_backends, setup) = two_backends();
    let balancer = Balancer::start(&setup.pool("drain = { deadline = \"2s\" }"));
    let mut clients: Vec<_> = (0..8).map(|_| idle(&balancer)).collect();
    balancer.wish("b0", Wish::Drain);
    wait::until("the first is closed", || balancer.backend("b0").0 < 4);
    balancer.wish("b0", Wish::Ready);
    assert!(balancer.state().pools[0].backends[0].drain.is_none());
    let left = balancer.backend("b0").0;
    // Longer than the deadline that no longer holds.
    let patience = wait::within(ms(2500), || (balancer.backend("b0").0 < left).then_some(()));
    assert!(patience.is_none(), "one more was closed");
    clients.retain_mut(echoes);
    assert_eq!(clients.len() as u32, 4 + left);
}

#[test]
fn a_backend_removed_by_reload_is_drained_and_may_come_back() {
    let (_backends, setup) = two_backends();
    let setup = setup.pool("drain = { deadline = \"3s\" }");
    let mut without = setup.clone();
    without.backends.remove(0);
    let balancer = Balancer::start(&setup);
    let mut clients: Vec<_> = (0..8).map(|_| idle(&balancer)).collect();
    balancer.reload(&without).unwrap();
    let state = balancer.state();
    let leaving = &state.pools[0].leaving;
    assert_eq!(leaving.len(), 1);
    assert_eq!((&*leaving[0].name, leaving[0].progress.initial), ("b0", 4));
    wait::until("the first is closed", || {
        let state = balancer.state();
        state.pools[0]
            .leaving
            .iter()
            .any(|it| it.progress.closed > 0)
    });
    balancer.reload(&setup).unwrap();
    assert!(balancer.state().pools[0].leaving.is_empty());
    let left = balancer.backend("b0").0;
    assert!((1..4).contains(&left), "{left}");
    balancer.reload(&without).unwrap();
    wait::until("all are closed", || balancer.active() == 4);
    clients.retain_mut(echoes);
    assert_eq!(clients.len(), 4);
    wait::until("all are written", || balancer.records().len() == 4);
    for record in balancer.records() {
        assert_eq!(
            (
                record.termination(),
                record.text("detail"),
                record.text("backend")
            ),
            ("drained", "backend_removed", "b0")
        );
    }
}

#[test]
fn sessions_that_end_by_themselves_in_time_are_never_closed() {
    let (_backends, setup) = two_backends();
    let balancer = Balancer::start(&setup.pool("drain = { deadline = \"60s\" }"));
    let clients: Vec<_> = (0..8).map(|_| idle(&balancer)).collect();
    balancer.wish("b0", Wish::Drain);
    drop(clients);
    wait::until("all are written", || balancer.records().len() == 8);
    for record in balancer.records() {
        assert_eq!(record.termination(), "client_closed");
    }
}

/// Whether the sessions of the backend live on when its probes begin to fail.
fn sessions_left_when_down(on_down: &str) -> u32 {
    let probed = "drain = { on_down = \"".to_owned()
        + on_down
        + "\" }\n[pool.health]\nprobe = \"tcp\"\nfall = 1\ninterval = \"50ms\"\nfast_interval = \"50ms\"";
    let (backends, setup) = two_backends();
    let [gone, _good] = backends;
    let balancer = Balancer::start(&setup.pool(&probed));
    wait::until("both are up", || {
        let state = balancer.state();
        let mut all = state.pools[0].backends.iter();
        all.all(|backend| backend.state.as_str() == "up")
    });
    let clients: Vec<_> = (0..8).map(|_| idle(&balancer)).collect();
    let before = balancer.backend("b0").0;
    // Closes the listening socket; the sessions have theirs.
    drop(gone);
    wait::until("it is down", || {
        balancer.state().pools[0].backends[0].state.as_str() == "down"
    });
    let begun = Instant::now();
    let closed = wait::within(ms(2000), || {
        (balancer.backend("b0").0 == 0).then(|| begun.elapsed())
    });
    let left = balancer.backend("b0").0;
    assert!(left == 0 || left == before, "all or none");
    assert_eq!(balancer.backend("b1").0, 8 - before);
    if left == 0 {
        assert!(closed.unwrap() < ms(1800));
        wait::until("all are written", || {
            balancer.records().len() as u32 == before
        });
        for record in balancer.records() {
            assert_eq!(
                (record.termination(), record.text("detail")),
                ("drained", "backend_down")
            );
        }
    }
    drop(clients);
    left
}

#[test]
fn sessions_of_a_backend_that_goes_down_are_kept_unless_the_pool_says_close() {
    assert_ne!(sessions_left_when_down("keep"), 0);
    assert_eq!(sessions_left_when_down("close"), 0);
}

#[test]
fn the_end_of_the_process_is_spread_over_the_drain_timeout() {
    let (_backends, setup) = two_backends();
    let balancer = Balancer::start(&setup);
    let clients: Vec<_> = (0..16).map(|_| idle(&balancer)).collect();
    let begun = Instant::now();
    balancer.drain(ms(4000));
    let ends: Vec<_> = clients
        .into_iter()
        .map(|client| reset_after(client, begun))
        .collect();
    let mut ends: Vec<Duration> = ends.into_iter().map(|end| end.join().unwrap()).collect();
    ends.sort_unstable();
    assert!(ends[4] < ms(3000), "nobody goes early: {ends:?}");
    assert!(ends[10] > ms(2000), "most go early: {ends:?}");
    assert!(ends[15] > ms(3500) && ends[15] < ms(4600), "{ends:?}");
    for record in balancer.ended() {
        assert_eq!(
            (record.termination(), record.text("detail")),
            ("drained", "shutdown")
        );
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[test]
fn a_backend_that_joins_gets_idle_sessions_of_the_fullest_at_a_capped_rate() {
    const SESSIONS: u32 = 30;
    let (_backends, setup) = two_backends();
    let setup = setup.pool("policy = \"least_connections\"\nrebalance = 10");
    let balancer = Balancer::start(&setup);
    balancer.wish("b1", Wish::Drain);
    let address = balancer.address();
    let stop = AtomicBool::new(false);
    let (first, last) = thread::scope(|scope| {
        // Also when a look below fails: the scope waits for the clients.
        let _stopped = SetOnDrop(&stop);
        for _ in 0..SESSIONS {
            scope.spawn(|| {
                while !stop.load(SeqCst) {
                    let mut client = TcpStream::connect(address).unwrap();
                    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                    assert!(echoes(&mut client));
                    client.set_read_timeout(Some(ms(20))).unwrap();
                    // An idle client that connects again when it is closed.
                    while !stop.load(SeqCst) {
                        match client.read(&mut [0]) {
                            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                            _ => break,
                        }
                    }
                }
            });
        }
        wait::until("all are on the one backend", || {
            balancer.backend("b0").0 == SESSIONS
        });
        balancer.wish("b1", Wish::Ready);
        wait::until("the first has moved", || balancer.backend("b1").0 > 0);
        let first = Instant::now();
        wait::until("the sessions are shared", || {
            balancer.backend("b1").0 >= SESSIONS * 9 / 20
        });
        let last = Instant::now();
        // Balanced: nobody is closed any more.
        let moved = balancer.records().len();
        let patience = wait::within(ms(1500), || {
            (balancer.records().len() > moved + 2).then_some(())
        });
        assert!(patience.is_none(), "more are closed");
        (first, last)
    });
    let took = last - first;
    assert!(took > ms(900), "13 in {took:?}, at ten a second");
    wait::until("all are over", || balancer.active() == 0);
    let records = balancer.records();
    let moved = records
        .iter()
        .filter(|record| record.text("detail") == "rebalance");
    assert!(
        moved
            .clone()
            .all(|record| record.termination() == "drained")
    );
    let moved = moved.count() as u32;
    assert!(
        (SESSIONS * 9 / 20..=SESSIONS / 2 + 2).contains(&moved),
        "{moved}"
    );
}
