//! What the tests of routes and of the PROXY protocol share: servers that keep what they are sent
//! and say who they are, clients that say something in pieces and hear who answers, and hellos.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

use crate::harness::balancer::Balancer;
use crate::harness::peer::{Backend, End};
use crate::harness::record::Record;
use crate::harness::sockets::{self, Options};
use crate::harness::wait;

/// Clients here take their time, so that the deadline of a hello is none of theirs.
pub(crate) const PASSTHROUGH: &str =
    "tls = { mode = \"passthrough\", handshake_timeout = \"10m\" }";

/// A server that keeps what each client sends up to its end, and then answers with its name.
pub(crate) struct Keeper {
    pub(crate) backend: Backend,
    received: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Keeper {
    pub(crate) fn new(name: &'static str) -> Keeper {
        Keeper::on(sockets::listen_with(Options::default()), name)
    }

    pub(crate) fn on(listener: TcpListener, name: &'static str) -> Keeper {
        let received: Arc<Mutex<Vec<Vec<u8>>>> = Arc::default();
        let all = received.clone();
        let backend = Backend::serving(listener, move |mut socket| {
            socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
            let mut bytes = Vec::new();
            let _reset_or_not = socket.read_to_end(&mut bytes);
            all.lock().unwrap().push(bytes);
            let _gone_or_not = socket.write_all(name.as_bytes());
        });
        Keeper { backend, received }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.backend.address
    }

    /// What each client sent that has ended.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        self.received.lock().unwrap().clone()
    }

    pub(crate) fn received_once(&self) -> Vec<u8> {
        let received = self.received();
        assert_eq!(received.len(), 1, "one client");
        received.into_iter().next().unwrap()
    }

    pub(crate) fn untouched(&self) -> bool {
        self.backend.accepted() == 0
    }
}

/// A pool without probes.
pub(crate) fn pool(name: &str, lines: &str, backends: &[SocketAddr]) -> String {
    let mut text = format!("\n[[pool]]\nname = \"{name}\"\n{lines}\n");
    text += "[pool.health]\nprobe = \"none\"\n";
    for (at, address) in backends.iter().enumerate() {
        let head = "[[pool.backend]]";
        writeln!(
            text,
            "{head}\nname = \"{name}{at}\"\naddress = \"{address}\""
        )
        .unwrap();
    }
    text
}

/// What a client heard that said something and ended.
#[derive(Clone, Debug)]
pub(crate) struct Heard {
    pub(crate) client: SocketAddr,
    pub(crate) answer: Vec<u8>,
    pub(crate) end: End,
}

impl Heard {
    /// Who answered, if the answer came whole.
    pub(crate) fn from(&self) -> &str {
        match self.end {
            End::Fin => std::str::from_utf8(&self.answer).unwrap_or("not a name"),
            _ => "nobody",
        }
    }
}

pub(crate) fn ask(to: SocketAddr, said: &[u8]) -> Heard {
    say(connect(to), said)
}

/// As [`ask`], from an address of the loopback device.
pub(crate) fn ask_from(source: &str, to: SocketAddr, said: &[u8]) -> Heard {
    say(connect_from(source, to), said)
}

pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    ready(TcpStream::connect(to).unwrap())
}

pub(crate) fn connect_from(source: &str, to: SocketAddr) -> TcpStream {
    let options = Options {
        source: Some(SocketAddr::new(source.parse().unwrap(), 0)),
        ..Options::default()
    };
    ready(sockets::connect_with(to, options).unwrap())
}

fn ready(socket: TcpStream) -> TcpStream {
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(wait::PATIENCE)).unwrap();
    socket.set_write_timeout(Some(wait::PATIENCE)).unwrap();
    socket
}

/// Says it, ends, and hears what comes up to the end.
pub(crate) fn say(mut socket: TcpStream, said: &[u8]) -> Heard {
    let sent = socket.write_all(said);
    hear_after(sent, socket)
}

/// Ends, and hears what comes up to the end.
pub(crate) fn hear(socket: TcpStream) -> Heard {
    hear_after(Ok(()), socket)
}

/// The kernel tells of a reset once only: who was told while it sent reads an end in order.
fn hear_after(sent: std::io::Result<()>, mut socket: TcpStream) -> Heard {
    let client = socket.local_addr().unwrap();
    let _reset_or_not = socket.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let end = match socket.read_to_end(&mut answer) {
        Ok(_) if sent.is_ok() => End::Fin,
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => End::Stuck,
        _ => End::Reset,
    };
    Heard {
        client,
        answer,
        end,
    }
}

/// The same bytes in two segments each, split at each of these places; the second is sent once the
/// balancer has read the first.
pub(crate) fn ask_split(
    to: SocketAddr,
    said: &[u8],
    places: impl IntoIterator<Item = usize>,
) -> Vec<(usize, Heard)> {
    /// At once, so that descriptors are left for the tests beside.
    const CLIENTS: usize = 200;

    let places: Vec<usize> = places.into_iter().collect();
    let mut heard = Vec::new();
    for some in places.chunks(CLIENTS) {
        let mut clients: Vec<TcpStream> = Vec::new();
        for &at in some {
            let mut client = connect(to);
            client.write_all(&said[..at]).unwrap();
            clients.push(client);
        }
        await_read(to);
        let rest = |(mut client, &at): (TcpStream, &usize)| {
            // Who is refused for the first part may be told so by now.
            (client.write_all(&said[at..]), at, client)
        };
        let sent: Vec<_> = clients.into_iter().zip(some).map(rest).collect();
        let answers = sent.into_iter();
        heard.extend(answers.map(|(sent, at, client)| (at, hear_after(sent, client))));
    }
    heard
}

