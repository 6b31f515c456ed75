//! Edge-triggered readiness of many sockets: a thin, safe face of epoll(7).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;

/// Events taken in one wake-up. More only delays timers and new clients behind old ones.
const EVENTS_MAX: usize = 512;

/// What the poller gives back with an event: chosen by whoever registered the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token(pub u64);

/// What happened on a descriptor, as far as the kernel has said so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Readiness {
    pub readable: bool,
    pub writable: bool,
    /// The peer has sent its FIN, possibly behind bytes still unread.
    pub finished: bool,
    /// The connection is broken: a reset came, or a timeout of the kernel's.
    pub broken: bool,
}

/// How a descriptor is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Input, end of input and errors, told once for each change.
    Read,
    /// The same, and room for output.
    ReadWrite,
    /// Input for as long as there is some (listeners, wake-ups).
    ReadLevel,
    /// Like `ReadLevel`, but of several pollers watching one descriptor only one is woken.
    ReadLevelExclusive,
}

impl Interest {
    fn flags(self) -> EventFlags {
        let read = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        match self {
            Interest::Read => read,
            Interest::ReadWrite => read | EventFlags::OUT,
            Interest::ReadLevel => EventFlags::IN,
            Interest::ReadLevelExclusive => EventFlags::IN | EventFlags::EXCLUSIVE,
        }
    }
}

#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
}

impl Poller {
    pub fn new() -> io::Result<Self> {
        Ok(Poller {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Closing the last descriptor of the socket ends the watch; nothing needs to be removed.
    pub fn watch(&self, source: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.0);
        Ok(epoll::add(&self.epoll, source, data, interest.flags())?)
    }

    /// Changes a watch. What is ready at this moment is told again.
    pub fn rewatch(&self, source: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
        let data = EventData::new_u64(token.0);
        Ok(epoll::modify(&self.epoll, source, data, interest.flags())?)
    }

    pub fn unwatch(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, source)?)
    }

    /// Waits for events, at most `timeout` (`None` = until there is one), and replaces what
    /// `events` held by them.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        events.0.clear();
        let timeout = timeout.map(|time| Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: i64::from(time.subsec_nanos()),
        });
        let room = rustix::buffer::spare_capacity(&mut events.0);
        match epoll::wait(&self.epoll, room, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

pub struct Events(Vec<epoll::Event>);

impl Events {
    pub fn new() -> Self {
        Events(Vec::with_capacity(EVENTS_MAX))
    }

    pub fn iter(&self) -> impl Iterator<Item = (Token, Readiness)> + '_ {
        self.0.iter().map(|event| {
            let (flags, data) = (event.flags, event.data);
            let broken = flags.contains(EventFlags::ERR);
            let hung_up = flags.contains(EventFlags::HUP);
            let readiness = Readiness {
                readable: flags.intersects(EventFlags::IN | EventFlags::RDHUP) || hung_up || broken,
                writable: flags.contains(EventFlags::OUT) || hung_up || broken,
                finished: flags.contains(EventFlags::RDHUP) || hung_up,
                broken,
            };
            (Token(data.u64()), readiness)
        })
    }
}

impl Default for Events {
    fn default() -> Self {
        Events::new()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}
