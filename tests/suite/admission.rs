//! Who is let in: networks, limits of a source, of a listener and of the process, all of them
//! exact over workers, and C6 of the fault catalogue.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Barrier;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::child;
use crate::harness::machine;
use crate::harness::peer::Backend;
use crate::harness::record::Record;
use crate::harness::sockets::{self, Options, Refusing};
use crate::harness::wait;

/// The client with this address, of which the loopback device has sixteen million.
fn source(last: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, last).into()
}

/// What came of a connect and a byte that should be echoed.
#[derive(Debug)]
enum Answer {
    Served(TcpStream),
    /// By reset; where the client's own end was.
    Refused(SocketAddr),
}

impl Answer {
    fn served(self) -> TcpStream {
        match self {
            Answer::Served(socket) => socket,
            Answer::Refused(client) => panic!("{client} was refused"),
        }
    }

    fn refused(self) -> SocketAddr {
        match self {
            Answer::Served(socket) => panic!("{socket:?} was served"),
            Answer::Refused(client) => client,
        }
    }
}

/// Panics at an end in order: who is refused is told by a reset.
fn knock(to: SocketAddr, from: IpAddr) -> Answer {
    let options = Options {
        source: Some(SocketAddr::new(from, 0)),
        ..Options::default()
    };
    let socket = sockets::prepared(to, options).unwrap();
    let own = rustix::net::getsockname(&socket).unwrap();
    let own = SocketAddr::try_from(own).unwrap();
    // Under load the reset may be faster than the connect comes back.
    match rustix::net::connect(&socket, &to) {
        Err(Errno::CONNRESET) => return Answer::Refused(own),
        connected => connected.unwrap(),
    }
    let mut socket = TcpStream::from(socket);
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    // The kernel tells of a reset once: the write when it was faster than that, else the read.
    let written = socket.write_all(b"x");
    match written.and_then(|()| socket.read(&mut [0])) {
        Ok(1) => Answer::Served(socket),
        Ok(_) => panic!("{own} was told of an end in order"),
        Err(error) => {
            let kinds = [ErrorKind::ConnectionReset, ErrorKind::BrokenPipe];
            assert!(kinds.contains(&error.kind()), "{own}: {error}");
            Answer::Refused(own)
        }
    }
}

fn word(record: &Record) -> (&str, &str, &str) {
    let fields = ["termination", "phase", "detail"];
    let [termination, phase, detail] = fields.map(|field| record.text(field));
    (termination, phase, detail)
}

#[test]
fn a_denied_client_is_reset_at_once_and_no_backend_hears_of_it() {
    let backend = Backend::echo();
    let setup = Setup::over(&[backend.address]).listener("deny = [\"127.0.0.0/30\"]");
    let lbd = Balancer::start(&setup);
    let denied = knock(lbd.address(), source(2)).refused();
    let record = lbd.record_of(denied);
    assert_eq!(word(&record), ("denied", "preface", ""));
    assert_eq!((record.text("backend"), record.number("tries")), ("", 0));
    let state = lbd.state();
    assert_eq!(
        (state.listeners[0].active, state.listeners[0].total),
        (0, 1)
    );
    assert_eq!((backend.accepted(), lbd.backend("b0")), (0, (0, 0)));
    drop(knock(lbd.address(), source(4)).served());
}

/// Where no backend is to be had either, the word is still that of the denial.
#[test]
fn a_client_is_denied_before_any_backend_is_looked_at() {
    let nobody = Refusing::new();
    let setup = Setup::over(&[nobody.address]).listener("deny = [\"127.0.0.2\"]");
    let lbd = Balancer::start(&setup);
    let denied = knock(lbd.address(), source(2)).refused();
    assert_eq!(lbd.record_of(denied).termination(), "denied");
    let other = knock(lbd.address(), source(1)).refused();
    assert_eq!(lbd.record_of(other).termination(), "connect_failed");
    assert_eq!(lbd.state().pools[0].backends[0].failures, 1);
}

