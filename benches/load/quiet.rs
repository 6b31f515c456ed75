//! Waits for a quiet machine, so that a cell of a benchmark starts undisturbed.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::Reading;

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Share of all CPUs that may be busy.
    #[arg(long, default_value_t = 0.05)]
    busy_max: f64,
    /// After this long it goes on regardless; the cell will show its disturbance.
    #[arg(long, default_value_t = 20.0)]
    wait_seconds: f64,
}

/// Long enough for USER_HZ ticks to add up, short enough to lose no time on a quiet machine.
const SAMPLE: Duration = Duration::from_millis(200);

pub(crate) fn run(args: Args) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs_f64(args.wait_seconds);
    loop {
        let before = Reading::now()?;
        thread::sleep(SAMPLE);
        let busy = Reading::now()?.busy_share_since(&before);
        if busy <= args.busy_max {
            return Ok(());
        }
        if Instant::now() >= deadline {
            eprintln!("load: the machine stays busy ({:.0} %)", busy * 100.0);
            return Ok(());
        }
    }
}
