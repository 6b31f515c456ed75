//! Probes on their schedule: one task for each backend, and what it saw last.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::plan::Plan;
use crate::balance::backend::Verdict;
use crate::balance::chance::Chance;
use crate::balance::health::{Health, Pace};
use crate::balance::pool::Pool;
use crate::base::addr::Endpoint;
use crate::config::settings::{self, Probe, Settings};
use crate::probe::pace::{Slots, jittered};
use crate::probe::runner::{ProbeKind, ProbeSpec};

/// Probes under way at once, over all pools: bounds descriptors and bursts.
pub const PROBES_AT_ONCE: usize = 256;

/// What the latest probe of a backend brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastProbe {
    pub passed: bool,
    /// In words for the operator: `HTTP 503, expected 200-399`.
    pub detail: String,
    pub took: Duration,
}

#[derive(Debug)]
pub struct Probing {
    tasks: HashMap<Name, Task>,
    slots: Arc<Slots>,
    board: Arc<Board>,
}

/// Pool and backend.
type Name = (String, String);

#[derive(Debug, Default)]
struct Board(Mutex<HashMap<Name, LastProbe>>);

#[derive(Debug)]
struct Task {
    health: settings::Health,
    target: Endpoint,
    handle: JoinHandle<()>,
}

impl Default for Probing {
    fn default() -> Self {
        Probing {
            tasks: HashMap::new(),
            slots: Arc::new(Slots::new(PROBES_AT_ONCE)),
            board: Arc::default(),
        }
    }
}

impl Probing {
    /// Probes what the plan says from now on. Backends whose probe is the same as before go on
    /// undisturbed, so that a storm of reloads cannot keep probes from ever being made.
    pub fn apply(&mut self, settings: &Settings, plan: &Plan) {
        let mut before = std::mem::take(&mut self.tasks);
        for (pool_settings, upstream) in settings.pools.iter().zip(&plan.upstreams) {
            let health = &pool_settings.health;
            if health.probe == Probe::None {
                continue;
            }
            for (index, member) in upstream.pool.members().iter().enumerate() {
                let name = (pool_settings.name.clone(), member.name.clone());
                let target = probe_target(&member.target, health.port);
                let same = before
                    .remove_entry(&name)
                    .filter(|(_, task)| task.health == *health && task.target == target);
                let task = match same {
                    Some((_, task)) => task,
                    None => self.spawn(&name, upstream.pool.clone(), index, health, target),
                };
                self.tasks.insert(name, task);
            }
        }
        for (name, task) in before {
            task.handle.abort();
            if !self.tasks.contains_key(&name) {
                self.board.forget(&name);
            }
        }
    }

    /// Ends all probes.
    pub fn stop(&mut self) {
        for (_, task) in self.tasks.drain() {
            task.handle.abort();
        }
    }

    pub fn last(&self, pool: &str, backend: &str) -> Option<LastProbe> {
        self.board.get(&(pool.to_owned(), backend.to_owned()))
    }

    fn spawn(
        &self,
        name: &Name,
        pool: Arc<Pool<Endpoint>>,
        index: usize,
        health: &settings::Health,
        target: Endpoint,
    ) -> Task {
        let spec = ProbeSpec {
            target: target.clone(),
            kind: probe_kind(&health.probe),
            timeout: health.timeout,
        };
        let prober = Prober {
            name: name.clone(),
            spec,
            pool,
            index,
            settings: health.clone(),
            slots: self.slots.clone(),
            board: self.board.clone(),
        };
        Task {
            health: health.clone(),
            target,
            handle: tokio::spawn(prober.run()),
        }
    }
}

impl Drop for Probing {
    fn drop(&mut self) {
        self.stop();
    }
}

/// One backend's probes. Its pool may be of an older snapshot: the live record is the same.
struct Prober {
    name: Name,
    spec: ProbeSpec,
    pool: Arc<Pool<Endpoint>>,
    index: usize,
    settings: settings::Health,
    slots: Arc<Slots>,
    board: Arc<Board>,
}

impl Prober {
    async fn run(self) {
        let known = self.pool.live(self.index).verdict();
        let mut health = Health::new(self.settings.thresholds, known);
        let mut chance = Chance::seeded(seed(&self.name));
        // A backend nothing is known of is probed at once, the others at their usual distance.
        if known == Verdict::Up || known == Verdict::Down {
            sleep(jittered(self.settings.fast_interval, chance.next_u64())).await;
        }
        loop {
            let result = self.slots.run(&self.spec).await;
            // A fault of ours says nothing of the backend.
            let changed = if result.local {
                None
            } else {
                health.observe(result.passed)
            };
            if let Some(verdict) = changed {
                self.pool.set_verdict(self.index, verdict);
                self.tell(verdict, &result.detail);
            }
            let (passed, detail, took) = (result.passed, result.detail, result.took);
            self.board.set(
                &self.name,
                LastProbe {
                    passed,
                    detail,
                    took,
                },
            );
            let interval = match health.pace() {
                Pace::Normal => self.settings.interval,
                Pace::Between => self.settings.fast_interval,
                Pace::Down => self.settings.down_interval,
            };
            sleep(jittered(interval, chance.next_u64())).await;
        }
    }

    fn tell(&self, verdict: Verdict, detail: &str) {
        let (pool, backend) = (&*self.name.0, &*self.name.1);
        if verdict == Verdict::Up {
            tracing::info!(pool, backend, detail, "backend is up");
        } else {
            tracing::warn!(pool, backend, detail, "backend is down");
        }
    }
}

impl Board {
    fn set(&self, name: &Name, last: LastProbe) {
        self.lock().insert(name.clone(), last);
    }

    fn get(&self, name: &Name) -> Option<LastProbe> {
        self.lock().get(name).cloned()
    }

    fn forget(&self, name: &Name) {
        self.lock().remove(name);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Name, LastProbe>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn probe_target(address: &Endpoint, port: u16) -> Endpoint {
    match address {
        Endpoint::Tcp(addr) if port != 0 => {
            Endpoint::Tcp(std::net::SocketAddr::new(addr.ip(), port))
        }
        other => other.clone(),
    }
}

fn probe_kind(probe: &Probe) -> ProbeKind {
    match probe {
        Probe::None | Probe::Tcp => ProbeKind::Tcp,
        Probe::Http(http) => ProbeKind::Http {
            path: http.path.clone(),
            host: http.host.clone(),
            expect_status: http.expect_status.clone(),
            expect_body: http.expect_body.clone(),
        },
    }
}

/// Different for each backend and each process, so that probes are not in step.
fn seed(name: &Name) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(name)
}
