//! One direction of a session: bytes from a source to a sink, by copy or by splice.
//!
//! Copying reads into the worker's scratch buffer and writes at once; only what the sink does not
//! take is stashed, and then nothing is read until it is gone, so the TCP window is the
//! backpressure and a flowing or idle direction owns no buffer. A flow that fills the buffer
//! several times in a row is spliced through a pipe until it turns small again.

use rustix::io::{Errno, read};
use rustix::pipe::{SpliceFlags, splice};

use super::pipe::{Pipe, Pipes};
use crate::net::peer::Peer;

/// Reads of a direction in one turn, so that one fast flow does not starve the others.
const READS_PER_TURN: u32 = 8;

/// Bytes moved by one read. Larger gains little, as what is larger is spliced.
pub const COPY_BYTES: usize = 64 * 1024;

/// Reads in a row that filled the scratch buffer before the direction is spliced.
const FULL_READS_TO_SPLICE: u8 = 2;

/// Offers in a row that were taken whole before the next ones are larger.
const FREE_OFFERS: u8 = 4;

/// A spliced turn that moved less than this counts as small; two in a row end splicing.
const SMALL_TURN_BYTES: u64 = 32 * 1024;

/// The worker's things that a direction borrows for a turn.
#[derive(Debug)]
pub struct Tools<'a> {
    /// Where bytes rest between a read and the write that follows at once: room for
    /// [`PLAIN_BYTES`](crate::tls::stream::PLAIN_BYTES).
    pub scratch: &'a mut [u8],
    /// The same for what is sealed: [`SEALED_ROOM`](crate::tls::stream::SEALED_ROOM).
    pub sealed: &'a mut [u8],
    pub pipes: &'a mut Pipes,
}

/// How far a direction is. A direction only moves down this list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flow {
    /// The source may send.
    Open,
    /// The source's FIN was read; bytes may still be held here.
    Ended,
    /// Everything was delivered and the FIN passed on.
    Finished,
    /// The source or the sink broke: nothing more will be read.
    Cut,
}

/// Which end of a direction broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    Source,
    Sink,
}

/// Why a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing to do before the next event.
    Waits,
    /// There is more to do; others come first.
    Again,
}

#[derive(Debug)]
pub struct Direction {
    /// Bytes the sink has taken.
    delivered: u64,
    flow: Flow,
    mode: Mode,
    stash: Option<Box<Stash>>,
    pipe: Option<Box<Pipe>>,
    /// Full reads in a row while copying, small turns in a row while splicing, offers taken whole
    /// in a row with TLS.
    streak: u8,
    spliced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Copy,
    Splice,
    /// The kernel refused to splice between these two sockets.
    CopyOnly,
}

/// Bytes that were read and not yet taken by the sink: at most one scratch buffer, or what was in
/// a pipe that could not be emptied by splicing.
#[derive(Debug)]
struct Stash {
    bytes: Box<[u8]>,
    sent: usize,
    /// Records: what they hold was counted when it was sealed.
    is_sealed: bool,
}

impl Direction {
    pub fn new() -> Self {
        Direction {
            delivered: 0,
            flow: Flow::Open,
            mode: Mode::Copy,
            stash: None,
            pipe: None,
            streak: 0,
            spliced: false,
        }
    }

    /// Bytes the sink has taken so far.
    pub fn delivered(&self) -> u64 {
        self.delivered
    }

    pub fn flow(&self) -> Flow {
        self.flow
    }

    /// Whether any byte went by splice.
    pub fn spliced(&self) -> bool {
        self.spliced
    }

    /// Whether bytes were read that the sink has not taken.
    pub fn holds_bytes(&self) -> bool {
        self.stash.is_some() || self.pipe.as_ref().is_some_and(|pipe| pipe.held > 0)
    }

    /// Bytes read ahead of the relay, to be delivered first.
    pub fn keep(&mut self, bytes: &[u8]) {
        debug_assert!(!self.holds_bytes());
        self.stash = Some(Box::new(Stash {
            bytes: bytes.into(),
            sent: 0,
            is_sealed: false,
        }));
    }

    /// Records that the sink has not taken, behind those it has not taken before.
    pub(super) fn keep_sealed(&mut self, records: &[u8]) {
        let bytes = match &self.stash {
            None => records.into(),
            Some(stash) => {
                debug_assert!(stash.is_sealed);
                [&stash.bytes[stash.sent..], records].concat().into()
            }
        };
        self.stash = Some(Box::new(Stash {
            bytes,
            sent: 0,
            is_sealed: true,
        }));
    }

