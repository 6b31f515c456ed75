//! A session over socket pairs, with peers that read and write by chance: whatever waits must be
//! woken by an event of the poller, or the session stands still and the test says so.

use std::io::{Cursor, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::net::sockopt;
use rustls::client::UnbufferedClientConnection;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection,
    SupportedProtocolVersion,
};

use super::*;
use crate::balance::chance::Chance;
use crate::base::clock::Moment;
use crate::net::poller::{Events, Poller, Token};
use crate::relay::duplex::{Duplex, End, Step};
use crate::relay::pipe::Pipes;
use crate::tls::stream::SEALED_ROOM;

/// Sessions of each kind.
const SEEDS: u64 = if cfg!(debug_assertions) { 300 } else { 5000 };

/// Turns of chance without anything happening after which a session is held to stand still.
const PATIENCE: u32 = 2000;

struct Both {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

static CONFIGS: LazyLock<[Both; 2]> = LazyLock::new(|| {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["peer.test".to_owned()]).unwrap();
    let chain = vec![cert.der().clone()];
    let key = PrivateKeyDer::Pkcs8(signing_key.serialize_der().into());
    [&TLS12, &TLS13].map(|version| both(version, &chain, &key))
});

fn both(
    version: &'static SupportedProtocolVersion,
    chain: &[CertificateDer<'static>],
    key: &PrivateKeyDer<'static>,
) -> Both {
    let mut roots = RootCertStore::empty();
    roots.add(chain[0].clone()).unwrap();
    let provider = Arc::new(aws_lc_rs::default_provider());
    let client = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.to_vec(), key.clone_key())
        .unwrap();
    Both {
        client: Arc::new(client),
        server: Arc::new(server),
    }
}

/// Our end and the peer's of a connection that is established. What ours has to say then is left
/// to be said: a ticket.
fn established(side: Side, configs: &Both) -> (TlsStream, Connection) {
    let name = ServerName::try_from("peer.test").unwrap();
    let (mut ours, mut peer): (TlsStream, Connection) = match side {
        Side::Client => {
            let ours = UnbufferedServerConnection::new(configs.server.clone()).unwrap();
            let peer = ClientConnection::new(configs.client.clone(), name).unwrap();
            (TlsStream::server(ours), peer.into())
        }
        Side::Backend => {
            let ours = UnbufferedClientConnection::new(configs.client.clone(), name).unwrap();
            let peer = ServerConnection::new(configs.server.clone()).unwrap();
            let mut ours = TlsStream::client(ours);
            ours.start().unwrap();
            (ours, peer.into())
        }
    };
    let (mut sealed, mut plain) = (vec![0; SEALED_BYTES], vec![0; PLAIN_BYTES]);
    while !ours.is_established() || peer.is_handshaking() {
        let said = ours.take_control();
        hear(&mut peer, &said);
        let mut answer = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut answer).unwrap();
        }
        let front = ours.lay_out(&mut sealed);
        sealed[front..front + answer.len()].copy_from_slice(&answer);
        let whole = &mut sealed[..front + answer.len()];
        assert_eq!(ours.open(whole, &mut plain).unwrap().plain, 0);
    }
    (ours, peer)
}

fn hear(peer: &mut Connection, bytes: &[u8]) {
    let mut rest = Cursor::new(bytes);
    while rest.position() < bytes.len() as u64 {
        if peer.read_tls(&mut rest).unwrap() == 0 {
            break;
        }
        peer.process_new_packets().unwrap();
    }
}

struct Talker {
    socket: UnixStream,
    tls: Option<Connection>,
    /// Its whole speech, and how much of it is said.
    speech: Vec<u8>,
    said: usize,
    outgoing: Vec<u8>,
    has_ended: bool,
    heard: Vec<u8>,
    heard_end: bool,
    /// Bytes that came behind the other's end.
    behind_end: usize,
}

impl Talker {
    fn new(socket: UnixStream, tls: Option<Connection>, chance: &mut Chance) -> Talker {
        socket.set_nonblocking(true).unwrap();
        // As small as the kernel allows, so that nothing goes at once.
        sockopt::set_socket_send_buffer_size(&socket, 1).unwrap();
        let length = [0, 1, 5000, 100_000][chance.below(4) as usize];
        Talker {
            socket,
            tls,
            speech: (0..length).map(|_| chance.next_u64() as u8).collect(),
            said: 0,
            outgoing: Vec::new(),
            has_ended: false,
            heard: Vec::new(),
            heard_end: false,
            behind_end: 0,
        }
    }

    /// Does one thing by chance. True: something happened.
    fn act(&mut self, chance: &mut Chance) -> bool {
        match chance.below(8) {
            0 | 1 if self.outgoing.len() < 70_000 => self.speak(chance),
            2 if chance.below(20) == 0 => match &mut self.tls {
                Some(tls) if !self.has_ended => {
                    let _ = tls.refresh_traffic_keys();
                    self.collect()
                }
                _ => false,
            },
            3 | 4 => self.write(1 + chance.below(40_000) as usize),
            5.. => self.read(1 + chance.below(40_000) as usize),
            _ => false,
        }
    }

    fn speak(&mut self, chance: &mut Chance) -> bool {
        if self.has_ended {
            return false;
        }
        let left = self.speech.len() - self.said;
        let count = left.min(1 + chance.below(30_000) as usize);
        let piece = &self.speech[self.said..self.said + count];
        match &mut self.tls {
            None => self.outgoing.extend_from_slice(piece),
            Some(tls) => {
                tls.set_buffer_limit(None);
                tls.writer().write_all(piece).unwrap();
                if left == 0 {
                    tls.send_close_notify();
                }
            }
        }
        self.said += count;
        self.has_ended = left == 0;
        self.collect();
        true
    }

