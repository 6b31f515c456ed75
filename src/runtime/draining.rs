//! Which backends are to have no sessions any more, whatever took them out, and how far each has
//! come with it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::closing::{self, Order, Scope};
use super::shared::{Message, Shared};
use crate::admin::state::{Cause, Leaving, Progress};
use crate::balance::backend::State;
use crate::balance::pool::{Pool, Record};
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::base::drain::Curve;
use crate::proxy::route::Upstream;

/// The sessions of a backend that went down are of no use to anybody; spread over so long, their
/// clients do not come back all in one instant.
const DOWN_SPREAD: Duration = Duration::from_secs(1);

/// The word of the access log.
fn detail(cause: Cause) -> &'static str {
    match cause {
        Cause::Drain => "backend_drain",
        Cause::Removed => "backend_removed",
        Cause::Down => "backend_down",
    }
}

/// A backend as one plan has it.
#[derive(Clone, Debug)]
struct Seat {
    upstream: Arc<Upstream>,
    index: usize,
}

#[derive(Debug)]
struct Running {
    seat: Seat,
    cause: Cause,
    curve: Curve,
    initial: u32,
    order: u64,
    closed: Arc<AtomicU32>,
}

/// Compared with the plan again and again, so that it does not matter what took a backend out: a
/// command, a reload, discovery, an agent or a probe.
#[derive(Debug, Default)]
pub struct Draining {
    running: HashMap<Record, Running>,
    /// Backends that are in the plan no more and may have sessions still.
    removed: Vec<Seat>,
    orders: u64,
}

impl Draining {
    /// To be told of every plan that follows another one.
    pub fn replanned(&mut self, before: &[Arc<Upstream>], after: &[Arc<Upstream>]) {
        let known: HashSet<Record> = after.iter().flat_map(|one| records(&one.pool)).collect();
        self.removed
            .retain(|seat| !known.contains(&seat.upstream.pool.record(seat.index)));
        for upstream in before {
            for (index, record) in records(&upstream.pool).enumerate() {
                if !known.contains(&record) && upstream.pool.live(index).active() > 0 {
                    let upstream = upstream.clone();
                    self.removed.push(Seat { upstream, index });
                }
            }
        }
    }

    /// Orders what is to be closed, takes back what is not any more.
    pub fn round(&mut self, plan: &[Arc<Upstream>], shared: &Shared, now: Moment) {
        self.removed
            .retain(|seat| seat.upstream.pool.live(seat.index).active() > 0);
        let mut wanted: HashMap<Record, (Seat, Cause)> = HashMap::new();
        for upstream in plan {
            for index in 0..upstream.pool.members().len() {
                if let Some(cause) = cause(upstream, index, now) {
                    let upstream = upstream.clone();
                    let record = upstream.pool.record(index);
                    wanted.insert(record, (Seat { upstream, index }, cause));
                }
            }
        }
        for seat in &self.removed {
            let record = seat.upstream.pool.record(seat.index);
            wanted.insert(record, (seat.clone(), Cause::Removed));
        }
        self.running.retain(|record, running| {
            let goes_on = wanted.get(record).map(|(_, cause)| *cause) == Some(running.cause);
            if !goes_on {
                running.end(shared);
            }
            goes_on
        });
        for (record, (seat, cause)) in wanted {
            if !self.running.contains_key(&record) {
                self.begin(record, seat, cause, shared, now);
            }
        }
    }

    fn begin(&mut self, record: Record, seat: Seat, cause: Cause, shared: &Shared, now: Moment) {
        let time = match cause {
            Cause::Down => DOWN_SPREAD,
            Cause::Drain | Cause::Removed => seat.upstream.drain.deadline,
        };
        let active = seat.upstream.pool.live(seat.index).active();
        if time.is_zero() || active == 0 {
            return;
        }
        let curve = Curve::over(now, time);
        self.orders += 1;
        let running = Running {
            curve,
            cause,
            initial: active,
            order: self.orders,
            closed: Arc::default(),
            seat,
        };
        let (pool, backend) = running.names();
        let (cause, sessions) = (detail(cause), active);
        tracing::info!(pool, backend, cause, sessions, within = ?time, "sessions are to end");
        running.order_closing(shared);
        self.running.insert(record, running);
    }

    /// Of a backend of the present plan.
    pub fn progress(&self, pool: &Pool<Endpoint>, index: usize, now: Moment) -> Option<Progress> {
        let running = self.running.get(&pool.record(index))?;
        Some(running.progress(now))
    }

    /// Backends of a pool name that are in the pool no more, and how far each has come.
    pub fn leaving(&self, pool: &str, now: Moment) -> Vec<Leaving> {
        let mut leaving: Vec<Leaving> = self
            .running
            .values()
            .filter(|running| running.cause == Cause::Removed && running.names().0 == pool)
            .map(|running| Leaving {
                name: running.names().1.to_owned(),
                progress: running.progress(now),
            })
            .collect();
        leaving.sort_by(|a, b| a.name.cmp(&b.name));
        leaving
    }
}

impl Running {
    fn names(&self) -> (&str, &str) {
        let pool = &self.seat.upstream.pool;
        (pool.name(), &pool.members()[self.seat.index].name)
    }

    fn order_closing(&self, shared: &Shared) {
        let order = Order {
            id: self.order,
            scope: Scope::Backend(self.seat.upstream.pool.clone(), self.seat.index),
            plan: closing::Plan::Curve(self.curve),
            detail: detail(self.cause),
            closed: self.closed.clone(),
        };
        for desk in &shared.workers {
            desk.send(Message::Close(order.clone()));
        }
    }

    fn end(&self, shared: &Shared) {
        for desk in &shared.workers {
            desk.send(Message::CancelClose(self.order));
        }
        let (pool, backend) = self.names();
        let closed = self.closed.load(Relaxed);
        let left = self.seat.upstream.pool.live(self.seat.index).active();
        let by_themselves = self.initial.saturating_sub(closed + left);
        let cause = detail(self.cause);
        if left == 0 {
            tracing::info!(
                pool,
                backend,
                cause,
                closed,
                by_themselves,
                "all sessions have ended"
            );
        } else {
            tracing::info!(pool, backend, cause, closed, left, "sessions may stay");
        }
    }

    fn progress(&self, now: Moment) -> Progress {
        Progress {
            cause: self.cause,
            initial: self.initial,
            active: self.seat.upstream.pool.live(self.seat.index).active(),
            closed: self.closed.load(Relaxed),
            ends_in: self.curve.end.since(now),
        }
    }
}

/// Why the member is to have no sessions; `None` when it may keep them or has none.
fn cause(upstream: &Upstream, index: usize, now: Moment) -> Option<Cause> {
    let pool = &upstream.pool;
    if pool.live(index).active() == 0 {
        return None;
    }
    match pool.state(index, now) {
        State::Drain | State::Maintenance => Some(Cause::Drain),
        State::Down if upstream.drain.closes_on_down => Some(Cause::Down),
        _ => None,
    }
}

fn records(pool: &Pool<Endpoint>) -> impl Iterator<Item = Record> + '_ {
    (0..pool.members().len()).map(|index| pool.record(index))
}
