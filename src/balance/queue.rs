//! Clients that wait, first come first served, until a backend of their pool has room.
//!
//! The queue holds nobody's lease: it *calls* a client, who then chooses through the pool's policy
//! like any other, on its own thread. So weights, priorities and who was tried already are honoured
//! as ever, and one lease given back wakes one client.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Wakes a client of one thread, whom the thread knows by a number of its own.
pub trait Wake: Send + Sync {
    fn wake(&self, client: u64);
}

/// The line of one pool's waiting clients; outlives the pool's reloads.
#[derive(Debug, Default)]
pub struct Queue {
    /// All who wait, called or not. Looked at by every lease given back.
    waiting: AtomicU32,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Those not called, by number: numbers grow, so the first has waited longest.
    standing: BTreeMap<u64, Bell>,
    next_number: u64,
    /// Somebody was to be called while nobody stood: whoever chose in vain meanwhile tries again.
    owed: bool,
}

struct Bell {
    wake: Arc<dyn Wake>,
    client: u64,
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bell({})", self.client)
    }
}

impl Queue {
    /// Clients that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// Whether a client that just came has to wait behind others, even if it could be served.
    #[inline]
    pub fn is_occupied(&self) -> bool {
        self.waiting() != 0
    }

    /// Takes the last place; `None` when `length` clients wait already.
    ///
    /// The client is called at once when nobody stands before it: room that was made since it
    /// found none woke nobody.
    pub fn join(self: &Arc<Self>, length: u32, wake: Arc<dyn Wake>, client: u64) -> Option<Place> {
        let mut line = self.line();
        if self.waiting() >= length {
            return None;
        }
        self.waiting.fetch_add(1, SeqCst);
        // Pairs with `released`: either that sees this client, or this client sees the room.
        fence(SeqCst);
        let number = line.next_number;
        line.next_number += 1;
        let called = line.standing.is_empty();
        if !called {
            line.standing.insert(
                number,
                Bell {
                    wake: wake.clone(),
                    client,
                },
            );
        }
        drop(line);
        Some(Place {
            queue: Arc::clone(self),
            bell: Bell { wake, client },
            number,
            called,
            used: false,
        })
    }

    /// A lease was given back: calls the client that has waited longest. One load while nobody
    /// waits, which has to follow the release in one order over all threads.
    #[inline]
    pub(super) fn released(&self) {
        if self.waiting.load(SeqCst) != 0 {
            self.call();
        }
    }

    /// Calls the client that has waited longest of those not called yet, if there is one: whoever
    /// makes room calls.
    #[cold]
    pub fn call(&self) {
        let mut line = self.line();
        let first = line.standing.pop_first();
        line.owed = first.is_none();
        drop(line);
        if let Some((_, bell)) = first {
            bell.wake.wake(bell.client);
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Every change is complete before anything that could panic.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place in the line, given up on drop.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    bell: Bell,
    number: u64,
    /// As far as the client's own thread knows.
    called: bool,
    used: bool,
}

impl Place {
    /// Whether it is this client's turn to choose; false when it stands in the line.
    pub fn is_called(&mut self) -> bool {
        if !self.called {
            self.called = !self.queue.line().standing.contains_key(&self.number);
        }
        self.called
    }

    /// The client chose and found no room after all: it stands where it stood, before all who came
    /// later. False: room was made meanwhile, and it is still its turn.
    #[must_use]
    pub fn stand_back(&mut self) -> bool {
        debug_assert!(self.called);
        let mut line = self.queue.line();
        if std::mem::take(&mut line.owed) {
            return false;
        }
        let bell = Bell {
            wake: self.bell.wake.clone(),
            client: self.bell.client,
        };
        line.standing.insert(self.number, bell);
        self.called = false;
        true
    }

    /// The client has its backend. `more`: there is room for another one.
    pub fn served(mut self, more: bool) {
        debug_assert!(self.called);
        // Its call is used up, so leaving need not pass it on.
        self.used = true;
        let queue = Arc::clone(&self.queue);
        drop(self);
        if more {
            queue.released();
        }
    }
}

/// A client that leaves when it was called passes the call on.
impl Drop for Place {
    fn drop(&mut self) {
        let mut line = self.queue.line();
        let stood = line.standing.remove(&self.number).is_some();
        self.queue.waiting.fetch_sub(1, SeqCst);
        drop(line);
        if !stood && !self.used {
            self.queue.released();
        }
    }
}