    /// What was read ahead and is not sealed yet.
    pub(super) fn take_unsealed(&mut self) -> Option<Box<[u8]>> {
        let stash = self.stash.take_if(|stash| !stash.is_sealed)?;
        debug_assert_eq!(stash.sent, 0, "nothing leaves a sealed direction as it is");
        Some(stash.bytes)
    }

    /// The first bytes of what is held were delivered ahead of the relay, together with other
    /// things.
    pub fn held_was_delivered(&mut self, bytes: usize) {
        if let Some(stash) = &mut self.stash {
            stash.sent += bytes;
            self.delivered += bytes as u64;
        }
        self.stash.take_if(|stash| stash.sent == stash.bytes.len());
    }

    /// Whether the sink takes all it is offered, for a while now. Of a direction with TLS.
    pub(super) fn flows_freely(&self) -> bool {
        self.streak >= FREE_OFFERS
    }

    /// What became of an offer to the sink. Of a direction with TLS.
    pub(super) fn note_taken(&mut self, all: bool) {
        self.streak = if all {
            self.streak.saturating_add(1)
        } else {
            0
        };
    }

    /// The bytes that [`keep`](Self::keep) was given, as far as they are not delivered.
    pub fn held(&self) -> &[u8] {
        self.stash
            .as_ref()
            .map_or(&[], |stash| &stash.bytes[stash.sent..])
    }

    /// Counts bytes that were delivered ahead of the relay.
    pub fn count_delivered(&mut self, bytes: usize) {
        self.delivered += bytes as u64;
    }

    /// The source ended ahead of the relay.
    pub fn end(&mut self) {
        debug_assert_eq!(self.flow, Flow::Open);
        self.flow = Flow::Ended;
    }

    /// The FIN was passed on.
    pub fn finish(&mut self) {
        debug_assert!(self.flow == Flow::Ended && !self.holds_bytes());
        self.flow = Flow::Finished;
    }

    /// Stops reading. Bytes already read stay, to be delivered if the sink lives.
    pub fn cut(&mut self) {
        self.flow = Flow::Cut;
    }

    /// Drops what is held; for a sink that is gone.
    pub fn discard(&mut self, pipes: &mut Pipes) {
        self.stash = None;
        self.return_pipe(pipes);
    }

    /// Moves what can be moved now.
    ///
    /// Errors: which end broke. Bytes read before a source broke are still held and a further
    /// turn delivers them.
    pub fn turn(
        &mut self,
        source: &mut Peer,
        sink: &mut Peer,
        tools: &mut Tools<'_>,
    ) -> Result<Turn, Broken> {
        let before = self.delivered;
        let mut reads = 0;
        let result = loop {
            if let Err(stop) = self.deliver_held(sink) {
                break stop;
            }
            if self.flow != Flow::Open || !source.readable {
                break Ok(Turn::Waits);
            }
            if reads == READS_PER_TURN {
                break Ok(Turn::Again);
            }
            reads += 1;
            let step = match self.mode {
                Mode::Copy | Mode::CopyOnly => self.copy(source, sink, tools),
                Mode::Splice => self.splice(source, sink, tools.pipes),
            };
            if let Err(stop) = step {
                break stop;
            }
        };
        if self.mode == Mode::Splice && result != Ok(Turn::Again) {
            self.settle(self.delivered - before, tools.pipes);
        }
        result
    }

