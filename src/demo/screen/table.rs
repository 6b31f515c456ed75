//! The table of backends: two lines for each, and the course of its requests beside both.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};

use super::super::history::History;
use super::super::stage::{BackendLook, Look};
use super::{Cut, color, forms, panel, title};
use crate::balance::backend::State;

/// Height of the panel.
pub fn height(backends: usize, airy: bool) -> u16 {
    let rows = backends as u16;
    3 + rows * 2 + if airy { rows } else { 0 }
}

pub fn render(frame: &mut Frame<'_>, area: Rect, history: &History, look: &Look, airy: bool) {
    let block = panel(title("backends"));
    let policy = Line::from(vec![
        Span::raw(" policy ").dim(),
        Span::raw(look.policy.clone()).bold().not_dim(),
        Span::raw(" "),
    ]);
    let block = block.title_top(policy.right_aligned());
    let mut inner = block.inner(area);
    frame.render_widget(block, area);
    let columns = Columns::for_width(inner.width);
    frame.render_widget(columns.heads(), inner.take_top(1));
    let most = (0..look.backends.len())
        .flat_map(|one| history.course(one))
        .max()
        .unwrap_or(0);
    for (index, backend) in look.backends.iter().enumerate() {
        if airy {
            inner.take_top(1);
        }
        let mut row = inner.take_top(2);
        course(frame, columns.course_in(row), history, index, most);
        row.width = columns.course_at;
        frame.render_widget(columns.first(history, index, backend), row.take_top(1));
        frame.render_widget(second(index, backend), row);
    }
}

/// Widths that depend on the terminal's.
struct Columns {
    bar: usize,
    course_at: u16,
    course: u16,
}

impl Columns {
    /// Key, name, state, active, total and rate, with the space around them.
    const FIXED: u16 = 3 + 8 + 13 + 7 + 9 + 8 + 2;
    const PERCENT: u16 = 5;

    fn for_width(width: u16) -> Columns {
        let free = width.saturating_sub(Self::FIXED + Self::PERCENT + 3);
        let bar = (free / 3).clamp(4, 24);
        let course = free.saturating_sub(bar);
        Columns {
            bar: usize::from(bar),
            course_at: width.saturating_sub(course + 1),
            course,
        }
    }

    fn heads(&self) -> Line<'static> {
        let bar = self.bar + usize::from(Self::PERCENT);
        let course = match self.course {
            0..12 => String::new(),
            seconds => format!("last {seconds} s"),
        };
        Line::from(format!(
            " # {:<8}{:<13}{:>7}{:>9}{:>8}  {:<bar$} {course:>width$}",
            "backend",
            "state",
            "active",
            "total",
            "req/s",
            "share",
            width = usize::from(self.course),
        ))
        .dim()
    }

    fn first(&self, history: &History, index: usize, backend: &BackendLook) -> Line<'static> {
        let share = history.share(index);
        let (filled, left) = forms::bar(share, self.bar);
        let (symbol, tone) = face(backend.state);
        let own = Style::new().fg(color(index));
        Line::from(vec![
            Span::raw(format!(" {} ", index + 1)).bold(),
            Span::styled(format!("{:<8}", backend.name), own).bold(),
            Span::styled(format!("{symbol} {:<11}", backend.state.as_str()), tone).bold(),
            Span::raw(format!("{:>7}", backend.active)),
            Span::raw(format!("{:>9}", forms::count(backend.total))),
            Span::raw(format!("{:>8.1}", history.rate(index))).bold(),
            Span::raw("  "),
            Span::styled(filled, own),
            Span::raw(left).dim(),
            Span::raw(format!("{:>4.0}%", share * 100.0)),
        ])
    }

    fn course_in(&self, row: Rect) -> Rect {
        Rect {
            x: row.x + self.course_at,
            width: self.course.min(row.width),
            ..row
        }
    }
}

/// A state's symbol and colour.
pub fn face(state: State) -> (char, Color) {
    match state {
        State::Up => ('●', Color::Green),
        State::SlowStart => ('◔', Color::Green),
        State::Down => ('✖', Color::Red),
        State::Ejected => ('▲', Color::Red),
        State::Drain | State::Maintenance => ('◼', Color::Yellow),
        State::Unchecked => ('○', Color::Yellow),
    }
}

/// Where it is, what the last probe said, what was refused, and what the user can do about it.
fn second(index: usize, backend: &BackendLook) -> Line<'static> {
    let mut spans = vec![Span::raw(format!("   :{:<7}", backend.address.port())).dim()];
    spans.push(match &backend.last_probe {
        None => Span::raw(cell("not probed yet")).dim(),
        Some(probe) if probe.passed => Span::raw(cell(&format!(
            "{} in {}",
            probe.detail,
            forms::short(probe.took)
        )))
        .dim(),
        Some(probe) => Span::styled(cell(&probe.detail), Color::Red),
    });
    let refused = match backend.failures {
        0 => String::new(),
        some => format!("{} refused", forms::count(some)),
    };
    spans.push(Span::raw(format!("{refused:>13}  ")).dim());
    if !backend.is_alive {
        spans.push(Span::raw((index + 1).to_string()).bold());
        spans.push(Span::raw(" revives it"));
    }
    Line::from(spans)
}

/// Text of the width from the state to the total.
fn cell(text: &str) -> String {
    const WIDTH: usize = 24;
    match text.char_indices().nth(WIDTH) {
        None => format!("{text:<WIDTH$}"),
        Some(_) => text.chars().take(WIDTH - 1).chain(['…']).collect(),
    }
}

/// The latest second is on the right; seconds without a request are a thin line.
fn course(frame: &mut Frame<'_>, area: Rect, history: &History, index: usize, most: u64) {
    let width = usize::from(area.width);
    let mut values: Vec<u64> = history.course(index).rev().take(width).collect();
    values.reverse();
    let pad = " ".repeat(width - values.len());
    let rows = forms::course(&values, most, usize::from(area.height));
    let last = rows.len().saturating_sub(1);
    let own = Style::new().fg(color(index));
    for (at, row) in rows.into_iter().enumerate() {
        let mut spans = vec![Span::raw(pad.clone())];
        spans.extend(row.chars().map(|cell| match cell {
            ' ' if at == last => Span::raw("▁").dim(),
            cell => Span::styled(cell.to_string(), own),
        }));
        let line = Rect {
            y: area.y + at as u16,
            height: 1,
            ..area
        };
        frame.render_widget(Line::from(spans), line);
    }
}
