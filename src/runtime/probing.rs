//! Probes on their schedule: one task for each backend, and what it saw last.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::plan::Plan;
use super::standing::{AgentChange, Standing};
use crate::admin::metrics::ProbeCounts;
use crate::admin::state::LastProbe;
use crate::balance::backend::{Verdict, Wish};
use crate::balance::chance::Chance;
use crate::balance::health::{Health, Pace};
use crate::balance::pool::{Member, Pool};
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::config::settings::{self, Address, Probe, Settings};
use crate::probe::agent::{AgentSpec, ask};
use crate::probe::exec::Program;
use crate::probe::pace::{Slots, jittered};
use crate::probe::runner::{ProbeKind, ProbeResult, ProbeSpec};
use crate::probe::tls::TlsClient;
use crate::wire::agent::Answer;

/// Probes under way at once, over all pools: bounds descriptors, programs and bursts.
pub const PROBES_AT_ONCE: usize = 256;

#[derive(Debug)]
pub struct Probing {
    tasks: HashMap<Name, Task>,
    slots: Arc<Slots>,
    board: Arc<Board>,
}

/// Pool and backend.
type Name = (String, String);

#[derive(Debug, Default)]
struct Board(Mutex<HashMap<Name, Seen>>);

/// Of one backend.
#[derive(Clone, Debug, Default)]
struct Seen {
    last: Option<LastProbe>,
    counts: ProbeCounts,
}

#[derive(Debug)]
struct Task {
    health: settings::Health,
    address: Endpoint,
    pool: Arc<Pool<Endpoint>>,
    index: usize,
    standing: Arc<Mutex<Standing>>,
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
            if health.probe == Probe::None && health.agent.is_none() {
                continue;
            }
            for (index, member) in upstream.pool.members().iter().enumerate() {
                let name = (pool_settings.name.clone(), member.name.clone());
                let same_backend = |task: &Task| task.address == member.target;
                let task = match before.remove(&name) {
                    Some(task) if same_backend(&task) && task.health == *health => task,
                    Some(task) if same_backend(&task) => {
                        let standing = task.hand_over(health);
                        self.spawn(&name, &upstream.pool, index, pool_settings, Some(standing))
                    }
                    _ => self.spawn(&name, &upstream.pool, index, pool_settings, None),
                };
                task.assert_verdict(&upstream.pool, index);
                self.tasks.insert(name, task);
            }
        }
        for (name, task) in before {
            task.forget_agent();
            self.board.forget(&name);
        }
    }

    /// Ends all probes.
    pub fn stop(&mut self) {
        self.tasks.clear();
    }

    pub fn last(&self, pool: &str, backend: &str) -> Option<LastProbe> {
        self.board.get(&(pool.to_owned(), backend.to_owned())).last
    }

    /// Since it has been probed.
    pub fn counts(&self, pool: &str, backend: &str) -> ProbeCounts {
        self.board
            .get(&(pool.to_owned(), backend.to_owned()))
            .counts
    }

    /// What holds of a backend now that the operator wants this: its agent may want more.
    pub fn operator_wishes(&self, pool: &str, backend: &str, wish: Wish) -> Wish {
        match self.tasks.get(&(pool.to_owned(), backend.to_owned())) {
            Some(task) => {
                let mut standing = lock(&task.standing);
                standing.operator_wish = wish;
                standing.wish()
            }
            None => wish,
        }
    }

    fn spawn(
        &self,
        name: &Name,
        pool: &Arc<Pool<Endpoint>>,
        index: usize,
        settings: &settings::Pool,
        standing: Option<Arc<Mutex<Standing>>>,
    ) -> Task {
        let health = &settings.health;
        let live = pool.live(index);
        let member = &pool.members()[index];
        let standing = standing
            .unwrap_or_else(|| Arc::new(Mutex::new(Standing::new(live.verdict(), live.wish()))));
        let prober = Prober {
            name: name.clone(),
            spec: probe_spec(name, member, settings),
            agent: agent_spec(member, health),
            pool: pool.clone(),
            index,
            settings: health.clone(),
            slots: self.slots.clone(),
            board: self.board.clone(),
            standing: standing.clone(),
        };
        Task {
            health: health.clone(),
            address: member.target.clone(),
            pool: pool.clone(),
            index,
            standing,
            handle: tokio::spawn(prober.run()),
        }
    }
}

/// A task that is not kept ends.
impl Drop for Task {
    fn drop(&mut self) {
        self.handle.abort();
    }
}

impl Task {
    /// What it knows, for the task that follows with other settings.
    fn hand_over(&self, next: &settings::Health) -> Arc<Mutex<Standing>> {
        let asks_the_same = |one: &settings::Health, other: &settings::Health| {
            one.agent.as_ref().map(|agent| agent.port)
                == other.agent.as_ref().map(|agent| agent.port)
        };
        if !asks_the_same(&self.health, next) {
            self.forget_agent();
        }
        let mut standing = lock(&self.standing);
        // The pool may be probed now and was not before, or the other way round.
        let was_probed = self.health.probe != Probe::None;
        if was_probed != (next.probe != Probe::None) {
            standing.probe = match was_probed {
                true => Verdict::Unprobed,
                false => Verdict::Unchecked,
            };
        }
        drop(standing);
        self.standing.clone()
    }

