//! Differences of configurations, with the connections they touch.

use super::*;
use crate::config::load::load_text;

const BASE: &str = "[[listener]]\nname = \"in\"\nbind = \"127.0.0.1:1\"\npool = \"web\"\n\
    [[pool]]\nname = \"web\"\n\
    [[pool.backend]]\nname = \"a\"\naddress = \"10.0.0.1:80\"\n\
    [[pool.backend]]\nname = \"b\"\naddress = \"10.0.0.2:80\"\n";

fn settings(text: &str) -> Settings {
    load_text("t", text, &|_| None).unwrap()
}

/// Three connections, two of them at `a`.
fn live() -> State {
    let backend = |name: &str, active: u32| {
        format!(
            r#"{{"name":"{name}","address":"10.0.0.1:80","weight":1,"priority":0,
            "max_connections":0,"state":"up","active":{active},"total":9,"failures":0,
            "bytes_to_backend":0,"bytes_to_client":0,"last_probe":null,"drain":null,"change":null}}"#
        )
    };
    let text = format!(
        r#"{{"version":"","pid":1,"uptime_s":1,"draining":false,"workers":2,"active":3,
        "max_connections":9,"panics":0,
        "reloads":{{"succeeded":0,"failed":0,"at":null,"error":null}},
        "listeners":[{{"name":"in","bind":["127.0.0.1:1"],"active":3,"max_connections":0,"total":9,
        "handshakes":{{"full_12":0,"resumed_12":0,"full_13":0,"resumed_13":0,"failed":0}},
        "certificates":[],"certificate_errors":0}}],
        "pools":[{{"name":"web","policy":"round_robin","active":3,"max_connections":0,"queued":0,
        "retries_refused":0,"discovery":[],"leaving":[],"removed":[],
        "backends":[{},{}]}}]}}"#,
        backend("a", 2),
        backend("b", 1)
    );
    serde_json::from_str(&text).unwrap()
}

/// `kind what keys connections`
fn told(newer: &str) -> Vec<String> {
    let differences = compare(&settings(BASE), &settings(newer), &live());
    let line = |one: &Difference| {
        let keys = one.keys.iter();
        let keys: Vec<_> = keys
            .map(|key| format!(" {}: {} -> {}", key.key, key.from, key.to))
            .collect();
        let restart = if one.needs_restart { " restart" } else { "" };
        let (kind, what, count) = (one.kind, &one.what, one.connections);
        format!("{kind:?} {what}{}{restart} [{count}]", keys.concat())
    };
    differences.iter().map(line).collect()
}

#[test]
fn the_same_is_no_difference() {
    assert_eq!(told(BASE), [""; 0]);
    assert_eq!(told(&format!("{BASE}weight = 1\n")), [""; 0]);
}

#[test]
fn each_change_is_told_with_its_keys_and_the_connections_it_touches() {
    let newer = "[global]\nworkers = 3\ndrain_timeout = \"9s\"\n\
        [[listener]]\nname = \"in\"\nbind = \"127.0.0.1:1\"\npool = \"web\"\nidle_timeout = \"1m\"\n\
        [[listener]]\nname = \"more\"\nbind = \"127.0.0.1:2\"\npool = \"web\"\n\
        [[pool]]\nname = \"web\"\npolicy = \"ip_hash\"\nhealth.interval = \"5s\"\n\
        [[pool.backend]]\nname = \"b\"\naddress = \"10.0.0.2:80\"\nweight = 4\n\
        [[pool.backend]]\nname = \"c\"\naddress = \"10.0.0.3:80\"\n";
    assert_eq!(
        told(newer),
        [
            "Changed global drain_timeout: \"30s\" -> \"9s\" [0]",
            "Changed global workers: \"auto\" -> 3 restart [0]",
            "Changed listener \"in\" idle_timeout: \"10m\" -> \"1m\" [3]",
            "Added listener \"more\" [0]",
            "Changed pool \"web\" health.interval: \"2s\" -> \"5s\" policy: \"round_robin\" -> \
             \"ip_hash\" [3]",
            "Removed backend \"web/a\" [2]",
            "Changed backend \"web/b\" weight: 1 -> 4 [1]",
            "Added backend \"web/c\" [0]",
        ]
    );
}

#[test]
fn who_loses_the_backend_is_told_until_when() {
    let newer = BASE.replace("10.0.0.1:80", "10.0.0.9:80");
    let differences = compare(&settings(BASE), &settings(&newer), &live());
    assert_eq!(
        differences[0].effect,
        "end within 300s (drain.deadline), idle ones first"
    );
}
