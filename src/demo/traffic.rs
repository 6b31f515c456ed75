//! The demo's clients: requests at a steady rate, each on a connection of its own.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{sleep, timeout};

/// The rates to choose from, in requests a second.
pub const RATES: [u32; 10] = [0, 5, 10, 20, 40, 100, 200, 500, 1000, 2000];

/// [`RATES`] begins here.
pub const RATE_FIRST: u32 = 40;

/// Requests under way at once; further ones of the schedule are left out.
const AT_ONCE_MAX: usize = 256;

/// A request that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The finest step of tokio's clock: at the higher rates several requests fall into one.
const STEP_MIN: Duration = Duration::from_millis(1);

/// A change of the rate takes effect within this time.
const STEP_MAX: Duration = Duration::from_millis(100);

/// How far back latencies are looked at.
const LATENCY_WINDOW: Duration = Duration::from_secs(5);

/// Latencies kept, at most: two seconds at the highest rate.
const LATENCIES_MAX: usize = 4096;

/// A response is shorter than this.
const RESPONSE_BYTES_MAX: u64 = 4096;

/// Source addresses the requests come from, 127.0.0.16 and up, so that policies that look at the
/// client see many.
const SOURCES: u64 = 64;

/// What the clients saw so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    pub answered: u64,
    pub failed: u64,
    /// Of the last seconds; `None` when nothing was answered.
    pub p50: Option<Duration>,
    pub p99: Option<Duration>,
}

/// The running load. Dropped, it ends.
#[derive(Debug)]
pub struct Traffic {
    tally: Arc<Tally>,
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Tally {
    rate: AtomicU32,
    answered: AtomicU64,
    failed: AtomicU64,
    /// When each answer was complete, and how long it took; oldest first.
    latencies: Mutex<VecDeque<(Instant, Duration)>>,
}

impl Traffic {
    /// Begins to send requests to `address`.
    pub fn start(address: SocketAddr, rate: u32) -> io::Result<Traffic> {
        let tally = Arc::new(Tally {
            rate: AtomicU32::new(rate),
            answered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            latencies: Mutex::default(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (end, ended) = oneshot::channel();
        let of_thread = tally.clone();
        let thread = thread::Builder::new()
            .name("demo-traffic".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        never = keep_asking(address, of_thread) => match never {},
                        _ = ended => {}
                    }
                });
            })?;
        Ok(Traffic {
            tally,
            end: Some(end),
            thread: Some(thread),
        })
    }

    /// Requests a second.
    pub fn rate(&self) -> u32 {
        self.tally.rate.load(Ordering::Relaxed)
    }

    pub fn set_rate(&self, rate: u32) {
        self.tally.rate.store(rate, Ordering::Relaxed);
    }

    pub fn seen(&self) -> Seen {
        let mut recent = self.tally.recent(Instant::now());
        Seen {
            answered: self.tally.answered.load(Ordering::Relaxed),
            failed: self.tally.failed.load(Ordering::Relaxed),
            p50: percentile(&mut recent, 50),
            p99: percentile(&mut recent, 99),
        }
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Tally {
    fn note(&self, answer: io::Result<()>, began: Instant) {
        if answer.is_err() {
            self.failed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.answered.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let mut latencies = self.latencies();
        if latencies.len() == LATENCIES_MAX {
            latencies.pop_front();
        }
        latencies.push_back((now, now - began));
    }

    fn recent(&self, now: Instant) -> Vec<Duration> {
        let mut latencies = self.latencies();
        while latencies
            .front()
            .is_some_and(|(at, _)| now - *at > LATENCY_WINDOW)
        {
            latencies.pop_front();
        }
        latencies.iter().map(|(_, took)| *took).collect()
    }

    fn latencies(&self) -> MutexGuard<'_, VecDeque<(Instant, Duration)>> {
        self.latencies
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn percentile(latencies: &mut [Duration], percent: usize) -> Option<Duration> {
    let last = latencies.len().checked_sub(1)?;
    Some(*latencies.select_nth_unstable(last * percent / 100).1)
}

/// Dropped, it forgets the requests under way: they count neither as answered nor as failed.
async fn keep_asking(address: SocketAddr, tally: Arc<Tally>) -> std::convert::Infallible {
    let places = Arc::new(Semaphore::new(AT_ONCE_MAX));
    let mut last = Instant::now();
    let (mut due, mut number) = (0.0, 0_u64);
    loop {
        let rate = f64::from(tally.rate.load(Ordering::Relaxed));
        let wait = Duration::try_from_secs_f64((1.0 - due) / rate).unwrap_or(STEP_MAX);
        sleep(wait.clamp(STEP_MIN, STEP_MAX)).await;
        let now = Instant::now();
        due += (now - last).as_secs_f64() * rate;
        // After a pause of the whole machine, the schedule is not caught up with.
        due = due.min(AT_ONCE_MAX as f64);
        last = now;
        while due >= 1.0 {
            due -= 1.0;
            number += 1;
            let Ok(place) = places.clone().try_acquire_owned() else {
                continue;
            };
            let tally = tally.clone();
            tokio::spawn(async move {
                let began = Instant::now();
                let answer = timeout(PATIENCE, ask(address, source(number))).await;
                tally.note(answer.unwrap_or_else(|late| Err(late.into())), began);
                drop(place);
            });
        }
    }
}

fn source(number: u64) -> Ipv4Addr {
    // Below 80: fits.
    Ipv4Addr::new(127, 0, 0, 16 + (number % SOURCES) as u8)
}

/// One request, up to the end of its response. Errors: it was not answered as it should be.
async fn ask(address: SocketAddr, source: Ipv4Addr) -> io::Result<()> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if address.ip() == Ipv4Addr::LOCALHOST {
        // Where only 127.0.0.1 is there, all requests come from it.
        let _ = socket.bind((source, 0).into());
    }
    let mut stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")
        .await?;
    let mut response = Vec::with_capacity(256);
    stream
        .take(RESPONSE_BYTES_MAX)
        .read_to_end(&mut response)
        .await?;
    if response.starts_with(b"HTTP/1.1 200 ") && response.ends_with(b" of this backend\n") {
        Ok(())
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_taken_from_what_was_measured() {
        let mut latencies: Vec<_> = (1..=101).rev().map(Duration::from_millis).collect();
        assert_eq!(
            percentile(&mut latencies, 50),
            Some(Duration::from_millis(51))
        );
        assert_eq!(
            percentile(&mut latencies, 99),
            Some(Duration::from_millis(100))
        );
        assert_eq!(percentile(&mut [], 50), None);
    }
}
