//! Reads `[pool.health]`.

use std::fs;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::balance::health::{Damping, Thresholds};
use crate::base::addr::Endpoint;
use crate::config::check_secure;
use crate::config::ledger::Wrong;
use crate::config::reader::Reader;
use crate::config::settings::{
    Address, Agent, Backend, Health, HttpProbe, Probe, SendProxy, Step, TlsVerify, UpstreamTls,
    without_port,
};

/// Shorter waits and pauses are busy loops.
const TIMEOUT_MIN: Duration = Duration::from_millis(1);
const INTERVAL_MIN: Duration = Duration::from_millis(10);
const FLAP_WINDOW_MIN: Duration = Duration::from_secs(1);
/// More changes are not counted.
const FLAP_CHANGES_MAX: u32 = 250;
/// A longer conversation is no probe.
const STEPS_MAX: usize = 32;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    None,
    Tcp,
    Tls,
    Http,
    Https,
    SendExpect,
    Exec,
}

const KINDS: [(&str, Kind); 7] = [
    ("none", Kind::None),
    ("tcp", Kind::Tcp),
    ("tls", Kind::Tls),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("send_expect", Kind::SendExpect),
    ("exec", Kind::Exec),
];

const HTTP: &[Kind] = &[Kind::Http, Kind::Https];
const TLS: &[Kind] = &[Kind::Tls, Kind::Https];
const CONNECTED: &[Kind] = &[
    Kind::Tcp,
    Kind::Tls,
    Kind::Http,
    Kind::Https,
    Kind::SendExpect,
];

/// Keys that only these kinds of probe look at.
const OWNERS: [(&str, &[Kind]); 10] = [
    ("path", HTTP),
    ("host", HTTP),
    ("expect_status", HTTP),
    ("expect_body", HTTP),
    ("tls", TLS),
    ("send", &[Kind::SendExpect]),
    ("expect", &[Kind::SendExpect]),
    ("steps", &[Kind::SendExpect]),
    ("command", &[Kind::Exec]),
    ("send_proxy", CONNECTED),
];

/// What is not written is as the pool has it: its backends are asked the way clients reach them.
pub(crate) fn health(
    table: &Reader<'_>,
    send_proxy: SendProxy,
    pool_tls: Option<&UpstreamTls>,
) -> Health {
    let kind = table.choice("probe", &KINDS, &[]);
    note_keys_of_other_probes(table, kind);
    // All are read whatever the kind, for the mistakes in them.
    let http = http_probe(table);
    let tls = check_secure::verify(&table.table("tls"), pool_tls.map(|tls| &tls.verify));
    note_what_cannot_be_verified(table, kind, &http, &tls);
    let steps = steps(table, kind == Kind::SendExpect);
    let command = command(table, kind == Kind::Exec);
    let port = table.number("port", 0..=u16::MAX);
    let probe_address = table.parsed("probe_address", "an IP address in quotes", probe_address);
    let own_proxy = check_secure::send_proxy(table);
    // Another port or address is seldom the one that requires the header.
    let is_elsewhere = port != 0 || probe_address.is_some();
    let is_own = table.has("send_proxy") || is_elsewhere || !CONNECTED.contains(&kind);
    Health {
        probe: match kind {
            Kind::None => Probe::None,
            Kind::Tcp => Probe::Tcp,
            Kind::Tls => Probe::Tls(tls),
            Kind::Http => Probe::Http(http),
            Kind::Https => Probe::Https(http, tls),
            Kind::SendExpect => Probe::SendExpect(steps),
            Kind::Exec => Probe::Exec(command),
        },
        interval: table.duration("interval", INTERVAL_MIN),
        timeout: table.duration("timeout", TIMEOUT_MIN),
        thresholds: Thresholds {
            rise: table.number("rise", 1..=u32::MAX),
            fall: table.number("fall", 1..=u32::MAX),
        },
        damping: Damping {
            changes: table.number("flap_changes", 0..=FLAP_CHANGES_MAX),
            window: table.duration("flap_window", FLAP_WINDOW_MIN),
        },
        fast_interval: table.duration("fast_interval", INTERVAL_MIN),
        down_interval: table.duration("down_interval", INTERVAL_MIN),
        port,
        probe_address,
        send_proxy: if is_own { own_proxy } else { send_proxy },
        agent: agent(table),
    }
}

