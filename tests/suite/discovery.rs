//! Backends that are found by name, by service or in a file: what comes, what goes, and that no
//! fault of who is asked takes a backend away.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lbd::admin::state::{DiscoveryState, PoolState};
use lbd::balance::backend::{State as BackendWord, Wish};
use tempfile::TempDir;

use crate::harness::balancer::{Balancer, Setup};
use crate::harness::dns::{self, A, AAAA, DnsServer, Record, Reply, SRV, addresses};
use crate::harness::machine::{descriptors, resident_bytes};
use crate::harness::peer::Backend;
use crate::harness::process::Process;
use crate::harness::wait;

/// Backends at these addresses and one port; each greets with the last part of its address.
fn backends(hosts: &[&str]) -> (u16, Vec<Backend>) {
    let listeners = || {
        let first = TcpListener::bind((hosts[0], 0)).ok()?;
        let port = first.local_addr().ok()?.port();
        let others = hosts[1..]
            .iter()
            .map(|host| TcpListener::bind((*host, port)));
        let others: Vec<_> = others.collect::<Result<_, _>>().ok()?;
        Some((
            port,
            std::iter::once(first).chain(others).collect::<Vec<_>>(),
        ))
    };
    let (port, listeners) = wait::until_some("a port is free on every address", listeners);
    (port, listeners.into_iter().map(greeting).collect())
}

fn greeting(listener: TcpListener) -> Backend {
    let greeting = match listener.local_addr().unwrap() {
        SocketAddr::V4(address) => address.ip().octets()[3],
        SocketAddr::V6(_) => b'6',
    };
    Backend::serving(listener, move |mut socket| {
        let _ = socket.write_all(&[greeting]);
        let mut reader = socket.try_clone().unwrap();
        let _ = std::io::copy(&mut reader, &mut socket);
    })
}

fn over(dns: &DnsServer, discover: &str) -> Setup {
    let mut setup = Setup::over(&[]).global(&format!("resolvers = [\"{}\"]", dns.address));
    writeln!(setup.more, "[[pool.discover]]\n{discover}").unwrap();
    setup
}

fn by_name(dns: &DnsServer, port: u16) -> Setup {
    over(
        dns,
        &format!("kind = \"dns\"\nname = \"web.test\"\nport = {port}"),
    )
}

fn by_file(path: &Path) -> Setup {
    let mut setup = Setup::over(&[]);
    writeln!(
        setup.more,
        "[[pool.discover]]\nkind = \"file\"\npath = \"{}\"",
        path.display()
    )
    .unwrap();
    setup
}

fn pool(balancer: &Balancer) -> PoolState {
    balancer.state().pool("out").unwrap().clone()
}

fn discovery(balancer: &Balancer) -> DiscoveryState {
    pool(balancer).discovery[0].clone()
}

/// The addresses of the pool's backends, in its order.
fn members(balancer: &Balancer) -> Vec<String> {
    let backends = pool(balancer).backends;
    let address = |backend: &lbd::admin::state::BackendState| backend.address.to_string();
    backends.iter().map(address).collect()
}

#[track_caller]
fn await_members(balancer: &Balancer, expected: &[String]) {
    let same = || (members(balancer) == expected).then_some(());
    if wait::within(wait::PATIENCE, same).is_none() {
        let (found, state) = (members(balancer), discovery(balancer));
        panic!("{found:?} instead of {expected:?}, {state:?}");
    }
}

#[track_caller]
fn await_error(balancer: &Balancer, part: &str) {
    let is_told = || {
        let error = discovery(balancer).error?;
        error.contains(part).then_some(())
    };
    if wait::within(wait::PATIENCE, is_told).is_none() {
        panic!("not {part}: {:?}", discovery(balancer));
    }
}

fn at(port: u16, hosts: &[&str]) -> Vec<String> {
    let address = |host: &&str| SocketAddr::new(host.parse().unwrap(), port).to_string();
    hosts.iter().map(address).collect()
}

/// A session that was greeted, and by whom.
fn session(balancer: &Balancer) -> (TcpStream, u8) {
    let mut client = TcpStream::connect(balancer.address()).unwrap();
    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let mut greeting = [0];
    client.read_exact(&mut greeting).expect("a backend greets");
    (client, greeting[0])
}

fn echoes(client: &mut TcpStream) -> bool {
    let mut answer = [0; 5];
    client.write_all(b"hello").is_ok()
        && client.read_exact(&mut answer).is_ok()
        && answer == *b"hello"
}

fn refused(balancer: &Balancer) -> bool {
    let mut client = TcpStream::connect(balancer.address()).unwrap();
    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    !matches!(client.read(&mut [0]), Ok(1))
}

