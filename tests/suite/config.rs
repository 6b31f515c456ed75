//! Whole configurations: what is accepted, how each kind of mistake is told, and that the printed
//! settings are the settings.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lbd::balance::ejection::Ejection;
use lbd::balance::health::{Damping, Thresholds};
use lbd::balance::key::HashKey;
use lbd::balance::networks::{Network, Networks};
use lbd::balance::policy::{Cost, PolicyKind};
use lbd::balance::sources::{Prefixes, Rate, SourceLimits};
use lbd::base::addr::Endpoint;
use lbd::base::host::HostName;
use lbd::config::backend_file::load_backends;
use lbd::config::certificates::system_roots;
use lbd::config::load::{load, load_text};
use lbd::config::mistakes::Mistakes;
use lbd::config::print::print_effective;
use lbd::config::settings::*;
use lbd::config::warnings::warnings;
use proptest::prelude::*;

use super::config_secure::{Papers, any_accept_proxy, any_routes};

/// The smallest configuration there is.
const LEAST: &str = r#"
[[listener]]
name = "in"
bind = "127.0.0.1:8080"
pool = "out"

[[pool]]
name = "out"

[[pool.backend]]
address = "127.0.0.1:9001"
"#;

fn no_env(_: &str) -> Option<String> {
    None
}

fn read(text: &str) -> Result<Settings, Mistakes> {
    load_text("lb.toml", text, &no_env)
}

/// `LEAST` with further lines in one of its tables.
fn with(header: &str, lines: &str) -> String {
    if LEAST.contains(&format!("\n{header}\n")) {
        LEAST.replacen(
            &format!("\n{header}\n"),
            &format!("\n{header}\n{lines}\n"),
            1,
        )
    } else {
        format!("{LEAST}{header}\n{lines}\n")
    }
}

/// Each mistake as "line:column message | hint", the line counted from that of `first`.
fn told(text: &str, first: &str) -> Vec<String> {
    let Err(mistakes) = read(text) else {
        panic!("accepted:\n{text}")
    };
    let before = text
        .lines()
        .take_while(|line| *line != first.lines().next().unwrap())
        .count();
    let tell = |mistake: &lbd::config::mistakes::Mistake| {
        let hint = mistake.hint.as_deref().unwrap_or("-");
        let line = mistake.line as isize - before as isize;
        format!("{line}:{} {} | {hint}", mistake.column, mistake.message)
    };
    mistakes.into_iter().map(tell).collect()
}

#[test]
fn the_least_configuration_has_every_default() {
    let settings = read(LEAST).unwrap();
    assert_eq!(
        settings.global,
        Global {
            workers: None,
            max_connections: 100_000,
            drain_timeout: Duration::from_secs(30),
            hash_seed: String::new(),
            resolvers: vec![],
        }
    );
    assert_eq!(
        settings.log,
        Log {
            level: LogLevel::Info,
            format: LogFormat::Text,
            access: AccessTarget::Stdout,
        }
    );
    assert_eq!(
        settings.listeners,
        [Listener {
            name: "in".to_owned(),
            binds: vec![Endpoint::Tcp("127.0.0.1:8080".parse().unwrap())],
            routes: vec![],
            pool: Some(0),
            accept_proxy: None,
            tls: None,
            max_connections: 0,
            idle_timeout: Duration::from_secs(600),
            half_close_timeout: Duration::from_secs(3600),
            max_lifetime: Duration::ZERO,
            allow: NetworkList::default(),
            deny: NetworkList::default(),
            per_source: SourceLimits {
                connections: 0,
                rate: None,
                prefixes: Prefixes { v4: 32, v6: 64 },
            },
        }]
    );
    assert_eq!(
        settings.pools,
        [Pool {
            name: "out".to_owned(),
            policy: PolicyKind::RoundRobin,
            hash_key: HashKey::SourceIp,
            hash_balance_factor: 125,
            slow_start: Duration::ZERO,
            panic_threshold: 0,
            connect_timeout: Duration::from_secs(2),
            retries: 2,
            retry_budget: 50,
            max_connections: 0,
            queue: Queue {
                length: 1024,
                timeout: Duration::from_secs(5),
                stays_half_closed: false,
            },
            drain: Drain {
                deadline: Duration::from_secs(300),
                closes_on_down: false,
            },
            rebalance: 0,
            send_proxy: SendProxy::Off,
            tls: None,
            ejection: Ejection {
                connect_failures: 3,
                base: Duration::from_secs(5),
                max: Duration::from_secs(60),
                max_percent: 50,
                early_resets: 0,
                early_reset_within: Duration::from_secs(1),
                empty_closes: 0,
            },
            health: Health {
                probe: Probe::Tcp,
                interval: Duration::from_secs(2),
                timeout: Duration::from_secs(1),
                thresholds: Thresholds { rise: 2, fall: 3 },
                damping: Damping {
                    changes: 6,
                    window: Duration::from_secs(60),
                },
                fast_interval: Duration::from_millis(500),
                down_interval: Duration::from_secs(2),
                port: 0,
                probe_address: None,
                send_proxy: SendProxy::Off,
                agent: None,
            },
            backends: vec![Backend {
                name: "127.0.0.1:9001".to_owned(),
                address: Address::At(Endpoint::Tcp("127.0.0.1:9001".parse().unwrap())),
                weight: 1,
                priority: 0,
                cost: Cost::FREE,
                max_connections: 0,
            }],
            discover: vec![],
        }]
    );
}

/// Its own names and its second backend aside, every line of it is a default.
#[test]
fn the_documented_file_says_what_is_done_without_it() {
    let text = include_str!("../../conf/lb.toml");
    let settings = read(text).unwrap();
    let least = read(LEAST).unwrap();
    assert_eq!(
        (&settings.global, &settings.log),
        (&least.global, &least.log)
    );
    let listener = Listener {
        name: settings.listeners[0].name.clone(),
        binds: settings.listeners[0].binds.clone(),
        ..least.listeners[0].clone()
    };
    assert_eq!(settings.listeners, [listener]);
    let (name, backends) = (
        settings.pools[0].name.clone(),
        settings.pools[0].backends.clone(),
    );
    assert_eq!(backends.len(), 2);
    assert_eq!(
        settings.pools,
        [Pool {
            name,
            backends,
            ..least.pools[0].clone()
        }]
    );

    // The keys that only `probe = "http"` looks at.
    let http = read(&text.replace("probe = \"tcp\"", "probe = \"http\"")).unwrap();
    let bare = read(&with("[pool.health]", "probe = \"http\"")).unwrap();
    assert_eq!(http.pools[0].health, bare.pools[0].health);
    let Probe::Http(probe) = &bare.pools[0].health.probe else {
        panic!("not http")
    };
    assert_eq!(probe.expect_status, [200..=399]);
    assert_eq!((probe.path.as_str(), probe.host.as_str()), ("/", ""));
}

#[test]
fn every_example_is_accepted() {
    let pattern = concat!(env!("CARGO_MANIFEST_DIR"), "/conf/examples/**/*.toml");
    let files: Vec<PathBuf> = glob::glob(pattern).unwrap().map(Result::unwrap).collect();
    let is_here = |end: &str| files.iter().any(|file| file.ends_with(end));
    assert!(
        is_here("examples/web.toml") && is_here("keepalived/lb.toml"),
        "{files:?}"
    );
    for file in files {
        let settings = load(&file, &no_env).unwrap_or_else(|mistakes| panic!("{mistakes}"));
        assert_eq!(read(&print_effective(&settings)), Ok(settings));
    }
}

#[test]
fn values_are_read_in_every_form_they_may_have() {
    let settings = read(
        r#"
        global = { workers = 0x10, max_connections = 1_000, drain_timeout = "1m30s" }
        log.access = "/var/log/lbd/access.log"
        [[listener]]
        name = "a.b:c-d_E9"
        bind = ["0.0.0.0:80", "[::]:80", "127.0.0.1:7000-7002", "unix:/run/lbd.sock", "127.0.0.1:0"]
        pool = "p"
        [[listener]]
        name = "second"
        bind = "127.0.0.1:0"
        pool = "p"
        [[pool]]
        name = "unused"
        policy = "weighted_round_robin"
        backend = [{ address = "[::1]:80" }, { name = "10.0.0.0/8", address = "unix:/run/x" }]
        [[pool]]
        name = "p"
        policy = "failover"
        ejection = { connect_failures = 0, base = "1m" }
        health = { probe = "http", expect_status = "200, 204,300-399", path = "/x?y=1" }
        [[pool.backend]]
        address = "1.2.3.4:5"
        weight = 0
        "#,
    )
    .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    assert_eq!(settings.global.workers, Some(16));
    assert_eq!(settings.global.max_connections, 1000);
    assert_eq!(settings.global.drain_timeout, Duration::from_secs(90));
    assert_eq!(
        settings.log.access,
        AccessTarget::File("/var/log/lbd/access.log".into())
    );
    let binds: Vec<String> = settings.listeners[0]
        .binds
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        binds,
        [
            "0.0.0.0:80",
            "[::]:80",
            "127.0.0.1:7000",
            "127.0.0.1:7001",
            "127.0.0.1:7002",
            "unix:/run/lbd.sock",
            "127.0.0.1:0"
        ]
    );
    assert_eq!(settings.listeners[0].pool, Some(1));
    let names: Vec<&str> = settings.pools[0]
        .backends
        .iter()
        .map(|b| b.name.as_str())
        .collect();
    assert_eq!(names, ["[::1]:80", "10.0.0.0/8"]);
    assert_eq!(settings.pools[0].policy, PolicyKind::RoundRobin);
    assert_eq!(settings.pools[1].policy, PolicyKind::Failover);
    assert_eq!(settings.pools[1].ejection.connect_failures, 0);
    assert_eq!(settings.pools[1].ejection.max_percent, 50);
    let Probe::Http(probe) = &settings.pools[1].health.probe else {
        panic!("not http")
    };
    assert_eq!(probe.expect_status, [200..=200, 204..=204, 300..=399]);
}