fn note_keys_of_other_probes(table: &Reader<'_>, kind: Kind) {
    let word = |kind: &Kind| {
        let known = KINDS.iter().find(|(_, other)| other == kind);
        known.map_or("", |(word, _)| word)
    };
    for (key, owners) in OWNERS {
        if owners.contains(&kind) || table.is_default(key) {
            continue;
        }
        let words: Vec<String> = owners
            .iter()
            .map(|one| format!("{:?}", word(one)))
            .collect();
        let wrong = Wrong::new(
            format!("`{key}` is for probe = {} only", words.join(" or ")),
            format!(
                "add probe = {} to {}, or leave `{key}` out",
                words[0],
                table.label()
            ),
        );
        table.note(&table.place_of_value(key), wrong);
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

fn note_what_cannot_be_verified(table: &Reader<'_>, kind: Kind, http: &HttpProbe, tls: &TlsVerify) {
    if !TLS.contains(&kind) || tls.insecure {
        return;
    }
    if kind == Kind::Https
        && tls.server_name.is_empty()
        && !http.host.is_empty()
        && ServerName::try_from(without_port(&http.host)).is_err()
    {
        let wrong = Wrong::new(
            format!("a certificate cannot be for the host {:?}", http.host),
            "add tls = { server_name = \"web.internal\" } with the name that it is for",
        );
        table.note(&table.place_of_value("host"), wrong);
    }
    if tls.ca.is_none() && table.table("tls").is_default("ca") {
        check_secure::note_trust_in_nobody(table, &table.place_of_value("probe"));
    }
}

fn steps(table: &Reader<'_>, wanted: bool) -> Vec<Step> {
    let step = |table: &Reader<'_>| Step {
        send: table.bytes("send"),
        expect: table.bytes("expect"),
    };
    let own = step(table);
    let tables = table.tables("steps");
    let several: Vec<Step> = tables.iter().map(step).collect();
    for (table, _) in tables.iter().zip(&several).filter(|(table, _)| {
        // What was written, as what was wrong is read as empty.
        table.is_default("send") && table.is_default("expect")
    }) {
        let message = "a step that neither sends nor expects";
        table.note(table.place(), Wrong::new(message, "leave it out"));
    }
    if several.len() > STEPS_MAX {
        let message = format!("{} steps, more than {STEPS_MAX}", several.len());
        table.note(&table.place_of_value("steps"), Wrong::new(message, ""));
    }
    let own_is_default = table.is_default("send") && table.is_default("expect");
    if !own_is_default && !several.is_empty() {
        let wrong = Wrong::new(
            "`steps` stands beside `send` and `expect`",
            "make these the first of the steps",
        );
        table.note(&table.place_of_value("steps"), wrong);
    }
    let expects = |table: &Reader<'_>| !table.is_default("expect");
    if wanted && !expects(table) && !tables.iter().any(expects) {
        let wrong = Wrong::new(
            "probe = \"send_expect\" expects nothing",
            "add a line such as expect = '+PONG\\r\\n'; probe = \"tcp\" passes on connecting",
        );
        table.note(&table.place_of_value("probe"), wrong);
    }
    if several.is_empty() {
        vec![own]
    } else {
        several
    }
}

fn command(table: &Reader<'_>, wanted: bool) -> Vec<String> {
    let words = table.strings("command", "a string or an array of strings");
    match words.first() {
        Some(program) => {
            if let Err(wrong) = runnable(&program.value) {
                table.note(&program.place, wrong);
            }
        }
        None if wanted && table.is_default("command") => {
            let wrong = Wrong::new(
                "probe = \"exec\" has no `command`",
                "add a line such as command = [\"/usr/local/bin/check\", \"--fast\"]",
            );
            table.note(&table.place_of_value("probe"), wrong);
        }
        None => {}
    }
    for word in words.iter().filter(|word| word.value.contains('\0')) {
        let message = format!("the word {:?} has a zero byte", word.value);
        table.note(&word.place, Wrong::new(message, ""));
    }
    words.into_iter().map(|word| word.value).collect()
}

/// Errors: it is no absolute path of a file that may be executed.
fn runnable(program: &str) -> Result<(), Wrong> {
    let wrong = |what: String| {
        let hint = "the path of a program, such as \"/usr/local/bin/check\"; no shell is involved";
        Err(Wrong::new(format!("the program {program:?} {what}"), hint))
    };
    if !program.starts_with('/') {
        return wrong("is no absolute path".to_owned());
    }
    match fs::metadata(program) {
        Err(error) => wrong(format!("cannot be found: {error}")),
        Ok(meta) if !meta.is_file() => wrong("is no file".to_owned()),
        Ok(meta) if meta.permissions().mode() & 0o111 == 0 => wrong("is not executable".to_owned()),
        Ok(_) => Ok(()),
    }
}

fn probe_address(text: &str) -> Result<Option<IpAddr>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        Wrong::new(
            format!("`probe_address` is {text:?}, not an IP address"),
            "such as \"10.0.0.1\" or \"2001:db8::1\"; the port goes into `port`",
        )
    })
}

