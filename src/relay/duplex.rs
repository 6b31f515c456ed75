//! Both directions of a session and how they end.
//!
//! A FIN is passed on behind the last byte, each way by itself. A reset is passed on as a reset:
//! what was read before it is delivered first, and when the surviving peer has acknowledged it
//! (or stopped acknowledging) its connection is reset too, so that a broken transfer never looks
//! like a complete one.

use std::io;
use std::time::Duration;

use super::direction::{Broken, Direction, Flow, Tools, Turn};
use super::secured::{Fault, Secured};
use crate::base::addr::Side;
use crate::base::clock::Moment;
use crate::net::peer::Peer;
use crate::net::poller::{Poller, Readiness};

/// After one side broke: how long the other may go without acknowledging any of the bytes that
/// are still under way to it before it is reset as well.
const LAST_BYTES_QUIET: Duration = Duration::from_secs(1);

/// And how long that may take in all.
const LAST_BYTES_MAX: Duration = Duration::from_secs(30);

/// What a session's relay wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before the next event.
    Waits,
    /// Another turn soon, after the others had theirs.
    Again,
    /// Another look within a timer tick: last bytes are under way.
    Lingers,
    Ended(End),
}

/// How the relay ended by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Both directions are complete; this side closed first.
    Closed(Side),
    /// This side reset its connection or vanished.
    Reset(Side),
    /// The kernel would not watch the sockets: memory or watches ran out.
    Unwatched,
}

#[derive(Debug)]
pub struct Duplex {
    client: Peer,
    backend: Peer,
    to_backend: Direction,
    to_client: Direction,
    secured: Option<Box<Secured>>,
    /// Whose FIN came first.
    first_closed: Option<Side>,
    cut: Option<Cut>,
    /// When a byte last moved in either direction, or the first half closed.
    pub moved_at: Moment,
    /// The client was the last to say something.
    pub awaits_answer: bool,
}

/// One side broke; the other still gets what was read for it.
#[derive(Clone, Copy, Debug)]
struct Cut {
    culprit: Side,
    since: Moment,
    /// Bytes on their way to the survivor at the last look, and when they last became fewer.
    outstanding: u32,
    progress_at: Moment,
}

impl Duplex {
    /// `directions`, to the backend and to the client, may already hold or have delivered what was
    /// read ahead of the relay.
    pub fn new(
        client: Peer,
        backend: Peer,
        directions: (Direction, Direction),
        secured: Option<Box<Secured>>,
        now: Moment,
    ) -> Self {
        let (to_backend, to_client) = directions;
        let awaits_answer = to_backend.delivered() > 0 || to_backend.holds_bytes();
        Duplex {
            client,
            backend,
            to_backend,
            to_client,
            secured,
            first_closed: None,
            cut: None,
            moved_at: now,
            awaits_answer,
        }
    }

    pub fn notice(&mut self, side: Side, readiness: Readiness) {
        self.peer_mut(side).notice(readiness);
    }

    pub fn bytes_to_backend(&self) -> u64 {
        self.to_backend.delivered()
    }

    pub fn bytes_to_client(&self) -> u64 {
        self.to_client.delivered()
    }

    pub fn spliced(&self) -> bool {
        self.to_backend.spliced() || self.to_client.spliced()
    }

    /// Whether one end speaks TLS with us.
    pub fn is_secured(&self) -> bool {
        self.secured.is_some()
    }

    /// Who broke the rules of TLS, and how.
    pub fn fault(&self) -> Option<&(Side, Fault)> {
        self.secured.as_ref()?.fault.as_ref()
    }

    /// Whether all that `side` had to say was passed on, its end too.
    pub fn is_complete(&self, side: Side) -> bool {
        self.finished(side)
    }

    /// What waits for data to be sent with waits no longer.
    pub fn hurry(&mut self) {
        if let Some(secured) = &mut self.secured {
            secured.hurry();
        }
    }

    /// One side has closed and the other has not.
    pub fn half_closed(&self) -> bool {
        self.first_closed.is_some()
    }