/// Header, lines added under it, and what is told; lines are counted from the first one added.
const ONE_MISTAKE: &[(&str, &str, &str)] = &[
    // Keys
    (
        "[[pool]]",
        "polcy = \"random\"",
        "1:1 unknown key `polcy` in [[pool]] \"out\" | did you mean `policy`?",
    ),
    (
        "[[pool]]",
        "idle_timeout = \"1s\"",
        "1:1 unknown key `idle_timeout` in [[pool]] \"out\" | `idle_timeout` belongs in [[listener]]",
    ),
    (
        "[[pool]]",
        "colour = 1",
        "1:1 unknown key `colour` in [[pool]] \"out\" | known keys: name, policy, hash_key, connect_timeout, retries, retry_budget, max_connections, hash_balance_factor, slow_start, panic_threshold, queue, drain, rebalance, ejection, health, backend, discover, send_proxy, tls",
    ),
    (
        "[[pool]]",
        "servers = []",
        "1:1 unknown key `servers` in [[pool]] \"out\" | lbd calls it `backend`",
    ),
    (
        "[[backend]]",
        "address = \"x\"",
        "0:3 unknown key `backend` at the top level | `backend` is written [[pool.backend]]",
    ),
    (
        "[pool.health]",
        "intervall = \"1s\"",
        "1:1 unknown key `intervall` in [pool.health] of [[pool]] \"out\" | did you mean `interval`?",
    ),
    (
        "[[pool.backend]]",
        "wieght = 1",
        "1:1 unknown key `wieght` in [[pool.backend]] of [[pool]] \"out\" | did you mean `weight`?",
    ),
    (
        "[[pool]]",
        "ejection = { bse = \"1s\" }",
        "1:14 unknown key `bse` in ejection = { … } of [[pool]] \"out\" | did you mean `base`?",
    ),
    // Who is let in
    (
        "[[listener]]",
        "allow = [\"10.0.0.0/8\", \"10.0.0.1/8\"]",
        "1:24 \"10.0.0.1/8\" has bits set behind the first 8 | the network is \"10.0.0.0/8\", the address alone \"10.0.0.1\"",
    ),
    (
        "[[listener]]",
        "allow = 10",
        "1:9 `allow` is an integer, expected an array of networks in quotes | for example allow = []",
    ),
    (
        "[[listener]]",
        "deny = [\"example.com\"]",
        "1:9 \"example.com\" is not a network | such as \"10.0.0.0/8\", \"2001:db8::/32\" or \"192.0.2.7\"",
    ),
    (
        "[[listener]]",
        "allow = [\"10.0.0.0/8\", \"192.0.2.7\"]\ndeny = [\"10.0.0.0/9\", \"192.0.2.7/32\"]",
        "2:23 the network 192.0.2.7 is both allowed and denied | keep one; it is allowed at lb.toml:3:24",
    ),
    (
        "[[listener]]",
        "per_source = { rate = \"50/s\" }",
        "1:23 `rate` is \"50/s\": \"s\" is not a time | write \"50/1s\"",
    ),
    (
        "[[listener]]",
        "per_source = { burst = 5 }",
        "1:24 `burst` needs a `rate` in per_source = { … } of [[listener]] \"in\" | a rate is a number per time, such as \"50/1s\" or \"600/1m\"",
    ),
    (
        "[[listener]]",
        "per_source = { v4_prefix = 33 }",
        "1:28 `v4_prefix` is 33, not within 0 to 32 | the default is v4_prefix = 32",
    ),
    // Not yet
    (
        "[ai]",
        "",
        "0:2 `ai` is not supported by this version of lbd yet | leave it out",
    ),
    (
        "[[listener]]",
        "kernel.source = \"preserve\"",
        "1:1 `kernel` is not supported by this version of lbd yet | leave it out",
    ),
    (
        "[[listener]]",
        "mode = \"ai\"",
        "1:8 `mode = \"ai\"` is not supported by this version of lbd yet | allowed: \"tcp\"",
    ),
    (
        "[[pool]]",
        "queue = { timeout = \"0s\" }",
        "1:21 `timeout` is \"0s\", too short | at least \"1ms\"; the default is timeout = \"5s\"",
    ),
    (
        "[[pool]]",
        "slow_start = 30",
        "1:14 `slow_start` is an integer, expected a duration in quotes | for example slow_start = \"0s\"",
    ),
    (
        "[[pool]]",
        "panic_threshold = 101",
        "1:19 `panic_threshold` is 101, not within 0 to 100 | the default is panic_threshold = 0",
    ),
    (
        "[[pool]]",
        "hash_balance_factor = 100",
        "1:23 `hash_balance_factor` is 100, not above 100 | percent of the mean load, 101 to 1000; 0 = no bound; the default is hash_balance_factor = 125",
    ),
    (
        "[[pool]]",
        "hash_balance_factor = 1001",
        "1:23 `hash_balance_factor` is 1001, not within 0 to 1000 | the default is hash_balance_factor = 125",
    ),
    (
        "[[pool]]",
        "ejection = { early_reset_within = \"0s\" }",
        "1:35 `early_reset_within` is \"0s\", too short | at least \"1ms\"; the default is early_reset_within = \"1s\"",
    ),
    (
        "[[pool]]",
        "policy = \"ip_hash\"\nrebalance = 5",
        "2:13 `rebalance` has no use here: the policy sends each client to one place | leave `rebalance` out, or choose another policy such as \"least_connections\"",
    ),
    (
        "[[pool]]",
        "drain = { on_down = \"stop\" }",
        "1:21 `on_down` cannot be \"stop\" | allowed: \"keep\", \"close\"",
    ),
    (
        "[[pool]]",
        "policy = \"least_latencies\"",
        "1:10 `policy` cannot be \"least_latencies\" | did you mean \"least_latency\"? allowed: \"round_robin\", \"weighted_round_robin\", \"least_connections\", \"ip_hash\", \"random\", \"two_choices\", \"least_latency\", \"lowest_cost\", \"failover\"",
    ),
    (
        "[pool.health]",
        "probe = \"exec\"",
        "1:9 probe = \"exec\" has no `command` | add a line such as command = [\"/usr/local/bin/check\", \"--fast\"]",
    ),
    (
        "[pool.health]",
        "send = \"x\"",
        "1:8 `send` is for probe = \"send_expect\" only | add probe = \"send_expect\" to [pool.health] of [[pool]] \"out\", or leave `send` out",
    ),
    (
        "[pool.health]",
        "command = [\"/bin/sh\"]",
        "1:11 `command` is for probe = \"exec\" only | add probe = \"exec\" to [pool.health] of [[pool]] \"out\", or leave `command` out",
    ),
    (
        "[[pool.backend]]",
        "cost = -0.5",
        "1:8 `cost` is -0.5, not a finite number of 0 or more | the default is cost = 0.0",
    ),
    (
        "[[pool.backend]]",
        "cost = inf",
        "1:8 `cost` is inf, not a finite number of 0 or more | the default is cost = 0.0",
    ),
    (
        "[[pool.backend]]",
        "cost = nan",
        "1:8 `cost` is NaN, not a finite number of 0 or more | the default is cost = 0.0",
    ),
    (
        "[[pool.backend]]",
        "cost = \"1\"",
        "1:8 `cost` is a string, expected a number | for example cost = 0.0",
    ),
    // Discovery
    (
        "[[pool.discover]]",
        "name = \"web.internal\"",
        "0:1 [[pool.discover]] \"web.internal\" of [[pool]] \"out\" has no `kind` | add a line such as kind = \"dns\"",
    ),
    (
        "[[pool.discover]]",
        "kind = \"DNS\"\nname = \"web.internal\"\nport = 1",
        "1:8 `kind` cannot be \"DNS\" | allowed: \"dns\", \"srv\", \"file\"",
    ),
    (
        "[[pool.discover]]",
        "kind = \"dns\"\nname = \"web.internal\"",
        "0:1 [[pool.discover]] \"web.internal\" of [[pool]] \"out\" has no `port` | add a line such as port = 8080",
    ),
    (
        "[[pool.discover]]",
        "kind = \"dns\"\nport = 80",
        "0:1 [[pool.discover]] of [[pool]] \"out\" has no `name` | add a line such as name = \"web.internal\"",
    ),
    (
        "[[pool.discover]]",
        "kind = \"dns\"\nname = \"web.internal\"\nport = 0",
        "3:8 `port` is 0, not within 1 to 65535 | for example port = 8080",
    ),
    (
        "[[pool.discover]]",
        "kind = \"srv\"\nname = \"_http._tcp.web.internal\"\nport = 80",
        "3:8 `port` is not for kind = \"srv\" | leave it out: each record names the port of its target",
    ),
    (
        "[[pool.discover]]",
        "kind = \"srv\"",
        "0:1 [[pool.discover]] of [[pool]] \"out\" has no `name` | add a line such as name = \"web.internal\"",
    ),
    (
        "[[pool.discover]]",
        "kind = \"srv\"\nname = \"_http._tcp.web.internal\"\nweight = 3",
        "3:10 `weight` is not for kind = \"srv\" | leave it out: it is that of each record",
    ),
    (
        "[[pool.discover]]",
        "kind = \"file\"",
        "0:1 [[pool.discover]] of [[pool]] \"out\" has no `path` | add a line such as path = \"backends.toml\"",
    ),
    (
        "[[pool.discover]]",
        "kind = \"file\"\npath = \"backends/\"",
        "2:8 `path` cannot be \"backends/\" | the path of a file, such as \"backends.toml\"",
    ),
    (
        "[[pool.discover]]",
        "kind = \"file\"\npath = \"b.toml\"\nmax_ttl = \"1m\"",
        "3:11 `max_ttl` is not for kind = \"file\" | leave it out: the file is read again when it changes",
    ),
    (
        "[[pool.discover]]",
        "kind = \"dns\"\nname = \"web.internal\"\nport = 80\nallow_empty = true",
        "4:15 `allow_empty` is not for kind = \"dns\" | leave it out: an empty answer never empties a pool",
    ),
    (
        "[[pool.discover]]",
        "kind = \"file\"\npath = \"b.toml\"\nallow_empty = \"yes\"",
        "3:15 `allow_empty` is a string, expected true or false | for example allow_empty = false",
    ),
    (
        "[[pool.discover]]",
        "kind = \"srv\"\nname = \"web.internal\"\nmin_ttl = \"1m\"\nmax_ttl = \"30s\"",
        "4:11 `min_ttl` (1m) is longer than `max_ttl` (30s) in [[pool.discover]] \"web.internal\" of [[pool]] \"out\" | an answer is asked for again after its time to live, but not before `min_ttl` and not after `max_ttl`",
    ),
    (
        "[[pool.discover]]",
        "kind = \"srv\"\nname = \"web..internal\"",
        "2:8 the host name \"web..internal\" has nothing between two dots (label 2) | labels of 1 to 63 letters, digits and `-`, joined by dots, such as \"db.internal\"",
    ),
    (
        "[[pool.discover]]",
        "kind = \"dns\"\nname = \"10.0.0.1\"\nport = 80",
        "2:8 \"10.0.0.1\" is an address, there is nothing to look up | list it as [[pool.backend]]",
    ),
    (
        "[global]",
        "resolvers = [\"10.0.0.2\", \"dns.internal\"]",
        "1:26 \"dns.internal\" is not the address of a name server | an IP address, such as \"10.0.0.2\", \"10.0.0.2:53\" or \"[2001:db8::2]:53\"",
    ),
    // Types
    (
        "[[pool]]",
        "retries = \"2\"",
        "1:11 `retries` is a string, expected an integer | for example retries = 2",
    ),
    (
        "[[pool]]",
        "retries = 2.0",
        "1:11 `retries` is a float, expected an integer | for example retries = 2",
    ),
    (
        "[[pool]]",
        "connect_timeout = 2",
        "1:19 `connect_timeout` is an integer, expected a duration in quotes | for example connect_timeout = \"2s\"",
    ),
    (
        "[[pool]]",
        "policy = true",
        "1:10 `policy` is a boolean, expected one of \"round_robin\", \"weighted_round_robin\", \"least_connections\", \"ip_hash\", \"random\", \"two_choices\", \"least_latency\", \"lowest_cost\", \"failover\" | for example policy = \"round_robin\"",
    ),
    (
        "[[pool]]",
        "health = 1979-05-27",
        "1:10 `health` is a date, expected a table | for example [pool.health]",
    ),
    (
        "[[pool.health]]",
        "",
        "0:1 `health` is an array of tables, expected one table | single brackets: [pool.health]",
    ),
    (
        "[global]",
        "workers = []",
        "1:11 `workers` is an array, expected \"auto\" or an integer from 1 to 256 | for example workers = \"auto\"",
    ),
    (
        "[global]",
        "hash_seed = {}",
        "1:13 `hash_seed` is a table, expected a string | for example hash_seed = \"\"",
    ),
    (
        "[[log]]",
        "",
        "0:1 `log` is an array of tables, expected one table | single brackets: [log]",
    ),
    // Values
    (
        "[global]",
        "workers = 0",
        "1:11 `workers` is 0, not within 1 to 256 | the default is workers = \"auto\"",
    ),
    (
        "[global]",
        "workers = \"4\"",
        "1:11 `workers` cannot be \"4\" | \"auto\" or an integer from 1 to 256, without quotes",
    ),
    (
        "[global]",
        "max_connections = 0",
        "1:19 `max_connections` is 0, not within 1 to 4294967295 | the default is max_connections = 100000",
    ),
    (
        "[global]",
        "max_connections = 99999999999999999999",
        "1:19 `max_connections` is 99999999999999999999, not within 1 to 4294967295 | the default is max_connections = 100000",
    ),
    (
        "[global]",
        "drain_timeout = \"10 min\"",
        "1:17 `drain_timeout` is \"10 min\", not a duration | a number and a unit (ms, s, m, h or d), such as \"250ms\", \"2s\" or \"1m30s\"; at most 36500d",
    ),
    (
        "[log]",
        "level = \"inof\"",
        "1:9 `level` cannot be \"inof\" | did you mean \"info\"? allowed: \"error\", \"warn\", \"info\", \"debug\", \"trace\"",
    ),
    (
        "[log]",
        "format = \"xml\"",
        "1:10 `format` cannot be \"xml\" | allowed: \"text\", \"json\"",
    ),
    (
        "[log]",
        "access = \"sdtout\"",
        "1:10 `access` cannot be \"sdtout\" | allowed: \"off\", \"stdout\", \"stderr\", or a file path such as \"/var/log/lbd/access.log\"",
    ),
    (
        "[[listener]]",
        "max_connections = -1",
        "1:19 `max_connections` is -1, not within 0 to 4294967295 | the default is max_connections = 0",
    ),
    (
        "[[pool]]",
        "connect_timeout = \"0s\"",
        "1:19 `connect_timeout` is \"0s\", too short | at least \"1ms\"; the default is connect_timeout = \"2s\"",
    ),
    (
        "[[pool]]",
        "retries = 17",
        "1:11 `retries` is 17, not within 0 to 16 | the default is retries = 2",
    ),
    (
        "[[pool]]",
        "ejection = { max_percent = 101 }",
        "1:28 `max_percent` is 101, not within 0 to 100 | the default is max_percent = 50",
    ),
    (
        "[[pool]]",
        "ejection = { base = \"2m\" }",
        "1:21 `base` (2m) is longer than `max` (1m) in ejection = { … } of [[pool]] \"out\" | `base` is the length of the first ejection, `max` that of the longest",
    ),
    (
        "[pool.health]",
        "rise = 0",
        "1:8 `rise` is 0, not within 1 to 4294967295 | the default is rise = 2",
    ),
    (
        "[pool.health]",
        "fall = 0",
        "1:8 `fall` is 0, not within 1 to 4294967295 | the default is fall = 3",
    ),
    (
        "[pool.health]",
        "interval = \"9ms\"",
        "1:12 `interval` is \"9ms\", too short | at least \"10ms\"; the default is interval = \"2s\"",
    ),
    (
        "[pool.health]",
        "timeout = \"0s\"",
        "1:11 `timeout` is \"0s\", too short | at least \"1ms\"; the default is timeout = \"1s\"",
    ),
    (
        "[pool.health]",
        "port = 65536",
        "1:8 `port` is 65536, not within 0 to 65535 | the default is port = 0",
    ),
    (
        "[pool.health]",
        "expect_body = \"ok\"",
        "1:15 `expect_body` is for probe = \"http\" or \"https\" only | add probe = \"http\" to [pool.health] of [[pool]] \"out\", or leave `expect_body` out",
    ),
    (
        "[pool.health]",
        "probe = \"http\"\npath = \"x\"",
        "2:8 the path \"x\" does not begin with `/` | such as \"/health?full=1\"; escape other characters as %20",
    ),
    (
        "[pool.health]",
        "probe = \"http\"\nhost = \"a\\r\\nb\"",
        "2:8 the host \"a\\r\\nb\" has a space or a control or non-ASCII character | a name such as \"web.internal\", or \"\" for the address",
    ),
    (
        "[pool.health]",
        "probe = \"tcp\"\ntls = { insecure = true }",
        "2:7 `tls` is for probe = \"tls\" or \"https\" only | add probe = \"tls\" to [pool.health] of [[pool]] \"out\", or leave `tls` out",
    ),
    (
        "[pool.health]",
        "probe = \"tls\"\ntls = { insecure = \"yes\" }",
        "2:20 `insecure` is a string, expected true or false | for example insecure = false",
    ),
    (
        "[pool.health]",
        "probe = \"tls\"\ntls = { insecure = true, server_name = \"a b\" }",
        "2:40 `server_name` is \"a b\", neither a host name nor an IP address | the name that the certificate is for, such as \"web.internal\"",
    ),
    (
        "[pool.health]",
        "probe = \"tls\"\ntls = { ca = \"/dev/null\" }",
        "2:14 the CA file \"/dev/null\" has no certificate | a PEM file with the certificates of those who sign the backends' certificates",
    ),
    (
        "[pool.health]",
        "probe = \"tls\"\ntls = { ca = \"/no/such.pem\" }",
        "2:14 the CA file \"/no/such.pem\" cannot be read: No such file or directory (os error 2) | a PEM file with the certificates of those who sign the backends' certificates",
    ),
    (
        "[pool.health]",
        "probe = \"send_expect\"",
        "1:9 probe = \"send_expect\" expects nothing | add a line such as expect = '+PONG\\r\\n'; probe = \"tcp\" passes on connecting",
    ),
    (
        "[pool.health]",
        "probe = \"send_expect\"\nexpect = 'ab\\qc'",
        "2:13 `expect`: \\q is no escape | escapes are \\r, \\n, \\t, \\\\ and \\xNN; in single quotes TOML leaves them alone",
    ),
    (
        "[pool.health]",
        "probe = \"send_expect\"\nexpect = \"\\r\\n\\\\x4\"",
        "2:15 `expect`: \\x4 lacks its two hexadecimal digits | escapes are \\r, \\n, \\t, \\\\ and \\xNN; in single quotes TOML leaves them alone",
    ),
    (
        "[pool.health]",
        "probe = \"send_expect\"\nsteps = [{ expect = 'a' }, { send = 'b\\' }]",
        "2:39 `send`: a backslash at the end | escapes are \\r, \\n, \\t, \\\\ and \\xNN; in single quotes TOML leaves them alone",
    ),
    (
        "[pool.health]",
        "probe = \"send_expect\"\nexpect = 'a'\nsteps = [{ expect = 'b' }]",
        "3:9 `steps` stands beside `send` and `expect` | make these the first of the steps",
    ),
    (
        "[pool.health]",
        "probe = \"send_expect\"\nsteps = [{ expect = 'b' }, {}]",
        "2:28 a step that neither sends nor expects | leave it out",
    ),
    (
        "[pool.health]",
        "probe = \"send_expect\"\nsteps = [{ expects = 'b' , expect = 'c' }]",
        "2:12 unknown key `expects` in steps = [{ … }] of [pool.health] of [[pool]] \"out\" | did you mean `expect`?",
    ),
    (
        "[pool.health]",
        "probe = \"exec\"\ncommand = [\"check\"]",
        "2:12 the program \"check\" is no absolute path | the path of a program, such as \"/usr/local/bin/check\"; no shell is involved",
    ),
    (
        "[pool.health]",
        "probe = \"exec\"\ncommand = [\"/no/such\"]",
        "2:12 the program \"/no/such\" cannot be found: No such file or directory (os error 2) | the path of a program, such as \"/usr/local/bin/check\"; no shell is involved",
    ),
    (
        "[pool.health]",
        "probe = \"exec\"\ncommand = [\"/etc/passwd\"]",
        "2:12 the program \"/etc/passwd\" is not executable | the path of a program, such as \"/usr/local/bin/check\"; no shell is involved",
    ),
    (
        "[pool.health]",
        "probe = \"exec\"\ncommand = [\"/bin\"]",
        "2:12 the program \"/bin\" is no file | the path of a program, such as \"/usr/local/bin/check\"; no shell is involved",
    ),
    (
        "[pool.health]",
        "probe = \"exec\"\ncommand = \"/bin/sh -c true\"",
        "2:11 the program \"/bin/sh -c true\" cannot be found: No such file or directory (os error 2) | the path of a program, such as \"/usr/local/bin/check\"; no shell is involved",
    ),
    (
        "[pool.health]",
        "probe = \"exec\"\ncommand = 7",
        "2:11 `command` is an integer, expected a string or an array of strings | for example command = []",
    ),
    (
        "[pool.health]",
        "probe = \"exec\"\ncommand = [\"/bin/sh\"]\nsend_proxy = \"v1\"",
        "3:14 `send_proxy` is for probe = \"tcp\" or \"tls\" or \"http\" or \"https\" or \"send_expect\" only | add probe = \"tcp\" to [pool.health] of [[pool]] \"out\", or leave `send_proxy` out",
    ),
    (
        "[pool.health]",
        "probe_address = \"web.internal\"",
        "1:17 `probe_address` is \"web.internal\", not an IP address | such as \"10.0.0.1\" or \"2001:db8::1\"; the port goes into `port`",
    ),
    (
        "[pool.health]",
        "send_proxy = \"v3\"",
        "1:14 `send_proxy` cannot be \"v3\" | allowed: \"off\", \"v1\", \"v2\"",
    ),
    (
        "[pool.health]",
        "agent_send = 'web\\n'",
        "1:14 `agent_send` is set, but there is no `agent_port` | add a line such as agent_port = 9707, or leave `agent_send` out",
    ),
    (
        "[pool.health]",
        "flap_changes = 251",
        "1:16 `flap_changes` is 251, not within 0 to 250 | the default is flap_changes = 6",
    ),
    (
        "[pool.health]",
        "probe = \"http\"\nexpect_status = \"2xx\"",
        "2:17 `expect_status` is \"2xx\", not a list of HTTP statuses | 100 to 599, such as \"200\", \"200-399\" or \"200,204,300-399\"",
    ),
    (
        "[[pool.backend]]",
        "weight = 65536",
        "1:10 `weight` is 65536, not within 0 to 65535 | the default is weight = 1",
    ),
    (
        "[[pool.backend]]",
        "name = \"a b\"",
        "1:8 the name \"a b\" has the character ' ' | 1 to 64 of the letters, digits and _ . : -",
    ),
    (
        "[[pool.backend]]",
        "name = \"\"",
        "1:8 the name \"\" is empty | 1 to 64 of the letters, digits and _ . : -",
    ),
    // Variables
    (
        "[global]",
        "hash_seed = 'a${KEY}'",
        "1:15 the environment variable `KEY` is not set | set it where lbd is started; write `$${` for a plain `${`",
    ),
    (
        "[global]",
        "hash_seed = \"a\\t${KEY}\"",
        "1:17 the environment variable `KEY` is not set | set it where lbd is started; write `$${` for a plain `${`",
    ),
    (
        "[global]",
        "hash_seed = \"\\u0024{KEY}\"",
        "1:13 the environment variable `KEY` is not set | set it where lbd is started; write `$${` for a plain `${`",
    ),
    (
        "[global]",
        "hash_seed = \"${a-b}\"",
        "1:14 `${a-b}` does not name an environment variable | a name has letters, digits and `_`, such as ${HOST}; write `$${` for a plain `${`",
    ),
    (
        "[global]",
        "hash_seed = \"x${\"",
        "1:15 `${` is not closed by a `}` | write `$${` for a plain `${`",
    ),
    // Text that is not TOML
    (
        "[log]",
        "level = info",
        "1:9 not a value | text stands in quotes: \"info\"",
    ),
    (
        "[[pool]]",
        "connect_timeout = 10s # x",
        "1:19 not a value | text stands in quotes: \"10s\"",
    ),
    (
        "[log]",
        "level =",
        "1:8 no value after `=` | write `key = value`",
    ),
    (
        "[log]",
        "level \"info\"",
        "1:7 a key without a value | write `key = value`",
    ),
    (
        "[log]",
        "level = \"info",
        "1:14 a string is not closed | a string ends with the quote it begins with",
    ),
    (
        "[log]",
        "level = \"\\q\"",
        "1:11 missing escaped value | write `\\\\` for a backslash, or put the text in single quotes",
    ),
    (
        "[log]",
        "level = \"info\"\nlevel = \"warn\"",
        "2:1 `level` is set twice | keep one of the two",
    ),
    (
        "[log",
        "",
        "0:5 unclosed table | a header looks like [log] or [[pool]], an inline table like { rise = 2 }",
    ),
    (
        "[log]",
        "level = [\"info\"",
        "1:9 this array is not closed | add the missing `]`",
    ),
    (
        "[log]",
        "level = [\"info]",
        "1:16 a string is not closed | a string ends with the quote it begins with",
    ),
];