#[test]
fn the_longest_prefix_of_both_lists_decides() {
    let backend = Backend::echo();
    let setup = Setup::over(&[backend.address])
        .listener("allow = [\"127.0.0.0/28\", \"127.0.0.9\", \"2001:db8::/32\"]")
        .listener("deny = [\"127.0.0.8/29\"]");
    let lbd = Balancer::start(&setup);
    for (last, served) in [
        (1, true),
        (7, true),
        (8, false),
        (9, true),
        (10, false),
        (16, false),
    ] {
        let answer = knock(lbd.address(), source(last));
        assert_eq!(
            matches!(answer, Answer::Served(_)),
            served,
            "127.0.0.{last}"
        );
    }
}

#[test]
fn an_ipv4_client_of_a_dual_stack_listener_is_looked_up_as_one() {
    let backend = Backend::echo();
    let setup = Setup {
        bind: "[::]:0".to_owned(),
        ..Setup::over(&[backend.address])
    };
    let lbd = Balancer::start(&setup.listener("allow = [\"127.0.0.0/8\"]"));
    let port = lbd.address().port();
    drop(knock((Ipv4Addr::LOCALHOST, port).into(), source(1)).served());
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, port));
    let denied = knock(six, six.ip()).refused();
    assert_eq!(lbd.record_of(denied).termination(), "denied");
}

#[test]
fn clients_on_unix_sockets_are_not_asked_for_an_address() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("front");
    let setup = Setup {
        bind: format!("unix:{}", path.display()),
        ..Setup::over(&[backend.address])
    };
    let limits = "per_source = { connections = 1, rate = \"1/1h\" }";
    let lbd = Balancer::start(&setup.listener("allow = [\"10.0.0.0/8\"]").listener(limits));
    let clients: Vec<UnixStream> = (0..3)
        .map(|_| {
            let mut client = UnixStream::connect(&path).unwrap();
            client.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
            client
        })
        .collect();
    assert_eq!(lbd.active(), 3);
    drop(clients);
}

#[test]
fn a_reload_reads_files_of_networks_again_and_leaves_sessions_alone() {
    let backend = Backend::echo();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ours.txt");
    std::fs::write(&file, "# at first\n127.0.0.2\n").unwrap();
    let line = format!("allow_file = \"{}\"", file.display());
    let setup = Setup::over(&[backend.address]).listener(&line);
    let lbd = Balancer::start(&setup);
    let mut old = knock(lbd.address(), source(2)).served();
    knock(lbd.address(), source(3)).refused();
    std::fs::write(&file, "127.0.0.3\n").unwrap();
    lbd.reload(&setup).unwrap();
    drop(knock(lbd.address(), source(3)).served());
    knock(lbd.address(), source(2)).refused();
    old.write_all(b"y").unwrap();
    old.read_exact(&mut [0]).unwrap();
}

/// C6.
#[test]
fn one_source_cannot_take_all_connections_there_may_be() {
    let backend = Backend::echo();
    let setup = Setup::over(&[backend.address])
        .global("max_connections = 20")
        .listener("max_connections = 10")
        .listener("per_source = { connections = 4 }");
    let lbd = Balancer::start(&setup);
    let mut greedy = Vec::new();
    for _ in 0..4 {
        greedy.push(knock(lbd.address(), source(2)).served());
    }
    for _ in 0..50 {
        let refused = knock(lbd.address(), source(2)).refused();
        let record = lbd.record_of(refused);
        assert_eq!(word(&record), ("source_limit", "preface", "connections"));
    }
    let others: Vec<_> = (3..9)
        .map(|last| knock(lbd.address(), source(last)).served())
        .collect();
    assert_eq!(lbd.active(), 10);
    assert_eq!(backend.accepted(), 10);
    // A place is given back by however a session ends: in order, or by a reset.
    drop(greedy.pop());
    sockets::reset(greedy.pop().unwrap());
    wait::until("two places are given back", || lbd.active() == 8);
    greedy.push(knock(lbd.address(), source(2)).served());
    greedy.push(knock(lbd.address(), source(2)).served());
    knock(lbd.address(), source(2)).refused();
    drop((greedy, others));
}

