//! A balancer in this process, on ports the kernel chooses, with the invariants it must keep.

use std::fmt::Write;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use lbd::admin::ask::{BackendId, BackendSpec, By, Refusal, Wanted, WantedState};
use lbd::admin::state::State;
use lbd::admin::why::{Why, WhyQuery};
use lbd::balance::backend::Wish;
use lbd::base::addr::Endpoint;
use lbd::config::load::load_text;
use lbd::config::settings::Settings;
use lbd::runtime::command::{Command, Reloaded, StartError};
use lbd::runtime::control::Control;
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};

use super::peer::Seen;
use super::record::{self, Record};
use super::wait;

/// A configuration under construction: one listener `in`, one pool `out` without probes.
#[derive(Clone, Debug)]
pub struct Setup {
    pub workers: usize,
    pub global: String,
    pub listener: String,
    pub pool: String,
    /// Name, address, further lines.
    pub backends: Vec<(String, SocketAddr, String)>,
    /// Further tables.
    pub more: String,
    /// Where the listener is; port 0 unless the balancer is a process of its own.
    pub bind: String,
}

impl Setup {
    /// Backends are named `b0`, `b1` and so on.
    pub fn over(backends: &[SocketAddr]) -> Setup {
        let named = backends.iter().enumerate();
        Setup {
            workers: 2,
            global: String::new(),
            listener: String::new(),
            pool: String::new(),
            backends: named
                .map(|(at, addr)| (format!("b{at}"), *addr, String::new()))
                .collect(),
            more: String::new(),
            bind: "127.0.0.1:0".to_owned(),
        }
    }

    pub fn global(mut self, line: &str) -> Setup {
        self.global += &format!("{line}\n");
        self
    }

    pub fn listener(mut self, line: &str) -> Setup {
        self.listener += &format!("{line}\n");
        self
    }

    pub fn pool(mut self, line: &str) -> Setup {
        self.pool += &format!("{line}\n");
        self
    }

    pub fn toml(&self, log: &str) -> String {
        let Setup {
            workers,
            global,
            listener,
            pool,
            more,
            bind,
            ..
        } = self;
        let mut text = format!(
            "[global]\nworkers = {workers}\n{global}\n\
             [log]\nformat = \"json\"\naccess = \"{log}\"\n\n\
             [[listener]]\nname = \"in\"\nbind = \"{bind}\"\npool = \"out\"\n{listener}\n\
             [[pool]]\nname = \"out\"\n{pool}\n"
        );
        if !pool.contains("health") {
            text += "[pool.health]\nprobe = \"none\"\n\n";
        }
        for (name, address, lines) in &self.backends {
            let head = "[[pool.backend]]";
            writeln!(
                text,
                "{head}\nname = \"{name}\"\naddress = \"{address}\"\n{lines}"
            )
            .unwrap();
        }
        text + more
    }
}

/// A running balancer. Its drop waits until it has nothing left to do and checks what must hold
/// then; a test therefore ends its clients first.
#[derive(Debug)]
pub struct Balancer {
    commands: mpsc::Sender<Command>,
    thread: Option<JoinHandle<io::Result<()>>>,
    folder: TempDir,
    /// Not when listeners were removed: their counts are gone.
    totals_known: AtomicBool,
}

impl Balancer {
    pub fn over(backends: &[SocketAddr]) -> Balancer {
        Balancer::start(&Setup::over(backends))
    }

    pub fn start(setup: &Setup) -> Balancer {
        Balancer::try_start(setup).expect("started")
    }

