//! What operators changed while the process runs: it lies over the configuration file, outlives
//! reloads, and goes along with an upgrade.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::admin::ask::{BackendId, BackendSpec, By, Refusal, Wanted, WantedState};
use crate::admin::state::{Change, Gone};
use crate::balance::backend::Wish;
use crate::config::backend_file::backend_of_text;
use crate::config::settings::{Backend, Pool, Settings};

/// By pool and backend.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes(BTreeMap<String, BTreeMap<String, Record>>);

/// More is a list for the file.
const CHANGES_MAX: usize = 10_000;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    /// Of a backend that was added.
    spec: Option<BackendSpec>,
    /// Although it is in the file, or found.
    #[serde(default)]
    removed: bool,
    #[serde(flatten)]
    change: Change,
}

impl Record {
    fn new(by: &By) -> Self {
        Record {
            spec: None,
            removed: false,
            change: Change {
                added: false,
                state: None,
                weight: None,
                by: by.who.clone(),
                at: SystemTime::now(),
                reason: by.reason.clone(),
            },
        }
    }

    fn sign(&mut self, by: &By) {
        let Change {
            by: who,
            at,
            reason,
            ..
        } = &mut self.change;
        (*who, *at, *reason) = (by.who.clone(), SystemTime::now(), by.reason.clone());
    }

    fn says_nothing(&self) -> bool {
        let Change { state, weight, .. } = &self.change;
        self.spec.is_none() && !self.removed && state.is_none() && weight.is_none()
    }
}

impl Changes {
    /// Notes what is wanted of a backend that there is; `configured` is the weight that the file
    /// has for it, if it has it at all. Errors: there are too many changes.
    pub fn change(
        &mut self,
        id: &BackendId,
        wanted: &Wanted,
        configured: Option<u16>,
        by: &By,
    ) -> Result<(), Refusal> {
        let record = self.record(id, by)?;
        match wanted.state {
            Some(WantedState::Ready) => record.change.state = None,
            Some(state) => record.change.state = Some(state),
            None => {}
        }
        if let Some(weight) = wanted.weight {
            match &mut record.spec {
                Some(spec) => spec.weight = weight,
                None => record.change.weight = (configured != Some(weight)).then_some(weight),
            }
        }
        if record.says_nothing() {
            self.forget(id);
        }
        Ok(())
    }

    /// Notes a backend that is in no file. Errors: it is none that a pool could have, or there are
    /// too many changes.
    pub fn add(&mut self, id: &BackendId, spec: &BackendSpec, by: &By) -> Result<(), Refusal> {
        backend(&id.backend, spec).map_err(Refusal::Invalid)?;
        let record = self.record(id, by)?;
        *record = Record::new(by);
        record.spec = Some(spec.clone());
        record.change.added = true;
        Ok(())
    }

    /// Brings back what was taken out although it is in the file.
    pub fn put_back(&mut self, id: &BackendId) -> bool {
        let was_removed = self.get(id).is_some_and(|record| record.removed);
        if was_removed {
            self.forget(id);
        }
        was_removed
    }

    /// Takes a backend out of its pool. Errors: there are too many changes.
    pub fn remove(&mut self, id: &BackendId, by: &By) -> Result<(), Refusal> {
        if self.get(id).is_some_and(|record| record.spec.is_some()) {
            self.forget(id);
            return Ok(());
        }
        let record = self.record(id, by)?;
        *record = Record::new(by);
        record.removed = true;
        Ok(())
    }

    /// The settings with what was added and without what was removed.
    pub fn over(&self, file: &Settings) -> Settings {
        let mut settings = file.clone();
        for pool in &mut settings.pools {
            let Some(records) = self.0.get(&pool.name) else {
                continue;
            };
            pool.backends.retain(|backend| {
                !records
                    .get(&backend.name)
                    .is_some_and(|record| record.removed)
            });
            for (name, record) in records {
                let added = record.spec.as_ref();
                // What was checked when it was added fits still.
                pool.backends
                    .extend(added.and_then(|spec| backend(name, spec).ok()));
            }
        }
        settings
    }

    /// The weight that a backend of the file, or one that was found, has instead of its own.
    pub fn weight(&self, pool: &str, backend: &str) -> Option<u16> {
        self.0.get(pool)?.get(backend)?.change.weight
    }

    pub fn is_removed(&self, pool: &str, backend: &str) -> bool {
        let record = self.0.get(pool).and_then(|pool| pool.get(backend));
        record.is_some_and(|record| record.removed)
    }

