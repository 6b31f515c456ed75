//! As many bytes as possible in one direction.

use std::io;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rustix::event::PollFlags;

use crate::channel::{Channel, wait_for};
use crate::events::{Interest, Poller, ready, slot};
use crate::exchange::Scratch;
use crate::measure::{Common, Tally, Window, measure, print_bytes};
use crate::net::{Moved, connected};
use crate::tls::Security;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    common: Common,
    #[arg(long, default_value_t = 4)]
    connections: usize,
    #[arg(long, value_enum, default_value_t = Direction::Down)]
    direction: Direction,
    #[command(flatten)]
    security: Security,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// From the server (`--kind source`) to this client.
    Down,
    /// To the server (`--kind sink`), which has to confirm the count in the end.
    Up,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    let (tally, spent) = measure(args.common, |thread, window| {
        let connections = args.common.share(args.connections, thread);
        Loop::open(&args, connections)?.run(window)
    })?;
    print_bytes("bulk", &tally, &spent)
}

struct Loop {
    poller: Poller,
    flows: Vec<Flow>,
    direction: Direction,
    scratch: Scratch,
}

struct Flow {
    channel: Channel,
    /// In the warm-up too.
    bytes: u64,
    is_broken: bool,
}

impl Loop {
    fn open(args: &Args, connections: usize) -> io::Result<Self> {
        let poller = Poller::new()?;
        let tls = args.security.client();
        let interest = match args.direction {
            Direction::Down => Interest::Readable,
            Direction::Up => Interest::Writable,
        };
        let mut flows = Vec::with_capacity(connections);
        for slot in 0..connections {
            let stream = connected(args.common.to)?;
            let mut channel = Channel::established(stream, tls.as_ref())?;
            poller.watch(&channel, slot, interest)?;
            if args.direction == Direction::Down {
                // A connection's first byte always fits.
                channel.send_some(b"!")?;
            }
            flows.push(Flow {
                channel,
                bytes: 0,
                is_broken: false,
            });
        }
        Ok(Self {
            poller,
            flows,
            direction: args.direction,
            scratch: Scratch::new(),
        })
    }

    fn run(mut self, window: Window) -> io::Result<Tally> {
        let mut tally = Tally::new();
        let mut ready = ready();
        loop {
            let now = Instant::now();
            if now >= window.until {
                break;
            }
            self.poller.wait(&mut ready, Some(window.until - now))?;
            let counts = window.counts(Instant::now());
            for event in &ready {
                let bytes = self.step(slot(event), &mut tally);
                tally.bytes += if counts { bytes } else { 0 };
            }
        }
        if self.direction == Direction::Up {
            self.confirm(&mut tally);
        }
        Ok(tally)
    }

    fn step(&mut self, slot: usize, tally: &mut Tally) -> u64 {
        let flow = &mut self.flows[slot];
        let moved = match self.direction {
            Direction::Down => flow.channel.receive_some(&mut self.scratch.incoming),
            Direction::Up => flow.channel.send_some(&self.scratch.outgoing),
        };
        let bytes = moved.and_then(|moved| match moved {
            Moved::Bytes(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Moved::Bytes(count) => Ok(count as u64),
            Moved::WouldBlock => Ok(0),
        });
        match bytes {
            Ok(bytes) => {
                flow.bytes += bytes;
                bytes
            }
            Err(error) => {
                tally.error(&error);
                flow.is_broken = true;
                // Fails only if it was not watched, and then there is nothing to forget.
                let _ = self.poller.forget(&flow.channel);
                0
            }
        }
    }

    /// Whatever was sent has to have arrived: a difference is an error.
    fn confirm(&mut self, tally: &mut Tally) {
        for flow in self.flows.iter_mut().filter(|flow| !flow.is_broken) {
            match flow.count_at_server(&mut self.scratch) {
                Ok(count) if count == flow.bytes => {}
                Ok(count) => {
                    let text = format!("sent {} bytes, {count} arrived", flow.bytes);
                    tally.error(&io::Error::other(text));
                }
                Err(error) => tally.error(&error),
            }
        }
    }
}

/// How long the rest of an upload may take to drain.
const CONFIRM_WAIT: Duration = Duration::from_secs(5);

impl Flow {
    fn count_at_server(&mut self, scratch: &mut Scratch) -> io::Result<u64> {
        while self.channel.holds_back() {
            wait_for(&self.channel, PollFlags::OUT)?;
            if let Moved::Bytes(count) = self.channel.send_some(&[])? {
                self.bytes += count as u64;
            }
        }
        self.channel.end()?;
        let mut digits = Vec::new();
        let until = Instant::now() + CONFIRM_WAIT;
        while Instant::now() < until {
            match self.channel.receive_some(&mut scratch.incoming)? {
                Moved::Bytes(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Moved::Bytes(count) => digits.extend_from_slice(&scratch.incoming[..count]),
                Moved::WouldBlock => wait_for(&self.channel, PollFlags::IN)?,
            }
            if let Ok(digits) = digits.as_slice().try_into() {
                return Ok(u64::from_be_bytes(digits));
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }
}
