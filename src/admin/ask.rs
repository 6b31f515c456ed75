//! What the admin interface asks of the process, and the answers.

use std::fmt;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::metrics::Sample;
use super::sessions::{SessionFilter, Sessions};
use super::state::State;
use super::why::{Why, WhyQuery};

/// Where an answer goes; nobody may be waiting for it any more.
pub type Reply<T> = oneshot::Sender<T>;

/// A request, whoever transports it.
#[derive(Debug)]
pub enum Ask {
    State(Reply<State>),
    /// The state, and what else is counted.
    Sample(Reply<Box<Sample>>),
    /// Look for sessions, and end them if that is wanted.
    Sessions {
        filter: SessionFilter,
        kill: Option<By>,
        done: Reply<Result<Sessions, Refusal>>,
    },
    /// Say what would become of a client.
    Why {
        query: WhyQuery,
        done: Reply<Result<Why, Refusal>>,
    },
    /// Change a backend of a pool.
    Change {
        backend: BackendId,
        wanted: Wanted,
        by: By,
        done: Reply<Result<(), Refusal>>,
    },
    Add {
        backend: BackendId,
        spec: BackendSpec,
        by: By,
        done: Reply<Result<(), Refusal>>,
    },
    Remove {
        backend: BackendId,
        by: By,
        done: Reply<Result<(), Refusal>>,
    },
    /// Read the configuration again and apply it, or only say what that would do.
    Reload {
        dry_run: bool,
        by: By,
        done: Reply<Result<Reloading, Refusal>>,
    },
}

/// Who asks for a change, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// `root (uid 0, pid 4711)`, `token from 127.0.0.1:50123`.
    pub who: String,
    /// In the operator's words; may be empty.
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BackendId {
    pub pool: String,
    pub backend: String,
}

impl fmt::Display for BackendId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.backend)
    }
}

impl std::str::FromStr for BackendId {
    type Err = String;

    /// `POOL/BACKEND`; the name of a backend may have further slashes.
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((pool, backend)) if !pool.is_empty() && !backend.is_empty() => Ok(BackendId {
                pool: pool.to_owned(),
                backend: backend.to_owned(),
            }),
            _ => Err(format!("{text:?} is not POOL/BACKEND, such as web/a")),
        }
    }
}

/// What is wanted of a backend; what is left out stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<WantedState>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u16>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WantedState {
    Ready,
    Drain,
    Maintenance,
}

/// A backend to add. The keys are those of the configuration.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendSpec {
    pub address: String,
    #[serde(default = "one")]
    pub weight: u16,
    #[serde(default)]
    pub priority: u16,
    #[serde(default)]
    pub cost: f64,
    #[serde(default)]
    pub max_connections: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

fn one() -> u16 {
    1
}

/// What a reload changed, or would change.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloading {
    pub dry_run: bool,
    pub changes: Vec<Difference>,
    /// What was changed while the process ran, and is dropped because the file says otherwise.
    pub dropped: Vec<String>,
    /// Allowed, but worth knowing.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Difference {
    pub kind: DifferenceKind,
    /// `global`, `listener "web"`, `pool "web"`, `backend "web/a"`.
    pub what: String,
    /// Of something that was changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyChange>,
    /// Live connections that it touches.
    pub connections: u32,
    /// What becomes of them, in words; empty where there are none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub effect: String,
    /// Nothing changes before a restart or an upgrade.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub needs_restart: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DifferenceKind {
    Added,
    Removed,
    Changed,
}

/// Values as TOML; empty = the key is not there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    pub key: String,
    pub from: String,
    pub to: String,
}

/// Why something that was asked for is not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such thing.
    NotFound(String),
    /// What was asked for makes no sense.
    Invalid(String),
    /// It does not fit what there is.
    Conflict(String),
    /// The process cannot do it.
    Failed(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Refusal::NotFound(why)
        | Refusal::Invalid(why)
        | Refusal::Conflict(why)
        | Refusal::Failed(why)) = self;
        f.write_str(why)
    }
}
