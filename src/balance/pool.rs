//! A pool: its members and the policy that chooses among them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::backend::{Availability, State, availability};
use super::budget::Budget;
use super::ejection::Ejection;
use super::key::HashSeed;
pub use super::lease::{Candidates, Lease, TRIES_MAX};
use super::live::{Class, Live};
use super::policy::bound::Bound;
use super::policy::{Candidate, Cost, Field, Policy, PolicyKind, Run, Seat};
use super::queue::Queue;
use super::share::Shares;
use super::slots::Slots;
use super::table::Table;
pub use super::traffic::SessionEnd;
use super::watch::Watch;
use crate::base::clock::Moment;

/// One member of a pool; `T` is what it is for the floor above and never looked at here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<T> {
    /// Unique within the pool.
    pub name: String,
    /// Address as text. With the name it says which backend this is: another address is another
    /// backend, whose live record begins anew.
    pub identity: String,
    pub target: T,
    /// 0 = takes no new connection, whatever the policy.
    pub weight: u16,
    /// Lower first.
    pub priority: u16,
    /// For [`PolicyKind::LowestCost`].
    pub cost: Cost,
    /// Exact over all threads; 0 = no limit.
    pub max_connections: u32,
}

/// What a pool is told of a member is what it tells of it.
pub type MemberSpec<T> = Member<T>;

/// What a pool is built from.
#[derive(Clone, Debug)]
pub struct PoolSpec<T> {
    pub name: String,
    pub policy: PolicyKind,
    /// For [`PolicyKind::IpHash`]: the most that a backend may have, in percent of the mean by
    /// weight, before a client's next choice is taken; 0 = no bound, else above 100.
    pub hash_balance_factor: u16,
    pub ejection: Ejection,
    /// How long a backend that was out, or joins, takes until it has all of its weight; zero = it
    /// has it at once.
    pub slow_start: Duration,
    /// Below this percent of backends available, those known to be down are used too; 0 = never.
    pub panic_threshold: u8,
    /// What a failure counts as with [`PolicyKind::LeastLatency`]: as long as a client could have
    /// waited for nothing.
    pub failure_latency: Duration,
    /// Whether probes will speak of the members. If not, they are taken to be up.
    pub probed: bool,
    /// `global.hash_seed`.
    pub seed: String,
    /// Leases of all members together, exact over all threads and reloads; 0 = no limit.
    pub max_connections: u32,
    /// At most [`MEMBERS_MAX`].
    pub members: Vec<MemberSpec<T>>,
}

/// Tells one live record from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Record {
    table: usize,
    slot: u32,
}

/// Members are counted in 16 bits throughout the policies.
pub const MEMBERS_MAX: usize = u16::MAX as usize;

/// A pool as one snapshot has it: members and weights never change, what is known of each member
/// lives in the [`Table`].
pub struct Pool<T> {
    name: String,
    pub(super) policy: PolicyKind,
    hash_balance_factor: u16,
    pub(super) ejection: Ejection,
    pub(super) slow_start: Duration,
    pub(super) failure_latency: Duration,
    members: Box<[Member<T>]>,
    /// Slot of each member.
    pub(super) member_slots: Box<[u32]>,
    pub(super) slots: Slots,
    /// By priority; those of weight 0 are in none.
    pub(super) tiers: Box<[Tier]>,
    pub(super) table: Arc<Table>,
    /// [`u32::MAX`] = no limit.
    pub(super) limit: u32,
    /// Until then (in microseconds) as many members are ejected as may be.
    pub(super) ejections_full_until: AtomicU64,
    /// `None` where nobody looks at it.
    pub(super) watch: Option<Watch>,
}

/// Members of one priority and weights above 0, and the policy made for them.
#[derive(Debug)]
pub(super) struct Tier {
    priority: u16,
    pub(super) seats: Box<[Seat]>,
    pub(super) runs: Box<[Run]>,
    pub(super) policy: Policy,
    /// Kept by the pool's [`Watch`]: weights, times their percent, of those who share the load.
    pub(super) weight: AtomicU64,
}

impl Tier {
    fn twin(&self) -> Tier {
        Tier {
            priority: self.priority,
            seats: self.seats.clone(),
            runs: self.runs.clone(),
            policy: self.policy.twin(),
            weight: AtomicU64::new(self.weight.load(Relaxed)),
        }
    }
}

