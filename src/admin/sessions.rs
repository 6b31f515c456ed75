//! Live sessions: which ones, and what is shown of each.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::{DurationSecondsWithFrac, serde_as};

/// Sessions that an answer has, when nothing else is asked for.
pub const LIMIT_DEFAULT: usize = 1000;
/// More are not listed at once, whatever is asked for.
pub const LIMIT_MAX: usize = 100_000;

/// Which sessions: everything that is said must be so.
#[serde_as]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SessionFilter {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listener: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpAddr>,
    /// Seconds in which no byte moved, at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_s: Option<u64>,
    /// Sessions listed, the oldest first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<usize>,
}

impl SessionFilter {
    /// Whether it is every session there is.
    pub fn is_everything(&self) -> bool {
        let bare = SessionFilter {
            limit: None,
            ..self.clone()
        };
        bare == SessionFilter::default()
    }

    /// At most so many.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(LIMIT_DEFAULT).min(LIMIT_MAX)
    }
}

/// One session as it is now.
#[serde_as]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SessionView {
    /// Never another session's while the process runs.
    pub id: String,
    pub listener: String,
    /// `192.0.2.7:51234`, `unix:`
    pub client: String,
    /// Empty while there is none, as the fields below.
    pub pool: String,
    pub backend: String,
    pub sni: String,
    /// Version of TLS that is terminated here.
    pub tls: String,
    /// preface, tls, connect (waiting in a queue, too) or relay
    pub phase: String,
    #[serde(rename = "age_s")]
    #[serde_as(as = "DurationSecondsWithFrac")]
    pub age: Duration,
    /// Since a byte moved.
    #[serde(rename = "idle_s")]
    #[serde_as(as = "DurationSecondsWithFrac")]
    pub idle: Duration,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    /// copy, splice or tls
    pub path: String,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Sessions {
    pub sessions: Vec<SessionView>,
    /// There were more than the limit; those shown may not be the oldest.
    pub truncated: bool,
    /// Ended, if that was asked for.
    pub killed: u64,
    /// Workers that did not answer in time, by number.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub silent_workers: Vec<usize>,
}
