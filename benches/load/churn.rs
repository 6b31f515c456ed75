//! Open loop of whole connections: each has an intended start and is counted by how it ended, so
//! that a failure of the proxy shows as numbers of failed and of late clients.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use crate::call::{Call, Clock, End, Ends};
use crate::events::{Poller, Ready, ready, slot};
use crate::exchange::{Scratch, Shape};
use crate::line::Line;
use crate::net::{Sources, raise_descriptor_limit};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    to: SocketAddr,
    /// Connections per second, over all threads.
    #[arg(long, default_value_t = 2000.0)]
    rate: f64,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    #[arg(long, default_value_t = 1)]
    threads: usize,
    /// From the intended start to the end of the response.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// Source addresses 127.0.1.x per thread, so that no client lacks a port.
    #[arg(long, default_value_t = 4)]
    source_addresses: usize,
    /// Lists the calls that failed here, one in a line, and the slow ones.
    #[arg(long)]
    remarkable: Option<PathBuf>,
    /// What is slow enough to be listed.
    #[arg(long, default_value_t = 100)]
    slow_ms: u64,
    #[command(flatten)]
    shape: Shape,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    raise_descriptor_limit()?;
    let clock = Clock::now();
    let begun = Instant::now();
    let ends = thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads.max(1))
            .map(|thread| {
                let args = &args;
                scope.spawn(move || Loop::new(args, thread, clock)?.run(begun))
            })
            .collect();
        let mut ends = Ends::new(clock, Duration::MAX);
        for thread in threads {
            ends = ends.merge(&thread.join().expect("a load thread does not panic")?);
        }
        Ok::<_, io::Error>(ends)
    })?;
    if let Some(file) = &args.remarkable {
        fs::write(file, ends.remarkable())?;
    }
    ends.describe(Line::new("churn")).print();
    Ok(())
}

struct Loop<'a> {
    args: &'a Args,
    poller: Poller,
    sources: Sources,
    scratch: Scratch,
    calls: Vec<Option<Call>>,
    free: Vec<usize>,
    /// When calls time out, the first first; a slot with another deadline by now is another call's.
    deadlines: VecDeque<(Instant, usize)>,
    interval: Duration,
    ends: Ends,
}

impl<'a> Loop<'a> {
    fn new(args: &'a Args, thread: usize, clock: Clock) -> io::Result<Self> {
        // The default slack of 50 us would make every call late.
        rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
        Ok(Self {
            args,
            poller: Poller::new()?,
            sources: Sources::of_thread(thread, args.source_addresses),
            scratch: Scratch::new(),
            calls: Vec::new(),
            free: Vec::new(),
            deadlines: VecDeque::new(),
            interval: Duration::from_secs_f64(args.threads.max(1) as f64 / args.rate),
            ends: Ends::new(clock, Duration::from_millis(args.slow_ms)),
        })
    }

    /// Starts calls until the time is over, and ends when the last of them has ended.
    fn run(mut self, begun: Instant) -> io::Result<Ends> {
        let until = begun + Duration::from_secs_f64(self.args.seconds);
        let mut ready = ready();
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            while next <= now && next < until {
                self.begin(next);
                next += self.interval;
            }
            self.end_late(now);
            if next >= until && self.deadlines.is_empty() {
                return Ok(self.ends);
            }
            self.wait(&mut ready, next, until)?;
            for event in &ready {
                self.step(slot(event));
            }
        }
    }

    fn wait(&self, ready: &mut Ready, next: Instant, until: Instant) -> io::Result<()> {
        let start = (next < until).then_some(next);
        let deadline = self.deadlines.front().map(|(deadline, _)| *deadline);
        let wake = start.into_iter().chain(deadline).min();
        let left = wake.map_or(Duration::ZERO, |wake| {
            wake.saturating_duration_since(Instant::now())
        });
        self.poller.wait_precisely(ready, left)
    }

    fn begin(&mut self, intended: Instant) {
        let (to, shape) = (self.args.to, self.args.shape);
        match Call::begin(to, self.sources.take(), shape, false, intended) {
            Ok(call) => {
                let slot = self.free.pop().unwrap_or_else(|| {
                    self.calls.push(None);
                    self.calls.len() - 1
                });
                self.calls[slot] = Some(call);
                let timeout = Duration::from_millis(self.args.timeout_ms);
                self.deadlines.push_back((intended + timeout, slot));
                // On loopback the connection often stands by now.
                self.step(slot);
            }
            Err(end) => self.ends.count(end, intended, None),
        }
    }

    fn step(&mut self, slot: usize) {
        let Some(call) = &mut self.calls[slot] else {
            return;
        };
        if let Some(end) = call.go_on(&self.poller, slot, &mut self.scratch) {
            self.end(slot, end);
        }
    }

    fn end(&mut self, slot: usize, end: End) {
        if let Some(call) = self.calls[slot].take() {
            self.ends.count(end, call.intended, call.name);
            self.free.push(slot);
        }
    }

    /// Ends what has run out of time, and forgets the deadlines of what ended before.
    fn end_late(&mut self, now: Instant) {
        let timeout = Duration::from_millis(self.args.timeout_ms);
        while let Some((deadline, slot)) = self.deadlines.front().copied() {
            let call = self.calls[slot].as_ref();
            let is_alive = call.is_some_and(|call| call.intended + timeout == deadline);
            if is_alive && deadline > now {
                return;
            }
            self.deadlines.pop_front();
            if is_alive {
                self.end(slot, End::TimedOut);
            }
        }
    }
}