#[test]
fn each_address_of_a_name_is_a_backend_named_by_its_address() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.2", "127.0.0.1", "::1"]);
    dns.say(
        "web.test",
        addresses(60, &["127.0.0.2", "::1", "127.0.0.1"]),
    );
    let setup = by_name(&dns, port);
    let more = "weight = 7\npriority = 3\nmax_connections = 9\n";
    let setup = Setup {
        more: setup.more + more,
        ..setup
    };
    let balancer = Balancer::start(&setup);
    await_members(&balancer, &at(port, &["127.0.0.1", "127.0.0.2", "::1"]));
    let found = &pool(&balancer).backends[2];
    assert_eq!(found.name, format!("[::1]:{port}"));
    assert_eq!((found.weight, found.priority), (7, 3));
    let state = discovery(&balancer);
    assert_eq!((&*state.kind, &*state.name), ("dns", "web.test"));
    assert_eq!((state.addresses, state.error), (3, None));
    assert!(state.age.is_some());
    let mut greeted: Vec<u8> = (0..3).map(|_| session(&balancer).1).collect();
    greeted.sort_unstable();
    assert_eq!(greeted, [1, 2, b'6']);
}

#[test]
fn an_alias_leads_to_addresses_and_a_stranger_in_the_answer_does_not() {
    let dns = DnsServer::start();
    let records = vec![
        Record::Cname("real.test".to_owned()),
        Record::Foreign("real.test".to_owned(), "127.0.0.1".parse().unwrap()),
        Record::Foreign("bank.test".to_owned(), "127.0.0.66".parse().unwrap()),
    ];
    dns.say_for("web.test", A, Reply::Records(60, records));
    dns.say_for("web.test", AAAA, dns::EMPTY);
    let (port, _backends) = backends(&["127.0.0.1"]);
    let balancer = Balancer::start(&by_name(&dns, port));
    await_members(&balancer, &at(port, &["127.0.0.1"]));
    assert_eq!(session(&balancer).1, 1);
}

/// Nobody waits here for a time: the server's own count says when enough has happened.
#[test]
fn an_answer_is_asked_for_again_when_its_time_to_live_is_over_and_not_before() {
    let dns = DnsServer::start();
    dns.say("web.test", addresses(1, &["127.0.0.1"]));
    dns.say("long.test", addresses(86_400, &["127.0.0.2"]));
    dns.say("clamped.test", addresses(86_400, &["127.0.0.3"]));
    dns.say("never.test", addresses(0, &["127.0.0.4"]));
    let mut setup = by_name(&dns, 80);
    for (name, line) in [
        ("long.test", ""),
        ("clamped.test", "max_ttl = \"1s\""),
        ("never.test", "min_ttl = \"500ms\""),
    ] {
        let head = "[[pool.discover]]\nkind = \"dns\"\nport = 80";
        writeln!(setup.more, "{head}\nname = \"{name}\"\n{line}").unwrap();
    }
    let balancer = Balancer::start(&setup);
    wait::until("the names were asked for four times", || {
        ["web.test", "clamped.test", "never.test"]
            .iter()
            .all(|name| dns.asked(name, A) >= 4 && dns.asked(name, AAAA) >= 4)
    });
    for (name, least) in [
        ("web.test", 900),
        ("clamped.test", 900),
        ("never.test", 450),
    ] {
        let times: Vec<Instant> = dns.questions(name, A).iter().map(|one| one.at).collect();
        for pair in times.windows(2) {
            // A tenth of jitter, and the time that a question takes to be counted.
            let gap = pair[1] - pair[0];
            assert!(gap >= Duration::from_millis(least - 50), "{name}: {gap:?}");
            assert!(gap < Duration::from_secs(10), "{name}: {gap:?}");
        }
    }
    assert_eq!(dns.asked("long.test", A), 1, "its answer still holds");
    assert_eq!(members(&balancer).len(), 4);
}

