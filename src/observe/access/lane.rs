//! What a worker and the writer thread share: one buffer of lines for each worker, and the orders
//! to the writer.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::sink::Sink;
use crate::observe::form::Format;

/// Lines of one worker that wait for the writer; with [`PENDING_BYTES_MAX`] at most 1 MiB.
pub(super) const WAITING_BYTES_MAX: usize = 768 * 1024;
/// Lines that a worker keeps to itself while it cannot hand them over.
pub(super) const PENDING_BYTES_MAX: usize = 256 * 1024;
const _: () = assert!(WAITING_BYTES_MAX + PENDING_BYTES_MAX <= 1024 * 1024);

/// Everything that workers, writer and control thread share.
#[derive(Debug)]
pub(super) struct Shared {
    /// A [`Mode`]: which lines are wanted now.
    mode: AtomicU32,
    /// Lines that were dropped.
    pub(super) lost: AtomicU64,
    /// The writer sleeps, or is about to, until it is unparked. Set before it looks into the lanes
    /// for the last time: who adds to an empty lane after that look sees it, as the lane's lock
    /// orders the two.
    pub(super) is_idle: AtomicBool,
    lanes: Mutex<Vec<Arc<Lane>>>,
    pub(super) orders: Mutex<Orders>,
}

/// What the control thread wants of the writer.
#[derive(Debug, Default)]
pub(super) struct Orders {
    /// The same target, opened anew.
    pub(super) reopened: Option<Sink>,
    /// Other targets, in order, each for the lines of its mode; the last is the one in use.
    pub(super) replaced: Vec<(Mode, Option<Sink>)>,
    /// End once all is written, and then in any case.
    pub(super) stop_by: Option<Instant>,
}

impl Shared {
    pub(super) fn new(mode: Mode) -> Self {
        Shared {
            mode: AtomicU32::new(mode.0),
            lost: AtomicU64::new(0),
            is_idle: AtomicBool::new(false),
            lanes: Mutex::default(),
            orders: Mutex::default(),
        }
    }

    #[inline]
    pub(super) fn mode(&self) -> Mode {
        Mode(self.mode.load(Ordering::Relaxed))
    }

    pub(super) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode.0, Ordering::Relaxed);
    }

    pub(super) fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn add_lane(&self) -> Arc<Lane> {
        let lane = Arc::new(Lane::default());
        lock(&self.lanes).push(Arc::clone(&lane));
        lane
    }

    /// The lanes to look into now. Those whose worker is gone are looked into once more and then
    /// forgotten: they close after their last line.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        let mut lanes = lock(&self.lanes);
        let now = lanes.clone();
        lanes.retain(|lane| !lane.closed.load(Ordering::Acquire));
        now
    }
}

/// The lines of one worker on their way to the writer.
#[derive(Debug, Default)]
pub(super) struct Lane {
    waiting: Mutex<Waiting>,
    /// The worker is gone and adds no more.
    closed: AtomicBool,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: Vec<u8>,
    /// All of `lines` were written for this mode.
    mode: Mode,
}

/// What became of lines that were handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handover {
    /// The lane was empty: the writer may be idle.
    First,
    Behind,
    /// Taken, but the writer should not wait for its next round.
    Crowded,
    /// The lane is full and stays so until the writer took it.
    Full,
    /// The writer is at it right now, or first has to take lines of an earlier mode.
    NotNow,
}

impl Lane {
    /// Moves `lines` into the lane, without ever waiting; leaves them alone unless it took them.
    pub(super) fn try_hand_over(&self, lines: &mut Vec<u8>, mode: Mode) -> Handover {
        for _ in 0..LOCK_TRIES {
            match self.waiting.try_lock() {
                Ok(waiting) => return hand_over(waiting, lines, mode),
                Err(TryLockError::Poisoned(poisoned)) => {
                    return hand_over(poisoned.into_inner(), lines, mode);
                }
                Err(TryLockError::WouldBlock) => std::hint::spin_loop(),
            }
        }
        Handover::NotNow
    }

    /// The worker's last lines. There will be no other time, so this waits up to 100 ms for the
    /// writer to make room.
    pub(super) fn close(&self, lines: &mut Vec<u8>, mode: Mode) -> Handover {
        let mut handover = Handover::Behind;
        for _ in 0..20 {
            if lines.is_empty() {
                break;
            }
            handover = hand_over(lock(&self.waiting), lines, mode);
            if matches!(handover, Handover::NotNow | Handover::Full) {
                thread::sleep(Duration::from_millis(5));
            }
        }
        self.closed.store(true, Ordering::Release);
        handover
    }

