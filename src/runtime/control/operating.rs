//! The operators' part of the control loop: what is shown, and what they change while it runs.

use std::process;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::SystemTime;

use super::super::comparing::compare;
use super::super::listing;
use super::super::state;
use super::Control;
use tokio::sync::oneshot;

use crate::admin::ask::{BackendId, BackendSpec, By, Refusal, Reloading, Wanted};
use crate::admin::metrics::{BackendSample, Sample};
use crate::admin::sessions::{SessionFilter, Sessions};
use crate::admin::state::State;
use crate::admin::troubles::troubles;
use crate::balance::backend::Wish;
use crate::balance::pool::Pool;
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::base::ending::RelayPath;
use crate::config::settings::{Backend, Settings};
use crate::config::warnings::warnings;

impl Control {
    /// Everything worth showing. Costs some microseconds for each backend.
    pub(super) fn state(&self) -> State {
        let now = Moment::now();
        let listeners = self.plan.routes.iter().zip(&self.settings.listeners);
        let listeners = listeners.map(|(route, settings)| {
            let mut listener = state::listener(route, self.addresses(&route.listener));
            listener.certificates = state::certificates(settings);
            listener.certificate_errors = self.renewing.errors(&settings.name);
            listener
        });
        let pools = self.plan.upstreams.iter().zip(&self.settings.pools);
        let changes = &self.registry.changes;
        let pools = pools.map(|(upstream, settings)| {
            let mut pool = state::pool(upstream, &self.probing, &self.draining, &self.recents, now);
            pool.discovery = self.discovering.states(settings, now);
            pool.removed = changes.gone(&pool.name);
            for backend in &mut pool.backends {
                backend.change = changes.shown(&pool.name, &backend.name);
            }
            pool
        });
        let mut state = State {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: process::id(),
            uptime: now.since(self.started_at),
            draining: self.is_draining,
            workers: self.shared.workers.len(),
            active: self.shared.process.active(),
            max_connections: self.shared.process.max(),
            panics: self.shared.panics.load(Relaxed),
            reloads: self.reloads.clone(),
            troubles: Vec::new(),
            listeners: listeners.collect(),
            pools: pools.collect(),
        };
        state.troubles = troubles(&state, SystemTime::now());
        state
    }

    /// The same, with what is counted besides. Costs some microseconds more for each backend.
    pub(super) fn sample(&self) -> Sample {
        let backends = self.plan.upstreams.iter().map(|upstream| {
            let pool = &upstream.pool;
            let members = pool.members().iter().enumerate();
            let backends = members.map(|(index, member)| BackendSample {
                timings: pool.live(index).histograms(),
                probes: self.probing.counts(pool.name(), &member.name),
                ejections: pool.live(index).ejections_total(),
            });
            backends.collect()
        });
        let paths = [RelayPath::Copy, RelayPath::Splice, RelayPath::Tls];
        Sample {
            state: self.state(),
            backends: backends.collect(),
            relayed: paths
                .map(|path| (path.as_str(), self.shared.relayed(path)))
                .to_vec(),
            log_lines_lost: self.access.lost(),
        }
    }

    /// Answers when all workers have, or later than that.
    pub(super) fn sessions(
        &self,
        filter: SessionFilter,
        kill: Option<By>,
        done: oneshot::Sender<Result<Sessions, Refusal>>,
    ) {
        let searching = match listing::search(&self.shared, filter.clone(), kill.is_some()) {
            Ok(searching) => searching,
            Err(wrong) => {
                let _ = done.send(Err(Refusal::Invalid(wrong)));
                return;
            }
        };
        tokio::spawn(async move {
            let found = searching.await;
            if let Some(By { who, reason }) = kill {
                let killed = found.killed;
                let filter = serde_json::to_string(&filter).unwrap_or_default();
                tracing::info!(
                    killed,
                    filter,
                    by = who,
                    reason,
                    "an operator ended sessions"
                );
            }
            let _ = done.send(Ok(found));
        });
    }

    pub(super) fn note_reload(&mut self, error: Option<String>) {
        match error {
            None => self.reloads.succeeded += 1,
            Some(_) => self.reloads.failed += 1,
        }
        self.reloads.at = Some(SystemTime::now());
        self.reloads.error = error;
    }

    /// What a reload of this file would do.
    pub(super) fn compare(&self, file: &Settings) -> Reloading {
        Reloading {
            dry_run: true,
            changes: compare(&self.file, file, &self.state()),
            dropped: self.registry.changes.clone().reconcile(file),
            warnings: warnings(file),
        }
    }

