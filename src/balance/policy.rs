//! The policies: each chooses one of a tier's backends for one client.

pub(super) mod bound;
mod draw;
mod failover;
mod ip_hash;
mod least_connections;
mod least_latency;
mod lowest_cost;
mod random;
mod round_robin;
mod ties;
mod two_choices;

use std::ops::Range;
use std::sync::Arc;

use super::chance::Chance;
use super::key::HashSeed;
use super::live::{Class, Hot, Word};
use super::share::Shares;
use super::slots::{Slots, begins_chunk};
use crate::base::clock::Moment;
use bound::Bound;
pub use lowest_cost::Cost;

/// Which policy a pool uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyKind {
    /// Smooth weighted round robin; `weighted_round_robin` is another spelling.
    RoundRobin,
    LeastConnections,
    /// Maglev over the client's key, with bounded loads.
    IpHash,
    Random,
    TwoChoices,
    /// Peak-sensitive average of the time to the first byte, times connections.
    LeastLatency,
    /// The cheapest; round robin among equals.
    LowestCost,
    /// The listed order.
    Failover,
}

impl PolicyKind {
    pub const ALL: [PolicyKind; 8] = [
        PolicyKind::RoundRobin,
        PolicyKind::LeastConnections,
        PolicyKind::IpHash,
        PolicyKind::Random,
        PolicyKind::TwoChoices,
        PolicyKind::LeastLatency,
        PolicyKind::LowestCost,
        PolicyKind::Failover,
    ];

    /// The word of the configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            PolicyKind::RoundRobin => "round_robin",
            PolicyKind::LeastConnections => "least_connections",
            PolicyKind::IpHash => "ip_hash",
            PolicyKind::Random => "random",
            PolicyKind::TwoChoices => "two_choices",
            PolicyKind::LeastLatency => "least_latency",
            PolicyKind::LowestCost => "lowest_cost",
            PolicyKind::Failover => "failover",
        }
    }
}

impl std::str::FromStr for PolicyKind {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = PolicyKind::ALL
            .into_iter()
            .find(|kind| kind.as_str() == word);
        known.ok_or_else(|| format!("{word:?} is not a policy"))
    }
}

impl std::fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy with what it worked out beforehand for one tier.
#[derive(Debug)]
pub(super) enum Policy {
    RoundRobin(round_robin::RoundRobin),
    LeastConnections,
    IpHash(Arc<ip_hash::Maglev>),
    Random(draw::Draw),
    TwoChoices(draw::Draw),
    LeastLatency,
    LowestCost(lowest_cost::LowestCost),
    Failover,
}

