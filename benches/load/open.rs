//! Open loop of requests: each has an intended start, and its latency counts from there, so a slow
//! response delays no measurement of the others (no coordinated omission).

use std::collections::VecDeque;
use std::io;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use crate::channel::Channel;
use crate::events::{Interest, Poller, ready, slot};
use crate::exchange::{Awaiting, Exchange, Scratch, Shape};
use crate::measure::{Common, Tally, Window, measure, print_requests};
use crate::net::connected;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    /// Requests per second, over all threads.
    #[arg(long, default_value_t = 10_000.0)]
    rate: f64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[command(flatten)]
    shape: Shape,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    let (tally, spent) = measure(args.common, |thread, window| {
        let connections = args.common.share(args.connections, thread);
        if connections == 0 {
            return Err(io::Error::other("needs at least one connection per thread"));
        }
        // The default slack of 50 us would make every request late.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        Loop::open(&args, connections)?.run(window)
    })?;
    print_requests("open", "request", &tally, &spent)
}

struct Loop {
    poller: Poller,
    clients: Vec<Client>,
    /// Slots without a request under way.
    idle: Vec<usize>,
    /// Intended starts that no connection was free for; all of them are still measured.
    late: VecDeque<Instant>,
    interval: Duration,
    shape: Shape,
    scratch: Scratch,
}

struct Client {
    channel: Channel,
    exchange: Exchange,
    intended: Instant,
    interest: Interest,
}

impl Loop {
    fn open(args: &Args, connections: usize) -> io::Result<Self> {
        let poller = Poller::new()?;
        let mut clients = Vec::with_capacity(connections);
        for slot in 0..connections {
            let channel = Channel::plain(connected(args.common.to)?);
            poller.watch(&channel, slot, Interest::Readable)?;
            clients.push(Client {
                channel,
                exchange: Exchange::new(args.shape),
                intended: Instant::now(),
                interest: Interest::Readable,
            });
        }
        Ok(Self {
            poller,
            clients,
            idle: (0..connections).collect(),
            late: VecDeque::new(),
            interval: Duration::from_secs_f64(args.common.threads as f64 / args.rate),
            shape: args.shape,
            scratch: Scratch::new(),
        })
    }

    fn run(mut self, window: Window) -> io::Result<Tally> {
        let mut tally = Tally::new();
        let mut ready = ready();
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if now >= window.until {
                self.count_unanswered(window, &mut tally);
                return Ok(tally);
            }
            while next <= now {
                self.late.push_back(next);
                next += self.interval;
            }
            self.start_late(&mut tally);
            self.poller
                .wait_precisely(&mut ready, next.min(window.until) - now)?;
            for event in &ready {
                self.step(slot(event), window, &mut tally);
            }
        }
    }

    fn start_late(&mut self, tally: &mut Tally) {
        while !self.late.is_empty() {
            let Some(slot) = self.idle.pop() else { return };
            let client = &mut self.clients[slot];
            client.intended = self.late.pop_front().expect("not empty");
            client.exchange = Exchange::new(self.shape);
            let sent = client.exchange.send(&mut client.channel, &self.scratch);
            self.settle(slot, sent, tally);
        }
    }

    fn step(&mut self, slot: usize, window: Window, tally: &mut Tally) {
        let client = &mut self.clients[slot];
        let outcome = if client.exchange.is_sent() {
            client
                .exchange
                .receive(&mut client.channel, &mut self.scratch)
        } else {
            client.exchange.send(&mut client.channel, &self.scratch)
        };
        if let Ok(Awaiting::Nothing) = outcome {
            let now = Instant::now();
            if window.counts(now) {
                tally.request(now - client.intended);
            }
        }
        self.settle(slot, outcome, tally);
    }

    /// Files the client under what it waits for; a broken one is counted and not used again.
    fn settle(&mut self, slot: usize, outcome: io::Result<Awaiting>, tally: &mut Tally) {
        let client = &mut self.clients[slot];
        let settled = outcome.and_then(|awaiting| {
            let interest = match awaiting {
                Awaiting::Room => Interest::Writable,
                Awaiting::Response | Awaiting::Nothing => Interest::Readable,
            };
            if interest != client.interest {
                self.poller.change(&client.channel, slot, interest)?;
                client.interest = interest;
            }
            Ok(awaiting)
        });
        match settled {
            Ok(Awaiting::Nothing) => self.idle.push(slot),
            Ok(_) => {}
            Err(error) => {
                tally.error(&error);
                // Fails only if it was not watched, and then there is nothing to forget.
                let _ = self.poller.forget(&client.channel);
                self.idle.retain(|idle| *idle != slot);
            }
        }
    }

    /// A request that is still waiting at the end has waited at least this long.
    fn count_unanswered(&mut self, window: Window, tally: &mut Tally) {
        for intended in self
            .late
            .drain(..)
            .filter(|intended| window.counts(*intended))
        {
            tally.request(window.until - intended);
        }
    }
}
