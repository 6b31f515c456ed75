//! What a reload would change, and whom it would touch.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::{Table, Value};

use crate::admin::ask::{Difference, DifferenceKind, KeyChange};
use crate::admin::state::State;
use crate::config::print::print_effective;
use crate::config::settings::Settings;

/// Keys that only a new process goes by.
const NEED_RESTART: [&str; 3] = ["global.workers", "global.user", "global.group"];

/// Every difference between two configurations, in the order of the file. `live` says how many
/// connections there are.
pub fn compare(old: &Settings, new: &Settings, live: &State) -> Vec<Difference> {
    let (before, after) = (table(old), table(new));
    let mut found = Found::default();
    for name in ["global", "log", "admin"] {
        let (before, after) = (leaves(before.get(name)), leaves(after.get(name)));
        let keys = changed(&before, &after);
        let (restart, at_once): (Vec<_>, Vec<_>) = keys
            .into_iter()
            .partition(|one| NEED_RESTART.contains(&&*format!("{name}.{}", one.key)));
        found.change(name.to_owned(), at_once, 0, "");
        if !restart.is_empty() {
            found.change(name.to_owned(), restart, 0, "");
            found.list.last_mut().expect("just pushed").needs_restart = true;
        }
    }
    listeners(&before, &after, old, new, live, &mut found);
    pools(&before, &after, old, new, live, &mut found);
    found.list
}

fn listeners(
    before: &Table,
    after: &Table,
    old: &Settings,
    new: &Settings,
    live: &State,
    found: &mut Found,
) {
    let (before, after) = (named(before.get("listener")), named(after.get("listener")));
    for name in names(&before, &after) {
        let what = format!("listener \"{name}\"");
        let of_name = live.listeners.iter().find(|one| one.name == name);
        let active = of_name.map_or(0, |one| one.active);
        match (before.get(name), after.get(name)) {
            (Some(_), None) => found.end(what, active, "go on; no new clients are accepted"),
            (None, Some(_)) => found.begin(what),
            (Some(before), Some(after)) => {
                let find = |settings: &Settings| {
                    let mut all = settings.listeners.iter();
                    // Which pool it is is said by its name, not by its place.
                    let one = all.find(|one| one.name == name).cloned();
                    one.map(|mut one| {
                        one.pool = None;
                        one.routes.iter_mut().for_each(|route| route.pool = 0);
                        one
                    })
                };
                let mut keys = changed(&leaves(Some(before)), &leaves(Some(after)));
                if keys.is_empty() && find(old) != find(new) {
                    keys.push(of_files());
                }
                found.change(what, keys, active, "go on as they began");
            }
            (None, None) => {}
        }
    }
}

fn pools(
    before: &Table,
    after: &Table,
    old: &Settings,
    new: &Settings,
    live: &State,
    found: &mut Found,
) {
    let (before, after) = (named(before.get("pool")), named(after.get("pool")));
    for name in names(&before, &after) {
        let what = format!("pool \"{name}\"");
        let state = live.pool(name);
        let active = state.map_or(0, |one| one.active);
        let settings = |all: &'_ Settings| all.pools.iter().find(|one| one.name == name).cloned();
        let deadline = settings(old).map_or(Duration::ZERO, |pool| pool.drain.deadline);
        match (before.get(name), after.get(name)) {
            (Some(_), None) => found.end(what, active, &ending(deadline)),
            (None, Some(_)) => found.begin(what),
            (Some(before), Some(after)) => {
                let of_pool = |table: &Value| leaves(Some(&without(table, "backend")));
                let mut keys = changed(&of_pool(before), &of_pool(after));
                let bare = |all: &Settings| {
                    settings(all).map(|mut pool| {
                        pool.backends.clear();
                        pool
                    })
                };
                if keys.is_empty() && bare(old) != bare(new) {
                    keys.push(of_files());
                }
                found.change(
                    what,
                    keys,
                    active,
                    "go on; new ones follow the new settings",
                );
                let (before, after) = (named(before.get("backend")), named(after.get("backend")));
                for backend in names(&before, &after) {
                    let what = format!("backend \"{name}/{backend}\"");
                    let of_name = state.and_then(|state| state.backend(backend));
                    let active = of_name.map_or(0, |one| one.active);
                    match (before.get(backend), after.get(backend)) {
                        (Some(_), None) => found.end(what, active, &ending(deadline)),
                        (None, Some(_)) => found.begin(what),
                        (Some(before), Some(after)) => {
                            let keys = changed(&leaves(Some(before)), &leaves(Some(after)));
                            let ends = keys.iter().any(|one| {
                                one.key == "address" || (one.key == "weight" && one.to == "0")
                            });
                            let effect = if ends {
                                ending(deadline)
                            } else {
                                "go on".to_owned()
                            };
                            found.change(what, keys, active, &effect);
                        }
                        (None, None) => {}
                    }
                }
            }
            (None, None) => {}
        }
    }
}

