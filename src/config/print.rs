//! The settings as TOML again, with every default filled in.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::balance::health::Ejection;
use crate::balance::policy::PolicyKind;
use crate::config::duration;
use crate::config::expand;
use crate::config::settings::{
    AccessTarget, Backend, Discover, Drain, Health, HttpProbe, Listener, LogFormat, LogLevel, Pool,
    Probe, Queue, Settings,
};

/// A text that [`load_text`](crate::config::load::load_text) reads as equal settings, provided that
/// it made them.
pub fn print_effective(settings: &Settings) -> String {
    let mut out = Text::default();
    let global = &settings.global;
    out.header("[global]");
    match global.workers {
        None => out.string("workers", "auto"),
        Some(workers) => out.line("workers", workers),
    }
    out.line("max_connections", global.max_connections);
    out.duration("drain_timeout", global.drain_timeout);
    out.string("hash_seed", &global.hash_seed);
    let resolvers: Vec<String> = global
        .resolvers
        .iter()
        .map(|resolver| quoted(&resolver.to_string()))
        .collect();
    out.line("resolvers", format!("[{}]", resolvers.join(", ")));

    out.header("[log]");
    out.string("level", level(settings.log.level));
    out.string(
        "format",
        match settings.log.format {
            LogFormat::Text => "text",
            LogFormat::Json => "json",
        },
    );
    match &settings.log.access {
        AccessTarget::Off => out.string("access", "off"),
        AccessTarget::Stdout => out.string("access", "stdout"),
        AccessTarget::Stderr => out.string("access", "stderr"),
        AccessTarget::File(path) => out.string("access", &path.display().to_string()),
    }

    for listener in &settings.listeners {
        let pool = settings
            .pools
            .get(listener.pool)
            .map_or("", |pool| &pool.name);
        print_listener(&mut out, listener, pool);
    }
    for pool in &settings.pools {
        print_pool(&mut out, pool);
    }
    out.0
}

fn print_listener(out: &mut Text, listener: &Listener, pool: &str) {
    out.header("[[listener]]");
    out.string("name", &listener.name);
    let binds: Vec<String> = listener
        .binds
        .iter()
        .map(|bind| quoted(&bind.to_string()))
        .collect();
    match binds.as_slice() {
        [one] => out.line("bind", one),
        many => out.line("bind", format!("[{}]", many.join(", "))),
    }
    out.string("mode", "tcp");
    out.string("pool", pool);
    out.line("max_connections", listener.max_connections);
    out.duration("idle_timeout", listener.idle_timeout);
    out.duration("half_close_timeout", listener.half_close_timeout);
    out.duration("max_lifetime", listener.max_lifetime);
}

fn print_pool(out: &mut Text, pool: &Pool) {
    out.header("[[pool]]");
    out.string("name", &pool.name);
    out.string("policy", policy(pool.policy));
    out.string("hash_key", "source_ip");
    out.duration("connect_timeout", pool.connect_timeout);
    out.line("retries", pool.retries);
    out.line("retry_budget", pool.retry_budget);
    out.line("max_connections", pool.max_connections);
    out.line("queue", queue(&pool.queue));
    out.line("drain", drain(&pool.drain));
    out.line("rebalance", pool.rebalance);
    out.line("ejection", ejection(&pool.ejection));
    print_health(out, &pool.health);
    for backend in &pool.backends {
        print_backend(out, backend);
    }
    for discover in &pool.discover {
        print_discover(out, discover);
    }
}

