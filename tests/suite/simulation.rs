//! Pool, health and policy under a seeded simulation with faults: backends die, flap and recover,
//! operators and reloads interfere, clients come and go; a plain model is asked at each step.
//!
//! A failing run prints its seed; `LBD_SIMULATION_SEED=n` replays it alone, and
//! `LBD_SIMULATION_RUNS=n` runs more than usual.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::sync::Arc;
use std::time::Duration;

use lbd::balance::backend::{Availability, State, Verdict, Wish, availability};
use lbd::balance::chance::Chance;
use lbd::balance::ejection::Ejection;
use lbd::balance::health::{Damping, Health, Pace, Thresholds};
use lbd::balance::policy::{Cost, PolicyKind};
use lbd::balance::pool::{Candidates, Lease, MemberSpec, Pool, PoolSpec, SessionEnd};
use lbd::balance::table::Table;
use lbd::base::clock::Moment;
use lbd::base::ending::Termination;

/// Enough for each policy to meet each kind of trouble many times, and quick in a debug build.
const RUNS: u64 = 2000;

#[test]
fn nothing_unavailable_is_picked_and_nothing_leaks_whatever_happens() {
    let number = |name| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    let seeds = match number("LBD_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("LBD_SIMULATION_RUNS").unwrap_or(RUNS),
    };
    for seed in seeds {
        let policies = PolicyKind::ALL
            .into_iter()
            .filter(|&policy| policy != PolicyKind::IpHash);
        let policy = policies
            .cycle()
            .nth((seed % 7) as usize)
            .expect("a cycle has no end");
        run(seed, policy);
    }
}

/// A few runs only: each reload builds tables of 65 537 slots.
#[test]
fn ip_hash_survives_the_same() {
    (0..10).for_each(|seed| {
        run(seed, PolicyKind::IpHash);
    });
}

#[test]
fn the_same_seed_replays_the_same_run() {
    for policy in PolicyKind::ALL {
        let traces: Vec<_> = [7, 8].iter().map(|&seed| run(seed, policy)).collect();
        assert_eq!(run(7, policy), traces[0], "{policy:?}");
        assert_ne!(
            traces[0], traces[1],
            "{policy:?}: the trace tells runs apart"
        );
    }
}

/// Returns a digest of all that happened.
fn run(seed: u64, policy: PolicyKind) -> u64 {
    let blackbox = Blackbox { seed, policy };
    let mut simulation = Simulation::new(seed, policy);
    simulation.play();
    simulation.heal();
    drop(blackbox);
    simulation.trace
}

/// Says on the way out of a panic which run it was.
struct Blackbox {
    seed: u64,
    policy: PolicyKind,
}

impl Drop for Blackbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "failed: LBD_SIMULATION_SEED={} ({:?})",
                self.seed, self.policy
            );
        }
    }
}

/// When faults end.
const HORIZON: Moment = Moment::from_millis(20_000);

const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };

struct Simulation {
    chance: Chance,
    now: Moment,
    table: Arc<Table>,
    /// The newest; sessions may hold older ones.
    pool: Arc<Pool<usize>>,
    spec: PoolSpec<usize>,
    /// All there ever were; a member's target is its index here.
    backends: Vec<Backend>,
    sessions: BTreeMap<u64, Session>,
    queue: BinaryHeap<Reverse<(Moment, u64, Event)>>,
    serial: u64,
    trace: u64,
}

/// One identity: what it really does, and what the pool ought to know of it.
struct Backend {
    serves: bool,
    health: Health,
    /// Probes of an earlier membership are stale.
    membership: u64,
    verdict: Verdict,
    wish: Wish,
    active: u32,
    connections: u64,
    failures: u64,
    failures_in_row: u32,
    early_resets_in_row: u32,
    empty_closes_in_row: u32,
    ejections_in_row: u32,
    ejected_until: Moment,
    /// When it began to start slowly, or will.
    ramp_since: Option<Moment>,
    /// Came to a pool that was there before, and has not served since.
    joined: bool,
}