    /// The side that does not take the bytes that were read for it.
    pub fn blocked_by(&self) -> Option<Side> {
        if self.to_client.holds_bytes() {
            Some(Side::Client)
        } else if self.to_backend.holds_bytes() {
            Some(Side::Backend)
        } else {
            None
        }
    }

    pub fn backend(&self) -> &Peer {
        &self.backend
    }

    /// Moves what can be moved and says what comes next.
    pub fn advance(&mut self, tools: &mut Tools<'_>, poller: &Poller, now: Moment) -> Step {
        let before = self.bytes_to_backend() + self.bytes_to_client();
        let answered = self.bytes_to_client();
        let mut again = false;
        for side in [Side::Client, Side::Backend] {
            again |= self.turn_from(side, tools, now) == Turn::Again;
        }
        for side in [Side::Client, Side::Backend] {
            // Whoever has said that it ends may hang up on our last words: they were for nobody.
            let has_ended = matches!(self.from(side).flow(), Flow::Ended | Flow::Finished);
            if self.peer_mut(side).broken && !has_ended {
                self.cut_by(side, now);
            }
        }
        if self.bytes_to_backend() + self.bytes_to_client() != before {
            self.moved_at = now;
            self.awaits_answer = self.bytes_to_client() == answered;
        }
        if self.secured.as_mut().is_some_and(|tls| tls.take_heard()) {
            self.moved_at = now;
        }
        self.flush_secured();
        if let Some(cut) = self.cut {
            return self.linger(cut, again, tools, now);
        }
        let was_open = self.first_closed.is_none();
        self.pass_fins_on();
        if was_open && self.first_closed.is_some() {
            self.moved_at = now;
        }
        if self.finished(Side::Client) && self.finished(Side::Backend) {
            return Step::Ended(End::Closed(self.first_closed.unwrap_or(Side::Client)));
        }
        if again {
            return Step::Again;
        }
        match self.watch(poller) {
            Ok(()) => Step::Waits,
            Err(_) => {
                self.close_by_reset();
                Step::Ended(End::Unwatched)
            }
        }
    }

    /// Watches both sockets, each for room only once something waits for it.
    fn watch(&mut self, poller: &Poller) -> io::Result<()> {
        let (to_backend, to_client) = (self.to_backend.holds_bytes(), self.to_client.holds_bytes());
        self.backend.watch(poller, to_backend)?;
        self.client.watch(poller, to_client)
    }

    /// One turn of the direction whose source is `side`.
    fn turn_from(&mut self, side: Side, tools: &mut Tools<'_>, now: Moment) -> Turn {
        // Within a record that is on its way to it an alert would be noise.
        let may_alert = !self.from(side.other()).holds_bytes();
        let (direction, source, sink) = match side {
            Side::Client => (&mut self.to_backend, &mut self.client, &mut self.backend),
            Side::Backend => (&mut self.to_client, &mut self.backend, &mut self.client),
        };
        if sink.broken && direction.flow() < Flow::Finished {
            direction.discard(tools.pipes);
            direction.cut();
            self.cut_by(side.other(), now);
            return Turn::Waits;
        }
        let turn = match &mut self.secured {
            None => direction.turn(source, sink, tools),
            Some(secured) => secured.turn(side, direction, source, sink, tools),
        };
        match turn {
            Ok(turn) => turn,
            Err(Broken::Source) => {
                direction.cut();
                source.broken = true;
                if let Some(secured) = self.secured.as_mut().filter(|_| may_alert) {
                    secured.send_alert(side, source);
                }
                // A segment may have been kept back for a FIN that will not come.
                sink.flush();
                self.cut_by(side, now);
                Turn::Waits
            }
            Err(Broken::Sink) => {
                sink.broken = true;
                // Its own last bytes can still be read.
                sink.readable = true;
                direction.discard(tools.pipes);
                direction.cut();
                self.cut_by(side.other(), now);
                Turn::Waits
            }
        }
    }

