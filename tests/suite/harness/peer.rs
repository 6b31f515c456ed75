//! Scripted clients and backends, and what each saw.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::Ordering::SeqCst;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::net::{SendFlags, Shutdown, send, shutdown, sockopt};

use super::script::{Script, Send, Stream, Take};
use super::sockets::{self, Options};
use super::wait::{self, PATIENCE};

/// How a peer's input ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The script stopped reading before any end.
    Unseen,
    Fin,
    Reset,
    /// Nothing came for longer than anybody waits.
    Stuck,
}

/// What one peer did and saw.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub address: SocketAddr,
    pub sent: u64,
    pub taken: u64,
    /// What was taken is the beginning of what the other peer's stream is.
    pub intact: bool,
    pub end: End,
    /// From the first act to the last.
    pub took: Duration,
    /// From the first act to the end of the input.
    pub ended_after: Duration,
}

/// Connects and plays the script.
pub fn client(to: SocketAddr, script: &Script) -> Seen {
    client_with(to, Options::default(), script)
}

pub fn client_with(to: SocketAddr, options: Options, script: &Script) -> Seen {
    play(
        sockets::connect_with(to, options).expect("connected"),
        Stream::OfClient,
        script,
    )
}

/// The same on a thread of its own.
pub fn client_apart(to: SocketAddr, script: &Script) -> JoinHandle<Seen> {
    let script = script.clone();
    thread::spawn(move || client(to, &script))
}

/// Plays both halves of the script, then closes.
pub fn play(socket: TcpStream, own: Stream, script: &Script) -> Seen {
    socket.set_nodelay(true).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.set_write_timeout(Some(PATIENCE)).unwrap();
    let address = match own {
        Stream::OfClient => socket.local_addr(),
        Stream::OfBackend => socket.peer_addr(),
    };
    // A peer that was reset before it could play has no address any more.
    let address = address.unwrap_or(SocketAddr::from(([0, 0, 0, 0], 0)));
    let (taken, ended) = (AtomicU64::new(0), AtomicBool::new(false));
    let begun = Instant::now();
    let (sent, (intact, end, ended_after)) = thread::scope(|scope| {
        let sender = scope.spawn(|| send_all(&socket, own, &script.send, &taken, &ended));
        let (intact, end) = take_all(&socket, own.other(), &script.take, &taken);
        let ended_after = begun.elapsed();
        ended.store(true, SeqCst);
        let (sent, was_reset) = sender.join().unwrap();
        // The kernel tells of a reset once only: whoever asks second is told of an end.
        let end = if was_reset && end == End::Fin {
            End::Reset
        } else {
            end
        };
        (sent, (intact, end, ended_after))
    });
    let taken = taken.into_inner();
    Seen {
        address,
        sent,
        taken,
        intact,
        end,
        took: begun.elapsed(),
        ended_after,
    }
}

/// How many bytes were sent, and whether a reset ended that.
fn send_all(
    socket: &TcpStream,
    own: Stream,
    acts: &[Send],
    taken: &AtomicU64,
    ended: &AtomicBool,
) -> (u64, bool) {
    let (mut sent, mut was_reset) = (0, false);
    for act in acts {
        let whole = match *act {
            Send::Bytes(bytes) => send_bytes(socket, own, &mut sent, bytes, &mut was_reset),
            Send::Sliced { bytes, piece, gap } => {
                let end = sent + bytes;
                while sent < end {
                    let piece = (piece as u64).min(end - sent);
                    if !send_bytes(socket, own, &mut sent, piece, &mut was_reset) {
                        return (sent, was_reset);
                    }
                    if !gap.is_zero() {
                        thread::sleep(gap);
                    }
                }
                true
            }
            Send::BytesAndFin(bytes) => {
                sockopt::set_tcp_cork(socket, true).unwrap();
                send_bytes(socket, own, &mut sent, bytes, &mut was_reset)
                    && shutdown(socket, Shutdown::Write).is_ok()
            }
            Send::Pause(time) => {
                thread::sleep(time);
                true
            }
            Send::Fin => shutdown(socket, Shutdown::Write).is_ok(),
            Send::Reset => {
                sockets::reset(socket);
                true
            }
            Send::AwaitTaken(bytes) => wait::within(PATIENCE, || {
                (taken.load(SeqCst) >= bytes || ended.load(SeqCst)).then_some(())
            })
            .is_some(),
            Send::AwaitReset => sockets::await_reset(socket, PATIENCE),
            Send::AwaitEnd => wait::within(PATIENCE, || ended.load(SeqCst).then_some(())).is_some(),
        };
        if !whole {
            return (sent, was_reset);
        }
    }
    (sent, was_reset)
}

