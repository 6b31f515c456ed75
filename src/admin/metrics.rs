//! `GET /metrics`: everything that is counted, in the text format of Prometheus (version 0.0.4).
//!
//! The crate `prometheus-client` writes OpenMetrics, in which a counter's type stands under another
//! name than its samples: readers of the older format would take all counters for untyped.

use std::fmt::{Display, Write};
use std::time::{Duration, SystemTime};

use super::state::{BackendState, ListenerState, PoolState, State};
use crate::balance::backend::State as Word;
use crate::balance::timings::Histograms;
use crate::observe::histogram::Snapshot;

/// Everything that is counted, at one moment.
#[derive(Debug)]
pub struct Sample {
    pub state: State,
    /// By pool and backend, in the order of the state.
    pub backends: Vec<Vec<BackendSample>>,
    /// By path: copy, splice, tls.
    pub relayed: Vec<(&'static str, u64)>,
    pub log_lines_lost: u64,
}

/// What is counted of a backend besides its state.
#[derive(Clone, Debug, Default)]
pub struct BackendSample {
    pub timings: Histograms,
    pub probes: ProbeCounts,
    pub ejections: u64,
}

/// How the probes of a backend ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    pub passed: u64,
    pub failed: u64,
    /// A fault of ours, which says nothing of the backend.
    pub local: u64,
}

/// Bounds of histograms in microseconds: powers of two, at which the counts are exact.
const CONNECT: &[u64] = &powers::<9>(7, 2);
const FIRST_BYTE: &[u64] = &powers::<10>(9, 2);
const SESSION: &[u64] = &powers::<11>(10, 2);
const QUEUE: &[u64] = &powers::<7>(10, 2);

/// 2^first, 2^(first + step) and so on.
const fn powers<const N: usize>(first: u32, step: u32) -> [u64; N] {
    let (mut bounds, mut at) = ([0; N], 0);
    while at < N {
        bounds[at] = 1 << (first + step * at as u32);
        at += 1;
    }
    bounds
}

/// The whole text.
pub fn text(sample: &Sample, now: SystemTime) -> String {
    let mut out = Text::default();
    process(sample, &mut out);
    listeners(&sample.state.listeners, now, &mut out);
    pools(&sample.state.pools, &mut out);
    backends(sample, &mut out);
    out.0
}

fn process(sample: &Sample, out: &mut Text) {
    let state = &sample.state;
    out.family("lbd_build_info", "gauge", "Which lbd this is; always 1.");
    out.sample("lbd_build_info", &[("version", &state.version)], 1);
    out.family(
        "lbd_uptime_seconds",
        "gauge",
        "Since the start of the process.",
    );
    out.sample("lbd_uptime_seconds", &[], state.uptime.as_secs_f64());
    out.family(
        "lbd_draining",
        "gauge",
        "1 when no new clients are accepted.",
    );
    out.sample("lbd_draining", &[], u8::from(state.draining));
    out.family(
        "lbd_connections_max",
        "gauge",
        "Client connections that the process may have.",
    );
    out.sample("lbd_connections_max", &[], state.max_connections);
    out.family(
        "lbd_reloads_total",
        "counter",
        "Attempts to apply the configuration anew.",
    );
    for (result, count) in [
        ("ok", state.reloads.succeeded),
        ("failed", state.reloads.failed),
    ] {
        out.sample("lbd_reloads_total", &[("result", result)], count);
    }
    out.family(
        "lbd_relay_bytes_total",
        "counter",
        "Bytes relayed, both ways together, by how they were moved.",
    );
    for (path, bytes) in &sample.relayed {
        out.sample("lbd_relay_bytes_total", &[("path", path)], bytes);
    }
    out.family(
        "lbd_panics_total",
        "counter",
        "Sessions ended by a panic, which is a bug.",
    );
    out.sample("lbd_panics_total", &[], state.panics);
    out.family(
        "lbd_access_log_lines_lost_total",
        "counter",
        "Lines that the target of the access log did not take in time.",
    );
    out.sample(
        "lbd_access_log_lines_lost_total",
        &[],
        sample.log_lines_lost,
    );
}

