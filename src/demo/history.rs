//! What several looks tell together: rates, their course over the last minute, and what changed.

use std::collections::VecDeque;
use std::time::Duration;

use super::stage::{BackendLook, Look};
use crate::balance::backend::State as BackendWord;

/// Seconds of the course that are kept: more than the widest terminal shows.
const COURSE_MAX: usize = 240;

/// Changes that are kept.
const EVENTS_MAX: usize = 100;

/// Rates are taken over this time.
const RATE_WINDOW: Duration = Duration::from_millis(1500);

/// One point of the course.
const TICK: Duration = Duration::from_secs(1);

/// So long after a kill its effect on the clients is told.
const SETTLING: Duration = Duration::from_millis(1500);

#[derive(Debug, Default)]
pub struct History {
    last: Option<Look>,
    /// The totals of the last looks, oldest first, over at least [`RATE_WINDOW`] once there are.
    window: VecDeque<(Duration, Vec<u64>)>,
    /// The totals at the last whole tick.
    ticked: (Duration, Vec<u64>),
    courses: Vec<VecDeque<u64>>,
    events: VecDeque<Event>,
    /// For each backend, when it was last killed or revived.
    turns: Vec<Option<Duration>>,
    /// The kills whose effect on the clients is not told yet: when, and which backend.
    unsettled: VecDeque<(Duration, usize)>,
    /// Failed requests that are told, and when.
    told: (Duration, u64),
}

/// A change worth a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub at: Duration,
    pub tone: Tone,
    /// Index of the backend it is about.
    pub backend: Option<usize>,
    /// Without the backend's name.
    pub text: String,
    /// Why, or with what effect; may be empty.
    pub detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    /// What the user did.
    Done,
}

impl History {
    /// Takes in a look, later than the one before.
    pub fn take(&mut self, look: Look) {
        let totals: Vec<u64> = look.backends.iter().map(|backend| backend.total).collect();
        self.courses.resize(totals.len(), VecDeque::new());
        self.turns.resize(totals.len(), None);
        if self.ticked.1.len() != totals.len() {
            self.ticked = (look.at, totals.clone());
        }
        if look.at >= self.ticked.0 + TICK {
            self.tick(look.at, &totals);
        }
        while self
            .window
            .get(1)
            .is_some_and(|(at, _)| *at + RATE_WINDOW <= look.at)
        {
            self.window.pop_front();
        }
        self.window.push_back((look.at, totals));
        if let Some(before) = self.last.take() {
            self.note_changes(&before, &look);
        }
        self.last = Some(look);
    }

    pub fn last(&self) -> Option<&Look> {
        self.last.as_ref()
    }

