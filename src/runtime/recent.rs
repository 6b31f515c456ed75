//! What the backends did in the last seconds: differences to marks that are set anew now and then.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::admin::state::{Percentiles, Recent};
use crate::balance::pool::{Pool, Record};
use crate::balance::timings::Histograms;
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::observe::histogram::Snapshot;
use crate::proxy::route::Upstream;

/// Between two marks; what is shown is of one to two of it.
const MARK_EVERY: Duration = Duration::from_secs(10);

/// The two latest marks of every backend that was ever used.
#[derive(Debug)]
pub struct Recents {
    marks: HashMap<Record, [Mark; 2]>,
    /// When the marks were set.
    set_at: [Moment; 2],
}

/// What was counted of a backend at one moment.
#[derive(Clone, Debug, Default)]
struct Mark {
    connections: u64,
    timings: Arc<Histograms>,
}

impl Recents {
    pub fn new(now: Moment) -> Self {
        Recents {
            marks: HashMap::new(),
            set_at: [now, now],
        }
    }

    /// To be called every so often; sets new marks when it is time.
    pub fn round(&mut self, plan: &[Arc<Upstream>], now: Moment) {
        if now.since(self.set_at[1]) < MARK_EVERY {
            return;
        }
        self.set_at = [self.set_at[1], now];
        let mut before = std::mem::take(&mut self.marks);
        for upstream in plan {
            let pool = &upstream.pool;
            for index in 0..pool.members().len() {
                let live = pool.live(index);
                let known = before.remove(&pool.record(index));
                if known.is_none() && live.connections_total() == 0 {
                    continue;
                }
                let [_, older] = known.unwrap_or_default();
                let newer = older.renewed(pool, index);
                self.marks.insert(pool.record(index), [older, newer]);
            }
        }
    }

    /// Of a backend; `None` when nothing happened.
    pub fn of(&self, pool: &Pool<Endpoint>, index: usize, now: Moment) -> Option<Recent> {
        let marks = self.marks.get(&pool.record(index));
        let nothing = Mark::default();
        let mark = marks.map_or(&nothing, |[older, _]| older);
        let live = pool.live(index);
        // Sessions that end count too, which may have begun long ago.
        let (timings, before) = (live.histograms(), &mark.timings);
        let connections = live.connections_total().saturating_sub(mark.connections);
        let session = timings.session.since(&before.session);
        if connections == 0 && session.is_empty() {
            return None;
        }
        let window = now.since(self.set_at[0]);
        Some(Recent {
            window,
            connections_per_s: connections as f64 / window.as_secs_f64().max(1.0),
            connect: percentiles(&timings.connect.since(&before.connect)),
            first_byte: percentiles(&timings.first_byte.since(&before.first_byte)),
            session: percentiles(&session),
            queue: percentiles(&timings.queue.since(&before.queue)),
        })
    }
}

impl Mark {
    /// The same histograms, where nothing was recorded since.
    fn renewed(&self, pool: &Pool<Endpoint>, index: usize) -> Mark {
        let live = pool.live(index);
        let timings = live.histograms();
        Mark {
            connections: live.connections_total(),
            timings: match timings == *self.timings {
                true => self.timings.clone(),
                false => Arc::new(timings),
            },
        }
    }
}

fn percentiles(of: &Snapshot) -> Option<Percentiles> {
    Some(Percentiles {
        p50: of.percentile(50.0)?,
        p99: of.percentile(99.0)?,
    })
}