/// D13 of the fault catalogue.
#[test]
fn no_failure_of_the_name_server_empties_a_pool() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1", "127.0.0.2"]);
    dns.say("web.test", addresses(1, &["127.0.0.1"]));
    let balancer = Balancer::start(&by_name(&dns, port));
    let good = at(port, &["127.0.0.1"]);
    await_members(&balancer, &good);
    for (reply, error) in [
        (dns::NXDOMAIN, "NXDOMAIN"),
        (dns::EMPTY, "no such record"),
        (dns::SERVFAIL, "SERVFAIL"),
        (Reply::Silence, "no answer in time"),
        (addresses(1, &["0.0.0.0", "::"]), "no usable address"),
    ] {
        dns.say("web.test", reply);
        await_error(&balancer, error);
        assert_eq!(members(&balancer), good, "after {error}");
        assert_eq!(session(&balancer).1, 1, "after {error}");
        assert_eq!(discovery(&balancer).addresses, 1);
        dns.say("web.test", addresses(1, &["127.0.0.1"]));
        wait::until("discovery works again", || {
            discovery(&balancer).error.is_none()
        });
    }
    dns.say("web.test", addresses(1, &["127.0.0.2"]));
    await_members(&balancer, &at(port, &["127.0.0.2"]));
    assert_eq!(session(&balancer).1, 2);
}

#[test]
fn a_family_that_fails_keeps_its_backends_while_the_other_changes() {
    let dns = DnsServer::start();
    dns.say("web.test", addresses(1, &["127.0.0.1", "::1"]));
    let balancer = Balancer::start(&by_name(&dns, 80));
    await_members(&balancer, &at(80, &["127.0.0.1", "::1"]));
    dns.say_for("web.test", AAAA, dns::SERVFAIL);
    dns.say_for("web.test", A, addresses(1, &["127.0.0.2"]));
    await_members(&balancer, &at(80, &["127.0.0.2", "::1"]));
    dns.say_for("web.test", AAAA, dns::EMPTY);
    await_members(&balancer, &at(80, &["127.0.0.2"]));
}

#[test]
fn a_server_that_leaves_one_family_unanswered_delays_the_other_but_little() {
    let dns = DnsServer::start();
    dns.say_for("web.test", AAAA, Reply::Silence);
    dns.say_for("web.test", A, addresses(60, &["127.0.0.1"]));
    let balancer = Balancer::start(&by_name(&dns, 80));
    let begun = Instant::now();
    await_members(&balancer, &at(80, &["127.0.0.1"]));
    // Far less than the five seconds that the unanswered question takes.
    assert!(begun.elapsed() < Duration::from_secs(4));
    await_error(&balancer, "no answer in time");
}

/// D14 of the fault catalogue.
#[test]
fn hostile_answers_are_refused_and_change_nothing() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1"]);
    dns.say("web.test", addresses(1, &["127.0.0.1"]));
    let balancer = Balancer::start(&by_name(&dns, port));
    let good = at(port, &["127.0.0.1"]);
    await_members(&balancer, &good);
    let evil = || Box::new(addresses(1, &["127.0.0.66"]));
    for reply in [
        Reply::Loop,
        Reply::WrongId(evil()),
        Reply::Garbage(vec![]),
        Reply::Garbage(vec![0xff; 900]),
        // A record whose data is said to be longer than the packet.
        Reply::Garbage(vec![
            0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0xff, 0xff, 127, 0, 0, 66,
        ]),
        // The same over TCP, where a loop may be long.
        Reply::OverTcpOnly(Box::new(Reply::Garbage([0xc0, 12].repeat(30_000)))),
        Reply::OverTcpOnly(Box::new(Reply::Loop)),
    ] {
        dns.say("web.test", reply.clone());
        wait::until(&format!("{reply:?} was refused"), || {
            discovery(&balancer).error.is_some()
        });
        assert_eq!(members(&balancer), good, "{reply:?}");
        let error = discovery(&balancer).error.unwrap();
        assert!(error.len() < 1000, "{error}");
        assert_eq!(session(&balancer).1, 1);
        dns.say("web.test", addresses(1, &["127.0.0.1"]));
        wait::until("discovery works again", || {
            discovery(&balancer).error.is_none()
        });
    }
}

#[test]
fn a_hundred_hostile_answers_take_no_memory() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1"]);
    // One family is good, so that the other is asked for again without a pause.
    dns.say_for("web.test", A, addresses(0, &["127.0.0.1"]));
    let endless = Reply::Garbage([0xc0, 12].repeat(30_000));
    dns.say_for("web.test", AAAA, Reply::OverTcpOnly(Box::new(endless)));
    let lines = format!("kind = \"dns\"\nname = \"web.test\"\nport = {port}");
    let process = Process::start(&over(&dns, &format!("{lines}\nmin_ttl = \"100ms\"")));
    let over_tcp = || {
        let questions = dns.questions("web.test", AAAA);
        questions.iter().filter(|one| one.over_tcp).count()
    };
    wait::until("the first hostile answers are in", || over_tcp() >= 20);
    let before = resident_bytes(&process.proc());
    wait::until("a hundred more are in", || over_tcp() >= 120);
    let after = resident_bytes(&process.proc());
    assert!(after < before + (3 << 20), "{before} became {after} bytes");
    let mut client = TcpStream::connect(process.address).unwrap();
    client.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    let mut greeting = [0];
    client.read_exact(&mut greeting).unwrap();
    assert_eq!(greeting, [1]);
}

