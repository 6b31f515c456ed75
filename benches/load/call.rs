//! One connection with one request, and how it ended; and how all of them did.

use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, SocketAddrV4};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;

use crate::channel::Channel;
use crate::events::{Interest, Poller};
use crate::exchange::{Awaiting, Exchange, Scratch, Shape};
use crate::line::Line;
use crate::net::dial;
use crate::service::NUMBER_BYTES;

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The whole response came.
    Answered,
    Refused,
    /// Reset before the response was complete.
    Reset,
    /// Closed in order before the response was complete.
    Cut,
    /// Bytes that no server sends, or of two servers.
    Wrong,
    TimedOut,
    /// Our own shortage, such as of ports: says nothing about the proxy.
    Unable,
}

impl End {
    const ALL: [End; 7] = [
        End::Answered,
        End::Refused,
        End::Reset,
        End::Cut,
        End::Wrong,
        End::TimedOut,
        End::Unable,
    ];

    fn word(self) -> &'static str {
        match self {
            End::Answered => "ok",
            End::Refused => "refused",
            End::Reset => "reset",
            End::Cut => "cut",
            End::Wrong => "wrong",
            End::TimedOut => "timed_out",
            End::Unable => "unable",
        }
    }

    fn of(error: &io::Error) -> End {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => End::Refused,
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => End::Reset,
            io::ErrorKind::UnexpectedEof => End::Cut,
            io::ErrorKind::InvalidData => End::Wrong,
            io::ErrorKind::TimedOut => End::TimedOut,
            _ => End::Unable,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Call {
    channel: Channel,
    exchange: Exchange,
    pub(crate) intended: Instant,
    /// The letter the response consists of, once one has come.
    pub(crate) name: Option<u8>,
    /// Of the server's numbered response.
    pub(crate) number: u64,
    number_bytes_left: usize,
    /// What the epoll set knows of the socket.
    interest: Option<Interest>,
}

impl Call {
    pub(crate) fn begin(
        to: SocketAddr,
        from: Option<SocketAddrV4>,
        shape: Shape,
        numbered: bool,
        intended: Instant,
    ) -> Result<Call, End> {
        let socket = dial(to, from).map_err(|error| End::of(&error))?;
        Ok(Call {
            channel: Channel::plain(socket),
            exchange: Exchange::new(shape),
            intended,
            name: None,
            number: 0,
            number_bytes_left: if numbered { NUMBER_BYTES } else { 0 },
            interest: None,
        })
    }

    /// One step; the end, if this was the last.
    pub(crate) fn go_on(
        &mut self,
        poller: &Poller,
        slot: usize,
        scratch: &mut Scratch,
    ) -> Option<End> {
        match self.step(scratch) {
            Ok(Awaiting::Nothing) => Some(End::Answered),
            Ok(awaiting) => self
                .watch(poller, slot, awaiting)
                .err()
                .map(|error| End::of(&error)),
            Err(error) => Some(End::of(&error)),
        }
    }

    fn step(&mut self, scratch: &mut Scratch) -> io::Result<Awaiting> {
        if !self.exchange.is_sent() {
            return self.exchange.send(&mut self.channel, scratch);
        }
        let before = self.exchange.unread();
        let awaiting = self.exchange.receive(&mut self.channel, scratch)?;
        let count = (before - self.exchange.unread()) as usize;
        self.check(&scratch.incoming[..count])?;
        Ok(awaiting)
    }

    fn check(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (number, letters) = bytes.split_at(bytes.len().min(self.number_bytes_left));
        self.number_bytes_left -= number.len();
        for byte in number {
            self.number = self.number << 8 | u64::from(*byte);
        }
        for letter in letters {
            if *self.name.get_or_insert(*letter) != *letter {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(())
    }

    fn watch(&mut self, poller: &Poller, slot: usize, awaiting: Awaiting) -> io::Result<()> {
        let interest = match awaiting {
            Awaiting::Room => Interest::Writable,
            Awaiting::Response | Awaiting::Nothing => Interest::Readable,
        };
        match self.interest.replace(interest) {
            None => poller.watch(&self.channel, slot, interest),
            Some(before) if before != interest => poller.change(&self.channel, slot, interest),
            Some(_) => Ok(()),
        }
    }
}

/// The ends of many calls.
#[derive(Debug)]
pub(crate) struct Ends {
    counts: [u64; End::ALL.len()],
    /// Answers of each server, by its letter.
    answered_by: [u64; 256],
    /// Of the answered, from their intended start.
    latency_ns: Histogram<u64>,
    /// One line for each that failed, or was slower than that.
    remarkable: String,
    remarkable_from: Duration,
    clock: Clock,
}

/// Further lines would only fill memory.
const REMARKABLE_BYTES_MAX: usize = 16 << 20;

/// The latencies that are counted by how many were longer.
const LONGER_THAN_MS: [u64; 6] = [10, 50, 100, 250, 500, 1000];

impl Ends {
    pub(crate) fn new(clock: Clock, remarkable_from: Duration) -> Ends {
        // Three digits up to a minute: more than any timeout here.
        let latency_ns = Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("valid bounds");
        Ends {
            counts: [0; End::ALL.len()],
            answered_by: [0; 256],
            latency_ns,
            remarkable: String::new(),
            remarkable_from,
            clock,
        }
    }

    pub(crate) fn count(&mut self, end: End, intended: Instant, name: Option<u8>) {
        self.counts[end as usize] += 1;
        let now = Instant::now();
        let took = now - intended;
        if end == End::Answered {
            self.answered_by[usize::from(name.unwrap_or_default())] += 1;
            self.latency_ns.saturating_record(took.as_nanos() as u64);
            if took < self.remarkable_from {
                return;
            }
        }
        if self.remarkable.len() < REMARKABLE_BYTES_MAX {
            let (word, name) = (end.word(), char::from(name.unwrap_or(b'-')));
            let (from, until) = (self.clock.unix(intended), self.clock.unix(now));
            // Writing to a string cannot fail.
            let _ = writeln!(self.remarkable, "{word} {from:.6} {until:.6} {name}");
        }
    }

    pub(crate) fn merge(mut self, other: &Ends) -> Ends {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        for (count, more) in self.answered_by.iter_mut().zip(other.answered_by) {
            *count += more;
        }
        self.latency_ns
            .add(&other.latency_ns)
            .expect("equal bounds");
        self.remarkable.push_str(&other.remarkable);
        self
    }

    /// One line for each remarkable call: how it ended, from when to when (seconds since 1970),
    /// the server's letter or a dash.
    pub(crate) fn remarkable(&self) -> &str {
        &self.remarkable
    }

    pub(crate) fn describe(&self, mut line: Line) -> Line {
        line = line.number("calls", self.counts.iter().sum::<u64>());
        for end in End::ALL {
            line = line.number(end.word(), self.counts[end as usize]);
        }
        let latency = &self.latency_ns;
        line = line.latencies(latency);
        for ms in LONGER_THAN_MS {
            let above = latency.count_between(ms * 1_000_000, u64::MAX);
            line = line.number(&format!("over_{ms}ms"), above);
        }
        for (letter, count) in self.answered_by.iter().enumerate() {
            if *count > 0 {
                let letter = char::from(letter as u8);
                line = line.number(&format!("by_{letter}"), count);
            }
        }
        line
    }
}

/// Turns moments into times that a script can compare with its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    instant: Instant,
    unix: Duration,
}

impl Clock {
    pub(crate) fn now() -> Clock {
        Clock {
            instant: Instant::now(),
            unix: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default(),
        }
    }

    /// Seconds since 1970.
    fn unix(&self, at: Instant) -> f64 {
        let after = at.saturating_duration_since(self.instant);
        let before = self.instant.saturating_duration_since(at);
        (self.unix + after).as_secs_f64() - before.as_secs_f64()
    }
}
