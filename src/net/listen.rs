//! Listening sockets, with every option an accepted socket shall have: it inherits them, so that
//! accepting a connection takes one call.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind,
    getsockname, ipproto, listen, socket_with, sockopt,
};

use super::peer::set_keepalive;
use crate::base::addr::{ClientAddr, Endpoint};

/// Connections the kernel completes ahead of us; `net.core.somaxconn` caps it.
const BACKLOG: i32 = 4096;

/// Opens one listening socket. Several calls with one TCP address share it (`SO_REUSEPORT`): the
/// kernel spreads new connections over them. `[::]` also takes IPv4.
///
/// `unacknowledged_for`: how long bytes to a client may stay unacknowledged.
pub fn open(endpoint: &Endpoint, unacknowledged_for: Duration) -> io::Result<OwnedFd> {
    match endpoint {
        Endpoint::Tcp(addr) => open_tcp(*addr, unacknowledged_for),
        Endpoint::Unix(path) => open_unix(path),
    }
}

fn open_tcp(addr: SocketAddr, unacknowledged_for: Duration) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let socket = socket_with(family, SocketType::STREAM, FLAGS, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, !addr.ip().is_unspecified())?;
    }
    sockopt::set_tcp_nodelay(&socket, true)?;
    set_keepalive(&socket, unacknowledged_for)?;
    bind(&socket, &addr)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// A socket file that nobody answers on is left over from a process that is gone: it is replaced.
/// One that somebody answers on, and any other file, is not touched.
fn open_unix(path: &Path) -> io::Result<OwnedFd> {
    let addr = SocketAddrUnix::new(path)?;
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None);
    let socket = new()?;
    match bind(&socket, &addr) {
        Err(Errno::ADDRINUSE) if fs::symlink_metadata(path)?.file_type().is_socket() => {
            if rustix::net::connect(new()?, &addr) != Err(Errno::CONNREFUSED) {
                return Err(Errno::ADDRINUSE.into());
            }
            fs::remove_file(path)?;
            bind(&socket, &addr)?;
        }
        other => other?,
    }
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Opens a unix socket that only its owner, and root, can connect to. It has its mode before it has
/// its name, and nobody can connect before it has both. The folder is made, for the owner alone,
/// when only it is missing.
///
/// Errors: as the kernel has them; `AddrInUse` when somebody answers there already, or it is another
/// kind of file.
pub fn open_private(path: &Path) -> io::Result<OwnedFd> {
    if let Some(folder) = path.parent()
        && !folder.exists()
    {
        fs::DirBuilder::new().mode(0o700).create(folder)?;
    }
    let new = || socket_with(AddressFamily::UNIX, SocketType::STREAM, FLAGS, None);
    match fs::symlink_metadata(path) {
        Ok(meta) if !meta.file_type().is_socket() => return Err(Errno::ADDRINUSE.into()),
        Ok(_) => {
            let answer = rustix::net::connect(new()?, &SocketAddrUnix::new(path)?);
            if answer != Err(Errno::CONNREFUSED) {
                return Err(Errno::ADDRINUSE.into());
            }
        }
        Err(_) => {}
    }
    // Short, because a socket's path is: the name goes with the process.
    let mut draft = path.to_owned();
    draft.set_extension(format!("{:x}", std::process::id()));
    let _left_over = fs::remove_file(&draft);
    let socket = new()?;
    bind(&socket, &SocketAddrUnix::new(&draft)?)?;
    fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    fs::rename(&draft, path)?;
    Ok(socket)
}

const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

/// The address a socket listens on, with the port the kernel chose for port 0.
pub fn local_endpoint(socket: impl AsFd, asked: &Endpoint) -> io::Result<Endpoint> {
    match asked {
        Endpoint::Unix(_) => Ok(asked.clone()),
        Endpoint::Tcp(_) => {
            let addr = SocketAddr::try_from(getsockname(socket)?)?;
            Ok(Endpoint::Tcp(addr))
        }
    }
}

/// What accepting brought.
#[derive(Debug)]
pub enum Accepted {
    Client(OwnedFd, ClientAddr),
    /// Nobody waits.
    Empty,
    /// The client left before it was accepted, or the like: go on.
    Gone(AcceptFault),
    /// Descriptors or memory ran out: pause, then try again.
    Exhausted(AcceptFault, Errno),
}

/// Why a client that waited was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AcceptFault {
    /// The client left, or the network lost it.
    Aborted,
    Descriptors,
    Memory,
    Other,
}

impl AcceptFault {
    /// In the order of the discriminants.
    pub const ALL: [AcceptFault; 4] = [
        AcceptFault::Aborted,
        AcceptFault::Descriptors,
        AcceptFault::Memory,
        AcceptFault::Other,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            AcceptFault::Aborted => "aborted",
            AcceptFault::Descriptors => "descriptors",
            AcceptFault::Memory => "memory",
            AcceptFault::Other => "other",
        }
    }
}

/// Accepts one connection. Errors: those that no later try can mend.
pub fn accept(listener: impl AsFd) -> io::Result<Accepted> {
    match acceptfrom_with(listener, FLAGS) {
        Ok((socket, addr)) => Ok(Accepted::Client(socket, client_addr(addr))),
        Err(Errno::AGAIN) => Ok(Accepted::Empty),
        // accept(2) passes on errors that are pending on the new connection.
        Err(
            Errno::CONNABORTED
            | Errno::PROTO
            | Errno::NETDOWN
            | Errno::HOSTDOWN
            | Errno::NONET
            | Errno::HOSTUNREACH
            | Errno::NETUNREACH
            | Errno::TIMEDOUT,
        ) => Ok(Accepted::Gone(AcceptFault::Aborted)),
        Err(Errno::INTR | Errno::PERM | Errno::NOPROTOOPT | Errno::OPNOTSUPP) => {
            Ok(Accepted::Gone(AcceptFault::Other))
        }
        Err(error @ (Errno::MFILE | Errno::NFILE)) => {
            Ok(Accepted::Exhausted(AcceptFault::Descriptors, error))
        }
        Err(error @ (Errno::NOBUFS | Errno::NOMEM)) => {
            Ok(Accepted::Exhausted(AcceptFault::Memory, error))
        }
        Err(error) => Err(error.into()),
    }
}

fn client_addr(addr: Option<SocketAddrAny>) -> ClientAddr {
    match addr.map(SocketAddr::try_from) {
        Some(Ok(addr)) => ClientAddr::from_socket(addr),
        _ => ClientAddr::Unix,
    }
}