#[test]
fn each_mistake_is_told_with_its_place_and_what_would_be_right() {
    let mut wrong = Vec::new();
    for (header, lines, expected) in ONE_MISTAKE {
        // Lines are counted from the header: it is line 0.
        let text = with(header, lines);
        let found: Vec<String> = told(&text, header)
            .into_iter()
            .map(|told| {
                let (line, rest) = told.split_once(':').unwrap();
                format!("{}:{rest}", line.parse::<isize>().unwrap() - 1)
            })
            .collect();
        if found != [*expected] {
            wrong.push(format!(
                "{header}\n{lines}\n  expected {expected}\n  found    {found:#?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn what_is_missing_is_told_at_the_table_that_lacks_it() {
    let text = "[[listener]]\n[[pool]]\n[[pool.backend]]\nweight = 2\n[[pool]]\nname = \"b\"\n";
    assert_eq!(
        told(text, "[[listener]]"),
        [
            "1:1 [[listener]] has no `name` | add a line such as name = \"web\"",
            "1:1 [[listener]] has no `bind` | add a line such as bind = \"0.0.0.0:8080\"",
            "1:1 [[listener]] has no `pool` | add a line such as pool = \"web\"",
            "2:1 [[pool]] has no `name` | add a line such as name = \"web\"",
            "3:1 [[pool.backend]] of [[pool]] has no `address` | add a line such as address = \"127.0.0.1:9001\"",
            "5:1 [[pool]] \"b\" has no backend | add [[pool.backend]] with a line such as address = \"127.0.0.1:9001\"",
        ]
    );
    let nothing = read("").unwrap_err().to_string();
    assert_eq!(
        nothing,
        "lb.toml: there is no [[listener]]\n      = hint: add [[listener]] with name, bind and pool\n\n\
         lb.toml: there is no [[pool]]\n      = hint: add [[pool]] with a name and [[pool.backend]] with an address\n\n\
         2 mistakes in lb.toml"
    );
}

#[test]
fn tables_are_checked_against_each_other() {
    let text = r#"
[[listener]]
name = "a"
bind = ["127.0.0.1:7000-7009", "unix:/run/a"]
pool = "wbe"
[[listener]]
name = "a"
bind = ["127.0.0.1:7005", "unix:/run/a", "127.0.0.2:7005"]
pool = "nowhere"
[[pool]]
name = "web"
health.port = 80
[[pool.backend]]
name = "x"
address = "1.1.1.1:1"
[[pool.backend]]
name = "x"
address = "unix:/run/x"
[[pool]]
name = "web"
[[pool.backend]]
name = "x"
address = "1.1.1.1:1"
[[pool.backend]]
address = "unix:/run/a b"
"#;
    assert_eq!(
        told(text, "[[listener]]"),
        [
            "4:8 unknown pool \"wbe\" in [[listener]] \"a\" | did you mean \"web\"? pools: web, web",
            "6:8 there are two listeners named \"a\" | give one another name; the first is at lb.toml:3:8",
            "7:9 127.0.0.1:7005 is bound twice | the first is at lb.toml:4:9",
            "7:27 unix:/run/a is bound twice | the first is at lb.toml:4:32",
            "8:8 unknown pool \"nowhere\" in [[listener]] \"a\" | pools: web, web",
            "16:8 there are two backends named \"x\" | give one another name; the first is at lb.toml:14:8",
            "17:11 [[pool.backend]] \"x\" of [[pool]] \"web\" is a socket in the file system, but health has a `port` | leave `port` out, or put the backend into a pool of its own",
            "19:8 there are two pools named \"web\" | give one another name; the first is at lb.toml:11:8",
            "24:11 the address is no name: the name \"unix:/run/a b\" has the character ' ' | add a line such as name = \"a\"",
        ]
    );
}

#[test]
fn mistakes_look_like_those_of_a_compiler() {
    let text = with("[[pool]]", "\tpolcy = \"random\"");
    assert_eq!(
        read(&text).unwrap_err().to_string(),
        "lb.toml:8:2: unknown key `polcy` in [[pool]] \"out\"\n    \
             8 |  polcy = \"random\"\n      \
               |  ^^^^^\n      \
               = hint: did you mean `policy`?\n\n\
         1 mistake in lb.toml"
    );
}

#[test]
fn a_thousand_mistakes_are_listed_and_the_others_counted() {
    let text = with("[log]", &"x\n".repeat(1500));
    let mistakes = read(&text).unwrap_err();
    assert_eq!(mistakes.as_slice().len(), 1000);
    let told = mistakes.to_string();
    assert!(told.ends_with("\n1500 mistakes in lb.toml, the first 1000 are shown"));
}

#[test]
fn what_is_off_by_default_may_be_written() {
    let listener = "mode = \"tcp\"\ndeny = []\nroute = []";
    let pool = "send_proxy = \"off\"\ndiscover = []";
    let health = "send = \"\"\nexpect = \"\"\ncommand = []\npath = \"/\"\nhost = \"\"";
    for (header, lines) in [
        ("[[listener]]", listener),
        ("[[pool]]", pool),
        ("[pool.health]", health),
    ] {
        assert_eq!(read(&with(header, lines)), read(LEAST), "{header}\n{lines}");
    }
}

#[test]
fn a_cost_is_written_with_or_without_a_fraction() {
    for (written, cost) in [
        ("0", 0.0),
        ("3", 3.0),
        ("0.25", 0.25),
        ("1e3", 1000.0),
        ("1_000.5", 1000.5),
        ("-0.0", 0.0),
    ] {
        let settings = read(&with("[[pool.backend]]", &format!("cost = {written}"))).unwrap();
        assert_eq!(settings.pools[0].backends[0].cost.as_f64(), cost);
    }
}

/// One slip must not be told as ten: what could not be read is not called missing.
#[test]
fn a_line_that_is_not_toml_hides_its_consequences_but_no_other_mistake() {
    let text =
        "[[listener]]\nname = in\nbind = 0.0.0.0:80\npool \"out\"\nidle_timeout = 3\n[[pool]]\n";
    assert_eq!(
        told(text, "[[listener]]"),
        [
            "2:8 not a value | text stands in quotes: \"in\"",
            "3:8 not a value | text stands in quotes: \"0.0.0.0:80\"",
            "4:6 a key without a value | write `key = value`",
            "5:16 `idle_timeout` is an integer, expected a duration in quotes | for example idle_timeout = \"10m\"",
        ]
    );
}

#[test]
fn variables_are_replaced_in_every_string() {
    let env = |name: &str| match name {
        "HOST" => Some("10.1.1.1".to_owned()),
        "POLICY" => Some("random".to_owned()),
        _ => None,
    };
    let text = LEAST.replace("127.0.0.1:9001", "${HOST}:9001").replace(
        "[[pool]]",
        "[global]\nhash_seed = \"$${HOST}\"\n[[pool]]\npolicy = \"${POLICY}\"",
    );
    let settings = load_text("lb.toml", &text, &env).unwrap();
    assert_eq!(
        settings.pools[0].backends[0].address.to_string(),
        "10.1.1.1:9001"
    );
    assert_eq!(settings.pools[0].policy, PolicyKind::Random);
    assert_eq!(settings.global.hash_seed, "${HOST}");
}

/// A folder with files, and what loading its `lb.toml` gives, the folder's name cut out.
fn load_files(files: &[(&str, &str)]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    let prefix = format!("{}/", folder.path().display());
    load(&folder.path().join("lb.toml"), &no_env)
        .map_err(|mistakes| mistakes.to_string().replace(&prefix, ""))
}

#[test]
fn included_files_are_added_in_sorted_order() {
    let listener = |name: &str, port: u16, pool: &str| {
        format!("[[listener]]\nname = \"{name}\"\nbind = \"127.0.0.1:{port}\"\npool = \"{pool}\"\n")
    };
    let pool = |name: &str| {
        format!("[[pool]]\nname = \"{name}\"\nbackend = [{{ address = \"1.1.1.1:1\" }}]\n")
    };
    let top = format!(
        "include = [\"conf.d/*.toml\", \"*.toml\", \"conf.d/b.toml\", \"conf.d/../conf.d/*.toml\", \"conf.d/../*.toml\"]\n{}",
        listener("top", 1, "b")
    );
    let settings = load_files(&[
        ("lb.toml", &top),
        (
            "conf.d/b.toml",
            &format!("{}{}", listener("b", 2, "a"), pool("b")),
        ),
        (
            "conf.d/a.toml",
            &format!("{}[log]\nlevel = \"warn\"\n", pool("a")),
        ),
        ("conf.d/.b.toml.swp.toml", "not toml"),
        ("conf.d/notes.txt", "not toml"),
    ])
    .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let names: Vec<&str> = settings
        .pools
        .iter()
        .map(|pool| pool.name.as_str())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let names: Vec<(&str, Option<usize>)> = settings
        .listeners
        .iter()
        .map(|listener| (listener.name.as_str(), listener.pool))
        .collect();
    assert_eq!(names, [("top", Some(1)), ("b", Some(0))]);
    assert_eq!(settings.log.level, LogLevel::Warn);
}

#[test]
fn mistakes_of_included_files_are_told_with_their_file() {
    let mistakes = load_files(&[
        ("lb.toml", &format!("include = [\"conf.d/*.toml\", \"none/*.toml\"]\n[log]\n{LEAST}")),
        ("conf.d/a.toml", "\n[log]\nlevel = \"x\"\n"),
        ("conf.d/b.toml", "include = \"c.toml\"\n[[pool]]\nname = \"out\"\nbackend = [{ address = \"1.1.1.1:1\" }]\n"),
    ])
    .unwrap_err();
    let heads: Vec<&str> = mistakes
        .lines()
        .filter(|line| line.contains("toml"))
        .collect();
    assert_eq!(
        heads,
        [
            "conf.d/a.toml:2:1: [log] is set in two files",
            "      = hint: keep one; the first is at lb.toml:2:1",
            "conf.d/a.toml:3:9: `level` cannot be \"x\"",
            "conf.d/b.toml:1:11: `include` is not possible here",
            "    1 | include = \"c.toml\"",
            "conf.d/b.toml:3:8: there are two pools named \"out\"",
            "      = hint: give one another name; the first is at lb.toml:10:8",
            "4 mistakes in conf.d/a.toml and conf.d/b.toml",
        ]
    );
}

#[test]
fn files_that_cannot_be_read_are_mistakes() {
    let told = |files: &[(&str, &str)]| load_files(files).unwrap_err();
    assert!(told(&[]).starts_with("lb.toml: cannot be read: No such file"));
    let missing = told(&[("lb.toml", "include = [\"x/*.toml\", \"y.toml\"]")]);
    assert!(
        missing.starts_with("lb.toml:1:24: cannot read y.toml: No such file"),
        "{missing}"
    );
    assert!(missing.ends_with("1 mistake in lb.toml"), "{missing}");
    let pattern = told(&[("lb.toml", "include = \"a***b\"")]);
    assert!(
        pattern.starts_with("lb.toml:1:11: the pattern \"a***b\" is malformed"),
        "{pattern}"
    );
    let text = told(&[("lb.toml/x", "")]);
    assert!(
        text.starts_with("lb.toml: cannot be read: Is a directory"),
        "{text}"
    );
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    fs::write(&path, b"[log]\nlevel = \"\xff\"\n").unwrap();
    let mistakes = load(&path, &no_env).unwrap_err();
    assert_eq!(
        (mistakes.as_slice()[0].line, mistakes.as_slice()[0].column),
        (2, 10)
    );
    assert_eq!(mistakes.as_slice()[0].message, "not UTF-8 text");
    let text = read("include = \"x\"").unwrap_err();
    assert_eq!(text.as_slice()[2].message, "`include` is not possible here");
}

#[test]
fn networks_may_stand_in_files_of_their_own() {
    let top = with(
        "[[listener]]",
        "allow = [\"192.0.2.0/24\"]\nallow_file = \"lists/ours.txt\"\ndeny_file = \"lists/theirs.txt\"",
    );
    let ours = "# our own\n10.0.0.0/8  # the office\n\n2001:db8::/32\n";
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir(folder.path().join("lists")).unwrap();
    let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
    write("lb.toml", &top);
    write("lists/ours.txt", ours);
    write("lists/theirs.txt", "");
    let settings = load(&folder.path().join("lb.toml"), &no_env)
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let listener = &settings.listeners[0];
    let told: Vec<String> = listener.allow.all().map(|one| one.to_string()).collect();
    assert_eq!(told, ["192.0.2.0/24", "10.0.0.0/8", "2001:db8::/32"]);
    assert_eq!(
        listener.allow.file,
        Some(folder.path().join("lists/ours.txt"))
    );
    assert_eq!(listener.deny.all().count(), 0);
    assert_eq!(read(&print_effective(&settings)), Ok(settings));
}

#[test]
fn mistakes_in_files_of_networks_are_told_with_their_lines() {
    let listener = |name: &str, port: u16, lines: &str| {
        let head = "[[listener]]\npool = \"out\"\n";
        format!("{head}name = \"{name}\"\nbind = \"127.0.0.1:{port}\"\n{lines}\n")
    };
    // Two listeners with one faulty file: its mistakes are told once.
    let files = "allow_file = \"ours.txt\"\ndeny_file = \"theirs.txt\"";
    let top = [
        listener("a", 1, files),
        listener(
            "b",
            2,
            "allow_file = \"ours.txt\"\ndeny_file = \"nowhere.txt\"",
        ),
        listener("c", 3, "allow_file = \"nobody.txt\""),
        "[[pool]]\nname = \"out\"\nbackend = [{ address = \"1.1.1.1:1\" }]\n".to_owned(),
    ];
    let mistakes = load_files(&[
        ("lb.toml", &top.concat()),
        (
            "ours.txt",
            "10.0.0.0/8\n\n  10.0.0.1/8 # host bits\n192.0.2.7\n",
        ),
        ("theirs.txt", "\n192.0.2.7/32\n1.2.3\n"),
        ("nobody.txt", "# nothing\n\n"),
    ])
    .unwrap_err();
    let heads: Vec<&str> = mistakes
        .lines()
        .filter(|line| line.contains("toml") || line.contains("txt"))
        .filter(|line| !line.contains(" | "))
        .collect();
    assert_eq!(
        heads,
        [
            "lb.toml:12:13: cannot read nowhere.txt: No such file or directory (os error 2)",
            "lb.toml:17:14: `allow_file` names a file without a network: everybody would be let in",
            "ours.txt:3:3: \"10.0.0.1/8\" has bits set behind the first 8",
            "theirs.txt:2:1: the network 192.0.2.7 is both allowed and denied",
            "      = hint: keep one; it is allowed at ours.txt:4:1",
            "theirs.txt:3:1: \"1.2.3\" is not a network",
        ]
    );
    assert!(mistakes.ends_with("\n5 mistakes in 3 files"), "{mistakes}");
}

#[test]
fn a_thousand_backends_are_read_at_once() {
    let mut text = LEAST.to_owned();
    for at in 0..1000 {
        text.push_str(&format!(
            "[[pool.backend]]\nname = \"b{at}\"\naddress = \"10.0.{}.{}:80\"\nweight = {at}\n",
            at / 250,
            at % 250
        ));
    }
    let start = Instant::now();
    let settings = read(&text).unwrap();
    assert_eq!(settings.pools[0].backends.len(), 1001);
    // A few milliseconds when optimised; the bound holds for a test build on a busy machine, and
    // fails for anything quadratic in the slow parts.
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn ten_thousand_networks_are_read_and_worked_out_at_once() {
    let network = |at: u32| format!("10.{}.{}.{}/27\n", at >> 11, at >> 3 & 255, (at & 7) << 5);
    let file: String = (0..10_000).map(network).collect();
    let top = with(
        "[[listener]]",
        "allow = [\"10.0.0.0/8\"]\ndeny_file = \"theirs.txt\"",
    );
    let start = Instant::now();
    let settings = load_files(&[("lb.toml", &top), ("theirs.txt", &file)])
        .unwrap_or_else(|mistakes| panic!("{mistakes}"));
    let listener = &settings.listeners[0];
    assert_eq!(listener.deny.from_file.len(), 10_000);
    let networks = Networks::new(listener.allow.all(), listener.deny.all());
    let allows = |ip: &str| networks.allows(ip.parse().unwrap());
    assert!(!allows("10.0.0.0") && !allows("10.4.225.255"));
    // Behind the last of them.
    assert!(allows("10.4.226.0") && !allows("11.0.0.0"));
    // As above.
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn the_printed_settings_are_the_settings() {
    let papers = Papers::new();
    proptest!(ProptestConfig::with_cases(300), |(settings in any_settings(&papers))| {
        let text = print_effective(&settings);
        match read(&text) {
            Ok(again) => prop_assert_eq!(again, settings),
            Err(mistakes) => prop_assert!(false, "{}\n{}", mistakes, text),
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Bytes of the documented file are cut out, doubled or replaced: that may be a mistake but not a panic.
    #[test]
    fn no_damage_to_a_file_makes_the_reader_panic(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0..12_usize, "[\\[\\]{}=\"'$,.a1# \n\t\u{fc}-]{0,6}"), 1..6),
    ) {
        let mut text: Vec<char> = include_str!("../../conf/lb.toml").chars().collect();
        for (at, cut, insert) in damage {
            let start = at.index(text.len() + 1);
            let end = (start + cut).min(text.len());
            text.splice(start..end, insert.chars());
        }
        let text: String = text.into_iter().collect();
        if let Err(mistakes) = read(&text) {
            for mistake in &mistakes {
                let line = text.lines().nth(mistake.line.saturating_sub(1)).unwrap_or_default();
                prop_assert!(mistake.column <= line.chars().count() + 2, "{}", mistake);
            }
            prop_assert!(!mistakes.to_string().is_empty());
        }
    }
}

fn any_settings(papers: &Papers) -> impl Strategy<Value = Settings> + use<> {
    let papers = papers.clone();
    (
        any_global(),
        (any_log(), any_admin()),
        prop::collection::vec(any_pool(&papers), 1..4),
    )
        .prop_flat_map(move |(global, (log, admin), mut pools)| {
            for (at, pool) in pools.iter_mut().enumerate() {
                pool.name.truncate(60);
                pool.name.push_str(&format!(".{at}"));
            }
            let count = pools.len();
            let (papers, admin) = (papers.clone(), admin);
            prop::collection::vec(any_listener(count, &papers), 1..4).prop_map(
                move |mut listeners| {
                    for (at, listener) in listeners.iter_mut().enumerate() {
                        listener.name.truncate(60);
                        listener.name.push_str(&format!(".{at}"));
                        // One address for each listener keeps their binds apart.
                        for bind in &mut listener.binds {
                            match bind {
                                Endpoint::Tcp(address) => {
                                    address.set_ip([127, 0, 0, at as u8].into())
                                }
                                Endpoint::Unix(path) => *path = path.join(format!("{at}")),
                            }
                        }
                        papers.make_possible(listener, &pools);
                    }
                    Settings {
                        global: global.clone(),
                        log: log.clone(),
                        admin: admin.clone(),
                        listeners,
                        pools: pools.clone(),
                    }
                },
            )
        })
}

fn any_admin() -> impl Strategy<Value = Admin> {
    let bind = prop::option::of(any::<std::net::SocketAddrV4>().prop_map(Into::into));
    let socket = prop::option::of("/[a-z]{1,20}/[a-z.]{1,20}".prop_map(PathBuf::from));
    (bind, socket).prop_map(|(bind, socket)| Admin {
        bind,
        socket,
        token: None,
    })
}

fn any_global() -> impl Strategy<Value = Global> {
    (
        prop::option::of(1..=256_usize),
        1..=u32::MAX,
        any_duration(0),
        any_text(),
        prop::collection::vec((any::<std::net::IpAddr>(), 1..=u16::MAX), 0..3),
    )
        .prop_map(
            |(workers, max_connections, drain_timeout, hash_seed, resolvers)| Global {
                workers,
                max_connections,
                drain_timeout,
                hash_seed,
                resolvers: resolvers.into_iter().map(Into::into).collect(),
            },
        )
}

fn any_log() -> impl Strategy<Value = Log> {
    let level = prop::sample::select(vec![
        LogLevel::Error,
        LogLevel::Warn,
        LogLevel::Info,
        LogLevel::Debug,
        LogLevel::Trace,
    ]);
    let format = prop::sample::select(vec![LogFormat::Text, LogFormat::Json]);
    let access = prop_oneof![
        Just(AccessTarget::Off),
        Just(AccessTarget::Stdout),
        Just(AccessTarget::Stderr),
        any_path().prop_map(|path| AccessTarget::File(path.into())),
    ];
    (level, format, access).prop_map(|(level, format, access)| Log {
        level,
        format,
        access,
    })
}

fn any_listener(pools: usize, papers: &Papers) -> impl Strategy<Value = Listener> + use<> {
    let binds = prop::collection::btree_set(any_endpoint(), 1..4);
    let times = (any_duration(0), any_duration(0), any_duration(0));
    let admission = (any_networks(), any_source_limits());
    let ways = (prop::option::of(0..pools), any_routes(pools));
    let secure = (any_accept_proxy(), papers.any_listener_tls());
    let head = (any_name(), binds);
    (head, ways, secure, any::<u32>(), times, admission).prop_map(
        |((name, binds), ways, secure, max_connections, times, admission)| {
            let ((pool, routes), (accept_proxy, tls)) = (ways, secure);
            let ((allow, deny), per_source) = admission;
            Listener {
                name,
                binds: distinct_by_port(binds),
                routes,
                pool,
                accept_proxy,
                tls,
                max_connections,
                idle_timeout: times.0,
                half_close_timeout: times.1,
                max_lifetime: times.2,
                allow,
                deny,
                per_source,
            }
        },
    )
}

/// Two lists without a file, which share no network.
fn any_networks() -> impl Strategy<Value = (NetworkList, NetworkList)> {
    prop::collection::btree_set(any_network(), 0..8).prop_map(|networks| {
        let mut lists = (NetworkList::default(), NetworkList::default());
        for (at, network) in networks.into_iter().enumerate() {
            let list = if at % 2 == 0 {
                &mut lists.0
            } else {
                &mut lists.1
            };
            list.networks.push(network);
        }
        lists
    })
}

pub(super) fn any_network() -> impl Strategy<Value = Network> {
    (any::<std::net::IpAddr>(), 0..=128_u8).prop_map(|(ip, bits)| {
        let ip = ip.to_canonical();
        let width = if ip.is_ipv4() { 32 } else { 128 };
        Network::holding(ip, bits.min(width)).unwrap()
    })
}

fn any_source_limits() -> impl Strategy<Value = SourceLimits> {
    let rate = (1..=Rate::COUNT_MAX, 1..=86_400_000_u64, 1..=Rate::COUNT_MAX).prop_map(
        |(count, millis, burst)| Rate {
            count,
            per: Duration::from_millis(millis),
            burst,
        },
    );
    (any::<u32>(), prop::option::of(rate), 0..=32_u8, 0..=128_u8).prop_map(
        |(connections, rate, v4, v6)| SourceLimits {
            connections,
            rate,
            prefixes: Prefixes { v4, v6 },
        },
    )
}

/// Their addresses are replaced by one of the listener.
fn distinct_by_port(binds: std::collections::BTreeSet<Endpoint>) -> Vec<Endpoint> {
    let mut ports = std::collections::HashSet::new();
    let new = |bind: &Endpoint| match bind {
        Endpoint::Tcp(address) => ports.insert(address.port()),
        Endpoint::Unix(_) => true,
    };
    binds.into_iter().filter(new).collect()
}

fn any_pool(papers: &Papers) -> impl Strategy<Value = Pool> + use<> {
    let secure = (any_send_proxy(), papers.any_upstream_tls());
    let sessions = (any::<u32>(), any_duration(1), any::<u32>());
    let connects = (any::<u32>(), any_duration(1), any_duration(1), 0..=100_u8);
    let ejection =
        (connects, sessions).prop_map(|((connect_failures, one, other, max_percent), sessions)| {
            Ejection {
                connect_failures,
                base: one.min(other),
                max: one.max(other),
                max_percent,
                early_resets: sessions.0,
                early_reset_within: sessions.1,
                empty_closes: sessions.2,
            }
        });
    let found = prop::collection::vec(any_discover(), 0..3);
    let backends = (prop::collection::vec(any_backend(), 1..4), found);
    (
        any_name(),
        any_choice(),
        any_duration(1),
        0..=16_u32,
        ejection,
        any_health(),
        (backends, secure),
        any_pool_limits(),
    )
        .prop_map(
            |(
                name,
                (policy, hash_key, hash_balance_factor, slow_start, panic_threshold),
                connect_timeout,
                retries,
                ejection,
                mut health,
                ((mut backends, discover), (send_proxy, tls)),
                (retry_budget, max_connections, queue, drain, rebalance),
            )| {
                for (at, backend) in backends.iter_mut().enumerate() {
                    backend.name.truncate(60);
                    backend.name.push_str(&format!("/{at}"));
                }
                if backends
                    .iter()
                    .any(|backend| matches!(backend.address, Address::At(Endpoint::Unix(_))))
                {
                    health.port = 0;
                    health.probe_address = None;
                    health.agent = None;
                }
                let bound = matches!(policy, PolicyKind::IpHash | PolicyKind::Failover);
                Pool {
                    name,
                    policy,
                    hash_key,
                    hash_balance_factor,
                    slow_start,
                    panic_threshold,
                    connect_timeout,
                    retries,
                    retry_budget,
                    max_connections,
                    queue,
                    drain,
                    rebalance: if bound { 0 } else { rebalance },
                    send_proxy,
                    tls,
                    ejection,
                    health,
                    backends,
                    discover,
                }
            },
        )
}

fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 1..12),
        "[${}A\"\\\\\n\t\u{7f}\u{e9}]{1,12}".prop_map(String::into_bytes),
    ]
}

pub(super) fn any_tls() -> impl Strategy<Value = TlsVerify> {
    (
        prop::sample::select(&["", "web.internal", "10.0.0.1"][..]),
        any::<bool>(),
    )
        .prop_map(|(name, insecure)| TlsVerify {
            server_name: name.to_owned(),
            // The system may trust nobody; a file of its own is read in another test.
            ca: None,
            insecure: insecure || name.is_empty() || system_roots().is_empty(),
        })
}

fn any_send_proxy() -> impl Strategy<Value = SendProxy> {
    prop::sample::select(vec![SendProxy::Off, SendProxy::V1, SendProxy::V2])
}

fn any_choice() -> impl Strategy<Value = (PolicyKind, HashKey, u16, Duration, u8)> {
    (
        prop::sample::select(PolicyKind::ALL.to_vec()),
        prop::sample::select(vec![HashKey::SourceIp, HashKey::SourceIpPort, HashKey::Sni]),
        prop_oneof![Just(0), 101..=1000_u16],
        any_duration(0),
        0..=100_u8,
    )
}

fn any_pool_limits() -> impl Strategy<Value = (u32, u32, Queue, Drain, u32)> {
    let queue = (any::<u32>(), any_duration(1), any::<bool>()).prop_map(
        |(length, timeout, stays_half_closed)| Queue {
            length,
            timeout,
            stays_half_closed,
        },
    );
    let drain = (any_duration(0), any::<bool>()).prop_map(|(deadline, closes_on_down)| Drain {
        deadline,
        closes_on_down,
    });
    (0..=1000_u32, any::<u32>(), queue, drain, any::<u32>())
}

fn any_health() -> impl Strategy<Value = Health> {
    let range = (100..=599_u16, 100..=599_u16).prop_map(|(a, b)| a.min(b)..=a.max(b));
    let http = (
        "/[!-~]{0,12}",
        "[!-~]{0,12}",
        prop::collection::vec(range, 1..4),
        any_text(),
    )
        .prop_map(|(path, host, expect_status, expect_body)| HttpProbe {
            path,
            host,
            expect_status,
            expect_body,
        })
        .boxed();
    let step = (any_bytes(), any_bytes()).prop_map(|(send, expect)| Step { send, expect });
    let command = prop::collection::vec("[^\0]{0,8}", 0..3).prop_map(|mut words| {
        words.insert(0, "/bin/sh".to_owned());
        Probe::Exec(words)
    });
    let probe = prop_oneof![
        Just(Probe::None),
        Just(Probe::Tcp),
        http.clone().prop_map(Probe::Http),
        any_tls().prop_map(Probe::Tls),
        (http, any_tls()).prop_map(|(http, tls)| Probe::Https(http, tls)),
        prop::collection::vec(step, 1..4).prop_map(Probe::SendExpect),
        command,
    ];
    let times = (
        any_duration(10),
        any_duration(1),
        any_duration(10),
        any_duration(10),
    );
    let agent =
        (1..=u16::MAX, any_duration(10), any_bytes()).prop_map(|(port, interval, send)| Agent {
            port,
            interval,
            send,
        });
    let where_to = (
        any::<u16>(),
        any::<Option<std::net::IpAddr>>(),
        any_send_proxy(),
        prop::option::of(agent),
    );
    let thresholds =
        (1..=u32::MAX, 1..=u32::MAX).prop_map(|(rise, fall)| Thresholds { rise, fall });
    let damping =
        (0..=250_u32, any_duration(1000)).prop_map(|(changes, window)| Damping { changes, window });
    (probe, times, thresholds, damping, where_to).prop_map(
        |(probe, times, thresholds, damping, where_to)| {
            let (interval, timeout, fast_interval, down_interval) = times;
            let (port, probe_address, send_proxy, agent) = where_to;
            let connects = !matches!(probe, Probe::None | Probe::Exec(_));
            Health {
                probe,
                interval,
                timeout,
                thresholds,
                damping,
                fast_interval,
                down_interval,
                port,
                probe_address,
                send_proxy: if connects { send_proxy } else { SendProxy::Off },
                agent,
            }
        },
    )
}

fn any_discover() -> impl Strategy<Value = Discover> {
    let bounds = |(one, other): (Duration, Duration)| TtlBounds {
        min: one.min(other),
        max: one.max(other),
    };
    let ttl = (any_duration(100), any_duration(100))
        .prop_map(bounds)
        .boxed();
    let dns = (
        any_host(),
        1..=u16::MAX,
        any::<u16>(),
        any::<u16>(),
        any::<u32>(),
        ttl.clone(),
    )
        .prop_map(
            |(name, port, weight, priority, max_connections, ttl)| Discover::Dns {
                name,
                port,
                weight,
                priority,
                max_connections,
                ttl,
            },
        );
    let srv =
        (any_host(), any::<u32>(), ttl).prop_map(|(name, max_connections, ttl)| Discover::Srv {
            name,
            max_connections,
            ttl,
        });
    let file = (any_path(), any::<bool>()).prop_map(|(path, allow_empty)| Discover::File {
        path: path.into(),
        allow_empty,
    });
    prop_oneof![dns, srv, file]
}

fn any_host() -> impl Strategy<Value = HostName> {
    "[a-z0-9_]{1,10}(\\.[a-z0-9]{1,10}){0,2}\\.[a-z]{1,5}\\.?"
        .prop_map(|text| HostName::parse(&text).unwrap())
}

fn any_backend() -> impl Strategy<Value = Backend> {
    let named = (any_host(), 1..=u16::MAX).prop_map(|(host, port)| Address::Named { host, port });
    (
        any_name(),
        prop_oneof![any_endpoint().prop_map(Address::At), named],
        any::<u16>(),
        any::<u16>(),
        any::<u32>(),
        any_cost(),
    )
        .prop_map(
            |(name, address, weight, priority, max_connections, cost)| Backend {
                name,
                address,
                weight,
                priority,
                cost,
                max_connections,
            },
        )
}

fn any_cost() -> impl Strategy<Value = Cost> {
    let numbers = prop_oneof![Just(0.0), 0.0..10.0, any::<f64>().prop_map(f64::abs)];
    numbers.prop_filter_map("finite", Cost::new)
}

fn any_endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![
        (any::<std::net::IpAddr>(), 1..=u16::MAX).prop_map(|address| Endpoint::Tcp(address.into())),
        any_path().prop_map(|path| Endpoint::Unix(path.into())),
    ]
}

fn any_name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9_.:-]{1,64}"
}

/// With all that a TOML string has to escape, and what looks like a variable.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[${}A\"\\\\\n\t\u{7f}é]{0,16}"]
}

