//! What workers and the control thread share: one snapshot, swapped whole, and each worker's
//! inbox and load.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustix::event::{EventfdFlags, eventfd};

use super::closing::Order;
use super::listing::Search;
use crate::balance::queue::Wake;
use crate::base::ending::RelayPath;
use crate::net::poller::Token;
use crate::proxy::route::{ProcessCount, Route};
use crate::proxy::session::Arrival;
use crate::proxy::tally::Relayed;

/// Number of a listening address; never used twice in a process.
pub type BindId = u32;

/// Everything that changes together: which route the clients of each listening address take.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// By [`BindId`]; `None` for addresses that are no longer listened on.
    pub routes: Vec<Option<Arc<Route>>>,
}

/// A request to a worker.
#[derive(Debug)]
pub enum Message {
    /// A client accepted by a busier worker.
    Arrival(Arrival),
    /// The session of this client may choose its backend now.
    Called(Token),
    /// Accept on this socket.
    Listen {
        bind: BindId,
        socket: Arc<OwnedFd>,
        exclusive: bool,
    },
    /// Serve who waits on this address already, then close it.
    Unlisten { bind: BindId },
    /// End sessions early.
    Close(Order),
    /// Look for sessions.
    Search(Arc<Search>),
    /// No more than were ended already.
    CancelClose(u64),
    /// The same for all addresses; end when the last session does.
    Drain,
    /// End now: sessions that are left are reset.
    Stop,
}

/// Messages a worker may have waiting. Arrivals beyond it stay with who accepted them.
const INBOX_MAX: usize = 4096;

#[derive(Debug)]
pub struct Shared {
    snapshot: ArcSwap<Snapshot>,
    /// Grows with every snapshot, so that a worker sees a change with one load.
    version: AtomicU64,
    pub process: Arc<ProcessCount>,
    pub workers: Box<[Arc<Desk>]>,
    /// Sessions ended by a panic, which is a bug.
    pub panics: AtomicU64,
}

/// One worker as the others see it. Aligned so that loads are not slowed by a neighbour's.
#[derive(Debug)]
#[repr(align(128))]
pub struct Desk {
    load: AtomicU32,
    pub relayed: Arc<Relayed>,
    inbox: Mutex<Inbox>,
    bell: OwnedFd,
}

#[derive(Debug, Default)]
struct Inbox {
    messages: Vec<Message>,
    /// The worker has ended: nobody will read here again.
    closed: bool,
}

impl Shared {
    pub fn new(workers: usize, max_connections: u32) -> io::Result<Self> {
        let desks = (0..workers)
            .map(|_| Desk::new().map(Arc::new))
            .collect::<io::Result<_>>()?;
        Ok(Shared {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            version: AtomicU64::new(0),
            process: Arc::new(ProcessCount::new(max_connections)),
            workers: desks,
            panics: AtomicU64::new(0),
        })
    }

    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        self.snapshot.store(snapshot);
        self.version.fetch_add(1, Release);
    }

    pub fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Bytes that were relayed in this way, whoever did it.
    pub fn relayed(&self, path: RelayPath) -> u64 {
        let desks = self.workers.iter();
        desks.map(|desk| desk.relayed.bytes(path)).sum()
    }

    /// The worker that should take a client accepted by `me`: another one only when it has
    /// clearly fewer sessions, because handing over costs two calls and a wake-up.
    pub fn taker_for(&self, me: usize) -> usize {
        let mine = self.workers[me].load();
        let loads = self.workers.iter().map(|desk| desk.load()).enumerate();
        match loads.min_by_key(|&(_, load)| load) {
            Some((other, least)) if mine > least + least / 4 + CLEARLY_BUSIER => other,
            _ => me,
        }
    }
}

/// Sessions more than the least loaded worker's five quarters that make a worker clearly busier.
const CLEARLY_BUSIER: u32 = 8;

// Called clients are not counted against the inbox: there are no more than sessions.
impl Wake for Desk {
    fn wake(&self, client: u64) {
        self.send(Message::Called(Token(client)));
    }
}

impl Desk {
    fn new() -> io::Result<Self> {
        Ok(Desk {
            load: AtomicU32::new(0),
            relayed: Arc::default(),
            inbox: Mutex::default(),
            bell: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Sessions of this worker.
    pub fn load(&self) -> u32 {
        self.load.load(Relaxed)
    }

    pub fn set_load(&self, sessions: u32) {
        self.load.store(sessions, Relaxed);
    }

    /// Readable while messages wait.
    pub fn bell(&self) -> &OwnedFd {
        &self.bell
    }

    /// Leaves a message and wakes the worker. One that has ended gets no more messages.
    pub fn send(&self, message: Message) {
        let mut inbox = self.lock();
        if !inbox.closed {
            self.leave(&mut inbox, message);
        }
    }

    /// Leaves a client, unless the worker has ended or too many messages wait.
    pub fn hand_over(&self, arrival: Arrival) -> Result<(), Arrival> {
        let mut inbox = self.lock();
        if inbox.closed || inbox.messages.len() >= INBOX_MAX {
            return Err(arrival);
        }
        self.leave(&mut inbox, Message::Arrival(arrival));
        Ok(())
    }

    /// Closes the inbox, unless messages wait in it.
    pub fn close(&self) -> bool {
        let mut inbox = self.lock();
        inbox.closed = inbox.messages.is_empty();
        inbox.closed
    }

    /// The first message rings for all that come until the worker takes them: it stills the bell
    /// before it takes.
    fn leave(&self, inbox: &mut Inbox, message: Message) {
        inbox.messages.push(message);
        if inbox.messages.len() == 1 {
            // Fails only when the counter is full, and then the worker is awake.
            let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        }
    }

    /// Takes all messages and stills the bell.
    pub fn take(&self) -> Vec<Message> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        std::mem::take(&mut self.lock().messages)
    }

    fn lock(&self) -> MutexGuard<'_, Inbox> {
        // A push or a take cannot leave the list half done.
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(desk: &Desk) -> u64 {
        let mut count = [0; 8];
        rustix::io::read(desk.bell(), &mut count).map_or(0, |_| u64::from_ne_bytes(count))
    }

    #[test]
    fn one_ring_is_for_all_messages_until_they_are_taken() {
        let desk = Desk::new().unwrap();
        for _ in 0..2 {
            desk.wake(1);
            desk.wake(2);
            desk.wake(3);
            assert_eq!(rings(&desk), 1);
            // Comes after the bell was stilled, and is taken all the same.
            desk.wake(4);
            assert_eq!(desk.take().len(), 4);
            assert_eq!(rings(&desk), 0);
        }
        desk.wake(5);
        assert_eq!(rings(&desk), 1, "nobody would take it");
    }
}
