//! The README's picture: runs `lbd demo` for a while, kills a backend, and writes the frame that a
//! terminal would show then as SVG to stdout: `cargo run --example picture > scripts/demo.svg`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use lbd::demo::DemoOptions;
use lbd::demo::history::History;
use lbd::demo::screen;
use lbd::demo::stage::Stage;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::{Buffer, Cell};
use ratatui::style::{Color, Modifier};

/// The picture's size in cells.
const COLUMNS: u16 = 100;
const ROWS: u16 = 28;

/// A cell in units of the picture.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
/// Space around the cells, and for the window's title bar.
const MARGIN: f64 = 14.0;
const BAR: f64 = 30.0;

const PAPER: &str = "#0d1117";
const INK: &str = "#e6edf3";
const FAINT: &str = "#7d8590";

fn main() -> io::Result<()> {
    let options = DemoOptions {
        bind: None,
        policy: "round_robin".to_owned(),
        seconds: None,
    };
    let stage = Stage::start(&options)?;
    let mut history = History::default();
    // Seconds after the start, and the backend killed or revived then.
    let mut deeds = [(6, 2), (12, 2), (24, 1)].into_iter().peekable();
    loop {
        let look = stage.look()?;
        let at = look.at.as_secs();
        history.take(look);
        if let Some((_, backend)) = deeds.next_if(|(due, _)| at >= *due) {
            stage.toggle(backend)?;
        }
        if at >= 32 {
            break;
        }
        thread::sleep(Duration::from_millis(125));
    }
    let mut terminal = Terminal::new(TestBackend::new(COLUMNS, ROWS)).map_err(io::Error::other)?;
    terminal
        .draw(|frame| screen::draw(frame, &history, None))
        .map_err(io::Error::other)?;
    io::stdout().write_all(svg(terminal.backend().buffer()).as_bytes())
}

fn svg(buffer: &Buffer) -> String {
    let width = f64::from(COLUMNS) * WIDTH + 2.0 * MARGIN;
    let height = f64::from(ROWS) * HEIGHT + MARGIN + BAR;
    let mut out = format!(
        r##"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0} {height:.0}" role="img" aria-label="lbd demo: a table of three backends, one of them killed, and no request failed" font-family="ui-monospace,SFMono-Regular,'JetBrains Mono',Menlo,Consolas,'DejaVu Sans Mono','Liberation Mono',monospace" font-size="14">
<rect x=".5" y=".5" width="{:.0}" height="{:.0}" rx="10" fill="{PAPER}" stroke="#30363d"/>
<circle cx="20" cy="16" r="5.5" fill="#f85149"/><circle cx="38" cy="16" r="5.5" fill="#e3b341"/><circle cx="56" cy="16" r="5.5" fill="#3fb950"/>
<text x="{:.0}" y="20.5" text-anchor="middle" font-size="12.5" fill="{FAINT}">cargo run --release -- demo</text>
<g transform="translate({MARGIN} {BAR})">
"##,
        width - 1.0,
        height - 1.0,
        width / 2.0,
    );
    for y in 0..ROWS {
        let mut x = 0;
        while x < COLUMNS {
            let ink = Ink::of(&buffer[(x, y)]);
            let mut run = String::new();
            let from = x;
            while x < COLUMNS && Ink::of(&buffer[(x, y)]) == ink {
                run.push_str(buffer[(x, y)].symbol());
                x += 1;
            }
            write_run(&mut out, &run, f64::from(from), f64::from(y), &ink);
        }
    }
    out.push_str("</g>\n</svg>\n");
    out
}

/// How a cell is drawn.
#[derive(Debug, PartialEq)]
struct Ink {
    color: &'static str,
    bold: bool,
    underlined: bool,
    reversed: bool,
}

impl Ink {
    fn of(cell: &Cell) -> Ink {
        let has = |modifier| cell.modifier.contains(modifier);
        let color = match cell.fg {
            Color::Green => "#3fb950",
            Color::Red => "#f85149",
            Color::Yellow => "#e3b341",
            Color::Cyan => "#56d4dd",
            Color::Magenta => "#bc8cff",
            _ if has(Modifier::DIM) => FAINT,
            _ => INK,
        };
        Ink {
            color,
            bold: has(Modifier::BOLD),
            underlined: has(Modifier::UNDERLINED),
            reversed: has(Modifier::REVERSED),
        }
    }
}