fn any_path() -> impl Strategy<Value = String> {
    "/[ -~]{0,20}[a-z\"$]"
}

pub(super) fn any_duration(min_millis: u64) -> impl Strategy<Value = Duration> {
    prop_oneof![min_millis..10_000, min_millis..=3_153_600_000_000].prop_map(Duration::from_millis)
}

#[test]
fn a_ca_file_is_read_with_the_configuration_and_its_mistakes_are_the_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let certified = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    let pem = certified.cert.pem();
    let good = file("good.pem", &format!("# ours\n{pem}{pem}"));
    let health = |lines: &str| with("[pool.health]", &format!("probe = \"https\"\n{lines}"));
    let settings = read(&health(&format!("tls.ca = {good:?}"))).unwrap();
    let tls = settings.pools[0].health.probe.tls().unwrap();
    let bundle = tls.ca.as_ref().unwrap();
    assert_eq!(bundle.certificates.len(), 2);
    assert_eq!(bundle.path, Path::new(&good));
    assert_eq!(read(&print_effective(&settings)), Ok(settings));

    let half = &pem[..pem.len() / 2];
    for (text, what) in [
        ("", "has no certificate"),
        ("plain text", "has no certificate"),
        (half, "is not PEM"),
        (
            "-----BEGIN CERTIFICATE-----\naGVsbG8=\n-----END CERTIFICATE-----\n",
            "has an unusable certificate, number 1",
        ),
    ] {
        let path = file("bad.pem", text);
        let told = told(&health(&format!("tls.ca = {path:?}")), "[pool.health]");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].contains(&format!("the CA file {path:?} {what}")),
            "{told:?}"
        );
    }
    let told = told(
        &health(&format!("tls.ca = {good:?}\nhost = \"a,b\"")),
        "[pool.health]",
    );
    assert_eq!(
        told,
        [
            "4:8 a certificate cannot be for the host \"a,b\" | add tls = { server_name = \"web.internal\" } with the name that it is for"
        ]
    );
}

