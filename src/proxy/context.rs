//! What a session borrows of its worker.

use std::fmt;
use std::sync::Arc;

use super::route::ProcessCount;
use super::tally::Relayed;
use crate::balance::chance::Chance;
use crate::balance::queue::Wake;
use crate::base::clock::Moment;
use crate::net::poller::Poller;
use crate::observe::access::LineWriter;
use crate::relay::direction::Tools;

/// The worker's things that a session borrows while it acts.
pub struct Context<'a> {
    pub now: Moment,
    /// Its number, from 0.
    pub worker: usize,
    pub poller: &'a Poller,
    pub tools: Tools<'a>,
    pub chance: &'a mut Chance,
    pub log: &'a mut LineWriter,
    pub relayed: &'a Relayed,
    pub process: &'a Arc<ProcessCount>,
    /// Wakes a session of this worker, by the number of its client's [`Token`](crate::net::poller::Token).
    pub bell: &'a Arc<dyn Wake>,
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("now", &self.now)
            .finish_non_exhaustive()
    }
}
