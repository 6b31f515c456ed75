//! Everything worth showing, at one moment: what `GET /api/v1/state` answers and the commands read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use serde_with::{DisplayFromStr, DurationMilliSecondsWithFrac, DurationSecondsWithFrac, serde_as};

use super::ask::WantedState;
use super::form::Rfc3339;
use crate::balance::backend::State as BackendWord;
use crate::balance::policy::PolicyKind;
use crate::base::addr::Endpoint;

#[serde_as]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    /// Of the program that runs.
    pub version: String,
    pub pid: u32,
    #[serde(rename = "uptime_s")]
    #[serde_as(as = "DurationSecondsWithFrac")]
    pub uptime: Duration,
    /// It accepts nobody any more and ends with its last session.
    pub draining: bool,
    pub workers: usize,
    /// Client connections of the whole process, and how many there may be.
    pub active: u32,
    pub max_connections: u32,
    /// Sessions ended by a panic, which is a bug.
    pub panics: u64,
    pub reloads: Reloads,
    /// What somebody has to look after, in words, the worst first.
    #[serde(default)]
    pub troubles: Vec<String>,
    pub listeners: Vec<ListenerState>,
    pub pools: Vec<PoolState>,
}

/// How the attempts to apply the configuration anew ended.
#[serde_as]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloads {
    pub succeeded: u64,
    pub failed: u64,
    /// Of the latest one.
    #[serde_as(as = "Option<Rfc3339>")]
    pub at: Option<SystemTime>,
    /// Why the latest one failed; it may have several lines.
    pub error: Option<String>,
}

#[serde_as]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListenerState {
    pub name: String,
    #[serde(rename = "bind")]
    #[serde_as(as = "Vec<DisplayFromStr>")]
    pub addresses: Vec<Endpoint>,
    pub active: u32,
    /// 0 = no limit of its own.
    pub max_connections: u32,
    pub total: u64,
    pub handshakes: Handshakes,
    /// In use; none where TLS is not terminated.
    pub certificates: Vec<CertificateState>,
    /// Contents of its certificate files that were not taken up.
    pub certificate_errors: u64,
    /// Sessions by how they ended, in the words of the access log; those that never did are left
    /// out.
    #[serde(default)]
    pub ended: BTreeMap<String, u64>,
    /// The same for each pool that clients went to; "" = none.
    #[serde(default)]
    pub ended_by_pool: BTreeMap<String, BTreeMap<String, u64>>,
    /// By reason: aborted, descriptors, memory, other.
    #[serde(default)]
    pub accept_errors: BTreeMap<String, u64>,
    /// The failed ones of `handshakes`, by kind.
    #[serde(default)]
    pub handshake_failures: BTreeMap<String, u64>,
}

/// TLS handshakes of a listener, by version and whether a session was resumed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshakes {
    pub full_12: u64,
    pub resumed_12: u64,
    pub full_13: u64,
    pub resumed_13: u64,
    pub failed: u64,
}

#[serde_as]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CertificateState {
    pub file: PathBuf,
    /// DNS names, a wildcard as `*.example.com`.
    pub names: Vec<String>,
    #[serde_as(as = "Rfc3339")]
    pub not_after: SystemTime,
}

#[serde_as]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PoolState {
    pub name: String,
    #[serde_as(as = "DisplayFromStr")]
    pub policy: PolicyKind,
    /// Connections to all backends, also to those that are in the pool no more.
    pub active: u32,
    /// 0 = no limit.
    pub max_connections: u32,
    /// Clients that wait for room.
    pub queued: u32,
    /// Retries that the budget did not grant.
    pub retries_refused: u64,
    pub backends: Vec<BackendState>,
    /// One for each source of its backends.
    pub discovery: Vec<DiscoveryState>,
    /// Backends that are in the pool no more and have sessions still.
    pub leaving: Vec<Leaving>,
    /// Backends that operators took out although the file has them.
    pub removed: Vec<Gone>,
}

