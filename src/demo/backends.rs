//! The demo's backends: small HTTP servers that answer with their name, each on a thread of its
//! own, so that killing one ends it as the end of its process would.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;

/// Connections the kernel completes ahead of a backend.
const BACKLOG: u32 = 1024;

/// Pause after a failed accept: descriptors may come free.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One backend, alive or killed. It keeps its port while it is killed.
#[derive(Debug)]
pub struct Backend {
    name: &'static str,
    address: SocketAddr,
    served: Arc<AtomicU64>,
    life: Option<Life>,
    /// Bound and never listening: connects to a killed backend are refused, and nobody gets the
    /// port meanwhile, neither a server nor (by chance) a client that would connect to itself.
    _port: TcpSocket,
}

#[derive(Debug)]
struct Life {
    /// Dropped, it ends the thread.
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Backend {
    /// Starts a backend on a port of its own.
    pub fn start(name: &'static str) -> io::Result<Backend> {
        let port = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = port.local_addr()?;
        let served = Arc::default();
        let mut backend = Backend {
            name,
            address,
            served,
            life: None,
            _port: port,
        };
        backend.revive()?;
        Ok(backend)
    }

    pub fn name(&self) -> &'static str {
        self.name
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn is_alive(&self) -> bool {
        self.life.is_some()
    }

    /// From its return on connects are refused; connections that were open are reset.
    pub fn kill(&mut self) {
        if let Some(Life { end, thread }) = self.life.take() {
            drop(end);
            // It ends by a panic only; then it is as dead.
            let _ = thread.join();
        }
    }

    /// From its return on connects are taken, on the same port as before.
    pub fn revive(&mut self) -> io::Result<()> {
        if self.is_alive() {
            return Ok(());
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let listener = {
            let _entered = runtime.enter();
            bind(self.address)?.listen(BACKLOG)?
        };
        let router = router(self.name, self.served.clone());
        let (end, ended) = oneshot::channel();
        let name = format!("demo-{}", self.name);
        let thread = thread::Builder::new().name(name).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = axum::serve(Door(listener), router) => {}
                    _ = ended => {}
                }
            });
            // Dropping the runtime drops what it serves.
        })?;
        self.life = Some(Life { end, thread });
        Ok(())
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

fn router(name: &'static str, served: Arc<AtomicU64>) -> Router {
    let page = move || async move {
        let served = served.fetch_add(1, Ordering::Relaxed) + 1;
        format!("{name}\n\nrequest number {served} of this backend\n")
    };
    Router::new()
        .route("/", get(page))
        .route("/health", get(|| async { "ok\n" }))
}

/// Accepts for axum, and makes each connection one that is reset when it is cut.
struct Door(TcpListener);

impl axum::serve::Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, peer)) => {
                    return (
                        Connection {
                            stream,
                            is_shut: false,
                        },
                        peer,
                    );
                }
                Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A connection that, dropped before its orderly end, is reset: a peer in the middle of a response
/// learns that it is broken.
struct Connection {
    stream: TcpStream,
    is_shut: bool,
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.is_shut {
            // Without it the connection just closes.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_shut = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn ask(address: SocketAddr) -> io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    #[test]
    fn a_killed_backend_refuses_and_a_revived_one_answers_at_the_same_address() {
        let mut backend = Backend::start("amber").unwrap();
        let address = backend.address();
        for _ in 0..3 {
            assert!(ask(address).unwrap().contains("\r\n\r\namber\n"));
            backend.kill();
            assert_eq!(
                ask(address).unwrap_err().kind(),
                ErrorKind::ConnectionRefused
            );
            backend.revive().unwrap();
        }
        assert!(ask(address).unwrap().contains("request number 4"));
    }

    #[test]
    fn killing_resets_a_connection_that_is_open() {
        let mut backend = Backend::start("amber").unwrap();
        let mut stream = TcpStream::connect(backend.address()).unwrap();
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut first = [0; 1];
        stream.read_exact(&mut first).unwrap();
        backend.kill();
        let mut rest = Vec::new();
        assert_eq!(
            stream.read_to_end(&mut rest).unwrap_err().kind(),
            ErrorKind::ConnectionReset
        );
    }
}