impl Backend {
    fn new(verdict: Verdict) -> Self {
        Backend {
            serves: true,
            health: Health::new(THRESHOLDS, Damping::NONE, verdict),
            membership: 0,
            verdict,
            wish: Wish::Ready,
            active: 0,
            connections: 0,
            failures: 0,
            failures_in_row: 0,
            early_resets_in_row: 0,
            empty_closes_in_row: 0,
            ejections_in_row: 0,
            ejected_until: Moment::ZERO,
            ramp_since: None,
            joined: true,
        }
    }

    fn availability(&self, weight: u16, now: Moment) -> Availability {
        availability(self.verdict, self.wish, self.ejected_until > now, weight)
    }

    /// Whether an operator wants it used, whatever probes and traffic say.
    fn is_wanted(&self, weight: u16) -> bool {
        self.wish == Wish::Ready && weight > 0
    }

    fn begin_ramp(&mut self, now: Moment) {
        self.ramp_since = Some(now.max(self.ejected_until));
        self.joined = false;
    }

    fn ramps(&self, slow_start: Duration, now: Moment) -> bool {
        self.ramp_since
            .is_some_and(|since| now < since + slow_start)
    }
}

struct Session {
    candidates: Candidates,
    tried: Vec<usize>,
    lease: Lease<usize>,
    connected_at: Moment,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive,
    Connect { session: u64 },
    Leave { session: u64 },
    Probe { backend: usize, membership: u64 },
    Fault,
    Command,
    Reload,
}

impl Simulation {
    fn new(seed: u64, policy: PolicyKind) -> Self {
        let mut chance = Chance::seeded(seed);
        let max_percent = [0, 34, 50, 100][chance.below(4) as usize];
        let spec = PoolSpec {
            name: "pool".into(),
            policy,
            ejection: Ejection {
                connect_failures: chance.below(4),
                base: Duration::from_millis(500),
                max: Duration::from_secs(3),
                max_percent,
                early_resets: chance.below(3),
                early_reset_within: Duration::from_millis(500),
                empty_closes: chance.below(3),
            },
            hash_balance_factor: 0,
            slow_start: Duration::from_secs([0, 0, 2][chance.below(3) as usize]),
            panic_threshold: [0, 0, 50, 100][chance.below(4) as usize],
            failure_latency: Duration::from_secs(1),
            probed: chance.below(4) > 0,
            seed: "seed".into(),
            max_connections: 0,
            members: Vec::new(),
        };
        let table = Table::new();
        let mut simulation = Simulation {
            chance,
            now: Moment::from_millis(1),
            pool: Arc::new(Pool::new(
                spec.clone(),
                Arc::clone(&table),
                Moment::from_millis(1),
            )),
            table,
            spec,
            backends: Vec::new(),
            sessions: BTreeMap::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            trace: 0,
        };
        for _ in 0..=simulation.chance.below(8) {
            simulation.add_member();
        }
        simulation.reload();
        for event in [Event::Arrive, Event::Fault, Event::Command, Event::Reload] {
            simulation.after_about(500, event);
        }
        simulation
    }