    /// What the operators want of the backends of a pool.
    pub fn wish(&self, pool: &str, backend: &str) -> Wish {
        let record = self.0.get(pool).and_then(|pool| pool.get(backend));
        match record.and_then(|record| record.change.state) {
            Some(WantedState::Drain) => Wish::Drain,
            Some(WantedState::Maintenance) => Wish::Maintenance,
            Some(WantedState::Ready) | None => Wish::Ready,
        }
    }

    /// Drops what makes no sense with these settings any more, and says so in words.
    pub fn reconcile(&mut self, file: &Settings) -> Vec<String> {
        let mut dropped = Vec::new();
        self.0.retain(|pool, records| {
            let settings = file.pools.iter().find(|one| one.name == *pool);
            records.retain(|name, record| match makes_sense(record, name, settings) {
                Ok(()) => true,
                Err(why) => {
                    dropped.push(format!("{pool}/{name}: {} ({why})", describe(record)));
                    false
                }
            });
            !records.is_empty()
        });
        dropped
    }

    /// What is shown of a backend.
    pub fn shown(&self, pool: &str, backend: &str) -> Option<Change> {
        let record = self.0.get(pool)?.get(backend)?;
        Some(record.change.clone())
    }

    /// The backends that were taken out of a pool.
    pub fn gone(&self, pool: &str) -> Vec<Gone> {
        let records = self.0.get(pool).into_iter().flatten();
        let removed = records.filter(|(_, record)| record.removed);
        let gone = |(name, record): (&String, &Record)| Gone {
            name: name.clone(),
            change: record.change.clone(),
        };
        removed.map(gone).collect()
    }

    fn get(&self, id: &BackendId) -> Option<&Record> {
        self.0.get(&id.pool)?.get(&id.backend)
    }

    fn record(&mut self, id: &BackendId, by: &By) -> Result<&mut Record, Refusal> {
        let count: usize = self.0.values().map(BTreeMap::len).sum();
        if count >= CHANGES_MAX && self.get(id).is_none() {
            return Err(Refusal::Conflict(format!(
                "{CHANGES_MAX} backends are changed already; write changes into the file and reload"
            )));
        }
        let pool = self.0.entry(id.pool.clone()).or_default();
        let record = pool
            .entry(id.backend.clone())
            .or_insert_with(|| Record::new(by));
        record.sign(by);
        Ok(record)
    }

    fn forget(&mut self, id: &BackendId) {
        if let Some(records) = self.0.get_mut(&id.pool) {
            records.remove(&id.backend);
            if records.is_empty() {
                self.0.remove(&id.pool);
            }
        }
    }
}

fn makes_sense(record: &Record, name: &str, pool: Option<&Pool>) -> Result<(), &'static str> {
    let Some(pool) = pool else {
        return Err("the pool is gone");
    };
    let listed = pool.backends.iter().any(|backend| backend.name == *name);
    match (record.spec.is_some(), listed) {
        (true, true) => Err("the file has a backend of this name now"),
        (false, false) if pool.discover.is_empty() => Err("the file does not have it any more"),
        _ => Ok(()),
    }
}

fn describe(record: &Record) -> String {
    let mut words = Vec::new();
    if record.spec.is_some() {
        words.push("added".to_owned());
    }
    if record.removed {
        words.push("removed".to_owned());
    }
    match record.change.state {
        Some(WantedState::Drain) => words.push("drain".to_owned()),
        Some(WantedState::Maintenance) => words.push("maintenance".to_owned()),
        Some(WantedState::Ready) | None => {}
    }
    words.extend(
        record
            .change
            .weight
            .map(|weight| format!("weight {weight}")),
    );
    format!("{} by {}", words.join(", "), record.change.by)
}

/// By the rules of the configuration.
fn backend(name: &str, spec: &BackendSpec) -> Result<Backend, String> {
    let BackendSpec {
        address,
        weight,
        priority,
        cost,
        max_connections,
        ..
    } = spec;
    let text = |text: &str| toml::Value::from(text).to_string();
    let table = format!(
        "[[backend]]\nname = {}\naddress = {}\nweight = {weight}\npriority = {priority}\n\
         cost = {cost:?}\nmax_connections = {max_connections}\n",
        text(name),
        text(address),
    );
    backend_of_text(&table)
}

#[cfg(test)]
mod tests;
