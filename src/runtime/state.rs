//! Everything worth showing, at one moment.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use super::draining::{Draining, Progress};
use super::probing::{LastProbe, Probing};
use crate::balance::backend::State as BackendWord;
use crate::balance::policy::PolicyKind;
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::config::settings::{Identity, Listener, ListenerTls};
use crate::proxy::route::{Handshakes, Route, Upstream};
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct State {
    pub uptime: Duration,
    pub listeners: Vec<ListenerState>,
    pub pools: Vec<PoolState>,
}

#[derive(Clone, Debug)]
pub struct ListenerState {
    pub name: String,
    pub addresses: Vec<Endpoint>,
    pub active: u32,
    pub total: u64,
    pub handshakes: Handshakes,
    /// In use; none where TLS is not terminated.
    pub certificates: Vec<CertificateState>,
    /// Contents of its certificate files that were not taken up.
    pub certificate_errors: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateState {
    pub file: PathBuf,
    /// DNS names, a wildcard as `*.example.com`.
    pub names: Vec<String>,
    pub not_after: SystemTime,
}

#[derive(Clone, Debug)]
pub struct PoolState {
    pub name: String,
    pub policy: PolicyKind,
    /// Connections to all backends, also to those that are in the pool no more.
    pub active: u32,
    /// Clients that wait for room.
    pub queued: u32,
    /// Retries that the budget did not grant.
    pub retries_refused: u64,
    pub backends: Vec<BackendState>,
    /// One for each source of its backends.
    pub discovery: Vec<DiscoveryState>,
    /// Backends that are in the pool no more and have sessions still.
    pub leaving: Vec<(String, Progress)>,
}

/// Where backends are looked for, and with what success.
#[derive(Clone, Debug)]
pub struct DiscoveryState {
    /// dns, srv or file.
    pub kind: &'static str,
    /// The name, or the path.
    pub name: String,
    /// In the last good answer, however old.
    pub addresses: usize,
    /// Time since the last good answer; `None` = there was none yet.
    pub age: Option<Duration>,
    /// What the latest look found wrong; a file's mistakes have several lines.
    pub error: Option<String>,
}

#[derive(Clone, Debug)]
pub struct BackendState {
    pub name: String,
    pub address: Endpoint,
    pub weight: u16,
    pub priority: u16,
    pub state: BackendWord,
    pub active: u32,
    pub total: u64,
    pub failures: u64,
    pub bytes_to_backend: u64,
    pub bytes_to_client: u64,
    pub last_probe: Option<LastProbe>,
    /// How its sessions end, if they are to end.
    pub drain: Option<Progress>,
}

impl State {
    pub(super) fn gather<'a>(
        started_at: Moment,
        listeners: impl Iterator<Item = (&'a Route, Vec<Endpoint>)>,
        upstreams: &[Arc<Upstream>],
        probing: &Probing,
        draining: &Draining,
    ) -> State {
        let now = Moment::now();
        let listeners = listeners.map(|(route, addresses)| ListenerState {
            name: route.listener.clone(),
            addresses,
            active: route.tally.active(),
            total: route.tally.total(),
            handshakes: route.tally.handshakes(),
            certificates: Vec::new(),
            certificate_errors: 0,
        });
        State {
            uptime: now.since(started_at),
            listeners: listeners.collect(),
            pools: upstreams
                .iter()
                .map(|upstream| pool(upstream, probing, draining, now))
                .collect(),
        }
    }

    pub fn pool(&self, name: &str) -> Option<&PoolState> {
        self.pools.iter().find(|pool| pool.name == name)
    }
}

impl PoolState {
    pub fn backend(&self, name: &str) -> Option<&BackendState> {
        self.backends.iter().find(|backend| backend.name == name)
    }
}

/// What a listener shows its clients.
pub(super) fn certificates(listener: &Listener) -> Vec<CertificateState> {
    let Some(ListenerTls::Terminate(terminate)) = &listener.tls else {
        return Vec::new();
    };
    let certificates = terminate.certificates.iter();
    let state = |identity: &Identity| CertificateState {
        file: identity.cert.clone(),
        names: identity.names.iter().map(ToString::to_string).collect(),
        not_after: identity.not_after,
    };
    certificates.map(state).collect()
}

fn pool(upstream: &Upstream, probing: &Probing, draining: &Draining, now: Moment) -> PoolState {
    let pool = &upstream.pool;
    let backends = pool.members().iter().enumerate().map(|(index, member)| {
        let live = pool.live(index);
        BackendState {
            name: member.name.clone(),
            address: member.target.clone(),
            weight: member.weight,
            priority: member.priority,
            state: pool.state(index, now),
            active: live.active(),
            total: live.connections_total(),
            failures: live.connect_failures_total(),
            bytes_to_backend: live.bytes_to_backend(),
            bytes_to_client: live.bytes_to_client(),
            last_probe: probing.last(pool.name(), &member.name),
            drain: draining.progress(pool, index, now),
        }
    });
    PoolState {
        name: pool.name().to_owned(),
        policy: pool.policy(),
        active: pool.active(),
        queued: pool.queue().waiting(),
        retries_refused: pool.budget().refused_total(),
        backends: backends.collect(),
        discovery: Vec::new(),
        leaving: draining.leaving(pool.name(), now),
    }
}
