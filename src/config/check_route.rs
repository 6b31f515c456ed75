//! Reads `[[listener.route]]`.

use crate::balance::networks::Network;
use crate::base::host::NamePattern;
use crate::config::check_admission;
use crate::config::check_secure;
use crate::config::ledger::Wrong;
use crate::config::reader::{Found, Reader};
use crate::config::settings::RouteRule;

/// A route whose pool is still a name.
pub(crate) struct Draft {
    sni: Vec<NamePattern>,
    alpn: Vec<Vec<u8>>,
    source: Vec<Network>,
    pub(crate) pool: Option<Found<String>>,
}

/// The routes of a listener; `has_tls` says whether it reads what clients say of themselves.
pub(crate) fn routes(listener: &Reader<'_>, has_tls: bool) -> Vec<Draft> {
    let tables = listener.tables("route");
    tables.iter().map(|table| draft(table, has_tls)).collect()
}

/// Whether the listener has such a table, well or badly written.
pub(crate) fn is_written(listener: &Reader<'_>) -> bool {
    listener.has("route") && !listener.is_empty_array("route")
}

fn draft(table: &Reader<'_>, has_tls: bool) -> Draft {
    for key in ["sni", "alpn"] {
        if !has_tls && !table.is_default(key) {
            let wrong = Wrong::new(
                format!("`{key}` is said in TLS, and the listener has no [listener.tls]"),
                "add [listener.tls], with mode = \"passthrough\" to leave the TLS to the backend; \
                 `source` needs none",
            );
            table.note(&table.place_of_value(key), wrong);
        }
    }
    if ["sni", "alpn", "source"]
        .iter()
        .all(|key| table.is_default(key))
    {
        let wrong = Wrong::new(
            format!("{} fits every client", table.label()),
            "add `sni`, `alpn` or `source`; the pool for all others is the `pool` of [[listener]]",
        );
        table.note(table.place(), wrong);
    }
    let source = table.list("source", "an array of networks in quotes");
    let source = check_admission::networks(table, source);
    Draft {
        sni: names(table),
        alpn: check_secure::protocols(table),
        source: source.into_iter().map(|one| one.value).collect(),
        pool: table.required("pool", "the name of a [[pool]]", |text| Ok(text.to_owned())),
    }
}

fn names(table: &Reader<'_>) -> Vec<NamePattern> {
    let mut names = Vec::new();
    for text in table.list("sni", "an array of names in quotes") {
        match NamePattern::parse(&text.value) {
            Ok(name) => names.push(name),
            Err(what) => {
                let wrong = Wrong::new(
                    format!("the name {:?} {what}", text.value),
                    "such as \"api.example.com\", or \"*.example.org\" for all names below one",
                );
                table.note(&text.place, wrong);
            }
        }
    }
    names
}

impl Draft {
    pub(crate) fn finish(self, pool: usize) -> RouteRule {
        RouteRule {
            sni: self.sni,
            alpn: self.alpn,
            source: self.source,
            pool,
        }
    }
}