/// False when the connection no longer takes any.
fn send_bytes(
    socket: &TcpStream,
    own: Stream,
    sent: &mut u64,
    bytes: u64,
    was_reset: &mut bool,
) -> bool {
    let end = *sent + bytes;
    while *sent < end {
        let room = usize::try_from(end - *sent)
            .unwrap_or(usize::MAX)
            .min(256 * 1024);
        let piece = own.bytes_at(*sent, room);
        match send(socket, piece, SendFlags::NOSIGNAL) {
            Ok(count) => *sent += count as u64,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => {
                *was_reset = error == rustix::io::Errno::CONNRESET;
                return false;
            }
        }
    }
    true
}

fn take_all(
    mut socket: &TcpStream,
    other: Stream,
    acts: &[Take],
    taken: &AtomicU64,
) -> (bool, End) {
    let mut buffer = vec![0; 64 * 1024];
    let mut intact = true;
    for act in acts {
        let (bytes, piece, gap) = match *act {
            Take::Bytes(bytes) => (bytes, buffer.len(), Duration::ZERO),
            Take::Paced { bytes, piece, gap } => (bytes, piece, gap),
            Take::ToEnd => (u64::MAX, buffer.len(), Duration::ZERO),
            Take::Nothing => {
                if !sockets::await_reset(socket, PATIENCE) {
                    return (intact, End::Stuck);
                }
                (u64::MAX, buffer.len(), Duration::ZERO)
            }
            Take::Pause(time) => {
                thread::sleep(time);
                continue;
            }
        };
        let mut left = bytes;
        while left > 0 {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(piece);
            let position = taken.load(SeqCst);
            match socket.read(&mut buffer[..room]) {
                Ok(0) => return (intact, End::Fin),
                Ok(count) => {
                    intact &= other.holds(position, &buffer[..count]);
                    taken.fetch_add(count as u64, SeqCst);
                    left -= count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (intact, End::Stuck),
                Err(_) => return (intact, End::Reset),
            }
            if !gap.is_zero() {
                thread::sleep(gap);
            }
        }
    }
    (intact, End::Unseen)
}

/// A backend that plays a script with everyone who connects.
#[derive(Debug)]
pub struct Backend {
    pub address: SocketAddr,
    /// Connections accepted.
    accepted: Arc<AtomicU64>,
    seen: Arc<Mutex<Vec<Seen>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backend {
    pub fn new(script: &Script) -> Backend {
        Backend::with(Options::default(), script)
    }

    pub fn with(options: Options, script: &Script) -> Backend {
        Backend::on(sockets::listen_with(options), script)
    }

    pub fn on(listener: TcpListener, script: &Script) -> Backend {
        let script = script.clone();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let all = seen.clone();
        let mut backend = Backend::serving(listener, move |socket| {
            let one = play(socket, Stream::OfBackend, &script);
            all.lock().unwrap().push(one);
        });
        backend.seen = seen;
        backend
    }

    /// A backend that answers each of its clients with what they send, until they close.
    pub fn echo() -> Backend {
        Backend::serving(sockets::listen_with(Options::default()), |mut socket| {
            let mut reader = socket.try_clone().unwrap();
            let _ = std::io::copy(&mut reader, &mut socket);
        })
    }

    /// A backend that does anything, on a thread for each client.
    pub fn serving(
        listener: TcpListener,
        serve: impl Fn(TcpStream) + std::marker::Send + Sync + 'static,
    ) -> Backend {
        let address = listener.local_addr().unwrap();
        let (stop, accepted) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let (stopped, count, serve) = (stop.clone(), accepted.clone(), Arc::new(serve));
        let thread = thread::spawn(move || {
            for socket in listener.incoming() {
                if stopped.load(SeqCst) {
                    return;
                }
                let Ok(socket) = socket else { continue };
                count.fetch_add(1, SeqCst);
                let serve = serve.clone();
                thread::spawn(move || serve(socket));
            }
        });
        Backend {
            address,
            accepted,
            seen: Arc::default(),
            stop,
            thread: Some(thread),
        }
    }

    /// Connections accepted so far.
    pub fn accepted(&self) -> u64 {
        self.accepted.load(SeqCst)
    }

    /// What was seen on the first `count` connections that are over, once there are so many.
    pub fn seen(&self, count: usize) -> Vec<Seen> {
        wait::until_some("the backend's connections are over", || {
            let seen = self.seen.lock().unwrap();
            (seen.len() >= count).then(|| seen.clone())
        })
    }

    pub fn seen_once(&self) -> Seen {
        self.seen(1)[0]
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.stop.store(true, SeqCst);
        // Wakes the thread, which closes the listener.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