/// What becomes of the sessions of a backend that goes.
fn ending(deadline: Duration) -> String {
    match deadline.is_zero() {
        true => "go on until they end by themselves".to_owned(),
        false => format!("end within {deadline:?} (drain.deadline), idle ones first"),
    }
}

#[derive(Default)]
struct Found {
    list: Vec<Difference>,
}

impl Found {
    fn begin(&mut self, what: String) {
        self.push(DifferenceKind::Added, what, Vec::new(), 0, "");
    }

    fn end(&mut self, what: String, connections: u32, effect: &str) {
        let kind = DifferenceKind::Removed;
        self.push(kind, what, Vec::new(), connections, effect);
    }

    fn change(&mut self, what: String, keys: Vec<KeyChange>, connections: u32, effect: &str) {
        if !keys.is_empty() {
            self.push(DifferenceKind::Changed, what, keys, connections, effect);
        }
    }

    fn push(
        &mut self,
        kind: DifferenceKind,
        what: String,
        keys: Vec<KeyChange>,
        connections: u32,
        effect: &str,
    ) {
        self.list.push(Difference {
            kind,
            what,
            keys,
            connections,
            effect: if connections == 0 { "" } else { effect }.to_owned(),
            needs_restart: false,
        });
    }
}

/// The printed form has every key, so nothing that is set can be left out here.
fn table(settings: &Settings) -> Table {
    print_effective(settings)
        .parse()
        .expect("what is printed is TOML")
}

/// The tables of an array by their names, in its order.
fn named(array: Option<&Value>) -> BTreeMap<&str, &Value> {
    let tables = array.and_then(Value::as_array).into_iter().flatten();
    let named = tables.filter_map(|one| Some((one.get("name")?.as_str()?, one)));
    named.collect()
}

fn names<'a>(
    before: &BTreeMap<&'a str, &'a Value>,
    after: &BTreeMap<&'a str, &'a Value>,
) -> BTreeSet<&'a str> {
    before.keys().chain(after.keys()).copied().collect()
}

fn without(table: &Value, key: &str) -> Value {
    let mut table = table.clone();
    if let Some(table) = table.as_table_mut() {
        table.remove(key);
    }
    table
}

/// Every key below a table with its value, `health.interval`, `route[0].sni`.
fn leaves(value: Option<&Value>) -> BTreeMap<String, String> {
    fn walk(value: &Value, path: String, leaves: &mut BTreeMap<String, String>) {
        match value {
            Value::Table(table) => {
                for (key, value) in table {
                    let dot = if path.is_empty() { "" } else { "." };
                    walk(value, format!("{path}{dot}{key}"), leaves);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_table) => {
                for (at, item) in items.iter().enumerate() {
                    walk(item, format!("{path}[{at}]"), leaves);
                }
            }
            value => {
                leaves.insert(path, value.to_string());
            }
        }
    }
    let mut leaves = BTreeMap::new();
    if let Some(value) = value {
        walk(value, String::new(), &mut leaves);
    }
    leaves
}

fn changed(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> Vec<KeyChange> {
    let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let value = |of: &BTreeMap<String, String>, key| of.get(key).cloned().unwrap_or_default();
    keys.into_iter()
        .filter(|key| before.get(*key) != after.get(*key))
        .map(|key| KeyChange {
            key: key.clone(),
            from: value(before, key),
            to: value(after, key),
        })
        .collect()
}

/// Where the keys are the same, and what their files hold is not.
fn of_files() -> KeyChange {
    KeyChange {
        key: "contents of its files".to_owned(),
        from: "as they were read".to_owned(),
        to: "as they are now".to_owned(),
    }
}

#[cfg(test)]
mod tests;
