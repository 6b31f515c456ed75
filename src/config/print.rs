//! The settings as TOML again, with every default filled in.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::balance::ejection::Ejection;
use crate::balance::networks::Network;
use crate::balance::sources::SourceLimits;
use crate::config::duration;
use crate::config::expand;
use crate::config::settings::{
    AcceptProxy, AccessTarget, Admin, Backend, ClientAuth, Discover, Drain, Health, HttpProbe,
    Identity, Listener, ListenerTls, LogFormat, LogLevel, Pool, Probe, Queue, RouteRule, SendProxy,
    Settings, Step, TlsVerify, TlsVersion, UpstreamTls,
};
use crate::wire::script::escape;

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

    print_admin(&mut out, &settings.admin);
    for listener in &settings.listeners {
        print_listener(&mut out, listener, &settings.pools);
    }
    for pool in &settings.pools {
        print_pool(&mut out, pool);
    }
    out.0
}

fn print_admin(out: &mut Text, admin: &Admin) {
    let path =
        |path: Option<&PathBuf>| path.map_or(String::new(), |path| path.display().to_string());
    out.header("[admin]");
    out.string(
        "bind",
        &admin.bind.map_or(String::new(), |bind| bind.to_string()),
    );
    out.string("socket", &path(admin.socket.as_ref()));
    out.string(
        "token_file",
        &path(admin.token.as_ref().map(|token| &token.file)),
    );
}

fn print_listener(out: &mut Text, listener: &Listener, pools: &[Pool]) {
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
    if let Some(pool) = listener.pool {
        out.string("pool", &pools[pool].name);
    }
    out.line("max_connections", listener.max_connections);
    out.duration("idle_timeout", listener.idle_timeout);
    out.duration("half_close_timeout", listener.half_close_timeout);
    out.duration("max_lifetime", listener.max_lifetime);
    let lists = [("allow", &listener.allow), ("deny", &listener.deny)];
    for (name, list) in lists {
        out.line(name, networks(&list.networks));
    }
    for (name, list) in lists {
        let file = list.file.as_ref().map(|file| file.display().to_string());
        out.string(&format!("{name}_file"), &file.unwrap_or_default());
    }
    out.line("per_source", per_source(&listener.per_source));
    if let Some(accept) = &listener.accept_proxy {
        out.line("accept_proxy", accept_proxy(accept));
    }
    if let Some(tls) = &listener.tls {
        print_listener_tls(out, tls);
    }
    for route in &listener.routes {
        print_route(out, route, pools);
    }
}

fn print_listener_tls(out: &mut Text, tls: &ListenerTls) {
    out.header("[listener.tls]");
    let handshake_timeout = match tls {
        ListenerTls::Passthrough { handshake_timeout } => {
            out.string("mode", "passthrough");
            handshake_timeout
        }
        ListenerTls::Terminate(terminate) => {
            out.string("mode", "terminate");
            out.line(
                "certificates",
                array(terminate.certificates.iter().map(pair)),
            );
            out.string(
                "min_version",
                match terminate.min_version {
                    TlsVersion::V12 => "1.2",
                    TlsVersion::V13 => "1.3",
                },
            );
            out.line("alpn", protocols(&terminate.alpn));
            if let Some(auth) = &terminate.client_auth {
                out.line("client_auth", client_auth(auth));
            }
            &terminate.handshake_timeout
        }
    };
    out.duration("handshake_timeout", *handshake_timeout);
}

fn print_route(out: &mut Text, route: &RouteRule, pools: &[Pool]) {
    out.header("[[listener.route]]");
    out.line(
        "sni",
        array(route.sni.iter().map(|name| quoted(&name.to_string()))),
    );
    out.line("alpn", protocols(&route.alpn));
    out.line("source", networks(&route.source));
    out.string("pool", &pools[route.pool].name);
}

fn print_pool(out: &mut Text, pool: &Pool) {
    out.header("[[pool]]");
    out.string("name", &pool.name);
    out.string("policy", pool.policy.as_str());
    out.string("hash_key", pool.hash_key.as_str());
    out.line("hash_balance_factor", pool.hash_balance_factor);
    out.duration("slow_start", pool.slow_start);
    out.line("panic_threshold", pool.panic_threshold);
    out.duration("connect_timeout", pool.connect_timeout);
    out.line("retries", pool.retries);
    out.line("retry_budget", pool.retry_budget);
    out.line("max_connections", pool.max_connections);
    out.line("queue", queue(&pool.queue));
    out.line("drain", drain(&pool.drain));
    out.line("rebalance", pool.rebalance);
    out.line("ejection", ejection(&pool.ejection));
    out.string("send_proxy", send_proxy(pool.send_proxy));
    if let Some(tls) = &pool.tls {
        out.line("tls", upstream_tls(tls));
    }
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
            Probe::Tls(_) => "tls",
            Probe::Http(_) => "http",
            Probe::Https(..) => "https",
            Probe::SendExpect(_) => "send_expect",
            Probe::Exec(_) => "exec",
        },
    );
    out.duration("interval", health.interval);
    out.duration("timeout", health.timeout);
    out.line("rise", health.thresholds.rise);
    out.line("fall", health.thresholds.fall);
    out.duration("fast_interval", health.fast_interval);
    out.duration("down_interval", health.down_interval);
    out.line("port", health.port);
    let address = health.probe_address.map(|address| address.to_string());
    out.string("probe_address", &address.unwrap_or_default());
    out.line("flap_changes", health.damping.changes);
    out.duration("flap_window", health.damping.window);
    match &health.agent {
        None => out.line("agent_port", 0),
        Some(agent) => {
            out.line("agent_port", agent.port);
            out.duration("agent_interval", agent.interval);
            out.string("agent_send", &escape(&agent.send));
        }
    }
    print_probe(out, health);
}