/// What a pick finds besides the single backends.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    now: Moment,
    shares: Option<Shares>,
    pub(super) panic: bool,
    /// Leases of the whole pool, with the one to be given out.
    held: u32,
}

impl<T> Pool<T> {
    /// Builds the pool over what `table` knows of its members; from now on this pool counts as the
    /// table's newest. Members that the pool before did not have begin their slow start `now`, if
    /// no probe has to reach them first. Costs some milliseconds with [`PolicyKind::IpHash`],
    /// unless the pool before had the same members and weights.
    ///
    /// # Panics
    ///
    /// If there are more than [`MEMBERS_MAX`] members.
    pub fn new(spec: PoolSpec<T>, table: Arc<Table>, now: Moment) -> Pool<T> {
        let PoolSpec {
            name,
            policy,
            hash_balance_factor,
            ejection,
            slow_start,
            panic_threshold,
            failure_latency,
            probed,
            seed,
            max_connections,
            members,
        } = spec;
        assert!(
            members.len() <= MEMBERS_MAX,
            "pool {name} has too many members"
        );
        debug_assert!(
            names_are_unique(&members),
            "pool {name} has two members of one name"
        );
        let identities = members
            .iter()
            .map(|member| (&*member.name, &*member.identity));
        let (slots, member_slots) = table.enter(identities, probed);
        let tiers = tiers(
            policy,
            &members,
            &member_slots,
            &HashSeed::new(&seed),
            &table,
        );
        table.remember(
            tiers
                .iter()
                .map(|tier| (tier.priority, tier.policy.memory()))
                .collect(),
        );
        let bounded = policy == PolicyKind::IpHash && hash_balance_factor > 0;
        let pool = Pool {
            name,
            policy,
            hash_balance_factor: if bounded { hash_balance_factor } else { 0 },
            ejection,
            slow_start,
            failure_latency,
            members: members.into(),
            member_slots: member_slots.into(),
            slots,
            tiers,
            table,
            limit: if max_connections == 0 {
                u32::MAX
            } else {
                max_connections
            },
            ejections_full_until: AtomicU64::new(0),
            watch: (bounded || panic_threshold > 0).then(|| Watch::new(panic_threshold)),
        };
        pool.settle(now);
        pool
    }

