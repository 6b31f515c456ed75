//! Looks as a demo would give them, and what is told of them.

use super::super::traffic::Seen;
use super::*;

fn look(at_ms: u64, totals: [u64; 2], failed: u64) -> Look {
    let backend = |(index, total): (usize, u64)| BackendLook {
        name: ["amber", "birch"][index].to_owned(),
        address: ([127, 0, 0, 1], 40001 + index as u16).into(),
        is_alive: true,
        state: BackendWord::Up,
        active: 0,
        total,
        failures: 0,
        last_probe: None,
    };
    Look {
        at: Duration::from_millis(at_ms),
        address: ([127, 0, 0, 1], 8080).into(),
        policy: "round_robin".to_owned(),
        rate: 40,
        backends: totals.into_iter().enumerate().map(backend).collect(),
        seen: Seen {
            failed,
            ..Seen::default()
        },
    }
}

fn told(history: &mut History) -> Vec<String> {
    let line = |event: Event| format!("{}: {}", event.text, event.detail);
    history.drain_events().map(line).collect()
}

#[test]
fn rates_shares_and_the_course_come_from_the_totals() {
    let mut history = History::default();
    for step in 0..=40 {
        history.take(look(step * 100, [step * 3, step], 0));
    }
    assert_eq!(history.rate(0).round(), 30.0);
    assert_eq!(history.share(1), 0.25);
    assert_eq!(history.course(0).collect::<Vec<_>>(), [30, 30, 30, 30]);
    assert_eq!(told(&mut history), [""; 0]);
}

#[test]
fn a_kill_is_told_with_what_it_cost() {
    for (failed, end) in [
        (
            0,
            "no request failed: every refused connect was retried elsewhere",
        ),
        (1, "1 request failed: under way in it"),
    ] {
        let mut history = History::default();
        history.take(look(0, [0, 0], 0));
        let mut killed = look(1000, [10, 10], 0);
        killed.backends[1].is_alive = false;
        history.take(killed.clone());
        killed.at = Duration::from_millis(1250);
        killed.backends[1].state = BackendWord::Ejected;
        killed.seen.failed = failed;
        history.take(killed.clone());
        killed.at = Duration::from_millis(3000);
        history.take(killed);
        let lines = ["killed: ", "up → ejected: within 0.3 s of the kill", end];
        assert_eq!(told(&mut history), lines);
    }
}

#[test]
fn failures_that_go_on_are_told_once_a_second() {
    let mut history = History::default();
    for step in 0..=50 {
        history.take(look(10_000 + step * 100, [0, 0], step));
    }
    assert!((5..=6).contains(&told(&mut history).len()));
}