fn listeners(listeners: &[ListenerState], now: SystemTime, out: &mut Text) {
    out.family("lbd_connections_active", "gauge", "Client connections now.");
    for one in listeners {
        out.sample(
            "lbd_connections_active",
            &[("listener", &one.name)],
            one.active,
        );
    }
    out.family(
        "lbd_connections_total",
        "counter",
        "Client connections that were admitted.",
    );
    for one in listeners {
        out.sample(
            "lbd_connections_total",
            &[("listener", &one.name)],
            one.total,
        );
    }
    out.family("lbd_sessions_ended_total", "counter", "Sessions by how they ended, in the words of the access log; pool is empty where none was chosen.");
    for one in listeners {
        for (pool, ended) in &one.ended_by_pool {
            for (termination, count) in ended {
                let labels = [
                    ("listener", &*one.name),
                    ("pool", pool),
                    ("termination", termination),
                ];
                out.sample("lbd_sessions_ended_total", &labels, count);
            }
        }
    }
    out.family(
        "lbd_accept_errors_total",
        "counter",
        "Clients that waited and could not be accepted.",
    );
    for one in listeners {
        for (reason, count) in &one.accept_errors {
            let labels = [("listener", &*one.name), ("reason", reason)];
            out.sample("lbd_accept_errors_total", &labels, count);
        }
    }
    out.family(
        "lbd_tls_handshakes_total",
        "counter",
        "TLS handshakes with clients; of those that failed version and resumed are empty.",
    );
    for one in listeners {
        let done = &one.handshakes;
        for (version, resumed, count) in [
            ("1.2", "false", done.full_12),
            ("1.2", "true", done.resumed_12),
            ("1.3", "false", done.full_13),
            ("1.3", "true", done.resumed_13),
        ] {
            if count > 0 {
                out.handshakes(&one.name, version, resumed, "ok", count);
            }
        }
        for (result, count) in &one.handshake_failures {
            out.handshakes(&one.name, "", "", result, *count);
        }
    }
    out.family(
        "lbd_certificate_expiry_seconds",
        "gauge",
        "Until the certificate expires; negative when it has.",
    );
    for one in listeners {
        for certificate in &one.certificates {
            let left = match certificate.not_after.duration_since(now) {
                Ok(left) => left.as_secs_f64(),
                Err(over) => -over.duration().as_secs_f64(),
            };
            let file = certificate.file.display().to_string();
            let name = certificate.names.first().unwrap_or(&file);
            let labels = [("listener", &*one.name), ("name", name)];
            out.sample("lbd_certificate_expiry_seconds", &labels, left.round());
        }
    }
    out.family(
        "lbd_certificate_errors_total",
        "counter",
        "Contents of certificate files that were not taken up.",
    );
    for one in listeners {
        let labels = [("listener", &*one.name)];
        out.sample(
            "lbd_certificate_errors_total",
            &labels,
            one.certificate_errors,
        );
    }
}

fn pools(pools: &[PoolState], out: &mut Text) {
    out.family("lbd_queue_length", "gauge", "Clients that wait for room.");
    for one in pools {
        out.sample("lbd_queue_length", &[("pool", &one.name)], one.queued);
    }
    out.family(
        "lbd_retries_refused_total",
        "counter",
        "Retries that retry_budget did not grant.",
    );
    for one in pools {
        let labels = [("pool", &*one.name)];
        out.sample("lbd_retries_refused_total", &labels, one.retries_refused);
    }
}

/// A value of each backend.
type Of<T> = fn(&BackendState) -> T;

