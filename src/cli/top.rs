//! `lbd top`: pools and backends as they are now, again each second, and keys to take a backend out.

use std::io::{self, IsTerminal};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use hyper::Method;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use serde_json::Value;
use tokio::runtime::Runtime;

use super::remote::{Where, path_of};
use super::{finish, wrong_usage};
use crate::admin::ask::{BackendId, Wanted, WantedState};
use crate::admin::client::{Client, ClientError};
use crate::admin::state::State;
use view::View;

mod screen;
mod view;

/// Between two looks at the process.
const EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub struct TopArgs {
    #[command(flatten)]
    place: Where,
}

/// Shows it until a key ends it. The terminal is as before afterwards.
pub fn run(args: &TopArgs) -> ExitCode {
    if !io::stdout().is_terminal() {
        return wrong_usage("top needs a terminal; for programs there is: lbd status --json");
    }
    finish(watch(&args.place.client()))
}

fn watch(client: &Client) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let first = look(&runtime, client).map_err(io::Error::other)?;
    let mut view = View::new(first, Instant::now());
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, &runtime, client, &mut view);
    result.and(ratatui::try_restore())
}

fn look(runtime: &Runtime, client: &Client) -> Result<State, ClientError> {
    runtime.block_on(client.get("/api/v1/state"))
}

fn show(
    terminal: &mut DefaultTerminal,
    runtime: &Runtime,
    client: &Client,
    view: &mut View,
) -> io::Result<()> {
    let mut next = Instant::now() + EVERY;
    loop {
        terminal.draw(|frame| screen::draw(frame, view))?;
        if event::poll(next.saturating_duration_since(Instant::now()))? {
            // Others, a new size among them, are seen by the next frame.
            if let Event::Key(key) = event::read()?
                && key.kind == KeyEventKind::Press
            {
                match meaning(key) {
                    Meaning::Quit => return Ok(()),
                    Meaning::Move(rows) => view.move_by(rows),
                    Meaning::Want(state) => {
                        if let Some(id) = view.selected() {
                            view.say(want(runtime, client, &id, state));
                            next = Instant::now();
                        }
                    }
                    Meaning::Nothing => {}
                }
            }
        }
        if Instant::now() >= next {
            next = Instant::now() + EVERY;
            match look(runtime, client) {
                Ok(state) => view.take(state, Instant::now()),
                // It may be restarting: what is shown stays, and is said to be old.
                Err(error) => view.lose(&error),
            }
        }
    }
}

/// What came of it, in a line.
fn want(runtime: &Runtime, client: &Client, id: &BackendId, state: WantedState) -> String {
    let wanted = Wanted {
        state: Some(state),
        weight: None,
        reason: "lbd top".to_owned(),
    };
    let path = path_of(id);
    let sent = client.send_json::<Value>(Method::POST, &path, Some(&wanted));
    match runtime.block_on(sent) {
        Ok(_) => format!("{id}: {}", word(state)),
        Err(error) => format!("{id}: {error}"),
    }
}

fn word(state: WantedState) -> &'static str {
    match state {
        WantedState::Ready => "in service again",
        WantedState::Drain => "drains",
        WantedState::Maintenance => "in maintenance",
    }
}

enum Meaning {
    Move(isize),
    Want(WantedState),
    Quit,
    Nothing,
}

fn meaning(key: KeyEvent) -> Meaning {
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Meaning::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Meaning::Quit,
        KeyCode::Up | KeyCode::Char('k') => Meaning::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Meaning::Move(1),
        KeyCode::PageUp => Meaning::Move(-10),
        KeyCode::PageDown => Meaning::Move(10),
        // Not next to each other, and not the arrow keys' letters.
        KeyCode::Char('d') => Meaning::Want(WantedState::Drain),
        KeyCode::Char('m') => Meaning::Want(WantedState::Maintenance),
        KeyCode::Char('r') => Meaning::Want(WantedState::Ready),
        _ => Meaning::Nothing,
    }
}