fn agent(table: &Reader<'_>) -> Option<Agent> {
    let agent = Agent {
        port: table.number("agent_port", 0..=u16::MAX),
        interval: table.duration("agent_interval", INTERVAL_MIN),
        send: table.bytes("agent_send"),
    };
    if agent.port != 0 {
        return Some(agent);
    }
    for key in ["agent_interval", "agent_send"] {
        if table.is_default("agent_port") && !table.is_default(key) {
            let wrong = Wrong::new(
                format!("`{key}` is set, but there is no `agent_port`"),
                format!("add a line such as agent_port = 9707, or leave `{key}` out"),
            );
            table.note(&table.place_of_value(key), wrong);
        }
    }
    None
}

/// Notes what a backend on a socket in the file system cannot have.
pub(crate) fn note_unix_backends<'b>(
    health: &Health,
    tls: Option<&UpstreamTls>,
    tables: &[Reader<'_>],
    backends: impl Iterator<Item = Option<&'b Backend>>,
) {
    let unix = |backend: Option<&Backend>| {
        backend.is_some_and(|backend| matches!(backend.address, Address::At(Endpoint::Unix(_))))
    };
    let set = [
        ("port", health.port != 0),
        ("probe_address", health.probe_address.is_some()),
        ("agent_port", health.agent.is_some()),
    ];
    let set: Vec<&str> = set
        .into_iter()
        .filter(|(_, is)| *is)
        .map(|(key, _)| key)
        .collect();
    let is_nameless = |tls: &TlsVerify| tls.server_name.is_empty() && !tls.insecure;
    let nameless = match &health.probe {
        // What is added to the pool is added to its probe.
        _ if tls.is_some_and(|tls| is_nameless(&tls.verify)) => Some("[[pool]]"),
        Probe::Tls(tls) if is_nameless(tls) => Some("health"),
        Probe::Https(http, tls) if http.host.is_empty() && is_nameless(tls) => Some("health"),
        _ => None,
    };
    for (table, _) in tables.iter().zip(backends).filter(|(_, one)| unix(*one)) {
        let place = table.place_of_value("address");
        let label = table.label();
        for key in &set {
            let wrong = Wrong::new(
                format!("{label} is a socket in the file system, but health has a `{key}`"),
                format!("leave `{key}` out, or put the backend into a pool of its own"),
            );
            table.note(&place, wrong);
        }
        if let Some(lacking) = nameless {
            let wrong = Wrong::new(
                format!("{label} has no name that its certificate could be for"),
                format!("add tls = {{ server_name = \"web.internal\" }} to {lacking}"),
            );
            table.note(&place, wrong);
        }
    }
}