    /// Swaps the waiting lines for the empty `batch` and says for which mode they were written.
    pub(super) fn take(&self, batch: &mut Vec<u8>) -> Option<Mode> {
        debug_assert!(batch.is_empty());
        let mut waiting = lock(&self.waiting);
        if waiting.lines.is_empty() {
            return None;
        }
        std::mem::swap(&mut waiting.lines, batch);
        Some(waiting.mode)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        lock(&self.waiting).lines.len()
    }
}

/// The writer holds a lane's lock for three stores, 50 times a second; so many looks outlast it
/// unless it was preempted in between.
const LOCK_TRIES: u32 = 32;

fn hand_over(mut waiting: MutexGuard<'_, Waiting>, lines: &mut Vec<u8>, mode: Mode) -> Handover {
    if waiting.lines.is_empty() {
        std::mem::swap(&mut waiting.lines, lines);
        waiting.mode = mode;
        Handover::First
    } else if waiting.mode != mode {
        Handover::NotNow
    } else if waiting.lines.len() + lines.len() > WAITING_BYTES_MAX {
        Handover::Full
    } else {
        waiting.lines.append(lines);
        match waiting.lines.len() > WAITING_BYTES_MAX / 2 {
            true => Handover::Crowded,
            false => Handover::Behind,
        }
    }
}

/// A panic while a lock was held leaves nothing half done here.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Which lines are wanted, and the how manieth time that was decided, in one number: lines of an
/// earlier mode belong to an earlier target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mode(u32);

impl Mode {
    pub(super) fn first(format: Option<Format>) -> Self {
        Mode::default().next(format)
    }

    /// `None`: no lines are wanted.
    pub(super) fn next(self, format: Option<Format>) -> Self {
        let code = match format {
            None => 0,
            Some(Format::Text) => 1,
            Some(Format::Json) => 2,
        };
        Mode((self.0 & !3).wrapping_add(4) | code)
    }

    #[inline]
    pub(super) fn format(self) -> Option<Format> {
        match self.0 & 3 {
            1 => Some(Format::Text),
            2 => Some(Format::Json),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_lane_refuses_more_until_the_writer_took_it() {
        let lane = Lane::default();
        let mode = Mode::first(Some(Format::Text));
        let mut half = vec![b'x'; WAITING_BYTES_MAX / 2];
        assert_eq!(lane.try_hand_over(&mut half.clone(), mode), Handover::First);
        assert_eq!(
            lane.try_hand_over(&mut half.clone(), mode),
            Handover::Crowded
        );
        assert_eq!(lane.try_hand_over(&mut half, mode), Handover::Full);
        assert_eq!(half.len(), WAITING_BYTES_MAX / 2, "left alone");
        let mut batch = Vec::new();
        assert_eq!(lane.take(&mut batch), Some(mode));
        assert_eq!(batch.len(), WAITING_BYTES_MAX);
        assert_eq!(lane.try_hand_over(&mut half, mode), Handover::First);
    }

    #[test]
    fn lines_of_two_modes_never_share_a_lane() {
        let lane = Lane::default();
        let text = Mode::first(Some(Format::Text));
        let json = text.next(Some(Format::Json));
        assert_eq!(
            lane.try_hand_over(&mut b"a\n".to_vec(), text),
            Handover::First
        );
        assert_eq!(
            lane.try_hand_over(&mut b"{}\n".to_vec(), json),
            Handover::NotNow
        );
        let mut batch = Vec::new();
        assert_eq!(lane.take(&mut batch), Some(text));
        assert_eq!(
            lane.try_hand_over(&mut b"{}\n".to_vec(), json),
            Handover::First
        );
    }

    #[test]
    fn a_worker_that_cannot_get_the_lock_keeps_its_lines() {
        let lane = Lane::default();
        let held = lock(&lane.waiting);
        let mut lines = b"a\n".to_vec();
        let mode = Mode::first(Some(Format::Text));
        assert_eq!(lane.try_hand_over(&mut lines, mode), Handover::NotNow);
        assert_eq!(lines, b"a\n");
        drop(held);
        assert_eq!(lane.try_hand_over(&mut lines, mode), Handover::First);
        assert!(lines.is_empty());
    }

    #[test]
    fn every_decision_is_another_mode_even_when_it_wants_the_same() {
        let first = Mode::first(Some(Format::Json));
        let second = first.next(Some(Format::Json));
        assert_ne!(first, second);
        assert_eq!(second.format(), Some(Format::Json));
        assert_eq!(second.next(None).format(), None);
        assert_eq!(
            Mode(u32::MAX).next(Some(Format::Text)).format(),
            Some(Format::Text)
        );
    }
}
