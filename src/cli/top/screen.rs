//! One frame of `lbd top`. Colours are the terminal's own, and nothing is told by colour alone.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Paragraph, Row, Table, TableState};

use super::view::View;
use crate::admin::state::{BackendState, Percentiles, PoolState};
use crate::admin::troubles::short;
use crate::balance::backend::State as Word;
use crate::cli::status::{bytes, count, remark};

/// More troubles are counted only.
const TROUBLES_MAX: usize = 5;
/// Characters of a backend's sparkline.
const BARS: usize = 20;

pub fn draw(frame: &mut Frame<'_>, view: &View) {
    let troubles = troubles(view);
    let areas = Layout::vertical([
        Constraint::Length(2),
        Constraint::Length(troubles.len() as u16),
        Constraint::Min(3),
        Constraint::Length(1),
    ]);
    let [head, wrong, table, keys] = areas.areas(frame.area());
    frame.render_widget(heading(view), head);
    frame.render_widget(Paragraph::new(troubles), wrong);
    let (rows, selected) = rows(view);
    let mut state = TableState::new().with_selected(selected);
    frame.render_stateful_widget(rows, table, &mut state);
    frame.render_widget(foot(view), keys);
}

fn heading(view: &View) -> Paragraph<'static> {
    let state = &view.state;
    let draining = if state.draining { ", draining" } else { "" };
    let first = format!(
        "lbd {}, pid {}, up {}{draining}",
        state.version,
        state.pid,
        short(state.uptime)
    );
    let second = vec![
        Span::raw(format!(
            "{} connections, {}/s  ",
            count(state.active.into()),
            count(view.all.rate())
        )),
        view.all.bars(BARS * 2).cyan(),
        Span::raw(format!(
            "  to backends {}/s, to clients {}/s",
            bytes(view.all.to_backend),
            bytes(view.all.to_client)
        )),
    ];
    Paragraph::new(vec![Line::from(first.bold()), Line::from(second)])
}

fn troubles(view: &View) -> Vec<Line<'static>> {
    let said = &view.state.troubles;
    let line = |text: String| Line::from(format!("! {text}").red().bold());
    let mut lines: Vec<_> = said.iter().take(TROUBLES_MAX).cloned().map(line).collect();
    if said.len() > TROUBLES_MAX {
        lines.push(line(format!("{} more", said.len() - TROUBLES_MAX)));
    }
    lines
}

/// The table, and which of its rows is selected.
fn rows(view: &View) -> (Table<'static>, Option<usize>) {
    let (mut rows, mut backends, mut selected) = (Vec::new(), 0, None);
    for pool in &view.state.pools {
        rows.push(pool_row(pool));
        for backend in &pool.backends {
            if backends == view.selected_row() {
                selected = Some(rows.len());
            }
            backends += 1;
            rows.push(backend_row(view, pool, backend));
        }
    }
    let titles = [
        "BACKEND", "STATE", "WEIGHT", "ACTIVE", "NEW/S", "IN/S", "OUT/S", "P50", "P99", "", "PROBE",
    ];
    let widths = [
        Constraint::Length(18),
        Constraint::Length(12),
        Constraint::Length(6),
        Constraint::Length(7),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(BARS as u16),
        Constraint::Fill(1),
    ];
    let table = Table::new(rows, widths)
        .header(Row::new(titles).dim())
        .row_highlight_style(Style::new().reversed());
    (table, selected)
}

fn pool_row(pool: &PoolState) -> Row<'static> {
    let waiting = match pool.queued {
        0 => String::new(),
        queued => format!("{queued} waiting"),
    };
    let cells = [
        pool.name.clone(),
        String::new(),
        String::new(),
        count(pool.active.into()),
    ];
    let mut cells: Vec<Cell<'static>> = cells.map(Cell::from).into();
    cells.extend(["", "", "", "", "", ""].map(Cell::from));
    cells.push(Cell::from(format!("{} {waiting}", pool.policy)));
    Row::new(cells).bold()
}

fn backend_row(view: &View, pool: &PoolState, backend: &BackendState) -> Row<'static> {
    let trend = view.trend(&pool.name, &backend.name);
    let first_byte = backend.recent.and_then(|recent| recent.first_byte);
    let shown = |of: fn(&Percentiles) -> std::time::Duration| match &first_byte {
        Some(percentiles) => millis(of(percentiles)),
        None => "-".to_owned(),
    };
    let state = match backend.state {
        Word::Up => backend.state.as_str().green(),
        Word::Down | Word::Ejected => backend.state.as_str().red().bold(),
        _ => backend.state.as_str().yellow(),
    };
    Row::new(vec![
        Cell::from(format!("  {}", backend.name)),
        Cell::from(state),
        Cell::from(backend.weight.to_string()),
        Cell::from(count(backend.active.into())),
        Cell::from(count(trend.rate())),
        Cell::from(bytes(trend.to_backend)),
        Cell::from(bytes(trend.to_client)),
        Cell::from(shown(|of| of.p50)),
        Cell::from(shown(|of| of.p99)),
        Cell::from(trend.bars(BARS)).style(Style::new().fg(Color::Cyan)),
        Cell::from(remark(backend)),
    ])
}

fn millis(time: std::time::Duration) -> String {
    let ms = time.as_secs_f64() * 1e3;
    match ms {
        ms if ms < 9.95 => format!("{ms:.1} ms"),
        ms if ms < 9999.5 => format!("{ms:.0} ms"),
        _ => format!("{:.0} s", ms / 1e3),
    }
}

fn foot(view: &View) -> Paragraph<'static> {
    match &view.message {
        Some(message) if view.is_lost => Paragraph::new(message.clone().red().bold()),
        Some(message) => Paragraph::new(message.clone().bold()),
        None => Paragraph::new(
            "↑↓ choose  d drain  r ready  m maintenance  q quit   P50, P99: first byte, the last \
             seconds"
                .dim(),
        ),
    }
}

#[cfg(test)]
mod tests;
