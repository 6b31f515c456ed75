//! The process log: what the program itself has to say, on stderr; lossy rather than blocking.

use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::io::Write;
use std::os::fd::AsFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::SystemTime;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::{Registry, filter::LevelFilter, reload};

use crate::base::wall::Stamp;
use crate::observe::form::{Format, push_json, push_prose, push_text};

/// The least important level that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Starts the log; called again, by a reload, it changes level and format.
pub fn init(level: Level, format: Format) {
    IS_JSON.store(format == Format::Json, Ordering::Relaxed);
    IS_DEBUGGING.store(level >= Level::Debug, Ordering::Relaxed);
    let handle = LEVEL.get_or_init(|| {
        let (filter, handle) = reload::Layer::new(LevelFilter::from(level));
        let subscriber = Registry::default().with(filter).with(Lines);
        // Refused only when a test has installed its own, which then sees the events.
        let _refused = tracing::subscriber::set_global_default(subscriber);
        handle
    });
    // Fails only when the subscriber is gone, and the global one never goes.
    let _refused = handle.reload(LevelFilter::from(level));
}

/// Lines dropped because stderr did not take them.
pub fn lost() -> u64 {
    LOST.load(Ordering::Relaxed)
}

static LEVEL: OnceLock<reload::Handle<LevelFilter, Registry>> = OnceLock::new();
static IS_DEBUGGING: AtomicBool = AtomicBool::new(false);
static IS_JSON: AtomicBool = AtomicBool::new(false);
static LOST: AtomicU64 = AtomicU64::new(0);
static LOST_REPORTED: AtomicU64 = AtomicU64::new(0);
/// The last line that was written has no end.
static IS_TORN: AtomicBool = AtomicBool::new(false);

impl From<Level> for LevelFilter {
    fn from(level: Level) -> Self {
        match level {
            Level::Error => LevelFilter::ERROR,
            Level::Warn => LevelFilter::WARN,
            Level::Info => LevelFilter::INFO,
            Level::Debug => LevelFilter::DEBUG,
            Level::Trace => LevelFilter::TRACE,
        }
    }
}

/// Turns events into lines on stderr.
struct Lines;

impl<S: Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // The resolver has a line for every forged packet; what came of it we tell ourselves.
        let of_resolver = event.metadata().target().starts_with("hickory");
        if of_resolver && !IS_DEBUGGING.load(Ordering::Relaxed) {
            return;
        }
        let format = if IS_JSON.load(Ordering::Relaxed) {
            Format::Json
        } else {
            Format::Text
        };
        LINE.with(|line| {
            // Borrowed already when a value's `Debug` logs: that inner event goes.
            let Ok(mut line) = line.try_borrow_mut() else {
                return;
            };
            let (bytes, stamp) = &mut *line;
            let time = stamp.render(SystemTime::now());
            let lost = LOST.load(Ordering::Relaxed);
            let lost_new = lost - LOST_REPORTED.load(Ordering::Relaxed).min(lost);
            bytes.clear();
            if IS_TORN.load(Ordering::Relaxed) {
                bytes.push(b'\n');
            }
            if lost_new > 0 {
                let message = format!("{lost_new} log lines lost");
                push_begin(bytes, format, time, tracing::Level::WARN, &message);
                push_end(bytes, format);
            }
            push_event(bytes, format, time, event);
            let outcome = write_lossy(&std::io::stderr(), bytes);
            match outcome {
                Outcome::Written => LOST_REPORTED.store(lost, Ordering::Relaxed),
                Outcome::Cut | Outcome::Lost => _ = LOST.fetch_add(1, Ordering::Relaxed),
            }
            if outcome != Outcome::Lost {
                IS_TORN.store(outcome == Outcome::Cut, Ordering::Relaxed);
            }
            bytes.shrink_to(LINE_BYTES_KEPT);
        });
    }
}

thread_local! {
    static LINE: RefCell<(Vec<u8>, Stamp)> = const { RefCell::new((Vec::new(), Stamp::new())) };
}

const LINE_BYTES_KEPT: usize = 4096;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Written,
    /// Only its beginning was.
    Cut,
    Lost,
}

/// Writes the line if that does not block. The rest of a line longer than [`PIECE_BYTES_MAX`] waits
/// a moment for its place.
fn write_lossy(target: &impl AsFd, line: &[u8]) -> Outcome {
    let mut patience = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    let mut failure = Outcome::Lost;
    for piece in line.chunks(PIECE_BYTES_MAX) {
        let mut wanted = [PollFd::new(target, PollFlags::OUT)];
        let is_ready = poll(&mut wanted, Some(&patience)).is_ok_and(|ready| ready > 0);
        match is_ready.then(|| rustix::io::write(target, piece)) {
            Some(Ok(written)) if written == piece.len() => failure = Outcome::Cut,
            Some(Ok(1..)) => return Outcome::Cut,
            _ => return failure,
        }
        patience.tv_nsec = 10_000_000;
    }
    Outcome::Written
}

/// A pipe that polls as writable takes so many bytes without blocking, in one piece (pipe(7)).
const PIECE_BYTES_MAX: usize = 4096;

fn push_event(out: &mut Vec<u8>, format: Format, time: &[u8; 24], event: &Event<'_>) {
    let mut fields = Fields {
        message: String::new(),
        rest: Vec::new(),
        format,
    };
    event.record(&mut fields);
    let level = *event.metadata().level();
    // Which part of the program speaks matters to those who look for its bugs only.
    let target = (level > tracing::Level::INFO).then(|| event.metadata().target());
    push_begin(out, format, time, level, &fields.message);
    out.extend_from_slice(&fields.rest);
    if let Some(target) = target {
        match format {
            Format::Text => {
                out.extend_from_slice(b" target=");
                push_text(out, target);
            }
            Format::Json => {
                out.extend_from_slice(b",\"target\":");
                push_json(out, target);
            }
        }
    }
    push_end(out, format);
}