#[test]
fn an_answer_too_long_for_a_packet_comes_over_tcp_and_is_cut_at_1024() {
    let dns = DnsServer::start();
    let many = (0..2000_u32).map(|n| Record::A((0x7f01_0000 + n).into()));
    dns.say("web.test", Reply::Records(60, many.collect()));
    let few = addresses(60, &["127.0.0.1"]);
    dns.say("few.test", Reply::OverTcpOnly(Box::new(few)));
    let mut setup = by_name(&dns, 80);
    let head = "[[pool.discover]]\nkind = \"dns\"\nport = 80";
    writeln!(setup.more, "{head}\nname = \"few.test\"").unwrap();
    let balancer = Balancer::start(&setup);
    wait::until("both answers are in", || members(&balancer).len() == 1025);
    let over_tcp = |name| dns.questions(name, A).iter().any(|one| one.over_tcp);
    assert!(over_tcp("web.test") && over_tcp("few.test"));
}

#[test]
fn an_address_that_changes_takes_new_connections_along_and_leaves_old_sessions_alone() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1", "127.0.0.2"]);
    dns.say("web.test", addresses(1, &["127.0.0.1"]));
    let balancer = Balancer::start(&by_name(&dns, port));
    let (mut old, greeting) = session(&balancer);
    assert_eq!(greeting, 1);
    dns.say("web.test", addresses(1, &["127.0.0.2"]));
    await_members(&balancer, &at(port, &["127.0.0.2"]));
    let (mut new, greeting) = session(&balancer);
    assert_eq!(greeting, 2);
    assert!(echoes(&mut old) && echoes(&mut new));
    let gone = format!("127.0.0.1:{port}");
    wait::until("the gone backend is shown with its session", || {
        let leaving = pool(&balancer).leaving;
        leaving
            .iter()
            .any(|one| one.name == gone && one.progress.active == 1)
    });
}

#[test]
fn sessions_of_a_backend_that_is_found_no_more_end_by_the_deadline_of_the_pool() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1", "127.0.0.2"]);
    dns.say("web.test", addresses(1, &["127.0.0.1"]));
    let setup = by_name(&dns, port).pool("drain = { deadline = \"500ms\" }");
    let balancer = Balancer::start(&setup);
    let (mut old, _) = session(&balancer);
    dns.say("web.test", addresses(1, &["127.0.0.2"]));
    // Closed by us: whatever it sees, it is no answer.
    assert!(!matches!(old.read(&mut [0]), Ok(1)));
    assert_eq!(members(&balancer), at(port, &["127.0.0.2"]));
}

#[test]
fn a_name_in_an_address_is_one_backend_at_one_address_that_stays_while_it_may() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    dns.say("db.test", addresses(1, &["127.0.0.2", "127.0.0.1"]));
    let mut setup = Setup::over(&[]).global(&format!("resolvers = [\"{}\"]", dns.address));
    let address = format!("address = \"db.test:{port}\"");
    writeln!(setup.more, "[[pool.backend]]\nname = \"db\"\n{address}").unwrap();
    let balancer = Balancer::start(&setup);
    let (mut old, greeting) = session(&balancer);
    assert_eq!(greeting, 2, "the first of the answer");
    assert_eq!(pool(&balancer).backends[0].name, "db");
    let before = dns.asked("db.test", A);
    dns.say("db.test", addresses(1, &["127.0.0.1", "127.0.0.2"]));
    wait::until("the other order was heard", || {
        dns.asked("db.test", A) >= before + 2
    });
    assert_eq!(members(&balancer), at(port, &["127.0.0.2"]));
    dns.say("db.test", addresses(1, &["127.0.0.3", "127.0.0.1"]));
    await_members(&balancer, &at(port, &["127.0.0.3"]));
    let (_new, greeting) = session(&balancer);
    assert_eq!(greeting, 3);
    assert!(echoes(&mut old));
    assert_eq!(
        balancer.backend("db").1,
        1,
        "another address is another one"
    );
}

