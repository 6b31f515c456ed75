//! What stands around the table: address, what the clients see, what changed, keys, configuration.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Clear, Padding, Paragraph};

use super::super::history::{Event, History, Tone};
use super::super::stage::Look;
use super::{color, forms, panel, title};

pub fn header(frame: &mut Frame<'_>, area: Rect, look: &Look) {
    let url = format!("http://{}", look.address);
    let first = Line::from(vec![
        Span::raw(" lbd demo ").bold().reversed(),
        Span::raw("  "),
        Span::raw(url.clone()).bold().underlined(),
    ]);
    let up = Line::from(Span::raw(format!("running {} ", forms::clock(look.at))).dim());
    let second = Line::from(vec![
        Span::raw(" try it from another terminal: ").dim(),
        Span::raw(format!("curl {url}")),
    ]);
    frame.render_widget(up.right_aligned(), area);
    frame.render_widget(Paragraph::new(vec![first, second]), area);
}

pub fn clients(frame: &mut Frame<'_>, area: Rect, look: &Look) {
    let block = panel(title("what the clients see")).padding(Padding::horizontal(1));
    let seen = look.seen;
    let (mark, tone) = if seen.failed == 0 {
        ('✔', Color::Green)
    } else {
        ('✖', Color::Red)
    };
    let latency = |time| match time {
        Some(time) => forms::short(time),
        None => "–".to_owned(),
    };
    let line = Line::from(vec![
        Span::raw(forms::count(seen.answered)).bold(),
        Span::raw(" answered   ").dim(),
        Span::styled(format!("{mark} {}", forms::count(seen.failed)), tone).bold(),
        Span::raw(" failed   ").dim(),
        Span::raw("sending ").dim(),
        Span::raw(format!("{}/s", look.rate)).bold(),
        Span::raw("   p50 ").dim(),
        Span::raw(latency(seen.p50)).bold(),
        Span::raw("   p99 ").dim(),
        Span::raw(latency(seen.p99)).bold(),
    ]);
    let inner = block.inner(area);
    frame.render_widget(block, area);
    frame.render_widget(line, inner);
}

pub fn events(frame: &mut Frame<'_>, area: Rect, history: &History, look: &Look) {
    let block = panel(title("what happened")).padding(Padding::horizontal(1));
    let inner = block.inner(area);
    frame.render_widget(block, area);
    let fit = usize::from(inner.height);
    let lines: Vec<_> = match history.events().len() {
        0 => vec![Line::from("nothing yet: kill a backend with 1, 2 or 3").dim()],
        // The latest is on top: it stays where the eye is.
        _ => history
            .events()
            .rev()
            .take(fit)
            .map(|event| event_line(event, look))
            .collect(),
    };
    frame.render_widget(Paragraph::new(lines), inner);
}

fn event_line(event: &Event, look: &Look) -> Line<'static> {
    let (mark, style) = match event.tone {
        Tone::Good => ("●", Style::new().fg(Color::Green)),
        Tone::Bad => ("▲", Style::new().fg(Color::Red)),
        Tone::Done => ("›", Style::new().bold()),
    };
    let mut spans = vec![
        Span::raw(format!("{:>5} ", forms::clock(event.at))).dim(),
        Span::styled(format!("{mark} "), style),
    ];
    if let Some((index, backend)) = event
        .backend
        .and_then(|index| Some((index, look.backends.get(index)?)))
    {
        let own = Style::new().fg(color(index)).bold();
        spans.push(Span::styled(format!("{:<6} ", backend.name), own));
    }
    spans.push(Span::raw(event.text.clone()));
    if !event.detail.is_empty() {
        spans.push(Span::raw(format!("  {}", event.detail)).dim());
    }
    Line::from(spans)
}

pub fn keys(frame: &mut Frame<'_>, area: Rect) {
    let keys = [
        ("1 2 3", "kill, revive"),
        ("+ -", "rate"),
        ("p", "policy"),
        ("c", "config"),
        ("q", "quit"),
    ];
    let mut spans = vec![Span::raw(" ")];
    for (key, what) in keys {
        spans.push(Span::raw(format!(" {key} ")).bold().reversed());
        spans.push(Span::raw(format!(" {what}  ")));
    }
    frame.render_widget(Line::from(spans), area);
}

/// In the middle, above everything else.
pub fn config(frame: &mut Frame<'_>, whole: Rect, text: &str) {
    let lines: Vec<_> = text.lines().map(toml_line).collect();
    let widest = text.lines().map(str::len).max().unwrap_or(0) as u16;
    let width = (widest + 4).min(whole.width);
    let height = (lines.len() as u16 + 2).min(whole.height);
    let area = Rect {
        x: whole.x + (whole.width - width) / 2,
        y: whole.y + (whole.height - height) / 2,
        width,
        height,
    };
    let hint = Line::from(vec![
        Span::raw(" c").bold(),
        Span::raw(" closes; this is all there is to it "),
    ]);
    let block = panel(title("configuration"))
        .border_style(Style::new())
        .title_bottom(hint.right_aligned())
        .padding(Padding::horizontal(1));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn toml_line(line: &str) -> Line<'static> {
    if line.starts_with('[') {
        return Line::from(line.to_owned()).cyan().bold();
    }
    match line.split_once(" = ") {
        Some((key, value)) if !key.starts_with(' ') => Line::from(vec![
            Span::raw(key.to_owned()),
            Span::raw(" = ").dim(),
            Span::raw(value.to_owned()).green(),
        ]),
        _ => Line::from(line.to_owned()).green(),
    }
}