    /// Sends what the TLS of either end has to say beside the data.
    fn flush_secured(&mut self) {
        if let Some(secured) = &mut self.secured {
            secured.flush(Side::Client, &mut self.to_client, &mut self.client);
            secured.flush(Side::Backend, &mut self.to_backend, &mut self.backend);
        }
    }

    /// Remembers who broke first.
    fn cut_by(&mut self, culprit: Side, now: Moment) {
        self.cut.get_or_insert(Cut {
            culprit,
            since: now,
            outstanding: u32::MAX,
            progress_at: now,
        });
    }

    fn pass_fins_on(&mut self) {
        for side in [Side::Client, Side::Backend] {
            let other_finished = self.finished(side.other());
            let (direction, sink) = match side {
                Side::Client => (&mut self.to_backend, &mut self.backend),
                Side::Backend => (&mut self.to_client, &mut self.client),
            };
            if direction.flow() == Flow::Ended {
                self.first_closed.get_or_insert(side);
                if let Some(secured) = &mut self.secured {
                    secured.say_goodbye(side.other());
                    secured.flush(side.other(), direction, sink);
                }
                if !direction.holds_bytes() {
                    direction.finish();
                    // The second FIN is said by the close that follows.
                    if !other_finished {
                        sink.finish();
                    }
                }
            }
        }
    }

    /// Whether the direction whose source is `side` is complete.
    fn finished(&self, side: Side) -> bool {
        self.from(side).flow() == Flow::Finished
    }

    fn from(&self, side: Side) -> &Direction {
        match side {
            Side::Client => &self.to_backend,
            Side::Backend => &self.to_client,
        }
    }

    fn peer_mut(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Client => &mut self.client,
            Side::Backend => &mut self.backend,
        }
    }

    /// After a cut: waits until the survivor has what was read for it, then resets it.
    fn linger(&mut self, mut cut: Cut, again: bool, tools: &mut Tools<'_>, now: Moment) -> Step {
        let ended = Step::Ended(End::Reset(cut.culprit));
        let (last_bytes, source, survivor) = match cut.culprit {
            Side::Client => (&mut self.to_backend, &self.client, &mut self.backend),
            Side::Backend => (&mut self.to_client, &self.backend, &mut self.client),
        };
        if survivor.broken {
            last_bytes.discard(tools.pipes);
            return ended;
        }
        let holds_bytes = last_bytes.holds_bytes();
        let reading = last_bytes.flow() == Flow::Open && !holds_bytes;
        if again || (reading && source.readable) {
            return Step::Again;
        }
        let outstanding = survivor.unacknowledged();
        let delivered = !holds_bytes && outstanding == 0;
        if outstanding != cut.outstanding || self.moved_at > cut.progress_at {
            cut.outstanding = outstanding;
            cut.progress_at = now;
        }
        let given_up = now.since(cut.progress_at) >= LAST_BYTES_QUIET
            || now.since(cut.since) >= LAST_BYTES_MAX;
        if delivered || given_up {
            survivor.close_by_reset();
            return ended;
        }
        self.cut = Some(cut);
        Step::Lingers
    }

    /// The sum of bytes both peers have acknowledged, when some are outstanding: a mark that
    /// moves as long as a slow reader reads. `None` when nothing is under way.
    pub fn acknowledged_mark(&self) -> Option<u64> {
        if self.client.unacknowledged() == 0 && self.backend.unacknowledged() == 0 {
            return None;
        }
        Some(self.client.acknowledged() + self.backend.acknowledged())
    }

    /// Ends the session from our side: both peers see a reset, never an end they could take
    /// for the other's.
    pub fn close_by_reset(&self) {
        self.client.close_by_reset();
        self.backend.close_by_reset();
    }

    /// Gives back what the session borrowed from its worker. Call before the drop.
    pub fn release(&mut self, tools: &mut Tools<'_>) {
        self.to_backend.discard(tools.pipes);
        self.to_client.discard(tools.pipes);
    }
}
