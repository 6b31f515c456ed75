//! What changes the state of a pool's backends: probes, operators, and the traffic itself.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::backend::{Verdict, Wish};
use super::latency::Sample;
use super::live::{Live, end_row};
use super::policy::PolicyKind;
use super::pool::Pool;
use crate::base::clock::Moment;
use crate::base::ending::Termination;

/// How a session ended that had a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionEnd {
    /// Who ended it, and how.
    pub termination: Termination,
    /// Time since the backend was connected.
    pub lived: Duration,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
}

impl<T> Pool<T> {
    /// For the probes. A backend that comes up again starts slowly. An ejection is none of their
    /// business: what traffic found a probe may not see, so traffic alone, and time, end it.
    pub fn set_verdict(&self, index: usize, verdict: Verdict, now: Moment) {
        let _changing = self.table.changing();
        let live = self.live(index);
        let before = live.verdict();
        let joined = live.hot.load().joined();
        if verdict == Verdict::Up && (before == Verdict::Down || joined) {
            self.begin_ramp(live, now);
        }
        live.hot.set_verdict(verdict);
        self.table.changed();
        self.queue().released();
    }

    /// For the operator. A backend that may be used again starts slowly: it lost its connections,
    /// and with them perhaps all that it held ready.
    pub fn set_wish(&self, index: usize, wish: Wish, now: Moment) {
        let _changing = self.table.changing();
        let live = self.live(index);
        if wish == Wish::Ready && live.wish() != Wish::Ready {
            self.begin_ramp(live, now);
        }
        live.hot.set_wish(wish);
        self.table.changed();
        self.queue().released();
    }

    /// Changes what the member's weight counts, until it is changed again: 100 = as configured,
    /// 0 = no new connection; at most 256, which more is taken for.
    ///
    /// Policies that compare loads reckon with the product as if it were the weight. Those that
    /// draw, or take turns, pass a backend over as often as its percent is less than the pool's
    /// largest: shares are exact in the mean, and turns no longer evenly spaced. Of `failover` only
    /// 0 changes the choice.
    pub fn set_weight_percent(&self, index: usize, percent: u16) {
        let _changing = self.table.changing();
        self.live(index).hot.set_percent(percent);
        self.table.settle_shares(self.slow_start);
        self.table.changed();
        self.queue().released();
    }

    /// When the pool is new: its length of slow start applies, and to whom it applies.
    pub(super) fn settle(&self, now: Moment) {
        let _changing = self.table.changing();
        for live in self.member_slots.iter().map(|&slot| self.slots.live(slot)) {
            if live.hot.load().joined() && live.verdict() == Verdict::Unprobed {
                self.begin_ramp(live, now);
            }
        }
        self.table.settle_shares(self.slow_start);
        self.table.changed();
    }

    /// Under the lock of changes.
    fn begin_ramp(&self, live: Live<'_>, now: Moment) {
        let since = match live.ejected_until(now) {
            Some(until) => until,
            None => now,
        };
        self.ramp_from(live, since);
    }

    fn ramp_from(&self, live: Live<'_>, since: Moment) {
        live.hot.set_joined(false);
        if self.slow_start.is_zero() {
            return;
        }
        let counters = live.counters;
        counters.ramp_since.store(since.as_micros(), Relaxed);
        live.hot.set_ramp(true);
        self.table.ramp_until(since + self.slow_start);
    }

    /// The backend accepted, `took` after the connect began.
    pub(super) fn connected(&self, index: usize, now: Moment, took: Duration) {
        let live = self.live(index);
        live.counters.connected();
        self.sample(live, Sample::Connect(took), now);
    }

    /// Counts a failed connect, which may be the one that ejects the member.
    pub(super) fn connect_failed(&self, index: usize, now: Moment, took: Duration) {
        let live = self.live(index);
        live.counters.connect_failures_total.fetch_add(1, Relaxed);
        live.counters.failures_in_row.fetch_add(1, Relaxed);
        let took = took.max(self.failure_latency);
        self.sample(live, Sample::Failure(took), now);
        self.eject_if_due(index, now);
    }

