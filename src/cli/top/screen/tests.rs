//! Frames as text.

use std::time::{Duration, Instant};

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::admin::state::State;

fn state(total: u64, down: bool) -> State {
    let (word, troubles) = match down {
        true => ("down", r#"["web/b is down: connection refused"]"#),
        false => ("up", "[]"),
    };
    let to_client = total * 1000;
    let backend = |name: &str, word: &str| {
        format!(
            r#"{{"name":"{name}","address":"10.0.0.1:80","weight":1,"priority":0,
            "max_connections":0,"state":"{word}","active":2,"total":{total},"failures":1,
            "bytes_to_backend":{total},"bytes_to_client":{to_client},
            "last_probe":{{"ok":true,"detail":"connected","ms":1.5}},"drain":null,"change":null,
            "recent":{{"window_s":10,"connections_per_s":5,"connect":null,"session":null,"queue":null,
            "first_byte":{{"p50_ms":1.25,"p99_ms":120}}}}}}"#
        )
    };
    let text = format!(
        r#"{{"version":"1.2.3","pid":77,"uptime_s":3700,"draining":false,"workers":2,"active":4,
        "max_connections":9,"panics":0,"troubles":{troubles},
        "reloads":{{"succeeded":0,"failed":0,"at":null,"error":null}},
        "listeners":[{{"name":"in","bind":["127.0.0.1:1"],"active":4,"max_connections":0,
        "total":{total},"handshakes":{{"full_12":0,"resumed_12":0,"full_13":0,"resumed_13":0,
        "failed":0}},"certificates":[],"certificate_errors":0,"ended":{{}},"ended_by_pool":{{}},
        "accept_errors":{{}},"handshake_failures":{{}}}}],
        "pools":[{{"name":"web","policy":"round_robin","active":4,"max_connections":0,"queued":3,
        "retries_refused":0,"discovery":[],"leaving":[],"removed":[],
        "backends":[{},{}]}}]}}"#,
        backend("a", "up"),
        backend("b", word)
    );
    serde_json::from_str(&text).unwrap()
}

fn frame(view: &View) -> String {
    let mut terminal = Terminal::new(TestBackend::new(140, 12)).unwrap();
    terminal.draw(|frame| draw(frame, view)).unwrap();
    terminal.backend().to_string()
}

#[test]
fn a_frame_shows_rates_latencies_and_what_is_wrong() {
    let begin = Instant::now();
    let mut view = View::new(state(0, false), begin);
    view.take(state(1000, false), begin + Duration::from_secs(1));
    view.take(state(3000, true), begin + Duration::from_secs(2));
    let text = frame(&view);
    for words in [
        "lbd 1.2.3, pid 77, up 1h 1m",
        "4 connections, 2 000/s",
        "! web/b is down: connection refused",
        "round_robin 3 waiting",
        "2 000",
        "2.0 MB",
        "1.2 ms",
        "120 ms",
        "ok, 1.5 ms",
        "▅█",
    ] {
        assert!(text.contains(words), "no {words:?} in\n{text}");
    }
}

#[test]
fn the_selection_stays_on_a_backend_there_is() {
    let mut view = View::new(state(0, false), Instant::now());
    let selected = |view: &View| view.selected().unwrap().to_string();
    assert_eq!(selected(&view), "web/a");
    view.move_by(9);
    assert_eq!(selected(&view), "web/b");
    let mut newer = state(0, false);
    newer.pools[0].backends.truncate(1);
    view.take(newer, Instant::now());
    assert_eq!(selected(&view), "web/a");
    let mut empty = state(0, false);
    empty.pools.clear();
    view.take(empty, Instant::now());
    assert_eq!(view.selected(), None);
    frame(&view);
}

#[test]
fn a_process_that_does_not_answer_is_said_to_be_lost_until_it_does() {
    let mut view = View::new(state(0, false), Instant::now());
    view.lose(&"no lbd answers\nhint");
    assert!(frame(&view).contains("what is shown is old: no lbd answers"));
    view.take(state(0, false), Instant::now());
    assert!(frame(&view).contains("d drain"));
}

#[test]
fn counters_that_begin_anew_are_no_rate() {
    let begin = Instant::now();
    let mut view = View::new(state(5000, false), begin);
    view.take(state(10, false), begin + Duration::from_secs(1));
    assert_eq!(view.all.rate(), 0);
}