    /// A pool of its own in which everything is as it is here now. Whatever is done with it, this
    /// one does not notice, nor does anybody who waits here. Costs a copy of all records.
    pub fn twin(&self) -> Pool<T>
    where
        T: Clone,
    {
        let (table, slots) = {
            let _changing = self.table.changing();
            self.table.twin()
        };
        table.stay(self.member_slots.iter().copied());
        Pool {
            name: self.name.clone(),
            policy: self.policy,
            hash_balance_factor: self.hash_balance_factor,
            ejection: self.ejection,
            slow_start: self.slow_start,
            failure_latency: self.failure_latency,
            members: self.members.clone(),
            member_slots: self.member_slots.clone(),
            slots,
            tiers: self.tiers.iter().map(Tier::twin).collect(),
            table,
            limit: self.limit,
            ejections_full_until: AtomicU64::new(self.ejections_full_until.load(Relaxed)),
            watch: self.watch.as_ref().map(Watch::twin),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn policy(&self) -> PolicyKind {
        self.policy
    }

    /// Leases of all members together; 0 = no limit.
    pub fn max_connections(&self) -> u32 {
        match self.limit {
            u32::MAX => 0,
            limit => limit,
        }
    }

    pub fn members(&self) -> &[Member<T>] {
        &self.members
    }

    /// The live record of the member at `index`, as of all accessors below.
    ///
    /// # Panics
    ///
    /// If there is no such member; so do all accessors below.
    pub fn live(&self, index: usize) -> Live<'_> {
        self.slots.live(self.member_slots[index])
    }

    /// Which live record the member has: pools of one name that follow each other have the same
    /// for the same backend. Means nothing once the pool is gone.
    pub fn record(&self, index: usize) -> Record {
        Record {
            table: Arc::as_ptr(&self.table) as usize,
            slot: self.member_slots[index],
        }
    }

    /// The word an operator sees.
    pub fn state(&self, index: usize, now: Moment) -> State {
        let live = self.live(index);
        State::of(
            live.verdict(),
            live.wish(),
            live.ejected(now),
            self.ramp_percent(index, now) < 100,
            self.weight_now(index),
        )
    }

    /// How much of its weight the member has in its slow start; 100 when it is in none.
    pub fn ramp_percent(&self, index: usize, now: Moment) -> u32 {
        let live = self.live(index);
        let shares = Shares::new(self.slow_start, 100);
        shares.ramp_percent(live.hot.load(), || live.counters, now)
    }

    /// Whether the member may take a new connection, its limit and a panic left aside.
    pub fn availability(&self, index: usize, now: Moment) -> Availability {
        let live = self.live(index);
        availability(
            live.verdict(),
            live.wish(),
            live.ejected(now),
            self.weight_now(index),
        )
    }

    /// 0 where it was taken at runtime, else as configured.
    fn weight_now(&self, index: usize) -> u16 {
        match self.live(index).weight_percent() {
            0 => 0,
            _ => self.members[index].weight,
        }
    }

    /// Leases held of any member, past and present ones of this pool's name.
    pub fn active(&self) -> u32 {
        self.table.active()
    }

    /// Clients that wait until a member has room.
    pub fn queue(&self) -> &Arc<Queue> {
        self.table.queue()
    }

    pub fn budget(&self) -> &Budget {
        self.table.budget()
    }

    /// Clients that the bound on the load (`hash_balance_factor`) led to another backend than
    /// their hash; over all pools of this name.
    pub fn spills_total(&self) -> u64 {
        self.table.spills().load(Relaxed)
    }

    /// `held`: leases, with the one to be given out.
    #[inline]
    pub(super) fn view(&self, held: u32, now: Moment) -> View {
        View {
            now,
            shares: self.table.shares(self.slow_start, now),
            panic: self.in_panic(now),
            held,
        }
    }

    /// Who of a tier may be chosen.
    #[inline]
    pub(super) fn field<'a>(
        &'a self,
        tier: &'a Tier,
        class: Class,
        tried: &'a [u32],
        view: &View,
    ) -> Field<'a> {
        let bound = match self.hash_balance_factor {
            0 => None,
            factor => {
                let weight = tier.weight.load(Relaxed);
                Some(Bound::new(factor, view.held, weight, self.table.spills()))
            }
        };
        Field {
            seats: &tier.seats,
            runs: &tier.runs,
            slots: &self.slots,
            tried,
            class,
            now: view.now,
            shares: view.shares,
            bound,
        }
    }
}

fn tiers<T>(
    policy: PolicyKind,
    members: &[Member<T>],
    slots: &[u32],
    seed: &HashSeed,
    table: &Table,
) -> Box<[Tier]> {
    let mut by_priority: BTreeMap<u16, Vec<Candidate<'_>>> = BTreeMap::new();
    for (index, (member, &slot)) in members.iter().zip(slots).enumerate() {
        let &Member {
            weight,
            priority,
            cost,
            max_connections,
            ..
        } = member;
        if weight > 0 {
            let limit = if max_connections == 0 {
                u32::MAX
            } else {
                max_connections
            };
            let seat = Seat {
                slot,
                limit,
                weight,
                member: index as u16,
            };
            by_priority.entry(priority).or_default().push(Candidate {
                name: &member.name,
                cost,
                seat,
            });
        }
    }
    let tier = |(priority, mut seats): (u16, Vec<Candidate<'_>>)| {
        let policy = Policy::new(policy, &mut seats, seed, &table.memory(priority));
        let seats: Box<[Seat]> = seats.into_iter().map(|one| one.seat).collect();
        Tier {
            priority,
            runs: Run::all(&seats),
            seats,
            policy,
            weight: AtomicU64::new(0),
        }
    };
    by_priority.into_iter().map(tier).collect()
}

fn names_are_unique<T>(members: &[Member<T>]) -> bool {
    let names: BTreeSet<&str> = members.iter().map(|member| &*member.name).collect();
    names.len() == members.len()
}

/// The pool's slots may go to other backends from now on.
impl<T> Drop for Pool<T> {
    fn drop(&mut self) {
        self.table.leave(self.member_slots.iter().copied());
    }
}

impl<T> fmt::Debug for Pool<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("name", &self.name)
            .field("policy", &self.policy)
            .field("members", &self.members.len())
            .finish_non_exhaustive()
    }
}
