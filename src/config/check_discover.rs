//! Reads `[[pool.discover]]`.

use std::time::Duration;

use crate::base::host::HostName;
use crate::config::address;
use crate::config::duration;
use crate::config::ledger::Wrong;
use crate::config::reader::Reader;
use crate::config::settings::{Discover, TtlBounds};

/// Asking more often is a load on the name server that nobody notices here.
const TTL_MIN: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Dns,
    Srv,
    File,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Dns => "dns",
            Kind::Srv => "srv",
            Kind::File => "file",
        }
    }

    /// Whether the key means something; if not, why, and what to do.
    fn takes(self, key: &str) -> Result<(), &'static str> {
        match (self, key) {
            (Kind::Dns | Kind::Srv, "path") => Err("leave it out; `name` says what to look up"),
            (Kind::Dns | Kind::Srv, "allow_empty") => {
                Err("leave it out: an empty answer never empties a pool")
            }
            (Kind::Srv, "port") => Err("leave it out: each record names the port of its target"),
            (Kind::Srv, "weight" | "priority") => Err("leave it out: it is that of each record"),
            (Kind::File, "name") => Err("leave it out; `path` says which file is read"),
            (Kind::File, "port" | "weight" | "priority" | "max_connections") => {
                Err("leave it out: each [[backend]] of the file has its own")
            }
            (Kind::File, "min_ttl" | "max_ttl") => {
                Err("leave it out: the file is read again when it changes")
            }
            _ => Ok(()),
        }
    }
}

/// Whether the pool has such a table, well or badly written.
pub(crate) fn is_written(pool: &Reader<'_>) -> bool {
    pool.has("discover") && !(pool.is_empty_array("discover"))
}

pub(crate) fn discovers(pool: &Reader<'_>) -> Vec<Discover> {
    let tables = pool.tables("discover");
    tables.iter().filter_map(discover).collect()
}

fn discover(table: &Reader<'_>) -> Option<Discover> {
    let words = [Kind::Dns, Kind::Srv, Kind::File].map(|kind| (kind.word(), kind));
    let kind = table.required_choice("kind", &words);
    // Every key is read, for the mistakes in it, before the kind says which are needed.
    let name = table.optional("name", "a host name in quotes", host_name);
    let port = table.written_number("port", 1..=u16::MAX);
    let path = table.optional("path", "a file path in quotes", |text| {
        file_path(text).map(|path| table.beside(path))
    });
    let weight = table.number("weight", 0..=u16::MAX);
    let priority = table.number("priority", 0..=u16::MAX);
    let max_connections = table.number("max_connections", 0..=u32::MAX);
    let ttl = ttl(table);
    let allow_empty = table.flag("allow_empty");
    let kind = kind?;
    note_other_keys(table, kind);
    let needed: &[&str] = match kind {
        Kind::Dns => &["name", "port"],
        Kind::Srv => &["name"],
        Kind::File => &["path"],
    };
    for key in needed {
        table.require(key);
    }
    Some(match kind {
        Kind::Dns => Discover::Dns {
            name: name?.value,
            port: port?.value,
            weight,
            priority,
            max_connections,
            ttl,
        },
        Kind::Srv => Discover::Srv {
            name: name?.value,
            max_connections,
            ttl,
        },
        Kind::File => Discover::File {
            path: path?.value,
            allow_empty,
        },
    })
}

fn note_other_keys(table: &Reader<'_>, kind: Kind) {
    let keys = [
        "name",
        "port",
        "weight",
        "priority",
        "max_connections",
        "min_ttl",
        "max_ttl",
        "path",
        "allow_empty",
    ];
    for key in keys.into_iter().filter(|key| table.has(key)) {
        if let Err(hint) = kind.takes(key) {
            let message = format!("`{key}` is not for kind = {:?}", kind.word());
            table.note(&table.place_of_value(key), Wrong::new(message, hint));
        }
    }
}

fn host_name(text: &str) -> Result<HostName, Wrong> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        return Err(Wrong::new(
            format!("{text:?} is an address, there is nothing to look up"),
            "list it as [[pool.backend]]",
        ));
    }
    address::parse_host(text)
}

fn file_path(text: &str) -> Result<&str, Wrong> {
    if text.is_empty() || text.ends_with('/') || text.contains('\0') {
        return Err(Wrong::new(
            format!("`path` cannot be {text:?}"),
            "the path of a file, such as \"backends.toml\"",
        ));
    }
    Ok(text)
}

fn ttl(table: &Reader<'_>) -> TtlBounds {
    let bounds = TtlBounds {
        min: table.duration("min_ttl", TTL_MIN),
        max: table.duration("max_ttl", TTL_MIN),
    };
    if bounds.min > bounds.max {
        let wrong = Wrong::new(
            format!(
                "`min_ttl` ({}) is longer than `max_ttl` ({}) in {}",
                duration::format(bounds.min),
                duration::format(bounds.max),
                table.label()
            ),
            "an answer is asked for again after its time to live, but not before `min_ttl` and \
             not after `max_ttl`",
        );
        let place = table.place_of_value(if table.has("max_ttl") {
            "max_ttl"
        } else {
            "min_ttl"
        });
        table.note(&place, wrong);
    }
    bounds
}
