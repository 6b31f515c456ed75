//! What would become of a client, asked of the same listeners, routes and pools that serve clients.

use std::sync::Arc;
use std::time::Duration;

use super::Control;
use crate::admin::ask::Refusal;
use crate::admin::why::{Considered, LimitState, PoolChoice, RouteTaken, Why, WhyQuery};
use crate::balance::chance::Chance;
use crate::balance::explain::{Explanation, Reason};
use crate::balance::policy::PolicyKind;
use crate::base::addr::ClientAddr;
use crate::base::clock::Moment;
use crate::base::host::HostName;
use crate::config::settings::Listener;
use crate::proxy::route::{Route, Upstream};

impl Control {
    /// Changes nothing. Costs a copy of the pool's records.
    pub(super) fn why(&self, query: &WhyQuery) -> Result<Why, Refusal> {
        let listeners = self.plan.routes.iter().zip(&self.settings.listeners);
        let found = listeners
            .clone()
            .find(|(route, _)| route.listener == query.listener);
        let (route, listener) = found.ok_or_else(|| {
            let known: Vec<&str> = listeners.map(|(route, _)| &*route.listener).collect();
            Refusal::NotFound(format!(
                "there is no listener {:?}; there are: {}",
                query.listener,
                known.join(", ")
            ))
        })?;
        let client = ClientAddr::from_socket(query.client);
        let ClientAddr::Ip(address) = client else {
            unreachable!("an address was asked for")
        };
        let mut notes = Vec::new();
        if route.trusts(client).is_some() {
            notes.push(format!(
                "connections from {} must begin with a header of the PROXY protocol; this is \
                 about a client that such a header names",
                address.ip()
            ));
        }
        let sni = seen_name(route, query, &mut notes)?;
        let alpn = match route.tls {
            Some(_) => query.alpn.clone(),
            None => Vec::new(),
        };
        let mut why = Why {
            summary: String::new(),
            served: false,
            listener: route.listener.clone(),
            client: address,
            notes,
            limits: self.limits(route, listener, client),
            allowed: route
                .gate
                .networks
                .as_ref()
                .is_none_or(|networks| networks.allows(address.ip())),
            route: None,
            pool: None,
            sni,
            alpn,
        };
        why.summary = self.follow(route, client, &mut why);
        Ok(why)
    }

    /// In the order in which they are asked; those that are not set are left out.
    fn limits(&self, route: &Route, listener: &Listener, client: ClientAddr) -> Vec<LimitState> {
        let limit = |of: &str, active, max| LimitState {
            of: of.to_owned(),
            active,
            max,
        };
        let process = &self.shared.process;
        let of_source = match (&route.gate.sources, client) {
            (Some(sources), ClientAddr::Ip(address)) => sources.active(address.ip()),
            _ => 0,
        };
        let mut limits = vec![
            limit("source", of_source, listener.per_source.connections),
            limit(
                "listener",
                route.tally.active(),
                route.limits.max_connections,
            ),
            limit("process", process.active(), process.max()),
        ];
        limits.retain(|limit| limit.max != 0);
        limits
    }

    /// Goes the client's way as far as it leads, and says in words where it ends.
    fn follow(&self, route: &Route, client: ClientAddr, why: &mut Why) -> String {
        if !why.allowed {
            return format!(
                "denied: `allow` and `deny` of listener \"{}\" do not let {} in",
                why.listener,
                why.client.ip()
            );
        }
        let full = why.limits.iter().find(|limit| limit.active >= limit.max);
        let turned_away = full.map(|full| {
            format!(
                "turned away: the {} has all of its {} connections",
                full.of, full.max
            )
        });
        if let Some(turned_away) = turned_away {
            return turned_away;
        }
        let name = why.sni.as_deref();
        let protocols = why.alpn.iter().map(String::as_bytes);
        let Some((rule, upstream)) = route.find(client, name, protocols) else {
            return "turned away: no route fits, and the listener has no pool of its own"
                .to_owned();
        };
        let now = Moment::now();
        let key = upstream.key(client, name);
        // Workers draw as they like; whoever asks again may see another draw.
        let mut chance = Chance::seeded(now.as_micros());
        let explained = upstream.pool.explain(key, now, &mut chance);
        why.route = Some(RouteTaken {
            rule: rule.map(|index| index + 1),
            pool: upstream.pool.name().to_owned(),
        });
        why.pool = Some(self.pool_choice(upstream, key, &explained, now));
        if explained.spilled {
            why.notes.push(
                "hash_balance_factor: the backend of this client's hash has more than its share, \
                 so another one is taken"
                    .to_owned(),
            );
        }
        why.served = explained.taken().is_some() && !explained.behind_others;
        outcome(upstream, &explained)
    }

