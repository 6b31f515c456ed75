//! Scripted peers that speak TLS or not, down to the byte at which they break off.

use std::io::{Cursor, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::{ClientConfig, ClientConnection, Connection, ServerConfig, ServerConnection};

use super::script::{Dice, Stream};
use super::sockets;
use super::tls;
use super::wait::PATIENCE;

/// A step of the sending half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Say {
    /// Of the peer's own stream, in pieces of chance size up to this one.
    Bytes {
        bytes: u64,
        piece: u64,
    },
    /// New keys, and the other side is asked to take new ones. Nothing without TLS 1.3.
    NewKeys,
    Pause(Duration),
    AwaitTaken(u64),
    /// Until the other side has ended in order.
    AwaitEnd,
    /// Until the connection is gone.
    AwaitReset,
    /// The end in order: a close_notify with TLS, then the FIN.
    Goodbye,
    /// A close_notify without a FIN; nothing without TLS.
    CloseNotify,
    /// A FIN only: the end in order without TLS, a truncation with it.
    Fin,
    Reset,
}

pub fn bytes(bytes: u64) -> Say {
    let piece = 64 * 1024;
    Say::Bytes { bytes, piece }
}

/// How the other side's bytes are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Taking {
    AtOnce,
    /// At most so many bytes of the socket at once, and then not for a while.
    Paced(usize, Duration),
    /// Not before the connection is gone, but for the handshake.
    Never,
}

#[derive(Clone, Debug)]
pub struct Act {
    pub say: Vec<Say>,
    pub taking: Taking,
    /// After so many bytes on the wire this side breaks off, wherever that is.
    pub cut: Option<(u64, Break)>,
    pub seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    Fin,
    Reset,
}

impl Act {
    pub fn new(say: impl Into<Vec<Say>>) -> Act {
        Act {
            say: say.into(),
            taking: Taking::AtOnce,
            cut: None,
            seed: 1,
        }
    }

    pub fn taking(mut self, taking: Taking) -> Act {
        self.taking = taking;
        self
    }
}

/// How the other side ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order: a close_notify, or without TLS a FIN.
    Whole,
    /// A FIN without a close_notify.
    Truncated,
    Reset,
    /// By a fatal alert, or with what is no TLS.
    Broken,
    /// Nothing happened for longer than anybody waits.
    Stuck,
}

#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub sent: u64,
    pub taken: u64,
    /// What was taken is the beginning of what the other side's stream is.
    pub intact: bool,
    pub end: End,
    /// What followed the end in order: `Whole` is a FIN behind a close_notify.
    pub then: Option<End>,
    /// It ended in order itself, on a connection that took that.
    pub whole: bool,
    pub resumed: bool,
}

pub fn connection(name: &str, config: &Arc<ClientConfig>) -> Connection {
    let name = rustls::pki_types::ServerName::try_from(name.to_owned()).unwrap();
    ClientConnection::new(config.clone(), name).unwrap().into()
}

pub fn acceptance(config: &Arc<ServerConfig>) -> Connection {
    ServerConnection::new(config.clone()).unwrap().into()
}

/// Plays both halves, then closes.
pub fn play(socket: TcpStream, tls: Option<Connection>, own: Stream, act: &Act) -> Seen {
    socket.set_nonblocking(true).unwrap();
    socket.set_nodelay(true).unwrap();
    Player {
        socket,
        tls,
        own,
        act,
        at: 0,
        of_act: 0,
        until: None,
        sent: 0,
        taken: 0,
        intact: true,
        end: None,
        then: None,
        has_fin: false,
        whole: false,
        outgoing: Vec::new(),
        on_wire: 0,
        broken_off: false,
        may_read_at: Instant::now(),
        dice: Dice::new(act.seed),
    }
    .run()
}

struct Player<'a> {
    socket: TcpStream,
    tls: Option<Connection>,
    own: Stream,
    act: &'a Act,
    /// The step under way, and bytes of it that are said.
    at: usize,
    of_act: u64,
    until: Option<Instant>,
    sent: u64,
    taken: u64,
    intact: bool,
    end: Option<End>,
    then: Option<End>,
    has_fin: bool,
    whole: bool,
    outgoing: Vec<u8>,
    on_wire: u64,
    /// Nothing more is said.
    broken_off: bool,
    may_read_at: Instant,
    dice: Dice,
}

