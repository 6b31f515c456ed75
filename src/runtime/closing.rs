//! A worker's part in ending sessions early: which ones, and when.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use crate::balance::pool::{Pool, Record};
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::base::drain::Curve;
use crate::proxy::session::Standing;

/// Whose sessions.
#[derive(Clone, Debug)]
pub enum Scope {
    All,
    /// Those of one backend, by its live record: also those that began before a reload. Keeps the
    /// pool, and with it the record.
    Backend(Arc<Pool<Endpoint>>, usize),
}

/// Sessions that are to end, worked off by every worker for its own.
#[derive(Clone, Debug)]
pub struct Order {
    pub id: u64,
    pub scope: Scope,
    pub plan: Plan,
    /// Why, in a word for the access log.
    pub detail: &'static str,
    /// Closed by all workers so far.
    pub closed: Arc<AtomicU32>,
}

#[derive(Clone, Debug)]
pub enum Plan {
    /// No more than the curve allows, the most idle first.
    Curve(Curve),
    /// Some of the idle ones, as many as all workers together have permits for.
    Some(Arc<AtomicU32>),
}

/// A session that has said and heard nothing for so long, and owes no answer, is idle.
const IDLE_AFTER: Duration = Duration::from_secs(1);

/// How often the curve is compared with what is left. Each look passes over every session.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Sessions closed in one look, so that those that stay are not kept waiting.
const CLOSED_AT_ONCE_MAX: usize = 256;

/// The orders a worker has.
#[derive(Debug, Default)]
pub struct Closings {
    orders: Vec<(Order, Option<u32>)>,
    look_at: Option<Moment>,
}

impl Closings {
    pub fn add(&mut self, order: Order, now: Moment) {
        self.orders.push((order, None));
        self.look_at = Some(now);
    }

    pub fn cancel(&mut self, id: u64) {
        self.orders.retain(|(order, _)| order.id != id);
        if self.orders.is_empty() {
            self.look_at = None;
        }
    }

    /// When [`Closings::chosen`] should be asked next.
    pub fn look_at(&self) -> Option<Moment> {
        self.look_at
    }

    /// The sessions to close now, by number, each with the reason; `sessions` are all there are.
    /// They are passed over once, however many orders there are.
    pub fn chosen<'a>(
        &mut self,
        sessions: impl Iterator<Item = (u32, Standing<'a>)>,
        now: Moment,
    ) -> Vec<(u32, &'static str)> {
        let mut of_all = Vec::new();
        let mut of_backend: HashMap<Record, Vec<usize>> = HashMap::new();
        for (place, (order, _)) in self.orders.iter().enumerate() {
            match &order.scope {
                Scope::All => of_all.push(place),
                Scope::Backend(pool, index) => {
                    of_backend
                        .entry(pool.record(*index))
                        .or_default()
                        .push(place);
                }
            }
        }
        let mut found: Vec<Found> = Vec::new();
        found.resize_with(self.orders.len(), Found::default);
        for (number, standing) in sessions {
            let of_backend = of_backend.get(&standing.lease.record());
            for &place in of_backend.into_iter().flatten().chain(&of_all) {
                found[place].add(number, &standing, now);
            }
        }
        let mut chosen = Vec::new();
        for ((order, initial), found) in self.orders.iter_mut().zip(found) {
            let before = chosen.len();
            order.choose(found, initial, now, &mut chosen);
            order
                .closed
                .fetch_add((chosen.len() - before) as u32, Relaxed);
        }
        self.orders
            .retain(|(order, _)| matches!(order.plan, Plan::Curve(_)));
        self.look_at = if self.orders.is_empty() {
            None
        } else if chosen.len() >= CLOSED_AT_ONCE_MAX {
            Some(now)
        } else {
            Some(now + LOOK_EVERY)
        };
        chosen
    }
}

/// The sessions of one order: when each last moved, and its number.
#[derive(Default)]
struct Found {
    idle: Vec<(Moment, u32)>,
    busy: Vec<(Moment, u32)>,
}

impl Found {
    fn add(&mut self, number: u32, standing: &Standing<'_>, now: Moment) {
        let is_idle = !standing.awaits_answer && now.since(standing.moved_at) >= IDLE_AFTER;
        let list = if is_idle {
            &mut self.idle
        } else {
            &mut self.busy
        };
        list.push((standing.moved_at, number));
    }
}

impl Order {
    /// Appends the sessions to close, the one that moved longest ago first.
    fn choose(
        &self,
        found: Found,
        initial: &mut Option<u32>,
        now: Moment,
        chosen: &mut Vec<(u32, &'static str)>,
    ) {
        let named = |&(_, number): &(Moment, u32)| (number, self.detail);
        let Found { mut idle, mut busy } = found;
        let left = (idle.len() + busy.len()) as u32;
        idle.sort_unstable();
        match &self.plan {
            Plan::Curve(curve) => {
                let initial = *initial.get_or_insert(left);
                let surplus = left.saturating_sub(curve.allowed(initial, now)) as usize;
                let surplus = surplus.min(CLOSED_AT_ONCE_MAX);
                chosen.extend(idle.iter().take(surplus).map(named));
                if !curve.spares_busy(now) && surplus > idle.len() {
                    busy.sort_unstable();
                    let more = busy.iter().take(surplus - idle.len());
                    chosen.extend(more.map(named));
                }
            }
            Plan::Some(permits) => {
                for session in idle.iter().take(CLOSED_AT_ONCE_MAX) {
                    let permit = permits.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1));
                    if permit.is_err() {
                        break;
                    }
                    chosen.push(named(session));
                }
            }
        }
    }
}