    fn pool_choice(
        &self,
        upstream: &Arc<Upstream>,
        key: u64,
        explained: &Explanation,
        now: Moment,
    ) -> PoolChoice {
        let pool = &upstream.pool;
        let hashes = pool.policy() == PolicyKind::IpHash;
        let tries = upstream.retries as usize + 1;
        let considered = |index: usize| {
            let (member, live) = (&pool.members()[index], pool.live(index));
            let order = explained.order.iter().position(|one| *one == index);
            let order = order.filter(|order| *order < tries);
            let reason = match explained.reasons[index] {
                Reason::Next if order.is_none() => Reason::NotReached,
                reason => reason,
            };
            Considered {
                name: member.name.clone(),
                address: member.target.clone(),
                reason,
                order: order.map(|order| order + 1),
                weight: member.weight,
                ramp_percent: pool.ramp_percent(index, now),
                priority: member.priority,
                active: live.active(),
                max_connections: member.max_connections,
                latency: live.latency(now),
                state: pool.state(index, now),
                last_probe: self.probing.last(pool.name(), &member.name),
            }
        };
        let mut candidates: Vec<Considered> = (0..pool.members().len()).map(considered).collect();
        candidates.sort_by_key(|one| one.order.unwrap_or(usize::MAX));
        PoolChoice {
            name: pool.name().to_owned(),
            policy: pool.policy(),
            hash_key: hashes.then(|| upstream.hash_key.as_str().to_owned()),
            hash: hashes.then(|| format!("{key:016x}")),
            active: pool.active(),
            max_connections: pool.max_connections(),
            queued: pool.queue().waiting(),
            retries: upstream.retries,
            panic: explained.panic,
            by_chance: explained.by_chance,
            candidates,
        }
    }
}

/// What the listener sees of the name the client asks for.
fn seen_name(
    route: &Route,
    query: &WhyQuery,
    notes: &mut Vec<String>,
) -> Result<Option<String>, Refusal> {
    let parse = |name: &String| {
        HostName::parse(name).map_err(|what| Refusal::Invalid(format!("the name {name:?} {what}")))
    };
    let name = query.sni.as_ref().map(parse).transpose()?;
    if route.tls.is_none() && (name.is_some() || !query.alpn.is_empty()) {
        notes.push(
            "the listener has no `tls`, so it sees neither name nor protocols of its clients"
                .to_owned(),
        );
        return Ok(None);
    }
    Ok(name.map(|name| name.bare().to_owned()))
}

/// In words, of a client that is let in.
fn outcome(upstream: &Upstream, explained: &Explanation) -> String {
    let pool = &upstream.pool;
    let name = pool.name();
    let queue_length = upstream.queue.length;
    let waits = || match queue_length > pool.queue().waiting() {
        true => format!(
            "waits in the queue of pool \"{name}\", {} at most",
            seconds(upstream.queue.timeout)
        ),
        false => format!("turned away: nobody may wait any more for pool \"{name}\""),
    };
    match explained.taken() {
        Some(_) if explained.behind_others => {
            format!("{}: others came before", waits())
        }
        Some(index) => {
            let member = &pool.members()[index];
            format!("goes to {name}/{} ({})", member.name, member.target)
        }
        None if explained.pool_full => format!(
            "{}: the pool has all of its {} connections",
            waits(),
            pool.max_connections()
        ),
        None if explained.all_full => format!("{}: every backend is full", waits()),
        None => format!("turned away: pool \"{name}\" has no backend that may be taken"),
    }
}

fn seconds(time: Duration) -> String {
    format!("{}s", time.as_secs_f64())
}
