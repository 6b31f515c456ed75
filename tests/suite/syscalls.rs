//! What a connection and a request may cost in system calls. A regression here is a slower
//! balancer, whatever the clock of a busy machine says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::balancer::Setup;
use crate::harness::machine;
use crate::harness::peer::Backend;
use crate::harness::process::{self, Process, Start};
use crate::harness::sockets::{self, Options};
use crate::harness::wait;

/// Calls for a connection: connect, a request of 64 bytes, an answer of 64 bytes, and the
/// backend closes. Measured on Linux 6.18: 17.6, of which half a call is an accept that finds
/// nobody; the rest is left for wake-ups that come apart.
const CONNECTION_CALLS_MAX: f64 = 18.5;

/// Calls for a request and its answer on a connection that stands: read, write and wait, for
/// each of the two ways.
const REQUEST_CALLS_MAX: f64 = 6.2;

/// Calls for a client that is let in by no network or has reached its limit: wait, accept, make
/// the close a reset, close; and the accept that finds nobody else.
const REFUSAL_CALLS_MAX: f64 = 5.2;

const CONNECTIONS: u64 = 400;
const REQUESTS: u64 = 2000;

/// The calls by name while `act` runs against a balancer with one worker, those of its start and
/// end left out.
fn counted(
    test: &str,
    listener: &str,
    act: impl Fn(&Process, u64),
    times: u64,
) -> Option<BTreeMap<String, i64>> {
    let Some(strace) = machine::program("strace") else {
        machine::skipped(test, "strace is not installed");
        return None;
    };
    let backend = Backend::serving(sockets::listen_with(Options::default()), |mut socket| {
        let mut message = [0; 64];
        while socket.read_exact(&mut message).is_ok() && socket.write_all(&message).is_ok() {
            if message[0] == b'c' {
                return;
            }
        }
    });
    // The same run with nothing done is taken off.
    let run = |times: u64| {
        let folder = tempfile::tempdir().unwrap();
        let counts = folder.path().join("counts");
        let words = [&strace, "-f", "-c", "-o", counts.to_str().unwrap()];
        let under = words.map(str::to_owned);
        let setup = Setup {
            workers: 1,
            ..Setup::over(&[backend.address])
        }
        .listener(listener);
        let mut lbd = Process::start_with(
            &setup,
            &Start {
                under: &under,
                ..Start::default()
            },
        );
        act(&lbd, times);
        wait::until("all are written", || {
            lbd.records().len() as u64 >= times.min(1)
        });
        lbd.signal(Signal::TERM);
        lbd.ended();
        table(&process::read(&counts))
    };
    let (idle, busy) = (run(0), run(times));
    let names = busy.keys().chain(idle.keys()).cloned();
    let less =
        |name: &String| busy.get(name).copied().unwrap_or(0) - idle.get(name).copied().unwrap_or(0);
    Some(names.map(|name| (name.clone(), less(&name))).collect())
}

/// Reads the table of `strace -c`: share, seconds, per call, calls, errors if any, name.
fn table(text: &str) -> BTreeMap<String, i64> {
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.len() < 5 || words[0].parse::<f64>().is_err() || words.last() == Some(&"total") {
            continue;
        }
        if let Ok(count) = words[3].parse() {
            calls.insert(words[words.len() - 1].to_owned(), count);
        }
    }
    assert!(!calls.is_empty(), "no table: {text}");
    calls
}

/// Calls of the data plane, each. Waking the writer of the log is not its, and `fcntl` is what a
/// debug build asks before each close.
fn each(calls: &BTreeMap<String, i64>, times: u64) -> f64 {
    let others = ["fcntl", "futex", "restart_syscall", "clock_nanosleep"];
    let counted = calls
        .iter()
        .filter(|(name, _)| !others.contains(&name.as_str()));
    counted.map(|(_, count)| count).sum::<i64>() as f64 / times as f64
}

fn exchange(client: &mut TcpStream, first: u8) {
    let mut message = [b'x'; 64];
    message[0] = first;
    client.write_all(&message).unwrap();
    client.read_exact(&mut message).unwrap();
}

