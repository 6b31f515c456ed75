//! The life of the process: start, signals, systemd, end.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::command::Command;
use super::control::Control;
use crate::admin::ask::{Ask, Refusal, Reloading};
use crate::admin::server::Server;
use crate::config::mistakes::Mistakes;
use crate::config::settings::{Log, Settings};
use crate::config::warnings::warnings;
use crate::observe::log;

/// Runs until told to end: TERM or INT drain up to `drain_timeout`, a second one ends at once;
/// HUP reads the configuration again by `read` and reopens the log files.
///
/// Errors: it could not start, or a worker could not go on.
pub fn run(settings: Settings, read: impl Fn() -> Result<Settings, Mistakes>) -> io::Result<()> {
    set_log(&settings.log);
    warn_of(&settings);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Signals count from before the first client is served.
        let signals = Signals::new()?;
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let mut server = Server::new(asks);
        let admin = settings.admin.clone();
        let opened = server.open_missing(&admin).map_err(io::Error::other)?;
        let drain_timeout = settings.global.drain_timeout;
        let (control, commands) = Control::start(settings).map_err(io::Error::other)?;
        control.log_addresses();
        server.apply(&admin, opened);
        notify(&[NotifyState::Ready]);
        let obey = Obedience {
            commands,
            server,
            read,
            drain_timeout,
            draining: false,
        };
        tokio::select! {
            result = control.run() => result,
            never = obey.follow(signals, asked) => match never {},
        }
    })
}

/// Requests of operators that may wait for each other.
const ASKS_MAX: usize = 64;

struct Signals {
    hup: Signal,
    term: Signal,
    int: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Signals {
            hup: signal(SignalKind::hangup())?,
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }
}

/// Turns signals, and what operators ask for, into commands.
struct Obedience<R> {
    commands: mpsc::Sender<Command>,
    server: Server,
    read: R,
    drain_timeout: Duration,
    draining: bool,
}

impl<R: Fn() -> Result<Settings, Mistakes>> Obedience<R> {
    async fn follow(
        mut self,
        mut signals: Signals,
        mut asked: mpsc::Receiver<Ask>,
    ) -> std::convert::Infallible {
        loop {
            tokio::select! {
                // Told in the log, whatever came of it.
                _ = signals.hup.recv() => drop(self.reload("HUP").await),
                Some(ask) = asked.recv() => self.obey(ask).await,
                _ = signals.term.recv() => self.end("TERM").await,
                _ = signals.int.recv() => self.end("INT").await,
            }
        }
    }

    async fn obey(&mut self, ask: Ask) {
        match ask {
            Ask::Reload { dry_run, by, done } => {
                let answer = match dry_run {
                    true => self.compare().await,
                    false => self.reload(&by.who).await,
                };
                let _ = done.send(answer);
            }
            Ask::State(done) => self.send(Command::State(done)).await,
            Ask::Sample(done) => self.send(Command::Sample(done)).await,
            Ask::Sessions { filter, kill, done } => {
                self.send(Command::Sessions { filter, kill, done }).await;
            }
            Ask::Why { query, done } => self.send(Command::Why { query, done }).await,
            Ask::Change {
                backend,
                wanted,
                by,
                done,
            } => {
                let command = Command::Change {
                    backend,
                    wanted,
                    by,
                    done,
                };
                self.send(command).await;
            }
            Ask::Add {
                backend,
                spec,
                by,
                done,
            } => {
                let command = Command::Add {
                    backend,
                    spec,
                    by,
                    done,
                };
                self.send(command).await;
            }
            Ask::Remove { backend, by, done } => {
                self.send(Command::Remove { backend, by, done }).await;
            }
        }
    }