#[test]
fn a_name_that_nobody_knows_at_start_joins_when_it_appears() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1", "127.0.0.2"]);
    let mut setup = Setup::over(&[]).global(&format!("resolvers = [\"{}\"]", dns.address));
    for (name, address) in [("a", "127.0.0.1"), ("late", "late.test")] {
        let lines = format!("name = \"{name}\"\naddress = \"{address}:{port}\"");
        writeln!(setup.more, "[[pool.backend]]\n{lines}").unwrap();
    }
    let balancer = Balancer::start(&setup);
    await_error(&balancer, "NXDOMAIN");
    assert_eq!(members(&balancer), at(port, &["127.0.0.1"]));
    assert_eq!(discovery(&balancer).age.map(|_| ()), None);
    assert_eq!(session(&balancer).1, 1);
    dns.say("late.test", addresses(60, &["127.0.0.2"]));
    await_members(&balancer, &at(port, &["127.0.0.1", "127.0.0.2"]));
    let greeted: Vec<u8> = (0..2).map(|_| session(&balancer).1).collect();
    assert!(greeted.contains(&2), "{greeted:?}");
}

#[test]
fn clients_who_come_before_the_first_answer_wait_for_it() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1"]);
    let answer = Box::new(addresses(60, &["127.0.0.1"]));
    dns.say("web.test", Reply::Late(Duration::from_millis(300), answer));
    let balancer = Balancer::start(&by_name(&dns, port));
    assert_eq!(session(&balancer).1, 1);
}

#[test]
fn clients_do_not_wait_for_a_name_server_that_is_silent() {
    let dns = DnsServer::start();
    dns.say("web.test", Reply::Silence);
    let balancer = Balancer::start(&by_name(&dns, 80));
    let begun = Instant::now();
    assert!(refused(&balancer));
    assert!(
        begun.elapsed() < Duration::from_secs(4),
        "before it gives up"
    );
    assert_eq!(balancer.only_record().termination(), "no_backend");
    await_error(&balancer, "no answer in time");
    // Its deadline is five seconds.
    assert!(begun.elapsed() < Duration::from_secs(9));
}

#[test]
fn no_more_than_sixteen_names_are_asked_for_at_once() {
    let dns = DnsServer::start();
    let mut setup = Setup::over(&[]).global(&format!("resolvers = [\"{}\"]", dns.address));
    let late = Duration::from_millis(200);
    for n in 0..50 {
        let answer = Box::new(addresses(60, &[&format!("127.0.1.{n}")]));
        dns.say(&format!("n{n}.test"), Reply::Late(late, answer));
        let lines = format!("kind = \"dns\"\nport = 80\nname = \"n{n}.test\"");
        writeln!(setup.more, "[[pool.discover]]\n{lines}").unwrap();
    }
    let balancer = Balancer::start(&setup);
    wait::until("all answers are in", || members(&balancer).len() == 50);
    let most = dns.open_most();
    assert!(
        (8..=32).contains(&most),
        "{most} questions, two for each name"
    );
}

#[test]
fn checking_a_configuration_asks_nobody() {
    let dns = DnsServer::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    fs::write(&path, by_name(&dns, 80).toml("off")).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lbd"));
    let status = command.arg("--config").arg(&path).arg("--check").status();
    assert!(status.unwrap().success());
    assert_eq!(dns.asked("web.test", A), 0);
}

#[test]
fn names_of_the_hosts_file_are_not_asked_for() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1"]);
    let mut setup = Setup::over(&[]).global(&format!("resolvers = [\"{}\"]", dns.address));
    let address = format!("address = \"LOCALHOST:{port}\"");
    writeln!(setup.more, "[[pool.backend]]\n{address}").unwrap();
    let balancer = Balancer::start(&setup);
    await_members(&balancer, &at(port, &["127.0.0.1"]));
    assert_eq!(session(&balancer).1, 1);
    assert_eq!(dns.asked("localhost", A) + dns.asked("localhost", AAAA), 0);
}

/// How often a name was asked for in vain: questions of one try follow each other at once, a
/// second at least lies between two tries.
fn tries(dns: &DnsServer, name: &str) -> usize {
    let times: Vec<Instant> = dns.questions(name, A).iter().map(|one| one.at).collect();
    let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
    1 + pauses
        .filter(|pause| *pause > Duration::from_millis(800))
        .count()
}

