//! A pool: its members, the policy that chooses among them, and when traffic ejects one.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::backend::{Availability, State, Verdict, Wish, availability};
use super::budget::Budget;
use super::health::Ejection;
use super::key::HashSeed;
pub use super::lease::{Candidates, Lease, TRIES_MAX};
use super::live::Live;
use super::policy::{Policy, PolicyKind, Run, Seat};
use super::queue::Queue;
use super::slots::Slots;
use super::table::Table;
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
    pub ejection: Ejection,
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
    policy: PolicyKind,
    ejection: Ejection,
    members: Box<[Member<T>]>,
    /// Slot of each member.
    member_slots: Box<[u32]>,
    pub(super) slots: Slots,
    /// By priority; those of weight 0 are in none.
    pub(super) tiers: Box<[Tier]>,
    pub(super) table: Arc<Table>,
    /// [`u32::MAX`] = no limit.
    pub(super) limit: u32,
    /// Until then (in microseconds) as many members are ejected as may be.
    ejections_full_until: AtomicU64,
}

/// Members of one priority and weights above 0, and the policy made for them.
#[derive(Debug)]
pub(super) struct Tier {
    priority: u16,
    pub(super) seats: Box<[Seat]>,
    pub(super) runs: Box<[Run]>,
    pub(super) policy: Policy,
}

impl<T> Pool<T> {
    /// Builds the pool over what `table` knows of its members; from now on this pool counts as the
    /// table's newest. Costs some milliseconds with [`PolicyKind::IpHash`], unless the pool before
    /// had the same members and weights.
    ///
    /// # Panics
    ///
    /// If there are more than [`MEMBERS_MAX`] members.
    pub fn new(spec: PoolSpec<T>, table: Arc<Table>) -> Pool<T> {
        let PoolSpec {
            name,
            policy,
            ejection,
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
        Pool {
            name,
            policy,
            ejection,
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
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn policy(&self) -> PolicyKind {
        self.policy
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
            self.members[index].weight,
        )
    }

    /// Whether the member may take a new connection, its limit left aside.
    pub fn availability(&self, index: usize, now: Moment) -> Availability {
        let live = self.live(index);
        availability(
            live.verdict(),
            live.wish(),
            live.ejected(now),
            self.members[index].weight,
        )
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

    /// For the probes.
    pub fn set_verdict(&self, index: usize, verdict: Verdict) {
        self.live(index).hot.set_verdict(verdict);
        self.queue().released();
    }

    /// For the operator.
    pub fn set_wish(&self, index: usize, wish: Wish) {
        self.live(index).hot.set_wish(wish);
        self.queue().released();
    }

    /// Counts a failed connect, which may be the one that ejects the member.
    pub(super) fn connect_failed(&self, index: usize, now: Moment) {
        let live = self.live(index);
        live.counters.connect_failures_total.fetch_add(1, Relaxed);
        live.counters.failures_in_row.fetch_add(1, Relaxed);
        let full_until = Moment::from_micros(self.ejections_full_until.load(Relaxed));
        if self.failed_enough(live) && now >= full_until && !live.ejected(now) {
            self.eject(index, now);
        }
    }

    /// Still true when an ejection ends without a success: then one more failure is enough.
    fn failed_enough(&self, live: Live<'_>) -> bool {
        let enough = self.ejection.connect_failures;
        enough > 0 && live.connect_failures_in_row() >= enough
    }

    /// Ejects the member, if that leaves no more than the allowed share ejected. All of it happens
    /// under one lock, so the share is exact and one of several threads counts the ejection.
    #[cold]
    fn eject(&self, index: usize, now: Moment) {
        let most = self.ejection.ejected_max(self.members.len());
        if most == 0 {
            return;
        }
        let _ejecting = self.table.ejecting();
        let mut ejected = 0;
        let mut first_end = Moment::from_micros(u64::MAX);
        for other in self.member_slots.iter().map(|&slot| self.slots.live(slot)) {
            if let Some(until) = other.ejected_until(now) {
                ejected += 1;
                first_end = first_end.min(until);
            } else if other.hot.load().ejected() {
                other.hot.set_ejected(false);
            }
        }
        let live = self.live(index);
        if ejected >= most {
            self.ejections_full_until
                .store(first_end.as_micros(), Relaxed);
        } else if self.failed_enough(live) && !live.ejected(now) {
            let counters = live.counters;
            let quiet = now.since(counters.ejected_until());
            let nth = self
                .ejection
                .after(counters.ejections_in_row.load(Relaxed), quiet);
            let until = now + self.ejection.length(nth);
            counters.ejections_in_row.store(nth, Relaxed);
            counters.ejected_until.store(until.as_micros(), Relaxed);
            counters.ejections_total.fetch_add(1, Relaxed);
            live.hot.set_ejected(true);
        }
    }

    /// Takes off the flag of an ejection that has ended, so that picks need not look at its end.
    #[cold]
    pub(super) fn clear_ended_ejection(&self, index: usize, now: Moment) {
        let _ejecting = self.table.ejecting();
        let live = self.live(index);
        if !live.ejected(now) {
            live.hot.set_ejected(false);
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
    let mut by_priority: BTreeMap<u16, Vec<(&str, Seat)>> = BTreeMap::new();
    for (index, (member, &slot)) in members.iter().zip(slots).enumerate() {
        let &Member {
            weight,
            priority,
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
            by_priority
                .entry(priority)
                .or_default()
                .push((&member.name, seat));
        }
    }
    let tier = |(priority, mut seats): (u16, Vec<(&str, Seat)>)| {
        let policy = Policy::new(policy, &mut seats, seed, &table.memory(priority));
        let seats: Box<[Seat]> = seats.into_iter().map(|(_, seat)| seat).collect();
        Tier {
            priority,
            runs: Run::all(&seats),
            seats,
            policy,
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
