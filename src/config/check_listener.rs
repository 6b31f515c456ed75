//! Reads `[[listener]]`.

use std::collections::HashMap;
use std::time::Duration;

use crate::balance::sources::SourceLimits;
use crate::base::addr::Endpoint;
use crate::config::address;
use crate::config::check_admission;
use crate::config::check_route;
use crate::config::check_secure;
use crate::config::ledger::{Ledger, Place, Wrong};
use crate::config::names;
use crate::config::reader::{Found, Reader};
use crate::config::settings::{AcceptProxy, Listener, ListenerTls, NetworkList};

/// A listener whose pools are still names.
pub(crate) struct Draft {
    pub(crate) name: Option<Found<String>>,
    pub(crate) pool: Option<Found<String>>,
    pub(crate) routes: Vec<check_route::Draft>,
    accept_proxy: Option<AcceptProxy>,
    pub(crate) tls: Option<ListenerTls>,
    /// Each string of `bind` and the endpoints it stands for.
    binds: Vec<Found<Vec<Endpoint>>>,
    max_connections: u32,
    idle_timeout: Duration,
    half_close_timeout: Duration,
    max_lifetime: Duration,
    allow: NetworkList,
    deny: NetworkList,
    per_source: SourceLimits,
}

pub(crate) fn draft(table: &Reader<'_>) -> Draft {
    table.choice("mode", &[("tcp", ())], &["ai", "kernel"]);
    let (allow, deny) = check_admission::network_lists(table);
    let tls = check_secure::listener_tls(table);
    Draft {
        name: table.required("name", "a string", names::name),
        binds: binds(table),
        pool: pool(table),
        routes: check_route::routes(table, tls.is_some()),
        accept_proxy: check_secure::accept_proxy(table),
        tls,
        max_connections: table.number("max_connections", 0..=u32::MAX),
        idle_timeout: table.duration("idle_timeout", Duration::ZERO),
        half_close_timeout: table.duration("half_close_timeout", Duration::ZERO),
        max_lifetime: table.duration("max_lifetime", Duration::ZERO),
        allow,
        deny,
        per_source: check_admission::per_source(table),
    }
}

/// With routes it may be left out.
fn pool(table: &Reader<'_>) -> Option<Found<String>> {
    if !check_route::is_written(table) {
        table.require("pool");
    }
    table.optional("pool", "the name of a [[pool]]", |text| Ok(text.to_owned()))
}

fn binds(table: &Reader<'_>) -> Vec<Found<Vec<Endpoint>>> {
    let mut binds = Vec::new();
    for text in table.required_strings("bind", "an address in quotes, or an array of them") {
        match address::parse_bind(&text.value) {
            Ok(value) => binds.push(Found {
                value,
                place: text.place,
            }),
            Err(wrong) => table.note(&text.place, wrong),
        }
    }
    binds
}

impl Draft {
    /// `routes` has the pool of each route; where it was not found, that is noted.
    pub(crate) fn finish(self, pool: Option<usize>, routes: &[Option<usize>]) -> Listener {
        let pools = routes.iter().map(|pool| pool.unwrap_or_default());
        Listener {
            name: self.name.map(|name| name.value).unwrap_or_default(),
            binds: self.binds.into_iter().flat_map(|bind| bind.value).collect(),
            routes: self
                .routes
                .into_iter()
                .zip(pools)
                .map(|(route, pool)| route.finish(pool))
                .collect(),
            pool,
            accept_proxy: self.accept_proxy,
            tls: self.tls,
            max_connections: self.max_connections,
            idle_timeout: self.idle_timeout,
            half_close_timeout: self.half_close_timeout,
            max_lifetime: self.max_lifetime,
            allow: self.allow,
            deny: self.deny,
            per_source: self.per_source,
        }
    }
}

/// Notes every string of a `bind` that has an endpoint of an earlier one.
pub(crate) fn note_shared_binds(ledger: &Ledger, drafts: &[Draft]) {
    let mut seen: HashMap<&Endpoint, &Place> = HashMap::new();
    for bind in drafts.iter().flat_map(|draft| &draft.binds) {
        let mut told = false;
        for endpoint in bind
            .value
            .iter()
            .filter(|endpoint| !lets_the_kernel_choose(endpoint))
        {
            match seen.get(endpoint) {
                Some(first) if !told => {
                    let wrong = Wrong::new(format!("{endpoint} is bound twice"), "the first is at");
                    ledger.note_with(&bind.place, wrong, first);
                    told = true;
                }
                Some(_) => {}
                None => {
                    seen.insert(endpoint, &bind.place);
                }
            }
        }
    }
}

/// Port 0: each of them gets a port of its own.
fn lets_the_kernel_choose(endpoint: &Endpoint) -> bool {
    matches!(endpoint, Endpoint::Tcp(address) if address.port() == 0)
}