/// The keys of this kind of probe; of another they say nothing, and are left out.
fn print_probe(out: &mut Text, health: &Health) {
    if !matches!(health.probe, Probe::None | Probe::Exec(_)) {
        out.string("send_proxy", send_proxy(health.send_proxy));
    }
    if let Some(verify) = health.probe.tls() {
        out.line("tls", format!("{{ {} }}", tls(verify)));
    }
    match &health.probe {
        Probe::None | Probe::Tcp | Probe::Tls(_) => {}
        Probe::Http(http) | Probe::Https(http, _) => {
            let HttpProbe {
                path,
                host,
                expect_status,
                expect_body,
            } = http;
            out.string("path", path);
            out.string("host", host);
            out.string("expect_status", &status(expect_status));
            out.string("expect_body", expect_body);
        }
        Probe::SendExpect(steps) => match steps.as_slice() {
            [only] => {
                out.string("send", &escape(&only.send));
                out.string("expect", &escape(&only.expect));
            }
            several => out.line("steps", array(several.iter().map(step))),
        },
        Probe::Exec(command) => out.line("command", array(command.iter().map(|word| quoted(word)))),
    }
}

fn step(step: &Step) -> String {
    let (send, expect) = (quoted(&escape(&step.send)), quoted(&escape(&step.expect)));
    format!("{{ send = {send}, expect = {expect} }}")
}

fn tls(verify: &TlsVerify) -> String {
    let ca = verify.ca.as_ref().map(|bundle| path(&bundle.path));
    format!(
        "server_name = {}, ca = {}, insecure = {}",
        quoted(&verify.server_name),
        ca.unwrap_or_else(|| quoted("")),
        verify.insecure,
    )
}

fn upstream_tls(upstream: &UpstreamTls) -> String {
    let (verify, identity) = (tls(&upstream.verify), upstream.identity.as_ref());
    match identity {
        None => format!("{{ {verify} }}"),
        Some(identity) => format!("{{ {verify}, {} }}", cert_and_key(identity)),
    }
}

fn pair(identity: &Identity) -> String {
    format!("{{ {} }}", cert_and_key(identity))
}

fn cert_and_key(identity: &Identity) -> String {
    let (cert, key) = (path(&identity.cert), path(&identity.key));
    format!("cert = {cert}, key = {key}")
}

fn client_auth(auth: &ClientAuth) -> String {
    let crl = auth.crl.as_ref().map(|crl| path(&crl.path));
    format!(
        "{{ ca = {}, mode = {}, crl = {} }}",
        path(&auth.ca.path),
        quoted(if auth.required {
            "required"
        } else {
            "optional"
        }),
        crl.unwrap_or_else(|| quoted("")),
    )
}

fn accept_proxy(accept: &AcceptProxy) -> String {
    format!(
        "{{ from = {}, timeout = {} }}",
        networks(&accept.from),
        quoted(&duration::format(accept.timeout)),
    )
}

fn send_proxy(version: SendProxy) -> &'static str {
    match version {
        SendProxy::Off => "off",
        SendProxy::V1 => "v1",
        SendProxy::V2 => "v2",
    }
}

/// They are text, as they come from one.
fn protocols(list: &[Vec<u8>]) -> String {
    array(list.iter().map(|one| quoted(&String::from_utf8_lossy(one))))
}

fn path(path: &Path) -> String {
    quoted(&path.display().to_string())
}

fn array(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(", "))
}

fn print_backend(out: &mut Text, backend: &Backend) {
    out.header("[[pool.backend]]");
    out.string("name", &backend.name);
    out.string("address", &backend.address.to_string());
    out.line("weight", backend.weight);
    out.line("priority", backend.priority);
    // With its point, which makes it a float.
    out.line("cost", format_args!("{:?}", backend.cost.as_f64()));
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

fn ejection(ejection: &Ejection) -> String {
    format!(
        "{{ connect_failures = {}, base = {}, max = {}, max_percent = {}, early_resets = {}, \
         early_reset_within = {}, empty_closes = {} }}",
        ejection.connect_failures,
        quoted(&duration::format(ejection.base)),
        quoted(&duration::format(ejection.max)),
        ejection.max_percent,
        ejection.early_resets,
        quoted(&duration::format(ejection.early_reset_within)),
        ejection.empty_closes,
    )
}

fn networks(list: &[Network]) -> String {
    let list = list.iter().map(|network| quoted(&network.to_string()));
    format!("[{}]", list.collect::<Vec<_>>().join(", "))
}

fn per_source(limits: &SourceLimits) -> String {
    let rate = limits.rate.map_or(String::new(), |rate| {
        format!("{}/{}", rate.count, duration::format(rate.per))
    });
    format!(
        "{{ connections = {}, rate = {}, burst = {}, v4_prefix = {}, v6_prefix = {} }}",
        limits.connections,
        quoted(&rate),
        limits.rate.map_or(0, |rate| rate.burst),
        limits.prefixes.v4,
        limits.prefixes.v6,
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
