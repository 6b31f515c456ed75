//! Serves the admin interface: on a unix socket to its owner, by TCP to everybody who can reach it.
//! Bounded in clients, time and bytes, so that nobody who looks disturbs what is looked at.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::access::Caller;
use super::api::{self, Api};
use super::ask::Ask;
use crate::config::settings::Admin;
use crate::net::listen::open_private;

/// Connections at once, for each of the two ways: those by TCP cannot keep the owner out.
const CLIENTS_MAX: usize = 128;
/// From one request's end, or the connection's beginning, to the end of the next one's headers.
const HEADERS_WITHIN: Duration = Duration::from_secs(15);
/// Of a connection: who streams events connects again.
const LIFETIME_MAX: Duration = Duration::from_secs(600);
/// Headers of a request together.
const HEADER_BYTES_MAX: usize = 16 << 10;
/// After accepting failed, descriptors having run out, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The admin interface of a process; it ends with its drop. Over a reload it serves on at the places
/// that stay.
#[derive(Debug)]
pub struct Server {
    api: Arc<Api>,
    router: Router,
    unix: Option<(SocketFile, Way)>,
    tcp: Option<(Address, Way)>,
}

/// Sockets that nobody is served on yet.
#[derive(Debug, Default)]
pub struct Opened {
    unix: Option<(SocketFile, UnixListener)>,
    tcp: Option<(Address, TcpListener)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Address {
    /// As configured.
    asked: SocketAddr,
    /// With the port the kernel chose for port 0.
    actual: SocketAddr,
}

/// Accepts on one socket until its drop.
#[derive(Debug)]
struct Way(JoinHandle<()>);

impl Drop for Way {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why the admin interface cannot be there.
#[derive(Debug)]
pub enum AdminError {
    Socket {
        path: PathBuf,
        error: io::Error,
    },
    Bind {
        address: SocketAddr,
        error: io::Error,
    },
}

impl Server {
    /// Serves nowhere yet; what is asked for will go to `asks`.
    pub fn new(asks: mpsc::Sender<Ask>) -> Server {
        let api = Arc::new(Api::new(asks));
        Server {
            router: api::router(&api),
            api,
            unix: None,
            tcp: None,
        }
    }

    /// Opens what the settings name and is not served on yet. Nothing else changes before
    /// [`Server::apply`]. A socket that nobody asked for is left out where it cannot be. Needs a
    /// tokio runtime.
    pub fn open_missing(&self, settings: &Admin) -> Result<Opened, AdminError> {
        let mut opened = Opened::default();
        if let Some(path) = &settings.socket
            && self
                .unix
                .as_ref()
                .is_none_or(|(file, _)| file.path != *path)
        {
            match open_unix(path) {
                Ok(pair) => opened.unix = Some(pair),
                Err(error) if settings.socket_is_default() => {
                    let path = path.display();
                    tracing::info!(%path, %error, "there is no admin socket; [admin] socket = names another place");
                }
                Err(error) => {
                    let path = path.clone();
                    return Err(AdminError::Socket { path, error });
                }
            }
        }
        if let Some(asked) = settings.bind
            && self
                .tcp
                .as_ref()
                .is_none_or(|(address, _)| address.asked != asked)
        {
            let bound = open_tcp(asked).map_err(|error| AdminError::Bind {
                address: asked,
                error,
            });
            opened.tcp = Some(bound?);
        }
        Ok(opened)
    }

    /// Serves where the settings say from now on, and nowhere else.
    pub fn apply(&mut self, settings: &Admin, opened: Opened) {
        let token = settings.token.as_ref();
        self.api.set_token(token.map(|token| token.secret.clone()));
        let stays = |(file, _): &(SocketFile, Way)| Some(&file.path) == settings.socket.as_ref();
        if !self.unix.as_ref().is_some_and(stays) {
            self.unix = None;
        }
        let stays = |(address, _): &(Address, Way)| Some(address.asked) == settings.bind;
        if !self.tcp.as_ref().is_some_and(stays) {
            self.tcp = None;
        }
        if let Some((file, listener)) = opened.unix {
            let serving = serve_owner(listener, self.router.clone());
            self.unix = Some((file, Way(tokio::spawn(serving))));
        }
        if let Some((address, listener)) = opened.tcp {
            let serving = serve_all(listener, self.router.clone());
            self.tcp = Some((address, Way(tokio::spawn(serving))));
            tracing::info!(address = %address.actual, "the admin interface is served");
        }
    }

    /// By TCP, with the port that the kernel chose.
    pub fn address(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(|(address, _)| address.actual)
    }
}

fn open_unix(path: &Path) -> io::Result<(SocketFile, UnixListener)> {
    let socket = open_private(path)?;
    let file = SocketFile::at(path)?;
    let listener = std::os::unix::net::UnixListener::from(socket);
    Ok((file, UnixListener::from_std(listener)?))
}

fn open_tcp(asked: SocketAddr) -> io::Result<(Address, TcpListener)> {
    // Sets SO_REUSEADDR: another start need not wait for connections of the last one.
    let listener = std::net::TcpListener::bind(asked)?;
    listener.set_nonblocking(true)?;
    let actual = listener.local_addr()?;
    let listener = TcpListener::from_std(listener)?;
    Ok((Address { asked, actual }, listener))
}

async fn serve_owner(listener: UnixListener, router: Router) {
    let me = rustix::process::geteuid().as_raw();
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(peer) = stream.peer_cred() else {
            continue;
        };
        // The file's mode says the same, unless somebody changed it.
        if peer.uid() != 0 && peer.uid() != me {
            let uid = peer.uid();
            tracing::warn!(
                uid,
                "somebody else's connection to the admin socket was refused"
            );
            continue;
        }
        let caller = Caller::Owner {
            uid: peer.uid(),
            pid: peer.pid(),
        };
        connect(stream, caller, &places, &router);
    }
}

async fn serve_all(listener: TcpListener, router: Router) {
    let places = Arc::new(Semaphore::new(CLIENTS_MAX));
    loop {
        match listener.accept().await {
            Ok((stream, address)) => {
                connect(stream, Caller::Stranger(address), &places, &router);
            }
            Err(_) => sleep(ACCEPT_PAUSE).await,
        }
    }
}

/// Serves one connection, if there is a place for it.
fn connect<S>(stream: S, caller: Caller, places: &Arc<Semaphore>, router: &Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(place) = places.clone().try_acquire_owned() else {
        return;
    };
    let service = TowerToHyperService::new(router.clone().layer(Extension(caller)));
    tokio::spawn(async move {
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_WITHIN)
            .max_buf_size(HEADER_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        // How it ended is of no interest: clients leave as they like.
        let _ended = timeout(LIFETIME_MAX, connection).await;
        drop(place);
    });
}

/// The file of a socket of ours, told from another one that has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        let meta = std::fs::symlink_metadata(path)?;
        Ok(SocketFile {
            path: path.to_owned(),
            device: meta.dev(),
            inode: meta.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let now = std::fs::symlink_metadata(&self.path);
        if now.is_ok_and(|now| (now.dev(), now.ino()) == (self.device, self.inode)) {
            // Nothing depends on it: one that nobody answers on is replaced.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AdminError::Socket { path, error } => {
                write!(f, "the admin socket {path:?} cannot be opened: {error}")
            }
            AdminError::Bind { address, error } => {
                write!(f, "admin.bind cannot listen on {address}: {error}")
            }
        }
    }
}

impl std::error::Error for AdminError {}