/// Where backends are looked for, and with what success.
#[serde_as]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DiscoveryState {
    /// dns, srv or file.
    pub kind: String,
    /// The name, or the path.
    pub name: String,
    /// In the last good answer, however old.
    pub addresses: usize,
    /// Time since the last good answer; `None` = there was none yet.
    #[serde(rename = "age_s")]
    #[serde_as(as = "Option<DurationSecondsWithFrac>")]
    pub age: Option<Duration>,
    /// What the latest look found wrong; a file's mistakes have several lines.
    pub error: Option<String>,
}

#[serde_as]
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BackendState {
    pub name: String,
    #[serde_as(as = "DisplayFromStr")]
    pub address: Endpoint,
    pub weight: u16,
    pub priority: u16,
    /// 0 = no limit.
    pub max_connections: u32,
    #[serde_as(as = "DisplayFromStr")]
    pub state: BackendWord,
    pub active: u32,
    pub total: u64,
    /// Connects that failed.
    pub failures: u64,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    pub last_probe: Option<LastProbe>,
    /// How its sessions end, if they are to end.
    pub drain: Option<Progress>,
    /// What an operator changed while the process runs.
    pub change: Option<Change>,
    /// Of the last seconds; `None` where nothing happened.
    #[serde(default)]
    pub recent: Option<Recent>,
}

/// How a backend did in the last ten to twenty seconds.
#[serde_as]
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recent {
    #[serde(rename = "window_s")]
    #[serde_as(as = "DurationSecondsWithFrac")]
    pub window: Duration,
    pub connections_per_s: f64,
    pub connect: Option<Percentiles>,
    /// From the accept of the client to the backend's first byte.
    pub first_byte: Option<Percentiles>,
    pub session: Option<Percentiles>,
    /// In the queue of the pool.
    pub queue: Option<Percentiles>,
}

#[serde_as]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    #[serde(rename = "p50_ms")]
    #[serde_as(as = "DurationMilliSecondsWithFrac")]
    pub p50: Duration,
    #[serde(rename = "p99_ms")]
    #[serde_as(as = "DurationMilliSecondsWithFrac")]
    pub p99: Duration,
}

/// What the latest probe of a backend brought.
#[serde_as]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastProbe {
    #[serde(rename = "ok")]
    pub passed: bool,
    /// In words for the operator: `HTTP 503, expected 200-399`.
    pub detail: String,
    #[serde(rename = "ms")]
    #[serde_as(as = "DurationMilliSecondsWithFrac")]
    pub took: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    pub name: String,
    #[serde(flatten)]
    pub progress: Progress,
}

/// How far a backend has come with having no sessions.
#[serde_as]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    pub cause: Cause,
    /// Sessions when it began.
    pub initial: u32,
    pub active: u32,
    /// Closed by us; the others ended by themselves.
    pub closed: u32,
    #[serde(rename = "ends_in_s")]
    #[serde_as(as = "DurationSecondsWithFrac")]
    pub ends_in: Duration,
}

/// Why a backend is to have no sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// The operator drains it, or its weight is 0.
    Drain,
    /// It is in the pool no more.
    Removed,
    /// It is down, and the pool has `on_down = "close"`.
    Down,
}

/// A backend that was taken out, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    pub name: String,
    #[serde(flatten)]
    pub change: Change,
}

/// A change that was made while the process runs, which reloads and upgrades keep.
#[serde_as]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The backend is not in the file.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub added: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WantedState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    /// Who made the latest change of it.
    pub by: String,
    #[serde_as(as = "Rfc3339")]
    pub at: SystemTime,
    /// Why, in the operator's words; may be empty.
    #[serde(default)]
    pub reason: String,
}

impl State {
    pub fn pool(&self, name: &str) -> Option<&PoolState> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

impl PoolState {
    pub fn backend(&self, name: &str) -> Option<&BackendState> {
        self.backends.iter().find(|backend| backend.name == name)
    }
}
