//! The checked configuration: what the floors above may rely on. Nothing here is text any more.

use std::fmt;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::balance::health::{Ejection, Thresholds};
use crate::balance::policy::PolicyKind;
use crate::base::addr::Endpoint;
use crate::base::host::HostName;
pub use crate::observe::access::Target as AccessTarget;
pub use crate::observe::form::Format as LogFormat;
pub use crate::observe::log::Level as LogLevel;

/// One whole, checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub global: Global,
    pub log: Log,
    /// At least one; names are unique.
    pub listeners: Vec<Listener>,
    /// Names are unique; every listener's `pool` is among them.
    pub pools: Vec<Pool>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Global {
    /// Data-plane threads, 1..=256; `None` is "auto": one for each processor.
    pub workers: Option<usize>,
    /// Client connections of the whole process, at least 1.
    pub max_connections: u32,
    pub drain_timeout: Duration,
    /// Key of every hash that chooses a backend. Instances that share it agree on the choice.
    pub hash_seed: String,
    /// Name servers to ask; empty = those of the system.
    pub resolvers: Vec<SocketAddr>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    pub level: LogLevel,
    pub format: LogFormat,
    pub access: AccessTarget,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    pub name: String,
    /// At least one; port ranges are written out. No two listeners share one.
    pub binds: Vec<Endpoint>,
    /// Index into [`Settings::pools`].
    pub pool: usize,
    /// 0 = no limit of its own.
    pub max_connections: u32,
    /// Longest silence in both directions; zero = none.
    pub idle_timeout: Duration,
    /// Longest silence once one side has closed; zero = none.
    pub half_close_timeout: Duration,
    /// Longest life of a connection; zero = none.
    pub max_lifetime: Duration,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    pub name: String,
    pub policy: PolicyKind,
    /// Time for all tries of one client together, more than zero.
    pub connect_timeout: Duration,
    /// Further backends tried after the first, 0..=16.
    pub retries: u32,
    /// Retries for each 100 connections, over some seconds; 0 = only the few that are always let
    /// through.
    pub retry_budget: u32,
    /// Over all backends; 0 = no limit.
    pub max_connections: u32,
    pub queue: Queue,
    pub drain: Drain,
    /// Idle sessions moved each second when a backend comes; 0 = none.
    pub rebalance: u32,
    pub ejection: Ejection,
    pub health: Health,
    /// Names are unique within the pool; at least one, unless `discover` has one.
    pub backends: Vec<Backend>,
    /// Where further backends are found while lbd runs.
    pub discover: Vec<Discover>,
}

/// Where clients wait while every backend is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queue {
    /// Clients that may wait; 0 = none.
    pub length: u32,
    /// The longest wait, more than zero.
    pub timeout: Duration,
    /// Whether a client that closed its sending half waits on, else it is taken to have left.
    pub stays_half_closed: bool,
}

/// How the sessions of a backend end that is to have none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// When the last one is closed; zero = they are left to end by themselves.
    pub deadline: Duration,
    /// Whether the sessions of a backend that goes down are closed.
    pub closes_on_down: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    pub name: String,
    pub address: Address,
    /// 0 = takes no new connection; at most 65 535.
    pub weight: u16,
    /// Lower first.
    pub priority: u16,
    /// 0 = no limit.
    pub max_connections: u32,
}

/// Where a backend is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    At(Endpoint),
    /// At one of the addresses that the name has at the time.
    Named {
        host: HostName,
        /// Never 0.
        port: u16,
    },
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::At(endpoint) => endpoint.fmt(f),
            Address::Named { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// Backends that are not listed but found.
#[derive(Clone, Debug, PartialEq)]
pub enum Discover {
    /// Each address of a name is a backend.
    Dns {
        name: HostName,
        /// Never 0.
        port: u16,
        weight: u16,
        priority: u16,
        max_connections: u32,
        ttl: TtlBounds,
    },
    /// Each address of each target of a service is a backend; weight, priority and port are those
    /// of the record (RFC 2782).
    Srv {
        name: HostName,
        max_connections: u32,
        ttl: TtlBounds,
    },
    /// Each `[[backend]]` of a file is a backend.
    File {
        path: PathBuf,
        /// Whether a file without backends is believed.
        allow_empty: bool,
    },
}

/// An answer is asked for again when its time to live, brought within these, is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TtlBounds {
    pub min: Duration,
    /// At least `min`.
    pub max: Duration,
}

/// Of host names that stand in the `address` of a backend.
pub const TTL_BOUNDS: TtlBounds = TtlBounds {
    min: Duration::from_secs(1),
    max: Duration::from_secs(300),
};

#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    pub probe: Probe,
    pub interval: Duration,
    pub timeout: Duration,
    pub thresholds: Thresholds,
    /// Interval while a backend is between up and down.
    pub fast_interval: Duration,
    pub down_interval: Duration,
    /// Port to probe; 0 = the backend's own.
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Probe {
    None,
    /// Passes when the connection is accepted.
    Tcp,
    /// Passes when the answer's status and body are as expected.
    Http(HttpProbe),
}

#[derive(Clone, Debug, PartialEq)]
pub struct HttpProbe {
    /// Path and query, beginning with '/'.
    pub path: String,
    /// Value of the Host header; empty = the backend's address.
    pub host: String,
    /// Not empty; each within 100..=599.
    pub expect_status: Vec<RangeInclusive<u16>>,
    /// Text that must occur in the body; empty = any body.
    pub expect_body: String,
}
