//! How sessions go on and end that have TLS at one end or at both: A10 to A12 of the fault
//! catalogue, slow and silent peers, new keys, and cuts at any byte.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustls::version::TLS12;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::fault::{self, Toxics};
use crate::harness::peer::Backend;
use crate::harness::script::{Dice, Stream};
use crate::harness::secured::{
    Act, Break, End, Keys, Say, Seen, Taking, acceptance, bytes, connection, play,
};
use crate::harness::sockets::{self, Options};
use crate::harness::tls;
use crate::harness::wait::{self, PATIENCE};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Who speaks TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Over {
    client: bool,
    backend: bool,
}

const EITHER_WAY: [Over; 3] = [
    Over {
        client: true,
        backend: false,
    },
    Over {
        client: false,
        backend: true,
    },
    Over {
        client: true,
        backend: true,
    },
];

/// A balancer between a client and a backend of which at least one speaks TLS.
struct Bench {
    over: Over,
    keys: Keys,
    balancer: Balancer,
    seen: Receiver<Seen>,
    _backend: Backend,
}

impl Bench {
    fn new(over: Over, act: Act) -> Bench {
        Bench::with(over, Options::default(), move || act.clone(), |setup| setup)
    }

    /// Each of the backend's connections is served by the next act.
    fn with(
        over: Over,
        options: Options,
        acts: impl Fn() -> Act + Send + Sync + 'static,
        change: impl FnOnce(Setup) -> Setup,
    ) -> Bench {
        let keys = Keys::new();
        let config = over.backend.then(|| keys.backend.clone());
        let (sender, seen) = channel();
        let sender = Mutex::new(sender);
        let backend = Backend::serving(sockets::listen_with(options), move |socket| {
            let tls = config.as_ref().map(acceptance);
            let one = play(socket, tls, Stream::OfBackend, &acts());
            let _ = sender.lock().unwrap().send(one);
        });
        let mut setup = Setup::over(&[backend.address]).pool("retries = 0");
        if over.client {
            setup = setup.listener(&keys.terminate());
        }
        if over.backend {
            setup = setup.pool(&keys.reencrypt());
        }
        Bench {
            over,
            keys,
            balancer: Balancer::start(&change(setup)),
            seen,
            _backend: backend,
        }
    }

    fn client(&self, act: &Act) -> (Seen, SocketAddr) {
        self.client_with(Options::default(), act)
    }

    fn client_with(&self, options: Options, act: &Act) -> (Seen, SocketAddr) {
        let socket = sockets::connect_with(self.balancer.address(), options).unwrap();
        let own = socket.local_addr().unwrap();
        (self.client_on(socket, act), own)
    }

    fn client_on(&self, socket: std::net::TcpStream, act: &Act) -> Seen {
        play(socket, self.tls(), Stream::OfClient, act)
    }

    /// What the client needs for TLS.
    fn tls(&self) -> Option<rustls::Connection> {
        let config = &self.keys.client;
        self.over.client.then(|| connection("client.test", config))
    }

    fn backend(&self) -> Seen {
        self.seen
            .recv_timeout(PATIENCE)
            .expect("a connection that is over")
    }
}

/// I1 and I2: what came is the beginning of what was said, and only what is whole ends in order.
#[track_caller]
fn check(client: &Seen, backend: &Seen, told: &str) {
    for (from, to) in [(client, backend), (backend, client)] {
        let told = format!("{told}: from {from:?} to {to:?}");
        assert!(to.intact, "not what was said, {told}");
        assert!(to.taken <= from.sent, "more than was said, {told}");
        assert_ne!(to.end, End::Stuck, "nobody ended it, {told}");
        if to.end == End::Whole {
            assert!(from.whole, "an end that nobody said, {told}");
            assert_eq!(to.taken, from.sent, "a part looks whole, {told}");
        }
    }
}