/// Waits until the balancer that listens there has read all that its clients have sent so far.
pub(crate) fn await_read(to: SocketAddr) {
    let SocketAddr::V4(v4) = to else {
        panic!("{to} is no IPv4")
    };
    let address = u32::from_ne_bytes(v4.ip().octets());
    let end = format!("{address:08X}:{:04X}", v4.port());
    // First what left the clients, then what is in the queues it went to: the kernel writes its
    // table line by line, while bytes move on.
    for (column, queue) in [(2, 0), (1, 1)] {
        wait::until("all that was sent is read", || {
            let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
            let mut lines = table.lines().map(|line| line.split_whitespace());
            lines.all(|mut fields| {
                let is_ours = fields.clone().nth(column) == Some(&end);
                let queues = fields
                    .nth(4)
                    .and_then(|queues| queues.split(':').nth(queue));
                !is_ours || queues == Some("00000000")
            })
        });
    }
}

/// Each byte in a segment of its own, with a gap between them; until all is sent or nobody takes
/// it any more.
pub(crate) fn dribble(socket: &mut TcpStream, bytes: &[u8], gap: std::time::Duration) {
    for byte in bytes {
        if socket.write_all(&[*byte]).is_err() {
            return;
        }
        std::thread::sleep(gap);
    }
}

/// The record of the connection that somebody at this address passed on.
pub(crate) fn record_passed_on(balancer: &Balancer, by: SocketAddr) -> Record {
    let by = by.to_string();
    wait::until_some("the record is written", || {
        let mut records = balancer.records().into_iter();
        records.rfind(|record| record.text("passed_on_by") == by)
    })
}

/// All records by who passed their connections on, once there are so many.
pub(crate) fn records_passed_on(balancer: &Balancer, count: usize) -> HashMap<String, Record> {
    wait::until_some("the records are written", || {
        let records = balancer.records();
        let by = |record: Record| (record.text("passed_on_by").to_owned(), record);
        (records.len() >= count).then(|| records.into_iter().map(by).collect())
    })
}

/// How a client was turned away: phase, termination and detail.
pub(crate) fn refusal(record: &Record) -> (&str, &str, &str) {
    (
        record.text("phase"),
        record.termination(),
        record.text("detail"),
    )
}

/// What a client of rustls says first.
pub(crate) fn hello_of(config: &Arc<ClientConfig>, name: &str) -> Vec<u8> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut connection = ClientConnection::new(config.clone(), name).unwrap();
    let mut sent = Vec::new();
    while connection.wants_write() {
        connection.write_tls(&mut sent).unwrap();
    }
    sent
}

/// A hello in one record that asks for this name and offers these protocols.
pub(crate) fn hello(name: &str, protocols: &[&str]) -> Vec<u8> {
    let protocols: Vec<&[u8]> = protocols.iter().map(|name| name.as_bytes()).collect();
    in_records(
        &message(Some(&host(name.as_bytes())), &protocols, 0),
        1 << 14,
    )
}

/// The entry of one host name in the list of server names (RFC 6066, section 3).
pub(crate) fn host(name: &[u8]) -> Vec<u8> {
    [&[0], &prefixed16(name)[..]].concat()
}

/// A ClientHello whose fields have `body` bytes together, or as many as it takes; `names`: the
/// content of the list of server names.
pub(crate) fn message(names: Option<&[u8]>, protocols: &[&[u8]], body: usize) -> Vec<u8> {
    const SERVER_NAME: u16 = 0;
    const ALPN: u16 = 16;
    const PADDING: u16 = 21;

    let extension =
        |kind: u16, content: &[u8]| [&kind.to_be_bytes(), &prefixed16(content)[..]].concat();
    // TLS 1.2, a random, no session, TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, no compression.
    let mut fields = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2f, 1, 0]].concat();
    let mut asked = Vec::new();
    if let Some(names) = names {
        asked.extend(extension(SERVER_NAME, &prefixed16(names)));
    }
    if !protocols.is_empty() {
        let one = |name: &&[u8]| [&[name.len() as u8], *name].concat();
        let list: Vec<u8> = protocols.iter().flat_map(one).collect();
        asked.extend(extension(ALPN, &prefixed16(&list)));
    }
    // In front, so that what matters comes last.
    let bare = fields.len() + 2 + asked.len();
    let padding = match body.checked_sub(bare + 4) {
        Some(bytes) => extension(PADDING, &vec![0; bytes]),
        None => Vec::new(),
    };
    fields.extend(prefixed16(&[padding, asked].concat()));
    let length = (fields.len() as u32).to_be_bytes();
    [&[1], &length[1..], &fields].concat()
}

/// The message in records of so many bytes.
pub(crate) fn in_records(message: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| [&[22, 3, 1], &prefixed16(part)[..]].concat();
    message.chunks(size).flat_map(record).collect()
}

fn prefixed16(content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).unwrap().to_be_bytes();
    [&length, content].concat()
}
