//! From settings to what runs: pools over their live records, and a route for each address.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::changes::Changes;
use super::securing::{Secured, Securing};
use super::shared::{BindId, Snapshot};
use crate::balance::key::HashSeed;
use crate::balance::networks::Networks;
use crate::balance::pool::{Pool, PoolSpec};
use crate::balance::sources::Sources;
use crate::balance::table::Table;
use crate::base::clock::Moment;
use crate::config::settings::{self, Probe, Settings};
use crate::discovery::book::Book;
use crate::discovery::members::{Gathered, gather};
use crate::proxy::admission::Gate;
use crate::proxy::route::{HeaderRule, Limits, Newest, Route, Rule, Upstream};
use crate::proxy::tally::Tally;

/// A failure counts as no less with `least_latency`, however soon connects are given up.
const FAILURE_LATENCY_MIN: Duration = Duration::from_secs(1);

/// Live records by name; they carry counters, verdicts and limits over a reload.
#[derive(Debug, Default)]
pub struct Registry {
    tables: HashMap<String, Arc<Table>>,
    tallies: HashMap<String, Arc<Tally>>,
    sources: HashMap<String, Arc<Sources>>,
    newest: HashMap<String, Arc<Newest>>,
    securing: Securing,
    /// Of operators; they lie over what is configured and found.
    pub changes: Changes,
}

/// The running form of one configuration.
#[derive(Debug)]
pub struct Plan {
    pub upstreams: Vec<Arc<Upstream>>,
    /// In the order of the settings' listeners.
    pub routes: Vec<Arc<Route>>,
}

impl Plan {
    /// `book` is what is known of the backends that are found, not listed. Panics on listeners that
    /// [`Registry::secure`] was not asked about.
    pub fn new(settings: &Settings, registry: &mut Registry, book: &Book) -> Plan {
        registry.forget_all_but(settings);
        let seed = &settings.global.hash_seed;
        let upstreams: Vec<_> = settings
            .pools
            .iter()
            .map(|pool| upstream(pool, members(pool, book, &registry.changes), seed, registry))
            .collect();
        Plan::over(upstreams, settings, registry)
    }

    /// The same settings, but for the backends of pools that are `touched`, with what is known of
    /// their sources by now: `None` when no pool has other members than before. Pools that have
    /// the same go on as they are.
    pub fn refreshed(
        &self,
        settings: &Settings,
        registry: &mut Registry,
        book: &Book,
        touched: impl Fn(&settings::Pool) -> bool,
    ) -> Option<Plan> {
        let seed = &settings.global.hash_seed;
        let mut changed = false;
        let mut refresh = |(pool, old): (&settings::Pool, &Arc<Upstream>)| {
            if !touched(pool) {
                return old.clone();
            }
            let gathered = members(pool, book, &registry.changes);
            if *gathered.members == *old.pool.members() {
                return old.clone();
            }
            changed = true;
            upstream(pool, gathered, seed, registry)
        };
        let upstreams = settings.pools.iter().zip(&self.upstreams);
        let upstreams: Vec<_> = upstreams.map(&mut refresh).collect();
        changed.then(|| Plan::over(upstreams, settings, registry))
    }

    /// One line for each backend that went and each that came.
    pub fn tell_changes(&self, newer: &Plan) {
        for gone in told(self.without(newer), "gone") {
            let pool = &gone.upstream.pool;
            let sessions = pool.live(gone.index).active();
            let backend = &pool.members()[gone.index];
            let (pool, name, address) = (pool.name(), &*backend.name, &backend.target);
            tracing::info!(pool, backend = name, %address, sessions, "backend is gone");
        }
        for new in told(newer.without(self), "new") {
            let pool = &new.upstream.pool;
            let backend = &pool.members()[new.index];
            let (pool, name, address) = (pool.name(), &*backend.name, &backend.target);
            tracing::info!(pool, backend = name, %address, "backend is new");
        }
    }