    /// Drains a backend, takes it into service again, gives it another weight.
    pub(super) fn change(
        &mut self,
        id: &BackendId,
        wanted: &Wanted,
        by: &By,
    ) -> Result<(), Refusal> {
        self.find(id)?;
        let configured = self.listed(id).map(|listed| listed.weight);
        self.registry.changes.change(id, wanted, configured, by)?;
        let By { who, reason } = by;
        let weight = wanted.weight;
        let state = wanted.state.map(tracing::field::debug);
        tracing::info!(backend = %id, state, weight, by = who, reason, "an operator changed a backend");
        self.apply_changes(&id.pool);
        Ok(())
    }

    /// Adds a backend to a pool, or brings one back that was removed.
    pub(super) fn add(
        &mut self,
        id: &BackendId,
        spec: &BackendSpec,
        by: &By,
    ) -> Result<(), Refusal> {
        self.pool(&id.pool)?;
        if self.find(id).is_ok() {
            return Err(Refusal::Conflict(format!(
                "there is a backend {id} already"
            )));
        }
        match self.listed(id).map(|listed| listed.address.to_string()) {
            Some(address) if address == spec.address => {
                self.registry.changes.put_back(id);
            }
            Some(address) => {
                return Err(Refusal::Conflict(format!(
                    "the file has {id} at {address}: take that address to bring it back, or \
                     another name"
                )));
            }
            None => self.registry.changes.add(id, spec, by)?,
        }
        let By { who, reason } = by;
        let address = &*spec.address;
        tracing::info!(backend = %id, address, by = who, reason, "an operator added a backend");
        self.apply_changes(&id.pool);
        Ok(())
    }

    /// Takes a backend out of its pool; its sessions end as the pool's `drain` says.
    pub(super) fn remove(&mut self, id: &BackendId, by: &By) -> Result<(), Refusal> {
        let (pool, index) = self.find(id)?;
        // It would be back with the next pool of the name.
        pool.set_wish(index, Wish::Ready, Moment::now());
        self.registry.changes.remove(id, by)?;
        let By { who, reason } = by;
        tracing::info!(backend = %id, by = who, reason, "an operator removed a backend");
        self.apply_changes(&id.pool);
        Ok(())
    }

    /// Makes what operators want of a pool true.
    fn apply_changes(&mut self, pool: &str) {
        self.settings = self.registry.changes.over(&self.file);
        let book = self.discovering.book();
        let refreshed = self
            .plan
            .refreshed(&self.settings, &mut self.registry, book, |one| {
                one.name == pool
            });
        if let Some(plan) = refreshed {
            self.replace_plan(plan);
            self.publish();
            self.probing.apply(&self.settings, &self.plan);
            self.discovering.apply(&self.settings);
        }
        self.assert_wishes();
    }

    /// What operators want of backends holds for those that come again, too.
    pub(super) fn assert_wishes(&self) {
        for upstream in &self.plan.upstreams {
            let pool = &upstream.pool;
            for (index, member) in pool.members().iter().enumerate() {
                let wish = self.registry.changes.wish(pool.name(), &member.name);
                let wish = self
                    .probing
                    .operator_wishes(pool.name(), &member.name, wish);
                if pool.live(index).wish() != wish {
                    pool.set_wish(index, wish, Moment::now());
                }
            }
        }
    }

    /// As the file has it.
    fn listed(&self, id: &BackendId) -> Option<&Backend> {
        let pool = self.file.pools.iter().find(|one| one.name == id.pool)?;
        let mut backends = pool.backends.iter();
        backends.find(|one| one.name == id.backend)
    }

    fn pool(&self, name: &str) -> Result<&Arc<Pool<Endpoint>>, Refusal> {
        let mut pools = self.plan.upstreams.iter().map(|upstream| &upstream.pool);
        pools.find(|pool| pool.name() == name).ok_or_else(|| {
            let known: Vec<&str> = self
                .plan
                .upstreams
                .iter()
                .map(|upstream| upstream.pool.name())
                .take(NAMES_TOLD_MAX)
                .collect();
            Refusal::NotFound(format!(
                "there is no pool {name:?}; there are: {}",
                known.join(", ")
            ))
        })
    }

    fn find(&self, id: &BackendId) -> Result<(Arc<Pool<Endpoint>>, usize), Refusal> {
        let pool = self.pool(&id.pool)?;
        let members = pool.members();
        let index = members.iter().position(|member| member.name == id.backend);
        index.map(|index| (pool.clone(), index)).ok_or_else(|| {
            let known: Vec<&str> = members
                .iter()
                .map(|member| &*member.name)
                .take(NAMES_TOLD_MAX)
                .collect();
            Refusal::NotFound(format!(
                "pool \"{}\" has no backend {:?}; it has: {}",
                id.pool,
                id.backend,
                known.join(", ")
            ))
        })
    }
}

/// Names in one message.
const NAMES_TOLD_MAX: usize = 20;
