//! The measured window: threads work, the main thread reads the machine's clocks around it.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::parent_id;
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;

use crate::channel::Channel;
use crate::line::Line;
use crate::machine::{Own, Reading, Strangers};

/// What every load has in common.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Common {
    /// The proxy, or the server itself.
    #[arg(long)]
    pub(crate) to: SocketAddr,
    #[arg(long, default_value_t = 2)]
    pub(crate) threads: usize,
    #[arg(long, default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// Not counted; connections are opened during it.
    #[arg(long, default_value_t = 0.5)]
    pub(crate) warmup_seconds: f64,
    /// The process whose children (this one, server, proxy) are no strangers; else our parent.
    #[arg(long)]
    pub(crate) family: Option<u32>,
    /// The proxy's first process, to measure what it and its children spend by themselves.
    #[arg(long)]
    pub(crate) own: Option<u32>,
}

impl Common {
    /// The part of `total` that thread number `thread` takes over.
    pub(crate) fn share(&self, total: usize, thread: usize) -> usize {
        total / self.threads + usize::from(thread < total % self.threads)
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) from: Instant,
    pub(crate) until: Instant,
}

impl Window {
    pub(crate) fn counts(&self, now: Instant) -> bool {
        self.from <= now && now < self.until
    }
}

/// What one thread, and in the end all of them, achieved within the window.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) requests: u64,
    pub(crate) bytes: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    handshakes: Option<Handshakes>,
    latency_ns: Histogram<u64>,
}

/// Of finished connections with TLS.
#[derive(Clone, Copy, Debug, Default)]
struct Handshakes {
    full: u64,
    resumed: u64,
    /// Ended by the proxy without its `close_notify`.
    cut: u64,
}

impl Tally {
    pub(crate) fn new() -> Self {
        // Three digits up to a minute: every latency this tool can see.
        let latency_ns = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        Self {
            requests: 0,
            bytes: 0,
            errors: 0,
            first_error: None,
            handshakes: None,
            latency_ns,
        }
    }

    pub(crate) fn request(&mut self, latency: Duration) {
        self.requests += 1;
        self.latency_ns
            .saturating_record(latency.as_nanos().try_into().unwrap_or(u64::MAX));
    }

    /// What there is to say of a connection that is over.
    pub(crate) fn connection(&mut self, channel: &Channel) {
        let Some(session) = channel.session() else {
            return;
        };
        let handshakes = self.handshakes.get_or_insert_default();
        handshakes.full += u64::from(!session.is_resumed());
        handshakes.resumed += u64::from(session.is_resumed());
        handshakes.cut += u64::from(!session.is_closed_by_peer());
    }

    /// Errors count at any time: one in the warm-up is no better.
    pub(crate) fn error(&mut self, error: &io::Error) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| error.to_string());
    }

    fn merge(mut self, other: Tally) -> Self {
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.or(other.first_error);
        if let Some(other) = other.handshakes {
            let handshakes = self.handshakes.get_or_insert_default();
            handshakes.full += other.full;
            handshakes.resumed += other.resumed;
            handshakes.cut += other.cut;
        }
        self.latency_ns
            .add(&other.latency_ns)
            .expect("equal bounds");
        self
    }
}

/// Runs `work` on every thread and measures the machine over the window. `work` gets the number
/// of its thread and returns when the window is over.
pub(crate) fn measure(
    common: Common,
    work: impl Fn(usize, Window) -> io::Result<Tally> + Sync,
) -> io::Result<(Tally, Spent)> {
    crate::net::raise_descriptor_limit()?;
    let from = Instant::now() + Duration::from_secs_f64(common.warmup_seconds);
    let window = Window {
        from,
        until: from + Duration::from_secs_f64(common.seconds),
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..common.threads)
            .map(|n| scope.spawn(move || work(n, window)))
            .collect();
        let spent = Spent::over(window, &common)?;
        let mut total = Tally::new();
        for thread in threads {
            total = total.merge(thread.join().expect("a load thread does not panic")?);
        }
        Ok((total, spent))
    })
}