    fn collect(&mut self) -> bool {
        let Some(tls) = &mut self.tls else {
            return false;
        };
        let before = self.outgoing.len();
        while tls.wants_write() {
            tls.write_tls(&mut self.outgoing).unwrap();
        }
        self.outgoing.len() > before
    }

    fn write(&mut self, most: usize) -> bool {
        self.collect();
        let count = most.min(self.outgoing.len());
        let moved = match self.socket.write(&self.outgoing[..count]) {
            Ok(count) => self.outgoing.drain(..count).count() > 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            // The session has ended, which it did for a reason that is checked.
            Err(_) => {
                self.outgoing.clear();
                false
            }
        };
        if self.has_ended && self.outgoing.is_empty() {
            let _ = self.socket.shutdown(Shutdown::Write);
        }
        moved
    }

    fn read(&mut self, most: usize) -> bool {
        let mut buffer = vec![0; most];
        let count = match self.socket.read(&mut buffer) {
            Ok(0) => {
                self.heard_end |= self.tls.is_none();
                return false;
            }
            Ok(count) => count,
            Err(_) => return false,
        };
        let bytes = &buffer[..count];
        let Some(tls) = &mut self.tls else {
            self.heard.extend_from_slice(bytes);
            return true;
        };
        // One read at a time, so that its buffer has room.
        let mut rest = bytes;
        while !rest.is_empty() && !self.heard_end {
            let read = tls.read_tls(&mut rest).unwrap();
            let state = tls.process_new_packets().expect("records in order");
            let mut plain = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut plain).unwrap();
            self.heard.extend(plain);
            self.heard_end |= state.peer_has_closed();
            if read == 0 {
                break;
            }
        }
        self.behind_end += rest.len();
        true
    }

    /// Hears what is left, up to the end of the socket.
    fn hear_out(&mut self) {
        self.socket.set_nonblocking(false).unwrap();
        self.socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        while self.read(40_000) {}
    }
}

/// Both halves of a session of chance, until it has ended.
fn play(over: [bool; 2], seed: u64) {
    let told = format!("{over:?}, seed {seed}");
    let mut chance = Chance::seeded(seed);
    let configs = &CONFIGS[chance.below(2) as usize];
    let mut end_of = |side: Side, is_secured: bool| {
        let (near, far) = UnixStream::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        sockopt::set_socket_send_buffer_size(&near, 1).unwrap();
        let (ours, theirs) = match is_secured {
            true => Some(established(side, configs)).unzip(),
            false => (None, None),
        };
        let token = Token(u64::from(side == Side::Backend));
        let peer = Peer::accepted(near.into(), token, false);
        (peer, ours, Talker::new(far, theirs, &mut chance))
    };
    let (near_client, client_tls, mut client) = end_of(Side::Client, over[0]);
    let (near_backend, backend_tls, mut backend) = end_of(Side::Backend, over[1]);
    let secured = Some(Box::new(Secured::new(client_tls, backend_tls)));
    let directions = (Direction::new(), Direction::new());
    let mut now = Moment::ZERO;
    let mut duplex = Duplex::new(near_client, near_backend, directions, secured, now);

    let (poller, mut events) = (Poller::new().unwrap(), Events::new());
    let (mut scratch, mut sealed) = (vec![0; PLAIN_BYTES], vec![0; SEALED_ROOM]);
    let mut pipes = Pipes::default();
    let (mut step, mut still) = (Step::Again, 0);
    loop {
        still += 1;
        assert!(still < PATIENCE, "{told}: it stands still: {duplex:?}");
        if client.act(&mut chance) | backend.act(&mut chance) {
            still = 0;
        }
        if chance.below(3) > 0 {
            continue;
        }
        now = now + Duration::from_millis(1);
        poller.wait(&mut events, Some(Duration::ZERO)).unwrap();
        let mut is_woken = step == Step::Again;
        for (token, readiness) in events.iter() {
            let side = if token == Token(0) {
                Side::Client
            } else {
                Side::Backend
            };
            duplex.notice(side, readiness);
            is_woken = true;
        }
        if !is_woken {
            continue;
        }
        let mut tools = Tools {
            scratch: &mut scratch,
            sealed: &mut sealed,
            pipes: &mut pipes,
        };
        step = duplex.advance(&mut tools, &poller, now);
        if let Step::Ended(end) = step {
            assert!(matches!(end, End::Closed(_)), "{told}: {end:?}");
            break;
        }
        assert_ne!(step, Step::Lingers, "{told}: nobody broke off");
    }
    drop(duplex);
    client.hear_out();
    backend.hear_out();
    for (from, to) in [(&client, &backend), (&backend, &client)] {
        let (heard, speech) = (to.heard.len(), from.speech.len());
        assert!(to.heard == from.speech, "{told}: {heard} of {speech}");
        assert!(to.heard_end, "{told}: no end was heard");
        assert_eq!(to.behind_end, 0, "{told}: bytes behind the end");
    }
}

#[test]
fn whatever_the_peers_do_when_both_hear_all_of_it_in_order_and_one_end() {
    for over in [[true, false], [false, true], [true, true]] {
        for seed in 0..SEEDS {
            play(over, seed);
        }
    }
}
