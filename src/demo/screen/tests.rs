//! Frames as text, at several sizes.

use std::time::Duration;

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::super::history::History;
use super::super::stage::{BackendLook, Look, NAMES};
use super::super::traffic::Seen;
use super::*;
use crate::admin::state::LastProbe;
use crate::balance::backend::State;

fn look(at_ms: u64, killed: Option<usize>) -> Look {
    let backend = |(index, name): (usize, &&str)| {
        let is_alive = killed != Some(index);
        let (state, detail) = if is_alive {
            (State::Up, "HTTP 200")
        } else {
            (State::Down, "connection refused")
        };
        BackendLook {
            name: (*name).to_owned(),
            address: ([127, 0, 0, 1], 40001 + index as u16).into(),
            is_alive,
            state,
            active: 2,
            total: at_ms / 75,
            failures: if is_alive { 0 } else { 3 },
            last_probe: Some(LastProbe {
                passed: is_alive,
                detail: detail.to_owned(),
                took: Duration::from_micros(420),
            }),
        }
    };
    Look {
        at: Duration::from_millis(at_ms),
        address: ([127, 0, 0, 1], 8080).into(),
        policy: "least_connections".to_owned(),
        rate: 40,
        backends: NAMES.iter().enumerate().map(backend).collect(),
        seen: Seen {
            answered: at_ms / 25,
            failed: 0,
            p50: Some(Duration::from_micros(420)),
            p99: Some(Duration::from_micros(1700)),
        },
    }
}

/// Half an hour, at the end of which the second backend is killed.
fn history() -> History {
    let mut history = History::default();
    for step in 0..400 {
        history.take(look(1_800_000 + step * 125, (step > 340).then_some(1)));
    }
    history
}

fn frame(width: u16, height: u16, config: Option<&str>) -> Vec<String> {
    let history = history();
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal
        .draw(|frame| draw(frame, &history, config))
        .unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect();
    (0..height).map(row).collect()
}

#[test]
fn the_usual_terminal_shows_every_backend_with_its_state() {
    let rows = frame(80, 24, None);
    let text = rows.join("\n");
    assert!(rows[0].contains("http://127.0.0.1:8080"), "{text}");
    for (name, state) in [("amber", "● up"), ("birch", "✖ down"), ("cedar", "● up")] {
        let row = rows.iter().find(|row| row.contains(name)).expect(name);
        assert!(row.contains(state), "{text}");
        assert!(row.contains("24 665"), "{text}");
    }
    for part in [
        "policy least_connections",
        "connection refused",
        "3 refused",
        "2 revives it",
        "HTTP 200 in 0.42 ms",
        "✔ 0 failed",
        "p50 0.42 ms",
        "p99 1.7 ms",
        "birch  killed",
        "up → down",
        "q  quit",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
}

#[test]
fn panels_are_closed_on_the_right_at_every_width() {
    for width in [WIDTH_MIN, 80, 97, 120, WIDTH_MAX] {
        for row in frame(width, 30, None) {
            let (first, last) = (row.chars().next().unwrap(), row.trim_end().chars().last());
            match first {
                '│' => assert!(row.ends_with('│'), "{width}: {row}"),
                '╭' => assert!(row.ends_with('╮'), "{width}: {row}"),
                '╰' => assert!(row.ends_with('╯'), "{width}: {row}"),
                _ => assert!(!matches!(last, Some('│' | '╮' | '╯')), "{width}: {row}"),
            }
        }
    }
}

#[test]
fn no_size_breaks_the_frame() {
    let config = "[[listener]]\nname = \"demo\"\n".repeat(30);
    for width in [0, 1, 20, WIDTH_MIN - 1, WIDTH_MIN, 80, 300] {
        for height in [0, 1, 2, HEIGHT_MIN - 1, HEIGHT_MIN, 17, 24, 28, 90] {
            frame(width, height, None);
            frame(width, height, Some(&config));
        }
    }
    assert!(frame(40, 10, None)[0].contains("http://127.0.0.1:8080"));
}

#[test]
fn the_configuration_lies_above_the_rest_and_fits_the_usual_terminal() {
    let rows = frame(80, 24, Some("[[listener]]\nname = \"demo\"\n"));
    assert!(rows.iter().any(|row| row.contains("│ name = \"demo\"")));
}
