//! What the demo consists of, all in this process: backends, the load balancer, clients.

use std::fmt::Write;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, MutexGuard, PoisonError, mpsc as std_mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::DemoOptions;
use super::backends::Backend;
use super::traffic::{RATE_FIRST, RATES, Seen, Traffic};
use crate::admin::state::{LastProbe, State};
use crate::balance::backend::State as BackendWord;
use crate::config::load::load_text;
use crate::config::settings::{AccessTarget, Settings};
use crate::runtime::command::Command;
use crate::runtime::control::Control;

/// The names the backends answer with.
pub const NAMES: [&str; 3] = ["amber", "birch", "cedar"];

/// The policies, in the order of the key that changes them; written as in a configuration.
pub const POLICIES: [&str; 6] = [
    "round_robin",
    "least_connections",
    "two_choices",
    "random",
    "ip_hash",
    "failover",
];

/// Where the demo listens if it can.
const BIND_FRIENDLY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);

/// The name of the one pool.
const POOL: &str = "trees";

/// Everything that runs. Dropped, it ends.
#[derive(Debug)]
pub struct Stage {
    address: SocketAddr,
    backends: Mutex<Vec<Backend>>,
    policy: Mutex<String>,
    commands: mpsc::Sender<Command>,
    started_at: Instant,
    /// Taken by `drop`, in this order: clients first, then what serves them.
    traffic: Option<Traffic>,
    control: Option<JoinHandle<io::Result<()>>>,
}

/// All of it at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// Since the start.
    pub at: Duration,
    pub address: SocketAddr,
    pub policy: String,
    /// Requests a second that the clients send.
    pub rate: u32,
    pub backends: Vec<BackendLook>,
    pub seen: Seen,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BackendLook {
    pub name: String,
    pub address: SocketAddr,
    /// Whether it runs; `state` is what the load balancer knows of that.
    pub is_alive: bool,
    pub state: BackendWord,
    pub active: u32,
    pub total: u64,
    /// Connects that failed; each was tried again elsewhere.
    pub failures: u64,
    pub last_probe: Option<LastProbe>,
}

impl Stage {
    /// Starts everything; the listener accepts from here on.
    ///
    /// Errors: the address is taken, or the policy is none.
    pub fn start(options: &DemoOptions) -> io::Result<Stage> {
        let backends: Vec<_> = NAMES
            .into_iter()
            .map(Backend::start)
            .collect::<io::Result<_>>()?;
        let address = free_address(options.bind)?;
        let settings = settings(&config_text(address, &options.policy, &backends))?;
        let (commands, control) = start_control(settings)?;
        let traffic = Traffic::start(address, RATE_FIRST)?;
        Ok(Stage {
            address,
            backends: Mutex::new(backends),
            policy: Mutex::new(options.policy.clone()),
            commands,
            started_at: Instant::now(),
            traffic: Some(traffic),
            control: Some(control),
        })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The configuration that is in force, as text.
    pub fn config_text(&self) -> String {
        config_text(self.address, &lock(&self.policy), &lock(&self.backends))
    }

    /// Errors: the load balancer has ended.
    pub fn look(&self) -> io::Result<Look> {
        let (done, answer) = oneshot::channel();
        self.send(Command::State(done))?;
        let state = answer.blocking_recv().map_err(|_| ended())?;
        let backends = lock(&self.backends);
        Ok(Look {
            at: self.started_at.elapsed(),
            address: self.address,
            policy: lock(&self.policy).clone(),
            rate: self.traffic().rate(),
            backends: backends
                .iter()
                .filter_map(|one| look_at(one, &state))
                .collect(),
            seen: self.traffic().seen(),
        })
    }

    /// Kills the backend, or revives it; says whether it is alive now. There is no such backend:
    /// nothing happens.
    pub fn toggle(&self, index: usize) -> io::Result<Option<bool>> {
        let mut backends = lock(&self.backends);
        let Some(backend) = backends.get_mut(index) else {
            return Ok(None);
        };
        if backend.is_alive() {
            backend.kill();
        } else {
            backend.revive()?;
        }
        Ok(Some(backend.is_alive()))
    }

    /// Changes to the next policy by a reload: connections go on.
    pub fn next_policy(&self) -> io::Result<()> {
        let now = lock(&self.policy).clone();
        let place = POLICIES
            .iter()
            .position(|one| *one == now)
            .map_or(0, |place| place + 1);
        let next = POLICIES[place % POLICIES.len()];
        let settings = settings(&config_text(self.address, next, &lock(&self.backends)))?;
        let (done, answer) = oneshot::channel();
        self.send(Command::Reload(Box::new(settings), done))?;
        answer
            .blocking_recv()
            .map_err(|_| ended())?
            .map_err(io::Error::other)?;
        *lock(&self.policy) = next.to_owned();
        Ok(())
    }

    /// The next higher of [`RATES`].
    pub fn faster(&self) {
        let now = self.traffic().rate();
        self.set_rate(RATES.into_iter().find(|rate| *rate > now));
    }

    /// The next lower of [`RATES`].
    pub fn slower(&self) {
        let now = self.traffic().rate();
        self.set_rate(RATES.into_iter().rev().find(|rate| *rate < now));
    }

    fn set_rate(&self, rate: Option<u32>) {
        if let Some(rate) = rate {
            self.traffic().set_rate(rate);
        }
    }

    fn traffic(&self) -> &Traffic {
        self.traffic.as_ref().expect("only drop takes it")
    }

    fn send(&self, command: Command) -> io::Result<()> {
        self.commands.blocking_send(command).map_err(|_| ended())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.traffic.take());
        // Fails only when it has ended already.
        let _ = self.send(Command::Stop);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
    }
}