fn backends(sample: &Sample, out: &mut Text) {
    let pools = &sample.state.pools;
    let each = |out: &mut Text, name, kind, help, value: Of<u64>| {
        out.family(name, kind, help);
        for pool in pools {
            for one in &pool.backends {
                let labels = [("pool", &*pool.name), ("backend", &*one.name)];
                out.sample(name, &labels, value(one));
            }
        }
    };
    each(
        out,
        "lbd_backend_up",
        "gauge",
        "1 when it is healthy: up, slow_start or drain.",
        |one| {
            u64::from(matches!(
                one.state,
                Word::Up | Word::SlowStart | Word::Drain
            ))
        },
    );
    out.family(
        "lbd_backend_state",
        "gauge",
        "1 for the state it is in, 0 for the others.",
    );
    for pool in pools {
        for one in &pool.backends {
            for word in Word::ALL {
                let labels = [
                    ("pool", &*pool.name),
                    ("backend", &*one.name),
                    ("state", word.as_str()),
                ];
                out.sample("lbd_backend_state", &labels, u8::from(one.state == word));
            }
        }
    }
    each(
        out,
        "lbd_backend_weight",
        "gauge",
        "As configured, or as an operator changed it.",
        |one| one.weight.into(),
    );
    each(
        out,
        "lbd_backend_connections_active",
        "gauge",
        "Connections now.",
        |one| one.active.into(),
    );
    each(
        out,
        "lbd_backend_connections_total",
        "counter",
        "Connections that were made.",
        |one| one.total,
    );
    each(
        out,
        "lbd_backend_connect_failures_total",
        "counter",
        "Connects that failed.",
        |one| one.failures,
    );
    out.family("lbd_backend_bytes_total", "counter", "Bytes relayed.");
    for pool in pools {
        for one in &pool.backends {
            for (direction, bytes) in [
                ("to_backend", one.bytes_to_backend),
                ("to_client", one.bytes_to_client),
            ] {
                let labels = [
                    ("pool", &*pool.name),
                    ("backend", &*one.name),
                    ("direction", direction),
                ];
                out.sample("lbd_backend_bytes_total", &labels, bytes);
            }
        }
    }
    let counted = || {
        let pools = pools.iter().zip(&sample.backends);
        pools.flat_map(|(pool, counted)| {
            let both = pool.backends.iter().zip(counted);
            both.map(|(one, counted)| {
                (
                    [("pool", &*pool.name), ("backend", &*one.name)],
                    one,
                    counted,
                )
            })
        })
    };
    out.family(
        "lbd_backend_ejections_total",
        "counter",
        "Times that traffic took it out.",
    );
    for (labels, _, counted) in counted() {
        out.sample("lbd_backend_ejections_total", &labels, counted.ejections);
    }
    out.family(
        "lbd_probe_total",
        "counter",
        "Probes; local: a fault of lbd's host, which says nothing of the backend.",
    );
    for ([pool, backend], _, counted) in counted() {
        let ProbeCounts {
            passed,
            failed,
            local,
        } = counted.probes;
        for (result, count) in [("passed", passed), ("failed", failed), ("local", local)] {
            if count > 0 {
                out.sample(
                    "lbd_probe_total",
                    &[pool, backend, ("result", result)],
                    count,
                );
            }
        }
    }
    out.family(
        "lbd_probe_seconds",
        "gauge",
        "How long the latest probe took.",
    );
    for (labels, one, _) in counted() {
        if let Some(last) = &one.last_probe {
            out.sample("lbd_probe_seconds", &labels, last.took.as_secs_f64());
        }
    }
    type Which = fn(&Histograms) -> &Snapshot;
    let histograms: [(&str, &str, &[u64], Which); 4] = [
        (
            "lbd_connect_seconds",
            "Connects that succeeded.",
            CONNECT,
            |of| &of.connect,
        ),
        (
            "lbd_first_byte_seconds",
            "From the connect to the backend's first byte.",
            FIRST_BYTE,
            |of| &of.first_byte,
        ),
        (
            "lbd_session_seconds",
            "From the accept of the client to the end.",
            SESSION,
            |of| &of.session,
        ),
        (
            "lbd_queue_seconds",
            "In the queue of the pool, of those who waited.",
            QUEUE,
            |of| &of.queue,
        ),
    ];
    for (name, help, bounds, which) in histograms {
        out.family(name, "histogram", help);
        for (labels, _, counted) in counted() {
            out.histogram(name, labels, which(&counted.timings), bounds);
        }
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _infallible = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        self.labels(labels, None);
        let _infallible = writeln!(self.0, " {value}");
    }

    fn handshakes(
        &mut self,
        listener: &str,
        version: &str,
        resumed: &str,
        result: &str,
        count: u64,
    ) {
        let labels = [
            ("listener", listener),
            ("version", version),
            ("resumed", resumed),
            ("result", result),
        ];
        self.sample("lbd_tls_handshakes_total", &labels, count);
    }

    /// Nothing for one that is empty: most backends of a large pool never had anybody wait, say.
    fn histogram(&mut self, name: &str, labels: [(&str, &str); 2], of: &Snapshot, bounds: &[u64]) {
        if of.is_empty() {
            return;
        }
        let mut line = |suffix: &str, le: Option<&str>, value: &dyn Display| {
            self.0.push_str(name);
            self.0.push_str(suffix);
            self.labels(&labels, le);
            let _infallible = writeln!(self.0, " {value}");
        };
        for (&bound, count) in bounds.iter().zip(of.cumulative(bounds)) {
            let le = Duration::from_micros(bound).as_secs_f64().to_string();
            line("_bucket", Some(&le), &count);
        }
        let count = of.count();
        line("_bucket", Some("+Inf"), &count);
        line("_sum", None, &of.sum().as_secs_f64());
        line("_count", None, &count);
    }

    fn labels(&mut self, labels: &[(&str, &str)], le: Option<&str>) {
        let all = labels.iter().copied().chain(le.map(|le| ("le", le)));
        let mut separator = '{';
        for (name, value) in all {
            self.0.push(separator);
            self.0.push_str(name);
            self.0.push_str("=\"");
            for c in value.chars() {
                match c {
                    '"' | '\\' => self.0.extend(['\\', c]),
                    '\n' => self.0.push_str("\\n"),
                    c => self.0.push(c),
                }
            }
            self.0.push('"');
            separator = ',';
        }
        if separator == ',' {
            self.0.push('}');
        }
    }
}

#[cfg(test)]
mod tests;
