//! Reads `[[pool]]` and its backends.

use std::time::Duration;

use crate::balance::ejection::Ejection;
use crate::balance::key::HashKey;
use crate::balance::policy::{Cost, PolicyKind};
use crate::config::address;
use crate::config::check_discover;
use crate::config::check_health;
use crate::config::check_secure;
use crate::config::duration;
use crate::config::ledger::Wrong;
use crate::config::names;
use crate::config::reader::{Found, Reader};
use crate::config::settings::{Address, Backend, Drain, Health, Pool, Queue, UpstreamTls};

/// Tries beyond this only make the client wait.
const RETRIES_MAX: u32 = 16;
/// Percent; ten times as many retries as connections is more than `retries` allows anyway.
const RETRY_BUDGET_MAX: u32 = 1000;
/// Percent; ten times the mean is hardly a bound any more.
const HASH_BALANCE_FACTOR_MAX: u16 = 1000;
/// Shorter waits are busy loops.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

pub(crate) fn pool(table: &Reader<'_>) -> (Option<Found<String>>, Pool) {
    let name = table.required("name", "a string", names::name);
    let mut policies = PolicyKind::ALL.map(|kind| (kind.as_str(), kind)).to_vec();
    policies.insert(1, ("weighted_round_robin", PolicyKind::RoundRobin));
    let hash_keys = [HashKey::SourceIp, HashKey::SourceIpPort, HashKey::Sni];
    let hash_keys = hash_keys.map(|key| (key.as_str(), key));
    let send_proxy = check_secure::send_proxy(table);
    let tls = check_secure::upstream_tls(table);
    let health = check_health::health(&table.table("health"), send_proxy, tls.as_ref());
    let pool = Pool {
        name: name
            .as_ref()
            .map(|name| name.value.clone())
            .unwrap_or_default(),
        policy: table.choice("policy", &policies, &[]),
        hash_key: table.choice("hash_key", &hash_keys, &[]),
        hash_balance_factor: hash_balance_factor(table),
        slow_start: table.duration("slow_start", Duration::ZERO),
        panic_threshold: table.number("panic_threshold", 0..=100),
        connect_timeout: table.duration("connect_timeout", TIMEOUT_MIN),
        retries: table.number("retries", 0..=RETRIES_MAX),
        retry_budget: table.number("retry_budget", 0..=RETRY_BUDGET_MAX),
        max_connections: table.number("max_connections", 0..=u32::MAX),
        queue: queue(&table.table("queue")),
        drain: drain(&table.table("drain")),
        rebalance: table.number("rebalance", 0..=u32::MAX),
        send_proxy,
        ejection: ejection(&table.table("ejection")),
        backends: backends(table, &health, tls.as_ref()),
        tls,
        discover: check_discover::discovers(table),
        health,
    };
    note_rebalance_in_vain(table, &pool);
    (name, pool)
}

/// At 100 percent or less not all connections would have a place.
fn hash_balance_factor(table: &Reader<'_>) -> u16 {
    let factor = table.number("hash_balance_factor", 0..=HASH_BALANCE_FACTOR_MAX);
    if (1..=100).contains(&factor) {
        let wrong = Wrong::new(
            format!("`hash_balance_factor` is {factor}, not above 100"),
            format!(
                "percent of the mean load, 101 to {HASH_BALANCE_FACTOR_MAX}; 0 = no bound; the \
                 default is hash_balance_factor = 125"
            ),
        );
        table.note(&table.place_of_value("hash_balance_factor"), wrong);
    }
    factor
}

/// Where the policy has one place for each client, who connects again is sent there again.
fn note_rebalance_in_vain(table: &Reader<'_>, pool: &Pool) {
    let bound = matches!(pool.policy, PolicyKind::IpHash | PolicyKind::Failover);
    if bound && pool.rebalance > 0 {
        let message = "`rebalance` has no use here: the policy sends each client to one place";
        let hint = "leave `rebalance` out, or choose another policy such as \"least_connections\"";
        table.note(
            &table.place_of_value("rebalance"),
            Wrong::new(message, hint),
        );
    }
}