/// What the machine spent over the window.
#[derive(Debug)]
pub(crate) struct Spent {
    seconds: f64,
    cpu_seconds_machine: f64,
    cpu_seconds_strangers: f64,
    cpu_seconds_own: Option<f64>,
}

/// Reading all processes takes milliseconds, so it is done this long before the window.
const READING_AHEAD: Duration = Duration::from_millis(20);

impl Spent {
    fn over(window: Window, common: &Common) -> io::Result<Self> {
        let family = common.family.unwrap_or_else(parent_id);
        let own = || common.own.map(Own::of).transpose();
        sleep_until(window.from - READING_AHEAD);
        let strangers_before = Strangers::of(family)?;
        sleep_until(window.from);
        let (before, own_before) = (Reading::now()?, own()?);
        sleep_until(window.until);
        let (after, own_after) = (Reading::now()?, own()?);
        Ok(Self {
            seconds: after.seconds_since(&before),
            cpu_seconds_machine: after.busy_seconds_since(&before),
            cpu_seconds_strangers: Strangers::of(family)?.seconds_since(&strangers_before),
            cpu_seconds_own: own_after
                .zip(own_before)
                .map(|(after, before)| after.seconds_since(&before)),
        })
    }

    /// The fields every line ends with; `units` is how often `unit` was done.
    /// Work of strangers is nobody's cost, so it is taken off as far as it is known.
    fn describe(&self, line: Line, unit: &str, units: f64) -> Line {
        let cpu_seconds = (self.cpu_seconds_machine - self.cpu_seconds_strangers).max(0.0);
        let us_per_unit = |seconds: f64| {
            let us = if units > 0.0 {
                seconds * 1e6 / units
            } else {
                0.0
            };
            format!("{us:.3}")
        };
        let line = line
            .number("seconds", format_args!("{:.3}", self.seconds))
            .number("rate", format_args!("{:.1}", units / self.seconds))
            .number(
                "cpu_seconds_machine",
                format_args!("{:.3}", self.cpu_seconds_machine),
            )
            .number(
                "cpu_seconds_strangers",
                format_args!("{:.3}", self.cpu_seconds_strangers),
            )
            .word("unit", unit)
            .number("cpu_us_per_unit", us_per_unit(cpu_seconds));
        match self.cpu_seconds_own {
            None => line,
            Some(own) => line
                .number("cpu_seconds_own", format_args!("{own:.3}"))
                .number("own_us_per_unit", us_per_unit(own)),
        }
    }
}

fn sleep_until(instant: Instant) {
    thread::sleep(instant.saturating_duration_since(Instant::now()));
}

/// Prints the line of a load that counts requests (or whole connections).
pub(crate) fn print_requests(
    workload: &str,
    unit: &str,
    tally: &Tally,
    spent: &Spent,
) -> io::Result<()> {
    let line = Line::new(workload).number("requests", tally.requests);
    let mut line = spent.describe(line, unit, tally.requests as f64);
    line = line.latencies(&tally.latency_ns);
    if let Some(handshakes) = tally.handshakes {
        line = line
            .number("handshakes_full", handshakes.full)
            .number("handshakes_resumed", handshakes.resumed)
            .number("cut", handshakes.cut);
    }
    finish(line, tally)
}

/// Prints the line of a load that counts bytes; the unit is 1 MB = 10^6 bytes.
pub(crate) fn print_bytes(workload: &str, tally: &Tally, spent: &Spent) -> io::Result<()> {
    let line = Line::new(workload).number("bytes", tally.bytes);
    finish(spent.describe(line, "MB", tally.bytes as f64 / 1e6), tally)
}

/// Fails if nothing was done: a cost per unit without units would look like no cost.
fn finish(line: Line, tally: &Tally) -> io::Result<()> {
    if let Some(error) = &tally.first_error {
        eprintln!("load: {} errors, the first: {error}", tally.errors);
    }
    line.number("errors", tally.errors).print();
    if tally.requests == 0 && tally.bytes == 0 {
        return Err(io::Error::other("nothing was completed within the window"));
    }
    Ok(())
}