impl Policy {
    /// Takes over what `memory` holds of the same tier before a reload. The seats come in the
    /// listed order, with their names; the policy may have them sit in another one.
    pub(super) fn new(
        kind: PolicyKind,
        seats: &mut [Candidate<'_>],
        seed: &HashSeed,
        memory: &Memory,
    ) -> Self {
        match kind {
            PolicyKind::IpHash => ip_hash::by_name(seats),
            PolicyKind::LowestCost => lowest_cost::by_cost(seats),
            _ => {}
        }
        let names: Vec<&str> = seats.iter().map(|candidate| candidate.name).collect();
        let weights: Vec<u16> = seats.iter().map(|one| one.seat.weight).collect();
        match kind {
            PolicyKind::RoundRobin => {
                let turn = Arc::clone(&memory.turn);
                Policy::RoundRobin(round_robin::RoundRobin::new(&weights, turn))
            }
            PolicyKind::LeastConnections => Policy::LeastConnections,
            PolicyKind::IpHash => {
                let known = memory
                    .maglev
                    .as_ref()
                    .filter(|it| it.is_of(&names, &weights, seed));
                Policy::IpHash(
                    known
                        .cloned()
                        .unwrap_or_else(|| Arc::new(ip_hash::Maglev::new(&names, &weights, seed))),
                )
            }
            PolicyKind::Random => Policy::Random(draw::Draw::new(&weights)),
            PolicyKind::TwoChoices => Policy::TwoChoices(draw::Draw::new(&weights)),
            PolicyKind::LeastLatency => Policy::LeastLatency,
            PolicyKind::LowestCost => {
                Policy::LowestCost(lowest_cost::LowestCost::new(seats, &memory.turns))
            }
            PolicyKind::Failover => Policy::Failover,
        }
    }

    /// The index of the seat to take; `None` when nobody in the field may be chosen.
    ///
    /// `key` is the client's hash; only [`PolicyKind::IpHash`] looks at it.
    #[inline]
    pub(super) fn pick(&self, field: &Field<'_>, key: u64, chance: &mut Chance) -> Option<usize> {
        match self {
            Policy::RoundRobin(round_robin) => round_robin.pick(field, chance),
            Policy::LeastConnections => least_connections::pick(field, chance),
            Policy::IpHash(maglev) => maglev.pick(field, key),
            Policy::Random(draw) => random::pick(draw, field, chance),
            Policy::TwoChoices(draw) => two_choices::pick(draw, field, chance),
            Policy::LeastLatency => least_latency::pick(field, chance),
            Policy::LowestCost(lowest_cost) => lowest_cost.pick(field, chance),
            Policy::Failover => failover::pick(field, chance),
        }
    }

    /// One that chooses as this one would now, and remembers what it chose for itself alone.
    pub(super) fn twin(&self) -> Self {
        match self {
            Policy::RoundRobin(round_robin) => Policy::RoundRobin(round_robin.twin()),
            Policy::LeastConnections => Policy::LeastConnections,
            Policy::IpHash(maglev) => Policy::IpHash(Arc::clone(maglev)),
            Policy::Random(draw) => Policy::Random(draw.clone()),
            Policy::TwoChoices(draw) => Policy::TwoChoices(draw.clone()),
            Policy::LeastLatency => Policy::LeastLatency,
            Policy::LowestCost(lowest_cost) => Policy::LowestCost(lowest_cost.twin()),
            Policy::Failover => Policy::Failover,
        }
    }

    /// What the same tier should find again after a reload.
    pub(super) fn memory(&self) -> Memory {
        match self {
            Policy::RoundRobin(round_robin) => Memory {
                turn: Arc::clone(round_robin.turn()),
                ..Memory::default()
            },
            Policy::IpHash(maglev) => Memory {
                maglev: Some(Arc::clone(maglev)),
                ..Memory::default()
            },
            Policy::LowestCost(lowest_cost) => Memory {
                turns: lowest_cost.turns(),
                ..Memory::default()
            },
            _ => Memory::default(),
        }
    }
}

/// What a tier's policy hands on over a reload.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    turn: Arc<round_robin::Turn>,
    maglev: Option<Arc<ip_hash::Maglev>>,
    turns: lowest_cost::Turns,
}

/// A seat with what only the making of a policy looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) name: &'a str,
    pub(super) cost: Cost,
    pub(super) seat: Seat,
}

/// One backend of a tier, as the policies see it. Twelve bytes, so that a scan of 1000 reads
/// 12 KiB besides their hot words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seat {
    pub(super) slot: u32,
    /// Connections at once; [`u32::MAX`] = no limit.
    pub(super) limit: u32,
    /// Never 0: a backend of weight 0 has no seat.
    pub(super) weight: u16,
    /// Index of the member in its pool.
    pub(super) member: u16,
}

/// Neighbouring seats whose slots are neighbours too, in one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// Index of the first seat.
    first: u32,
    /// Slot of the first seat.
    slot: u32,
    len: u32,
}

