//! From settings to what runs: pools over their live records, and a route for each address.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::shared::{BindId, Snapshot};
use crate::balance::key::HashSeed;
use crate::balance::networks::Networks;
use crate::balance::pool::{MemberSpec, Pool, PoolSpec};
use crate::balance::sources::Sources;
use crate::balance::table::Table;
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::config::settings::{self, Probe, Settings};
use crate::proxy::admission::Gate;
use crate::proxy::route::{Limits, Newest, Route, Tally, Upstream};

/// A failure counts as no less with `least_latency`, however soon connects are given up.
const FAILURE_LATENCY_MIN: Duration = Duration::from_secs(1);

/// Live records by name; they carry counters, verdicts and limits over a reload.
#[derive(Debug, Default)]
pub struct Registry {
    tables: HashMap<String, Arc<Table>>,
    tallies: HashMap<String, Arc<Tally>>,
    sources: HashMap<String, Arc<Sources>>,
    newest: HashMap<String, Arc<Newest>>,
}

/// The running form of one configuration.
#[derive(Debug)]
pub struct Plan {
    pub upstreams: Vec<Arc<Upstream>>,
    /// In the order of the settings' listeners.
    pub routes: Vec<Arc<Route>>,
}

impl Plan {
    pub fn new(settings: &Settings, registry: &mut Registry) -> Plan {
        registry.forget_all_but(settings);
        let seed = &settings.global.hash_seed;
        let upstreams: Vec<_> = settings
            .pools
            .iter()
            .map(|pool| upstream(pool, seed, registry))
            .collect();
        let routes = settings.listeners.iter().map(|listener| {
            Arc::new(Route {
                listener: listener.name.clone(),
                limits: Limits {
                    max_connections: listener.max_connections,
                    idle: listener.idle_timeout,
                    half_close: listener.half_close_timeout,
                    lifetime: listener.max_lifetime,
                },
                gate: gate(listener, registry),
                upstream: upstreams[listener.pool].clone(),
                tally: registry
                    .tallies
                    .entry(listener.name.clone())
                    .or_default()
                    .clone(),
            })
        });
        Plan {
            routes: routes.collect(),
            upstreams,
        }
    }

    /// The snapshot for workers; `binds` names the index of each address's listener.
    pub fn snapshot(&self, binds: impl Iterator<Item = (BindId, usize)>) -> Snapshot {
        let mut routes = Vec::new();
        for (bind, listener) in binds {
            let place = bind as usize;
            if routes.len() <= place {
                routes.resize(place + 1, None);
            }
            routes[place] = Some(self.routes[listener].clone());
        }
        Snapshot { routes }
    }
}

impl Registry {
    fn forget_all_but(&mut self, settings: &Settings) {
        self.tables
            .retain(|name, _| settings.pools.iter().any(|pool| pool.name == *name));
        self.newest
            .retain(|name, _| settings.pools.iter().any(|pool| pool.name == *name));
        self.tallies
            .retain(|name, _| settings.listeners.iter().any(|one| one.name == *name));
        self.sources
            .retain(|name, _| settings.listeners.iter().any(|one| one.name == *name));
    }
}

fn gate(listener: &settings::Listener, registry: &mut Registry) -> Gate {
    let (allow, deny) = (&listener.allow, &listener.deny);
    let anybody = allow.all().chain(deny.all()).next().is_none();
    Gate {
        networks: (!anybody).then(|| Networks::new(allow.all(), deny.all())),
        sources: sources(listener, registry),
    }
}

/// Sources are counted on over a reload, under the limits that hold now. Counts by other prefixes,
/// and those of a time without limits, say nothing: then counting begins anew.
fn sources(listener: &settings::Listener, registry: &mut Registry) -> Option<Arc<Sources>> {
    let (name, limits) = (&listener.name, listener.per_source);
    if !limits.limit_anything() {
        registry.sources.remove(name);
        return None;
    }
    if let Some(known) = registry.sources.get(name)
        && known.prefixes() == limits.prefixes
    {
        known.set_limits(limits, Moment::now());
        return Some(known.clone());
    }
    let new = Arc::new(Sources::new(limits, secret_seed()));
    registry.sources.insert(name.clone(), new.clone());
    Some(new)
}

/// Another one each time, from the randomness that the system gives the process.
fn secret_seed() -> HashSeed {
    use std::hash::{BuildHasher, RandomState};
    let random = [0, 1].map(|half| RandomState::new().hash_one(half));
    HashSeed::new(&format!("{random:?}"))
}

fn upstream(pool: &settings::Pool, seed: &str, registry: &mut Registry) -> Arc<Upstream> {
    let table = registry
        .tables
        .entry(pool.name.clone())
        .or_default()
        .clone();
    let members = pool.backends.iter().map(|backend| MemberSpec::<Endpoint> {
        name: backend.name.clone(),
        identity: backend.address.to_string(),
        target: backend.address.clone(),
        weight: backend.weight,
        priority: backend.priority,
        cost: backend.cost,
        max_connections: backend.max_connections,
    });
    let spec = PoolSpec {
        name: pool.name.clone(),
        policy: pool.policy,
        hash_balance_factor: pool.hash_balance_factor,
        ejection: pool.ejection,
        slow_start: pool.slow_start,
        panic_threshold: pool.panic_threshold,
        failure_latency: pool.connect_timeout.max(FAILURE_LATENCY_MIN),
        probed: pool.health.probe != Probe::None,
        seed: seed.to_owned(),
        max_connections: pool.max_connections,
        members: members.collect(),
    };
    let newest = registry
        .newest
        .entry(pool.name.clone())
        .or_default()
        .clone();
    let upstream = Arc::new(Upstream {
        pool: Arc::new(Pool::new(spec, table, Moment::now())),
        connect_timeout: pool.connect_timeout,
        retries: pool.retries,
        retry_budget: pool.retry_budget,
        queue: pool.queue,
        drain: pool.drain,
        rebalance: pool.rebalance,
        seed: HashSeed::new(seed),
        hash_key: pool.hash_key,
        newest: newest.clone(),
    });
    newest.set(&upstream);
    // Those who wait may find room in what is new.
    upstream.pool.queue().call();
    upstream
}