#[test]
fn a_process_that_asks_in_vain_says_so_once_and_holds_no_more_than_before() {
    let dns = DnsServer::start();
    dns.say("web.test", dns::SERVFAIL);
    dns.say("forged.test", Reply::WrongId(Box::new(dns::SERVFAIL)));
    dns.say("busy.test", addresses(0, &["127.0.0.1"]));
    let mut setup = by_name(&dns, 80);
    for (name, line) in [("forged.test", ""), ("busy.test", "min_ttl = \"100ms\"")] {
        let head = "[[pool.discover]]\nkind = \"dns\"\nport = 80";
        writeln!(setup.more, "{head}\nname = \"{name}\"\n{line}").unwrap();
    }
    let process = Process::start(&setup);
    wait::until("questions were asked", || dns.asked("busy.test", A) > 10);
    let before = descriptors(&process.proc());
    wait::until("names were asked for in vain again and again", || {
        dns.asked("busy.test", A) > 40 && tries(&dns, "web.test") >= 3
    });
    let told = |name: &str| {
        let errors = process.errors();
        let lines = errors.lines().filter(|line| line.contains(name));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    wait::until("the forged name was told of", || {
        !told("forged.test").is_empty()
    });
    for name in ["web.test", "forged.test"] {
        let lines = told(name);
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert!(lines[0].contains("discovery failed: nothing is known of it yet"));
    }
    let errors = process.errors();
    assert!(!errors.contains("wrong message id"), "{errors}");
    // A question under way has a socket for each family.
    let after = descriptors(&process.proc());
    assert!(after <= before + 8, "{before} became {after}");
}

fn srv(priority: u16, weight: u16, port: u16, target: &str) -> Record {
    Record::Srv(priority, weight, port, target.to_owned())
}

#[test]
fn targets_of_a_service_have_port_weight_and_priority_of_their_records() {
    let dns = DnsServer::start();
    dns.say("_web._tcp.test", {
        let records = vec![
            srv(20, 5, 8003, "c.test"),
            srv(10, 0, 8001, "a.test"),
            srv(10, 60, 8002, "b.test"),
            srv(10, 1, 8009, "."),
            srv(30, 1, 8004, "nobody.test"),
        ];
        Reply::Records(1, records)
    });
    dns.say("a.test", addresses(60, &["127.0.0.1", "::1"]));
    dns.say("b.test", addresses(60, &["127.0.0.2"]));
    dns.say("c.test", addresses(60, &["127.0.0.3"]));
    let service = "kind = \"srv\"\nname = \"_web._tcp.test\"\nmax_connections = 3";
    let balancer = Balancer::start(&over(&dns, service));
    let seen = || {
        let backends = pool(&balancer).backends.into_iter();
        let tuple = |one: lbd::admin::state::BackendState| (one.name, one.priority, one.weight);
        backends.map(tuple).collect::<Vec<_>>()
    };
    let named = |name: &str, priority, weight| (name.to_owned(), priority, weight);
    let expected = [
        named("127.0.0.1:8001", 10, 1),
        named("127.0.0.2:8002", 10, 60),
        named("[::1]:8001", 10, 1),
        named("127.0.0.3:8003", 20, 5),
    ];
    wait::until("the targets are in", || seen() == expected);
    await_error(&balancer, "nobody.test: NXDOMAIN");
    // One target fails and keeps its address, another record changes, a third goes.
    dns.say("b.test", dns::SERVFAIL);
    let records = vec![srv(10, 7, 8001, "a.test"), srv(10, 60, 8002, "b.test")];
    dns.say("_web._tcp.test", Reply::Records(1, records));
    let expected = [
        named("127.0.0.1:8001", 10, 7),
        named("127.0.0.2:8002", 10, 60),
        named("[::1]:8001", 10, 7),
    ];
    wait::until("the change is in", || seen() == expected);
    dns.say("_web._tcp.test", dns::NXDOMAIN);
    let asked = dns.asked("_web._tcp.test", SRV);
    wait::until("NXDOMAIN was heard", || {
        dns.asked("_web._tcp.test", SRV) >= asked + 2
    });
    assert_eq!(seen(), expected);
}

#[test]
fn a_reload_keeps_what_was_found_while_nobody_answers() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1"]);
    dns.say("web.test", addresses(60, &["127.0.0.1"]));
    let balancer = Balancer::start(&by_name(&dns, port));
    await_members(&balancer, &at(port, &["127.0.0.1"]));
    let (mut old, _) = session(&balancer);
    dns.say("web.test", Reply::Silence);
    let asked = dns.asked("web.test", A);
    balancer
        .reload(&by_name(&dns, port).pool("retries = 1"))
        .unwrap();
    assert_eq!(members(&balancer), at(port, &["127.0.0.1"]));
    assert_eq!(session(&balancer).1, 1);
    assert_eq!(dns.asked("web.test", A), asked, "its answer still holds");
    // Another server, which is silent too.
    let other = DnsServer::start();
    other.say("web.test", Reply::Silence);
    balancer.reload(&by_name(&other, port)).unwrap();
    assert_eq!(members(&balancer), at(port, &["127.0.0.1"]));
    wait::until("the other server was asked", || {
        other.asked("web.test", A) > 0
    });
    await_error(&balancer, "no answer in time");
    assert_eq!(session(&balancer).1, 1);
    assert!(echoes(&mut old));
    other.say("web.test", addresses(60, &["127.0.0.9"]));
    await_members(&balancer, &at(port, &["127.0.0.9"]));
    assert!(echoes(&mut old));
}

