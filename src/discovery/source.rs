//! What is looked up: the names and files that the settings mention, each once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::base::host::HostName;
use crate::config::settings::{Address, Discover, Pool, Settings, TTL_BOUNDS, TtlBounds};

/// One name or file. Pools that mention the same one share its answer, also over a reload.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Source {
    /// The addresses of a name.
    Host(HostName),
    /// The targets of a service (RFC 2782) and their addresses.
    Service(HostName),
    File {
        path: PathBuf,
        /// Whether a file without backends is believed.
        allow_empty: bool,
    },
}

impl Source {
    /// As `kind` has it.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Host(_) => "dns",
            Source::Service(_) => "srv",
            Source::File { .. } => "file",
        }
    }

    pub fn of(discover: &Discover) -> Source {
        match discover {
            Discover::Dns { name, .. } => Source::Host(name.clone()),
            Discover::Srv { name, .. } => Source::Service(name.clone()),
            Discover::File { path, allow_empty } => Source::File {
                path: path.clone(),
                allow_empty: *allow_empty,
            },
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Host(name) | Source::Service(name) => name.fmt(f),
            Source::File { path, .. } => path.display().fmt(f),
        }
    }
}

/// The sources of one pool in the order of its settings, each once, and how often it wants each.
pub fn of_pool(pool: &Pool) -> Vec<(Source, TtlBounds)> {
    let named = pool.backends.iter().filter_map(|one| match &one.address {
        Address::Named { host, .. } => Some((Source::Host(host.clone()), TTL_BOUNDS)),
        Address::At(_) => None,
    });
    let found = pool.discover.iter().map(|discover| {
        let bounds = match discover {
            Discover::Dns { ttl, .. } | Discover::Srv { ttl, .. } => *ttl,
            Discover::File { .. } => TTL_BOUNDS,
        };
        (Source::of(discover), bounds)
    });
    let mut list: Vec<(Source, TtlBounds)> = Vec::new();
    for (source, bounds) in named.chain(found) {
        match list.iter_mut().find(|(known, _)| *known == source) {
            Some((_, known)) => *known = tighter(*known, bounds),
            None => list.push((source, bounds)),
        }
    }
    list
}

/// The sources of all pools. One that several want is asked as often as the most eager wants.
pub fn of_settings(settings: &Settings) -> BTreeMap<Source, TtlBounds> {
    let mut all = BTreeMap::new();
    for (source, bounds) in settings.pools.iter().flat_map(of_pool) {
        all.entry(source)
            .and_modify(|known| *known = tighter(*known, bounds))
            .or_insert(bounds);
    }
    all
}

fn tighter(a: TtlBounds, b: TtlBounds) -> TtlBounds {
    TtlBounds {
        min: a.min.min(b.min),
        max: a.max.min(b.max),
    }
}
