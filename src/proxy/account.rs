//! What a session's record says, and when it is written.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::admission::Admission;
use super::context::Context;
use super::route::{Route, Upstream};
use crate::base::addr::ClientAddr;
use crate::base::clock::Moment;
use crate::base::ending::{Phase, RelayPath, Termination};
use crate::observe::access::{FailedTry, Record};

/// What a session's record says of it, from the first moment.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) route: Arc<Route>,
    /// Where the client goes, once that is known.
    pub(super) upstream: Option<Arc<Upstream>>,
    pub(super) client: ClientAddr,
    pub(super) accepted_at: Moment,
    /// Held for its drop; `None` of a client that was refused.
    pub(super) _admission: Option<Admission>,
}

/// What is known at the end only.
pub(super) struct Closing<'a> {
    pub(super) phase: Phase,
    pub(super) termination: Termination,
    pub(super) detail: &'static str,
    pub(super) backend: &'a str,
    pub(super) tries: u32,
    pub(super) connect: Option<Duration>,
    pub(super) first_byte: Option<Duration>,
    pub(super) bytes: (u64, u64),
    pub(super) path: RelayPath,
    pub(super) queue: Duration,
    pub(super) failed_tries: &'a [FailedTry],
}

impl Account {
    pub(super) fn close(&self, closing: Closing<'_>, cx: &mut Context<'_>) {
        self.route.tally.count_end(closing.termination);
        let record = Record {
            listener: &self.route.listener,
            client: self.client,
            pool: self
                .upstream
                .as_ref()
                .map_or("", |upstream| upstream.pool.name()),
            backend: closing.backend,
            sni: "",
            alpn: "",
            tls: "",
            phase: closing.phase,
            termination: closing.termination,
            detail: closing.detail,
            queue: closing.queue,
            connect: closing.connect,
            first_byte: closing.first_byte,
            duration: cx.now.since(self.accepted_at),
            bytes_to_backend: closing.bytes.0,
            bytes_to_client: closing.bytes.1,
            tries: closing.tries,
            path: closing.path,
            failed_tries: closing.failed_tries,
        };
        cx.log.write(&record, SystemTime::now());
    }
}
