//! Moves idle sessions to a backend that joined or recovered, where the pool asks for it: those
//! of the fullest backends are closed at a capped rate, and their clients connect again.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::closing::{Order, Plan, Scope};
use super::shared::{Message, Shared};
use crate::balance::backend::Availability;
use crate::balance::pool::Record;
use crate::balance::rebalance::{Share, surplus};
use crate::base::clock::Moment;
use crate::proxy::route::Upstream;

/// How long after a backend came its pool is looked after. Clients that are policy-bound to the
/// old backends would else be closed for ever.
const WINDOW: Duration = Duration::from_secs(300);

const SAVED_MAX: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub struct Rebalancing {
    pools: HashMap<String, Watched>,
}

#[derive(Debug)]
struct Watched {
    available: HashSet<Record>,
    /// Open since a backend came.
    until: Option<Moment>,
    last_round: Moment,
    /// Sessions that may be closed now, in thousandths.
    saved: u64,
    /// What was allowed to the workers in the last round and is not known to be used.
    permits: Vec<Arc<AtomicU32>>,
}

impl Rebalancing {
    pub fn round(&mut self, plan: &[Arc<Upstream>], shared: &Shared, now: Moment) {
        self.pools.retain(|name, _| {
            plan.iter()
                .any(|upstream| upstream.rebalance > 0 && upstream.pool.name() == name)
        });
        for upstream in plan.iter().filter(|upstream| upstream.rebalance > 0) {
            let available = available(upstream, now);
            match self.pools.get_mut(upstream.pool.name()) {
                // Where nothing is known yet, nobody has joined.
                None => {
                    let watched = Watched {
                        available,
                        until: None,
                        last_round: now,
                        saved: 0,
                        permits: Vec::new(),
                    };
                    let name = upstream.pool.name().to_owned();
                    self.pools.insert(name, watched);
                }
                Some(watched) => watched.round(upstream, available, shared, now),
            }
        }
    }
}

impl Watched {
    fn round(
        &mut self,
        upstream: &Upstream,
        available: HashSet<Record>,
        shared: &Shared,
        now: Moment,
    ) {
        if !available.is_subset(&self.available) {
            self.until = Some(now + WINDOW);
        }
        self.available = available;
        let elapsed = now.since(self.last_round).as_millis() as u64;
        self.last_round = now;
        if self.until.is_none_or(|until| now >= until) {
            self.until = None;
            self.permits.clear();
            return;
        }
        let rate = u64::from(upstream.rebalance);
        let unused = self
            .permits
            .drain(..)
            .map(|permits| permits.swap(0, Relaxed));
        let unused: u64 = unused.map(u64::from).sum();
        // What nobody used is not saved up for a burst.
        let most = (rate * SAVED_MAX.as_millis() as u64).max(1000);
        self.saved = (self.saved + rate * elapsed + unused * 1000).min(most);
        for (index, gives) in surplus(&shares(upstream, now)) {
            let gives = gives.min((self.saved / 1000) as u32);
            if gives == 0 {
                break;
            }
            self.saved -= u64::from(gives) * 1000;
            self.order(upstream, index, gives, shared);
        }
    }

    fn order(&mut self, upstream: &Upstream, index: usize, gives: u32, shared: &Shared) {
        let permits = Arc::new(AtomicU32::new(gives));
        self.permits.push(permits.clone());
        let order = Order {
            id: 0,
            scope: Scope::Backend(upstream.pool.clone(), index),
            plan: Plan::Some(permits),
            detail: "rebalance",
            closed: Arc::default(),
        };
        for desk in &shared.workers {
            desk.send(Message::Close(order.clone()));
        }
    }
}

fn available(upstream: &Upstream, now: Moment) -> HashSet<Record> {
    let pool = &upstream.pool;
    (0..pool.members().len())
        .filter(|&index| pool.availability(index, now) == Availability::Available)
        .map(|index| pool.record(index))
        .collect()
}

/// Those of the first tier that has anybody available share all of its sessions.
fn shares(upstream: &Upstream, now: Moment) -> Vec<Share> {
    let pool = &upstream.pool;
    let is_available = |index: usize| pool.availability(index, now) == Availability::Available;
    let members = pool.members().iter().enumerate();
    let tier = members
        .clone()
        .filter(|&(index, _)| is_available(index))
        .map(|(_, member)| member.priority)
        .min();
    members
        .map(|(index, member)| Share {
            active: pool.live(index).active(),
            weight: if Some(member.priority) == tier && is_available(index) {
                u32::from(member.weight)
            } else {
                0
            },
        })
        .collect()
}
