//! Sockets: listeners that share a port, client connections, and the descriptor limit.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, connect, getsockname,
    listen, recv, send, socket_with, sockopt,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const BACKLOG: i32 = 4096;

/// `count` listeners on one port; the kernel spreads connections over them.
pub(crate) fn listeners(at: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<OwnedFd>)> {
    let first = listener(at)?;
    let address = SocketAddr::try_from(getsockname(&first)?)?;
    let mut all = vec![first];
    while all.len() < count {
        all.push(listener(address)?);
    }
    Ok((address, all))
}

fn listener(at: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(at)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    // Accepted sockets inherit it.
    sockopt::set_tcp_nodelay(&socket, true)?;
    bind(&socket, &at)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// An established, non-blocking connection.
pub(crate) fn connected(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// Starts to connect; the socket becomes writable when the connection stands or failed.
pub(crate) fn dial(to: SocketAddr, from: Option<SocketAddrV4>) -> io::Result<OwnedFd> {
    let socket = stream_socket(to)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    if let Some(from) = from {
        // A port of ours in TIME_WAIT may be used again.
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &from)?;
    }
    match connect(&socket, &to) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(error.into()),
    }
}

fn stream_socket(peer: SocketAddr) -> io::Result<OwnedFd> {
    let family = if peer.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

/// What a non-blocking call achieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    Bytes(usize),
    WouldBlock,
}

/// Sends what fits; a connect that is still under way is no room.
pub(crate) fn send_some(socket: impl AsFd, bytes: &[u8]) -> io::Result<Moved> {
    moved(send(socket, bytes, SendFlags::NOSIGNAL))
}

/// Receives what is there; zero bytes are the end of the stream.
pub(crate) fn receive_some(socket: impl AsFd, into: &mut [u8]) -> io::Result<Moved> {
    moved(recv(socket, into, RecvFlags::empty()).map(|(count, _)| count))
}

fn moved(outcome: Result<usize, Errno>) -> io::Result<Moved> {
    match outcome {
        Ok(count) => Ok(Moved::Bytes(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(Moved::WouldBlock),
        Err(error) => Err(error.into()),
    }
}

/// Source addresses of one thread: 127.0.1.x with ports in turn, so that no choice of the kernel
/// and no TIME_WAIT of another thread gets in the way.
#[derive(Debug)]
pub(crate) struct Sources {
    addresses: Vec<Ipv4Addr>,
    taken: usize,
}

/// Ports used per source address.
const SOURCE_PORTS: std::ops::Range<u16> = 10_000..60_000;

impl Sources {
    /// `count` addresses for the thread with this number; none lets the kernel choose.
    pub(crate) fn of_thread(thread: usize, count: usize) -> Self {
        let first = thread * count;
        let addresses = (first..first + count)
            .map(|n| Ipv4Addr::new(127, 0, 1 + (n / 250) as u8, 1 + (n % 250) as u8))
            .collect();
        Self {
            addresses,
            taken: 0,
        }
    }

    pub(crate) fn take(&mut self) -> Option<SocketAddrV4> {
        if self.addresses.is_empty() {
            return None;
        }
        let address = self.addresses[self.taken % self.addresses.len()];
        let turn = self.taken / self.addresses.len();
        self.taken += 1;
        Some(SocketAddrV4::new(
            address,
            SOURCE_PORTS.start + (turn % SOURCE_PORTS.len()) as u16,
        ))
    }
}

/// Raises the soft limit of open files to the hard one.
pub(crate) fn raise_descriptor_limit() -> io::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            ..limit
        },
    )?)
}
