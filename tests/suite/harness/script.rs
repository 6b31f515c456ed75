//! What a scripted peer does: one list of acts for what it sends, one for what it takes.

use std::sync::LazyLock;
use std::time::Duration;

/// A step of the sending half. Bytes come from the peer's own stream, so that a test can tell
/// what was lost, doubled or swapped by where it stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Send {
    Bytes(u64),
    /// In pieces of this size, each in a segment of its own, with a gap between them.
    Sliced {
        bytes: u64,
        piece: usize,
        gap: Duration,
    },
    /// Bytes and a FIN in one segment.
    BytesAndFin(u64),
    Pause(Duration),
    Fin,
    /// A reset, at once.
    Reset,
    /// Until the other half has taken this many bytes in all.
    AwaitTaken(u64),
    /// Until the other half has seen the end, of whichever kind.
    AwaitEnd,
    /// Until the connection is reset.
    AwaitReset,
}

/// A step of the taking half.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Take {
    Bytes(u64),
    /// Bytes in reads of this size, with a gap between them.
    Paced {
        bytes: u64,
        piece: usize,
        gap: Duration,
    },
    Pause(Duration),
    ToEnd,
    /// Reads nothing until the connection is reset, then what is left.
    Nothing,
}

/// Both halves. The socket is closed when both lists are done, with or without unread input.
#[derive(Clone, Debug, Default)]
pub struct Script {
    pub send: Vec<Send>,
    pub take: Vec<Take>,
}

impl Script {
    pub fn new(send: impl Into<Vec<Send>>, take: impl Into<Vec<Take>>) -> Script {
        Script {
            send: send.into(),
            take: take.into(),
        }
    }

    /// What it sends if nothing stops it.
    pub fn bytes(&self) -> u64 {
        let counts = self.send.iter().map(|act| match *act {
            Send::Bytes(bytes) | Send::BytesAndFin(bytes) | Send::Sliced { bytes, .. } => bytes,
            _ => 0,
        });
        counts.sum()
    }
}

/// Which of the two streams bytes belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    OfClient,
    OfBackend,
}

impl Stream {
    pub fn other(self) -> Stream {
        match self {
            Stream::OfClient => Stream::OfBackend,
            Stream::OfBackend => Stream::OfClient,
        }
    }

    /// Bytes of the stream from `position` on, at most `most`, at least one.
    pub fn bytes_at(self, position: u64, most: usize) -> &'static [u8] {
        let shift = match self {
            Stream::OfClient => 0,
            Stream::OfBackend => 524_287,
        };
        let from = ((position + shift) % PATTERN_BYTES as u64) as usize;
        let to = PATTERN_BYTES.min(from.saturating_add(most));
        &PATTERN[from..to]
    }

    /// Whether `bytes` are what stands in the stream at `position`.
    pub fn holds(self, mut position: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let want = self.bytes_at(position, bytes.len());
            if bytes[..want.len()] != *want {
                return false;
            }
            position += want.len() as u64;
            bytes = &bytes[want.len()..];
        }
        true
    }
}

/// A prime, so that a shift by any buffer size is seen.
const PATTERN_BYTES: usize = 1_048_573;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut chance = Dice::new(0x1bd);
    (0..PATTERN_BYTES).map(|_| chance.next() as u8).collect()
});

/// Seeded chance: the same seed throws the same.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

#[test]
fn a_stream_knows_its_own_bytes_at_every_place_and_no_others() {
    let own = Stream::OfClient.bytes_at(1_048_570, 10);
    assert_eq!(own.len(), 3);
    assert!(Stream::OfClient.holds(1_048_570, own));
    assert!(!Stream::OfClient.holds(1_048_571, own));
    assert!(!Stream::OfBackend.holds(1_048_570, own));
}