#[track_caller]
fn check_whole(client: &Seen, backend: &Seen, told: &str) {
    check(client, backend, told);
    let ends = (client.end, backend.end);
    let told = format!("{told}: {client:?} {backend:?}");
    assert_eq!(ends, (End::Whole, End::Whole), "{told}");
}

const LONG: u64 = 6 << 20;

#[test]
fn the_client_says_its_end_and_megabytes_follow_the_other_way() {
    for over in EITHER_WAY {
        let told = format!("{over:?}");
        let answers = Act::new([
            Say::AwaitEnd,
            Say::Pause(ms(200)),
            bytes(LONG),
            Say::Goodbye,
        ]);
        let bench = Bench::new(over, answers);
        let (client, own) = bench.client(&Act::new([bytes(100_000), Say::Goodbye]));
        let backend = bench.backend();
        check_whole(&client, &backend, &told);
        if over.backend {
            assert_eq!(
                backend.then,
                Some(End::Whole),
                "{told}: no FIN behind the close_notify"
            );
        }
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "client_closed", "{record:?}");
        assert_eq!(record.number("bytes_to_backend"), 100_000, "{record:?}");
        assert_eq!(record.number("bytes_to_client"), LONG, "{record:?}");
        assert_eq!(record.text("path"), "tls");
    }
}

#[test]
fn the_backend_says_its_end_and_megabytes_follow_the_other_way() {
    for over in EITHER_WAY {
        let told = format!("{over:?}");
        let bench = Bench::new(over, Act::new([bytes(100_000), Say::Goodbye]));
        let uploads = Act::new([
            Say::AwaitEnd,
            Say::Pause(ms(200)),
            bytes(LONG),
            Say::Goodbye,
        ]);
        let (client, own) = bench.client(&uploads);
        check_whole(&client, &bench.backend(), &told);
        if over.client {
            assert_eq!(
                client.then,
                Some(End::Whole),
                "{told}: no FIN behind the close_notify"
            );
        }
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "backend_closed", "{record:?}");
    }
}

/// A close_notify ends a half by itself; the FIN is the socket's affair.
#[test]
fn a_close_notify_without_a_fin_ends_the_half_as_well() {
    for over in EITHER_WAY.into_iter().filter(|over| over.client) {
        let bench = Bench::new(over, Act::new([Say::AwaitEnd, bytes(3000), Say::Goodbye]));
        let (client, own) = bench.client(&Act::new([bytes(10), Say::CloseNotify]));
        check_whole(&client, &bench.backend(), &format!("{over:?}"));
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "client_closed", "{record:?}");
    }
}

/// A11.
#[test]
fn a_client_that_truncates_its_tls_is_a_reset_to_the_backend() {
    for over in EITHER_WAY.into_iter().filter(|over| over.client) {
        let bench = Bench::new(over, Act::new([Say::AwaitReset]));
        let (client, own) = bench.client(&Act::new([bytes(50_000), Say::Fin]));
        let backend = bench.backend();
        check(&client, &backend, &format!("{over:?}"));
        assert_eq!(backend.taken, 50_000, "what was whole arrives: {backend:?}");
        assert_eq!(backend.end, End::Reset, "{over:?}: {backend:?}");
        assert_ne!(client.end, End::Whole, "{over:?}: {client:?}");
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "client_reset", "{record:?}");
        assert_eq!(record.text("detail"), "tls_truncated", "{record:?}");
    }
}

/// A12.
#[test]
fn a_backend_that_truncates_its_tls_is_a_reset_to_the_client() {
    for over in EITHER_WAY.into_iter().filter(|over| over.backend) {
        let bench = Bench::new(over, Act::new([bytes(50_000), Say::Fin]));
        let (client, own) = bench.client(&Act::new([Say::AwaitReset]));
        let backend = bench.backend();
        check(&client, &backend, &format!("{over:?}"));
        assert_eq!(client.taken, 50_000, "what was whole arrives: {client:?}");
        assert_eq!(client.end, End::Reset, "{over:?}: {client:?}");
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "backend_reset", "{record:?}");
        assert_eq!(record.text("detail"), "tls_truncated", "{record:?}");
    }
}