    /// A pool that has no probes takes its backends to be up, whatever an agent said.
    fn assert_verdict(&self, pool: &Pool<Endpoint>, index: usize) {
        let verdict = lock(&self.standing).verdict();
        if pool.live(index).verdict() != verdict {
            pool.set_verdict(index, verdict, Moment::now());
        }
    }

    /// Takes back what the agent asked for: nobody would ever say otherwise.
    fn forget_agent(&self) {
        let mut standing = lock(&self.standing);
        if standing.forget_agent() {
            self.pool
                .set_verdict(self.index, standing.verdict(), Moment::now());
            self.pool
                .set_wish(self.index, standing.wish(), Moment::now());
            self.pool.set_weight_percent(self.index, standing.percent());
        }
    }
}

/// One backend's probes. Its pool may be of an older snapshot: the live record is the same.
struct Prober {
    name: Name,
    /// None = only the agent speaks.
    spec: Option<ProbeSpec>,
    agent: Option<AgentSpec>,
    pool: Arc<Pool<Endpoint>>,
    index: usize,
    settings: settings::Health,
    slots: Arc<Slots>,
    board: Arc<Board>,
    standing: Arc<Mutex<Standing>>,
}

impl Prober {
    async fn run(self) {
        tokio::join!(self.probe(), self.listen_to_agent());
    }

    async fn probe(&self) {
        let Some(spec) = &self.spec else { return };
        let known = lock(&self.standing).probe;
        let mut health = Health::new(self.settings.thresholds, self.settings.damping, known);
        let mut chance = Chance::seeded(seed(&self.name));
        // A backend nothing is known of is probed at once, the others at their usual distance.
        if known == Verdict::Up || known == Verdict::Down {
            sleep(jittered(self.settings.fast_interval, chance.next_u64())).await;
        }
        loop {
            let result = self.slots.run(spec).await;
            self.take_in(&mut health, result);
            let interval = match health.pace() {
                Pace::Normal => self.settings.interval,
                Pace::Between => self.settings.fast_interval,
                Pace::Down => self.settings.down_interval,
            };
            sleep(jittered(interval, chance.next_u64())).await;
        }
    }

    fn take_in(&self, health: &mut Health, result: ProbeResult) {
        let ProbeResult {
            passed,
            local,
            mut detail,
            took,
        } = result;
        self.board.count(&self.name, passed, local);
        // A fault of ours says nothing of the backend.
        let changed = match local {
            true => None,
            false => health.observe(passed, Moment::now()),
        };
        // Said when it goes down, and seen while it passes.
        if let Some(held) = health.held_back().filter(|_| passed || changed.is_some()) {
            detail = format!("{detail}; {held}");
        }
        if let Some(verdict) = changed {
            self.probe_says(verdict, &detail);
        }
        if let Some(said) = lock(&self.standing).agent_says_down() {
            detail = format!("{detail}; agent says down: {said}");
        }
        self.board.set(
            &self.name,
            LastProbe {
                passed,
                detail,
                took,
            },
        );
    }

    fn probe_says(&self, verdict: Verdict, detail: &str) {
        let mut standing = lock(&self.standing);
        let before = standing.verdict();
        standing.probe = verdict;
        let after = standing.verdict();
        self.pool.set_verdict(self.index, after, Moment::now());
        if after != before {
            self.tell(after, detail);
        }
    }

    async fn listen_to_agent(&self) {
        let (Some(spec), Some(agent)) = (&self.agent, &self.settings.agent) else {
            return;
        };
        let mut chance = Chance::seeded(seed(&self.name));
        let mut answered = None;
        loop {
            let begin = Moment::now();
            let answer = self.slots.hold(ask(spec)).await;
            let (pool, backend) = (&*self.name.0, &*self.name.1);
            let answers = answer.is_ok();
            match answer {
                Ok(answer) => self.agent_says(answer, Moment::now().since(begin)),
                // As in HAProxy: whether the backend serves is for the probe to say.
                Err(detail) if answered != Some(false) => {
                    tracing::warn!(pool, backend, detail, "agent does not answer");
                }
                Err(_) => {}
            }
            if answers && answered == Some(false) {
                tracing::info!(pool, backend, "agent answers again");
            }
            answered = Some(answers);
            sleep(jittered(agent.interval, chance.next_u64())).await;
        }
    }