fn push_begin(
    out: &mut Vec<u8>,
    format: Format,
    time: &[u8; 24],
    level: tracing::Level,
    message: &str,
) {
    match format {
        Format::Text => {
            out.extend_from_slice(time);
            let _infallible = write!(out, " {level:<5} ");
            push_prose(out, message);
        }
        Format::Json => {
            out.extend_from_slice(b"{\"time\":\"");
            out.extend_from_slice(time);
            let _infallible = write!(out, "\",\"level\":\"{}\",\"message\":", word(level));
            push_json(out, message);
        }
    }
}

fn push_end(out: &mut Vec<u8>, format: Format) {
    out.extend_from_slice(match format {
        Format::Text => b"\n",
        Format::Json => b"}\n",
    });
}

/// The level as the configuration spells it.
fn word(level: tracing::Level) -> &'static str {
    match level {
        tracing::Level::ERROR => "error",
        tracing::Level::WARN => "warn",
        tracing::Level::INFO => "info",
        tracing::Level::DEBUG => "debug",
        tracing::Level::TRACE => "trace",
    }
}

/// An event's message, and its other fields as they stand in the line.
struct Fields {
    message: String,
    rest: Vec<u8>,
    format: Format,
}

impl Fields {
    fn text(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
            return;
        }
        self.key(field);
        match self.format {
            Format::Text => push_text(&mut self.rest, value),
            Format::Json => push_json(&mut self.rest, value),
        }
    }

    /// A number or a bool, which is the same in both forms.
    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.key(field);
        let _infallible = write!(self.rest, "{value}");
    }

    fn key(&mut self, field: &Field) {
        let _infallible = match self.format {
            Format::Text => write!(self.rest, " {}=", field.name()),
            Format::Json => write!(self.rest, ",\"{}\":", field.name()),
        };
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.text(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = String::new();
        let _infallible = write!(text, "{value:?}");
        self.text(field, &text);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Collects lines instead of writing them.
    struct Collect(Arc<Mutex<Vec<u8>>>, Format);

    impl<S: Subscriber> Layer<S> for Collect {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            // The resolver has a line for every forged packet; what came of it we tell ourselves.
            let of_resolver = event.metadata().target().starts_with("hickory");
            if of_resolver && !IS_DEBUGGING.load(Ordering::Relaxed) {
                return;
            }
            push_event(
                &mut self.0.lock().unwrap(),
                self.1,
                b"2026-01-02T03:04:05.678Z",
                event,
            );
        }
    }

    fn lines(format: Format, log: impl FnOnce()) -> String {
        let out = Arc::new(Mutex::new(Vec::new()));
        let layer = Collect(Arc::clone(&out), format);
        tracing::subscriber::with_default(Registry::default().with(layer), log);
        let out = out.lock().unwrap().clone();
        String::from_utf8(out).unwrap()
    }

    fn some_events() {
        tracing::info!("reload done");
        tracing::warn!(pool = "web", up = 2, ok = true, why = ?Some("x y"), "{} lines", 3);
        tracing::error!(file = "a\n\x1b[1m", "cannot read \"a\n\x1b[1m\" now");
        tracing::debug!(target: "lbd::probe", "detail");
    }

    #[test]
    fn text_lines_are_time_level_message_and_fields() {
        assert_eq!(
            lines(Format::Text, some_events),
            concat!(
                "2026-01-02T03:04:05.678Z INFO  reload done\n",
                "2026-01-02T03:04:05.678Z WARN  3 lines pool=web up=2 ok=true ",
                "why=\"Some(\\\"x y\\\")\"\n",
                "2026-01-02T03:04:05.678Z ERROR cannot read \"a\\n\\x1b[1m\" now ",
                "file=\"a\\n\\x1b[1m\"\n",
                "2026-01-02T03:04:05.678Z DEBUG detail target=lbd::probe\n",
            )
        );
    }

    #[test]
    fn json_lines_hold_the_fields_beside_the_message() {
        assert_eq!(
            lines(Format::Json, some_events),
            concat!(
                r#"{"time":"2026-01-02T03:04:05.678Z","level":"info","message":"reload done"}"#,
                "\n",
                r#"{"time":"2026-01-02T03:04:05.678Z","level":"warn","message":"3 lines","#,
                r#""pool":"web","up":2,"ok":true,"why":"Some(\"x y\")"}"#,
                "\n",
                r#"{"time":"2026-01-02T03:04:05.678Z","level":"error","message":"#,
                r#""cannot read \"a\n\u001b[1m\" now","file":"a\n\u001b[1m"}"#,
                "\n",
                r#"{"time":"2026-01-02T03:04:05.678Z","level":"debug","message":"detail","#,
                r#""target":"lbd::probe"}"#,
                "\n",
            )
        );
    }

    #[test]
    fn the_level_follows_a_second_start() {
        for level in [Level::Error, Level::Debug, Level::Error] {
            init(level, Format::Text);
            assert!(tracing::enabled!(tracing::Level::ERROR));
            assert_eq!(
                tracing::enabled!(tracing::Level::DEBUG),
                level == Level::Debug
            );
        }
    }

    #[test]
    fn a_full_or_closed_stderr_costs_the_line_and_nothing_else() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let line = [b'x'; 6000];
        let mut tries = 0;
        let mut outcome = Outcome::Written;
        while outcome != Outcome::Lost {
            outcome = write_lossy(&writer, &line);
            tries += 1;
            assert!(tries < 1_000_000, "a pipe without end");
        }
        drop(reader);
        assert_eq!(write_lossy(&writer, &line), Outcome::Lost);
    }
}
