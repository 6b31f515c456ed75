//! Sockets as a fault needs them: small buffers from the start, a source address, ports on which
//! nobody answers.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, ipproto, listen, socket_with, sockopt,
};

/// How a client's connection is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Set before the connect, so that the window is small from the first packet.
    pub receive_buffer: Option<usize>,
    pub send_buffer: Option<usize>,
    pub source: Option<SocketAddr>,
    /// How long a connect may take; else as long as the kernel tries.
    pub connect_timeout: Option<Duration>,
}

/// Connects; blocks until that is done.
pub fn connect_with(to: SocketAddr, options: Options) -> std::io::Result<TcpStream> {
    let socket = prepared(to, options)?;
    // A blocking connect gives up when a send would.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, options.connect_timeout)?;
    connect(&socket, &to)?;
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, None)?;
    Ok(TcpStream::from(socket))
}

/// What is to be connected, so that its own address is known even if the connect fails.
pub fn prepared(to: SocketAddr, options: Options) -> std::io::Result<OwnedFd> {
    let socket = new_socket(to, SocketFlags::CLOEXEC)?;
    if let Some(bytes) = options.receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
    }
    if let Some(bytes) = options.send_buffer {
        sockopt::set_socket_send_buffer_size(&socket, bytes)?;
    }
    if let Some(source) = options.source {
        sockopt::set_socket_reuseaddr(&socket, true)?;
        bind(&socket, &source)?;
    }
    Ok(socket)
}

/// A listener whose accepted sockets have these buffers.
pub fn listen_with(options: Options) -> TcpListener {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let socket = new_socket(any, SocketFlags::CLOEXEC).unwrap();
    if let Some(bytes) = options.receive_buffer {
        sockopt::set_socket_recv_buffer_size(&socket, bytes).unwrap();
    }
    if let Some(bytes) = options.send_buffer {
        sockopt::set_socket_send_buffer_size(&socket, bytes).unwrap();
    }
    bind(&socket, &options.source.unwrap_or(any)).unwrap();
    listen(&socket, 1024).unwrap();
    TcpListener::from(socket)
}

/// A port that answers every connect with a refusal, for as long as this lives.
#[derive(Debug)]
pub struct Refusing {
    _bound: OwnedFd,
    pub address: SocketAddr,
}

impl Refusing {
    pub fn new() -> Refusing {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let socket = new_socket(any, SocketFlags::CLOEXEC).unwrap();
        bind(&socket, &any).unwrap();
        let address = rustix::net::getsockname(&socket)
            .unwrap()
            .try_into()
            .unwrap();
        Refusing {
            _bound: socket,
            address,
        }
    }
}

/// A port whose queue is full, so that the kernel drops every further SYN: nobody answers.
#[derive(Debug)]
pub struct Silent {
    _listener: OwnedFd,
    _queued: Vec<OwnedFd>,
    pub address: SocketAddr,
}

impl Silent {
    pub fn new() -> Silent {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = new_socket(any, SocketFlags::CLOEXEC).unwrap();
        bind(&listener, &any).unwrap();
        listen(&listener, 0).unwrap();
        let address: SocketAddr = rustix::net::getsockname(&listener)
            .unwrap()
            .try_into()
            .unwrap();
        let mut queued = Vec::new();
        loop {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = new_socket(any, flags).unwrap();
            let _ = connect(&socket, &address);
            let mut wait = [PollFd::new(&socket, PollFlags::OUT)];
            let soon = Timespec {
                tv_sec: 0,
                tv_nsec: 100_000_000,
            };
            let stands = poll(&mut wait, Some(&soon)).unwrap() == 1;
            queued.push(socket);
            if !stands {
                return Silent {
                    _listener: listener,
                    _queued: queued,
                    address,
                };
            }
            assert!(queued.len() < 16, "the queue never fills");
        }
    }
}

/// Resets the connection at once, however many descriptors of it there are.
pub fn reset(socket: impl AsFd) {
    // Fails when the other side was faster, and then there is nothing left to reset.
    let _ = rustix::net::connect_unspec(socket);
}

/// Makes the close of a socket a reset.
pub fn reset_on_close(socket: impl AsFd) {
    sockopt::set_socket_linger(socket, Some(Duration::ZERO)).unwrap();
}

/// Waits, without reading, until the connection is reset. False when the time passed first.
pub fn await_reset(socket: impl AsFd, time: Duration) -> bool {
    let time = Timespec {
        tv_sec: time.as_secs() as i64,
        tv_nsec: time.subsec_nanos().into(),
    };
    let mut wait = [PollFd::new(&socket, PollFlags::empty())];
    poll(&mut wait, Some(&time)).unwrap() == 1
}

fn new_socket(of: SocketAddr, flags: SocketFlags) -> std::io::Result<OwnedFd> {
    let family = if of.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    Ok(socket_with(
        family,
        SocketType::STREAM,
        flags,
        Some(ipproto::TCP),
    )?)
}
