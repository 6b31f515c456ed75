//! Closed loop of whole connections: connect, one request, response, close.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use crate::channel::Channel;
use crate::events::{Interest, Poller, ready, slot};
use crate::exchange::{Awaiting, Exchange, Scratch, Shape};
use crate::measure::{Common, Tally, Window, measure, print_requests};
use crate::net::{Moved, Sources, dial};
use crate::tls::{Client as TlsClient, Security};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Connections at a time.
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    /// Close after the response, instead of waiting for the server to do so.
    #[arg(long)]
    client_closes: bool,
    /// Source addresses 127.0.1.x per thread, so that ports do not run out while old connections
    /// are in TIME_WAIT. Zero leaves the choice to the kernel; that is enough while the server
    /// closes first, because then TIME_WAIT is on its side.
    #[arg(long, default_value_t = 0)]
    source_addresses: usize,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    security: Security,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    let (tally, spent) = measure(args.common, |thread, window| {
        let concurrency = args.common.share(args.concurrency, thread);
        Loop::new(&args, thread)?.run(concurrency, window)
    })?;
    print_requests("cycle", "connection", &tally, &spent)
}

struct Loop {
    poller: Poller,
    to: SocketAddr,
    sources: Sources,
    client_closes: bool,
    shape: Shape,
    tls: Option<TlsClient>,
    scratch: Scratch,
    clients: Vec<Option<Client>>,
}

struct Client {
    channel: Channel,
    exchange: Exchange,
    since: Instant,
    phase: Phase,
    /// What the epoll set knows of the socket.
    interest: Option<Interest>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    AwaitRoom,
    AwaitHandshake,
    AwaitResponse,
    AwaitEnd,
    Over,
}

impl Loop {
    fn new(args: &Args, thread: usize) -> io::Result<Self> {
        Ok(Self {
            poller: Poller::new()?,
            to: args.common.to,
            sources: Sources::of_thread(thread, args.source_addresses),
            client_closes: args.client_closes,
            shape: args.shape,
            tls: args.security.client(),
            scratch: Scratch::new(),
            clients: Vec::new(),
        })
    }

    fn run(mut self, concurrency: usize, window: Window) -> io::Result<Tally> {
        let mut tally = Tally::new();
        let mut ready = ready();
        self.clients.resize_with(concurrency, || None);
        loop {
            let now = Instant::now();
            if now >= window.until {
                return Ok(tally);
            }
            // Here and not where one ends, so that connects that fail at once cannot spin past
            // the end of the window.
            for slot in 0..concurrency {
                if self.clients[slot].is_none() {
                    self.begin(slot, &mut tally);
                }
            }
            self.poller.wait(&mut ready, Some(window.until - now))?;
            for event in &ready {
                self.step(slot(event), window, &mut tally);
            }
        }
    }

    fn begin(&mut self, slot: usize, tally: &mut Tally) {
        let since = Instant::now();
        let dialled = dial(self.to, self.sources.take());
        match dialled.and_then(|socket| Channel::new(socket, self.tls.as_ref())) {
            Ok(channel) => {
                let exchange = Exchange::new(self.shape);
                let phase = Phase::AwaitRoom;
                self.clients[slot] = Some(Client {
                    channel,
                    exchange,
                    since,
                    phase,
                    interest: None,
                });
                // On loopback the connection often stands by now.
                self.go_on_counted(slot, tally);
            }
            Err(error) => tally.error(&error),
        }
    }

    fn step(&mut self, slot: usize, window: Window, tally: &mut Tally) {
        self.go_on_counted(slot, tally);
        let over = self.clients[slot].take_if(|client| client.phase == Phase::Over);
        if let Some(mut client) = over {
            // Who closed first does not care, and may have reset the connection by now.
            let _ = client.channel.notify_close();
            let now = Instant::now();
            if window.counts(now) {
                tally.request(now - client.since);
                tally.connection(&client.channel);
            }
        }
    }

    fn go_on_counted(&mut self, slot: usize, tally: &mut Tally) {
        if let Err(error) = self.go_on(slot) {
            tally.error(&error);
            self.clients[slot] = None;
        }
    }

    fn go_on(&mut self, slot: usize) -> io::Result<()> {
        let Some(client) = &mut self.clients[slot] else {
            return Ok(());
        };
        client.phase = match client.phase {
            Phase::AwaitRoom | Phase::AwaitHandshake => client.send(&self.scratch)?,
            Phase::AwaitResponse => client.receive(&mut self.scratch, self.client_closes)?,
            Phase::AwaitEnd => client.end(&mut self.scratch)?,
            Phase::Over => Phase::Over,
        };
        let interest = match client.phase {
            Phase::AwaitRoom => Interest::Writable,
            Phase::AwaitHandshake | Phase::AwaitResponse | Phase::AwaitEnd => Interest::Readable,
            // Closing takes the socket out of the set.
            Phase::Over => return Ok(()),
        };
        match client.interest.replace(interest) {
            None => self.poller.watch(&client.channel, slot, interest),
            Some(before) if before != interest => {
                self.poller.change(&client.channel, slot, interest)
            }
            Some(_) => Ok(()),
        }
    }
}

impl Client {
    fn send(&mut self, scratch: &Scratch) -> io::Result<Phase> {
        match self.channel.establish()? {
            Awaiting::Room => return Ok(Phase::AwaitRoom),
            Awaiting::Response => return Ok(Phase::AwaitHandshake),
            Awaiting::Nothing => {}
        }
        Ok(match self.exchange.send(&mut self.channel, scratch)? {
            Awaiting::Room => Phase::AwaitRoom,
            Awaiting::Response | Awaiting::Nothing => Phase::AwaitResponse,
        })
    }

    fn receive(&mut self, scratch: &mut Scratch, client_closes: bool) -> io::Result<Phase> {
        Ok(match self.exchange.receive(&mut self.channel, scratch)? {
            Awaiting::Room | Awaiting::Response => Phase::AwaitResponse,
            Awaiting::Nothing if client_closes => Phase::Over,
            // The end usually comes with the response.
            Awaiting::Nothing => self.end(scratch)?,
        })
    }

    fn end(&mut self, scratch: &mut Scratch) -> io::Result<Phase> {
        match self.channel.receive_some(&mut scratch.incoming)? {
            Moved::Bytes(0) => Ok(Phase::Over),
            Moved::Bytes(_) => Err(io::Error::other("bytes after the response")),
            Moved::WouldBlock => Ok(Phase::AwaitEnd),
        }
    }
}
