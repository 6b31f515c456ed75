//! How many connections one source has, and how fast it opens them: exact over all workers, in
//! bounded memory.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::key::HashSeed;
use super::networks;
use crate::base::clock::Moment;

/// What one source may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Connections at once; 0 = no limit.
    pub connections: u32,
    pub rate: Option<Rate>,
    pub prefixes: Prefixes,
}

/// New connections over time: a bucket of `burst` tokens, of which `count` come back in each
/// `per`. A connection takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// 1..=[`Rate::COUNT_MAX`].
    pub count: u32,
    /// A millisecond up to [`Rate::PER_MAX`].
    pub per: Duration,
    /// 1..=[`Rate::COUNT_MAX`].
    pub burst: u32,
}

/// How many leading bits of its address make a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefixes {
    /// At most 32.
    pub v4: u8,
    /// At most 128.
    pub v6: u8,
}

impl SourceLimits {
    /// Whether there is a limit at all.
    pub fn limit_anything(&self) -> bool {
        self.connections > 0 || self.rate.is_some()
    }
}

impl Rate {
    pub const COUNT_MAX: u32 = 1_000_000;
    pub const PER_MAX: Duration = Duration::from_secs(86_400);

    /// Parts that a token is counted in: `count` of them come back each microsecond, so that
    /// nothing is ever rounded.
    fn token(&self) -> u64 {
        self.per.as_micros() as u64
    }

    fn bucket(&self) -> u64 {
        u64::from(self.burst) * self.token()
    }
}

/// A full bucket in parts, and twice that, fit 64 bits.
const _: () = assert!(Rate::PER_MAX.as_micros() * (Rate::COUNT_MAX as u128) < 1 << 62);

/// Which limit a source has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Excess {
    Connections,
    Rate,
}

impl Excess {
    /// One word for the access log.
    pub const fn as_str(self) -> &'static str {
        match self {
            Excess::Connections => "connections",
            Excess::Rate => "rate",
        }
    }
}

/// Tables the sources are spread over, so that workers seldom wait for each other. By a keyed
/// hash, so that nobody can aim at one of them.
const SHARDS: usize = 64;

/// Sources without a connection that a shard remembers for the tokens they lack, 131 072 in all.
/// One that has opened a single connection is worth remembering for `per / count`: at "50/1s"
/// so many are 6.5 million new sources a second. Measured: 150 bytes each (a place in a hash
/// table, and one in a tree), so 20 MB where there is a `rate` and a flood, and next to none else.
const IDLE_MAX: usize = 2048;

/// Sources that are forgotten on the way when another arrives: more than arrive.
const FORGOTTEN_AT_ONCE: usize = 4;

/// The sources of one listener. They stay over a reload that changes the limits.
///
/// What is remembered: sources with a connection, no more than there are connections; and sources
/// whose bucket is not full, 2048 in each shard, of which the one goes first whose bucket
/// is full first.
#[derive(Debug)]
pub struct Sources {
    prefixes: Prefixes,
    seed: HashSeed,
    shards: Box<[Mutex<Shard>]>,
}

impl Sources {
    /// `seed` should be nobody's to guess.
    pub fn new(limits: SourceLimits, seed: HashSeed) -> Self {
        Sources {
            prefixes: limits.prefixes,
            seed,
            shards: (0..SHARDS).map(|_| Shard::new(limits).into()).collect(),
        }
    }

    /// What makes a source; it cannot change, because counts could not be told apart again.
    pub fn prefixes(&self) -> Prefixes {
        self.prefixes
    }

    /// Counts go on under other limits: tokens that a source lacks it lacks still.
    pub fn set_limits(&self, limits: SourceLimits, now: Moment) {
        debug_assert_eq!(limits.prefixes, self.prefixes, "prefixes do not change");
        for shard in &self.shards {
            lock(shard).set_limits(limits, now);
        }
    }

    /// Counts one more connection of a client's source, unless that would be more than it may
    /// have. A refused one changes nothing: it takes no token either, so that a source that
    /// keeps trying gets the rate it is due.
    pub fn enter(self: &Arc<Self>, client: IpAddr, now: Moment) -> Result<Stay, Excess> {
        let key = self.key(client);
        lock(self.shard(key)).enter(key, now)?;
        Ok(Stay {
            sources: self.clone(),
            key,
        })
    }

    /// Connections of a client's source.
    pub fn active(&self, client: IpAddr) -> u32 {
        let key = self.key(client);
        let shard = lock(self.shard(key));
        shard.sources.get(&key).map_or(0, |source| source.active)
    }

    /// Sources that are remembered, with a connection or without.
    pub fn remembered(&self) -> usize {
        let shards = self.shards.iter();
        shards.map(|shard| lock(shard).sources.len()).sum()
    }

    fn key(&self, client: IpAddr) -> Key {
        let client = client.to_canonical();
        let bits = match client {
            IpAddr::V4(_) => self.prefixes.v4,
            IpAddr::V6(_) => self.prefixes.v6,
        };
        match networks::first(client, bits) {
            IpAddr::V4(first) => first.to_ipv6_mapped(),
            IpAddr::V6(first) => first,
        }
    }

    fn shard(&self, key: Key) -> &Mutex<Shard> {
        &self.shards[self.seed.source_ip(key.into()) as usize % SHARDS]
    }
}

