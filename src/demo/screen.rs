//! The live view: one frame from the history. Colours are the terminal's own, and nothing is told
//! by colour alone.

mod forms;
mod panels;
mod table;
#[cfg(test)]
mod tests;

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph};

use super::history::History;

/// Below this size there is only a word that it is too small.
const WIDTH_MIN: u16 = 72;
const HEIGHT_MIN: u16 = 16;

/// Wider lines are hard to follow with the eye.
const WIDTH_MAX: u16 = 132;

/// From this height on the table's rows stand apart.
const HEIGHT_AIRY: u16 = 28;

/// One colour for each backend.
const COLORS: [Color; 3] = [Color::Yellow, Color::Cyan, Color::Magenta];

/// Draws everything; `config` is the configuration's text while it is to be seen.
pub fn draw(frame: &mut Frame<'_>, history: &History, config: Option<&str>) {
    let whole = frame.area();
    let Some(look) = history.last() else { return };
    if whole.width < WIDTH_MIN || whole.height < HEIGHT_MIN {
        let words = format!(
            "http://{}\n\n{WIDTH_MIN}x{HEIGHT_MIN} or more, please",
            look.address
        );
        return frame.render_widget(Paragraph::new(words), whole);
    }
    let width = whole.width.min(WIDTH_MAX);
    let mut rest = Rect {
        x: (whole.width - width) / 2,
        width,
        ..whole
    };
    let airy = whole.height >= HEIGHT_AIRY;

    panels::header(frame, rest.take_top(2), look);
    if whole.height >= 24 {
        rest.take_top(1);
    }
    let keys = rest.take_bottom(1);
    let table_height = table::height(look.backends.len(), airy);
    table::render(frame, rest.take_top(table_height), history, look, airy);
    panels::clients(frame, rest.take_top(3), look);
    if rest.height >= 3 {
        panels::events(frame, rest, history, look);
    }
    panels::keys(frame, keys);
    if let Some(text) = config {
        panels::config(frame, whole, text);
    }
}

fn color(backend: usize) -> Color {
    COLORS[backend % COLORS.len()]
}

fn panel(title: impl Into<Line<'static>>) -> Block<'static> {
    Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().dim())
        .title(title)
}

/// A title is not as faint as the border it stands in.
fn title(words: &str) -> Line<'static> {
    Line::from(Span::raw(format!(" {words} ")).bold().not_dim())
}

/// Cutting areas off an area; what is not there is not cut.
trait Cut {
    fn take_top(&mut self, height: u16) -> Rect;
    fn take_bottom(&mut self, height: u16) -> Rect;
}

impl Cut for Rect {
    fn take_top(&mut self, height: u16) -> Rect {
        let height = height.min(self.height);
        let cut = Rect { height, ..*self };
        self.y += height;
        self.height -= height;
        cut
    }

    fn take_bottom(&mut self, height: u16) -> Rect {
        let height = height.min(self.height);
        self.height -= height;
        Rect {
            y: self.y + self.height,
            height,
            ..*self
        }
    }
}