    fn play(&mut self) {
        while let Some(Reverse((at, _, event))) = self.queue.pop() {
            if at > HORIZON {
                break;
            }
            assert!(at >= self.now);
            self.now = at;
            self.happen(event);
            self.check();
        }
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrive => {
                let key = self.chance.next_u64();
                self.dispatch(Candidates::new(key), Vec::new());
                self.after_about(300, Event::Arrive);
            }
            Event::Connect { session } => self.connect(session),
            Event::Leave { session } => {
                let session = self.sessions.remove(&session).expect("it leaves once");
                self.leave(session);
            }
            Event::Probe {
                backend,
                membership,
            } => self.probe(backend, membership),
            Event::Fault => {
                let backend = self.any_backend();
                // More heal than break, so that most of the time most serve.
                let serves = self.chance.below(3) > 0;
                self.backends[backend].serves = serves;
                self.after_about(1000, Event::Fault);
            }
            Event::Command => {
                let backend = self.any_backend();
                let wish = [Wish::Ready, Wish::Ready, Wish::Drain, Wish::Maintenance]
                    [self.chance.below(4) as usize];
                self.wish(backend, wish);
                self.after_about(4000, Event::Command);
            }
            Event::Reload => {
                self.change_members();
                self.reload();
                self.after_about(6000, Event::Reload);
            }
        }
    }

    // ---- Clients

    /// Takes the next backend for a client, if there is one, and holds the choice to the model.
    fn dispatch(&mut self, mut candidates: Candidates, mut tried: Vec<usize>) {
        let expected = self.choices(&tried);
        let lease = candidates.next(&self.pool, self.now, &mut self.chance);
        self.note(
            lease
                .as_ref()
                .map_or(u64::MAX, |lease| lease.member().target as u64),
        );
        let Some(lease) = lease else {
            assert_eq!(expected, [0; 0], "nobody was chosen");
            return;
        };
        let backend = lease.member().target;
        assert!(
            expected.contains(&backend),
            "chose {backend} of {expected:?}"
        );
        self.backends[backend].active += 1;
        let limit = lease.member().max_connections;
        assert!(
            limit == 0 || self.backends[backend].active <= limit,
            "above the limit"
        );
        tried.push(backend);
        let session = self.serial;
        self.sessions.insert(
            session,
            Session {
                candidates,
                tried,
                lease,
                connected_at: self.now,
            },
        );
        self.after_about(50, Event::Connect { session });
    }

    /// Who may be chosen: everyone of the lowest tier of the best class, or fewer where the policy
    /// leaves no choice.
    fn choices(&self, tried: &[usize]) -> Vec<usize> {
        let members = self.pool.members();
        let is_roomy = |member: &&MemberSpec<usize>| {
            let active = self.backends[member.target].active;
            (member.max_connections == 0 || active < member.max_connections)
                && !tried.contains(&member.target)
        };
        if self.panics() {
            let wanted = |member: &&MemberSpec<usize>| {
                self.backends[member.target].is_wanted(member.weight) && is_roomy(member)
            };
            let manned = members
                .iter()
                .filter(|member| self.may(member) == Availability::Available && is_roomy(member));
            let tier = manned.map(|member| member.priority).min();
            let tier = tier.or(members.iter().filter(wanted).map(|it| it.priority).min());
            let field = members.iter().filter(wanted);
            return self.preferred(field.filter(|it| Some(it.priority) == tier).collect());
        }
        for class in [Availability::Available, Availability::LastResort] {
            let eligible = || {
                members
                    .iter()
                    .filter(|member| self.may(member) == class && is_roomy(member))
            };
            let tier = eligible().map(|member| member.priority).min();
            if tier.is_some() {
                let field = eligible().filter(|member| Some(member.priority) == tier);
                return self.preferred(field.collect());
            }
        }
        Vec::new()
    }

    fn may(&self, member: &MemberSpec<usize>) -> Availability {
        self.backends[member.target].availability(member.weight, self.now)
    }

    /// Whether too few of those that are wanted are available.
    fn panics(&self) -> bool {
        let members = self.pool.members();
        let wanted = members
            .iter()
            .filter(|it| self.backends[it.target].is_wanted(it.weight))
            .count();
        let available = members
            .iter()
            .filter(|it| self.may(it) == Availability::Available)
            .count();
        available * 100 < wanted * usize::from(self.spec.panic_threshold)
    }

    /// Those of the field that the policy may choose. Where somebody starts slowly chance decides
    /// more, and only what holds in spite of it is asked.
    fn preferred(&self, mut field: Vec<&MemberSpec<usize>>) -> Vec<usize> {
        let (now, slow_start) = (self.now, self.spec.slow_start);
        let ramping = field
            .iter()
            .any(|it| self.backends[it.target].ramps(slow_start, now));
        let load = |member: &MemberSpec<usize>| {
            f64::from(self.backends[member.target].active + 1) / f64::from(member.weight)
        };
        match self.pool.policy() {
            PolicyKind::LowestCost => {
                let least = field.iter().map(|member| member.cost).min();
                field.retain(|member| Some(member.cost) == least);
            }
            PolicyKind::Failover if !ramping => field.truncate(1),
            PolicyKind::LeastConnections if !ramping => {
                let least = field
                    .iter()
                    .map(|member| load(member))
                    .fold(f64::MAX, f64::min);
                field.retain(|member| load(member) <= least);
            }
            _ => {}
        }
        field.into_iter().map(|member| member.target).collect()
    }

    fn connect(&mut self, id: u64) {
        let session = self.sessions.get_mut(&id).expect("it connects once");
        let backend = session.lease.member().target;
        if self.backends[backend].serves {
            session.lease.connected(self.now, Duration::from_millis(5));
            session.connected_at = self.now;
            self.backends[backend].connections += 1;
            self.backends[backend].failures_in_row = 0;
            self.after_about(3000, Event::Leave { session: id });
            return;
        }
        session.lease.connect_failed(self.now, Duration::ZERO);
        let pool = Arc::clone(session.lease.pool());
        let failed = &mut self.backends[backend];
        failed.failures += 1;
        failed.failures_in_row += 1;
        self.judge(backend, &pool);
        let Session {
            candidates,
            tried,
            lease,
            ..
        } = self.sessions.remove(&id).expect("it is there");
        drop(lease);
        self.backends[backend].active -= 1;
        if self.chance.below(8) > 0 {
            self.dispatch(candidates, tried);
        }
    }

    /// A connected session ends, in one way or another.
    fn leave(&mut self, session: Session) {
        let Session {
            lease,
            connected_at,
            ..
        } = session;
        lease.add_bytes(1, 2);
        let bytes_to_client = u64::from(self.chance.below(2));
        if bytes_to_client > 0 {
            let took = Duration::from_millis(1 + u64::from(self.chance.below(300)));
            lease.first_byte(self.now, took);
        }
        let ways = [
            Termination::ClientClosed,
            Termination::BackendClosed,
            Termination::BackendReset,
            Termination::ClientReset,
            Termination::IdleTimeout,
        ];
        let termination = ways[self.chance.below(ways.len() as u32) as usize];
        let lived = self.now.since(connected_at);
        lease.ended(
            self.now,
            SessionEnd {
                termination,
                lived,
                bytes_to_backend: 1,
                bytes_to_client,
            },
        );
        let target = lease.member().target;
        let early = lived <= self.spec.ejection.early_reset_within;
        let empty = bytes_to_client == 0;
        let backend = &mut self.backends[target];
        backend.active -= 1;
        if !empty {
            backend.empty_closes_in_row = 0;
        }
        let mut failed = false;
        match termination {
            Termination::BackendReset if early => {
                backend.early_resets_in_row += 1;
                failed = true;
            }
            Termination::ClientClosed | Termination::BackendClosed if !empty => {
                backend.early_resets_in_row = 0;
            }
            _ if !early => backend.early_resets_in_row = 0,
            _ => {}
        }
        if termination == Termination::BackendClosed && empty {
            backend.empty_closes_in_row += 1;
            failed = true;
        }
        if failed {
            self.judge(target, lease.pool());
        }
    }

    /// The model's idea of what a failure leads to.
    fn judge(&mut self, failed: usize, pool: &Pool<usize>) {
        let (rule, now) = (self.spec.ejection, self.now);
        let members = pool.members();
        let ejected = members
            .iter()
            .filter(|it| self.backends[it.target].ejected_until > now);
        let room = ejected.count() < members.len() * usize::from(rule.max_percent) / 100;
        let backend = &mut self.backends[failed];
        let enough = [
            (rule.connect_failures, backend.failures_in_row),
            (rule.early_resets, backend.early_resets_in_row),
            (rule.empty_closes, backend.empty_closes_in_row),
        ]
        .iter()
        .any(|&(enough, row)| enough > 0 && row >= enough);
        if !enough || backend.ejected_until > now || !room || members.len() < 2 {
            return;
        }
        let quiet = now.since(backend.ejected_until).as_millis() / rule.max.as_millis();
        let nth = backend.ejections_in_row.saturating_sub(quiet as u32) + 1;
        // 500 ms, 1 s, 2 s and then 3 s; the fourth is the last that is counted.
        backend.ejections_in_row = nth.min(4);
        let millis = [500, 1000, 2000, 3000][backend.ejections_in_row as usize - 1];
        backend.ejected_until = now + Duration::from_millis(millis);
        backend.begin_ramp(now);
    }

    // ---- Probes, operators, reloads

    fn probe(&mut self, index: usize, membership: u64) {
        let backend = &mut self.backends[index];
        if backend.membership != membership {
            return;
        }
        // A few get lost on the way.
        let passed = backend.serves && self.chance.below(20) > 0;
        if let Some(verdict) = backend.health.observe(passed, self.now) {
            if verdict == Verdict::Up && (backend.verdict == Verdict::Down || backend.joined) {
                backend.begin_ramp(self.now);
            }
            backend.verdict = verdict;
            let member = self.member_of(index).expect("only members are probed");
            self.pool.set_verdict(member, verdict, self.now);
        }
        self.schedule_probe(index);
    }

    fn schedule_probe(&mut self, index: usize) {
        let Backend {
            ref health,
            membership,
            ..
        } = self.backends[index];
        let millis = match health.pace() {
            Pace::Normal => 1000,
            Pace::Between => 200,
            Pace::Down => 2000,
        };
        self.after_about(
            millis,
            Event::Probe {
                backend: index,
                membership,
            },
        );
    }

    fn wish(&mut self, backend: usize, wish: Wish) {
        let record = &mut self.backends[backend];
        if wish == Wish::Ready && record.wish != Wish::Ready {
            record.begin_ramp(self.now);
        }
        record.wish = wish;
        let member = self.member_of(backend).expect("operators see members only");
        self.pool.set_wish(member, wish, self.now);
    }

    fn change_members(&mut self) {
        for _ in 0..=self.chance.below(3) {
            match self.chance.below(4) {
                0 => self.add_member(),
                1 if self.spec.members.len() > 1 => {
                    let gone = self.chance.below(self.spec.members.len() as u32) as usize;
                    self.spec.members.remove(gone);
                }
                // One that was there before, perhaps still is.
                2 => {
                    let index = self.chance.below(self.backends.len() as u32) as usize;
                    if !self
                        .spec
                        .members
                        .iter()
                        .any(|member| member.target == index)
                    {
                        let member = self.member(index);
                        self.spec.members.push(member);
                    }
                }
                _ => {
                    let index = self.chance.below(self.spec.members.len() as u32) as usize;
                    let target = self.spec.members[index].target;
                    self.spec.members[index] = self.member(target);
                }
            }
        }
    }

    fn add_member(&mut self) {
        self.backends.push(Backend::new(self.first_verdict()));
        let member = self.member(self.backends.len() - 1);
        self.spec.members.push(member);
    }

    fn member(&mut self, target: usize) -> MemberSpec<usize> {
        let chance = &mut self.chance;
        MemberSpec {
            name: format!("b{target}"),
            identity: format!("192.0.2.{target}:80"),
            target,
            weight: [0, 1, 1, 2, 5, 100][chance.below(6) as usize],
            priority: [0, 0, 0, 1, 2][chance.below(5) as usize],
            cost: Cost::new([0.0, 0.0, 0.5][chance.below(3) as usize]).expect("a cost"),
            max_connections: [0, 0, 1, 4][chance.below(4) as usize],
        }
    }

    fn reload(&mut self) {
        let before = Arc::clone(&self.pool);
        self.pool = Arc::new(Pool::new(
            self.spec.clone(),
            Arc::clone(&self.table),
            self.now,
        ));
        for old in before.members() {
            if self.member_of(old.target).is_none() {
                self.backends[old.target].membership += 1;
            }
        }
        for index in 0..self.pool.members().len() {
            let target = self.pool.members()[index].target;
            if before.members().iter().any(|old| old.target == target) {
                continue;
            }
            let first = self.first_verdict();
            let live = self.pool.live(index);
            let backend = &mut self.backends[target];
            if live.connections_total() == 0 && live.connect_failures_total() == 0 {
                // New, or its slot was needed meanwhile: nothing is known of it.
                assert_eq!(backend.active, 0, "a record in use was forgotten");
                let Backend {
                    serves, membership, ..
                } = *backend;
                let wish = live.wish();
                assert!(wish == backend.wish || wish == Wish::Ready);
                *backend = Backend {
                    serves,
                    membership,
                    wish,
                    ..Backend::new(first)
                };
            }
            backend.verdict = first;
            backend.health = Health::new(THRESHOLDS, Damping::NONE, first);
            backend.joined = true;
            if !self.spec.probed {
                backend.begin_ramp(self.now);
            }
            if self.spec.probed {
                self.schedule_probe(target);
            }
        }
    }

    fn first_verdict(&self) -> Verdict {
        if self.spec.probed {
            Verdict::Unchecked
        } else {
            Verdict::Unprobed
        }
    }

    fn member_of(&self, backend: usize) -> Option<usize> {
        self.pool
            .members()
            .iter()
            .position(|member| member.target == backend)
    }

    fn any_backend(&mut self) -> usize {
        let index = self.chance.below(self.pool.members().len() as u32) as usize;
        self.pool.members()[index].target
    }

    // ---- What must hold

    fn check(&mut self) {
        let now = self.now;
        for (index, member) in self.pool.members().iter().enumerate() {
            let (live, model) = (self.pool.live(index), &self.backends[member.target]);
            assert_eq!(live.active(), model.active, "{}", member.name);
            assert_eq!((live.verdict(), live.wish()), (model.verdict, model.wish));
            let until = Some(model.ejected_until).filter(|&until| until > now);
            assert_eq!(live.ejected_until(now), until, "{}", member.name);
            assert_eq!(live.connections_total(), model.connections);
            assert_eq!(live.connect_failures_total(), model.failures);
            let ramps = model.ramps(self.spec.slow_start, now);
            let state = State::of(
                model.verdict,
                model.wish,
                until.is_some(),
                ramps,
                member.weight,
            );
            assert_eq!(self.pool.state(index, now), state);
            let may = self.pool.availability(index, now);
            assert_eq!(may, model.availability(member.weight, now));
        }
        let active: usize = self
            .backends
            .iter()
            .map(|backend| backend.active as usize)
            .sum();
        assert_eq!(
            active,
            self.sessions.len(),
            "active counts and leases differ"
        );
    }

    /// Once the faults are over everybody is used again, and nothing is left of the sessions.
    fn heal(&mut self) {
        self.sessions.clear();
        self.backends
            .iter_mut()
            .for_each(|backend| backend.active = 0);
        for index in 0..self.pool.members().len() {
            let target = self.pool.members()[index].target;
            self.backends[target].serves = true;
            self.wish(target, Wish::Ready);
        }
        self.now = self.now + Duration::from_secs(60);
        for index in 0..self.pool.members().len() {
            let target = self.pool.members()[index].target;
            for _ in 0..if self.spec.probed { THRESHOLDS.rise } else { 0 } {
                if let Some(verdict) = self.backends[target].health.observe(true, self.now) {
                    let backend = &mut self.backends[target];
                    if verdict == Verdict::Up
                        && (backend.verdict == Verdict::Down || backend.joined)
                    {
                        backend.begin_ramp(self.now);
                    }
                    backend.verdict = verdict;
                    self.pool.set_verdict(index, verdict, self.now);
                }
            }
        }
        self.check();
        let useful = self
            .pool
            .members()
            .iter()
            .filter(|member| member.weight > 0)
            .count();
        let mut candidates = Candidates::new(0);
        let mut tried =
            std::iter::from_fn(|| candidates.next(&self.pool, self.now, &mut self.chance));
        assert_eq!(
            tried.by_ref().count(),
            useful.min(17),
            "somebody is left out for good"
        );
    }

    // ---- Time and trace

    fn after_about(&mut self, millis: u32, event: Event) {
        self.note(millis.into());
        let delay = 1 + self.chance.below(2 * millis);
        self.serial += 1;
        let at = self.now + Duration::from_millis(delay.into());
        self.queue.push(Reverse((at, self.serial, event)));
    }

    fn note(&mut self, fact: u64) {
        let mixed = self.trace.rotate_left(5) ^ fact ^ self.now.as_micros();
        self.trace = mixed.wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}
