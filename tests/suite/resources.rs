//! Group C of the fault catalogue: accepting under shortage, system calls that fail, and that
//! nothing is used up or spun away. Everything here has a process of its own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::child;
use crate::harness::machine::{self, cpu_time, descriptors, resident_bytes, threads};
use crate::harness::peer::{self, Backend, End};
use crate::harness::process::{Process, Start};
use crate::harness::script::{Script, Send, Take};
use crate::harness::sockets::{self, Options};
use crate::harness::wait;

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// One echoed byte; false when the connection was refused or broke.
fn echoed(address: SocketAddr) -> bool {
    let Ok(mut socket) = TcpStream::connect(address) else {
        return false;
    };
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut byte = [0];
    socket.write_all(b"x").is_ok() && matches!(socket.read(&mut byte), Ok(1))
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

/// What strace(1) is put in front with, or none where it is not installed.
fn tracing(test: &str, what: &str) -> Option<Vec<String>> {
    let strace = machine::program("strace");
    if strace.is_none() {
        machine::skipped(test, "strace is not installed");
    }
    Some(words(&format!("{} -f -qq -o /dev/null {what}", strace?)))
}

/// C1 with two listeners, whose clients come in the same moment.
#[test]
fn out_of_descriptors_accepting_pauses_and_recovers_by_itself() {
    let name = "resources::out_of_descriptors_accepting_pauses_and_recovers_by_itself";
    let Some(prlimit) = machine::program("prlimit") else {
        return machine::skipped(name, "prlimit(1) is not installed");
    };
    let backend = Backend::echo();
    let mut setup = Setup::over(&[backend.address]);
    let second = crate::harness::process::free_port();
    setup.more = format!("[[listener]]\nname = \"two\"\nbind = \"{second}\"\npool = \"out\"\n");
    let mut lbd = Process::start(&setup);
    wait::until("it has started", || {
        lbd.errors().matches("\"listening\"").count() == 2
    });
    // Lowered behind its back, so that what it reckoned with at the start is not there.
    let limit = ["--pid", &lbd.proc(), "--nofile=64:64"];
    assert!(
        Command::new(prlimit)
            .args(limit)
            .status()
            .unwrap()
            .success()
    );

    let mut clients = Vec::new();
    for at in 0..200 {
        let to = if at % 2 == 0 { lbd.address } else { second };
        clients.push(sockets::connect_with(to, Options::default()).unwrap());
    }
    wait::until("descriptors ran out", || descriptors(&lbd.proc()) >= 63);
    // I6: waiting for descriptors is not spinning.
    let before = cpu_time(&lbd.proc());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_time(&lbd.proc()) - before;
    assert!(
        used <= ms(100),
        "{used:?} of processor time in two seconds of shortage"
    );
    assert!(lbd.is_alive(), "it gave up: {}", lbd.errors());
    // Two workers, each at most once a second, over a little more than two seconds.
    let told = lbd.errors().matches("accepting pauses").count();
    assert!(told <= 8, "told {told} times: {}", lbd.errors());
    // With an odd number left, the last client is accepted and has no backend: its record says so.
    let refused = lbd.records();
    let refused = refused
        .iter()
        .filter(|record| record.text("detail") == "local_descriptors");
    let refused = refused.count();
    assert!(
        told + refused > 0,
        "the shortage is named nowhere: {}",
        lbd.errors()
    );

    clients.clear();
    let begun = std::time::Instant::now();
    for to in [lbd.address, second] {
        wait::until("clients are served again", || echoed(to));
    }
    let recovered = begun.elapsed();
    assert!(
        recovered < Duration::from_secs(1),
        "served again after {recovered:?}"
    );
    assert!(lbd.is_alive());
}

/// C2.
#[test]
fn an_accept_that_fails_is_tried_again_whatever_the_error() {
    let name = "resources::an_accept_that_fails_is_tried_again_whatever_the_error";
    let errors = [
        "EMFILE",
        "ENFILE",
        "ENOBUFS",
        "ENOMEM",
        "ECONNABORTED",
        "EPROTO",
        "EPERM",
        "EINTR",
        "ENETDOWN",
        "EHOSTUNREACH",
    ];
    let backend = Backend::echo();
    for error in errors {
        let inject = format!("-e trace=accept4 -e inject=accept4:error={error}:when=1..4");
        let Some(under) = tracing(name, &inject) else {
            return;
        };
        let setup = Setup {
            workers: 1,
            ..Setup::over(&[backend.address])
        };
        let mut lbd = Process::start_with(
            &setup,
            &Start {
                under: &under,
                ..Start::default()
            },
        );
        assert!(echoed(lbd.address), "{error}: not served, {}", lbd.errors());
        assert!(echoed(lbd.address), "{error}: not served the second time");
        assert!(lbd.is_alive(), "{error}: it gave up: {}", lbd.errors());
    }
}

/// C3: what this machine lacks is not held against the backend.
#[test]
fn a_connect_that_fails_for_want_of_local_means_blames_no_backend() {
    let name = "resources::a_connect_that_fails_for_want_of_local_means_blames_no_backend";
    let calls = [
        ("socket", "EMFILE"),
        ("connect", "EADDRNOTAVAIL"),
        ("connect", "EPERM"),
    ];
    for (call, error) in calls {
        let backend = Backend::echo();
        // The first IPv4 sockets are those that listen; the rule begins behind them.
        let when = if call == "socket" { "3..5" } else { "1..3" };
        let inject = format!("-e trace={call} -e inject={call}:error={error}:when={when}");
        let Some(under) = tracing(name, &inject) else {
            return;
        };
        let setup = Setup {
            workers: 1,
            ..Setup::over(&[backend.address])
        }
        .pool("ejection = { connect_failures = 1, base = \"60s\", max = \"60s\" }");
        let mut lbd = Process::start_with(
            &setup,
            &Start {
                under: &under,
                ..Start::default()
            },
        );
        let served = (0..8).filter(|_| echoed(lbd.address)).count();
        assert!(
            (2..8).contains(&served),
            "{call} {error}: {served} of 8, {:?}",
            lbd.records()
        );
        let failed = wait::until_some("a failure is written", || {
            let mut records = lbd.records().into_iter();
            records.find(|record| record.termination() == "connect_failed")
        });
        let detail = failed.text("detail");
        assert!(
            detail.starts_with("local_") || detail == "not_permitted",
            "{detail}"
        );
        assert!(lbd.is_alive());
    }
}

/// Twenty ports for whoever connects without saying from where, until it is dropped: a backend
/// of the harness ends by a connect, which would fail for ever after a failed test.
struct FewPorts;

const PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

impl FewPorts {
    fn new() -> Self {
        std::fs::write(PORT_RANGE, "50000 50019").unwrap();
        FewPorts
    }
}

impl Drop for FewPorts {
    fn drop(&mut self) {
        let _ = std::fs::write(PORT_RANGE, "32768 60999");
    }
}

/// C9: twenty ports for connections to backends.
#[test]
fn out_of_local_ports_no_backend_is_held_to_have_failed() {
    child::in_own_network(
        "resources::out_of_local_ports_no_backend_is_held_to_have_failed",
        || {
            let backend = Backend::echo();
            let setup = Setup::over(&[backend.address]).pool("ejection = { connect_failures = 1 }");
            let balancer = Balancer::start(&setup);
            let ports = FewPorts::new();
            let from = |port: u16| Options {
                source: Some(SocketAddr::from(([127, 0, 0, 2], 20_000 + port))),
                ..Options::default()
            };
            let clients: Vec<_> = (0..60)
                .map(|port| sockets::connect_with(balancer.address(), from(port)).unwrap())
                .collect();
            wait::until("the rest is refused", || balancer.records().len() == 40);
            for record in balancer.records() {
                assert_eq!(record.termination(), "connect_failed", "{record:?}");
                assert_eq!(record.text("detail"), "local_ports", "{record:?}");
            }
            assert_eq!(balancer.state().pools[0].backends[0].failures, 0);
            drop(clients);
            wait::until("all are over", || balancer.active() == 0);
            drop(ports);
            assert!(echoed(balancer.address()));
        },
    );
}

/// C9: a connection is known by both its ends, so another backend has ports left.
#[test]
fn out_of_local_ports_for_one_backend_another_is_taken() {
    child::in_own_network(
        "resources::out_of_local_ports_for_one_backend_another_is_taken",
        || {
            let backends = [Backend::echo(), Backend::echo()];
            let addresses = [backends[0].address, backends[1].address];
            let pool = "policy = \"failover\"\nejection = { connect_failures = 1 }";
            let balancer = Balancer::start(&Setup::over(&addresses).pool(pool));
            let ports = FewPorts::new();
            let mut clients = Vec::new();
            for at in 0..35_u16 {
                let source = SocketAddr::from(([127, 0, 0, 2], 20_000 + at));
                let options = Options {
                    source: Some(source),
                    ..Options::default()
                };
                let mut client = sockets::connect_with(balancer.address(), options).unwrap();
                client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
                client.write_all(b"x").unwrap();
                assert_eq!(client.read(&mut [0]).unwrap(), 1, "client {at}");
                clients.push(client);
            }
            let (first, second) = (balancer.backend("b0").0, balancer.backend("b1").0);
            assert_eq!((first, second), (20, 15));
            for backend in &balancer.state().pools[0].backends {
                assert_eq!(backend.failures, 0, "{}", backend.name);
                assert_eq!(backend.state.as_str(), "up", "{}", backend.name);
            }
            drop(clients);
            wait::until("all are over", || balancer.active() == 0);
            drop(ports);
        },
    );
}

/// C10 and C11: every way in which splicing can be refused ends in copying. EAGAIN is not among
/// them: an injected one takes away the readiness that the kernel would tell of again.
#[test]
fn bytes_arrive_whole_when_the_kernel_refuses_to_splice() {
    let name = "resources::bytes_arrive_whole_when_the_kernel_refuses_to_splice";
    const BYTES: u64 = 12 << 20;
    let refusals = [
        "splice:error=EINVAL",
        "splice:error=ENOSYS",
        "splice:error=EINVAL:when=2+2",
        "splice:error=EINTR:when=1+3",
        "pipe2:error=EMFILE",
        "pipe2:error=ENFILE:when=2+",
    ];
    for refusal in refusals {
        let late = Take::Pause(ms(100));
        let script = Script::new([Send::Bytes(BYTES), Send::Fin], [late, Take::ToEnd]);
        let backend = Backend::new(&script);
        let call = refusal.split(':').next().unwrap();
        let Some(under) = tracing(name, &format!("-e trace={call} -e inject={refusal}")) else {
            return;
        };
        let setup = Setup::over(&[backend.address]).listener("idle_timeout = \"10s\"");
        let lbd = Process::start_with(
            &setup,
            &Start {
                under: &under,
                ..Start::default()
            },
        );
        let client = peer::client(lbd.address, &script);
        let served = backend.seen_once();
        let told = format!("{refusal}: {client:?} {served:?}");
        assert!(client.intact && served.intact, "{told}");
        assert_eq!((client.taken, client.end), (BYTES, End::Fin), "{told}");
        assert_eq!((served.taken, served.end), (BYTES, End::Fin), "{told}");
    }
}

/// C13, shortened, and I4 and I5.
#[test]
fn twenty_thousand_short_connections_leave_nothing_behind() {
    let backend = Backend::serving(sockets::listen_with(Options::default()), |mut socket| {
        let mut byte = [0];
        let _ = socket.read(&mut byte).and_then(|_| socket.write(&byte));
    });
    let lbd = Process::start(&Setup::over(&[backend.address]));
    let round = |count: u64| {
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..count / 4 {
                        assert!(echoed(lbd.address));
                    }
                });
            }
        });
    };
    // The first thousands fill what is kept for reuse: lanes of the log, places, arenas.
    round(4_000);
    let settled = || {
        wait::until("all are written", || {
            let lines = std::fs::read(lbd.log()).map_or(0, |log| {
                log.iter().filter(|byte| **byte == b'\n').count() as u64
            });
            lines == backend.accepted()
        })
    };
    settled();
    let before = (descriptors(&lbd.proc()), threads(&lbd.proc()));
    let memory = resident_bytes(&lbd.proc());
    round(16_000);
    settled();
    wait::until("descriptors and threads are as before", || {
        (descriptors(&lbd.proc()), threads(&lbd.proc())) == before
    });
    let grown = resident_bytes(&lbd.proc()) as f64 / memory as f64;
    assert!(
        grown < 1.05,
        "memory grew to {grown:.3} of what it was ({memory} bytes)"
    );
}