#[test]
fn a_reset_of_either_side_is_a_reset_to_the_other() {
    for over in EITHER_WAY {
        let told = format!("{over:?}");
        let bench = Bench::new(over, Act::new([bytes(1000), Say::AwaitReset]));
        let resets = Act::new([bytes(9), Say::AwaitTaken(1000), Say::Reset]);
        let (client, own) = bench.client(&resets);
        let backend = bench.backend();
        check(&client, &backend, &told);
        assert_eq!(backend.end, End::Reset, "{told}: {backend:?}");
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "client_reset", "{record:?}");

        let resets = Act::new([bytes(9), Say::AwaitTaken(1000), Say::Reset]);
        let bench = Bench::new(over, resets);
        let (client, own) = bench.client(&Act::new([bytes(1000), Say::AwaitReset]));
        check(&client, &bench.backend(), &told);
        assert_eq!(client.end, End::Reset, "{told}: {client:?}");
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "backend_reset", "{record:?}");
    }
}

/// A10.
#[test]
fn a_slow_client_gets_what_came_before_the_backends_reset_and_then_a_reset() {
    const SENT: u64 = 1 << 20;
    for over in EITHER_WAY {
        let bench = Bench::new(
            over,
            Act::new([bytes(SENT), Say::Pause(ms(500)), Say::Reset]),
        );
        let options = Options {
            receive_buffer: Some(16 * 1024),
            ..Options::default()
        };
        let slow = Act::new([]).taking(Taking::Paced(16 * 1024, ms(10)));
        let (client, own) = bench.client_with(options, &slow);
        check(&client, &bench.backend(), &format!("{over:?}"));
        let record = bench.balancer.record_of(own);
        assert_eq!(client.end, End::Reset, "{over:?}: {client:?}, {record:?}");
        assert_eq!(client.taken, SENT, "{over:?}: {record:?}");
        assert_eq!(record.termination(), "backend_reset", "{record:?}");
    }
}

/// Cuts of either side at any byte of what it has to say, its handshake included.
#[test]
fn no_cut_at_any_byte_ever_looks_complete() {
    const BYTES: u64 = 60_000;
    let rounds: u64 = if cfg!(debug_assertions) { 120 } else { 3000 };
    let talk = |seed: u64| Act {
        seed,
        ..Act::new([
            Say::Bytes {
                bytes: BYTES,
                piece: 9000,
            },
            Say::Goodbye,
        ])
    };
    let thrown = move |seed: u64| {
        let mut dice = Dice::new(seed.wrapping_mul(0x9e37_79b9));
        let (mut client, mut backend) = (talk(seed), talk(!seed));
        let how = [Break::Fin, Break::Reset][dice.below(2) as usize];
        let cut = match dice.below(4) {
            0 => dice.below(3000),
            // About where the end is said.
            1 => BYTES + dice.below(4000),
            _ => dice.below(BYTES),
        };
        match dice.below(2) {
            0 => client.cut = Some((cut, how)),
            _ => backend.cut = Some((cut, how)),
        }
        (client, backend)
    };
    thread::scope(|scope| {
        for over in EITHER_WAY {
            scope.spawn(move || {
                let seed = Arc::new(AtomicU64::new(0));
                let now = seed.clone();
                let acts = move || thrown(now.load(SeqCst)).1;
                let bench = Bench::with(over, Options::default(), acts, |setup| setup);
                let mut cuts = 0;
                for round in 0..rounds {
                    seed.store(round, SeqCst);
                    let told = format!("{over:?}, seed {round}");
                    let (act, _) = thrown(round);
                    let (client, own) = bench.client(&act);
                    assert_ne!(client.end, End::Stuck, "{told}: {client:?}");
                    let record = bench.balancer.record_of(own);
                    if record.number("tries") == 0 {
                        assert!(!client.whole, "{told}: {record:?}");
                        continue;
                    }
                    let backend = bench.backend();
                    let told = format!("{told}: {record:?}");
                    check(&client, &backend, &told);
                    for (from, to) in [(&client, &backend), (&backend, &client)] {
                        if !from.whole && from.end != End::Reset {
                            // It broke off with a FIN, which is no end of TLS.
                            assert_ne!(to.end, End::Whole, "{told}: {to:?}");
                        }
                    }
                    cuts += u64::from(!(client.whole && backend.whole));
                }
                assert!(cuts > rounds / 3, "only {cuts} were cut");
            });
        }
    });
}

