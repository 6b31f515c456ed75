//! The demo for pipes and dumb terminals: a line each second, and one for each change.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use super::End;
use super::history::{Event, History};
use super::stage::{Look, Stage};

/// How often changes are looked for.
const STEP: Duration = Duration::from_millis(100);

/// Writes the address, then what happens, until `end`. A reader who has gone ends it quietly.
///
/// Errors: `out` takes no more, or the load balancer has ended.
pub fn run(stage: &Stage, out: &mut impl Write, end: &End) -> io::Result<()> {
    match write_all(stage, out, end) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

fn write_all(stage: &Stage, out: &mut impl Write, end: &End) -> io::Result<()> {
    writeln!(out, "http://{}", stage.address())?;
    let mut history = History::default();
    let mut second = 0;
    let mut totals = Vec::new();
    while !end.is_due() {
        let look = stage.look()?;
        let (at, now) = (look.at, look.clone());
        history.take(look);
        for event in history.drain_events() {
            writeln!(out, "{}", event_line(&event, &now))?;
        }
        if at.as_secs() > second {
            second = at.as_secs();
            writeln!(out, "{}", second_line(second, &now, &totals))?;
            totals = now.backends.iter().map(|backend| backend.total).collect();
        }
        out.flush()?;
        thread::sleep(STEP);
    }
    writeln!(out, "{}", summary(&stage.look()?))?;
    out.flush()
}

/// `t=3s   amber up 41 …`: the number is how many requests the backend got in that second.
fn second_line(second: u64, look: &Look, before: &[u64]) -> String {
    let mut line = format!("{:<6}", format!("t={second}s"));
    for (index, backend) in look.backends.iter().enumerate() {
        let got = backend.total - before.get(index).copied().unwrap_or(0);
        let state = backend.state.as_str();
        let _infallible = write!(line, " {} {state:<9} {got:<5}", backend.name);
    }
    let _infallible = write!(line, " failed {}", look.seen.failed);
    line
}

fn event_line(event: &Event, look: &Look) -> String {
    let mut line = format!("{:<6} event", format!("t={}s", event.at.as_secs()));
    if let Some(backend) = event.backend.and_then(|index| look.backends.get(index)) {
        let _infallible = write!(line, " {}", backend.name);
    }
    let _infallible = write!(line, " {}", event.text.replace('→', "->"));
    if !event.detail.is_empty() {
        let _infallible = write!(line, ": {}", event.detail);
    }
    line
}

/// How it went, on one line.
pub fn summary(look: &Look) -> String {
    let mut line = format!(
        "end t={}s answered {} failed {}",
        look.at.as_secs(),
        look.seen.answered,
        look.seen.failed
    );
    for backend in &look.backends {
        let _infallible = write!(line, " {} {}", backend.name, backend.total);
    }
    for (name, time) in [("p50", look.seen.p50), ("p99", look.seen.p99)] {
        if let Some(time) = time {
            let _infallible = write!(line, " {name} {:.2}ms", time.as_secs_f64() * 1e3);
        }
    }
    line
}
