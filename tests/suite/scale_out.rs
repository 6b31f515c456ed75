//! Several instances with one configuration choose the same backend for a client: behind two
//! addresses, and behind one that moves. On machines of the test's own.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::harness::balancer::Setup;
use crate::harness::child;
use crate::harness::machine;
use crate::harness::peer::Backend;
use crate::harness::process::{Process, Start, read};
use crate::harness::segment::{Node, Segment};
use crate::harness::sockets::{self, Options};
use crate::harness::wait;

/// As `conf/examples/keepalived` has them, because that is run here as it stands.
const NODES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 11), Ipv4Addr::new(10, 0, 0, 12)];
const SHARED: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 10);
const BACKENDS: [Ipv4Addr; 3] = [
    Ipv4Addr::new(10, 0, 0, 21),
    Ipv4Addr::new(10, 0, 0, 22),
    Ipv4Addr::new(10, 0, 0, 23),
];
const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples/keepalived");
const BACKEND_PORT: u16 = 8080;
const PORT: u16 = 80;

/// So many that instances that do not agree cannot look as if they did.
const CLIENTS: usize = 200;

/// How long a client may be without an answer: a second until the check sees it, a second of
/// VRRP's, a second until a lost SYN is sent again; the rest is for a slow machine.
const FAILOVER_MAX: Duration = Duration::from_secs(10);

/// The two machines that lbd runs on. Clients and backends are with the test.
struct Network {
    segment: Segment,
    nodes: [Node; 2],
    backends: Vec<Backend>,
}

impl Network {
    fn new() -> Network {
        let segment = Segment::new(BACKENDS.into_iter().chain(clients()));
        Network {
            nodes: [
                segment.node("first", NODES[0]),
                segment.node("second", NODES[1]),
            ],
            segment,
            backends: BACKENDS.into_iter().map(telling_backend).collect(),
        }
    }

    fn start(&self, node: usize, bind: Ipv4Addr, setup: &Setup) -> Process {
        let start = Start {
            under: &self.nodes[node].under(),
            bind: Some((bind, PORT).into()),
        };
        Process::start_with(setup, &start)
    }

    fn start_text(&self, node: usize, text: &str) -> Process {
        let start = Start {
            under: &self.nodes[node].under(),
            bind: None,
        };
        Process::start_text(text, (Ipv4Addr::UNSPECIFIED, PORT).into(), &start)
    }
}

fn clients() -> impl Iterator<Item = Ipv4Addr> {
    (1..=CLIENTS).map(|last| Ipv4Addr::new(10, 0, 1, last as u8))
}