    fn agent_says(&self, answer: Answer, took: Duration) {
        let mut standing = lock(&self.standing);
        let before = standing.verdict();
        let changes = standing.agent_says(answer);
        let (pool, backend) = (&*self.name.0, &*self.name.1);
        for change in changes {
            match change {
                AgentChange::Serves => {
                    let after = standing.verdict();
                    self.pool.set_verdict(self.index, after, Moment::now());
                    let detail = match standing.agent_says_down() {
                        Some(said) => format!("agent says down: {said}"),
                        None => "agent says up".to_owned(),
                    };
                    if after != before {
                        self.tell(after, &detail);
                    } else {
                        tracing::info!(pool, backend, detail, "agent changed its mind");
                    }
                }
                AgentChange::Wish => {
                    self.pool
                        .set_wish(self.index, standing.wish(), Moment::now());
                    let says = standing.agent_wish_word();
                    tracing::info!(pool, backend, says, "agent changed its mind");
                }
                AgentChange::Percent => {
                    self.pool.set_weight_percent(self.index, standing.percent());
                    // Agents tell their load by it, at each answer anew.
                    let percent = standing.percent();
                    tracing::debug!(pool, backend, percent, "agent changed the weight");
                }
            }
        }
        if self.spec.is_none() {
            let down = standing.agent_says_down();
            let last = LastProbe {
                passed: down.is_none(),
                detail: match down {
                    Some(said) => format!("agent says down: {said}"),
                    None => "agent answers".to_owned(),
                },
                took,
            };
            self.board.set(&self.name, last);
        }
    }

    fn tell(&self, verdict: Verdict, detail: &str) {
        let (pool, backend) = (&*self.name.0, &*self.name.1);
        if verdict == Verdict::Down {
            tracing::warn!(pool, backend, detail, "backend is down");
        } else {
            tracing::info!(pool, backend, detail, "backend is up");
        }
    }
}

fn lock(standing: &Mutex<Standing>) -> MutexGuard<'_, Standing> {
    standing.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    fn set(&self, name: &Name, last: LastProbe) {
        self.lock().entry(name.clone()).or_default().last = Some(last);
    }

    fn count(&self, name: &Name, passed: bool, local: bool) {
        let mut board = self.lock();
        let counts = &mut board.entry(name.clone()).or_default().counts;
        *match (local, passed) {
            (true, _) => &mut counts.local,
            (false, true) => &mut counts.passed,
            (false, false) => &mut counts.failed,
        } += 1;
    }

    fn get(&self, name: &Name) -> Seen {
        self.lock().get(name).cloned().unwrap_or_default()
    }

    fn forget(&self, name: &Name) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Name, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name in the backend's address, if it has one.
fn host_of<'s>(settings: &'s settings::Pool, backend: &str) -> Option<&'s str> {
    let listed = settings.backends.iter().find(|one| one.name == backend);
    match listed.map(|one| &one.address) {
        Some(Address::Named { host, .. }) => Some(host.as_str()),
        _ => None,
    }
}

fn probe_spec(
    (pool, backend): &Name,
    member: &Member<Endpoint>,
    settings: &settings::Pool,
) -> Option<ProbeSpec> {
    let health = &settings.health;
    let target = probe_target(&member.target, health);
    let host = || host_of(settings, backend);
    let client = || TlsClient::of(&health.probe, host(), &target).expect("the probe is one of TLS");
    let kind = match &health.probe {
        Probe::None => return None,
        Probe::Tcp => ProbeKind::Tcp,
        Probe::Tls(_) => ProbeKind::Tls(client()),
        Probe::Http(http) => ProbeKind::Http(http.clone()),
        Probe::Https(http, _) => ProbeKind::Https(http.clone(), client()),
        Probe::SendExpect(steps) => ProbeKind::SendExpect(steps.clone()),
        Probe::Exec(words) => ProbeKind::Exec(Program {
            words: words.clone(),
            pool: pool.clone(),
            backend: backend.clone(),
        }),
    };
    Some(ProbeSpec {
        target,
        kind,
        send_proxy: health.send_proxy,
        timeout: health.timeout,
    })
}

fn probe_target(address: &Endpoint, health: &settings::Health) -> Endpoint {
    match address {
        Endpoint::Tcp(addr) => {
            let mut target = *addr;
            if let Some(ip) = health.probe_address {
                target = SocketAddr::new(ip, target.port());
            }
            if health.port != 0 {
                target.set_port(health.port);
            }
            Endpoint::Tcp(target)
        }
        other => other.clone(),
    }
}

/// The agent is on the backend's own host, wherever its probe goes.
fn agent_spec(member: &Member<Endpoint>, health: &settings::Health) -> Option<AgentSpec> {
    let agent = health.agent.as_ref()?;
    let Endpoint::Tcp(mut address) = member.target else {
        return None;
    };
    address.set_port(agent.port);
    Some(AgentSpec {
        address,
        send: agent.send.clone(),
        timeout: health.timeout,
    })
}

/// Different for each backend and each process, so that probes are not in step.
fn seed(name: &Name) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(name)
}
