//! Looking for sessions, and ending them: each worker passes over its own in small steps, so that
//! nobody waits for whoever looks.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use super::shared::{Message, Shared};
use crate::admin::sessions::{SessionFilter, SessionView, Sessions};
use crate::base::addr::ClientAddr;
use crate::base::clock::Moment;
use crate::proxy::session::Glimpse;

/// Places that a worker looks at in one turn.
const PLACES_AT_ONCE: u32 = 512;
/// A worker that has not answered by then is stuck.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// What all workers look for.
#[derive(Debug)]
pub struct Search {
    filter: SessionFilter,
    id: Option<SessionId>,
    /// Whether what is found is ended.
    pub kills: bool,
    /// Views that may still be sent, by all workers together.
    room: AtomicUsize,
    found: UnboundedSender<Found>,
}

#[derive(Debug)]
enum Found {
    Session(Box<SessionView>),
    /// Of this worker, one that is not listed.
    Another,
    Killed,
    /// The worker has passed over all of its sessions.
    All(usize),
}

/// Which session of which worker, and of those that had the same place the how manieth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionId {
    pub worker: usize,
    pub generation: u32,
    pub number: u32,
}

/// The searches of one worker, each with the place it goes on from.
#[derive(Debug, Default)]
pub struct Searches(VecDeque<(Arc<Search>, u32)>);

impl Searches {
    pub fn add(&mut self, search: Arc<Search>) {
        self.0.push_back((search, 0));
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What to look at next: the search, and the places. With the last of them it is over: then
    /// [`Search::passed_over`] is to be called.
    pub fn step(&mut self, places: u32) -> Option<(Arc<Search>, Range<u32>)> {
        let (search, from) = self.0.front_mut()?;
        let (search, first) = (search.clone(), *from);
        let last = first.saturating_add(PLACES_AT_ONCE).min(places);
        *from = last;
        if last >= places {
            self.0.pop_front();
        }
        Some((search, first..last))
    }
}

impl Search {
    /// Errors: the id is none.
    fn new(
        filter: SessionFilter,
        kills: bool,
    ) -> Result<(Arc<Search>, UnboundedReceiver<Found>), String> {
        let id = filter.id.as_deref().map(str::parse).transpose()?;
        let (found, receiver) = unbounded_channel();
        let search = Search {
            id,
            kills,
            room: AtomicUsize::new(filter.limit()),
            filter,
            found,
        };
        Ok((Arc::new(search), receiver))
    }

    /// Whether this session is looked for; if so, it is told of.
    pub fn finds(&self, id: SessionId, session: &Glimpse<'_>, now: Moment) -> bool {
        let SessionFilter {
            listener,
            pool,
            backend,
            client,
            idle_s,
            ..
        } = &self.filter;
        let is =
            |wanted: &Option<String>, value: &str| wanted.as_ref().is_none_or(|one| one == value);
        let idle = now.since(session.moved_at);
        let is_client = client.is_none_or(|wanted| match session.client {
            ClientAddr::Ip(addr) => addr.ip() == wanted,
            ClientAddr::Unix => false,
        });
        let fits = self.id.is_none_or(|wanted| wanted == id)
            && is(listener, session.listener)
            && is(pool, session.pool)
            && is(backend, session.backend)
            && is_client
            && idle_s.is_none_or(|wanted| idle >= Duration::from_secs(wanted));
        if !fits {
            return false;
        }
        let has_room = self
            .room
            .fetch_update(Relaxed, Relaxed, |room| room.checked_sub(1));
        let found = match has_room {
            Ok(_) => Found::Session(Box::new(view(id, session, idle, now))),
            Err(_) => Found::Another,
        };
        let _ = self.found.send(found);
        true
    }

    /// This worker has no more sessions to look at. Nobody waits for it any more, perhaps.
    pub fn passed_over(&self, me: usize) {
        let _ = self.found.send(Found::All(me));
    }

    pub fn killed(&self) {
        let _ = self.found.send(Found::Killed);
    }
}

fn view(id: SessionId, session: &Glimpse<'_>, idle: Duration, now: Moment) -> SessionView {
    SessionView {
        id: id.to_string(),
        listener: session.listener.to_owned(),
        client: session.client.to_string(),
        pool: session.pool.to_owned(),
        backend: session.backend.to_owned(),
        sni: session.sni.to_owned(),
        tls: session.tls.to_owned(),
        phase: session.phase.as_str().to_owned(),
        age: now.since(session.accepted_at),
        idle,
        bytes_to_backend: session.bytes.0,
        bytes_to_client: session.bytes.1,
        path: session.path.as_str().to_owned(),
    }
}

/// Asks all workers; the future collects what they find, and gives up on those that do not answer.
///
/// Errors: the id is none, in words.
pub fn search(
    shared: &Shared,
    filter: SessionFilter,
    kills: bool,
) -> Result<impl Future<Output = Sessions> + use<>, String> {
    let (search, found) = Search::new(filter, kills)?;
    for desk in &shared.workers {
        desk.send(Message::Search(search.clone()));
    }
    Ok(collect(found, shared.workers.len()))
}

async fn collect(mut found: UnboundedReceiver<Found>, workers: usize) -> Sessions {
    let mut all = Sessions::default();
    let mut silent: BTreeSet<usize> = (0..workers).collect();
    let collecting = async {
        while !silent.is_empty() {
            match found.recv().await {
                Some(Found::Session(view)) => all.sessions.push(*view),
                Some(Found::Another) => all.truncated = true,
                Some(Found::Killed) => all.killed += 1,
                Some(Found::All(worker)) => {
                    silent.remove(&worker);
                }
                None => break,
            }
        }
    };
    let _in_time = timeout(ANSWER_WITHIN, collecting).await;
    all.silent_workers = silent.into_iter().collect();
    all.sessions
        .sort_by_key(|session| std::cmp::Reverse(session.age));
    all
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SessionId {
            worker,
            generation,
            number,
        } = self;
        write!(f, "{worker:x}-{generation:x}-{number:x}")
    }
}

impl FromStr for SessionId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let mut parts = text.split('-');
            let mut next = || u32::from_str_radix(parts.next()?, 16).ok();
            let (worker, generation, number) = (next()?, next()?, next()?);
            let id = SessionId {
                worker: worker as usize,
                generation,
                number,
            };
            parts.next().is_none().then_some(id)
        };
        parse().ok_or_else(|| format!("{text:?} is not the id of a session, such as 0-5-1a"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = SessionId {
            worker: 17,
            generation: u32::MAX,
            number: 0,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in ["", "1-2", "1-2-3-4", "x-1-1", "1--1", "-1-1-1"] {
            assert!(text.parse::<SessionId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_search_passes_over_every_place_once_in_small_steps() {
        let mut searches = Searches::default();
        let (search, _found) = Search::new(SessionFilter::default(), false).unwrap();
        searches.add(search);
        let mut next = 0;
        while let Some((_, places)) = searches.step(1300) {
            assert_eq!(places.start, next);
            assert!(places.len() <= 512);
            next = places.end;
        }
        assert_eq!(next, 1300);
    }
}
