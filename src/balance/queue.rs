//! Clients that wait, first come first served, until a backend of their pool has room.
//!
//! The queue holds nobody's lease: it *calls* a client, who then chooses through the pool's policy
//! like any other, on its own thread. So weights, priorities and who was tried already are honoured
//! as ever, and one lease given back wakes one client.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::sync::atomic::fence;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Wakes a client of one thread, whom the thread knows by a number of its own.
pub trait Wake: fmt::Debug + Send + Sync {
    fn wake(&self, client: u64);
}

/// The line of one pool's waiting clients; outlives the pool's reloads.
#[derive(Debug, Default)]
pub struct Queue {
    /// All who wait, called or not. Looked at by every lease given back.
    waiting: AtomicU32,
    line: Mutex<Line>,
}

#[derive(Debug, Default)]
struct Line {
    /// Those not called, by number: numbers grow, so the first has waited longest.
    standing: BTreeMap<u64, Bell>,
    next_number: u64,
    /// Somebody was to be called while nobody stood: whoever chose in vain meanwhile tries again.
    owed: bool,
}

#[derive(Debug)]
struct Bell {
    wake: Arc<dyn Wake>,
    client: u64,
}

impl Queue {
    /// Clients that wait.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Relaxed)
    }

    /// Whether a client that just came has to wait behind others, even if it could be served.
    #[inline]
    pub fn is_occupied(&self) -> bool {
        self.waiting() != 0
    }

    /// Takes the last place; `None` when `length` clients wait already.
    ///
    /// The client is called at once when nobody waits before it: room that was made since it found
    /// none woke nobody.
    pub fn join(self: &Arc<Self>, length: u32, wake: Arc<dyn Wake>, client: u64) -> Option<Place> {
        let mut line = self.line();
        if self.waiting() >= length {
            return None;
        }
        // Behind one that was called and has not chosen yet it stands too: the room is not its.
        let called = self.waiting.fetch_add(1, SeqCst) == 0;
        // Pairs with `released`: either that sees this client, or this client sees the room.
        fence(SeqCst);
        let number = line.next_number;
        line.next_number += 1;
        if !called {
            line.standing.insert(
                number,
                Bell {
                    wake: wake.clone(),
                    client,
                },
            );
        }
        drop(line);
        Some(Place {
            queue: Arc::clone(self),
            bell: Bell { wake, client },
            number,
            called,
            used: false,
        })
    }

    /// A lease was given back, or a backend may have come: calls the client that has waited
    /// longest. One load while nobody waits, which has to follow the release in one order over all
    /// threads.
    #[inline]
    pub(super) fn released(&self) {
        if self.waiting.load(SeqCst) != 0 {
            self.call();
        }
    }

    /// Calls the client that has waited longest of those not called yet, if there is one: whoever
    /// makes room calls.
    #[cold]
    pub fn call(&self) {
        let mut line = self.line();
        let first = line.standing.pop_first();
        line.owed = first.is_none();
        drop(line);
        if let Some((_, bell)) = first {
            bell.wake.wake(bell.client);
        }
    }

    /// The same unless somebody who was called has yet to choose: whoever looks again and again
    /// would call those behind past the first. The one who chooses calls on.
    pub fn remind(&self) {
        let has_called = self.waiting() as usize > self.line().standing.len();
        if !has_called {
            self.call();
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        // Every change is complete before anything that could panic.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's place in the line, given up on drop.
#[derive(Debug)]
pub struct Place {
    queue: Arc<Queue>,
    bell: Bell,
    number: u64,
    /// As far as the client's own thread knows.
    called: bool,
    used: bool,
}

impl Place {
    /// Whether it is this client's turn to choose; false when it stands in the line.
    pub fn is_called(&mut self) -> bool {
        if !self.called {
            self.called = !self.queue.line().standing.contains_key(&self.number);
        }
        self.called
    }

    /// The client chose and found no room after all: it stands where it stood, before all who came
    /// later. False: room was made meanwhile, and it is still its turn.
    ///
    /// `for_others`: there is room, which this client may not have because it has been there. Then
    /// the call goes on to the next in the line.
    #[must_use]
    pub fn stand_back(&mut self, for_others: bool) -> bool {
        debug_assert!(self.called);
        let mut line = self.queue.line();
        if std::mem::take(&mut line.owed) {
            return false;
        }
        let behind = (Bound::Excluded(self.number), Bound::Unbounded);
        let next = line.standing.range(behind).next().map(|(next, _)| *next);
        let next = next.filter(|_| for_others);
        let next = next.and_then(|next| line.standing.remove(&next));
        let bell = Bell {
            wake: self.bell.wake.clone(),
            client: self.bell.client,
        };
        line.standing.insert(self.number, bell);
        self.called = false;
        drop(line);
        if let Some(bell) = next {
            bell.wake.wake(bell.client);
        }
        true
    }

    /// The client has its backend. `more`: there is room for another one.
    ///
    /// Others who were called and have not chosen yet will see that room: calling one more for it
    /// would wake it in vain, and let it overtake those who have to stand back.
    pub fn served(mut self, more: bool) {
        debug_assert!(self.called);
        // Its call is used up, so leaving need not pass it on.
        self.used = true;
        let queue = Arc::clone(&self.queue);
        let mut line = queue.line();
        let left = queue.waiting.fetch_sub(1, SeqCst) - 1;
        if left as usize > line.standing.len() {
            // One of them may have looked before that room was made.
            line.owed |= more;
            return;
        }
        let owed = std::mem::take(&mut line.owed);
        drop(line);
        if more || owed {
            queue.released();
        }
    }
}

/// A client that leaves when it was called passes the call on.
impl Drop for Place {
    fn drop(&mut self) {
        if self.used {
            return;
        }
        let mut line = self.queue.line();
        let stood = line.standing.remove(&self.number).is_some();
        self.queue.waiting.fetch_sub(1, SeqCst);
        drop(line);
        if !stood {
            self.queue.released();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};

    use super::*;

    #[derive(Debug)]
    struct Calls(Mutex<Sender<u64>>);

    impl Wake for Calls {
        fn wake(&self, client: u64) {
            self.0.lock().unwrap().send(client).unwrap();
        }
    }

    fn queue() -> (Arc<Queue>, Arc<dyn Wake>, Receiver<u64>) {
        let (calls, called) = channel();
        (Arc::default(), Arc::new(Calls(Mutex::new(calls))), called)
    }

    /// A place of a client that was not called, because somebody stands before it.
    fn stand(queue: &Arc<Queue>, wake: &Arc<dyn Wake>, client: u64) -> Place {
        let mut place = queue.join(u32::MAX, wake.clone(), client).unwrap();
        if place.is_called() {
            assert!(place.stand_back(false));
        }
        place
    }

    #[test]
    fn clients_are_called_in_the_order_they_came_one_for_each_lease_given_back() {
        let (queue, wake, called) = queue();
        let mut places: Vec<Place> = (0..100).map(|it| stand(&queue, &wake, it)).collect();
        for client in 0..100 {
            queue.released();
            assert_eq!(called.try_iter().collect::<Vec<_>>(), [client]);
            let mut place = places.remove(0);
            assert!(place.is_called());
            place.served(false);
            assert_eq!(queue.waiting() as usize, places.len());
        }
        queue.released();
        assert!(called.try_iter().next().is_none());
    }

    #[test]
    fn room_that_others_were_called_for_calls_nobody_else() {
        let (queue, wake, called) = queue();
        let mut places: Vec<Place> = (0..9).map(|it| stand(&queue, &wake, it)).collect();
        for _ in 0..3 {
            queue.released();
        }
        assert_eq!(called.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
        for more in [true, true] {
            let mut place = places.remove(0);
            assert!(place.is_called());
            place.served(more);
            assert!(called.try_iter().next().is_none());
        }
        // The last one called looks after what was seen meanwhile.
        assert!(places[0].is_called());
        places.remove(0).served(false);
        assert_eq!(called.try_iter().collect::<Vec<_>>(), [3]);
    }

    #[test]
    fn one_that_left_is_passed_over_and_one_that_leaves_when_called_passes_the_call_on() {
        let (queue, wake, called) = queue();
        let mut places: Vec<Place> = (0..4).map(|it| stand(&queue, &wake, it)).collect();
        drop(places.remove(0));
        assert!(called.try_iter().next().is_none(), "leaving makes no room");
        queue.released();
        assert_eq!(called.recv(), Ok(1));
        drop(places.remove(0));
        assert_eq!(called.recv(), Ok(2));
        assert_eq!(queue.waiting(), 2);
    }

    #[test]
    fn who_chose_in_vain_stands_before_all_who_came_later() {
        let (queue, wake, called) = queue();
        let mut places: Vec<Place> = (0..3).map(|it| stand(&queue, &wake, it)).collect();
        queue.call();
        assert_eq!(called.recv(), Ok(0));
        assert!(places[0].is_called() && places[0].stand_back(false));
        queue.call();
        assert_eq!(called.recv(), Ok(0));
    }

    #[test]
    fn room_that_the_first_may_not_have_is_for_the_next() {
        let (queue, wake, called) = queue();
        let mut places: Vec<Place> = (0..3).map(|it| stand(&queue, &wake, it)).collect();
        queue.released();
        assert_eq!(called.recv(), Ok(0));
        assert!(places[0].is_called() && places[0].stand_back(true));
        assert_eq!(called.recv(), Ok(1));
        assert!(places[1].is_called() && !places[0].is_called());
        places.remove(1).served(false);
        queue.released();
        assert_eq!(called.recv(), Ok(0), "it has waited longest still");
        assert!(called.try_iter().next().is_none());
    }

    #[test]
    fn room_made_while_the_only_client_chooses_is_not_missed() {
        let (queue, wake, called) = queue();
        let mut place = queue.join(1, wake.clone(), 7).unwrap();
        assert!(place.is_called(), "nobody stood before it");
        queue.released();
        assert!(!place.stand_back(false), "it has to look again");
        assert!(place.stand_back(false));
        queue.released();
        assert_eq!(called.recv(), Ok(7));
    }

    #[test]
    fn the_line_has_an_end() {
        let (queue, wake, _called) = queue();
        let places: Vec<Place> = (0..3).map(|it| stand(&queue, &wake, it)).collect();
        assert!(queue.join(3, wake.clone(), 3).is_none());
        drop(places);
        assert!(!queue.is_occupied());
        assert!(queue.join(0, wake, 3).is_none());
    }

    /// One client of a made-up pool, which takes one step after the other.
    #[derive(Debug, Default)]
    struct Client {
        rounds_left: u32,
        place: Option<Place>,
        next: Step,
    }

    #[derive(Clone, Copy, Debug, Default, PartialEq)]
    enum Step {
        #[default]
        Come,
        Join,
        Choose,
        StandBack,
        LookForMore,
        Served(bool),
        GiveBack,
        TellQueue,
    }

    impl Client {
        /// Outside, with a seat, or standing.
        fn rests(&mut self) -> bool {
            match self.next {
                Step::Come | Step::GiveBack => true,
                Step::Choose => !self.place.as_mut().unwrap().is_called(),
                _ => false,
            }
        }

        /// False when it can only wait.
        fn step(&mut self, queue: &Arc<Queue>, wake: &Arc<dyn Wake>, free: &mut u32) -> bool {
            let take = |free: &mut u32| std::mem::replace(free, free.saturating_sub(1)) > 0;
            self.next = match self.next {
                Step::Come if self.rounds_left == 0 => return false,
                Step::Come if !queue.is_occupied() && take(free) => Step::GiveBack,
                Step::Come => Step::Join,
                Step::Join => {
                    self.place = queue.join(u32::MAX, wake.clone(), 0);
                    Step::Choose
                }
                Step::Choose if !self.place.as_mut().unwrap().is_called() => return false,
                Step::Choose if take(free) => Step::LookForMore,
                Step::Choose => Step::StandBack,
                Step::StandBack => {
                    // Stands, or chooses again.
                    let _ = self.place.as_mut().unwrap().stand_back(false);
                    Step::Choose
                }
                Step::LookForMore => Step::Served(*free > 0),
                Step::Served(more) => {
                    self.place.take().unwrap().served(more);
                    Step::GiveBack
                }
                Step::GiveBack => {
                    *free += 1;
                    Step::TellQueue
                }
                Step::TellQueue => {
                    queue.released();
                    self.rounds_left -= 1;
                    Step::Come
                }
            };
            true
        }
    }

    proptest::proptest! {
        /// Clients take their steps in every order that chance finds, some leave: whoever waits
        /// when nothing moves any more was forgotten.
        #[test]
        fn nobody_is_forgotten_in_whatever_order_things_happen(
            seats in 1..3_u32,
            order in proptest::collection::vec((0..5_usize, 0..40_u8), 0..400),
        ) {
            let (queue, wake, _called) = queue();
            let mut free = seats;
            let mut clients: Vec<Client> = (0..5)
                .map(|_| Client { rounds_left: 6, ..Client::default() })
                .collect();
            for (who, leaves) in order {
                let client = &mut clients[who];
                if leaves == 0 && client.next == Step::Choose {
                    client.place = None;
                    client.next = Step::Come;
                } else {
                    client.step(&queue, &wake, &mut free);
                }
                // When nobody is about to do anything, nobody stands before an empty seat.
                if clients.iter_mut().all(Client::rests) {
                    proptest::prop_assert!(free == 0 || queue.waiting() == 0, "{clients:?}");
                }
            }
            while clients.iter_mut().any(|client| client.step(&queue, &wake, &mut free)) {}
            proptest::prop_assert!(clients.iter().all(|client| client.rounds_left == 0), "{clients:?}");
            proptest::prop_assert_eq!((queue.waiting(), free), (0, seats));
        }
    }

    /// As many threads as there are clients fight for two seats; whoever finds none waits for its
    /// bell without a limit of time, so that a call that is lost hangs the test.
    #[test]
    fn no_client_is_forgotten_however_threads_meet() {
        use std::sync::atomic::AtomicU32;
        const SEATS: u32 = 2;
        let queue: Arc<Queue> = Arc::default();
        let taken = AtomicU32::new(0);
        let take = || {
            let room = |taken| (taken < SEATS).then_some(taken + 1);
            taken.fetch_update(SeqCst, SeqCst, room).is_ok()
        };
        std::thread::scope(|scope| {
            for client in 0..8 {
                let (queue, taken, take) = (&queue, &taken, &take);
                scope.spawn(move || {
                    let (calls, called) = channel();
                    let wake: Arc<dyn Wake> = Arc::new(Calls(Mutex::new(calls)));
                    for round in 0..2000_u64 {
                        if queue.is_occupied() || !take() {
                            let mut place = queue.join(8, wake.clone(), client).unwrap();
                            // Some leave, called or not.
                            if (round + client) % 7 == 0 {
                                continue;
                            }
                            loop {
                                if place.is_called() {
                                    if take() {
                                        place.served(taken.load(SeqCst) < SEATS);
                                        break;
                                    }
                                    if !place.stand_back(false) {
                                        continue;
                                    }
                                }
                                called.recv().unwrap();
                            }
                            called.try_iter().for_each(drop);
                        }
                        assert!(taken.load(SeqCst) <= SEATS);
                        std::thread::yield_now();
                        taken.fetch_sub(1, SeqCst);
                        queue.released();
                    }
                });
            }
        });
        assert_eq!((queue.waiting(), taken.into_inner()), (0, 0));
    }
}
