//! Gathers everything worth showing, at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::draining::Draining;
use super::probing::Probing;
use super::recent::Recents;
use crate::admin::state::{BackendState, CertificateState, Handshakes, ListenerState, PoolState};
use crate::balance::pool::Pool;
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::base::ending::Termination;
use crate::config::settings::{Identity, Listener, ListenerTls};
use crate::net::listen::AcceptFault;
use crate::proxy::route::{Route, Upstream};
use crate::tls::fault::Kind;

/// A listener, without what only its settings say.
pub(super) fn listener(route: &Route, addresses: Vec<Endpoint>) -> ListenerState {
    let tally = &route.tally;
    let (handshakes, ended) = (tally.handshakes(), tally.ended());
    ListenerState {
        name: route.listener.clone(),
        addresses,
        active: tally.active(),
        max_connections: route.limits.max_connections,
        total: tally.total(),
        handshakes: Handshakes {
            full_12: handshakes.full_12,
            resumed_12: handshakes.resumed_12,
            full_13: handshakes.full_13,
            resumed_13: handshakes.resumed_13,
            failed: handshakes.failed,
        },
        certificates: Vec::new(),
        certificate_errors: 0,
        ended: sums(&ended),
        ended_by_pool: ended
            .into_iter()
            .map(|(pool, counts)| (pool, words(&counts)))
            .collect(),
        accept_errors: AcceptFault::ALL
            .iter()
            .map(|&fault| (fault.as_str().to_owned(), tally.accept_errors(fault)))
            .filter(|(_, count)| *count > 0)
            .collect(),
        handshake_failures: Kind::ALL
            .iter()
            .map(|&kind| (kind.as_str().to_owned(), tally.failed_handshakes(kind)))
            .filter(|(_, count)| *count > 0)
            .collect(),
    }
}

fn words(ends: &[(Termination, u64)]) -> BTreeMap<String, u64> {
    ends.iter()
        .map(|(word, count)| (word.as_str().to_owned(), *count))
        .collect()
}

/// Over all pools.
fn sums(ended: &BTreeMap<String, Vec<(Termination, u64)>>) -> BTreeMap<String, u64> {
    let mut sums = BTreeMap::new();
    for (word, count) in ended.values().flatten() {
        *sums.entry(word.as_str().to_owned()).or_default() += count;
    }
    sums
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

/// A pool, without what its discovery and the operators' changes say.
pub(super) fn pool(
    upstream: &Arc<Upstream>,
    probing: &Probing,
    draining: &Draining,
    recents: &Recents,
    now: Moment,
) -> PoolState {
    let pool = &upstream.pool;
    PoolState {
        name: pool.name().to_owned(),
        policy: pool.policy(),
        active: pool.active(),
        max_connections: pool.max_connections(),
        queued: pool.queue().waiting(),
        retries_refused: pool.budget().refused_total(),
        backends: (0..pool.members().len())
            .map(|index| backend(pool, index, probing, draining, recents, now))
            .collect(),
        discovery: Vec::new(),
        leaving: draining.leaving(pool.name(), now),
        removed: Vec::new(),
    }
}

fn backend(
    pool: &Pool<Endpoint>,
    index: usize,
    probing: &Probing,
    draining: &Draining,
    recents: &Recents,
    now: Moment,
) -> BackendState {
    let (member, live) = (&pool.members()[index], pool.live(index));
    BackendState {
        name: member.name.clone(),
        address: member.target.clone(),
        weight: member.weight,
        priority: member.priority,
        max_connections: member.max_connections,
        state: pool.state(index, now),
        active: live.active(),
        total: live.connections_total(),
        failures: live.connect_failures_total(),
        bytes_to_backend: live.bytes_to_backend(),
        bytes_to_client: live.bytes_to_client(),
        last_probe: probing.last(pool.name(), &member.name),
        drain: draining.progress(pool, index, now),
        change: None,
        recent: recents.of(pool, index, now),
    }
}