/// Says who it is and who asks, then waits until the asker leaves.
fn telling_backend(address: Ipv4Addr) -> Backend {
    let listener = TcpListener::bind((address, BACKEND_PORT)).unwrap();
    Backend::serving(listener, move |mut socket| {
        let Ok(peer) = socket.peer_addr() else { return };
        let _ = socket.write_all(format!("{address} {}\n", peer.ip()).as_bytes());
        let _ = socket.read(&mut [0]);
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Answer {
    backend: Ipv4Addr,
    /// The instance, as the backend sees it.
    through: IpAddr,
}

/// A session from this client, once it was answered.
fn open(client: Ipv4Addr, to: Ipv4Addr) -> Option<(TcpStream, Answer)> {
    let options = Options {
        source: Some((client, 0).into()),
        connect_timeout: Some(Duration::from_millis(300)),
        ..Options::default()
    };
    let mut socket = sockets::connect_with((to, PORT).into(), options).ok()?;
    socket
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    let mut line = Vec::new();
    while line.last() != Some(&b'\n') {
        let mut byte = [0];
        match socket.read(&mut byte) {
            Ok(1) => line.push(byte[0]),
            _ => return None,
        }
    }
    let line = String::from_utf8(line).unwrap();
    let (backend, through) = line.trim().split_once(' ').unwrap();
    let answer = Answer {
        backend: backend.parse().unwrap(),
        through: through.parse().unwrap(),
    };
    Some((socket, answer))
}

/// The backend of each client through an instance, which is this one for all of them.
#[track_caller]
fn served(to: Ipv4Addr, through: Ipv4Addr) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
    clients()
        .map(|client| {
            let (_, answer) = open(client, to).unwrap_or_else(|| panic!("{client} is not served"));
            assert_eq!(answer.through, IpAddr::V4(through), "{client}");
            (client, answer.backend)
        })
        .collect()
}

fn differing(one: &BTreeMap<Ipv4Addr, Ipv4Addr>, other: &BTreeMap<Ipv4Addr, Ipv4Addr>) -> usize {
    one.iter()
        .filter(|(client, at)| other[client] != **at)
        .count()
}

fn hashing(seed: &str) -> Setup {
    Setup::over(&BACKENDS.map(|at| SocketAddr::from((at, BACKEND_PORT))))
        .global(&format!("hash_seed = \"{seed}\""))
        .pool("policy = \"ip_hash\"\nhealth = { interval = \"100ms\", fall = 1 }")
}

#[test]
fn two_instances_send_each_client_to_the_same_backend_also_when_one_is_down() {
    let name = "scale_out::\
                two_instances_send_each_client_to_the_same_backend_also_when_one_is_down";
    child::in_own_network(name, || {
        let mut network = Network::new();
        let mut reordered = hashing("one");
        reordered.backends.reverse();
        let instances = [
            network.start(0, Ipv4Addr::UNSPECIFIED, &hashing("one")),
            // Neither the order nor the number of workers has a say.
            network.start(
                1,
                Ipv4Addr::UNSPECIFIED,
                &Setup {
                    workers: 1,
                    ..reordered
                },
            ),
        ];
        let all_up = served(NODES[0], NODES[0]);
        assert_eq!(served(NODES[1], NODES[1]), all_up);
        for backend in BACKENDS {
            let share = all_up.values().filter(|at| **at == backend).count();
            assert!((35..=100).contains(&share), "{backend} has {share} clients");
        }

        drop(network.backends.remove(1));
        for instance in &instances {
            wait::until("it is known to be down", || {
                instance.errors().contains("backend is down")
            });
        }
        let one_down = served(NODES[0], NODES[0]);
        assert_eq!(served(NODES[1], NODES[1]), one_down);
        for (client, at) in &all_up {
            let moved = one_down[client] != *at;
            assert_eq!(moved, *at == BACKENDS[1], "{client} was with {at}");
        }
    });
}

/// What the other tests compare can differ.
#[test]
fn another_seed_sends_clients_elsewhere() {
    let name = "scale_out::another_seed_sends_clients_elsewhere";
    child::in_own_network(name, || {
        let network = Network::new();
        let _first = network.start(0, Ipv4Addr::UNSPECIFIED, &hashing("one"));
        let _second = network.start(1, Ipv4Addr::UNSPECIFIED, &hashing("two"));
        let elsewhere = differing(&served(NODES[0], NODES[0]), &served(NODES[1], NODES[1]));
        // Two in three, were there infinitely many.
        assert!((90..=175).contains(&elsewhere), "{elsewhere} of {CLIENTS}");
    });
}

/// With the kernel's leave an instance listens on an address that is not there yet.
#[test]
fn a_client_keeps_its_backend_when_the_address_is_moved_by_hand() {
    let name = "scale_out::a_client_keeps_its_backend_when_the_address_is_moved_by_hand";
    child::in_own_network(name, || {
        let network = Network::new();
        let instances = [0, 1].map(|at| {
            network.nodes[at].set("ipv4/ip_nonlocal_bind", "1");
            network.start(at, SHARED, &hashing("one"))
        });
        let [first, second] = &network.nodes;
        first.ip(&format!("address add {SHARED}/32 dev eth0"));
        let before = served(SHARED, NODES[0]);

        instances[0].signal(Signal::KILL);
        first.ip(&format!("address del {SHARED}/32 dev eth0"));
        second.ip(&format!("address add {SHARED}/32 dev eth0"));
        // What a gratuitous ARP tells: who has the address now.
        network.segment.forget_neighbours();
        assert_eq!(served(SHARED, NODES[1]), before);
    });
}

/// keepalived(8) as a child of the test: no daemon, no syslog, its files in a folder of its own.
struct Keepalived {
    child: Child,
    folder: TempDir,
}

impl Keepalived {
    fn start(node: &Node, example: &str) -> Keepalived {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| folder.path().join(name);
        let log = fs::File::create(file("log")).unwrap();
        let child = node
            .command("keepalived")
            .args([
                "--dont-fork",
                "--vrrp",
                "--log-console",
                "--log-detail",
                "--no-syslog",
            ])
            .arg(format!("--use-file={EXAMPLE}/{example}"))
            .arg(format!("--pid={}", file("pid").display()))
            .arg(format!("--vrrp_pid={}", file("vrrp.pid").display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Keepalived { child, folder }
    }

    fn log(&self) -> String {
        read(&self.folder.path().join("log"))
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        // Asked first: it has a child of its own to end.
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let ended = || self.child.try_wait().ok().flatten();
        if wait::within(Duration::from_secs(5), ended).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if thread::panicking() {
            eprintln!("{}", self.log());
        }
    }
}

fn is_served(to: Ipv4Addr) -> bool {
    open(Ipv4Addr::new(10, 0, 1, 1), to).is_some()
}

#[test]
fn keepalived_moves_the_address_and_clients_keep_their_backends() {
    let name = "scale_out::keepalived_moves_the_address_and_clients_keep_their_backends";
    if machine::program("keepalived").is_none() || machine::program("ss").is_none() {
        return machine::skipped(name, "keepalived or ss(8) is not installed");
    }
    child::in_own_network(name, || {
        let network = Network::new();
        let text = fs::read_to_string(format!("{EXAMPLE}/lb.toml")).unwrap();
        let instances = [0, 1].map(|at| network.start_text(at, &text));
        let first = Keepalived::start(&network.nodes[0], "keepalived-a.conf");
        wait::until("the first has the address", || network.nodes[0].has(SHARED));
        let second = Keepalived::start(&network.nodes[1], "keepalived-b.conf");
        wait::until("the second is the backup", || {
            second.log().contains("Entering BACKUP STATE")
        });
        wait::until("clients reach the address", || is_served(SHARED));
        let before = served(SHARED, NODES[0]);
        let (mut live, _) = open(Ipv4Addr::new(10, 0, 1, 1), SHARED).expect("a live session");

        instances[0].signal(Signal::KILL);
        let killed = Instant::now();
        wait::until("clients are served again", || is_served(SHARED));
        let without = killed.elapsed();
        eprintln!("no client was served for {without:?}");
        assert!(without < FAILOVER_MAX, "not served for {without:?}");
        assert!(!network.nodes[0].has(SHARED) && network.nodes[1].has(SHARED));
        assert_eq!(served(SHARED, NODES[1]), before);
        // A session lives in the process that was killed.
        assert!(!matches!(live.read(&mut [0]), Ok(1..)));

        // Who comes back does not take the address, which would break sessions once more.
        let log = first.log().len();
        let _again = network.start_text(0, &text);
        wait::until("the first is the backup", || {
            first.log()[log..].contains("Entering BACKUP STATE")
        });
        assert_eq!(served(SHARED, NODES[1]), before);
    });
}
