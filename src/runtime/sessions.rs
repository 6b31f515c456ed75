//! A worker's sessions by number, and the tokens their sockets are watched under.

use crate::base::addr::Side;
use crate::net::poller::Token;
use crate::proxy::session::{Session, Standing};

/// Places of sessions. A freed place is used again under another generation, so that an event
/// that was on its way to the old session is not taken for the new one's.
#[derive(Debug, Default)]
pub struct Sessions {
    places: Vec<Place>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Place {
    generation: u32,
    /// Waits for another turn.
    wants_turn: bool,
    session: Option<Box<Session>>,
}

/// Generation of tokens that are not a session's.
const CONTROL: u32 = 0;

/// What a token stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Session {
        number: u32,
        side: Side,
    },
    /// A session that is gone.
    Stale,
    Control(u32),
}

impl Sessions {
    /// Reserves a place.
    pub fn reserve(&mut self) -> u32 {
        match self.free.pop() {
            Some(number) => number,
            None => {
                self.places.push(Place {
                    generation: CONTROL + 1,
                    wants_turn: false,
                    session: None,
                });
                (self.places.len() - 1) as u32
            }
        }
    }

    /// Tokens for the client's and the backend's socket of the session at `number`.
    pub fn tokens(&self, number: u32) -> [Token; 2] {
        let base =
            u64::from(self.places[number as usize].generation) << 32 | u64::from(number) << 1;
        [Token(base), Token(base | 1)]
    }

    pub fn put(&mut self, number: u32, session: Session) {
        self.places[number as usize].session = Some(Box::new(session));
    }

    pub fn get(&mut self, number: u32) -> Option<&mut Session> {
        self.places.get_mut(number as usize)?.session.as_deref_mut()
    }

    /// Notes that a session wants another turn. False: it was noted already, so that several
    /// events of one busy session do not give it several turns.
    pub fn ask_for_turn(&mut self, number: u32) -> bool {
        !std::mem::replace(&mut self.places[number as usize].wants_turn, true)
    }

    /// The turn is given.
    pub fn take_turn(&mut self, number: u32) {
        self.places[number as usize].wants_turn = false;
    }

    /// Frees a place and drops its session.
    pub fn remove(&mut self, number: u32) {
        let place = &mut self.places[number as usize];
        place.session = None;
        place.generation = place.generation.checked_add(1).unwrap_or(CONTROL + 1);
        self.free.push(number);
    }

    /// Sessions, and places reserved for one.
    pub fn len(&self) -> u32 {
        (self.places.len() - self.free.len()) as u32
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Places, whether they are taken or not.
    pub fn places(&self) -> u32 {
        self.places.len() as u32
    }

    /// The session at a place, and how manieth it is there.
    pub fn at(&self, number: u32) -> Option<(u32, &Session)> {
        let place = self.places.get(number as usize)?;
        Some((place.generation, place.session.as_deref()?))
    }

    /// Numbers of all sessions.
    pub fn numbers(&self) -> Vec<u32> {
        let all = self.places.iter().enumerate();
        all.filter(|(_, place)| place.session.is_some())
            .map(|(number, _)| number as u32)
            .collect()
    }

    /// Sessions that have their backend.
    pub fn standings(&self) -> impl Iterator<Item = (u32, Standing<'_>)> {
        let all = self.places.iter().enumerate();
        all.filter_map(|(number, place)| {
            let standing = place.session.as_deref()?.standing()?;
            Some((number as u32, standing))
        })
    }

    pub fn control(number: u32) -> Token {
        Token(u64::from(CONTROL) << 32 | u64::from(number))
    }

    pub fn source(&self, token: Token) -> Source {
        let generation = (token.0 >> 32) as u32;
        let low = token.0 as u32;
        if generation == CONTROL {
            return Source::Control(low);
        }
        let number = low >> 1;
        match self.places.get(number as usize) {
            Some(place) if place.generation == generation => {
                let side = if low & 1 == 0 {
                    Side::Client
                } else {
                    Side::Backend
                };
                Source::Session { number, side }
            }
            _ => Source::Stale,
        }
    }
}