fn connections(lbd: &Process, times: u64) {
    for _ in 0..times {
        let mut client = TcpStream::connect(lbd.address).unwrap();
        client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
        exchange(&mut client, b'c');
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_short_connection_stays_within_its_budget_of_system_calls() {
    let name = "a_short_connection_stays_within_its_budget_of_system_calls";
    // Where the backend's answer and its end come apart, because others have the processors, each
    // costs a read and a wake-up: the budget is that of the best of a few.
    let mut best = f64::MAX;
    for _ in 0..3 {
        let Some(calls) = counted(name, "", connections, CONNECTIONS) else {
            return;
        };
        let each = each(&calls, CONNECTIONS);
        eprintln!("{each:.2} calls for a connection: {calls:?}");
        assert!(each > 5.0, "that cannot be all: {calls:?}");
        best = best.min(each);
        if best <= CONNECTION_CALLS_MAX {
            return;
        }
    }
    panic!("{best:.2} calls");
}

#[test]
fn a_request_on_a_standing_connection_stays_within_its_budget_of_system_calls() {
    let act = |lbd: &Process, times: u64| {
        if times == 0 {
            return;
        }
        let mut client = TcpStream::connect(lbd.address).unwrap();
        client.set_nodelay(true).unwrap();
        client
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        for _ in 0..times {
            exchange(&mut client, b'x');
        }
    };
    let name = "a_request_on_a_standing_connection_stays_within_its_budget_of_system_calls";
    if let Some(calls) = counted(name, "", act, REQUESTS) {
        let each = each(&calls, REQUESTS);
        eprintln!("{each:.2} calls for a request: {calls:?}");
        assert!(each <= REQUEST_CALLS_MAX, "{each:.2} calls: {calls:?}");
        assert!(each > 3.0, "that cannot be all: {calls:?}");
    }
}

/// Ten thousand networks and a limit for each source: the same budget.
#[test]
fn asking_who_a_client_is_costs_no_system_call() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("theirs.txt");
    let networks = (0..10_000).map(|at| format!("10.{}.{}.0/24\n", at / 256, at % 256));
    std::fs::write(&file, networks.collect::<String>()).unwrap();
    let listener = format!(
        "allow = [\"127.0.0.0/8\"]\ndeny_file = \"{}\"\n\
         per_source = {{ connections = 100, rate = \"1000000/1s\" }}",
        file.display()
    );
    let name = "asking_who_a_client_is_costs_no_system_call";
    if let Some(calls) = counted(name, &listener, connections, CONNECTIONS) {
        let each = each(&calls, CONNECTIONS);
        eprintln!("{each:.2} calls for a connection: {calls:?}");
        assert!(each <= CONNECTION_CALLS_MAX, "{each:.2} calls: {calls:?}");
        assert!(each > 5.0, "that cannot be all: {calls:?}");
    }
}

#[test]
fn a_client_that_is_refused_stays_within_its_budget_of_system_calls() {
    let name = "a_client_that_is_refused_stays_within_its_budget_of_system_calls";
    // How many are served before that.
    let limits = [
        ("deny = [\"127.0.0.0/8\"]", 0),
        ("per_source = { rate = \"1/1h\" }", 1),
        ("per_source = { connections = 1 }", 1),
    ];
    for (limit, served) in limits {
        let act = |lbd: &Process, times: u64| {
            if times == 0 {
                return;
            }
            let connect = || TcpStream::connect(lbd.address).unwrap();
            let mut held: Vec<TcpStream> = (0..served).map(|_| connect()).collect();
            held.iter_mut().for_each(|client| exchange(client, b'x'));
            for _ in 0..times {
                assert!(sockets::await_reset(connect(), wait::PATIENCE));
            }
        };
        let Some(calls) = counted(name, limit, act, CONNECTIONS) else {
            return;
        };
        let each = each(&calls, CONNECTIONS);
        eprintln!("{each:.2} calls for a refusal: {calls:?}");
        assert!(each <= REFUSAL_CALLS_MAX, "{each:.2} calls: {calls:?}");
        assert!(each >= 3.0, "that cannot be all: {calls:?}");
    }
}
