//! What `lbd top` knows: the latest state, rates worked out from the one before, and which backend
//! is selected.

use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::time::Instant;

use crate::admin::ask::BackendId;
use crate::admin::state::{BackendState, State};

/// Looks that a sparkline shows.
pub const HISTORY: usize = 60;

#[derive(Debug)]
pub struct View {
    pub state: State,
    taken_at: Instant,
    /// By pool and backend.
    trends: HashMap<(String, String), Trend>,
    /// New connections each second of the whole process.
    pub all: Trend,
    /// Of the rows of backends.
    selected: usize,
    /// What came of the last key, or why the process does not answer.
    pub message: Option<String>,
    pub is_lost: bool,
}

/// What changes by the second.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trend {
    /// New connections each second, the latest last.
    pub connections: VecDeque<u64>,
    /// Bytes each second.
    pub to_backend: u64,
    pub to_client: u64,
}

impl View {
    pub fn new(state: State, at: Instant) -> View {
        View {
            state,
            taken_at: at,
            trends: HashMap::new(),
            all: Trend::default(),
            selected: 0,
            message: None,
            is_lost: false,
        }
    }

    /// A newer state. After a restart counters begin anew, and rates with them.
    pub fn take(&mut self, newer: State, at: Instant) {
        let seconds = (at - self.taken_at).as_secs_f64().max(0.001);
        let rate =
            |now: u64, before: u64| (now.saturating_sub(before) as f64 / seconds).round() as u64;
        let mut trends = HashMap::new();
        for pool in &newer.pools {
            for backend in &pool.backends {
                let name = (pool.name.clone(), backend.name.clone());
                let before = self.state.pool(&pool.name);
                let before = before.and_then(|pool| pool.backend(&backend.name));
                let mut trend = self.trends.remove(&name).unwrap_or_default();
                if let Some(before) = before {
                    trend.push(rate(backend.total, before.total));
                    trend.to_backend = rate(backend.bytes_to_backend, before.bytes_to_backend);
                    trend.to_client = rate(backend.bytes_to_client, before.bytes_to_client);
                }
                trends.insert(name, trend);
            }
        }
        let total = |state: &State| state.listeners.iter().map(|one| one.total).sum();
        self.all.push(rate(total(&newer), total(&self.state)));
        self.all.to_backend = trends.values().map(|one| one.to_backend).sum();
        self.all.to_client = trends.values().map(|one| one.to_client).sum();
        (self.trends, self.state, self.taken_at) = (trends, newer, at);
        if std::mem::take(&mut self.is_lost) {
            self.message = None;
        }
        self.move_by(0);
    }

    /// The process does not answer.
    pub fn lose(&mut self, why: &impl Display) {
        self.is_lost = true;
        let why = why.to_string();
        let first = why.lines().next().unwrap_or_default();
        self.message = Some(format!("what is shown is old: {first}"));
    }

    pub fn say(&mut self, what: String) {
        self.message = Some(what);
    }

    pub fn move_by(&mut self, rows: isize) {
        let last = self.rows().count().saturating_sub(1);
        self.selected = self.selected.saturating_add_signed(rows).min(last);
    }

    pub fn selected_row(&self) -> usize {
        self.selected
    }

    pub fn selected(&self) -> Option<BackendId> {
        let (pool, backend) = self.rows().nth(self.selected)?;
        Some(BackendId {
            pool: pool.to_owned(),
            backend: backend.name.clone(),
        })
    }

    pub fn trend(&self, pool: &str, backend: &str) -> Trend {
        let name = (pool.to_owned(), backend.to_owned());
        self.trends.get(&name).cloned().unwrap_or_default()
    }

    /// Every backend with its pool.
    fn rows(&self) -> impl Iterator<Item = (&str, &BackendState)> {
        let pools = self.state.pools.iter();
        pools.flat_map(|pool| pool.backends.iter().map(|one| (&*pool.name, one)))
    }
}

impl Trend {
    fn push(&mut self, rate: u64) {
        self.connections.push_back(rate);
        if self.connections.len() > HISTORY {
            self.connections.pop_front();
        }
    }

    pub fn rate(&self) -> u64 {
        self.connections.back().copied().unwrap_or(0)
    }

    /// The latest `width` rates as bars, the highest of them full.
    pub fn bars(&self, width: usize) -> String {
        const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
        let shown = self.connections.iter().rev().take(width);
        let shown: Vec<u64> = shown.copied().collect();
        let most = shown.iter().copied().max().unwrap_or(0).max(1);
        let bar = |rate: &u64| match rate {
            0 => ' ',
            rate => BARS[(rate * 7).div_ceil(most).min(7) as usize],
        };
        shown.iter().rev().map(bar).collect()
    }
}
