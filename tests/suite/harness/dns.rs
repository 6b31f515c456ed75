//! A name server that answers by script, over UDP and TCP on one port; bytes by hand, so that it
//! can lie in every way.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub const A: u16 = 1;
pub const CNAME: u16 = 5;
pub const AAAA: u16 = 28;
pub const SRV: u16 = 33;

/// What is answered to a question.
#[derive(Clone, Debug)]
pub enum Reply {
    /// Those of the type that was asked for, and aliases; over UDP a truncated answer when they
    /// are too many for a packet.
    Records(u32, Vec<Record>),
    /// No record and this code: 0 is an empty answer, 2 SERVFAIL, 3 NXDOMAIN.
    Code(u8),
    /// The same, but over UDP always truncated.
    OverTcpOnly(Box<Reply>),
    Silence,
    /// The right answer with another id than the question's, and nothing else.
    WrongId(Box<Reply>),
    /// An answer whose name is a pointer to itself.
    Loop,
    /// The header of an answer, and then these bytes.
    Garbage(Vec<u8>),
    Late(Duration, Box<Reply>),
}

#[derive(Clone, Debug)]
pub enum Record {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    /// Priority, weight, port, target.
    Srv(u16, u16, u16, String),
    Cname(String),
    /// An address of another name than the one asked for.
    Foreign(String, Ipv4Addr),
}

/// Addresses with a time to live in seconds.
pub fn addresses(ttl: u32, list: &[&str]) -> Reply {
    let record = |text: &&str| match text.parse().unwrap() {
        std::net::IpAddr::V4(ip) => Record::A(ip),
        std::net::IpAddr::V6(ip) => Record::Aaaa(ip),
    };
    Reply::Records(ttl, list.iter().map(record).collect())
}

pub const NXDOMAIN: Reply = Reply::Code(3);
pub const SERVFAIL: Reply = Reply::Code(2);
pub const EMPTY: Reply = Reply::Code(0);

/// Longest answer over UDP.
const PACKET_BYTES_MAX: usize = 1200;

#[derive(Clone, Debug)]
pub struct Question {
    pub name: String,
    pub kind: u16,
    pub over_tcp: bool,
    pub at: Instant,
}

#[derive(Debug, Default)]
struct Desk {
    /// By name, and by type where one is given.
    script: Mutex<Vec<(String, Option<u16>, Reply)>>,
    asked: Mutex<Vec<Question>>,
    over: AtomicBool,
    /// Questions whose answer is not out yet, and the most there were.
    open: AtomicUsize,
    open_most: AtomicUsize,
}

/// Names it was not told of are NXDOMAIN.
#[derive(Debug)]
pub struct DnsServer {
    pub address: SocketAddr,
    desk: Arc<Desk>,
    threads: Vec<JoinHandle<()>>,
}

impl DnsServer {
    pub fn start() -> DnsServer {
        let (udp, tcp) = (0..100).find_map(|_| both()).expect("a port for both");
        let address = udp.local_addr().unwrap();
        let desk = Arc::new(Desk::default());
        let (of_udp, of_tcp) = (desk.clone(), desk.clone());
        let threads = vec![
            thread::spawn(move || serve_udp(&udp, &of_udp)),
            thread::spawn(move || serve_tcp(&tcp, &of_tcp)),
        ];
        DnsServer {
            address,
            desk,
            threads,
        }
    }

    /// Answers every question for the name so from now on.
    pub fn say(&self, name: &str, reply: Reply) {
        let mut script = self.desk.script.lock().unwrap();
        script.retain(|(known, _, _)| known != name);
        script.push((name.to_owned(), None, reply));
    }

    /// The same for one type of record only.
    pub fn say_for(&self, name: &str, kind: u16, reply: Reply) {
        let mut script = self.desk.script.lock().unwrap();
        script.retain(|(known, of, _)| known != name || *of != Some(kind));
        script.insert(0, (name.to_owned(), Some(kind), reply));
    }

    /// The questions for a name and type so far.
    pub fn questions(&self, name: &str, kind: u16) -> Vec<Question> {
        let asked = self.desk.asked.lock().unwrap();
        let same = |one: &&Question| one.name == name && one.kind == kind;
        asked.iter().filter(same).cloned().collect()
    }

    /// The most questions that were open at once.
    pub fn open_most(&self) -> usize {
        self.desk.open_most.load(SeqCst)
    }