#[test]
fn a_reload_asks_at_once_for_a_name_that_failed() {
    let dns = DnsServer::start();
    let balancer = Balancer::start(&by_name(&dns, 80));
    // The fourth try would follow four seconds after the third.
    wait::until("three tries were in vain", || tries(&dns, "web.test") >= 3);
    dns.say("web.test", addresses(60, &["127.0.0.1"]));
    let begun = Instant::now();
    balancer.reload(&by_name(&dns, 80)).unwrap();
    await_members(&balancer, &at(80, &["127.0.0.1"]));
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[test]
fn a_wish_of_the_operator_outlives_changes_of_the_pool() {
    let dns = DnsServer::start();
    let (port, _backends) = backends(&["127.0.0.1", "127.0.0.2", "127.0.0.3"]);
    dns.say("web.test", addresses(1, &["127.0.0.1", "127.0.0.2"]));
    let balancer = Balancer::start(&by_name(&dns, port));
    await_members(&balancer, &at(port, &["127.0.0.1", "127.0.0.2"]));
    let drained = format!("127.0.0.1:{port}");
    balancer.wish(&drained, Wish::Drain);
    dns.say("web.test", addresses(1, &["127.0.0.1", "127.0.0.3"]));
    await_members(&balancer, &at(port, &["127.0.0.1", "127.0.0.3"]));
    let state = pool(&balancer).backend(&drained).unwrap().state;
    assert_eq!(state, BackendWord::Drain);
    assert!((0..4).all(|_| session(&balancer).1 == 3));
}

#[test]
fn a_listed_backend_wins_over_one_that_is_found_at_its_address_or_by_its_name() {
    let dns = DnsServer::start();
    dns.say(
        "web.test",
        addresses(60, &["127.0.0.1", "127.0.0.2", "127.0.0.3"]),
    );
    let mut setup = by_name(&dns, 80);
    setup.more += "[[pool.backend]]\nname = \"mine\"\naddress = \"127.0.0.1:80\"\nweight = 50\n\
                   [[pool.backend]]\nname = \"127.0.0.2:80\"\naddress = \"127.0.0.9:80\"\n";
    let balancer = Balancer::start(&setup);
    await_members(&balancer, &at(80, &["127.0.0.1", "127.0.0.9", "127.0.0.3"]));
    assert_eq!(pool(&balancer).backend("mine").unwrap().weight, 50);
}

#[test]
fn found_backends_are_probed_and_gone_ones_no_longer() {
    let dns = DnsServer::start();
    let (port, backends) = backends(&["127.0.0.1", "127.0.0.2"]);
    dns.say("web.test", addresses(1, &["127.0.0.1", "127.0.0.2"]));
    let health = "health = { probe = \"tcp\", interval = \"20ms\" }";
    let balancer = Balancer::start(&by_name(&dns, port).pool(health));
    wait::until("both are up", || {
        let backends = pool(&balancer).backends;
        backends.len() == 2 && backends.iter().all(|one| one.state == BackendWord::Up)
    });
    dns.say("web.test", addresses(1, &["127.0.0.2"]));
    await_members(&balancer, &at(port, &["127.0.0.2"]));
    let state = pool(&balancer).backends[0].state;
    assert_eq!(state, BackendWord::Up, "it was never away");
    // A probe under way at the change may still arrive.
    let gone = backends[0].accepted();
    let other = backends[1].accepted();
    wait::until("ten more probes of the one that stays", || {
        backends[1].accepted() >= other + 10
    });
    assert!(backends[0].accepted() <= gone + 1);
}

fn backend_file(list: &[SocketAddr]) -> String {
    let mut text = String::new();
    for address in list {
        writeln!(text, "[[backend]]\naddress = \"{address}\"").unwrap();
    }
    text
}

fn addr(port: u16, last: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, last], port))
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

