//! The text, read again by the rules of its format.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use super::*;
use crate::observe::histogram::Histogram;

/// `backends` of them, each with observations in every histogram.
fn sample(backends: usize) -> Sample {
    let backend = |index: usize| {
        format!(
            r#"{{"name":"b{index}","address":"10.0.0.1:80","weight":1,"priority":0,
            "max_connections":0,"state":"up","active":2,"total":9,"failures":1,
            "bytes_to_backend":123,"bytes_to_client":456,
            "last_probe":{{"ok":true,"detail":"connected","ms":1.5}},"drain":null,"change":null}}"#
        )
    };
    let backends: Vec<String> = (0..backends).map(backend).collect();
    let text = format!(
        r#"{{"version":"1.2.3","pid":1,"uptime_s":1.5,"draining":false,"workers":2,"active":3,
        "max_connections":9,"panics":0,"troubles":[],
        "reloads":{{"succeeded":4,"failed":1,"at":null,"error":null}},
        "listeners":[{{"name":"in","bind":["127.0.0.1:1"],"active":3,"max_connections":0,"total":9,
        "handshakes":{{"full_12":0,"resumed_12":0,"full_13":7,"resumed_13":2,"failed":1}},
        "certificates":[{{"file":"/a","names":["*.example.com"],
        "not_after":"2026-01-02T00:00:00.000Z"}}],"certificate_errors":0,
        "ended":{{"client_closed":5}},"ended_by_pool":{{"":{{"denied":1}},"web":{{"client_closed":5}}}},
        "accept_errors":{{"descriptors":1}},"handshake_failures":{{"protocol":1}}}}],
        "pools":[{{"name":"web","policy":"round_robin","active":3,"max_connections":0,"queued":0,
        "retries_refused":0,"discovery":[],"leaving":[],"removed":[],
        "backends":[{}]}}]}}"#,
        backends.join(",")
    );
    let histogram = Histogram::new();
    for ms in 1..1000 {
        histogram.record(Duration::from_millis(ms));
    }
    let each = histogram.snapshot();
    let counted = BackendSample {
        timings: Histograms {
            queue: each.clone(),
            connect: each.clone(),
            first_byte: each.clone(),
            session: each,
        },
        probes: ProbeCounts {
            passed: 5,
            failed: 0,
            local: 1,
        },
        ejections: 0,
    };
    Sample {
        state: serde_json::from_str(&text).unwrap(),
        backends: vec![vec![counted; backends.len()]],
        relayed: vec![("copy", 10), ("splice", 20), ("tls", 30)],
        log_lines_lost: 0,
    }
}

fn now() -> SystemTime {
    crate::base::wall::parse("2026-01-01T00:00:00.000Z").unwrap()
}

/// Family, labels as they stand, value.
type Line = (String, String, f64);

/// Panics where a line is not what the format wants: each family once, its help and type first,
/// then its samples, no series twice, values that are numbers.
fn parse(text: &str) -> (BTreeMap<String, String>, Vec<Line>) {
    let (mut types, mut lines, mut seen) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
    let mut family = String::new();
    for line in text.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            family = help.split(' ').next().unwrap().to_owned();
            assert!(!types.contains_key(&family), "{family} stands twice");
        } else if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').unwrap();
            assert_eq!(name, family);
            assert!(["counter", "gauge", "histogram"].contains(&kind));
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
            types.insert(name.to_owned(), kind.to_owned());
        } else {
            let (series, value) = line.rsplit_once(' ').unwrap();
            assert!(seen.insert(series.to_owned()), "{series} stands twice");
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let base = ["_bucket", "_sum", "_count"].iter();
            let base = base.filter_map(|end| name.strip_suffix(end)).next();
            let of = if types[&family] == "histogram" {
                base.unwrap()
            } else {
                name
            };
            assert_eq!(of, family, "{line}");
            assert!(labels.is_empty() || labels.ends_with("\"}"), "{line}");
            lines.push((name.to_owned(), labels.to_owned(), value.parse().unwrap()));
        }
    }
    (types, lines)
}

fn value(lines: &[Line], name: &str, labels: &str) -> f64 {
    let found = lines
        .iter()
        .find(|(of, with, _)| of == name && with.trim_end_matches('}') == labels);
    found.unwrap_or_else(|| panic!("no {name}{{{labels}")).2
}