/// C14: no thread can be made.
#[test]
fn a_worker_that_cannot_be_started_is_a_clear_error() {
    let name = "resources::a_worker_that_cannot_be_started_is_a_clear_error";
    let Some(under) = tracing(
        name,
        "-e trace=clone3,clone -e inject=clone3,clone:error=EAGAIN",
    ) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("lb.toml");
    let backend = Backend::echo();
    std::fs::write(&config, Setup::over(&[backend.address]).toml("stdout")).unwrap();
    let ended = Command::new(&under[0])
        .args(&under[1..])
        .arg(env!("CARGO_BIN_EXE_lbd"))
        .arg("--config")
        .arg(&config)
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success(), "{told}");
    assert!(!told.contains("panicked"), "{told}");
    assert!(!told.trim().is_empty(), "it said nothing");
}

/// I6: sessions that are open and silent cost nothing.
#[test]
fn nothing_is_spent_while_nothing_moves() {
    let backend = Backend::new(&Script::new([Send::Bytes(300_000)], [Take::ToEnd]));
    let lbd = Process::start(&Setup::over(&[backend.address]));
    let clients: Vec<TcpStream> = (0..50)
        .map(|at| {
            let mut client = sockets::connect_with(lbd.address, Options::default()).unwrap();
            // Some say something, some only listen, some have closed their half, and half of
            // them never read what was sent to them.
            match at % 4 {
                0 => client.write_all(b"hello").unwrap(),
                1 => client.shutdown(std::net::Shutdown::Write).unwrap(),
                2 => client.read_exact(&mut [0; 300_000]).unwrap(),
                _ => {}
            }
            client
        })
        .collect();
    wait::until("all are connected", || backend.accepted() == 50);
    // Behind the first look at deadlines, a second after the start.
    std::thread::sleep(ms(1500));
    let before = cpu_time(&lbd.proc());
    std::thread::sleep(Duration::from_secs(2));
    let used = cpu_time(&lbd.proc()) - before;
    assert!(
        used <= ms(20),
        "{used:?} of processor time in two silent seconds"
    );
    drop(clients);
}

/// I4, in this process: a balancer that has ended leaves neither descriptor nor thread.
#[test]
fn a_balancer_that_has_stopped_leaves_no_descriptor_and_no_thread() {
    let name = "resources::a_balancer_that_has_stopped_leaves_no_descriptor_and_no_thread";
    child::alone(name, || {
        let late = [Take::Pause(ms(50)), Take::ToEnd];
        let bulk = Script::new([Send::Bytes(8 << 20), Send::Fin], late);
        let run = || {
            let backend = Backend::new(&bulk);
            let balancer = Balancer::over(&[backend.address]);
            let client = peer::client(balancer.address(), &bulk);
            assert_eq!(balancer.record_of(client.address).text("path"), "splice");
            drop(balancer);
        };
        run();
        let before = (descriptors("self"), threads("self"));
        for _ in 0..3 {
            run();
        }
        wait::until("descriptors and threads are as before", || {
            (descriptors("self"), threads("self")) == before
        });
    });
}