impl Run {
    /// Few, because a pool finds its slots in the listed order when it is new.
    pub(super) fn all(seats: &[Seat]) -> Box<[Run]> {
        let mut runs: Vec<Run> = Vec::new();
        for (first, &Seat { slot, .. }) in (0..).zip(seats) {
            match runs.last_mut() {
                Some(run) if slot == run.slot + run.len && !begins_chunk(slot) => run.len += 1,
                _ => runs.push(Run {
                    first,
                    slot,
                    len: 1,
                }),
            }
        }
        runs.into()
    }
}

/// Who may be chosen now: the seats of one tier that are of one class, not full, and not tried by
/// this client yet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field<'a> {
    pub(super) seats: &'a [Seat],
    pub(super) runs: &'a [Run],
    pub(super) slots: &'a Slots,
    /// Slots, not members: a client that waits through a reload still knows whom it tried.
    pub(super) tried: &'a [u32],
    pub(super) class: Class,
    pub(super) now: Moment,
    /// `None`: everyone has all of its weight.
    pub(super) shares: Option<Shares>,
    /// For [`PolicyKind::IpHash`] only.
    pub(super) bound: Option<Bound<'a>>,
}

impl<'a> Field<'a> {
    fn len(&self) -> usize {
        self.seats.len()
    }