    /// The backends that the pools of `other` do not have.
    fn without<'p>(&'p self, other: &Plan) -> Vec<Seat<'p>> {
        let mut seats = Vec::new();
        for upstream in &self.upstreams {
            let same_name = |one: &&Arc<Upstream>| one.pool.name() == upstream.pool.name();
            let same = other.upstreams.iter().find(same_name);
            if same.is_some_and(|same| Arc::ptr_eq(same, upstream)) {
                continue;
            }
            let others = same.map_or(&[][..], |same| same.pool.members());
            let others: HashSet<(&str, &str)> = others
                .iter()
                .map(|one| (&*one.name, &*one.identity))
                .collect();
            for (index, member) in upstream.pool.members().iter().enumerate() {
                if !others.contains(&(&*member.name, &*member.identity)) {
                    seats.push(Seat { upstream, index });
                }
            }
        }
        seats
    }

    fn over(upstreams: Vec<Arc<Upstream>>, settings: &Settings, registry: &mut Registry) -> Plan {
        let routes = settings.listeners.iter().map(|listener| {
            let upstream_at = |pool: usize| upstreams[pool].clone();
            let tally = registry
                .tallies
                .entry(listener.name.clone())
                .or_default()
                .clone();
            let pools = listener.routes.iter().map(|rule| rule.pool);
            let pools = pools.chain(listener.pool);
            let ends = tally.ends(pools.map(|pool| upstreams[pool].pool.name()));
            Arc::new(Route {
                listener: listener.name.clone(),
                limits: Limits {
                    max_connections: listener.max_connections,
                    idle: listener.idle_timeout,
                    half_close: listener.half_close_timeout,
                    lifetime: listener.max_lifetime,
                },
                gate: gate(listener, registry),
                header: listener.accept_proxy.as_ref().map(|accept| HeaderRule {
                    from: Networks::new(accept.from.iter().copied(), []),
                    timeout: accept.timeout,
                }),
                tls: registry.securing.of_listener(listener),
                rules: rules(listener, upstream_at),
                upstream: listener.pool.map(upstream_at),
                tally,
                ends,
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

/// What is configured and found, as operators changed it.
fn members(pool: &settings::Pool, book: &Book, changes: &Changes) -> Gathered {
    let mut gathered = gather(pool, book);
    gathered
        .members
        .retain(|member| !changes.is_removed(&pool.name, &member.name));
    for member in &mut gathered.members {
        if let Some(weight) = changes.weight(&pool.name, &member.name) {
            member.weight = weight;
        }
    }
    gathered
}

struct Seat<'p> {
    upstream: &'p Upstream,
    index: usize,
}

/// Backends of one change that have a line of their own.
const TOLD_MAX: usize = 32;

/// The first of them; one line says how many more there are.
fn told<'p>(list: Vec<Seat<'p>>, what: &str) -> impl Iterator<Item = Seat<'p>> {
    if let Some(more) = list.len().checked_sub(TOLD_MAX).filter(|more| *more > 0) {
        tracing::info!("{more} more backends are {what}");
    }
    list.into_iter().take(TOLD_MAX)
}

fn rules(listener: &settings::Listener, upstream_at: impl Fn(usize) -> Arc<Upstream>) -> Vec<Rule> {
    let rule = |rule: &settings::RouteRule| {
        let source = rule.source.iter().copied();
        Rule {
            sni: rule.sni.clone(),
            alpn: rule.alpn.clone(),
            source: (!rule.source.is_empty()).then(|| Networks::new(source, [])),
            upstream: upstream_at(rule.pool),
        }
    };
    listener.routes.iter().map(rule).collect()
}

impl Registry {
    /// Makes the TLS of all listeners ready; nothing that runs changes. Errors: the listener whose
    /// TLS cannot be, and why.
    pub fn secure(&self, settings: &Settings) -> Result<Secured, (String, rustls::Error)> {
        self.securing.prepare(settings)
    }

    /// From now on plans have this.
    pub fn adopt(&mut self, secured: Secured) {
        self.securing.adopt(secured);
    }

    /// Those of the listeners go on with the certificates that the settings have by now.
    pub fn renew_certificates<'a>(&self, of: impl Iterator<Item = &'a settings::Listener>) {
        of.for_each(|listener| self.securing.renew_certificates(listener));
    }

    fn forget_all_but(&mut self, settings: &Settings) {
        self.tables
            .retain(|name, _| settings.pools.iter().any(|pool| pool.name == *name));
        self.newest
            .retain(|name, _| settings.pools.iter().any(|pool| pool.name == *name));
        self.securing
            .forget_pools(|name| settings.pools.iter().any(|pool| pool.name == name));
        self.tallies
            .retain(|name, _| settings.listeners.iter().any(|one| one.name == *name));
        for tally in self.tallies.values() {
            tally.forget_pools(|name| settings.pools.iter().any(|pool| pool.name == name));
        }
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

/// Tells of backends that were found and cannot be members.
fn tell_of_left_out(pool: &str, gathered: &Gathered) {
    if let Some(first) = gathered.left_out.first() {
        let count = gathered.left_out.len();
        tracing::info!(
            pool,
            count,
            first,
            "found backends are left out: they are listed already"
        );
    }
    if gathered.too_many {
        tracing::error!(pool, "more backends were found than a pool can have");
    }
}

fn upstream(
    pool: &settings::Pool,
    gathered: Gathered,
    seed: &str,
    registry: &mut Registry,
) -> Arc<Upstream> {
    tell_of_left_out(&pool.name, &gathered);
    let table = registry
        .tables
        .entry(pool.name.clone())
        .or_default()
        .clone();
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
        members: gathered.members,
    };
    let newest = registry
        .newest
        .entry(pool.name.clone())
        .or_default()
        .clone();
    let tls = registry.securing.of_pool(pool, &spec.members);
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
        send_proxy: pool.send_proxy,
        tls,
        newest: newest.clone(),
    });
    newest.set(&upstream);
    // Those who wait may find room in what is new.
    upstream.pool.queue().call();
    upstream
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::Moment;
    use crate::config::load::load_text;
    use crate::discovery::addresses::Addresses;
    use crate::discovery::book::{Answer, News};
    use crate::discovery::source::{self, Source};

    const TEXT: &str = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:1\"\npool = \"a\"\n\
        [[pool]]\nname = \"a\"\n[[pool.discover]]\nkind = \"dns\"\nname = \"a.test\"\nport = 80\n\
        [[pool]]\nname = \"b\"\n[[pool.discover]]\nkind = \"dns\"\nname = \"b.test\"\nport = 80\n";

    #[test]
    fn only_pools_whose_backends_changed_are_built_anew() {
        let settings = load_text("t", TEXT, &|_| None).unwrap();
        let sources = source::of_settings(&settings);
        let mut book = Book::default();
        book.keep(&sources);
        let mut registry = Registry::default();
        let plan = Plan::new(&settings, &mut registry, &book);
        let names: Vec<Source> = sources.into_keys().collect();
        let mut hear = |at: usize, list: &[&str]| {
            let v4 = list.iter().map(|text| text.parse().unwrap()).collect();
            let news = News {
                source: names[at].clone(),
                answer: Some(Answer::Addresses(Addresses { v4, v6: vec![] })),
                ttl: None,
                error: None,
            };
            book.record(news, Moment::ZERO);
        };
        hear(0, &["10.0.0.1", "10.0.0.2"]);
        hear(1, &["10.0.0.9"]);
        let heard = |at: usize| {
            let name = settings.pools[at].name.clone();
            move |pool: &settings::Pool| pool.name == name
        };
        let newer = plan
            .refreshed(&settings, &mut registry, &book, heard(0))
            .unwrap();
        assert_eq!(newer.upstreams[0].pool.members().len(), 2);
        let of_route = newer.routes[0].upstream.as_ref().unwrap();
        assert!(Arc::ptr_eq(of_route, &newer.upstreams[0]));
        let same = |at: usize| Arc::ptr_eq(&plan.upstreams[at], &newer.upstreams[at]);
        assert!(!same(0) && same(1), "nobody heard of the other one yet");
        assert_eq!(newer.without(&plan).len(), 2);
        let again = newer.refreshed(&settings, &mut registry, &book, heard(0));
        assert!(again.is_none(), "the same answer is no change");
    }
}
