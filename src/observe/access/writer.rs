//! The writer thread: takes the workers' lines in rounds and brings them to the target.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::{Duration, Instant};

use super::lane::{Mode, Shared, lock};
use super::sink::Sink;

/// Between two rounds: what arrives meanwhile goes out as one write.
const ROUND: Duration = Duration::from_millis(20);
/// Before a write that failed is tried again, or an order is looked for while the target blocks.
const RETRY: Duration = Duration::from_millis(50);
/// An earlier target is kept so long for the lines that were still under way to it.
const FAREWELL: Duration = Duration::from_secs(1);
/// Between two reports of lost lines.
const REPORT: Duration = Duration::from_secs(1);
/// A batch buffer above this gives memory back after a burst.
const BATCH_BYTES_KEPT: usize = 64 * 1024;

/// Runs until an order to stop was carried out.
pub(super) fn run(shared: Arc<Shared>, mode: Mode, sink: Option<Sink>) {
    let now = Instant::now();
    let mut writer = Writer {
        shared,
        mode,
        current: sink,
        earlier: Vec::new(),
        stop_by: None,
        is_failing: false,
        lost_reported: 0,
        report_after: now,
    };
    let mut batch = Vec::new();
    loop {
        // Seen before the lanes are, so that what was handed over before the order is written.
        let is_stopping = writer.stop_by.is_some();
        let has_written = writer.round(&mut batch);
        writer.obey();
        let next_report = writer.report();
        if is_stopping && (!has_written || writer.is_past_stop()) {
            break;
        }
        if writer.stop_by.is_some() {
            continue; // at once, for what was handed over before the order
        }
        let was_idle = writer.shared.is_idle.swap(!has_written, Ordering::Relaxed);
        if has_written {
            thread::park_timeout(ROUND);
        } else if was_idle {
            // The lanes were empty once more after `is_idle` was set. Lines or an order that came
            // since have unparked the thread already.
            match writer.next_farewell().into_iter().chain(next_report).min() {
                Some(at) => thread::park_timeout(at.saturating_duration_since(Instant::now())),
                None => thread::park(),
            }
        }
    }
    writer.report_now();
}

struct Writer {
    shared: Arc<Shared>,
    /// Of the lines that belong to `current`.
    mode: Mode,
    /// Nothing while the log is off.
    current: Option<Sink>,
    /// Targets before `current`, and until when they are kept.
    earlier: Vec<(Mode, Sink, Instant)>,
    stop_by: Option<Instant>,
    /// The last write failed; said once.
    is_failing: bool,
    lost_reported: u64,
    report_after: Instant,
}

impl Writer {
    /// Takes and writes what waits in each lane. False when nothing did.
    fn round(&mut self, batch: &mut Vec<u8>) -> bool {
        let mut has_written = false;
        for lane in self.shared.lanes() {
            if let Some(mode) = lane.take(batch) {
                self.write_all(batch, mode);
                batch.clear();
                batch.shrink_to(BATCH_BYTES_KEPT);
                has_written = true;
            }
        }
        has_written
    }

    /// Writes the lines, waiting as long as it takes and nobody orders otherwise. What cannot be
    /// written any more is counted as lost.
    fn write_all(&mut self, lines: &[u8], mode: Mode) {
        let mut written = 0;
        while written < lines.len() {
            if let Some(old) = self.obey().filter(|_| mode == self.mode) {
                written = leave(&old, lines, written);
                continue;
            }
            let rest = &lines[written..];
            let Some(sink) = self.sink_for(mode) else {
                return self.lose(rest);
            };
            let patience = if self.is_past_stop() {
                Duration::ZERO
            } else {
                RETRY
            };
            match sink.write(rest, patience) {
                Ok(bytes) => {
                    written += bytes;
                    self.note_success();
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if self.is_past_stop() {
                        return self.lose(rest);
                    }
                }
                Err(error) => {
                    self.note_failure(&error);
                    if self.stop_by.is_some() {
                        return self.lose(rest);
                    }
                    thread::sleep(RETRY);
                }
            }
            self.report();
        }
    }

    fn sink_for(&self, mode: Mode) -> Option<&Sink> {
        if mode == self.mode {
            return self.current.as_ref();
        }
        let (_, sink, until) = self.earlier.iter().find(|(of, ..)| *of == mode)?;
        (Instant::now() < *until).then_some(sink)
    }

    /// Looks for orders. Gives the sink that a reopened one has taken the place of.
    fn obey(&mut self) -> Option<Sink> {
        let shared = Arc::clone(&self.shared);
        let mut orders = lock(&shared.orders);
        self.stop_by = orders.stop_by;
        for (mode, sink) in orders.replaced.drain(..) {
            if let Some(old) = std::mem::replace(&mut self.current, sink) {
                self.earlier
                    .push((self.mode, old, Instant::now() + FAREWELL));
            }
            self.mode = mode;
            self.is_failing = false;
        }
        let reopened = orders.reopened.take()?;
        drop(orders);
        self.is_failing = false;
        self.current.replace(reopened)
    }

    fn is_past_stop(&self) -> bool {
        self.stop_by.is_some_and(|by| by <= Instant::now())
    }

    fn next_farewell(&mut self) -> Option<Instant> {
        let now = Instant::now();
        self.earlier.retain(|(.., until)| now < *until);
        self.earlier.iter().map(|(.., until)| *until).min()
    }

    fn lose(&self, rest: &[u8]) {
        self.shared.lose(count_lines(rest));
    }

    fn note_success(&mut self) {
        if self.is_failing {
            self.is_failing = false;
            tracing::info!("access log is written again");
        }
    }

    fn note_failure(&mut self, error: &io::Error) {
        if !self.is_failing {
            self.is_failing = true;
            tracing::warn!("access log cannot be written: {error}; will be tried again");
        }
    }

    /// Says how many lines were lost, at most once per [`REPORT`]. Gives the time of the report
    /// that is still due.
    fn report(&mut self) -> Option<Instant> {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost == self.lost_reported {
            return None;
        }
        let now = Instant::now();
        if now < self.report_after {
            return Some(self.report_after);
        }
        self.report_after = now + REPORT;
        self.report_now();
        None
    }

    fn report_now(&mut self) {
        let lost = self.shared.lost.load(Ordering::Relaxed);
        let new = lost - self.lost_reported;
        self.lost_reported = lost;
        if new > 0 {
            tracing::warn!("{new} access log lines lost");
        }
    }
}

/// Completes in `old` a line that it holds the beginning of, and gives the place from which the
/// next file goes on: behind that line, or at its beginning when `old` does not take the rest.
pub(super) fn leave(old: &Sink, lines: &[u8], written: usize) -> usize {
    if written == 0 || lines[written - 1] == b'\n' {
        return written;
    }
    let begin = lines[..written]
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1);
    let end = lines[written..]
        .iter()
        .position(|&byte| byte == b'\n')
        .map_or(0, |end| end + 1);
    let rest = &lines[written..written + end];
    match old.write(rest, Duration::ZERO) {
        Ok(bytes) if bytes == rest.len() => written + end,
        _ => begin,
    }
}

/// Lines end within `bytes`; the first may have begun before.
fn count_lines(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|&&byte| byte == b'\n').count() as u64
}