    /// The first byte to a client.
    pub(super) fn first_byte(&self, index: usize, now: Moment, took: Duration) {
        let live = self.live(index);
        end_row(&live.counters.empty_closes_in_row);
        self.sample(live, Sample::FirstByte(took), now);
    }

    /// A session is over, which may be the one that ejects the member.
    pub(super) fn ended(&self, index: usize, now: Moment, end: SessionEnd) {
        let live = self.live(index);
        let rule = &self.ejection;
        let reset = end.termination == Termination::BackendReset;
        let early = end.lived <= rule.early_reset_within;
        let empty = end.bytes_to_client == 0;
        let closed = matches!(
            end.termination,
            Termination::ClientClosed | Termination::BackendClosed
        );
        if reset && early {
            live.counters.early_resets_in_row.fetch_add(1, Relaxed);
        } else if !early || closed && !empty {
            // One that a client broke off early says nothing.
            end_row(&live.counters.early_resets_in_row);
        }
        let empty_close = end.termination == Termination::BackendClosed && empty;
        if empty_close {
            live.counters.empty_closes_in_row.fetch_add(1, Relaxed);
        }
        // Silence is a failure of a backend that is known to answer; of others nobody can tell.
        let silence = matches!(
            end.termination,
            Termination::IdleTimeout | Termination::HalfCloseTimeout
        );
        let failed = reset && (empty || early)
            || silence && empty && end.bytes_to_backend > 0 && live.latency.has_answered();
        if failed {
            self.sample(live, Sample::Failure(self.failure_latency), now);
        }
        if reset && early || empty_close {
            self.eject_if_due(index, now);
        }
    }

    #[inline]
    fn sample(&self, live: Live<'_>, sample: Sample, now: Moment) {
        if self.policy == PolicyKind::LeastLatency {
            live.latency.observe(sample, live.counters, now);
        }
    }

    #[inline]
    fn eject_if_due(&self, index: usize, now: Moment) {
        let live = self.live(index);
        if !self.failed_enough(live) || live.ejected(now) {
            return;
        }
        let full_until = Moment::from_micros(self.ejections_full_until.load(Relaxed));
        if now >= full_until {
            self.eject(index, now);
        }
    }

    /// Still true when an ejection ends without a success: then one more failure is enough.
    fn failed_enough(&self, live: Live<'_>) -> bool {
        let (rule, counters) = (&self.ejection, live.counters);
        [
            (rule.connect_failures, &counters.failures_in_row),
            (rule.early_resets, &counters.early_resets_in_row),
            (rule.empty_closes, &counters.empty_closes_in_row),
        ]
        .into_iter()
        .any(|(enough, row)| enough > 0 && row.load(Relaxed) >= enough)
    }

    /// Ejects the member, if that leaves no more than the allowed share ejected. All of it happens
    /// under one lock, so the share is exact and one of several threads counts the ejection.
    #[cold]
    fn eject(&self, index: usize, now: Moment) {
        let most = self.ejection.ejected_max(self.member_slots.len());
        if most == 0 {
            return;
        }
        let _changing = self.table.changing();
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
            // Nobody tells when the ejection ends, so the slow start after it begins now.
            self.ramp_from(live, until);
            live.hot.set_ejected(true);
            self.table.changed();
        }
    }

    /// Takes off the flags of an ejection and of a slow start that have ended, so that picks need
    /// not look at their ends.
    #[cold]
    pub(super) fn clear_ended(&self, index: usize, now: Moment) {
        let live = self.live(index);
        let ended = || {
            let word = live.hot.load();
            let ejection = word.ejected() && !live.ejected(now);
            (
                ejection,
                word.ramps() && self.ramp_percent(index, now) == 100,
            )
        };
        if ended() == (false, false) {
            return;
        }
        let _changing = self.table.changing();
        let (ejection, ramp) = ended();
        if ejection {
            live.hot.set_ejected(false);
        }
        if ramp {
            live.hot.set_ramp(false);
        }
    }
}