    /// The same for everybody who wants it: reads the configuration and applies all of it, or
    /// nothing.
    async fn reload(&mut self, by: &str) -> Result<Reloading, Refusal> {
        if self.draining {
            tracing::warn!(by, "not reloading: the process is ending");
            return Err(Refusal::Conflict("the process is ending".to_owned()));
        }
        // systemd tells a reload apart from the next by the stamp (sd_notify(3)).
        match NotifyState::monotonic_usec_now() {
            Ok(stamp) => notify(&[NotifyState::Reloading, stamp]),
            Err(error) => tracing::warn!(%error, "no monotonic time for systemd"),
        }
        let result = self.read_and_apply(by).await;
        if let Err(refusal) = &result {
            tracing::error!(by, "the configuration was not reloaded, the old one stays:");
            // Line by line: a log line has no line breaks of its own.
            let text = refusal.to_string();
            for line in text.lines().filter(|line| !line.is_empty()) {
                tracing::error!("{line}");
            }
        }
        self.send(Command::ReopenLogs).await;
        notify(&[NotifyState::Ready]);
        result
    }

    async fn read_and_apply(&mut self, by: &str) -> Result<Reloading, Refusal> {
        let settings = match (self.read)() {
            Ok(settings) => settings,
            Err(mistakes) => {
                let why = mistakes.to_string();
                self.send(Command::ReloadFailed(why.clone())).await;
                return Err(Refusal::Failed(why));
            }
        };
        let admin = settings.admin.clone();
        let opened = match self.server.open_missing(&admin) {
            Ok(opened) => opened,
            Err(error) => {
                let why = error.to_string();
                self.send(Command::ReloadFailed(why.clone())).await;
                return Err(Refusal::Failed(why));
            }
        };
        let warnings = warnings(&settings);
        let (log, drain_timeout) = (settings.log.clone(), settings.global.drain_timeout);
        let (done, answer) = oneshot::channel();
        self.send(Command::Reload(Box::new(settings), done)).await;
        let ending = || Refusal::Conflict("the process is ending".to_owned());
        let reloaded = answer.await.map_err(|_| ending())?;
        let reloaded = reloaded.map_err(|error| Refusal::Failed(error.to_string()))?;
        self.server.apply(&admin, opened);
        set_log(&log);
        self.drain_timeout = drain_timeout;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        let changes = reloaded.changes.len();
        tracing::info!(by, changes, "the configuration was reloaded");
        for key in reloaded.needs_restart() {
            tracing::warn!(key, "a change of this key needs a restart");
        }
        for dropped in &reloaded.dropped {
            tracing::warn!("no longer changed at runtime: {dropped}");
        }
        Ok(Reloading {
            dry_run: false,
            changes: reloaded.changes,
            dropped: reloaded.dropped,
            warnings,
        })
    }

    /// What a reload would do.
    async fn compare(&self) -> Result<Reloading, Refusal> {
        let settings = (self.read)().map_err(|mistakes| Refusal::Failed(mistakes.to_string()))?;
        let (done, answer) = oneshot::channel();
        self.send(Command::Compare(Box::new(settings), done)).await;
        let ending = || Refusal::Conflict("the process is ending".to_owned());
        answer.await.map_err(|_| ending())
    }

    async fn end(&mut self, signal: &str) {
        if self.draining {
            tracing::info!(signal, "a second signal: ending at once");
            self.send(Command::Stop).await;
            return;
        }
        self.draining = true;
        notify(&[NotifyState::Stopping]);
        tracing::info!(signal, timeout = ?self.drain_timeout, "draining");
        self.send(Command::Drain(self.drain_timeout)).await;
    }

    /// The receiver is gone only when the process is about to end anyway.
    async fn send(&self, command: Command) {
        let _ = self.commands.send(command).await;
    }
}

fn warn_of(settings: &Settings) {
    for warning in warnings(settings) {
        tracing::warn!("{warning}");
    }
}

fn set_log(settings: &Log) {
    log::init(settings.level, settings.format);
}

/// Tells systemd, when it started us.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "systemd cannot be told");
    }
}
