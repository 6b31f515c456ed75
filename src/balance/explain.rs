//! Why a client would get the backend it would get now.
//!
//! No policy is written down twice for it: the pool's [twin](Pool::twin), whose records are its
//! own, is asked for one candidate after the other by the code that serves clients.

use std::sync::Arc;

use super::backend::{Verdict, Wish};
use super::chance::Chance;
use super::lease::Candidates;
use super::pool::Pool;
use crate::base::clock::Moment;

/// What would become of one client that came now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Members in the order in which they would be tried, if each failed in turn without that
    /// changing anything; at most [`TRIES_MAX`](super::lease::TRIES_MAX).
    pub order: Vec<usize>,
    /// For each member.
    pub reasons: Vec<Reason>,
    /// Too few are available, so those known to be down are used too.
    pub panic: bool,
    /// The pool has as many connections as it may have.
    pub pool_full: bool,
    /// Others wait already, and come first.
    pub behind_others: bool,
    /// Nobody is taken only because all who could be are full, so waiting may help.
    pub all_full: bool,
    /// The bound on the load (`hash_balance_factor`) led elsewhere than the hash.
    pub spilled: bool,
    /// Something was drawn: for another client it may be another backend.
    pub by_chance: bool,
}

impl Explanation {
    /// Who would be taken.
    pub fn taken(&self) -> Option<usize> {
        self.order.first().copied()
    }
}

/// Why a backend was taken, or was not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Taken,
    /// It could have been taken, and the policy preferred another one.
    Next,
    Down,
    /// No probe has reached it yet: only when nobody else is left.
    Unchecked,
    Drain,
    Maintenance,
    Ejected,
    /// It has as many connections as it may have.
    Full,
    /// It does not answer connects just now: only when nobody else is left.
    Suspected,
    WeightZero,
    /// One of a better priority is taken.
    LowerTier,
    /// It could be taken, but the tries end before it.
    NotReached,
}

impl Reason {
    pub const ALL: [Reason; 12] = [
        Reason::Taken,
        Reason::Next,
        Reason::Down,
        Reason::Unchecked,
        Reason::Drain,
        Reason::Maintenance,
        Reason::Ejected,
        Reason::Full,
        Reason::Suspected,
        Reason::WeightZero,
        Reason::LowerTier,
        Reason::NotReached,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Reason::Taken => "taken",
            Reason::Next => "next",
            Reason::Down => "down",
            Reason::Unchecked => "unchecked",
            Reason::Drain => "drain",
            Reason::Maintenance => "maintenance",
            Reason::Ejected => "ejected",
            Reason::Full => "full",
            Reason::Suspected => "suspected",
            Reason::WeightZero => "weight_zero",
            Reason::LowerTier => "lower_tier",
            Reason::NotReached => "not_reached",
        }
    }
}

impl std::str::FromStr for Reason {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        let known = Reason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == word);
        known.ok_or_else(|| format!("{word:?} is not a reason"))
    }
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl<T: Clone> Pool<T> {
    /// What a client with this key would be given now; changes nothing. A client whose worker
    /// draws as `chance` does gets exactly that. Costs a copy of all records.
    pub fn explain(&self, key: u64, now: Moment, chance: &mut Chance) -> Explanation {
        let twin = Arc::new(self.twin());
        let panic = twin.in_panic(now);
        let mut candidates = Candidates::new(key);
        let before = chance.clone();
        let first = candidates.next(&twin, now, chance).map(|it| it.index());
        let by_chance = first.is_some() && *chance != before;
        let spilled = twin.spills_total() > 0;
        let pool_full = twin.active() >= twin.limit;
        let all_full = first.is_none() && candidates.found_all_full(&twin, now);
        let further = std::iter::from_fn(|| Some(candidates.next(&twin, now, chance)?.index()));
        let order: Vec<usize> = first.into_iter().chain(further).collect();
        let reasons = (0..twin.members().len())
            .map(|index| twin.reason(index, &order, panic, now))
            .collect();
        Explanation {
            order,
            reasons,
            panic,
            pool_full,
            behind_others: self.queue().is_occupied(),
            all_full,
            spilled,
            by_chance,
        }
    }

    fn reason(&self, index: usize, order: &[usize], panic: bool, now: Moment) -> Reason {
        let (member, live) = (&self.members()[index], self.live(index));
        if order.first() == Some(&index) {
            return Reason::Taken;
        }
        if !order.contains(&index)
            && let Some(reason) = self.obstacle(index, panic, now)
        {
            return reason;
        }
        let Some(&taken) = order.first() else {
            return Reason::NotReached;
        };
        let (best, taken) = (&self.members()[taken], self.live(taken));
        match (live.verdict(), live.hot.load().suspected()) {
            (_, true) if !panic && !taken.hot.load().suspected() => Reason::Suspected,
            (Verdict::Unchecked, _) if !panic && taken.verdict() != Verdict::Unchecked => {
                Reason::Unchecked
            }
            _ if member.priority > best.priority => Reason::LowerTier,
            _ if !order.contains(&index) => Reason::NotReached,
            _ => Reason::Next,
        }
    }

    /// What alone keeps a member out.
    fn obstacle(&self, index: usize, panic: bool, now: Moment) -> Option<Reason> {
        let (member, live) = (&self.members()[index], self.live(index));
        let full = member.max_connections != 0 && live.active() >= member.max_connections;
        match live.wish() {
            Wish::Maintenance => return Some(Reason::Maintenance),
            Wish::Drain => return Some(Reason::Drain),
            Wish::Ready => {}
        }
        if member.weight == 0 || live.weight_percent() == 0 {
            return Some(Reason::WeightZero);
        }
        if !panic && live.verdict() == Verdict::Down {
            return Some(Reason::Down);
        }
        if !panic && live.ejected(now) {
            return Some(Reason::Ejected);
        }
        full.then_some(Reason::Full)
    }
}
