//! The control plane: starts the workers, applies configurations, drains. Every change, whoever
//! asks for it, comes through [`Control::run`] one after the other.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::binds::Binds;
use super::closing::{self, Order, Scope};
use super::command::{Command, Reloaded, StartError};
use super::comparing::compare;
use super::descriptors;
use super::discovering::Discovering;
use super::draining::Draining;
use super::plan::{Plan, Registry};
use super::probing::{PROBES_AT_ONCE, Probing};
use super::rebalancing::Rebalancing;
use super::recent::Recents;
use super::renewing::{self, Content, Renewing};
use super::securing::Secured;
use super::shared::{Message, Shared};
use super::worker::Worker;
use crate::admin::state::Reloads;
use crate::base::addr::Endpoint;
use crate::base::clock::Moment;
use crate::base::drain::Curve;
use crate::config::settings::Settings;
use crate::discovery::source::{self, Source};
use crate::observe::access::AccessLog;

/// Requests that may wait for the control loop.
const COMMANDS_MAX: usize = 64;

/// How often the control loop looks after what no event tells of.
const ROUND: Duration = Duration::from_millis(250);

mod explaining;
mod operating;

#[derive(Debug)]
pub struct Control {
    /// As the file says.
    file: Settings,
    /// The same with what operators changed.
    settings: Settings,
    registry: Registry,
    plan: Plan,
    binds: Binds,
    shared: Arc<Shared>,
    access: AccessLog,
    probing: Probing,
    discovering: Discovering,
    /// New clients wait in the kernel's queue for backends to be found.
    holds_clients: bool,
    draining: Draining,
    rebalancing: Rebalancing,
    renewing: Renewing,
    recents: Recents,
    started_at: Moment,
    reloads: Reloads,
    is_draining: bool,
    commands: mpsc::Receiver<Command>,
    /// Tells of a worker that ended.
    ended: mpsc::UnboundedReceiver<io::Result<()>>,
    running: usize,
}

impl Control {
    /// Opens every listening socket and starts the workers. Clients are served from here on.
    /// The second value sends commands to [`Control::run`].
    pub fn start(settings: Settings) -> Result<(Control, mpsc::Sender<Command>), StartError> {
        let workers = settings
            .global
            .workers
            .unwrap_or_else(|| thread::available_parallelism().map_or(1, std::num::NonZero::get));
        let max_connections = connections_allowed(&settings, workers)?;
        let access = AccessLog::open(&settings.log.access, settings.log.format)
            .map_err(StartError::AccessLog)?;
        let shared = Arc::new(Shared::new(workers, max_connections).map_err(StartError::Threads)?);
        let mut registry = Registry::default();
        registry.adopt(secured(&registry, &settings)?);
        let discovering = Discovering::default();
        let plan = Plan::new(&settings, &mut registry, discovering.book());
        let (sender, commands) = mpsc::channel(COMMANDS_MAX);
        let (end, ended) = mpsc::unbounded_channel();
        let mut control = Control {
            registry,
            plan,
            binds: Binds::default(),
            access,
            probing: Probing::default(),
            holds_clients: finds_backends(&settings),
            discovering,
            draining: Draining::default(),
            rebalancing: Rebalancing::default(),
            renewing: Renewing::default(),
            recents: Recents::new(Moment::now()),
            started_at: Moment::now(),
            reloads: Reloads::default(),
            is_draining: false,
            commands,
            ended,
            running: workers,
            shared,
            file: settings.clone(),
            settings,
        };
        let opened = control.binds.open_missing(&control.settings, workers)?;
        control.binds.apply(&control.settings, opened);
        control.publish();
        if !control.holds_clients {
            control.binds.tell_workers(&control.shared.workers);
        }
        for me in 0..workers {
            let log = control.access.line_writer();
            let worker = Worker::new(me, control.shared.clone(), log, worker_seed(me))
                .map_err(StartError::Threads)?;
            let end = end.clone();
            thread::Builder::new()
                .name(format!("worker-{me}"))
                .spawn(move || end.send(worker.run()))
                .map_err(StartError::Threads)?;
        }
        Ok((control, sender))
    }

    /// The addresses of a listener, with the ports the kernel chose.
    pub fn addresses(&self, listener: &str) -> Vec<Endpoint> {
        let all = self.binds.addresses();
        let mine = all.filter(|(index, _)| self.settings.listeners[*index].name == listener);
        mine.map(|(_, address)| address.clone()).collect()
    }

    /// One line for each address, so that a port the kernel chose can be found.
    pub fn log_addresses(&self) {
        for (index, address) in self.binds.addresses() {
            let listener = &*self.settings.listeners[index].name;
            tracing::info!(listener, %address, "listening");
        }
    }

