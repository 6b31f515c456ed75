//! The access log: one line per session. Workers only format into memory; a thread of its own
//! writes, and while it cannot, lines are dropped and counted.

mod lane;
mod line;
mod sink;
mod writer;

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, Thread};
use std::time::{Duration, Instant, SystemTime};

use self::lane::{Handover, Lane, Mode, PENDING_BYTES_MAX, Shared, lock};
pub use self::line::{FailedTry, Record};
use self::sink::Sink;
use crate::base::wall::Stamp;
use crate::observe::form::Format;

/// Where the lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    Off,
    Stdout,
    Stderr,
    File(PathBuf),
}

/// The log as a whole: owns the thread that writes. Dropped, it lets the thread finish by itself.
#[derive(Debug)]
pub struct AccessLog {
    shared: Arc<Shared>,
    writer: Thread,
    /// Never carries anything: the writer's end of it drops with the thread.
    ended: mpsc::Receiver<()>,
    target: Mutex<Target>,
}

impl AccessLog {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// The target cannot be opened, or the thread not be started.
    pub fn open(target: &Target, format: Format) -> io::Result<AccessLog> {
        let sink = Sink::open(target)?;
        let mode = Mode::first(sink.as_ref().map(|_| format));
        let shared = Arc::new(Shared::new(mode));
        let (end, ended) = mpsc::channel::<()>();
        let of_writer = Arc::clone(&shared);
        let handle = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                let _dropped_when_done = end;
                writer::run(of_writer, mode, sink);
            })?;
        let target = Mutex::new(target.clone());
        Ok(AccessLog {
            shared,
            writer: handle.thread().clone(),
            ended,
            target,
        })
    }

    /// One worker's way in.
    pub fn line_writer(&self) -> LineWriter {
        LineWriter {
            lane: self.shared.add_lane(),
            mode: self.shared.mode(),
            shared: Arc::clone(&self.shared),
            writer: self.writer.clone(),
            stamp: Stamp::new(),
            pending: Vec::new(),
            pending_lines: 0,
        }
    }

    /// Opens the file anew, for after it was renamed. Lines that workers flush from now on go to
    /// the new file. Does nothing for a target that is not a file.
    ///
    /// # Errors
    /// The file cannot be opened; the old one stays.
    pub fn reopen(&self) -> io::Result<()> {
        let target = lock(&self.target);
        if let Target::File(_) = &*target {
            let sink = Sink::open(&target)?;
            lock(&self.shared.orders).reopened = sink;
            self.writer.unpark();
        }
        Ok(())
    }

    /// Changes target and format; where both stay nothing is opened anew. No target gets lines of two formats: those that were under way
    /// still go to the old one if it takes them within a second.
    ///
    /// # Errors
    /// The new target cannot be opened; the old one stays.
    pub fn replace(&self, target: &Target, format: Format) -> io::Result<()> {
        let mut old_target = lock(&self.target);
        let wanted = (*target != Target::Off).then_some(format);
        if *old_target == *target && self.shared.mode().format() == wanted {
            // Many reloads in a row, as most are, must not crowd out the lines under way.
            return Ok(());
        }
        let sink = Sink::open(target)?;
        let mut orders = lock(&self.shared.orders);
        let mode = self.shared.mode().next(sink.as_ref().map(|_| format));
        if orders.replaced.len() >= REPLACED_MAX {
            orders.replaced.remove(0);
        }
        orders.replaced.push((mode, sink));
        orders.reopened = None;
        self.shared.set_mode(mode);
        *old_target = target.clone();
        self.writer.unpark();
        Ok(())
    }

    /// Lines dropped since the start.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::Relaxed)
    }

    /// Writes what the workers flushed, for at most two seconds, and ends the thread. To lose
    /// nothing, drop the line writers first.
    pub fn shut_down(self) {
        self.stop();
        // Ends by disconnection. A thread stuck in a write is left behind.
        let _timed_out = self
            .ended
            .recv_timeout(SHUT_DOWN_MAX + Duration::from_millis(100));
    }

    fn stop(&self) {
        lock(&self.shared.orders)
            .stop_by
            .get_or_insert_with(|| Instant::now() + WRITE_ON_MAX);
        self.writer.unpark();
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        self.stop();
    }
}

const SHUT_DOWN_MAX: Duration = Duration::from_millis(2000);
/// Leaves the thread time to count what it gave up.
const WRITE_ON_MAX: Duration = Duration::from_millis(1800);
/// Targets that wait for a writer thread which is stuck in the kernel; each is a descriptor.
const REPLACED_MAX: usize = 4;

/// One worker's way into the log. Its last lines are flushed when it is dropped.
#[derive(Debug)]
pub struct LineWriter {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    writer: Thread,
    stamp: Stamp,
    /// Lines not yet handed over, all written for `mode`.
    pending: Vec<u8>,
    pending_lines: u64,
    mode: Mode,
}

impl LineWriter {
    /// Adds a session's line; no syscall, no wait. It leaves the worker with the next
    /// [`flush`](Self::flush).
    #[inline]
    pub fn write(&mut self, record: &Record<'_>, at: SystemTime) {
        let wanted = self.shared.mode();
        if wanted.format().is_some() {
            self.push(record, at, wanted);
        }
    }

    /// Hands the lines to the writer thread; to be called once per wake-up of the worker. Never
    /// waits; wakes the thread (one syscall) only when that sleeps for lack of lines, or when half
    /// of the room is taken.
    #[inline]
    pub fn flush(&mut self) {
        if !self.pending.is_empty() {
            let handover = self.lane.try_hand_over(&mut self.pending, self.mode);
            self.handed_over(handover);
        }
    }

    fn push(&mut self, record: &Record<'_>, at: SystemTime, wanted: Mode) {
        if self.mode != wanted {
            // What is pending goes first; until it is gone, lines keep the mode they had.
            self.flush();
            if self.pending.is_empty() {
                self.mode = wanted;
            }
        }
        let Some(format) = self.mode.format() else {
            return;
        };
        if self.pending.len() >= PENDING_BYTES_MAX - LINE_BYTES_EXPECTED {
            self.shared.lose(1);
            return;
        }
        line::push_line(&mut self.pending, format, self.stamp.render(at), record);
        self.pending_lines += 1;
        if self.pending.len() >= FLUSH_BYTES {
            self.flush();
        }
    }

    #[cold]
    fn forget_pending(&mut self) {
        self.shared.lose(self.pending_lines);
        self.pending.clear();
        self.pending_lines = 0;
    }

    fn handed_over(&mut self, handover: Handover) {
        match handover {
            Handover::First => {
                self.pending_lines = 0;
                if self.shared.is_idle.load(Ordering::Relaxed) {
                    self.writer.unpark();
                }
            }
            Handover::Crowded => {
                self.pending_lines = 0;
                self.writer.unpark();
            }
            Handover::Behind => self.pending_lines = 0,
            Handover::Full => self.forget_pending(),
            Handover::NotNow => {}
        }
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        let handover = self.lane.close(&mut self.pending, self.mode);
        self.handed_over(handover);
        if !self.pending.is_empty() {
            self.forget_pending();
        }
    }
}

/// A wake-up that ends more sessions than this flushes in between.
const FLUSH_BYTES: usize = 64 * 1024;
/// Longer ones exist, but only a line's beginning is checked against the bound.
const LINE_BYTES_EXPECTED: usize = 4096;
const _: () = assert!(FLUSH_BYTES + LINE_BYTES_EXPECTED < PENDING_BYTES_MAX);

#[cfg(test)]
mod tests;
