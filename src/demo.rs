//! `lbd demo`: three embedded backends behind a listener, and a live view of what each got.

pub mod backends;
pub mod history;
mod keyboard;
pub mod plain;
pub mod screen;
pub mod stage;
pub mod traffic;

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tokio::signal::unix::{SignalKind, signal};

use self::stage::Stage;

/// What `lbd demo` was asked for.
#[derive(Clone, Debug)]
pub struct DemoOptions {
    /// Where to listen; without it 127.0.0.1:8080, or any port when that is taken.
    pub bind: Option<SocketAddr>,
    /// The policy to begin with, as written in a configuration.
    pub policy: String,
    /// End by itself after so long.
    pub seconds: Option<u64>,
}

/// Runs the demo until a key, a signal or its time ends it.
///
/// Errors: the address cannot be listened on, the policy is none, or the terminal is gone.
pub fn run(options: DemoOptions) -> io::Result<()> {
    let end = End::new(options.seconds)?;
    let stage = Stage::start(&options)?;
    if is_screen() {
        keyboard::run(&stage, &end)
    } else {
        plain::run(&stage, &mut io::stdout().lock(), &end)
    }
}

/// Whether stdout can show a picture that moves.
fn is_screen() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

/// When the demo shall end: at its time, or once a signal came.
#[derive(Clone, Debug)]
pub struct End {
    at: Option<Instant>,
    told: Arc<AtomicBool>,
}

/// How long the view has to end in order once it was told to.
const END_GRACE: Duration = Duration::from_secs(1);

impl End {
    /// Ends on TERM, INT and HUP, and after `seconds`.
    ///
    /// Errors: the signals cannot be caught.
    pub fn new(seconds: Option<u64>) -> io::Result<End> {
        let end = End::after(seconds.map(Duration::from_secs));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (mut term, mut int, mut hup) = runtime.block_on(async {
            io::Result::Ok((
                signal(SignalKind::terminate())?,
                signal(SignalKind::interrupt())?,
                signal(SignalKind::hangup())?,
            ))
        })?;
        let told = end.told.clone();
        thread::Builder::new()
            .name("demo-signals".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    tokio::select! {
                        _ = term.recv() => {}
                        _ = int.recv() => {}
                        _ = hup.recv() => {}
                    }
                });
                told.store(true, Ordering::Relaxed);
                // A terminal that is gone can hold the reader of keys for good.
                thread::sleep(END_GRACE);
                let _gone = ratatui::try_restore();
                std::process::exit(0);
            })?;
        Ok(end)
    }

    /// Ends after a time, if there is one, or by [`End::tell`].
    pub fn after(time: Option<Duration>) -> End {
        let at = time.and_then(|time| Instant::now().checked_add(time));
        End {
            at,
            told: Arc::default(),
        }
    }

    pub fn tell(&self) {
        self.told.store(true, Ordering::Relaxed);
    }

    pub fn is_due(&self) -> bool {
        self.told.load(Ordering::Relaxed) || self.at.is_some_and(|at| Instant::now() >= at)
    }
}
