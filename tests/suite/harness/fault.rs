//! A relay that does harm: put between a client and a backend, each direction with its own
//! toxics. The same seed does the same harm.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;
use std::thread;
use std::time::Duration;

use super::peer::Backend;
use super::script::Dice;
use super::sockets::{self, Options};

/// What happens to the bytes of one direction.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Toxics {
    /// Before each piece is passed on.
    pub latency: Duration,
    /// 0 = as much as there is.
    pub bytes_per_second: u64,
    /// Largest piece passed on at once.
    pub piece: usize,
    /// What happens after so many bytes.
    pub after: Option<(u64, Harm)>,
    /// One byte in so many is changed; 0 = none.
    pub corrupt_one_in: u64,
}

/// How a relayed connection is harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Both sides are reset.
    Reset,
    /// The receiver gets a FIN; the sender is read on, into nothing.
    EarlyFin,
    /// Nothing more is read.
    Stall(Duration),
}

impl Default for Toxics {
    fn default() -> Toxics {
        Toxics {
            latency: Duration::ZERO,
            bytes_per_second: 0,
            piece: 64 * 1024,
            after: None,
            corrupt_one_in: 0,
        }
    }
}

impl Toxics {
    /// Some harm or none, as the dice fall; cuts within the first `bytes`.
    pub fn thrown(dice: &mut Dice, bytes: u64) -> Toxics {
        let after = match dice.below(5) {
            0 => Some((dice.below(bytes), Harm::Reset)),
            1 => Some((
                dice.below(bytes),
                Harm::Stall(Duration::from_millis(dice.below(30))),
            )),
            _ => None,
        };
        let piece = [1 + dice.below(2000) as usize, 16 * 1024, 64 * 1024][dice.below(3) as usize];
        let latency = Duration::from_micros([0, 0, dice.below(300)][dice.below(3) as usize]);
        Toxics {
            latency,
            piece,
            after,
            ..Toxics::default()
        }
    }
}

/// Stands in front of `target`; `toxics` gives those of each connection by its number, towards
/// the target and back.
pub fn relay(
    target: SocketAddr,
    toxics: impl Fn(u64) -> [Toxics; 2] + Send + Sync + 'static,
) -> Backend {
    let count = AtomicU64::new(0);
    Backend::serving(sockets::listen_with(Options::default()), move |near| {
        let Ok(far) = TcpStream::connect(target) else {
            return sockets::reset_on_close(near);
        };
        let number = count.fetch_add(1, SeqCst);
        let [out, back] = toxics(number);
        let (near, far) = (Arc::new(near), Arc::new(far));
        let (from, to) = (far.clone(), near.clone());
        let other = thread::spawn(move || pass(&from, &to, back, number ^ u64::MAX));
        pass(&near, &far, out, number);
        let _ = other.join();
    })
}

/// Passes bytes on until the end of the input or the harm.
fn pass(mut from: &TcpStream, mut to: &TcpStream, toxics: Toxics, seed: u64) {
    let mut dice = Dice::new(seed);
    let mut buffer = vec![0; toxics.piece.max(1)];
    let mut passed = 0;
    let mut harm = toxics.after;
    loop {
        let room = harm.map_or(u64::MAX, |(at, _)| at - passed);
        if let Some((_, harmful)) = harm.filter(|_| room == 0) {
            match harmful {
                Harm::Reset => {
                    sockets::reset(from);
                    sockets::reset(to);
                    return;
                }
                Harm::EarlyFin => {
                    let _ = to.shutdown(Shutdown::Write);
                    let _ = std::io::copy(&mut from, &mut std::io::sink());
                    return;
                }
                Harm::Stall(time) => thread::sleep(time),
            }
            harm = None;
            continue;
        }
        let most = usize::try_from(room)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        let count = match from.read(&mut buffer[..most]) {
            // The kernel tells of a reset once; the other direction may have been told.
            Ok(0) if from.peer_addr().is_err() => return sockets::reset(to),
            Ok(0) => break,
            Ok(count) => count,
            // A broken side breaks the other.
            Err(_) => return sockets::reset(to),
        };
        if toxics.corrupt_one_in > 0 {
            for byte in &mut buffer[..count] {
                if dice.below(toxics.corrupt_one_in) == 0 {
                    *byte ^= 0x55;
                }
            }
        }
        if !toxics.latency.is_zero() {
            thread::sleep(toxics.latency);
        }
        if let Some(micros) = (count as u64 * 1_000_000).checked_div(toxics.bytes_per_second) {
            thread::sleep(Duration::from_micros(micros));
        }
        if to.write_all(&buffer[..count]).is_err() {
            return sockets::reset(from);
        }
        passed += count as u64;
    }
    let _ = to.shutdown(Shutdown::Write);
}
