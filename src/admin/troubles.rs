//! What is wrong, in words: commands and the dashboard say the same.

use std::time::{Duration, SystemTime};

use super::state::{BackendState, State};
use crate::balance::backend::State as Word;

/// Certificates are renewed before.
const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 86_400);

/// What somebody has to look after, the worst first.
pub fn troubles(state: &State, now: SystemTime) -> Vec<String> {
    let mut said = Vec::new();
    for pool in &state.pools {
        let takes = |backend: &&BackendState| matches!(backend.state, Word::Up | Word::SlowStart);
        let (up, all) = (
            pool.backends.iter().filter(takes).count(),
            pool.backends.len(),
        );
        if up == 0 {
            said.push(format!("pool {}: none of {all} backends is up", pool.name));
        }
        if pool.queued > 0 {
            said.push(format!(
                "pool {}: {} clients wait for room",
                pool.name, pool.queued
            ));
        }
        for backend in &pool.backends {
            let probe = backend.last_probe.as_ref();
            let why = probe.filter(|probe| !probe.passed);
            let why = why.map_or(String::new(), |probe| format!(": {}", probe.detail));
            match backend.state {
                Word::Down => said.push(format!("{}/{} is down{why}", pool.name, backend.name)),
                Word::Ejected => said.push(format!(
                    "{}/{} is ejected: connections to it fail",
                    pool.name, backend.name
                )),
                _ => {}
            }
        }
        for source in &pool.discovery {
            if let Some(error) = &source.error {
                let first = error.lines().next().unwrap_or_default();
                said.push(format!(
                    "pool {}: {} {}: {first}",
                    pool.name, source.kind, source.name
                ));
            }
        }
    }
    if let Some(error) = &state.reloads.error {
        let first = error.lines().next().unwrap_or_default();
        said.push(format!(
            "the last reload failed, the old configuration stays: {first}"
        ));
    }
    for listener in &state.listeners {
        for certificate in &listener.certificates {
            let names = certificate.names.join(", ");
            let left = certificate.not_after.duration_since(now);
            match left {
                Err(_) => said.push(format!(
                    "listener {}: the certificate for {names} has expired",
                    listener.name
                )),
                Ok(left) if left < EXPIRY_NOTICE => said.push(format!(
                    "listener {}: the certificate for {names} expires in {}",
                    listener.name,
                    short(left)
                )),
                Ok(_) => {}
            }
        }
        if listener.max_connections > 0 && listener.active >= listener.max_connections {
            said.push(format!(
                "listener {} is at its max_connections",
                listener.name
            ));
        }
    }
    if state.active >= state.max_connections {
        said.push("the process is at its max_connections".to_owned());
    }
    if state.panics > 0 {
        said.push(format!(
            "{} sessions ended by a panic, which is a bug",
            state.panics
        ));
    }
    said
}

/// The two largest units: `3d 4h`, `5m 2s`, `12s`.
pub fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(of, _)| seconds >= *of);
    let Some(first) = first else {
        return "0s".to_owned();
    };
    let part = |(of, unit): &(u64, &str), over: u64| match seconds % over / of {
        0 => None,
        number => Some(format!("{number}{unit}")),
    };
    let mut said: Vec<String> = part(&units[first], u64::MAX).into_iter().collect();
    said.extend(
        units
            .get(first + 1)
            .and_then(|next| part(next, units[first].0)),
    );
    said.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_short_and_readable() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (302, "5m 2s"),
            (3600, "1h"),
            (3605, "1h"),
            (273_600, "3d 4h"),
            (86_460, "1d"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), text);
        }
    }
}