    /// Requests a second of one backend, now.
    pub fn rate(&self, backend: usize) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.window.front(), self.window.back())
        else {
            return 0.0;
        };
        let count = match (before.get(backend), after.get(backend)) {
            (Some(before), Some(after)) => after.saturating_sub(*before),
            _ => 0,
        };
        let seconds = (*to - *from).as_secs_f64();
        if seconds > 0.0 {
            count as f64 / seconds
        } else {
            0.0
        }
    }

    /// The part of all requests that one backend gets now, 0 to 1.
    pub fn share(&self, backend: usize) -> f64 {
        let all: f64 = (0..self.courses.len()).map(|one| self.rate(one)).sum();
        if all > 0.0 {
            self.rate(backend) / all
        } else {
            0.0
        }
    }

    /// Requests in each of the last seconds, the latest last.
    pub fn course(&self, backend: usize) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.courses.get(backend).into_iter().flatten().copied()
    }

    /// The latest last.
    pub fn events(&self) -> impl DoubleEndedIterator<Item = &Event> + ExactSizeIterator {
        self.events.iter()
    }

    /// Takes the events out, for those who show each once.
    pub fn drain_events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    fn tick(&mut self, at: Duration, totals: &[u64]) {
        let seconds = (at - self.ticked.0).as_secs_f64();
        for (course, (now, before)) in self
            .courses
            .iter_mut()
            .zip(totals.iter().zip(&self.ticked.1))
        {
            if course.len() == COURSE_MAX {
                course.pop_front();
            }
            let rate = now.saturating_sub(*before) as f64 / seconds;
            course.push_back(rate.round() as u64);
        }
        self.ticked = (at, totals.to_vec());
    }

    fn note_changes(&mut self, before: &Look, now: &Look) {
        for (index, (was, is)) in before.backends.iter().zip(&now.backends).enumerate() {
            if was.is_alive != is.is_alive {
                self.turns[index] = Some(now.at);
                if !is.is_alive {
                    self.unsettled.push_back((now.at, index));
                }
                let text = if is.is_alive { "revived" } else { "killed" };
                self.note(
                    now.at,
                    Tone::Done,
                    Some(index),
                    text.to_owned(),
                    String::new(),
                );
            }
            // That backends come up at the start is no change.
            let starts = was.state == BackendWord::Unchecked && is.state == BackendWord::Up;
            if was.state != is.state && !starts {
                let tone = if is.state == BackendWord::Up {
                    Tone::Good
                } else {
                    Tone::Bad
                };
                let text = format!("{} → {}", was.state, is.state);
                let detail = self.reason(index, was, is, now);
                self.note(now.at, tone, Some(index), text, detail);
            }
        }
        self.note_failed(now);
        if before.policy != now.policy {
            let text = format!("policy {} → {}", before.policy, now.policy);
            let detail = "reloaded, no connection cut".to_owned();
            self.note(now.at, Tone::Done, None, text, detail);
        }
        if before.rate != now.rate {
            let text = format!("clients send {} requests/s", now.rate);
            self.note(now.at, Tone::Done, None, text, String::new());
        }
    }

    /// Why the state changed, or how long after what the user did.
    fn reason(&self, index: usize, was: &BackendLook, is: &BackendLook, now: &Look) -> String {
        let turn = self.turns.get(index).copied().flatten();
        let probe = is
            .last_probe
            .as_ref()
            .map(|probe| format!("probe: {}", probe.detail));
        match (turn, was.state, is.state) {
            (Some(at), BackendWord::Up, _) if !is.is_alive => {
                format!("within {:.1} s of the kill", tenths(now.at - at))
            }
            (Some(at), _, BackendWord::Up) if is.is_alive => {
                format!("within {:.1} s of its revival", tenths(now.at - at))
            }
            (_, _, BackendWord::Ejected) => "connects refused".to_owned(),
            _ => probe.unwrap_or_default(),
        }
    }

    /// Tells what a kill cost the clients once that is sure, and other failures each second.
    fn note_failed(&mut self, now: &Look) {
        let failed = now.seen.failed - self.told.1;
        let requests = |count| if count == 1 { "request" } else { "requests" };
        let none_left = now.backends.iter().all(|backend| !backend.is_alive);
        let why = if none_left { "no backend is left" } else { "" };
        if let Some((killed_at, index)) = self.unsettled.front().copied() {
            if now.at < killed_at + SETTLING {
                return;
            }
            self.unsettled.pop_front();
            let (tone, detail) = match (failed, none_left) {
                (0, _) => (Tone::Good, "every refused connect was retried elsewhere"),
                (_, true) => (Tone::Bad, why),
                (_, false) => (Tone::Bad, "under way in it"),
            };
            let text = match failed {
                0 => "no request failed".to_owned(),
                _ => format!("{failed} {} failed", requests(failed)),
            };
            self.note(now.at, tone, Some(index), text, detail.to_owned());
        } else if failed > 0 && now.at >= self.told.0 + TICK {
            let text = format!("{failed} {} failed", requests(failed));
            self.note(now.at, Tone::Bad, None, text, why.to_owned());
        } else {
            return;
        }
        self.told = (now.at, now.seen.failed);
    }

    fn note(
        &mut self,
        at: Duration,
        tone: Tone,
        backend: Option<usize>,
        text: String,
        detail: String,
    ) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            at,
            tone,
            backend,
            text,
            detail,
        });
    }
}

/// Seconds, rounded up to a tenth, at least one: looks are that far apart.
fn tenths(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).ceil().max(1.0) / 10.0
}

#[cfg(test)]
mod tests;