fn folder_with(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backends.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn a_file_is_taken_whole_when_it_is_replaced_or_written_in_place() {
    let (port, _backends) = backends(&["127.0.0.1", "127.0.0.2"]);
    let (_folder, path) = folder_with(&backend_file(&[addr(port, 1)]));
    let balancer = Balancer::start(&by_file(&path));
    let (mut old, greeting) = session(&balancer);
    assert_eq!(greeting, 1);
    let begun = Instant::now();
    replace(
        &path,
        "[[backend]]\nname = \"two\"\nweight = 9\naddress = \"127.0.0.2:PORT\"\n"
            .replace("PORT", &port.to_string())
            .as_str(),
    );
    await_members(&balancer, &at(port, &["127.0.0.2"]));
    // The kernel told; the slow look would have come later.
    assert!(begun.elapsed() < Duration::from_secs(4));
    let two = pool(&balancer).backends[0].clone();
    assert_eq!((&*two.name, two.weight), ("two", 9));
    assert_eq!(session(&balancer).1, 2);
    fs::write(&path, backend_file(&[addr(port, 1), addr(port, 2)])).unwrap();
    await_members(&balancer, &at(port, &["127.0.0.1", "127.0.0.2"]));
    assert!(echoes(&mut old));
    let state = discovery(&balancer);
    assert_eq!((&*state.kind, state.addresses), ("file", 2));
    assert_eq!(state.name, path.to_str().unwrap());
}

#[test]
fn a_file_behind_links_is_read_again_when_a_link_is_turned() {
    // As a mounted ConfigMap is: the folder's `..data` is a link that is replaced.
    let folder = tempfile::tempdir().unwrap();
    let version = |name: &str, last: u8| {
        let version = folder.path().join(name);
        fs::create_dir(&version).unwrap();
        let text = backend_file(&[addr(80, last)]);
        fs::write(version.join("backends.toml"), text).unwrap();
        let link = folder.path().join("..new");
        symlink(name, &link).unwrap();
        fs::rename(&link, folder.path().join("..data")).unwrap();
    };
    version("..1", 1);
    let path = folder.path().join("backends.toml");
    symlink("..data/backends.toml", &path).unwrap();
    let balancer = Balancer::start(&by_file(&path));
    await_members(&balancer, &at(80, &["127.0.0.1"]));
    for (name, last) in [("..2", 2), ("..3", 3)] {
        let begun = Instant::now();
        version(name, last);
        await_members(&balancer, &[addr(80, last).to_string()]);
        assert!(begun.elapsed() < Duration::from_secs(4), "the kernel told");
    }
}

#[test]
fn a_file_with_a_mistake_an_empty_one_and_none_at_all_change_nothing() {
    let (_folder, path) = folder_with(&backend_file(&[addr(80, 1)]));
    let balancer = Balancer::start(&by_file(&path));
    await_members(&balancer, &at(80, &["127.0.0.1"]));
    let half_good = backend_file(&[addr(80, 2)]) + "[[backend]]\naddress = \"10.0.0.1\"\n";
    for (text, error) in [
        (
            half_good.as_str(),
            "backends.toml:4:11: \"10.0.0.1\" has no port",
        ),
        ("", "lists no backend; allow_empty = true"),
        ("[[backend]\n", "unclosed array table"),
        ("backend = []\n", "lists no backend; allow_empty = true"),
    ] {
        replace(&path, text);
        await_error(&balancer, error);
        assert_eq!(members(&balancer), at(80, &["127.0.0.1"]), "{text}");
    }
    fs::remove_file(&path).unwrap();
    await_error(&balancer, "cannot be read");
    assert_eq!(members(&balancer), at(80, &["127.0.0.1"]));
    replace(&path, &backend_file(&[addr(80, 3)]));
    await_members(&balancer, &at(80, &["127.0.0.3"]));
    assert_eq!(discovery(&balancer).error, None);
}

#[test]
fn an_empty_file_empties_the_pool_where_the_operator_says_so() {
    let (port, _backends) = backends(&["127.0.0.1"]);
    let (_folder, path) = folder_with(&backend_file(&[addr(port, 1)]));
    let mut setup = by_file(&path);
    setup.more += "allow_empty = true\n";
    let balancer = Balancer::start(&setup);
    await_members(&balancer, &at(port, &["127.0.0.1"]));
    replace(&path, "");
    await_members(&balancer, &[]);
    assert!(refused(&balancer));
    assert_eq!(discovery(&balancer).error, None);
}

#[test]
fn a_file_that_comes_later_is_found_and_a_pipe_is_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("backends.toml");
    let balancer = Balancer::start(&by_file(&path));
    await_error(&balancer, "cannot be read");
    let pipe = folder.path().join("pipe");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    fs::rename(&pipe, &path).unwrap();
    await_error(&balancer, "it is not a file");
    replace(&path, &backend_file(&[addr(80, 1)]));
    await_members(&balancer, &at(80, &["127.0.0.1"]));
}
