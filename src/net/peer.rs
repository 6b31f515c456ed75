//! One end of a session: a socket, and what is known of its readiness.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown, sockopt};

use super::poller::{Interest, Poller, Readiness, Token};
use crate::sys;

/// Bytes that fit one segment on every path (RFC 9293, section 3.7.1). A first send of no more
/// than this cannot be held back by Nagle's algorithm, so it needs no option set before it.
const SEGMENT_BYTES_MIN: usize = 536;

/// How the kernel finds out that a silent peer is gone. Three unanswered probes after a minute
/// of silence; NATs and firewalls forget idle flows after five minutes at the earliest.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub const KEEPALIVE_COUNT: u32 = 3;

/// How long bytes to a peer may stay unacknowledged before the kernel gives it up. The kernel
/// counts a window that stays closed too: a reader that has stopped is ended at `idle` by us, who
/// can say why, so the kernel's turn comes clearly later. Zero is no limit of ours.
pub fn unacknowledged_max(idle: Duration) -> Duration {
    if idle.is_zero() {
        Duration::from_secs(15 * 60)
    } else {
        idle + idle / 4 + UNANSWERED_GRACE
    }
}

/// Our look at a blocked session may come a second late.
const UNANSWERED_GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Peer {
    socket: OwnedFd,
    token: Token,
    tcp: bool,
    watched: Option<Interest>,
    /// False once a read has emptied the socket, until the next event.
    pub readable: bool,
    /// False once the socket took less than was offered, until the next event.
    pub writable: bool,
    /// The peer's FIN has arrived, possibly behind unread bytes. Only a read of 0 is the end.
    pub finished: bool,
    /// A reset or a kernel timeout has ended the connection; unread input may remain.
    pub broken: bool,
    nagle: Nagle,
}

/// Nagle's algorithm (RFC 9293, section 3.7.4) holds a small write back while an earlier one is
/// unacknowledged. A new connection has it on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nagle {
    /// On, and nothing has been written that could be unacknowledged.
    Harmless,
    /// On, and the next write could be held back.
    InTheWay,
    Off,
}

impl Peer {
    /// A client's socket: its options came with it from the listener.
    pub fn accepted(socket: OwnedFd, token: Token, tcp: bool) -> Self {
        Peer::new(socket, token, tcp, Nagle::Off)
    }

    /// A socket whose connect has begun: nothing can be read before the first event.
    pub fn dialled(socket: OwnedFd, token: Token, tcp: bool) -> Self {
        let nagle = if tcp { Nagle::Harmless } else { Nagle::Off };
        Peer {
            readable: false,
            ..Peer::new(socket, token, tcp, nagle)
        }
    }

    fn new(socket: OwnedFd, token: Token, tcp: bool, nagle: Nagle) -> Self {
        Peer {
            socket,
            token,
            tcp,
            watched: None,
            readable: true,
            writable: true,
            finished: false,
            broken: false,
            nagle,
        }
    }

