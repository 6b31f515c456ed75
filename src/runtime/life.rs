//! The life of the process: start, signals, systemd, end.

use std::io;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::command::Command;
use super::control::Control;
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
        let drain_timeout = settings.global.drain_timeout;
        let (control, commands) = Control::start(settings).map_err(io::Error::other)?;
        control.log_addresses();
        notify(&[NotifyState::Ready]);
        let obey = Obedience {
            commands,
            read,
            drain_timeout,
            draining: false,
        };
        tokio::select! {
            result = control.run() => result,
            never = obey.follow(signals) => match never {},
        }
    })
}

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

/// Turns signals into commands.
struct Obedience<R> {
    commands: mpsc::Sender<Command>,
    read: R,
    drain_timeout: Duration,
    draining: bool,
}

impl<R: Fn() -> Result<Settings, Mistakes>> Obedience<R> {
    async fn follow(mut self, mut signals: Signals) -> std::convert::Infallible {
        loop {
            tokio::select! {
                _ = signals.hup.recv() => self.reload().await,
                _ = signals.term.recv() => self.end("TERM").await,
                _ = signals.int.recv() => self.end("INT").await,
            }
        }
    }

    async fn reload(&mut self) {
        if self.draining {
            tracing::warn!("not reloading: the process is ending");
            return;
        }
        // systemd tells a reload apart from the next by the stamp (sd_notify(3)).
        match NotifyState::monotonic_usec_now() {
            Ok(stamp) => notify(&[NotifyState::Reloading, stamp]),
            Err(error) => tracing::warn!(%error, "no monotonic time for systemd"),
        }
        match (self.read)() {
            Ok(settings) => self.apply(settings).await,
            Err(mistakes) => {
                tracing::error!("the configuration was not reloaded, the old one stays:");
                // Line by line: a log line has no line breaks of its own.
                for line in mistakes.to_string().lines().filter(|line| !line.is_empty()) {
                    tracing::error!("{line}");
                }
            }
        }
        self.send(Command::ReopenLogs).await;
        notify(&[NotifyState::Ready]);
    }

    async fn apply(&mut self, settings: Settings) {
        warn_of(&settings);
        let (log, drain_timeout) = (settings.log.clone(), settings.global.drain_timeout);
        let (done, answer) = oneshot::channel();
        self.send(Command::Reload(Box::new(settings), done)).await;
        match answer.await {
            Ok(Ok(reloaded)) => {
                set_log(&log);
                self.drain_timeout = drain_timeout;
                tracing::info!("the configuration was reloaded");
                for key in reloaded.needs_restart() {
                    tracing::warn!(key, "a change of this key needs a restart");
                }
            }
            Ok(Err(error)) => {
                tracing::error!("the configuration was not reloaded, the old one stays: {error}");
            }
            Err(_) => {}
        }
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
