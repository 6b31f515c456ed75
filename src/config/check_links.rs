//! Finds the pools that listeners name, and checks the one against the other.

use std::collections::HashMap;

use crate::balance::key::HashKey;
use crate::config::check_listener::Draft;
use crate::config::ledger::Wrong;
use crate::config::reader::{Found, Reader};
use crate::config::settings::{Listener, ListenerTls, Pool};
use crate::config::suggest;

/// Listeners with their pools found by their names.
pub(crate) fn link(
    tables: &[Reader<'_>],
    drafts: Vec<Draft>,
    names: &[Option<&Found<String>>],
    pools: &[&Pool],
) -> Vec<Listener> {
    let book = Book::new(names);
    let mut listeners = Vec::with_capacity(drafts.len());
    for (table, draft) in tables.iter().zip(drafts) {
        let find = |name: Option<&Found<String>>| {
            let at = book.find(table, name?)?;
            note_contradictions(table, &draft, name?, pools[at]);
            Some(at)
        };
        let pool = find(draft.pool.as_ref());
        let routes: Vec<_> = draft
            .routes
            .iter()
            .map(|route| find(route.pool.as_ref()))
            .collect();
        listeners.push(draft.finish(pool, &routes));
    }
    listeners
}

struct Book<'n> {
    names: Vec<&'n str>,
    index: HashMap<&'n str, usize>,
    /// While the name of a pool is itself a mistake, no listener is blamed for not finding it.
    is_whole: bool,
}

impl<'n> Book<'n> {
    fn new(names: &[Option<&'n Found<String>>]) -> Self {
        let mut index = HashMap::new();
        for (at, name) in names.iter().enumerate() {
            if let Some(name) = name {
                index.entry(name.value.as_str()).or_insert(at);
            }
        }
        Book {
            names: names.iter().flatten().map(|name| &*name.value).collect(),
            index,
            is_whole: names.iter().all(Option::is_some),
        }
    }

    fn find(&self, listener: &Reader<'_>, name: &Found<String>) -> Option<usize> {
        let found = self.index.get(name.value.as_str()).copied();
        if found.is_none() && self.is_whole {
            let list = suggest::listed(self.names.iter().copied());
            let nearest = suggest::nearest(&name.value, self.names.iter().copied());
            let hint = match nearest {
                _ if self.names.is_empty() => "there is no [[pool]]".to_owned(),
                Some(near) => format!("did you mean {near:?}? pools: {list}"),
                None => format!("pools: {list}"),
            };
            let message = format!("unknown pool {:?} in {}", name.value, listener.label());
            listener
                .ledger()
                .note_absence(&name.place, Wrong::new(message, hint));
        }
        found
    }
}

/// Notes at the pool's name what a listener and a pool cannot both be.
fn note_contradictions(listener: &Reader<'_>, draft: &Draft, name: &Found<String>, pool: &Pool) {
    let (label, to) = (listener.label(), format!("[[pool]] {:?}", name.value));
    let passes_through = matches!(draft.tls, Some(ListenerTls::Passthrough { .. }));
    if passes_through && pool.tls.is_some() {
        let wrong = Wrong::new(
            format!("{label} passes TLS through, and {to} has `tls`: it would be encrypted twice"),
            format!("leave `tls` out of {to}, or set mode = \"terminate\" in [listener.tls]"),
        );
        listener.note(&name.place, wrong);
    }
    if draft.tls.is_none() && pool.hash_key == HashKey::Sni {
        let wrong = Wrong::new(
            format!("{to} has hash_key = \"sni\", and {label} has no [listener.tls] to read it by"),
            "add [listener.tls], with mode = \"passthrough\" to leave the TLS to the backend, or \
             choose hash_key = \"source_ip\"",
        );
        listener.note(&name.place, wrong);
    }
}