/// First address of a source. Those of IPv4 are mapped: no IPv6 client's begins as they do.
type Key = Ipv6Addr;

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Nothing within panics half-way, bugs aside: a wrong count is better than no service.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection of a source; not one any more when this is dropped.
#[derive(Debug)]
pub struct Stay {
    sources: Arc<Sources>,
    key: Key,
}

impl Stay {
    /// Ends it as if it had not begun: its token is given back too.
    pub fn undo(self) {
        lock(self.sources.shard(self.key)).give_back_token(self.key);
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        lock(self.sources.shard(self.key)).leave(self.key);
    }
}

#[derive(Debug)]
struct Shard {
    limits: SourceLimits,
    sources: HashMap<Key, Source>,
    /// Those without a connection, by the moment their bucket is full and they can be forgotten.
    idle: BTreeSet<(Moment, Key)>,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    active: u32,
    bucket: Bucket,
}

/// What a bucket lacked at a moment, in parts of a token ([`Rate::token`]).
#[derive(Clone, Copy, Debug)]
struct Bucket {
    lacks: u64,
    at: Moment,
}

impl Bucket {
    fn full(now: Moment) -> Self {
        Bucket { lacks: 0, at: now }
    }

    /// Workers read the clock apart from each other: time that went back is time that stood.
    fn fill(&mut self, rate: &Rate, now: Moment) {
        let micros = now.since(self.at).as_micros() as u64;
        let came_back = micros.saturating_mul(rate.count.into());
        self.lacks = self.lacks.saturating_sub(came_back);
        self.at = self.at.max(now);
    }

    fn take(&mut self, rate: &Rate) -> Result<(), Excess> {
        let lacks = self.lacks + rate.token();
        if lacks > rate.bucket() {
            return Err(Excess::Rate);
        }
        self.lacks = lacks;
        Ok(())
    }

    fn full_at(&self, rate: Option<&Rate>) -> Moment {
        let count = rate.map_or(1, |rate| rate.count);
        self.at + Duration::from_micros(self.lacks.div_ceil(count.into()))
    }
}

impl Shard {
    fn new(limits: SourceLimits) -> Self {
        Shard {
            limits,
            sources: HashMap::new(),
            idle: BTreeSet::new(),
        }
    }

    fn enter(&mut self, key: Key, now: Moment) -> Result<(), Excess> {
        self.forget_some(now);
        let known = self.sources.get(&key).copied();
        let mut source = known.unwrap_or(Source {
            active: 0,
            bucket: Bucket::full(now),
        });
        if self.limits.connections > 0 && source.active >= self.limits.connections {
            return Err(Excess::Connections);
        }
        if let Some(rate) = &self.limits.rate {
            source.bucket.fill(rate, now);
            source.bucket.take(rate)?;
        }
        if let Some(known) = known.filter(|known| known.active == 0) {
            self.idle.remove(&(self.full_at(&known), key));
        }
        source.active += 1;
        self.sources.insert(key, source);
        Ok(())
    }

    fn leave(&mut self, key: Key) {
        let Some(source) = self.sources.get_mut(&key) else {
            debug_assert!(false, "a source with a connection is not forgotten");
            return;
        };
        source.active -= 1;
        if source.active > 0 {
            return;
        }
        let source = *source;
        if source.bucket.lacks == 0 {
            self.sources.remove(&key);
            return;
        }
        self.idle.insert((self.full_at(&source), key));
        if self.idle.len() > IDLE_MAX {
            self.forget_first();
        }
    }

    fn give_back_token(&mut self, key: Key) {
        if let (Some(source), Some(rate)) = (self.sources.get_mut(&key), &self.limits.rate) {
            source.bucket.lacks = source.bucket.lacks.saturating_sub(rate.token());
        }
    }

    fn full_at(&self, source: &Source) -> Moment {
        source.bucket.full_at(self.limits.rate.as_ref())
    }

    /// A full bucket says no more than none.
    fn forget_some(&mut self, now: Moment) {
        for _ in 0..FORGOTTEN_AT_ONCE {
            match self.idle.first() {
                Some((full_at, _)) if *full_at <= now => self.forget_first(),
                _ => return,
            }
        }
    }

    fn forget_first(&mut self) {
        if let Some((_, key)) = self.idle.pop_first() {
            self.sources.remove(&key);
        }
    }

    fn set_limits(&mut self, limits: SourceLimits, now: Moment) {
        let (old, new) = (self.limits.rate, limits.rate);
        self.limits = limits;
        if old == new {
            return;
        }
        for source in self.sources.values_mut() {
            let bucket = &mut source.bucket;
            bucket.lacks = match (&old, &new) {
                (Some(old), Some(new)) => {
                    bucket.fill(old, now);
                    let lacks = u128::from(bucket.lacks) * u128::from(new.token());
                    let lacks = lacks.div_ceil(u128::from(old.token()));
                    lacks.min(new.bucket().into()) as u64
                }
                _ => 0,
            };
        }
        self.sources
            .retain(|_, source| source.active > 0 || source.bucket.lacks > 0);
        let idle = self.sources.iter().filter(|(_, source)| source.active == 0);
        let by_moment = idle.map(|(key, source)| (source.bucket.full_at(new.as_ref()), *key));
        self.idle = by_moment.collect();
    }
}

#[cfg(test)]
mod tests;
