//! Connecting to a backend without waiting.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, ipproto, socket_with, sockopt,
};

use crate::base::addr::Endpoint;

/// Begins a connect. The connection may be complete, under way, or have failed by the time this
/// returns: over loopback it is complete, and a first write tells.
///
/// `data_follows`: the caller has bytes to write as soon as the connection stands. The kernel
/// then lets the last packet of the handshake ride on them (`TCP_QUICKACK` off, tcp(7)): one
/// packet and one wake-up of the backend less. Without bytes that packet would come late.
pub fn begin(to: &Endpoint, data_follows: bool) -> Result<OwnedFd, DialError> {
    match to {
        Endpoint::Tcp(addr) => begin_tcp(*addr, data_follows),
        Endpoint::Unix(path) => begin_unix(path),
    }
}

fn begin_tcp(addr: SocketAddr, data_follows: bool) -> Result<OwnedFd, DialError> {
    let family = if addr.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket =
        socket_with(family, SocketType::STREAM, FLAGS, Some(ipproto::TCP)).map_err(DialError)?;
    if data_follows {
        // Refused only by a kernel without the option, which then sends the packet by itself.
        let _ = sockopt::set_tcp_quickack(&socket, false);
    }
    match connect(&socket, &addr) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(error) => Err(DialError(error)),
    }
}

/// A connect to a unix socket is over at once. EAGAIN means that the backend's queue is full.
fn begin_unix(path: &Path) -> Result<OwnedFd, DialError> {
    let addr = SocketAddrUnix::new(path).map_err(DialError)?;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None).map_err(DialError)?;
    connect(&socket, &addr).map_err(DialError)?;
    Ok(socket)
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// Why a connect failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DialError(pub Errno);

impl DialError {
    /// Whether this machine ran out of something, which says nothing about the backend.
    pub fn is_local(self) -> bool {
        matches!(
            self.0,
            Errno::ADDRNOTAVAIL
                | Errno::MFILE
                | Errno::NFILE
                | Errno::NOBUFS
                | Errno::NOMEM
                | Errno::ACCESS
                | Errno::PERM
        )
    }

    /// One word for the access log.
    pub fn detail(self) -> &'static str {
        match self.0 {
            Errno::CONNREFUSED => "refused",
            Errno::TIMEDOUT => "timed_out",
            Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::NETDOWN | Errno::HOSTDOWN => {
                "unreachable"
            }
            Errno::CONNRESET | Errno::PIPE => "reset",
            Errno::NOENT => "no_socket_file",
            Errno::AGAIN => "queue_full",
            Errno::ADDRNOTAVAIL => "local_ports",
            Errno::MFILE | Errno::NFILE => "local_descriptors",
            Errno::NOBUFS | Errno::NOMEM => "local_memory",
            Errno::ACCESS | Errno::PERM => "not_permitted",
            _ => "failed",
        }
    }
}