/// Cells of one look: letters as text, whose width is set so that every font keeps the grid, and
/// what must meet its neighbours or may be missing in a font as shapes.
fn write_run(out: &mut String, run: &str, x: f64, y: f64, ink: &Ink) {
    let cells: Vec<char> = run.chars().collect();
    if ink.reversed {
        let (left, top, width) = (x * WIDTH, y * HEIGHT + 0.5, cells.len() as f64 * WIDTH);
        line(
            out,
            &format!(
                r#"<rect x="{left:.1}" y="{top:.1}" width="{width:.1}" height="17" rx="3" fill="{}"/>"#,
                ink.color
            ),
        );
    }
    let mut at = 0;
    while at < cells.len() {
        let from = at;
        let same = |cell: char| match shape(cell) {
            Shape::Text => shape(cells[from]) == Shape::Text,
            _ => cell == cells[from],
        };
        while at < cells.len() && same(cells[at]) {
            at += 1;
        }
        write_part(out, &cells[from..at], x + from as f64, y, ink);
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Text,
    /// A part of the cell, in eighths of its height from below.
    Block(u32),
    /// A horizontal line of this thickness over this part of the width.
    Line(f64, f64),
    /// The path of one cell in units of its own; filled or else a stroke.
    Path(&'static str, bool),
}

fn shape(cell: char) -> Shape {
    match cell {
        '▁'..='█' => Shape::Block(cell as u32 - '▁' as u32 + 1),
        '─' => Shape::Line(1.0, 1.0),
        '━' => Shape::Line(4.0, 1.0),
        '╸' => Shape::Line(4.0, 0.5),
        '│' => Shape::Path("M4.2 0V18", false),
        '╭' => Shape::Path("M4.2 18V14Q4.2 9 8.4 9", false),
        '╮' => Shape::Path("M4.2 18V14Q4.2 9 0 9", false),
        '╰' => Shape::Path("M4.2 0V4Q4.2 9 8.4 9", false),
        '╯' => Shape::Path("M4.2 0V4Q4.2 9 0 9", false),
        '●' => Shape::Path("M.4 9.2a3.8 3.8 0 1 1 7.6 0a3.8 3.8 0 1 1-7.6 0", true),
        '▲' => Shape::Path("M4.2 4.8L8.3 12.8H.1Z", true),
        '✖' => Shape::Path(
            "M1.6 5L0 6.6L2.6 9.2L0 11.8L1.6 13.4L4.2 10.8L6.8 13.4L8.4 11.8L5.8 9.2L8.4 6.6L6.8 5L4.2 7.6Z",
            true,
        ),
        '✔' => Shape::Path("M1.2 8.6L0 9.9L3.2 13.2L8.6 5.8L7.2 4.8L3 10.5Z", true),
        _ => Shape::Text,
    }
}

fn write_part(out: &mut String, cells: &[char], x: f64, y: f64, ink: &Ink) {
    let (left, top, count) = (x * WIDTH, y * HEIGHT, cells.len() as f64);
    let color = ink.color;
    match shape(cells[0]) {
        Shape::Text => write_text(out, cells, x, y, ink),
        Shape::Block(eighths) => {
            let full = f64::from(eighths) * HEIGHT / 8.0;
            let top = top + HEIGHT - full;
            // They reach into the cell below: rounding leaves no seam.
            let height = full + 0.5;
            // A hair of space between the columns, as most fonts have.
            for cell in 0..cells.len() {
                let left = left + cell as f64 * WIDTH;
                line(
                    out,
                    &format!(
                        r#"<rect x="{left:.1}" y="{top:.1}" width="7.6" height="{height:.1}" fill="{color}"/>"#,
                    ),
                );
            }
        }
        Shape::Line(thickness, part) => {
            let top = top + HEIGHT / 2.0 - thickness / 2.0;
            // Two cells of a bar overlap for the same reason.
            let width = count * WIDTH * part + if thickness > 2.0 { 0.5 } else { 0.0 };
            let color = if thickness < 2.0 && color == FAINT {
                "#484f58"
            } else {
                color
            };
            line(
                out,
                &format!(
                    r#"<rect x="{left:.1}" y="{top:.1}" width="{width:.1}" height="{thickness}" fill="{color}"/>"#,
                ),
            );
        }
        Shape::Path(path, filled) => {
            for cell in 0..cells.len() {
                let left = left + cell as f64 * WIDTH;
                let paint = match filled {
                    true => format!(r#"fill="{color}""#),
                    false => r##"fill="none" stroke="#484f58""##.to_owned(),
                };
                line(
                    out,
                    &format!(
                        r#"<path transform="translate({left:.1} {top:.1})" d="{path}" {paint}/>"#
                    ),
                );
            }
        }
    }
}

/// One text for each word group: what lies between is left out.
fn write_text(out: &mut String, cells: &[char], x: f64, y: f64, ink: &Ink) {
    let text: String = cells.iter().collect();
    let trimmed = text.trim_start();
    let x = x + (cells.len() - trimmed.chars().count()) as f64;
    let trimmed = trimmed.trim_end();
    if trimmed.is_empty() {
        return;
    }
    if let Some((first, rest)) = trimmed.split_once("  ") {
        let first: Vec<char> = first.chars().collect();
        let rest: Vec<char> = rest.chars().collect();
        write_text(out, &first, x, y, ink);
        return write_text(out, &rest, x + first.len() as f64 + 2.0, y, ink);
    }
    let escaped = trimmed.replace('&', "&amp;").replace('<', "&lt;");
    let (left, base) = (x * WIDTH, y * HEIGHT + 13.5);
    let length = trimmed.chars().count() as f64 * WIDTH;
    let color = if ink.reversed { PAPER } else { ink.color };
    let mut tag = format!(
        r#"<text x="{left:.1}" y="{base:.1}" textLength="{length:.1}" lengthAdjust="spacingAndGlyphs" fill="{color}""#
    );
    if ink.bold {
        tag.push_str(r#" font-weight="600""#);
    }
    if ink.underlined {
        tag.push_str(r#" text-decoration="underline""#);
    }
    let _infallible = write!(tag, ">{escaped}</text>");
    line(out, &tag);
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}