    /// Serves commands until every worker has ended. Needs a tokio runtime with time and io.
    ///
    /// Errors: a worker could not go on.
    pub async fn run(mut self) -> io::Result<()> {
        self.probing.apply(&self.settings, &self.plan);
        self.discovering.begin(&self.settings);
        self.renewing.apply(&self.settings);
        let mut force_at: Option<Instant> = None;
        let mut result = Ok(());
        let mut round = interval(ROUND);
        round.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while self.running > 0 {
            let forced = async {
                match force_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                Some(ended) = self.ended.recv() => {
                    self.running -= 1;
                    if let Err(error) = ended {
                        tracing::error!(%error, "a worker ended");
                        result = Err(error);
                        self.tell_workers(|| Message::Stop);
                    }
                }
                Some(command) = self.commands.recv() => match command {
                    Command::Drain(timeout) => {
                        self.is_draining = true;
                        self.let_clients_in();
                        self.tell_workers(|| Message::Drain);
                        self.end_all_within(timeout);
                        // The last holder closes: clients would wait in a queue that nobody
                        // serves any more.
                        self.binds.close();
                        force_at = Some(Instant::now() + timeout);
                    }
                    Command::Stop => self.tell_workers(|| Message::Stop),
                    command => {
                        self.serve(command);
                        self.make_round();
                    }
                },
                heard = self.discovering.heard() => self.take_in(&heard),
                renewed = self.renewing.renewed() => self.renew(&renewed),
                _ = round.tick() => self.make_round(),
                () = forced => {
                    self.tell_workers(|| Message::Stop);
                    force_at = None;
                }
            }
        }
        self.probing.stop();
        self.discovering.stop();
        self.binds.remove_socket_files();
        self.access.shut_down();
        result
    }

    /// Every session, whoever serves it: for the end of the process.
    fn end_all_within(&self, time: Duration) {
        let order = Order {
            id: 0,
            scope: Scope::All,
            plan: closing::Plan::Curve(Curve::over(Moment::now(), time)),
            detail: "shutdown",
            closed: Arc::default(),
        };
        self.tell_workers(|| Message::Close(order.clone()));
    }

    /// What nobody tells of: backends that were taken out, and ejections that ended, which may
    /// have made room for those who wait.
    fn make_round(&mut self) {
        let plan = &self.plan.upstreams;
        let now = Moment::now();
        self.draining.round(plan, &self.shared, now);
        self.rebalancing.round(plan, &self.shared, now);
        self.recents.round(plan, now);
        for upstream in &self.plan.upstreams {
            let queue = upstream.pool.queue();
            if queue.is_occupied() && upstream.pool.has_room(Moment::now()) {
                queue.remind();
            }
        }
    }

    fn serve(&mut self, command: Command) {
        match command {
            Command::Reload(settings, done) => {
                let reloaded = self.reload(*settings);
                self.note_reload(reloaded.as_ref().err().map(ToString::to_string));
                let _ = done.send(reloaded);
            }
            Command::Compare(settings, done) => {
                let _ = done.send(self.compare(&settings));
            }
            Command::ReloadFailed(error) => self.note_reload(Some(error)),
            Command::ReopenLogs => {
                if let Err(error) = self.access.reopen() {
                    tracing::error!(%error, "the access log cannot be reopened; the old one stays");
                }
            }
            Command::State(done) => {
                let _ = done.send(self.state());
            }
            Command::Sample(done) => {
                let _ = done.send(Box::new(self.sample()));
            }
            Command::Sessions { filter, kill, done } => self.sessions(filter, kill, done),
            Command::Why { query, done } => {
                let _ = done.send(self.why(&query));
            }
            Command::Change {
                backend,
                wanted,
                by,
                done,
            } => {
                let _ = done.send(self.change(&backend, &wanted, &by));
            }
            Command::Add {
                backend,
                spec,
                by,
                done,
            } => {
                let _ = done.send(self.add(&backend, &spec, &by));
            }
            Command::Remove { backend, by, done } => {
                let _ = done.send(self.remove(&backend, &by));
            }
            Command::Drain(_) | Command::Stop => unreachable!("the loop takes these itself"),
        }
    }

    /// Applies what the file says now: what can fail comes first, and then everything changes
    /// together.
    fn reload(&mut self, file: Settings) -> Result<Reloaded, StartError> {
        let mut changes = self.registry.changes.clone();
        let dropped = changes.reconcile(&file);
        let settings = changes.over(&file);
        let workers = self.shared.workers.len();
        let max_connections = connections_allowed(&settings, workers)?;
        let secured = secured(&self.registry, &settings)?;
        let added = self.binds.open_missing(&settings, workers)?;
        let (access, format) = (&settings.log.access, settings.log.format);
        self.access
            .replace(access, format)
            .map_err(StartError::AccessLog)?;

        let reloaded = Reloaded {
            changes: compare(&self.file, &file, &self.state()),
            dropped,
        };
        self.registry.adopt(secured);
        self.registry.changes = changes;
        self.shared.process.set_max(max_connections);
        let book = self.discovering.book();
        let plan = Plan::new(&settings, &mut self.registry, book);
        self.replace_plan(plan);
        let removed = self.binds.apply(&settings, added);
        self.settings = settings;
        self.file = file;
        self.publish();
        for bind in &removed {
            self.tell_workers(|| Message::Unlisten { bind: bind.id() });
            bind.remove_socket_file();
        }
        self.holds_clients = false;
        self.binds.tell_workers(&self.shared.workers);
        self.probing.apply(&self.settings, &self.plan);
        self.assert_wishes();
        self.discovering.apply(&self.settings);
        self.renewing.apply(&self.settings);
        Ok(reloaded)
    }

