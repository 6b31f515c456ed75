//! The server behind the proxy: one listener and one loop per thread.

use std::collections::VecDeque;
use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Instant;

use clap::Args as ClapArgs;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::events::{Interest, Poller, ready, slot};
use crate::exchange::{Scratch, Shape};
use crate::net::{listeners, raise_descriptor_limit};
use crate::service::{Kind, Next, Service, Traits, Visit};

#[derive(ClapArgs, Debug)]
pub(crate) struct Args {
    #[arg(long, default_value = "127.0.0.1:0")]
    bind: SocketAddr,
    #[arg(long, default_value_t = 2)]
    threads: usize,
    #[arg(long, value_enum, default_value_t = Kind::Echo)]
    kind: Kind,
    #[command(flatten)]
    shape: Shape,
    /// The server closes first, after one response (echo and http).
    #[arg(long)]
    close_after_response: bool,
    /// Bytes to send per connection before closing (source); without it, until the client closes.
    #[arg(long)]
    bytes: Option<u64>,
    #[command(flatten)]
    traits: Traits,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    raise_descriptor_limit()?;
    let (address, listeners) = listeners(args.bind, args.threads.max(1))?;
    println!("listening {address}");
    io::stdout().flush()?;
    let service = Service::new(
        args.kind,
        args.shape,
        args.close_after_response,
        args.bytes,
        args.traits,
    )?;
    thread::scope(|scope| {
        let threads: Vec<_> = listeners
            .into_iter()
            .map(|listener| scope.spawn(|| Loop::new(listener, &service)?.run()))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("a server thread does not panic"))
    })
}

/// The slot number of the listener; connections count from zero.
const LISTENER: usize = usize::MAX;

struct Loop<'a> {
    poller: Poller,
    listener: OwnedFd,
    service: &'a Service,
    scratch: Scratch,
    guests: Vec<Option<Guest>>,
    free: Vec<usize>,
    /// Guests whose response is due later, the first first: the delay is the same for all.
    delayed: VecDeque<(Instant, usize)>,
}

struct Guest {
    socket: OwnedFd,
    visit: Visit,
    /// What the epoll set knows of the socket.
    interest: Option<Interest>,
}

impl<'a> Loop<'a> {
    fn new(listener: OwnedFd, service: &'a Service) -> io::Result<Self> {
        let poller = Poller::new()?;
        poller.watch(&listener, LISTENER, Interest::Readable)?;
        let scratch = service.scratch();
        Ok(Self {
            poller,
            listener,
            service,
            scratch,
            guests: Vec::new(),
            free: Vec::new(),
            delayed: VecDeque::new(),
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut ready = ready();
        loop {
            match self.delayed.front() {
                None => self.poller.wait(&mut ready, None)?,
                Some((due, _)) => {
                    let left = due.saturating_duration_since(Instant::now());
                    self.poller.wait_precisely(&mut ready, left)?;
                }
            }
            for event in &ready {
                match slot(event) {
                    LISTENER => self.accept_all()?,
                    slot => self.serve(slot)?,
                }
            }
            self.serve_delayed()?;
        }
    }

    fn accept_all(&mut self) -> io::Result<()> {
        loop {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match accept_with(&self.listener, flags) {
                Ok(socket) => self.welcome(socket)?,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::CONNABORTED | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tries to serve at once: a connection that was finished by its first bytes never enters the
    /// epoll set.
    fn welcome(&mut self, socket: OwnedFd) -> io::Result<()> {
        let mut visit = self.service.visit();
        let next = self.service.go_on(&socket, &mut visit, &mut self.scratch);
        if let Next::Close = next {
            return Ok(());
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.guests.push(None);
            self.guests.len() - 1
        });
        self.guests[slot] = Some(Guest {
            socket,
            visit,
            interest: None,
        });
        self.settle(slot, next)
    }

    fn serve_delayed(&mut self) -> io::Result<()> {
        while let Some((due, slot)) = self.delayed.front().copied() {
            if due > Instant::now() {
                break;
            }
            self.delayed.pop_front();
            self.serve(slot)?;
        }
        Ok(())
    }

    fn serve(&mut self, slot: usize) -> io::Result<()> {
        let Some(guest) = &mut self.guests[slot] else {
            return Ok(());
        };
        let next = self
            .service
            .go_on(&guest.socket, &mut guest.visit, &mut self.scratch);
        self.settle(slot, next)
    }

    fn settle(&mut self, slot: usize, next: Next) -> io::Result<()> {
        let Some(guest) = &mut self.guests[slot] else {
            return Ok(());
        };
        match next {
            Next::Await(interest) => match guest.interest.replace(interest) {
                None => self.poller.watch(&guest.socket, slot, interest),
                Some(before) if before != interest => {
                    self.poller.change(&guest.socket, slot, interest)
                }
                Some(_) => Ok(()),
            },
            Next::Later => {
                // Nothing it sends meanwhile may wake the loop.
                if guest.interest.take().is_some() {
                    self.poller.forget(&guest.socket)?;
                }
                let due = Instant::now() + self.service.delay();
                self.delayed.push_back((due, slot));
                Ok(())
            }
            Next::Hold => Ok(()),
            Next::Close => {
                self.guests[slot] = None;
                self.free.push(slot);
                Ok(())
            }
        }
    }
}
