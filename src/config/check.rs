//! The one constructor of settings: reads every table, then checks them against each other.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::address;
use crate::config::check_admin;
use crate::config::check_links;
use crate::config::check_listener::{self, Draft};
use crate::config::check_pool;
use crate::config::ledger::Wrong;
use crate::config::names;
use crate::config::reader::{Found, Reader};
use crate::config::settings::{AccessTarget, Global, Log, LogFormat, LogLevel, Pool, Settings};

/// More data-plane threads serve nobody.
const WORKERS_MAX: u32 = 256;

/// The settings of all files together. Where a mistake was noted they hold something made up: the
/// caller gives them away only when the ledger is empty.
pub(crate) fn settings(roots: &[Reader<'_>]) -> Settings {
    let listener_tables: Vec<Reader<'_>> = roots
        .iter()
        .flat_map(|root| root.tables("listener"))
        .collect();
    let pool_tables: Vec<Reader<'_>> = roots.iter().flat_map(|root| root.tables("pool")).collect();
    note_lacks(roots, &listener_tables, &pool_tables);

    let drafts: Vec<Draft> = listener_tables.iter().map(check_listener::draft).collect();
    let pools: Vec<_> = pool_tables.iter().map(check_pool::pool).collect();
    names::unique(
        &listener_tables,
        drafts.iter().map(|draft| draft.name.as_ref()),
        "listener",
    );
    names::unique(
        &pool_tables,
        pools.iter().map(|(name, _)| name.as_ref()),
        "pool",
    );
    if let Some(root) = roots.first() {
        check_listener::note_shared_binds(root.ledger(), &drafts);
    }
    let names: Vec<Option<&Found<String>>> = pools.iter().map(|(name, _)| name.as_ref()).collect();
    let read: Vec<&Pool> = pools.iter().map(|(_, pool)| pool).collect();
    let listeners = check_links::link(&listener_tables, drafts, &names, &read);
    let pools = pools.into_iter().map(|(_, pool)| pool).collect();
    Settings {
        global: single(roots, "global", global),
        log: single(roots, "log", log),
        admin: match roots.iter().any(|root| root.has("admin")) {
            true => single(roots, "admin", check_admin::admin),
            false => check_admin::absent(),
        },
        listeners,
        pools,
    }
}

fn note_lacks(roots: &[Reader<'_>], listeners: &[Reader<'_>], pools: &[Reader<'_>]) {
    let Some(top) = roots.first() else { return };
    let lacks = [
        (
            "listener",
            listeners,
            "add [[listener]] with name, bind and pool",
        ),
        (
            "pool",
            pools,
            "add [[pool]] with a name and [[pool.backend]] with an address",
        ),
    ];
    for (name, tables, hint) in lacks {
        // Of the wrong type is another mistake than missing.
        if tables.is_empty() && !roots.iter().any(|root| root.has(name)) {
            let message = format!("there is no [[{name}]]");
            top.ledger()
                .note_lack(top.place().file, Wrong::new(message, hint));
        }
    }
}

/// Reads a table that only one of the files may have.
fn single<T>(roots: &[Reader<'_>], name: &str, read: fn(&Reader<'_>) -> T) -> T {
    let mut holders = roots.iter().filter(|root| root.has(name));
    let Some(first) = holders.next().or(roots.first()) else {
        unreachable!("there is always a top file")
    };
    let value = read(&first.table(name));
    for second in holders {
        let wrong = Wrong::new(
            format!("[{name}] is set in two files"),
            "keep one; the first is at",
        );
        let here = second.place_of_value(name);
        second
            .ledger()
            .note_with(&here, wrong, &first.place_of_value(name));
        // For the mistakes in it.
        read(&second.table(name));
    }
    value
}

fn global(table: &Reader<'_>) -> Global {
    let workers = table.word_or_number("workers", "auto", 1..=WORKERS_MAX);
    Global {
        workers: workers.and_then(|workers| usize::try_from(workers).ok()),
        max_connections: table.number("max_connections", 1..=u32::MAX),
        drain_timeout: table.duration("drain_timeout", Duration::ZERO),
        hash_seed: table.text("hash_seed"),
        resolvers: resolvers(table),
    }
}

fn resolvers(table: &Reader<'_>) -> Vec<SocketAddr> {
    let mut resolvers = Vec::new();
    for text in table.strings("resolvers", "an array of addresses in quotes") {
        match address::parse_resolver(&text.value) {
            Ok(resolver) => resolvers.push(resolver),
            Err(wrong) => table.note(&text.place, wrong),
        }
    }
    resolvers
}

fn log(table: &Reader<'_>) -> Log {
    let levels = [
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
    Log {
        level: table.choice("level", &levels, &[]),
        format: table.choice("format", &formats, &[]),
        access: table.parsed("access", "a string", access_target),
    }
}

fn access_target(text: &str) -> Result<AccessTarget, Wrong> {
    match text {
        "off" => Ok(AccessTarget::Off),
        "stdout" => Ok(AccessTarget::Stdout),
        "stderr" => Ok(AccessTarget::Stderr),
        // A bare word is more often a slip than a file in whatever folder lbd was started in.
        path if path.contains(['/', '.']) && !path.ends_with('/') && !path.contains('\0') => {
            Ok(AccessTarget::File(PathBuf::from(path)))
        }
        other => Err(Wrong::new(
            format!("`access` cannot be {other:?}"),
            "allowed: \"off\", \"stdout\", \"stderr\", or a file path such as \"/var/log/lbd/access.log\"",
        )),
    }
}