#[test]
fn a_backend_on_a_socket_in_the_file_system_has_no_port_no_agent_and_no_name() {
    let unix = LEAST.replace("127.0.0.1:9001", "unix:/run/x");
    let with_health = |lines: &str| {
        let text = unix.replace(
            "[[pool.backend]]",
            &format!("[pool.health]\n{lines}\n[[pool.backend]]"),
        );
        let Err(mistakes) = read(&text) else {
            panic!("accepted: {lines}")
        };
        let messages = mistakes.into_iter().map(|mistake| mistake.message.clone());
        messages.collect::<Vec<String>>()
    };
    let label = "[[pool.backend]] of [[pool]] \"out\"";
    for key in ["port", "agent_port", "probe_address"] {
        let value = if key == "probe_address" {
            "\"10.0.0.1\""
        } else {
            "80"
        };
        assert_eq!(
            with_health(&format!("{key} = {value}")),
            [format!(
                "{label} is a socket in the file system, but health has a `{key}`"
            )]
        );
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let certified = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).unwrap();
    fs::write(&path, certified.cert.pem()).unwrap();
    assert_eq!(
        with_health(&format!("probe = \"tls\"\ntls.ca = {path:?}")),
        [format!(
            "{label} has no name that its certificate could be for"
        )]
    );
}