#[test]
fn every_published_name_is_there_with_its_labels() {
    let text = text(&sample(1), now());
    let (types, lines) = parse(&text);
    for (name, labels, is) in [
        ("lbd_build_info", "version=\"1.2.3\"", 1.0),
        ("lbd_connections_active", "listener=\"in\"", 3.0),
        ("lbd_connections_total", "listener=\"in\"", 9.0),
        (
            "lbd_sessions_ended_total",
            "listener=\"in\",pool=\"web\",termination=\"client_closed\"",
            5.0,
        ),
        (
            "lbd_sessions_ended_total",
            "listener=\"in\",pool=\"\",termination=\"denied\"",
            1.0,
        ),
        ("lbd_backend_up", "pool=\"web\",backend=\"b0\"", 1.0),
        (
            "lbd_backend_state",
            "pool=\"web\",backend=\"b0\",state=\"up\"",
            1.0,
        ),
        (
            "lbd_backend_state",
            "pool=\"web\",backend=\"b0\",state=\"down\"",
            0.0,
        ),
        (
            "lbd_backend_connections_active",
            "pool=\"web\",backend=\"b0\"",
            2.0,
        ),
        (
            "lbd_backend_connections_total",
            "pool=\"web\",backend=\"b0\"",
            9.0,
        ),
        (
            "lbd_backend_connect_failures_total",
            "pool=\"web\",backend=\"b0\"",
            1.0,
        ),
        (
            "lbd_backend_bytes_total",
            "pool=\"web\",backend=\"b0\",direction=\"to_backend\"",
            123.0,
        ),
        (
            "lbd_backend_bytes_total",
            "pool=\"web\",backend=\"b0\",direction=\"to_client\"",
            456.0,
        ),
        (
            "lbd_probe_total",
            "pool=\"web\",backend=\"b0\",result=\"passed\"",
            5.0,
        ),
        ("lbd_probe_seconds", "pool=\"web\",backend=\"b0\"", 0.0015),
        (
            "lbd_tls_handshakes_total",
            "listener=\"in\",version=\"1.3\",resumed=\"false\",result=\"ok\"",
            7.0,
        ),
        (
            "lbd_tls_handshakes_total",
            "listener=\"in\",version=\"1.3\",resumed=\"true\",result=\"ok\"",
            2.0,
        ),
        (
            "lbd_tls_handshakes_total",
            "listener=\"in\",version=\"\",resumed=\"\",result=\"protocol\"",
            1.0,
        ),
        ("lbd_queue_length", "pool=\"web\"", 0.0),
        ("lbd_reloads_total", "result=\"ok\"", 4.0),
        ("lbd_reloads_total", "result=\"failed\"", 1.0),
        ("lbd_relay_bytes_total", "path=\"splice\"", 20.0),
        (
            "lbd_accept_errors_total",
            "listener=\"in\",reason=\"descriptors\"",
            1.0,
        ),
        (
            "lbd_certificate_expiry_seconds",
            "listener=\"in\",name=\"*.example.com\"",
            86_400.0,
        ),
    ] {
        assert_eq!(value(&lines, name, labels), is, "{name}{{{labels}}}");
    }
    for name in [
        "lbd_connect_seconds",
        "lbd_first_byte_seconds",
        "lbd_session_seconds",
        "lbd_queue_seconds",
    ] {
        assert_eq!(types[name], "histogram");
        let labels = "pool=\"web\",backend=\"b0\"";
        assert_eq!(value(&lines, &format!("{name}_count"), labels), 999.0);
        assert_eq!(value(&lines, &format!("{name}_sum"), labels), 499.5);
        let infinite = format!("{labels},le=\"+Inf\"");
        assert_eq!(value(&lines, &format!("{name}_bucket"), &infinite), 999.0);
        let buckets = lines
            .iter()
            .filter(|(of, ..)| *of == format!("{name}_bucket"));
        let counts: Vec<f64> = buckets.map(|(.., count)| *count).collect();
        assert!(
            counts.is_sorted() && counts.len() <= 12,
            "{name}: {counts:?}"
        );
    }
}

#[test]
fn buckets_count_exactly_what_is_within_their_bounds() {
    let histogram = Histogram::new();
    for micros in [127, 128, 129, 512, 513] {
        histogram.record(Duration::from_micros(micros));
    }
    let mut sample = sample(1);
    sample.backends[0][0].timings.connect = histogram.snapshot();
    let (_, lines) = parse(&text(&sample, now()));
    let labels = "pool=\"web\",backend=\"b0\",le=";
    let count = |le: &str| {
        value(
            &lines,
            "lbd_connect_seconds_bucket",
            &format!("{labels}\"{le}\""),
        )
    };
    assert_eq!(
        (count("0.000128"), count("0.000512"), count("0.002048")),
        (2.0, 4.0, 5.0)
    );
}

#[test]
fn a_backend_without_an_observation_has_no_histogram() {
    let mut sample = sample(2);
    sample.backends[0][1].timings = Histograms::default();
    let text = text(&sample, now());
    assert!(text.contains("lbd_connect_seconds_count{pool=\"web\",backend=\"b0\"} 999\n"));
    assert!(!text.contains("lbd_connect_seconds_count{pool=\"web\",backend=\"b1\"}"));
}

#[test]
fn what_stands_in_a_label_stays_in_it() {
    let mut sample = sample(0);
    sample.state.listeners[0].certificates[0].names = vec!["a\"} 1\nx\\".to_owned()];
    let text = text(&sample, now());
    assert!(
        text.contains("name=\"a\\\"} 1\\nx\\\\\"} 86400\n"),
        "{text}"
    );
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_what_there_is() {
    let (types, _) = parse(&text(&sample(1), now()));
    let alerts = include_str!("../../../conf/alerts.yml");
    let dashboard = include_str!("../../../conf/grafana-dashboard.json");
    let mut asked = 0;
    for file in [alerts, dashboard] {
        for (at, _) in file.match_indices("lbd_") {
            let rest = &file[at..];
            let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            let name = &rest[..end.unwrap_or(rest.len())];
            let base = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(types.contains_key(base), "nobody counts {name}");
            asked += 1;
        }
    }
    assert!(asked > 30);
}

/// A tenth of what is allowed for a release build is ample; without optimization it is slower.
#[test]
fn a_thousand_backends_are_written_quickly_and_within_bounds() {
    let sample = sample(1000);
    let begin = Instant::now();
    let text = text(&sample, now());
    let took = begin.elapsed();
    let (_, lines) = parse(&text);
    assert!(lines.len() < 80_000, "{} series", lines.len());
    assert!(text.len() < 8_000_000, "{} bytes", text.len());
    let most = if cfg!(debug_assertions) { 2000 } else { 50 };
    assert!(took < Duration::from_millis(most), "{took:?}");
}