    pub fn try_start(setup: &Setup) -> Result<Balancer, String> {
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(&setup.toml(&log_path(&folder)));
        let (report, started) = channel();
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let (control, commands) = match Control::start(settings) {
                    Ok(pair) => pair,
                    Err(error) => {
                        report.send(Err(error.to_string())).unwrap();
                        return Ok(());
                    }
                };
                report.send(Ok(commands)).unwrap();
                control.run().await
            })
        });
        let commands = started.recv().unwrap()?;
        Ok(Balancer {
            commands,
            thread: Some(thread),
            folder,
            totals_known: AtomicBool::new(true),
        })
    }

    /// Where clients of the listener `in` connect to.
    pub fn address(&self) -> SocketAddr {
        self.address_of("in")
    }

    pub fn address_of(&self, listener: &str) -> SocketAddr {
        let state = self.state();
        let found = state.listeners.iter().find(|one| one.name == listener);
        match found.and_then(|one| one.addresses.first()) {
            Some(Endpoint::Tcp(address)) => *address,
            other => panic!("{listener} listens on {other:?}"),
        }
    }

    pub fn state(&self) -> State {
        self.ask(Command::State)
    }

    /// Where a client would go, and why.
    pub fn why(&self, query: WhyQuery) -> Result<Why, Refusal> {
        self.ask(|done| Command::Why { query, done })
    }

    /// Sessions under way on a backend, and all there were.
    pub fn backend(&self, name: &str) -> (u32, u64) {
        let state = self.state();
        let backend = state
            .pool("out")
            .and_then(|pool| pool.backend(name))
            .expect("a backend");
        (backend.active, backend.total)
    }

    pub fn active(&self) -> u32 {
        self.state().listeners.iter().map(|one| one.active).sum()
    }

    pub fn reload(&self, setup: &Setup) -> Result<Reloaded, StartError> {
        let settings = settings(&setup.toml(&log_path(&self.folder)));
        self.ask(|done| Command::Reload(Box::new(settings), done))
    }

    /// Sessions of listeners that a reload removed are counted by nobody any more.
    pub fn forget_totals(&self) {
        self.totals_known.store(false, SeqCst);
    }

    /// Clients that wait for room in the pool `out`.
    pub fn queued(&self) -> u32 {
        self.state().pool("out").expect("a pool").queued
    }

    /// What the operator wants of a backend of the pool `out`.
    pub fn wish(&self, backend: &str, wish: Wish) {
        let state = match wish {
            Wish::Ready => WantedState::Ready,
            Wish::Drain => WantedState::Drain,
            Wish::Maintenance => WantedState::Maintenance,
        };
        let wanted = Wanted {
            state: Some(state),
            ..Wanted::default()
        };
        self.change(backend, wanted).expect("a backend");
    }

    pub fn change(&self, backend: &str, wanted: Wanted) -> Result<(), Refusal> {
        self.ask(|done| Command::Change {
            backend: id(backend),
            wanted,
            by: by(),
            done,
        })
    }

    pub fn add(&self, backend: &str, spec: BackendSpec) -> Result<(), Refusal> {
        self.ask(|done| Command::Add {
            backend: id(backend),
            spec,
            by: by(),
            done,
        })
    }

    pub fn remove(&self, backend: &str) -> Result<(), Refusal> {
        self.ask(|done| Command::Remove {
            backend: id(backend),
            by: by(),
            done,
        })
    }

    pub fn drain(&self, timeout: Duration) {
        self.commands
            .blocking_send(Command::Drain(timeout))
            .unwrap();
    }

    pub fn stop(&self) {
        self.commands.blocking_send(Command::Stop).unwrap();
    }

    /// Waits until the balancer has ended by itself, and returns its whole log.
    pub fn ended(mut self) -> Vec<Record> {
        let thread = self.thread.take().unwrap();
        wait::until("the balancer has ended", || thread.is_finished());
        thread.join().unwrap().expect("no worker failed");
        let records = self.records();
        records.iter().for_each(check_record);
        records
    }

    pub fn records(&self) -> Vec<Record> {
        record::read_all(&self.folder.path().join("access.log"))
    }

    /// The record of a client's session, once it is written.
    pub fn record_of(&self, client: SocketAddr) -> Record {
        wait::until_some(&format!("the record of {client} is written"), || {
            self.records()
                .into_iter()
                .rfind(|record| record.client() == Some(client))
        })
    }

    /// The only record there will be.
    pub fn only_record(&self) -> Record {
        wait::until_some("a record is written", || self.records().into_iter().next())
    }

    fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let (done, answer) = oneshot::channel();
        self.commands
            .blocking_send(command(done))
            .expect("the balancer runs");
        answer.blocking_recv().expect("the balancer answers")
    }

    /// I3 and I4 of what a balancer must keep: gauges return to zero, and every connection has
    /// one line that says why it ended.
    fn check_invariants(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        wait::until("gauges are back at zero", || {
            let state = self.state();
            let mut backends = state.pools.iter().flat_map(|pool| &pool.backends);
            state.listeners.iter().all(|one| one.active == 0)
                && backends.all(|backend| backend.active == 0)
        });
        let total: u64 = self.state().listeners.iter().map(|one| one.total).sum();
        if self.totals_known.load(SeqCst) {
            wait::until("every connection has its line", || {
                self.records().len() as u64 >= total
            });
        }
        for one in &self.state().listeners {
            let ends = one.ended_by_pool.values().flat_map(|ends| ends.values());
            assert_eq!(ends.sum::<u64>(), one.total, "each session ends once");
        }
        self.stop();
        wait::until("the balancer has stopped", || thread.is_finished());
        thread.join().unwrap().expect("no worker failed");
        let records = self.records();
        records.iter().for_each(check_record);
        if self.totals_known.load(SeqCst) {
            assert_eq!(records.len() as u64, total, "one line for each connection");
        }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.check_invariants();
        }
    }
}

fn check_record(record: &Record) {
    assert!(record.is_explained(), "an end without a word: {record:?}");
    assert_ne!(record.termination(), "internal", "{record:?}");
}

/// I1 and I2: what was delivered is the beginning of what was sent, and only a whole one ends
/// in order. The record says no less than arrived and no more than was sent.
#[track_caller]
pub fn check_transfer(client: &Seen, backend: &Seen, record: &Record) {
    for (from, to, key) in [
        (client, backend, "bytes_to_backend"),
        (backend, client, "bytes_to_client"),
    ] {
        let told = format!("{key}: from {from:?} to {to:?}, {record:?}");
        assert!(to.intact, "not what was sent: {told}");
        assert!(to.taken <= from.sent, "more than was sent: {told}");
        if to.end == super::peer::End::Fin {
            assert_eq!(
                to.taken, from.sent,
                "an incomplete stream ended in order: {told}"
            );
        }
        assert_ne!(to.end, super::peer::End::Stuck, "nobody ended it: {told}");
        let logged = record.number(key);
        assert!(
            to.taken <= logged && logged <= from.sent,
            "miscounted: {told}"
        );
    }
}

/// Of the pool `out`, unless it names another one.
fn id(backend: &str) -> BackendId {
    backend.parse().unwrap_or_else(|_| BackendId {
        pool: "out".to_owned(),
        backend: backend.to_owned(),
    })
}

fn by() -> By {
    By {
        who: "a test".to_owned(),
        reason: "to see it".to_owned(),
    }
}

fn settings(toml: &str) -> Settings {
    match load_text("test.toml", toml, &|_| None) {
        Ok(settings) => settings,
        Err(mistakes) => panic!("{mistakes}\n{toml}"),
    }
}

fn log_path(folder: &TempDir) -> String {
    let path: PathBuf = folder.path().join("access.log");
    path.to_str().unwrap().to_owned()
}