    /// Offers the sink what is held. `Err` ends the turn with the value inside.
    pub(super) fn deliver_held(&mut self, sink: &mut Peer) -> Result<(), Result<Turn, Broken>> {
        if self.holds_bytes() && !sink.writable {
            return Err(Ok(Turn::Waits));
        }
        if let Some(stash) = &mut self.stash {
            let count = match sink.transmit(&stash.bytes[stash.sent..], false) {
                Ok(count) => count,
                Err(Errno::AGAIN) => return Err(Ok(Turn::Waits)),
                Err(_) => return Err(Err(Broken::Sink)),
            };
            stash.sent += count;
            if !stash.is_sealed {
                self.delivered += count as u64;
            }
            if stash.sent < stash.bytes.len() {
                return Err(Ok(Turn::Waits));
            }
            self.stash = None;
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held > 0) {
            match splice(
                &pipe.output,
                None,
                sink.socket(),
                None,
                pipe.held,
                SPLICE_FLAGS,
            ) {
                // The pipe holds bytes, so 0 cannot be its end.
                Ok(0) => return Err(Err(Broken::Sink)),
                Ok(count) => {
                    pipe.held -= count;
                    self.delivered += count as u64;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    sink.writable = false;
                    return Err(Ok(Turn::Waits));
                }
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                    self.unsplice()?;
                    return self.deliver_held(sink);
                }
                Err(_) => return Err(Err(Broken::Sink)),
            }
        }
        Ok(())
    }

    /// The kernel does not splice to this sink: takes back what the pipe holds, to be copied.
    fn unsplice(&mut self) -> Result<(), Result<Turn, Broken>> {
        self.mode = Mode::CopyOnly;
        let Some(pipe) = &mut self.pipe else {
            return Ok(());
        };
        let mut bytes = vec![0; pipe.held];
        let mut taken = 0;
        while taken < bytes.len() {
            match read(&pipe.output, &mut bytes[taken..]) {
                Ok(count) if count > 0 => taken += count,
                Err(Errno::INTR) => {}
                // The bytes are there, so this cannot be; without them the stream is broken.
                _ => return Err(Err(Broken::Sink)),
            }
        }
        pipe.held = 0;
        self.keep(&bytes);
        Ok(())
    }

    /// One read into the scratch buffer and the write of it.
    fn copy(
        &mut self,
        source: &mut Peer,
        sink: &mut Peer,
        tools: &mut Tools<'_>,
    ) -> Result<(), Result<Turn, Broken>> {
        let scratch = &mut tools.scratch[..COPY_BYTES];
        let count = match source.receive(scratch) {
            Ok(0) => {
                self.flow = Flow::Ended;
                return Ok(());
            }
            Ok(count) => count,
            Err(Errno::AGAIN) => {
                if source.finished {
                    // The FIN that a segment was kept back for is not readable after all.
                    sink.flush();
                }
                return Err(Ok(Turn::Waits));
            }
            Err(_) => return Err(Err(Broken::Source)),
        };
        let full = count == scratch.len();
        // Behind a short read a known FIN is next: it may share the last segment.
        let last = !full && source.finished;
        let sent = match sink.transmit(&scratch[..count], last) {
            Ok(sent) => sent,
            Err(Errno::AGAIN) => 0,
            Err(_) => return Err(Err(Broken::Sink)),
        };
        self.delivered += sent as u64;
        if sent < count {
            self.keep(&scratch[sent..count]);
        }
        self.streak = if full {
            self.streak.saturating_add(1)
        } else {
            0
        };
        if self.streak >= FULL_READS_TO_SPLICE && self.mode == Mode::Copy {
            self.mode = Mode::Splice;
            self.streak = 0;
        }
        Ok(())
    }

    /// One move from the source into the pipe; `deliver_held` moves it on.
    fn splice(
        &mut self,
        source: &mut Peer,
        sink: &mut Peer,
        pipes: &mut Pipes,
    ) -> Result<(), Result<Turn, Broken>> {
        let pipe = match &mut self.pipe {
            Some(pipe) => pipe,
            None => match pipes.take() {
                Some(pipe) => self.pipe.insert(pipe),
                None => {
                    self.mode = Mode::Copy;
                    return Ok(());
                }
            },
        };
        debug_assert_eq!(
            pipe.held, 0,
            "what the pipe holds is delivered before more is read"
        );
        match splice(
            source.socket(),
            None,
            &pipe.input,
            None,
            pipe.capacity,
            SPLICE_FLAGS,
        ) {
            Ok(0) if source.broken => Err(Err(Broken::Source)),
            Ok(0) => {
                self.flow = Flow::Ended;
                Ok(())
            }
            Ok(count) => {
                pipe.held = count;
                self.spliced = true;
                sink.undelay(count);
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            // The pipe is empty, so it is the source that has nothing.
            Err(Errno::AGAIN) => {
                source.readable = false;
                Err(Ok(Turn::Waits))
            }
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {
                self.return_pipe(pipes);
                self.mode = Mode::CopyOnly;
                Ok(())
            }
            Err(_) => Err(Err(Broken::Source)),
        }
    }

    /// After a spliced turn: an empty pipe goes back to the stock, and a flow that turned small
    /// goes back to copying.
    fn settle(&mut self, moved: u64, pipes: &mut Pipes) {
        if self.holds_bytes() {
            return;
        }
        self.return_pipe(pipes);
        self.streak = if moved < SMALL_TURN_BYTES {
            self.streak + 1
        } else {
            0
        };
        if self.streak >= 2 {
            self.mode = Mode::Copy;
            self.streak = 0;
        }
    }

    fn return_pipe(&mut self, pipes: &mut Pipes) {
        if let Some(pipe) = self.pipe.take() {
            pipes.give_back(pipe);
        }
    }
}

impl Default for Direction {
    fn default() -> Self {
        Direction::new()
    }
}

/// Never with MORE: it holds a short reply back for 200 ms.
const SPLICE_FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