#[test]
fn a_session_on_which_nothing_moves_is_reset_at_its_limits() {
    for over in EITHER_WAY {
        for (line, word) in [
            ("idle_timeout = \"1s\"", "idle_timeout"),
            ("max_lifetime = \"1s\"", "max_lifetime"),
        ] {
            let silent = || Act::new([bytes(10), Say::AwaitReset]);
            let bench = Bench::with(over, Options::default(), silent, |setup| {
                setup.listener(line)
            });
            let (client, own) = bench.client(&silent());
            let backend = bench.backend();
            let record = bench.balancer.record_of(own);
            check(&client, &backend, &format!("{over:?}"));
            let ends = (client.end, backend.end);
            assert_eq!(ends, (End::Reset, End::Reset), "{over:?}: {record:?}");
            assert_eq!(record.termination(), word, "{record:?}");
        }
    }
}

/// B1.
#[test]
fn a_reader_slower_than_the_idle_limit_is_not_idle() {
    const SENT: u64 = 600_000;
    for over in EITHER_WAY {
        let act = Act::new([bytes(SENT), Say::Goodbye]);
        let bench = Bench::with(
            over,
            Options::default(),
            move || act.clone(),
            |setup| setup.listener("idle_timeout = \"1s\""),
        );
        let options = Options {
            receive_buffer: Some(4096),
            ..Options::default()
        };
        let slow =
            Act::new([bytes(1), Say::AwaitEnd, Say::Goodbye]).taking(Taking::Paced(2500, ms(12)));
        let begun = Instant::now();
        let (client, own) = bench.client_with(options, &slow);
        let record = bench.balancer.record_of(own);
        assert!(begun.elapsed() > ms(2500), "the reader was not slow");
        assert_eq!(
            (client.taken, client.end),
            (SENT, End::Whole),
            "{over:?}: {record:?}"
        );
        check_whole(&client, &bench.backend(), &format!("{over:?}"));
    }
}

/// Nothing of a record can be passed on before it is whole, but its bytes are a sign of life.
#[test]
fn a_record_that_takes_longer_than_the_idle_limit_arrives() {
    for over in EITHER_WAY.into_iter().filter(|over| over.client) {
        let silent = || Act::new([Say::AwaitEnd, Say::Goodbye]);
        let bench = Bench::with(over, Options::default(), silent, |setup| {
            setup.listener("idle_timeout = \"1s\"")
        });
        let slow = Toxics {
            bytes_per_second: 6000,
            piece: 300,
            ..Toxics::default()
        };
        let near = fault::relay(bench.balancer.address(), move |_| [slow, Toxics::default()]);
        let socket = sockets::connect_with(near.address, Options::default()).unwrap();
        let one_record = Say::Bytes {
            bytes: 16_384,
            // So that all of it is said at once.
            piece: 1 << 40,
        };
        let act = Act::new([one_record, Say::Goodbye]);
        let client = bench.client_on(socket, &act);
        let backend = bench.backend();
        assert_eq!(backend.taken, 16_384, "{:?}", bench.balancer.only_record());
        check_whole(&client, &backend, &format!("{over:?}"));
    }
}