#[test]
fn new_connections_beyond_the_rate_are_refused_and_other_sources_are_served() {
    let backend = Backend::echo();
    let limits = "per_source = { rate = \"1/1h\", burst = 5, v4_prefix = 30 }";
    let lbd = Balancer::start(&Setup::over(&[backend.address]).listener(limits));
    // 127.0.0.4 to 127.0.0.7 are one source.
    for at in 0..5 {
        drop(knock(lbd.address(), source(4 + at % 4)).served());
    }
    for at in 0..8 {
        let refused = knock(lbd.address(), source(4 + at % 4)).refused();
        assert_eq!(
            word(&lbd.record_of(refused)),
            ("source_limit", "preface", "rate")
        );
    }
    drop(knock(lbd.address(), source(8)).served());
}

/// The limit of the listener comes after that of the source; what it refuses cost no token.
#[test]
fn who_another_limit_refuses_has_taken_nothing_of_his_source() {
    let backend = Backend::echo();
    let setup = Setup::over(&[backend.address])
        .listener("max_connections = 1")
        .listener("per_source = { connections = 2, rate = \"2/1h\" }");
    let lbd = Balancer::start(&setup);
    let reason = |answer: Answer| {
        let record = lbd.record_of(answer.refused());
        (
            record.termination().to_owned(),
            record.text("detail").to_owned(),
        )
    };
    let knock = || knock(lbd.address(), source(2));
    let listener_limit = ("listener_limit".to_owned(), String::new());
    let first = knock().served();
    for _ in 0..10 {
        assert_eq!(reason(knock()), listener_limit);
    }
    drop(first);
    wait::until("its place is free", || lbd.active() == 0);
    let second = knock().served();
    assert_eq!(reason(knock()).1, "rate");
    drop(second);
}

#[test]
fn counts_of_sources_outlive_a_reload_and_other_limits_apply_to_them() {
    let backend = Backend::echo();
    let with = |limits: &str| {
        Setup::over(&[backend.address]).listener(&format!("per_source = {{ {limits} }}"))
    };
    let lbd = Balancer::start(&with("connections = 2, rate = \"3/1h\""));
    let knock = || knock(lbd.address(), source(2));
    let reason = |answer: Answer| lbd.record_of(answer.refused()).text("detail").to_owned();
    let mut clients = vec![knock().served(), knock().served()];
    assert_eq!(reason(knock()), "connections");
    lbd.reload(&with("connections = 3, rate = \"3/1h\""))
        .unwrap();
    clients.push(knock().served());
    assert_eq!(reason(knock()), "connections");
    clients.pop();
    wait::until("a place is free", || lbd.active() == 2);
    assert_eq!(reason(knock()), "rate");
    lbd.reload(&with("connections = 1, rate = \"3/1h\", burst = 5"))
        .unwrap();
    assert_eq!(reason(knock()), "connections");
    lbd.reload(&with("rate = \"3/1h\", burst = 5")).unwrap();
    clients.push(knock().served());
    clients.push(knock().served());
    assert_eq!(reason(knock()), "rate");
    // Without limits nothing is counted; with them again, counting begins anew.
    lbd.reload(&with("")).unwrap();
    clients.push(knock().served());
    lbd.reload(&with("connections = 1")).unwrap();
    clients.push(knock().served());
    assert_eq!(reason(knock()), "connections");
}

/// Two hundred at the same moment, over four workers: as many as the limit says, not four times
/// as many and not one less.
#[test]
fn limits_are_exact_over_workers_and_not_multiplied_by_them() {
    const CLIENTS: usize = 200;
    const LIMIT: usize = 50;
    let cases = [
        ("max_connections = 50", "", "process_limit", ""),
        ("", "max_connections = 50", "listener_limit", ""),
        (
            "",
            "per_source = { connections = 50 }",
            "source_limit",
            "connections",
        ),
        (
            "",
            "per_source = { rate = \"50/1h\" }",
            "source_limit",
            "rate",
        ),
    ];
    for (global, listener, termination, detail) in cases {
        let backend = Backend::echo();
        let setup = Setup {
            workers: 4,
            ..Setup::over(&[backend.address])
        };
        let lbd = Balancer::start(&setup.global(global).listener(listener));
        let to = lbd.address();
        for round in 0..2 {
            let begin = Barrier::new(CLIENTS);
            let answers: Vec<Answer> = thread::scope(|scope| {
                let clients: Vec<_> = (0..CLIENTS)
                    .map(|_| {
                        scope.spawn(|| {
                            begin.wait();
                            knock(to, source(1))
                        })
                    })
                    .collect();
                clients.into_iter().map(|one| one.join().unwrap()).collect()
            });
            let (served, refused): (Vec<_>, Vec<_>) = answers
                .into_iter()
                .partition(|answer| matches!(answer, Answer::Served(_)));
            // Of the rate nothing has come back for the second round.
            let expected = if detail == "rate" && round == 1 {
                0
            } else {
                LIMIT
            };
            assert_eq!(served.len(), expected, "{global}{listener}");
            assert_eq!(lbd.active() as usize, expected, "{global}{listener}");
            let client = refused.into_iter().next().unwrap().refused();
            let record = lbd.record_of(client);
            assert_eq!(word(&record), (termination, "preface", detail));
            drop(served);
            wait::until("all places are free again", || lbd.active() == 0);
        }
    }
}

