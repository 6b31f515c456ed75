//! What the relay costs per path: one thread plays client, balancer and backend over loopback, so
//! the figure holds the kernel's share of all of them.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use lbd::base::addr::Side;
use lbd::base::clock::Moment;
use lbd::net::peer::Peer;
use lbd::net::poller::{Poller, Readiness, Token};
use lbd::relay::direction::{Direction, Tools};
use lbd::relay::duplex::{Duplex, Step};
use lbd::relay::pipe::Pipes;

/// A client and a backend joined by a relay.
struct Rig {
    client: TcpStream,
    backend: TcpStream,
    duplex: Duplex,
    poller: Poller,
    scratch: Vec<u8>,
    pipes: Pipes,
}

const READABLE: Readiness = Readiness {
    readable: true,
    writable: true,
    finished: false,
    broken: false,
};

impl Rig {
    fn new() -> Self {
        let (client, accepted) = pair();
        let (dialled, backend) = pair();
        let directions = (Direction::new(), Direction::new());
        let now = Moment::now();
        let client_peer = Peer::accepted(OwnedFd::from(accepted), Token(0), true);
        let backend_peer = Peer::dialled(dialled.into(), Token(1), true);
        Rig {
            client,
            backend,
            duplex: Duplex::new(client_peer, backend_peer, directions, None, now),
            poller: Poller::new().expect("a poller"),
            scratch: vec![0; 64 * 1024],
            pipes: Pipes::default(),
        }
    }

    /// Sends `bytes` from the client and returns when the backend has them all.
    fn carry(&mut self, bytes: &[u8], into: &mut [u8]) {
        let (mut sent, mut received) = (0, 0);
        while received < bytes.len() {
            if sent < bytes.len() {
                sent += taken(self.client.write(&bytes[sent..]));
            }
            self.duplex.notice(Side::Client, READABLE);
            self.duplex.notice(
                Side::Backend,
                Readiness {
                    readable: false,
                    ..READABLE
                },
            );
            let mut tools = Tools {
                scratch: &mut self.scratch,
                sealed: &mut [],
                pipes: &mut self.pipes,
            };
            let step = self.duplex.advance(&mut tools, &self.poller, Moment::ZERO);
            assert!(!matches!(step, Step::Ended(_)));
            received += taken(self.backend.read(&mut into[received..]));
        }
    }
}

fn taken(result: std::io::Result<usize>) -> usize {
    match result {
        Ok(count) => count,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    }
}

/// A connection's two ends, both without blocking.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let near = TcpStream::connect(listener.local_addr().expect("its address")).expect("a connect");
    let (far, _) = listener.accept().expect("an accept");
    for end in [&near, &far] {
        end.set_nonblocking(true).expect("no blocking");
        end.set_nodelay(true).expect("no delay");
    }
    (near, far)
}

fn paths(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("relay");
    // 32 KiB never fills the scratch buffer, so it stays a copy; 1 MiB fills it and is spliced.
    for (name, size) in [
        ("copy 64 B", 64),
        ("copy 16 KiB", 16 << 10),
        ("copy 32 KiB", 32 << 10),
        ("splice 1 MiB", 1 << 20),
    ] {
        let mut rig = Rig::new();
        let (bytes, mut into) = (vec![7; size], vec![0; size]);
        rig.carry(&bytes, &mut into);
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| rig.carry(black_box(&bytes), &mut into));
        });
    }
    group.finish();
}

criterion_group!(benches, paths);
criterion_main!(benches);
