//! Closed loop of requests on connections that stay open.

use std::io;
use std::time::Instant;

use crate::channel::Channel;
use crate::events::{Interest, Poller, Ready, ready, slot};
use crate::exchange::{Awaiting, Exchange, Scratch, Shape};
use crate::measure::{Common, Tally, Window, measure, print_requests};
use crate::net::connected;
use crate::tls::Security;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 32)]
    connections: usize,
    #[command(flatten)]
    shape: Shape,
    #[command(flatten)]
    security: Security,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    let (tally, spent) = measure(args.common, |thread, window| {
        let connections = args.common.share(args.connections, thread);
        if connections == 0 {
            return Ok(Tally::new());
        }
        Loop::open(&args, connections)?.run(window)
    })?;
    print_requests("rr", "request", &tally, &spent)
}

struct Loop {
    poller: Poller,
    clients: Vec<Client>,
    shape: Shape,
    scratch: Scratch,
}

struct Client {
    channel: Channel,
    exchange: Exchange,
    since: Instant,
    interest: Interest,
    /// A failed client is counted once and not replaced.
    is_broken: bool,
}

impl Loop {
    fn open(args: &Args, connections: usize) -> io::Result<Self> {
        let poller = Poller::new()?;
        let tls = args.security.client();
        let mut clients = Vec::with_capacity(connections);
        for slot in 0..connections {
            let stream = connected(args.common.to)?;
            let channel = Channel::established(stream, tls.as_ref())?;
            poller.watch(&channel, slot, Interest::Readable)?;
            clients.push(Client {
                channel,
                exchange: Exchange::new(args.shape),
                since: Instant::now(),
                interest: Interest::Readable,
                is_broken: false,
            });
        }
        Ok(Self {
            poller,
            clients,
            shape: args.shape,
            scratch: Scratch::new(),
        })
    }

    fn run(mut self, window: Window) -> io::Result<Tally> {
        let mut tally = Tally::new();
        let mut ready: Ready = ready();
        for slot in 0..self.clients.len() {
            self.step(slot, window, &mut tally);
        }
        loop {
            let now = Instant::now();
            if now >= window.until {
                return Ok(tally);
            }
            self.poller.wait(&mut ready, Some(window.until - now))?;
            for event in &ready {
                self.step(slot(event), window, &mut tally);
            }
        }
    }

    fn step(&mut self, slot: usize, window: Window, tally: &mut Tally) {
        if self.clients[slot].is_broken {
            return;
        }
        if let Err(error) = self.go_on(slot, window, tally) {
            tally.error(&error);
            self.clients[slot].is_broken = true;
            // Fails only if it was not watched, and then there is nothing to forget.
            let _ = self.poller.forget(&self.clients[slot].channel);
        }
    }

    fn go_on(&mut self, slot: usize, window: Window, tally: &mut Tally) -> io::Result<()> {
        let client = &mut self.clients[slot];
        let mut awaiting = if client.exchange.is_sent() {
            client
                .exchange
                .receive(&mut client.channel, &mut self.scratch)?
        } else {
            client.exchange.send(&mut client.channel, &self.scratch)?
        };
        if awaiting == Awaiting::Nothing {
            let now = Instant::now();
            if window.counts(now) {
                tally.request(now - client.since);
            }
            client.since = now;
            client.exchange = Exchange::new(self.shape);
            awaiting = client.exchange.send(&mut client.channel, &self.scratch)?;
        }
        let interest = match awaiting {
            Awaiting::Room => Interest::Writable,
            Awaiting::Response | Awaiting::Nothing => Interest::Readable,
        };
        if interest != client.interest {
            self.poller.change(&client.channel, slot, interest)?;
            client.interest = interest;
        }
        Ok(())
    }
}