impl Player<'_> {
    fn run(mut self) -> Seen {
        let mut moved_at = Instant::now();
        loop {
            let before = (self.on_wire, self.taken, self.at, self.end);
            self.read();
            self.speak();
            self.flush();
            let is_over =
                self.then == Some(End::Reset) || self.end.is_some_and(|end| end != End::Whole);
            let said_all = self.broken_off || self.at == self.act.say.len();
            if is_over || (said_all && self.outgoing.is_empty() && self.end.is_some()) {
                break;
            }
            if before != (self.on_wire, self.taken, self.at, self.end) {
                moved_at = Instant::now();
                continue;
            }
            if moved_at.elapsed() > PATIENCE {
                self.end.get_or_insert(End::Stuck);
                break;
            }
            self.wait();
        }
        Seen {
            sent: match self.tls {
                Some(_) => self.sent,
                None => self.on_wire,
            },
            taken: self.taken,
            intact: self.intact,
            end: self.end.unwrap_or(End::Stuck),
            then: self.then,
            whole: self.whole,
            resumed: self.tls.as_ref().and_then(|tls| tls.handshake_kind())
                == Some(rustls::HandshakeKind::Resumed),
        }
    }

    fn wait(&self) {
        let now = Instant::now();
        let reads = self.act.taking != Taking::Never || self.is_handshaking();
        let (mut flags, mut time) = (PollFlags::empty(), Duration::from_millis(200));
        if reads && now >= self.may_read_at && !self.has_fin {
            flags |= PollFlags::IN;
        } else {
            time = time.min(self.may_read_at.saturating_duration_since(now));
        }
        if !self.outgoing.is_empty() {
            flags |= PollFlags::OUT;
        }
        if let Some(until) = self.until {
            time = time.min(until.saturating_duration_since(now));
        }
        let time = Timespec {
            tv_sec: 0,
            tv_nsec: time.as_nanos().max(1_000_000) as i64,
        };
        let _ = poll(&mut [PollFd::new(&self.socket, flags)], Some(&time)).unwrap();
    }

    fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    fn is_gone(&self) -> bool {
        let mut watched = [PollFd::new(&self.socket, PollFlags::empty())];
        let now = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        poll(&mut watched, Some(&now)).unwrap() == 1
    }

    /// Takes what has come, at the pace of the act.
    fn read(&mut self) {
        let most = match self.act.taking {
            Taking::AtOnce => usize::MAX,
            Taking::Paced(piece, _) => piece,
            Taking::Never if self.is_handshaking() || self.is_gone() => usize::MAX,
            Taking::Never => return,
        };
        if self.has_fin || Instant::now() < self.may_read_at {
            return;
        }
        let mut buffer = vec![0; most.min(64 * 1024)];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(0) => {
                    self.has_fin = true;
                    return self.note(match self.tls {
                        Some(_) => End::Truncated,
                        None => End::Whole,
                    });
                }
                Ok(count) => self.take(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => return self.note(End::Reset),
            }
            if let Taking::Paced(_, gap) = self.act.taking {
                self.may_read_at = Instant::now() + gap;
                return;
            }
            let has_enough = self.act.taking == Taking::Never && !self.is_gone();
            if has_enough || self.end.is_some_and(|end| end != End::Whole) {
                return;
            }
        }
    }

    /// An end of the socket's.
    fn note(&mut self, end: End) {
        match self.end {
            None => self.end = Some(end),
            Some(End::Whole) if end == End::Truncated => self.then = Some(End::Whole),
            Some(End::Whole) if end == End::Reset => self.then = Some(end),
            Some(_) => {}
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        let Some(tls) = &mut self.tls else {
            return self.compare(bytes);
        };
        let mut plain = Vec::new();
        let mut rest = Cursor::new(bytes);
        while rest.position() < bytes.len() as u64 {
            let read = tls.read_tls(&mut rest).unwrap();
            let Ok(state) = tls.process_new_packets() else {
                let _ = tls.reader().read_to_end(&mut plain);
                self.end = Some(End::Broken);
                break;
            };
            let mut some = vec![0; state.plaintext_bytes_to_read()];
            tls.reader().read_exact(&mut some).unwrap();
            plain.extend(some);
            if state.peer_has_closed() {
                self.end = Some(End::Whole);
            }
            if read == 0 {
                break;
            }
        }
        self.compare(&plain);
    }

    fn compare(&mut self, plain: &[u8]) {
        self.intact &= self.own.other().holds(self.taken, plain);
        self.taken += plain.len() as u64;
    }

    /// Does the steps that can be done; what they say goes to `outgoing`.
    fn speak(&mut self) {
        if self.is_handshaking() {
            return self.collect();
        }
        while self.outgoing.is_empty() && !self.broken_off && self.at < self.act.say.len() {
            let is_done = match self.act.say[self.at] {
                Say::Bytes { bytes, piece } => {
                    let count = (1 + self.dice.below(piece)).min(bytes - self.of_act);
                    self.say(count);
                    self.of_act += count;
                    self.of_act == bytes
                }
                Say::NewKeys => {
                    if let Some(tls) = &mut self.tls {
                        let _ = tls.refresh_traffic_keys();
                    }
                    true
                }
                Say::Pause(time) => {
                    let until = *self.until.get_or_insert(Instant::now() + time);
                    Instant::now() >= until
                }
                Say::AwaitTaken(bytes) => self.taken >= bytes || self.end.is_some(),
                Say::AwaitEnd => self.end.is_some(),
                Say::AwaitReset => self.is_gone(),
                Say::Goodbye | Say::CloseNotify | Say::Fin | Say::Reset => {
                    self.end_own(self.act.say[self.at]);
                    true
                }
            };
            self.collect();
            if !is_done {
                if self.outgoing.is_empty() {
                    return;
                }
                continue;
            }
            (self.at, self.of_act, self.until) = (self.at + 1, 0, None);
        }
        self.collect();
    }

    fn say(&mut self, count: u64) {
        let mut left = count;
        while left > 0 {
            let piece = self.own.bytes_at(self.sent, left as usize);
            match &mut self.tls {
                None => self.outgoing.extend_from_slice(piece),
                Some(tls) => {
                    tls.set_buffer_limit(None);
                    tls.writer().write_all(piece).unwrap();
                }
            }
            self.sent += piece.len() as u64;
            left -= piece.len() as u64;
        }
    }

    fn end_own(&mut self, how: Say) {
        if let (Say::Goodbye | Say::CloseNotify, Some(tls)) = (how, &mut self.tls) {
            tls.send_close_notify();
        }
        self.collect();
        if how == Say::Reset {
            return self.break_off(Break::Reset);
        }
        // Short enough for the socket, whose room is what the last step waited for.
        self.flush();
        if !self.broken_off {
            self.whole |= how != Say::Fin || self.tls.is_none();
            if how != Say::CloseNotify {
                let _ = self.socket.shutdown(Shutdown::Write);
            }
        }
    }

    fn collect(&mut self) {
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                tls.write_tls(&mut self.outgoing).unwrap();
            }
        }
    }

    fn flush(&mut self) {
        while !self.outgoing.is_empty() && !self.broken_off {
            let room = self.act.cut.map_or(u64::MAX, |(at, _)| at - self.on_wire);
            let count = self
                .outgoing
                .len()
                .min(usize::try_from(room).unwrap_or(usize::MAX));
            match self.socket.write(&self.outgoing[..count]) {
                Ok(count) => {
                    self.outgoing.drain(..count);
                    self.on_wire += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => {
                    if error.kind() == ErrorKind::ConnectionReset {
                        self.note(End::Reset);
                    }
                    self.broken_off = true;
                    self.outgoing.clear();
                }
            }
            if let Some((_, how)) = self.act.cut.filter(|&(at, _)| at == self.on_wire) {
                self.break_off(how);
            }
        }
        if self.broken_off {
            self.outgoing.clear();
        }
    }

    fn break_off(&mut self, how: Break) {
        self.broken_off = true;
        self.outgoing.clear();
        match how {
            Break::Fin => {
                self.whole |= self.tls.is_none();
                let _ = self.socket.shutdown(Shutdown::Write);
            }
            Break::Reset => {
                sockets::reset(&self.socket);
                self.end.get_or_insert(End::Reset);
            }
        }
    }
}

/// Both sides as [`play`] wants them, believing one authority.
pub struct Keys {
    pub authority: tls::Authority,
    pub client: Arc<ClientConfig>,
    pub backend: Arc<ServerConfig>,
    pub listener: tls::Pair,
}

impl Keys {
    pub fn new() -> Keys {
        let authority = tls::Authority::new("authority of both sides");
        let of_backend = authority.issue("backend", &["backend.test"]);
        Keys {
            client: Arc::new(authority.client()),
            backend: Arc::new(tls::server_config(&of_backend)),
            listener: authority.issue("listener", &["client.test"]),
            authority,
        }
    }

    /// The listener's line that terminates TLS.
    pub fn terminate(&self) -> String {
        let certificates = self.listener.toml();
        format!("tls = {{ mode = \"terminate\", certificates = [{certificates}] }}")
    }

    /// The pool's line that speaks TLS to backends.
    pub fn reencrypt(&self) -> String {
        let ca = self.authority.ca();
        format!("tls = {{ server_name = \"backend.test\", ca = {ca:?} }}")
    }
}
