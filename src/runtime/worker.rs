//! A worker: one thread, one poller, its own listening sockets and its sessions until they end.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::closing::Closings;
use super::listing::{Searches, SessionId};
use super::sessions::{Sessions, Source};
use super::shared::{BindId, Desk, Message, Shared};
use crate::balance::chance::Chance;
use crate::balance::queue::Wake;
use crate::base::addr::ClientAddr;
use crate::base::clock::Moment;
use crate::base::ending::Termination;
use crate::base::wheel::Wheel;
use crate::net::listen::{Accepted, accept};
use crate::net::poller::{Events, Interest, Poller};
use crate::observe::access::LineWriter;
use crate::proxy::context::Context;
use crate::proxy::route::{ProcessCount, Route};
use crate::proxy::session::{Arrival, Next, Session};
use crate::proxy::tally::Relayed;
use crate::relay::direction::Tools;
use crate::relay::pipe::Pipes;
use crate::tls::stream::{PLAIN_BYTES, SEALED_ROOM};

/// Clients taken from one listening socket in one wake-up, so that sessions are not kept waiting.
const ACCEPTS_MAX: u32 = 64;

/// Handshakes answered in one wake-up, about 100 µs each: a burst of clients does not keep those
/// waiting that are served already.
const LABOURS_MAX: usize = 2;

/// How long accepting rests when descriptors or memory ran out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// One line a second is enough to say it.
const REST_TOLD_EVERY: Duration = Duration::from_secs(1);

/// Control token of the inbox; listening sockets use their place in the list.
const BELL: u32 = u32::MAX;

/// When a session that is busy and has no alarm looks at its deadlines.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Worker {
    me: usize,
    shared: Arc<Shared>,
    version: u64,
    kit: Kit,
    wheel: Wheel,
    sessions: Sessions,
    listening: Vec<Option<Listening>>,
    /// Accepting rests until then.
    rests_until: Option<Moment>,
    /// When the log last said so.
    rest_told_at: Option<Moment>,
    /// Sessions that asked for another turn.
    again: Vec<u32>,
    /// Those that asked for one that takes long.
    labours: VecDeque<u32>,
    drains: bool,
    closings: Closings,
    searches: Searches,
    now: Moment,
}

/// What sessions borrow while they act.
#[derive(Debug)]
struct Kit {
    worker: usize,
    poller: Poller,
    scratch: Box<[u8]>,
    sealed: Box<[u8]>,
    pipes: Pipes,
    chance: Chance,
    log: LineWriter,
    bell: Arc<dyn Wake>,
    relayed: Arc<Relayed>,
}

impl Kit {
    fn context<'a>(&'a mut self, now: Moment, process: &'a Arc<ProcessCount>) -> Context<'a> {
        Context {
            now,
            worker: self.worker,
            poller: &self.poller,
            tools: Tools {
                scratch: &mut self.scratch,
                sealed: &mut self.sealed,
                pipes: &mut self.pipes,
            },
            chance: &mut self.chance,
            log: &mut self.log,
            relayed: &self.relayed,
            process,
            bell: &self.bell,
        }
    }
}

#[derive(Debug)]
struct Listening {
    bind: BindId,
    socket: Arc<OwnedFd>,
    interest: Interest,
    route: Option<Arc<Route>>,
    /// Clients to try for in one wake-up: doubles while the queue is not emptied, so that a quiet
    /// listener costs no call that finds nothing and a busy one is served in batches.
    batch: u32,
}

impl Worker {
    pub fn new(me: usize, shared: Arc<Shared>, log: LineWriter, seed: u64) -> io::Result<Self> {
        let poller = Poller::new()?;
        let bell = shared.workers[me].bell();
        poller.watch(bell, Sessions::control(BELL), Interest::ReadLevel)?;
        let now = Moment::now();
        Ok(Worker {
            me,
            version: 0,
            kit: Kit {
                worker: me,
                poller,
                scratch: vec![0; PLAIN_BYTES].into(),
                sealed: vec![0; SEALED_ROOM].into(),
                pipes: Pipes::default(),
                chance: Chance::seeded(seed),
                log,
                bell: shared.workers[me].clone(),
                relayed: shared.workers[me].relayed.clone(),
            },
            wheel: Wheel::new(now),
            sessions: Sessions::default(),
            listening: Vec::new(),
            rests_until: None,
            rest_told_at: None,
            again: Vec::new(),
            labours: VecDeque::new(),
            drains: false,
            closings: Closings::default(),
            searches: Searches::default(),
            now,
            shared,
        })
    }

