//! `lbd why`: where a client would go now, the answer first, then what led to it.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Args;

use super::remote::{Where, answer, run};
use super::table::{Align, Cell, Paint, Table, paint};
use crate::admin::client::escape;
use crate::admin::why::{Considered, PoolChoice, Why, parse_client};
use crate::balance::explain::Reason;

#[derive(Debug, Args)]
pub struct WhyArgs {
    /// The client's address, with a port if the pool hashes that too.
    #[arg(value_name = "CLIENT_IP", value_parser = parse_client)]
    client: SocketAddr,
    /// The listener it connects to.
    #[arg(long, value_name = "NAME")]
    listener: String,
    /// The name it asks for.
    #[arg(long, value_name = "HOST")]
    sni: Option<String>,
    /// A protocol it offers, such as h2; may be given several times.
    #[arg(long, value_name = "P")]
    alpn: Vec<String>,
    /// For programs: the answer of GET /api/v1/why.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Where,
}

pub fn why(args: &WhyArgs) -> ExitCode {
    let client = args.place.client();
    let mut path = format!(
        "/api/v1/why?client={}&listener={}&alpn={}",
        escape(&args.client.to_string()),
        escape(&args.listener),
        escape(&args.alpn.join(",")),
    );
    if let Some(name) = &args.sni {
        path += &format!("&sni={}", escape(name));
    }
    if args.json {
        return answer(run(client.text(&path)), |text| text);
    }
    answer(run(client.get::<Why>(&path)), |why| {
        text(&why, super::wants_colour())
    })
}

/// For a terminal.
fn text(why: &Why, colour: bool) -> String {
    let client = match why.client.port() {
        0 => why.client.ip().to_string(),
        _ => why.client.to_string(),
    };
    let verdict = if why.served { Paint::Good } else { Paint::Bad };
    let mut out = format!("{client} {}\n", paint(&why.summary, verdict, colour));
    for note in &why.notes {
        out += &paint(&format!("! {note}"), Paint::Warn, colour);
        out.push('\n');
    }
    out += &format!("\nLISTENER {}\n", why.listener);
    let mut line = |what: &str, value: &str| out += &format!("  {what:<8}  {value}\n");
    line("access", if why.allowed { "allowed" } else { "denied" });
    for limit in &why.limits {
        line(
            &limit.of,
            &format!("{} of {} connections", limit.active, limit.max),
        );
    }
    if let Some(name) = &why.sni {
        line("name", name);
    }
    if !why.alpn.is_empty() {
        line("offers", &why.alpn.join(" "));
    }
    if let Some(route) = &why.route {
        let by = match route.rule {
            Some(rule) => format!("{} by route {rule}", route.pool),
            None => format!("{}, the listener's own", route.pool),
        };
        line("pool", &by);
    }
    if let Some(pool) = &why.pool {
        out.push('\n');
        out += &heading(pool);
        out += &candidates(pool).text(colour);
    }
    out
}

fn heading(pool: &PoolChoice) -> String {
    let mut out = format!("POOL {} ({})", pool.name, pool.policy);
    if let (Some(key), Some(hash)) = (&pool.hash_key, &pool.hash) {
        out += &format!(", hash of {key} {hash}");
    }
    out += &format!(": {} active", pool.active);
    if pool.max_connections != 0 {
        out += &format!(" of {}", pool.max_connections);
    }
    if pool.queued != 0 {
        out += &format!(", {} waiting", pool.queued);
    }
    out.push('\n');
    if pool.panic {
        out += "  too few are available (panic_threshold): those known to be down are used too\n";
    }
    if pool.by_chance {
        out += "  drawn by chance: this is one of the draws that a worker may make\n";
    }
    out
}

fn candidates(pool: &PoolChoice) -> Table {
    let mut table = Table::new(
        2,
        &[
            ("TRY", Align::Right),
            ("BACKEND", Align::Left),
            ("WHY", Align::Left),
            ("STATE", Align::Left),
            ("PRIO", Align::Right),
            ("WEIGHT", Align::Right),
            ("ACTIVE", Align::Right),
            ("LATENCY", Align::Right),
            ("ADDRESS", Align::Left),
            ("PROBE", Align::Left),
        ],
    );
    for one in &pool.candidates {
        table.row(row(one));
    }
    table
}