#[test]
fn a_probe_that_verifies_nobody_is_warned_of() {
    let warned = |lines: &str| warnings(&read(&with("[pool.health]", lines)).unwrap());
    assert_eq!(
        warned("probe = \"tls\"\ntls.insecure = true"),
        [
            "health.tls.insecure = true in [[pool]] \"out\": its probe accepts any certificate, so whoever answers there counts as the backend"
        ]
    );
    assert_eq!(warned("probe = \"tcp\""), Vec::<String>::new());
}

/// `LEAST` without its backend.
fn least_with_discover(lines: &str) -> String {
    let (head, _) = LEAST.split_once("[[pool.backend]]").unwrap();
    format!("{head}[[pool.discover]]\n{lines}\n")
}

#[test]
fn a_pool_may_have_found_backends_only() {
    let text = least_with_discover("kind = \"srv\"\nname = \"_http._tcp.Web.internal\"");
    let settings = read(&text).unwrap();
    assert!(settings.pools[0].backends.is_empty());
    let expected = Discover::Srv {
        name: HostName::parse("_http._tcp.web.internal").unwrap(),
        max_connections: 0,
        ttl: TTL_BOUNDS,
    };
    assert_eq!(settings.pools[0].discover, [expected]);
    let (head, _) = LEAST.split_once("[[pool.backend]]").unwrap();
    let told = told(&format!("{head}discover = []"), "[[pool]]");
    let expected = "1:1 [[pool]] \"out\" has no backend | add [[pool.backend]] with a line such as \
                    address = \"127.0.0.1:9001\"";
    assert_eq!(told, [expected]);
}

