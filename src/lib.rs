//! lbd, a layer-4 load balancer for Linux.
//!
//! This file is the map: it declares the floors from the ground up and the rooms on each. A room
//! uses rooms of lower floors only, never a neighbour floor, never a higher one
//! (`tests/suite/floors.rs` checks it).

#![deny(unsafe_op_in_unsafe_fn, missing_debug_implementations, unreachable_pub)]

/// Floor 0: words every other floor uses.
pub mod base {
    pub mod addr;
    pub mod clock;
    pub mod ending;
    pub mod wall;
}

/// Floor 1: the only `unsafe` code: kernel calls that no safe wrapper offers.
pub mod sys {}

/// Floor 1: parsers and encoders of bytes on the wire; pure.
pub mod wire {
    pub mod http;
}

/// Floor 1: the process log and the access log.
pub mod observe {
    pub mod access;
    pub mod form;
    pub mod log;
}

/// Floor 2: which backend is taken, and why; pure: no sockets, no clock, no threads of its own.
pub mod balance {
    pub mod health;
    pub mod policy;
}

/// Floor 3: from TOML text to checked settings.
pub mod config {
    pub mod settings;
}

/// Floor 5: asks the backends how they are.
pub mod probe {
    pub mod pace;
    pub mod runner;
}