    /// Some of the seats, which are counted from 0 then.
    fn part(&self, seats: Range<usize>) -> Field<'a> {
        Field {
            seats: &self.seats[seats],
            runs: &[],
            ..*self
        }
    }

    #[inline]
    fn has(&self, seat: usize) -> bool {
        self.word(seat).is_some()
    }

    /// What is known of a seat's backend, if it may be chosen.
    #[inline]
    fn word(&self, seat: usize) -> Option<Word> {
        let seat = &self.seats[seat];
        let word = self.slots.hot(seat.slot).load();
        self.admits(seat, word).then_some(word)
    }

    /// The load of a seat that may be chosen.
    #[inline]
    fn load(&self, seat: usize) -> Option<Load> {
        let word = self.word(seat)?;
        Some(Load::new(
            word.active(),
            self.units_of(&self.seats[seat], word),
        ))
    }

    /// Whether a seat may be chosen and is within the bound on its load.
    #[inline]
    fn has_bound(&self, seat: usize) -> bool {
        let Some(word) = self.word(seat) else {
            return false;
        };
        self.bound.is_none_or(|bound| {
            let weight = u64::from(self.seats[seat].weight) * u64::from(word.percent());
            bound.admits(word.active(), weight)
        })
    }

    /// Whether a seat that was drawn by its configured weight is taken, going by the share of it
    /// that the backend has: `draw` says which unit of so many it is to be.
    #[inline]
    fn takes(&self, seat: usize, draw: impl FnOnce(u32) -> u32) -> bool {
        self.has(seat)
            && self
                .shares
                .is_none_or(|shares| draw(shares.largest()) < self.share(&shares, seat))
    }

    fn share(&self, shares: &Shares, seat: usize) -> u32 {
        let slot = self.seats[seat].slot;
        let word = self.slots.hot(slot).load();
        shares.of(word, || self.slots.counters(slot), self.now)
    }

    /// Where a seat is in its slow start.
    fn ramp_percent(&self, seat: usize) -> u32 {
        let slot = self.seats[seat].slot;
        let word = self.slots.hot(slot).load();
        self.shares.map_or(100, |shares| {
            shares.ramp_percent(word, || self.slots.counters(slot), self.now)
        })
    }

    /// The weight that counts now, in a unit that is the same for the whole field.
    #[inline]
    fn units_of(&self, seat: &Seat, word: Word) -> u64 {
        let weight = u64::from(seat.weight);
        match self.shares {
            None => weight,
            Some(shares) => {
                let counters = || self.slots.counters(seat.slot);
                weight * u64::from(shares.of(word, counters, self.now))
            }
        }
    }

    /// Whether a seat may be chosen, going by what was read of its backend.
    #[inline]
    fn admits(&self, &Seat { slot, limit, .. }: &Seat, word: Word) -> bool {
        let counters = || self.slots.counters(slot);
        word.admits(self.class, limit, counters, self.now) && !self.has_tried(slot)
    }

    /// All seats in order, by stretches whose hot words lie side by side: index of the first seat,
    /// hot words, seats.
    fn runs(&self) -> impl Iterator<Item = (usize, &[Hot], &[Seat])> {
        self.runs.iter().map(|run| {
            let (first, len) = (run.first as usize, run.len as usize);
            (
                first,
                self.slots.run(run.slot, len),
                &self.seats[first..first + len],
            )
        })
    }

    #[cold]
    pub(super) fn has_room(&self) -> bool {
        (0..self.len()).any(|seat| self.has(seat))
    }

    /// Whether there is somebody who may be chosen, full or not.
    #[cold]
    pub(super) fn has_anybody(&self) -> bool {
        self.seats.iter().any(|&seat| {
            let roomy = Seat {
                limit: u32::MAX,
                ..seat
            };
            self.admits(&roomy, self.slots.hot(seat.slot).load())
        })
    }

    #[inline]
    fn has_tried(&self, slot: u32) -> bool {
        !self.tried.is_empty() && self.is_among_tried(slot)
    }

    #[cold]
    #[inline(never)] // Only retries come here; inlined it would take registers from the scans.
    fn is_among_tried(&self, slot: u32) -> bool {
        self.tried.contains(&slot)
    }

    /// Chooses among exactly those that may be chosen, but not `except`: adds up their weights and
    /// lets `point` say which unit of the sum it is to be. Slow, and right however few are left:
    /// who is out does not shift the others' shares.
    #[cold]
    fn by_weight(&self, except: Option<usize>, point: impl FnOnce(u64) -> u64) -> Option<usize> {
        let eligible =
            || (0..self.len()).filter(|&seat| Some(seat) != except && self.has_bound(seat));
        let total = eligible().map(|seat| self.units(seat)).sum();
        if total == 0 {
            return None;
        }
        let mut left = point(total);
        debug_assert!(left < total);
        let mut last = None;
        for seat in eligible() {
            let units = self.units(seat);
            if left < units {
                return Some(seat);
            }
            left -= units;
            last = Some(seat);
        }
        // Some went while we counted.
        last
    }

    fn units(&self, seat: usize) -> u64 {
        let seat = &self.seats[seat];
        self.units_of(seat, self.slots.hot(seat.slot).load())
    }

    /// Takes the seat, if it may still be chosen.
    #[inline]
    pub(super) fn occupy(&self, seat: usize) -> bool {
        let Seat {
            slot,
            limit,
            weight,
            ..
        } = self.seats[seat];
        debug_assert_ne!(weight, 0);
        !self.has_tried(slot)
            && self
                .slots
                .hot(slot)
                .occupy(self.class, limit, self.slots.counters(slot), self.now)
    }
}

/// The unit of `total` at which a fraction of 2⁻⁶⁴ units points.
fn unit_at(fraction: u64, total: u64) -> u64 {
    ((u128::from(fraction) * u128::from(total)) >> 64) as u64
}

/// How a backend is loaded for its weight: the connections it would have with one more, for each
/// unit of weight. Counting the one more makes weights matter among idle backends.
#[derive(Clone, Copy, Debug)]
struct Load {
    next: u64,
    weight: u64,
}

impl Load {
    /// More than any backend's.
    const MAX: Load = Load { next: 1, weight: 0 };

    /// Weights in units of [`Field::units_of`].
    fn new(active: u32, weight: u64) -> Self {
        Load {
            next: u64::from(active) + 1,
            weight,
        }
    }

    /// Compares the quotients without dividing: 2³² × 2¹⁶ × 25 600 fits 64 bits.
    #[inline]
    fn cmp(self, other: Load) -> std::cmp::Ordering {
        (self.next * other.weight).cmp(&(other.next * self.weight))
    }
}