    /// Rebuilds the pools whose backends are others than before, now that these sources were
    /// heard of.
    fn take_in(&mut self, heard: &BTreeSet<Source>) {
        let book = self.discovering.book();
        let refreshed = self
            .plan
            .refreshed(&self.settings, &mut self.registry, book, |pool| {
                let mut sources = source::of_pool(pool).into_iter();
                sources.any(|(source, _)| heard.contains(&source))
            });
        if let Some(plan) = refreshed {
            self.replace_plan(plan);
            self.publish();
            self.probing.apply(&self.settings, &self.plan);
            self.assert_wishes();
        }
        if self.discovering.is_warm() {
            self.let_clients_in();
        }
    }

    /// Takes up what was replaced on disk: certificates of listeners where they are, so that tickets
    /// and sessions know nothing of it, and the rest as a reload does.
    fn renew(&mut self, renewed: &[Content]) {
        let renewal = renewing::put_into(&mut self.file, renewed);
        self.settings = self.registry.changes.over(&self.file);
        if !renewal.is_for_all {
            let listeners = renewal.listeners.iter();
            let listeners = listeners.map(|index| &self.settings.listeners[*index]);
            self.registry.renew_certificates(listeners);
            return;
        }
        match secured(&self.registry, &self.settings) {
            Ok(secured) => self.registry.adopt(secured),
            Err(error) => return tracing::error!("nothing new is in use: {error}"),
        }
        let book = self.discovering.book();
        let plan = Plan::new(&self.settings, &mut self.registry, book);
        self.replace_plan(plan);
        self.publish();
        self.probing.apply(&self.settings, &self.plan);
        self.assert_wishes();
    }

    /// Every change of what pools have passes here.
    fn replace_plan(&mut self, newer: Plan) {
        self.plan.tell_changes(&newer);
        let before = std::mem::replace(&mut self.plan, newer);
        self.draining
            .replanned(&before.upstreams, &self.plan.upstreams);
    }

    /// Serves the clients that waited for backends to be found.
    fn let_clients_in(&mut self) {
        if std::mem::take(&mut self.holds_clients) {
            self.binds.tell_workers(&self.shared.workers);
        }
    }

    fn publish(&self) {
        let snapshot = self.plan.snapshot(self.binds.listeners());
        self.shared.publish(Arc::new(snapshot));
    }

    fn tell_workers(&self, message: impl Fn() -> Message) {
        for desk in &self.shared.workers {
            desk.send(message());
        }
    }
}

/// Connections the process may serve: what is configured, if the descriptors are there. When the
/// default is too many for the limit, it is lowered; a configured number is an error.
fn connections_allowed(settings: &Settings, workers: usize) -> Result<u32, StartError> {
    let wanted = settings.global.max_connections;
    let listening = settings
        .listeners
        .iter()
        .map(|listener| listener.binds.len())
        .sum();
    let mut backends = settings.pools.iter().map(|pool| pool.backends.len()).sum();
    if finds_backends(settings) {
        // How many will be found, nobody knows; no more are probed at once.
        backends += PROBES_AT_ONCE + DISCOVERY_DESCRIPTORS;
    }
    let allowed = descriptors::reserve(wanted, workers, listening, backends);
    if allowed < wanted {
        if settings.global.max_connections != MAX_CONNECTIONS_DEFAULT || allowed == 0 {
            return Err(StartError::Descriptors { wanted, allowed });
        }
        tracing::warn!(
            allowed,
            "the descriptor limit allows fewer connections than the default of {wanted}"
        );
    }
    Ok(allowed)
}

fn secured(registry: &Registry, settings: &Settings) -> Result<Secured, StartError> {
    registry
        .secure(settings)
        .map_err(|(listener, error)| StartError::Tls { listener, error })
}

/// Sockets of questions to name servers, and watches of files.
const DISCOVERY_DESCRIPTORS: usize = 64;

/// Whether there are backends that are not listed.
fn finds_backends(settings: &Settings) -> bool {
    !source::of_settings(settings).is_empty()
}

/// `global.max_connections` when the configuration does not say.
const MAX_CONNECTIONS_DEFAULT: u32 = 100_000;

/// Different for each worker and each start, so that random choices are not in step.
fn worker_seed(me: usize) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(me)
}
