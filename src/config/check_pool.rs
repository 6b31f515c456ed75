//! Reads `[[pool]]`, its health and its backends.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::balance::health::{Ejection, Thresholds};
use crate::balance::policy::PolicyKind;
use crate::base::addr::Endpoint;
use crate::config::address;
use crate::config::check_discover;
use crate::config::duration;
use crate::config::ledger::Wrong;
use crate::config::names;
use crate::config::reader::{Found, Reader};
use crate::config::settings::{Address, Backend, Drain, Health, HttpProbe, Pool, Probe, Queue};

/// Tries beyond this only make the client wait.
const RETRIES_MAX: u32 = 16;
/// Percent; ten times as many retries as connections is more than `retries` allows anyway.
const RETRY_BUDGET_MAX: u32 = 1000;
/// Shorter waits and pauses are busy loops.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// Keys that only `probe = "http"` looks at.
const HTTP_KEYS: [&str; 4] = ["path", "host", "expect_status", "expect_body"];

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
    let health = health(&table.table("health"));
    let pool = Pool {
        name: name
            .as_ref()
            .map(|name| name.value.clone())
            .unwrap_or_default(),
        policy: table.choice("policy", &policies, &["least_latency", "lowest_cost"]),
        connect_timeout: table.duration("connect_timeout", TIMEOUT_MIN),
        retries: table.number("retries", 0..=RETRIES_MAX),
        retry_budget: table.number("retry_budget", 0..=RETRY_BUDGET_MAX),
        max_connections: table.number("max_connections", 0..=u32::MAX),
        queue: queue(&table.table("queue")),
        drain: drain(&table.table("drain")),
        rebalance: table.number("rebalance", 0..=u32::MAX),
        ejection: ejection(&table.table("ejection")),
        backends: backends(table, health.port),
        discover: check_discover::discovers(table),
        health,
    };
    note_rebalance_in_vain(table, &pool);
    (name, pool)
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

fn health(table: &Reader<'_>) -> Health {
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        None,
        Tcp,
        Http,
    }
    let kinds = [
        ("none", Kind::None),
        ("tcp", Kind::Tcp),
        ("http", Kind::Http),
    ];
    let kind = table.choice("probe", &kinds, &["tls", "https", "send_expect", "exec"]);
    let http = http_probe(table);
    if kind != Kind::Http {
        for key in HTTP_KEYS.into_iter().filter(|key| !table.is_default(key)) {
            let wrong = Wrong::new(
                format!("`{key}` is for probe = \"http\" only"),
                format!(
                    "add probe = \"http\" to {}, or leave `{key}` out",
                    table.label()
                ),
            );
            table.note(&table.place_of_value(key), wrong);
        }
    }
    Health {
        probe: match kind {
            Kind::None => Probe::None,
            Kind::Tcp => Probe::Tcp,
            Kind::Http => Probe::Http(http),
        },
        interval: table.duration("interval", INTERVAL_MIN),
        timeout: table.duration("timeout", TIMEOUT_MIN),
        thresholds: Thresholds {
            rise: table.number("rise", 1..=u32::MAX),
            fall: table.number("fall", 1..=u32::MAX),
        },
        fast_interval: table.duration("fast_interval", INTERVAL_MIN),
        down_interval: table.duration("down_interval", INTERVAL_MIN),
        port: table.number("port", 0..=u16::MAX),
    }
}

fn http_probe(table: &Reader<'_>) -> HttpProbe {
    HttpProbe {
        path: table.parsed("path", "a string", |text| {
            // What else would be read as the end of the request line.
            let visible = text.bytes().all(|byte| byte.is_ascii_graphic());
            if text.starts_with('/') && visible {
                return Ok(text.to_owned());
            }
            let what = if visible {
                "does not begin with `/`"
            } else {
                "has a space or a control or non-ASCII character"
            };
            let hint = "such as \"/health?full=1\"; escape other characters as %20";
            Err(Wrong::new(format!("the path {text:?} {what}"), hint))
        }),
        host: table.parsed("host", "a string", |text| {
            if text.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Ok(text.to_owned());
            }
            let message =
                format!("the host {text:?} has a space or a control or non-ASCII character");
            Err(Wrong::new(
                message,
                "a name such as \"web.internal\", or \"\" for the address",
            ))
        }),
        expect_status: table.parsed("expect_status", "a string", status_ranges),
        expect_body: table.text("expect_body"),
    }
}

/// "200-399" or "200,204,300-399".
fn status_ranges(text: &str) -> Result<Vec<RangeInclusive<u16>>, Wrong> {
    let status = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse::<u16>()
            .ok()
            .filter(|status| digits && (100..=599).contains(status))
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (status(first.trim())?, status(last.trim())?);
        (first <= last).then_some(first..=last)
    };
    text.split(',')
        .map(|part| range(part.trim()))
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| {
            Wrong::new(
                format!("`expect_status` is {text:?}, not a list of HTTP statuses"),
                "100 to 599, such as \"200\", \"200-399\" or \"200,204,300-399\"",
            )
        })
}

fn backends(pool: &Reader<'_>, health_port: u16) -> Vec<Backend> {
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
    note_probe_port_of_unix_backends(health_port, &tables, &read);
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

fn note_probe_port_of_unix_backends(
    health_port: u16,
    tables: &[Reader<'_>],
    read: &[(Option<Found<String>>, Option<Backend>)],
) {
    if health_port == 0 {
        return;
    }
    for (table, (_, backend)) in tables.iter().zip(read) {
        if matches!(
            backend,
            Some(Backend {
                address: Address::At(Endpoint::Unix(_)),
                ..
            })
        ) {
            let wrong = Wrong::new(
                format!(
                    "{} is a socket in the file system, but health has a `port`",
                    table.label()
                ),
                "leave `port` out, or put the backend into a pool of its own",
            );
            table.note(&table.place_of_value("address"), wrong);
        }
    }
}