/// B2 and B8: what nobody takes is not taken from the other side either.
#[test]
fn a_reader_that_stops_holds_the_sender_back_until_it_is_cut() {
    for over in EITHER_WAY {
        let options = Options {
            receive_buffer: Some(16 * 1024),
            ..Options::default()
        };
        let stops = || Act::new([]).taking(Taking::Never);
        let limit = "idle_timeout = \"1s\"";
        let bench = Bench::with(over, options, stops, |setup| setup.listener(limit));
        let (client, own) = bench.client(&Act::new([bytes(1 << 30)]));
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "idle_timeout", "{record:?}");
        assert_eq!(record.text("detail"), "backend_not_reading", "{record:?}");
        assert_eq!(client.end, End::Reset);
        // What fits the kernel's buffers on the way.
        assert!(
            client.sent < 32 << 20,
            "{over:?}: {} bytes were taken",
            client.sent
        );
        check(&client, &bench.backend(), &format!("{over:?}"));
    }
}

#[test]
fn a_drain_ends_sessions_over_tls() {
    for over in EITHER_WAY {
        let silent = Act::new([bytes(10), Say::AwaitReset]);
        let bench = Bench::new(over, silent.clone());
        let socket = sockets::connect_with(bench.balancer.address(), Options::default()).unwrap();
        let tls = bench.tls();
        let client = thread::spawn(move || play(socket, tls, Stream::OfClient, &silent));
        wait::until("the session stands", || {
            bench.balancer.backend("b0") == (1, 1)
        });
        bench.balancer.drain(ms(300));
        let seen = client.join().unwrap();
        assert_eq!(seen.end, End::Reset, "{over:?}: {seen:?}");
        assert_eq!(bench.backend().end, End::Reset);
        let records = bench.balancer.ended();
        assert_eq!(records[0].termination(), "drained", "{records:?}");
    }
}

#[test]
fn megabytes_go_both_ways_at_once() {
    for over in EITHER_WAY {
        let talks = |seed| Act {
            seed,
            ..Act::new([bytes(20 << 20), Say::Goodbye])
        };
        let bench = Bench::new(over, talks(5));
        let (client, _) = bench.client(&talks(6));
        check_whole(&client, &bench.backend(), &format!("{over:?}"));
    }
}

/// Of both sides, in the middle of what either says.
#[test]
fn new_keys_change_nothing_of_what_is_said() {
    let talks = || {
        let mut say = Vec::new();
        for _ in 0..20 {
            say.extend([bytes(60_000), Say::NewKeys]);
        }
        say.push(Say::Goodbye);
        Act::new(say)
    };
    for over in EITHER_WAY {
        let bench = Bench::new(over, talks());
        let (client, _) = bench.client(&talks());
        check_whole(&client, &bench.backend(), &format!("{over:?}"));
    }
}

#[test]
fn records_of_one_byte_are_said_again_in_order() {
    let talks = || {
        let drops = Say::Bytes {
            bytes: 3000,
            piece: 1,
        };
        Act::new([drops, Say::Goodbye])
    };
    for over in EITHER_WAY {
        let bench = Bench::new(over, talks());
        let (client, _) = bench.client(&talks());
        check_whole(&client, &bench.backend(), &format!("{over:?}"));
    }
}

/// The client's side comes in single bytes, both its handshake and what it says.
#[test]
fn a_client_whose_bytes_come_one_by_one_is_understood() {
    for over in EITHER_WAY.into_iter().filter(|over| over.client) {
        let talks = Act::new([bytes(2000), Say::Goodbye]);
        let bench = Bench::new(over, talks.clone());
        let dribble = Toxics {
            piece: 1,
            latency: Duration::from_micros(20),
            ..Toxics::default()
        };
        let near = fault::relay(bench.balancer.address(), move |_| [dribble; 2]);
        let socket = sockets::connect_with(near.address, Options::default()).unwrap();
        let client = bench.client_on(socket, &talks);
        check_whole(&client, &bench.backend(), &format!("{over:?}"));
    }
}