fn print_health(out: &mut Text, health: &Health) {
    out.header("[pool.health]");
    out.string(
        "probe",
        match health.probe {
            Probe::None => "none",
            Probe::Tcp => "tcp",
            Probe::Http(_) => "http",
        },
    );
    out.duration("interval", health.interval);
    out.duration("timeout", health.timeout);
    out.line("rise", health.thresholds.rise);
    out.line("fall", health.thresholds.fall);
    out.duration("fast_interval", health.fast_interval);
    out.duration("down_interval", health.down_interval);
    out.line("port", health.port);
    // Of another probe these keys say nothing, and are left out.
    if let Probe::Http(HttpProbe {
        path,
        host,
        expect_status,
        expect_body,
    }) = &health.probe
    {
        out.string("path", path);
        out.string("host", host);
        out.string("expect_status", &status(expect_status));
        out.string("expect_body", expect_body);
    }
}

fn print_backend(out: &mut Text, backend: &Backend) {
    out.header("[[pool.backend]]");
    out.string("name", &backend.name);
    out.string("address", &backend.address.to_string());
    out.line("weight", backend.weight);
    out.line("priority", backend.priority);
    out.line("max_connections", backend.max_connections);
}

fn print_discover(out: &mut Text, discover: &Discover) {
    out.header("[[pool.discover]]");
    let ttl = match discover {
        Discover::Dns {
            name,
            port,
            weight,
            priority,
            max_connections,
            ttl,
        } => {
            out.string("kind", "dns");
            out.string("name", name.as_str());
            out.line("port", port);
            out.line("weight", weight);
            out.line("priority", priority);
            out.line("max_connections", max_connections);
            ttl
        }
        Discover::Srv {
            name,
            max_connections,
            ttl,
        } => {
            out.string("kind", "srv");
            out.string("name", name.as_str());
            out.line("max_connections", max_connections);
            ttl
        }
        Discover::File { path, allow_empty } => {
            out.string("kind", "file");
            out.string("path", &path.display().to_string());
            out.line("allow_empty", allow_empty);
            return;
        }
    };
    out.duration("min_ttl", ttl.min);
    out.duration("max_ttl", ttl.max);
}

fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    }
}

fn policy(policy: PolicyKind) -> &'static str {
    match policy {
        PolicyKind::RoundRobin => "round_robin",
        PolicyKind::LeastConnections => "least_connections",
        PolicyKind::IpHash => "ip_hash",
        PolicyKind::Random => "random",
        PolicyKind::TwoChoices => "two_choices",
        PolicyKind::Failover => "failover",
    }
}

fn ejection(ejection: &Ejection) -> String {
    format!(
        "{{ connect_failures = {}, base = {}, max = {}, max_percent = {} }}",
        ejection.connect_failures,
        quoted(&duration::format(ejection.base)),
        quoted(&duration::format(ejection.max)),
        ejection.max_percent,
    )
}

fn queue(queue: &Queue) -> String {
    format!(
        "{{ length = {}, timeout = {}, on_half_close = {} }}",
        queue.length,
        quoted(&duration::format(queue.timeout)),
        quoted(if queue.stays_half_closed {
            "stay"
        } else {
            "leave"
        }),
    )
}

fn drain(drain: &Drain) -> String {
    format!(
        "{{ deadline = {}, on_down = {} }}",
        quoted(&duration::format(drain.deadline)),
        quoted(if drain.closes_on_down {
            "close"
        } else {
            "keep"
        }),
    )
}

fn status(ranges: &[RangeInclusive<u16>]) -> String {
    let range = |range: &RangeInclusive<u16>| match (range.start(), range.end()) {
        (first, last) if first == last => first.to_string(),
        (first, last) => format!("{first}-{last}"),
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn header(&mut self, header: &str) {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        self.0.push_str(header);
        self.0.push('\n');
    }

    fn line(&mut self, key: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn string(&mut self, key: &str, value: &str) {
        self.line(key, quoted(value));
    }

    fn duration(&mut self, key: &str, value: Duration) {
        self.string(key, &duration::format(value));
    }
}

/// A basic string of TOML, on one line, that no variable is replaced in.
fn quoted(value: &str) -> String {
    let mut out = String::with_capacity(value.len() + 2);
    out.push('"');
    for c in expand::protect(value).chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