fn look_at(backend: &Backend, state: &State) -> Option<BackendLook> {
    let known = state.pool(POOL)?.backend(backend.name())?;
    Some(BackendLook {
        name: known.name.clone(),
        address: backend.address(),
        is_alive: backend.is_alive(),
        state: known.state,
        active: known.active,
        total: known.total,
        failures: known.failures,
        last_probe: known.last_probe.clone(),
    })
}

/// The address asked for, or the friendly one, or any. Listeners share addresses with other
/// processes of the same user; the demo shall not, so it first asks for the address alone.
fn free_address(asked: Option<SocketAddr>) -> io::Result<SocketAddr> {
    let alone = |address| TcpListener::bind(address)?.local_addr();
    match asked {
        Some(address) => alone(address)
            .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}"))),
        None => alone(BIND_FRIENDLY).or_else(|_| alone((Ipv4Addr::LOCALHOST, 0).into())),
    }
}

/// Runs the load balancer on a thread of its own.
fn start_control(
    settings: Settings,
) -> io::Result<(mpsc::Sender<Command>, JoinHandle<io::Result<()>>)> {
    let (tell, told) = std_mpsc::channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = thread::Builder::new()
        .name("demo-control".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                let (control, started) = match Control::start(settings) {
                    Ok((control, commands)) => (Some(control), Ok(commands)),
                    Err(error) => (None, Err(io::Error::other(error))),
                };
                // Who asked waits for it.
                let _ = tell.send(started);
                match control {
                    Some(control) => control.run().await,
                    None => Ok(()),
                }
            })
        })?;
    Ok((told.recv().map_err(|_| ended())??, thread))
}

fn settings(text: &str) -> io::Result<Settings> {
    let mut settings = load_text("demo.toml", text, &|_| None)
        .map_err(|mistakes| io::Error::new(io::ErrorKind::InvalidInput, mistakes))?;
    // Stdout is taken; somebody who tries the shown text with `--config` gets the default.
    settings.log.access = AccessTarget::Off;
    Ok(settings)
}

fn config_text(address: SocketAddr, policy: &str, backends: &[Backend]) -> String {
    let mut list = String::new();
    for backend in backends {
        let _infallible = writeln!(
            list,
            "  {{ name = \"{}\", address = \"{}\" }},",
            backend.name(),
            backend.address()
        );
    }
    format!(
        r#"[[listener]]
name = "demo"
bind = "{address}"
pool = "{POOL}"

[[pool]]
name = "{POOL}"
policy = {policy:?}
ejection = {{ connect_failures = 3, base = "1s", max = "5s" }}
backend = [
{list}]
[pool.health]
probe = "http"
path = "/health"
interval = "1s"
fast_interval = "200ms"
down_interval = "500ms"
fall = 2
"#
    )
}

fn ended() -> io::Error {
    io::Error::other("the load balancer has ended")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
