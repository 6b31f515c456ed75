//! A level-triggered epoll set, addressed by slot numbers.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

/// Events taken per wake-up; enough that a busy thread does not return to the kernel for more.
const EVENTS_MAX: usize = 256;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Readable,
    Writable,
}

#[derive(Debug)]
pub(crate) struct Poller {
    epoll: OwnedFd,
}

/// The events of one wake-up; kept by the loop, so that it can change the set while it reads them.
pub(crate) type Ready = Vec<epoll::Event>;

pub(crate) fn ready() -> Ready {
    Vec::with_capacity(EVENTS_MAX)
}

/// The slot an event belongs to.
pub(crate) fn slot(event: &epoll::Event) -> usize {
    // A copy, because the kernel's event structure is packed.
    let data = event.data;
    data.u64() as usize
}

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    pub(crate) fn watch(&self, fd: impl AsFd, slot: usize, interest: Interest) -> io::Result<()> {
        let data = epoll::EventData::new_u64(slot as u64);
        Ok(epoll::add(&self.epoll, fd, data, flags(interest))?)
    }

    pub(crate) fn change(&self, fd: impl AsFd, slot: usize, interest: Interest) -> io::Result<()> {
        let data = epoll::EventData::new_u64(slot as u64);
        Ok(epoll::modify(&self.epoll, fd, data, flags(interest))?)
    }

    pub(crate) fn forget(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.epoll, fd)?)
    }

    /// Replaces `ready` by what is ready now, or within `timeout` rounded up to milliseconds.
    pub(crate) fn wait(&self, ready: &mut Ready, timeout: Option<Duration>) -> io::Result<()> {
        let timeout = timeout.map(timespec);
        ready.clear();
        match epoll::wait(&self.epoll, spare_capacity(ready), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Poller::wait`], but keeps the nanoseconds of `timeout`: `epoll_wait` has none.
    pub(crate) fn wait_precisely(&self, ready: &mut Ready, timeout: Duration) -> io::Result<()> {
        let mut set = [PollFd::new(&self.epoll, PollFlags::IN)];
        ready.clear();
        match poll(&mut set, Some(&timespec(timeout))) {
            Ok(0) | Err(rustix::io::Errno::INTR) => Ok(()),
            Ok(_) => self.wait(ready, Some(Duration::ZERO)),
            Err(error) => Err(error.into()),
        }
    }
}

fn flags(interest: Interest) -> epoll::EventFlags {
    match interest {
        Interest::Readable => epoll::EventFlags::IN,
        Interest::Writable => epoll::EventFlags::OUT,
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: duration
            .as_secs()
            .try_into()
            .expect("waits are seconds, not ages"),
        tv_nsec: duration.subsec_nanos().into(),
    }
}
