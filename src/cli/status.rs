//! `lbd status`: what is wrong first, then everything.

use super::table::{Align, Cell, Paint, Table, paint};
use crate::admin::ask::WantedState;
use crate::admin::state::{BackendState, Change, ListenerState, PoolState, Progress, State};
use crate::admin::troubles::short;
use crate::balance::backend::State as Word;

/// For a terminal.
pub fn text(state: &State, colour: bool) -> String {
    let mut out = heading(state);
    for trouble in &state.troubles {
        out += &paint(&format!("! {trouble}"), Paint::Bad, colour);
        out.push('\n');
    }
    out.push('\n');
    out += &listeners(&state.listeners).text(colour);
    for pool in &state.pools {
        out.push('\n');
        out += &pool_heading(pool);
        out += &backends(pool).text(colour);
    }
    out
}

fn heading(state: &State) -> String {
    let State {
        version,
        pid,
        uptime,
        draining,
        workers,
        active,
        max_connections,
        ..
    } = state;
    let draining = if *draining { ", draining" } else { "" };
    format!(
        "lbd {version}, pid {pid}, up {}{draining}: {} of {} connections, {workers} workers\n",
        short(*uptime),
        count((*active).into()),
        count((*max_connections).into()),
    )
}

fn listeners(listeners: &[ListenerState]) -> Table {
    let mut table = Table::new(
        0,
        &[
            ("LISTENER", Align::Left),
            ("ACTIVE", Align::Right),
            ("TOTAL", Align::Right),
            ("BIND", Align::Left),
        ],
    );
    for listener in listeners {
        let binds = listener.addresses.iter().map(ToString::to_string);
        let active = match listener.max_connections {
            0 => count(listener.active.into()),
            max => format!("{}/{}", count(listener.active.into()), count(max.into())),
        };
        table.row(vec![
            (&listener.name).into(),
            active.into(),
            count(listener.total).into(),
            binds.collect::<Vec<_>>().join(" ").into(),
        ]);
    }
    table
}

fn pool_heading(pool: &PoolState) -> String {
    let waiting = match pool.queued {
        0 => String::new(),
        queued => format!(", {} waiting", count(queued.into())),
    };
    let limit = match pool.max_connections {
        0 => String::new(),
        max => format!(" of {}", count(max.into())),
    };
    let active = count(pool.active.into());
    format!(
        "POOL {} ({}): {active}{limit} active{waiting}\n",
        pool.name, pool.policy
    )
}

fn backends(pool: &PoolState) -> Table {
    let mut table = Table::new(
        2,
        &[
            ("BACKEND", Align::Left),
            ("STATE", Align::Left),
            ("WEIGHT", Align::Right),
            ("ACTIVE", Align::Right),
            ("TOTAL", Align::Right),
            ("FAILED", Align::Right),
            ("IN", Align::Right),
            ("OUT", Align::Right),
            ("ADDRESS", Align::Left),
            ("PROBE", Align::Left),
        ],
    );
    for backend in &pool.backends {
        let active = match backend.max_connections {
            0 => count(backend.active.into()),
            max => format!("{}/{}", count(backend.active.into()), count(max.into())),
        };
        table.row(vec![
            (&backend.name).into(),
            Cell::painted(backend.state.as_str(), colour_of(backend.state)),
            backend.weight.into(),
            active.into(),
            count(backend.total).into(),
            count(backend.failures).into(),
            bytes(backend.bytes_to_backend).into(),
            bytes(backend.bytes_to_client).into(),
            backend.address.to_string().into(),
            remark(backend).into(),
        ]);
    }
    for gone in &pool.removed {
        let mut row = vec![
            Cell::from(&gone.name),
            Cell::painted("removed", Paint::Warn),
        ];
        row.extend(["", "", "", "", "", "", ""].map(Cell::from));
        row.push(signed(&gone.change).into());
        table.row(row);
    }
    for leaving in &pool.leaving {
        let mut row = vec![
            Cell::from(&leaving.name),
            Cell::painted("leaving", Paint::Warn),
        ];
        row.push("".into());
        row.push(count(leaving.progress.active.into()).into());
        row.extend(["", "", "", "", ""].map(Cell::from));
        row.push(progress(&leaving.progress).into());
        table.row(row);
    }
    table
}

fn colour_of(state: Word) -> Paint {
    match state {
        Word::Up => Paint::Good,
        Word::Down | Word::Ejected => Paint::Bad,
        Word::Drain | Word::Maintenance | Word::SlowStart | Word::Unchecked => Paint::Warn,
    }
}

/// The last probe, how a drain goes, and what an operator changed.
pub fn remark(backend: &BackendState) -> String {
    let mut said = Vec::new();
    if let Some(probe) = &backend.last_probe {
        let ms = probe.took.as_secs_f64() * 1e3;
        said.push(match probe.passed {
            true => format!("ok, {ms:.1} ms"),
            false => probe.detail.clone(),
        });
    }
    said.extend(backend.drain.as_ref().map(progress));
    said.extend(backend.change.as_ref().map(signed));
    said.join("; ")
}

fn progress(progress: &Progress) -> String {
    let Progress {
        initial,
        active,
        ends_in,
        ..
    } = progress;
    format!(
        "{active} of {initial} left, the last ends in {}",
        short(*ends_in)
    )
}

/// What, by whom, when and why.
pub fn signed(change: &Change) -> String {
    let mut what = Vec::new();
    if change.added {
        what.push("added".to_owned());
    }
    match change.state {
        Some(WantedState::Drain) => what.push("drain".to_owned()),
        Some(WantedState::Maintenance) => what.push("maintenance".to_owned()),
        Some(WantedState::Ready) | None => {}
    }
    what.extend(change.weight.map(|weight| format!("weight {weight}")));
    let what = match what.is_empty() {
        true => String::new(),
        false => format!("{} ", what.join(", ")),
    };
    let reason = match change.reason.is_empty() {
        true => String::new(),
        false => format!(": {}", change.reason),
    };
    let ago = change.at.elapsed().map(short).unwrap_or_default();
    format!("{what}by {}, {ago} ago{reason}", change.by)
}

/// Digits in groups of three: `1 204 881`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

/// `5.1 MB`, in powers of a thousand.
pub fn bytes(number: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    let (mut value, mut unit) = (number as f64, 0);
    while value >= 999.5 && unit + 1 < units.len() {
        (value, unit) = (value / 1000.0, unit + 1);
    }
    match (unit, value < 9.95) {
        (0, _) | (_, false) => format!("{value:.0} {}", units[unit]),
        (_, true) => format!("{value:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_204_881), "1 204 881");
        for (number, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (9_949, "9.9 kB"),
            (9_960, "10 kB"),
            (999_600, "1.0 MB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(bytes(number), text);
        }
    }
}
