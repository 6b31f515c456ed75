//! What probes and traffic say of a backend.

use std::time::Duration;

/// When connect failures of real traffic take a backend out for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ejection {
    /// Connect failures in a row; 0 = never eject.
    pub connect_failures: u32,
    /// Length of the first ejection; doubles with each further one in a row.
    pub base: Duration,
    pub max: Duration,
    /// Largest share of the pool's backends that may be ejected at once, 0..=100.
    pub max_percent: u8,
}

/// How many probe results in a row change the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Passes in a row that take a backend from down to up, at least 1.
    pub rise: u32,
    /// Failures in a row that take a backend from up to down, at least 1.
    pub fall: u32,
}