/// A ticket that is of no use to it would be answered with a reset, which would cut off a backend
/// that does nothing wrong.
#[test]
fn a_client_that_has_said_all_and_gone_is_not_spoken_to() {
    for over in EITHER_WAY.into_iter().filter(|over| over.client) {
        let late = Act::new([Say::AwaitEnd, Say::Pause(ms(1800)), Say::Fin]);
        let late = match over.backend {
            true => Act::new([late.say[0], late.say[1], Say::Goodbye]),
            false => late,
        };
        let bench = Bench::new(over, late);
        let mut client = tls::connect(bench.balancer.address(), "client.test", &bench.keys.client);
        let own = client.sock.local_addr().unwrap();
        client.write_all(b"said").unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        drop(client);
        let backend = bench.backend();
        assert_eq!((backend.taken, backend.end), (4, End::Whole), "{backend:?}");
        assert_ne!(backend.then, Some(End::Reset), "{backend:?}");
        let record = bench.balancer.record_of(own);
        assert_eq!(
            record.termination(),
            "client_closed",
            "{over:?}: {record:?}"
        );
    }
}

/// Two records, of which the second breaks into the message that the first began.
#[test]
fn a_client_that_interrupts_itself_in_its_handshake_is_refused_like_any_other() {
    let bench = Bench::new(EITHER_WAY[0], Act::new([]));
    let config = Arc::new(bench.keys.authority.client_of(&[&TLS12]));
    let mut socket = sockets::connect_with(bench.balancer.address(), Options::default()).unwrap();
    let own = socket.local_addr().unwrap();
    let hello = tls::hello_of(&config, "client.test");
    socket.write_all(&hello).unwrap();
    // The server's flight has begun.
    socket.read_exact(&mut [0; 5]).unwrap();
    // Two bytes of a ClientKeyExchange, then an alert.
    let broken = b"\x16\x03\x03\x00\x02\x10\x00\x15\x03\x03\x00\x02\x01\x5a";
    socket.write_all(broken).unwrap();
    let record = bench.balancer.record_of(own);
    assert_eq!(record.termination(), "tls_failed", "{record:?}");
    assert_eq!(record.text("detail"), "protocol", "{record:?}");
}

/// Both come with one read. Nothing follows that would wake the session once more.
#[test]
fn what_came_ahead_of_a_broken_record_arrives_before_the_reset() {
    for over in EITHER_WAY.into_iter().filter(|over| over.client) {
        let bench = Bench::new(over, Act::new([Say::AwaitReset]));
        let mut client = tls::connect(bench.balancer.address(), "client.test", &bench.keys.client);
        let own = client.sock.local_addr().unwrap();
        tls::handshake(&mut client).unwrap();
        let mut said = Vec::new();
        for piece in [Stream::OfClient.bytes_at(0, 100), b"broken"] {
            client.conn.writer().write_all(piece).unwrap();
            while client.conn.wants_write() {
                client.conn.write_tls(&mut said).unwrap();
            }
        }
        *said.last_mut().unwrap() ^= 1;
        client.sock.write_all(&said).unwrap();
        let backend = bench.backend();
        assert_eq!(
            (backend.taken, backend.end),
            (100, End::Reset),
            "{over:?}: {backend:?}"
        );
        assert!(backend.intact);
        let record = bench.balancer.record_of(own);
        assert_eq!(record.termination(), "tls_failed", "{record:?}");
        assert_eq!(record.text("detail"), "bad_record", "{record:?}");
        let told = client.read(&mut [0]).unwrap_err();
        assert_eq!(
            tls::alert(&told),
            Some(rustls::AlertDescription::BadRecordMac)
        );
    }
}
