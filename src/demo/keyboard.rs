//! The terminal: keys in, frames out, and everything as it was at the end.

use std::io;
use std::time::{Duration, Instant};

use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::End;
use super::history::History;
use super::screen;
use super::stage::Stage;

/// Eight frames a second: numbers that can still be read while they move.
const FRAME: Duration = Duration::from_millis(125);

/// Shows the demo until a key or `end` ends it. The terminal is as before afterwards, after a
/// panic too.
///
/// Errors: the terminal is gone, or the load balancer has ended.
pub fn run(stage: &Stage, end: &End) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, stage, end);
    let restored = ratatui::try_restore();
    result.and(restored)?;
    farewell(stage)
}

fn show(terminal: &mut DefaultTerminal, stage: &Stage, end: &End) -> io::Result<()> {
    let mut history = History::default();
    let mut shows_config = false;
    let mut next = Instant::now();
    while !end.is_due() {
        if Instant::now() >= next {
            next = Instant::now() + FRAME;
        }
        history.take(stage.look()?);
        let config = shows_config.then(|| stage.config_text());
        terminal.draw(|frame| screen::draw(frame, &history, config.as_deref()))?;
        while event::poll(next.saturating_duration_since(Instant::now()))? {
            // Others, a new size among them, are seen by the next frame.
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match meaning(key) {
                    Meaning::Quit => return Ok(()),
                    Meaning::Toggle(index) => stage.toggle(index).map(drop)?,
                    Meaning::Faster => stage.faster(),
                    Meaning::Slower => stage.slower(),
                    Meaning::Policy => stage.next_policy()?,
                    Meaning::Config => shows_config = !shows_config,
                    Meaning::Close => shows_config = false,
                    Meaning::Nothing => continue,
                }
            }
            // What was done shows at once.
            break;
        }
    }
    Ok(())
}

enum Meaning {
    Toggle(usize),
    Faster,
    Slower,
    Policy,
    Config,
    Close,
    Quit,
    Nothing,
}

fn meaning(key: KeyEvent) -> Meaning {
    match key.code {
        KeyCode::Char('c' | 'd') if key.modifiers.contains(KeyModifiers::CONTROL) => Meaning::Quit,
        KeyCode::Char(digit @ '1'..='9') => Meaning::Toggle(digit as usize - '1' as usize),
        KeyCode::Char('+' | '=') | KeyCode::Up => Meaning::Faster,
        KeyCode::Char('-' | '_') | KeyCode::Down => Meaning::Slower,
        KeyCode::Char('p' | 'P') => Meaning::Policy,
        KeyCode::Char('c' | 'C') => Meaning::Config,
        KeyCode::Esc => Meaning::Close,
        KeyCode::Char('q' | 'Q') => Meaning::Quit,
        _ => Meaning::Nothing,
    }
}

/// What is left to be read when the picture is gone.
fn farewell(stage: &Stage) -> io::Result<()> {
    use std::io::Write;
    writeln!(io::stdout(), "{}", super::plain::summary(&stage.look()?))
}
