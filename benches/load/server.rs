//! The server behind the proxy: one listener and one loop per thread.

use std::io;
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::thread;

use clap::Args as ClapArgs;
use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use crate::events::{Interest, Poller, ready, slot};
use crate::exchange::{Scratch, Shape};
use crate::net::{listeners, raise_descriptor_limit};
use crate::service::{Kind, Next, Service, Visit};

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
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    raise_descriptor_limit()?;
    let (address, listeners) = listeners(args.bind, args.threads.max(1))?;
    println!("listening {address}");
    io::stdout().flush()?;
    let service = Service::new(args.kind, args.shape, args.close_after_response, args.bytes);
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
}

struct Guest {
    socket: OwnedFd,
    visit: Visit,
    interest: Interest,
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
        })
    }

    fn run(mut self) -> io::Result<()> {
        let mut ready = ready();
        loop {
            self.poller.wait(&mut ready, None)?;
            for event in &ready {
                match slot(event) {
                    LISTENER => self.accept_all()?,
                    slot => self.serve(slot)?,
                }
            }
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
        let mut visit = Visit::default();
        let interest = match self.service.go_on(&socket, &mut visit, &mut self.scratch) {
            Next::Await(interest) => Some(interest),
            Next::Hold => None,
            Next::Close => return Ok(()),
        };
        let slot = self.free.pop().unwrap_or_else(|| {
            self.guests.push(None);
            self.guests.len() - 1
        });
        if let Some(interest) = interest {
            self.poller.watch(&socket, slot, interest)?;
        }
        let interest = interest.unwrap_or(Interest::Readable);
        self.guests[slot] = Some(Guest {
            socket,
            visit,
            interest,
        });
        Ok(())
    }

    fn serve(&mut self, slot: usize) -> io::Result<()> {
        let Some(guest) = &mut self.guests[slot] else {
            return Ok(());
        };
        match self
            .service
            .go_on(&guest.socket, &mut guest.visit, &mut self.scratch)
        {
            Next::Await(interest) if interest != guest.interest => {
                guest.interest = interest;
                self.poller.change(&guest.socket, slot, interest)
            }
            Next::Await(_) | Next::Hold => Ok(()),
            Next::Close => {
                self.guests[slot] = None;
                self.free.push(slot);
                Ok(())
            }
        }
    }
}