fn queue(table: &Reader<'_>) -> Queue {
    Queue {
        length: table.number("length", 0..=u32::MAX),
        timeout: table.duration("timeout", TIMEOUT_MIN),
        stays_half_closed: table.choice("on_half_close", &[("leave", false), ("stay", true)], &[]),
    }
}

fn drain(table: &Reader<'_>) -> Drain {
    Drain {
        deadline: table.duration("deadline", Duration::ZERO),
        closes_on_down: table.choice("on_down", &[("keep", false), ("close", true)], &[]),
    }
}

fn ejection(table: &Reader<'_>) -> Ejection {
    let ejection = Ejection {
        connect_failures: table.number("connect_failures", 0..=u32::MAX),
        base: table.duration("base", TIMEOUT_MIN),
        max: table.duration("max", TIMEOUT_MIN),
        max_percent: table.number("max_percent", 0..=100),
        early_resets: table.number("early_resets", 0..=u32::MAX),
        early_reset_within: table.duration("early_reset_within", TIMEOUT_MIN),
        empty_closes: table.number("empty_closes", 0..=u32::MAX),
    };
    if ejection.base > ejection.max {
        let wrong = Wrong::new(
            format!(
                "`base` ({}) is longer than `max` ({}) in {}",
                duration::format(ejection.base),
                duration::format(ejection.max),
                table.label()
            ),
            "`base` is the length of the first ejection, `max` that of the longest",
        );
        let place = table.place_of_value(if table.has("max") { "max" } else { "base" });
        table.note(&place, wrong);
    }
    ejection
}

fn backends(pool: &Reader<'_>, health: &Health, tls: Option<&UpstreamTls>) -> Vec<Backend> {
    let tables = pool.tables("backend");
    if tables.is_empty() && !pool.has("backend") && !check_discover::is_written(pool) {
        let hint = "add [[pool.backend]] with a line such as address = \"127.0.0.1:9001\"";
        let message = format!("{} has no backend", pool.label());
        pool.ledger()
            .note_absence(pool.place(), Wrong::new(message, hint));
    }
    let read: Vec<_> = tables.iter().map(backend).collect();
    names::unique(
        &tables,
        read.iter().map(|(name, _)| name.as_ref()),
        "backend",
    );
    let listed = read.iter().map(|(_, one)| one.as_ref());
    check_health::note_unix_backends(health, tls, &tables, listed);
    read.into_iter()
        .filter_map(|(_, backend)| backend)
        .collect()
}

/// A backend and its name; where there was a mistake, `None` or a name made up.
pub(crate) fn backend(table: &Reader<'_>) -> (Option<Found<String>>, Option<Backend>) {
    let address = table.required("address", "an address in quotes", address::parse_backend);
    let name = if table.has("name") {
        table.optional("name", "a string", names::backend_name)
    } else {
        address
            .as_ref()
            .and_then(|address| default_name(table, address))
    };
    let (weight, priority) = (
        table.number("weight", 0..=u16::MAX),
        table.number("priority", 0..=u16::MAX),
    );
    let max_connections = table.number("max_connections", 0..=u32::MAX);
    let cost = table.decimal("cost", "a finite number of 0 or more", Cost::new);
    let backend = address.map(|address| Backend {
        name: name
            .as_ref()
            .map(|name| name.value.clone())
            .unwrap_or_default(),
        address: address.value,
        weight,
        priority,
        cost,
        max_connections,
    });
    (name, backend)
}

/// The address, where it makes a name.
fn default_name(table: &Reader<'_>, address: &Found<Address>) -> Option<Found<String>> {
    let place = address.place.clone();
    match names::backend_name(&address.value.to_string()) {
        Ok(value) => Some(Found { value, place }),
        Err(wrong) => {
            let message = format!("the address is no name: {}", wrong.message);
            table.note(
                &place,
                Wrong::new(message, "add a line such as name = \"a\""),
            );
            None
        }
    }
}
