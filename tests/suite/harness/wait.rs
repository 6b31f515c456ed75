//! Waiting for a condition instead of for a time.

use std::thread;
use std::time::{Duration, Instant};

/// Far beyond what anything here takes, so that only what hangs runs into it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// Waits until `look` finds something. Panics, naming what was awaited, when it never does.
#[track_caller]
pub fn until_some<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, look) {
        Some(found) => found,
        None => panic!("after {PATIENCE:?} still waiting until {what}"),
    }
}

/// Waits until a condition holds. Panics, naming it, when it never does.
#[track_caller]
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    until_some(what, || holds().then_some(()));
}

/// What `look` finds within a time.
pub fn within<T>(time: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if begun.elapsed() >= time {
            return None;
        }
        thread::sleep(LOOK);
    }
}