#[test]
fn a_name_in_an_address_is_kept_and_names_the_backend() {
    let text = LEAST.replace("127.0.0.1:9001", "DB.internal:5432");
    let backend = &read(&text).unwrap().pools[0].backends[0];
    let expected = Address::Named {
        host: HostName::parse("db.internal").unwrap(),
        port: 5432,
    };
    assert_eq!(backend.address, expected);
    assert_eq!(backend.name, "db.internal:5432");
}

#[test]
fn a_file_of_backends_is_looked_for_beside_the_file_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lb.toml");
    fs::write(
        &path,
        least_with_discover("kind = \"file\"\npath = \"b.toml\""),
    )
    .unwrap();
    let settings = load(&path, &no_env).unwrap();
    let expected = Discover::File {
        path: folder.path().join("b.toml"),
        allow_empty: false,
    };
    assert_eq!(settings.pools[0].discover, [expected]);
}

fn backends_of(text: &str) -> Result<Vec<Backend>, Mistakes> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("b.toml");
    fs::write(&path, text).unwrap();
    load_backends(&path, &no_env)
}

#[test]
fn a_file_of_backends_has_the_keys_of_a_listed_backend() {
    let read = backends_of(
        "[[backend]]\naddress = \"10.0.0.1:80\"\n\n[[backend]]\nname = \"b\"\n\
         address = \"unix:/run/b.sock\"\nweight = 3\npriority = 1\nmax_connections = 7\n",
    );
    let read = read.unwrap();
    let names: Vec<&str> = read.iter().map(|backend| &*backend.name).collect();
    assert_eq!(names, ["10.0.0.1:80", "b"]);
    let b = &read[1];
    assert_eq!((b.weight, b.priority, b.max_connections), (3, 1, 7));
    assert_eq!(backends_of("").unwrap(), []);
    assert_eq!(backends_of("backend = []\n").unwrap(), []);
}