    pub fn asked(&self, name: &str, kind: u16) -> usize {
        self.questions(name, kind).len()
    }
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        self.desk.over.store(true, SeqCst);
        // Wakes the threads.
        let waker = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = waker.send_to(&[0], self.address);
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn both() -> Option<(UdpSocket, TcpListener)> {
    let udp = UdpSocket::bind("127.0.0.1:0").ok()?;
    let tcp = TcpListener::bind(udp.local_addr().ok()?).ok()?;
    Some((udp, tcp))
}

fn serve_udp(socket: &UdpSocket, desk: &Arc<Desk>) {
    let mut packet = [0; 4096];
    while let Ok((length, from)) = socket.recv_from(&mut packet) {
        if desk.over.load(SeqCst) {
            return;
        }
        let (request, socket) = (packet[..length].to_vec(), socket.try_clone().unwrap());
        let desk = desk.clone();
        // Apart, because of late answers.
        thread::spawn(move || {
            if let Some(answer) = desk.answer(&request, false) {
                let _ = socket.send_to(&answer, from);
            }
        });
    }
}

fn serve_tcp(listener: &TcpListener, desk: &Arc<Desk>) {
    for stream in listener.incoming() {
        if desk.over.load(SeqCst) {
            return;
        }
        let (Ok(stream), desk) = (stream, desk.clone()) else {
            continue;
        };
        thread::spawn(move || serve_stream(stream, &desk));
    }
}

fn serve_stream(mut stream: TcpStream, desk: &Desk) {
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let mut length = [0; 2];
    while stream.read_exact(&mut length).is_ok() {
        let mut request = vec![0; usize::from(u16::from_be_bytes(length))];
        if stream.read_exact(&mut request).is_err() {
            return;
        }
        let Some(answer) = desk.answer(&request, true) else {
            continue;
        };
        let length = u16::try_from(answer.len()).expect("an answer fits in its length");
        let whole = [&length.to_be_bytes()[..], &answer].concat();
        if stream.write_all(&whole).is_err() {
            return;
        }
    }
}

impl Desk {
    fn answer(&self, request: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        let (name, kind, end) = question(request)?;
        self.asked.lock().unwrap().push(Question {
            name: name.clone(),
            kind,
            over_tcp,
            at: Instant::now(),
        });
        let reply = {
            let script = self.script.lock().unwrap();
            let fits = |(known, of, _): &&(String, Option<u16>, Reply)| {
                *known == name && of.is_none_or(|of| of == kind)
            };
            script.iter().find(fits).map(|(_, _, reply)| reply.clone())
        };
        let asked = Asked {
            id: [request[0], request[1]],
            question: &request[12..end],
            kind,
            over_tcp,
        };
        let open = self.open.fetch_add(1, SeqCst) + 1;
        self.open_most.fetch_max(open, SeqCst);
        let answer = asked.render(&reply.unwrap_or(NXDOMAIN));
        self.open.fetch_sub(1, SeqCst);
        answer
    }
}

/// Name in lower case, type, and where the question ends.
fn question(request: &[u8]) -> Option<(String, u16, usize)> {
    let mut labels = Vec::new();
    let mut at = 12;
    loop {
        let length = usize::from(*request.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        let label = request.get(at..at + length)?;
        labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes(request.get(at..at + 2)?.try_into().ok()?);
    Some((labels.join("."), kind, at + 4))
}

struct Asked<'a> {
    id: [u8; 2],
    question: &'a [u8],
    kind: u16,
    over_tcp: bool,
}

impl Asked<'_> {
    fn render(&self, reply: &Reply) -> Option<Vec<u8>> {
        Some(match reply {
            Reply::Records(ttl, records) => {
                let fitting: Vec<Vec<u8>> = records
                    .iter()
                    .filter_map(|record| self.record(*ttl, record))
                    .collect();
                let whole = [self.head(0, false, fitting.len()), fitting.concat()].concat();
                if !self.over_tcp && whole.len() > PACKET_BYTES_MAX {
                    return Some(self.head(0, true, 0));
                }
                whole
            }
            Reply::Code(code) => self.head(*code, false, 0),
            Reply::OverTcpOnly(inner) if self.over_tcp => return self.render(inner),
            Reply::OverTcpOnly(_) => self.head(0, true, 0),
            Reply::Silence => return None,
            Reply::WrongId(inner) => {
                let mut answer = self.render(inner)?;
                answer[0] = !answer[0];
                answer
            }
            Reply::Loop => {
                let mut answer = self.head(0, false, 1);
                let here = u16::try_from(answer.len()).unwrap();
                answer.extend((0xc000 | here).to_be_bytes());
                answer.extend([0, 1, 0, 1, 0, 0, 0, 9, 0, 4, 10, 6, 6, 6]);
                answer
            }
            Reply::Garbage(bytes) => [&self.head(0, false, 1)[..], bytes].concat(),
            Reply::Late(time, inner) => {
                thread::sleep(*time);
                return self.render(inner);
            }
        })
    }

    fn head(&self, code: u8, truncated: bool, answers: usize) -> Vec<u8> {
        let first = if truncated { 0x87 } else { 0x85 };
        let mut head = vec![self.id[0], self.id[1], first, 0x80 | code, 0, 1];
        head.extend(u16::try_from(answers).unwrap().to_be_bytes());
        head.extend([0, 0, 0, 0]);
        head.extend(self.question);
        head
    }

    /// `None` when it is of another type than was asked for.
    fn record(&self, ttl: u32, record: &Record) -> Option<Vec<u8>> {
        // A pointer to the name in the question.
        let mut owner = vec![0xc0, 12];
        let (kind, data) = match record {
            Record::A(ip) => (A, ip.octets().to_vec()),
            Record::Aaaa(ip) => (AAAA, ip.octets().to_vec()),
            Record::Srv(priority, weight, port, target) => {
                let numbers = [priority, weight, port].map(|number| number.to_be_bytes());
                (SRV, [numbers.concat(), labels(target)].concat())
            }
            Record::Cname(target) => (CNAME, labels(target)),
            Record::Foreign(name, ip) => {
                owner = labels(name);
                (A, ip.octets().to_vec())
            }
        };
        if kind != self.kind && kind != CNAME {
            return None;
        }
        let mut bytes = owner;
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        bytes.extend(ttl.to_be_bytes());
        bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend(data);
        Some(bytes)
    }
}

fn labels(name: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(u8::try_from(label.len()).unwrap());
        bytes.extend(label.as_bytes());
    }
    bytes.push(0);
    bytes
}