fn row(one: &Considered) -> Vec<Cell> {
    let active = match one.max_connections {
        0 => one.active.to_string(),
        max => format!("{}/{max}", one.active),
    };
    let weight = match one.ramp_percent {
        100 => one.weight.to_string(),
        percent => format!("{}*{percent}%", one.weight),
    };
    let colour = match one.reason {
        Reason::Taken => Paint::Good,
        Reason::Next | Reason::LowerTier | Reason::NotReached => Paint::Plain,
        Reason::Down | Reason::Ejected | Reason::Suspected => Paint::Bad,
        _ => Paint::Warn,
    };
    let latency = one.latency.map_or_else(
        || "-".to_owned(),
        |it| format!("{:.1}ms", it.as_secs_f64() * 1e3),
    );
    vec![
        one.order
            .map_or_else(String::new, |it| it.to_string())
            .into(),
        (&one.name).into(),
        Cell::painted(in_words(one.reason), colour),
        one.state.as_str().into(),
        one.priority.into(),
        weight.into(),
        active.into(),
        latency.into(),
        one.address.to_string().into(),
        one.last_probe
            .as_ref()
            .map_or("", |probe| &*probe.detail)
            .into(),
    ]
}

fn in_words(reason: Reason) -> &'static str {
    match reason {
        Reason::Taken => "taken",
        Reason::Next => "if those before fail",
        Reason::Down => "down",
        Reason::Unchecked => "no probe has reached it",
        Reason::Drain => "drains",
        Reason::Maintenance => "in maintenance",
        Reason::Ejected => "ejected for its failures",
        Reason::Full => "full",
        Reason::Suspected => "answers no connects",
        Reason::WeightZero => "has weight 0",
        Reason::LowerTier => "of a lower priority",
        Reason::NotReached => "the tries end before it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_stands_first_and_every_backend_says_why() {
        let why: Why = serde_json::from_str(
            r#"{"summary": "goes to web/a (10.0.0.1:80)", "served": true,
                "listener": "in",
                "client": "192.0.2.7:0", "sni": null, "alpn": [], "notes": [], "allowed": true,
                "limits": [{"of": "listener", "active": 3, "max": 10}],
                "route": {"rule": 2, "pool": "web"},
                "pool": {"name": "web", "policy": "failover", "hash_key": null, "hash": null,
                    "active": 3, "max_connections": 0, "queued": 0, "retries": 1,
                    "panic": false, "by_chance": false, "candidates": [
                    {"name": "a", "address": "10.0.0.1:80", "reason": "taken", "order": 1,
                     "weight": 1, "ramp_percent": 100, "priority": 0, "active": 3,
                     "max_connections": 5, "latency_ms": 1.5, "state": "up",
                     "last_probe": null},
                    {"name": "b", "address": "10.0.0.2:80", "reason": "down", "order": null,
                     "weight": 2, "ramp_percent": 40, "priority": 1, "active": 0,
                     "max_connections": 0, "latency_ms": null, "state": "down",
                     "last_probe": {"ok": false, "detail": "HTTP 503", "ms": 1.0}}]}}"#,
        )
        .unwrap();
        assert_eq!(
            text(&why, false),
            "192.0.2.7 goes to web/a (10.0.0.1:80)\n\
             \n\
             LISTENER in\n\
             \x20 access    allowed\n\
             \x20 listener  3 of 10 connections\n\
             \x20 pool      web by route 2\n\
             \n\
             POOL web (failover): 3 active\n\
             \x20 TRY  BACKEND  WHY    STATE  PRIO  WEIGHT  ACTIVE  LATENCY  ADDRESS      PROBE\n\
             \x20   1  a        taken  up        0       1     3/5    1.5ms  10.0.0.1:80\n\
             \x20      b        down   down      1   2*40%       0        -  10.0.0.2:80  HTTP 503\n"
        );
    }
}