#[test]
fn mistakes_in_a_file_of_backends_are_told_with_their_place() {
    for (text, expected) in [
        (
            "[[backend]]\naddress = \"10.0.0.1\"\n",
            "2:11 \"10.0.0.1\" has no port",
        ),
        (
            "[[backend]]\naddress = \"db.internal:80\"\n",
            "2:11 \"db.internal\" is a name, and a file of backends has addresses",
        ),
        (
            "[[backend]]\nweight = 1\n",
            "1:1 [[backend]] has no `address`",
        ),
        (
            "[[backend]]\naddress = \"10.0.0.1:80\"\nwieght = 1\n",
            "3:1 unknown key `wieght` in [[backend]]",
        ),
        (
            "[[backend]]\naddress = \"10.0.0.1:80\"\n[[backend]]\naddress = \"10.0.0.1:80\"\n",
            "4:11 there are two backends named \"10.0.0.1:80\"",
        ),
        (
            "[[pool.backend]]\naddress = \"10.0.0.1:80\"\n",
            "1:3 unknown key `pool` at the top level",
        ),
        ("[[backend]\n", "1:11 unclosed array table"),
    ] {
        let mistakes = backends_of(text).unwrap_err();
        let [mistake] = mistakes.as_slice() else {
            panic!("{mistakes}")
        };
        let told = format!("{}:{} {}", mistake.line, mistake.column, mistake.message);
        assert_eq!(told, expected);
    }
}
