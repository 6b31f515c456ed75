//! What the control loop is asked for, and why it cannot do it.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::admin::ask::{
    BackendId, BackendSpec, By, Difference, KeyChange, Refusal, Reloading, Wanted,
};
use crate::admin::metrics::Sample;
use crate::admin::sessions::{SessionFilter, Sessions};
use crate::admin::state::State;
use crate::admin::why::{Why, WhyQuery};
use crate::base::addr::Endpoint;
use crate::config::settings::Settings;

/// A request to the control loop.
#[derive(Debug)]
pub enum Command {
    /// Apply other settings; all of them or, with the answer saying why, none.
    Reload(Box<Settings>, oneshot::Sender<Result<Reloaded, StartError>>),
    /// Close the log files and open them again by name.
    ReopenLogs,
    /// Say what that would change.
    Compare(Box<Settings>, oneshot::Sender<Reloading>),
    /// A configuration could not be read.
    ReloadFailed(String),
    State(oneshot::Sender<State>),
    /// The state, and what else is counted.
    Sample(oneshot::Sender<Box<Sample>>),
    /// Look for sessions, and end them if that is wanted.
    Sessions {
        filter: SessionFilter,
        kill: Option<By>,
        done: oneshot::Sender<Result<Sessions, Refusal>>,
    },
    /// Say what would become of a client.
    Why {
        query: WhyQuery,
        done: oneshot::Sender<Result<Why, Refusal>>,
    },
    /// Change a backend while the process runs.
    Change {
        backend: BackendId,
        wanted: Wanted,
        by: By,
        done: oneshot::Sender<Result<(), Refusal>>,
    },
    Add {
        backend: BackendId,
        spec: BackendSpec,
        by: By,
        done: oneshot::Sender<Result<(), Refusal>>,
    },
    Remove {
        backend: BackendId,
        by: By,
        done: oneshot::Sender<Result<(), Refusal>>,
    },
    /// Accept nothing more, let sessions end until the timeout, then reset the rest.
    Drain(Duration),
    /// End at once.
    Stop,
}

/// What a reload did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reloaded {
    pub changes: Vec<Difference>,
    /// Changes of operators that make no sense any more, in words.
    pub dropped: Vec<String>,
}

impl Reloaded {
    /// Keys whose change waits for another process.
    pub fn needs_restart(&self) -> impl Iterator<Item = String> {
        let waiting = self.changes.iter().filter(|one| one.needs_restart);
        waiting.flat_map(|one| {
            let key = |key: &KeyChange| format!("{}.{}", one.what, key.key);
            one.keys.iter().map(key).collect::<Vec<_>>()
        })
    }
}

/// Why the process cannot start, or a configuration not be applied.
#[derive(Debug)]
pub enum StartError {
    Listen {
        listener: String,
        endpoint: Endpoint,
        error: io::Error,
    },
    AccessLog(io::Error),
    Descriptors {
        wanted: u32,
        allowed: u32,
    },
    Threads(io::Error),
    Tls {
        listener: String,
        error: rustls::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen {
                listener,
                endpoint,
                error,
            } => {
                write!(
                    f,
                    "listener \"{listener}\" cannot listen on {endpoint}: {error}"
                )
            }
            StartError::AccessLog(error) => write!(f, "the access log cannot be opened: {error}"),
            StartError::Descriptors { wanted, allowed } => write!(
                f,
                "max_connections = {wanted} needs more descriptors than the limit allows, which \
                 is enough for {allowed} connections: raise it (ulimit -n, LimitNOFILE=) or lower \
                 max_connections"
            ),
            StartError::Tls { listener, error } => {
                write!(
                    f,
                    "the TLS of listener \"{listener}\" cannot be set up: {error}"
                )
            }
            StartError::Threads(error) => write!(f, "a worker cannot be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