    /// Serves until it has drained or was stopped.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = Events::new();
        let mut rung = Vec::new();
        let mut turns = Vec::new();
        while !(self.drains && self.sessions.is_empty() && self.desk().close()) {
            self.kit.poller.wait(&mut events, self.patience())?;
            self.now = Moment::now();
            for (token, readiness) in events.iter() {
                match self.sessions.source(token) {
                    Source::Session { number, side } => {
                        self.act(number, |session, cx| session.notice(side, readiness, cx));
                    }
                    Source::Control(BELL) => {
                        if self.read_messages().is_break() {
                            return Ok(());
                        }
                    }
                    Source::Control(place) => self.accept_some(place as usize)?,
                    Source::Stale => {}
                }
            }
            std::mem::swap(&mut self.again, &mut turns);
            for number in turns.drain(..) {
                self.sessions.take_turn(number);
                self.act(number, Session::turn);
            }
            for _ in 0..LABOURS_MAX {
                let Some(number) = self.labours.pop_front() else {
                    break;
                };
                self.sessions.take_turn(number);
                self.act(number, Session::turn);
            }
            self.wheel.advance(self.now, &mut rung);
            for number in rung.drain(..) {
                self.act(number, Session::alarm);
            }
            self.end_rest()?;
            self.close_some();
            self.search_some();
            self.desk().set_load(self.sessions.len());
            self.kit.log.flush();
        }
        Ok(())
    }

    fn desk(&self) -> &Desk {
        &self.shared.workers[self.me]
    }

    /// How long the next wait may be.
    fn patience(&self) -> Option<Duration> {
        if !self.again.is_empty() || !self.labours.is_empty() || !self.searches.is_empty() {
            return Some(Duration::ZERO);
        }
        let alarm = self.wheel.next_due(self.now);
        let rest = self.rests_until.map(|until| until.since(self.now));
        let look = self.closings.look_at().map(|at| at.since(self.now));
        alarm.into_iter().chain(rest).chain(look).min()
    }

    /// Lets a session act and does what it asks for. A panic ends that session only.
    fn act(&mut self, number: u32, step: impl FnOnce(&mut Session, &mut Context<'_>) -> Next) {
        let Some(session) = self.sessions.get(number) else {
            return;
        };
        let mut cx = self.kit.context(self.now, &self.shared.process);
        match catch_unwind(AssertUnwindSafe(|| step(session, &mut cx))) {
            Ok(next) => self.follow(number, next),
            Err(_) => {
                self.shared.panics.fetch_add(1, Relaxed);
                session.record_panic(&mut cx);
                self.retire(number);
            }
        }
    }

    fn follow(&mut self, number: u32, next: Next) {
        match next {
            Next::Waits => {}
            Next::WaitsUntil(at) => self.wheel.set(number, at),
            Next::Labours(at) => {
                self.wheel.set(number, at);
                if self.sessions.ask_for_turn(number) {
                    self.labours.push_back(number);
                }
            }
            Next::Again => {
                if self.sessions.ask_for_turn(number) {
                    self.again.push(number);
                }
                if !self.wheel.is_set(number) {
                    self.wheel.set(number, self.now + LOOK_AGAIN);
                }
            }
            Next::Over => self.retire(number),
        }
    }

    fn retire(&mut self, number: u32) {
        self.wheel.clear(number);
        self.sessions.remove(number);
    }

    fn open(&mut self, arrival: Arrival) {
        let number = self.sessions.reserve();
        let tokens = self.sessions.tokens(number);
        let mut cx = self.kit.context(self.now, &self.shared.process);
        match catch_unwind(AssertUnwindSafe(|| Session::open(arrival, tokens, &mut cx))) {
            Ok(Some((session, next))) => {
                self.sessions.put(number, session);
                self.follow(number, next);
            }
            Ok(None) => self.sessions.remove(number),
            Err(_) => {
                self.shared.panics.fetch_add(1, Relaxed);
                self.sessions.remove(number);
            }
        }
    }

    fn accept_some(&mut self, place: usize) -> io::Result<()> {
        self.refresh_routes();
        let Some(Some(listening)) = self.listening.get_mut(place) else {
            return Ok(());
        };
        let Some(route) = listening.route.clone() else {
            return Ok(());
        };
        let socket = listening.socket.clone();
        let batch = listening.batch;
        for taken in 0..batch {
            match accept(&socket)? {
                Accepted::Client(socket, client) => self.place_client(socket, client, &route),
                Accepted::Gone(fault) => route.tally.count_accept_error(fault),
                Accepted::Empty => {
                    self.set_batch(place, taken.max(1));
                    return Ok(());
                }
                Accepted::Exhausted(fault, error) => {
                    route.tally.count_accept_error(fault);
                    return self.rest(error.into());
                }
            }
        }
        self.set_batch(place, (batch * 2).min(ACCEPTS_MAX));
        Ok(())
    }

    fn set_batch(&mut self, place: usize, batch: u32) {
        if let Some(Some(listening)) = self.listening.get_mut(place) {
            listening.batch = batch;
        }
    }

    /// Serves a client here, or has a clearly less busy worker do it.
    fn place_client(&mut self, socket: OwnedFd, client: ClientAddr, route: &Arc<Route>) {
        let arrival = Arrival {
            socket,
            client,
            route: route.clone(),
            accepted_at: self.now,
        };
        self.desk().set_load(self.sessions.len());
        let taker = self.shared.taker_for(self.me);
        let kept = if taker == self.me {
            Err(arrival)
        } else {
            self.shared.workers[taker].hand_over(arrival)
        };
        if let Err(arrival) = kept {
            self.open(arrival);
        }
    }

    /// One load while nothing changed.
    fn refresh_routes(&mut self) {
        let version = self.shared.version();
        if version == self.version {
            return;
        }
        self.version = version;
        let snapshot = self.shared.snapshot();
        for listening in self.listening.iter_mut().flatten() {
            if let Some(Some(route)) = snapshot.routes.get(listening.bind as usize) {
                listening.route = Some(route.clone());
            }
        }
    }

    fn read_messages(&mut self) -> std::ops::ControlFlow<()> {
        for message in self.desk().take() {
            match message {
                Message::Arrival(arrival) => self.open(arrival),
                Message::Called(client) => {
                    if let Source::Session { number, .. } = self.sessions.source(client) {
                        self.act(number, Session::called);
                    }
                }
                Message::Listen {
                    bind,
                    socket,
                    exclusive,
                } => {
                    self.listen(bind, socket, exclusive);
                }
                Message::Unlisten { bind } => {
                    for place in 0..self.listening.len() {
                        if matches!(&self.listening[place], Some(one) if one.bind == bind) {
                            self.unlisten(place);
                        }
                    }
                }
                Message::Search(search) => self.searches.add(search),
                Message::Close(order) => self.closings.add(order, self.now),
                Message::CancelClose(id) => self.closings.cancel(id),
                Message::Drain => {
                    for place in 0..self.listening.len() {
                        self.unlisten(place);
                    }
                    self.drains = true;
                }
                Message::Stop => {
                    self.stop();
                    return std::ops::ControlFlow::Break(());
                }
            }
        }
        std::ops::ControlFlow::Continue(())
    }

    fn listen(&mut self, bind: BindId, socket: Arc<OwnedFd>, exclusive: bool) {
        if self.listening.iter().flatten().any(|one| one.bind == bind) {
            return;
        }
        let interest = if exclusive {
            Interest::ReadLevelExclusive
        } else {
            Interest::ReadLevel
        };
        // The place of one that is gone is used again: reloads must not make the list grow.
        let free = self.listening.iter().position(Option::is_none);
        let place = free.unwrap_or_else(|| {
            self.listening.push(None);
            self.listening.len() - 1
        });
        let token = Sessions::control(place as u32);
        // While accepting rests nothing is watched; the end of the rest will see to it.
        if self.rests_until.is_none()
            && let Err(error) = self.kit.poller.watch(&*socket, token, interest)
        {
            tracing::error!(%error, "a listening socket cannot be watched");
            return;
        }
        let route = self
            .shared
            .snapshot()
            .routes
            .get(bind as usize)
            .cloned()
            .flatten();
        self.listening[place] = Some(Listening {
            bind,
            socket,
            interest,
            route,
            batch: 1,
        });
    }

    /// Serves the clients whose connections the kernel has completed, because closing the socket
    /// would reset them, then closes it.
    fn unlisten(&mut self, place: usize) {
        let Some(Some(listening)) = self.listening.get_mut(place) else {
            return;
        };
        let socket = listening.socket.clone();
        if let Some(route) = listening.route.clone() {
            loop {
                let (socket, client) = match accept(&socket) {
                    Ok(Accepted::Client(socket, client)) => (socket, client),
                    Ok(Accepted::Gone(_)) => continue,
                    Ok(Accepted::Empty | Accepted::Exhausted(..)) | Err(_) => break,
                };
                self.open(Arrival {
                    socket,
                    client,
                    route: route.clone(),
                    accepted_at: self.now,
                });
            }
        }
        let _ = self.kit.poller.unwatch(&*socket);
        self.listening[place] = None;
    }

    fn stop(&mut self) {
        for number in self.sessions.numbers() {
            self.end_early(number, "shutdown");
        }
        self.kit.log.flush();
    }

    /// Ends the sessions that were ordered to end and whose time has come.
    fn close_some(&mut self) {
        if self.closings.look_at().is_none_or(|at| self.now < at) {
            return;
        }
        let chosen = self.closings.chosen(self.sessions.standings(), self.now);
        for (number, detail) in chosen {
            self.end_early(number, detail);
        }
    }

    /// Goes on with what somebody looks for.
    fn search_some(&mut self) {
        let all = self.sessions.places();
        let Some((search, places)) = self.searches.step(all) else {
            return;
        };
        let is_last = places.end >= all;
        for number in places {
            let found = self
                .sessions
                .at(number)
                .is_some_and(|(generation, session)| {
                    let id = SessionId {
                        worker: self.me,
                        generation,
                        number,
                    };
                    search.finds(id, &session.glimpse(), self.now)
                });
            if found && search.kills {
                self.act(number, |session, cx| {
                    session.kill(Termination::Killed, "operator", cx);
                    Next::Over
                });
                search.killed();
            }
        }
        if is_last {
            search.passed_over(self.me);
        }
    }

    fn end_early(&mut self, number: u32, detail: &'static str) {
        self.act(number, |session, cx| {
            session.kill(Termination::Drained, detail, cx);
            Next::Over
        });
    }

    /// Stops accepting for a moment: clients wait in the kernel's queue, nothing spins.
    fn rest(&mut self, error: io::Error) -> io::Result<()> {
        // Another listening socket of the same wake-up found out first: none is watched now.
        if self.rests_until.is_some() {
            return Ok(());
        }
        if self
            .rest_told_at
            .is_none_or(|at| self.now.since(at) >= REST_TOLD_EVERY)
        {
            self.rest_told_at = Some(self.now);
            tracing::warn!(%error, "accepting pauses: descriptors or memory ran out");
        }
        for listening in self.listening.iter().flatten() {
            self.kit.poller.unwatch(&*listening.socket)?;
        }
        self.rests_until = Some(self.now + EXHAUSTED_PAUSE);
        Ok(())
    }

    fn end_rest(&mut self) -> io::Result<()> {
        if self.rests_until.is_none_or(|until| self.now < until) {
            return Ok(());
        }
        self.rests_until = None;
        for (place, listening) in self.listening.iter().enumerate() {
            if let Some(listening) = listening {
                let token = Sessions::control(place as u32);
                self.kit
                    .poller
                    .watch(&*listening.socket, token, listening.interest)?;
            }
        }
        Ok(())
    }
}
