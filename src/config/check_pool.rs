//! Reads `[[pool]]` and its backends.

use std::time::Duration;

use crate::balance::health::Ejection;
use crate::balance::policy::PolicyKind;
use crate::base::addr::Endpoint;
use crate::config::address;
use crate::config::check_health;
use crate::config::duration;
use crate::config::ledger::Wrong;
use crate::config::names;
use crate::config::reader::{Found, Reader};
use crate::config::settings::{Backend, Health, Pool};

/// Tries beyond this only make the client wait.
const RETRIES_MAX: u32 = 16;
/// Shorter waits are busy loops.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);

pub(crate) fn pool(table: &Reader<'_>) -> (Option<Found<String>>, Pool) {
    let name = table.required("name", "a string", names::name);
    let policies = [
        ("round_robin", PolicyKind::RoundRobin),
        ("weighted_round_robin", PolicyKind::RoundRobin),
        ("least_connections", PolicyKind::LeastConnections),
        ("ip_hash", PolicyKind::IpHash),
        ("random", PolicyKind::Random),
        ("two_choices", PolicyKind::TwoChoices),
        ("failover", PolicyKind::Failover),
    ];
    table.choice("hash_key", &[("source_ip", ())], &["source_ip_port", "sni"]);
    let health = check_health::health(&table.table("health"));
    let pool = Pool {
        name: name
            .as_ref()
            .map(|name| name.value.clone())
            .unwrap_or_default(),
        policy: table.choice("policy", &policies, &["least_latency", "lowest_cost"]),
        connect_timeout: table.duration("connect_timeout", TIMEOUT_MIN),
        retries: table.number("retries", 0..=RETRIES_MAX),
        ejection: ejection(&table.table("ejection")),
        backends: backends(table, &health),
        health,
    };
    (name, pool)
}

fn ejection(table: &Reader<'_>) -> Ejection {
    let ejection = Ejection {
        connect_failures: table.number("connect_failures", 0..=u32::MAX),
        base: table.duration("base", TIMEOUT_MIN),
        max: table.duration("max", TIMEOUT_MIN),
        max_percent: table.number("max_percent", 0..=100),
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

fn backends(pool: &Reader<'_>, health: &Health) -> Vec<Backend> {
    let tables = pool.tables("backend");
    if tables.is_empty() && !pool.has("backend") && !pool.has("discover") {
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
    check_health::note_unix_backends(health, &tables, read.iter().map(|(_, one)| one.as_ref()));
    read.into_iter()
        .filter_map(|(_, backend)| backend)
        .collect()
}

fn backend(table: &Reader<'_>) -> (Option<Found<String>>, Option<Backend>) {
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
    let backend = address.map(|address| Backend {
        name: name
            .as_ref()
            .map(|name| name.value.clone())
            .unwrap_or_default(),
        address: address.value,
        weight,
        priority,
        max_connections,
    });
    (name, backend)
}

/// The address, where it makes a name.
fn default_name(table: &Reader<'_>, address: &Found<Endpoint>) -> Option<Found<String>> {
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