/// A storm of clients that are refused never makes the place missing that another one could have.
#[test]
fn who_is_refused_takes_nobodys_place() {
    let cases = [
        ("max_connections = 2", "deny = [\"127.0.0.2\"]"),
        ("", "max_connections = 2\ndeny = [\"127.0.0.2\"]"),
        (
            "max_connections = 2",
            "max_connections = 2\nper_source = { connections = 1, v4_prefix = 31 }",
        ),
    ];
    for (global, listener) in cases {
        let backend = Backend::echo();
        let setup = Setup {
            workers: 4,
            ..Setup::over(&[backend.address])
        };
        let lbd = Balancer::start(&setup.global(global).listener(listener));
        let to = lbd.address();
        // Of the same source as the storm where sources are counted.
        let held = knock(to, source(3)).served();
        let over = AtomicBool::new(false);
        thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !over.load(SeqCst) {
                        knock(to, source(2)).refused();
                    }
                });
            }
            let mut refused = 0;
            for _ in 0..100 {
                match knock(to, source(4)) {
                    Answer::Served(socket) => drop(socket),
                    Answer::Refused(_) => refused += 1,
                }
                wait::until("its place is free", || lbd.active() == 1);
            }
            over.store(true, SeqCst);
            assert_eq!(refused, 0, "{global} {listener}");
        });
        drop(held);
    }
}

/// 1500 clients at once through one listener: there is no ceiling at 1024 descriptors, events or
/// anything.
#[test]
fn fifteen_hundred_connections_are_served_at_once() {
    const CLIENTS: usize = 1500;
    let name = "admission::fifteen_hundred_connections_are_served_at_once";
    // Four ends of each are in this process.
    let most = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    if most < 4 * CLIENTS as u64 + 500 {
        return machine::skipped(name, &format!("only {most} descriptors are allowed"));
    }
    child::alone(name, || {
        let listener = sockets::listen_with(Options::default());
        let address = listener.local_addr().unwrap();
        // No thread for each: greets whoever comes, then echoes a byte of each of them.
        let backend = thread::spawn(move || {
            let accepted = (0..CLIENTS).map(|_| {
                let (mut socket, _) = listener.accept().unwrap();
                socket.write_all(b"h").unwrap();
                socket
            });
            let mut accepted: Vec<TcpStream> = accepted.collect();
            for socket in &mut accepted {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                socket.write_all(&byte).unwrap();
            }
            for socket in &mut accepted {
                assert_eq!(socket.read(&mut [0]).unwrap(), 0);
            }
        });
        // Starting it raises the soft limit as far as so many connections need.
        let limits = "max_connections = 3000\nper_source = { connections = 3000 }";
        let setup = Setup::over(&[address])
            .global("max_connections = 3000")
            .listener(limits);
        let lbd = Balancer::start(&setup);
        let mut clients: Vec<TcpStream> = (0..CLIENTS)
            .map(|_| {
                let mut client = TcpStream::connect(lbd.address()).unwrap();
                client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                client.read_exact(&mut [0]).unwrap();
                client
            })
            .collect();
        assert_eq!(lbd.active() as usize, CLIENTS);
        for client in &mut clients {
            client.write_all(b"x").unwrap();
        }
        for client in &mut clients {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            assert_eq!(byte, *b"x");
        }
        drop(clients);
        backend.join().unwrap();
    });
}
