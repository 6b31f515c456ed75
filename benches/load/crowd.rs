//! Many clients in the same moment, each with one request to a server that numbers what it
//! accepts: how long until all are served, and how far the order is from that of their arrival.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::call::{Call, Clock, End, Ends};
use crate::events::{Poller, ready, slot};
use crate::exchange::{Scratch, Shape};
use crate::line::Line;
use crate::net::{Sources, raise_descriptor_limit};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 10_000)]
    clients: usize,
    /// When whoever is not served by then has failed.
    #[arg(long, default_value_t = 60.0)]
    seconds_max: f64,
    /// Source addresses 127.0.1.x to spread over.
    #[arg(long, default_value_t = 4)]
    source_addresses: usize,
    /// The server is started with `--numbered` and one thread.
    #[arg(long)]
    numbered: bool,
    #[command(flatten)]
    shape: Shape,
}

pub(crate) fn run(args: Args) -> io::Result<()> {
    raise_descriptor_limit()?;
    let begun = Instant::now();
    let mut crowd = Crowd::arrive(&args)?;
    let arrived = begun.elapsed();
    crowd.be_served(begun + Duration::from_secs_f64(args.seconds_max))?;
    let took = begun.elapsed();
    let line = crowd
        .ends
        .describe(Line::new("crowd"))
        .number("arrival_ms", arrived.as_millis())
        .number("all_ms", took.as_millis());
    let line = if args.numbered {
        Order::of(&crowd.served).describe(line)
    } else {
        line
    };
    line.print();
    Ok(())
}

struct Crowd {
    poller: Poller,
    scratch: Scratch,
    /// In the order of their arrival.
    calls: Vec<Option<Call>>,
    /// The server's number of each that was answered, and its place in the arrival.
    served: Vec<(u64, usize)>,
    ends: Ends,
    left: usize,
}

impl Crowd {
    /// All connect, one after the other and without a pause, and send.
    fn arrive(args: &Args) -> io::Result<Crowd> {
        let mut sources = Sources::of_thread(0, args.source_addresses);
        let mut crowd = Crowd {
            poller: Poller::new()?,
            scratch: Scratch::new(),
            calls: Vec::with_capacity(args.clients),
            served: Vec::with_capacity(args.clients),
            ends: Ends::new(Clock::now(), Duration::MAX),
            left: args.clients,
        };
        for place in 0..args.clients {
            let now = Instant::now();
            match Call::begin(args.to, sources.take(), args.shape, args.numbered, now) {
                Ok(call) => {
                    crowd.calls.push(Some(call));
                    crowd.step(place);
                }
                Err(end) => {
                    crowd.calls.push(None);
                    crowd.left -= 1;
                    crowd.ends.count(end, now, None);
                }
            }
        }
        Ok(crowd)
    }

    fn be_served(&mut self, until: Instant) -> io::Result<()> {
        let mut ready = ready();
        while self.left > 0 {
            let now = Instant::now();
            if now >= until {
                for place in 0..self.calls.len() {
                    self.end(place, End::TimedOut);
                }
                break;
            }
            self.poller.wait(&mut ready, Some(until - now))?;
            for event in &ready {
                self.step(slot(event));
            }
        }
        Ok(())
    }

    fn step(&mut self, place: usize) {
        let Some(call) = &mut self.calls[place] else {
            return;
        };
        if let Some(end) = call.go_on(&self.poller, place, &mut self.scratch) {
            self.end(place, end);
        }
    }

    fn end(&mut self, place: usize, end: End) {
        let Some(call) = self.calls[place].take() else {
            return;
        };
        if end == End::Answered {
            self.served.push((call.number, place));
        }
        self.ends.count(end, call.intended, call.name);
        self.left -= 1;
    }
}

/// How the order of service differs from that of arrival.
struct Order {
    /// Pairs served the other way round than they came, of all pairs.
    inverted_share: f64,
    /// Clients served before one that came earlier, at least.
    overtaking: usize,
    /// How many places a client was served too early or too late.
    displaced_p50: usize,
    displaced_p99: usize,
    displaced_max: usize,
}

impl Order {
    fn of(served: &[(u64, usize)]) -> Order {
        let mut order = served.to_vec();
        order.sort_unstable();
        let places: Vec<usize> = order.iter().map(|(_, place)| *place).collect();
        // Those that failed leave no gap.
        let mut arrivals = places.clone();
        arrivals.sort_unstable();
        let ranks: Vec<usize> = places
            .iter()
            .map(|place| arrivals.partition_point(|arrival| arrival < place))
            .collect();
        let mut displaced: Vec<usize> = ranks
            .iter()
            .enumerate()
            .map(|(served, arrived)| served.abs_diff(*arrived))
            .collect();
        displaced.sort_unstable();
        let at = |share: f64| {
            let last = displaced.len().saturating_sub(1);
            displaced
                .get((last as f64 * share) as usize)
                .copied()
                .unwrap_or(0)
        };
        let pairs = ranks.len() as f64 * (ranks.len() as f64 - 1.0) / 2.0;
        let (inversions, overtaking) = inversions(&ranks);
        Order {
            inverted_share: inversions as f64 / pairs.max(1.0),
            overtaking,
            displaced_p50: at(0.5),
            displaced_p99: at(0.99),
            displaced_max: at(1.0),
        }
    }

    fn describe(&self, line: Line) -> Line {
        line.number("inverted_share", format_args!("{:.6}", self.inverted_share))
            .number("overtaking", self.overtaking)
            .number("displaced_p50", self.displaced_p50)
            .number("displaced_p99", self.displaced_p99)
            .number("displaced_max", self.displaced_max)
    }
}

/// Pairs in the wrong order, and how many elements have a smaller one somewhere after them.
fn inversions(ranks: &[usize]) -> (u64, usize) {
    // A Fenwick tree over ranks: how many of those seen so far, from the end on, are smaller.
    let mut tree = vec![0_u64; ranks.len() + 1];
    let (mut pairs, mut overtaking) = (0, 0);
    for rank in ranks.iter().rev() {
        let (mut at, mut smaller) = (*rank, 0);
        while at > 0 {
            smaller += tree[at];
            at &= at - 1;
        }
        pairs += smaller;
        overtaking += usize::from(smaller > 0);
        let mut at = rank + 1;
        while at < tree.len() {
            tree[at] += 1;
            at += at & at.wrapping_neg();
        }
    }
    (pairs, overtaking)
}