    pub fn token(&self) -> Token {
        self.token
    }

    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Where the peer connected to; `None` for a unix socket.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        let addr = rustix::net::getsockname(&self.socket).ok()?;
        SocketAddr::try_from(addr).ok()
    }

    pub fn is_tcp(&self) -> bool {
        self.tcp
    }

    /// Takes note of what an event said.
    pub fn notice(&mut self, readiness: Readiness) {
        self.readable |= readiness.readable;
        self.writable |= readiness.writable;
        self.finished |= readiness.finished;
        self.broken |= readiness.broken;
    }

    /// Watches the socket for input, and for room when `writes` is set. A watch is only ever
    /// widened: an edge that is not needed costs nothing, taking it back costs a call.
    pub fn watch(&mut self, poller: &Poller, writes: bool) -> io::Result<()> {
        let wanted = if writes {
            Interest::ReadWrite
        } else {
            Interest::Read
        };
        match self.watched {
            None => poller.watch(&self.socket, self.token, wanted)?,
            Some(Interest::Read) if writes => poller.rewatch(&self.socket, self.token, wanted)?,
            Some(_) => return Ok(()),
        }
        self.watched = Some(wanted);
        Ok(())
    }

    /// Reads into `buffer`: 0 is the end of the input. A read that did not fill the buffer has
    /// emptied the socket, so it is not asked again before the next event, unless a FIN is
    /// known to follow, which no further event would tell.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let room = buffer.len();
        let result = retry(|| recv(&self.socket, &mut *buffer, RecvFlags::empty()));
        match result {
            Ok((_, 0)) if self.broken => Err(Errno::CONNRESET),
            Ok((_, count)) => {
                if count < room && count > 0 && !self.finished && !self.broken {
                    self.readable = false;
                }
                Ok(count)
            }
            Err(error) => {
                self.readable &= error != Errno::AGAIN;
                Err(error)
            }
        }
    }

    /// Whether a byte could be read at this moment.
    pub fn has_input(&self) -> bool {
        let peeked = retry(|| recv(&self.socket, &mut [0; 1], RecvFlags::PEEK));
        matches!(peeked, Ok((_, count)) if count > 0)
    }

    /// Writes what the socket takes of `bytes`. `more`: the caller writes again or closes before
    /// it waits, so a partial segment may be kept back for what follows.
    pub fn transmit(&mut self, bytes: &[u8], more: bool) -> Result<usize, Errno> {
        self.undelay(bytes.len());
        let flags = if more {
            SendFlags::NOSIGNAL | SendFlags::MORE
        } else {
            SendFlags::NOSIGNAL
        };
        let result = retry(|| send(&self.socket, bytes, flags));
        match result {
            Ok(count) => self.writable = count == bytes.len(),
            Err(Errno::AGAIN) => self.writable = false,
            Err(_) => {}
        }
        result
    }

    /// Switches Nagle's algorithm off before the first write it could hold back. A connection
    /// that carries one short request never pays for the call.
    pub fn undelay(&mut self, bytes: usize) {
        match self.nagle {
            Nagle::Off => {}
            Nagle::Harmless if bytes <= SEGMENT_BYTES_MIN => self.nagle = Nagle::InTheWay,
            Nagle::Harmless | Nagle::InTheWay => self.flush(),
        }
    }

    /// Pushes out a partial segment that an earlier `more` kept back.
    pub fn flush(&mut self) {
        if self.tcp {
            // Fails only on a connection that is gone, which the next call will say.
            let _ = sockopt::set_tcp_nodelay(&self.socket, true);
        }
        self.nagle = Nagle::Off;
    }

    /// Sends a FIN behind what was written.
    pub fn finish(&self) {
        // ENOTCONN after a reset: the reset is what counts, and the next read will say so.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    /// Makes the close that follows a reset, which discards what is still queued.
    pub fn close_by_reset(&self) {
        let _ = sockopt::set_socket_linger(&self.socket, Some(Duration::ZERO));
    }

    /// Lets the kernel find out by itself that the peer is gone: probes when it is silent, and a
    /// bound on bytes that stay unacknowledged.
    pub fn keep_alive(&self, unacknowledged_for: Duration) {
        if self.tcp {
            // An old kernel without one of the options keeps its defaults.
            let _ = set_keepalive(&self.socket, unacknowledged_for);
        }
    }

    /// Bytes written that the peer has not acknowledged; 0 when the connection is gone.
    pub fn unacknowledged(&self) -> u32 {
        sys::socket::unacknowledged(self.socket.as_fd()).unwrap_or(0)
    }

    /// Bytes the peer has acknowledged so far; 0 where that cannot be told.
    pub fn acknowledged(&self) -> u64 {
        if self.tcp {
            sys::socket::acknowledged(self.socket.as_fd()).unwrap_or(0)
        } else {
            0
        }
    }
}

/// Sets keepalive and the user timeout (RFC 5482) on a TCP socket or a listener.
pub fn set_keepalive(socket: impl AsFd, unacknowledged_for: Duration) -> io::Result<()> {
    let socket = socket.as_fd();
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_COUNT)?;
    let millis = u32::try_from(unacknowledged_for.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(socket, millis)?)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
